//! The Python face of `gasang_vm` and `gasang_network`: the module `gasang._engine`.
#![deny(unsafe_code)]

mod exits;
mod measurements;
#[allow(unsafe_code, reason = "the buffer protocol")]
mod memory;
mod network;
mod numbers;
mod registers;
mod vcpu;
mod vm;
mod vmx;

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

create_exception!(
    gasang._engine,
    EngineError,
    PyException,
    "The engine refused: a bad processor model, memory that cannot be had, a register that does not exist."
);

/// An error of the engine as Python sees it.
fn engine_error(error: gasang_vm::Error) -> PyErr {
    EngineError::new_err(error.to_string())
}

#[pymodule]
mod _engine {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::EngineError;
    #[pymodule_export]
    use crate::exits::{
        Halted, Interrupted, KvmLost, MmioRead, MmioWrite, PioRead, PioWrite, SerialOutput, Shutdown, VmExit,
    };
    #[pymodule_export]
    use crate::measurements::Measurements;
    #[pymodule_export]
    use crate::network::Network;
    #[pymodule_export]
    use crate::registers::{DescriptorTable, Segment};
    #[pymodule_export]
    use crate::vcpu::{TraceEvent, TranslatedBlock, Vcpu};
    #[pymodule_export]
    use crate::vm::{Vm, cpu_features, cpu_models, digest_of_image, host_capabilities, probe_kvm};
    #[pymodule_export]
    use crate::vmx::{
        VmxOutcome, VmxTransition, vm_entry_checks, vmcs_fields, vmx_capabilities, vmx_control_capabilities,
        vmx_names,
    };

    #[pymodule_init]
    fn initialize(module: &Bound<'_, PyModule>) -> PyResult<()> {
        gasang_vm::begin_to_measure();
        module.add("Exit", crate::exits::union(module.py())?)
    }
}
