//! SYSCALL, SYSRET and IRETQ as 64-bit systems use them, without leaving generated code.
//!
//! What is unusual (a flag that changes how code executes, an interrupt that waits, segments that are not flat) leaves to
//! T0 before anything changed. R10 and R11 are free, SITE is set, the status flags are in their slot.

use crate::entry::exit_interpret;
use crate::jumps::jump_by_others;
use crate::slots;
use gasang_cpu::tlb::{
    JUMP_BITS, JUMP_HASH, JUMPS, SECOND_LEVEL_BITS, SECOND_LEVEL_ENTRIES, TlbEntry, header, right,
};
use gasang_x86::control::efer;
use gasang_x86::descriptor::access;
use gasang_x86::{rflags, segment};
use std::arch::naked_asm;
use std::mem::size_of;

/// Access rights of flat segments of privilege 0 (SDM vol. 3, 5.8.8); `access::DPL` makes them those of privilege 3.
const CODE: u32 = access::PRESENT
    | access::S
    | access::CODE
    | access::READABLE
    | access::ACCESSED
    | access::LONG
    | access::GRANULARITY;
const DATA: u32 =
    access::PRESENT | access::S | access::WRITABLE | access::ACCESSED | access::DB | access::GRANULARITY;

/// The descriptor of a flat segment with these access rights (SDM vol. 3, 3.4.5).
const fn descriptor(attributes: u32) -> u64 {
    0x000f_0000_0000_ffff | (attributes as u64 & 0xff) << 40 | (attributes as u64 & 0xf000) << 40
}

const USER_CODE: u64 = descriptor(CODE | access::DPL);
const USER_DATA: u64 = descriptor(DATA | access::DPL);
const KERNEL_CODE: u64 = descriptor(CODE);
const KERNEL_DATA: u64 = descriptor(DATA);

/// Flags that change how code executes, or what the slots say.
const UNUSUAL: u64 = rflags::TF | rflags::AC | rflags::NT | rflags::VM | rflags::VIF | rflags::VIP;
/// Flags that SYSRET and IRETQ at CPL 0 load, but for the unusual ones and RF.
const LOADED: u64 = rflags::STATUS | rflags::IF | rflags::DF | rflags::IOPL | rflags::ID;
/// A block executes an instruction at least if the counter holds so much.
const LONGEST_BLOCK: usize = crate::decode::BLOCK_LIMIT;

/// RFLAGS to R10; R11 is lost.
macro_rules! flags_to_r10 {
    () => {
        "movzx r10d, word ptr gs:[{flags}]
         mov r11d, r10d
         shr r10d, 8
         and r10d, {low_status}
         and r11d, 1
         shl r11d, 11
         or r10d, r11d
         mov r11, gs:[{rflags}]
         and r11, {not_status}
         or r10, r11"
    };
}

/// RFLAGS from R10; R10 and R11 are lost.
macro_rules! flags_from_r10 {
    () => {
        "mov gs:[{rflags}], r10
         mov r11d, r10d
         and r11d, 0xff
         shl r11d, 8
         shr r10d, 11
         and r10d, 1
         or r11d, r10d
         mov word ptr gs:[{flags}], r11w"
    };
}

/// A flat code segment of selector R11.
macro_rules! load_cs {
    ($attributes:literal) => {
        concat!(
            "mov qword ptr gs:[{cs}], 0
             mov dword ptr gs:[{cs} + {limit}], -1
             mov dword ptr gs:[{cs} + {attributes}], ",
            $attributes,
            "
             mov word ptr gs:[{cs} + {selector}], r11w"
        )
    };
}

/// A flat stack segment of selector R11.
macro_rules! load_ss {
    ($attributes:literal) => {
        concat!(
            "mov qword ptr gs:[{ss}], 0
             mov dword ptr gs:[{ss} + {limit}], -1
             mov dword ptr gs:[{ss} + {attributes}], ",
            $attributes,
            "
             mov word ptr gs:[{ss} + {selector}], r11w"
        )
    };
}

/// To the block at R10, by the jump entries of the context that FS points to.
macro_rules! jump_to_r10 {
    () => {
        "imul r11d, r10d, {hash}
         shr r11d, {hash_shift}
         and r11d, {jump_mask}
         add r11, fs:[{last}]
         cmp r10, fs:[r11 + {entry_size}]
         jne 7f
         jmp fs:[r11 + {entry_size} + 8]
         7:
         sub r11, fs:[{last}]
         jmp {by_others}"
    };
}

