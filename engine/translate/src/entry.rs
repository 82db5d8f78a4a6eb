//! The way into generated code and out of it.
//!
//! While generated code runs: guest registers are in the host's registers of the same name, but R9-R11, which stay in
//! the state; R9 is the down-counter, R10 and R11 are scratch; GS base is the state, FS base the TLB context; RSP is the
//! guest's, so nothing may be pushed and every asynchronous signal is blocked.

use crate::slots;
use gasang_cpu::VcpuState;
use std::arch::naked_asm;

/// Why generated code left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Exit {
    /// The down-counter ran out at the start of a block; NEXT_RIP says which.
    Poll = 0,
    /// No block is known at NEXT_RIP (an indirect jump, or a block that was thrown away).
    Lookup = 1,
    /// A direct jump that is not linked yet; SITE says which.
    Link = 2,
    /// The instruction at SITE needs T0.
    Interpret = 3,
    /// The access at SITE to MISSED_ADDRESS is not in the TLB.
    Miss = 4,
    /// The instruction at SITE needs extended state that is not in the registers.
    Extended = 5,
    /// The host faulted at FAULT_RIP.
    Fault = 6,
    /// Too many accesses at SITE missed its region, the last one to MISSED_ADDRESS.
    Region = 7,
}

impl Exit {
    /// The exit of the number that generated code returned.
    pub fn from_number(number: u64) -> Exit {
        match number {
            0 => Exit::Poll,
            1 => Exit::Lookup,
            2 => Exit::Link,
            3 => Exit::Interpret,
            4 => Exit::Miss,
            5 => Exit::Extended,
            6 => Exit::Fault,
            _ => Exit::Region,
        }
    }
}

macro_rules! save_flags {
    () => {
        "mov gs:[{temporary}], rax\nlahf\nseto al\nmov gs:[{flags}], ax\nmov rax, gs:[{temporary}]"
    };
}

macro_rules! exit_with {
    ($name:ident, $exit:expr, $doc:literal) => {
        #[doc = $doc]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            naked_asm!("mov r11d, {number}", "jmp {leave}", number = const $exit as u64, leave = sym leave)
        }
    };
}

exit_with!(exit_poll, Exit::Poll, "Leave: the counter ran out. Status flags are in their slot.");
exit_with!(exit_lookup, Exit::Lookup, "Leave: no block at NEXT_RIP. Status flags are in their slot.");
exit_with!(exit_link, Exit::Link, "Leave: an unlinked jump. Status flags are in their slot.");
exit_with!(exit_interpret, Exit::Interpret, "Leave: an instruction for T0. Status flags are in their slot.");
exit_with!(exit_miss, Exit::Miss, "Leave: a TLB miss. Status flags are in their slot.");
exit_with!(exit_extended, Exit::Extended, "Leave: extended state is wanted. Status flags are in their slot.");
exit_with!(exit_region, Exit::Region, "Leave: another region is wanted. Status flags are in their slot.");
exit_with!(exit_fault, Exit::Fault, "Leave: a host fault; entered from the signal handler.");

/// Save the host's status flags to their slot, then as `exit_lookup`.
#[unsafe(naked)]
pub unsafe extern "C" fn exit_lookup_host_flags() {
    naked_asm!(save_flags!(), "jmp {next}", temporary = const slots::TEMPORARY, flags = const slots::FLAGS, next = sym exit_lookup)
}

/// Save the host's status flags to their slot, then as `exit_link`.
#[unsafe(naked)]
pub unsafe extern "C" fn exit_link_host_flags() {
    naked_asm!(save_flags!(), "jmp {next}", temporary = const slots::TEMPORARY, flags = const slots::FLAGS, next = sym exit_link)
}

/// Save the host's status flags to their slot, then as `exit_interpret`.
#[unsafe(naked)]
pub unsafe extern "C" fn exit_interpret_host_flags() {
    naked_asm!(save_flags!(), "jmp {next}", temporary = const slots::TEMPORARY, flags = const slots::FLAGS, next = sym exit_interpret)
}

