//! VMX operation for guests: what a processor with VT-x does, apart from executing the instructions of its guest.
#![forbid(unsafe_code)]

mod capabilities;
mod checks;
pub mod entry;
mod ept_pointer;
pub mod exit;
pub mod functions;
mod guest_state;
mod host_state;
pub mod instructions;
pub mod intercept;
mod journal;
mod msr_lists;
mod pdptes;
mod translations;
pub mod virtual_apic;
pub mod vmcs_access;
mod vmcs_region;

pub use crate::capabilities::Capabilities;
pub use crate::checks::{Check, Group};
pub use crate::translations::change_owner;

#[cfg(test)]
mod tests;
