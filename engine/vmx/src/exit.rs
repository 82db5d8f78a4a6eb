//! VM exits (SDM vol. 3, chapter 28).

use crate::guest_state::{preemption_rest, save_guest};
use crate::host_state::load_host;
use crate::msr_lists::{self, Area};
use crate::{journal, pdptes, translations, vmcs_region};
use gasang_cpu::{Activity, Core, Interceptions, Interruption, Operation, Trap, VmExit, Vmcs};
use gasang_x86::control::{cr0, cr4};
use gasang_x86::vmx::controls::{ept_violation, exit, interruption, pin};
use gasang_x86::vmx::{ExitReason, Field};
use gasang_x86::{exception as vector, rflags};

/// VMX-abort indicators (SDM vol. 3, 28.7).
pub mod abort {
    /// A guest MSR could not be stored.
    pub const MSR_STORE: u32 = 1;
    /// The host's page-directory-pointer entries are not valid.
    pub const HOST_PDPTE: u32 = 2;
    /// A host MSR could not be loaded.
    pub const MSR_LOAD: u32 = 4;
}

/// The exit that an external interrupt causes; with its vector if it is acknowledged on exit.
pub fn external_interrupt(vector: Option<u8>) -> VmExit {
    let event = |number: u8| Interruption {
        information: interruption::VALID
            | interruption::EXTERNAL_INTERRUPT << interruption::TYPE_SHIFT
            | u32::from(number),
        ..Default::default()
    };
    VmExit { interruption: vector.map(event), ..VmExit::new(ExitReason::ExternalInterrupt) }
}

/// The exit that an NMI causes.
pub fn nmi() -> VmExit {
    let information =
        interruption::VALID | interruption::NMI << interruption::TYPE_SHIFT | u32::from(vector::NMI);
    VmExit {
        interruption: Some(Interruption { information, ..Default::default() }),
        ..VmExit::new(ExitReason::ExceptionOrNmi)
    }
}

/// The exit that INIT causes; it is not pending any more then.
pub fn init() -> VmExit {
    VmExit::new(ExitReason::InitSignal)
}

/// The exit that a start-up IPI causes in the activity state that waits for it.
pub fn start_up(vector: u8) -> VmExit {
    VmExit::new(ExitReason::StartUpIpi).qualified(vector.into())
}

/// Perform the VM exit that `state.vmx.pending_exit` describes. `state` is the guest's at the exit: RIP that of the
/// instruction, or of the next for what is like a trap. Returns what the exit was; None if none is pending.
///
/// # Errors
/// `Shutdown` for a VMX abort.
pub fn leave(core: &mut Core<'_>) -> Result<Option<VmExit>, Trap> {
    let Some(exit) = core.state.vmx.pending_exit.take() else { return Ok(None) };
    let vmx = &mut core.state.vmx;
    record_information(&mut vmx.vmcs, &unblocked_by_iret(exit, vmx.iret_unblocked));
    save_guest(core.state);
    let flags = core.state.rflags & !rflags::RF | resume_flag(&exit, core.state.rflags);
    core.state.vmx.vmcs.set(Field::GuestRflags, flags);
    save_preemption_timer(core);
    if msr_lists::process(core, Area::ExitStore).is_err() {
        return Err(shut_down(core, abort::MSR_STORE));
    }
    let by_nmi = exit.interruption.is_some_and(|event| is_nmi(event.information));
    let virtual_nmis = core.state.vmx.vmcs.get32(Field::PinBasedControls) & pin::VIRTUAL_NMIS != 0;
    // Blocking of virtual NMIs is the guest's alone.
    core.state.nmi_blocked = by_nmi || core.state.nmi_blocked && !virtual_nmis;
    return_to_host(core)?;
    Ok(Some(exit))
}

/// A fault that IRET met after it had ended the blocking of NMIs tells so (SDM vol. 3, 28.2.2, 28.2.1).
fn unblocked_by_iret(mut exit: VmExit, unblocked: bool) -> VmExit {
    if !unblocked || exit.idt_vectoring.is_some() {
        return exit;
    }
    if matches!(exit.reason, ExitReason::EptViolation | ExitReason::PageModificationLogFull) {
        exit.qualification |= ept_violation::NMI_UNBLOCKING;
    }
    if let Some(event) = &mut exit.interruption
        && interruption::kind(event.information) == interruption::HARDWARE_EXCEPTION
        && event.information & interruption::VECTOR != u32::from(vector::DF)
    {
        event.information |= interruption::NMI_UNBLOCKING;
    }
    exit
}

fn is_nmi(information: u32) -> bool {
    interruption::kind(information) == interruption::NMI
}

