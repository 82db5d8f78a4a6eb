//! I/O APIC: 24 pins, version 0x20 with its EOI register (82093AA data sheet; EOI: Intel 6300ESB data sheet).

use crate::message::{Delivery, InterruptMessage, widen_destination};
use serde::{Deserialize, Serialize};

/// Number of interrupt inputs.
pub const PINS: usize = 24;

const VERSION: u32 = 0x20 | ((PINS as u32 - 1) << 16);

const LOGICAL: u64 = 1 << 11;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// Delivery status (12) and remote IRR are read-only; 17-55 are reserved.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// What an I/O APIC has, but for the levels of its pins: for implementations elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApicState {
    /// IOREGSEL.
    pub select: u8,
    /// Its id.
    pub id: u8,
    /// Pins whose interrupt waits to be sent.
    pub requests: u32,
    /// The redirection table.
    pub entries: [u64; PINS],
}

/// The I/O APIC. Lines are given as asserted or not: the polarity bit is the guest's description of the board.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IoApic {
    // Wiring.
    lines: u32,
    // Volatile state.
    select: u8,
    id: u8,
    entries: [u64; PINS],
    /// Pins with a message that is not yet sent.
    due: u32,
}

impl Default for IoApic {
    fn default() -> IoApic {
        IoApic::new()
    }
}

impl IoApic {
    /// All pins masked.
    pub fn new() -> IoApic {
        IoApic { lines: 0, select: 0, id: 0, entries: [MASKED; PINS], due: 0 }
    }

    /// What it has.
    pub fn state(&self) -> IoApicState {
        IoApicState { select: self.select, id: self.id, requests: self.due, entries: self.entries }
    }

    /// Have this. Messages are then to be taken with [`IoApic::take_message`].
    pub fn set_state(&mut self, state: &IoApicState) {
        (self.select, self.id) = (state.select, state.id & 0xf);
        self.entries = state.entries.map(|entry| entry & (WRITABLE | REMOTE_IRR));
        self.due = state.requests & ((1 << PINS) - 1);
        for pin in 0..PINS {
            let (edge, masked) = self
                .entries
                .get(pin)
                .map_or((false, true), |entry| (entry & LEVEL == 0, entry & MASKED != 0));
            if !edge {
                self.evaluate_level(pin);
            } else if masked {
                self.due &= !(1 << pin);
            }
        }
    }

    /// Drive a pin. Messages are then to be taken with [`IoApic::take_message`].
    pub fn set_pin(&mut self, pin: usize, level: bool) {
        let Some(&entry) = self.entries.get(pin) else { return };
        let bit = 1 << pin;
        let rising = level && self.lines & bit == 0;
        self.lines = if level { self.lines | bit } else { self.lines & !bit };
        if entry & LEVEL != 0 {
            self.evaluate_level(pin);
        } else if rising && entry & MASKED == 0 {
            // An edge on a masked pin is lost (82093AA, 3.2.4 "interrupt mask").
            self.due |= bit;
        }
    }

    fn evaluate_level(&mut self, pin: usize) {
        let Some(&entry) = self.entries.get(pin) else { return };
        let bit = 1 << pin;
        let active = entry & LEVEL != 0 && entry & (MASKED | REMOTE_IRR) == 0 && self.lines & bit != 0;
        self.due = if active { self.due | bit } else { self.due & !bit };
    }

    /// The next message to deliver and its pin; tell [`IoApic::accepted`] if a local APIC took it.
    pub fn take_message(&mut self) -> Option<(usize, InterruptMessage)> {
        let pin = self.due.trailing_zeros() as usize;
        let entry = *self.entries.get(pin)?;
        self.due &= !(1 << pin);
        let message = InterruptMessage {
            destination: widen_destination((entry >> 56) as u8),
            logical: entry & LOGICAL != 0,
            delivery: Delivery::from_bits((entry >> 8) as u32),
            vector: entry as u8,
            level: entry & LEVEL != 0,
        };
        Some((pin, message))
    }

    /// A local APIC has accepted the message of `pin`: a level interrupt waits for its EOI from now on.
    pub fn accepted(&mut self, pin: usize) {
        if let Some(entry) = self.entries.get_mut(pin) {
            let by_vector = matches!(
                Delivery::from_bits((*entry >> 8) as u32),
                Delivery::Fixed | Delivery::LowestPriority
            );
            if *entry & LEVEL != 0 && by_vector {
                *entry |= REMOTE_IRR;
            }
        }
    }

