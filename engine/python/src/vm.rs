//! `Vm`, and what the engine offers without one.

use crate::engine_error;
use crate::memory::MemorySpan;
use crate::numbers::unsigned;
use crate::vcpu::Vcpu;
use gasang_vm::{AcceleratorKind, ClockKind, Error, InterruptControllers, Place, VmOptions};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyMemoryView};
use std::fs::{File, OpenOptions};
use std::os::fd::IntoRawFd;
use std::sync::Arc;

/// Guest memory, processors, interrupt controllers, timers and four serial ports, on one virtual clock.
#[pyclass(frozen, module = "gasang._engine")]
pub struct Vm {
    inner: gasang_vm::Vm,
}

fn controllers(name: &str) -> PyResult<InterruptControllers> {
    match name {
        "own" => Ok(InterruptControllers::Own),
        "kernel" => Ok(InterruptControllers::Kernel),
        _ => {
            Err(engine_error(Error::Argument(format!("unknown irqchip '{name}'; there are own and kernel"))))
        }
    }
}

/// The file behind one of our descriptors, opened once more.
fn open(descriptor: i32, write: bool) -> PyResult<File> {
    let path = format!("/proc/self/fd/{descriptor}");
    Ok(OpenOptions::new().read(!write).write(write).open(path)?)
}

fn place(address: &Bound<'_, PyAny>, port: bool) -> PyResult<Place> {
    if port {
        return Ok(Place::Port(unsigned(address, "a port", 0xffff)? as u16));
    }
    Ok(Place::Memory(unsigned(address, "address", u64::MAX)?))
}

fn index(value: &Bound<'_, PyAny>, what: &str) -> PyResult<usize> {
    unsigned(value, what, usize::MAX as u64).map(|value| value as usize)
}

