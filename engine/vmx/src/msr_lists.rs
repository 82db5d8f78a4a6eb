//! The areas of MSRs that VM entries and exits load and store (SDM vol. 3, 25.7.2, 25.8.2, 27.4, 28.4, 28.6).

use crate::capabilities::MSR_AREA_ENTRIES;
use gasang_cpu::{Core, Trap};
use gasang_x86::descriptor::access;
use gasang_x86::vmx::Field;
use gasang_x86::{msr, segment};

/// Bytes of an entry: index, 32 reserved bits, value.
pub const ENTRY_SIZE: u64 = 16;

/// One of the three areas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// What entries load.
    EntryLoad,
    /// What exits store.
    ExitStore,
    /// What exits load.
    ExitLoad,
}

impl Area {
    /// Its fields: address and count.
    pub const fn fields(self) -> (Field, Field) {
        match self {
            Area::EntryLoad => (Field::VmEntryMsrLoadAddress, Field::VmEntryMsrLoadCount),
            Area::ExitStore => (Field::VmExitMsrStoreAddress, Field::VmExitMsrStoreCount),
            Area::ExitLoad => (Field::VmExitMsrLoadAddress, Field::VmExitMsrLoadCount),
        }
    }
}

/// An entry that could not be processed: its number, from 1, as the exit qualification of a failed VM entry tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadEntry(pub u64);

/// MSRs that no area may load, whatever WRMSR would say: FS and GS have fields of their own; the rest are for firmware.
fn never_loaded(index: u32) -> bool {
    matches!(index, msr::FS_BASE | msr::GS_BASE | msr::BIOS_UPDT_TRIG | msr::SMM_MONITOR_CTL)
}

fn is_x2apic(index: u32) -> bool {
    index >> 8 == msr::X2APIC_FIRST >> 8
}

/// Process an area of the current VMCS: load every MSR, or store it.
///
/// # Errors
/// The entry that failed; those before it are processed.
pub fn process(core: &mut Core<'_>, area: Area) -> Result<(), BadEntry> {
    let vmcs = &core.state.vmx.vmcs;
    let (address, count) = area.fields();
    let (address, count) = (vmcs.get(address), vmcs.get(count));
    if count == 0 {
        return Ok(());
    }
    // RDMSR and WRMSR want CPL 0, which the guest's state need not have.
    let stack = core.state.segment[segment::SS].attributes;
    core.state.segment[segment::SS].attributes &= !access::DPL;
    let processed = process_entries(core, address, count, area);
    core.state.segment[segment::SS].attributes = stack;
    processed
}

fn process_entries(core: &mut Core<'_>, address: u64, count: u64, area: Area) -> Result<(), BadEntry> {
    for number in 0..count {
        // What is beyond the recommended number is undefined; here it is an error.
        let within = number < MSR_AREA_ENTRIES;
        if !within || process_entry(core, address.wrapping_add(number * ENTRY_SIZE), area).is_none() {
            return Err(BadEntry(number + 1));
        }
    }
    Ok(())
}

/// None if the entry is refused.
fn process_entry(core: &mut Core<'_>, at: u64, area: Area) -> Option<()> {
    let mut bytes = [0; ENTRY_SIZE as usize];
    core.memory.read_physical(at, &mut bytes).ok()?;
    let head = u64::from_le_bytes(bytes[..8].try_into().ok()?);
    let value = u64::from_le_bytes(bytes[8..].try_into().ok()?);
    // The reserved half must be 0; local APIC registers are not reached so.
    let index = u32::try_from(head).ok().filter(|index| !is_x2apic(*index))?;
    if area == Area::ExitStore {
        let value = accepted(core.rdmsr(index))?;
        core.write_ram(at + 8, &value.to_le_bytes());
        return Some(());
    }
    if never_loaded(index) {
        return None;
    }
    accepted(core.wrmsr(index, value))
}

/// Neither a fault nor a question to the outside can be answered in the midst of a transition.
fn accepted<T>(result: Result<T, Trap>) -> Option<T> {
    result.ok()
}
