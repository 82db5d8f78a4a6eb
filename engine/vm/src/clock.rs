//! The one virtual clock. It counts nanoseconds since the machine was created, and the processors' time-stamp counter
//! before the guest's offset counts the same time, in nanoseconds or, on a machine that the host's processor may run, in
//! the host's ticks: the two can never drift apart.

use crate::error::Error;
use gasang_exec::host_time::{TimeStampCounter, read_time_stamp_counter};
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Nanoseconds in a second: the frequency of virtual time, and of the guest's time-stamp counter unless it is the host's.
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
    /// Host: the counter when virtual time was 0, modulo 2^64, and nanoseconds per tick as a fraction of 2^32.
    start: AtomicU64,
    scale: u64,
    /// Host: the counter since which time stands still, or `RUNS`.
    held: AtomicU64,
    /// Frequency of the guest's time-stamp counter.
    tsc_hz: u64,
    /// Instructions: retired, and skipped by HLT.
    retired: AtomicU64,
    skipped: AtomicU64,
}

/// Two measurements of one host's frequency differ by less than one part in so many.
const TOLERANCE: u64 = 500;

/// Of `Clock::held`.
const RUNS: u64 = u64::MAX;

/// What a clock shows, for one that goes on from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClockState {
    /// The guest's time-stamp counter before its offset.
    counter: u64,
    tsc_hz: u64,
    retired: u64,
    skipped: u64,
}

/// Begin to measure how fast the host's counter counts: a machine that is made later need not wait for that.
pub fn begin_to_measure() {
    TimeStampCounter::begin();
}

/// The host's counter, measured once for each process.
fn host_counter() -> TimeStampCounter {
    static COUNTER: OnceLock<TimeStampCounter> = OnceLock::new();
    *COUNTER.get_or_init(TimeStampCounter::measure)
}

impl Clock {
    pub(crate) fn new(kind: ClockKind) -> Clock {
        let hertz = host_counter().hertz.max(1);
        Clock {
            kind,
            start: AtomicU64::new(read_time_stamp_counter()),
            held: AtomicU64::new(RUNS),
            scale: ((u128::from(TSC_HZ) << 32) / u128::from(hertz)) as u64,
            tsc_hz: TSC_HZ,
            retired: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
        }
    }

    /// A clock of the host's time, with a time-stamp counter that counts the host's ticks.
    pub(crate) fn with_counter_of_host() -> Clock {
        Clock { tsc_hz: host_counter().hertz.max(1), ..Clock::new(ClockKind::Host) }
    }

    pub(crate) fn kind(&self) -> ClockKind {
        self.kind
    }

