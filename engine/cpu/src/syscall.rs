//! SYSCALL, SYSRET, SYSENTER, SYSEXIT (SDM vol. 3, 5.8.7, 5.8.8).
#![allow(unused_variables)]

use crate::core::Core;
use crate::exception::Trap;

impl Core<'_> {
    /// SYSCALL.
    ///
    /// # Errors
    /// #UD outside 64-bit mode or without EFER.SCE.
    pub fn syscall(&mut self, next: u64) -> Result<(), Trap> {
        todo!()
    }

    /// SYSRET; `operand_bits` is 64 with REX.W.
    ///
    /// # Errors
    /// #UD as for SYSCALL, #GP(0) at CPL > 0 or for a non-canonical RCX.
    pub fn sysret(&mut self, operand_bits: u32) -> Result<(), Trap> {
        todo!()
    }

    /// SYSENTER.
    ///
    /// # Errors
    /// #GP(0) outside protected mode or without a selector.
    pub fn sysenter(&mut self, next: u64) -> Result<(), Trap> {
        todo!()
    }

    /// SYSEXIT; `operand_bits` is 64 with REX.W.
    ///
    /// # Errors
    /// #GP(0) outside protected mode, at CPL > 0, without a selector, for a non-canonical target.
    pub fn sysexit(&mut self, operand_bits: u32) -> Result<(), Trap> {
        todo!()
    }
}
