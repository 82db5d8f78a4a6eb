//! How a processor's translator hears that RAM from which it translated was written.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// A queue of written ranges of host addresses, one for each processor. Whoever writes pushes to all of them; the
/// owner drains its own before it runs translated code again.
#[derive(Debug, Default)]
pub struct CodeWrites {
    pending: AtomicBool,
    ranges: Mutex<Vec<(u64, u64)>>,
}

impl CodeWrites {
    /// An empty queue.
    pub fn new() -> CodeWrites {
        CodeWrites::default()
    }

    /// Bytes at host addresses `host` to `host + length` are about to be written.
    pub fn push(&self, host: u64, length: u64) {
        let mut ranges = self.ranges.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        ranges.push((host, length));
        self.pending.store(true, Ordering::Release);
    }

    /// Whether something waits.
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// Take what waits.
    pub fn drain(&self) -> Vec<(u64, u64)> {
        let mut ranges = self.ranges.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.pending.store(false, Ordering::Release);
        std::mem::take(&mut *ranges)
    }
}
