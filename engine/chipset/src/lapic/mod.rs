//! Local APIC: xAPIC by its memory page, x2APIC by its MSRs (SDM vol. 3, chapter 11).
//!
//! This file holds state, priorities and what the APIC accepts; `registers` how software sees it; `timer` its
//! timer.

mod image;
mod registers;
#[cfg(test)]
mod tests;
mod timer;
mod vectors;

use crate::message::{BROADCAST, Delivery, InterruptMessage};
use serde::{Deserialize, Serialize};
use timer::{Mode, Timer};
use vectors::Vectors;

pub use image::LocalApicState;
pub use registers::{Effect, Ipi, Shorthand};
pub use timer::APIC_TIMER_HZ;

/// The access raises #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

const BASE_BOOTSTRAP: u64 = 1 << 8;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLE: u64 = 1 << 11;
/// Bits 12-51: the widest physical address there is; the CPU's own width is not known here.
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const BASE_RESET: u64 = 0xfee0_0000 | BASE_ENABLE;

const SPURIOUS_ENABLE: u32 = 1 << 8;

const LVT_MASKED: u32 = 1 << 16;
const LVT_COUNT: usize = 6;

/// Error status register (11.5.3).
const ERROR_SEND_VECTOR: u32 = 1 << 5;
const ERROR_RECEIVE_VECTOR: u32 = 1 << 6;
const ERROR_REGISTER: u32 = 1 << 7;

/// Entries of the local vector table, in the order of their registers (0x320 to 0x370).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Lvt {
    Timer,
    Lint0 = 3,
    Lint1 = 4,
    Error = 5,
}

/// One local APIC.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalApic {
    // Static configuration.
    id: u32,
    bootstrap: bool,
    // Wiring.
    lint0: bool,
    lint1: bool,
    // Volatile state.
    base: u64,
    task_priority: u8,
    requested: Vectors,
    in_service: Vectors,
    /// The guest may end the highest interrupt in service without telling us.
    end_deferred: bool,
    level_triggered: Vectors,
    logical_destination: u32,
    destination_format: u32,
    spurious: u32,
    command: u64,
    error_status: u32,
    errors: u32,
    lvt: [u32; LVT_COUNT],
    timer: Timer,
    /// An ExtINT message waits for its INTA cycle.
    external: bool,
    nmi: bool,
    init: bool,
    start_up: Option<u8>,
}

impl LocalApic {
    /// After reset; the bootstrap processor's LINT pins are as firmware leaves them: virtual wire mode.
    pub fn new(id: u32, bootstrap: bool) -> LocalApic {
        let virtual_wire = |entry| if bootstrap { entry } else { LVT_MASKED };
        LocalApic {
            id,
            bootstrap,
            lint0: false,
            lint1: false,
            base: BASE_RESET | if bootstrap { BASE_BOOTSTRAP } else { 0 },
            task_priority: 0,
            requested: Vectors::default(),
            in_service: Vectors::default(),
            end_deferred: false,
            level_triggered: Vectors::default(),
            logical_destination: 0,
            destination_format: u32::MAX,
            spurious: 0xff,
            command: 0,
            error_status: 0,
            errors: 0,
            lvt: [LVT_MASKED, LVT_MASKED, LVT_MASKED, virtual_wire(0x700), virtual_wire(0x400), LVT_MASKED],
            timer: Timer::new(),
            external: false,
            nmi: false,
            init: false,
            start_up: None,
        }
    }

    /// Back to reset, keeping mode, base address and the levels of the pins (INIT: 11.4.7.3).
    fn reset(&mut self) {
        let fresh = LocalApic::new(self.id, self.bootstrap);
        *self = LocalApic { base: self.base, lint0: self.lint0, lint1: self.lint1, ..fresh };
    }

    fn entry(&self, lvt: Lvt) -> u32 {
        self.lvt.get(lvt as usize).copied().unwrap_or(LVT_MASKED)
    }

    fn timer_mode(&self) -> Mode {
        Mode::of(self.entry(Lvt::Timer))
    }

    fn hardware_enabled(&self) -> bool {
        self.base & BASE_ENABLE != 0
    }

    pub(crate) fn software_enabled(&self) -> bool {
        self.hardware_enabled() && self.spurious & SPURIOUS_ENABLE != 0
    }

