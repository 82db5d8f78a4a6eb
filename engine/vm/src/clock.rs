//! The one virtual clock. It counts nanoseconds since the machine was created, and the processors' time-stamp counter
//! before the guest's offset counts the same nanoseconds: the two can never drift apart.

use crate::error::Error;
use gasang_exec::host_time::{TimeStampCounter, read_time_stamp_counter};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Frequency of the guest's time-stamp counter.
pub const TSC_HZ: u64 = 1_000_000_000;

/// What makes virtual time pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockKind {
    /// The host's time.
    Host,
    /// One nanosecond for each instruction retired; HLT skips to the next timer. Two runs from the same state see the
    /// same time at the same instruction. For machines of one processor.
    Instructions,
}

impl ClockKind {
    /// By the name that users give: "host" or "instructions".
    ///
    /// # Errors
    /// For any other name.
    pub fn parse(name: &str) -> Result<ClockKind, Error> {
        match name {
            "host" => Ok(ClockKind::Host),
            "instructions" => Ok(ClockKind::Instructions),
            _ => Err(Error::Argument(format!("unknown clock '{name}'; there are host and instructions"))),
        }
    }
}

/// Virtual time.
#[derive(Debug)]
pub(crate) struct Clock {
    kind: ClockKind,
    /// Host: the counter at creation, and nanoseconds per tick as a fraction of 2^32.
    start: u64,
    scale: u64,
    /// Instructions: retired, and skipped by HLT.
    retired: AtomicU64,
    skipped: AtomicU64,
}

/// The host's counter, measured once for each process.
fn host_counter() -> TimeStampCounter {
    static COUNTER: OnceLock<TimeStampCounter> = OnceLock::new();
    *COUNTER.get_or_init(TimeStampCounter::measure)
}

impl Clock {
    pub(crate) fn new(kind: ClockKind) -> Clock {
        let hertz = host_counter().hertz;
        Clock {
            kind,
            start: read_time_stamp_counter(),
            scale: ((u128::from(TSC_HZ) << 32) / u128::from(hertz.max(1))) as u64,
            retired: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
        }
    }

    pub(crate) fn kind(&self) -> ClockKind {
        self.kind
    }

    /// Nanoseconds since creation.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        match self.kind {
            ClockKind::Host => {
                // Two processors' counters may differ by a few ticks: never below zero.
                let ticks = read_time_stamp_counter().saturating_sub(self.start);
                (u128::from(ticks) * u128::from(self.scale) >> 32) as u64
            }
            ClockKind::Instructions => {
                self.retired.load(Ordering::Relaxed).wrapping_add(self.skipped.load(Ordering::Relaxed))
            }
        }
    }

    /// How `now` follows from the host's time-stamp counter: its value at creation, nanoseconds per tick times 2^32.
    pub(crate) fn scale(&self) -> Option<(u64, u64)> {
        (self.kind == ClockKind::Host).then_some((self.start, self.scale))
    }

    /// So many instructions are retired. The host's clock does not care.
    #[inline]
    pub(crate) fn set_retired(&self, instructions: u64) {
        if self.kind == ClockKind::Instructions {
            self.retired.store(instructions, Ordering::Relaxed);
        }
    }

    /// Nothing is to happen until `time`: be there at once. For the clock that counts instructions.
    pub(crate) fn skip_to(&self, time: u64) {
        self.skipped.fetch_add(time.saturating_sub(self.now()), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instruction_clock_moves_by_instructions_and_skips_only() {
        let clock = Clock::new(ClockKind::Instructions);
        assert_eq!(clock.now(), 0);
        clock.set_retired(70);
        assert_eq!(clock.now(), 70);
        clock.skip_to(1000);
        clock.skip_to(500);
        assert_eq!(clock.now(), 1000);
        clock.set_retired(71);
        assert_eq!(clock.now(), 1001);
    }

    #[test]
    fn the_host_clock_does_not_go_back() {
        let clock = Clock::new(ClockKind::Host);
        let times: Vec<u64> = (0..1000).map(|_| clock.now()).collect();
        assert!(times.is_sorted());
    }
}
