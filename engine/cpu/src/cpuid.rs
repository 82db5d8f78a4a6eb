//! The processor model.

/// What CPUID says and what follows from it.
#[derive(Debug, Clone)]
pub struct CpuModel {}
