//! The ends of blocks: direct jumps that are linked to their targets, indirect ones through the table.

use crate::assembler::{Condition, reg, state, tlb};
use crate::decode::{Kind, Operation};
use crate::emit::{Emitter, OutOfLine};
use crate::jumps::JUMP_ENTRY_SIZE;
use crate::site::{Entry, Site};
use crate::slots;
use gasang_cpu::tlb::{JUMP_BITS, JUMP_HASH, JUMPS, TlbEntry};
use iced_x86::OpKind;
use std::mem::size_of;

/// Marks the targets of 32-bit code in jump entries: no address of 64-bit code looks so.
pub(crate) const NARROW: u64 = 1 << 62;

impl Emitter<'_, '_> {
    /// Emit a control transfer.
    pub(crate) fn branch(&mut self, operation: &Operation) {
        let next = operation.instruction.next_ip();
        match operation.kind {
            Kind::Jump(target) => self.direct_exit(target),
            Kind::Branch(target) => self.conditional(operation, target),
            Kind::Side { leave, when } => self.side(operation, leave, when),
            Kind::BranchIfZero(target) => self.if_zero(operation, target),
            Kind::Call(target) => {
                self.push_return_address(operation, 0);
                self.direct_exit(target);
            }
            Kind::CallThrough => self.push_return_address(operation, 0),
            Kind::JumpIndirect => {
                self.flags_will_change(operation.live_before);
                self.target_to_scratch(operation);
                self.indirect_exit(operation.instruction.ip(), 0);
            }
            Kind::CallIndirect => {
                self.flags_will_change(operation.live_before);
                self.target_to_scratch(operation);
                self.assembler.store(state(slots::NEXT_RIP), reg::R10);
                let from_memory = operation.instruction.op0_kind() == OpKind::Memory;
                self.push_return_address(operation, usize::from(from_memory));
                self.assembler.load(reg::R10, state(slots::NEXT_RIP));
                self.indirect_exit(operation.instruction.ip(), i64::from(self.word()));
            }
            Kind::Return(release) => {
                let undo_rsp = self.pop_return_address(operation, release);
                self.indirect_exit(operation.instruction.ip(), undo_rsp);
            }
            Kind::ReturnThrough { release, to } => self.return_through(operation, release, to),
            Kind::SystemCall | Kind::SystemReturn | Kind::InterruptReturn => self.transition(operation),
            Kind::Nothing
            | Kind::Plain
            | Kind::Address
            | Kind::Memory { .. }
            | Kind::Push
            | Kind::Pop
            | Kind::Leave
            | Kind::ClearDirection
            | Kind::PushFlags
            | Kind::PopFlags
            | Kind::ClearInterrupt
            | Kind::SetInterrupt
            | Kind::AlignmentCheck(_)
            | Kind::SwapGs
            | Kind::ReadSelector
            | Kind::Fill(_)
            | Kind::Copy(_)
            | Kind::ReadTime(_)
            | Kind::ReadControl
            | Kind::SegmentBase(_)
            | Kind::ReadKeyRights
            | Kind::ReadField
            | Kind::WriteField
            | Kind::BitString(_)
            | Kind::Interpret => self.direct_exit(next),
        }
    }

    fn conditional(&mut self, operation: &Operation, target: u64) {
        self.flags_to_host(operation);
        let code = operation.instruction.condition_code() as u8 - 1;
        if self.same_page(target) {
            let displacement = self.assembler.jump_if(code, self.exits.link_host_flags);
            self.link(displacement, target, Entry::HostFlags);
        } else {
            let jump = self.assembler.jump_if(code, 0);
            self.out_of_line.push(OutOfLine::Side { jump, target, not_executed: 0 });
        }
        self.direct_exit(operation.instruction.next_ip());
    }

    fn side(&mut self, operation: &Operation, leave: u64, when: bool) {
        self.flags_to_host(operation);
        let code = operation.instruction.condition_code() as u8 - 1;
        let jump = self.assembler.jump_if(if when { code } else { code ^ 1 }, 0);
        let not_executed = self.not_executed() - 1;
        self.out_of_line.push(OutOfLine::Side { jump, target: leave, not_executed });
    }

    /// The return address to R10; what to add to RSP to undo it.
    fn pop_return_address(&mut self, operation: &Operation, release: u16) -> i64 {
        self.flags_will_change(operation.live_before);
        let place = self.stack(operation, 0, 0, false);
        self.load_word(reg::R10, place);
        let release = self.word() as i32 + i32::from(release);
        self.move_stack(release);
        -i64::from(release)
    }

