//! Large tables that are zero at first, and take no memory where they were never written.
//!
//! An allocator gives such a table zeroed too, but not always fresh from the kernel: one that was freed before is
//! cleared by writing all of it.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// What may be all zeroes, and be read as any bytes.
///
/// # Safety
/// Every pattern of bits is a value, and nothing needs to be dropped.
pub unsafe trait Plain: Copy {}

// SAFETY: integers.
unsafe impl Plain for u8 {}
// SAFETY: integers.
unsafe impl Plain for u64 {}
// SAFETY: an array of values that are.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// A table of a fixed length.
pub struct Zeroes<T: Plain> {
    first: NonNull<T>,
    length: usize,
    owns: PhantomData<T>,
}

// SAFETY: it owns its memory, as a box does.
unsafe impl<T: Plain + Send> Send for Zeroes<T> {}
// SAFETY: shared, it is only read.
unsafe impl<T: Plain + Sync> Sync for Zeroes<T> {}

impl<T: Plain> Zeroes<T> {
    /// A table of `length` zeroes.
    ///
    /// # Panics
    /// As a vector's allocation, if the host has no more address space.
    pub fn new(length: usize) -> Self {
        let size =
            length.checked_mul(size_of::<T>()).filter(|&size| size > 0).expect("a table of some bytes");
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice; the result is checked.
        let first = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) };
        assert!(first != libc::MAP_FAILED, "no memory for a table of {size} bytes");
        let first = NonNull::new(first.cast()).expect("mappings are not at 0");
        Zeroes { first, length, owns: PhantomData }
    }
}

impl<T: Plain> Deref for Zeroes<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the mapping has so many values, aligned as pages are, and any bytes are values.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.length) }
    }
}

impl<T: Plain> DerefMut for Zeroes<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.length) }
    }
}

impl<T: Plain> Clone for Zeroes<T> {
    fn clone(&self) -> Self {
        let mut other = Zeroes::new(self.length);
        other.copy_from_slice(self);
        other
    }
}

impl<T: Plain> fmt::Debug for Zeroes<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a table of {}", self.length)
    }
}

impl<T: Plain> Drop for Zeroes<T> {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nothing refers to any more.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.length * size_of::<T>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_zero_and_keeps_what_is_written() {
        let mut table = Zeroes::<[u64; 4]>::new(1 << 16);
        assert!(table.iter().all(|entry| *entry == [0; 4]));
        table[77] = [1, 2, 3, 4];
        let other = table.clone();
        table[77] = [0; 4];
        assert_eq!((other[77], table[77], other.len()), ([1, 2, 3, 4], [0; 4], 1 << 16));
    }
}