/// Leave to T0 if the flags in R10 set IF while an interrupt waits; R11 is lost.
macro_rules! interrupt_must_not_wait {
    () => {
        "mov r11, gs:[{waiting}]
         shl r11d, {if_shift}
         test r11d, r10d
         jnz 9f"
    };
}

macro_rules! transition {
    ($($text:expr),+ ; $($extra:tt)*) => {
        naked_asm!(
            $($text),+,
            flags = const slots::FLAGS,
            rflags = const slots::RFLAGS,
            cs = const slots::segment_base(segment::CS),
            ss = const slots::segment_base(segment::SS),
            limit = const slots::SEGMENT_LIMIT,
            attributes = const slots::SEGMENT_ATTRIBUTES,
            selector = const slots::SEGMENT_SELECTOR,
            hash = const JUMP_HASH as i32,
            hash_shift = const 32 - JUMP_BITS - 4,
            jump_mask = const (JUMPS - 1) << 4,
            last = const header::LAST_ENTRY,
            entry_size = const size_of::<TlbEntry>(),
            by_others = sym jump_by_others,
            interpret = sym exit_interpret,
            $($extra)*
        )
    };
}

/// SYSCALL (SDM vol. 2); R11 is the address of the next instruction.
#[unsafe(naked)]
pub unsafe extern "C" fn syscall() {
    transition!(
        "test byte ptr gs:[{efer}], {sce}",
        "jz 9f",
        "mov r10, gs:[{fmask}]",
        "not r10",
        "and r10, gs:[{rflags}]",
        "test r10d, {unusual}",
        "jnz 9f",
        "mov rcx, r11",
        flags_to_r10!(),
        "mov gs:[{r11}], r10",
        "mov r11, gs:[{fmask}]",
        "not r11",
        "and r10, r11",
        "or r10, {fixed}",
        flags_from_r10!(),
        "movzx r10d, word ptr gs:[{star} + 4]",
        "mov r11d, r10d",
        "and r11d, -4",
        load_cs!("{code}"),
        "lea r11d, [r10 + 8]",
        "and r11d, -4",
        load_ss!("{data}"),
        "mov r10, gs:[{supervisor}]",
        "wrfsbase r10",
        "mov r10, gs:[{lstar}]",
        jump_to_r10!(),
        "9:",
        "jmp {interpret}";
        efer = const slots::EFER,
        sce = const efer::SCE,
        fmask = const slots::FMASK,
        unusual = const rflags::AC,
        r11 = const slots::gpr(11),
        fixed = const rflags::FIXED,
        low_status = const rflags::STATUS & 0xff,
        not_status = const !((rflags::STATUS | rflags::RF | rflags::VM) as i32),
        star = const slots::STAR,
        code = const CODE,
        data = const DATA,
        supervisor = const slots::TLB_SUPERVISOR,
        lstar = const slots::LSTAR,
    )
}

/// SYSRET with REX.W at CPL 0 (SDM vol. 2).
#[unsafe(naked)]
pub unsafe extern "C" fn sysret() {
    transition!(
        "test byte ptr gs:[{efer}], {sce}",
        "jz 9f",
        "mov r10, rcx",
        "shl r10, 16",
        "sar r10, 16",
        "cmp r10, rcx",
        "jne 9f",
        "mov r10, gs:[{r11}]",
        "test r10d, {unusual}",
        "jnz 9f",
        interrupt_must_not_wait!(),
        "and r10d, {loaded}",
        "or r10d, {fixed}",
        flags_from_r10!(),
        "movzx r10d, word ptr gs:[{star} + 6]",
        "lea r11d, [r10 + 16]",
        "or r11d, 3",
        load_cs!("{code}"),
        "lea r11d, [r10 + 8]",
        "or r11d, 3",
        load_ss!("{data}"),
        "mov r10, gs:[{user}]",
        "wrfsbase r10",
        "mov r10, rcx",
        jump_to_r10!(),
        "9:",
        "jmp {interpret}";
        efer = const slots::EFER,
        sce = const efer::SCE,
        r11 = const slots::gpr(11),
        unusual = const UNUSUAL & !rflags::VM,
        waiting = const slots::INTERRUPT_WAITING,
        if_shift = const rflags::IF.trailing_zeros(),
        loaded = const LOADED,
        fixed = const rflags::FIXED,
        star = const slots::STAR,
        code = const CODE | access::DPL,
        data = const DATA | access::DPL,
        user = const slots::TLB_USER,
    )
}

