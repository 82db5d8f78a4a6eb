//! Debug registers (SDM vol. 3, 17.2).

use crate::core::Core;
use crate::exception::{Exception, Trap};
use gasang_x86::control::{cr4, debug};
use gasang_x86::rflags;

/// What a breakpoint waits for: the R/W field of DR7.
const EXECUTE: u64 = 0;
const WRITE: u64 = 1;
const IO: u64 = 2;
const READ_WRITE: u64 = 3;

const DR6_WRITABLE: u64 = 0xf | debug::DR6_BD | debug::DR6_BS | debug::DR6_BT;
const DR7_WRITABLE: u64 = 0xffff_0000 | debug::DR7_GD | 0x3ff;

impl Core<'_> {
    /// MOV from a debug register.
    ///
    /// # Errors
    /// #UD for DR4 and DR5 under CR4.DE and beyond DR7, #GP(0) at CPL > 0, #DB when DR7.GD is set.
    pub fn read_dr(&mut self, number: usize) -> Result<u64, Trap> {
        let number = self.debug_register(number)?;
        Ok(self.state.dr[number])
    }

    /// MOV to a debug register.
    ///
    /// # Errors
    /// As `read_dr`; #GP(0) for bits 63:32 of DR6 or DR7.
    pub fn write_dr(&mut self, number: usize, value: u64) -> Result<(), Trap> {
        let number = self.debug_register(number)?;
        if number >= 6 && value >> 32 != 0 {
            return Err(Exception::general_protection(0).into());
        }
        self.state.dr[number] = match number {
            6 => value & DR6_WRITABLE | debug::DR6_FIXED,
            7 => value & DR7_WRITABLE | debug::DR7_FIXED,
            _ => value,
        };
        Ok(())
    }

    /// The index of a debug register after the checks of an access to it.
    fn debug_register(&self, number: usize) -> Result<usize, Trap> {
        let alias = matches!(number, 4 | 5);
        if number > 7 {
            return Err(Exception::invalid_opcode().into());
        }
        self.check_privileged()?;
        if alias && self.state.cr4 & cr4::DE != 0 {
            return Err(Exception::invalid_opcode().into());
        }
        if self.state.dr[7] & debug::DR7_GD != 0 {
            return Err(Exception::debug_fault(debug::DR6_BD).into());
        }
        Ok(if alias { number + 2 } else { number })
    }

    /// The DR6 bits of the instruction breakpoints that match the instruction at `state.rip`; 0 under RF.
    #[inline]
    pub fn instruction_breakpoints(&self) -> u64 {
        if self.state.dr[7] & debug::DR7_ENABLED == 0 || self.state.rflags & rflags::RF != 0 {
            return 0;
        }
        let base = if self.state.in_64bit_mode() { 0 } else { self.state.segment[1].base };
        let linear = self.wrap_linear(base.wrapping_add(self.state.rip));
        self.matching_breakpoints(linear, 1, |kind| kind == EXECUTE)
    }

    /// The DR6 bits of the data breakpoints that an access of `size` bytes at `linear` matches, for
    /// `state.pending_debug`.
    #[inline]
    pub fn data_breakpoints(&self, linear: u64, size: u64, write: bool) -> u64 {
        if self.state.dr[7] & debug::DR7_ENABLED == 0 {
            return 0;
        }
        self.matching_breakpoints(linear, size, |kind| kind == READ_WRITE || kind == WRITE && write)
    }

    /// The DR6 bits of the I/O breakpoints that an access to `port` matches.
    pub fn io_breakpoints(&self, port: u16, size: u8) -> u64 {
        if self.state.cr4 & cr4::DE == 0 {
            return 0;
        }
        self.matching_breakpoints(u64::from(port), u64::from(size), |kind| kind == IO)
    }

    fn matching_breakpoints(&self, at: u64, size: u64, wanted: impl Fn(u64) -> bool) -> u64 {
        let control = self.state.dr[7];
        (0..4).filter(|&number| control >> (number * 2) & 3 != 0).fold(0, |matches, number| {
            let field = control >> (16 + number * 4);
            let length = [1, 2, 8, 4][(field >> 2 & 3) as usize];
            let start = self.state.dr[number as usize] & !(length - 1);
            // Either range begins inside the other.
            let overlap = at.wrapping_sub(start) < length || start.wrapping_sub(at) < size;
            matches | if overlap && wanted(field & 3) { 1 << number } else { 0 }
        })
    }
}
