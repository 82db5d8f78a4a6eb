//! What is where in the linear address space that the host's child process and the guest have in common.
//!
//! A window of pages appears twice: below 4 GiB, where 32-bit addresses reach it, and far above.

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// The window's address below 4 GiB.
pub const LOW: u64 = 0x1000_0000;
/// The same pages again.
pub const HIGH: u64 = 0x10_1000_0000;

/// Offset in the window of the first data page; the page before it is not mapped.
pub const DATA: u64 = PAGE;
/// Data pages that may be written.
pub const WRITABLE_PAGES: u64 = 3;
/// Offset of the data page that may only be read; the page behind it is not mapped.
pub const READ_ONLY: u64 = DATA + WRITABLE_PAGES * PAGE;
/// All data pages.
pub const DATA_PAGES: u64 = WRITABLE_PAGES + 1;
/// Their bytes.
pub const DATA_BYTES: usize = (DATA_PAGES * PAGE) as usize;

/// Offset of the first code page.
pub const CODE: u64 = 16 * PAGE;
/// Code pages; the page behind the last is not mapped.
pub const CODE_PAGES: u64 = 2;
/// Their bytes.
pub const CODE_BYTES: usize = (CODE_PAGES * PAGE) as usize;
