//! Two cascaded 8259A interrupt controllers with the edge/level control registers (ELCR) of PC chipsets.
//!
//! Source: Intel 8259A data sheet; ELCR: 82371SB (PIIX3) data sheet, 4D0h/4D1h.

use serde::{Deserialize, Serialize};

const CASCADE: u8 = 1 << 2;

/// Which command word the next write to the data port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Expects {
    Mask,
    VectorBase,
    Cascade,
    Mode,
}

/// What one 8259A has, in the terms of its data sheet: for implementations elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChipState {
    /// Levels of the inputs.
    pub lines: u8,
    /// Interrupt request register.
    pub requests: u8,
    /// Interrupt mask register.
    pub mask: u8,
    /// In-service register.
    pub in_service: u8,
    /// The input of the highest priority.
    pub highest_priority: u8,
    /// Vector of input 0.
    pub vector_base: u8,
    /// The command port reads as the in-service register.
    pub read_in_service: bool,
    /// The next read is a poll.
    pub poll: bool,
    /// Special mask mode.
    pub special_mask: bool,
    /// 0, or the command word that comes next: ICW2, ICW3, ICW4 as 1 to 3.
    pub initializing: u8,
    /// ICW4 comes, too.
    pub wants_mode: bool,
    /// Automatic end of interrupt.
    pub auto_eoi: bool,
    /// Rotation with it.
    pub rotate_on_auto_eoi: bool,
    /// Special fully nested mode.
    pub special_fully_nested: bool,
    /// Edge/level control register.
    pub elcr: u8,
    /// Its bits that can be set.
    pub elcr_writable: u8,
}

#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Chip {
    // Static configuration.
    elcr_writable: u8,
    /// Inputs that follow their line whatever ELCR says: the master's cascade input.
    transparent: u8,
    // Wiring.
    lines: u8,
    // Volatile state.
    latched: u8,
    mask: u8,
    in_service: u8,
    elcr: u8,
    vector_base: u8,
    lowest_priority: u8,
    expects: Expects,
    single: bool,
    wants_mode: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    special_fully_nested: bool,
    read_in_service: bool,
    poll: bool,
}

impl Chip {
    /// As firmware leaves it: initialized, everything masked.
    fn new(vector_base: u8, elcr_writable: u8, transparent: u8) -> Chip {
        Chip {
            elcr_writable,
            transparent,
            lines: 0,
            latched: 0,
            mask: 0xff,
            in_service: 0,
            elcr: 0,
            vector_base,
            lowest_priority: 7,
            expects: Expects::Mask,
            single: false,
            wants_mode: false,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_mask: false,
            special_fully_nested: false,
            read_in_service: false,
            poll: false,
        }
    }

    fn state(&self) -> ChipState {
        ChipState {
            lines: self.lines,
            requests: self.requests(),
            mask: self.mask,
            in_service: self.in_service,
            highest_priority: (self.lowest_priority + 1) & 7,
            vector_base: self.vector_base,
            read_in_service: self.read_in_service,
            poll: self.poll,
            special_mask: self.special_mask,
            initializing: self.expects as u8,
            wants_mode: self.wants_mode,
            auto_eoi: self.auto_eoi,
            rotate_on_auto_eoi: self.rotate_on_auto_eoi,
            special_fully_nested: self.special_fully_nested,
            elcr: self.elcr,
            elcr_writable: self.elcr_writable,
        }
    }

    /// Of the inputs only what is latched is taken: their levels are the wiring's.
    fn set_state(&mut self, state: &ChipState) {
        self.elcr = state.elcr & self.elcr_writable;
        self.latched = state.requests & !(self.elcr | self.transparent);
        self.mask = state.mask;
        self.in_service = state.in_service;
        self.lowest_priority = state.highest_priority.wrapping_sub(1) & 7;
        self.vector_base = state.vector_base & 0xf8;
        self.read_in_service = state.read_in_service;
        self.poll = state.poll;
        self.special_mask = state.special_mask;
        self.expects = match state.initializing {
            1 => Expects::VectorBase,
            2 => Expects::Cascade,
            3 => Expects::Mode,
            _ => Expects::Mask,
        };
        self.wants_mode = state.wants_mode;
        self.auto_eoi = state.auto_eoi;
        self.rotate_on_auto_eoi = state.rotate_on_auto_eoi;
        self.special_fully_nested = state.special_fully_nested;
    }