/// Compare the descriptor of selector RAX in the GDT with RDX; leave if it is another, or cannot be read at once. RCX, RSI
/// and R10 are lost. The TLB's second level is asked: in the first, the GDT may share its place with the code that
/// executes.
macro_rules! descriptor_must_be_rdx {
    () => {
        "test al, 4
         jnz 9f
         mov ecx, eax
         or ecx, 7
         movzx r10d, word ptr gs:[{gdt_limit}]
         cmp ecx, r10d
         ja 9f
         and eax, 0xfff8
         mov rcx, gs:[{gdt_base}]
         add rcx, rax
         mov rax, gs:[{supervisor}]
         mov r10, rcx
         shr r10, 12
         mov rsi, r10
         shr rsi, {second_bits}
         xor r10d, esi
         and r10d, {second_mask}
         shl r10d, 5
         add r10, [rax + {second_level}]
         mov rsi, rcx
         and rsi, -4096
         xor rsi, [r10]
         cmp rsi, [rax + {generation}]
         je 6f
         cmp rsi, [rax + {global_generation}]
         jne 9f
         6:
         and ecx, 4095
         cmp ecx, 4096 - 8
         ja 9f
         mov rsi, [r10 + 8]
         test sil, {readable}
         jz 9f
         and rsi, -4096
         cmp rdx, [rsi + rcx]
         jne 9f"
    };
}

