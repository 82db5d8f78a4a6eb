//! The dispatcher: looks blocks up, translates what is missing, enters generated code and deals with its exits.

use crate::assembler::Assembler;
use crate::block_counts::BlockCounts;
use crate::blocks::{AddressHasher, Block, Blocks, Variant};
use crate::branches::NARROW;
use crate::cache::CodeCache;
use crate::code_log::CodeLog;
use crate::code_pages::CodePages;
use crate::decode::{BLOCK_LIMIT, Classifier, extended};
use crate::emit::Exits;
use crate::entry::Exit;
use crate::host_state;
use crate::kick;
use crate::listing::BlockListing;
use crate::modes::translatable;
use crate::options::Options;
use crate::profile::{Phase, Profile};
use crate::site::{Entry, FaultPoint, Site};
use crate::slots;
use crate::statistics::Statistics;
use crate::superblocks::Heat;
use crate::vmcs_fields::FieldTables;
use crate::warmth::Warmth;
use gasang_cpu::tlb::{Missed, Mode};
use gasang_cpu::{Access, Activity, Core, CpuModel, Feature, VcpuState};
use gasang_exec::{Interpreter, Step, host_fault};
use gasang_memory::{GuestMemory, Mirrors, PAGE_HAS_CODE};
use gasang_x86::control::{cr0, cr4, xcr0};
use gasang_x86::rflags;
use std::collections::HashSet;
use std::hash::BuildHasherDefault;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// More than any block takes: 64 instructions, each with its checks and stubs.
pub(crate) const BLOCK_ROOM: u32 = 64 * 512;

/// Sites that there is room for from the start: a boot's, so that the table is not copied while it grows. Room that is
/// not used costs no memory.
const SITES_ROOM: usize = 1 << 19;

/// Pages that string instructions may work through between two looks of the dispatcher's.
const STRING_ALLOWANCE: u64 = 256;

/// Shared checks of a block that may cross a page before its checks are made one by one.
const CROSSINGS: u32 = 64;

/// So many misses in a row are dealt with before T0 executes the instruction: accesses of one instruction may displace
/// each other's pages from the TLB for ever.
const MISSES_IN_A_ROW: u32 = 32;

/// One processor's translator: its code cache and what is in it.
pub struct Translator {
    _faults_registered: host_fault::Registration,
    pub(crate) cache: CodeCache,
    pub(crate) assembler: Assembler,
    pub(crate) exits: Exits,
    pub(crate) blocks: Blocks,
    pub(crate) sites: Vec<Site>,
    pub(crate) faults: Vec<FaultPoint>,
    pub(crate) pages: Arc<CodePages>,
    /// The number of the processor among those of `pages`.
    pub(crate) processor: usize,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) options: Options,
    /// Host addresses of the pages whose writes are told for our sake: those that there are blocks from, and those that
    /// there were before a flush, until they are written.
    pub(crate) protected: HashSet<u64, BuildHasherDefault<AddressHasher>>,
    pub(crate) listings: Vec<BlockListing>,
    pub(crate) log: Option<Arc<CodeLog>>,
    pub(crate) profile: Option<Box<Profile>>,
    pub(crate) counts: Option<BlockCounts>,
    /// Host addresses of the blocks that are translated without shared checks.
    pub(crate) unshared: HashSet<u64>,
    pub(crate) classifier: Classifier,
    /// Bytes for a read that crosses a page.
    copied: Box<Copied>,
    extended_mask: u64,
    /// `Platform::time_stamp_scale`.
    time_scale: Option<(u64, u64)>,
    /// Scattered pages of programs in a row, for regions.
    mirrors: Mirrors,
    /// Where the regions of the superblock made last begin.
    pub(crate) first_region: usize,
    pub(crate) warmth: Warmth,
    /// For processors with VMX.
    fields: Option<FieldTables>,
    pub(crate) heat: Heat,
    pub(crate) statistics: Statistics,
    /// Misses since anything else made generated code leave.
    misses_in_a_row: u32,
}

/// Room for the bytes of one access, at any distance from a 64-byte boundary.
#[repr(align(64))]
struct Copied([u8; 2 * slots::COPIED_BYTES as usize]);

/// How far to execute, as counts of instructions retired.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    /// Where to stop, or a little later.
    end: u64,
    /// Where to stop at the latest.
    last: u64,
}

