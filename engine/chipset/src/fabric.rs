//! How interrupts travel: lines to the 8259A and the I/O APIC, messages to the local APICs.
//!
//! A PC's wiring: ISA IRQ 0 is pin 2 of the I/O APIC (the MADT says so), the other ISA interrupts are the pins
//! of their numbers; the 8259A's output is LINT0 of the bootstrap processor and pin 0 of the I/O APIC.

use crate::chipset::{Chipset, UART_COUNT};
use crate::elsewhere::Outward;
use crate::ioapic::PINS;
use crate::lapic::{Effect, Ipi, LocalApic, Shorthand};
use crate::message::{Delivery, InterruptMessage};

const UART_GSI: [u32; UART_COUNT] = [4, 3, 6, 7];
/// Of the PIT, or the HPET in its place.
pub(crate) const TIMER_GSI: u32 = 2;
pub(crate) const BOOTSTRAP: usize = 0;

/// Who drives a line; lines are wired-OR.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    External = 1 << 0,
    Pit = 1 << 1,
    Hpet = 1 << 2,
    Uart = 1 << 3,
}

impl Chipset {
    /// Drive a global system interrupt from outside the chipset (level as asserted or not, whatever its
    /// polarity). 0 and 2 are both the timer's; 24 and above do not exist and are ignored.
    pub fn set_line(&mut self, now: u64, gsi: u32, level: bool) {
        self.clock(now);
        self.drive(Source::External, if gsi == 0 { TIMER_GSI } else { gsi }, level);
    }

    /// Send a message signalled interrupt; false if it is none or nobody takes it.
    pub fn send_msi(&mut self, now: u64, address: u64, data: u32) -> bool {
        self.clock(now);
        InterruptMessage::from_msi(address, data).is_some_and(|message| self.deliver(&message))
    }

    /// Drive the board's NMI line, LINT1 of every vCPU.
    pub fn set_nmi_line(&mut self, now: u64, level: bool) {
        self.clock(now);
        for vcpu in 0..self.lapics.len() {
            self.with_lapic(vcpu, |lapic| lapic.set_lint1(level));
        }
    }

    fn drive(&mut self, source: Source, gsi: u32, level: bool) {
        let Some(sources) = self.asserted_by.get_mut(gsi as usize) else { return };
        let before = *sources != 0;
        *sources = if level { *sources | source as u8 } else { *sources & !(source as u8) };
        let after = *sources != 0;
        if before == after {
            return;
        }
        if self.controllers_are_elsewhere() {
            self.outward.push(Outward::Line { gsi, level: after });
            return;
        }
        self.drive_inputs(gsi, after);
        self.sync_pic();
        self.deliver_from_ioapic();
    }

    /// Drive the inputs of the interrupt controllers to which a line goes.
    pub(crate) fn drive_inputs(&mut self, gsi: u32, level: bool) {
        match gsi {
            TIMER_GSI => self.pic.set_line(0, level),
            0..16 => self.pic.set_line(gsi as u8, level),
            _ => {}
        }
        self.ioapic.set_pin(gsi as usize, level);
    }

    fn pulse(&mut self, source: Source, gsi: u32) {
        self.drive(source, gsi, false);
        self.drive(source, gsi, true);
    }

    /// Channel 0 of the PIT is IRQ 0, unless the HPET replaces it.
    pub(crate) fn sync_pit(&mut self, now: u64) {
        if let Some(told) = &mut self.elsewhere {
            let replaced = self.hpet.replaces_legacy();
            if std::mem::replace(told, replaced) != replaced {
                self.outward.push(Outward::LegacyReplaced(replaced));
            }
            return;
        }
        let rose = self.pit.take_edge();
        let connected = !self.hpet.replaces_legacy();
        if rose && connected {
            self.pulse(Source::Pit, TIMER_GSI);
        }
        let output = self.pit.output(now);
        self.drive(Source::Pit, TIMER_GSI, output && connected);
    }

    pub(crate) fn sync_hpet(&mut self) {
        let pulses = self.hpet.take_pulses();
        let asserted = self.hpet.asserted();
        for gsi in 0..PINS as u32 {
            if pulses >> gsi & 1 != 0 {
                self.pulse(Source::Hpet, gsi);
            }
            self.drive(Source::Hpet, gsi, asserted >> gsi & 1 != 0);
        }
    }

