//! 8254 programmable interval timer and the PC's system control port (0x61) around its channel 2.
//!
//! Source: Intel 8254 data sheet; port 0x61: 82371SB (PIIX3) data sheet, "NMI status and control register".

use crate::pit_channel::Channel;
pub use crate::pit_channel::ChannelState;
use crate::time::{nanoseconds, ticks};
use serde::{Deserialize, Serialize};

/// Input clock of the three counters.
pub const PIT_HZ: u64 = 1_193_182;

/// Half a period of the refresh request, whose toggling port 0x61 bit 4 shows.
const REFRESH_NANOSECONDS: u64 = 15_085;

const GATE_2: u8 = 1 << 0;
const REFRESH: u8 = 1 << 4;
const OUT_2: u8 = 1 << 5;

/// The timer: channel 0 drives IRQ 0, channel 2 the speaker; channel 1 (refresh) counts for nobody.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pit {
    // Volatile state.
    channels: [Channel; 3],
    /// Bits 0-3 of port 0x61.
    control: u8,
    rose: bool,
}

impl Default for Pit {
    fn default() -> Pit {
        Pit::new()
    }
}

impl Pit {
    /// No channel counts until it is programmed; the gate of channel 2 is closed.
    pub fn new() -> Pit {
        Pit {
            channels: [Channel::new(true), Channel::new(true), Channel::new(false)],
            control: 0,
            rose: false,
        }
    }

    /// What its counters have, and bits 0-3 of port 0x61.
    pub fn state(&self, now: u64) -> ([ChannelState; 3], u8) {
        let tick = ticks(now, PIT_HZ);
        (self.channels.each_ref().map(|channel| channel.state(tick)), self.control)
    }

    /// Have this.
    pub fn set_state(&mut self, now: u64, channels: &[ChannelState; 3], control: u8) {
        let tick = ticks(now, PIT_HZ);
        self.channels.iter_mut().zip(channels).for_each(|(channel, state)| channel.set_state(tick, state));
        self.control = control & 0x0f;
        self.rose = false;
    }

    /// Read a counter, or what was latched of it; `offset` 3, the control word, cannot be read.
    pub fn read(&mut self, now: u64, offset: u16) -> u8 {
        self.advance(now);
        match self.channels.get_mut(usize::from(offset)) {
            Some(channel) => channel.read(ticks(now, PIT_HZ)),
            None => 0xff,
        }
    }

    /// Write a counter (0-2) or the control word (3).
    pub fn write(&mut self, now: u64, offset: u16, value: u8) {
        self.advance(now);
        let tick = ticks(now, PIT_HZ);
        match self.channels.get_mut(usize::from(offset)) {
            Some(channel) => channel.write(tick, value),
            None => self.write_control(tick, value),
        }
    }

    fn write_control(&mut self, tick: u64, value: u8) {
        match self.channels.get_mut(usize::from(value >> 6)) {
            Some(channel) if value & 0x30 == 0 => channel.latch_count(tick),
            Some(channel) => channel.write_control(value),
            None => self.read_back(tick, value),
        }
    }

    /// The read-back command: bits 5 and 4 are active low.
    fn read_back(&mut self, tick: u64, value: u8) {
        for (index, channel) in self.channels.iter_mut().enumerate() {
            if value & (2 << index) == 0 {
                continue;
            }
            if value & 0x20 == 0 {
                channel.latch_count(tick);
            }
            if value & 0x10 == 0 {
                channel.latch_status(tick);
            }
        }
    }

    /// Port 0x61.
    pub fn read_system_control(&mut self, now: u64) -> u8 {
        self.advance(now);
        let [_, _, speaker] = &self.channels;
        let refresh = if (now / REFRESH_NANOSECONDS) & 1 != 0 { REFRESH } else { 0 };
        let output = if speaker.output(ticks(now, PIT_HZ)) { OUT_2 } else { 0 };
        self.control | refresh | output
    }

    /// Port 0x61: bit 0 is the gate of channel 2, bit 1 the speaker; 2 and 3 only read back.
    pub fn write_system_control(&mut self, now: u64, value: u8) {
        self.advance(now);
        self.control = value & 0x0f;
        let [_, _, speaker] = &mut self.channels;
        speaker.set_gate(ticks(now, PIT_HZ), value & GATE_2 != 0);
    }

