//! A local APIC as its page of registers, and what has no register there: for implementations elsewhere.

use super::timer::Registers;
use super::vectors::Vectors;
use super::{BASE_ADDRESS, BASE_BOOTSTRAP, BASE_ENABLE, BASE_X2APIC, LVT_COUNT, LocalApic, Mode};

// Indexes of registers: their offsets divided by 16.
const ID: usize = 0x02;
const VERSION: usize = 0x03;
const TASK_PRIORITY: usize = 0x08;
const LOGICAL_DESTINATION: usize = 0x0d;
const DESTINATION_FORMAT: usize = 0x0e;
const SPURIOUS: usize = 0x0f;
const IN_SERVICE: usize = 0x10;
const TRIGGER_MODE: usize = 0x18;
const REQUESTED: usize = 0x20;
const ERROR_STATUS: usize = 0x28;
const COMMAND: usize = 0x30;
const COMMAND_HIGH: usize = 0x31;
const LVT: usize = 0x32;
const INITIAL_COUNT: usize = 0x38;
const CURRENT_COUNT: usize = 0x39;
const DIVIDE: usize = 0x3e;
const REGISTERS: usize = 0x40;

/// What a local APIC has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalApicState {
    /// Each register of the page, by offset divided by 16. The id is in bits 24-31 in x2APIC mode, too.
    pub registers: [u32; REGISTERS],
    /// IA32_APIC_BASE.
    pub base: u64,
    /// IA32_TSC_DEADLINE.
    pub tsc_deadline: u64,
}

impl LocalApic {
    /// What it has at `now`.
    pub fn state(&mut self, now: u64) -> LocalApicState {
        let mut registers = [0; REGISTERS];
        registers[ID] = self.id << 24;
        registers[VERSION] = super::registers::VERSION_VALUE;
        registers[TASK_PRIORITY] = self.task_priority.into();
        registers[LOGICAL_DESTINATION] =
            if self.x2apic() { self.x2apic_logical_id() } else { self.logical_destination };
        registers[DESTINATION_FORMAT] = self.destination_format;
        registers[SPURIOUS] = self.spurious;
        for word in 0..8 {
            registers[IN_SERVICE + word] = self.in_service.word(word);
            registers[TRIGGER_MODE + word] = self.level_triggered.word(word);
            registers[REQUESTED + word] = self.requested.word(word);
        }
        registers[ERROR_STATUS] = self.error_status;
        registers[COMMAND] = self.command as u32;
        registers[COMMAND_HIGH] = (self.command >> 32) as u32;
        registers[LVT..LVT + LVT_COUNT].copy_from_slice(&self.lvt);
        registers[INITIAL_COUNT] = self.timer.initial();
        registers[CURRENT_COUNT] = self.timer.current(now, self.timer_mode());
        registers[DIVIDE] = self.timer.divide();
        LocalApicState { registers, base: self.base, tsc_deadline: self.timer.tsc_deadline() }
    }

    /// Have this at `now`; `deadline` is the virtual time of IA32_TSC_DEADLINE. What came by message and is neither
    /// requested nor in service (NMI, INIT, start-up) stays as it is.
    pub fn set_state(&mut self, now: u64, state: &LocalApicState, deadline: u64) {
        let LocalApicState { registers, base, tsc_deadline } = *state;
        let own = if self.bootstrap { BASE_BOOTSTRAP } else { 0 };
        self.base = base & (BASE_ADDRESS | BASE_ENABLE | BASE_X2APIC) | own;
        let words = |first: usize| Vectors::from_words(std::array::from_fn(|word| registers[first + word]));
        self.task_priority = registers[TASK_PRIORITY] as u8;
        if !self.x2apic() {
            self.logical_destination = registers[LOGICAL_DESTINATION] & 0xff00_0000;
        }
        self.destination_format = registers[DESTINATION_FORMAT] | 0x0fff_ffff;
        self.spurious = registers[SPURIOUS] & 0x1ff;
        self.in_service = words(IN_SERVICE);
        self.level_triggered = words(TRIGGER_MODE);
        self.requested = words(REQUESTED);
        self.end_deferred = false;
        self.error_status = registers[ERROR_STATUS];
        self.errors = 0;
        self.command = u64::from(registers[COMMAND]) | u64::from(registers[COMMAND_HIGH]) << 32;
        for (entry, (value, writable)) in
            self.lvt.iter_mut().zip(registers[LVT..].iter().zip(super::registers::LVT_WRITABLE))
        {
            *entry = value & writable;
        }
        let counts = Registers {
            initial: registers[INITIAL_COUNT],
            divide: registers[DIVIDE],
            current: registers[CURRENT_COUNT],
        };
        let mode = Mode::of(self.lvt[0]);
        self.timer.set_state(now, mode, counts, (tsc_deadline, deadline));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Delivery;

    /// One in whose registers nothing is as after reset.
    fn used(x2apic: bool) -> LocalApic {
        let mut apic = LocalApic::new(3, false);
        if x2apic {
            apic.set_base(apic.base() | BASE_X2APIC).unwrap();
        }
        apic.write_page(0, 0xf0, 4, 0x1ff);
        apic.write_page(0, 0xd0, 4, 0x0800_0000);
        apic.write_page(0, 0x320, 4, 0x2_0040);
        apic.write_page(0, 0x350, 4, 0x1_0700);
        apic.write_page(0, 0x3e0, 4, 3);
        apic.write_page(0, 0x380, 4, 1000);
        apic.accept(Delivery::Fixed, 0x51, true);
        apic.accept(Delivery::Fixed, 0x93, false);
        apic.acknowledge();
        apic.set_cr8(4);
        apic
    }

    #[test]
    fn what_is_taken_from_one_makes_another_that_does_the_same() {
        for x2apic in [false, true] {
            let mut apic = used(x2apic);
            let state = apic.state(1600);
            let mut other = LocalApic::new(3, false);
            other.set_state(1600, &state, u64::MAX);
            assert_eq!(other.state(1600), state);
            assert_eq!(other.next_deadline(), apic.next_deadline());
            assert_eq!(other.end_of_interrupt(), apic.end_of_interrupt());
            other.set_cr8(0);
            apic.set_cr8(0);
            assert_eq!(other.acknowledge(), Some(0x51));
            assert_eq!(apic.acknowledge(), Some(0x51));
            assert_eq!((other.page(), other.cr8()), (apic.page(), apic.cr8()));
        }
    }

    #[test]
    fn a_deadline_of_guest_time_is_kept() {
        let mut apic = LocalApic::new(0, true);
        apic.write_page(0, 0xf0, 4, 0x1ff);
        apic.write_page(0, 0x320, 4, 0x4_0040);
        apic.set_tsc_deadline(0, 5000, 7000);
        let state = apic.state(100);
        assert_eq!(state.tsc_deadline, 5000);
        let mut other = LocalApic::new(0, true);
        other.set_state(100, &state, 7000);
        assert_eq!(other.next_deadline(), Some(7000));
    }
}
