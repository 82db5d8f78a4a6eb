//! Targets of indirect jumps that are not in the first of the jump entries where they may be.

use crate::entry::exit_lookup;
use crate::slots;
use gasang_cpu::tlb::{JUMP_PLACES, TlbEntry, header};
use std::arch::naked_asm;
use std::mem::size_of;

/// Bytes of a jump entry: address and host code.
pub(crate) const JUMP_ENTRY_SIZE: i32 = 16;

const _: () = assert!(JUMP_PLACES == 4);

macro_rules! jump_by_others {
    ($target_to_r10:literal) => {
        naked_asm!(
            "and r11d, {places}",
            "add r11, fs:[{last}]",
            ".set at, {first}",
            ".rept 4",
            "cmp r10, fs:[r11 + at]",
            "jne 1f",
            "jmp fs:[r11 + at + 8]",
            "1:",
            ".set at, at + {size}",
            ".endr",
            $target_to_r10,
            "mov gs:[{next_rip}], r10",
            "jmp {lookup}",
            places = const -(JUMP_PLACES as i32 * JUMP_ENTRY_SIZE),
            last = const header::LAST_ENTRY,
            first = const size_of::<TlbEntry>(),
            size = const JUMP_ENTRY_SIZE,
            next_rip = const slots::NEXT_RIP,
            lookup = sym exit_lookup,
        )
    };
}

/// To the block for the target R10, whose first jump entry, at the distance R11 from all of them, is another's: by one of
/// the others, or leave. SITE is set, the status flags are in their slot.
#[unsafe(naked)]
pub unsafe extern "C" fn jump_by_others() {
    jump_by_others!("")
}

/// The same for a target in 32-bit code, which is marked.
#[unsafe(naked)]
pub unsafe extern "C" fn jump_by_others_narrow() {
    jump_by_others!("mov r10d, r10d")
}