    pub(crate) fn sync_uart(&mut self, index: usize) {
        if let (Some(uart), Some(&gsi)) = (self.uarts.get(index), UART_GSI.get(index)) {
            let level = uart.interrupt();
            self.drive(Source::Uart, gsi, level);
        }
    }

    /// The 8259A may have changed its mind.
    pub(crate) fn sync_pic(&mut self) {
        let level = self.pic.interrupt_requested();
        if level != self.pic_output {
            self.drive_pic_output(level);
        }
    }

    pub(crate) fn drive_pic_output(&mut self, level: bool) {
        self.pic_output = level;
        self.with_lapic(BOOTSTRAP, |lapic| lapic.set_lint0(level));
        self.ioapic.set_pin(0, level);
        self.deliver_from_ioapic();
    }

    pub(crate) fn deliver_from_ioapic(&mut self) {
        while let Some((pin, message)) = self.ioapic.take_message() {
            if self.deliver(&message) {
                self.ioapic.accepted(pin);
            }
        }
    }

    /// What a write of a local APIC register asks for.
    pub(crate) fn perform(&mut self, vcpu: usize, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::EndOfInterrupt(vector) => {
                self.ioapic.end_of_interrupt(vector);
                self.deliver_from_ioapic();
            }
            Effect::Send(ipi) => self.send_ipi(vcpu, &ipi),
        }
    }

    /// Send what `command` (the low half of ICR) says to the processors of `targets`, a bitmap from APIC id `first` on;
    /// how many have accepted it.
    pub fn send_ipi_to(&mut self, now: u64, command: u32, targets: u128, first: u32) -> u64 {
        self.clock(now);
        let message = |destination| InterruptMessage {
            destination,
            logical: false,
            delivery: Delivery::from_bits(command >> 8),
            vector: command as u8,
            level: false,
        };
        let bits = (0..u128::BITS).filter(|bit| targets >> bit & 1 != 0);
        let ids =
            bits.filter_map(|bit| first.checked_add(bit)).filter(|&id| (id as usize) < self.lapics.len());
        let ids: Vec<u32> = ids.collect();
        let mut accepted = 0;
        for id in ids {
            accepted += u64::from(self.deliver(&message(id)));
        }
        accepted
    }

    fn send_ipi(&mut self, sender: usize, ipi: &Ipi) {
        if ipi.shorthand == Shorthand::None {
            self.deliver(&ipi.message);
            return;
        }
        for vcpu in 0..self.lapics.len() {
            let addressed = match ipi.shorthand {
                Shorthand::Itself => vcpu == sender,
                Shorthand::Others => vcpu != sender,
                Shorthand::All | Shorthand::None => true,
            };
            if addressed {
                self.accept(vcpu, &ipi.message);
            }
        }
    }

    /// Deliver by destination; true if a local APIC has accepted.
    fn deliver(&mut self, message: &InterruptMessage) -> bool {
        if message.delivery == Delivery::LowestPriority {
            return self.lowest_priority(message).is_some_and(|vcpu| self.accept(vcpu, message));
        }
        let mut accepted = false;
        for vcpu in 0..self.lapics.len() {
            if self.lapics.get(vcpu).is_some_and(|lapic| lapic.matches(message)) {
                accepted |= self.accept(vcpu, message);
            }
        }
        accepted
    }

    /// Arbitration: the addressed CPU of the lowest processor priority, the first of equals.
    fn lowest_priority(&self, message: &InterruptMessage) -> Option<usize> {
        let candidates = self.lapics.iter().enumerate();
        let addressed = candidates.filter(|(_, lapic)| lapic.software_enabled() && lapic.matches(message));
        addressed.min_by_key(|(_, lapic)| lapic.processor_priority()).map(|(vcpu, _)| vcpu)
    }

    fn accept(&mut self, vcpu: usize, message: &InterruptMessage) -> bool {
        self.with_lapic(vcpu, |lapic| lapic.accept(message.delivery, message.vector, message.level))
            .unwrap_or(false)
    }

    /// Change a local APIC, and keep what is derived from it up to date.
    pub(crate) fn with_lapic<T>(
        &mut self,
        vcpu: usize,
        change: impl FnOnce(&mut LocalApic) -> T,
    ) -> Option<T> {
        let lapic = self.lapics.get_mut(vcpu)?;
        let before = lapic.next_deadline();
        let result = change(lapic);
        if lapic.next_deadline() != before {
            self.update_deadline();
        }
        self.refresh(vcpu);
        Some(result)
    }
}
