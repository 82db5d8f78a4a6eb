//! How other threads get a processor's attention: one atomic word to poll, one condition variable to sleep on.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// `Vcpu::kick` was called.
pub(crate) const KICK: u32 = 1 << 0;
/// The chipset may have something for this processor.
pub(crate) const CHIPSET: u32 = 1 << 1;
/// Another processor wakes this one from HLT, now or when it gets there.
pub(crate) const WAKE: u32 = 1 << 2;

/// The machine leaves KVM.
pub(crate) const LEAVE: u32 = 1 << 3;

/// Requests that wait for one processor.
#[derive(Debug, Default)]
pub(crate) struct Attention {
    word: AtomicU32,
    sleep: Mutex<()>,
    raised: Condvar,
}

impl Attention {
    /// Ask for attention; a sleeper wakes. True if the request was not there yet: who is awake may want a kick.
    pub(crate) fn raise(&self, request: u32) -> bool {
        // Sequentially consistent with what a kick looks at.
        let before = self.word.fetch_or(request, Ordering::SeqCst);
        // With the lock held the sleeper is either before its check of the word or asleep already.
        drop(self.sleep.lock().unwrap_or_else(PoisonError::into_inner));
        self.raised.notify_all();
        before & request == 0
    }

    /// As `raise`, by the processor itself, which does not sleep.
    #[inline]
    pub(crate) fn note(&self, request: u32) {
        self.word.fetch_or(request, Ordering::Relaxed);
    }

    /// Whether anything waits. Cheap enough for every instruction.
    #[inline]
    pub(crate) fn is_raised(&self) -> bool {
        self.word.load(Ordering::SeqCst) != 0
    }

    /// Whether this request waits.
    pub(crate) fn has(&self, request: u32) -> bool {
        self.word.load(Ordering::SeqCst) & request != 0
    }

    /// Take one request; whether it was there.
    pub(crate) fn take(&self, request: u32) -> bool {
        self.word.load(Ordering::Relaxed) & request != 0
            && self.word.fetch_and(!request, Ordering::Acquire) & request != 0
    }

    /// Sleep until something is raised or `timeout` has passed; None sleeps without end.
    pub(crate) fn sleep(&self, timeout: Option<Duration>) {
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.is_raised() {
            let Some(end) = end else {
                guard = self.raised.wait(guard).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            guard = self.raised.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_request_raised_before_the_sleep_ends_it_at_once() {
        let attention = Attention::default();
        attention.raise(KICK);
        attention.sleep(None);
        assert!(attention.take(KICK));
        assert!(!attention.take(KICK));
    }

    #[test]
    fn a_request_from_another_thread_wakes_the_sleeper() {
        let attention = Arc::new(Attention::default());
        let other = Arc::clone(&attention);
        let thread = std::thread::spawn(move || other.sleep(None));
        attention.raise(CHIPSET);
        thread.join().unwrap();
        assert!(attention.is_raised());
    }
}
