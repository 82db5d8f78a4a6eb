//! The engine's tables of VMX, for those who name fields, bits, reasons, errors and checks to people.

use crate::error::Error;
use gasang_cpu::{CpuModel, Feature};
use gasang_vmx::{Capabilities, Check, Group};
use gasang_x86::msr;
use gasang_x86::vmx::controls::{
    Bit, activity, entry, ept, ept_violation, exit, interruptibility, interruption, pending_debug, pin,
    primary, secondary, tertiary,
};
use gasang_x86::vmx::{Area, ExitReason, Field, InstructionError, Width};

/// A number or a bit, its name as identifiers are written in Python, and what the manual calls it.
pub type Named = (u64, String, &'static str);

/// A field of the VMCS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldDescription {
    /// What VMREAD and VMWRITE name it by.
    pub encoding: u32,
    /// Its area: "guest", "host", "execution", "exit", "entry" or "exit_information".
    pub area: &'static str,
    /// Its name within the area.
    pub name: &'static str,
    /// What the manual calls it.
    pub title: &'static str,
    /// Bits.
    pub width: u32,
    /// Whether VMWRITE refuses it.
    pub read_only: bool,
}

/// A check of VM entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckDescription {
    /// Its short name.
    pub name: &'static str,
    /// What it looks at: "controls", "host" or "guest".
    pub group: &'static str,
    /// Where the manual has it (SDM vol. 3).
    pub section: &'static str,
    /// What it demands.
    pub rule: &'static str,
}

/// Every field of the VMCS.
pub fn vmcs_fields() -> Vec<FieldDescription> {
    let describe = |field: &Field| FieldDescription {
        encoding: field.encoding(),
        area: match field.area() {
            Area::Guest => "guest",
            Area::Host => "host",
            Area::Execution => "execution",
            Area::Exit => "exit",
            Area::Entry => "entry",
            Area::ExitInformation => "exit_information",
        },
        name: field.name(),
        title: field.title(),
        width: match field.width() {
            Width::Bits16 => 16,
            Width::Bits32 => 32,
            Width::Bits64 | Width::Natural => 64,
        },
        read_only: field.read_only(),
    };
    Field::ALL.iter().map(describe).collect()
}

/// Every check of VM entries, in the manual's order.
pub fn vm_entry_checks() -> Vec<CheckDescription> {
    let describe = |check: &Check| CheckDescription {
        name: check.name(),
        group: match check.group() {
            Group::Controls => "controls",
            Group::Host => "host",
            Group::Guest => "guest",
        },
        section: check.section(),
        rule: check.rule(),
    };
    Check::ALL.iter().map(describe).collect()
}

/// Numbers and bits by what they belong to: "exit_reasons", "instruction_errors", "event_types", "activity_states",
/// "ept_violation", "ept_entry", and the fields of the VMCS that consist of bits, as AREA.FIELD.
pub fn vmx_names() -> Vec<(&'static str, Vec<Named>)> {
    let reason =
        |reason: &ExitReason| named(reason.number(), &snake_case(reason.identifier()), reason.name());
    let error =
        |error: &InstructionError| named(error.number(), &snake_case(error.identifier()), error.name());
    vec![
        ("exit_reasons", ExitReason::ALL.iter().map(reason).collect()),
        ("instruction_errors", InstructionError::ALL.iter().map(error).collect()),
        ("event_types", event_types()),
        ("activity_states", activity_states()),
        ("ept_violation", bits(ept_violation::NAMES)),
        ("ept_entry", ept_entry()),
        ("execution.pin_based_controls", bits(pin::NAMES)),
        ("execution.primary_controls", bits(primary::NAMES)),
        ("execution.secondary_controls", bits(secondary::NAMES)),
        ("execution.tertiary_controls", bits(tertiary::NAMES)),
        ("exit.controls", bits(exit::NAMES)),
        ("entry.controls", bits(entry::NAMES)),
        ("guest.interruptibility_state", bits(interruptibility::NAMES)),
        ("guest.pending_debug_exceptions", bits(pending_debug::NAMES)),
    ]
}

