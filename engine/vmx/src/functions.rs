//! VM functions: what VMFUNC does in VMX non-root operation without a VM exit, at any privilege (SDM vol. 3, 26.5.6).

use crate::capabilities::{Capabilities, EPTP_SWITCHING};
use crate::{ept_pointer, translations};
use gasang_cpu::{Core, Exception, Trap, VmExit};
use gasang_x86::gpr;
use gasang_x86::vmx::controls::secondary;
use gasang_x86::vmx::{ExitReason, Field};

/// Functions that the VM-function controls have bits for.
const FUNCTIONS: u32 = 64;
/// EPT pointers in the list.
const POINTERS: u32 = 512;

/// VMFUNC, by the function in EAX.
///
/// # Errors
/// #UD without the control and for functions that cannot be; `VmExit` for one that is not enabled or that refuses.
pub fn vmfunc(core: &mut Core<'_>, capabilities: &Capabilities) -> Result<(), Trap> {
    let enabled = core.state.vmx.interceptions.secondary & secondary::ENABLE_VM_FUNCTIONS != 0;
    let function = core.state.gpr[gpr::RAX] as u32;
    if !core.state.vmx.non_root() || !enabled || function >= FUNCTIONS {
        return Err(Exception::invalid_opcode().into());
    }
    let enabled = core.state.vmx.vmcs.get(Field::VmFunctionControls) & 1 << function;
    let pointer = if enabled == EPTP_SWITCHING { listed_pointer(core, capabilities) } else { None };
    let Some(pointer) = pointer else {
        return Err(core.state.exit(VmExit::of_instruction(ExitReason::Vmfunc)));
    };
    switch(core, pointer);
    Ok(())
}

/// The EPT pointer that ECX selects; None for an entry that VM entry would refuse.
fn listed_pointer(core: &Core<'_>, capabilities: &Capabilities) -> Option<u64> {
    let index = core.state.gpr[gpr::RCX] as u32;
    if index >= POINTERS {
        return None;
    }
    let place = core.state.vmx.vmcs.get(Field::EptpListAddress) + u64::from(index) * 8;
    let mut entry = [0xff; 8];
    // What is not RAM reads as ones, which is no EPT pointer.
    let _ = core.memory.read_physical(place, &mut entry);
    let pointer = u64::from_le_bytes(entry);
    ept_pointer::check(pointer, capabilities).is_ok().then_some(pointer)
}

/// EPTP switching (SDM vol. 3, 26.5.6.3): guest-physical addresses are another's from now on. Nothing is invalidated, and
/// the page-directory-pointer entries of PAE paging stay.
fn switch(core: &mut Core<'_>, pointer: u64) {
    let index = core.state.gpr[gpr::RCX] & 0xffff;
    core.state.vmx.vmcs.set(Field::EptPointer, pointer);
    if core.state.vmx.interceptions.secondary & secondary::EPT_VIOLATION_EXCEPTION != 0 {
        core.state.vmx.vmcs.set(Field::EptpIndex, index);
    }
    translations::change_owner(core);
}
