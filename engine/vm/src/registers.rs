//! Registers by the names of the manual.

use crate::error::Error;
use gasang_cpu::{DescriptorTable, SegmentRegister, VcpuState};
use gasang_x86::{gpr, rflags, segment};

/// The value of a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegisterValue {
    /// A plain register.
    Word(u64),
    /// A segment register, LDTR or TR.
    Segment(SegmentRegister),
    /// GDTR or IDTR.
    Table(DescriptorTable),
}

type WordOf = fn(&mut VcpuState) -> &mut u64;

/// CR8 lives in the local APIC.
pub(crate) const CR8: &str = "cr8";

/// The plain registers other than the general-purpose ones.
const WORDS: [(&str, WordOf); 26] = [
    ("rip", |state| &mut state.rip),
    ("rflags", |state| &mut state.rflags),
    ("cr0", |state| &mut state.cr0),
    ("cr2", |state| &mut state.cr2),
    ("cr3", |state| &mut state.cr3),
    ("cr4", |state| &mut state.cr4),
    ("efer", |state| &mut state.efer),
    ("xcr0", |state| &mut state.xcr0),
    ("dr0", |state| &mut state.dr[0]),
    ("dr1", |state| &mut state.dr[1]),
    ("dr2", |state| &mut state.dr[2]),
    ("dr3", |state| &mut state.dr[3]),
    ("dr6", |state| &mut state.dr[6]),
    ("dr7", |state| &mut state.dr[7]),
    ("star", |state| &mut state.msr.star),
    ("lstar", |state| &mut state.msr.lstar),
    ("cstar", |state| &mut state.msr.cstar),
    ("fmask", |state| &mut state.msr.fmask),
    ("kernel_gs_base", |state| &mut state.msr.kernel_gs_base),
    ("tsc_aux", |state| &mut state.msr.tsc_aux),
    ("sysenter_cs", |state| &mut state.msr.sysenter_cs),
    ("sysenter_esp", |state| &mut state.msr.sysenter_esp),
    ("sysenter_eip", |state| &mut state.msr.sysenter_eip),
    ("tsc_offset", |state| &mut state.msr.tsc_offset),
    ("tsc_adjust", |state| &mut state.msr.tsc_adjust),
    ("pat", |state| &mut state.msr.pat),
];

/// Registers on which address translation depends.
const TRANSLATION: [&str; 5] = ["cr0", "cr3", "cr4", "efer", "rflags"];

fn word<'a>(state: &'a mut VcpuState, name: &str) -> Option<&'a mut u64> {
    if let Some(number) = gpr::NAMES.iter().position(|known| *known == name) {
        return state.gpr.get_mut(number);
    }
    WORDS.iter().find(|(known, _)| *known == name).map(|(_, of)| of(state))
}

fn segment_register<'a>(state: &'a mut VcpuState, name: &str) -> Option<&'a mut SegmentRegister> {
    match name {
        "ldtr" => Some(&mut state.ldtr),
        "tr" => Some(&mut state.tr),
        _ => {
            let number = segment::NAMES.iter().position(|known| *known == name)?;
            state.segment.get_mut(number)
        }
    }
}

fn table<'a>(state: &'a mut VcpuState, name: &str) -> Option<&'a mut DescriptorTable> {
    match name {
        "gdtr" => Some(&mut state.gdtr),
        "idtr" => Some(&mut state.idtr),
        _ => None,
    }
}

/// Every register but CR8.
pub(crate) fn all(state: &mut VcpuState) -> Vec<(&'static str, RegisterValue)> {
    let mut registers = Vec::new();
    for name in gpr::NAMES.into_iter().chain(WORDS.map(|(name, _)| name)) {
        registers.extend(word(state, name).map(|value| (name, RegisterValue::Word(*value))));
    }
    for name in segment::NAMES.into_iter().chain(["ldtr", "tr"]) {
        registers.extend(segment_register(state, name).map(|value| (name, RegisterValue::Segment(*value))));
    }
    for name in ["gdtr", "idtr"] {
        registers.extend(table(state, name).map(|value| (name, RegisterValue::Table(*value))));
    }
    registers
}

/// Set registers (not CR8): all of them, or none if one is refused. Returns whether translations must be forgotten.
///
/// The values are taken as they are, as a VM entry takes them; nothing is checked but names and kinds.
pub(crate) fn set(state: &mut VcpuState, values: &[(String, RegisterValue)]) -> Result<bool, Error> {
    let mut new = state.clone();
    for (name, value) in values {
        set_one(&mut new, name, *value)?;
    }
    new.rflags = new.rflags & rflags::WRITABLE | rflags::FIXED;
    *state = new;
    Ok(values.iter().any(|(name, _)| TRANSLATION.contains(&name.as_str())))
}

fn set_one(state: &mut VcpuState, name: &str, value: RegisterValue) -> Result<(), Error> {
    let takes = |takes| Err(Error::RegisterValue { name: name.to_owned(), takes });
    if let Some(register) = word(state, name) {
        let RegisterValue::Word(value) = value else { return takes("a number") };
        *register = value;
    } else if let Some(register) = segment_register(state, name) {
        let RegisterValue::Segment(value) = value else { return takes("a Segment") };
        *register = value;
    } else if let Some(register) = table(state, name) {
        let RegisterValue::Table(value) = value else { return takes("a DescriptorTable") };
        *register = value;
    } else {
        return Err(Error::UnknownRegister(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_register_can_be_set_to_what_it_reads_as() {
        let mut state = VcpuState::reset();
        for (number, register) in state.gpr.iter_mut().enumerate() {
            *register = number as u64;
        }
        let values: Vec<(String, RegisterValue)> =
            all(&mut state).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(values.len(), 16 + 26 + 8 + 2);
        let mut other = VcpuState::reset();
        set(&mut other, &values).unwrap();
        assert_eq!(all(&mut other), all(&mut state));
    }

    #[test]
    fn a_refused_register_leaves_the_others_alone() {
        let mut state = VcpuState::reset();
        let values = [("rax".to_owned(), RegisterValue::Word(1)), ("eax".to_owned(), RegisterValue::Word(2))];
        assert!(matches!(set(&mut state, &values), Err(Error::UnknownRegister(name)) if name == "eax"));
        assert_eq!(state.gpr[gpr::RAX], 0);
        let values = [("cs".to_owned(), RegisterValue::Word(1))];
        assert!(matches!(set(&mut state, &values), Err(Error::RegisterValue { .. })));
    }
}
