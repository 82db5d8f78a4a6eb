//! What time and the windows between instructions cause: the VMX-preemption timer, the monitor trap flag, windows,
//! loops of PAUSE, and the guest's time-stamp counter (SDM vol. 3, 26.2, 26.3, 26.5, 27.7).

use super::control_registers::below_threshold;
use super::exit;
use gasang_cpu::{Activity, Core, Shadow, Trap, VcpuState, VmExit};
use gasang_x86::rflags;
use gasang_x86::vmx::controls::{pin, primary, secondary};
use gasang_x86::vmx::{ExitReason, Field};

/// The exit that is due before the next instruction, or before an interrupt is delivered, if one is: pending monitor trap
/// flag, preemption timer, NMI window, interrupt window, in this order. To be asked when nothing is left to inject.
pub fn due(core: &mut Core<'_>) -> Option<VmExit> {
    if !core.state.vmx.non_root() {
        return None;
    }
    if core.state.vmx.monitor_trap_pending {
        return Some(VmExit::new(ExitReason::MonitorTrapFlag));
    }
    let deadline = core.state.vmx.preemption_deadline;
    if deadline.is_some_and(|deadline| core.platform.time_stamp_counter() >= deadline) {
        return Some(VmExit::new(ExitReason::PreemptionTimerExpired));
    }
    if nmi_window(core.state) {
        return Some(VmExit::new(ExitReason::NmiWindow));
    }
    interrupt_window(core.state).then(|| VmExit::new(ExitReason::InterruptWindow))
}

/// The exit that is due after an instruction, or after an event was delivered in its place: TPR below threshold, monitor
/// trap flag.
pub fn due_after(core: &Core<'_>) -> Option<VmExit> {
    let vmx = &core.state.vmx;
    if !vmx.non_root() {
        return None;
    }
    let trap = vmx.interceptions.primary & primary::MONITOR_TRAP_FLAG != 0;
    below_threshold(core).or_else(|| trap.then(|| VmExit::new(ExitReason::MonitorTrapFlag)))
}

fn nmi_window(state: &VcpuState) -> bool {
    let wanted = state.vmx.interceptions.primary & primary::NMI_WINDOW_EXITING != 0;
    let blocked = state.nmi_blocked || state.shadow == Shadow::MovSs;
    wanted && !blocked && state.activity != Activity::WaitForSipi
}

fn interrupt_window(state: &VcpuState) -> bool {
    let wanted = state.vmx.interceptions.primary & primary::INTERRUPT_WINDOW_EXITING != 0;
    let open = state.rflags & rflags::IF != 0 && state.shadow == Shadow::None;
    wanted && open && matches!(state.activity, Activity::Active | Activity::Halted)
}

/// PAUSE: exits by PAUSE exiting, or as one of a loop at CPL 0 by PAUSE-loop exiting.
///
/// # Errors
/// `VmExit`.
pub fn pause(core: &mut Core<'_>) -> Result<(), Trap> {
    let vmx = &core.state.vmx;
    if !vmx.non_root() {
        return Ok(());
    }
    let always = vmx.interceptions.primary & primary::PAUSE_EXITING != 0;
    let loops = vmx.interceptions.secondary & secondary::PAUSE_LOOP_EXITING != 0 && core.state.cpl() == 0;
    if always || loops && is_long_loop(core) {
        return exit(core, VmExit::of_instruction(ExitReason::Pause));
    }
    Ok(())
}

/// Whether this PAUSE is one of a loop that lasts longer than PLE_Window.
fn is_long_loop(core: &mut Core<'_>) -> bool {
    let now = core.platform.time_stamp_counter();
    let vmx = &mut core.state.vmx;
    let [first, last] = vmx.pause_loop;
    let goes_on = now.wrapping_sub(last) <= vmx.vmcs.get(Field::PleGap);
    let first = if goes_on { first } else { now };
    let long = goes_on && now.wrapping_sub(first) > vmx.vmcs.get(Field::PleWindow);
    // After an exit a new loop begins.
    vmx.pause_loop = if long { [0; 2] } else { [first, now] };
    long
}

/// What RDTSC, RDTSCP and RDMSR of the time-stamp counter give: scaled and moved, where the controls say so, from the
/// counter that the hypervisor sees.
pub fn time_stamp_counter(state: &VcpuState, counter: u64) -> u64 {
    let vmx = &state.vmx;
    if vmx.interceptions.primary & primary::USE_TSC_OFFSETTING == 0 {
        return counter;
    }
    let scaled = if vmx.interceptions.secondary & secondary::USE_TSC_SCALING != 0 {
        // The multiplier is a fixed-point number with 48 bits behind the point.
        (u128::from(counter) * u128::from(vmx.vmcs.get(Field::TscMultiplier)) >> 48) as u64
    } else {
        counter
    };
    scaled.wrapping_add(vmx.vmcs.get(Field::TscOffset))
}

/// Whether external interrupts cause VM exits; with it, whether they are acknowledged then.
pub fn external_interrupts(state: &VcpuState) -> Option<bool> {
    use gasang_x86::vmx::controls::exit as controls;
    let exits = state.vmx.interceptions.pin & pin::EXTERNAL_INTERRUPT_EXITING != 0;
    let acknowledged = state.vmx.vmcs.get32(Field::VmExitControls) & controls::ACKNOWLEDGE_INTERRUPT != 0;
    exits.then_some(acknowledged)
}

/// Whether NMIs cause VM exits.
pub fn nmis(state: &VcpuState) -> bool {
    state.vmx.interceptions.pin & pin::NMI_EXITING != 0
}