/// Enter generated code at slot ENTRY; returns the number of an `Exit`.
///
/// # Safety
/// `state` must be valid and pinned, its slots filled, FSGSBASE enabled, the GS base equal to `state`, and
/// asynchronous signals blocked.
#[unsafe(naked)]
pub unsafe extern "C" fn enter(state: *mut VcpuState) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov gs:[{host_rsp}], rsp",
        "xor r9d, r9d",
        "mov rax, gs:[{tlb}]",
        "wrfsbase rax",
        "mov rax, gs:[{wanted}]",
        "test eax, eax",
        "jz 2f",
        "mov gs:[{live}], rax",
        "mov eax, gs:[{mask}]",
        "mov edx, gs:[{mask} + 4]",
        "xrstor64 gs:[{extended}]",
        "2:",
        "xor r10d, r10d",
        "mov r11, gs:[{place}]",
        "mov rax, gs:[{gpr} + 0]",
        "mov rcx, gs:[{gpr} + 8]",
        "mov rdx, gs:[{gpr} + 16]",
        "mov rbx, gs:[{gpr} + 24]",
        "mov rsp, gs:[{gpr} + 32]",
        "mov rbp, gs:[{gpr} + 40]",
        "mov rsi, gs:[{gpr} + 48]",
        "mov rdi, gs:[{gpr} + 56]",
        "mov r8, gs:[{gpr} + 64]",
        "mov r12, gs:[{gpr} + 96]",
        "mov r13, gs:[{gpr} + 104]",
        "mov r14, gs:[{gpr} + 112]",
        "mov r15, gs:[{gpr} + 120]",
        "mov r9, gs:[{counter}]",
        "jmp {start}",
        host_rsp = const slots::HOST_RSP,
        tlb = const slots::TLB_CONTEXT,
        wanted = const slots::EXTENDED_WANTED,
        live = const slots::EXTENDED_LIVE,
        mask = const slots::EXTENDED_MASK,
        extended = const slots::EXTENDED,
        counter = const slots::COUNTER,
        gpr = const slots::gpr(0),
        place = const slots::PLACE,
        start = sym start,
    )
}

/// The end of `enter`: the counter is in R9, and from here on no longer in its slot (`kick` knows the first instruction).
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn start() {
    naked_asm!(
        "mov dword ptr gs:[{counter}], 0",
        "jmp gs:[{entry}]",
        counter = const slots::COUNTER,
        entry = const slots::ENTRY,
    )
}

/// The common way out, with the exit's number in R11: the guest's registers go back to the state, and live extended
/// state with them, so that our own code finds its stack, its thread-local storage and a default MXCSR. EXTENDED_WANTED
/// becomes what was live: entering again as things are restores it.
#[unsafe(naked)]
unsafe extern "C" fn leave() {
    naked_asm!(
        "mov gs:[{gpr} + 0], rax",
        "mov gs:[{gpr} + 8], rcx",
        "mov gs:[{gpr} + 16], rdx",
        "mov gs:[{gpr} + 24], rbx",
        "mov gs:[{gpr} + 32], rsp",
        "mov gs:[{gpr} + 40], rbp",
        "mov gs:[{gpr} + 48], rsi",
        "mov gs:[{gpr} + 56], rdi",
        "mov gs:[{gpr} + 64], r8",
        "mov gs:[{gpr} + 96], r12",
        "mov gs:[{gpr} + 104], r13",
        "mov gs:[{gpr} + 112], r14",
        "mov gs:[{gpr} + 120], r15",
        "mov rsp, gs:[{host_rsp}]",
        "mov rax, gs:[{host_fs}]",
        "wrfsbase rax",
        // Not before: until here a kick takes away what is in R9.
        "mov gs:[{remaining}], r9",
        "mov rax, gs:[{live}]",
        "mov gs:[{wanted}], rax",
        "test eax, eax",
        "jz 2f",
        "mov eax, gs:[{mask}]",
        "mov edx, gs:[{mask} + 4]",
        "xsave64 gs:[{extended}]",
        "mov qword ptr gs:[{live}], 0",
        "push 0x1f80",
        "ldmxcsr [rsp]",
        "pop rax",
        "2:",
        "mov rax, r11",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        host_rsp = const slots::HOST_RSP,
        host_fs = const slots::HOST_FS,
        wanted = const slots::EXTENDED_WANTED,
        live = const slots::EXTENDED_LIVE,
        mask = const slots::EXTENDED_MASK,
        extended = const slots::EXTENDED,
        remaining = const slots::REMAINING,
        gpr = const slots::gpr(0),
    )
}
