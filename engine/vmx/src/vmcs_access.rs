//! VMREAD and VMWRITE: of the current VMCS in VMX root operation, of the shadow VMCS that its link pointer names in VMX
//! non-root operation (SDM vol. 3, 25.10, 31.3). A shadow VMCS stays in its region.

use crate::capabilities::Capabilities;
use crate::instructions::{Outcome, check_operation, fail};
use crate::vmcs_region;
use gasang_cpu::{Core, Trap, VcpuState};
use gasang_x86::vmx::{Field, InstructionError};

/// A VMCS that is accessed.
#[derive(Clone, Copy)]
enum Place {
    Current,
    /// The region of a shadow VMCS.
    Shadow(u64),
}

impl Place {
    /// None without a current VMCS, or without a link pointer.
    fn of(state: &VcpuState) -> Option<Place> {
        let vmx = &state.vmx;
        if vmx.non_root() {
            let pointer = vmx.vmcs.get(Field::VmcsLinkPointer);
            return (pointer != u64::MAX).then_some(Place::Shadow(pointer));
        }
        vmx.current.map(|_| Place::Current)
    }

    fn get(self, core: &Core<'_>, field: Field) -> u64 {
        match self {
            Place::Current => core.state.vmx.vmcs.get(field),
            Place::Shadow(region) => vmcs_region::get(core.memory, region, field),
        }
    }

    fn set(self, core: &mut Core<'_>, field: Field, value: u64) {
        match self {
            Place::Current => core.state.vmx.vmcs.set(field, value),
            Place::Shadow(region) => vmcs_region::set(core, region, field, value),
        }
    }
}

/// The field that an operand of VMREAD or VMWRITE names.
fn field(capabilities: &Capabilities, encoding: u64) -> Option<(Field, bool)> {
    let encoding = u32::try_from(encoding).ok()?;
    Field::from_encoding(encoding).filter(|(field, _)| capabilities.supports(*field))
}

/// What VMREAD gets of a field's value; `wide` in 64-bit mode.
fn read_part(value: u64, high: bool, wide: bool) -> u64 {
    match (high, wide) {
        (true, _) => value >> 32,
        (false, true) => value,
        (false, false) => value & 0xffff_ffff,
    }
}

/// What VMWRITE makes of a field that was `before`. An operand shorter than the field clears the rest.
fn write_part(before: u64, high: bool, wide: bool, value: u64) -> u64 {
    let value = if wide { value } else { value & 0xffff_ffff };
    if high { value << 32 | before & 0xffff_ffff } else { value }
}

/// VMREAD of the field that `encoding` names, zero-extended; `Err` inside `Ok` is how it failed.
///
/// # Errors
/// As `check_operation`.
pub fn vmread(
    core: &mut Core<'_>,
    capabilities: &Capabilities,
    encoding: u64,
) -> Result<Result<u64, Outcome>, Trap> {
    check_operation(core)?;
    let Some(place) = Place::of(core.state) else { return Ok(Err(Outcome::FailInvalid)) };
    let Some((field, high)) = field(capabilities, encoding) else {
        return Ok(Err(fail(core, InstructionError::UnsupportedField)));
    };
    Ok(Ok(read_part(place.get(core, field), high, core.state.in_64bit_mode())))
}

/// VMWRITE of `value` to the field that `encoding` names, be it one of VM-exit information.
///
/// # Errors
/// As `check_operation`.
pub fn vmwrite(
    core: &mut Core<'_>,
    capabilities: &Capabilities,
    encoding: u64,
    value: u64,
) -> Result<Outcome, Trap> {
    check_operation(core)?;
    let Some(place) = Place::of(core.state) else { return Ok(Outcome::FailInvalid) };
    let Some((field, high)) = field(capabilities, encoding) else {
        return Ok(fail(core, InstructionError::UnsupportedField));
    };
    let value = write_part(place.get(core, field), high, core.state.in_64bit_mode(), value);
    place.set(core, field, value);
    Ok(Outcome::Succeed)
}
