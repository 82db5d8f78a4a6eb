//! Segment descriptors and access rights (SDM vol. 3, 3.4.5, 3.5, 25.4.1).
#![allow(missing_docs)]

/// Access rights in the layout of a VMCS access-rights field: what a segment register's hidden part holds.
pub mod access {
    pub const TYPE: u32 = 0xf;
    pub const ACCESSED: u32 = 1 << 0;
    /// Data segment: writable. Code segment: readable.
    pub const WRITABLE: u32 = 1 << 1;
    pub const READABLE: u32 = 1 << 1;
    /// Data segment: expands down. Code segment: conforming.
    pub const EXPAND_DOWN: u32 = 1 << 2;
    pub const CONFORMING: u32 = 1 << 2;
    pub const CODE: u32 = 1 << 3;
    /// Code or data (1), system (0).
    pub const S: u32 = 1 << 4;
    pub const DPL: u32 = 3 << 5;
    pub const DPL_SHIFT: u32 = 5;
    pub const PRESENT: u32 = 1 << 7;
    pub const AVL: u32 = 1 << 12;
    pub const LONG: u32 = 1 << 13;
    /// Default operation size (code), stack pointer size (stack).
    pub const DB: u32 = 1 << 14;
    pub const GRANULARITY: u32 = 1 << 15;
    pub const UNUSABLE: u32 = 1 << 16;
}

/// System descriptor types (SDM vol. 3, table 3-2).
pub mod system {
    pub const TSS16_AVAILABLE: u32 = 1;
    pub const LDT: u32 = 2;
    pub const TSS16_BUSY: u32 = 3;
    pub const CALL_GATE16: u32 = 4;
    pub const TASK_GATE: u32 = 5;
    pub const INTERRUPT_GATE16: u32 = 6;
    pub const TRAP_GATE16: u32 = 7;
    pub const TSS_AVAILABLE: u32 = 9;
    pub const TSS_BUSY: u32 = 11;
    pub const CALL_GATE: u32 = 12;
    pub const INTERRUPT_GATE: u32 = 14;
    pub const TRAP_GATE: u32 = 15;
}

/// Selector fields.
pub mod selector {
    pub const RPL: u16 = 3;
    pub const TI: u16 = 4;
    pub const INDEX: u16 = 0xfff8;
}
