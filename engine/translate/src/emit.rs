//! From a block's operations to host code.
//!
//! Status flags are in one of two places, or in none while nobody can ask for them: the host's EFLAGS, or the slot FLAGS,
//! where a memory check (which changes EFLAGS) puts them first if they are alive.

use crate::assembler::{Assembler, Condition, Memory, address, reg, state, tlb};
use crate::blocks::OtherPage;
use crate::decode::{Kind, Operation, live_at_start, page_key};
use crate::entry;
use crate::jumps;
use crate::plan::Checks;
use crate::refill;
use crate::site::{Entry, FaultPoint, Site};
use crate::slots;
use crate::strings;
use crate::time;
use crate::transitions;
use gasang_cpu::tlb::TlbEntry;
use iced_x86::{InstructionInfoFactory, Register};
use std::mem::{offset_of, size_of};

/// Where the exits of the cache's own code are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Exits {
    /// `entry::exit_poll` and so on, within reach of a relative jump.
    pub poll: u64,
    /// No block at NEXT_RIP.
    pub lookup: u64,
    /// The same with flags in EFLAGS.
    pub lookup_host_flags: u64,
    /// An indirect jump whose first jump entry is another's, to the target in R10.
    pub jump: u64,
    /// The same in 32-bit code.
    pub jump_narrow: u64,
    /// An unlinked jump.
    pub link: u64,
    /// The same with flags in EFLAGS.
    pub link_host_flags: u64,
    /// An instruction for T0.
    pub interpret: u64,
    /// The same with flags in EFLAGS.
    pub interpret_host_flags: u64,
    /// A TLB miss of a read, first to the second level.
    pub refill_read: u64,
    /// The same of a write.
    pub refill_write: u64,
    /// The same of a block's page.
    pub refill_execute: u64,
    /// Another region wanted.
    pub region: u64,
    /// Extended state wanted.
    pub extended: u64,
    /// SYSCALL, SYSRET, IRETQ.
    pub system_call: u64,
    /// As above.
    pub system_return: u64,
    /// As above.
    pub interrupt_return: u64,
    /// RDTSC, RDTSCP.
    pub read_time: [u64; 2],
    /// REP STOS, by log2 of the element's size.
    pub fill: [u64; 4],
    /// REP MOVS, likewise.
    pub copy: [u64; 4],
}

impl Exits {
    /// Emit the jumps that bring the exits within reach of the cache.
    pub fn emit(assembler: &mut Assembler) -> Exits {
        let mut far = |function: unsafe extern "C" fn()| {
            let at = assembler.address_of(assembler.here());
            assembler.jump_far(function as usize as u64);
            at
        };
        Exits {
            poll: far(entry::exit_poll),
            lookup: far(entry::exit_lookup),
            lookup_host_flags: far(entry::exit_lookup_host_flags),
            jump: far(jumps::jump_by_others),
            jump_narrow: far(jumps::jump_by_others_narrow),
            link: far(entry::exit_link),
            link_host_flags: far(entry::exit_link_host_flags),
            interpret: far(entry::exit_interpret),
            interpret_host_flags: far(entry::exit_interpret_host_flags),
            refill_read: far(refill::refill_read),
            refill_write: far(refill::refill_write),
            refill_execute: far(refill::refill_execute),
            region: far(entry::exit_region),
            extended: far(entry::exit_extended),
            system_call: far(transitions::syscall),
            system_return: far(transitions::sysret),
            interrupt_return: far(transitions::interrupt_return),
            read_time: [time::rdtsc, time::rdtscp].map(&mut far),
            fill: [
                strings::fill_bytes,
                strings::fill_words,
                strings::fill_doublewords,
                strings::fill_quadwords,
            ]
            .map(&mut far),
            copy: [
                strings::copy_bytes,
                strings::copy_words,
                strings::copy_doublewords,
                strings::copy_quadwords,
            ]
            .map(&mut far),
        }
    }
}

