//! How software sees a local APIC: the xAPIC page and the x2APIC and APIC base MSRs (SDM vol. 3, 11.4, 11.12).

use super::{
    BASE_ADDRESS, BASE_BOOTSTRAP, BASE_ENABLE, BASE_X2APIC, ERROR_REGISTER, ERROR_SEND_VECTOR,
    GeneralProtection, LVT_COUNT, LVT_MASKED, LocalApic, Mode, SPURIOUS_ENABLE,
};
use crate::message::{Delivery, InterruptMessage, widen_destination};

// Register numbers: offset in the page divided by 16, MSR minus 0x800.
const ID: u8 = 0x02;
const VERSION: u8 = 0x03;
const TASK_PRIORITY: u8 = 0x08;
const ARBITRATION_PRIORITY: u8 = 0x09;
const PROCESSOR_PRIORITY: u8 = 0x0a;
const END_OF_INTERRUPT: u8 = 0x0b;
const REMOTE_READ: u8 = 0x0c;
const LOGICAL_DESTINATION: u8 = 0x0d;
const DESTINATION_FORMAT: u8 = 0x0e;
const SPURIOUS: u8 = 0x0f;
const IN_SERVICE: u8 = 0x10;
const TRIGGER_MODE: u8 = 0x18;
const REQUESTED: u8 = 0x20;
const ERROR_STATUS: u8 = 0x28;
const COMMAND: u8 = 0x30;
const COMMAND_HIGH: u8 = 0x31;
const LVT: u8 = 0x32;
const LVT_LAST: u8 = LVT + LVT_COUNT as u8 - 1;
const INITIAL_COUNT: u8 = 0x38;
const CURRENT_COUNT: u8 = 0x39;
const DIVIDE: u8 = 0x3e;
const SELF_IPI: u8 = 0x3f;

/// Integrated APIC, six entries in its local vector table, no suppression of EOI broadcasts.
pub(super) const VERSION_VALUE: u32 = 0x14 | (LVT_COUNT as u32 - 1) << 16;

/// Bits that software can set in each entry of the local vector table, 0x320 to 0x370.
pub(super) const LVT_WRITABLE: [u32; LVT_COUNT] =
    [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];
/// Delivery status and remote IRR: read-only, not reserved.
const LVT_READ_ONLY: u32 = 0x5000;

const COMMAND_WRITABLE: u32 = 0x000c_cfff;

/// What a register write asks of the rest of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// A level-triggered interrupt ended: tell the I/O APIC.
    EndOfInterrupt(u8),
    /// Send an interprocessor interrupt.
    Send(Ipi),
}

/// ICR bits 18-19.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shorthand {
    /// Use the message's destination.
    None,
    /// The sender alone.
    Itself,
    /// Every CPU.
    All,
    /// Every CPU but the sender.
    Others,
}

/// The state that IA32_APIC_BASE's enable bits select (figure 11-27).
enum Operation {
    Disabled,
    XApic,
    X2Apic,
    Invalid,
}

impl Operation {
    fn of(base: u64) -> Operation {
        match (base & BASE_ENABLE != 0, base & BASE_X2APIC != 0) {
            (false, false) => Operation::Disabled,
            (true, false) => Operation::XApic,
            (true, true) => Operation::X2Apic,
            (false, true) => Operation::Invalid,
        }
    }
}

/// An interprocessor interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipi {
    /// To whom, if not to the message's destination.
    pub shorthand: Shorthand,
    /// What.
    pub message: InterruptMessage,
}

impl LocalApic {
    /// Read `size` bytes at `offset` of the page. Only the first four bytes of each 16 hold a register.
    pub fn read_page(&mut self, now: u64, offset: u64, size: u8) -> u64 {
        let byte = offset & 0xf;
        if byte >= 4 {
            return 0;
        }
        let value = u64::from(self.read_register(now, (offset >> 4) as u8)) >> (byte * 8);
        match size {
            1 => value & 0xff,
            2 => value & 0xffff,
            _ => value,
        }
    }

    /// Write the page; anything but an aligned 32-bit access is undefined (11.4.1) and ignored.
    pub fn write_page(&mut self, now: u64, offset: u64, size: u8, value: u64) -> Effect {
        if offset & 0xf != 0 || size < 4 {
            return Effect::None;
        }
        match ((offset >> 4) as u8, value as u32) {
            (COMMAND_HIGH, value) => {
                self.command = (self.command & 0xffff_ffff) | u64::from(value & 0xff00_0000) << 32;
                Effect::None
            }
            (COMMAND, value) => {
                let value = value & COMMAND_WRITABLE;
                self.command = (self.command & !0xffff_ffff) | u64::from(value);
                self.send(value, widen_destination((self.command >> 56) as u8))
            }
            (LOGICAL_DESTINATION, value) => {
                self.logical_destination = value & 0xff00_0000;
                Effect::None
            }
            (DESTINATION_FORMAT, value) => {
                self.destination_format = value | 0x0fff_ffff;
                Effect::None
            }
            // Read-only in processors of today.
            (ID, _) => Effect::None,
            (register, value) => self.write_register(now, register, value),
        }
    }

