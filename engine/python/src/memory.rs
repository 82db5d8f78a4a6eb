//! Guest RAM as a buffer.

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::{c_int, c_void};

/// Guest RAM in place: `memoryview` of it reads and writes what the guest does.
#[pyclass(frozen, module = "gasang._engine")]
pub struct MemorySpan {
    pub inner: gasang_vm::MemorySpan,
}

#[pymethods]
impl MemorySpan {
    /// # Safety
    /// Python calls it with a structure to fill, and with this object alive until the buffer is released.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let length = ffi::Py_ssize_t::try_from(slf.get().inner.length())
            .map_err(|_| PyBufferError::new_err("too much memory for a buffer"))?;
        let start = slf.get().inner.host() as *mut c_void;
        // SAFETY: the bytes stay mapped as long as the object, of which the buffer holds a reference. They are the guest's:
        // Rust has no reference to them, and Python reads and writes them as opaque bytes.
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, length, 0, flags) };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}