    fn return_through(&mut self, operation: &Operation, release: u16, to: u64) {
        let undo_rsp = self.pop_return_address(operation, release);
        if let Ok(short) = i32::try_from(to as i64) {
            self.assembler.compare_immediate(reg::R10, short);
        } else {
            self.assembler.immediate(reg::R11, to);
            self.assembler.compare_registers(reg::R10, reg::R11);
        }
        let jump = self.assembler.jump_if_forward(Condition::Ne);
        self.host_flags = false;
        let not_executed = self.not_executed() - 1;
        let rip = operation.instruction.ip();
        self.out_of_line.push(OutOfLine::Return { jump, rip, undo_rsp, not_executed });
    }

    fn if_zero(&mut self, operation: &Operation, target: u64) {
        let in_host = (self.host_flags, self.slot_flags);
        let ecx = operation.instruction.code() != iced_x86::Code::Jrcxz_rel8_64;
        let taken = self.assembler.jump_if_rcx_zero(ecx);
        self.direct_exit(operation.instruction.next_ip());
        self.assembler.close_short(taken);
        (self.host_flags, self.slot_flags) = in_host;
        self.direct_exit(target);
    }

    fn same_page(&self, target: u64) -> bool {
        target >> 12 == self.origin.linear >> 12
    }

    /// Jump to the block at `target`, linked once it is known.
    pub(crate) fn direct_exit(&mut self, target: u64) {
        let in_host = self.host_flags && !self.slot_flags;
        let entry = if !self.same_page(target) {
            if in_host {
                self.save_flags();
            }
            Entry::Page
        } else if in_host {
            Entry::HostFlags
        } else {
            Entry::SlotFlags
        };
        let displacement = self.assembler.jump(self.exits.link);
        self.link(displacement, target, entry);
    }

    /// Note a linkable jump; until it is linked it goes to a stub that names its site.
    pub(crate) fn link(&mut self, displacement: u32, target: u64, entry: Entry) {
        let site = self.site(Site::Link {
            block: self.origin.block,
            target,
            displacement: self.tables.offset + displacement,
            unlinked: 0,
            entry,
        });
        self.out_of_line.push(OutOfLine::Unlinked {
            jump: displacement,
            site,
            host_flags: entry == Entry::HostFlags,
        });
    }

    /// The target of an indirect jump or call to R10.
    fn target_to_scratch(&mut self, operation: &Operation) {
        let instruction = &operation.instruction;
        if instruction.op0_kind() == OpKind::Register {
            self.load_register(reg::R10, instruction.op0_register());
            if !self.origin.wide {
                self.assembler.copy32(reg::R10, reg::R10);
            }
        } else {
            let word = self.word();
            let place = self.access(operation, 0, word, false, |emitter, further| {
                emitter.effective_address(instruction, further);
            });
            self.load_word(reg::R10, place);
        }
    }

    fn push_return_address(&mut self, operation: &Operation, position: usize) {
        let below = -(self.word() as i32);
        let place = self.stack(operation, position, below, true);
        let next = operation.instruction.next_ip();
        if !self.origin.wide {
            self.store_immediate_word(place, next as u32 as i32);
        } else if let Ok(short) = i32::try_from(next as i64) {
            self.store_immediate_word(place, short);
        } else {
            let place = self.free_r10(place);
            self.assembler.immediate(reg::R10, next);
            self.assembler.store(place, reg::R10);
        }
        self.move_stack(below);
    }

    /// Jump to the block for the target in R10, by the jump entries of the TLB context.
    pub(crate) fn indirect_exit(&mut self, rip: u64, undo_rsp: i64) {
        let site = self.site(Site::Indirect { rip, undo_rsp });
        let jumps = self.origin.tlb_entries as i32 * size_of::<TlbEntry>() as i32;
        let wide = self.origin.wide;
        let a = &mut *self.assembler;
        if !wide {
            a.set_bit(reg::R10, NARROW.trailing_zeros() as u8);
        }
        a.multiply32(reg::R11, reg::R10, JUMP_HASH as i32);
        a.shift_right32(reg::R11, (32 - JUMP_BITS - JUMP_ENTRY_SIZE.trailing_zeros()) as u8);
        a.and32(reg::R11, (JUMPS - 1) as i32 * JUMP_ENTRY_SIZE);
        a.compare(reg::R10, tlb(Some(reg::R11), jumps));
        let jump = a.jump_if_forward(Condition::Ne);
        a.jump_memory(tlb(Some(reg::R11), jumps + 8));
        self.out_of_line.push(OutOfLine::Unknown { jump, site });
    }
}
