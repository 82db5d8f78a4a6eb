//! Interrupt controllers and PIT that are elsewhere, in the host's kernel: the other devices stay here, and what they do
//! to interrupt lines is told.

use crate::chipset::Chipset;
use crate::fabric::{BOOTSTRAP, Source, TIMER_GSI};
use crate::ioapic::IoApicState;
use crate::lapic::LocalApicState;
use crate::pic::ChipState;
use crate::pit::ChannelState;
use serde::{Deserialize, Serialize};

/// What interrupt controllers and PIT have: the same wherever they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controllers {
    /// Master and slave.
    pub pics: [ChipState; 2],
    /// The I/O APIC.
    pub ioapic: IoApicState,
    /// The counters of the PIT.
    pub pit: [ChannelState; 3],
    /// Bits 0-3 of port 0x61.
    pub system_control: u8,
    /// Each processor's local APIC.
    pub local_apics: Vec<LocalApicState>,
    /// Levels of the interrupt lines, by global system interrupt, but for the PIT's; the timer's is 2.
    pub lines: u32,
    /// The HPET has the place of the PIT.
    pub legacy_replaced: bool,
}

/// What the interrupt controllers elsewhere are to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outward {
    /// The level of a global system interrupt has changed.
    Line {
        /// Its number; the timer's is 2.
        gsi: u32,
        /// Whether it is asserted.
        level: bool,
    },
    /// The HPET has taken, or given back, the place of the PIT.
    LegacyReplaced(bool),
}

impl Chipset {
    /// Give interrupt controllers and PIT away: from now on they are elsewhere.
    pub fn give_controllers(&mut self, now: u64) -> Controllers {
        let now = self.clock(now);
        if let Some(sources) = self.asserted_by.get_mut(TIMER_GSI as usize) {
            *sources &= !(Source::Pit as u8);
            // Where the PIT is it drives its input itself: the next tick must be an edge.
            let level = *sources != 0;
            self.drive_inputs(TIMER_GSI, level);
        }
        let lines = self.asserted_by.iter().enumerate().filter(|(_, sources)| **sources != 0);
        let lines = lines.fold(0, |lines, (gsi, _)| lines | 1 << gsi);
        let (pit, system_control) = self.pit.state(now);
        let legacy_replaced = self.hpet.replaces_legacy();
        let controllers = Controllers {
            pics: self.pic.state(),
            ioapic: self.ioapic.state(),
            pit,
            system_control,
            local_apics: self.lapics.iter_mut().map(|lapic| lapic.state(now)).collect(),
            lines,
            legacy_replaced,
        };
        self.elsewhere = Some(legacy_replaced);
        self.nothing_pending();
        self.update_deadline();
        controllers
    }

    /// Take them back; `deadline` is the virtual time of a value of a processor's time-stamp counter.
    pub fn take_controllers(
        &mut self,
        now: u64,
        controllers: &Controllers,
        deadline: impl Fn(usize, u64) -> u64,
    ) {
        let now = self.clock(now);
        self.elsewhere = None;
        self.outward.clear();
        self.pit.set_state(now, &controllers.pit, controllers.system_control);
        if self.pit.output(now)
            && !self.hpet.replaces_legacy()
            && let Some(sources) = self.asserted_by.get_mut(TIMER_GSI as usize)
        {
            *sources |= Source::Pit as u8;
        }
        // Lines first: what they make of an edge is in the state that comes after.
        for (gsi, sources) in self.asserted_by.into_iter().enumerate() {
            self.drive_inputs(gsi as u32, sources != 0);
        }
        self.pic.set_state(&controllers.pics);
        self.pic_output = self.pic.interrupt_requested();
        let output = self.pic_output;
        self.ioapic.set_pin(0, output);
        self.with_lapic(BOOTSTRAP, |lapic| lapic.set_lint0(output));
        self.ioapic.set_state(&controllers.ioapic);
        for (vcpu, state) in controllers.local_apics.iter().enumerate() {
            self.with_lapic(vcpu, |lapic| lapic.set_state(now, state, deadline(vcpu, state.tsc_deadline)));
        }
        self.deliver_from_ioapic();
        self.update_deadline();
        self.clock(now);
    }

    /// Whether they are elsewhere.
    pub fn controllers_are_elsewhere(&self) -> bool {
        self.elsewhere.is_some()
    }

    /// What is to be told elsewhere since the last call, in its order. Does not allocate while there is nothing.
    pub fn take_outward(&mut self) -> Vec<Outward> {
        std::mem::take(&mut self.outward)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UART: u16 = 0x3f8;

    /// PIC initialized, IRQ 0 and 4 open, the PIT at 1 ms, COM1 with its receive interrupt.
    fn prepared() -> Chipset {
        let mut chipset = Chipset::new(2);
        for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xee)] {
            chipset.port_write(0, port, 1, value);
        }
        for (port, value) in [(0x43, 0x34), (0x40, 0xa9), (0x40, 0x04), (UART + 4, 0x08), (UART + 1, 1)] {
            chipset.port_write(0, port, 1, value);
        }
        chipset.mmio_write(0, 0, 0xfec0_0000, 4, 0x10 + 2 * 4);
        chipset.mmio_write(0, 0, 0xfec0_0010, 4, 0x54);
        chipset
    }

    #[test]
    fn what_is_given_and_taken_back_is_as_before() {
        let mut chipset = prepared();
        chipset.advance(500_000);
        let expected = chipset.clone();
        let controllers = chipset.give_controllers(500_000);
        chipset.take_controllers(500_000, &controllers, |_, _| u64::MAX);
        assert_eq!(chipset.give_controllers(500_000), expected.clone().give_controllers(500_000));
        let mut chipset = expected.clone();
        let controllers = chipset.give_controllers(500_000);
        chipset.take_controllers(500_000, &controllers, |_, _| u64::MAX);
        assert_eq!(chipset.next_deadline(), expected.next_deadline());
        chipset.advance(1_100_000);
        assert!(chipset.pending(0).interrupt);
        assert_eq!(chipset.acknowledge_interrupt(1_100_000, 0), Some(0x20));
    }

    #[test]
    fn lines_are_told_while_the_controllers_are_elsewhere() {
        let mut chipset = prepared();
        chipset.give_controllers(0);
        assert!(chipset.controllers_are_elsewhere());
        assert_eq!(chipset.next_deadline(), None, "timers are elsewhere, too");
        chipset.serial_input(0, 0, b"x");
        assert_eq!(chipset.take_outward(), [Outward::Line { gsi: 4, level: true }]);
        chipset.set_line(0, 9, true);
        assert_eq!(chipset.take_outward(), [Outward::Line { gsi: 9, level: true }]);
        chipset.port_read(0, UART, 1);
        assert_eq!(chipset.take_outward(), [Outward::Line { gsi: 4, level: false }]);
        assert!(!chipset.pending(0).any());
        chipset.mmio_write(0, 0, 0xfed0_0010, 4, 3);
        assert_eq!(chipset.take_outward(), [Outward::LegacyReplaced(true)]);
    }

    #[test]
    fn a_line_that_rose_elsewhere_makes_no_second_edge_here() {
        let mut chipset = prepared();
        let controllers = chipset.give_controllers(0);
        chipset.serial_input(0, 0, b"x");
        chipset.take_controllers(0, &controllers, |_, _| u64::MAX);
        assert!(!chipset.pending(0).interrupt, "the controllers elsewhere had the edge, and dealt with it");
        chipset.port_read(0, UART, 1);
        chipset.serial_input(0, 0, b"y");
        assert!(chipset.pending(0).interrupt);
    }
}
