//! What of its surroundings makes a processor leave VMX non-root operation: INIT, start-up IPIs, NMIs, interrupts, windows
//! for them, the VMX-preemption timer and the monitor trap flag (SDM vol. 3, 26.2, 27.7).

use crate::processor::Processor;
use gasang_cpu::{Activity, Shadow, Trap, VmExit};
use gasang_exec::Step;
use gasang_vmx::exit;
use gasang_x86::rflags;
use gasang_x86::vmx::controls::{exit as exit_controls, pin, primary};
use gasang_x86::vmx::{ExitReason, Field};

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

    /// What is due, in the order of priority.
    fn vm_exit_due(&mut self) -> Option<VmExit> {
        if std::mem::take(&mut self.state.vmx.monitor_trap_pending) {
            return Some(VmExit::new(ExitReason::MonitorTrapFlag));
        }
        let index = self.surroundings.index;
        if self.surroundings.pending.init
            && self.surroundings.chipset(|chipset, _| chipset.take_init(index, false))
        {
            return Some(VmExit::new(ExitReason::InitSignal));
        }
        if self.state.activity == Activity::WaitForSipi {
            let vector = self.surroundings.chipset(|chipset, _| chipset.take_start_up(index))?;
            return Some(VmExit::new(ExitReason::StartUpIpi).qualified(u64::from(vector)));
        }
        if self.state.vmx.preemption_deadline.is_some_and(|at| self.surroundings.shared.clock.now() >= at) {
            return Some(VmExit::new(ExitReason::PreemptionTimerExpired));
        }
        self.nmi_exit().or_else(|| self.interrupt_exit())
    }

    fn nmi_exit(&mut self) -> Option<VmExit> {
        let vmx = &self.state.vmx;
        let held_back = self.state.shadow == Shadow::MovSs;
        let window = vmx.interceptions.primary & primary::NMI_WINDOW_EXITING != 0;
        if window && !self.state.nmi_blocked && !held_back {
            return Some(VmExit::new(ExitReason::NmiWindow));
        }
        let exits = vmx.interceptions.pin & pin::NMI_EXITING != 0;
        if !exits || !self.surroundings.pending.nmi || !self.nmi_allowed() {
            return None;
        }
        let index = self.surroundings.index;
        self.surroundings.chipset(|chipset, _| chipset.take_nmi(index)).then(exit::nmi)
    }

    fn interrupt_exit(&mut self) -> Option<VmExit> {
        let vmx = &self.state.vmx;
        let held_back = self.state.shadow != Shadow::None;
        let window = vmx.interceptions.primary & primary::INTERRUPT_WINDOW_EXITING != 0;
        if window && !held_back && self.state.rflags & rflags::IF != 0 {
            return Some(VmExit::new(ExitReason::InterruptWindow));
        }
        let exits = vmx.interceptions.pin & pin::EXTERNAL_INTERRUPT_EXITING != 0;
        if !exits || held_back || !self.surroundings.pending.interrupt {
            return None;
        }
        let acknowledged = vmx.vmcs.get32(Field::VmExitControls) & exit_controls::ACKNOWLEDGE_INTERRUPT != 0;
        if !acknowledged {
            return Some(exit::external_interrupt(None));
        }
        self.acknowledge().map(|vector| exit::external_interrupt(Some(vector)))
    }

    /// Whether something waits for IF to be set, or for NMIs to be possible.
    pub(crate) fn waits_for_interrupts(&self) -> bool {
        let windows = primary::INTERRUPT_WINDOW_EXITING | primary::NMI_WINDOW_EXITING;
        self.surroundings.pending.interrupt || self.state.vmx.interceptions.primary & windows != 0
    }

    /// Whether an interrupt reaches a processor that is halted.
    pub(crate) fn halt_ends_by_interrupt(&self) -> bool {
        let exits = self.state.vmx.interceptions.pin & pin::EXTERNAL_INTERRUPT_EXITING != 0;
        self.state.rflags & rflags::IF != 0 || exits
    }

    /// Under the monitor trap flag one instruction is executed, and a VM exit is due after it.
    pub(crate) fn step_under_monitor_trap(&mut self) -> Option<Step> {
        if self.state.vmx.interceptions.primary & primary::MONITOR_TRAP_FLAG == 0 {
            return None;
        }
        let step = self.with_core(|core, accelerator| accelerator.step(core));
        if step != Step::Pending && self.state.vmx.non_root() {
            self.state.vmx.monitor_trap_pending = true;
        }
        Some(step)
    }
}