    /// Let time pass. However many periods were missed, [`Pit::take_edge`] reports one edge.
    pub fn advance(&mut self, now: u64) {
        let tick = ticks(now, PIT_HZ);
        for (index, channel) in self.channels.iter_mut().enumerate() {
            let rose = channel.advance(tick);
            self.rose |= rose && index == 0;
        }
    }

    /// Whether the output of channel 0 has risen since the last call.
    pub fn take_edge(&mut self) -> bool {
        std::mem::take(&mut self.rose)
    }

    /// The output of channel 0.
    pub fn output(&self, now: u64) -> bool {
        let [timer, _, _] = &self.channels;
        timer.output(ticks(now, PIT_HZ))
    }

    /// When the output of channel 0 rises next.
    pub fn next_deadline(&self) -> Option<u64> {
        let [timer, _, _] = &self.channels;
        timer.next_edge().map(|tick| nanoseconds(tick, PIT_HZ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    /// Control word and 16-bit count.
    fn program(pit: &mut Pit, now: u64, control: u8, count: u16) {
        let offset = u16::from(control >> 6);
        pit.write(now, 3, control);
        pit.write(now, offset, count as u8);
        pit.write(now, offset, (count >> 8) as u8);
    }

    fn latched(pit: &mut Pit, now: u64, channel: u8) -> u16 {
        pit.write(now, 3, channel << 6);
        let low = pit.read(now, u16::from(channel));
        u16::from_le_bytes([low, pit.read(now, u16::from(channel))])
    }

    #[test]
    fn rate_generator_ticks_at_its_period() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 0x34, 11932);
        let mut now = 0;
        for _ in 0..100 {
            now = pit.next_deadline().unwrap();
            pit.advance(now);
            assert!(pit.take_edge());
        }
        let seconds = now as f64 / 1e9;
        assert!((seconds - 100.0 * 11932.0 / PIT_HZ as f64).abs() < 2e-6);
    }

    #[test]
    fn late_rate_generator_gives_one_edge_and_keeps_phase() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 0x34, 1193);
        let phase = |deadline: u64| (ticks(deadline, PIT_HZ) - 1) % 1193;
        pit.advance(777 * MILLISECOND);
        assert!(pit.take_edge());
        pit.advance(777 * MILLISECOND);
        assert!(!pit.take_edge());
        let next = pit.next_deadline().unwrap();
        assert!(next > 777 * MILLISECOND && next < 779 * MILLISECOND);
        assert_eq!(phase(next), 0);
    }

    #[test]
    fn one_shot_rises_once_after_its_count() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 0x30, 1193);
        assert!(!pit.output(0));
        let deadline = pit.next_deadline().unwrap();
        assert_eq!(ticks(deadline, PIT_HZ), 1194);
        pit.advance(deadline - 1);
        assert!(!pit.take_edge());
        pit.advance(deadline);
        assert!(pit.take_edge() && pit.output(deadline));
        assert_eq!(pit.next_deadline(), None);
    }

    #[test]
    fn square_wave_is_high_for_the_first_half() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 0x36, 1000);
        let at = |tick: u64| nanoseconds(tick + 1, PIT_HZ);
        assert!(pit.output(at(499)));
        assert!(!pit.output(at(500)));
        assert!(pit.output(at(1000)));
        assert_eq!(latched(&mut pit, at(100), 0), 800);
        assert_eq!(latched(&mut pit, at(600), 0), 800);
    }

    #[test]
    fn new_count_of_a_rate_generator_waits_for_the_period() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 0x34, 1000);
        let first = pit.next_deadline().unwrap();
        pit.write(100, 0, 0xd0);
        pit.write(100, 0, 0x07);
        assert_eq!(pit.next_deadline(), Some(first));
        pit.advance(first);
        assert!(pit.take_edge());
        assert_eq!(ticks(pit.next_deadline().unwrap(), PIT_HZ), 1 + 1000 + 2000);
    }

    #[test]
    fn strobe_is_low_for_one_tick_at_zero() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 0x38, 100);
        let at = |tick: u64| nanoseconds(tick + 1, PIT_HZ);
        assert!(pit.output(at(99)) && !pit.output(at(100)) && pit.output(at(101)));
        assert_eq!(pit.next_deadline(), Some(at(101)));
    }

    #[test]
    fn hardware_triggered_one_shot_waits_for_its_gate() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 0xb2, 1000);
        assert_ne!(pit.read_system_control(10 * MILLISECOND) & OUT_2, 0);
        pit.write_system_control(10 * MILLISECOND, GATE_2);
        assert_eq!(pit.read_system_control(10 * MILLISECOND + 2000) & OUT_2, 0);
        assert_ne!(pit.read_system_control(12 * MILLISECOND) & OUT_2, 0);
    }

    #[test]
    fn gate_pauses_mode_0() {
        let mut pit = Pit::new();
        pit.write_system_control(0, GATE_2);
        program(&mut pit, 0, 0xb0, 11932);
        pit.write_system_control(5 * MILLISECOND, 0);
        let count = latched(&mut pit, 5 * MILLISECOND, 2);
        assert_eq!(latched(&mut pit, 500 * MILLISECOND, 2), count);
        pit.write_system_control(500 * MILLISECOND, GATE_2);
        assert_eq!(pit.read_system_control(504 * MILLISECOND) & OUT_2, 0);
        assert_ne!(pit.read_system_control(506 * MILLISECOND) & OUT_2, 0);
    }

    /// Linux quick_pit_calibrate: the high byte is watched while the counter runs down from 0xffff.
    #[test]
    fn linux_quick_calibration_sees_every_high_byte() {
        let mut pit = Pit::new();
        let mut now = 0;
        let control = pit.read_system_control(now);
        pit.write_system_control(now, (control & !2) | 1);
        program(&mut pit, now, 0xb0, 0xffff);
        let mut changes = Vec::new();
        let mut expected = 0xff;
        while changes.len() < 20 {
            now += 1000;
            pit.read(now, 2);
            now += 1000;
            let high = pit.read(now, 2);
            if high != expected {
                assert_eq!(high, expected - 1);
                expected = high;
                changes.push(now);
            }
        }
        let measured = (changes[19] - changes[0]) as f64 / 19.0;
        assert!((measured - 256.0 * 1e9 / PIT_HZ as f64).abs() < 250.0);
    }

    /// Linux pit_calibrate_tsc: OUT2 in port 0x61 rises when a mode 0 count of 10 ms is over.
    #[test]
    fn linux_calibration_by_port_61_takes_ten_milliseconds() {
        let mut pit = Pit::new();
        let control = pit.read_system_control(0);
        pit.write_system_control(0, (control & !2) | 1);
        program(&mut pit, 0, 0xb0, (PIT_HZ / 100) as u16);
        let mut now = 0;
        while pit.read_system_control(now) & OUT_2 == 0 {
            now += 1000;
        }
        assert!(now.abs_diff(10 * MILLISECOND) < 3000);
    }

    #[test]
    fn read_back_latches_status_then_count() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 0x34, 1000);
        pit.write(100_000, 3, 0xc2);
        assert_eq!(pit.read(100_000, 0), 0x80 | 0x34);
        let low = pit.read(900_000, 0);
        let count = u16::from_le_bytes([low, pit.read(900_000, 0)]);
        assert_eq!(u64::from(count), 1000 - (ticks(100_000, PIT_HZ) - 1));
    }

    #[test]
    fn null_count_shows_a_count_that_is_not_loaded() {
        let mut pit = Pit::new();
        pit.write(0, 3, 0x34);
        pit.write(0, 3, 0xe2);
        assert_eq!(pit.read(0, 0), 0xc0 | 0x34);
    }

    #[test]
    fn bcd_counts_in_decimal() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 0x31, 0x1000);
        assert_eq!(latched(&mut pit, nanoseconds(2, PIT_HZ), 0), 0x0999);
    }

    #[test]
    fn refresh_toggles() {
        let mut pit = Pit::new();
        let first = pit.read_system_control(0) & REFRESH;
        assert_ne!(pit.read_system_control(REFRESH_NANOSECONDS) & REFRESH, first);
    }
}