impl Stretch {
    /// Whether any block may run; otherwise T0 goes on, which stops after every instruction.
    fn has_room(self, state: &VcpuState) -> bool {
        self.last.saturating_sub(state.instructions) >= BLOCK_LIMIT as u64
    }

    /// The down-counter at a block's start. A block runs only if the counter covers it: see that one does, if there is
    /// room.
    fn left(self, instructions: u64) -> i64 {
        let wanted = self.end.saturating_sub(instructions).max(BLOCK_LIMIT as u64);
        wanted.min(self.last.saturating_sub(instructions)) as i64
    }

    /// The down-counter in a block's midst, all of which is counted already: perhaps less than nothing. A loop that
    /// leaves in every round, to fill the TLB, must not get as much anew each time: it would never poll.
    fn left_in_block(self, instructions: u64) -> i64 {
        self.end.wrapping_sub(instructions) as i64
    }
}

/// What to do after an exit was dealt with.
pub(crate) enum Next {
    /// Look up the block at the state's RIP.
    Dispatch,
    /// Enter the cache at this address, a block's start; the state's RIP is there.
    Enter(u64),
    /// Go on in the midst of a block at this address.
    Resume(u64),
    /// T0 executes the instruction at the state's RIP.
    Interpret,
    /// T0 executes the instructions from the state's RIP on: there is no block.
    Untranslated,
    /// See whether the block at the state's RIP is hot.
    Look,
    /// The budget is spent.
    Stop,
}

impl Translator {
    /// A translator for processor number `processor` of `model` over `memory`, which shares `pages` with the others.
    ///
    /// # Errors
    /// If the code cache cannot be mapped, the fault handler cannot be installed, or the host lacks FSGSBASE or BMI2.
    pub fn new(
        options: Options,
        pages: Arc<CodePages>,
        processor: usize,
        memory: &Arc<GuestMemory>,
        model: &CpuModel,
    ) -> io::Result<Translator> {
        host_state::check_host()?;
        kick::install()?;
        let mut cache = CodeCache::new(options.cache_bytes.max(4 * BLOCK_ROOM), options.large_pages)?;
        let mut assembler = Assembler::new(cache.address(0));
        let exits = Exits::emit(&mut assembler);
        cache.place(assembler.code());
        cache.keep();
        let mirrors = Mirrors::new(pages.processors());
        let (start, end) = cache.range();
        let registered = host_fault::register(start, end, host_state::on_fault)?;
        Ok(Translator {
            cache,
            assembler,
            exits,
            blocks: Blocks::with_room(),
            sites: Vec::with_capacity(SITES_ROOM),
            faults: Vec::new(),
            pages,
            processor,
            memory: Arc::clone(memory),
            options,
            protected: HashSet::default(),
            listings: Vec::new(),
            log: None,
            profile: None,
            counts: options.count_blocks.then(|| BlockCounts::new(options.cache_bytes.max(4 * BLOCK_ROOM))),
            unshared: HashSet::new(),
            classifier: Classifier::new(model),
            copied: Box::new(Copied([0; 2 * slots::COPIED_BYTES as usize])),
            extended_mask: host_state::extended_mask(),
            time_scale: None,
            mirrors,
            first_region: 0,
            warmth: Warmth::new(),
            fields: model.has(Feature::Vmx).then(|| FieldTables::new(model)),
            heat: Heat::new(if options.count_blocks { 0 } else { options.look_period }, options.looks),
            statistics: Statistics::default(),
            misses_in_a_row: 0,
            _faults_registered: registered,
        })
    }

    /// Counters since creation.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// The blocks translated since the last call, if `Options::trace` is set.
    pub fn take_blocks(&mut self) -> Vec<BlockListing> {
        std::mem::take(&mut self.listings)
    }

    /// Unmap what RAM is mapped to but for its own place. The caller forgets translations of addresses.
    pub fn close_mirrors(&mut self) {
        self.mirrors.close();
    }

    /// From now on note in `log` where each block's code is.
    pub fn log_code(&mut self, log: Arc<CodeLog>) {
        self.log = Some(log);
    }

