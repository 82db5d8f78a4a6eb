//! RDTSC and RDTSCP without leaving generated code, where the guest's time-stamp counter is the host's by a scale.

use crate::entry::exit_interpret;
use crate::slots;
use std::arch::naked_asm;

macro_rules! read_counter {
    ($last:literal $(, $name:ident = const $value:expr)?) => {
        naked_asm!(
            "mov r10, gs:[{scale}]",
            "test r10, r10",
            "jz 9f",
            "rdtsc",
            "shl rdx, 32",
            "or rax, rdx",
            // Another host processor's counter may be a few ticks behind: never below zero. The start is a number modulo
            // 2^64: a guest may be older than its host.
            "xor edx, edx",
            "sub rax, gs:[{start}]",
            "cmovs rax, rdx",
            "mul r10",
            "shrd rax, rdx, 32",
            "add rax, gs:[{offset}]",
            "mov rdx, rax",
            "shr rdx, 32",
            "mov eax, eax",
            $last,
            "jmp r11",
            "9:",
            "jmp {interpret}",
            scale = const slots::TSC_SCALE,
            start = const slots::TSC_START,
            offset = const slots::TSC_OFFSET,
            interpret = sym exit_interpret,
            $($name = const $value,)?
        )
    };
}

/// RDTSC; R11 is where to go on, SITE is set, the status flags are in their slot.
#[unsafe(naked)]
pub unsafe extern "C" fn rdtsc() {
    read_counter!("")
}

/// RDTSCP, likewise.
#[unsafe(naked)]
pub unsafe extern "C" fn rdtscp() {
    read_counter!("mov ecx, gs:[{aux}]", aux = const slots::TSC_AUX)
}
