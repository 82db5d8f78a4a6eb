//! The view of one processor that executes: its state, its TLB, RAM and its surroundings.

use crate::cpuid::CpuModel;
use crate::platform::Platform;
use crate::state::VcpuState;
use crate::tlb::Tlb;
use gasang_memory::GuestMemory;

/// Everything that executing an instruction may touch.
pub struct Core<'a> {
    /// Architectural state.
    pub state: &'a mut VcpuState,
    /// Translations.
    pub tlb: &'a mut Tlb,
    /// RAM.
    pub memory: &'a GuestMemory,
    /// Ports, devices, local APIC, clock.
    pub platform: &'a mut dyn Platform,
    /// What CPUID says and what follows from it.
    pub model: &'a CpuModel,
}
