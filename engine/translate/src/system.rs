//! System instructions that guests execute so often that they stay in generated code. What is unusual about one (an
//! interrupt that waits, a flag that changes how code executes) leaves to T0.

use crate::assembler::{Condition, address, reg, state};
use crate::decode::{Kind, Operation};
use crate::emit::{Emitter, OutOfLine};
use crate::site::Site;
use crate::slots;
use gasang_x86::control::cr4;
use gasang_x86::{rflags, segment};
use iced_x86::{Instruction, Mnemonic, Register};

/// Flags that POPFQ may change in generated code.
const POPPED: i32 = (rflags::STATUS | rflags::IF | rflags::FIXED) as i32;
/// Bytes of the frame that IRETQ pops.
const INTERRUPT_FRAME: u32 = 40;
/// Status flags in the low byte of RFLAGS.
const LOW_STATUS: i32 = (rflags::STATUS & 0xff) as i32;

impl Emitter<'_, '_> {
    /// Emit a system instruction.
    pub(crate) fn system(&mut self, operation: &Operation) {
        match operation.kind {
            Kind::ClearDirection => {
                self.flags_will_change(operation.live_before);
                self.assembler.and8(state(slots::RFLAGS + 1), !((rflags::DF >> 8) as u8));
                self.host_flags = false;
            }
            Kind::ClearInterrupt => {
                self.flags_will_change(operation.live_before);
                self.assembler.and8(state(slots::RFLAGS + 1), !((rflags::IF >> 8) as u8));
                self.host_flags = false;
            }
            Kind::SetInterrupt => self.set_interrupt(operation),
            Kind::PushFlags => self.push_flags(operation),
            Kind::PopFlags => self.pop_flags(operation),
            Kind::AlignmentCheck(set) => self.alignment_check(operation, set),
            Kind::SwapGs => self.swap_gs(),
            _ => self.interpret(operation),
        }
    }

    /// SYSCALL, SYSRET, IRETQ: the cache's own code goes on.
    pub(crate) fn transition(&mut self, operation: &Operation) {
        self.flags_will_change(operation.live_before);
        let (rip, not_executed) = (operation.instruction.ip(), self.not_executed());
        let code = match operation.kind {
            Kind::SystemCall => {
                self.assembler.immediate(reg::R11, operation.instruction.next_ip());
                self.exits.system_call
            }
            Kind::SystemReturn => self.exits.system_return,
            _ => {
                self.check(operation, INTERRUPT_FRAME, false, None, |emitter| {
                    emitter.assembler.copy(reg::R10, reg::RSP);
                });
                self.assembler.lea(reg::R11, address(Some(reg::R11), Some((reg::R10, 1)), 0));
                self.exits.interrupt_return
            }
        };
        let site = self.site(Site::Instruction { rip, not_executed });
        self.assembler.store_immediate32(state(slots::SITE), site);
        self.assembler.jump(code);
    }

    /// MOV from CR2 or CR3.
    pub(crate) fn read_control(&mut self, instruction: &Instruction) {
        let register = if instruction.op1_register() == Register::CR2 { slots::CR2 } else { slots::CR3 };
        self.load_state(instruction.op0_register(), register);
    }

    /// RDFSBASE and its kin, if CR4 allows them and the address is canonical.
    pub(crate) fn segment_base(&mut self, operation: &Operation, write: bool) {
        let instruction = &operation.instruction;
        let fs = matches!(instruction.mnemonic(), Mnemonic::Rdfsbase | Mnemonic::Wrfsbase);
        let base = slots::segment_base(if fs { segment::FS } else { segment::GS });
        self.flags_will_change(operation.live_before);
        self.assembler.test8(state(slots::CR4 + 2), (cr4::FSGSBASE >> 16) as u8);
        self.host_flags = false;
        self.interpret_if(operation, Condition::E);
        if !write {
            return self.load_state(instruction.op0_register(), base);
        }
        self.load_register(reg::R10, instruction.op0_register());
        let a = &mut *self.assembler;
        a.copy(reg::R11, reg::R10);
        a.shift_right_arithmetic(reg::R11, 47, true);
        a.lea(reg::R11, address(Some(reg::R11), None, 1));
        a.compare_immediate(reg::R11, 1);
        self.interpret_if(operation, Condition::A);
        self.assembler.store(state(base), reg::R10);
    }

    /// RDPKRU with ECX = 0, if CR4 allows it.
    pub(crate) fn read_key_rights(&mut self, operation: &Operation) {
        self.flags_will_change(operation.live_before);
        self.assembler.test8(state(slots::CR4 + 2), (cr4::PKE >> 16) as u8);
        self.host_flags = false;
        self.interpret_if(operation, Condition::E);
        self.assembler.test_registers(reg::RCX, reg::RCX);
        self.interpret_if(operation, Condition::Ne);
        self.assembler.load32(reg::RAX, state(slots::PKRU));
        self.assembler.immediate(reg::RDX, 0);
    }

