//! Transitions are counted, and noted for whoever watches.

use gasang_cpu::{Core, Transition, TransitionKind};
use gasang_x86::vmx::Field;

/// A VM entry has succeeded.
pub(crate) fn entered(core: &mut Core<'_>) {
    core.state.vmx.transitions.entries += 1;
    let Some(mut journal) = core.state.vmx.journal.take() else { return };
    let transition = transition(core, TransitionKind::Entry);
    journal.note(transition, &core.state.vmx.vmcs);
    core.state.vmx.journal = Some(journal);
}

/// A VM exit has saved the guest's state, or a VM entry has failed late; the VMCS tells why.
pub(crate) fn left(core: &mut Core<'_>) {
    let vmcs = &core.state.vmx.vmcs;
    let (reason, rip) = (vmcs.get32(Field::ExitReason), vmcs.get(Field::GuestRip));
    let qualification = vmcs.get(Field::ExitQualification);
    core.state.vmx.transitions.exit(reason);
    let Some(mut journal) = core.state.vmx.journal.take() else { return };
    let transition = Transition { rip, reason, qualification, ..transition(core, TransitionKind::Exit) };
    journal.note(transition, &core.state.vmx.vmcs);
    core.state.vmx.journal = Some(journal);
}

fn transition(core: &mut Core<'_>, kind: TransitionKind) -> Transition {
    Transition {
        kind,
        vmcs: core.state.vmx.current.unwrap_or(u64::MAX),
        time: core.platform.time_stamp_counter(),
        instructions: core.state.instructions,
        rip: core.state.rip,
        reason: 0,
        qualification: 0,
        changed: Vec::new(),
    }
}