/// Offsets of a block's entries from its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entries {
    /// From another page: checks that the page is mapped as when it was translated. Flags in their slot.
    pub page: u32,
    /// From the same page, flags in their slot.
    pub slot_flags: u32,
    /// From the same page, flags in EFLAGS.
    pub host_flags: u32,
    /// Where a thrown-away block sends those who come with flags in their slot.
    pub gone: u32,
    /// The same with flags in EFLAGS.
    pub gone_host_flags: u32,
}

/// What a block is made from.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// Its number.
    pub block: u32,
    /// Guest address.
    pub linear: u64,
    /// Physical address.
    pub physical: u64,
    /// The other page that it has code from.
    pub other: Option<OtherPage>,
    /// Where it goes on, unless its last instruction says so.
    pub next: u64,
    /// CPL 3.
    pub user: bool,
    /// 64-bit code; else 32-bit code in flat segments.
    pub wide: bool,
    /// Accesses far apart share checks, and it is left if these cross a page.
    pub superblock: bool,
    /// Flags are kept exact everywhere.
    pub strict_flags: bool,
    /// Entries in a TLB context.
    pub tlb_entries: u32,
    /// The block counts how often it is executed.
    pub counted: bool,
}

/// Collects what emission produces besides code.
#[derive(Debug)]
pub struct Tables<'a> {
    /// Sites of all blocks.
    pub sites: &'a mut Vec<Site>,
    /// Fault points of all blocks, by ascending offset.
    pub faults: &'a mut Vec<FaultPoint>,
    /// Offset in the cache where the block will be placed.
    pub offset: u32,
}

/// Code after the block's end, reached by a forward jump.
pub(crate) enum OutOfLine {
    /// A missed memory check.
    Miss { jump: u32, miss: Miss },
    /// An access that is not in its region: it goes on at `back` by the TLB.
    OutOfRegion { jump: u32, back: u32, region: u8, size: u32, miss: Miss },
    /// So many accesses were not in their region that another is wanted; the address is in R10.
    Region { jump: u32, site: u32 },
    /// A shared check whose span crosses a page.
    Crossing { jump: u32, rip: u64, not_executed: u32 },
    /// Extended state is not in the registers.
    Extended { jump: u32, site: u32 },
    /// An inline system instruction that turns out to need T0.
    Interpret { jump: u32, site: u32 },
    /// The other page is mapped differently.
    OtherPage { jump: u32, linear: u64, retry: u32 },
    /// The counter ran out at the start.
    Poll { jump: u32 },
    /// An indirect jump to the target in R10 that the table does not know.
    Unknown { jump: u32, site: u32 },
    /// A direct jump that is not linked yet.
    Unlinked { jump: u32, site: u32, host_flags: bool },
    /// A conditional jump's side that leaves the page or the superblock, flags in EFLAGS.
    Side { jump: u32, target: u64, not_executed: u32 },
    /// A return in a superblock to another address than expected, in R10.
    Return { jump: u32, rip: u64, undo_rsp: i64, not_executed: u32 },
}

/// What to do about an access that the TLB does not have.
pub(crate) struct Miss {
    pub site: u32,
    pub write: bool,
    /// Where the access starts again.
    pub retry: u64,
    /// Bytes from there to where it goes on with a copy; 0 if it must not.
    pub resume: u32,
    pub crossing: Option<Crossing>,
}

/// What to do if a shared check's span crosses a page.
#[derive(Clone, Copy)]
pub(crate) struct Crossing {
    /// Bytes that the check covers.
    pub span: u32,
    /// The instruction that makes the check.
    pub rip: u64,
    /// Instructions from that one on.
    pub not_executed: u32,
}