    /// Nanoseconds since creation.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        match self.kind {
            ClockKind::Host => (u128::from(self.ticks()) * u128::from(self.scale) >> 32) as u64,
            ClockKind::Instructions => {
                self.retired.load(Ordering::Relaxed).wrapping_add(self.skipped.load(Ordering::Relaxed))
            }
        }
    }

    /// The guest's time-stamp counter before the guest's offset.
    #[inline]
    pub(crate) fn counter(&self) -> u64 {
        if self.tsc_hz == TSC_HZ { self.now() } else { self.ticks() }
    }

    /// Ticks of the host's counter since virtual time 0, but for those while time stood still.
    #[inline]
    fn ticks(&self) -> u64 {
        let held = self.held.load(Ordering::Relaxed);
        let counter = if held == RUNS { read_time_stamp_counter() } else { held };
        // Two processors' counters may differ by a few ticks: never below zero.
        (counter.wrapping_sub(self.start.load(Ordering::Relaxed)) as i64).max(0) as u64
    }

    /// Let time stand still: for a clock of the host's, while no processor is inside the guest.
    pub(crate) fn hold(&self) {
        let _ =
            self.held.compare_exchange(RUNS, read_time_stamp_counter(), Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Let time go on.
    pub(crate) fn release(&self) {
        let held = self.held.swap(RUNS, Ordering::SeqCst);
        if held != RUNS {
            let stood = read_time_stamp_counter().wrapping_sub(held);
            self.start.fetch_add(stood, Ordering::SeqCst);
        }
    }

    /// Whether time stands still.
    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst) != RUNS
    }

    /// What it shows.
    pub(crate) fn state(&self) -> ClockState {
        ClockState {
            counter: if self.kind == ClockKind::Host { self.counter() } else { 0 },
            tsc_hz: self.tsc_hz,
            retired: self.retired.load(Ordering::Relaxed),
            skipped: self.skipped.load(Ordering::Relaxed),
        }
    }

    /// Show that, and stand still.
    ///
    /// # Errors
    /// If the guest's counter ran at another frequency.
    pub(crate) fn set_state(&self, state: &ClockState) -> Result<(), Error> {
        if self.tsc_hz.abs_diff(state.tsc_hz) > self.tsc_hz / TOLERANCE {
            return Err(Error::State(format!(
                "the guest's time-stamp counter has {} Hz, and would have {} here",
                state.tsc_hz, self.tsc_hz
            )));
        }
        self.retired.store(state.retired, Ordering::Relaxed);
        self.skipped.store(state.skipped, Ordering::Relaxed);
        let ticks = if self.tsc_hz == TSC_HZ {
            (u128::from(state.counter) << 32).div_ceil(u128::from(self.scale)) as u64
        } else {
            state.counter
        };
        let now = read_time_stamp_counter();
        self.held.store(now, Ordering::SeqCst);
        self.start.store(now.wrapping_sub(ticks), Ordering::SeqCst);
        Ok(())
    }

    /// Frequency of the guest's time-stamp counter.
    pub(crate) fn tsc_hz(&self) -> u64 {
        self.tsc_hz
    }

    /// The host's counter when the guest's, before its offset, was 0, modulo 2^64.
    pub(crate) fn start(&self) -> u64 {
        self.start.load(Ordering::Relaxed)
    }

    /// How the guest's counter follows from the host's: the host's at 0, modulo 2^64, and ticks per tick times 2^32.
    pub(crate) fn scale(&self) -> Option<(u64, u64)> {
        let scale = if self.tsc_hz == TSC_HZ { self.scale } else { 1 << 32 };
        (self.kind == ClockKind::Host).then_some((self.start(), scale))
    }

    /// Nanoseconds since creation at a value of the guest's counter before its offset.
    pub(crate) fn time_at(&self, counter: u64) -> u64 {
        if self.tsc_hz == TSC_HZ {
            return counter;
        }
        u64::try_from(u128::from(counter) * u128::from(self.scale) >> 32).unwrap_or(u64::MAX)
    }

    /// The same as guests of KVM's clock are told: ticks are shifted left by the second, multiplied with the first, and
    /// shifted right by 32.
    pub(crate) fn multiplier_and_shift(&self) -> (u32, u8) {
        let nanoseconds = if self.tsc_hz == TSC_HZ { 1 << 32 } else { self.scale };
        // Counters of less than 1 GHz need a larger factor than 32 bits have.
        let shift = (nanoseconds >> 32).checked_ilog2().map_or(0, |bits| bits + 1);
        ((nanoseconds >> shift) as u32, shift as u8)
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
    fn time_follows_from_either_counter() {
        assert_eq!(Clock::new(ClockKind::Host).multiplier_and_shift(), (1 << 31, 1));
        assert_eq!(Clock::new(ClockKind::Host).time_at(1234), 1234);
        let clock = Clock::with_counter_of_host();
        let (before, counter, after) = (clock.now(), clock.counter(), clock.now());
        assert!((before..=after).contains(&clock.time_at(counter)));
        let (multiplier, shift) = clock.multiplier_and_shift();
        let told = (u128::from(counter) << shift) * u128::from(multiplier) >> 32;
        assert!((before.saturating_sub(1000)..=after).contains(&(told as u64)));
    }

    #[test]
    fn time_stands_still_and_goes_on_from_there() {
        for clock in [Clock::new(ClockKind::Host), Clock::with_counter_of_host()] {
            clock.hold();
            let (now, counter) = (clock.now(), clock.counter());
            clock.hold();
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert_eq!((clock.now(), clock.counter()), (now, counter));
            let state = clock.state();
            clock.release();
            assert!(clock.now() >= now);
            clock.set_state(&state).unwrap();
            assert!(
                clock.is_held() && clock.now().abs_diff(now) < 2 && clock.counter().abs_diff(counter) < 2
            );
            let years = 1 << 60;
            clock.set_state(&ClockState { counter: years, ..state }).unwrap();
            clock.release();
            assert!(clock.counter() >= years, "more than the host has ticked");
            assert!(clock.set_state(&ClockState { tsc_hz: 1, ..state }).is_err());
        }
    }

    #[test]
    fn the_host_clock_does_not_go_back() {
        let clock = Clock::new(ClockKind::Host);
        let times: Vec<u64> = (0..1000).map(|_| clock.now()).collect();
        assert!(times.is_sorted());
    }
}
