//! The guest's state: loaded by VM entries (SDM vol. 3, 27.3.2), saved by VM exits (28.3).

use crate::capabilities::PREEMPTION_TIMER_RATE;
use gasang_cpu::{Activity, DescriptorTable, SegmentRegister, Shadow, VcpuState, Vmcs};
use gasang_x86::control::{cr0, debug, efer};
use gasang_x86::descriptor::access;
use gasang_x86::vmx::Field;
use gasang_x86::vmx::controls::{
    activity, entry, exit, interruptibility, interruption, pending_debug, primary, secondary,
};
use gasang_x86::{gpr, rflags, segment};

/// Bits of CR0 that neither entries nor exits load (SDM vol. 3, 27.3.2.1, 28.5.1).
pub(crate) const CR0_KEPT: u64 =
    !(cr0::PE | cr0::MP | cr0::EM | cr0::TS | cr0::NE | cr0::WP | cr0::AM | cr0::PG);
/// DR7 as an entry loads it: bits 12, 14 and 15 become 0.
const DR7_CLEARED: u64 = 1 << 12 | 1 << 14 | 1 << 15;

/// The four fields of a segment register: selector, base, limit, access rights.
pub(crate) type SegmentFields = (Field, Field, Field, Field);

macro_rules! segment_fields {
    ($selector:ident $base:ident $limit:ident $rights:ident) => {
        (Field::$selector, Field::$base, Field::$limit, Field::$rights)
    };
}

/// Of ES, CS, SS, DS, FS, GS in encoding order.
pub(crate) const SEGMENTS: [SegmentFields; 6] = [
    segment_fields!(GuestEsSelector GuestEsBase GuestEsLimit GuestEsAccessRights),
    segment_fields!(GuestCsSelector GuestCsBase GuestCsLimit GuestCsAccessRights),
    segment_fields!(GuestSsSelector GuestSsBase GuestSsLimit GuestSsAccessRights),
    segment_fields!(GuestDsSelector GuestDsBase GuestDsLimit GuestDsAccessRights),
    segment_fields!(GuestFsSelector GuestFsBase GuestFsLimit GuestFsAccessRights),
    segment_fields!(GuestGsSelector GuestGsBase GuestGsLimit GuestGsAccessRights),
];
pub(crate) const LDTR: SegmentFields =
    segment_fields!(GuestLdtrSelector GuestLdtrBase GuestLdtrLimit GuestLdtrAccessRights);
pub(crate) const TR: SegmentFields =
    segment_fields!(GuestTrSelector GuestTrBase GuestTrLimit GuestTrAccessRights);
/// The page-directory-pointer-table entries.
pub(crate) const PDPTES: [Field; 4] =
    [Field::GuestPdpte0, Field::GuestPdpte1, Field::GuestPdpte2, Field::GuestPdpte3];

/// The secondary controls as they count: 0 unless they are activated.
pub(crate) fn secondary_controls(vmcs: &Vmcs) -> u32 {
    let activated = vmcs.get32(Field::PrimaryControls) & primary::ACTIVATE_SECONDARY_CONTROLS != 0;
    if activated { vmcs.get32(Field::SecondaryControls) } else { 0 }
}

fn load_segment(vmcs: &Vmcs, fields: SegmentFields) -> SegmentRegister {
    let (selector, base, limit, rights) = fields;
    let attributes = vmcs.get32(rights);
    // Of an unusable segment only the DPL means anything: that of SS is CPL.
    let kept = if attributes & access::UNUSABLE != 0 { access::UNUSABLE | access::DPL } else { u32::MAX };
    SegmentRegister {
        selector: vmcs.get(selector) as u16,
        base: vmcs.get(base),
        limit: vmcs.get32(limit),
        attributes: attributes & kept,
    }
}

fn save_segment(vmcs: &mut Vmcs, fields: SegmentFields, register: &SegmentRegister) {
    let (selector, base, limit, rights) = fields;
    vmcs.set(selector, u64::from(register.selector));
    vmcs.set(base, register.base);
    vmcs.set(limit, u64::from(register.limit));
    vmcs.set(rights, u64::from(register.attributes));
}

/// Load the guest's state from the current VMCS, which was checked. `pdptes` are what PAE paging uses, from wherever they
/// came.
pub fn load_guest(state: &mut VcpuState, pdptes: [u64; 4]) {
    load_control_registers(state);
    state.pdpte = pdptes;
    for (register, fields) in state.segment.iter_mut().zip(SEGMENTS) {
        *register = load_segment(&state.vmx.vmcs, fields);
    }
    let vmcs = &state.vmx.vmcs;
    // CS is never unusable: nothing checks the bit, and nothing heeds it.
    state.segment[segment::CS].attributes = vmcs.get32(CS.3) & !access::UNUSABLE;
    state.ldtr = load_segment(vmcs, LDTR);
    state.tr = load_segment(vmcs, TR);
    let table = |base, limit| DescriptorTable { base: vmcs.get(base), limit: vmcs.get(limit) as u16 };
    state.gdtr = table(Field::GuestGdtrBase, Field::GuestGdtrLimit);
    state.idtr = table(Field::GuestIdtrBase, Field::GuestIdtrLimit);
    state.gpr[gpr::RSP] = vmcs.get(Field::GuestRsp);
    state.rip = vmcs.get(Field::GuestRip);
    state.rflags = vmcs.get(Field::GuestRflags);
    load_non_register_state(state);
}

