//! Instructions on the system flags (SDM vol. 2; vol. 3, 20.2.7, 20.3, 20.4).

use crate::core::Core;
use crate::cpuid::Feature;
use crate::exception::{Exception, Trap};
use crate::state::Shadow;
use gasang_x86::control::cr4;
use gasang_x86::rflags;

/// Flags that POPF may change at CPL 0.
const POPF: u64 = rflags::STATUS
    | rflags::TF
    | rflags::IF
    | rflags::DF
    | rflags::IOPL
    | rflags::NT
    | rflags::AC
    | rflags::ID;

/// Which flag CLI and STI act on.
enum InterruptFlag {
    Real,
    Virtual,
}

impl Core<'_> {
    /// Whether VM86 mode lets this PUSHF or POPF through only with VIF in the place of IF.
    fn virtual_8086_uses_vif(&self, operand_bits: u32) -> Result<bool, Trap> {
        if !self.state.virtual_8086() || self.state.iopl() == 3 {
            Ok(false)
        } else if self.state.cr4 & cr4::VME != 0 && operand_bits == 16 {
            Ok(true)
        } else {
            Err(Exception::general_protection(0).into())
        }
    }

    /// What PUSHF stores (the caller truncates it to the operand).
    ///
    /// # Errors
    /// #GP(0) in VM86 mode with IOPL < 3.
    pub fn pushf_value(&mut self, operand_bits: u32) -> Result<u64, Trap> {
        let flags = self.state.rflags & !(rflags::VM | rflags::RF);
        if !self.virtual_8086_uses_vif(operand_bits)? {
            return Ok(flags);
        }
        let interrupt = if flags & rflags::VIF != 0 { rflags::IF } else { 0 };
        Ok(flags & !rflags::IF | interrupt | rflags::IOPL)
    }

    /// POPF, POPFD, POPFQ.
    ///
    /// # Errors
    /// #GP(0) in VM86 mode with IOPL < 3.
    pub fn popf(&mut self, value: u64, operand_bits: u32) -> Result<(), Trap> {
        let old = self.state.rflags;
        let mut value = value;
        let mut changes = if operand_bits == 16 { POPF & 0xffff } else { POPF };
        if self.virtual_8086_uses_vif(operand_bits)? {
            let interrupts = value & rflags::IF != 0;
            if value & rflags::TF != 0 || interrupts && old & rflags::VIP != 0 {
                return Err(Exception::general_protection(0).into());
            }
            changes = changes & !(rflags::IF | rflags::IOPL) | rflags::VIF;
            value = value & !rflags::VIF | if interrupts { rflags::VIF } else { 0 };
        } else if self.state.protected_mode() {
            let cpl = self.state.cpl();
            if cpl > 0 {
                changes &= !rflags::IOPL;
            }
            if cpl > self.state.iopl() {
                changes &= !rflags::IF;
            }
        }
        self.state.rflags = old & !(changes | rflags::RF) | value & changes;
        Ok(())
    }

    /// CLI.
    ///
    /// # Errors
    /// #GP(0) for lack of privilege.
    pub fn cli(&mut self) -> Result<(), Trap> {
        match self.interrupt_flag()? {
            InterruptFlag::Real => self.state.rflags &= !rflags::IF,
            InterruptFlag::Virtual => self.state.rflags &= !rflags::VIF,
        }
        Ok(())
    }

    /// STI, with its interrupt shadow.
    ///
    /// # Errors
    /// As `cli`; #GP(0) if a virtual interrupt is pending.
    pub fn sti(&mut self) -> Result<(), Trap> {
        match self.interrupt_flag()? {
            InterruptFlag::Real => {
                if self.state.rflags & rflags::IF == 0 {
                    self.state.rflags |= rflags::IF;
                    self.state.shadow = Shadow::Sti;
                }
            }
            InterruptFlag::Virtual => {
                if self.state.rflags & rflags::VIP != 0 {
                    return Err(Exception::general_protection(0).into());
                }
                self.state.rflags |= rflags::VIF;
            }
        }
        Ok(())
    }

    fn interrupt_flag(&self) -> Result<InterruptFlag, Trap> {
        let state = &*self.state;
        // VM86 mode has CPL 3, so IOPL decides there as well.
        if !state.protected_mode() || state.cpl() <= state.iopl() {
            return Ok(InterruptFlag::Real);
        }
        let extension = if state.virtual_8086() { cr4::VME } else { cr4::PVI };
        if state.cr4 & extension != 0 && state.cpl() == 3 {
            return Ok(InterruptFlag::Virtual);
        }
        Err(Exception::general_protection(0).into())
    }

    fn check_ac_instruction(&self) -> Result<(), Trap> {
        if self.state.cpl() > 0 || !self.model.has(Feature::Smap) {
            return Err(Exception::invalid_opcode().into());
        }
        Ok(())
    }

    /// STAC.
    ///
    /// # Errors
    /// #UD at CPL > 0 or without SMAP in the model.
    pub fn stac(&mut self) -> Result<(), Trap> {
        self.check_ac_instruction()?;
        self.state.rflags |= rflags::AC;
        Ok(())
    }

    /// CLAC.
    ///
    /// # Errors
    /// As `stac`.
    pub fn clac(&mut self) -> Result<(), Trap> {
        self.check_ac_instruction()?;
        self.state.rflags &= !rflags::AC;
        Ok(())
    }
}
