//! Segment registers, descriptor tables and what instructions ask of them (SDM vol. 3, chapters 3 and 5).
#![allow(unused_variables)]

use crate::core::Core;
use crate::exception::Trap;
use crate::paging::Access;
use crate::state::DescriptorTable;

impl Core<'_> {
    /// The linear address of `size` bytes at `offset` in a segment register. `offset` is already truncated to the
    /// address size.
    ///
    /// # Errors
    /// #SS(0) for SS, #GP(0) for the others: limit, type, unusable segment, non-canonical address.
    #[inline]
    pub fn logical_to_linear(
        &self,
        segment: usize,
        offset: u64,
        size: u64,
        access: Access,
    ) -> Result<u64, Trap> {
        todo!()
    }

    /// MOV to a segment register, POP, LDS and their kin: any but CS. The caller sets the shadow of MOV SS.
    ///
    /// # Errors
    /// #GP, #NP, #SS with the selector, #PF.
    pub fn load_segment(&mut self, segment: usize, selector: u16) -> Result<(), Trap> {
        todo!()
    }

    /// LLDT.
    ///
    /// # Errors
    /// #UD outside protected mode, #GP, #NP, #PF.
    pub fn lldt(&mut self, selector: u16) -> Result<(), Trap> {
        todo!()
    }

    /// LTR.
    ///
    /// # Errors
    /// As `lldt`.
    pub fn ltr(&mut self, selector: u16) -> Result<(), Trap> {
        todo!()
    }

    /// SLDT: the selector.
    ///
    /// # Errors
    /// #UD outside protected mode, #GP(0) under UMIP.
    pub fn sldt(&mut self) -> Result<u16, Trap> {
        todo!()
    }

    /// STR: the selector.
    ///
    /// # Errors
    /// As `sldt`.
    pub fn str(&mut self) -> Result<u16, Trap> {
        todo!()
    }

    /// LAR: access rights as the destination receives them (unmasked by operand size); None clears ZF.
    ///
    /// # Errors
    /// #UD outside protected mode, #PF.
    pub fn lar(&mut self, selector: u16) -> Result<Option<u32>, Trap> {
        todo!()
    }

    /// LSL: the limit in bytes; None clears ZF.
    ///
    /// # Errors
    /// As `lar`.
    pub fn lsl(&mut self, selector: u16) -> Result<Option<u32>, Trap> {
        todo!()
    }

    /// VERR: what ZF becomes.
    ///
    /// # Errors
    /// As `lar`.
    pub fn verr(&mut self, selector: u16) -> Result<bool, Trap> {
        todo!()
    }

    /// VERW: what ZF becomes.
    ///
    /// # Errors
    /// As `lar`.
    pub fn verw(&mut self, selector: u16) -> Result<bool, Trap> {
        todo!()
    }

    /// ARPL: the destination's new value if ZF is set, None if it is cleared.
    ///
    /// # Errors
    /// #UD outside protected mode.
    pub fn arpl(&mut self, destination: u16, source: u16) -> Result<Option<u16>, Trap> {
        todo!()
    }

    /// LGDT. `base` is already truncated to the operand size.
    ///
    /// # Errors
    /// #GP(0) at CPL > 0 or for a non-canonical base.
    pub fn lgdt(&mut self, base: u64, limit: u16) -> Result<(), Trap> {
        todo!()
    }

    /// LIDT.
    ///
    /// # Errors
    /// As `lgdt`.
    pub fn lidt(&mut self, base: u64, limit: u16) -> Result<(), Trap> {
        todo!()
    }

    /// SGDT.
    ///
    /// # Errors
    /// #GP(0) under UMIP.
    pub fn sgdt(&mut self) -> Result<DescriptorTable, Trap> {
        todo!()
    }

    /// SIDT.
    ///
    /// # Errors
    /// #GP(0) under UMIP.
    pub fn sidt(&mut self) -> Result<DescriptorTable, Trap> {
        todo!()
    }

    /// SWAPGS.
    ///
    /// # Errors
    /// #UD outside 64-bit mode, #GP(0) at CPL > 0.
    pub fn swapgs(&mut self) -> Result<(), Trap> {
        todo!()
    }

    /// RDFSBASE.
    ///
    /// # Errors
    /// #UD outside 64-bit mode or without CR4.FSGSBASE.
    pub fn rdfsbase(&mut self) -> Result<u64, Trap> {
        todo!()
    }

    /// RDGSBASE.
    ///
    /// # Errors
    /// As `rdfsbase`.
    pub fn rdgsbase(&mut self) -> Result<u64, Trap> {
        todo!()
    }

    /// WRFSBASE. `value` is already truncated to the operand size.
    ///
    /// # Errors
    /// As `rdfsbase`; #GP(0) for a non-canonical value.
    pub fn wrfsbase(&mut self, value: u64) -> Result<(), Trap> {
        todo!()
    }

    /// WRGSBASE.
    ///
    /// # Errors
    /// As `wrfsbase`.
    pub fn wrgsbase(&mut self, value: u64) -> Result<(), Trap> {
        todo!()
    }
}
