//! Exception vectors and error-code bits (SDM vol. 3, 6.3, 6.13, 4.7).
#![allow(missing_docs)]

pub const DE: u8 = 0;
pub const DB: u8 = 1;
pub const NMI: u8 = 2;
pub const BP: u8 = 3;
pub const OF: u8 = 4;
pub const BR: u8 = 5;
pub const UD: u8 = 6;
pub const NM: u8 = 7;
pub const DF: u8 = 8;
pub const TS: u8 = 10;
pub const NP: u8 = 11;
pub const SS: u8 = 12;
pub const GP: u8 = 13;
pub const PF: u8 = 14;
pub const MF: u8 = 16;
pub const AC: u8 = 17;
pub const MC: u8 = 18;
pub const XM: u8 = 19;
pub const VE: u8 = 20;

/// Page-fault error code (SDM vol. 3, 4.7).
pub mod page_fault {
    pub const PRESENT: u32 = 1 << 0;
    pub const WRITE: u32 = 1 << 1;
    pub const USER: u32 = 1 << 2;
    pub const RESERVED: u32 = 1 << 3;
    pub const FETCH: u32 = 1 << 4;
    pub const PROTECTION_KEY: u32 = 1 << 5;
}

/// Selector error code (SDM vol. 3, 6.13).
pub mod selector_error {
    pub const EXTERNAL: u32 = 1 << 0;
    pub const IDT: u32 = 1 << 1;
    pub const TI: u32 = 1 << 2;
}
