//! 16550A UART with an always empty transmitter and a deep queue of host input behind its receive FIFO.
//!
//! Source: National Semiconductor PC16550D data sheet. Bit times are not modelled: what is transmitted is gone
//! at once, and a receive FIFO below its trigger level means that no more input is waiting, so its character
//! timeout is immediate.
//!
//! Two things differ from the chip on purpose. Input that was typed ahead survives the way drivers probe and open a
//! port (clear the FIFO, read the receiver once, look at nothing): clearing the FIFO returns host input to the
//! queue, and the queue is held until the guest enables the receive interrupt or polls for data. And the interrupt
//! line is not gated by OUT2: guests that know only emulators never set it.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Bytes of host input that wait behind the receive FIFO.
pub const INPUT_CAPACITY: usize = 64 * 1024;

const FIFO_DEPTH: usize = 16;

/// Reads of the line status, with no byte sent in between, that count as polling for input.
const POLLS: u8 = 16;

const IER_RECEIVE: u8 = 1 << 0;
const IER_TRANSMIT: u8 = 1 << 1;
const IER_LINE: u8 = 1 << 2;
const IER_MODEM: u8 = 1 << 3;

const IIR_NONE: u8 = 0x01;
const IIR_MODEM: u8 = 0x00;
const IIR_TRANSMIT: u8 = 0x02;
const IIR_RECEIVE: u8 = 0x04;
const IIR_LINE: u8 = 0x06;
const IIR_TIMEOUT: u8 = 0x0c;
const IIR_FIFO: u8 = 0xc0;

const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RECEIVE: u8 = 1 << 1;

const LCR_DIVISOR: u8 = 1 << 7;

const MCR_DTR: u8 = 1 << 0;
const MCR_RTS: u8 = 1 << 1;
const MCR_OUT1: u8 = 1 << 2;
const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOP: u8 = 1 << 4;

const LSR_DATA: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_TRANSMITTER_EMPTY: u8 = 0x60;

const MSR_CTS: u8 = 1 << 4;
const MSR_DSR: u8 = 1 << 5;
const MSR_RI: u8 = 1 << 6;
const MSR_DCD: u8 = 1 << 7;

/// One serial port.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uart {
    // Wiring.
    /// From the host, not yet in the FIFO.
    input: VecDeque<u8>,
    /// To the host, until it is taken.
    output: Vec<u8>,
    // Volatile state.
    fifo: VecDeque<u8>,
    divisor: u16,
    interrupt_enable: u8,
    fifo_control: u8,
    line_control: u8,
    modem_control: u8,
    modem_deltas: u8,
    scratch: u8,
    overrun: bool,
    /// Line status reads since host input was held back; [`POLLS`] when it is not.
    polls: u8,
    /// "THR empty" is waiting to be told.
    transmit_interrupt: bool,
}

impl Default for Uart {
    fn default() -> Uart {
        Uart::new()
    }
}

impl Uart {
    /// After reset, 9600 baud, the far end ready (CTS, DSR and DCD asserted).
    pub fn new() -> Uart {
        Uart {
            input: VecDeque::new(),
            output: Vec::new(),
            fifo: VecDeque::with_capacity(FIFO_DEPTH),
            divisor: 12,
            interrupt_enable: 0,
            fifo_control: 0,
            line_control: 0,
            modem_control: 0,
            modem_deltas: 0,
            scratch: 0,
            overrun: false,
            polls: 0,
            transmit_interrupt: false,
        }
    }

    /// Queue bytes for the guest; returns how many fitted.
    pub fn push_input(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(INPUT_CAPACITY.saturating_sub(self.input.len()));
        self.input.extend(bytes.iter().take(count));
        self.refill();
        count
    }

    /// Bytes of input that the guest has not read.
    pub fn input_len(&self) -> usize {
        self.input.len() + self.fifo.len()
    }

    /// What the guest has sent since the last call.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Bytes that [`Uart::take_output`] would return.
    pub fn output_len(&self) -> usize {
        self.output.len()
    }

    /// The interrupt line.
    pub fn interrupt(&self) -> bool {
        self.identification() != IIR_NONE
    }

    /// Read the register at `offset` 0-7.
    pub fn read(&mut self, offset: u16) -> u8 {
        let divisor_latch = self.line_control & LCR_DIVISOR != 0;
        match offset {
            0 if divisor_latch => self.divisor as u8,
            1 if divisor_latch => (self.divisor >> 8) as u8,
            0 => self.read_data(),
            1 => self.interrupt_enable,
            2 => self.read_identification(),
            3 => self.line_control,
            4 => self.modem_control,
            5 => self.read_line_status(),
            6 => self.modem_status() | std::mem::take(&mut self.modem_deltas),
            7 => self.scratch,
            _ => 0xff,
        }
    }

