//! SYSCALL, SYSRET, SYSENTER, SYSEXIT (SDM vol. 3, 5.8.7, 5.8.8; vol. 2).

use crate::core::Core;
use crate::cpuid::Feature;
use crate::exception::{Exception, Trap};
use crate::state::{SegmentRegister, VcpuState};
use gasang_x86::control::efer;
use gasang_x86::descriptor::{access, selector};
use gasang_x86::{gpr, rflags, segment};

/// Flags that SYSRET takes from R11.
const SYSRET_FLAGS: u64 = rflags::WRITABLE & !(rflags::RF | rflags::VM);

/// A flat segment as these instructions load it, without reading a descriptor.
fn flat(selector: u16, cpl: u8, attributes: u32) -> SegmentRegister {
    let common = access::PRESENT | access::S | access::WRITABLE | access::ACCESSED | access::GRANULARITY;
    SegmentRegister {
        base: 0,
        limit: 0xffff_ffff,
        attributes: common | attributes | u32::from(cpl) << access::DPL_SHIFT,
        selector: selector & !selector::RPL | u16::from(cpl),
    }
}

fn flat_code(selector: u16, cpl: u8, long: bool) -> SegmentRegister {
    flat(selector, cpl, access::CODE | if long { access::LONG } else { access::DB })
}

fn flat_stack(selector: u16, cpl: u8) -> SegmentRegister {
    flat(selector, cpl, access::DB)
}

impl Core<'_> {
    fn check_syscall(&self) -> Result<(), Trap> {
        let enabled = self.state.efer & efer::SCE != 0 && self.model.has(Feature::Syscall);
        if self.state.in_64bit_mode() && enabled { Ok(()) } else { Err(Exception::invalid_opcode().into()) }
    }

    /// SYSCALL.
    ///
    /// # Errors
    /// #UD outside 64-bit mode or without EFER.SCE.
    pub fn syscall(&mut self, next: u64) -> Result<(), Trap> {
        self.check_syscall()?;
        let state = &mut *self.state;
        let flags = state.rflags & !rflags::RF;
        let selector = (state.msr.star >> 32) as u16;
        state.gpr[gpr::RCX] = next;
        state.gpr[gpr::R11] = flags;
        state.rflags = flags & !state.msr.fmask | rflags::FIXED;
        state.segment[segment::CS] = flat_code(selector, 0, true);
        state.segment[segment::SS] = flat_stack(selector.wrapping_add(8) & !selector::RPL, 0);
        state.rip = state.msr.lstar;
        Ok(())
    }

    /// SYSRET; `operand_bits` is 64 with REX.W.
    ///
    /// # Errors
    /// #UD as for SYSCALL, #GP(0) at CPL > 0 or for a non-canonical RCX.
    pub fn sysret(&mut self, operand_bits: u32) -> Result<(), Trap> {
        self.check_syscall()?;
        self.check_privileged()?;
        let state = &mut *self.state;
        let long = operand_bits == 64;
        let target = state.gpr[gpr::RCX];
        if long && !VcpuState::canonical(target) {
            return Err(Exception::general_protection(0).into());
        }
        let selector = (state.msr.star >> 48) as u16;
        state.rip = if long { target } else { target & 0xffff_ffff };
        state.rflags = state.gpr[gpr::R11] & SYSRET_FLAGS | rflags::FIXED;
        state.segment[segment::CS] = flat_code(selector.wrapping_add(if long { 16 } else { 0 }), 3, long);
        state.segment[segment::SS] = flat_stack(selector.wrapping_add(8), 3);
        Ok(())
    }

    /// The selector that SYSENTER and SYSEXIT count from.
    fn sysenter_selector(&self) -> Result<u16, Trap> {
        if !self.model.has(Feature::Sep) {
            return Err(Exception::invalid_opcode().into());
        }
        let selector = self.state.msr.sysenter_cs as u16 & !selector::RPL;
        if !self.state.protected_mode() || selector == 0 {
            return Err(Exception::general_protection(0).into());
        }
        Ok(selector)
    }

    /// SYSENTER. Nothing is saved of where it was.
    ///
    /// # Errors
    /// #GP(0) outside protected mode or without a selector.
    pub fn sysenter(&mut self, _next: u64) -> Result<(), Trap> {
        let selector = self.sysenter_selector()?;
        let state = &mut *self.state;
        let long = state.long_mode();
        let width = if long { !0 } else { 0xffff_ffff };
        state.rflags &= !(rflags::VM | rflags::IF | rflags::RF);
        state.gpr[gpr::RSP] = state.msr.sysenter_esp & width;
        state.rip = state.msr.sysenter_eip & width;
        state.segment[segment::CS] = flat_code(selector, 0, long);
        state.segment[segment::SS] = flat_stack(selector.wrapping_add(8), 0);
        Ok(())
    }

    /// SYSEXIT; `operand_bits` is 64 with REX.W.
    ///
    /// # Errors
    /// #GP(0) outside protected mode, at CPL > 0, without a selector, for a non-canonical target.
    pub fn sysexit(&mut self, operand_bits: u32) -> Result<(), Trap> {
        let selector = self.sysenter_selector()?;
        self.check_privileged()?;
        let state = &mut *self.state;
        let long = operand_bits == 64;
        let (stack, target) = (state.gpr[gpr::RCX], state.gpr[gpr::RDX]);
        if long && !(VcpuState::canonical(stack) && VcpuState::canonical(target)) {
            return Err(Exception::general_protection(0).into());
        }
        let width = if long { !0 } else { 0xffff_ffff };
        let code = selector.wrapping_add(if long { 32 } else { 16 });
        state.gpr[gpr::RSP] = stack & width;
        state.rip = target & width;
        state.segment[segment::CS] = flat_code(code, 3, long);
        state.segment[segment::SS] = flat_stack(code.wrapping_add(8), 3);
        Ok(())
    }
}
