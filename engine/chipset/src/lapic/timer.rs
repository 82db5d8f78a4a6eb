//! The local APIC's timer (SDM vol. 3, 11.5.4) in virtual nanoseconds.

use crate::time::next_boundary;
use serde::{Deserialize, Serialize};

/// Frequency of the APIC timer before its divider: one tick a nanosecond.
pub const APIC_TIMER_HZ: u64 = 1_000_000_000;

/// Periodic timers faster than 10 µs are served at a multiple of their period.
const SHORTEST_PERIOD: u64 = 10_000;

const NEVER: u64 = u64::MAX;

/// Bits 17-18 of the timer's LVT entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Mode {
    OneShot,
    Periodic,
    Deadline,
    Reserved,
}

impl Mode {
    pub(super) fn of(entry: u32) -> Mode {
        match (entry >> 17) & 3 {
            0 => Mode::OneShot,
            1 => Mode::Periodic,
            2 => Mode::Deadline,
            _ => Mode::Reserved,
        }
    }
}

/// The timer's three registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registers {
    pub(super) initial: u32,
    pub(super) divide: u32,
    pub(super) current: u32,
}

#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(super) struct Timer {
    // Volatile state.
    initial: u32,
    divide: u32,
    /// When the count reaches zero next.
    deadline: u64,
    /// IA32_TSC_DEADLINE, 0 when disarmed.
    tsc_deadline: u64,
}

impl Timer {
    pub(super) fn new() -> Timer {
        Timer { initial: 0, divide: 0, deadline: NEVER, tsc_deadline: 0 }
    }

    /// log2 of the divisor: bits 0, 1 and 3 of the divide configuration, 0b111 meaning 1.
    fn shift(&self) -> u32 {
        (((self.divide & 3) | (self.divide >> 1 & 4)) + 1) & 7
    }

    fn period(&self) -> u64 {
        u64::from(self.initial) << self.shift()
    }

    pub(super) fn initial(&self) -> u32 {
        self.initial
    }

    pub(super) fn divide(&self) -> u32 {
        self.divide
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        (self.deadline != NEVER).then_some(self.deadline)
    }

    /// In TSC-deadline mode the initial count is ignored (11.5.4.1).
    pub(super) fn set_initial(&mut self, now: u64, mode: Mode, value: u32) {
        if mode == Mode::Deadline {
            return;
        }
        self.initial = value;
        self.deadline = if value == 0 { NEVER } else { now.saturating_add(self.period()) };
    }

    /// Change the divisor; a running count goes on from where it is.
    pub(super) fn set_divide(&mut self, now: u64, mode: Mode, value: u32) {
        let remaining = u64::from(self.current(now, mode));
        self.divide = value & 0x0b;
        if mode != Mode::Deadline && self.deadline != NEVER {
            self.deadline = now.saturating_add(remaining << self.shift());
        }
    }

    /// Entering or leaving TSC-deadline mode disarms the timer.
    pub(super) fn change_mode(&mut self, from: Mode, to: Mode) {
        if from != to && (from == Mode::Deadline || to == Mode::Deadline) {
            self.deadline = NEVER;
            self.tsc_deadline = 0;
        }
    }

    /// The caller has run [`Timer::expire`] to `now`.
    pub(super) fn current(&self, now: u64, mode: Mode) -> u32 {
        if mode == Mode::Deadline || self.deadline == NEVER {
            return 0;
        }
        let unit = 1u64 << self.shift();
        let remaining = self.deadline.saturating_sub(now).div_ceil(unit);
        // A short period is served at a multiple, the count still runs at its own.
        let initial = u64::from(self.initial).max(1);
        (remaining.saturating_sub(1) % initial + u64::from(remaining != 0)) as u32
    }

    pub(super) fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline
    }

    /// Write IA32_TSC_DEADLINE; `deadline` is the same instant in virtual time.
    pub(super) fn set_tsc_deadline(&mut self, mode: Mode, tsc: u64, deadline: u64) {
        if mode != Mode::Deadline {
            return;
        }
        self.tsc_deadline = tsc;
        self.deadline = if tsc == 0 { NEVER } else { deadline };
    }

    /// Count down from `current` at `now`, or to `deadline`, which is `tsc` in guest time.
    pub(super) fn set_state(
        &mut self,
        now: u64,
        mode: Mode,
        registers: Registers,
        (tsc, deadline): (u64, u64),
    ) {
        let Registers { initial, divide, current } = registers;
        *self = Timer { initial, divide: divide & 0x0b, ..Timer::new() };
        if mode == Mode::Deadline {
            self.set_tsc_deadline(mode, tsc, deadline);
        } else if current != 0 {
            self.deadline = now.saturating_add(u64::from(current) << self.shift());
        }
    }

    /// Let time pass; true if the count reached zero, however often.
    pub(super) fn expire(&mut self, now: u64, mode: Mode) -> bool {
        if now < self.deadline || self.deadline == NEVER {
            return false;
        }
        let period = self.period();
        self.deadline = match mode {
            Mode::Periodic if period != 0 => {
                let slack = if period < SHORTEST_PERIOD { SHORTEST_PERIOD } else { 0 };
                next_boundary(self.deadline, period, now.saturating_add(slack))
            }
            Mode::Periodic | Mode::OneShot | Mode::Deadline | Mode::Reserved => NEVER,
        };
        self.tsc_deadline = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divide_configuration_encodes_1_to_128() {
        let mut timer = Timer::new();
        let factors = [(0b1011, 1), (0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128)];
        for (encoding, factor) in factors {
            timer.divide = encoding;
            assert_eq!(1 << timer.shift(), factor);
        }
    }

    #[test]
    fn current_count_runs_down_by_the_divisor() {
        let mut timer = Timer::new();
        timer.set_divide(0, Mode::OneShot, 3);
        timer.set_initial(0, Mode::OneShot, 1000);
        assert_eq!(timer.current(0, Mode::OneShot), 1000);
        assert_eq!(timer.current(1600, Mode::OneShot), 900);
        assert!(timer.expire(16_000, Mode::OneShot));
        assert_eq!(timer.current(16_000, Mode::OneShot), 0);
        assert!(!timer.expire(99_000, Mode::OneShot));
    }

    #[test]
    fn late_periodic_timer_expires_once_and_keeps_phase() {
        let mut timer = Timer::new();
        timer.set_divide(0, Mode::Periodic, 0x0b);
        timer.set_initial(0, Mode::Periodic, 1_000_000);
        assert!(timer.expire(10_500_000, Mode::Periodic));
        assert!(!timer.expire(10_500_000, Mode::Periodic));
        assert_eq!(timer.deadline(), Some(11_000_000));
        assert_eq!(timer.current(10_500_000, Mode::Periodic), 500_000);
    }

    #[test]
    fn shortest_period_does_not_report_a_deadline_each_tick() {
        let mut timer = Timer::new();
        timer.set_initial(0, Mode::Periodic, 1);
        assert!(timer.expire(2, Mode::Periodic));
        assert!(timer.deadline().unwrap() > SHORTEST_PERIOD);
        assert_eq!(timer.current(100, Mode::Periodic), 1);
    }
}