#[pymethods]
impl Vm {
    #[new]
    #[pyo3(
        signature = (*, memory, cpus=None, accel="bt", cpu="max", trace_blocks=false, log_code=false,
            count_blocks=false, clock="host", wall_clock=None, seed=None, vm_exits=false,
            kvm_may_fail=false, switchable=false, irqchip="own", memory_image=None),
        text_signature = "(*, memory, cpus=1, accel='bt', cpu='max', trace_blocks=False, log_code=False, \
            count_blocks=False, clock='host', wall_clock=0, seed=0, vm_exits=False, \
            kvm_may_fail=False, switchable=False, irqchip='own', memory_image=None)"
    )]
    #[expect(clippy::too_many_arguments, reason = "Python names them")]
    fn new(
        memory: &Bound<'_, PyAny>,
        cpus: Option<&Bound<'_, PyAny>>,
        accel: &str,
        cpu: &str,
        trace_blocks: bool,
        log_code: bool,
        count_blocks: bool,
        clock: &str,
        wall_clock: Option<&Bound<'_, PyAny>>,
        seed: Option<&Bound<'_, PyAny>>,
        vm_exits: bool,
        kvm_may_fail: bool,
        switchable: bool,
        irqchip: &str,
        memory_image: Option<(i32, u64)>,
    ) -> PyResult<Vm> {
        let options = VmOptions {
            memory: unsigned(memory, "memory", u64::MAX)?,
            vcpus: cpus.map_or(Ok(1), |cpus| index(cpus, "cpus"))?,
            accelerator: AcceleratorKind::parse(accel).map_err(engine_error)?,
            cpu: cpu.to_owned(),
            clock: ClockKind::parse(clock).map_err(engine_error)?,
            wall_clock: wall_clock.map_or(Ok(0), |time| unsigned(time, "wall_clock", u64::MAX))?,
            seed: seed.map_or(Ok(0), |seed| unsigned(seed, "seed", u64::MAX))?,
            trace_blocks,
            log_code,
            count_blocks,
            vm_exits,
            kvm_may_fail,
            switchable,
            controllers: controllers(irqchip)?,
            memory_image: memory_image
                .map(|(descriptor, offset)| PyResult::Ok((Arc::new(open(descriptor, false)?), offset)))
                .transpose()?,
        };
        Ok(Vm { inner: gasang_vm::Vm::new(&options).map_err(engine_error)? })
    }

    fn vcpu(&self, index: &Bound<'_, PyAny>) -> PyResult<Vcpu> {
        let inner = self.inner.vcpu(self::index(index, "index")?).map_err(engine_error)?;
        Ok(Vcpu { inner })
    }

    fn memory_regions(&self) -> Vec<(u64, u64)> {
        self.inner.memory_regions()
    }

    fn read_memory<'py>(
        &self,
        python: Python<'py>,
        address: &Bound<'py, PyAny>,
        length: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let address = unsigned(address, "address", u64::MAX)?;
        let length = unsigned(length, "length", u64::MAX)?;
        let bytes = self.inner.read_memory(address, length).map_err(engine_error)?;
        Ok(PyBytes::new(python, &bytes))
    }

    fn write_memory(&self, address: &Bound<'_, PyAny>, data: &Bound<'_, PyBytes>) -> PyResult<()> {
        let address = unsigned(address, "address", u64::MAX)?;
        self.inner.write_memory(address, data.as_bytes()).map_err(engine_error)
    }

    fn set_accelerator(&self, python: Python<'_>, accel: &str) -> PyResult<()> {
        let kind = AcceleratorKind::parse(accel).map_err(engine_error)?;
        python.detach(|| self.inner.set_accelerator(kind)).map_err(engine_error)
    }

    fn memory_view<'py>(
        &self,
        python: Python<'py>,
        address: &Bound<'py, PyAny>,
        length: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyMemoryView>> {
        let address = unsigned(address, "address", u64::MAX)?;
        let length = unsigned(length, "length", u64::MAX)?;
        let span = MemorySpan { inner: self.inner.memory_span(address, length).map_err(engine_error)? };
        PyMemoryView::from(Bound::new(python, span)?.as_any())
    }

    fn discard_memory(&self, ranges: Vec<(u64, u64)>) -> PyResult<()> {
        let mut ranges = ranges.into_iter();
        ranges
            .try_for_each(|(address, length)| self.inner.discard_memory(address, length))
            .map_err(engine_error)
    }

    fn memory_written(&self, ranges: Vec<(u64, u64)>) -> PyResult<()> {
        let mut ranges = ranges.into_iter();
        ranges
            .try_for_each(|(address, length)| self.inner.memory_written(address, length))
            .map_err(engine_error)
    }

    fn hold(&self, python: Python<'_>) -> PyResult<()> {
        python.detach(|| self.inner.hold()).map_err(engine_error)
    }

    fn release(&self, python: Python<'_>) -> PyResult<()> {
        python.detach(|| self.inner.release()).map_err(engine_error)
    }

    fn save(&self, python: Python<'_>) -> PyResult<String> {
        python.detach(|| self.inner.save()).map_err(engine_error)
    }

    fn load(&self, python: Python<'_>, state: &str) -> PyResult<()> {
        python.detach(|| self.inner.load(state)).map_err(engine_error)
    }

    fn freeze_memory(&self, python: Python<'_>) -> PyResult<i32> {
        let file = python.detach(|| self.inner.freeze_memory()).map_err(engine_error)?;
        Ok(file.into_raw_fd())
    }

    fn write_memory_image(&self, python: Python<'_>, descriptor: i32, offset: u64) -> PyResult<(u64, u32)> {
        let file = open(descriptor, true)?;
        let digest = python.detach(|| self.inner.write_memory_image(&file, offset)).map_err(engine_error)?;
        Ok((digest.pages, digest.crc))
    }

    fn log_dirty_pages(&self, on: bool) -> PyResult<()> {
        self.inner.log_dirty_pages(on).map_err(engine_error)
    }

    fn take_dirty_pages(&self, python: Python<'_>) -> PyResult<Vec<(u64, u64)>> {
        python.detach(|| self.inner.take_dirty_pages()).map_err(engine_error)
    }

    fn memory_digest(&self, python: Python<'_>) -> PyResult<u64> {
        python.detach(|| self.inner.memory_digest()).map_err(engine_error)
    }

    fn state_digest(&self, python: Python<'_>) -> PyResult<u64> {
        python.detach(|| self.inner.state_digest()).map_err(engine_error)
    }

    fn set_interrupt_line(&self, gsi: &Bound<'_, PyAny>, level: bool) -> PyResult<()> {
        let gsi = unsigned(gsi, "gsi", u64::from(u32::MAX))? as u32;
        self.inner.set_interrupt_line(gsi, level).map_err(engine_error)
    }

    #[pyo3(signature = (address, *, port=false))]
    fn add_doorbell(&self, address: &Bound<'_, PyAny>, port: bool) -> PyResult<i32> {
        let descriptor = self.inner.add_doorbell(place(address, port)?).map_err(engine_error)?;
        Ok(descriptor.into_raw_fd())
    }

    #[pyo3(signature = (address, *, port=false))]
    fn remove_doorbell(&self, address: &Bound<'_, PyAny>, port: bool) -> PyResult<()> {
        self.inner.remove_doorbell(place(address, port)?).map_err(engine_error)
    }

    fn signal_msi(&self, address: &Bound<'_, PyAny>, data: &Bound<'_, PyAny>) -> PyResult<bool> {
        let address = unsigned(address, "address", u64::MAX)?;
        let data = unsigned(data, "data", u64::from(u32::MAX))? as u32;
        self.inner.signal_msi(address, data).map_err(engine_error)
    }

    fn interrupt_descriptor(&self, gsi: &Bound<'_, PyAny>) -> PyResult<i32> {
        let gsi = unsigned(gsi, "gsi", u64::from(u32::MAX))? as u32;
        Ok(self.inner.interrupt_descriptor(gsi).map_err(engine_error)?.into_raw_fd())
    }

    fn serial_input(&self, index: &Bound<'_, PyAny>, data: &Bound<'_, PyBytes>) -> PyResult<usize> {
        let index = self::index(index, "index")?;
        self.inner.serial_input(index, data.as_bytes()).map_err(engine_error)
    }

    fn serial_pending(&self, index: &Bound<'_, PyAny>) -> PyResult<usize> {
        self.inner.serial_pending(self::index(index, "index")?).map_err(engine_error)
    }

    fn take_code_log(&self) -> Vec<(u64, u32, u64, u32, u8)> {
        let cpl = |user| if user { 3 } else { 0 };
        let records = self.inner.take_code_log().into_iter();
        records.map(|each| (each.host, each.size, each.linear, each.instructions, cpl(each.user))).collect()
    }

    fn virtual_time(&self) -> u64 {
        self.inner.virtual_time()
    }
}

