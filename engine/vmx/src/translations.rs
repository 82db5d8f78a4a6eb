//! What VMX transitions and INVEPT, INVVPID do to the TLB (SDM vol. 3, 29.4.3). Its spaces are told apart by PCID alone
//! as yet, so that whatever could be stale is forgotten with all the rest.

use gasang_cpu::Core;
use gasang_x86::control::{cr3, cr4};

/// A VM entry or exit has loaded CR3: make its address space the current one, and forget what belongs to another.
pub(crate) fn select_space(core: &mut Core<'_>) {
    let pcids = core.state.cr4 & cr4::PCIDE != 0;
    core.tlb.select(if pcids { (core.state.cr3 & cr3::PCID) as u16 } else { 0 });
    // Without VPIDs the manual has transitions invalidate everything. With them translations may stay only where
    // spaces are told apart by VPID and EPT pointer.
    core.tlb.flush_all();
}

/// Forget all translations that an INVEPT or INVVPID could mean.
pub(crate) fn forget(core: &mut Core<'_>) {
    core.tlb.flush_all();
}
