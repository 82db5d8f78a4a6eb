//! The processor model.
#![allow(unused_variables)]

use crate::state::VcpuState;

/// A feature that CPUID can report, by its Linux name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Feature {
    Fpu,
    Smap,
}

/// What CPUID says and what follows from it.
#[derive(Debug, Clone)]
pub struct CpuModel {
    _features: u128,
}

impl CpuModel {
    /// The model that `spec`, "MODEL[,+feature,-feature]...", describes.
    ///
    /// # Errors
    /// A message that names what is not known, or what this host cannot do, and the valid names.
    pub fn parse(spec: &str) -> Result<CpuModel, String> {
        todo!()
    }

    /// Names of the models.
    pub fn models() -> Vec<&'static str> {
        todo!()
    }

    /// Names of the features that this model has.
    pub fn features(&self) -> Vec<&'static str> {
        todo!()
    }

    /// Whether the model has `feature`.
    #[inline]
    pub fn has(&self, feature: Feature) -> bool {
        todo!()
    }

    /// The state components that XSETBV may enable.
    pub fn xcr0_allowed(&self) -> u64 {
        todo!()
    }

    /// CPUID: EAX, EBX, ECX, EDX.
    pub fn cpuid(
        &self,
        leaf: u32,
        subleaf: u32,
        state: &VcpuState,
        apic_id: u32,
        cpus: u32,
        tsc_hz: u64,
    ) -> [u32; 4] {
        todo!()
    }
}