/// The digest of the image of RAM in a file: pages that are not all zeroes, and their checksum.
#[pyfunction]
pub fn digest_of_image(python: Python<'_>, descriptor: i32, offset: u64, size: u64) -> PyResult<(u64, u32)> {
    let file = open(descriptor, false)?;
    let digest = python.detach(|| gasang_vm::digest_of_image(&file, offset, size))?;
    Ok((digest.pages, digest.crc))
}

/// The names that `cpu` takes.
#[pyfunction]
pub fn cpu_models() -> Vec<&'static str> {
    gasang_vm::cpu_models()
}

/// The feature names that `cpu` takes after `+` and `-`.
#[pyfunction]
pub fn cpu_features() -> Vec<&'static str> {
    gasang_vm::cpu_features()
}

/// What the host processor and kernel offer the engine.
#[pyfunction]
pub fn host_capabilities(python: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let capabilities = PyDict::new(python);
    for (name, present) in gasang_vm::host_capabilities() {
        capabilities.set_item(name, present)?;
    }
    Ok(capabilities)
}

#[pyfunction]
pub fn probe_kvm(python: Python<'_>) -> Vec<(&'static str, Option<String>)> {
    let steps = python.detach(gasang_vm::probe_kvm);
    steps.into_iter().map(|step| (step.name, step.failure)).collect()
}
