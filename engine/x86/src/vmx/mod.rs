//! VMX: the virtual-machine extensions as the manual defines them (SDM vol. 3, chapters 24-31, appendices A-C).

pub mod controls;
pub mod exit_reason;
pub mod fields;
pub mod instruction_error;
pub mod virtual_apic;

pub use exit_reason::ExitReason;
pub use fields::{Area, Field, Width};
pub use instruction_error::InstructionError;
