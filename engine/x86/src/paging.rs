//! Paging-structure entries (SDM vol. 3, 4.3-4.5).
#![allow(missing_docs)]

pub const PRESENT: u64 = 1 << 0;
pub const WRITABLE: u64 = 1 << 1;
pub const USER: u64 = 1 << 2;
pub const WRITE_THROUGH: u64 = 1 << 3;
pub const CACHE_DISABLE: u64 = 1 << 4;
pub const ACCESSED: u64 = 1 << 5;
pub const DIRTY: u64 = 1 << 6;
/// In an entry that maps a page above the lowest level.
pub const PAGE_SIZE: u64 = 1 << 7;
pub const GLOBAL: u64 = 1 << 8;
/// PAT bit of an entry that maps a large page.
pub const LARGE_PAT: u64 = 1 << 12;
pub const PROTECTION_KEY_SHIFT: u32 = 59;
pub const EXECUTE_DISABLE: u64 = 1 << 63;
/// Physical-address bits 51:12 of an entry.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
