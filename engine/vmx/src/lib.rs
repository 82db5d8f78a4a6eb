//! VMX operation for guests: what a processor with VT-x does, apart from executing the instructions of its guest.
#![forbid(unsafe_code)]

pub mod capabilities;
pub mod checks;
pub mod entry;
pub mod ept_pointer;
pub mod exit;
pub mod guest_state;
pub mod host_state;
pub mod instructions;
pub mod intercept;
pub mod interception;
mod journal;
pub mod msr_lists;
mod pdptes;
mod translations;
pub mod vmcs_region;

pub use crate::capabilities::Capabilities;
pub use crate::checks::{Check, Group};

#[cfg(test)]
mod tests;
