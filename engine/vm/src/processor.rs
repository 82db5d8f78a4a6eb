//! One processor and the loop that runs it.

use crate::accelerator::Accelerator;
use crate::attention::{CHIPSET, KICK, LEAVE, WAKE};
use crate::clock::ClockKind;
use crate::counts::Counts;
use crate::error::Error;
use crate::events::{Event, Events, NMI};
use crate::exit::Exit;
use crate::hardware::Hardware;
use crate::host::host_processors;
use crate::shared::{NEVER, Shared};
use crate::surroundings::Surroundings;
use crate::tracepoints::{Tracepoint, userspace_reason};
use gasang_chipset::UART_COUNT;
use gasang_cpu::{Activity, Core, Feature, Operation, Tlb, Trap, VcpuState};
use gasang_exec::Step;
use gasang_translate::{Phase, Profile};
use gasang_vmx::exit;
use gasang_x86::control::{cr0, cr3, cr4};
use gasang_x86::msr::feature_control;
use gasang_x86::paging;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Instructions between two looks at the clock.
const POLL_INSTRUCTIONS: u64 = 32_768;
/// At most so many bytes of serial output wait while the guest runs.
const OUTPUT_BYTES: usize = 4096;
/// Counters are made public so often (virtual nanoseconds) while the guest runs.
const COUNTS_AGE: u64 = 100_000_000;
/// A processor that halts looks so long (nanoseconds) for what wakes it before it sleeps.
const HALT_POLL: u64 = 100_000;
/// Entries of each TLB context.
const TLB_ENTRIES: usize = 1024;

/// What the processor was doing when it asked outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Unfinished {
    Instruction,
    /// The delivery of an interrupt that is acknowledged already.
    Interrupt(u8),
    /// The same of a virtual interrupt, of which the surroundings know nothing.
    VirtualInterrupt(u8),
    Nmi,
    /// An access that made KVM leave.
    Access,
}

/// A processor: its state and all that executes it. Whoever holds it runs it.
pub(crate) struct Processor {
    pub(crate) state: Box<VcpuState>,
    pub(crate) tlb: Tlb,
    pub(crate) surroundings: Surroundings,
    pub(crate) events: Events,
    pub(crate) counts: Counts,
    /// The counters as of a moment ago, for whoever asks.
    public_counts: Arc<Mutex<Counts>>,
    counts_published: u64,
    pub(crate) accelerator: Accelerator,
    /// What executes before the accelerator, where the machine runs on KVM.
    pub(crate) hardware: Option<Box<Hardware>>,
    pub(crate) unfinished: Unfinished,
    /// Another processor wants this one awake: the next HLT does not wait.
    pub(crate) woken: bool,
    /// An interrupt waited because the guest did not take any.
    window_wanted: bool,
    /// So many VM exits there were when the last was reported.
    pub(crate) exits_reported: u64,
}

impl Processor {
    pub(crate) fn new(
        index: usize,
        shared: Arc<Shared>,
        accelerator: Accelerator,
        hardware: Option<Hardware>,
    ) -> Processor {
        let mut state = Box::new(VcpuState::reset());
        if index != 0 {
            // An application processor (SDM vol. 3, 9.4.1).
            state.activity = Activity::WaitForSipi;
        }
        if shared.model.has(Feature::Vmx) {
            // As firmware leaves it.
            state.vmx.feature_control = feature_control::LOCK | feature_control::VMX_OUTSIDE_SMX;
        }
        let record = (shared.clock.kind() == ClockKind::Instructions).then(Vec::new);
        Processor {
            state,
            tlb: Tlb::new(TLB_ENTRIES),
            surroundings: Surroundings::new(index, shared),
            events: Events::Own { record },
            counts: Counts::default(),
            public_counts: Arc::default(),
            counts_published: 0,
            accelerator,
            hardware: hardware.map(Box::new),
            unfinished: Unfinished::Instruction,
            woken: false,
            window_wanted: false,
            exits_reported: 0,
        }
    }

