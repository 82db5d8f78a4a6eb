//! VMCS and VMXON regions in memory (SDM vol. 3, 25.2, 25.11.5). Their layout beyond the first eight bytes is this
//! processor's own, and software cannot rely on it: `REVISION` names it.

use crate::capabilities::{REGION_SIZE, REVISION};
use gasang_cpu::{Core, Vmcs};
use gasang_memory::GuestMemory;
use gasang_x86::vmx::Field;

/// Bit 31 of the first word: a shadow VMCS.
pub const SHADOW: u32 = 1 << 31;
/// Offset of the VMX-abort indicator.
const ABORT: u64 = 4;
/// Offset of the launch state.
const LAUNCHED: u64 = 8;
/// Offset of the fields, eight bytes for each, in the order of `Field::ALL`.
const VALUES: u64 = 16;
const LENGTH: usize = VALUES as usize + Field::COUNT * 8;
const _: () = assert!(LENGTH as u64 <= REGION_SIZE);

/// The first word of a region: revision identifier and shadow bit. What is not RAM reads as ones.
pub fn revision(memory: &GuestMemory, address: u64) -> u32 {
    let mut bytes = [0xff; 4];
    match memory.read_physical(address, &mut bytes) {
        Ok(()) => u32::from_le_bytes(bytes),
        Err(_) => u32::MAX,
    }
}

/// The VMCS in the region at `address`; as it was cleared, if the region is not RAM.
pub fn load(memory: &GuestMemory, address: u64) -> Vmcs {
    let mut bytes = [0; LENGTH];
    let mut vmcs = Vmcs::default();
    if memory.read_physical(address, &mut bytes).is_err() {
        return vmcs;
    }
    let word = |offset: usize| u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap_or_default());
    vmcs.shadow = word(0) as u32 & SHADOW != 0;
    vmcs.launched = word(LAUNCHED as usize) != 0;
    for (place, &field) in Field::ALL.iter().enumerate() {
        vmcs.set(field, word(VALUES as usize + place * 8));
    }
    vmcs
}

/// Write the current VMCS to the region at `address`. The abort indicator stays.
pub fn store(core: &mut Core<'_>, address: u64) {
    let vmcs = &core.state.vmx.vmcs;
    let first = REVISION | if vmcs.shadow { SHADOW } else { 0 };
    let launched = u64::from(vmcs.launched);
    let mut bytes = [0; Field::COUNT * 8];
    for (chunk, (_, value)) in bytes.chunks_exact_mut(8).zip(vmcs.fields()) {
        chunk.copy_from_slice(&value.to_le_bytes());
    }
    core.write_ram(address, &first.to_le_bytes());
    core.write_ram(address + LAUNCHED, &launched.to_le_bytes());
    core.write_ram(address + VALUES, &bytes);
}

/// Where a field of the region at `address` lies.
fn place(address: u64, field: Field) -> u64 {
    address + VALUES + field as u64 * 8
}

/// A field of a VMCS that stays in its region: one that is not current. What is not RAM reads as ones.
pub fn get(memory: &GuestMemory, address: u64, field: Field) -> u64 {
    let mut value = [0xff; 8];
    let _ = memory.read_physical(place(address, field), &mut value);
    u64::from_le_bytes(value) & field.width().mask()
}

/// Set such a field; what it has no bits for is lost.
pub fn set(core: &mut Core<'_>, address: u64, field: Field, value: u64) {
    core.write_ram(place(address, field), &(value & field.width().mask()).to_le_bytes());
}

/// Make the launch state of a VMCS that is not current clear.
pub fn clear_launch_state(core: &mut Core<'_>, address: u64) {
    core.write_ram(address + LAUNCHED, &0u64.to_le_bytes());
}

/// Write the VMX-abort indicator (SDM vol. 3, 28.7).
pub fn abort(core: &mut Core<'_>, address: u64, indicator: u32) {
    core.write_ram(address + ABORT, &indicator.to_le_bytes());
}