    /// Execute about `budget` instructions, never more than `most`. Asynchronous signals must be blocked in this thread.
    ///
    /// `interrupt_waiting` says that an interrupt waits for IF. Returns `Retired` when the budget is spent or it may have
    /// become deliverable; otherwise what T0 said.
    pub fn run(
        &mut self,
        core: &mut Core<'_>,
        interpreter: &mut Interpreter,
        budget: u64,
        most: u64,
        interrupt_waiting: bool,
    ) -> Step {
        core.state.translator[slots::word(slots::INTERRUPT_WAITING)] = u64::from(interrupt_waiting);
        self.begin(Phase::Dispatch, core.state.rip);
        self.pages.thread_begins(self.processor);
        self.time_scale = core.platform.time_stamp_scale();
        let saved = host_state::enter_state(core.state);
        let end = core.state.instructions.saturating_add(budget.min(most).min(i32::MAX as u64));
        let last = core.state.instructions.saturating_add(most);
        let step = self.run_inside(core, interpreter, Stretch { end, last });
        host_state::leave_state(saved);
        self.pages.thread_ends(self.processor);
        self.begin(Phase::Machine, core.state.rip);
        self.attribute_samples();
        step
    }

    fn run_inside(&mut self, core: &mut Core<'_>, interpreter: &mut Interpreter, stretch: Stretch) -> Step {
        let mut next = Next::Dispatch;
        loop {
            if !matches!(next, Next::Resume(_)) && self.safepoint(core) && matches!(next, Next::Enter(_)) {
                // The block may be gone.
                next = Next::Dispatch;
            }
            let in_block = matches!(next, Next::Resume(_));
            let address = match next {
                Next::Resume(address) => address,
                Next::Stop => return Step::Retired,
                Next::Dispatch | Next::Enter(_) if core.state.instructions >= stretch.end => {
                    return Step::Retired;
                }
                Next::Enter(address) => address,
                Next::Look if stretch.has_room(core.state) => {
                    if let Some(step) = self.look(core, interpreter, stretch.end) {
                        return step;
                    }
                    next = Next::Dispatch;
                    continue;
                }
                Next::Look => return Step::Retired,
                Next::Dispatch if core.platform.wants_attention() => return Step::Retired,
                Next::Dispatch if stretch.has_room(core.state) && translatable(core.state) => {
                    match self.known(core).or_else(|| self.lookup(core)) {
                        Some(address) => address,
                        None => {
                            next = Next::Untranslated;
                            continue;
                        }
                    }
                }
                Next::Untranslated if stretch.has_room(core.state) => {
                    match self.execute_cold(core, interpreter, stretch.end) {
                        ControlFlow::Break(step) => return step,
                        ControlFlow::Continue(then) => next = then,
                    }
                    continue;
                }
                Next::Dispatch | Next::Interpret | Next::Untranslated => {
                    if let Some(step) = self.interpret(core, interpreter) {
                        return step;
                    }
                    next = Next::Dispatch;
                    continue;
                }
            };
            let instructions = core.state.instructions;
            let until_look = self.heat.left(instructions);
            let left = if in_block {
                stretch.left_in_block(instructions).min(until_look)
            } else {
                stretch.left(instructions).min(until_look.max(BLOCK_LIMIT as i64))
            };
            next = self.enter(core, address, left);
        }
    }

    /// One instruction by T0. Something to return if the caller must look: it stopped, interrupts or NMIs became possible,
    /// it did something with the platform, or it did not complete (a REP in its midst, a fault): that may go on for ever.
    pub(crate) fn interpret(&mut self, core: &mut Core<'_>, interpreter: &mut Interpreter) -> Option<Step> {
        self.statistics.interpreted += 1;
        let (open_before, nmis_before) = (core.state.interruptible(), core.state.nmis_possible());
        let completed = core.state.instructions;
        let non_root = core.state.vmx.non_root();
        let step = self.step(core, interpreter);
        let opened = core.state.interruptible() && !open_before
            || core.state.virtual_interrupt_deliverable()
            || core.state.nmis_possible() && !nmis_before;
        let unfinished = core.state.instructions == completed;
        if core.state.vmx.non_root() != non_root {
            return self.after_transition(core, step);
        }
        if core.state.vmx.virtual_apic.interrupt {
            core.state.translator[slots::word(slots::INTERRUPT_WAITING)] = 1;
        }
        (step != Step::Retired || opened || unfinished || core.platform.wants_attention()).then_some(step)
    }

