//! Control registers, and the instructions that invalidate translations (SDM vol. 3, 2.5, 4.10).
#![allow(unused_variables)]

use crate::core::Core;
use crate::exception::Trap;

impl Core<'_> {
    /// MOV from CR0, CR2, CR3, CR4, CR8.
    ///
    /// # Errors
    /// #UD for another register, #GP(0) at CPL > 0.
    pub fn read_cr(&mut self, number: usize) -> Result<u64, Trap> {
        todo!()
    }

    /// MOV to CR0, CR2, CR3, CR4, CR8.
    ///
    /// # Errors
    /// #UD for another register, #GP(0) at CPL > 0 and for values that the mode or the model refuse.
    pub fn write_cr(&mut self, number: usize, value: u64) -> Result<(), Trap> {
        todo!()
    }

    /// CLTS.
    ///
    /// # Errors
    /// #GP(0) at CPL > 0.
    pub fn clts(&mut self) -> Result<(), Trap> {
        todo!()
    }

    /// LMSW.
    ///
    /// # Errors
    /// #GP(0) at CPL > 0.
    pub fn lmsw(&mut self, value: u16) -> Result<(), Trap> {
        todo!()
    }

    /// SMSW: CR0 (the caller truncates it to the operand).
    ///
    /// # Errors
    /// #GP(0) under UMIP.
    pub fn smsw(&mut self) -> Result<u64, Trap> {
        todo!()
    }

    /// INVLPG.
    ///
    /// # Errors
    /// #GP(0) at CPL > 0.
    pub fn invlpg(&mut self, linear: u64) -> Result<(), Trap> {
        todo!()
    }

    /// INVPCID of type `kind` with the 128-bit descriptor as two words, low first.
    ///
    /// # Errors
    /// #GP(0) at CPL > 0 and for an invalid type or descriptor.
    pub fn invpcid(&mut self, kind: u64, descriptor: [u64; 2]) -> Result<(), Trap> {
        todo!()
    }
}
