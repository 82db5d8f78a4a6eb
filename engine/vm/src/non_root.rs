//! What of its surroundings makes a processor leave VMX non-root operation: INIT, start-up IPIs, NMIs and interrupts. What
//! is due, and when, is `gasang_vmx`'s.

use crate::processor::{Processor, Unfinished};
use gasang_cpu::{Trap, VmExit};
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
    /// Do what is due before the guest's next instruction. None if there is nothing.
    pub(crate) fn act_in_non_root(&mut self) -> Option<Step> {
        match self.act_due()? {
            Act::Exit(due) => {
                let Trap::VmExit = self.state.exit(due) else { return None };
                self.surroundings.answers.commit();
                // A VMX abort leaves the processor in shutdown, where the run loop finds it.
                let _ = self.with_core(|core, _| exit::leave(core));
                Some(Step::Retired)
            }
            Act::Deliver(vector) => {
                self.surroundings.answers.commit();
                Some(self.deliver(Unfinished::Interrupt(vector)))
            }
            // And it may have made something else due.
            Act::Done => self.act_in_non_root().or(Some(Step::Retired)),
        }
    }

    /// What is due; its signal is taken.
    fn act_due(&mut self) -> Option<Act> {
        let pending = self.surroundings.pending;
        let waiting = Signals {
            init: pending.init,
            start_up: pending.start_up.is_some(),
            nmi: pending.nmi,
            interrupt: pending.interrupt,
        };
        let due = intercept::due(&self.state, waiting, || self.surroundings.shared.clock.now())?;
        let index = self.surroundings.index;
        match due {
            Due::Exit(exit) => Some(Act::Exit(exit)),
            Due::Init => {
                let taken = self.surroundings.chipset(|chipset, _| chipset.take_init(index, false));
                taken.then(|| Act::Exit(exit::init()))
            }
            Due::StartUp => {
                let vector = self.surroundings.chipset(|chipset, _| chipset.take_start_up(index));
                vector.map(|vector| Act::Exit(exit::start_up(vector)))
            }
            Due::Nmi => {
                let taken = self.surroundings.chipset(|chipset, _| chipset.take_nmi(index));
                taken.then(|| Act::Exit(exit::nmi()))
            }
            Due::Interrupt { acknowledged: false } => Some(Act::Exit(exit::external_interrupt(None))),
            Due::Interrupt { acknowledged: true } => {
                let vector = self.acknowledge()?;
                if virtual_apic::notifies(&self.state, vector) {
                    self.process_posted_interrupts();
                    return Some(Act::Done);
                }
                Some(Act::Exit(exit::external_interrupt(Some(vector))))
            }
            Due::VirtualInterrupt => {
                Some(Act::Deliver(self.with_core(|core, _| virtual_apic::take_interrupt(core))))
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
        let vmx = &self.state.vmx;
        self.surroundings.pending.interrupt || vmx.interceptions.windows() || vmx.virtual_interrupt
    }

    /// Whether an interrupt reaches a processor that is halted.
    pub(crate) fn halt_ends_by_interrupt(&self) -> bool {
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
