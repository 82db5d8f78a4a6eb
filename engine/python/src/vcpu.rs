//! `Vcpu`.

use crate::measurements::Measurements;
use crate::numbers::{optional, unsigned};
use crate::vmx::{VmxOutcome, VmxTransition};
use crate::{engine_error, exits, registers};
use gasang_vm::{BlockListing, Event, TraceEvent as Traced, VmxInstruction};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Samples a second at most. A timer that expires while its signal is handled lets the thread do nothing else, and with
/// some hosts' timers 100,000 are that many.
const MOST_HERTZ: u64 = 10_000;

/// A virtual processor. One thread runs it; `kick` may come from any thread.
#[pyclass(frozen, module = "gasang._engine")]
pub struct Vcpu {
    pub inner: Arc<gasang_vm::Vcpu>,
}

#[pymethods]
impl Vcpu {
    #[getter]
    fn index(&self) -> usize {
        self.inner.index()
    }

    #[pyo3(signature = (reply=None, *, instructions=None))]
    fn run<'py>(
        &self,
        python: Python<'py>,
        reply: Option<&Bound<'py, PyAny>>,
        instructions: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let reply = optional(reply, "the reply")?;
        let instructions = optional(instructions, "instructions")?;
        let exit = python.detach(|| self.inner.run(reply, instructions)).map_err(engine_error)?;
        exits::to_python(python, exit)
    }

    fn kick(&self) {
        self.inner.kick();
    }

    fn registers<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let values = PyDict::new(python);
        for (name, value) in self.inner.registers().map_err(engine_error)? {
            values.set_item(name, registers::to_python(python, value)?)?;
        }
        Ok(values)
    }

    #[pyo3(signature = (**values))]
    fn set_registers(&self, values: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        let mut list = Vec::new();
        for (name, value) in values.into_iter().flatten() {
            let name: String = name.extract()?;
            let value = registers::from_python(&name, &value)?;
            list.push((name, value));
        }
        self.inner.set_registers(&list).map_err(engine_error)
    }

    fn extended_state<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let image = self.inner.extended_state().map_err(engine_error)?;
        Ok(PyBytes::new(python, &image))
    }

    fn statistics<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counters = PyDict::new(python);
        for (name, count) in self.inner.statistics() {
            counters.set_item(name, count)?;
        }
        Ok(counters)
    }

    fn translated_blocks(&self) -> PyResult<Vec<TranslatedBlock>> {
        let blocks = self.inner.translated_blocks().map_err(engine_error)?;
        Ok(blocks.into_iter().map(TranslatedBlock::from).collect())
    }

    fn set_profile(&self, hertz: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let hertz = hertz.map(|hertz| unsigned(hertz, "hertz", MOST_HERTZ)).transpose()?;
        self.inner.set_profile(hertz.map(|hertz| hertz as u32)).map_err(engine_error)
    }

    fn profile(&self) -> PyResult<Option<Measurements>> {
        Ok(self.inner.profile().map_err(engine_error)?.map(Measurements::from))
    }

    fn executions(&self) -> PyResult<Vec<(u64, u64, u64)>> {
        let executions = self.inner.executions().map_err(engine_error)?;
        Ok(executions.into_iter().map(|(address, each)| (address, each.times, each.instructions)).collect())
    }

    #[pyo3(signature = (instruction, *operands))]
    fn vmx(&self, instruction: &str, operands: Vec<Bound<'_, PyAny>>) -> PyResult<VmxOutcome> {
        let operands = operands.iter().map(|operand| unsigned(operand, "an operand", u64::MAX));
        let operands: Vec<u64> = operands.collect::<PyResult<_>>()?;
        let instruction = VmxInstruction::parse(instruction, &operands).map_err(engine_error)?;
        Ok(self.inner.vmx(instruction).map_err(engine_error)?.into())
    }

    fn watch_exits(&self, on: bool) -> PyResult<()> {
        self.inner.watch_exits(on).map_err(engine_error)
    }

    fn traced_exits(&self) -> PyResult<(Vec<TraceEvent>, u64)> {
        let (events, lost) = self.inner.traced_exits().map_err(engine_error)?;
        Ok((events.into_iter().map(TraceEvent::from).collect(), lost))
    }

    fn watch_vmx(&self, on: bool) -> PyResult<()> {
        self.inner.watch_vmx(on).map_err(engine_error)
    }

    fn vmx_transitions(&self) -> PyResult<(Vec<VmxTransition>, u64)> {
        let (transitions, lost) = self.inner.vmx_transitions().map_err(engine_error)?;
        Ok((transitions.into_iter().map(VmxTransition::from).collect(), lost))
    }

    fn events(&self) -> PyResult<Vec<(u64, u8)>> {
        let events = self.inner.events().map_err(engine_error)?;
        Ok(events.into_iter().map(|event| (event.instructions, event.vector)).collect())
    }

    fn replay(&self, events: Vec<(Bound<'_, PyAny>, Bound<'_, PyAny>)>) -> PyResult<()> {
        let event = |(instructions, vector): &(Bound<'_, PyAny>, Bound<'_, PyAny>)| {
            Ok(Event {
                instructions: unsigned(instructions, "instructions", u64::MAX)?,
                vector: unsigned(vector, "vector", 0xff)? as u8,
            })
        };
        let events = events.iter().map(event).collect::<PyResult<_>>()?;
        self.inner.replay(events).map_err(engine_error)
    }

    fn __repr__(&self) -> String {
        format!("<Vcpu {}>", self.inner.index())
    }
}

/// A tracepoint as it was passed, by KVM's names.
#[pyclass(frozen, get_all, module = "gasang._engine")]
pub struct TraceEvent {
    time: u64,
    name: &'static str,
    fields: BTreeMap<&'static str, u64>,
}

impl From<Traced> for TraceEvent {
    fn from(event: Traced) -> TraceEvent {
        let Traced { time, name, fields } = event;
        TraceEvent { time, name, fields: fields.into_iter().collect() }
    }
}

#[pymethods]
impl TraceEvent {
    fn __repr__(&self) -> String {
        let fields: Vec<String> =
            self.fields.iter().map(|(name, value)| format!("{name}={value:#x}")).collect();
        format!("<TraceEvent {}: {}>", self.name, fields.join(", "))
    }
}

/// An instruction of a listing: address, bytes, text.
type Line = (u64, Vec<u8>, String);

/// A translation block: the guest's code beside the host code that it became.
#[pyclass(frozen, get_all, module = "gasang._engine")]
pub struct TranslatedBlock {
    guest_address: u64,
    physical_address: u64,
    guest: Vec<Line>,
    host: Vec<Line>,
}

impl From<BlockListing> for TranslatedBlock {
    fn from(block: BlockListing) -> TranslatedBlock {
        let BlockListing { linear, physical, guest, host } = block;
        TranslatedBlock { guest_address: linear, physical_address: physical, guest, host }
    }
}

#[pymethods]
impl TranslatedBlock {
    fn __repr__(&self) -> String {
        format!(
            "<TranslatedBlock at {:#x}: {} guest instructions, {} host instructions>",
            self.guest_address,
            self.guest.len(),
            self.host.len()
        )
    }
}
