//! Permission to use I/O ports (SDM vol. 1, 19.5).
#![allow(unused_variables)]

use crate::core::Core;
use crate::exception::Trap;

impl Core<'_> {
    /// Check that the current privilege may access `size` bytes of ports at `port`.
    ///
    /// # Errors
    /// #GP(0), or #PF from the TSS.
    pub fn check_io(&mut self, port: u16, size: u8) -> Result<(), Trap> {
        todo!()
    }
}
