//! What of its surroundings makes a processor leave VMX non-root operation: INIT, start-up IPIs, NMIs and interrupts. What
//! is due, and when, is `gasang_vmx`'s.

use crate::events::{Event, NMI};
use crate::processor::{Processor, Unfinished};
use gasang_cpu::{Activity, Trap, VmExit};
use gasang_exec::Step;
use gasang_vmx::exit;
use gasang_vmx::intercept::{self, Due, Signals};
use gasang_x86::rflags;

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

    /// Perform the VM exit that is due before the guest's next instruction. False if there is none.
    pub(crate) fn leave_non_root(&mut self) -> bool {
        let Some((due, signal)) = self.vm_exit_due() else { return false };
        if let Some(vector) = signal {
            self.events.delivered(Event { instructions: self.state.instructions, vector });
        }
        let Trap::VmExit = self.state.exit(due) else { return false };
        self.surroundings.answers.commit();
        // A VMX abort leaves the processor in shutdown, where the run loop finds it.
        let _ = self.with_core(|core, _| exit::leave(core));
        true
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

    /// The exit that is due; its signal is taken. If that is one that other machines are to replay, its vector, or 0.
    fn vm_exit_due(&mut self) -> Option<(VmExit, Option<u8>)> {
        let waiting = self.signals();
        let due = intercept::due(&self.state, waiting, || self.surroundings.shared.clock.now())?;
        let index = self.surroundings.index;
        match due {
            Due::Exit(exit) => Some((exit, None)),
            Due::Init => {
                let taken = self.surroundings.chipset(|chipset, _| chipset.take_init(index, false));
                taken.then(|| (exit::init(), None))
            }
            Due::StartUp => {
                let vector = self.surroundings.chipset(|chipset, _| chipset.take_start_up(index))?;
                Some((exit::start_up(vector), None))
            }
            Due::Nmi => {
                let taken = self.surroundings.chipset(|chipset, _| chipset.take_nmi(index));
                taken.then(|| (exit::nmi(), Some(NMI)))
            }
            Due::Interrupt { acknowledged: false } => Some((exit::external_interrupt(None), Some(0))),
            Due::Interrupt { acknowledged: true } => {
                self.acknowledge().map(|vector| (exit::external_interrupt(Some(vector)), Some(vector)))
            }
        }
    }

    /// Whether something waits for IF to be set, or for NMIs to be possible.
    pub(crate) fn waits_for_interrupts(&self) -> bool {
        let interrupt = self.surroundings.pending.interrupt && !self.events.is_replayed();
        interrupt || self.state.vmx.interceptions.windows()
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