/// The state of emitting one block.
pub(crate) struct Emitter<'a, 't> {
    pub assembler: &'a mut Assembler,
    pub exits: &'a Exits,
    pub tables: &'a mut Tables<'t>,
    pub origin: Origin,
    /// Operations in the block.
    pub total: u32,
    /// The number of the operation at hand.
    pub number: u32,
    /// The status flags are right in EFLAGS.
    pub host_flags: bool,
    /// The status flags are right in their slot.
    pub slot_flags: bool,
    /// The slot of a shared check whose address is in R11.
    pub held: Option<i32>,
    /// The guest register whose value is in R10 as well as in the state.
    pub held_in_r10: Option<Register>,
    /// Extended state that the block has already made sure of.
    pub extended: u8,
    pub out_of_line: Vec<OutOfLine>,
    pub info: &'a mut InstructionInfoFactory,
    /// How accesses are checked, by operation.
    pub plan: &'a [Checks],
}

/// Emit a block.
pub fn emit_block(
    assembler: &mut Assembler,
    exits: &Exits,
    tables: &mut Tables<'_>,
    origin: Origin,
    operations: &[Operation],
    plan: &[Checks],
    info: &mut InstructionInfoFactory,
) -> Entries {
    let mut emitter = Emitter {
        assembler,
        exits,
        tables,
        origin,
        total: operations.len() as u32,
        number: 0,
        host_flags: false,
        slot_flags: false,
        held: None,
        held_in_r10: None,
        extended: 0,
        out_of_line: Vec::new(),
        info,
        plan,
    };
    emitter.block(operations)
}

impl Emitter<'_, '_> {
    fn block(&mut self, operations: &[Operation]) -> Entries {
        let (mut entries, page_mismatch) = self.entries(operations);
        let starts_in_slot = self.slot_flags;
        for (number, operation) in operations.iter().enumerate() {
            self.number = number as u32;
            self.operation(operation);
        }
        if operations.last().is_some_and(|last| !last.kind.ends_block()) {
            self.number = self.total;
            self.direct_exit(self.origin.next);
        }
        while let Some(piece) = self.out_of_line.pop() {
            self.emit_out_of_line(piece);
        }
        if starts_in_slot {
            entries.host_flags = self.assembler.here();
            self.save_flags_through_memory();
            let target = self.assembler.address_of(entries.slot_flags);
            self.assembler.jump(target);
        }
        self.assembler.close(page_mismatch);
        self.refill_page(self.origin.linear, entries.page);
        entries.gone = self.assembler.here();
        self.leave_at_start(self.exits.lookup);
        entries.gone_host_flags = self.assembler.here();
        self.leave_at_start(self.exits.lookup_host_flags);
        entries
    }

    /// Emit the entries, the poll and the counting; also returns the jump for a page that is mapped differently.
    fn entries(&mut self, operations: &[Operation]) -> (Entries, u32) {
        let a = &mut *self.assembler;
        let page = a.here();
        a.immediate64(reg::R11, page_key(self.origin.linear, self.origin.user, self.origin.physical));
        let exec = tlb(None, exec_offset(self.origin.linear, self.origin.tlb_entries));
        a.compare(reg::R11, exec);
        let page_mismatch = a.jump_if_forward(Condition::Ne);
        let slot_flags = a.here();
        self.compare_other_page(slot_flags);
        let live = live_at_start(operations);
        let host_flags = if live != 0 && starts_with_flags_in_host(operations, &self.origin) {
            self.restore_flags();
            self.slot_flags = false;
            let here = self.assembler.here();
            self.assembler.lea(reg::R9, address(Some(reg::R9), None, -(self.total as i32)));
            here
        } else {
            self.slot_flags = live != 0;
            self.assembler.subtract(reg::R9, self.total as i32);
            let jump = self.assembler.jump_if_forward(Condition::S);
            self.out_of_line.push(OutOfLine::Poll { jump });
            slot_flags
        };
        if self.origin.counted {
            self.count_execution();
        }
        (Entries { page, slot_flags, host_flags, gone: 0, gone_host_flags: 0 }, page_mismatch)
    }

