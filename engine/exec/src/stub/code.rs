//! Memory for generated code, never writable and executable at one address: one file, mapped twice.

use crate::host_fault;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

/// Room for stubs.
pub(super) struct CodeMemory {
    writable: *mut u8,
    executable: *mut u8,
    size: usize,
    used: usize,
    _faults: host_fault::Registration,
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
        let writable = map(&file, size, libc::PROT_READ | libc::PROT_WRITE)?;
        let executable = match map(&file, size, libc::PROT_READ | libc::PROT_EXEC) {
            Ok(executable) => executable,
            Err(error) => {
                unmap(writable, size);
                return Err(error);
            }
        };
        match host_fault::register(executable as u64, executable as u64 + size as u64, handler) {
            Ok(faults) => Ok(CodeMemory { writable, executable, size, used: 0, _faults: faults }),
            Err(error) => {
                unmap(writable, size);
                unmap(executable, size);
                Err(error)
            }
        }
    }

    /// Add code; its address, or None if there is no room.
    pub(super) fn add(&mut self, code: &[u8]) -> Option<u64> {
        let start = self.used.next_multiple_of(16);
        let end = start.checked_add(code.len()).filter(|&end| end <= self.size)?;
        // SAFETY: `start..end` is inside the writable mapping (checked above) and nothing else refers to it.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.writable.add(start), code.len()) };
        self.used = end;
        Some(self.executable as u64 + start as u64)
    }

    /// Forget all code.
    pub(super) fn clear(&mut self) {
        self.used = 0;
    }

    /// The addresses that code executes at.
    pub(super) fn range(&self) -> std::ops::Range<u64> {
        self.executable as u64..self.executable as u64 + self.size as u64
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        unmap(self.writable, self.size);
        unmap(self.executable, self.size);
    }
}

fn map(file: &File, size: usize, protection: i32) -> io::Result<*mut u8> {
    // SAFETY: a new shared mapping of our own file at an address of the kernel's choice; the result is checked.
    let base =
        unsafe { libc::mmap(std::ptr::null_mut(), size, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if base == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(base.cast()) }
}

fn unmap(base: *mut u8, size: usize) {
    // SAFETY: unmaps what `map` mapped; the caller no longer uses it.
    unsafe { libc::munmap(base.cast(), size) };
}
