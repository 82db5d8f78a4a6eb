//! Instructions that do not end a block: as themselves, on substituted registers and translated addresses.

use crate::assembler::{Condition, Memory, address, reg, state, tlb};
use crate::decode::{Kind, Operation, may_fault};
use crate::emit::{Crossing, Emitter, Miss, OutOfLine, tag_offset};
use crate::plan::Check;
use crate::site::{FaultPoint, Site};
use crate::slots;
use gasang_cpu::tlb::{TlbEntry, header};
use gasang_x86::segment;
use iced_x86::{Instruction, Mnemonic, OpAccess, OpKind, Register};
use std::mem::offset_of;

/// Guest registers that stay in the state.
pub(crate) fn is_spilled(register: Register) -> bool {
    matches!(register.full_register(), Register::R9 | Register::R10 | Register::R11)
}

/// Whether R11 is changed by such an operation's accesses only.
fn leaves_r11(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Nothing
            | Kind::Plain
            | Kind::Memory { .. }
            | Kind::Push
            | Kind::Pop
            | Kind::Side { .. }
            | Kind::CallThrough
    )
}

/// Whether R10 is changed by such an operation's checks and spilled registers only.
fn leaves_r10(kind: Kind) -> bool {
    matches!(kind, Kind::Nothing | Kind::Plain | Kind::Memory { .. } | Kind::Side { .. })
}

/// The number of a general-purpose register.
pub(crate) fn number_of(register: Register) -> usize {
    register.full_register().number()
}

/// The register of `like`'s width with the number of `full`.
fn same_width(like: Register, full: u8) -> Register {
    let from = |first: Register| first + u32::from(full);
    if like.is_gpr64() {
        from(Register::RAX)
    } else if like.is_gpr32() {
        from(Register::EAX)
    } else if like.is_gpr16() {
        from(Register::AX)
    } else {
        // R8L-R15L follow SPL, BPL, SIL, DIL: only numbers from 8 up are asked for.
        Register::R8L + u32::from(full - 8)
    }
}

/// Offset in a TLB context of a region's first word.
fn first_word(region: u8) -> i32 {
    header::FIRST_REGION + header::REGION_SIZE * i32::from(region)
}

/// Make `place` the instruction's memory operand.
fn place_operand(instruction: &mut Instruction, place: Memory) {
    instruction.set_segment_prefix(Register::None);
    instruction.set_memory_base(Register::R11);
    instruction.set_memory_index(if place.is_indexed() { Register::R10 } else { Register::None });
    instruction.set_memory_index_scale(1);
    instruction.set_memory_displacement64(place.displacement() as i64 as u64);
    instruction.set_memory_displ_size(u32::from(place.displacement() != 0));
}

/// A spilled register among an instruction's operands.
#[derive(Clone, Copy)]
struct SpilledRegister {
    full: Register,
    /// What it was matters.
    read: bool,
    written: bool,
}

/// Spilled registers among an instruction's operands, each once.
struct Spilled {
    registers: [SpilledRegister; 2],
    count: usize,
    overflow: bool,
}

impl Emitter<'_, '_> {
    /// Emit one operation.
    pub(crate) fn operation(&mut self, operation: &Operation) {
        if operation.extended != 0 {
            self.require_extended(operation);
        }
        self.forget_scratch(operation.kind);
        self.emit(operation);
        self.forget_scratch(operation.kind);
    }

    /// Before and after an operation that uses scratch registers for its own purposes.
    fn forget_scratch(&mut self, kind: Kind) {
        self.held = self.held.filter(|_| leaves_r11(kind));
        self.held_in_r10 = self.held_in_r10.filter(|_| leaves_r10(kind));
    }

