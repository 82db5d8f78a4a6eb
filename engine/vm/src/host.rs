//! What the host offers, and the state of the host thread that runs a processor.

use crate::error::Error;
use gasang_exec::host_fault::AlternateStack;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Signals that tell of a fault in the code that runs: they cannot wait.
const FAULTS: [Signal; 5] =
    [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGTRAP];

/// What makes translated code leave soon; its handler minds the stack.
pub(crate) const KICK: Signal = Signal::SIGURG;

thread_local! {
    static ALTERNATE_STACK: RefCell<Option<AlternateStack>> = const { RefCell::new(None) };
    /// Kicks wait for KVM to let them in: in this thread, from its first run on KVM on.
    static KICKS_WAIT: Cell<bool> = const { Cell::new(false) };
    /// The mask to go back to, while signals wait.
    static MASK: Cell<Option<SigSet>> = const { Cell::new(None) };
}

fn host(attempt: &str, source: std::io::Error) -> Error {
    Error::Host { attempt: attempt.to_owned(), source }
}

/// The current thread is inside the guest. Dropping it restores the signal mask.
pub(crate) struct InsideGuest {
    /// The mask belongs to this thread.
    not_send: PhantomData<*const ()>,
}

impl InsideGuest {
    /// On KVM signals need not wait: it minds the stack, and lets none but kicks in.
    ///
    /// # Errors
    /// What the host says.
    pub(crate) fn enter(on_kvm: bool) -> Result<InsideGuest, Error> {
        ALTERNATE_STACK.with_borrow_mut(|stack| {
            if stack.is_none() {
                let installed = AlternateStack::install();
                *stack = Some(installed.map_err(|error| host("cannot make a signal stack", error))?);
            }
            Ok::<(), Error>(())
        })?;
        if on_kvm {
            let_kicks_wait()?;
        } else {
            let_signals_wait()?;
        }
        Ok(InsideGuest { not_send: PhantomData })
    }
}

impl Drop for InsideGuest {
    fn drop(&mut self) {
        if let Some(mask) = MASK.take() {
            // Setting a mask that the kernel itself gave us cannot fail.
            let _ = mask.thread_set_mask();
        }
    }
}

/// Until the current thread leaves the guest signals wait, since the stack pointer may hold a guest's value; faults have a
/// stack of their own, and so have kicks.
///
/// # Errors
/// What the host says.
pub(crate) fn let_signals_wait() -> Result<(), Error> {
    if MASK.get().is_some() {
        return Ok(());
    }
    let mut blocked = SigSet::all();
    FAULTS.iter().for_each(|&signal| blocked.remove(signal));
    blocked.remove(KICK);
    let before = blocked.thread_swap_mask(SigmaskHow::SIG_SETMASK);
    MASK.set(Some(before.map_err(|error| host("cannot block signals", error.into()))?));
    Ok(())
}

/// SIGURG, which nobody misses, waits in this thread for good: to change masks with each run would take longer than the
/// rest of it.
fn let_kicks_wait() -> Result<(), Error> {
    if KICKS_WAIT.get() {
        return Ok(());
    }
    let kick = SigSet::from_iter([KICK]);
    kick.thread_block().map_err(|error| host("cannot block signals", error.into()))?;
    KICKS_WAIT.set(true);
    Ok(())
}

/// How many processors the host has for this process.
pub(crate) fn host_processors() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// What the host processor and kernel offer the engine, by name.
pub fn host_capabilities() -> Vec<(&'static str, bool)> {
    let enabled = |path: &str| std::fs::read_to_string(path).is_ok_and(|text| text.trim() != "0");
    let device = |path: &str| std::fs::File::options().read(true).write(true).open(path).is_ok();
    vec![
        ("fsgsbase", auxiliary_value(AT_HWCAP2) & HWCAP2_FSGSBASE != 0),
        ("avx", std::arch::is_x86_feature_detected!("avx")),
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("xsave", std::arch::is_x86_feature_detected!("xsave")),
        ("xsavec", std::arch::is_x86_feature_detected!("xsavec")),
        ("xsaveopt", std::arch::is_x86_feature_detected!("xsaveopt")),
        ("invariant_tsc", gasang_exec::host_time::is_invariant()),
        ("kvm_device", device("/dev/kvm")),
        ("userfaultfd", device("/dev/userfaultfd") || enabled("/proc/sys/vm/unprivileged_userfaultfd")),
    ]
}

/// Keys of the auxiliary vector (getauxval(3)).
const AT_HWCAP2: u64 = 26;
/// The kernel has enabled RDFSBASE and its kin in user mode.
const HWCAP2_FSGSBASE: u64 = 1 << 1;

/// A value of the auxiliary vector that the kernel gave this process; 0 if it is not there.
fn auxiliary_value(key: u64) -> u64 {
    let vector = std::fs::read("/proc/self/auxv").unwrap_or_default();
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
    let pairs = vector.chunks_exact(16).map(|pair| pair.split_at(8));
    pairs.map(|(name, value)| (word(name), word(value))).find(|pair| pair.0 == key).map_or(0, |pair| pair.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_wait_inside_the_guest_but_faults_do_not() {
        let before = SigSet::thread_get_mask().unwrap();
        {
            let _inside = InsideGuest::enter(false).unwrap();
            let mask = SigSet::thread_get_mask().unwrap();
            assert!(mask.contains(Signal::SIGINT) && mask.contains(Signal::SIGUSR1));
            assert!(!mask.contains(Signal::SIGURG));
            assert!(!mask.contains(Signal::SIGSEGV) && !mask.contains(Signal::SIGFPE));
        }
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }

    #[test]
    fn on_kvm_kicks_wait_until_signals_do() {
        let inside = InsideGuest::enter(true).unwrap();
        let mask = SigSet::thread_get_mask().unwrap();
        assert!(mask.contains(KICK) && !mask.contains(Signal::SIGINT));
        let_signals_wait().unwrap();
        let_signals_wait().unwrap();
        let mask = SigSet::thread_get_mask().unwrap();
        assert!(!mask.contains(KICK) && mask.contains(Signal::SIGINT));
        drop(inside);
        assert!(!SigSet::thread_get_mask().unwrap().contains(Signal::SIGINT));
    }

    #[test]
    fn the_auxiliary_vector_tells_the_page_size() {
        assert_eq!(auxiliary_value(6), 4096);
        assert_eq!(auxiliary_value(0xffff_0000), 0);
    }
}
