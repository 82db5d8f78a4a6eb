//! Far RET and IRET (SDM vol. 2, RET, IRET; vol. 3, 5.8.6, 20.3.2).

use crate::core::Core;
use crate::descriptors::{error_code, is_null, rpl};
use crate::exception::{Exception, Trap};
use crate::stack::{Stack, mask};
use crate::state::SegmentRegister;
use crate::task::{Resume, TaskSwitch};
use gasang_x86::control::cr4;
use gasang_x86::descriptor::access;
use gasang_x86::{gpr, rflags, segment};

/// Flags that IRET may change at any privilege.
const IRET: u64 =
    rflags::STATUS | rflags::TF | rflags::DF | rflags::NT | rflags::RF | rflags::AC | rflags::ID;

/// What a return commits.
struct Return {
    code: SegmentRegister,
    offset: u64,
    stack: Stack,
    cpl: u8,
}

fn refuse<T>(code: u32) -> Result<T, Trap> {
    Err(Exception::general_protection(code).into())
}

impl Core<'_> {
    /// Far RET, releasing `release` bytes of parameters.
    ///
    /// # Errors
    /// #GP, #NP, #SS, #PF; `Pending`.
    pub fn far_return(&mut self, operand_bits: u32, release: u64) -> Result<(), Trap> {
        let width = u64::from(operand_bits / 8);
        let stack = self.current_stack();
        let offset = self.peek(&stack, 0, width)?;
        let selector = self.peek(&stack, 1, width)? as u16;
        let above = stack.released(2 * width + release);
        if self.state.real_or_virtual_8086() {
            let code = self.paragraph_code(selector, offset)?;
            self.commit_return(&Return { code, offset, stack: above, cpl: self.state.cpl() });
            return Ok(());
        }
        let code = self.return_code(selector, offset)?;
        let cpl = rpl(selector);
        let stack = if cpl > self.state.cpl() {
            self.return_stack(&above, width, &code)?.released(release)
        } else {
            above
        };
        self.commit_return(&Return { code, offset, stack, cpl });
        Ok(())
    }

    /// The code segment that a return goes to, checked: its RPL becomes CPL.
    fn return_code(&mut self, selector: u16, offset: u64) -> Result<SegmentRegister, Trap> {
        if is_null(selector) {
            return refuse(0);
        }
        let descriptor = self.descriptor_or(selector, Exception::general_protection)?;
        let cpl = rpl(selector);
        let matches =
            if descriptor.is_conforming() { descriptor.dpl() <= cpl } else { descriptor.dpl() == cpl };
        if !self.is_valid_code(&descriptor) || cpl < self.state.cpl() || !matches {
            return refuse(error_code(selector));
        }
        self.code_segment(&descriptor, selector, cpl, offset)
    }

    /// The stack that a return pops (pointer, then selector), checked against the code it goes to.
    fn return_stack(&mut self, from: &Stack, width: u64, code: &SegmentRegister) -> Result<Stack, Trap> {
        let pointer = self.peek(from, 0, width)?;
        let selector = self.peek(from, 1, width)? as u16;
        let cpl = rpl(code.selector);
        let long = self.state.long_mode() && code.attributes & access::LONG != 0;
        let register = self.return_stack_segment(selector, cpl, long)?;
        let bits = match (long, register.attributes & access::DB != 0) {
            (true, _) => 64,
            (false, true) => 32,
            (false, false) => 16,
        };
        let pointer = pointer & mask(bits);
        Ok(Stack { segment: register, pointer, bits, privilege: self.privilege(), error: 0 })
    }

    fn return_stack_segment(&mut self, selector: u16, cpl: u8, long: bool) -> Result<SegmentRegister, Trap> {
        if is_null(selector) {
            if long && cpl < 3 && rpl(selector) == cpl {
                return Ok(SegmentRegister::null_stack(cpl));
            }
            return refuse(error_code(selector));
        }
        let descriptor = self.descriptor_or(selector, Exception::general_protection)?;
        if rpl(selector) != cpl || descriptor.dpl() != cpl || !descriptor.is_writable_data() {
            return refuse(error_code(selector));
        }
        if !descriptor.present() {
            return Err(Exception::stack(error_code(selector)).into());
        }
        self.set_accessed(&descriptor)?;
        Ok(descriptor.segment(selector))
    }

    fn commit_return(&mut self, target: &Return) {
        let outward = target.cpl > self.state.cpl();
        self.state.segment[segment::CS] = target.code;
        self.state.rip = target.offset;
        self.commit_stack(&target.stack);
        if outward {
            self.hide_inner_segments(target.cpl);
        }
    }

    /// Data segments that the outer privilege may not use become null.
    fn hide_inner_segments(&mut self, cpl: u8) {
        for register in [segment::ES, segment::DS, segment::FS, segment::GS] {
            let held = &mut self.state.segment[register];
            let conforming = access::CODE | access::CONFORMING;
            if held.usable() && held.attributes & conforming != conforming && held.dpl() < cpl {
                // The base stays: FS and GS have theirs from MSRs.
                *held = SegmentRegister { base: held.base, ..SegmentRegister::null(0) };
            }
        }
    }

    /// IRET, IRETD, IRETQ. `next` is what a nested task saves. NMIs are unblocked even if it faults.
    ///
    /// # Errors
    /// As `far_return`, and those of a task switch.
    pub fn iret(&mut self, operand_bits: u32, next: u64) -> Result<(), Trap> {
        self.unblock_nmis();
        if self.state.real_or_virtual_8086() {
            self.iret_of_paragraph_modes(operand_bits)?;
        } else if self.state.rflags & rflags::NT == 0 {
            self.iret_protected(operand_bits)?;
        } else if self.state.long_mode() {
            return refuse(0);
        } else {
            self.return_to_task(next)?;
        }
        Ok(())
    }

    fn return_to_task(&mut self, next: u64) -> Result<(), Trap> {
        let link = self.read_system(self.state.tr.base, 2)? as u16;
        let resume = Resume { rip: next, flags: self.state.rflags };
        self.switch_task(link, TaskSwitch::Return, resume, 0)
    }

    fn iret_protected(&mut self, operand_bits: u32) -> Result<(), Trap> {
        let width = u64::from(operand_bits / 8);
        let stack = self.current_stack();
        let offset = self.peek(&stack, 0, width)?;
        let selector = self.peek(&stack, 1, width)? as u16;
        let flags = self.peek(&stack, 2, width)?;
        let above = stack.released(3 * width);
        let cpl = self.state.cpl();
        if flags & rflags::VM != 0 && operand_bits == 32 && cpl == 0 && !self.state.long_mode() {
            return self.return_to_virtual_8086(offset, selector, flags, &above);
        }
        let code = self.return_code(selector, offset)?;
        let pops_stack = rpl(selector) > cpl || self.state.in_64bit_mode();
        let stack = if pops_stack { self.return_stack(&above, width, &code)? } else { above };
        let flags = self.returned_flags(flags, operand_bits);
        self.commit_return(&Return { code, offset, stack, cpl: rpl(selector) });
        self.state.rflags = flags;
        Ok(())
    }

    /// The flags after an IRET that popped `popped` at the current privilege.
    fn returned_flags(&self, popped: u64, operand_bits: u32) -> u64 {
        let state = &*self.state;
        let mut changes = IRET;
        if state.cpl() == 0 {
            changes |= rflags::IOPL | rflags::VIF | rflags::VIP;
        }
        if state.cpl() <= state.iopl() {
            changes |= rflags::IF;
        }
        if operand_bits == 16 {
            changes &= 0xffff;
        }
        state.rflags & !(changes | rflags::RF) | popped & changes
    }

    /// IRETD at CPL 0 with VM in the popped flags: ESP, SS, ES, DS, FS, GS follow.
    fn return_to_virtual_8086(
        &mut self,
        offset: u64,
        selector: u16,
        flags: u64,
        above: &Stack,
    ) -> Result<(), Trap> {
        let mut popped = [0; 6];
        for (index, value) in popped.iter_mut().enumerate() {
            *value = self.peek(above, index as u64, 4)?;
        }
        let code = SegmentRegister::virtual_8086(selector);
        if !code.contains(offset, 1) {
            return refuse(0);
        }
        let state = &mut *self.state;
        let order = [segment::SS, segment::ES, segment::DS, segment::FS, segment::GS];
        for (register, value) in order.into_iter().zip(&popped[1..]) {
            state.segment[register] = SegmentRegister::virtual_8086(*value as u16);
        }
        state.segment[segment::CS] = code;
        state.gpr[gpr::RSP] = popped[0];
        state.rip = offset;
        state.rflags = flags & rflags::WRITABLE | rflags::FIXED;
        Ok(())
    }

    /// IRET in real mode, and in VM86 mode as far as IOPL and VME allow.
    fn iret_of_paragraph_modes(&mut self, operand_bits: u32) -> Result<(), Trap> {
        let width = u64::from(operand_bits / 8);
        let virtual_8086 = self.state.virtual_8086();
        let uses_vif = virtual_8086 && self.state.iopl() < 3;
        if uses_vif && (self.state.cr4 & cr4::VME == 0 || operand_bits != 16) {
            return refuse(0);
        }
        let stack = self.current_stack();
        let offset = self.peek(&stack, 0, width)?;
        let selector = self.peek(&stack, 1, width)? as u16;
        let popped = self.peek(&stack, 2, width)?;
        let code = self.paragraph_code(selector, offset)?;
        let mut changes = IRET | rflags::IF | if virtual_8086 { 0 } else { rflags::IOPL };
        let mut value = popped;
        if uses_vif {
            let interrupts = popped & rflags::IF != 0;
            if popped & rflags::TF != 0 || interrupts && self.state.rflags & rflags::VIP != 0 {
                return refuse(0);
            }
            changes &= !(rflags::IF | 0xffff_0000);
            changes |= rflags::VIF;
            value = popped & !rflags::VIF | if interrupts { rflags::VIF } else { 0 };
        } else if operand_bits == 16 {
            changes &= 0xffff;
        }
        let cpl = self.state.cpl();
        self.commit_return(&Return { code, offset, stack: stack.released(3 * width), cpl });
        self.state.rflags = self.state.rflags & !(changes | rflags::RF) | value & changes;
        Ok(())
    }
}