    /// A VM entry or exit has happened. Something to return if more is due before the next instruction.
    fn after_transition(&mut self, core: &mut Core<'_>, step: Step) -> Option<Step> {
        let state = &mut *core.state;
        let waits = core.platform.interrupt_waits();
        let interceptions = state.vmx.interceptions;
        let waiting = waits || interceptions.windows() || state.vmx.virtual_apic.interrupt;
        state.translator[slots::word(slots::INTERRUPT_WAITING)] = u64::from(waiting);
        let stepped = interceptions.monitor_trap_flag()
            || state.vmx.monitor_trap_pending
            || state.vmx.virtual_apic.below_threshold;
        let timed = state.vmx.preemption_deadline.is_some();
        let exits = waits && interceptions.external_interrupts();
        let special = stepped || timed || exits || state.vmx.stops_at_exits;
        let open = state.interruptible() || state.nmis_possible() && interceptions.windows();
        let due = special || open && waiting || step != Step::Retired || state.activity != Activity::Active;
        (due || core.platform.signal_waits() || core.platform.wants_attention()).then_some(step)
    }

    // Entering and leaving.

    fn enter(&mut self, core: &mut Core<'_>, address: u64, left: i64) -> Next {
        let mode = core.tlb_mode(core.privilege());
        let state = &mut *core.state;
        let with_ac = if state.cr4 & cr4::SMAP != 0 { Mode::SupervisorAc } else { Mode::Supervisor };
        let usable = u64::from(usable_extended(state));
        let slots = &mut state.translator;
        slots[slots::word(slots::TLB_CONTEXT)] = core.tlb.context_address(mode);
        slots[slots::word(slots::TLB_SUPERVISOR)] = core.tlb.context_address(Mode::Supervisor);
        slots[slots::word(slots::TLB_SUPERVISOR_AC)] = core.tlb.context_address(with_ac);
        slots[slots::word(slots::TLB_USER)] = core.tlb.context_address(Mode::User);
        slots[slots::word(slots::STRING_ALLOWANCE)] = STRING_ALLOWANCE;
        // Under CR4.TSD reading it is checked; in VMX non-root operation it may exit, or be scaled.
        let plain = state.cr4 & cr4::TSD == 0 && !state.vmx.interceptions.time_stamp_counter();
        let (start, scale) = self.time_scale.filter(|_| plain).unwrap_or_default();
        slots[slots::word(slots::TSC_START)] = start;
        slots[slots::word(slots::TSC_SCALE)] = scale;
        slots[slots::word(slots::COPIED)] = self.copied.0.as_mut_ptr() as u64;
        slots[slots::word(slots::EXTENDED_MASK)] = self.extended_mask;
        slots[slots::word(slots::ENTRY)] = address;
        if let Some(fields) = &self.fields {
            fields.publish(state);
        }
        let slots = &mut state.translator;
        if let Some(counts) = &self.counts {
            slots[slots::word(slots::BLOCK_COUNTS)] = counts.address();
        }
        // Whatever happened since may have taken the extended state away from the guest.
        if slots[slots::word(slots::EXTENDED_WANTED)] != usable {
            slots[slots::word(slots::EXTENDED_WANTED)] = 0;
        }
        slots[slots::word(slots::FLAGS)] = flags_to_slot(state.rflags);
        self.statistics.entries += 1;
        self.begin(Phase::Code, state.rip);
        let (exit, executed) = host_state::run_generated(state, left as u64);
        self.begin_after(exit, state);
        let slots = &state.translator;
        state.rflags = state.rflags & !rflags::STATUS | flags_from_slot(slots[slots::word(slots::FLAGS)]);
        state.instructions = state.instructions.wrapping_add(executed);
        self.after_exit(core, exit)
    }