    fn x2apic(&self) -> bool {
        self.base & (BASE_ENABLE | BASE_X2APIC) == BASE_ENABLE | BASE_X2APIC
    }

    /// The physical address of the register page, while there is one.
    pub fn page(&self) -> Option<u64> {
        (self.hardware_enabled() && !self.x2apic()).then_some(self.base & BASE_ADDRESS)
    }

    /// CR8: the upper four bits of the task priority.
    pub fn cr8(&self) -> u8 {
        self.task_priority >> 4
    }

    /// Write CR8 (bits above 3 are ignored).
    pub fn set_cr8(&mut self, value: u8) {
        self.task_priority = value << 4;
    }

    /// Processor priority (11.8.3.1).
    pub fn processor_priority(&self) -> u8 {
        let in_service = self.in_service.highest().unwrap_or(0);
        if self.task_priority >> 4 >= in_service >> 4 { self.task_priority } else { in_service & 0xf0 }
    }

    fn deliverable(&self) -> Option<u8> {
        if !self.hardware_enabled() {
            return None;
        }
        self.requested.highest().filter(|vector| vector >> 4 > self.processor_priority() >> 4)
    }

    /// INTR from the 8259A reaches the CPU: through LINT0 as ExtINT, or past a disabled APIC.
    pub fn external_requested(&self) -> bool {
        let through = self.entry(Lvt::Lint0) & (LVT_MASKED | 0x700) == 0x700 || !self.hardware_enabled();
        self.external || (self.lint0 && through)
    }

    /// An interrupt waits that the CPU may take if its IF allows. While the end of one is deferred, it may have been
    /// ended: that is to be settled then.
    pub fn interrupt_requested(&self) -> bool {
        let after_settling =
            self.end_deferred && self.hardware_enabled() && self.requested.highest().is_some();
        self.external_requested() || after_settling || self.deliverable().is_some()
    }

    /// Let the guest end the interrupt that was just acknowledged without telling us, if nobody waits for its end: no
    /// request behind it, and no I/O APIC.
    pub fn defer_end(&mut self) -> bool {
        let told = self.in_service.highest().is_some_and(|vector| self.level_triggered.contains(vector));
        self.end_deferred =
            !told && self.requested.highest().is_none() && self.in_service.highest().is_some();
        self.end_deferred
    }

    /// The guest has ended the deferred interrupt, or will tell us when it does.
    pub fn settle_end(&mut self, ended: bool) {
        if std::mem::take(&mut self.end_deferred) && ended {
            self.end_of_interrupt();
        }
    }

    /// The INTA cycle of an ExtINT goes to the 8259A; the message, if it was one, is used up.
    pub fn acknowledge_external(&mut self) {
        self.external = false;
    }

