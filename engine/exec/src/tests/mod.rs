//! Facts about single instructions, on a machine with real memory and page tables.

mod debug;
mod direct;
mod facts;
mod forms;
mod fuzz;
mod legacy;
mod machine;
mod native;
mod vectors;
