//! What an x86-64 processor is, apart from executing instructions: registers, modes, segments, paging, exceptions.
#![forbid(unsafe_code)]

mod access;
mod control_registers;
mod core;
pub mod cpuid;
mod debug;
mod delivery;
mod delivery_in_guest;
mod descriptor_tables;
mod descriptors;
mod ept;
mod ept_cache;
mod exception;
mod extended;
mod far;
mod far_return;
mod flags;
mod guest_physical;
mod halt;
mod hypercall;
mod in_use;
mod io;
mod modification_log;
mod msr;
mod paging;
mod platform;
mod segments;
mod stack;
pub mod state;
mod syscall;
mod task;
pub mod tlb;
mod virtual_apic;
mod virtualization_exception;
pub mod vmx;
mod vmx_journal;
mod xsave;

pub use crate::access::Privilege;
pub use crate::control_registers::PDPTE_RESERVED;
pub use crate::core::Core;
pub use crate::cpuid::{CpuModel, Feature, host_vendor};
pub use crate::exception::{Exception, Trap};

pub use crate::paging::{Access, PHYSICAL_ADDRESS_BITS, Physical};
pub use crate::platform::{Identity, Platform};
pub use crate::state::{
    Activity, DescriptorTable, ExtendedState, MsrState, SegmentRegister, Shadow, VcpuState,
};
pub use crate::tlb::{Owner, Tlb, TlbContext, TlbEntry};
pub use crate::virtual_apic::{ApicAccess, VirtualApic};
pub use crate::vmx::{Interceptions, Interruption, Operation, VmExit, Vmcs, VmxState};
pub use crate::vmx_journal::{Journal, Transition, TransitionCounts, TransitionKind};
pub use crate::xsave::SaveKind;

#[cfg(test)]
mod tests;
