//! Host faults inside generated code: the signals that tell of them, and whom to tell.
//!
//! Generated code belongs to a region of host addresses. When the host processor faults at an instruction inside a
//! region, the region's handler edits the interrupted context, usually to continue at a landing pad. Faults elsewhere
//! go to whoever handled the signal before.
//!
//! Inside a region FS, GS and RSP may hold values of the guest: the path from the signal to the region's handler uses
//! an alternate stack, no thread-local storage and no function of the C library.

use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// What a region does about a fault: edit `context`, the interrupted registers. `signal` is SIGFPE, SIGILL, SIGSEGV or
/// SIGBUS; `REG_TRAPNO` of the context has the exception vector.
pub type Handler = extern "C" fn(signal: i32, context: *mut libc::ucontext_t);

const SIGNALS: [i32; 4] = [libc::SIGFPE, libc::SIGILL, libc::SIGSEGV, libc::SIGBUS];
const REGIONS: usize = 512;

struct Region {
    taken: AtomicBool,
    start: AtomicU64,
    end: AtomicU64,
    handler: AtomicUsize,
}

impl Region {
    const fn free() -> Region {
        Region {
            taken: AtomicBool::new(false),
            start: AtomicU64::new(u64::MAX),
            end: AtomicU64::new(0),
            handler: AtomicUsize::new(0),
        }
    }

    fn contains(&self, address: u64) -> bool {
        self.start.load(Ordering::Acquire) <= address && address < self.end.load(Ordering::Acquire)
    }
}

static TABLE: [Region; REGIONS] = [const { Region::free() }; REGIONS];
/// Slots of `TABLE` that were ever in use lie below this.
static USED: AtomicUsize = AtomicUsize::new(0);

/// The dispositions that the handler replaced, in the order of `SIGNALS`; written once, before the handler can run.
struct Previous([UnsafeCell<MaybeUninit<libc::sigaction>>; 4]);

// SAFETY: each cell is written inside `INSTALL`, before the signal that reads it can reach our handler.
unsafe impl Sync for Previous {}

static PREVIOUS: Previous = Previous([const { UnsafeCell::new(MaybeUninit::zeroed()) }; 4]);
static INSTALL: Once = Once::new();

/// A region of generated code, registered until dropped.
#[derive(Debug)]
pub struct Registration {
    slot: usize,
}

/// Send faults of instructions in `start..end` to `handler`.
///
/// # Errors
/// If the signal handler cannot be installed, or too many regions are registered.
pub fn register(start: u64, end: u64, handler: Handler) -> io::Result<Registration> {
    install()?;
    let slot = TABLE.iter().position(|region| !region.taken.swap(true, Ordering::AcqRel));
    let slot = slot.ok_or_else(|| io::Error::other("too many regions of generated code"))?;
    let region = &TABLE[slot];
    region.handler.store(handler as usize, Ordering::Release);
    region.end.store(end, Ordering::Release);
    region.start.store(start, Ordering::Release);
    USED.fetch_max(slot + 1, Ordering::AcqRel);
    Ok(Registration { slot })
}

impl Drop for Registration {
    fn drop(&mut self) {
        let region = &TABLE[self.slot];
        region.start.store(u64::MAX, Ordering::Release);
        region.end.store(0, Ordering::Release);
        region.taken.store(false, Ordering::Release);
    }
}

fn install() -> io::Result<()> {
    INSTALL.call_once(|| {
        for (signal, previous) in SIGNALS.iter().zip(&PREVIOUS.0) {
            // SAFETY: `sigaction` is valid when zeroed; the handler has the signature that SA_SIGINFO asks for, and
            // `previous` is written by this thread only, under `INSTALL`.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                let entry: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_signal;
                action.sa_sigaction = entry as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
                libc::sigemptyset(&mut action.sa_mask);
                // A kick takes R9 for the guest's while the FS base is: it waits until the handler is done.
                libc::sigaddset(&mut action.sa_mask, libc::SIGURG);
                libc::sigaction(*signal, std::ptr::null(), previous.get().cast());
                libc::sigaction(*signal, &action, std::ptr::null_mut());
            }
        }
    });
    let mut current = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asks for a disposition, into a buffer of its size.
    let asked = unsafe { libc::sigaction(libc::SIGSEGV, std::ptr::null(), current.as_mut_ptr()) };
    if asked == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn on_signal(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let registers: *mut libc::ucontext_t = context.cast();
    // SAFETY: the kernel passes valid pointers to a handler installed with SA_SIGINFO.
    let (address, by_processor) =
        unsafe { ((*registers).uc_mcontext.gregs[libc::REG_RIP as usize] as u64, (*info).si_code > 0) };
    if by_processor {
        let used = USED.load(Ordering::Acquire);
        if let Some(region) = TABLE.iter().take(used).find(|region| region.contains(address)) {
            let handler = region.handler.load(Ordering::Acquire);
            // SAFETY: only `register` stores here, and it stores a `Handler`.
            let handler: Handler = unsafe { std::mem::transmute::<usize, Handler>(handler) };
            handler(signal, registers);
            return;
        }
    }
    chain(signal, info, context);
}

/// Do what would have been done without us.
fn chain(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(index) = SIGNALS.iter().position(|&known| known == signal) else { return };
    // SAFETY: written in `install` before our handler was in place. Calling what was the handler, with what the kernel
    // would have called it with; the default disposition is restored, so that the fault repeats and ends the process.
    unsafe {
        let previous = (*PREVIOUS.0[index].get()).assume_init_ref();
        match previous.sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &action, std::ptr::null_mut());
            }
            handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
                let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                    std::mem::transmute(handler);
                handler(signal, info, context);
            }
            handler => {
                let handler: extern "C" fn(i32) = std::mem::transmute(handler);
                handler(signal);
            }
        }
    }
}

/// A stack for this thread's signal handlers, in place until dropped (on the same thread).
#[derive(Debug)]
pub struct AlternateStack {
    memory: *mut libc::c_void,
    previous: libc::stack_t,
}

impl AlternateStack {
    const SIZE: usize = 64 << 10;

    /// Give the current thread an alternate signal stack of our own.
    ///
    /// # Errors
    /// If memory runs out, or the thread is on its alternate stack just now.
    pub fn install() -> io::Result<AlternateStack> {
        // SAFETY: a fresh private mapping that becomes the stack; both results are checked.
        unsafe {
            let memory = libc::mmap(
                std::ptr::null_mut(),
                Self::SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK,
                -1,
                0,
            );
            if memory == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let stack = libc::stack_t { ss_sp: memory, ss_flags: 0, ss_size: Self::SIZE };
            let mut previous: libc::stack_t = std::mem::zeroed();
            if libc::sigaltstack(&stack, &mut previous) != 0 {
                let error = io::Error::last_os_error();
                libc::munmap(memory, Self::SIZE);
                return Err(error);
            }
            Ok(AlternateStack { memory, previous })
        }
    }
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        // SAFETY: restores what was there before; our memory is no longer the stack when it is unmapped.
        unsafe {
            libc::sigaltstack(&self.previous, std::ptr::null_mut());
            libc::munmap(self.memory, Self::SIZE);
        }
    }
}