    /// See that the other page, if there is one, is mapped as it was, from wherever the block is entered.
    fn compare_other_page(&mut self, retry: u32) {
        let Some(OtherPage { linear, physical, .. }) = self.origin.other else { return };
        let exec = tlb(None, exec_offset(linear, self.origin.tlb_entries));
        self.assembler.immediate64(reg::R11, page_key(linear, self.origin.user, physical));
        self.assembler.compare(reg::R11, exec);
        let jump = self.assembler.jump_if_forward(Condition::Ne);
        self.out_of_line.push(OutOfLine::OtherPage { jump, linear, retry });
    }

    /// Count that the block is executed, and leave EFLAGS alone.
    fn count_execution(&mut self) {
        let a = &mut *self.assembler;
        let counter = address(Some(reg::R11), None, 8 * self.origin.block as i32);
        a.load(reg::R11, state(slots::BLOCK_COUNTS));
        a.load(reg::R10, counter);
        a.lea(reg::R10, address(Some(reg::R10), None, 1));
        a.store(counter, reg::R10);
    }

    /// The TLB does not say that the page at `linear`, the block's or the other, is mapped as it was.
    fn refill_page(&mut self, linear: u64, retry: u32) {
        let retry = self.assembler.address_of(retry);
        let a = &mut *self.assembler;
        a.immediate(reg::R10, self.origin.linear);
        a.store(state(slots::NEXT_RIP), reg::R10);
        a.store_immediate32(state(slots::SITE), u32::MAX);
        if linear != self.origin.linear {
            a.immediate(reg::R10, linear);
        }
        a.lea_code(reg::R11, retry);
        a.jump(self.exits.refill_execute);
    }

    /// The counter gets back what was taken for instructions that are not executed, and EFLAGS are left alone.
    fn give_back(&mut self, not_executed: u32) {
        if not_executed != 0 {
            self.assembler.lea(reg::R9, address(Some(reg::R9), None, not_executed as i32));
        }
    }

    fn leave_at_start(&mut self, exit: u64) {
        self.assembler.immediate(reg::R11, self.origin.linear);
        self.assembler.store(state(slots::NEXT_RIP), reg::R11);
        self.assembler.store_immediate32(state(slots::SITE), u32::MAX);
        self.assembler.jump(exit);
    }

    fn emit_out_of_line(&mut self, piece: OutOfLine) {
        match piece {
            OutOfLine::Miss { jump, miss } => self.miss(jump, &miss),
            OutOfLine::OutOfRegion { jump, back, region, size, miss } => {
                self.assembler.close(jump);
                self.out_of_region(region, size, miss);
                let back = self.assembler.address_of(back);
                self.assembler.jump(back);
            }
            OutOfLine::Region { jump, site } => {
                self.assembler.close(jump);
                self.assembler.store(state(slots::MISSED_ADDRESS), reg::R10);
                self.assembler.store_immediate32(state(slots::SITE), site);
                self.assembler.jump(self.exits.region);
            }
            OutOfLine::Extended { jump, site } => {
                self.assembler.close(jump);
                self.assembler.store_immediate32(state(slots::SITE), site);
                self.assembler.jump(self.exits.extended);
            }
            OutOfLine::Unknown { jump, site } => {
                self.assembler.close(jump);
                self.assembler.store_immediate32(state(slots::SITE), site);
                let wide = self.origin.wide;
                self.assembler.jump(if wide { self.exits.jump } else { self.exits.jump_narrow });
            }
            OutOfLine::Interpret { jump, site } => {
                self.assembler.close(jump);
                self.assembler.store_immediate32(state(slots::SITE), site);
                self.assembler.jump(self.exits.interpret);
            }
            OutOfLine::Crossing { jump, rip, not_executed } => {
                self.assembler.close(jump);
                self.give_back(not_executed);
                let displacement = self.assembler.jump(self.exits.link);
                self.link(displacement, rip, Entry::Plain);
            }
            OutOfLine::OtherPage { jump, linear, retry } => {
                self.assembler.close(jump);
                self.refill_page(linear, retry);
            }
            OutOfLine::Poll { jump } => {
                self.assembler.close(jump);
                self.give_back(self.total);
                self.leave_at_start(self.exits.poll);
            }
            OutOfLine::Unlinked { jump, site, host_flags } => {
                self.assembler.close(jump);
                if let Site::Link { unlinked, .. } = &mut self.tables.sites[site as usize] {
                    *unlinked = self.tables.offset + self.assembler.here();
                }
                self.assembler.store_immediate32(state(slots::SITE), site);
                self.assembler.jump(if host_flags { self.exits.link_host_flags } else { self.exits.link });
            }
            OutOfLine::Side { jump, target, not_executed } => {
                self.assembler.close(jump);
                self.give_back(not_executed);
                (self.host_flags, self.slot_flags) = (true, false);
                self.direct_exit(target);
            }
            OutOfLine::Return { jump, rip, undo_rsp, not_executed } => {
                self.assembler.close(jump);
                self.give_back(not_executed);
                self.indirect_exit(rip, undo_rsp);
            }
        }
    }