fn load_control_registers(state: &mut VcpuState) {
    let vmcs = &state.vmx.vmcs;
    let controls = vmcs.get32(Field::VmEntryControls);
    state.cr0 = vmcs.get(Field::GuestCr0) & !CR0_KEPT | state.cr0 & CR0_KEPT;
    state.cr3 = vmcs.get(Field::GuestCr3);
    state.cr4 = vmcs.get(Field::GuestCr4);
    if controls & entry::LOAD_DEBUG_CONTROLS != 0 {
        state.dr[7] = vmcs.get(Field::GuestDr7) & !DR7_CLEARED | debug::DR7_FIXED;
    }
    state.msr.sysenter_cs = vmcs.get(Field::GuestSysenterCs);
    state.msr.sysenter_esp = vmcs.get(Field::GuestSysenterEsp);
    state.msr.sysenter_eip = vmcs.get(Field::GuestSysenterEip);
    if controls & entry::LOAD_PAT != 0 {
        state.msr.pat = vmcs.get(Field::GuestPat);
    }
    if controls & entry::LOAD_EFER != 0 {
        state.efer = vmcs.get(Field::GuestEfer);
        return;
    }
    let long = controls & entry::IA32E_MODE_GUEST != 0;
    let follows = if state.cr0 & cr0::PG != 0 { efer::LMA | efer::LME } else { efer::LMA };
    state.efer = if long { state.efer | follows } else { state.efer & !follows };
}

fn load_non_register_state(state: &mut VcpuState) {
    let vmcs = &state.vmx.vmcs;
    state.activity = match vmcs.get(Field::GuestActivityState) {
        activity::HLT => Activity::Halted,
        activity::WAIT_FOR_SIPI => Activity::WaitForSipi,
        _ => Activity::Active,
    };
    let blocking = vmcs.get32(Field::GuestInterruptibilityState);
    state.shadow = if blocking & interruptibility::BLOCKING_BY_MOV_SS != 0 {
        Shadow::MovSs
    } else if blocking & interruptibility::BLOCKING_BY_STI != 0 {
        Shadow::Sti
    } else {
        Shadow::None
    };
    // Under virtual NMIs it is they that are blocked; physical ones are not.
    state.nmi_blocked = blocking & interruptibility::BLOCKING_BY_NMI != 0;
    state.pending_debug = pending_debug(vmcs);
}

/// The debug exceptions that are pending after an entry (SDM vol. 3, 27.7.3): an injected event takes their place, unless
/// MOV SS holds them back from a software interrupt; and a processor that waits in shutdown or for a SIPI has none.
fn pending_debug(vmcs: &Vmcs) -> u64 {
    let injected = vmcs.get32(Field::VmEntryInterruptionInformation);
    let blocking = vmcs.get32(Field::GuestInterruptibilityState);
    let held_back = blocking & interruptibility::BLOCKING_BY_MOV_SS != 0;
    let dropped = match interruption::kind(injected) {
        _ if !interruption::valid(injected) => {
            matches!(vmcs.get(Field::GuestActivityState), activity::SHUTDOWN | activity::WAIT_FOR_SIPI)
        }
        interruption::OTHER_EVENT => false,
        interruption::SOFTWARE_INTERRUPT | interruption::SOFTWARE_EXCEPTION => !held_back,
        _ => true,
    };
    let pending = vmcs.get(Field::GuestPendingDebugExceptions);
    match pending & pending_debug::ENABLED_BREAKPOINT {
        _ if dropped => 0,
        0 => pending & pending_debug::BS,
        _ => pending & (PENDING_BREAKPOINTS | pending_debug::BS),
    }
}

const PENDING_BREAKPOINTS: u64 =
    pending_debug::B0 | pending_debug::B1 | pending_debug::B2 | pending_debug::B3;

/// Save the guest's state to the current VMCS.
pub fn save_guest(state: &mut VcpuState) {
    save_control_registers(state);
    let vmcs = &mut *state.vmx.vmcs;
    for (register, fields) in state.segment.iter().zip(SEGMENTS) {
        save_segment(vmcs, fields, register);
    }
    save_segment(vmcs, LDTR, &state.ldtr);
    save_segment(vmcs, TR, &state.tr);
    vmcs.set(Field::GuestGdtrBase, state.gdtr.base);
    vmcs.set(Field::GuestGdtrLimit, u64::from(state.gdtr.limit));
    vmcs.set(Field::GuestIdtrBase, state.idtr.base);
    vmcs.set(Field::GuestIdtrLimit, u64::from(state.idtr.limit));
    vmcs.set(Field::GuestRsp, state.gpr[gpr::RSP]);
    vmcs.set(Field::GuestRip, state.rip);
    vmcs.set(Field::GuestRflags, state.rflags);
    save_non_register_state(state);
}