    fn set_line(&mut self, irq: u8, level: bool) {
        let bit = 1 << (irq & 7);
        if !level {
            self.lines &= !bit;
            return;
        }
        if self.lines & bit == 0 && (self.elcr | self.transparent) & bit == 0 {
            self.latched |= bit;
        }
        self.lines |= bit;
    }

    /// Interrupt request register: latched edges and active levels.
    fn requests(&self) -> u8 {
        self.latched | (self.lines & (self.elcr | self.transparent))
    }

    /// 0 for the highest priority, 7 for the lowest, 8 if no bit of `set` is there.
    fn rank(&self, set: u8) -> u32 {
        set.rotate_right(u32::from(self.lowest_priority) + 1).trailing_zeros()
    }

    fn irq_of_rank(&self, rank: u32) -> u8 {
        (self.lowest_priority + 1 + rank as u8) & 7
    }

    /// The input that drives the INT output, if any.
    fn pending(&self) -> Option<u8> {
        let request = self.rank(self.requests() & !self.mask);
        let mut blocking = self.in_service;
        if self.special_mask {
            blocking &= !self.mask;
        }
        if self.special_fully_nested {
            blocking &= !self.transparent;
        }
        (request < self.rank(blocking)).then(|| self.irq_of_rank(request))
    }

    fn acknowledge(&mut self, irq: u8) {
        let bit = 1 << irq;
        self.latched &= !bit;
        if !self.auto_eoi {
            self.in_service |= bit;
        } else if self.rotate_on_auto_eoi {
            self.lowest_priority = irq;
        }
    }

    fn read_command(&self) -> u8 {
        if self.read_in_service { self.in_service } else { self.requests() }
    }

    /// The read after a poll command is an acknowledge cycle.
    fn read_poll(&mut self) -> u8 {
        self.poll = false;
        match self.pending() {
            Some(irq) => {
                self.acknowledge(irq);
                0x80 | irq
            }
            None => 0,
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            self.initialize(value);
        } else if value & 0x08 != 0 {
            self.operate_mode(value);
        } else {
            self.operate_priority(value);
        }
    }

    /// ICW1. Its level bit is ignored, as in every chipset that has ELCR.
    fn initialize(&mut self, value: u8) {
        self.latched = 0;
        self.mask = 0;
        self.in_service = 0;
        self.lowest_priority = 7;
        self.special_mask = false;
        self.read_in_service = false;
        self.poll = false;
        self.auto_eoi = false;
        self.rotate_on_auto_eoi = false;
        self.special_fully_nested = false;
        self.single = value & 0x02 != 0;
        self.wants_mode = value & 0x01 != 0;
        self.expects = Expects::VectorBase;
    }

    /// OCW3.
    fn operate_mode(&mut self, value: u8) {
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
        if value & 0x04 != 0 {
            self.poll = true;
        } else if value & 0x02 != 0 {
            self.read_in_service = value & 0x01 != 0;
        }
    }

    /// OCW2.
    fn operate_priority(&mut self, value: u8) {
        let irq = value & 7;
        match value >> 5 {
            0 => self.rotate_on_auto_eoi = false,
            4 => self.rotate_on_auto_eoi = true,
            command @ (1 | 5) => {
                if let Some(ended) = self.end_highest()
                    && command == 5
                {
                    self.lowest_priority = ended;
                }
            }
            3 => self.in_service &= !(1 << irq),
            7 => {
                self.in_service &= !(1 << irq);
                self.lowest_priority = irq;
            }
            6 => self.lowest_priority = irq,
            _ => {}
        }
    }

    /// Non-specific EOI; in special mask mode it does not see masked inputs.
    fn end_highest(&mut self) -> Option<u8> {
        let candidates = if self.special_mask { self.in_service & !self.mask } else { self.in_service };
        let rank = self.rank(candidates);
        if rank > 7 {
            return None;
        }
        let irq = self.irq_of_rank(rank);
        self.in_service &= !(1 << irq);
        Some(irq)
    }

    fn write_data(&mut self, value: u8) {
        let after_cascade = if self.wants_mode { Expects::Mode } else { Expects::Mask };
        match self.expects {
            Expects::Mask => self.mask = value,
            Expects::VectorBase => {
                self.vector_base = value & 0xf8;
                self.expects = if self.single { after_cascade } else { Expects::Cascade };
            }
            Expects::Cascade => self.expects = after_cascade,
            Expects::Mode => {
                self.auto_eoi = value & 0x02 != 0;
                self.special_fully_nested = value & 0x10 != 0;
                self.expects = Expects::Mask;
            }
        }
    }
}