/// The VM-exit information fields (SDM vol. 3, 28.2).
fn record_information(vmcs: &mut Vmcs, exit: &VmExit) {
    let event = exit.interruption.unwrap_or_default();
    let vectoring = exit.idt_vectoring.unwrap_or_default();
    for (field, value) in [
        (Field::ExitReason, u64::from(exit.reason.number())),
        (Field::ExitQualification, exit.qualification),
        (Field::GuestLinearAddress, exit.guest_linear),
        (Field::GuestPhysicalAddress, exit.guest_physical),
        (Field::VmExitInterruptionInformation, u64::from(event.information)),
        (Field::VmExitInterruptionErrorCode, u64::from(event.error_code)),
        (Field::IdtVectoringInformation, u64::from(vectoring.information)),
        (Field::IdtVectoringErrorCode, u64::from(vectoring.error_code)),
        (Field::VmExitInstructionLength, u64::from(exit.instruction_length)),
        (Field::VmExitInstructionInformation, u64::from(exit.instruction_information)),
    ] {
        vmcs.set(field, value);
    }
    let injected = vmcs.get32(Field::VmEntryInterruptionInformation);
    vmcs.set(Field::VmEntryInterruptionInformation, u64::from(injected & !interruption::VALID));
}

/// RF as it is saved (SDM vol. 3, 28.3.3).
fn resume_flag(exit: &VmExit, flags: u64) -> u64 {
    if exit.by_instruction {
        return 0;
    }
    let memory = matches!(
        exit.reason,
        ExitReason::EptViolation
            | ExitReason::EptMisconfiguration
            | ExitReason::ApicAccess
            | ExitReason::PageModificationLogFull
            | ExitReason::SubPagePermission
    );
    let event = if memory { exit.idt_vectoring } else { exit.interruption };
    match event {
        Some(event) => frame_resume_flag(event.information, flags),
        None if memory => rflags::RF,
        None => flags & rflags::RF,
    }
}

/// RF in the frame of an event: faults restart under it, software interrupts end it.
fn frame_resume_flag(information: u32, flags: u64) -> u64 {
    let number = (information & interruption::VECTOR) as u8;
    match interruption::kind(information) {
        interruption::HARDWARE_EXCEPTION if !matches!(number, vector::DB | vector::DF) => rflags::RF,
        interruption::EXTERNAL_INTERRUPT | interruption::NMI | interruption::HARDWARE_EXCEPTION => {
            flags & rflags::RF
        }
        _ => 0,
    }
}

fn save_preemption_timer(core: &mut Core<'_>) {
    let Some(deadline) = core.state.vmx.preemption_deadline.take() else { return };
    let vmcs = &mut core.state.vmx.vmcs;
    if vmcs.get32(Field::VmExitControls) & exit::SAVE_PREEMPTION_TIMER != 0 {
        let rest = preemption_rest(core.platform.time_stamp_counter(), deadline);
        vmcs.set(Field::VmxPreemptionTimerValue, u64::from(rest));
    }
}

/// The second half of a VM exit, and all of one after a failed VM entry: load the host's state and MSRs.
///
/// # Errors
/// `Shutdown` for a VMX abort.
pub(crate) fn return_to_host(core: &mut Core<'_>) -> Result<(), Trap> {
    journal::left(core);
    let vmx = &mut core.state.vmx;
    vmx.operation = Operation::Root;
    vmx.interceptions = Interceptions::default();
    vmx.delivering = None;
    vmx.injection = None;
    vmx.monitor_trap_pending = false;
    vmx.iret_unblocked = false;
    vmx.preemption_deadline = None;
    vmx.tsc_scaling = None;
    if let Some(offset) = vmx.host_tsc_offset.take() {
        core.state.msr.tsc_offset = offset;
    }
    load_host(core.state);
    let loaded = load_host_pdptes(core)
        .and_then(|()| msr_lists::process(core, Area::ExitLoad).map_err(|_| abort::MSR_LOAD));
    translations::select_space(core);
    loaded.map_err(|indicator| shut_down(core, indicator))
}

fn load_host_pdptes(core: &mut Core<'_>) -> Result<(), u32> {
    let state = &*core.state;
    if state.cr0 & cr0::PG == 0 || state.cr4 & cr4::PAE == 0 || state.long_mode() {
        return Ok(());
    }
    let entries = pdptes::read(core.memory, state.cr3).filter(pdptes::valid);
    core.state.pdpte = entries.ok_or(abort::HOST_PDPTE)?;
    Ok(())
}

/// A VMX abort (SDM vol. 3, 28.7): the processor shuts down, and the VMCS says why.
fn shut_down(core: &mut Core<'_>, indicator: u32) -> Trap {
    if let Some(address) = core.state.vmx.current {
        vmcs_region::abort(core, address, indicator);
    }
    core.state.activity = Activity::Shutdown;
    Trap::Shutdown
}