/// The capability MSRs of a processor model, by number; none if it has no VMX.
///
/// # Errors
/// An unknown model or feature.
pub fn vmx_capabilities(cpu: &str) -> Result<Vec<(u32, u64)>, Error> {
    let model = CpuModel::parse(cpu).map_err(Error::Model)?;
    if !model.has(Feature::Vmx) {
        return Ok(Vec::new());
    }
    let capabilities = Capabilities::new(&model);
    let all = msr::VMX_BASIC..=msr::VMX_EXIT_CTLS2;
    Ok(all.filter_map(|index| Some((index, capabilities.msr(index)?))).collect())
}

/// The number of the capability MSR that tells of each word of controls, the one that tells all, by AREA.FIELD.
pub fn vmx_control_capabilities() -> Vec<(&'static str, u32)> {
    vec![
        ("execution.pin_based_controls", msr::VMX_TRUE_PINBASED_CTLS),
        ("execution.primary_controls", msr::VMX_TRUE_PROCBASED_CTLS),
        ("execution.secondary_controls", msr::VMX_PROCBASED_CTLS2),
        ("exit.controls", msr::VMX_TRUE_EXIT_CTLS),
        ("entry.controls", msr::VMX_TRUE_ENTRY_CTLS),
    ]
}

fn named(number: impl Into<u64>, name: &str, title: &'static str) -> Named {
    (number.into(), name.to_owned(), title)
}

fn bits<T: Copy + Into<u64>>(all: &[Bit<T>]) -> Vec<Named> {
    all.iter().map(|&(bit, name, title)| named(bit, &name.to_ascii_lowercase(), title)).collect()
}

fn event_types() -> Vec<Named> {
    vec![
        named(interruption::EXTERNAL_INTERRUPT, "external_interrupt", "external interrupt"),
        named(interruption::NMI, "nmi", "non-maskable interrupt"),
        named(interruption::HARDWARE_EXCEPTION, "hardware_exception", "hardware exception"),
        named(interruption::SOFTWARE_INTERRUPT, "software_interrupt", "software interrupt"),
        named(
            interruption::PRIVILEGED_SOFTWARE_EXCEPTION,
            "privileged_software_exception",
            "privileged software exception",
        ),
        named(interruption::SOFTWARE_EXCEPTION, "software_exception", "software exception"),
        named(interruption::OTHER_EVENT, "other_event", "other event"),
    ]
}

fn activity_states() -> Vec<Named> {
    vec![
        named(activity::ACTIVE, "active", "active"),
        named(activity::HLT, "hlt", "HLT"),
        named(activity::SHUTDOWN, "shutdown", "shutdown"),
        named(activity::WAIT_FOR_SIPI, "wait_for_sipi", "wait-for-SIPI"),
    ]
}

fn ept_entry() -> Vec<Named> {
    vec![
        named(ept::READ, "read", "read access"),
        named(ept::WRITE, "write", "write access"),
        named(ept::EXECUTE, "execute", "execute access"),
        named(ept::LARGE, "large", "maps a page"),
        named(ept::ACCESSED, "accessed", "accessed"),
        named(ept::DIRTY, "dirty", "dirty"),
    ]
}

/// `StartUpIpi` as start_up_ipi.
pub(crate) fn snake_case(identifier: &str) -> String {
    let mut name = String::new();
    for (place, letter) in identifier.char_indices() {
        if letter.is_ascii_uppercase() && place != 0 {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_python_identifiers_and_unique_in_their_area() {
        let mut seen: HashSet<(&str, String)> =
            vmcs_fields().into_iter().map(|field| (field.area, field.name.to_owned())).collect();
        for (place, names) in vmx_names() {
            let area = place.split_once('.').map_or(place, |(area, _)| area);
            for (_, name, title) in names {
                assert!(
                    name.bytes()
                        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
                );
                assert!(!title.is_empty());
                assert!(seen.insert((area, name.clone())), "{place}: {name}");
            }
        }
    }

    #[test]
    fn a_model_without_vmx_has_no_capabilities() {
        assert!(vmx_capabilities("max,-vmx").unwrap().is_empty());
        let all = vmx_capabilities("max").unwrap();
        assert!(
            vmx_control_capabilities().iter().all(|(_, index)| all.iter().any(|(known, _)| known == index))
        );
    }

    #[test]
    fn identifiers_become_names() {
        assert_eq!(snake_case("StartUpIpi"), "start_up_ipi");
        assert_eq!(snake_case("Hlt"), "hlt");
    }
}
