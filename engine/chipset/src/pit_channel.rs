//! One counter of the 8254, in ticks of its 1.193182 MHz input (Intel 8254 data sheet, "Mode definitions").
//!
//! The counter is never stepped: its value and output are functions of the tick at which it was loaded.

use crate::time::next_boundary;
use serde::{Deserialize, Serialize};

/// Periods shorter than this many ticks (10 µs) are served at a multiple, so that a guest cannot ask for
/// timer events faster than they can be handled.
const SHORTEST_PERIOD: u64 = 12;

/// Bytes that a read or write of the counter moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Access {
    Low,
    High,
    LowThenHigh,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Run {
    /// Waiting for a count, or for the gate in modes 1, 2, 3 and 5.
    Idle,
    /// Counting since this tick.
    Running { start: u64 },
    /// Gate low in modes 0 and 4.
    Paused { elapsed: u64 },
}

#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(crate) struct Channel {
    // Wiring.
    gate: bool,
    // Volatile state: control word.
    mode: u8,
    access: Access,
    bcd: bool,
    // Volatile state: counting element.
    modulus: u64,
    /// Count that was written and takes effect at the next load.
    written: Option<u64>,
    run: Run,
    /// Tick of the latest rising edge of OUT that was reported.
    last_edge: u64,
    // Volatile state: bus interface.
    low_byte: Option<u8>,
    high_next: bool,
    count_latch: Option<u16>,
    status_latch: Option<u8>,
}

/// What a counter has, in the terms of the data sheet: for implementations elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelState {
    /// Level of the gate.
    pub gate: bool,
    /// 0 to 5; None for one that was never programmed.
    pub mode: Option<u8>,
    /// The count is in BCD.
    pub bcd: bool,
    /// Bits 4 and 5 of the control word.
    pub access: u8,
    /// The count that was written, as binary; 0 is 65,536.
    pub count: u16,
    /// Ticks since it was loaded; None if it does not count.
    pub elapsed: Option<u64>,
    /// The latched count.
    pub count_latch: Option<u16>,
    /// The latched status.
    pub status_latch: Option<u8>,
    /// The low byte of a count of which the high one is still to come.
    pub low_byte: Option<u8>,
    /// The high byte is read next.
    pub high_next: bool,
}

impl Channel {
    /// What it has at `tick`.
    pub(crate) fn state(&self, tick: u64) -> ChannelState {
        let elapsed = self.elapsed(tick);
        ChannelState {
            gate: self.gate,
            mode: elapsed.map(|_| self.mode),
            bcd: self.bcd,
            access: self.access_bits(),
            count: self.modulus as u16,
            elapsed,
            count_latch: self.count_latch,
            status_latch: self.status_latch,
            low_byte: self.low_byte,
            high_next: self.high_next,
        }
    }

    /// Have this at `tick`.
    pub(crate) fn set_state(&mut self, tick: u64, state: &ChannelState) {
        let mode = state.mode.unwrap_or(3).min(5);
        self.write_control((state.access.clamp(1, 3) << 4) | mode << 1 | u8::from(state.bcd));
        self.gate = state.gate;
        let radix = if self.bcd { 10_000 } else { 0x1_0000 };
        let count = if state.count == 0 { radix } else { u64::from(state.count) };
        self.modulus = if self.periodic() { count.max(2) } else { count };
        if let (Some(elapsed), Some(_)) = (state.elapsed, state.mode) {
            let start = tick.saturating_sub(elapsed);
            self.run = Run::Running { start };
            // What it has counted to is told by now.
            self.last_edge = tick;
        }
        self.count_latch = state.count_latch;
        self.status_latch = state.status_latch;
        self.low_byte = state.low_byte;
        self.high_next = state.high_next;
    }

    /// Mode 3, no count yet: output high.
    pub(crate) fn new(gate: bool) -> Channel {
        Channel {
            gate,
            mode: 3,
            access: Access::LowThenHigh,
            bcd: false,
            modulus: 0x1_0000,
            written: None,
            run: Run::Idle,
            last_edge: 0,
            low_byte: None,
            high_next: false,
            count_latch: None,
            status_latch: None,
        }
    }

