//! Debug registers (SDM vol. 3, chapter 17).
#![allow(unused_variables)]

use crate::core::Core;
use crate::exception::Trap;

impl Core<'_> {
    /// MOV from a debug register.
    ///
    /// # Errors
    /// #UD for DR4 and DR5 under CR4.DE, #GP(0) at CPL > 0, #DB when DR7.GD is set.
    pub fn read_dr(&mut self, number: usize) -> Result<u64, Trap> {
        todo!()
    }

    /// MOV to a debug register.
    ///
    /// # Errors
    /// As `read_dr`; #GP(0) for bits 63:32 of DR6 or DR7.
    pub fn write_dr(&mut self, number: usize, value: u64) -> Result<(), Trap> {
        todo!()
    }

    /// The DR6 bits of the instruction breakpoints that match the instruction at `state.rip`; 0 under RF.
    #[inline]
    pub fn instruction_breakpoints(&self) -> u64 {
        todo!()
    }

    /// The DR6 bits of the data breakpoints that an access of `size` bytes at `linear` matches, for
    /// `state.pending_debug`.
    #[inline]
    pub fn data_breakpoints(&self, linear: u64, size: u64, write: bool) -> u64 {
        todo!()
    }

    /// The DR6 bits of the I/O breakpoints that an access to `port` matches.
    pub fn io_breakpoints(&self, port: u16, size: u8) -> u64 {
        todo!()
    }
}
