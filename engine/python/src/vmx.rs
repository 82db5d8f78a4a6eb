//! VMX as Python values: how instructions end, transitions, and the engine's tables.

use crate::engine_error;
use gasang_vm::{CheckDescription, FieldDescription, Named, Transition, TransitionKind, VmxOutcome as Ended};
use pyo3::prelude::*;
use std::collections::HashMap;

/// How a VMX instruction ended that raised no exception.
#[pyclass(frozen, get_all, eq, hash, module = "gasang._engine")]
#[derive(PartialEq, Eq, Hash)]
pub struct VmxOutcome {
    kind: &'static str,
    value: Option<u64>,
    error: Option<u32>,
    check: Option<&'static str>,
    msr: Option<u64>,
}

impl From<Ended> for VmxOutcome {
    fn from(outcome: Ended) -> VmxOutcome {
        let of = |kind| VmxOutcome { kind, value: None, error: None, check: None, msr: None };
        match outcome {
            Ended::Succeeded(value) => VmxOutcome { value, ..of("succeeded") },
            Ended::FailInvalid => of("fail_invalid"),
            Ended::FailValid(error, check) => VmxOutcome {
                error: Some(error.number()),
                check: check.map(|check| check.name()),
                ..of("fail_valid")
            },
            Ended::Entered => of("entered"),
            Ended::GuestStateRefused(check) => VmxOutcome { check: Some(check.name()), ..of("entry_failed") },
            Ended::MsrRefused(number) => VmxOutcome { msr: Some(number), ..of("entry_failed") },
        }
    }
}

#[pymethods]
impl VmxOutcome {
    fn __repr__(&self) -> String {
        let number = |name: &str, value: Option<u64>| value.map(|value| format!(", {name}={value:#x}"));
        let parts = [
            number("value", self.value),
            self.error.map(|error| format!(", error={error}")),
            self.check.map(|check| format!(", check='{check}'")),
            self.msr.map(|msr| format!(", msr={msr}")),
        ];
        let parts: String = parts.into_iter().flatten().collect();
        format!("<VmxOutcome {}{parts}>", self.kind)
    }
}

/// A VM entry or a VM exit as it happened.
#[pyclass(frozen, get_all, eq, module = "gasang._engine")]
#[derive(PartialEq, Eq)]
pub struct VmxTransition {
    kind: &'static str,
    vmcs: u64,
    time: u64,
    instructions: u64,
    rip: u64,
    reason: u32,
    qualification: u64,
    changed: Vec<(u32, u64)>,
}

impl From<Transition> for VmxTransition {
    fn from(transition: Transition) -> VmxTransition {
        let Transition { kind, vmcs, time, instructions, rip, reason, qualification, changed } = transition;
        VmxTransition {
            kind: match kind {
                TransitionKind::Entry => "entry",
                TransitionKind::Exit => "exit",
            },
            vmcs,
            time,
            instructions,
            rip,
            reason,
            qualification,
            changed: changed.into_iter().map(|(field, value)| (field.encoding(), value)).collect(),
        }
    }
}

#[pymethods]
impl VmxTransition {
    fn __repr__(&self) -> String {
        let VmxTransition { kind, vmcs, rip, reason, .. } = self;
        let basic = reason & 0xffff;
        format!("<VmxTransition {kind}, VMCS {vmcs:#x}, RIP {rip:#x}, reason {basic}>")
    }
}

type Field = (u32, &'static str, &'static str, &'static str, u32, bool);

/// Every field of the VMCS: (encoding, area, name, title, bits, read-only).
#[pyfunction]
pub fn vmcs_fields() -> Vec<Field> {
    let tuple = |field: FieldDescription| {
        (field.encoding, field.area, field.name, field.title, field.width, field.read_only)
    };
    gasang_vm::vmcs_fields().into_iter().map(tuple).collect()
}

/// Every check of VM entries, in the manual's order: (name, group, section, rule).
#[pyfunction]
pub fn vm_entry_checks() -> Vec<(&'static str, &'static str, &'static str, &'static str)> {
    let tuple = |check: CheckDescription| (check.name, check.group, check.section, check.rule);
    gasang_vm::vm_entry_checks().into_iter().map(tuple).collect()
}

/// Numbers and bits that have names: {what they belong to: [(number or bit, name, title)]}.
#[pyfunction]
pub fn vmx_names() -> HashMap<&'static str, Vec<Named>> {
    gasang_vm::vmx_names().into_iter().collect()
}

/// The capability MSRs of a processor model: {number: value}.
#[pyfunction]
pub fn vmx_capabilities(cpu: &str) -> PyResult<HashMap<u32, u64>> {
    Ok(gasang_vm::vmx_capabilities(cpu).map_err(engine_error)?.into_iter().collect())
}

/// The capability MSR of each word of controls: {AREA.FIELD: number}.
#[pyfunction]
pub fn vmx_control_capabilities() -> HashMap<&'static str, u32> {
    gasang_vm::vmx_control_capabilities().into_iter().collect()
}
