//! How a thread inside translated code is made to leave it soon: a signal whose handler takes the down-counter away, so
//! that the next block polls. It costs running code nothing.
//!
//! The handler counts what it takes, so that the number of instructions stays exact. Wherever it interrupts, the rest of
//! the counter is in one place: in the slot COUNTER, which is zero once `entry` has handed it over; else in R9 while the
//! FS base is a TLB context, not the thread's own; after that `leave` is on its way out by itself. A thread that is about
//! to enter sees KICKED.
//!
//! The signal is SIGURG, which is ignored where nobody expects it. Losing one only costs time: every thread polls at the
//! end of its budget.

use crate::entry;
use crate::slots;
use std::arch::asm;
use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicI32, Ordering};

thread_local! {
    static THREAD: Cell<i32> = const { Cell::new(0) };
}

/// The thread that runs one processor's translated code.
#[derive(Debug, Default)]
pub(crate) struct Kick {
    /// Its kernel id; 0 while there is none.
    thread: AtomicI32,
}

impl Kick {
    /// The calling thread may run translated code from now on.
    pub(crate) fn thread_begins(&self) {
        let thread = THREAD.get();
        // SAFETY: gettid has no preconditions.
        let thread = if thread == 0 { unsafe { libc::gettid() } } else { thread };
        THREAD.set(thread);
        self.thread.store(thread, Ordering::SeqCst);
    }

    /// It has stopped doing so.
    pub(crate) fn thread_ends(&self) {
        self.thread.store(0, Ordering::SeqCst);
    }

    /// Make it leave. What it is to find must be stored, sequentially consistent, before.
    pub(crate) fn kick(&self) {
        let thread = self.thread.load(Ordering::SeqCst);
        if thread != 0 {
            // SAFETY: a signal of our own to a thread of our own, or to none if it has just gone; the handler leaves
            // threads outside translated code alone.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGURG) };
        }
    }
}

/// Install the handler.
///
/// # Errors
/// What sigaction says.
pub(crate) fn install() -> io::Result<()> {
    // SAFETY: `sigaction` is valid when zeroed; the handler has the signature that SA_SIGINFO asks for.
    let installed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_kick;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(libc::SIGURG, &action, std::ptr::null_mut())
    };
    if installed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

macro_rules! load_slot {
    ($slot:expr) => {{
        let value: u64;
        asm!("mov {}, gs:[{}]", out(reg) value, const $slot, options(nostack, preserves_flags, readonly));
        value
    }};
}

macro_rules! store_slot {
    ($slot:expr, $value:expr) => {
        asm!("mov gs:[{}], {}", const $slot, in(reg) $value, options(nostack, preserves_flags))
    };
}

/// Runs on the alternate stack, perhaps with the guest's FS base: it touches neither thread-local storage nor the C
/// library.
extern "C" fn on_kick(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context: *mut libc::ucontext_t = context.cast();
    // SAFETY: the kernel's context is valid. A GS base that is not 0 is the state of the processor that this thread
    // runs, whose slots the loads and stores use.
    unsafe {
        let state: u64;
        asm!("rdgsbase {}", out(reg) state, options(nomem, nostack, preserves_flags));
        if state == 0 {
            return;
        }
        store_slot!(slots::KICKED, 1u64);
        let registers = &mut (*context).uc_mcontext.gregs;
        let fs: u64;
        asm!("rdfsbase {}", out(reg) fs, options(nomem, nostack, preserves_flags));
        let counter = load_slot!(slots::COUNTER);
        let start = entry::start as unsafe extern "C" fn() as usize as i64;
        let in_register = counter == 0 && fs != load_slot!(slots::HOST_FS);
        let rest = if in_register { registers[libc::REG_R9 as usize] as u64 } else { counter };
        store_slot!(slots::BUDGET, load_slot!(slots::BUDGET).wrapping_sub(rest));
        store_slot!(slots::COUNTER, 0u64);
        if in_register || registers[libc::REG_RIP as usize] == start {
            registers[libc::REG_R9 as usize] = 0;
        }
    }
}