/// IRETQ at CPL 0 (SDM vol. 2, IRET) to flat segments of CPL 0 or 3; R11 is the host address of the frame.
#[unsafe(naked)]
pub unsafe extern "C" fn interrupt_return() {
    transition!(
        "mov gs:[{kept_rax}], rax",
        "mov gs:[{kept_rcx}], rcx",
        "mov gs:[{kept_rdx}], rdx",
        "mov gs:[{kept_rsi}], rsi",
        // Not a nested task, no NMI to unblock, nothing unusual in the flags that are popped.
        "test dword ptr gs:[{rflags}], {nested}",
        "jnz 9f",
        "cmp byte ptr gs:[{nmi_blocked}], 0",
        "jne 9f",
        "mov rax, [r11 + 16]",
        "test eax, {unusual}",
        "jnz 9f",
        // RF matters to an interrupt before the next instruction only: see that none can be taken there.
        "test eax, {rf}",
        "jz 2f",
        "cmp r9, {longest}",
        "jl 9f",
        "2:",
        "mov r10, gs:[{waiting}]",
        "shl r10d, {if_shift}",
        "test r10d, eax",
        "jnz 9f",
        "mov rax, [r11]",
        "mov rcx, rax",
        "shl rcx, 16",
        "sar rcx, 16",
        "cmp rcx, rax",
        "jne 9f",
        "movzx eax, word ptr [r11 + 8]",
        "test al, 3",
        "jz 3f",
        // To CPL 3: no data segment that has to be hidden.
        "mov ecx, gs:[{es_attributes}]",
        "and ecx, gs:[{ds_attributes}]",
        "and ecx, gs:[{fs_attributes}]",
        "and ecx, gs:[{gs_attributes}]",
        "test ecx, {unusable}",
        "jz 9f",
        "mov ecx, eax",
        "and ecx, 3",
        "cmp ecx, 3",
        "jne 9f",
        "mov rdx, {user_code}",
        descriptor_must_be_rdx!(),
        "movzx eax, word ptr [r11 + 32]",
        "mov ecx, eax",
        "and ecx, 3",
        "cmp ecx, 3",
        "jne 9f",
        "mov rdx, {user_data}",
        descriptor_must_be_rdx!(),
        "mov r10d, {dpl}",
        "mov rcx, gs:[{user}]",
        "jmp 4f",
        "3:",
        "cmp eax, 8",
        "jb 9f",
        "mov rdx, {kernel_code}",
        descriptor_must_be_rdx!(),
        // A null SS is what 64-bit kernels have before they first load it.
        "movzx eax, word ptr [r11 + 32]",
        "test eax, eax",
        "jz 5f",
        "cmp eax, 8",
        "jb 9f",
        "test al, 3",
        "jnz 9f",
        "mov rdx, {kernel_data}",
        descriptor_must_be_rdx!(),
        "5:",
        "xor r10d, r10d",
        "mov rcx, gs:[{supervisor}]",
        // All is checked. R10 is the privilege of the segments, RCX the TLB context.
        "4:",
        "wrfsbase rcx",
        "movzx eax, word ptr [r11 + 8]",
        "mov ecx, r10d",
        "or ecx, {code}",
        "mov qword ptr gs:[{cs}], 0",
        "mov dword ptr gs:[{cs} + {limit}], -1",
        "mov gs:[{cs} + {attributes}], ecx",
        "mov word ptr gs:[{cs} + {selector}], ax",
        "movzx eax, word ptr [r11 + 32]",
        "or r10d, {data}",
        "mov qword ptr gs:[{ss}], 0",
        "mov dword ptr gs:[{ss} + {limit}], -1",
        "mov gs:[{ss} + {attributes}], r10d",
        "mov word ptr gs:[{ss} + {selector}], ax",
        "test eax, eax",
        "jnz 5f",
        "mov dword ptr gs:[{ss} + {limit}], eax",
        "mov dword ptr gs:[{ss} + {attributes}], {unusable}",
        "5:",
        "mov rax, [r11]",
        "mov r10, [r11 + 16]",
        "mov rsp, [r11 + 24]",
        "and r10d, {loaded}",
        "or r10d, {fixed}",
        flags_from_r10!(),
        "mov r10, rax",
        "mov rax, gs:[{kept_rax}]",
        "mov rcx, gs:[{kept_rcx}]",
        "mov rdx, gs:[{kept_rdx}]",
        "mov rsi, gs:[{kept_rsi}]",
        jump_to_r10!(),
        "9:",
        "mov rax, gs:[{kept_rax}]",
        "mov rcx, gs:[{kept_rcx}]",
        "mov rdx, gs:[{kept_rdx}]",
        "mov rsi, gs:[{kept_rsi}]",
        "jmp {interpret}";
        kept_rax = const slots::KEPT_RAX,
        kept_rcx = const slots::KEPT_RCX,
        kept_rdx = const slots::KEPT_RDX,
        kept_rsi = const slots::KEPT_RSI,
        nested = const rflags::NT,
        nmi_blocked = const slots::NMI_BLOCKED,
        unusual = const UNUSUAL,
        rf = const rflags::RF,
        longest = const LONGEST_BLOCK,
        waiting = const slots::INTERRUPT_WAITING,
        if_shift = const rflags::IF.trailing_zeros(),
        es_attributes = const slots::segment_base(segment::ES) + slots::SEGMENT_ATTRIBUTES,
        ds_attributes = const slots::segment_base(segment::DS) + slots::SEGMENT_ATTRIBUTES,
        fs_attributes = const slots::segment_base(segment::FS) + slots::SEGMENT_ATTRIBUTES,
        gs_attributes = const slots::segment_base(segment::GS) + slots::SEGMENT_ATTRIBUTES,
        unusable = const access::UNUSABLE,
        user_code = const USER_CODE,
        user_data = const USER_DATA,
        kernel_code = const KERNEL_CODE,
        kernel_data = const KERNEL_DATA,
        gdt_limit = const slots::GDT_LIMIT,
        gdt_base = const slots::GDT_BASE,
        second_bits = const SECOND_LEVEL_BITS,
        second_mask = const SECOND_LEVEL_ENTRIES - 1,
        second_level = const header::SECOND_LEVEL,
        generation = const header::GENERATION,
        global_generation = const header::GLOBAL_GENERATION,
        readable = const right::READ,
        dpl = const access::DPL,
        user = const slots::TLB_USER,
        supervisor = const slots::TLB_SUPERVISOR,
        code = const CODE,
        data = const DATA,
        loaded = const LOADED,
        fixed = const rflags::FIXED,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_of_flat_segments_are_those_of_the_manual() {
        assert_eq!(KERNEL_CODE, 0x00af_9b00_0000_ffff);
        assert_eq!(KERNEL_DATA, 0x00cf_9300_0000_ffff);
        assert_eq!(USER_CODE, 0x00af_fb00_0000_ffff);
        assert_eq!(USER_DATA, 0x00cf_f300_0000_ffff);
    }
}