    fn after_exit(&mut self, core: &mut Core<'_>, exit: Exit) -> Next {
        let next_rip = core.state.translator[slots::word(slots::NEXT_RIP)];
        let site = core.state.translator[slots::word(slots::SITE)] as u32;
        if !matches!(exit, Exit::Miss | Exit::Region | Exit::Poll) {
            core.state.translator[slots::word(slots::EXTENDED_WANTED)] = 0;
        }
        if !matches!(exit, Exit::Miss | Exit::Region) {
            self.misses_in_a_row = 0;
        }
        match exit {
            Exit::Poll => {
                core.state.rip = next_rip;
                // After a kick it depends on what the dispatcher finds.
                if host_state::is_kicked(core.state) {
                    Next::Dispatch
                } else if self.heat.is_due(core.state.instructions) {
                    Next::Look
                } else {
                    Next::Stop
                }
            }
            Exit::Lookup => {
                core.state.rip = next_rip;
                self.statistics.lookups += 1;
                self.after_lookup(core, site)
            }
            Exit::Link => self.after_link(core, site),
            Exit::Interpret => self.return_to_site(core, site),
            Exit::Miss => self.after_miss(core, site),
            Exit::Region => self.after_region(core, site),
            Exit::Extended => self.after_extended(core, site),
            Exit::Fault => self.after_fault(core),
        }
    }

    /// Make the state that of the start of the instruction at `site`.
    fn return_to_site(&mut self, core: &mut Core<'_>, site: u32) -> Next {
        match self.sites[site as usize] {
            Site::Instruction { rip, not_executed } | Site::Retry { rip, not_executed, .. } => {
                core.state.rip = rip;
                core.state.instructions = core.state.instructions.wrapping_sub(u64::from(not_executed));
                core.state.translator[slots::word(slots::EXTENDED_WANTED)] = 0;
                Next::Interpret
            }
            Site::Link { .. } | Site::Indirect { .. } => {
                unreachable!("the site of a jump left as an instruction")
            }
        }
    }

    /// A target that is not canonical faults at the jump itself, which has to be undone.
    fn after_lookup(&mut self, core: &mut Core<'_>, site: u32) -> Next {
        if VcpuState::canonical(core.state.rip) {
            return self.lookup(core).map_or(Next::Untranslated, Next::Enter);
        }
        if let Some(&Site::Indirect { rip, undo_rsp }) = self.sites.get(site as usize) {
            core.state.rip = rip;
            let rsp = &mut core.state.gpr[gasang_x86::gpr::RSP];
            *rsp = rsp.wrapping_add_signed(undo_rsp);
            core.state.instructions = core.state.instructions.wrapping_sub(1);
        }
        Next::Interpret
    }

    fn after_link(&mut self, core: &mut Core<'_>, site: u32) -> Next {
        let Site::Link { block, target, displacement, entry, .. } = self.sites[site as usize] else {
            unreachable!("a link exit from a site that is no link")
        };
        core.state.rip = target;
        let generation = self.statistics.cache_flushes;
        let variant = if entry == Entry::Plain { Variant::Plain } else { Variant::Block };
        let Some(found) = self.find_or_translate(core, variant) else { return Next::Untranslated };
        let to = self.blocks.get(found);
        let base = self.cache.address(to.offset);
        let same_flush = generation == self.statistics.cache_flushes;
        if same_flush && self.blocks.get(block).alive {
            let at = match entry {
                Entry::HostFlags => to.entries.host_flags,
                Entry::SlotFlags | Entry::Plain => to.entries.slot_flags,
                Entry::Page => to.entries.page,
            };
            let address = base + u64::from(at);
            let slot_flags = base + u64::from(to.entries.slot_flags);
            self.cache.patch_relative(displacement, address);
            self.blocks.link(found, site);
            return Next::Enter(slot_flags);
        }
        Next::Enter(base + u64::from(to.entries.slot_flags))
    }

    fn after_miss(&mut self, core: &mut Core<'_>, site: u32) -> Next {
        let Site::Retry { rip, not_executed, retry, resume, hopeful, size, write, block, .. } =
            self.sites[site as usize]
        else {
            unreachable!("a miss at a site that cannot be tried again")
        };
        self.statistics.misses += 1;
        let address = core.state.translator[slots::word(slots::MISSED_ADDRESS)];
        if self.pages.is_asked(self.processor) {
            // What the block has checked may not hold any more: it cannot go on from its midst.
            return self.return_to_site(core, site);
        }
        self.misses_in_a_row += 1;
        if self.misses_in_a_row > MISSES_IN_A_ROW {
            self.misses_in_a_row = 0;
            return self.return_to_site(core, site);
        }
        if hopeful {
            if write && !self.may_write(core, address) {
                self.crossed(core, block);
            }
            core.state.rip = rip;
            core.state.instructions = core.state.instructions.wrapping_sub(u64::from(not_executed));
            return self.plain(core);
        }
        if self.fill(core, address, size, write) {
            return Next::Resume(retry);
        }
        if address & 0xfff > 4096 - u64::from(size) {
            if resume != 0 && self.copy(core, address, size) {
                return Next::Resume(resume);
            }
            if self.blocks.get(block).variant == Variant::Block {
                self.crossed(core, block);
            }
        }
        self.return_to_site(core, site)
    }

