//! Registers as Python values.

use crate::numbers::unsigned;
use gasang_vm::{RegisterValue, SegmentRegister};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

/// A segment register: the selector and the hidden part.
#[pyclass(frozen, get_all, eq, hash, module = "gasang._engine")]
#[derive(PartialEq, Eq, Hash)]
pub struct Segment {
    selector: u16,
    base: u64,
    limit: u32,
    attributes: u32,
}

#[pymethods]
impl Segment {
    #[new]
    fn new(
        selector: &Bound<'_, PyAny>,
        base: &Bound<'_, PyAny>,
        limit: &Bound<'_, PyAny>,
        attributes: &Bound<'_, PyAny>,
    ) -> PyResult<Segment> {
        Ok(Segment {
            selector: unsigned(selector, "selector", 0xffff)? as u16,
            base: unsigned(base, "base", u64::MAX)?,
            limit: unsigned(limit, "limit", 0xffff_ffff)? as u32,
            attributes: unsigned(attributes, "attributes", 0xffff_ffff)? as u32,
        })
    }

    #[classattr]
    fn __match_args__() -> (&'static str, &'static str, &'static str, &'static str) {
        ("selector", "base", "limit", "attributes")
    }

    fn __repr__(&self) -> String {
        format!(
            "Segment(selector={:#x}, base={:#x}, limit={:#x}, attributes={:#x})",
            self.selector, self.base, self.limit, self.attributes
        )
    }
}

/// GDTR or IDTR.
#[pyclass(frozen, get_all, eq, hash, module = "gasang._engine")]
#[derive(PartialEq, Eq, Hash)]
pub struct DescriptorTable {
    base: u64,
    limit: u16,
}

#[pymethods]
impl DescriptorTable {
    #[new]
    fn new(base: &Bound<'_, PyAny>, limit: &Bound<'_, PyAny>) -> PyResult<DescriptorTable> {
        Ok(DescriptorTable {
            base: unsigned(base, "base", u64::MAX)?,
            limit: unsigned(limit, "limit", 0xffff)? as u16,
        })
    }

    #[classattr]
    fn __match_args__() -> (&'static str, &'static str) {
        ("base", "limit")
    }

    fn __repr__(&self) -> String {
        format!("DescriptorTable(base={:#x}, limit={:#x})", self.base, self.limit)
    }
}

/// A register's value for Python.
pub fn to_python(python: Python<'_>, value: RegisterValue) -> PyResult<Bound<'_, PyAny>> {
    match value {
        RegisterValue::Word(value) => value.into_bound_py_any(python),
        RegisterValue::Segment(SegmentRegister { base, limit, attributes, selector }) => {
            Segment { selector, base, limit, attributes }.into_bound_py_any(python)
        }
        RegisterValue::Table(gasang_vm::DescriptorTable { base, limit }) => {
            DescriptorTable { base, limit }.into_bound_py_any(python)
        }
    }
}

/// The value that Python gives for register `name`.
pub fn from_python(name: &str, value: &Bound<'_, PyAny>) -> PyResult<RegisterValue> {
    if let Ok(segment) = value.cast::<Segment>() {
        let Segment { selector, base, limit, attributes } = *segment.get();
        return Ok(RegisterValue::Segment(SegmentRegister { base, limit, attributes, selector }));
    }
    if let Ok(table) = value.cast::<DescriptorTable>() {
        let DescriptorTable { base, limit } = *table.get();
        return Ok(RegisterValue::Table(gasang_vm::DescriptorTable { base, limit }));
    }
    unsigned(value, &format!("register {name}"), u64::MAX).map(RegisterValue::Word)
}
