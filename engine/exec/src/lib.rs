//! T0: one instruction, precisely, in every mode.
//!
//! Arithmetic is not written here: the operands are fetched, the host processor executes the same operation on them
//! (`stub`, `host`), and the result is committed. What the host cannot do for a guest (control flow, stack, strings,
//! system instructions) has handlers.

mod branch;
mod decode;
mod descriptor;
pub mod direct;
mod extended;
mod features;
mod flow;
mod gather;
mod host;
pub mod host_fault;
pub mod host_sampling;
pub mod host_time;
mod interpreter;
mod legacy;
mod masked;
mod non_root;
mod operand;
mod plan;
mod port;
mod stack;
mod string;
mod stub;
mod system;
mod vector;
mod vmx;

pub use crate::features::{decoder_options, has_instruction, without_ignored_prefix};
pub use crate::interpreter::{Interpreter, Step};

#[cfg(test)]
mod tests;