    fn emit(&mut self, operation: &Operation) {
        match operation.kind {
            Kind::Nothing => {}
            Kind::Plain => self.plain(operation),
            Kind::Address => self.load_effective_address(operation),
            Kind::Memory { size, write } => self.memory(operation, size, write),
            Kind::Push => self.push(operation),
            Kind::Pop => self.pop(operation),
            Kind::Leave => self.leave(operation),
            Kind::ClearDirection
            | Kind::PushFlags
            | Kind::PopFlags
            | Kind::ClearInterrupt
            | Kind::SetInterrupt
            | Kind::AlignmentCheck(_)
            | Kind::SwapGs => self.system(operation),
            Kind::ReadSelector => self.read_selector(&operation.instruction),
            Kind::ReadControl => self.read_control(&operation.instruction),
            Kind::SegmentBase(write) => self.segment_base(operation, write),
            Kind::ReadKeyRights => self.read_key_rights(operation),
            Kind::ReadField | Kind::WriteField => self.access_field(operation),
            Kind::BitString(size) => self.bit_string(operation, size),
            Kind::Fill(shift) => self.fill(operation, shift),
            Kind::Copy(shift) => self.copy(operation, shift),
            Kind::ReadTime(processor) => self.read_time(operation, processor),
            Kind::Interpret => self.interpret(operation),
            Kind::Jump(_)
            | Kind::Branch(_)
            | Kind::Side { .. }
            | Kind::CallThrough
            | Kind::ReturnThrough { .. }
            | Kind::BranchIfZero(_)
            | Kind::Call(_)
            | Kind::JumpIndirect
            | Kind::CallIndirect
            | Kind::Return(_)
            | Kind::SystemCall
            | Kind::SystemReturn
            | Kind::InterruptReturn => self.branch(operation),
        }
    }

    fn read_selector(&mut self, instruction: &Instruction) {
        let selector = state(slots::selector(instruction.op1_register().number()));
        let target = instruction.op0_register();
        if is_spilled(target) {
            self.assembler.load16(reg::R10, selector);
            self.assembler.store(state(slots::gpr(number_of(target))), reg::R10);
        } else {
            self.assembler.load16(number_of(target) as u8, selector);
        }
    }

    /// BT and its kin on a bit string: find the word that has the bit, then the bit in it.
    fn bit_string(&mut self, operation: &Operation, size: u32) {
        let instruction = &operation.instruction;
        let bit = instruction.op1_register();
        self.flags_will_change(operation.live_before);
        let word_shift = if size == 8 { 6 } else { 5 };
        let write = instruction.mnemonic() != Mnemonic::Bt;
        self.check(operation, size, write, None, |emitter| {
            emitter.effective_address(instruction, 0);
            emitter.load_register(reg::R11, bit);
            emitter.assembler.shift_right_arithmetic(reg::R11, word_shift, size == 8);
            emitter.assembler.sign_extend32(reg::R11, size == 8);
            emitter.guest_address(reg::R10, address(Some(reg::R10), Some((reg::R11, size as u8)), 0));
        });
        self.assembler.lea(reg::R11, address(Some(reg::R11), Some((reg::R10, 1)), 0));
        self.load_register(reg::R10, bit);
        self.assembler.and32(reg::R10, size as i32 * 8 - 1);
        self.flags_to_host(operation);
        let mut rewritten = *instruction;
        place_operand(&mut rewritten, address(Some(reg::R11), None, 0));
        rewritten.set_op1_register(same_width(bit, reg::R10));
        self.emit_rewritten(operation, &rewritten);
        self.flags_after(operation);
    }

    /// REP STOS by the host's.
    fn fill(&mut self, operation: &Operation, shift: u8) {
        self.flags_will_change(operation.live_before);
        let site = self.string_site(operation, shift, true);
        self.assembler.store_immediate32(state(slots::SITE), site);
        self.call(self.exits.fill[usize::from(shift)]);
    }

    /// REP MOVS by the host's.
    fn copy(&mut self, operation: &Operation, shift: u8) {
        self.flags_will_change(operation.live_before);
        let reads = self.string_site(operation, shift, false);
        let writes = self.string_site(operation, shift, true);
        self.assembler.store_immediate32(state(slots::SITE), reads);
        self.assembler.store_immediate32(state(slots::OTHER_SITE), writes);
        self.call(self.exits.copy[usize::from(shift)]);
    }

    /// A string instruction starts again where it is: its registers say what is left.
    fn string_site(&mut self, operation: &Operation, shift: u8, write: bool) -> u32 {
        let retry = self.assembler.address_of(self.assembler.here());
        self.site(Site::Retry {
            rip: operation.instruction.ip(),
            not_executed: self.not_executed(),
            retry,
            resume: 0,
            hopeful: false,
            size: 1 << shift,
            write,
            region: 0,
            block: self.origin.block,
        })
    }