    /// Read an x2APIC MSR (0x800-0x8ff), given its low byte.
    ///
    /// # Errors
    /// #GP outside x2APIC mode, and for a register that does not exist or cannot be read (table 11-6).
    pub fn read_msr(&mut self, now: u64, register: u8) -> Result<u64, GeneralProtection> {
        if !self.x2apic() {
            return Err(GeneralProtection);
        }
        match register {
            COMMAND => Ok(self.command),
            ID
            | VERSION
            | TASK_PRIORITY
            | PROCESSOR_PRIORITY
            | LOGICAL_DESTINATION
            | SPURIOUS
            | IN_SERVICE..=ERROR_STATUS
            | LVT..=CURRENT_COUNT
            | DIVIDE => Ok(u64::from(self.read_register(now, register))),
            _ => Err(GeneralProtection),
        }
    }

    /// Write an x2APIC MSR.
    ///
    /// # Errors
    /// #GP outside x2APIC mode, for a register that does not exist or cannot be written, and for reserved bits.
    pub fn write_msr(&mut self, now: u64, register: u8, value: u64) -> Result<Effect, GeneralProtection> {
        let writable = x2apic_writable(register).filter(|_| self.x2apic()).ok_or(GeneralProtection)?;
        if value & !writable != 0 {
            return Err(GeneralProtection);
        }
        match register {
            COMMAND => {
                self.command = value;
                Ok(self.send(value as u32, (value >> 32) as u32))
            }
            SELF_IPI => Ok(self.send(value as u32 | 1 << 18, 0)),
            _ => Ok(self.write_register(now, register, value as u32)),
        }
    }

    fn read_register(&mut self, now: u64, register: u8) -> u32 {
        self.advance(now);
        match register {
            ID if self.x2apic() => self.id,
            ID => self.id << 24,
            VERSION => VERSION_VALUE,
            TASK_PRIORITY => u32::from(self.task_priority),
            ARBITRATION_PRIORITY | PROCESSOR_PRIORITY => u32::from(self.processor_priority()),
            END_OF_INTERRUPT | REMOTE_READ => 0,
            LOGICAL_DESTINATION if self.x2apic() => self.x2apic_logical_id(),
            LOGICAL_DESTINATION => self.logical_destination,
            DESTINATION_FORMAT => self.destination_format,
            SPURIOUS => self.spurious,
            IN_SERVICE..TRIGGER_MODE => self.in_service.word(usize::from(register - IN_SERVICE)),
            TRIGGER_MODE..REQUESTED => self.level_triggered.word(usize::from(register - TRIGGER_MODE)),
            REQUESTED..ERROR_STATUS => self.requested.word(usize::from(register - REQUESTED)),
            ERROR_STATUS => self.error_status,
            COMMAND => self.command as u32,
            COMMAND_HIGH => (self.command >> 32) as u32,
            LVT..=LVT_LAST => self.lvt.get(usize::from(register - LVT)).copied().unwrap_or(0),
            INITIAL_COUNT => self.timer.initial(),
            CURRENT_COUNT => self.timer.current(now, self.timer_mode()),
            DIVIDE => self.timer.divide(),
            _ => {
                self.report_error(ERROR_REGISTER);
                0
            }
        }
    }

    /// The registers that both modes write alike.
    fn write_register(&mut self, now: u64, register: u8, value: u32) -> Effect {
        self.advance(now);
        match register {
            TASK_PRIORITY => self.task_priority = value as u8,
            END_OF_INTERRUPT => {
                return self.end_of_interrupt().map_or(Effect::None, Effect::EndOfInterrupt);
            }
            SPURIOUS => self.write_spurious(value),
            ERROR_STATUS => self.error_status = std::mem::take(&mut self.errors),
            LVT..=LVT_LAST => self.write_lvt(usize::from(register - LVT), value),
            INITIAL_COUNT => self.timer.set_initial(now, self.timer_mode(), value),
            DIVIDE => self.timer.set_divide(now, self.timer_mode(), value),
            // Read-only registers ignore writes.
            VERSION | ARBITRATION_PRIORITY | PROCESSOR_PRIORITY | REMOTE_READ | CURRENT_COUNT => {}
            IN_SERVICE..ERROR_STATUS => {}
            _ => self.report_error(ERROR_REGISTER),
        }
        Effect::None
    }

