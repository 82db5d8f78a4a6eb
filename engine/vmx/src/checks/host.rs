//! The host-state fields (SDM vol. 3, 27.2.2-27.2.4).

use super::{Check, Facts, is_pat, require};
use crate::capabilities::Capabilities;
use crate::host_state::SELECTORS;
use crate::instructions::{cr0_fits, cr4_fits};
use gasang_cpu::{VcpuState, Vmcs};
use gasang_x86::control::{cr4, efer};
use gasang_x86::descriptor::selector;
use gasang_x86::vmx::Field;
use gasang_x86::vmx::controls::{entry, exit};

pub(super) fn check(vmcs: &Vmcs, capabilities: &Capabilities, facts: &Facts<'_>) -> Result<(), Check> {
    let controls = vmcs.get32(Field::VmExitControls);
    let long = controls & exit::HOST_ADDRESS_SPACE_SIZE != 0;
    check_registers(vmcs, capabilities, controls, long)?;
    check_segments(vmcs, long)?;
    check_size(vmcs, facts, long)
}

fn canonical(vmcs: &Vmcs, field: Field) -> bool {
    VcpuState::canonical(vmcs.get(field))
}

fn check_registers(vmcs: &Vmcs, capabilities: &Capabilities, controls: u32, long: bool) -> Result<(), Check> {
    require(cr0_fits(vmcs.get(Field::HostCr0)), Check::HostCr0Fixed)?;
    require(cr4_fits(vmcs.get(Field::HostCr4), capabilities), Check::HostCr4Fixed)?;
    require(vmcs.get(Field::HostCr3) & Capabilities::BEYOND_PHYSICAL == 0, Check::HostCr3Width)?;
    require(canonical(vmcs, Field::HostSysenterEsp), Check::HostSysenterEsp)?;
    require(canonical(vmcs, Field::HostSysenterEip), Check::HostSysenterEip)?;
    require(controls & exit::LOAD_PAT == 0 || is_pat(vmcs.get(Field::HostPat)), Check::HostPat)?;
    if controls & exit::LOAD_EFER != 0 {
        let value = vmcs.get(Field::HostEfer);
        require(value & !capabilities.efer == 0, Check::HostEferReserved)?;
        let modes = if long { efer::LMA | efer::LME } else { 0 };
        require(value & (efer::LMA | efer::LME) == modes, Check::HostEferMode)?;
    }
    Ok(())
}

fn check_segments(vmcs: &Vmcs, long: bool) -> Result<(), Check> {
    let outside = u64::from(selector::RPL | selector::TI);
    let fits = |field| vmcs.get(field) & outside == 0;
    require(SELECTORS.into_iter().all(fits) && fits(Field::HostTrSelector), Check::HostSelector)?;
    require(vmcs.get(Field::HostCsSelector) != 0, Check::HostCsNull)?;
    require(vmcs.get(Field::HostTrSelector) != 0, Check::HostTrNull)?;
    require(long || vmcs.get(Field::HostSsSelector) != 0, Check::HostSsNull)?;
    let bases =
        [Field::HostFsBase, Field::HostGsBase, Field::HostTrBase, Field::HostGdtrBase, Field::HostIdtrBase];
    require(bases.into_iter().all(|base| canonical(vmcs, base)), Check::HostBase)
}

/// Checks related to the size of the address space.
fn check_size(vmcs: &Vmcs, facts: &Facts<'_>, long: bool) -> Result<(), Check> {
    let long_guest = vmcs.get32(Field::VmEntryControls) & entry::IA32E_MODE_GUEST != 0;
    require(facts.long_mode || !long && !long_guest, Check::HostSizeInLegacyMode)?;
    // That a 32-bit host has no IA-32e mode guest follows from these two.
    require(!facts.long_mode || long, Check::HostSizeInLongMode)?;
    let (control, rip) = (vmcs.get(Field::HostCr4), vmcs.get(Field::HostRip));
    if long {
        require(control & cr4::PAE != 0, Check::HostLongPae)?;
        return require(VcpuState::canonical(rip), Check::HostLongRip);
    }
    require(control & cr4::PCIDE == 0, Check::HostLegacyPcid)?;
    require(rip >> 32 == 0, Check::HostLegacyRip)
}
