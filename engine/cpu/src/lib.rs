//! What an x86-64 processor is, apart from executing instructions: registers, modes, segments, paging, exceptions.
#![forbid(unsafe_code)]

mod access;
mod core;
pub mod cpuid;
mod exception;
mod paging;
mod platform;
pub mod state;
pub mod tlb;

pub use crate::access::Privilege;
pub use crate::core::Core;
pub use crate::cpuid::CpuModel;
pub use crate::exception::{Exception, Trap};
pub use crate::paging::{Access, Physical};
pub use crate::platform::Platform;
pub use crate::state::{Activity, DescriptorTable, ExtendedState, SegmentRegister, Shadow, VcpuState};
pub use crate::tlb::{Tlb, TlbContext, TlbEntry};
