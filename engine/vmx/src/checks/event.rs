//! The event to inject (SDM vol. 3, 27.2.1.3).

use super::{Check, require};
use crate::guest_state::secondary_controls;
use gasang_cpu::Vmcs;
use gasang_x86::control::cr0;
use gasang_x86::exception as vector;
use gasang_x86::vmx::Field;
use gasang_x86::vmx::controls::{interruption, secondary};

/// Exceptions that push an error code.
const WITH_ERROR_CODE: [u8; 7] =
    [vector::DF, vector::TS, vector::NP, vector::SS, vector::GP, vector::PF, vector::AC];

/// The injected event: type and vector; None if the entry injects nothing.
pub(super) fn injected(vmcs: &Vmcs) -> Option<(u32, u8)> {
    let information = vmcs.get32(Field::VmEntryInterruptionInformation);
    let number = (information & interruption::VECTOR) as u8;
    interruption::valid(information).then_some((interruption::kind(information), number))
}

pub(super) fn check(vmcs: &Vmcs) -> Result<(), Check> {
    let Some((kind, number)) = injected(vmcs) else { return Ok(()) };
    let information = vmcs.get32(Field::VmEntryInterruptionInformation);
    require(kind != 1, Check::EventType)?;
    let fits = match kind {
        interruption::NMI => number == vector::NMI,
        interruption::HARDWARE_EXCEPTION => number < 32,
        interruption::OTHER_EVENT => number == 0,
        _ => true,
    };
    require(fits, Check::EventVector)?;
    let has_code = information & interruption::ERROR_CODE != 0;
    require(has_code == wants_error_code(vmcs, kind, number), Check::EventErrorCode)?;
    require(information & interruption::ENTRY_RESERVED == 0, Check::EventReserved)?;
    let code = vmcs.get32(Field::VmEntryExceptionErrorCode);
    require(!has_code || code >> 16 == 0, Check::EventErrorCodeReserved)?;
    let by_instruction = matches!(
        kind,
        interruption::SOFTWARE_INTERRUPT
            | interruption::PRIVILEGED_SOFTWARE_EXCEPTION
            | interruption::SOFTWARE_EXCEPTION
    );
    let length = vmcs.get32(Field::VmEntryInstructionLength);
    require(!by_instruction || matches!(length, 1..=15), Check::EventInstructionLength)
}

/// Real mode, which only an unrestricted guest has, pushes no error codes.
fn wants_error_code(vmcs: &Vmcs, kind: u32, number: u8) -> bool {
    let unrestricted = secondary_controls(vmcs) & secondary::UNRESTRICTED_GUEST != 0;
    let protected = !unrestricted || vmcs.get(Field::GuestCr0) & cr0::PE != 0;
    kind == interruption::HARDWARE_EXCEPTION && protected && WITH_ERROR_CODE.contains(&number)
}
