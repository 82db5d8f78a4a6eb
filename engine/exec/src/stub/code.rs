//! Memory for generated code, never writable and executable at one address: one file, mapped twice.

use crate::host_fault;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

/// A shared mapping of the file.
struct Mapping {
    base: *mut u8,
    size: usize,
}

impl Mapping {
    fn new(file: &File, size: usize, protection: i32) -> io::Result<Mapping> {
        // SAFETY: a new shared mapping of our own file at an address of the kernel's choice; the result is checked.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), size, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { base: base.cast(), size })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `new` mapped; nothing uses it any more.
        unsafe { libc::munmap(self.base.cast(), self.size) };
    }
}

/// Room for stubs.
pub(super) struct CodeMemory {
    /// First, so that the region is given up before its addresses are.
    _faults: host_fault::Registration,
    writable: Mapping,
    executable: Mapping,
    used: usize,
}

// SAFETY: the mappings belong to this value alone and may be used from whichever thread owns it.
unsafe impl Send for CodeMemory {}

impl CodeMemory {
    /// Map `size` bytes; faults inside go to `handler`.
    pub(super) fn new(size: usize, handler: host_fault::Handler) -> io::Result<CodeMemory> {
        // SAFETY: the name is a NUL-terminated literal; the result is checked.
        let descriptor = unsafe { libc::memfd_create(c"gasang-stubs".as_ptr(), libc::MFD_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `descriptor` is a fresh descriptor that nothing else owns.
        let file = unsafe { File::from_raw_fd(descriptor) };
        file.set_len(size as u64)?;
        let writable = Mapping::new(&file, size, libc::PROT_READ | libc::PROT_WRITE)?;
        let executable = Mapping::new(&file, size, libc::PROT_READ | libc::PROT_EXEC)?;
        let start = executable.base as u64;
        let faults = host_fault::register(start, start + size as u64, handler)?;
        Ok(CodeMemory { _faults: faults, writable, executable, used: 0 })
    }

    /// Add code; its address, or None if there is no room.
    pub(super) fn add(&mut self, code: &[u8]) -> Option<u64> {
        let start = self.used.next_multiple_of(16);
        let end = start.checked_add(code.len()).filter(|&end| end <= self.writable.size)?;
        // SAFETY: `start..end` is inside the writable mapping (checked above) and nothing else refers to it.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.writable.base.add(start), code.len()) };
        self.used = end;
        Some(self.executable.base as u64 + start as u64)
    }

    /// Forget all code.
    pub(super) fn clear(&mut self) {
        self.used = 0;
    }

    /// The addresses that code executes at.
    pub(super) fn range(&self) -> std::ops::Range<u64> {
        let start = self.executable.base as u64;
        start..start + self.executable.size as u64
    }
}
