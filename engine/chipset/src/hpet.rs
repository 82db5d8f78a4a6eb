//! High precision event timer: three timers on a 64-bit 100 MHz counter (IA-PC HPET specification 1.0a).

use serde::{Deserialize, Serialize};

/// Period of the main counter in femtoseconds, as the capability register tells it.
pub const HPET_PERIOD_FEMTOSECONDS: u64 = 10_000_000;

const NANOSECONDS_PER_TICK: u64 = HPET_PERIOD_FEMTOSECONDS / 1_000_000;

/// Periodic timers faster than 10 µs are served at a multiple of their period.
const SHORTEST_PERIOD: u64 = 10_000 / NANOSECONDS_PER_TICK;

const TIMERS: usize = 3;

/// Revision 1, three timers, 64 bits, legacy replacement, vendor 0x8086.
const CAPABILITIES: u64 =
    HPET_PERIOD_FEMTOSECONDS << 32 | 0x8086 << 16 | 1 << 15 | 1 << 13 | (TIMERS as u64 - 1) << 8 | 1;

const ENABLE: u64 = 1 << 0;
const LEGACY_ROUTE: u64 = 1 << 1;

const LEVEL: u64 = 1 << 1;
const INTERRUPT_ENABLE: u64 = 1 << 2;
const PERIODIC: u64 = 1 << 3;
const SET_VALUE: u64 = 1 << 6;
const MODE_32: u64 = 1 << 8;
const ROUTE: u64 = 0x1f << 9;
const TIMER_WRITABLE: u64 = LEVEL | INTERRUPT_ENABLE | PERIODIC | SET_VALUE | MODE_32 | ROUTE;
/// I/O APIC pins 20-23, periodic capable, 64 bits.
const ROUTES: u64 = 0x00f0_0000;
const TIMER_CAPABILITIES: u64 = ROUTES << 32 | 1 << 5 | 1 << 4;

#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Timer {
    // Volatile state.
    config: u64,
    comparator: u64,
    period: u64,
}

impl Timer {
    fn new() -> Timer {
        Timer { config: 0, comparator: u64::MAX, period: 0 }
    }

    fn width(&self) -> u64 {
        if self.config & MODE_32 != 0 { u64::from(u32::MAX) } else { u64::MAX }
    }

    /// Ticks from counter value `from` (exclusive) to the next match; `None` for a whole turn of 64 bits.
    fn distance(&self, from: u64) -> Option<u64> {
        match self.comparator.wrapping_sub(from) & self.width() {
            0 => self.width().checked_add(1),
            distance => Some(distance),
        }
    }

    /// The counter went from `from` to `to`: true if it matched on the way. A periodic comparator moves on.
    fn pass(&mut self, from: u64, to: u64) -> bool {
        let matched = self.distance(from).is_some_and(|distance| to.wrapping_sub(from) >= distance);
        let period = self.period & self.width();
        if matched && self.config & PERIODIC != 0 && period != 0 {
            let slack = if period < SHORTEST_PERIOD { SHORTEST_PERIOD } else { 0 };
            let late = (to.wrapping_sub(self.comparator) & self.width()).saturating_add(slack);
            let step = (late / period).saturating_add(1).wrapping_mul(period);
            self.comparator = self.comparator.wrapping_add(step) & self.width();
        }
        matched
    }

    fn write_config(&mut self, value: u64, mask: u64) {
        let mut writable = mask & TIMER_WRITABLE;
        let route = ((self.config & !mask) | (value & mask)) >> 9 & 0x1f;
        if ROUTES >> route & 1 == 0 {
            // A route that the timer does not have is not stored, so that software reads the refusal.
            writable &= !ROUTE;
        }
        self.config = (self.config & !writable) | (value & writable);
        self.comparator &= self.width();
        self.period &= self.width();
    }

    /// A periodic timer takes the comparator itself only with VAL_SET, otherwise a new period (2.3.9.2.2).
    fn write_comparator(&mut self, value: u64, mask: u64) {
        let merge = |old: u64, width: u64| ((old & !mask) | (value & mask)) & width;
        let periodic = self.config & PERIODIC != 0;
        if periodic {
            self.period = merge(self.period, self.width());
        }
        if !periodic || self.config & SET_VALUE != 0 {
            self.comparator = merge(self.comparator, self.width());
        }
        self.config &= !SET_VALUE;
    }
}

/// The timer block.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hpet {
    // Volatile state.
    config: u64,
    status: u64,
    timers: [Timer; TIMERS],
    /// Counter value at `since`; it runs from there while enabled.
    base: u64,
    since: u64,
    /// Counter value up to which the comparators were looked at.
    compared: u64,
    pulses: u32,
}

impl Default for Hpet {
    fn default() -> Hpet {
        Hpet::new()
    }
}

impl Hpet {
    /// Halted, counter zero.
    pub fn new() -> Hpet {
        Hpet {
            config: 0,
            status: 0,
            timers: [Timer::new(), Timer::new(), Timer::new()],
            base: 0,
            since: 0,
            compared: 0,
            pulses: 0,
        }
    }

