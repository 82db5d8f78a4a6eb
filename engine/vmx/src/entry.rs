//! VM entries (SDM vol. 3, chapter 27): VMLAUNCH and VMRESUME.

use crate::capabilities::Capabilities;
use crate::checks::{self, Check, Facts, Group};
use crate::exit::return_to_host;
use crate::guest_state::{load_guest, preemption_deadline, secondary_controls};
use crate::instructions::{Outcome, check_operation, fail};
use crate::journal;
use crate::msr_lists::{self, Area};
use crate::translations;
use gasang_cpu::{Core, Interceptions, Interruption, Operation, Trap, VcpuState, Vmcs};
use gasang_x86::vmx::controls::{interruption, pin, primary, secondary};
use gasang_x86::vmx::{ExitReason, Field, InstructionError, exit_reason};

/// How VMLAUNCH or VMRESUME ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// The instruction failed and the next follows; which check failed, if one did. The flags are the caller's.
    Failed(Outcome, Option<Check>),
    /// The entry failed after its checks of controls and host state: the state is the host's, as after a VM exit.
    Returned(Refusal),
    /// The processor is in VMX non-root operation. `inject` comes before the guest's first instruction.
    Guest,
}

/// Why an entry failed that had passed its first checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The guest's state.
    Guest(Check),
    /// An MSR could not be loaded: the number of the entry, from 1.
    Msr(u64),
}

impl Refusal {
    /// Exit reason and qualification.
    fn told(self) -> (ExitReason, u64) {
        match self {
            Refusal::Guest(check) => (ExitReason::InvalidGuestState, check.qualification()),
            Refusal::Msr(number) => (ExitReason::MsrLoading, number),
        }
    }
}

/// VMLAUNCH (`launch`) or VMRESUME. `blocked_by_mov_ss` says whether the instruction before was MOV SS or POP SS. After
/// `Guest` and `Returned` all of the state is another's, RIP and flags too.
///
/// # Errors
/// #UD, #GP(0); `Shutdown` for a VMX abort.
pub fn enter(
    core: &mut Core<'_>,
    capabilities: &Capabilities,
    launch: bool,
    blocked_by_mov_ss: bool,
) -> Result<Entered, Trap> {
    check_operation(core)?;
    let failed = |core: &mut Core<'_>, error, check| Ok(Entered::Failed(fail(core, error), check));
    let Some(current) = core.state.vmx.current.filter(|_| !core.state.vmx.vmcs.shadow) else {
        return Ok(Entered::Failed(Outcome::FailInvalid, None));
    };
    if blocked_by_mov_ss {
        return failed(core, InstructionError::BlockedByMovSs, None);
    }
    match (launch, core.state.vmx.vmcs.launched) {
        (true, true) => return failed(core, InstructionError::VmlaunchNotClear, None),
        (false, false) => return failed(core, InstructionError::VmresumeNotLaunched, None),
        _ => {}
    }
    let facts = Facts { memory: core.memory, long_mode: core.state.long_mode(), current };
    if let Err(check) = checks::controls_and_host(&core.state.vmx.vmcs, capabilities, &facts) {
        let error = match check.group() {
            Group::Host => InstructionError::InvalidHostStateField,
            Group::Controls | Group::Guest => InstructionError::InvalidControlField,
        };
        return failed(core, error, Some(check));
    }
    match checks::guest(&core.state.vmx.vmcs, capabilities, &facts) {
        Ok(pdptes) => load(core, pdptes, launch),
        Err(check) => give_up(core, Refusal::Guest(check)),
    }
}

/// Load the guest's state and MSRs, and be in non-root operation.
fn load(core: &mut Core<'_>, pdptes: [u64; 4], launch: bool) -> Result<Entered, Trap> {
    let nmi_blocked = core.state.nmi_blocked;
    load_guest(core.state, pdptes);
    if let Err(bad) = msr_lists::process(core, Area::EntryLoad) {
        core.state.nmi_blocked = nmi_blocked;
        return give_up(core, Refusal::Msr(bad.0));
    }
    core.state.vmx.vmcs.launched |= launch;
    begin(core);
    translations::select_space(core);
    journal::entered(core);
    Ok(Entered::Guest)
}

