//! What is behind RAM: a file of its own, or a file whose bytes it begins with.

use crate::PAGE_SIZE;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

/// What is behind RAM.
#[derive(Debug)]
pub(crate) enum Backing {
    /// A memfd that has all of it: it can be mapped again.
    Shared(File),
    /// A file that has what was never written; the rest is in the mapping alone.
    Private { file: File, offset: u64 },
}

/// A new file in memory.
pub(crate) fn memfd(size: u64) -> io::Result<File> {
    // SAFETY: the name is a NUL-terminated literal; the result is checked.
    let descriptor = unsafe { libc::memfd_create(c"gasang-ram".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `descriptor` is a fresh descriptor that nothing else owns.
    let file = unsafe { File::from_raw_fd(descriptor) };
    file.set_len(size)?;
    Ok(file)
}

impl Backing {
    /// The file, if it has all of RAM.
    pub(crate) fn shared(&self) -> Option<&File> {
        match self {
            Backing::Shared(file) => Some(file),
            Backing::Private { .. } => None,
        }
    }

    /// The file, and where in it RAM begins.
    pub(crate) fn file(&self) -> (&File, u64) {
        match self {
            Backing::Shared(file) => (file, 0),
            Backing::Private { file, offset } => (file, *offset),
        }
    }

    fn flags(&self) -> libc::c_int {
        libc::MAP_NORESERVE
            | match self {
                Backing::Shared(_) => libc::MAP_SHARED,
                Backing::Private { .. } => libc::MAP_PRIVATE,
            }
    }

    /// Map `size` bytes somewhere.
    pub(crate) fn map(&self, size: u64) -> io::Result<*mut u8> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        unsafe { self.map_at(std::ptr::null_mut(), size, 0) }
    }

    /// Map `size` bytes in the place of what is mapped at `base`.
    ///
    /// # Safety
    /// There is a mapping of RAM of at least that size, which has the same bytes; nobody writes it meanwhile.
    pub(crate) unsafe fn replace(&self, base: *mut u8, size: u64) -> io::Result<()> {
        // SAFETY: by our caller.
        unsafe { self.map_at(base, size, libc::MAP_FIXED) }.map(drop)
    }

    unsafe fn map_at(&self, address: *mut u8, size: u64, more: libc::c_int) -> io::Result<*mut u8> {
        let (file, offset) = self.file();
        // SAFETY: at an address of the kernel's choice, or in the place that our caller vouches for; the result is checked.
        let base = unsafe {
            libc::mmap(
                address.cast(),
                size as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                self.flags() | more,
                file.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if base == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(base.cast()) }
    }

    /// Let whole pages of RAM read as zeroes, and take no room.
    ///
    /// # Safety
    /// `base` begins a mapping of this, and the range is inside it.
    pub(crate) unsafe fn discard(&self, base: *mut u8, offset: u64, length: u64) -> io::Result<()> {
        debug_assert!(offset % PAGE_SIZE == 0 && length % PAGE_SIZE == 0);
        let done = match self {
            Backing::Shared(file) => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                // SAFETY: the range is inside the file. Its pages stay mapped; other accesses to them are single machine
                // instructions and copies of opaque bytes.
                unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, length as i64) == 0 }
            }
            Backing::Private { .. } => {
                // The file has other bytes: pages of nobody take their place.
                // SAFETY: the range is inside our own mapping, by our caller; accesses are as above.
                let mapped = unsafe {
                    libc::mmap(
                        base.add(offset as usize).cast(),
                        length as usize,
                        libc::PROT_READ | libc::PROT_WRITE,
                        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
                        -1,
                        0,
                    )
                };
                mapped != libc::MAP_FAILED
            }
        };
        if done { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
