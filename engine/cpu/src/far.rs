//! Far transfers of control: JMP, CALL, RET and IRET (SDM vol. 3, 5.8; vol. 2).
#![allow(unused_variables)]

use crate::core::Core;
use crate::exception::Trap;

impl Core<'_> {
    /// Far JMP, to code, through a call gate, or to a task.
    ///
    /// # Errors
    /// #GP, #NP, #SS, #TS, #PF; `Pending`.
    pub fn far_jump(&mut self, selector: u16, offset: u64, operand_bits: u32, next: u64) -> Result<(), Trap> {
        todo!()
    }

    /// Far CALL.
    ///
    /// # Errors
    /// As `far_jump`.
    pub fn far_call(&mut self, selector: u16, offset: u64, operand_bits: u32, next: u64) -> Result<(), Trap> {
        todo!()
    }

    /// Far RET, releasing `release` bytes of parameters.
    ///
    /// # Errors
    /// As `far_jump`.
    pub fn far_return(&mut self, operand_bits: u32, release: u64) -> Result<(), Trap> {
        todo!()
    }

    /// IRET, IRETD, IRETQ.
    ///
    /// # Errors
    /// As `far_jump`.
    pub fn iret(&mut self, operand_bits: u32, next: u64) -> Result<(), Trap> {
        todo!()
    }
}
