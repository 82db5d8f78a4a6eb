//! REP STOS and REP MOVS by the host's own, a page's worth at a time.
//!
//! RDI, RSI and RCX are always right between two pages' worth, so that a miss may leave there and the instruction be
//! tried again. What was found of the source is kept while the target is looked for: their pages may displace each other
//! from the TLB. T0 does what is unusual (DF), what is not RAM, and goes on when the allowance is used up, so that an
//! interrupt does not wait for ever. R10 and R11 are free, the status flags are in their slot.

use crate::entry::exit_interpret;
use crate::refill::{refill_read, refill_write};
use crate::slots;
use gasang_cpu::tlb::{TlbEntry, header};
use gasang_x86::rflags;
use std::arch::naked_asm;
use std::mem::offset_of;

/// The page of an element at the address in R10: its host address to R11, the offset in it to R10; or go to 8.
macro_rules! find {
    ($tag:literal) => {
        concat!(
            "mov r11, r10
             shr r11, 7
             and r11, fs:[{last}]
             xor r10, fs:[r11 + ",
            $tag,
            "]
             cmp r10, 4096 - {size}
             ja 8f
             mov r11, fs:[r11 + {page}]"
        )
    };
}

/// How many elements there are from the offset in R10 to the page's end.
macro_rules! elements_left {
    () => {
        "neg r10
         add r10, 4096
         shr r10, {shift}"
    };
}

macro_rules! fill {
    ($name:ident, $shift:literal, $instruction:literal) => {
        /// REP STOS; R11 is where to go on.
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            naked_asm!(
                "mov gs:[{continuation}], r11",
                "test byte ptr gs:[{rflags} + 1], {direction}",
                "jnz 9f",
                "2:",
                "test rcx, rcx",
                "jz 7f",
                "dec dword ptr gs:[{allowance}]",
                "js 9f",
                "mov r10, rdi",
                find!("{write}"),
                "add r11, r10",
                elements_left!(),
                "cmp r10, rcx",
                "cmova r10, rcx",
                "mov gs:[{kept_rdi}], rdi",
                "mov gs:[{kept_rcx}], rcx",
                "mov rdi, r11",
                "mov rcx, r10",
                $instruction,
                "mov rdi, gs:[{kept_rdi}]",
                "mov rcx, gs:[{kept_rcx}]",
                "sub rcx, r10",
                "shl r10, {shift}",
                "add rdi, r10",
                "jmp 2b",
                "7:",
                "jmp gs:[{continuation}]",
                "8:",
                "mov r10, rdi",
                "lea r11, [rip + 2b]",
                "jmp {refill_write}",
                "9:",
                "jmp {interpret}",
                continuation = const slots::CONTINUATION,
                rflags = const slots::RFLAGS,
                direction = const rflags::DF >> 8,
                allowance = const slots::STRING_ALLOWANCE,
                last = const header::LAST_ENTRY,
                write = const offset_of!(TlbEntry, write),
                page = const offset_of!(TlbEntry, page),
                size = const 1 << $shift,
                shift = const $shift,
                kept_rdi = const slots::KEPT_RDI,
                kept_rcx = const slots::KEPT_RCX,
                refill_write = sym refill_write,
                interpret = sym exit_interpret,
            )
        }
    };
}

macro_rules! copy {
    ($name:ident, $shift:literal, $instruction:literal) => {
        /// REP MOVS; R11 is where to go on. SITE is that of its reads, OTHER_SITE that of its writes.
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            naked_asm!(
                "mov gs:[{continuation}], r11",
                "test byte ptr gs:[{rflags} + 1], {direction}",
                "jnz 9f",
                "2:",
                "test rcx, rcx",
                "jz 7f",
                "dec dword ptr gs:[{allowance}]",
                "js 9f",
                "mov gs:[{kept_rcx}], rcx",
                "mov gs:[{kept_rsi}], rsi",
                "mov gs:[{kept_rdi}], rdi",
                "mov r10, rsi",
                find!("{read}"),
                "lea rsi, [r11 + r10]",
                elements_left!(),
                "cmp rcx, r10",
                "cmova rcx, r10",
                "4:",
                "mov r10, rdi",
                "mov r11, r10",
                "shr r11, 7",
                "and r11, fs:[{last}]",
                "xor r10, fs:[r11 + {write}]",
                "cmp r10, 4096 - {size}",
                "ja 6f",
                "mov r11, fs:[r11 + {page}]",
                "lea rdi, [r11 + r10]",
                elements_left!(),
                "cmp rcx, r10",
                "cmova rcx, r10",
                "mov r10, rcx",
                $instruction,
                "mov rcx, gs:[{kept_rcx}]",
                "mov rsi, gs:[{kept_rsi}]",
                "mov rdi, gs:[{kept_rdi}]",
                "sub rcx, r10",
                "shl r10, {shift}",
                "add rsi, r10",
                "add rdi, r10",
                "jmp 2b",
                "7:",
                "jmp gs:[{continuation}]",
                "6:",
                "mov gs:[{source}], rsi",
                "mov gs:[{count}], rcx",
                "mov rcx, gs:[{kept_rcx}]",
                "mov rsi, gs:[{kept_rsi}]",
                "mov r10d, gs:[{other_site}]",
                "mov r11d, gs:[{site}]",
                "mov gs:[{site}], r10d",
                "mov gs:[{other_site}], r11d",
                "mov r10, rdi",
                "lea r11, [rip + 5f]",
                "jmp {refill_write}",
                // Found after all: the sites are exchanged once more.
                "5:",
                "mov r10d, gs:[{other_site}]",
                "mov r11d, gs:[{site}]",
                "mov gs:[{site}], r10d",
                "mov gs:[{other_site}], r11d",
                "mov rsi, gs:[{source}]",
                "mov rcx, gs:[{count}]",
                "jmp 4b",
                "8:",
                "mov r10, rsi",
                "lea r11, [rip + 2b]",
                "mov dword ptr gs:[{resume}], 0",
                "jmp {refill_read}",
                "9:",
                "jmp {interpret}",
                continuation = const slots::CONTINUATION,
                rflags = const slots::RFLAGS,
                direction = const rflags::DF >> 8,
                allowance = const slots::STRING_ALLOWANCE,
                last = const header::LAST_ENTRY,
                read = const offset_of!(TlbEntry, read),
                write = const offset_of!(TlbEntry, write),
                page = const offset_of!(TlbEntry, page),
                size = const 1 << $shift,
                shift = const $shift,
                kept_rcx = const slots::KEPT_RCX,
                kept_rsi = const slots::KEPT_RSI,
                kept_rdi = const slots::KEPT_RDI,
                source = const slots::STRING_SOURCE,
                count = const slots::STRING_COUNT,
                site = const slots::SITE,
                other_site = const slots::OTHER_SITE,
                resume = const slots::RESUME,
                refill_read = sym refill_read,
                refill_write = sym refill_write,
                interpret = sym exit_interpret,
            )
        }
    };
}

fill!(fill_bytes, 0, "rep stosb");
fill!(fill_words, 1, "rep stosw");
fill!(fill_doublewords, 2, "rep stosd");
fill!(fill_quadwords, 3, "rep stosq");
copy!(copy_bytes, 0, "rep movsb");
copy!(copy_words, 1, "rep movsw");
copy!(copy_doublewords, 2, "rep movsd");
copy!(copy_quadwords, 3, "rep movsq");
