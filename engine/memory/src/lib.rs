//! Guest RAM: one memfd or a private copy of a file, the physical address map, and one byte of flags for each page.
//!
//! A *host address* here is the address, in our own process, of a byte of guest RAM. Accessors check every host
//! address against the mapping, so a wrong one is a panic of ours and never an access outside the guest.

mod backing;
mod image;
mod map;
mod mirrors;
mod zeroes;

use backing::Backing;
use std::arch::asm;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

pub use image::{ImageDigest, digest_of_image};

pub use map::{HIGH_RAM_START, LOW_RAM_LIMIT, PhysicalMap, VIDEO_HOLE};
pub use mirrors::{Laid, Mirrors};
pub use zeroes::{Plain, Zeroes};

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;

/// Flag of a page: it was written since the flag was last cleared.
pub const PAGE_DIRTY: u8 = 1 << 0;
/// Flag of a page: translated code was made from its bytes; writes must be told to the translators.
pub const PAGE_HAS_CODE: u8 = 1 << 1;
/// Flag of a page: some processor's TLB may have an entry that lets translated code write it unnoticed. Set by whoever makes
/// the first such entry, before looking at `PAGE_HAS_CODE`, until all of them are gone (`take_dirty`).
pub const PAGE_WRITABLE_IN_TLB: u8 = 1 << 2;

/// A physical range that is not, or not wholly, RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotRam {
    /// Where the range starts.
    pub address: u64,
    /// Its length in bytes.
    pub length: u64,
}

impl std::fmt::Display for NotRam {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "physical range {:#x}+{:#x} is not all RAM", self.address, self.length)
    }
}

impl std::error::Error for NotRam {}

/// The RAM of one machine.
#[derive(Debug)]
pub struct GuestMemory {
    base: *mut u8,
    size: u64,
    map: PhysicalMap,
    backing: RwLock<Backing>,
    flags: Box<[AtomicU8]>,
    split: Mutex<()>,
}

