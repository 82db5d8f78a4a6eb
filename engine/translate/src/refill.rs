//! The first level of the TLB refilled from the second, without leaving generated code.
//!
//! Only what a page walk found before is copied; whatever else there is to do (a walk, a page that has code by now, an
//! access that crosses a page, a fault) leaves to the dispatcher.

use crate::entry::{exit_lookup, exit_miss};
use crate::slots;
use gasang_cpu::tlb::{SECOND_LEVEL_BITS, SECOND_LEVEL_ENTRIES, TlbEntry, header, right};
use gasang_memory::PAGE_HAS_CODE;
use std::arch::naked_asm;
use std::mem::offset_of;

/// log2 of the distance between a page and its entry's offset.
const PAGE_TO_ENTRY: u32 = 7;

macro_rules! refill {
    // Linear address in R10 (not in MISSED_ADDRESS yet), where to try again in R11; RAX and RCX are saved.
    ($tag:expr, $right:expr, $leave:path, $crossing:path, $unless_present:literal, $if_useful:literal) => {
        naked_asm!(
            "mov gs:[{missed}], r10",
            "mov gs:[{retry}], r11",
            "mov gs:[{rax}], rax",
            "mov gs:[{rcx}], rcx",
            "mov r11, r10",
            "shr r11, {page_to_entry}",
            "and r11, fs:[{last}]",
            "mov rax, r10",
            "and rax, -4096",
            $unless_present,
            "mov rcx, rax",
            "shr rcx, 12",
            "mov r10, rcx",
            "shr r10, {bits}",
            "xor ecx, r10d",
            "and ecx, {second_mask}",
            "shl ecx, 5",
            "add rcx, fs:[{second}]",
            "mov r10, [rcx]",
            "xor r10, rax",
            "cmp r10, fs:[{generation}]",
            "je 1f",
            "cmp r10, fs:[{global}]",
            "jne 9f",
            "1:",
            $if_useful,
            // Writes: allowed, and no code in the page.
            "test r10b, {write}",
            "jz 2f",
            "mov r10, [rcx + 24]",
            "test byte ptr [r10], {has_code}",
            "jnz 2f",
            "mov fs:[r11 + {write_tag}], rax",
            "jmp 3f",
            "2:",
            // A write that must not hit goes to the dispatcher.
            ".if {right} == {write}",
            "jmp 9f",
            ".endif",
            "mov r10, r11",
            "shl r10, {page_to_entry}",
            "not r10",
            "mov fs:[r11 + {write_tag}], r10",
            "3:",
            "mov r10, [rcx + 8]",
            "test r10b, {read}",
            "jnz 4f",
            "mov rax, r11",
            "shl rax, {page_to_entry}",
            "not rax",
            "4:",
            "mov fs:[r11 + {read_tag}], rax",
            "and r10, -4096",
            "mov fs:[r11 + {page}], r10",
            "mov rcx, [rcx + 16]",
            "mov fs:[r11 + {exec}], rcx",
            "mov rax, gs:[{rax}]",
            "mov rcx, gs:[{rcx}]",
            "jmp gs:[{retry}]",
            "9:",
            "mov rax, gs:[{rax}]",
            "mov rcx, gs:[{rcx}]",
            "jmp {leave}",
            missed = const slots::MISSED_ADDRESS,
            retry = const slots::RETRY,
            rax = const slots::KEPT_RAX,
            rcx = const slots::KEPT_RCX,
            page_to_entry = const PAGE_TO_ENTRY,
            last = const header::LAST_ENTRY,
            bits = const SECOND_LEVEL_BITS,
            second_mask = const SECOND_LEVEL_ENTRIES - 1,
            second = const header::SECOND_LEVEL,
            generation = const header::GENERATION,
            global = const header::GLOBAL_GENERATION,
            right = const $right,
            write = const right::WRITE,
            read = const right::READ,
            has_code = const PAGE_HAS_CODE,
            read_tag = const offset_of!(TlbEntry, read),
            write_tag = const offset_of!(TlbEntry, write),
            exec = const offset_of!(TlbEntry, exec),
            page = const offset_of!(TlbEntry, page),
            tag = const $tag,
            leave = sym $leave,
            crossing = sym $crossing,
        )
    };
}