    fn miss(&mut self, jump: u32, miss: &Miss) {
        let a = &mut *self.assembler;
        a.close(jump);
        a.xor(reg::R10, tlb(Some(reg::R11), tag_offset(miss.write)));
        if let Some(Crossing { span, rip, not_executed }) = miss.crossing {
            a.copy32(reg::R11, reg::R10);
            a.and32(reg::R11, 4095);
            a.compare_immediate(reg::R11, 4096 - span as i32);
            let jump = a.jump_if_forward(Condition::A);
            self.out_of_line.push(OutOfLine::Crossing { jump, rip, not_executed });
        }
        let a = &mut *self.assembler;
        a.store_immediate32(state(slots::SITE), miss.site);
        if !miss.write {
            a.store_immediate32(state(slots::RESUME), miss.resume);
        }
        a.lea_code(reg::R11, miss.retry);
        a.jump(if miss.write { self.exits.refill_write } else { self.exits.refill_read });
    }

    /// Bytes of a stack slot, and of a pointer.
    pub fn word(&self) -> u32 {
        if self.origin.wide { 8 } else { 4 }
    }

    /// The value at `place` to `register`, of the width of a stack slot.
    pub fn load_word(&mut self, register: u8, place: Memory) {
        if self.origin.wide {
            self.assembler.load(register, place)
        } else {
            self.assembler.load32(register, place)
        }
    }

    /// `register` to `place`, of the width of a stack slot.
    pub fn store_word(&mut self, place: Memory, register: u8) {
        if self.origin.wide {
            self.assembler.store(place, register)
        } else {
            self.assembler.store32(place, register)
        }
    }

    /// An address of the guest's to `register`.
    pub fn guest_address(&mut self, register: u8, place: Memory) {
        if self.origin.wide {
            self.assembler.lea(register, place)
        } else {
            self.assembler.lea32(register, place)
        }
    }

    /// Move the stack pointer.
    pub fn move_stack(&mut self, distance: i32) {
        self.guest_address(reg::RSP, address(Some(reg::RSP), None, distance));
    }

    /// Record a site; its number.
    pub fn site(&mut self, site: Site) -> u32 {
        self.tables.sites.push(site);
        self.tables.sites.len() as u32 - 1
    }

    /// Instructions of the block from the one at hand on.
    pub fn not_executed(&self) -> u32 {
        self.total - self.number
    }

    // Status flags.

    /// EFLAGS to the slot, by way of R10: before the scratch registers hold anything.
    pub fn save_flags(&mut self) {
        let a = &mut *self.assembler;
        a.copy(reg::R10, reg::RAX);
        a.lahf();
        a.set_overflow_al();
        a.store16(state(slots::FLAGS), reg::RAX);
        a.copy(reg::RAX, reg::R10);
        self.slot_flags = true;
        self.held_in_r10 = None;
    }

