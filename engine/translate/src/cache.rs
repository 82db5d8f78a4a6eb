//! The code cache: shared memory mapped twice, writable here and executable there, never both in one place.
//!
//! Translated code is spread over the cache in the order in which a guest met it, so that small pages would miss the host's
//! TLB all the time. Before code goes to 2 MiB of it that had none, the host is asked to make them one page.
//!
//! The memory has no name. perf takes a mapping of a memfd for a file that it could read, and asks the map of translated
//! code (/tmp/perf-PID.map) only about memory without one.

use std::io;

/// Room for generated code. Offsets count from the start of the cache.
#[derive(Debug)]
pub struct CodeCache {
    writable: *mut u8,
    executable: u64,
    size: u32,
    used: u32,
    start: u32,
    /// Where the host was not asked for large pages yet; `size` if it is not to be asked.
    small: u32,
}

/// A page of the host's next size.
const LARGE_PAGE: u32 = 2 << 20;

// SAFETY: the mappings belong to the value alone.
unsafe impl Send for CodeCache {}

impl CodeCache {
    /// Map a cache of `size` bytes, of large pages as far as the host has them, if `large_pages`.
    ///
    /// # Errors
    /// What mmap, mremap, munmap or mprotect say.
    pub fn new(size: u32, large_pages: bool) -> io::Result<CodeCache> {
        let small = if large_pages { 0 } else { size };
        let mut cache = CodeCache { writable: map(size)?, executable: 0, size, used: 0, start: 0, small };
        cache.executable = map_again(cache.writable, size)? as u64;
        Ok(cache)
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
        self.enlarge_pages(at + code.len() as u32);
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

    /// Have the host make one page of each 2 MiB up to `end`, which it may refuse: then its pages stay small.
    fn enlarge_pages(&mut self, end: u32) {
        while self.small < end && self.size - self.small >= LARGE_PAGE {
            // The host takes only what there is a page of.
            self.write(self.small, &[0]);
            // SAFETY: inside our mapping, whose bytes stay what they are.
            unsafe {
                let first = self.writable.add(self.small as usize);
                libc::madvise(first.cast(), LARGE_PAGE as usize, libc::MADV_COLLAPSE);
            }
            self.small += LARGE_PAGE;
        }
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

/// An address for a mapping of `size` bytes where large pages can begin: the mapping that is there belongs to the caller.
fn reserve(size: u32) -> io::Result<*mut libc::c_void> {
    let (size, page) = (size as usize, LARGE_PAGE as usize);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice, of which what lies before and behind the aligned part goes
    // again; the results are checked.
    unsafe {
        let first = libc::mmap(std::ptr::null_mut(), size + page, libc::PROT_NONE, flags, -1, 0);
        if first == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let before = first.align_offset(page);
        let aligned = first.byte_add(before);
        let trimmed = (before == 0 || libc::munmap(first, before) == 0)
            && libc::munmap(aligned.byte_add(size), page - before) == 0;
        if trimmed { Ok(aligned) } else { Err(io::Error::last_os_error()) }
    }
}

/// Map new memory of `size` bytes, writable.
fn map(size: u32) -> io::Result<*mut u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: takes the place of a mapping that was made for that; the result is checked.
    let address = unsafe { libc::mmap(reserve(size)?, size as usize, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address.cast()) }
}

/// Map the memory of the shared mapping `first` once more, executable.
fn map_again(first: *mut u8, size: u32) -> io::Result<*mut u8> {
    let (place, flags) = (reserve(size)?, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED);
    // SAFETY: an old size of 0 makes mremap(2) leave the shared mapping `first` as it is and map its pages again, in the
    // place of a mapping that was made for that. The second mapping belongs to nobody else yet, and goes if it cannot be
    // executed.
    unsafe {
        let address = libc::mremap(first.cast(), 0, size as usize, flags, place);
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        if libc::mprotect(address, size as usize, libc::PROT_READ | libc::PROT_EXEC) != 0 {
            let error = io::Error::last_os_error();
            libc::munmap(address, size as usize);
            return Err(error);
        }
        Ok(address.cast())
    }
}

impl Drop for CodeCache {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `new` mapped; no code runs there any more, since running borrows the cache.
        unsafe {
            libc::munmap(self.writable.cast(), self.size as usize);
            if self.executable != 0 {
                libc::munmap(self.executable as *mut libc::c_void, self.size as usize);
            }
        }
    }
}
