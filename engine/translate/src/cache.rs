//! The code cache: one memfd mapped twice, writable here and executable there, never both in one place.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

/// Room for generated code. Offsets count from the start of the cache.
#[derive(Debug)]
pub struct CodeCache {
    writable: *mut u8,
    executable: u64,
    size: u32,
    used: u32,
    start: u32,
}

// SAFETY: the mappings belong to the value alone.
unsafe impl Send for CodeCache {}

impl CodeCache {
    /// Map a cache of `size` bytes.
    ///
    /// # Errors
    /// What memfd_create, ftruncate or mmap say.
    pub fn new(size: u32) -> io::Result<CodeCache> {
        // SAFETY: the name is a NUL-terminated literal; the result is checked.
        let descriptor = unsafe { libc::memfd_create(c"gasang-code".as_ptr(), libc::MFD_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `descriptor` is a fresh descriptor that nothing else owns.
        let file = unsafe { File::from_raw_fd(descriptor) };
        file.set_len(u64::from(size))?;
        let writable = map(&file, size, libc::PROT_READ | libc::PROT_WRITE)?;
        let executable = map(&file, size, libc::PROT_READ | libc::PROT_EXEC)?;
        Ok(CodeCache { writable, executable: executable as u64, size, used: 0, start: 0 })
    }

    /// Host address of the byte at `offset`, for execution.
    pub fn address(&self, offset: u32) -> u64 {
        self.executable + u64::from(offset)
    }

    /// Offset of the executable `address`, if it is in the cache.
    pub fn offset(&self, address: u64) -> Option<u32> {
        let offset = address.checked_sub(self.executable)?;
        (offset < u64::from(self.size)).then_some(offset as u32)
    }

    /// First and last address (exclusive) for execution.
    pub fn range(&self) -> (u64, u64) {
        (self.executable, self.executable + u64::from(self.size))
    }

    /// Offset where the next code goes.
    pub fn next(&self) -> u32 {
        self.used
    }

    /// Bytes left.
    pub fn left(&self) -> u32 {
        self.size - self.used
    }

    /// Place `code` at `next()`.
    ///
    /// # Panics
    /// If it does not fit: the caller looks at `left` first.
    pub fn place(&mut self, code: &[u8]) {
        let at = self.used;
        self.write(at, code);
        self.used = (at + code.len() as u32 + 15 & !15).min(self.size);
    }

    /// Overwrite code at `offset`.
    ///
    /// # Panics
    /// If it would leave the cache: a bug of ours.
    pub fn write(&mut self, offset: u32, code: &[u8]) {
        let end = u64::from(offset) + code.len() as u64;
        assert!(end <= u64::from(self.size), "code at {offset:#x} leaves the cache");
        // SAFETY: inside the writable mapping, checked above.
        unsafe {
            std::ptr::copy_nonoverlapping(code.as_ptr(), self.writable.add(offset as usize), code.len());
        }
    }

    /// Make the jump or call displacement at `offset` reach `target` (an executable address).
    pub fn patch_relative(&mut self, offset: u32, target: u64) {
        let next = self.address(offset) + 4;
        self.write(offset, &(target.wrapping_sub(next) as i32).to_le_bytes());
    }

    /// Overwrite the code at `offset` by a jump to `target`.
    pub fn patch_jump(&mut self, offset: u32, target: u64) {
        self.write(offset, &[0xe9]);
        self.patch_relative(offset + 1, target);
    }

    /// What was placed until now stays when the cache is cleared.
    pub fn keep(&mut self) {
        self.start = self.used;
    }

    /// Forget all code but what `keep` keeps.
    pub fn clear(&mut self) {
        self.used = self.start;
    }
}

fn map(file: &File, size: u32, protection: i32) -> io::Result<*mut u8> {
    // SAFETY: a new shared mapping of our own file at an address of the kernel's choice; the result is checked.
    let address = unsafe {
        libc::mmap(std::ptr::null_mut(), size as usize, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address.cast()) }
}

impl Drop for CodeCache {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `new` mapped; no code runs there any more, since running borrows the cache.
        unsafe {
            libc::munmap(self.writable.cast(), self.size as usize);
            libc::munmap(self.executable as *mut libc::c_void, self.size as usize);
        }
    }
}