    fn after_region(&mut self, core: &mut Core<'_>, site: u32) -> Next {
        let Site::Retry { retry, region, .. } = self.sites[site as usize] else {
            unreachable!("a region wanted at a site that cannot be tried again")
        };
        self.statistics.regions += 1;
        if self.pages.is_asked(self.processor) {
            return self.return_to_site(core, site);
        }
        let missed = Missed {
            mode: core.tlb_mode(core.privilege()),
            region: usize::from(region),
            linear: core.state.translator[slots::word(slots::MISSED_ADDRESS)],
            instructions: core.state.instructions,
        };
        let has_code = |page| self.memory.flags(page).load(Ordering::Acquire) & PAGE_HAS_CODE != 0;
        let (memory, mirrors) = (&self.memory, &mut self.mirrors);
        if core.tlb.find_region(missed, has_code, memory, mirrors) {
            Next::Resume(retry)
        } else {
            // The block may hold a host address that a shared check found before.
            self.return_to_site(core, site)
        }
    }

    /// Whether a write at the address could be made by generated code, if it is made at all.
    fn may_write(&self, core: &mut Core<'_>, address: u64) -> bool {
        let privilege = core.privilege();
        if !VcpuState::canonical(address) || core.probe(address, Access::Write, privilege).is_err() {
            return false;
        }
        let host = core.translate_for_debugger(address).and_then(|physical| self.memory.host(physical));
        host.is_some_and(|host| self.memory.flags(host).load(Ordering::Acquire) & PAGE_HAS_CODE == 0)
    }

    /// Go on at RIP in a block that shares no checks.
    fn plain(&mut self, core: &mut Core<'_>) -> Next {
        let Some(found) = self.find_or_translate(core, Variant::Plain) else { return Next::Untranslated };
        let block = self.blocks.get(found);
        Next::Enter(self.cache.address(block.offset) + u64::from(block.entries.slot_flags))
    }

    /// Bring the page of an access into the TLB; false if T0 must make the access.
    fn fill(&self, core: &mut Core<'_>, address: u64, size: u8, write: bool) -> bool {
        if address & 0xfff > 4096 - u64::from(size) || !VcpuState::canonical(address) {
            return false;
        }
        // A write that may be refused for its boundary must not mark the page as dirty first: T0 checks.
        if write && size >= 16 && address % u64::from(size) != 0 {
            return false;
        }
        let access = if write { Access::Write } else { Access::Read };
        let privilege = core.privilege();
        let mode = core.tlb_mode(privilege);
        if core.translate(address, access, privilege).is_err() {
            return false;
        }
        let entry = core.tlb.entry(mode, address);
        let tag = if write { entry.write } else { entry.read };
        tag == address & !0xfff
    }

    /// Copy bytes that cross a page for an access that reads them, at the same distance from a 64-byte boundary, so that
    /// the host checks their alignment as it would in place. False if any of them is not RAM, or must not be read.
    fn copy(&mut self, core: &mut Core<'_>, address: u64, size: u8) -> bool {
        let privilege = core.privilege();
        let first = (4096 - (address & 0xfff)) as usize;
        let next = address.wrapping_add(first as u64);
        if !VcpuState::canonical(address) || !VcpuState::canonical(next) {
            return false;
        }
        let mut place =
            |linear| core.translate(linear, Access::Read, privilege).ok().and_then(|found| found.host);
        let (Some(one), Some(other)) = (place(address), place(next)) else { return false };
        let start = (address & 63) as usize;
        let bytes = &mut self.copied.0[start..start + usize::from(size)];
        let (low, high) = bytes.split_at_mut(first);
        self.memory.copy_out(one, low);
        self.memory.copy_out(other, high);
        let at = self.copied.0.as_ptr() as u64 + start as u64;
        core.state.translator[slots::word(slots::PLACE)] = at;
        true
    }

