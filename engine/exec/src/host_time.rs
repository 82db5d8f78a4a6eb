//! The host processor's time-stamp counter: reading it, and how fast it counts.

use std::arch::x86_64::{__cpuid, _rdtsc};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What measuring takes at least.
const MEASUREMENT: Duration = Duration::from_millis(4);
/// A measurement that began before that begins anew: the host may have slept since, and one of its clocks not.
const TOO_OLD: Duration = Duration::from_secs(10);

/// The counter's frequency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeStampCounter {
    /// Ticks a second, within some 20 parts in a million.
    pub hertz: u64,
}

/// Read the counter.
#[inline]
pub fn read_time_stamp_counter() -> u64 {
    // SAFETY: RDTSC is part of every x86-64 processor, and Linux leaves it to programs.
    unsafe { _rdtsc() }
}

/// Whether the counter runs at one rate, whatever the processor's clock and sleep (CPUID 0x80000007, EDX bit 8).
pub fn is_invariant() -> bool {
    __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx >> 8 & 1 != 0
}

/// An instant on both clocks: the closest of a few readings, which an interruption in between cannot spoil.
fn paired_reading() -> (Instant, u64) {
    let readings = (0..8).map(|_| {
        let before = read_time_stamp_counter();
        let instant = Instant::now();
        let after = read_time_stamp_counter();
        (after.wrapping_sub(before), instant, before.wrapping_add(after.wrapping_sub(before) / 2))
    });
    let best = readings.min_by_key(|&(width, ..)| width);
    best.map_or_else(
        || (Instant::now(), read_time_stamp_counter()),
        |(_, instant, counter)| (instant, counter),
    )
}

impl TimeStampCounter {
    /// Begin to measure, so that `measure` need not wait; what was begun goes on.
    pub fn begin() -> (Instant, u64) {
        static BEGUN: OnceLock<(Instant, u64)> = OnceLock::new();
        *BEGUN.get_or_init(paired_reading)
    }

    /// Measure the frequency against the host's monotonic clock.
    pub fn measure() -> TimeStampCounter {
        let (mut start, mut first) = TimeStampCounter::begin();
        if start.elapsed() > TOO_OLD {
            (start, first) = paired_reading();
        }
        while start.elapsed() < MEASUREMENT {
            std::hint::spin_loop();
        }
        let (end, last) = paired_reading();
        let nanoseconds = end.duration_since(start).as_nanos().max(1);
        let hertz = u128::from(last.wrapping_sub(first)) * 1_000_000_000 / nanoseconds;
        TimeStampCounter { hertz: hertz as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let (one, two) = (TimeStampCounter::measure().hertz, TimeStampCounter::measure().hertz);
        assert!(one.abs_diff(two) < one / 1000, "{one} and {two}");
    }
}