    fn counter(&self, now: u64) -> u64 {
        if self.config & ENABLE == 0 {
            return self.base;
        }
        self.base.wrapping_add(now.saturating_sub(self.since) / NANOSECONDS_PER_TICK)
    }

    /// True while timers 0 and 1 replace the PIT and the RTC.
    pub fn replaces_legacy(&self) -> bool {
        self.config & LEGACY_ROUTE != 0
    }

    /// Read `size` bytes at `offset` of the register block.
    pub fn read(&mut self, now: u64, offset: u64, size: u8) -> u64 {
        self.advance(now);
        let value = self.read_register(now, offset & !7) >> ((offset & 7) * 8);
        match size {
            1 => value & 0xff,
            2 => value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        }
    }

    fn read_register(&self, now: u64, offset: u64) -> u64 {
        match offset {
            0x000 => CAPABILITIES,
            0x010 => self.config,
            0x020 => self.status,
            0x0f0 => self.counter(now),
            _ => match (self.timers.get(timer_index(offset)), offset & 0x18) {
                (Some(timer), 0x00) => timer.config | TIMER_CAPABILITIES,
                (Some(timer), 0x08) => timer.comparator,
                _ => 0,
            },
        }
    }

    /// Write 4 or 8 aligned bytes at `offset`; other accesses are undefined and ignored.
    pub fn write(&mut self, now: u64, offset: u64, size: u8, value: u64) {
        self.advance(now);
        let (value, mask) = match (size, offset & 7) {
            (8, 0) => (value, u64::MAX),
            (4, 0) => (value & 0xffff_ffff, 0xffff_ffff),
            (4, 4) => (value << 32, 0xffff_ffff << 32),
            _ => return,
        };
        match offset & !7 {
            0x010 => self.write_config(now, value, mask),
            0x020 => self.status &= !(value & mask),
            0x0f0 => self.write_counter(now, value, mask),
            register => match (self.timers.get_mut(timer_index(register)), register & 0x18) {
                (Some(timer), 0x00) => timer.write_config(value, mask),
                (Some(timer), 0x08) => timer.write_comparator(value, mask),
                _ => {}
            },
        }
    }

    fn write_config(&mut self, now: u64, value: u64, mask: u64) {
        self.base = self.counter(now);
        self.since = now;
        let mask = mask & (ENABLE | LEGACY_ROUTE);
        self.config = (self.config & !mask) | (value & mask);
    }

    fn write_counter(&mut self, now: u64, value: u64, mask: u64) {
        self.base = (self.counter(now) & !mask) | (value & mask);
        self.since = now;
        self.compared = self.base;
    }

    /// Let time pass. However many periods were missed, each timer gives one interrupt.
    pub fn advance(&mut self, now: u64) {
        let (from, to) = (self.compared, self.counter(now));
        self.compared = to;
        for index in 0..TIMERS {
            let Some(timer) = self.timers.get_mut(index) else { return };
            if !timer.pass(from, to) {
                continue;
            }
            let config = timer.config;
            if config & LEVEL != 0 {
                self.status |= 1 << index;
            } else if config & INTERRUPT_ENABLE != 0 {
                self.pulses |= self.pin(index, config);
            }
        }
    }

    /// The I/O APIC pin of a timer, as a mask.
    fn pin(&self, index: usize, config: u64) -> u32 {
        match (self.replaces_legacy(), index) {
            (true, 0) => 1 << 2,
            (true, 1) => 1 << 8,
            _ => 1 << (config >> 9 & 0x1f),
        }
    }

    /// Pins on which an edge is due since the last call, as a mask.
    pub fn take_pulses(&mut self) -> u32 {
        std::mem::take(&mut self.pulses)
    }

    /// Pins that level-triggered timers assert, as a mask.
    pub fn asserted(&self) -> u32 {
        let needed = LEVEL | INTERRUPT_ENABLE;
        let active = |&(index, timer): &(usize, &Timer)| {
            self.config & ENABLE != 0 && self.status >> index & 1 != 0 && timer.config & needed == needed
        };
        let timers = self.timers.iter().enumerate();
        timers.filter(active).fold(0, |pins, (index, timer)| pins | self.pin(index, timer.config))
    }

    /// When the next timer that may interrupt matches.
    pub fn next_deadline(&self) -> Option<u64> {
        if self.config & ENABLE == 0 {
            return None;
        }
        let audible = self.timers.iter().filter(|timer| timer.config & INTERRUPT_ENABLE != 0);
        let distance = audible.filter_map(|timer| timer.distance(self.compared)).min()?;
        let ticks = self.compared.wrapping_sub(self.base).checked_add(distance)?;
        self.since.checked_add(ticks.checked_mul(NANOSECONDS_PER_TICK)?)
    }
}

