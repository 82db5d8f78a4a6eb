//! String instructions run by the host's own, on ranges of guest RAM or on bytes of ours.

use gasang_memory::GuestMemory;
use std::arch::asm;
use std::marker::PhantomData;

/// Bytes that a string instruction of the host may access.
#[derive(Debug)]
pub(crate) struct Range<'a> {
    address: u64,
    length: u64,
    bytes: PhantomData<&'a mut [u8]>,
}

impl<'a> Range<'a> {
    /// `length` bytes of guest RAM at host address `host`; None if they are not all RAM.
    pub(crate) fn in_guest(memory: &'a GuestMemory, host: u64, length: u64) -> Option<Range<'a>> {
        let offset = host.checked_sub(memory.base())?;
        let inside = offset < memory.size() && length <= memory.size() - offset;
        inside.then_some(Range { address: host, length, bytes: PhantomData })
    }

    /// Bytes of ours.
    pub(crate) fn of(bytes: &'a mut [u8]) -> Range<'a> {
        Range { address: bytes.as_mut_ptr() as u64, length: bytes.len() as u64, bytes: PhantomData }
    }

    /// How many of `count` elements lie inside.
    fn clamp(&self, count: u64, size: usize) -> u64 {
        count.min(self.length / size as u64)
    }
}

/// Copy `count` elements of `size` (1, 2, 4, 8) bytes upwards, one after the other: overlapping ranges behave as the
/// guest's would.
pub(crate) fn copy(to: &Range<'_>, from: &Range<'_>, count: u64, size: usize) {
    let count = from.clamp(to.clamp(count, size), size);
    let (to, from) = (to.address, from.address);
    macro_rules! run {
        ($operation:literal) => {
            // SAFETY: a `Range` vouches for its bytes, and `clamp` kept to them; the direction flag is clear in host code.
            unsafe {
                asm!(concat!("rep ", $operation), inout("rdi") to => _, inout("rsi") from => _,
                     inout("rcx") count => _, options(nostack, preserves_flags))
            }
        };
    }
    match size {
        1 => run!("movsb"),
        2 => run!("movsw"),
        4 => run!("movsd"),
        _ => run!("movsq"),
    }
}

/// Store `value` `count` times upwards.
pub(crate) fn fill(to: &Range<'_>, value: u64, count: u64, size: usize) {
    let count = to.clamp(count, size);
    let to = to.address;
    macro_rules! run {
        ($operation:literal) => {
            // SAFETY: as in `copy`.
            unsafe {
                asm!(concat!("rep ", $operation), inout("rdi") to => _, in("rax") value,
                     inout("rcx") count => _, options(nostack, preserves_flags))
            }
        };
    }
    match size {
        1 => run!("stosb"),
        2 => run!("stosw"),
        4 => run!("stosd"),
        _ => run!("stosq"),
    }
}

/// What a comparison came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compared {
    /// Iterations left of those asked for (and inside the range).
    pub left: u64,
    /// RFLAGS of the last one.
    pub flags: u64,
}

/// REPE or REPNE CMPS upwards over `count` (not 0) elements.
pub(crate) fn compare(
    left: &Range<'_>,
    right: &Range<'_>,
    count: u64,
    size: usize,
    while_equal: bool,
) -> Compared {
    let count = left.clamp(right.clamp(count, size), size);
    let (left, right) = (left.address, right.address);
    let (mut remaining, mut flags) = (count, 0);
    macro_rules! run {
        ($operation:literal) => {
            // SAFETY: as in `copy`.
            unsafe {
                asm!(concat!($operation, "\npushfq\npop {f}"), f = out(reg) flags, inout("rsi") left => _,
                     inout("rdi") right => _, inout("rcx") remaining)
            }
        };
    }
    match (size, while_equal) {
        (1, true) => run!("repe cmpsb"),
        (2, true) => run!("repe cmpsw"),
        (4, true) => run!("repe cmpsd"),
        (_, true) => run!("repe cmpsq"),
        (1, false) => run!("repne cmpsb"),
        (2, false) => run!("repne cmpsw"),
        (4, false) => run!("repne cmpsd"),
        (_, false) => run!("repne cmpsq"),
    }
    Compared { left: remaining, flags }
}

/// REPE or REPNE SCAS upwards over `count` (not 0) elements.
pub(crate) fn scan(at: &Range<'_>, value: u64, count: u64, size: usize, while_equal: bool) -> Compared {
    let count = at.clamp(count, size);
    let at = at.address;
    let (mut remaining, mut flags) = (count, 0);
    macro_rules! run {
        ($operation:literal) => {
            // SAFETY: as in `copy`.
            unsafe {
                asm!(concat!($operation, "\npushfq\npop {f}"), f = out(reg) flags, in("rax") value,
                     inout("rdi") at => _, inout("rcx") remaining)
            }
        };
    }
    match (size, while_equal) {
        (1, true) => run!("repe scasb"),
        (2, true) => run!("repe scasw"),
        (4, true) => run!("repe scasd"),
        (_, true) => run!("repe scasq"),
        (1, false) => run!("repne scasb"),
        (2, false) => run!("repne scasw"),
        (4, false) => run!("repne scasd"),
        (_, false) => run!("repne scasq"),
    }
    Compared { left: remaining, flags }
}