    /// Run until an exit. `instructions` bounds how many are executed; the end of that budget is `Interrupted`.
    pub(crate) fn run(&mut self, reply: Option<u64>, instructions: Option<u64>) -> Result<Exit, Error> {
        if self.hardware.is_some() && instructions.is_some() {
            return Err(Error::Argument("KVM does not count instructions".to_owned()));
        }
        self.surroundings.shared.end_output(self.surroundings.index);
        let resume = self.surroundings.take_reply(reply)?;
        if let Some(profile) = self.accelerator.profile() {
            profile.attach().map_err(cannot_sample)?;
            profile.enter();
        }
        if self.surroundings.paravirtual.enter(&self.surroundings.shared) {
            self.tlb.flush_all();
        }
        let exit = self.run_to_exit(resume, instructions);
        self.surroundings.paravirtual.leave(&self.surroundings.shared);
        if let Some(profile) = self.accelerator.profile() {
            let (name, place) =
                exit.as_ref().map_or(("error", 0), |exit| (Exit::NAMES[exit.kind()], exit.place()));
            profile.leave(name, place);
        }
        if let Ok(exit) = &exit
            && let Some(count) = self.counts.returned.get_mut(exit.kind())
        {
            *count += 1;
            if let Some(reason) = userspace_reason(exit) {
                self.surroundings.trace(Tracepoint::UserspaceExit(reason));
            }
        }
        self.publish_counts();
        exit
    }

    fn run_to_exit(&mut self, resume: bool, instructions: Option<u64>) -> Result<Exit, Error> {
        let limit = instructions.map_or(u64::MAX, |budget| self.state.instructions.saturating_add(budget));
        self.surroundings.shared.standstill.go(self.surroundings.index);
        if self.surroundings.answers.is_unreported() {
            return Ok(self.report_access());
        }
        if resume && self.finish()? == Step::Pending {
            return Ok(self.report_access());
        }
        loop {
            if self.follow_out_of_kvm()? == Step::Pending {
                return Ok(self.report_access());
            }
            if let Some(exit) = self.vm_exit() {
                return Ok(exit);
            }
            if let Some(exit) = self.poll(limit)? {
                return Ok(exit);
            }
            if self.state.vmx.injection.is_some() {
                if self.inject() == Step::Pending {
                    return Ok(self.report_access());
                }
                continue;
            }
            if self.take_signals()? == Step::Pending {
                return Ok(self.report_access());
            }
            if let Some(exit) = self.vm_exit() {
                return Ok(exit);
            }
            let exit = match self.state.activity {
                Activity::Shutdown => Some(self.output().unwrap_or(Exit::Shutdown)),
                _ if self.has_kernel_controllers() => self.execute_on_hardware()?,
                Activity::Active if self.hardware.is_some() => self.execute_on_hardware()?,
                Activity::Active => self.execute(limit),
                Activity::Halted => self.halt(),
                Activity::WaitForSipi => self.stop(),
            };
            if let Some(exit) = exit {
                return Ok(exit);
            }
        }
    }

    /// What is asked of a processor between instructions, by other threads and by the clock.
    fn poll(&mut self, limit: u64) -> Result<Option<Exit>, Error> {
        let index = self.surroundings.index;
        let shared = Arc::clone(&self.surroundings.shared);
        shared.clock.set_retired(self.state.instructions);
        let now = shared.clock.now();
        let Some(attention) = shared.attention.get(index) else { return Ok(None) };
        if now >= shared.next_deadline() || attention.take(CHIPSET) {
            self.surroundings.chipset(|chipset, now| chipset.advance(now));
        }
        self.woken |= attention.take(WAKE);
        attention.take(LEAVE);
        self.surroundings.paravirtual.tell_stolen(&shared, now);
        if (shared.output_bytes() >= OUTPUT_BYTES || now >= shared.output_deadline())
            && let Some(output) = self.output()
        {
            return Ok(Some(output));
        }
        if attention.is_raised() {
            self.surroundings.trace(Tracepoint::Signal);
            // Where time is deterministic, output comes when it would come without the kick.
            if shared.clock.kind() == ClockKind::Host
                && let Some(output) = self.output()
            {
                return Ok(Some(output));
            }
            // Whoever kicks finds the guest between two instructions.
            if self.settle()? == Step::Pending {
                return Ok(Some(self.report_access()));
            }
            if attention.take(KICK) {
                return Ok(Some(Exit::Interrupted));
            }
        }
        if now.saturating_sub(self.counts_published) >= COUNTS_AGE {
            self.publish_counts();
        }
        Ok((self.state.instructions >= limit).then_some(Exit::Interrupted))
    }

