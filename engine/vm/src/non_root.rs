//! What of its surroundings makes a processor leave VMX non-root operation: INIT, start-up IPIs, NMIs and interrupts. What
//! is due, and when, is `gasang_vmx`'s.

use crate::processor::Processor;
use gasang_cpu::{Trap, VmExit};
use gasang_exec::Step;
use gasang_vmx::exit;
use gasang_vmx::intercept::{self, Due, Signals};
use gasang_x86::rflags;

impl Processor {
    /// Perform the VM exit that is due before the guest's next instruction. False if there is none.
    pub(crate) fn leave_non_root(&mut self) -> bool {
        let Some(due) = self.vm_exit_due() else { return false };
        let Trap::VmExit = self.state.exit(due) else { return false };
        self.surroundings.answers.commit();
        // A VMX abort leaves the processor in shutdown, where the run loop finds it.
        let _ = self.with_core(|core, _| exit::leave(core));
        true
    }

    /// The exit that is due; its signal is taken.
    fn vm_exit_due(&mut self) -> Option<VmExit> {
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
            Due::Exit(exit) => Some(exit),
            Due::Init => {
                self.surroundings.chipset(|chipset, _| chipset.take_init(index, false)).then(exit::init)
            }
            Due::StartUp => {
                self.surroundings.chipset(|chipset, _| chipset.take_start_up(index)).map(exit::start_up)
            }
            Due::Nmi => self.surroundings.chipset(|chipset, _| chipset.take_nmi(index)).then(exit::nmi),
            Due::Interrupt { acknowledged: false } => Some(exit::external_interrupt(None)),
            Due::Interrupt { acknowledged: true } => {
                self.acknowledge().map(|vector| exit::external_interrupt(Some(vector)))
            }
        }
    }

    /// Whether something waits for IF to be set, or for NMIs to be possible.
    pub(crate) fn waits_for_interrupts(&self) -> bool {
        self.surroundings.pending.interrupt || self.state.vmx.interceptions.windows()
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