/// What counts while the guest runs.
fn begin(core: &mut Core<'_>) {
    let vmx = &mut core.state.vmx;
    let vmcs = &vmx.vmcs;
    let injected = vmcs.get32(Field::VmEntryInterruptionInformation);
    let valid = interruption::valid(injected);
    let other = interruption::kind(injected) == interruption::OTHER_EVENT;
    let event = Interruption {
        information: injected,
        error_code: vmcs.get32(Field::VmEntryExceptionErrorCode),
        instruction_length: instruction_length(vmcs, injected),
    };
    let timer = vmcs.get32(Field::VmxPreemptionTimerValue);
    vmx.operation = Operation::NonRoot;
    vmx.interceptions = interceptions(vmcs);
    vmx.pending_exit = None;
    vmx.pause_loop = None;
    vmx.delivering = None;
    vmx.injection = (valid && !other).then_some(event);
    vmx.monitor_trap_pending = valid && other;
    let timed = vmx.interceptions.pin & pin::ACTIVATE_PREEMPTION_TIMER != 0;
    vmx.preemption_deadline = timed.then(|| preemption_deadline(core.platform.time_stamp_counter(), timer));
    offset_time(core.state);
}

/// The guest's time-stamp counter (SDM vol. 3, 26.3, "RDTSC").
fn offset_time(state: &mut VcpuState) {
    let vmcs = &state.vmx.vmcs;
    let Interceptions { primary, secondary, .. } = state.vmx.interceptions;
    if primary & primary::USE_TSC_OFFSETTING == 0 {
        return;
    }
    let offset = vmcs.get(Field::TscOffset);
    if secondary & secondary::USE_TSC_SCALING != 0 {
        state.vmx.tsc_scaling = Some((vmcs.get(Field::TscMultiplier), offset));
    } else {
        state.vmx.host_tsc_offset = Some(state.msr.tsc_offset);
        state.msr.tsc_offset = state.msr.tsc_offset.wrapping_add(offset);
    }
}

/// The length counts for events that instructions cause.
fn instruction_length(vmcs: &Vmcs, injected: u32) -> u32 {
    let by_instruction = interruption::kind(injected) >= interruption::SOFTWARE_INTERRUPT;
    if by_instruction { vmcs.get32(Field::VmEntryInstructionLength) } else { 0 }
}

/// What causes VM exits under a VMCS.
pub fn interceptions(vmcs: &Vmcs) -> Interceptions {
    let primary = vmcs.get32(Field::PrimaryControls);
    let tertiary = primary & primary::ACTIVATE_TERTIARY_CONTROLS != 0;
    Interceptions {
        exceptions: vmcs.get32(Field::ExceptionBitmap),
        page_fault_mask: vmcs.get32(Field::PageFaultErrorCodeMask),
        page_fault_match: vmcs.get32(Field::PageFaultErrorCodeMatch),
        pin: vmcs.get32(Field::PinBasedControls),
        primary,
        secondary: secondary_controls(vmcs),
        tertiary: if tertiary { vmcs.get(Field::TertiaryControls) } else { 0 },
    }
}

/// Deliver the event that the entry injects, if it is not delivered yet (SDM vol. 3, 27.6.1).
///
/// # Errors
/// `VmExit` if its delivery causes one; `Pending`: call again when the answer is there.
pub fn inject(core: &mut Core<'_>) -> Result<(), Trap> {
    let Some(event) = core.state.vmx.injection else { return Ok(()) };
    let delivered = core.inject(event);
    if delivered != Err(Trap::Pending) {
        core.state.vmx.injection = None;
    }
    if delivered.is_ok() {
        // The event counts as the first instruction (SDM vol. 3, 26.5.2).
        core.state.vmx.monitor_trap_pending |= core.state.vmx.interceptions.monitor_trap_flag();
    }
    delivered
}

/// A VM entry that fails late (SDM vol. 3, 27.8): told as a VM exit, but no guest state is saved, the event to inject
/// stays valid, and the launch state does not change.
fn give_up(core: &mut Core<'_>, refusal: Refusal) -> Result<Entered, Trap> {
    let (reason, qualification) = refusal.told();
    let vmcs = &mut core.state.vmx.vmcs;
    vmcs.set(Field::ExitReason, u64::from(exit_reason::ENTRY_FAILURE | u32::from(reason.number())));
    vmcs.set(Field::ExitQualification, qualification);
    return_to_host(core)?;
    Ok(Entered::Returned(refusal))
}