/// Master and slave, the slave on the master's input 2.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pic {
    master: Chip,
    slave: Chip,
}

/// A byte register of the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// Port 0x20.
    MasterCommand,
    /// Port 0x21.
    MasterData,
    /// Port 0xa0.
    SlaveCommand,
    /// Port 0xa1.
    SlaveData,
    /// Port 0x4d0.
    MasterElcr,
    /// Port 0x4d1.
    SlaveElcr,
}

impl Default for Pic {
    fn default() -> Pic {
        Pic::new()
    }
}

impl Pic {
    /// Both chips as a PC's firmware leaves them: vectors 0x08 and 0x70, all inputs masked, edge triggered.
    pub fn new() -> Pic {
        // IRQ 0, 1, 2, 8 and 13 are always edge triggered.
        Pic { master: Chip::new(0x08, 0xf8, CASCADE), slave: Chip::new(0x70, 0xde, 0) }
    }

    /// Drive input `irq` (0-15; 2 is the cascade and cannot be driven).
    pub fn set_line(&mut self, irq: u8, level: bool) {
        match irq {
            2 | 16.. => {}
            0..8 => self.master.set_line(irq, level),
            8..16 => {
                self.slave.set_line(irq - 8, level);
                self.cascade();
            }
        }
    }

    /// What master and slave have.
    pub fn state(&self) -> [ChipState; 2] {
        [self.master.state(), self.slave.state()]
    }

    /// Have this, but for the levels of the inputs.
    pub fn set_state(&mut self, [master, slave]: &[ChipState; 2]) {
        self.master.set_state(master);
        self.slave.set_state(slave);
        self.cascade();
    }

    /// The INT output to the CPU.
    pub fn interrupt_requested(&self) -> bool {
        self.master.pending().is_some()
    }

    /// INTA cycles: the vector. Without a request it is the spurious vector, input 7 of the chip that was asked.
    pub fn acknowledge(&mut self) -> u8 {
        let Some(irq) = self.master.pending() else { return self.master.vector_base | 7 };
        self.master.acknowledge(irq);
        if irq != 2 {
            return self.master.vector_base | irq;
        }
        let from_slave = self.slave.pending();
        if let Some(irq) = from_slave {
            self.slave.acknowledge(irq);
        }
        self.cascade();
        self.slave.vector_base | from_slave.unwrap_or(7)
    }

    /// Read a register.
    pub fn read(&mut self, register: Register) -> u8 {
        let value = match register {
            Register::MasterCommand | Register::MasterData if self.master.poll => self.master.read_poll(),
            Register::SlaveCommand | Register::SlaveData if self.slave.poll => self.slave.read_poll(),
            Register::MasterCommand => self.master.read_command(),
            Register::MasterData => self.master.mask,
            Register::SlaveCommand => self.slave.read_command(),
            Register::SlaveData => self.slave.mask,
            Register::MasterElcr => self.master.elcr,
            Register::SlaveElcr => self.slave.elcr,
        };
        self.cascade();
        value
    }

    /// Write a register.
    pub fn write(&mut self, register: Register, value: u8) {
        match register {
            Register::MasterCommand => self.master.write_command(value),
            Register::MasterData => self.master.write_data(value),
            Register::SlaveCommand => self.slave.write_command(value),
            Register::SlaveData => self.slave.write_data(value),
            Register::MasterElcr => self.master.elcr = value & self.master.elcr_writable,
            Register::SlaveElcr => self.slave.elcr = value & self.slave.elcr_writable,
        }
        self.cascade();
    }