macro_rules! refill_for_data {
    ($tag:expr, $right:expr, $crossing:path) => {
        refill!(
            $tag,
            $right,
            exit_miss,
            $crossing,
            // The page is here, so that the access crosses to the next.
            "cmp rax, fs:[r11 + {tag}]\nje {crossing}",
            "mov r10, [rcx + 8]\ntest r10b, {right}\njz 9f"
        )
    };
}

/// A read of linear address R10 missed: refill and go on at R11, or leave. SITE is set, the status flags are in their slot.
#[unsafe(naked)]
pub unsafe extern "C" fn refill_read() {
    refill_for_data!(offset_of!(TlbEntry, read), right::READ, read_across)
}

/// The same for a write.
#[unsafe(naked)]
pub unsafe extern "C" fn refill_write() {
    refill_for_data!(offset_of!(TlbEntry, write), right::WRITE, leave_for_miss)
}

/// RAX and RCX as they were, and leave.
#[unsafe(naked)]
unsafe extern "C" fn leave_for_miss() {
    naked_asm!(
        "mov rax, gs:[{rax}]",
        "mov rcx, gs:[{rcx}]",
        "jmp {miss}",
        rax = const slots::KEPT_RAX,
        rcx = const slots::KEPT_RCX,
        miss = sym exit_miss,
    )
}

/// A read crosses from the page at RAX, whose entry is at R11, to the next. If that is in the first level as well, bytes
/// from both sides of the boundary are put side by side, as far from a 64-byte boundary as they are in the guest's memory,
/// and the read goes on with them; else leave.
#[unsafe(naked)]
unsafe extern "C" fn read_across() {
    naked_asm!(
        "cmp dword ptr gs:[{resume}], 0",
        "je {leave}",
        "mov rcx, fs:[r11 + {page}]",
        "add rax, 4096",
        "mov r11, rax",
        "shr r11, {page_to_entry}",
        "and r11, fs:[{last}]",
        "cmp rax, fs:[r11 + {read}]",
        "jne {leave}",
        "mov r11, fs:[r11 + {page}]",
        "mov r10, gs:[{copied}]",
        ".set at, 0",
        ".rept {bytes} / 8",
        "mov rax, [rcx + 4096 - {bytes} + at]",
        "mov [r10 + at], rax",
        "mov rax, [r11 + at]",
        "mov [r10 + {bytes} + at], rax",
        ".set at, at + 8",
        ".endr",
        "mov eax, gs:[{missed}]",
        "and eax, 4095",
        "lea r11, [r10 + rax - (4096 - {bytes})]",
        "mov ecx, gs:[{resume}]",
        "add rcx, gs:[{retry}]",
        "mov gs:[{retry}], rcx",
        "xor r10d, r10d",
        "mov rax, gs:[{rax}]",
        "mov rcx, gs:[{rcx}]",
        "jmp gs:[{retry}]",
        resume = const slots::RESUME,
        copied = const slots::COPIED,
        bytes = const slots::COPIED_BYTES,
        missed = const slots::MISSED_ADDRESS,
        retry = const slots::RETRY,
        rax = const slots::KEPT_RAX,
        rcx = const slots::KEPT_RCX,
        page_to_entry = const PAGE_TO_ENTRY,
        last = const header::LAST_ENTRY,
        read = const offset_of!(TlbEntry, read),
        page = const offset_of!(TlbEntry, page),
        leave = sym leave_for_miss,
    )
}

/// The page of the block at linear address R10 is not known to be mapped as it was: refill and ask again at R11, or leave
/// for a lookup. NEXT_RIP and SITE are set, the status flags are in their slot.
#[unsafe(naked)]
pub unsafe extern "C" fn refill_execute() {
    refill!(
        offset_of!(TlbEntry, exec),
        right::READ,
        exit_lookup,
        exit_lookup,
        // It does not cross: that has a block of its own.
        ".if 0\njmp {crossing}\n.endif",
        // What the entry says already would not help.
        "mov r10, [rcx + 16]\ncmp r10, fs:[r11 + {tag}]\nje 9f"
    )
}