fn save_control_registers(state: &mut VcpuState) {
    let long = if state.long_mode() { entry::IA32E_MODE_GUEST } else { 0 };
    let vmcs = &mut *state.vmx.vmcs;
    let controls = vmcs.get32(Field::VmExitControls);
    vmcs.set(Field::GuestCr0, state.cr0);
    vmcs.set(Field::GuestCr3, state.cr3);
    vmcs.set(Field::GuestCr4, state.cr4);
    if controls & exit::SAVE_DEBUG_CONTROLS != 0 {
        vmcs.set(Field::GuestDr7, state.dr[7]);
        // No branches are recorded: IA32_DEBUGCTL always reads as 0.
        vmcs.set(Field::GuestDebugctl, 0);
    }
    vmcs.set(Field::GuestSysenterCs, state.msr.sysenter_cs);
    vmcs.set(Field::GuestSysenterEsp, state.msr.sysenter_esp);
    vmcs.set(Field::GuestSysenterEip, state.msr.sysenter_eip);
    if controls & exit::SAVE_PAT != 0 {
        vmcs.set(Field::GuestPat, state.msr.pat);
    }
    if controls & exit::SAVE_EFER != 0 {
        vmcs.set(Field::GuestEfer, state.efer);
    }
    // IA32_VMX_MISC[5]: exits keep the control in step with the guest, which may have changed its mode.
    let entry_controls = vmcs.get32(Field::VmEntryControls) & !entry::IA32E_MODE_GUEST;
    vmcs.set(Field::VmEntryControls, u64::from(entry_controls | long));
    if secondary_controls(vmcs) & secondary::ENABLE_EPT != 0 {
        for (field, entry) in PDPTES.into_iter().zip(state.pdpte) {
            vmcs.set(field, entry);
        }
    }
}

fn save_non_register_state(state: &mut VcpuState) {
    let vmcs = &mut *state.vmx.vmcs;
    let activity = match state.activity {
        Activity::Active => activity::ACTIVE,
        Activity::Halted => activity::HLT,
        Activity::Shutdown => activity::SHUTDOWN,
        Activity::WaitForSipi => activity::WAIT_FOR_SIPI,
    };
    vmcs.set(Field::GuestActivityState, activity);
    let shadow = match state.shadow {
        Shadow::None => 0,
        Shadow::Sti => interruptibility::BLOCKING_BY_STI,
        Shadow::MovSs => interruptibility::BLOCKING_BY_MOV_SS,
    };
    let nmi = if state.nmi_blocked { interruptibility::BLOCKING_BY_NMI } else { 0 };
    vmcs.set(Field::GuestInterruptibilityState, u64::from(shadow | nmi));
    // A single step that blocking holds back stays pending; VM entries want it so (SDM vol. 3, 27.3.1.5).
    let stepping = state.rflags & rflags::TF != 0 && state.shadow != Shadow::None;
    let step = if stepping { pending_debug::BS } else { 0 };
    let pending = state.pending_debug & (PENDING_BREAKPOINTS | pending_debug::BS) | step;
    let enabled = if pending & PENDING_BREAKPOINTS != 0 { pending_debug::ENABLED_BREAKPOINT } else { 0 };
    vmcs.set(Field::GuestPendingDebugExceptions, pending | enabled);
}

/// The platform's time-stamp counter at which a VMX-preemption timer of `value` expires (SDM vol. 3, 26.5.1).
pub(crate) fn preemption_deadline(counter: u64, value: u32) -> u64 {
    (counter >> PREEMPTION_TIMER_RATE).wrapping_add(u64::from(value)) << PREEMPTION_TIMER_RATE
}

/// What is left of the timer.
pub(crate) fn preemption_rest(counter: u64, deadline: u64) -> u32 {
    let rest = (deadline >> PREEMPTION_TIMER_RATE).saturating_sub(counter >> PREEMPTION_TIMER_RATE);
    u32::try_from(rest).unwrap_or(u32::MAX)
}

/// Code segment register of the state, for those who look at its attributes.
pub(crate) const CS: SegmentFields = SEGMENTS[segment::CS];
/// Stack segment register.
pub(crate) const SS: SegmentFields = SEGMENTS[segment::SS];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_counts_in_its_rate() {
        let deadline = preemption_deadline(0x1000, 3);
        assert_eq!(deadline, 0x1060);
        assert_eq!(preemption_rest(0x1000, deadline), 3);
        assert_eq!(preemption_rest(0x103f, deadline), 2);
        assert_eq!(preemption_rest(0x2000, deadline), 0);
    }
}