    /// Have the cache's own code do it and go on here.
    pub(crate) fn call(&mut self, code: u64) {
        let a = &mut *self.assembler;
        let place = a.lea_forward(reg::R11);
        a.jump(code);
        a.close(place);
        self.host_flags = false;
    }

    /// A word of the state to a guest register.
    pub(crate) fn load_state(&mut self, target: Register, offset: i32) {
        if is_spilled(target) {
            self.assembler.load(reg::R10, state(offset));
            self.assembler.store(state(slots::gpr(number_of(target))), reg::R10);
        } else {
            self.assembler.load(number_of(target) as u8, state(offset));
        }
    }

    /// A guest register's value to a scratch register.
    pub(crate) fn load_register(&mut self, scratch: u8, register: Register) {
        if is_spilled(register) {
            self.assembler.load(scratch, state(slots::gpr(number_of(register))));
        } else {
            self.assembler.copy(scratch, number_of(register) as u8);
        }
    }

    /// Leave to T0 for the instruction at hand.
    pub(crate) fn interpret(&mut self, operation: &Operation) {
        let site = self
            .site(Site::Instruction { rip: operation.instruction.ip(), not_executed: self.not_executed() });
        self.assembler.store_immediate32(state(slots::SITE), site);
        let in_host = self.host_flags && !self.slot_flags;
        let exit = if in_host { self.exits.interpret_host_flags } else { self.exits.interpret };
        self.assembler.jump(exit);
    }

    /// See that the extended state that the instruction needs is in the registers.
    fn require_extended(&mut self, operation: &Operation) {
        if self.extended & operation.extended == operation.extended {
            return;
        }
        self.flags_will_change(operation.live_before);
        let retry = self.assembler.address_of(self.assembler.here());
        let site = self.site(Site::Retry {
            rip: operation.instruction.ip(),
            not_executed: self.not_executed(),
            retry,
            resume: 0,
            hopeful: false,
            size: operation.extended,
            write: false,
            region: 0,
            block: self.origin.block,
        });
        self.assembler.test8(state(slots::EXTENDED_LIVE), operation.extended);
        let jump = self.assembler.jump_if_forward(Condition::E);
        self.out_of_line.push(OutOfLine::Extended { jump, site });
        (self.host_flags, self.held, self.held_in_r10) = (false, None, None);
        self.extended |= operation.extended;
    }

    /// Emit the rewritten instruction, noting where it may fault; leave to T0 if it cannot be encoded.
    fn emit_rewritten(&mut self, operation: &Operation, rewritten: &Instruction) -> bool {
        let offset = self.tables.offset + self.assembler.here();
        if !self.assembler.guest(rewritten) {
            self.interpret(operation);
            return false;
        }
        self.note_fault(operation, offset);
        true
    }

    /// Emit the instruction as it is in the guest's memory, noting where it may fault.
    fn emit_unchanged(&mut self, operation: &Operation) {
        let offset = self.tables.offset + self.assembler.here();
        self.assembler.raw(&operation.bytes[..operation.instruction.len()]);
        self.note_fault(operation, offset);
    }

    fn note_fault(&mut self, operation: &Operation, offset: u32) {
        if may_fault(operation) {
            self.tables.faults.push(FaultPoint {
                offset,
                rip: operation.instruction.ip(),
                not_executed: self.not_executed(),
                host_flags: self.host_flags && !self.slot_flags,
            });
        }
    }