    fn cascade(&mut self) {
        self.master.set_line(2, self.slave.pending().is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::Register::*;
    use super::*;

    /// The sequence of Linux's init_8259A with vectors 0x30 and 0x38, then all inputs unmasked.
    fn initialized(mode: u8) -> Pic {
        let mut pic = Pic::new();
        for (register, value) in [
            (MasterCommand, 0x11),
            (MasterData, 0x30),
            (MasterData, 0x04),
            (MasterData, mode),
            (SlaveCommand, 0x11),
            (SlaveData, 0x38),
            (SlaveData, 0x02),
            (SlaveData, mode),
            (MasterData, 0),
            (SlaveData, 0),
        ] {
            pic.write(register, value);
        }
        pic
    }

    #[test]
    fn mask_register_reads_back_as_linux_probes_it() {
        let mut pic = Pic::new();
        pic.write(SlaveData, 0xff);
        pic.write(MasterData, 0xfb);
        assert_eq!(pic.read(MasterData), 0xfb);
    }

    #[test]
    fn edge_is_latched_and_served_once() {
        let mut pic = initialized(1);
        pic.set_line(4, true);
        assert!(pic.interrupt_requested());
        assert_eq!(pic.acknowledge(), 0x34);
        pic.write(MasterCommand, 0x20);
        assert!(!pic.interrupt_requested());
    }

    #[test]
    fn level_input_is_requested_again_after_eoi() {
        let mut pic = initialized(1);
        pic.write(MasterElcr, 1 << 5);
        pic.set_line(5, true);
        assert_eq!(pic.acknowledge(), 0x35);
        assert!(!pic.interrupt_requested());
        pic.write(MasterCommand, 0x65);
        assert!(pic.interrupt_requested());
        pic.set_line(5, false);
        assert!(!pic.interrupt_requested());
    }

    #[test]
    fn slave_interrupt_needs_eoi_of_both_chips() {
        let mut pic = initialized(1);
        pic.set_line(12, true);
        assert_eq!(pic.acknowledge(), 0x3c);
        pic.set_line(14, true);
        pic.write(SlaveCommand, 0x20);
        assert!(!pic.interrupt_requested());
        pic.write(MasterCommand, 0x62);
        assert_eq!(pic.acknowledge(), 0x3e);
    }

    #[test]
    fn higher_priority_interrupts_a_handler_and_lower_waits() {
        let mut pic = initialized(1);
        pic.set_line(3, true);
        assert_eq!(pic.acknowledge(), 0x33);
        pic.set_line(6, true);
        assert!(!pic.interrupt_requested());
        pic.set_line(1, true);
        assert_eq!(pic.acknowledge(), 0x31);
    }

    #[test]
    fn withdrawn_request_is_spurious_7_and_not_in_service() {
        let mut pic = initialized(1);
        assert_eq!(pic.acknowledge(), 0x37);
        pic.write(MasterCommand, 0x0b);
        assert_eq!(pic.read(MasterCommand), 0);
    }

    #[test]
    fn slave_that_withdraws_between_the_inta_cycles_is_spurious_15() {
        let mut pic = initialized(1);
        // The request that the master saw at the first INTA is gone at the second.
        pic.master.latched |= CASCADE;
        assert_eq!(pic.acknowledge(), 0x3f);
        pic.write(MasterCommand, 0x0b);
        assert_eq!(pic.read(MasterCommand), CASCADE);
    }

    #[test]
    fn auto_eoi_leaves_nothing_in_service() {
        let mut pic = initialized(3);
        pic.set_line(0, true);
        assert_eq!(pic.acknowledge(), 0x30);
        pic.set_line(1, true);
        assert_eq!(pic.acknowledge(), 0x31);
    }

    #[test]
    fn special_mask_mode_lets_lower_priorities_through() {
        let mut pic = initialized(1);
        pic.set_line(0, true);
        assert_eq!(pic.acknowledge(), 0x30);
        pic.set_line(6, true);
        pic.write(MasterCommand, 0x68);
        pic.write(MasterData, 0x01);
        assert_eq!(pic.acknowledge(), 0x36);
    }

    #[test]
    fn poll_acknowledges_by_a_read() {
        let mut pic = initialized(1);
        pic.set_line(4, true);
        pic.write(MasterCommand, 0x0c);
        assert_eq!(pic.read(MasterCommand), 0x84);
        assert!(!pic.interrupt_requested());
        pic.write(MasterCommand, 0x0b);
        assert_eq!(pic.read(MasterCommand), 0x10);
    }

    #[test]
    fn rotation_makes_the_served_input_the_lowest() {
        let mut pic = initialized(1);
        pic.set_line(3, true);
        pic.acknowledge();
        pic.write(MasterCommand, 0xa0);
        pic.set_line(3, false);
        pic.set_line(3, true);
        pic.set_line(7, true);
        assert_eq!(pic.acknowledge(), 0x37);
    }

    #[test]
    fn elcr_keeps_the_timer_and_keyboard_edge_triggered() {
        let mut pic = Pic::new();
        pic.write(MasterElcr, 0xff);
        pic.write(SlaveElcr, 0xff);
        assert_eq!((pic.read(MasterElcr), pic.read(SlaveElcr)), (0xf8, 0xde));
    }
}