    /// The exit for the access that waits; what the guest said before it comes first.
    pub(crate) fn report_access(&mut self) -> Exit {
        let output = self.output();
        output.or_else(|| self.surroundings.answers.report()).unwrap_or(Exit::Interrupted)
    }

    /// The output of the first serial port that has some, unless another processor's exit carries output.
    pub(crate) fn output(&mut self) -> Option<Exit> {
        let shared = Arc::clone(&self.surroundings.shared);
        let processor = self.surroundings.index;
        if shared.output_bytes() == 0 || !shared.begin_output(processor) {
            return None;
        }
        let output = self.surroundings.chipset(|chipset, _| {
            let index = (0..UART_COUNT).find(|&index| chipset.serial_output_len(index) != 0)?;
            Some(Exit::SerialOutput { index, data: chipset.take_serial_output(index) })
        });
        if output.is_none() {
            shared.end_output(processor);
        }
        output
    }

    /// Use the processor as those that execute see it.
    pub(crate) fn with_core<T>(&mut self, act: impl FnOnce(&mut Core<'_>, &mut Accelerator) -> T) -> T {
        let shared = Arc::clone(&self.surroundings.shared);
        let pages = shared.code_pages.as_deref();
        let _inside = pages.map(|pages| pages.enter(self.surroundings.index, &mut self.tlb));
        let mut core = Core {
            state: &mut self.state,
            tlb: &mut self.tlb,
            memory: &shared.memory,
            platform: &mut self.surroundings,
            model: &shared.model,
        };
        act(&mut core, &mut self.accelerator)
    }

    fn execute(&mut self, limit: u64) -> Option<Exit> {
        let shared = Arc::clone(&self.surroundings.shared);
        let index = self.surroundings.index;
        let budget = POLL_INSTRUCTIONS.min(limit.saturating_sub(self.state.instructions));
        let most = self.until_next_event();
        let waiting = self.waits_for_interrupts();
        let step = self.step_under_monitor_trap().unwrap_or_else(|| {
            self.with_core(|core, accelerator| accelerator.run(core, &shared, index, budget, most, waiting))
        });
        match step {
            Step::Retired | Step::Shutdown => None,
            Step::Halted => {
                self.surroundings.trace(Tracepoint::Halt { rip: self.state.rip });
                None
            }
            Step::Pending => {
                self.unfinished = Unfinished::Instruction;
                Some(self.report_access())
            }
        }
    }

    /// Instructions until something is to happen that must come after an exact number of them: on the host's clock
    /// there is no such thing.
    fn until_next_event(&self) -> u64 {
        let shared = &self.surroundings.shared;
        let mut most = u64::MAX;
        if shared.clock.kind() == ClockKind::Instructions {
            let timer = self.state.vmx.preemption_deadline.unwrap_or(NEVER);
            let next = shared.next_deadline().min(shared.output_deadline()).min(timer);
            most = next.saturating_sub(shared.clock.now());
        }
        if let Some(event) = self.events.next() {
            most = most.min(event.instructions.saturating_sub(self.state.instructions));
        }
        most.max(1)
    }

    /// Go on with what was waiting for the answer that has come.
    fn finish(&mut self) -> Result<Step, Error> {
        match self.unfinished {
            Unfinished::Instruction => {
                self.surroundings.answers.resume();
                let stepped = self.step_under_monitor_trap();
                Ok(stepped.unwrap_or_else(|| self.with_core(|core, accelerator| accelerator.step(core))))
            }
            Unfinished::Access => {
                self.surroundings.answers.rewind();
                self.answer_access()
            }
            delivery => {
                self.surroundings.answers.rewind();
                self.deliver(delivery)
            }
        }
    }

    /// INIT, SIPI, NMI and interrupts, in the order of their priority (SDM vol. 3, 6.9). `Pending` if a delivery needs
    /// an answer from outside.
    pub(crate) fn take_signals(&mut self) -> Result<Step, Error> {
        if self.state.vmx.non_root()
            && let Some(step) = self.act_in_non_root()?
        {
            return Ok(step);
        }
        if self.events.is_replayed() {
            return self.take_replayed();
        }
        if self.has_kernel_controllers() {
            return Ok(Step::Retired);
        }
        if !self.surroundings.pending.any() {
            return Ok(Step::Retired);
        }
        if self.take_init()? == Step::Pending {
            return Ok(Step::Pending);
        }
        self.surroundings.settle_end_of_interrupt();
        let awake = matches!(self.state.activity, Activity::Active | Activity::Halted);
        if self.surroundings.pending.nmi && awake && self.nmis_possible() {
            let index = self.surroundings.index;
            if self.surroundings.chipset(|chipset, _| chipset.take_nmi(index)) {
                self.surroundings.answers.commit();
                return self.deliver(Unfinished::Nmi);
            }
        }
        if self.surroundings.pending.interrupt && awake {
            if !self.interruptible() {
                self.window_wanted = true;
            } else if let Some(vector) = self.acknowledge() {
                return self.deliver(Unfinished::Interrupt(vector));
            }
        }
        Ok(Step::Retired)
    }

    pub(crate) fn acknowledge(&mut self) -> Option<u8> {
        self.surroundings.answers.commit();
        self.surroundings.acknowledge_interrupt()
    }

    /// The event that the script has for this instruction.
    fn take_replayed(&mut self) -> Result<Step, Error> {
        let Some(event) = self.events.next() else { return Ok(Step::Retired) };
        let instructions = self.state.instructions;
        if event.instructions > instructions {
            return Ok(Step::Retired);
        }
        let diverged = |found| Error::Diverged { instructions, vector: event.vector, found };
        if event.instructions < instructions {
            return Err(diverged(None));
        }
        if event.vector == NMI {
            return self.deliver(Unfinished::Nmi);
        }
        let found = if self.state.interruptible() { self.acknowledge() } else { None };
        if found != Some(event.vector) {
            // Halted, and time has not come to it yet: `halt` moves on.
            let halted = self.state.activity == Activity::Halted && found.is_none();
            return if halted { Ok(Step::Retired) } else { Err(diverged(found)) };
        }
        self.deliver(Unfinished::Interrupt(event.vector))
    }

    /// Whether an interrupt would be taken now.
    fn interruptible(&mut self) -> bool {
        match self.on_hardware() {
            Some(vcpu) => vcpu.takes_interrupts(),
            None => self.state.interruptible(),
        }
    }

    /// Whether an NMI would; KVM keeps one until it can be.
    fn nmis_possible(&mut self) -> bool {
        self.on_hardware().is_some() || self.state.nmis_possible()
    }

    fn take_init(&mut self) -> Result<Step, Error> {
        let index = self.surroundings.index;
        if self.surroundings.pending.init && self.take_state()? == Step::Pending {
            return Ok(Step::Pending);
        }
        // VMX root operation blocks INIT.
        let open = self.state.vmx.operation == Operation::Off;
        if open
            && self.surroundings.pending.init
            && self.surroundings.chipset(|chipset, _| chipset.take_init(index, true))
        {
            self.state.init();
            self.surroundings.paravirtual.reset();
            self.state.activity = if index == 0 { Activity::Active } else { Activity::WaitForSipi };
            self.translation_changed();
        }
        if self.surroundings.pending.start_up.is_some() {
            let vector = self.surroundings.chipset(|chipset, _| chipset.take_start_up(index));
            if let (Some(vector), Activity::WaitForSipi) = (vector, self.state.activity) {
                self.state.sipi(vector);
                self.state.activity = Activity::Active;
            }
        }
        Ok(Step::Retired)
    }

    /// Deliver an interrupt that is acknowledged.
    pub(crate) fn deliver(&mut self, what: Unfinished) -> Result<Step, Error> {
        if self.deliver_on_hardware(what)? {
            self.state.activity = Activity::Active;
            self.count_delivery(what);
            return Ok(Step::Retired);
        }
        let event = |vector| Event { instructions: self.state.instructions, vector };
        let event = match what {
            Unfinished::Interrupt(vector) => Some(event(vector)),
            Unfinished::VirtualInterrupt(_) => None,
            Unfinished::Nmi | Unfinished::Instruction | Unfinished::Access => Some(event(NMI)),
        };
        let delivered = self.with_core(|core, _| match what {
            Unfinished::Interrupt(vector) | Unfinished::VirtualInterrupt(vector) => {
                core.deliver_interrupt(vector)
            }
            Unfinished::Nmi | Unfinished::Instruction | Unfinished::Access => core.deliver_nmi(),
        });
        match delivered {
            Err(Trap::Pending) => {
                self.unfinished = what;
                return Ok(Step::Pending);
            }
            Err(Trap::Shutdown) => self.state.activity = Activity::Shutdown,
            Err(Trap::VmExit) => {
                // A VMX abort leaves the processor in shutdown.
                let _ = self.with_core(|core, _| exit::leave(core));
            }
            // Faults on the way are delivered in the interrupt's place; none is left over.
            Ok(()) | Err(Trap::Exception(_)) => self.state.activity = Activity::Active,
        }
        self.surroundings.answers.commit();
        if let Some(event) = event {
            self.events.delivered(event);
        }
        self.count_delivery(what);
        Ok(Step::Retired)
    }

    fn count_delivery(&mut self, what: Unfinished) {
        match what {
            Unfinished::Interrupt(vector) | Unfinished::VirtualInterrupt(vector) => {
                if std::mem::take(&mut self.window_wanted) {
                    self.surroundings.trace(Tracepoint::InterruptWindow);
                }
                self.surroundings.trace(Tracepoint::Interrupt(vector));
            }
            Unfinished::Nmi | Unfinished::Instruction | Unfinished::Access => {
                self.surroundings.trace(Tracepoint::Nmi);
            }
        }
    }

    /// HLT: wait for what wakes the processor.
    fn halt(&mut self) -> Option<Exit> {
        if let Some(output) = self.output() {
            return Some(output);
        }
        if self.events.is_replayed() && self.events.next().is_none() {
            // The leader has not come further.
            return Some(Exit::Interrupted);
        }
        if std::mem::take(&mut self.woken) {
            self.state.activity = Activity::Active;
            return None;
        }
        let timer = self.state.vmx.preemption_deadline.unwrap_or(NEVER);
        if !self.halt_ends_by_interrupt() && timer == NEVER {
            return self.stop();
        }
        self.wait(Some(self.surroundings.shared.next_deadline().min(timer)))
    }

    /// Wait for what only another processor can send: an NMI, INIT, start-up IPI, or a wake-up by hypercall.
    fn stop(&mut self) -> Option<Exit> {
        let shared = Arc::clone(&self.surroundings.shared);
        let index = self.surroundings.index;
        if shared.standstill.stop(index, &shared.attention) {
            return Some(self.output().unwrap_or(Exit::Halted));
        }
        let exit = self.wait(None);
        shared.standstill.go(index);
        exit
    }

    /// Let time pass until `deadline` (None: without end) or until attention is wanted.
    fn wait(&mut self, deadline: Option<u64>) -> Option<Exit> {
        self.publish_counts();
        let shared = &self.surroundings.shared;
        let deadline = deadline.filter(|&deadline| deadline != NEVER);
        let attention = shared.attention.get(self.surroundings.index)?;
        if let Some(profile) = self.accelerator.profile() {
            profile.begin(Phase::Idle, self.state.rip);
        }
        match (shared.clock.kind(), deadline) {
            (ClockKind::Instructions, Some(deadline)) => shared.clock.skip_to(deadline),
            (ClockKind::Host, Some(deadline)) => {
                if !self.poll_while_halted(deadline) {
                    let left = deadline.saturating_sub(shared.clock.now());
                    attention.sleep(Some(Duration::from_nanos(left)));
                }
            }
            (_, None) => attention.sleep(None),
        }
        if let Some(profile) = self.accelerator.profile() {
            profile.begin(Phase::Machine, self.state.rip);
        }
        None
    }

    /// What the processor waits for often comes soon, from a device that has just been told: look for it a moment before
    /// going to sleep, if the host has a processor to spare for that. True if it has come.
    fn poll_while_halted(&self, deadline: u64) -> bool {
        let shared = &self.surroundings.shared;
        let Some(attention) = shared.attention.get(self.surroundings.index) else { return false };
        if shared.attention.len() >= host_processors() {
            return false;
        }
        let end = shared.clock.now().saturating_add(HALT_POLL).min(deadline);
        while shared.clock.now() < end {
            if attention.is_raised() {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }

    /// Registers on which translation depends were set from outside, or reset.
    pub(crate) fn translation_changed(&mut self) {
        self.load_page_directory_pointers();
        self.tlb.flush_all();
        let pcid = if self.state.cr4 & cr4::PCIDE != 0 { self.state.cr3 & cr3::PCID } else { 0 };
        self.tlb.select(pcid as u16);
    }

    /// PAE paging keeps the four entries that CR3 points to in the processor (SDM vol. 3, 4.4.1).
    fn load_page_directory_pointers(&mut self) {
        let pae = self.state.cr0 & cr0::PG != 0 && self.state.cr4 & cr4::PAE != 0 && !self.state.long_mode();
        if !pae {
            return;
        }
        let mut table = [0; 32];
        let address = self.state.cr3 & 0xffff_ffe0;
        // Where there is no RAM the entries are not present.
        let present = self.surroundings.shared.memory.read_physical(address, &mut table).is_ok();
        for (entry, bytes) in self.state.pdpte.iter_mut().zip(table.chunks_exact(8)) {
            let value = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
            *entry = if present { value } else { value & !paging::PRESENT };
        }
    }

    /// Measure from now on with `hertz` samples a second, or no longer.
    pub(crate) fn set_profile(&mut self, hertz: Option<u32>) -> Result<(), Error> {
        let profile = hertz.map(Profile::new).transpose().map_err(cannot_sample)?;
        self.accelerator.set_profile(profile);
        Ok(())
    }

    /// Where the counters can be read while the processor runs.
    pub(crate) fn public_counts(&self) -> Arc<Mutex<Counts>> {
        Arc::clone(&self.public_counts)
    }

    pub(crate) fn publish_counts(&mut self) {
        self.counts.vmx.clone_from(&self.state.vmx.transitions);
        self.counts.exits.clone_from(&self.surroundings.tracepoints.counts);
        self.counts.instructions = self.state.instructions;
        self.counts.tlb_refills = self.tlb.refills;
        self.counts.tlb_flushes = self.tlb.flushes;
        self.counts.tlb_page_flushes = self.tlb.page_flushes;
        self.counts.address_space_switches = self.tlb.selections();
        self.counts.translator = self.accelerator.statistics();
        self.counts_published = self.surroundings.shared.clock.now();
        let mut public = self.public_counts.lock().unwrap_or_else(PoisonError::into_inner);
        public.clone_from(&self.counts);
    }
}

fn cannot_sample(source: std::io::Error) -> Error {
    Error::Host { attempt: "cannot sample".to_owned(), source }
}