    fn spilled_operands(&mut self, instruction: &Instruction) -> Spilled {
        let none = SpilledRegister { full: Register::None, read: false, written: false };
        let mut spilled = Spilled { registers: [none; 2], count: 0, overflow: false };
        let any = (0..instruction.op_count()).any(|operand| {
            instruction.op_kind(operand) == OpKind::Register && is_spilled(instruction.op_register(operand))
        });
        if !any {
            return spilled;
        }
        let info = self.info.info(instruction);
        for operand in 0..instruction.op_count() {
            if instruction.op_kind(operand) != OpKind::Register {
                continue;
            }
            let register = instruction.op_register(operand);
            let full = register.full_register();
            if !is_spilled(full) {
                continue;
            }
            let access = info.op_access(operand);
            let written = !matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::None);
            let read = access != OpAccess::Write || register.size() < 4;
            match spilled.registers[..spilled.count].iter_mut().find(|known| known.full == full) {
                Some(known) => {
                    known.read |= read;
                    known.written |= written;
                }
                None if spilled.count < 2 => {
                    spilled.registers[spilled.count] = SpilledRegister { full, read, written };
                    spilled.count += 1;
                }
                None => spilled.overflow = true,
            }
        }
        spilled
    }

    /// Replace the register operands that are spilled by scratch registers, in order.
    fn substitute(instruction: &mut Instruction, spilled: &Spilled, scratch: [u8; 2]) {
        for operand in 0..instruction.op_count() {
            if instruction.op_kind(operand) != OpKind::Register {
                continue;
            }
            let register = instruction.op_register(operand);
            for (index, known) in spilled.registers[..spilled.count].iter().enumerate() {
                if register.full_register() == known.full {
                    instruction.set_op_register(operand, same_width(register, scratch[index]));
                }
            }
        }
    }

    fn load_spilled(&mut self, spilled: &Spilled, scratch: [u8; 2]) {
        for (register, scratch) in spilled.registers[..spilled.count].iter().zip(scratch) {
            let there = scratch == reg::R10 && self.held_in_r10 == Some(register.full);
            if register.read && !there {
                self.assembler.load(scratch, state(slots::gpr(number_of(register.full))));
            }
        }
    }

    fn store_spilled(&mut self, spilled: &Spilled, scratch: [u8; 2]) {
        for (register, scratch) in spilled.registers[..spilled.count].iter().zip(scratch) {
            if register.written {
                self.assembler.store(state(slots::gpr(number_of(register.full))), scratch);
            }
            if scratch == reg::R10 {
                self.held_in_r10 = Some(register.full);
            }
        }
    }

    fn plain(&mut self, operation: &Operation) {
        self.flags_to_host(operation);
        let mut rewritten = operation.instruction;
        let spilled = self.spilled_operands(&rewritten);
        if spilled.overflow {
            return self.interpret(operation);
        }
        // Of BSF and BSR the host would make others if a prefix is there that the guest's processor ignores.
        let same = !matches!(rewritten.mnemonic(), Mnemonic::Bsf | Mnemonic::Bsr);
        if spilled.count == 0 && self.origin.wide && same {
            self.emit_unchanged(operation);
            return self.flags_after(operation);
        }
        let scratch = [reg::R10, reg::R11];
        if spilled.count == scratch.len() {
            self.held = None;
        }
        self.load_spilled(&spilled, scratch);
        Self::substitute(&mut rewritten, &spilled, scratch);
        self.emit_rewritten(operation, &rewritten);
        self.flags_after(operation);
        self.store_spilled(&spilled, scratch);
    }

    fn memory(&mut self, operation: &Operation, size: u32, write: bool) {
        let mut rewritten = operation.instruction;
        let spilled = self.spilled_operands(&rewritten);
        if spilled.overflow || spilled.count > 1 {
            return self.interpret(operation);
        }
        let place = self.access(operation, 0, size, write, |emitter, further| {
            emitter.effective_address(&operation.instruction, further);
        });
        self.flags_to_host(operation);
        let scratch = [reg::R10, reg::R11];
        let place = if spilled.count == 0 { place } else { self.free_r10(place) };
        self.load_spilled(&spilled, scratch);
        Self::substitute(&mut rewritten, &spilled, scratch);
        place_operand(&mut rewritten, place);
        self.emit_rewritten(operation, &rewritten);
        self.flags_after(operation);
        self.store_spilled(&spilled, scratch);
    }

    fn load_effective_address(&mut self, operation: &Operation) {
        let instruction = &operation.instruction;
        let target = instruction.op0_register();
        let spilled = is_spilled(target);
        let simple = !spilled
            && !is_spilled(instruction.memory_base())
            && !is_spilled(instruction.memory_index())
            && !instruction.is_ip_rel_memory_operand();
        if simple {
            let mut rewritten = *instruction;
            rewritten.set_segment_prefix(Register::None);
            self.emit_rewritten(operation, &rewritten);
            return;
        }
        self.address_without_segment(instruction, 0);
        let full = number_of(target);
        if target.is_gpr64() || target.is_gpr32() {
            if target.is_gpr32() {
                self.assembler.copy32(reg::R10, reg::R10);
            }
            if spilled {
                self.assembler.store(state(slots::gpr(full)), reg::R10);
            } else {
                self.assembler.copy(full as u8, reg::R10);
            }
        } else {
            self.interpret(operation);
        }
    }

    /// A general-purpose register for addressing: itself, or the scratch register that it is loaded to.
    fn address_register(&mut self, register: Register, scratch: u8) -> Option<u8> {
        if register == Register::None {
            return None;
        }
        if is_spilled(register) {
            self.assembler.load(scratch, state(slots::gpr(number_of(register))));
            return Some(scratch);
        }
        Some(number_of(register) as u8)
    }

    /// The offset of the memory operand, and `further` bytes on, to R10; may use R11.
    fn address_without_segment(&mut self, instruction: &Instruction, further: i32) {
        if instruction.is_ip_rel_memory_operand() {
            let address = instruction.ip_rel_memory_address();
            self.assembler.immediate(reg::R10, address.wrapping_add_signed(i64::from(further)));
            return;
        }
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        let narrow = base.is_gpr32()
            || index.is_gpr32()
            || base == Register::None && index == Register::None && instruction.memory_displ_size() == 4;
        if base == Register::None && index == Register::None {
            let displacement = instruction.memory_displacement64().wrapping_add_signed(i64::from(further));
            self.assembler
                .immediate(reg::R10, if narrow { displacement & 0xffff_ffff } else { displacement });
            return;
        }
        // Where there is anything to add the sum is small (`plan::FARTHEST`).
        let displacement = (instruction.memory_displacement64() as i32).wrapping_add(further);
        let base = self.address_register(base, reg::R10);
        let index = self.address_register(index, reg::R11);
        let scale = instruction.memory_index_scale() as u8;
        let place = address(base, index.map(|index| (index, scale)), displacement);
        match (narrow, base, index) {
            (true, _, _) => self.assembler.lea32(reg::R10, place),
            // Costs the host no time.
            (false, Some(base), None) if displacement == 0 => self.assembler.copy(reg::R10, base),
            (false, _, _) => self.assembler.lea(reg::R10, place),
        }
    }

    /// The linear address of the memory operand, and `further` bytes on, to R10; may use R11.
    pub(crate) fn effective_address(&mut self, instruction: &Instruction, further: i32) {
        self.address_without_segment(instruction, further);
        let base = match instruction.memory_segment() {
            Register::FS => segment::FS,
            Register::GS => segment::GS,
            _ => return,
        };
        self.assembler.load(reg::R11, state(slots::segment_base(base)));
        self.assembler.lea(reg::R10, address(Some(reg::R11), Some((reg::R10, 1)), 0));
    }

    /// Translate the linear address that `compute` puts into R10: on a hit R11 is the host page, R10 the offset in it.
    /// On a miss the dispatcher fills the TLB and starts again here, or lets T0 execute the instruction. EFLAGS are lost.
    /// In a region, R11 is its first byte and R10 the offset there. Returns the site.
    pub(crate) fn check(
        &mut self,
        operation: &Operation,
        size: u32,
        write: bool,
        region: Option<u8>,
        compute: impl FnOnce(&mut Self),
    ) -> u32 {
        let retry = self.assembler.address_of(self.assembler.here());
        let site = self.site(Site::Retry {
            rip: operation.instruction.ip(),
            not_executed: self.not_executed(),
            retry,
            resume: 0,
            hopeful: false,
            size: size as u8,
            write,
            region: region.unwrap_or_default(),
            block: self.origin.block,
        });
        compute(self);
        (self.held, self.held_in_r10) = (None, None);
        let miss = Miss { site, write, retry, resume: 0, crossing: None };
        match region {
            Some(region) => self.find_in_region(region, size, miss),
            None => self.find_in_tlb(size, miss),
        }
        self.host_flags = false;
        site
    }

    /// The access of `size` bytes at the address in R10, by the TLB.
    fn find_in_tlb(&mut self, size: u32, miss: Miss) {
        let mask = (self.origin.tlb_entries - 1) << 5;
        let a = &mut *self.assembler;
        a.rotate_right32(reg::R11, reg::R10, 7);
        a.and32(reg::R11, mask as i32);
        a.xor(reg::R10, tlb(Some(reg::R11), tag_offset(miss.write)));
        a.compare_immediate(reg::R10, 4096 - size as i32);
        let jump = a.jump_if_forward(Condition::A);
        a.load(reg::R11, tlb(Some(reg::R11), offset_of!(TlbEntry, page) as i32));
        self.out_of_line.push(OutOfLine::Miss { jump, miss });
    }

    /// The same by a region: the address is not needed to find the host's, only to see that it may be used.
    fn find_in_region(&mut self, region: u8, size: u32, miss: Miss) {
        let first = first_word(region);
        let a = &mut *self.assembler;
        a.subtract_memory(reg::R10, tlb(None, first));
        a.compare(reg::R10, tlb(None, first + header::REGION_LIMIT));
        let jump = a.jump_if_forward(Condition::Ae);
        a.load(reg::R11, tlb(None, first + header::REGION_HOST));
        let back = a.here();
        self.out_of_line.push(OutOfLine::OutOfRegion { jump, back, region, size, miss });
    }

    /// The access is not in its region, from whose first byte R10 counts.
    pub(crate) fn out_of_region(&mut self, region: u8, size: u32, miss: Miss) {
        let first = first_word(region);
        let a = &mut *self.assembler;
        a.add(reg::R10, tlb(None, first));
        a.decrement32(tlb(None, first + header::REGION_PATIENCE));
        let jump = a.jump_if_forward(Condition::S);
        self.out_of_line.push(OutOfLine::Region { jump, site: miss.site });
        self.find_in_tlb(size, miss);
    }

    /// See that an access of the operation, its `position`th, may be made at the linear address that `compute` puts into
    /// R10, so many bytes further as it is told; returns where it is, in terms of R11 and perhaps R10.
    pub(crate) fn access(
        &mut self,
        operation: &Operation,
        position: usize,
        size: u32,
        write: bool,
        compute: impl FnOnce(&mut Self, i32),
    ) -> Memory {
        match self.plan[self.number as usize][position] {
            Check::Alone { region } => {
                self.flags_will_change(operation.live_before);
                let site = self.check(operation, size, write, region, |emitter| compute(emitter, 0));
                if !write {
                    self.allow_copy(site);
                }
                address(Some(reg::R11), Some((reg::R10, 1)), 0)
            }
            Check::First { slot, low, span, offset, write, region } => {
                self.flags_will_change(operation.live_before);
                let compute = |emitter: &mut Self| compute(emitter, low - offset);
                let site = self.check(operation, u32::from(span), write, region, compute);
                self.share_check(site, operation, u32::from(span));
                self.assembler.lea(reg::R11, address(Some(reg::R11), Some((reg::R10, 1)), -low));
                self.assembler.store(state(slot), reg::R11);
                self.held = Some(slot);
                address(Some(reg::R11), None, offset)
            }
            Check::Covered { slot, offset } => {
                if self.held != Some(slot) {
                    self.assembler.load(reg::R11, state(slot));
                    self.held = Some(slot);
                }
                address(Some(reg::R11), None, offset)
            }
        }
    }

    /// If the span of the check just made crosses a page, or the check fails otherwise, a superblock is left for a block
    /// that shares no checks.
    fn share_check(&mut self, site: u32, operation: &Operation, span: u32) {
        let not_executed = self.not_executed();
        if let Site::Retry { hopeful, .. } = &mut self.tables.sites[site as usize] {
            *hopeful = self.origin.superblock;
        }
        if self.origin.superblock
            && let Some(miss) = self.last_miss()
        {
            miss.crossing = Some(Crossing { span, rip: operation.instruction.ip(), not_executed });
        }
    }

    /// What is only read may come from a copy, if it crosses a page: the access goes on here then.
    fn allow_copy(&mut self, site: u32) {
        let here = self.assembler.address_of(self.assembler.here());
        if let Some(miss) = self.last_miss() {
            miss.resume = (here - miss.retry) as u32;
        }
        if let Site::Retry { resume, .. } = &mut self.tables.sites[site as usize] {
            *resume = here;
        }
    }

    /// What the check just made does about a miss.
    fn last_miss(&mut self) -> Option<&mut Miss> {
        match self.out_of_line.last_mut() {
            Some(OutOfLine::Miss { miss, .. } | OutOfLine::OutOfRegion { miss, .. }) => Some(miss),
            _ => None,
        }
    }

    /// The same place without R10.
    pub(crate) fn free_r10(&mut self, place: Memory) -> Memory {
        if !place.is_indexed() {
            return place;
        }
        self.assembler.lea(reg::R11, place);
        address(Some(reg::R11), None, 0)
    }

    /// See that a stack slot at RSP + `displacement` may be accessed; returns where it is.
    pub(crate) fn stack(
        &mut self,
        operation: &Operation,
        position: usize,
        displacement: i32,
        write: bool,
    ) -> Memory {
        self.access(operation, position, self.word(), write, |emitter, further| {
            emitter.guest_address(reg::R10, address(Some(reg::RSP), None, displacement + further));
        })
    }

    fn push(&mut self, operation: &Operation) {
        let instruction = &operation.instruction;
        let word = self.word();
        let below = -(word as i32);
        if instruction.op0_kind() == OpKind::Memory {
            let source = self.access(operation, 0, word, false, |emitter, further| {
                emitter.effective_address(instruction, further);
            });
            self.load_word(reg::R10, source);
            self.assembler.store(state(slots::TEMPORARY), reg::R10);
            let place = self.stack(operation, 1, below, true);
            self.store_slot(place, slots::TEMPORARY);
        } else {
            let place = self.stack(operation, 0, below, true);
            if instruction.op0_kind() != OpKind::Register {
                self.store_immediate_word(place, instruction.immediate(0) as i32);
            } else if is_spilled(instruction.op0_register()) {
                self.store_slot(place, slots::gpr(number_of(instruction.op0_register())));
            } else {
                self.store_word(place, number_of(instruction.op0_register()) as u8);
            }
        }
        self.move_stack(below);
    }

    /// A sign-extended value to a stack slot.
    pub(crate) fn store_immediate_word(&mut self, place: Memory, value: i32) {
        if self.origin.wide {
            self.assembler.store_immediate(place, value);
        } else {
            self.assembler.store_immediate32(place, value as u32);
        }
    }

    /// A value in the state to memory.
    pub(crate) fn store_slot(&mut self, place: Memory, slot: i32) {
        let place = self.free_r10(place);
        self.assembler.load(reg::R10, state(slot));
        self.store_word(place, reg::R10);
    }

    fn pop(&mut self, operation: &Operation) {
        let register = operation.instruction.op0_register();
        let place = self.stack(operation, 0, 0, false);
        if is_spilled(register) {
            self.assembler.load(reg::R10, place);
            self.assembler.store(state(slots::gpr(number_of(register))), reg::R10);
        } else {
            self.load_word(number_of(register) as u8, place);
        }
        if register.full_register() != Register::RSP {
            self.move_stack(self.word() as i32);
        }
    }

    fn leave(&mut self, operation: &Operation) {
        let word = self.word();
        let frame = |displacement| address(Some(reg::RBP), None, displacement);
        let place = self.access(operation, 0, word, false, |emitter, further| {
            emitter.guest_address(reg::R10, frame(further))
        });
        self.load_word(reg::R10, place);
        self.guest_address(reg::RSP, frame(word as i32));
        self.assembler.copy(reg::RBP, reg::R10);
    }
}

#[cfg(test)]
mod tests {
    use iced_x86::{Code, Instruction, InstructionInfoFactory, OpAccess, Register};

    #[test]
    fn what_may_leave_its_target_as_it_was_is_not_taken_to_overwrite_it() {
        let mut factory = InstructionInfoFactory::new();
        for code in [Code::Bsf_r64_rm64, Code::Bsr_r32_rm32, Code::Cmove_r32_rm32, Code::Cmove_r64_rm64] {
            let instruction = Instruction::with2(code, Register::R9, Register::RAX).unwrap();
            assert_ne!(factory.info(&instruction).op_access(0), OpAccess::Write, "{code:?}");
        }
    }
}
