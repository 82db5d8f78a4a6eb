//! Offsets in the virtual-APIC page, which are those of the local APIC's registers in memory (SDM vol. 3, table 11-1,
//! 30.1.1), and the exit qualification of APIC accesses (table 28-6).
#![allow(missing_docs)]

pub const ID: u64 = 0x20;
pub const VERSION: u64 = 0x30;
/// The task-priority register.
pub const TPR: u64 = 0x80;
/// The processor-priority register.
pub const PPR: u64 = 0xa0;
pub const EOI: u64 = 0xb0;
/// The logical-destination register.
pub const LDR: u64 = 0xd0;
/// The destination-format register.
pub const DFR: u64 = 0xe0;
/// The spurious-interrupt vector register.
pub const SPURIOUS: u64 = 0xf0;
/// The first of eight registers: which vectors are in service.
pub const ISR: u64 = 0x100;
/// The first of eight registers: which vectors are requested.
pub const IRR: u64 = 0x200;
/// The last of the eight after these.
pub const IRR_LAST: u64 = 0x270;
/// The error-status register.
pub const ERROR: u64 = 0x280;
/// The low half of the interrupt-command register.
pub const ICR: u64 = 0x300;
pub const ICR_HIGH: u64 = 0x310;
/// The first entry of the local vector table.
pub const LVT: u64 = 0x320;
/// Its last entry.
pub const LVT_LAST: u64 = 0x370;
pub const INITIAL_COUNT: u64 = 0x380;
pub const DIVIDE: u64 = 0x3e0;
/// SELF IPI, a register of x2APIC mode.
pub const SELF_IPI: u64 = 0x3f0;

/// Access types, in bits 15:12 of the exit qualification.
pub mod access {
    pub const SHIFT: u32 = 12;
    pub const READ: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const FETCH: u64 = 2;
    /// A linear access during event delivery.
    pub const DELIVERY: u64 = 3;
    /// A guest-physical access during event delivery.
    pub const GUEST_PHYSICAL_DELIVERY: u64 = 10;
    /// A guest-physical access for an instruction.
    pub const GUEST_PHYSICAL: u64 = 15;
}
