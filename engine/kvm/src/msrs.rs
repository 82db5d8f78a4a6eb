//! Model-specific registers: which KVM keeps, and which stay ours.

use crate::host_error;
use crate::machine::InterruptControllers;
use gasang_cpu::MsrState;
use gasang_x86::{msr, paravirtual};
use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd};
use std::io;

/// What is the chipset's, what the model says in its own way, and what guests ask KVM's clock by, of which the engine has
/// a version of its own: first and number.
const OURS: [(u32, u32); 11] = [
    (msr::FEATURE_CONTROL, 1),
    (msr::BIOS_SIGN_ID, 1),
    (msr::MTRRCAP, 1),
    (msr::ARCH_CAPABILITIES, 1),
    (msr::MCG_CAP, 2),
    (msr::MISC_ENABLE, 1),
    (msr::DEBUGCTL, 1),
    (msr::MTRR_PHYSBASE0, 16),
    (msr::MTRR_FIX64K_00000, 32),
    (msr::MTRR_DEF_TYPE, 1),
    (paravirtual::MSR_WALL_CLOCK_OLD, 2),
];
/// What belongs to the interrupt controllers.
const OF_CONTROLLERS: [(u32, u32); 2] = [(msr::APIC_BASE, 1), (msr::TSC_DEADLINE, 1)];
/// The rest of what guests ask KVM's clock by; among it is one register of the interrupt controllers, too.
const OF_CLOCK: (u32, u32) = (paravirtual::MSR_WALL_CLOCK, 8);
const END_OF_INTERRUPT: [u8; 4] =
    [1 << (paravirtual::MSR_END_OF_INTERRUPT - paravirtual::MSR_WALL_CLOCK), 0, 0, 0];
/// Written by the guest they move its time-stamp counter, of which the engine keeps the offset.
const WRITES_OURS: [(u32, u32); 2] = [(msr::TSC, 1), (msr::TSC_ADJUST, 1)];

/// A bit for each MSR of a range, which is 0: not KVM's.
const NOT_KVMS: [u8; 4] = [0; 4];

/// Have accesses to what is ours leave the guest.
pub(crate) fn keep_from_kvm(vm: &VmFd, controllers: InterruptControllers) -> io::Result<()> {
    let both = MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE;
    let (of_controllers, of_clock): (&[_], _) = match controllers {
        InterruptControllers::Own => (&OF_CONTROLLERS, &NOT_KVMS),
        InterruptControllers::Kernel => (&[], &END_OF_INTERRUPT),
    };
    let range = |flags, bitmap| move |(base, msr_count)| MsrFilterRange { flags, base, msr_count, bitmap };
    let ours = OURS.iter().chain(of_controllers).copied().map(range(both, &NOT_KVMS));
    let writes = WRITES_OURS.into_iter().map(range(MsrFilterRangeFlags::WRITE, &NOT_KVMS));
    let ranges: Vec<_> = ours.chain(writes).chain([range(both, of_clock)(OF_CLOCK)]).collect();
    vm.set_msr_filter(MsrFilterDefaultAction::ALLOW, &ranges).map_err(host_error)
}

/// Where in the state.
pub(crate) type Place = fn(&mut MsrState) -> &mut u64;

/// What both have: the MSR and its place in the state.
const SHARED: [(u32, Place); 12] = [
    (msr::STAR, |msrs| &mut msrs.star),
    (msr::LSTAR, |msrs| &mut msrs.lstar),
    (msr::CSTAR, |msrs| &mut msrs.cstar),
    (msr::FMASK, |msrs| &mut msrs.fmask),
    (msr::KERNEL_GS_BASE, |msrs| &mut msrs.kernel_gs_base),
    (msr::SYSENTER_CS, |msrs| &mut msrs.sysenter_cs),
    (msr::SYSENTER_ESP, |msrs| &mut msrs.sysenter_esp),
    (msr::SYSENTER_EIP, |msrs| &mut msrs.sysenter_eip),
    (msr::TSC_AUX, |msrs| &mut msrs.tsc_aux),
    (msr::PAT, |msrs| &mut msrs.pat),
    (msr::SPEC_CTRL, |msrs| &mut msrs.spec_ctrl),
    (msr::XSS, |msrs| &mut msrs.xss),
];

/// Of `SHARED`, what a KVM has that lists these MSRs, and that takes and gives them.
pub(crate) fn shared_with(fd: &VcpuFd, listed: &[u32]) -> Vec<(u32, Place)> {
    let works = |index| {
        let mut one = entries([(index, 0)].into_iter());
        fd.get_msrs(&mut one).is_ok_and(|count| count == 1) && fd.set_msrs(&one).is_ok_and(|count| count == 1)
    };
    SHARED.into_iter().filter(|&(index, _)| listed.contains(&index) && works(index)).collect()
}

/// The value of one MSR.
pub(crate) fn read(fd: &VcpuFd, index: u32) -> io::Result<u64> {
    let mut one = entries([(index, 0)].into_iter());
    fd.get_msrs(&mut one).map_err(host_error)?;
    Ok(one.as_slice().first().map_or(0, |entry| entry.data))
}

/// Give one MSR a value.
pub(crate) fn write(fd: &VcpuFd, index: u32, value: u64) -> io::Result<()> {
    fd.set_msrs(&entries([(index, value)].into_iter())).map_err(host_error).map(|_| ())
}

fn entries(values: impl Iterator<Item = (u32, u64)>) -> Msrs {
    let entries: Vec<_> =
        values.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() }).collect();
    // Only more entries than fit into memory are refused.
    Msrs::from_entries(&entries).unwrap_or_else(|_| unreachable!("{} entries", entries.len()))
}

pub(crate) fn load(fd: &VcpuFd, shared: &[(u32, Place)], msrs: &MsrState) -> io::Result<()> {
    let mut msrs = *msrs;
    let values = entries(shared.iter().map(|&(index, place)| (index, *place(&mut msrs))));
    let taken = fd.set_msrs(&values).map_err(host_error)?;
    match shared.get(taken) {
        None => Ok(()),
        Some((index, _)) => Err(io::Error::other(format!("KVM refuses the value of MSR {index:#x}"))),
    }
}

pub(crate) fn store(fd: &VcpuFd, shared: &[(u32, Place)], msrs: &mut MsrState) -> io::Result<()> {
    let mut values = entries(shared.iter().map(|&(index, _)| (index, 0)));
    let given = fd.get_msrs(&mut values).map_err(host_error)?;
    if let Some((index, _)) = shared.get(given) {
        return Err(io::Error::other(format!("KVM does not give MSR {index:#x}")));
    }
    for ((_, place), entry) in shared.iter().zip(values.as_slice()) {
        *place(msrs) = entry.data;
    }
    Ok(())
}
