//! The engine against the host processor: the same code from the same state, natively in a sandboxed child process, in
//! T0 and in T1.

pub mod address;
pub mod block;
pub mod campaign;
pub mod case;
pub mod compare;
pub mod excluded;
pub mod forms;
pub mod fuzz;
pub mod guest;
pub mod host;
pub mod intel;
pub mod layout;
pub mod platform;
pub mod random;
pub mod single;
pub mod values;