    /// RDTSC, RDTSCP: the cache's own code reads the counter.
    pub(crate) fn read_time(&mut self, operation: &Operation, processor: bool) {
        self.flags_will_change(operation.live_before);
        let (rip, not_executed) = (operation.instruction.ip(), self.not_executed());
        let site = self.site(Site::Instruction { rip, not_executed });
        self.assembler.store_immediate32(state(slots::SITE), site);
        self.call(self.exits.read_time[usize::from(processor)]);
    }

    /// Leave to T0 if the condition holds; EFLAGS are not the guest's here.
    pub(crate) fn interpret_if(&mut self, operation: &Operation, condition: Condition) {
        let jump = self.assembler.jump_if_forward(condition);
        let (rip, not_executed) = (operation.instruction.ip(), self.not_executed());
        let site = self.site(Site::Instruction { rip, not_executed });
        self.out_of_line.push(OutOfLine::Interpret { jump, site });
    }

    fn set_interrupt(&mut self, operation: &Operation) {
        self.flags_will_change(operation.live_before);
        self.assembler.test8(state(slots::INTERRUPT_WAITING), 1);
        self.host_flags = false;
        self.interpret_if(operation, Condition::Ne);
        self.assembler.or8(state(slots::RFLAGS + 1), (rflags::IF >> 8) as u8);
    }

    fn push_flags(&mut self, operation: &Operation) {
        self.flags_will_change(operation.live_before);
        let a = &mut *self.assembler;
        // The status flags out of their slot: AH holds the low byte, AL is OF.
        a.load16(reg::R10, state(slots::FLAGS));
        a.copy32(reg::R11, reg::R10);
        a.shift_right32(reg::R10, 8);
        a.and32(reg::R10, LOW_STATUS);
        a.and32(reg::R11, 1);
        a.shift_left32(reg::R11, 11);
        a.or(reg::R10, reg::R11);
        a.load(reg::R11, state(slots::RFLAGS));
        a.and(reg::R11, !((rflags::STATUS | rflags::RF | rflags::VM) as i32));
        a.or(reg::R10, reg::R11);
        a.store(state(slots::TEMPORARY), reg::R10);
        self.host_flags = false;
        let place = self.stack(operation, 0, -8, true);
        self.store_slot(place, slots::TEMPORARY);
        self.assembler.lea(reg::RSP, address(Some(reg::RSP), None, -8));
    }

    fn pop_flags(&mut self, operation: &Operation) {
        self.flags_will_change(operation.live_before);
        let place = self.stack(operation, 0, 0, false);
        let a = &mut *self.assembler;
        a.load(reg::R10, place);
        a.load(reg::R11, state(slots::RFLAGS));
        a.xor_registers(reg::R11, reg::R10);
        a.test(reg::R11, !POPPED);
        self.interpret_if(operation, Condition::Ne);
        let a = &mut *self.assembler;
        a.load(reg::R11, state(slots::INTERRUPT_WAITING));
        a.shift_left32(reg::R11, rflags::IF.trailing_zeros() as u8);
        a.test_registers(reg::R11, reg::R10);
        self.interpret_if(operation, Condition::Ne);
        let a = &mut *self.assembler;
        a.or8_register(reg::R10, rflags::FIXED as u8);
        a.store(state(slots::RFLAGS), reg::R10);
        a.copy32(reg::R11, reg::R10);
        a.and32(reg::R11, 0xff);
        a.shift_left32(reg::R11, 8);
        a.shift_right32(reg::R10, 11);
        a.and32(reg::R10, 1);
        a.or(reg::R11, reg::R10);
        a.store16(state(slots::FLAGS), reg::R11);
        a.lea(reg::RSP, address(Some(reg::RSP), None, 8));
        (self.host_flags, self.slot_flags) = (false, true);
    }

    fn alignment_check(&mut self, operation: &Operation, set: bool) {
        self.flags_will_change(operation.live_before);
        let byte = state(slots::RFLAGS + 2);
        let bit = (rflags::AC >> 16) as u8;
        if set {
            self.assembler.or8(byte, bit);
        } else {
            self.assembler.and8(byte, !bit);
        }
        self.host_flags = false;
        let context = if set { slots::TLB_SUPERVISOR_AC } else { slots::TLB_SUPERVISOR };
        self.assembler.load(reg::R10, state(context));
        self.assembler.write_fs_base(reg::R10);
    }

    fn swap_gs(&mut self) {
        let base = state(slots::segment_base(segment::GS));
        let a = &mut *self.assembler;
        a.load(reg::R10, base);
        a.load(reg::R11, state(slots::KERNEL_GS_BASE));
        a.store(base, reg::R11);
        a.store(state(slots::KERNEL_GS_BASE), reg::R10);
    }
}
