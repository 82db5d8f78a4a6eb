//! What comes between instructions: signals, the VMX-preemption timer, the monitor trap flag, windows; and loops of PAUSE
//! (SDM vol. 3, 26.2, 26.5, 27.7).

use super::exit;
use gasang_cpu::{Activity, Core, Interceptions, Shadow, Trap, VcpuState, VmExit};
use gasang_x86::vmx::controls::{exit as exit_controls, pin, primary, secondary};
use gasang_x86::vmx::{ExitReason, Field};

/// Which signals wait for the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signals {
    /// INIT.
    pub init: bool,
    /// A start-up IPI.
    pub start_up: bool,
    /// An NMI.
    pub nmi: bool,
    /// An external interrupt.
    pub interrupt: bool,
}

/// A VM exit that is due between two instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// One that concerns nobody else.
    Exit(VmExit),
    /// INIT is to be taken, and causes one.
    Init,
    /// A start-up IPI is.
    StartUp,
    /// An NMI is.
    Nmi,
    /// An external interrupt causes one; it is acknowledged on exit, or stays where it is.
    Interrupt {
        /// Whether it is acknowledged.
        acknowledged: bool,
    },
}

/// What is due before the guest's next instruction, in the order of priority. `counter` reads the platform's time-stamp
/// counter. To be asked when nothing is left to inject.
pub fn due(state: &VcpuState, waiting: Signals, counter: impl FnOnce() -> u64) -> Option<Due> {
    let of = |reason| Some(Due::Exit(VmExit::new(reason)));
    if state.activity == Activity::Shutdown {
        // After a VMX abort. A guest that shuts down has exited.
        return None;
    }
    if waiting.init {
        return Some(Due::Init);
    }
    if state.vmx.monitor_trap_pending {
        return of(ExitReason::MonitorTrapFlag);
    }
    if state.activity == Activity::WaitForSipi {
        return waiting.start_up.then_some(Due::StartUp);
    }
    if state.pending_debug != 0 && state.shadow != Shadow::MovSs && state.activity == Activity::Active {
        // Debug traps come first.
        return None;
    }
    if state.vmx.preemption_deadline.is_some_and(|deadline| counter() >= deadline) {
        return of(ExitReason::PreemptionTimerExpired);
    }
    let Interceptions { primary, .. } = state.vmx.interceptions;
    if primary & primary::NMI_WINDOW_EXITING != 0 && state.nmis_possible() {
        return of(ExitReason::NmiWindow);
    }
    if waiting.nmi && nmis_exit(state) {
        return Some(Due::Nmi);
    }
    if primary & primary::INTERRUPT_WINDOW_EXITING != 0 && state.interruptible() {
        return of(ExitReason::InterruptWindow);
    }
    let exits = state.vmx.interceptions.external_interrupts() && state.shadow == Shadow::None;
    let acknowledged =
        state.vmx.vmcs.get32(Field::VmExitControls) & exit_controls::ACKNOWLEDGE_INTERRUPT != 0;
    (waiting.interrupt && exits).then_some(Due::Interrupt { acknowledged })
}

/// Whether NMIs cause VM exits, and one can now. Under virtual NMIs it is they that are blocked.
fn nmis_exit(state: &VcpuState) -> bool {
    let pin = state.vmx.interceptions.pin;
    let blocked = state.nmi_blocked && pin & pin::VIRTUAL_NMIS == 0;
    pin & pin::NMI_EXITING != 0 && !blocked && state.shadow != Shadow::MovSs
}

/// PAUSE: exits by PAUSE exiting, or as one of a loop at CPL 0 by PAUSE-loop exiting.
///
/// # Errors
/// `VmExit`.
pub fn pause(core: &mut Core<'_>) -> Result<(), Trap> {
    let interceptions = &core.state.vmx.interceptions;
    let always = interceptions.primary & primary::PAUSE_EXITING != 0;
    let loops = interceptions.secondary & secondary::PAUSE_LOOP_EXITING != 0 && core.state.cpl() == 0;
    if always || loops && is_long_loop(core) {
        return exit(core, VmExit::of_instruction(ExitReason::Pause));
    }
    Ok(())
}

/// Whether this PAUSE is one of a loop that lasts longer than PLE_Window.
fn is_long_loop(core: &mut Core<'_>) -> bool {
    let now = core.platform.time_stamp_counter();
    let vmx = &mut core.state.vmx;
    let (gap, window) = (vmx.vmcs.get(Field::PleGap), vmx.vmcs.get(Field::PleWindow));
    let begun = vmx.pause_loop.filter(|[_, last]| now.saturating_sub(*last) <= gap);
    let long = begun.is_some_and(|[first, _]| now.saturating_sub(first) > window);
    // After an exit a new loop begins.
    let first = begun.filter(|_| !long).map_or(now, |[first, _]| first);
    vmx.pause_loop = Some([first, now]);
    long
}
