//! Instructions on the system flags (SDM vol. 2; vol. 3, 20.2, 20.3).
#![allow(unused_variables)]

use crate::core::Core;
use crate::exception::Trap;

impl Core<'_> {
    /// What PUSHF stores (the caller truncates it to the operand).
    ///
    /// # Errors
    /// #GP(0) in VM86 mode with IOPL < 3.
    pub fn pushf_value(&mut self, operand_bits: u32) -> Result<u64, Trap> {
        todo!()
    }

    /// POPF, POPFD, POPFQ.
    ///
    /// # Errors
    /// #GP(0) in VM86 mode with IOPL < 3.
    pub fn popf(&mut self, value: u64, operand_bits: u32) -> Result<(), Trap> {
        todo!()
    }

    /// CLI.
    ///
    /// # Errors
    /// #GP(0) for lack of privilege.
    pub fn cli(&mut self) -> Result<(), Trap> {
        todo!()
    }

    /// STI, with its interrupt shadow.
    ///
    /// # Errors
    /// As `cli`.
    pub fn sti(&mut self) -> Result<(), Trap> {
        todo!()
    }

    /// STAC.
    ///
    /// # Errors
    /// #UD at CPL > 0 or without SMAP in the model.
    pub fn stac(&mut self) -> Result<(), Trap> {
        todo!()
    }

    /// CLAC.
    ///
    /// # Errors
    /// As `stac`.
    pub fn clac(&mut self) -> Result<(), Trap> {
        todo!()
    }
}