fn timer_index(offset: u64) -> usize {
    (offset.wrapping_sub(0x100) / 0x20) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROSECOND: u64 = 1000;

    fn started() -> Hpet {
        let mut hpet = Hpet::new();
        hpet.write(0, 0x10, 4, ENABLE);
        hpet
    }

    #[test]
    fn capabilities_tell_period_and_three_timers() {
        let mut hpet = Hpet::new();
        assert_eq!(hpet.read(0, 0x004, 4), HPET_PERIOD_FEMTOSECONDS);
        assert_eq!(hpet.read(0, 0x000, 4), 0x8086_a201);
        assert_eq!(hpet.read(0, 0x104, 4), 0x00f0_0000);
    }

    #[test]
    fn counter_runs_only_while_enabled() {
        let mut hpet = started();
        assert_eq!(hpet.read(MICROSECOND, 0xf0, 8), 100);
        hpet.write(MICROSECOND, 0x10, 4, 0);
        assert_eq!(hpet.read(9 * MICROSECOND, 0xf0, 8), 100);
        hpet.write(9 * MICROSECOND, 0xf0, 8, 0x1_0000_0000);
        hpet.write(9 * MICROSECOND, 0x10, 4, ENABLE);
        assert_eq!(hpet.read(10 * MICROSECOND, 0xf4, 4), 1);
        assert_eq!(hpet.read(10 * MICROSECOND, 0xf0, 4), 100);
    }

    #[test]
    fn one_shot_pulses_its_pin_at_the_match() {
        let mut hpet = started();
        hpet.write(0, 0x100, 4, 21 << 9 | INTERRUPT_ENABLE);
        hpet.write(0, 0x108, 8, 1000);
        assert_eq!(hpet.next_deadline(), Some(10 * MICROSECOND));
        hpet.advance(10 * MICROSECOND - 1);
        assert_eq!(hpet.take_pulses(), 0);
        hpet.advance(10 * MICROSECOND);
        assert_eq!(hpet.take_pulses(), 1 << 21);
        assert_eq!(hpet.next_deadline(), None);
    }

    /// Linux hpet_clkevt_set_state_periodic: VAL_SET, comparator, then period.
    #[test]
    fn linux_periodic_setup_fires_once_for_missed_periods_and_keeps_phase() {
        let mut hpet = started();
        hpet.write(0, 0x10, 4, ENABLE | LEGACY_ROUTE);
        hpet.write(0, 0x100, 4, INTERRUPT_ENABLE | PERIODIC | SET_VALUE | MODE_32);
        hpet.write(0, 0x108, 4, 5000);
        hpet.write(0, 0x108, 4, 2000);
        assert_eq!(hpet.next_deadline(), Some(50 * MICROSECOND));
        hpet.advance(50 * MICROSECOND);
        assert_eq!(hpet.take_pulses(), 1 << 2);
        assert_eq!(hpet.next_deadline(), Some(70 * MICROSECOND));
        hpet.advance(1001 * MICROSECOND);
        assert_eq!(hpet.take_pulses(), 1 << 2);
        assert_eq!(hpet.next_deadline(), Some(1010 * MICROSECOND));
    }

    #[test]
    fn level_timer_holds_its_line_until_status_is_cleared() {
        let mut hpet = started();
        hpet.write(0, 0x140, 4, 20 << 9 | INTERRUPT_ENABLE | LEVEL);
        hpet.write(0, 0x148, 8, 10);
        hpet.advance(MICROSECOND);
        assert_eq!((hpet.asserted(), hpet.take_pulses()), (1 << 20, 0));
        assert_eq!(hpet.read(MICROSECOND, 0x20, 8), 1 << 2);
        hpet.write(MICROSECOND, 0x20, 4, 1 << 2);
        assert_eq!(hpet.asserted(), 0);
    }

    #[test]
    fn route_that_is_not_wired_reads_back_unchanged() {
        let mut hpet = Hpet::new();
        hpet.write(0, 0x100, 4, 5 << 9);
        assert_eq!(hpet.read(0, 0x100, 4) & ROUTE, 0);
        hpet.write(0, 0x100, 4, 23 << 9);
        assert_eq!(hpet.read(0, 0x100, 4) & ROUTE, 23 << 9);
    }

    #[test]
    fn comparator_of_32_bits_wraps() {
        let mut hpet = Hpet::new();
        hpet.write(0, 0xf0, 8, 0xffff_fff0);
        hpet.write(0, 0x10, 4, ENABLE);
        hpet.write(0, 0x100, 4, 20 << 9 | INTERRUPT_ENABLE | MODE_32);
        hpet.write(0, 0x108, 4, 0x10);
        assert_eq!(hpet.next_deadline(), Some(0x20 * 10));
    }

    #[test]
    fn interrupt_disabled_timer_has_no_deadline() {
        let mut hpet = started();
        hpet.write(0, 0x108, 8, 1000);
        assert_eq!(hpet.next_deadline(), None);
    }
}