    /// Control word (bits 4-5 not 0: that is [`Channel::latch_count`]).
    pub(crate) fn write_control(&mut self, value: u8) {
        self.access = match (value >> 4) & 3 {
            1 => Access::Low,
            2 => Access::High,
            _ => Access::LowThenHigh,
        };
        // Modes 6 and 7 are modes 2 and 3: the bit is not decoded.
        self.mode = match (value >> 1) & 7 {
            mode @ 0..6 => mode,
            mode => mode - 4,
        };
        self.bcd = value & 1 != 0;
        self.run = Run::Idle;
        self.written = None;
        self.low_byte = None;
        self.high_next = false;
        self.count_latch = None;
        self.status_latch = None;
    }

    pub(crate) fn latch_count(&mut self, tick: u64) {
        if self.count_latch.is_none() {
            self.count_latch = Some(self.count(tick));
        }
    }

    /// Bits 4 and 5 of the control word.
    fn access_bits(&self) -> u8 {
        match self.access {
            Access::Low => 1,
            Access::High => 2,
            Access::LowThenHigh => 3,
        }
    }

    pub(crate) fn latch_status(&mut self, tick: u64) {
        if self.status_latch.is_none() {
            let flags = u8::from(self.output(tick)) << 7 | u8::from(self.null_count(tick)) << 6;
            self.status_latch = Some(flags | self.access_bits() << 4 | self.mode << 1 | u8::from(self.bcd));
        }
    }

    pub(crate) fn read(&mut self, tick: u64) -> u8 {
        if let Some(status) = self.status_latch.take() {
            return status;
        }
        let [low, high] = self.count_latch.unwrap_or_else(|| self.count(tick)).to_le_bytes();
        let (value, complete) = match self.access {
            Access::Low => (low, true),
            Access::High => (high, true),
            Access::LowThenHigh => {
                self.high_next = !self.high_next;
                if self.high_next { (low, false) } else { (high, true) }
            }
        };
        if complete {
            self.count_latch = None;
        }
        value
    }

    /// The caller has run [`Channel::advance`] to `tick`.
    pub(crate) fn write(&mut self, tick: u64, value: u8) {
        match (self.access, self.low_byte.take()) {
            (Access::Low, _) => self.load(tick, u16::from(value)),
            (Access::High, _) => self.load(tick, u16::from(value) << 8),
            (Access::LowThenHigh, Some(low)) => self.load(tick, u16::from_le_bytes([low, value])),
            (Access::LowThenHigh, None) => {
                self.low_byte = Some(value);
                if self.mode == 0 {
                    // "Writing the first byte disables counting. OUT is set low immediately."
                    self.run = Run::Idle;
                }
            }
        }
    }

    fn load(&mut self, tick: u64, value: u16) {
        let count = self.decode(value);
        match (self.mode, self.run) {
            // Takes effect at the end of the period, or at the next trigger.
            (2 | 3, Run::Running { .. }) | (1 | 5, _) => self.written = Some(count),
            (2 | 3, _) if !self.gate => self.written = Some(count),
            (2 | 3, _) => self.start(tick, count),
            _ if self.gate => self.start(tick, count),
            _ => {
                self.modulus = count;
                self.run = Run::Paused { elapsed: 0 };
            }
        }
    }

    /// The count reaches the counting element with the clock pulse after the write or trigger.
    fn start(&mut self, tick: u64, count: u64) {
        // 1 is illegal in modes 2 and 3.
        self.modulus = if self.periodic() { count.max(2) } else { count };
        self.written = None;
        self.last_edge = tick + 1;
        self.run = Run::Running { start: tick + 1 };
    }

    /// The caller has run [`Channel::advance`] to `tick`.
    pub(crate) fn set_gate(&mut self, tick: u64, gate: bool) {
        let rising = gate && !self.gate;
        let falling = !gate && self.gate;
        self.gate = gate;
        match (self.mode, self.run) {
            (0 | 4, Run::Running { start }) if falling => {
                self.run = Run::Paused { elapsed: tick.saturating_sub(start) };
            }
            (0 | 4, Run::Paused { elapsed }) if rising => {
                let start = tick.saturating_sub(elapsed);
                self.last_edge = self.last_edge.max(start);
                self.run = Run::Running { start };
            }
            (2 | 3, Run::Running { .. }) if falling => {
                self.written.get_or_insert(self.modulus);
                self.run = Run::Idle;
            }
            (1 | 2 | 3 | 5, run) if rising => {
                // A one-shot is retriggered with the count it has.
                let again = (run != Run::Idle).then_some(self.modulus);
                if let Some(count) = self.written.or(again) {
                    self.start(tick, count);
                }
            }
            _ => {}
        }
    }

