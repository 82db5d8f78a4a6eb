//! Python's integers have any size; the engine's do not.

use crate::EngineError;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

/// `value` as an integer from 0 to `most`; `what` names it in the error.
///
/// # Errors
/// TypeError if it is no integer, EngineError if it is out of range.
pub fn unsigned(value: &Bound<'_, PyAny>, what: &str, most: u64) -> PyResult<u64> {
    match value.extract::<u64>() {
        Ok(number) if number <= most => Ok(number),
        Err(error) if error.is_instance_of::<PyTypeError>(value.py()) => {
            let kind = value.get_type().name()?;
            Err(PyTypeError::new_err(format!("{what} must be an int, not {kind}")))
        }
        _ => Err(EngineError::new_err(format!("{what} must be from 0 to {most:#x}, not {}", value.str()?))),
    }
}

/// As `unsigned`, for an argument that may be None.
///
/// # Errors
/// As `unsigned`.
pub fn optional(value: Option<&Bound<'_, PyAny>>, what: &str) -> PyResult<Option<u64>> {
    value.map(|value| unsigned(value, what, u64::MAX)).transpose()
}
