//! The host's side of entering generated code: segment bases, extended-state mask, faults.

use crate::entry::{self, Exit};
use crate::slots;
use gasang_cpu::VcpuState;
use std::arch::asm;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};

/// HWCAP2 bit: the kernel lets user mode write FS and GS bases (Linux, arch/x86 ABI).
const HWCAP2_FSGSBASE: u64 = 1 << 1;

/// Whether the host can run generated code.
///
/// # Errors
/// `Unsupported`, naming what is missing.
pub fn check_host() -> io::Result<()> {
    // SAFETY: getauxval reads a vector that the kernel gave the process; an unknown key gives 0.
    let capabilities = unsafe { libc::getauxval(libc::AT_HWCAP2) };
    let missing = if capabilities & HWCAP2_FSGSBASE == 0 {
        "FSGSBASE (Linux 5.9 or newer on a processor of 2012 or newer)"
    } else if !std::arch::is_x86_feature_detected!("bmi2") {
        "BMI2"
    } else if !std::arch::is_x86_feature_detected!("xsave") {
        "XSAVE"
    } else {
        return Ok(());
    };
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        format!("the translator needs {missing}; use accel \"interp\""),
    ))
}

/// XSAVE mask of the state that generated code may use: x87, SSE, AVX as far as the host has enabled them.
pub fn extended_mask() -> u64 {
    static MASK: OnceLock<u64> = OnceLock::new();
    *MASK.get_or_init(|| {
        let (low, high): (u32, u32);
        // SAFETY: `check_host` found XSAVE, and a kernel that offers it has set CR4.OSXSAVE.
        unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
        (u64::from(high) << 32 | u64::from(low)) & 7
    })
}

/// Where a host fault continues; the same code at every translator's.
static FAULT_EXIT: AtomicU64 = AtomicU64::new(0);

/// What `enter_state` replaced.
#[derive(Debug)]
pub struct Saved {
    gs_base: u64,
}

/// Point the GS base at the state, which remembers this thread's FS base.
pub fn enter_state(state: &mut VcpuState) -> Saved {
    FAULT_EXIT.store(entry::exit_fault as unsafe extern "C" fn() as usize as u64, Ordering::Relaxed);
    let (gs_base, fs_base): (u64, u64);
    // SAFETY: as below.
    unsafe { asm!("rdfsbase {}", out(reg) fs_base, options(nomem, nostack, preserves_flags)) };
    state.translator[slots::word(slots::HOST_FS)] = fs_base;
    state.translator[slots::word(slots::COUNTER)] = 0;
    // SAFETY: `check_host` found FSGSBASE; nothing of ours uses GS on x86-64 Linux.
    unsafe {
        asm!("rdgsbase {}", out(reg) gs_base, options(nomem, nostack, preserves_flags));
        asm!("wrgsbase {}", in(reg) std::ptr::from_mut(state) as u64, options(nostack, preserves_flags));
    }
    Saved { gs_base }
}

/// Undo `enter_state`, and leave no pending x87 exception behind.
pub fn leave_state(saved: Saved) {
    // SAFETY: as above; FNINIT brings the x87 unit to what the System V ABI expects of it (masked exceptions).
    unsafe {
        asm!("wrgsbase {}", in(reg) saved.gs_base, options(nostack, preserves_flags));
        asm!("fninit", options(nomem, nostack));
    }
}

/// Run generated code from the slot ENTRY until it leaves, for `budget` instructions unless a kick comes. Returns with
/// how many were counted.
pub fn run_generated(state: &mut VcpuState, budget: u64) -> (Exit, u64) {
    let word = |state: &mut VcpuState, slot| &raw mut state.translator[slots::word(slot)];
    let number: u64;
    // SAFETY: the GS base is `state` (`enter_state`), the dispatcher filled the slots, signals are blocked but for the
    // kick, whose handler leaves what `kick` says. Volatile, because it may run between any two of these. `enter`
    // follows the C calling convention and preserves what it says; generated code reaches guest RAM only through TLB
    // entries, and the state only at the offsets of its slots and registers.
    unsafe {
        word(state, slots::BUDGET).write_volatile(budget);
        word(state, slots::COUNTER).write_volatile(budget);
        if word(state, slots::KICKED).read_volatile() != 0 {
            // It came before the counter could be taken away.
            word(state, slots::COUNTER).write_volatile(0);
            word(state, slots::BUDGET).write_volatile(0);
        }
        number = entry::enter(std::ptr::from_mut(state));
        let budget = word(state, slots::BUDGET).read_volatile();
        let remaining = word(state, slots::REMAINING).read_volatile();
        (Exit::from_number(number), budget.wrapping_sub(remaining))
    }
}

/// Whether a kick has come since `clear_kick`.
pub fn is_kicked(state: &VcpuState) -> bool {
    // SAFETY: reads a word of the state; volatile, because the signal's handler writes it.
    unsafe { (&raw const state.translator[slots::word(slots::KICKED)]).read_volatile() != 0 }
}

/// A kick that has come is seen to: whatever it was for is looked at after this.
pub fn clear_kick(state: &mut VcpuState) {
    // SAFETY: as in `is_kicked`.
    unsafe { (&raw mut state.translator[slots::word(slots::KICKED)]).write_volatile(0) }
    compiler_fence(Ordering::SeqCst);
}

/// A host fault in generated code: note where, and continue at the fault exit. Runs on the alternate stack with the
/// guest's FS base, so it touches neither thread-local storage nor the C library.
pub extern "C" fn on_fault(_signal: i32, context: *mut libc::ucontext_t) {
    // SAFETY: the kernel's context is valid; GS base is the state, whose slots the two stores fill.
    unsafe {
        let registers = &mut (*context).uc_mcontext.gregs;
        let rip = registers[libc::REG_RIP as usize];
        let flags = registers[libc::REG_EFL as usize];
        asm!(
            "mov gs:[{rip_slot}], {rip}",
            "mov gs:[{flags_slot}], {flags}",
            rip_slot = const slots::FAULT_RIP,
            flags_slot = const slots::FAULT_FLAGS,
            rip = in(reg) rip,
            flags = in(reg) flags,
            options(nostack, preserves_flags)
        );
        registers[libc::REG_RIP as usize] = FAULT_EXIT.load(Ordering::Relaxed) as i64;
    }
}