    /// Move the highest request into service.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.deliverable()?;
        self.requested.set(vector, false);
        self.in_service.set(vector, true);
        Some(vector)
    }

    /// End the highest interrupt in service; the vector if the I/O APIC must hear of it.
    pub fn end_of_interrupt(&mut self) -> Option<u8> {
        let vector = self.in_service.highest()?;
        self.in_service.set(vector, false);
        self.level_triggered.contains(vector).then_some(vector)
    }

    /// Whether a message is addressed to this APIC (11.6.2).
    pub fn matches(&self, message: &InterruptMessage) -> bool {
        if !self.hardware_enabled() {
            return false;
        }
        let destination = message.destination;
        match (destination, message.logical, self.x2apic()) {
            (BROADCAST, _, _) => true,
            (_, false, _) => destination == self.id,
            (_, true, true) => {
                let own = self.x2apic_logical_id();
                destination >> 16 == own >> 16 && destination & own & 0xffff != 0
            }
            (_, true, false) => self.matches_flat_or_cluster(destination),
        }
    }

    fn matches_flat_or_cluster(&self, destination: u32) -> bool {
        let own = self.logical_destination >> 24;
        let overlap = destination & own;
        if self.destination_format >> 28 == 0xf {
            return overlap & 0xff != 0;
        }
        let cluster = destination >> 4 & 0xf;
        (cluster == own >> 4 || cluster == 0xf) && overlap & 0xf != 0
    }

    fn x2apic_logical_id(&self) -> u32 {
        (self.id >> 4) << 16 | 1 << (self.id & 0xf)
    }

    /// Take a message that [`LocalApic::matches`]; false if it is refused.
    pub fn accept(&mut self, delivery: Delivery, vector: u8, level: bool) -> bool {
        match delivery {
            Delivery::Fixed | Delivery::LowestPriority => self.accept_vector(vector, level),
            Delivery::NonMaskable => {
                self.nmi = true;
                true
            }
            Delivery::Init => {
                self.init = true;
                self.start_up = None;
                true
            }
            Delivery::StartUp => {
                self.start_up = Some(vector);
                true
            }
            Delivery::External => {
                self.external = true;
                true
            }
            Delivery::SystemManagement | Delivery::Reserved => false,
        }
    }

    fn accept_vector(&mut self, vector: u8, level: bool) -> bool {
        if !self.software_enabled() {
            return false;
        }
        if vector < 16 {
            self.report_error(ERROR_RECEIVE_VECTOR);
            return false;
        }
        self.requested.set(vector, true);
        self.level_triggered.set(vector, level);
        true
    }

    /// Note an error and raise the error interrupt, once for each kind until software has read it.
    fn report_error(&mut self, error: u32) {
        if self.errors & error != 0 {
            return;
        }
        self.errors |= error;
        let entry = self.entry(Lvt::Error);
        // An illegal vector in the error entry itself must not report again.
        if entry & LVT_MASKED == 0 && entry & 0xf0 != 0 {
            self.accept_vector(entry as u8, false);
        }
    }

    fn raise(&mut self, lvt: Lvt) {
        let entry = self.entry(lvt);
        let delivery = Delivery::from_bits(entry >> 8);
        // Lowest priority and start-up are reserved in the local vector table (11.5.1).
        let reserved = matches!(delivery, Delivery::LowestPriority | Delivery::StartUp);
        if entry & LVT_MASKED == 0 && !reserved {
            self.accept(delivery, entry as u8, false);
        }
    }

    /// Drive LINT0, the 8259A's INTR. ExtINT is a level that [`LocalApic::external_requested`] looks at.
    pub fn set_lint0(&mut self, level: bool) {
        let rising = level && !self.lint0;
        self.lint0 = level;
        if rising && self.hardware_enabled() && self.entry(Lvt::Lint0) & 0x700 != 0x700 {
            self.raise(Lvt::Lint0);
        }
    }

    /// Drive LINT1, the board's NMI.
    pub fn set_lint1(&mut self, level: bool) {
        let rising = level && !self.lint1;
        self.lint1 = level;
        match (rising, self.hardware_enabled()) {
            (true, true) => self.raise(Lvt::Lint1),
            (true, false) => self.nmi |= self.bootstrap,
            (false, _) => {}
        }
    }

    /// Let time pass.
    pub fn advance(&mut self, now: u64) {
        if self.timer.expire(now, self.timer_mode()) {
            let entry = self.entry(Lvt::Timer);
            if entry & LVT_MASKED == 0 {
                self.accept_vector(entry as u8, false);
            }
        }
    }

    /// When the timer interrupts next; `None` while it is masked or disarmed.
    pub fn next_deadline(&self) -> Option<u64> {
        let audible = self.entry(Lvt::Timer) & LVT_MASKED == 0 && self.software_enabled();
        self.timer.deadline().filter(|_| audible)
    }

    /// Whether an NMI waits.
    pub fn nmi(&self) -> bool {
        self.nmi
    }

    /// Take the NMI.
    pub fn take_nmi(&mut self) -> bool {
        std::mem::take(&mut self.nmi)
    }

    /// Whether an INIT waits.
    pub fn init(&self) -> bool {
        self.init
    }

    /// Take the INIT. It resets the APIC, but not if it is a VM exit and nothing more; a start-up IPI that came after it
    /// stays.
    pub fn take_init(&mut self, reset: bool) -> bool {
        let taken = std::mem::take(&mut self.init);
        if taken && reset {
            let start_up = self.start_up;
            self.reset();
            self.start_up = start_up;
        }
        taken
    }

    /// The vector of a start-up IPI that waits.
    pub fn start_up(&self) -> Option<u8> {
        self.start_up
    }

    /// Take the start-up IPI.
    pub fn take_start_up(&mut self) -> Option<u8> {
        self.start_up.take()
    }
}