    /// Disabling by software masks the whole local vector table (11.4.7.2).
    fn write_spurious(&mut self, value: u32) {
        self.spurious = value & 0x3ff;
        if value & SPURIOUS_ENABLE == 0 {
            self.lvt.iter_mut().for_each(|entry| *entry |= LVT_MASKED);
        }
    }

    fn write_lvt(&mut self, index: usize, value: u32) {
        let masked = if self.spurious & SPURIOUS_ENABLE == 0 { LVT_MASKED } else { 0 };
        let before = self.timer_mode();
        if let (Some(entry), Some(writable)) = (self.lvt.get_mut(index), LVT_WRITABLE.get(index)) {
            *entry = (value & writable) | masked;
        }
        self.timer.change_mode(before, self.timer_mode());
    }

    /// A write of the low half of ICR sends (11.6.1).
    fn send(&mut self, command: u32, destination: u32) -> Effect {
        let delivery = Delivery::from_bits(command >> 8);
        let shorthand = match (command >> 18) & 3 {
            0 => Shorthand::None,
            1 => Shorthand::Itself,
            2 => Shorthand::All,
            _ => Shorthand::Others,
        };
        let (assert, level) = (command & 1 << 14 != 0, command & 1 << 15 != 0);
        match delivery {
            // INIT level de-assert: arbitration ids only, not supported since Pentium 4.
            Delivery::Init if level && !assert => return Effect::None,
            Delivery::Fixed | Delivery::LowestPriority if (command as u8) < 16 => {
                self.report_error(ERROR_SEND_VECTOR);
                return Effect::None;
            }
            // Not allowed in ICR (table 11-3).
            Delivery::External | Delivery::Reserved => return Effect::None,
            _ => {}
        }
        // IPIs are edge triggered whatever the trigger bit says, except the INIT de-assert above.
        let message = InterruptMessage {
            destination,
            logical: command & 1 << 11 != 0,
            delivery,
            vector: command as u8,
            level: false,
        };
        Effect::Send(Ipi { shorthand, message })
    }

    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Write IA32_APIC_BASE.
    ///
    /// # Errors
    /// #GP for reserved bits and for the transitions that figure 11-27 does not have.
    pub fn set_base(&mut self, value: u64) -> Result<(), GeneralProtection> {
        if value & !(BASE_ADDRESS | BASE_BOOTSTRAP | BASE_ENABLE | BASE_X2APIC) != 0 {
            return Err(GeneralProtection);
        }
        match (Operation::of(self.base), Operation::of(value)) {
            (_, Operation::Invalid)
            | (Operation::Disabled, Operation::X2Apic)
            | (Operation::X2Apic, Operation::XApic) => return Err(GeneralProtection),
            (Operation::XApic | Operation::X2Apic, Operation::Disabled) => self.reset(),
            // ICR is one register in x2APIC mode, its high half starts clear.
            (Operation::XApic, Operation::X2Apic) => self.command &= 0xffff_ffff,
            (Operation::Disabled, Operation::Disabled | Operation::XApic)
            | (Operation::XApic, Operation::XApic)
            | (Operation::X2Apic, Operation::X2Apic)
            | (Operation::Invalid, _) => {}
        }
        let bootstrap = if self.bootstrap { BASE_BOOTSTRAP } else { 0 };
        self.base = (value & !BASE_BOOTSTRAP) | bootstrap;
        Ok(())
    }

    /// IA32_TSC_DEADLINE.
    pub fn tsc_deadline(&mut self, now: u64) -> u64 {
        self.advance(now);
        if self.timer_mode() == Mode::Deadline { self.timer.tsc_deadline() } else { 0 }
    }

    /// Write IA32_TSC_DEADLINE; `deadline` is the same instant in virtual nanoseconds.
    pub fn set_tsc_deadline(&mut self, now: u64, tsc: u64, deadline: u64) {
        self.advance(now);
        self.timer.set_tsc_deadline(self.timer_mode(), tsc, deadline);
    }
}

/// Bits of an x2APIC register that may be written; `None` if the register may not.
fn x2apic_writable(register: u8) -> Option<u64> {
    match register {
        TASK_PRIORITY | SELF_IPI => Some(0xff),
        END_OF_INTERRUPT | ERROR_STATUS => Some(0),
        SPURIOUS => Some(0x3ff),
        COMMAND => Some(0xffff_ffff_0000_0000 | u64::from(COMMAND_WRITABLE)),
        LVT..=LVT_LAST => {
            let writable = LVT_WRITABLE.get(usize::from(register - LVT))?;
            Some(u64::from(writable | LVT_READ_ONLY))
        }
        INITIAL_COUNT => Some(0xffff_ffff),
        DIVIDE => Some(0x0b),
        _ => None,
    }
}