    /// A check in the block found that its span crosses a page, or asked too much. After some of these, checks are shared
    /// there no longer.
    fn crossed(&mut self, core: &mut Core<'_>, block: u32) {
        let Block { host, variant, .. } = *self.blocks.get(block);
        if variant != Variant::Plain && self.blocks.count_crossing(block) == CROSSINGS {
            self.invalidate(core, host, 1);
            self.unshared.insert(host);
            self.heat.give_up(host);
        }
    }

    fn after_extended(&mut self, core: &mut Core<'_>, site: u32) -> Next {
        let Site::Retry { retry, size: wanted, .. } = self.sites[site as usize] else {
            unreachable!("extended state wanted at a site that cannot be tried again")
        };
        self.statistics.extended += 1;
        let usable = usable_extended(core.state);
        if usable & wanted != wanted || self.pages.is_asked(self.processor) {
            return self.return_to_site(core, site);
        }
        core.state.translator[slots::word(slots::EXTENDED_WANTED)] = u64::from(usable);
        Next::Resume(retry)
    }

    fn after_fault(&mut self, core: &mut Core<'_>) -> Next {
        self.statistics.faults += 1;
        let address = core.state.translator[slots::word(slots::FAULT_RIP)];
        let point = self.cache.offset(address).and_then(|offset| {
            let index = self.faults.binary_search_by_key(&offset, |point| point.offset).ok()?;
            Some(self.faults[index])
        });
        let point =
            point.unwrap_or_else(|| panic!("a host fault at {address:#x}, where no guest instruction is"));
        if point.host_flags {
            let flags = core.state.translator[slots::word(slots::FAULT_FLAGS)];
            core.state.rflags = core.state.rflags & !rflags::STATUS | flags & rflags::STATUS;
        }
        core.state.rip = point.rip;
        core.state.instructions = core.state.instructions.wrapping_sub(u64::from(point.not_executed));
        Next::Interpret
    }

    // Blocks.

    /// Where to enter the block at RIP, translating it if need be; None if T0 must execute the instruction there.
    pub(crate) fn lookup(&mut self, core: &mut Core<'_>) -> Option<u64> {
        let mode = core.tlb_mode(core.privilege());
        let number = self.find_or_translate(core, Variant::Block)?;
        let block = self.blocks.get(number);
        let base = self.cache.address(block.offset);
        core.tlb.insert_jump(mode, jump_key(core.state), base + u64::from(block.entries.page));
        Some(base + u64::from(block.entries.slot_flags))
    }

    /// The same from the jump entries. A block that is gone leaves again by `Exit::Lookup`, which does not ask here.
    pub(crate) fn known(&self, core: &Core<'_>) -> Option<u64> {
        core.tlb.jump(core.tlb_mode(core.privilege()), jump_key(core.state))
    }
}

/// What a jump entry calls the address at RIP.
fn jump_key(state: &VcpuState) -> u64 {
    if state.in_64bit_mode() { state.rip } else { state.rip | NARROW }
}

/// Extended state that the guest may use without a fault (SDM vol. 1, 13.1; vol. 3, 2.5).
fn usable_extended(state: &VcpuState) -> u8 {
    if state.cr0 & (cr0::TS | cr0::EM) != 0 {
        return 0;
    }
    let mut usable = extended::X87;
    if state.cr4 & cr4::OSFXSR != 0 {
        usable |= extended::SSE;
    }
    let avx = xcr0::X87 | xcr0::SSE | xcr0::AVX;
    if state.cr4 & cr4::OSXSAVE != 0 && state.xcr0 & avx == avx {
        usable |= extended::AVX;
    }
    usable
}

/// Status flags as LAHF and SETO leave them in AX.
fn flags_to_slot(flags: u64) -> u64 {
    (flags & 0xd5 | 2) << 8 | flags >> 11 & 1
}

fn flags_from_slot(slot: u64) -> u64 {
    slot >> 8 & 0xd5 | (slot & 1) << 11
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_flags_survive_their_slot() {
        for bits in 0..64u64 {
            let positions = [0, 2, 4, 6, 7, 11];
            let flags = (0..6).fold(0, |all, bit| all | (bits >> bit & 1) << positions[bit as usize]);
            assert_eq!(flags_from_slot(flags_to_slot(flags)), flags);
        }
    }
}
