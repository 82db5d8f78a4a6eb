//! What of its surroundings makes a processor leave VMX non-root operation: INIT, start-up IPIs, NMIs and interrupts. What
//! is due, and when, is `gasang_vmx`'s.

use crate::error::Error;
use crate::events::{Event, NMI};
use crate::processor::{Processor, Unfinished};
use gasang_cpu::{Activity, Trap, VmExit};
use gasang_exec::Step;
use gasang_vmx::intercept::{self, Due, Signals};
use gasang_vmx::{exit, virtual_apic};
use gasang_x86::rflags;

/// What is to be done between two instructions of a guest.
enum Act {
    Exit(VmExit),
    /// Deliver an interrupt, which the guest takes itself.
    Deliver(u8),
    /// It is done.
    Done,
}

impl Processor {
    /// Deliver what a VM entry injects. It comes before whatever else is due, and wakes a guest that is entered halted
    /// (SDM vol. 3, 27.6).
    pub(crate) fn inject(&mut self) -> Step {
        let halted = self.state.activity == Activity::Halted;
        let step = self.with_core(|core, accelerator| accelerator.step(core));
        if step == Step::Pending {
            self.unfinished = Unfinished::Instruction;
        } else if halted && self.state.activity == Activity::Halted {
            self.state.activity = Activity::Active;
        }
        step
    }

    /// Do what is due before the guest's next instruction. None if there is nothing.
    ///
    /// # Errors
    /// None: on KVM, whose deliveries may fail, nobody is in non-root operation.
    pub(crate) fn act_in_non_root(&mut self) -> Result<Option<Step>, Error> {
        let Some((act, signal)) = self.act_due() else { return Ok(None) };
        if let Some(vector) = signal {
            self.events.delivered(Event { instructions: self.state.instructions, vector });
        }
        match act {
            Act::Exit(due) => {
                let Trap::VmExit = self.state.exit(due) else { return Ok(None) };
                self.surroundings.answers.commit();
                // A VMX abort leaves the processor in shutdown, where the run loop finds it.
                let _ = self.with_core(|core, _| exit::leave(core));
                Ok(Some(Step::Retired))
            }
            Act::Deliver(vector) => {
                self.surroundings.answers.commit();
                self.deliver(Unfinished::VirtualInterrupt(vector)).map(Some)
            }
            // And it may have made something else due.
            Act::Done => Ok(self.act_in_non_root()?.or(Some(Step::Retired))),
        }
    }

    /// What waits for the processor; if a script decides, what that has for this instruction.
    fn signals(&self) -> Signals {
        let pending = self.surroundings.pending;
        if !self.events.is_replayed() {
            return Signals {
                init: pending.init,
                start_up: pending.start_up.is_some(),
                nmi: pending.nmi,
                interrupt: pending.interrupt,
            };
        }
        let event = self.events.next().filter(|event| event.instructions == self.state.instructions);
        let nmi = event.is_some_and(|event| event.vector == NMI);
        Signals { init: false, start_up: false, nmi, interrupt: event.is_some() && !nmi }
    }

    /// What is due; its signal is taken. If that is one that other machines are to replay, its vector, or 0.
    fn act_due(&mut self) -> Option<(Act, Option<u8>)> {
        let waiting = self.signals();
        let due = intercept::due(&self.state, waiting, || self.surroundings.shared.clock.now())?;
        let index = self.surroundings.index;
        match due {
            Due::Exit(exit) => Some((Act::Exit(exit), None)),
            Due::Init => {
                let taken = self.surroundings.chipset(|chipset, _| chipset.take_init(index, false));
                taken.then(|| (Act::Exit(exit::init()), None))
            }
            Due::StartUp => {
                let vector = self.surroundings.chipset(|chipset, _| chipset.take_start_up(index))?;
                Some((Act::Exit(exit::start_up(vector)), None))
            }
            Due::Nmi => {
                let taken = self.surroundings.chipset(|chipset, _| chipset.take_nmi(index));
                taken.then(|| (Act::Exit(exit::nmi()), Some(NMI)))
            }
            Due::Interrupt { acknowledged: false } => {
                Some((Act::Exit(exit::external_interrupt(None)), Some(0)))
            }
            Due::Interrupt { acknowledged: true } => {
                let vector = self.acknowledge()?;
                if virtual_apic::notifies(&self.state, vector) {
                    self.process_posted_interrupts();
                    return Some((Act::Done, Some(vector)));
                }
                Some((Act::Exit(exit::external_interrupt(Some(vector))), Some(vector)))
            }
            Due::VirtualInterrupt => {
                let vector = self.with_core(|core, _| virtual_apic::take_interrupt(core));
                Some((Act::Deliver(vector), None))
            }
        }
    }

    /// An interrupt tells of others that are posted: it ends, and they become virtual ones.
    fn process_posted_interrupts(&mut self) {
        let index = self.surroundings.index;
        self.surroundings.settle_end_of_interrupt();
        self.surroundings.chipset(|chipset, _| chipset.end_interrupt(index));
        self.with_core(|core, _| virtual_apic::process_posted(core));
    }

    /// Whether something waits for IF to be set, or for NMIs to be possible.
    pub(crate) fn waits_for_interrupts(&self) -> bool {
        let interrupt = self.surroundings.pending.interrupt && !self.events.is_replayed();
        let vmx = &self.state.vmx;
        interrupt || vmx.interceptions.windows() || vmx.virtual_apic.interrupt
    }

    /// Whether an interrupt reaches a processor that is halted.
    pub(crate) fn halt_ends_by_interrupt(&mut self) -> bool {
        if let Some(vcpu) = self.on_hardware() {
            return vcpu.interrupt_flag();
        }
        self.state.rflags & rflags::IF != 0 || self.state.vmx.interceptions.external_interrupts()
    }

    /// Under the monitor trap flag one instruction is executed, and a VM exit is due after it.
    pub(crate) fn step_under_monitor_trap(&mut self) -> Option<Step> {
        if !self.state.vmx.interceptions.monitor_trap_flag() {
            return None;
        }
        let step = self.with_core(|core, accelerator| accelerator.step(core));
        if step != Step::Pending && self.state.vmx.non_root() {
            self.state.vmx.monitor_trap_pending = true;
        }
        Some(step)
    }
}