// SAFETY: the mapping lives as long as the value and is never moved; concurrent access goes through single machine
// instructions (`load`, `store`), atomics and byte copies of opaque guest bytes, to which no Rust reference exists.
unsafe impl Send for GuestMemory {}
// SAFETY: as above.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Map `size` bytes (a multiple of the page size, not zero) of zeroed RAM.
    ///
    /// # Errors
    /// What memfd_create, ftruncate or mmap say; `InvalidInput` for a size that is no whole number of pages.
    pub fn new(size: u64) -> io::Result<GuestMemory> {
        check_size(size)?;
        GuestMemory::backed(Backing::Shared(backing::memfd(size)?), size)
    }

    /// RAM that begins as the `size` bytes of a file from `offset` on, and goes its own way: what is written stays here,
    /// and what is never touched is never read. Whoever changes the file meanwhile changes RAM.
    ///
    /// # Errors
    /// What mmap says; `InvalidInput` for a size or an offset that is no whole number of pages, or that the file does not
    /// have.
    pub fn over(file: File, offset: u64, size: u64) -> io::Result<GuestMemory> {
        check_size(size)?;
        let end = offset.checked_add(size).filter(|_| offset % PAGE_SIZE == 0);
        if end.is_none_or(|end| file.metadata().is_ok_and(|file| file.len() < end)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "memory beyond the end of its file"));
        }
        GuestMemory::backed(Backing::Private { file, offset }, size)
    }

    fn backed(backing: Backing, size: u64) -> io::Result<GuestMemory> {
        let base = backing.map(size)?;
        let flags = (0..size / PAGE_SIZE).map(|_| AtomicU8::new(0)).collect();
        let map = PhysicalMap::new(size);
        Ok(GuestMemory { base, size, map, backing: RwLock::new(backing), flags, split: Mutex::new(()) })
    }

    /// Where RAM lies in the physical address space.
    pub fn map(&self) -> &PhysicalMap {
        &self.map
    }

    /// Bytes of RAM.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn backing(&self) -> RwLockReadGuard<'_, Backing> {
        self.backing.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is written stays in this mapping: the file behind it does not have it, and no other mapping can.
    pub fn is_private(&self) -> bool {
        matches!(*self.backing(), Backing::Private { .. })
    }

    /// Host address of the first byte of RAM.
    pub fn base(&self) -> u64 {
        self.base as u64
    }

    /// Host address of the page that holds physical `address`; None where there is no RAM.
    #[inline]
    pub fn host_page(&self, address: u64) -> Option<u64> {
        self.map.offset(address).map(|offset| (self.base as u64 + offset) & !(PAGE_SIZE - 1))
    }

    /// Host address of the byte at physical `address`; None where there is no RAM.
    #[inline]
    pub fn host(&self, address: u64) -> Option<u64> {
        self.map.offset(address).map(|offset| self.base as u64 + offset)
    }

    /// Physical address of the byte at host address `host`.
    pub fn physical(&self, host: u64) -> u64 {
        self.map.physical(self.offset(host, 1))
    }

    /// The pointer for `length` bytes at `host`. Panics when they are not all RAM: that is a bug of ours, since host
    /// addresses only come from `host` and `host_page`.
    #[inline]
    fn offset(&self, host: u64, length: u64) -> u64 {
        let offset = host.wrapping_sub(self.base as u64);
        assert!(
            offset < self.size && length <= self.size - offset,
            "host address {host:#x}+{length} is outside guest RAM"
        );
        offset
    }

    #[inline]
    fn pointer(&self, host: u64, length: u64) -> *mut u8 {
        let offset = self.offset(host, length);
        // SAFETY: `offset` checked that it is inside the mapping.
        unsafe { self.base.add(offset as usize) }
    }

    /// Load `size` bytes (1, 2, 4 or 8) by one machine instruction, zero-extended.
    #[inline]
    pub fn load(&self, host: u64, size: usize) -> u64 {
        let pointer = self.pointer(host, size as u64);
        let value: u64;
        // SAFETY: the bytes are inside the mapping. Assembly, because the guest may write them meanwhile and they may
        // be unaligned: the access must be one instruction, as the processor's own would be.
        unsafe {
            match size {
                1 => {
                    asm!("movzx {v:e}, byte ptr [{p}]", v = out(reg) value, p = in(reg) pointer, options(nostack, preserves_flags, readonly))
                }
                2 => {
                    asm!("movzx {v:e}, word ptr [{p}]", v = out(reg) value, p = in(reg) pointer, options(nostack, preserves_flags, readonly))
                }
                4 => {
                    asm!("mov {v:e}, dword ptr [{p}]", v = out(reg) value, p = in(reg) pointer, options(nostack, preserves_flags, readonly))
                }
                8 => {
                    asm!("mov {v}, qword ptr [{p}]", v = out(reg) value, p = in(reg) pointer, options(nostack, preserves_flags, readonly))
                }
                _ => panic!("a load of {size} bytes"),
            }
        }
        value
    }

    /// Store the low `size` bytes (1, 2, 4 or 8) of `value` by one machine instruction; the page becomes dirty.
    #[inline]
    pub fn store(&self, host: u64, size: usize, value: u64) {
        let pointer = self.pointer(host, size as u64);
        self.mark_dirty(host);
        // SAFETY: as in `load`.
        unsafe {
            match size {
                1 => {
                    asm!("mov byte ptr [{p}], {v}", v = in(reg_byte) value as u8, p = in(reg) pointer, options(nostack, preserves_flags))
                }
                2 => {
                    asm!("mov word ptr [{p}], {v:x}", v = in(reg) value, p = in(reg) pointer, options(nostack, preserves_flags))
                }
                4 => {
                    asm!("mov dword ptr [{p}], {v:e}", v = in(reg) value, p = in(reg) pointer, options(nostack, preserves_flags))
                }
                8 => {
                    asm!("mov qword ptr [{p}], {v}", v = in(reg) value, p = in(reg) pointer, options(nostack, preserves_flags))
                }
                _ => panic!("a store of {size} bytes"),
            }
        }
    }

    /// Copy RAM at `host` into `bytes`.
    #[inline]
    pub fn copy_out(&self, host: u64, bytes: &mut [u8]) {
        let pointer = self.pointer(host, bytes.len() as u64);
        // SAFETY: source inside the mapping, destination a slice of the same length; they cannot overlap.
        unsafe { std::ptr::copy_nonoverlapping(pointer, bytes.as_mut_ptr(), bytes.len()) }
    }

    /// Copy `bytes` to RAM at `host`; the pages touched become dirty.
    #[inline]
    pub fn copy_in(&self, host: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let pointer = self.pointer(host, bytes.len() as u64);
        let last = host + bytes.len() as u64 - 1;
        for page in host / PAGE_SIZE..=last / PAGE_SIZE {
            self.mark_dirty((page * PAGE_SIZE).max(self.base as u64));
        }
        // SAFETY: destination inside the mapping, source a slice of the same length; they cannot overlap.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer, bytes.len()) }
    }

    /// Replace the aligned 8-byte word at `host` by `new` if it is `old`; whether it was.
    pub fn compare_exchange_u64(&self, host: u64, old: u64, new: u64) -> bool {
        assert!(host % 8 == 0, "unaligned compare-exchange at {host:#x}");
        let pointer = self.pointer(host, 8);
        self.mark_dirty(host);
        // SAFETY: inside the mapping and aligned (checked above); other accesses to it are atomic or opaque.
        let word = unsafe { AtomicU64::from_ptr(pointer.cast()) };
        word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Replace the aligned 4-byte word at `host` by `new` if it is `old`; whether it was.
    pub fn compare_exchange_u32(&self, host: u64, old: u32, new: u32) -> bool {
        assert!(host % 4 == 0, "unaligned compare-exchange at {host:#x}");
        let pointer = self.pointer(host, 4);
        self.mark_dirty(host);
        // SAFETY: as in `compare_exchange_u64`.
        let word = unsafe { AtomicU32::from_ptr(pointer.cast()) };
        word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Held while a read-modify-write of bytes in two pages is made by parts, so that it is atomic among its kind.
    pub fn lock_split(&self) -> MutexGuard<'_, ()> {
        self.split.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The flags of the page that holds `host`.
    #[inline]
    pub fn flags(&self, host: u64) -> &AtomicU8 {
        &self.flags[(self.offset(host, 1) / PAGE_SIZE) as usize]
    }

    /// The flags of every page, in order of RAM (host) address.
    pub fn all_flags(&self) -> &[AtomicU8] {
        &self.flags
    }

    #[inline]
    fn mark_dirty(&self, host: u64) {
        let flags = self.flags(host);
        if flags.load(Ordering::Relaxed) & PAGE_DIRTY == 0 {
            flags.fetch_or(PAGE_DIRTY, Ordering::Relaxed);
        }
    }

    /// Give the host back what a physical range of whole pages takes: it reads as zeroes then.
    ///
    /// # Errors
    /// `InvalidInput` if any of it is not RAM, or not whole pages; what fallocate or mmap say.
    pub fn discard(&self, address: u64, length: u64) -> io::Result<()> {
        let whole = address % PAGE_SIZE == 0 && length % PAGE_SIZE == 0;
        let offset = self.map.offset(address).filter(|_| whole && self.map.check(address, length).is_ok());
        let offset = offset.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        if length == 0 {
            return Ok(());
        }
        assert!(offset + length <= self.size);
        // SAFETY: the range is inside the mapping that `base` begins (checked above).
        unsafe { self.backing().discard(self.base, offset, length) }
    }

    /// Mark the pages of a physical range as written, as far as it is RAM: by somebody who did not do it here.
    pub fn note_written(&self, address: u64, length: u64) {
        let first = address & !(PAGE_SIZE - 1);
        let pages = (first..address.saturating_add(length)).step_by(PAGE_SIZE as usize);
        pages.filter_map(|page| self.host(page)).for_each(|host| self.mark_dirty(host));
    }

    /// The pages written since the last call: physical address and length of each run of them, ascending. Only while no
    /// processor's TLB has an entry that lets it write.
    pub fn take_dirty(&self) -> Vec<(u64, u64)> {
        let written = PAGE_DIRTY | PAGE_WRITABLE_IN_TLB;
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (start, length) in self.map.regions() {
            for page in (start..start + length).step_by(PAGE_SIZE as usize) {
                let Some(host) = self.host(page) else { continue };
                if self.flags(host).fetch_and(!written, Ordering::SeqCst) & written == 0 {
                    continue;
                }
                match runs.last_mut() {
                    Some((first, size)) if *first + *size == page => *size += PAGE_SIZE,
                    _ => runs.push((page, PAGE_SIZE)),
                }
            }
        }
        runs
    }

    /// Read RAM at a physical address.
    ///
    /// # Errors
    /// `NotRam` if any of the range is not RAM; `bytes` may then be partly filled.
    pub fn read_physical(&self, address: u64, bytes: &mut [u8]) -> Result<(), NotRam> {
        let length = bytes.len() as u64;
        let mut rest = bytes;
        let mut at = address;
        self.map.check(address, length)?;
        while !rest.is_empty() {
            let host = self.host(at).ok_or(NotRam { address, length })?;
            let (chunk, tail) = rest.split_at_mut(rest.len().min((PAGE_SIZE - at % PAGE_SIZE) as usize));
            self.copy_out(host, chunk);
            at += chunk.len() as u64;
            rest = tail;
        }
        Ok(())
    }

    /// Write RAM at a physical address.
    ///
    /// # Errors
    /// `NotRam` if any of the range is not RAM; nothing is written then.
    pub fn write_physical(&self, address: u64, bytes: &[u8]) -> Result<(), NotRam> {
        let length = bytes.len() as u64;
        self.map.check(address, length)?;
        let mut at = address;
        let mut rest = bytes;
        while !rest.is_empty() {
            let host = self.host(at).ok_or(NotRam { address, length })?;
            let (chunk, tail) = rest.split_at(rest.len().min((PAGE_SIZE - at % PAGE_SIZE) as usize));
            self.copy_in(host, chunk);
            at += chunk.len() as u64;
            rest = tail;
        }
        Ok(())
    }
}

fn check_size(size: u64) -> io::Result<()> {
    if size == 0 || size % PAGE_SIZE != 0 || size > i64::MAX as u64 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "memory must be a whole number of pages"));
    }
    Ok(())
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `new` mapped; nothing can use it after drop.
        unsafe { libc::munmap(self.base.cast(), self.size as usize) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_and_stores_of_every_size_agree_with_bytes() {
        let memory = GuestMemory::new(2 * PAGE_SIZE).unwrap();
        let host = memory.host(0xffd).unwrap();
        memory.store(host, 8, 0x1122_3344_5566_7788);
        assert_eq!(memory.load(host, 1), 0x88);
        assert_eq!(memory.load(host, 2), 0x7788);
        assert_eq!(memory.load(host, 4), 0x5566_7788);
        assert_eq!(memory.load(host + 4, 4), 0x1122_3344);
        let mut bytes = [0; 8];
        memory.read_physical(0xffd, &mut bytes).unwrap();
        assert_eq!(bytes, 0x1122_3344_5566_7788u64.to_le_bytes());
    }

    #[test]
    fn the_video_hole_is_not_ram() {
        let memory = GuestMemory::new(1 << 20).unwrap();
        assert!(memory.host_page(0x9_f000).is_some());
        assert!(memory.host_page(0xa_0000).is_none());
        assert!(memory.host_page(0xc_0000).is_some());
        assert!(memory.write_physical(0x9_ffff, &[1, 2]).is_err());
        assert_eq!(memory.load(memory.host(0x9_ffff).unwrap(), 1), 0, "a refused write leaves nothing");
        assert!(memory.read_physical(u64::MAX - 1, &mut [0; 4]).is_err());
    }

    #[test]
    #[should_panic(expected = "outside guest RAM")]
    fn a_host_address_beyond_ram_panics() {
        let memory = GuestMemory::new(PAGE_SIZE).unwrap();
        memory.load(memory.base() + PAGE_SIZE - 1, 2);
    }

    #[test]
    fn discarded_pages_read_as_zeroes_and_take_no_room() {
        let memory = GuestMemory::new(16 * PAGE_SIZE).unwrap();
        memory.write_physical(0, &[7; 4 * PAGE_SIZE as usize]).unwrap();
        memory.discard(PAGE_SIZE, 2 * PAGE_SIZE).unwrap();
        let mut bytes = vec![1; 4 * PAGE_SIZE as usize];
        memory.read_physical(0, &mut bytes).unwrap();
        let page = PAGE_SIZE as usize;
        assert!(bytes[..page].iter().chain(&bytes[3 * page..]).all(|&byte| byte == 7));
        assert!(bytes[page..3 * page].iter().all(|&byte| byte == 0));
        for (address, length) in
            [(1, PAGE_SIZE), (0, 100), (15 * PAGE_SIZE, 2 * PAGE_SIZE), (1 << 40, PAGE_SIZE)]
        {
            assert_eq!(memory.discard(address, length).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn writes_mark_their_pages_dirty() {
        let memory = GuestMemory::new(4 * PAGE_SIZE).unwrap();
        memory.write_physical(0xfff, &[1, 2]).unwrap();
        let dirty: Vec<bool> =
            memory.all_flags().iter().map(|f| f.load(Ordering::Relaxed) & PAGE_DIRTY != 0).collect();
        assert_eq!(dirty, [true, true, false, false]);
    }
}