    /// EFLAGS to the slot, leaving R10 and R11 alone.
    fn save_flags_through_memory(&mut self) {
        let a = &mut *self.assembler;
        a.store(state(slots::TEMPORARY), reg::RAX);
        a.lahf();
        a.set_overflow_al();
        a.store16(state(slots::FLAGS), reg::RAX);
        a.load(reg::RAX, state(slots::TEMPORARY));
    }

    /// The slot to EFLAGS, leaving R10 and R11 alone.
    pub fn restore_flags(&mut self) {
        let a = &mut *self.assembler;
        a.store(state(slots::TEMPORARY), reg::RAX);
        a.load16(reg::RAX, state(slots::FLAGS));
        a.overflow_from_al();
        a.sahf();
        a.load(reg::RAX, state(slots::TEMPORARY));
        self.host_flags = true;
    }

    /// Before code that changes EFLAGS while `live` flags must survive: see that they are in the slot.
    pub fn flags_will_change(&mut self, live: u32) {
        if live != 0 && !self.slot_flags && self.host_flags {
            self.save_flags();
        }
    }

    /// Before an instruction that needs flags in EFLAGS.
    pub fn flags_to_host(&mut self, operation: &Operation) {
        if operation.needs_flags() != 0 && !self.host_flags && self.slot_flags {
            self.restore_flags();
        }
    }

    /// After an instruction ran as itself.
    pub fn flags_after(&mut self, operation: &Operation) {
        if operation.writes != 0 {
            (self.host_flags, self.slot_flags) = (true, false);
        }
    }
}

/// The page behind that of `linear`.
pub(crate) fn next_page(linear: u64) -> u64 {
    (linear | 0xfff).wrapping_add(1)
}

/// Offset in a TLB context of `entries` entries of the execute key for the page of `linear`.
fn exec_offset(linear: u64, entries: u32) -> i32 {
    let index = (linear >> 12) & u64::from(entries - 1);
    (index as usize * size_of::<TlbEntry>() + offset_of!(TlbEntry, exec)) as i32
}

/// Offset in a TLB entry of the tag that an access compares with.
pub(crate) fn tag_offset(write: bool) -> i32 {
    if write { offset_of!(TlbEntry, write) as i32 } else { offset_of!(TlbEntry, read) as i32 }
}

/// Whether a block should take its flags in EFLAGS: it reads them first thing and cannot be part of a loop by itself
/// (such a block does not poll).
fn starts_with_flags_in_host(operations: &[Operation], origin: &Origin) -> bool {
    let Some(first) =
        operations.iter().find(|operation| operation.needs_flags() != 0 || operation.writes != 0)
    else {
        return false;
    };
    let leaves_forward = operations.last().is_some_and(|last| match last.kind {
        Kind::Jump(target) | Kind::Branch(target) => target > last.instruction.ip(),
        Kind::Nothing | Kind::Plain | Kind::Address | Kind::Memory { .. } | Kind::Interpret => true,
        Kind::Push | Kind::Pop | Kind::Leave | Kind::ClearDirection | Kind::PushFlags | Kind::PopFlags => {
            true
        }
        Kind::ClearInterrupt
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
        | Kind::Side { .. }
        | Kind::CallThrough
        | Kind::ReturnThrough { .. }
        | Kind::BitString(_) => true,
        Kind::BranchIfZero(_)
        | Kind::Call(_)
        | Kind::JumpIndirect
        | Kind::CallIndirect
        | Kind::Return(_)
        | Kind::SystemCall
        | Kind::SystemReturn
        | Kind::InterruptReturn => false,
    });
    let simple = !origin.superblock && !origin.strict_flags && origin.other.is_none();
    simple && leaves_forward && first.needs_flags() != 0
}
