//! GDTR, IDTR, LDTR, TR, and instructions that ask about descriptors (SDM vol. 2; vol. 3, 5.10).

use crate::core::Core;
use crate::descriptors::{Descriptor, error_code, is_null, rpl};
use crate::exception::{Exception, Trap};
use crate::state::{DescriptorTable, SegmentRegister, VcpuState};
use gasang_x86::descriptor::{selector, system};

/// The busy bit in the type of a TSS descriptor.
pub(crate) const TSS_BUSY_BIT: u32 = 2;

impl Core<'_> {
    /// #UD outside protected mode.
    fn check_protected(&self) -> Result<(), Trap> {
        if self.state.real_or_virtual_8086() { Err(Exception::invalid_opcode().into()) } else { Ok(()) }
    }

    /// The descriptor for LLDT or LTR: in the GDT, present, of one of `kinds`, with a canonical base.
    fn system_segment(&mut self, selector: u16, kinds: &[u32]) -> Result<Descriptor, Trap> {
        let refused = Exception::general_protection(error_code(selector));
        if selector & selector::TI != 0 {
            return Err(refused.into());
        }
        let descriptor = self.descriptor_or(selector, Exception::general_protection)?;
        let known = descriptor.is_system() && kinds.contains(&descriptor.kind());
        if !known || !VcpuState::canonical(descriptor.base()) {
            return Err(refused.into());
        }
        if !descriptor.present() {
            return Err(Exception::not_present(error_code(selector)).into());
        }
        Ok(descriptor)
    }

    /// LLDT.
    ///
    /// # Errors
    /// #UD outside protected mode, #GP, #NP, #PF.
    pub fn lldt(&mut self, selector: u16) -> Result<(), Trap> {
        self.check_protected()?;
        self.check_privileged()?;
        self.state.ldtr = if is_null(selector) {
            SegmentRegister::null(selector)
        } else {
            self.system_segment(selector, &[system::LDT])?.segment(selector)
        };
        Ok(())
    }

    /// LTR.
    ///
    /// # Errors
    /// As `lldt`.
    pub fn ltr(&mut self, selector: u16) -> Result<(), Trap> {
        self.check_protected()?;
        self.check_privileged()?;
        if is_null(selector) {
            return Err(Exception::general_protection(0).into());
        }
        let kinds: &[u32] = if self.state.long_mode() {
            &[system::TSS_AVAILABLE]
        } else {
            &[system::TSS_AVAILABLE, system::TSS16_AVAILABLE]
        };
        let descriptor = self.system_segment(selector, kinds)?;
        self.change_access_byte(descriptor.address, TSS_BUSY_BIT, 0)?;
        let mut register = descriptor.segment(selector);
        register.attributes |= TSS_BUSY_BIT;
        self.state.tr = register;
        Ok(())
    }

    /// SLDT: the selector.
    ///
    /// # Errors
    /// #UD outside protected mode, #GP(0) under UMIP.
    pub fn sldt(&mut self) -> Result<u16, Trap> {
        self.check_protected()?;
        self.check_umip()?;
        Ok(self.state.ldtr.selector)
    }

    /// STR: the selector.
    ///
    /// # Errors
    /// As `sldt`.
    pub fn str(&mut self) -> Result<u16, Trap> {
        self.check_protected()?;
        self.check_umip()?;
        Ok(self.state.tr.selector)
    }

    /// The descriptor that LAR, LSL, VERR and VERW look at: None if there is none or privilege hides it.
    fn visible_descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>, Trap> {
        self.check_protected()?;
        if is_null(selector) {
            return Ok(None);
        }
        let descriptor = self.descriptor(selector)?;
        Ok(descriptor.filter(|found| found.is_conforming() || self.may_reach(found, selector)))
    }

    /// LAR: access rights as the destination receives them (unmasked by operand size); None clears ZF.
    ///
    /// # Errors
    /// #UD outside protected mode, #PF.
    pub fn lar(&mut self, selector: u16) -> Result<Option<u32>, Trap> {
        let gates: &[u32] = if self.state.long_mode() {
            &[system::CALL_GATE]
        } else {
            &[system::CALL_GATE16, system::TASK_GATE, system::CALL_GATE]
        };
        let found = self.visible_descriptor(selector)?;
        let known = found
            .filter(|found| !found.is_system() || self.has_limit(found) || gates.contains(&found.kind()));
        Ok(known.map(|descriptor| (descriptor.raw >> 32) as u32 & 0x00ff_ff00))
    }

    /// Whether a system descriptor is one with a limit: LDT or TSS.
    fn has_limit(&self, descriptor: &Descriptor) -> bool {
        match descriptor.kind() {
            system::LDT | system::TSS_AVAILABLE | system::TSS_BUSY => true,
            system::TSS16_AVAILABLE | system::TSS16_BUSY => !self.state.long_mode(),
            _ => false,
        }
    }

    /// LSL: the limit in bytes; None clears ZF.
    ///
    /// # Errors
    /// As `lar`.
    pub fn lsl(&mut self, selector: u16) -> Result<Option<u32>, Trap> {
        let found = self.visible_descriptor(selector)?;
        let known = found.filter(|found| !found.is_system() || self.has_limit(found));
        Ok(known.map(|descriptor| descriptor.limit()))
    }

    /// VERR: what ZF becomes.
    ///
    /// # Errors
    /// As `lar`.
    pub fn verr(&mut self, selector: u16) -> Result<bool, Trap> {
        Ok(self.visible_descriptor(selector)?.is_some_and(|found| found.is_readable()))
    }

    /// VERW: what ZF becomes.
    ///
    /// # Errors
    /// As `lar`.
    pub fn verw(&mut self, selector: u16) -> Result<bool, Trap> {
        Ok(self.visible_descriptor(selector)?.is_some_and(|found| found.is_writable_data()))
    }

    /// ARPL: the destination's new value if ZF is set, None if it is cleared.
    ///
    /// # Errors
    /// #UD outside protected mode.
    pub fn arpl(&mut self, destination: u16, source: u16) -> Result<Option<u16>, Trap> {
        self.check_protected()?;
        let raised = destination & !selector::RPL | source & selector::RPL;
        Ok((rpl(destination) < rpl(source)).then_some(raised))
    }

    fn table_register(&self, base: u64, limit: u16) -> Result<DescriptorTable, Trap> {
        self.check_privileged()?;
        if self.state.in_64bit_mode() && !VcpuState::canonical(base) {
            return Err(Exception::general_protection(0).into());
        }
        Ok(DescriptorTable { base, limit })
    }

    /// LGDT. `base` is already truncated to the operand size.
    ///
    /// # Errors
    /// #GP(0) at CPL > 0 or for a non-canonical base.
    pub fn lgdt(&mut self, base: u64, limit: u16) -> Result<(), Trap> {
        self.state.gdtr = self.table_register(base, limit)?;
        Ok(())
    }

    /// LIDT.
    ///
    /// # Errors
    /// As `lgdt`.
    pub fn lidt(&mut self, base: u64, limit: u16) -> Result<(), Trap> {
        self.state.idtr = self.table_register(base, limit)?;
        Ok(())
    }

    /// SGDT.
    ///
    /// # Errors
    /// #GP(0) under UMIP.
    pub fn sgdt(&mut self) -> Result<DescriptorTable, Trap> {
        self.check_umip()?;
        Ok(self.state.gdtr)
    }

    /// SIDT.
    ///
    /// # Errors
    /// #GP(0) under UMIP.
    pub fn sidt(&mut self) -> Result<DescriptorTable, Trap> {
        self.check_umip()?;
        Ok(self.state.idtr)
    }
}
