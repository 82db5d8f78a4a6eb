//! VMX operation for guests: what a processor with VT-x does, apart from executing the instructions of its guest.
#![forbid(unsafe_code)]

pub mod capabilities;
pub mod ept_pointer;
pub mod instructions;
mod translations;
pub mod vmcs_region;

pub use crate::capabilities::Capabilities;

#[cfg(test)]
mod tests;