    /// Let time pass up to `tick`; true if OUT rose at least once on the way.
    pub(crate) fn advance(&mut self, tick: u64) -> bool {
        let mut rose = false;
        if self.periodic()
            && let (Some(count), Some(end)) = (self.written, self.boundary_after(self.last_edge))
            && end <= tick
        {
            rose = true;
            self.modulus = count.max(2);
            self.written = None;
            self.last_edge = end;
            self.run = Run::Running { start: end };
        }
        if let Some(edge) = self.next_edge()
            && edge <= tick
        {
            rose = true;
            self.last_edge = edge.max(tick);
        }
        rose
    }

    /// Tick of the next rising edge of OUT that [`Channel::advance`] has not reported.
    pub(crate) fn next_edge(&self) -> Option<u64> {
        let Run::Running { start } = self.run else { return None };
        match self.mode {
            2 | 3 if self.modulus < SHORTEST_PERIOD => self.boundary_after(self.last_edge + SHORTEST_PERIOD),
            2 | 3 => self.boundary_after(self.last_edge),
            // The strobe of modes 4 and 5 is one tick low; OUT of modes 0 and 1 rises at zero.
            4 | 5 => Some(start + self.modulus + 1).filter(|&edge| edge > self.last_edge),
            _ => Some(start + self.modulus).filter(|&edge| edge > self.last_edge),
        }
    }

    fn boundary_after(&self, tick: u64) -> Option<u64> {
        match self.run {
            Run::Running { start } => Some(next_boundary(start, self.modulus, tick)),
            Run::Idle | Run::Paused { .. } => None,
        }
    }

    fn periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    fn elapsed(&self, tick: u64) -> Option<u64> {
        match self.run {
            Run::Idle => None,
            Run::Running { start } => Some(tick.saturating_sub(start)),
            Run::Paused { elapsed } => Some(elapsed),
        }
    }

    /// The OUT pin.
    pub(crate) fn output(&self, tick: u64) -> bool {
        let Some(elapsed) = self.elapsed(tick) else { return self.mode != 0 };
        match self.mode {
            0 | 1 => elapsed >= self.modulus,
            2 => elapsed % self.modulus != self.modulus - 1,
            3 => elapsed % self.modulus < self.modulus.div_ceil(2),
            _ => elapsed != self.modulus,
        }
    }

    /// Status bit 6: the count that was written is not yet in the counting element.
    fn null_count(&self, tick: u64) -> bool {
        let loading = matches!(self.run, Run::Running { start } if tick < start);
        self.written.is_some() || self.run == Run::Idle || loading
    }

    fn count(&self, tick: u64) -> u16 {
        let elapsed = self.elapsed(tick).unwrap_or(0);
        let radix = if self.bcd { 10_000 } else { 0x1_0000 };
        let value = match self.mode {
            2 => self.modulus - elapsed % self.modulus,
            // Steps by two, through each half of the period.
            3 => (self.modulus - (elapsed % self.modulus * 2) % self.modulus) & !1,
            _ => (self.modulus + radix - elapsed % radix) % radix,
        };
        self.encode(value)
    }

    fn decode(&self, value: u16) -> u64 {
        let count = if self.bcd {
            (0..4).rev().fold(0, |count, digit| count * 10 + u64::from((value >> (digit * 4)) & 0xf))
        } else {
            u64::from(value)
        };
        match (count, self.bcd) {
            (0, true) => 10_000,
            (0, false) => 0x1_0000,
            _ => count,
        }
    }

    fn encode(&self, value: u64) -> u16 {
        if !self.bcd {
            return value as u16;
        }
        (0..4)
            .fold((0u16, value % 10_000), |(code, rest), digit| {
                (code | ((rest % 10) as u16) << (digit * 4), rest / 10)
            })
            .0
    }
}
