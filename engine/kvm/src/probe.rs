//! The guest that a KVM is probed with: whether it executes what guests execute. That /dev/kvm can be opened says little;
//! there are software back ends that run small guests, and no operating system.

use std::arch::global_asm;

global_asm!(
    ".section .rodata.gasang_probe, \"a\"",
    include_str!("probe.S"),
    ".previous",
    options(att_syntax)
);

unsafe extern "C" {
    static gasang_probe: u8;
    static gasang_probe_end: u8;
}

/// Where it begins, in real mode.
pub const PROBE_BASE: u64 = 0x8000;
/// Its page tables, which are made for it.
pub const PROBE_TABLES: u64 = 0x1000;
/// What CPUID leaf 1 says in ECX, and then 1 if there is AVX.
pub const PROBE_EXPECTED: u64 = 0x6000;
/// Where it writes the number of each step that it has done.
pub const PROBE_PORT: u16 = 0x80;
/// What it does, in its order.
pub const PROBE_STEPS: [&str; 8] = [
    "real mode",
    "long mode",
    "CPUID",
    "time-stamp counter",
    "cmpxchg16b",
    "AVX",
    "ring 3 with a page fault",
    "timer interrupt",
];

/// Its code.
pub fn probe_code() -> &'static [u8] {
    // SAFETY: the two symbols enclose the bytes that the assembly above puts between them, which nobody writes.
    unsafe {
        let start = &raw const gasang_probe;
        let length = (&raw const gasang_probe_end).offset_from(start);
        std::slice::from_raw_parts(start, length as usize)
    }
}
