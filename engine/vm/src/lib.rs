//! A virtual machine and its processors: `Vm`, `Vcpu`, `Exit`, the one virtual clock.
#![forbid(unsafe_code)]

mod accelerator;
mod answers;
mod attention;
mod clock;
mod counts;
mod digest;
mod dirty_log;
mod doorbells;
mod entropy;
mod error;
mod events;
mod exit;
mod hardware;
mod host;
mod kernel_controllers;
mod kvm_machine;
mod memory_span;
mod non_root;
mod paravirtual;
mod probe;
mod processor;
mod registers;
mod saved;
mod shared;
mod standstill;
mod surroundings;
mod tracepoints;
mod vcpu;
mod vm;
mod vmx;
mod vmx_tables;

pub use accelerator::AcceleratorKind;
pub use clock::{ClockKind, TSC_HZ, begin_to_measure};
pub use error::Error;
pub use events::Event;
pub use exit::Exit;
pub use gasang_cpu::{DescriptorTable, SegmentRegister, Transition, TransitionKind};
pub use gasang_kvm::{InterruptControllers, Place};
pub use gasang_memory::{ImageDigest, digest_of_image};
pub use gasang_translate::{BlockListing, CodeRecord, Executions, Measured, Measurements};
pub use host::host_capabilities;
pub use memory_span::MemorySpan;
pub use probe::{ProbedStep, probe_kvm};
pub use registers::RegisterValue;
pub use tracepoints::TraceEvent;
pub use vcpu::Vcpu;
pub use vm::{Vm, VmOptions, cpu_features, cpu_models};
pub use vmx::{VmxInstruction, VmxOutcome};
pub use vmx_tables::{
    CheckDescription, FieldDescription, Named, vm_entry_checks, vmcs_fields, vmx_capabilities,
    vmx_control_capabilities, vmx_names,
};