    /// EOI message of a local APIC, or a write of the EOI register.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for pin in 0..PINS {
            let Some(entry) = self.entries.get_mut(pin) else { return };
            if *entry & (LEVEL | REMOTE_IRR) == LEVEL | REMOTE_IRR && *entry as u8 == vector {
                *entry &= !REMOTE_IRR;
                self.evaluate_level(pin);
            }
        }
    }

    /// Read the 32-bit register at `offset` of the page.
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            0x00 => u32::from(self.select),
            0x10 => self.read_selected(),
            _ => 0,
        }
    }

    fn read_selected(&self) -> u32 {
        match self.select {
            0 | 2 => u32::from(self.id) << 24,
            1 => VERSION,
            0x10.. => {
                let pin = usize::from(self.select - 0x10) / 2;
                let entry = self.entries.get(pin).copied().unwrap_or(0);
                if self.select & 1 != 0 { (entry >> 32) as u32 } else { entry as u32 }
            }
            _ => 0,
        }
    }

    /// Write the 32-bit register at `offset` of the page.
    pub fn write(&mut self, offset: u64, value: u32) {
        match offset {
            0x00 => self.select = value as u8,
            0x10 => self.write_selected(value),
            0x40 => self.end_of_interrupt(value as u8),
            _ => {}
        }
    }

    fn write_selected(&mut self, value: u32) {
        match self.select {
            0 => self.id = (value >> 24) as u8,
            0x10.. => {
                let pin = usize::from(self.select - 0x10) / 2;
                let shift = u32::from(self.select & 1) * 32;
                self.write_entry(pin, u64::from(value) << shift, 0xffff_ffff << shift);
            }
            _ => {}
        }
    }

    fn write_entry(&mut self, pin: usize, value: u64, mask: u64) {
        let Some(entry) = self.entries.get_mut(pin) else { return };
        let mask = mask & WRITABLE;
        *entry = (*entry & !mask) | (value & mask);
        if *entry & LEVEL == 0 {
            // Linux clears a stuck remote IRR by a detour over edge mode.
            *entry &= !REMOTE_IRR;
            self.due &= !(1 << pin);
        } else {
            self.evaluate_level(pin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_register(ioapic: &mut IoApic, register: u32, value: u32) {
        ioapic.write(0, register);
        ioapic.write(0x10, value);
    }

    fn read_register(ioapic: &mut IoApic, register: u32) -> u32 {
        ioapic.write(0, register);
        ioapic.read(0x10)
    }

    #[test]
    fn version_tells_24_pins_and_an_eoi_register() {
        assert_eq!(read_register(&mut IoApic::new(), 1), 0x0017_0020);
    }

    #[test]
    fn reset_masks_every_pin() {
        let mut ioapic = IoApic::new();
        assert!((0..24).all(|pin| read_register(&mut ioapic, 0x10 + 2 * pin) == 0x1_0000));
    }

    #[test]
    fn edge_sends_one_message_for_each_rise() {
        let mut ioapic = IoApic::new();
        write_register(&mut ioapic, 0x11 + 8, 0x0100_0000);
        write_register(&mut ioapic, 0x10 + 8, 0x0000_0931);
        ioapic.set_pin(4, true);
        let (pin, message) = ioapic.take_message().unwrap();
        assert_eq!((pin, message.destination, message.logical), (4, 1, true));
        assert_eq!((message.delivery, message.vector), (Delivery::LowestPriority, 0x31));
        ioapic.set_pin(4, true);
        assert_eq!(ioapic.take_message(), None);
        ioapic.set_pin(4, false);
        ioapic.set_pin(4, true);
        assert!(ioapic.take_message().is_some());
    }

    #[test]
    fn masked_edge_is_lost() {
        let mut ioapic = IoApic::new();
        ioapic.set_pin(4, true);
        write_register(&mut ioapic, 0x18, 0x31);
        assert_eq!(ioapic.take_message(), None);
    }

    #[test]
    fn level_waits_for_eoi_and_comes_again_while_asserted() {
        let mut ioapic = IoApic::new();
        write_register(&mut ioapic, 0x10 + 20, 0x8041);
        ioapic.set_pin(10, true);
        let (pin, message) = ioapic.take_message().unwrap();
        assert!(message.level);
        ioapic.accepted(pin);
        assert_eq!(read_register(&mut ioapic, 0x10 + 20), 0xc041);
        ioapic.set_pin(10, false);
        ioapic.set_pin(10, true);
        assert_eq!(ioapic.take_message(), None);
        ioapic.write(0x40, 0x41);
        assert!(ioapic.take_message().is_some());
        ioapic.accepted(pin);
        ioapic.set_pin(10, false);
        ioapic.end_of_interrupt(0x41);
        assert_eq!(ioapic.take_message(), None);
        assert_eq!(read_register(&mut ioapic, 0x10 + 20), 0x8041);
    }

    #[test]
    fn unmasking_an_asserted_level_pin_sends_it() {
        let mut ioapic = IoApic::new();
        write_register(&mut ioapic, 0x10 + 20, 0x1_8041);
        ioapic.set_pin(10, true);
        assert_eq!(ioapic.take_message(), None);
        write_register(&mut ioapic, 0x10 + 20, 0x8041);
        assert!(ioapic.take_message().is_some());
    }

    #[test]
    fn edge_detour_clears_remote_irr() {
        let mut ioapic = IoApic::new();
        write_register(&mut ioapic, 0x10 + 20, 0x8041);
        ioapic.set_pin(10, true);
        ioapic.take_message();
        ioapic.accepted(10);
        write_register(&mut ioapic, 0x10 + 20, 0x1_0041);
        write_register(&mut ioapic, 0x10 + 20, 0x1_8041);
        assert_eq!(read_register(&mut ioapic, 0x10 + 20), 0x1_8041);
    }
}
