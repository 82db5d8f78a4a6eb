//! Far JMP and CALL, direct and through call gates (SDM vol. 3, 5.8; vol. 2).

use crate::core::Core;
use crate::descriptors::{Descriptor, error_code, is_null, rpl};
use crate::exception::{Exception, Trap};
use crate::stack::{FRAME_VALUES, Stack, mask};
use crate::state::{SegmentRegister, VcpuState};
use crate::task::{Resume, TaskSwitch};
use gasang_x86::descriptor::{access, selector, system};
use gasang_x86::{gpr, segment};

/// Which transfer goes through a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transfer {
    Jump,
    Call,
}

impl Core<'_> {
    /// Far JMP, to code, through a call gate, or to a task.
    ///
    /// # Errors
    /// #GP, #NP, #SS, #TS, #PF; `Pending`.
    pub fn far_jump(&mut self, selector: u16, offset: u64, operand_bits: u32, next: u64) -> Result<(), Trap> {
        let offset = offset & mask(operand_bits);
        if self.state.real_or_virtual_8086() {
            let code = self.paragraph_code(selector, offset)?;
            return self.enter_code(code, offset);
        }
        let descriptor = self.transfer_target(selector)?;
        if descriptor.is_system() {
            return self.through_gate(&descriptor, selector, Transfer::Jump, next);
        }
        let code = self.direct_code(&descriptor, selector, offset)?;
        self.enter_code(code, offset)
    }

    /// Far CALL.
    ///
    /// # Errors
    /// As `far_jump`.
    pub fn far_call(&mut self, selector: u16, offset: u64, operand_bits: u32, next: u64) -> Result<(), Trap> {
        let offset = offset & mask(operand_bits);
        let code = if self.state.real_or_virtual_8086() {
            self.paragraph_code(selector, offset)?
        } else {
            let descriptor = self.transfer_target(selector)?;
            if descriptor.is_system() {
                return self.through_gate(&descriptor, selector, Transfer::Call, next);
            }
            self.direct_code(&descriptor, selector, offset)?
        };
        self.push_return_address(u64::from(operand_bits / 8), next)?;
        self.enter_code(code, offset)
    }

    /// CS in real or VM86 mode.
    pub(crate) fn paragraph_code(&self, selector: u16, offset: u64) -> Result<SegmentRegister, Trap> {
        let code = self.paragraph_segment(segment::CS, selector);
        self.check_entry(&code, offset)?;
        Ok(code)
    }

    /// Whether execution may begin at `offset` of a code segment.
    pub(crate) fn check_entry(&self, code: &SegmentRegister, offset: u64) -> Result<(), Trap> {
        let long = self.state.long_mode() && code.attributes & access::LONG != 0;
        let inside = if long { VcpuState::canonical(offset) } else { code.contains(offset, 1) };
        if inside { Ok(()) } else { Err(Exception::general_protection(0).into()) }
    }

    fn enter_code(&mut self, code: SegmentRegister, offset: u64) -> Result<(), Trap> {
        self.state.segment[segment::CS] = code;
        self.state.rip = offset;
        Ok(())
    }

    fn transfer_target(&mut self, selector: u16) -> Result<Descriptor, Trap> {
        if is_null(selector) {
            return Err(Exception::general_protection(0).into());
        }
        self.descriptor_or(selector, Exception::general_protection)
    }

    /// L and D together are reserved in IA-32e mode.
    pub(crate) fn is_valid_code(&self, descriptor: &Descriptor) -> bool {
        let both = access::LONG | access::DB;
        descriptor.is_code() && !(self.state.long_mode() && descriptor.attributes() & both == both)
    }

    /// The code segment of a transfer without a gate, checked.
    fn direct_code(
        &mut self,
        descriptor: &Descriptor,
        selector: u16,
        offset: u64,
    ) -> Result<SegmentRegister, Trap> {
        let cpl = self.state.cpl();
        let allowed = if descriptor.is_conforming() {
            descriptor.dpl() <= cpl
        } else {
            rpl(selector) <= cpl && descriptor.dpl() == cpl
        };
        if !self.is_valid_code(descriptor) || !allowed {
            return Err(Exception::general_protection(error_code(selector)).into());
        }
        self.code_segment(descriptor, selector, cpl, offset)
    }

    /// The last checks of a transfer to code: presence and entry point.
    pub(crate) fn code_segment(
        &mut self,
        descriptor: &Descriptor,
        selector: u16,
        cpl: u8,
        offset: u64,
    ) -> Result<SegmentRegister, Trap> {
        if !descriptor.present() {
            return Err(Exception::not_present(error_code(selector)).into());
        }
        let code = descriptor.segment(selector & !selector::RPL | u16::from(cpl));
        self.check_entry(&code, offset)?;
        self.set_accessed(descriptor)?;
        Ok(code)
    }

    /// A transfer to a system descriptor: call gate, task gate or TSS.
    fn through_gate(
        &mut self,
        gate: &Descriptor,
        selector: u16,
        transfer: Transfer,
        next: u64,
    ) -> Result<(), Trap> {
        let refused = Exception::general_protection(error_code(selector));
        let long = self.state.long_mode();
        let call_gate = match gate.kind() {
            system::CALL_GATE => !long || gate.high >> 40 & 0x1f == 0,
            system::CALL_GATE16 => !long,
            _ => false,
        };
        let task = !long
            && matches!(gate.kind(), system::TASK_GATE | system::TSS_AVAILABLE | system::TSS16_AVAILABLE);
        if !call_gate && !task || !self.may_reach(gate, selector) {
            return Err(refused.into());
        }
        if !gate.present() {
            return Err(Exception::not_present(error_code(selector)).into());
        }
        if call_gate {
            return self.through_call_gate(gate, transfer, next);
        }
        let target = if gate.kind() == system::TASK_GATE { gate.gate_selector() } else { selector };
        let switch = match transfer {
            Transfer::Jump => TaskSwitch::Jump,
            Transfer::Call => TaskSwitch::Call,
        };
        let resume = Resume { rip: next, flags: self.state.rflags };
        self.switch_task(target, switch, resume, 0)
    }

    fn through_call_gate(&mut self, gate: &Descriptor, transfer: Transfer, next: u64) -> Result<(), Trap> {
        let target = gate.gate_selector();
        let descriptor = self.transfer_target(target)?;
        let cpl = self.state.cpl();
        let long = self.state.long_mode();
        let long_code = descriptor.attributes() & (access::LONG | access::DB) == access::LONG;
        let new_cpl = if descriptor.is_conforming() { cpl } else { descriptor.dpl() };
        let jump_inward = transfer == Transfer::Jump && new_cpl != cpl;
        if !descriptor.is_code() || descriptor.dpl() > cpl || jump_inward || long && !long_code {
            return Err(Exception::general_protection(error_code(target)).into());
        }
        let offset = gate.gate_offset();
        let code = self.code_segment(&descriptor, target, new_cpl, offset)?;
        let width = match (long, gate.is_32bit_gate()) {
            (true, _) => 8,
            (false, true) => 4,
            (false, false) => 2,
        };
        match transfer {
            Transfer::Call if new_cpl < cpl => self.call_inward(gate, new_cpl, width, next)?,
            Transfer::Call => self.push_return_address(width, next)?,
            Transfer::Jump => {}
        }
        self.enter_code(code, offset)
    }

    /// Push CS and the return address on the current stack and commit its pointer.
    fn push_return_address(&mut self, width: u64, next: u64) -> Result<(), Trap> {
        let selector = u64::from(self.state.segment[segment::CS].selector);
        let pushed = self.push_frame(&self.current_stack(), &[selector, next], width)?;
        self.commit_stack(&pushed);
        Ok(())
    }

    /// Write SS and the stack pointer.
    pub(crate) fn commit_stack(&mut self, stack: &Stack) {
        self.state.segment[segment::SS] = stack.segment;
        self.state.gpr[gpr::RSP] = stack.merge(self.state.gpr[gpr::RSP]);
    }

    /// A call to inner privilege: the TSS's stack, the old one saved on it, parameters copied (SDM vol. 3, 5.8.5).
    fn call_inward(&mut self, gate: &Descriptor, cpl: u8, width: u64, next: u64) -> Result<(), Trap> {
        let old = self.current_stack();
        let stack = if self.state.long_mode() {
            let pointer = self.tss_stack64(u64::from(cpl), 0)?;
            self.stack64(pointer, cpl, SegmentRegister::null_stack(cpl), 0)
        } else {
            self.inner_stack(cpl, 0)?
        };
        let mut frame = [0; FRAME_VALUES];
        let parameters = if self.state.long_mode() { 0 } else { gate.gate_parameters() };
        frame[0] = u64::from(old.segment.selector);
        frame[1] = self.state.gpr[gpr::RSP];
        for index in 0..parameters {
            frame[2 + index] = self.peek(&old, (parameters - 1 - index) as u64, width)?;
        }
        frame[2 + parameters] = u64::from(self.state.segment[segment::CS].selector);
        frame[3 + parameters] = next;
        let pushed = self.push_frame(&stack, &frame[..4 + parameters], width)?;
        self.commit_stack(&pushed);
        Ok(())
    }
}
