//! Exits as Python values.

use gasang_vm::Exit;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

/// The guest reads an I/O port; answer with the value in the next `run`.
#[pyclass(frozen, get_all, eq, hash, new = "from_fields", module = "gasang._engine")]
#[derive(PartialEq, Eq, Hash)]
pub struct PioRead {
    port: u16,
    size: u8,
}

#[pymethods]
impl PioRead {
    #[classattr]
    fn __match_args__() -> (&'static str, &'static str) {
        ("port", "size")
    }

    fn __repr__(&self) -> String {
        format!("PioRead(port={:#x}, size={})", self.port, self.size)
    }
}

/// The guest writes an I/O port.
#[pyclass(frozen, get_all, eq, hash, new = "from_fields", module = "gasang._engine")]
#[derive(PartialEq, Eq, Hash)]
pub struct PioWrite {
    port: u16,
    size: u8,
    value: u32,
}

#[pymethods]
impl PioWrite {
    #[classattr]
    fn __match_args__() -> (&'static str, &'static str, &'static str) {
        ("port", "size", "value")
    }

    fn __repr__(&self) -> String {
        format!("PioWrite(port={:#x}, size={}, value={:#x})", self.port, self.size, self.value)
    }
}

/// The guest reads a physical address that is neither RAM nor a device of the engine; answer in the next `run`.
#[pyclass(frozen, get_all, eq, hash, new = "from_fields", module = "gasang._engine")]
#[derive(PartialEq, Eq, Hash)]
pub struct MmioRead {
    address: u64,
    size: u8,
}

#[pymethods]
impl MmioRead {
    #[classattr]
    fn __match_args__() -> (&'static str, &'static str) {
        ("address", "size")
    }

    fn __repr__(&self) -> String {
        format!("MmioRead(address={:#x}, size={})", self.address, self.size)
    }
}

/// The guest writes a physical address that is neither RAM nor a device of the engine.
#[pyclass(frozen, get_all, eq, hash, new = "from_fields", module = "gasang._engine")]
#[derive(PartialEq, Eq, Hash)]
pub struct MmioWrite {
    address: u64,
    size: u8,
    value: u64,
}

#[pymethods]
impl MmioWrite {
    #[classattr]
    fn __match_args__() -> (&'static str, &'static str, &'static str) {
        ("address", "size", "value")
    }

    fn __repr__(&self) -> String {
        format!("MmioWrite(address={:#x}, size={}, value={:#x})", self.address, self.size, self.value)
    }
}

/// Bytes that the guest sent through serial port `index` (0 is COM1), collected since the last exit.
#[pyclass(frozen, get_all, eq, hash, new = "from_fields", module = "gasang._engine")]
#[derive(PartialEq, Eq, Hash)]
pub struct SerialOutput {
    index: usize,
    data: Vec<u8>,
}

#[pymethods]
impl SerialOutput {
    #[classattr]
    fn __match_args__() -> (&'static str, &'static str) {
        ("index", "data")
    }

    fn __repr__(&self) -> String {
        format!("SerialOutput(index={}, data=b\"{}\")", self.index, self.data.escape_ascii())
    }
}

/// The guest left VMX non-root operation, or its entry failed late, on a Vm made with `vm_exits=True`.
#[pyclass(frozen, get_all, eq, hash, new = "from_fields", module = "gasang._engine")]
#[derive(PartialEq, Eq, Hash)]
pub struct VmExit {
    reason: u32,
    qualification: u64,
}

#[pymethods]
impl VmExit {
    #[classattr]
    fn __match_args__() -> (&'static str, &'static str) {
        ("reason", "qualification")
    }

    fn __repr__(&self) -> String {
        format!("VmExit(reason={:#x}, qualification={:#x})", self.reason, self.qualification)
    }
}

/// HLT with interrupts disabled, and no other processor is left that could wake this one.
#[pyclass(frozen, eq, hash, new = "from_fields", module = "gasang._engine")]
#[derive(PartialEq, Eq, Hash)]
pub struct Halted {}

#[pymethods]
impl Halted {
    fn __repr__(&self) -> &'static str {
        "Halted()"
    }
}

/// The processor gave up; `reason` is "triple fault".
#[pyclass(frozen, get_all, eq, hash, new = "from_fields", module = "gasang._engine")]
#[derive(PartialEq, Eq, Hash)]
pub struct Shutdown {
    reason: String,
}

#[pymethods]
impl Shutdown {
    #[classattr]
    fn __match_args__() -> (&'static str,) {
        ("reason",)
    }

    fn __repr__(&self) -> String {
        format!("Shutdown(reason={:?})", self.reason)
    }
}

/// `Vcpu.kick` was called, or the instruction budget of `run` is spent.
#[pyclass(frozen, eq, hash, new = "from_fields", module = "gasang._engine")]
#[derive(PartialEq, Eq, Hash)]
pub struct Interrupted {}

#[pymethods]
impl Interrupted {
    fn __repr__(&self) -> &'static str {
        "Interrupted()"
    }
}

/// KVM cannot execute the guest any further: on a Vm made with `kvm_may_fail=True` translation goes on from here.
#[pyclass(frozen, get_all, eq, hash, new = "from_fields", module = "gasang._engine")]
#[derive(PartialEq, Eq, Hash)]
pub struct KvmLost {
    reason: String,
}

#[pymethods]
impl KvmLost {
    #[classattr]
    fn __match_args__() -> (&'static str,) {
        ("reason",)
    }

    fn __repr__(&self) -> String {
        format!("KvmLost(reason={:?})", self.reason)
    }
}

/// The type that all exits belong to: `PioRead | PioWrite | ...`.
pub fn union(python: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let others = [
        python.get_type::<PioWrite>(),
        python.get_type::<MmioRead>(),
        python.get_type::<MmioWrite>(),
        python.get_type::<SerialOutput>(),
        python.get_type::<VmExit>(),
        python.get_type::<Halted>(),
        python.get_type::<Shutdown>(),
        python.get_type::<Interrupted>(),
        python.get_type::<KvmLost>(),
    ];
    let first = python.get_type::<PioRead>().into_any();
    others.into_iter().try_fold(first, |union, next| union.bitor(next))
}

/// The exit as an instance of its class.
pub fn to_python(python: Python<'_>, exit: Exit) -> PyResult<Bound<'_, PyAny>> {
    match exit {
        Exit::PioRead { port, size } => PioRead { port, size }.into_bound_py_any(python),
        Exit::PioWrite { port, size, value } => PioWrite { port, size, value }.into_bound_py_any(python),
        Exit::MmioRead { address, size } => MmioRead { address, size }.into_bound_py_any(python),
        Exit::MmioWrite { address, size, value } => {
            MmioWrite { address, size, value }.into_bound_py_any(python)
        }
        Exit::SerialOutput { index, data } => SerialOutput { index, data }.into_bound_py_any(python),
        Exit::VmExit { reason, qualification } => VmExit { reason, qualification }.into_bound_py_any(python),
        Exit::Halted => Halted {}.into_bound_py_any(python),
        Exit::Shutdown => Shutdown { reason: "triple fault".to_owned() }.into_bound_py_any(python),
        Exit::Interrupted => Interrupted {}.into_bound_py_any(python),
        Exit::KvmLost { reason } => KvmLost { reason }.into_bound_py_any(python),
    }
}
