//! What VMX transitions and INVEPT, INVVPID do to the TLB (SDM vol. 3, 29.4.3).

use gasang_cpu::{Core, Owner, VcpuState, Vmcs};
use gasang_x86::control::{cr3, cr4};
use gasang_x86::paging::ADDRESS;
use gasang_x86::vmx::Field;
use gasang_x86::vmx::controls::secondary;

use crate::guest_state::secondary_controls;

/// The VPID of a guest; 0 if it has none.
fn vpid(vmcs: &Vmcs) -> u16 {
    let enabled = secondary_controls(vmcs) & secondary::ENABLE_VPID != 0;
    if enabled { vmcs.get(Field::VirtualProcessorIdentifier) as u16 } else { 0 }
}

/// Whose linear addresses the processor uses now.
fn owner(state: &VcpuState) -> Owner {
    if !state.vmx.non_root() {
        return Owner::default();
    }
    let ept = state.vmx.ept_pointer().map(|pointer| pointer & ADDRESS);
    Owner { non_root: true, vpid: vpid(&state.vmx.vmcs), ept }
}

/// A VM entry or exit has loaded CR3: make its address space the current one. A guest without a VPID shares that of its
/// host, 0000H, and everything that belongs to it is invalidated.
pub(crate) fn select_space(core: &mut Core<'_>) {
    change_owner(core);
    if vpid(&core.state.vmx.vmcs) == 0 {
        core.tlb.flush_owners(|owner| owner.vpid == 0);
    }
}

/// Whose linear addresses they are has changed: with the EPT pointer, if nothing else.
pub fn change_owner(core: &mut Core<'_>) {
    let pcids = core.state.cr4 & cr4::PCIDE != 0;
    let pcid = if pcids { (core.state.cr3 & cr3::PCID) as u16 } else { 0 };
    core.tlb.change_owner(owner(core.state), pcid);
}

/// What INVEPT invalidates: of one EPT pointer, or of all.
pub(crate) fn forget_ept(core: &mut Core<'_>, pointer: Option<u64>) {
    core.tlb.flush_owners(|owner| match pointer {
        Some(pointer) => owner.ept == Some(pointer & ADDRESS),
        None => owner.ept.is_some(),
    });
}

/// What INVVPID invalidates: of one VPID, or of all but 0000H.
pub(crate) fn forget_vpid(core: &mut Core<'_>, vpid: Option<u16>) {
    core.tlb.flush_owners(|owner| vpid.map_or(owner.vpid != 0, |vpid| owner.vpid == vpid));
}