    fn read_data(&mut self) -> u8 {
        let value = self.fifo.pop_front().unwrap_or(0);
        self.refill();
        value
    }

    fn read_identification(&mut self) -> u8 {
        let identification = self.identification();
        if identification == IIR_TRANSMIT {
            self.transmit_interrupt = false;
        }
        identification | if self.fifo_control & FCR_ENABLE != 0 { IIR_FIFO } else { 0 }
    }

    fn read_line_status(&mut self) -> u8 {
        if self.polls < POLLS && !self.input.is_empty() {
            self.polls += 1;
            self.refill();
        }
        let data = if self.fifo.is_empty() { 0 } else { LSR_DATA };
        let overrun = if std::mem::take(&mut self.overrun) { LSR_OVERRUN } else { 0 };
        LSR_TRANSMITTER_EMPTY | data | overrun
    }

    /// Interrupt identification by priority (data sheet, table III).
    fn identification(&self) -> u8 {
        let enabled = |bit| self.interrupt_enable & bit != 0;
        if enabled(IER_LINE) && self.overrun {
            IIR_LINE
        } else if enabled(IER_RECEIVE) && self.fifo.len() >= self.trigger() {
            IIR_RECEIVE
        } else if enabled(IER_RECEIVE) && !self.fifo.is_empty() {
            IIR_TIMEOUT
        } else if enabled(IER_TRANSMIT) && self.transmit_interrupt {
            IIR_TRANSMIT
        } else if enabled(IER_MODEM) && self.modem_deltas != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    fn trigger(&self) -> usize {
        match (self.fifo_control & FCR_ENABLE != 0, self.fifo_control >> 6) {
            (true, 1) => 4,
            (true, 2) => 8,
            (true, 3) => 14,
            _ => 1,
        }
    }

    fn depth(&self) -> usize {
        if self.fifo_control & FCR_ENABLE != 0 { FIFO_DEPTH } else { 1 }
    }

    /// Move host input into the FIFO, unless it is held; in loopback the receiver is cut off from it.
    fn refill(&mut self) {
        if self.modem_control & MCR_LOOP != 0 || self.polls < POLLS {
            return;
        }
        let room = self.depth().saturating_sub(self.fifo.len()).min(self.input.len());
        self.fifo.extend(self.input.drain(..room));
    }

    /// Write the register at `offset` 0-7.
    pub fn write(&mut self, offset: u16, value: u8) {
        let divisor_latch = self.line_control & LCR_DIVISOR != 0;
        match offset {
            0 if divisor_latch => self.divisor = (self.divisor & 0xff00) | u16::from(value),
            1 if divisor_latch => self.divisor = (self.divisor & 0x00ff) | u16::from(value) << 8,
            0 => self.transmit(value),
            1 => self.write_interrupt_enable(value & 0x0f),
            2 => self.write_fifo_control(value),
            3 => self.line_control = value,
            4 => self.write_modem_control(value & 0x1f),
            7 => self.scratch = value,
            // Line and modem status are read-only.
            _ => {}
        }
    }

    fn transmit(&mut self, value: u8) {
        if self.polls < POLLS {
            // The line status was read for the transmitter's sake.
            self.polls = 0;
        }
        if self.modem_control & MCR_LOOP == 0 {
            self.output.push(value);
        } else if self.fifo.len() < self.depth() {
            self.fifo.push_back(value);
        } else {
            self.overrun = true;
        }
        // The holding register is empty again before the guest can look.
        self.transmit_interrupt = true;
    }

    /// Enabling the transmit interrupt while the holding register is empty raises it at once.
    fn write_interrupt_enable(&mut self, value: u8) {
        if value & !self.interrupt_enable & IER_TRANSMIT != 0 {
            self.transmit_interrupt = true;
        }
        self.interrupt_enable = value;
        if value & IER_RECEIVE != 0 {
            self.polls = POLLS;
            self.refill();
        }
    }

    fn write_fifo_control(&mut self, value: u8) {
        let toggled = (value ^ self.fifo_control) & FCR_ENABLE != 0;
        if toggled || value & FCR_CLEAR_RECEIVE != 0 {
            self.clear_receiver();
        }
        // The other bits are written only together with the enable bit; the clear bits reset themselves.
        self.fifo_control = if value & FCR_ENABLE != 0 { value & (0xc0 | FCR_ENABLE) } else { 0 };
        self.refill();
    }

    fn clear_receiver(&mut self) {
        if self.modem_control & MCR_LOOP != 0 {
            self.fifo.clear();
        }
        while let Some(byte) = self.fifo.pop_back() {
            self.input.push_front(byte);
        }
        if self.interrupt_enable & IER_RECEIVE == 0 {
            self.polls = 0;
        }
    }

    fn write_modem_control(&mut self, value: u8) {
        let before = self.modem_status();
        self.modem_control = value;
        let after = self.modem_status();
        let changed = (before ^ after) & (MSR_CTS | MSR_DSR | MSR_DCD);
        // Ring indicator reports its trailing edge only.
        let ring_ended = before & !after & MSR_RI;
        self.modem_deltas |= (changed | ring_ended) >> 4;
        self.refill();
    }

    fn modem_status(&self) -> u8 {
        if self.modem_control & MCR_LOOP == 0 {
            return MSR_CTS | MSR_DSR | MSR_DCD;
        }
        let pairs = [(MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD)];
        pairs.iter().filter(|(out, _)| self.modem_control & out != 0).fold(0, |status, (_, bit)| status | bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u16 = 0;
    const IER: u16 = 1;
    const IIR: u16 = 2;
    const FCR: u16 = 2;
    const LCR: u16 = 3;
    const MCR: u16 = 4;
    const LSR: u16 = 5;
    const MSR: u16 = 6;

    #[test]
    fn linux_autoconfig_finds_a_16550a() {
        let mut uart = Uart::new();
        uart.write(IER, 0);
        assert_eq!(uart.read(IER) & 0x0f, 0);
        uart.write(IER, 0x0f);
        assert_eq!(uart.read(IER), 0x0f);
        uart.write(IER, 0);
        uart.write(MCR, MCR_LOOP | 0x0a);
        assert_eq!(uart.read(MSR) & 0xf0, 0x90);
        uart.write(MCR, 0);
        uart.write(LCR, 0xbf);
        uart.write(FCR, 0);
        uart.write(LCR, 0);
        uart.write(FCR, FCR_ENABLE);
        assert_eq!(uart.read(IIR) >> 6, 3);
        // Neither extended features (EFR), nor a 16750's deep FIFO, nor an XScale's UUE bit.
        uart.write(LCR, 0x80);
        assert_ne!(uart.read(IIR), 0);
        uart.write(FCR, FCR_ENABLE | 0x20);
        assert_eq!(uart.read(IIR) >> 5, 6);
        uart.write(LCR, 0);
        uart.write(IER, 0x40);
        assert_eq!(uart.read(IER), 0);
    }

    /// serial8250_startup: without the second interrupt Linux would fall back to a polling timer.
    #[test]
    fn linux_thre_test_sees_the_interrupt_again() {
        let mut uart = Uart::new();
        assert_eq!(uart.read(LSR) & 0x60, 0x60);
        uart.write(IER, IER_TRANSMIT);
        assert_eq!(uart.read(IIR) & 0x0f, IIR_TRANSMIT);
        uart.write(IER, 0);
        uart.write(IER, IER_TRANSMIT);
        assert_eq!(uart.read(IIR) & 0x0f, IIR_TRANSMIT);
        assert_eq!(uart.read(IIR) & 0x0f, IIR_NONE);
        uart.write(IER, 0);
    }

    #[test]
    fn iir_read_clears_the_transmit_interrupt_until_the_next_byte() {
        let mut uart = Uart::new();
        uart.write(IER, IER_TRANSMIT);
        assert!(uart.interrupt());
        uart.read(IIR);
        assert!(!uart.interrupt());
        uart.write(DATA, b'x');
        assert!(uart.interrupt());
        assert_eq!(uart.take_output(), b"x");
    }

    /// The order of accesses in Linux's autoconfig, then startup, with input waiting all along.
    #[test]
    fn input_typed_ahead_survives_probe_and_open() {
        let mut uart = Uart::new();
        uart.push_input(b"typed ahead");
        let clear = [FCR_ENABLE, FCR_ENABLE | 0x06, 0];
        uart.write(IER, 0x0f);
        uart.write(IER, 0);
        for _ in 0..3 {
            clear.iter().for_each(|&value| uart.write(FCR, value));
            for register in [LSR, DATA, IIR, MSR, LSR] {
                uart.read(register);
            }
        }
        uart.write(FCR, FCR_ENABLE | 0x80);
        uart.write(IER, IER_RECEIVE);
        let received: Vec<u8> = (0..11).map(|_| uart.read(DATA)).collect();
        assert_eq!(received, b"typed ahead");
    }

    /// Linux's set_termios enables the receive interrupt first and the FIFO after it.
    #[test]
    fn enabling_the_fifo_of_an_open_port_keeps_its_input_flowing() {
        let mut uart = Uart::new();
        uart.push_input(b"abc");
        uart.write(IER, IER_RECEIVE);
        uart.write(FCR, FCR_ENABLE | 0x80);
        assert!(uart.interrupt());
        assert_eq!([uart.read(DATA), uart.read(DATA), uart.read(DATA)], *b"abc");
    }

    #[test]
    fn polling_guest_gets_its_input() {
        let mut uart = Uart::new();
        uart.push_input(b"x");
        let polls = (0..100).take_while(|_| uart.read(LSR) & LSR_DATA == 0).count();
        assert!(polls < 100);
        assert_eq!(uart.read(DATA), b'x');
    }

    #[test]
    fn waiting_for_the_transmitter_is_not_polling_for_input() {
        let mut uart = Uart::new();
        uart.push_input(b"x");
        for _ in 0..100 {
            assert_eq!(uart.read(LSR), LSR_TRANSMITTER_EMPTY);
            uart.write(DATA, b'.');
        }
    }

    #[test]
    fn receive_interrupt_at_the_trigger_and_timeout_below_it() {
        let mut uart = Uart::new();
        uart.write(FCR, FCR_ENABLE | 0x80);
        uart.write(IER, IER_RECEIVE);
        uart.push_input(b"1234567");
        assert_eq!(uart.read(IIR), IIR_FIFO | IIR_TIMEOUT);
        uart.push_input(b"8");
        assert_eq!(uart.read(IIR), IIR_FIFO | IIR_RECEIVE);
        assert_eq!(uart.read(DATA), b'1');
        assert_eq!(uart.read(IIR), IIR_FIFO | IIR_TIMEOUT);
    }

    #[test]
    fn host_queue_refills_the_fifo_in_order() {
        let mut uart = Uart::new();
        let sent: Vec<u8> = (0..1000).map(|index| index as u8).collect();
        assert_eq!(uart.push_input(&sent), 1000);
        uart.write(FCR, FCR_ENABLE);
        uart.write(IER, IER_RECEIVE);
        let mut received = Vec::new();
        while uart.read(LSR) & LSR_DATA != 0 {
            received.push(uart.read(DATA));
        }
        assert_eq!(received, sent);
    }

    #[test]
    fn host_queue_is_bounded() {
        let mut uart = Uart::new();
        let accepted = uart.push_input(&vec![b'a'; INPUT_CAPACITY + 10]);
        assert_eq!(accepted, INPUT_CAPACITY);
        assert_eq!(uart.push_input(b"b"), 0);
        uart.write(IER, IER_RECEIVE);
        assert_eq!(uart.push_input(b"bcd"), 1);
    }

    #[test]
    fn loopback_returns_bytes_and_overruns() {
        let mut uart = Uart::new();
        uart.write(MCR, MCR_LOOP);
        uart.write(DATA, b'a');
        uart.write(IER, IER_LINE);
        uart.write(DATA, b'b');
        assert_eq!(uart.read(IIR), IIR_LINE);
        assert_eq!(uart.read(LSR) & (LSR_DATA | LSR_OVERRUN), LSR_DATA | LSR_OVERRUN);
        assert_eq!(uart.read(LSR) & LSR_OVERRUN, 0);
        assert_eq!(uart.read(DATA), b'a');
        assert_eq!(uart.take_output(), b"");
    }

    #[test]
    fn modem_deltas_interrupt_and_clear_on_read() {
        let mut uart = Uart::new();
        assert_eq!(uart.read(MSR), MSR_CTS | MSR_DSR | MSR_DCD);
        uart.write(IER, IER_MODEM);
        uart.write(MCR, MCR_LOOP | MCR_RTS);
        assert_eq!(uart.read(IIR), IIR_MODEM);
        assert_eq!(uart.read(MSR), MSR_CTS | 0x0a);
        assert_eq!(uart.read(IIR), IIR_NONE);
    }

    #[test]
    fn divisor_latch_hides_data_and_interrupt_enable() {
        let mut uart = Uart::new();
        uart.write(IER, 0x05);
        uart.write(LCR, 0x83);
        uart.write(DATA, 0x01);
        uart.write(IER, 0x02);
        assert_eq!((uart.read(DATA), uart.read(IER)), (1, 2));
        uart.write(LCR, 0x03);
        assert_eq!(uart.read(IER), 0x05);
        assert_eq!(uart.output_len(), 0);
    }
}
