//! The chipset of a PC: its devices, their shared virtual time, and what waits for each vCPU.
//!
//! Wiring of interrupt lines is in `fabric`, decoding of ports, MMIO and MSRs in `routing`.

use crate::elsewhere::Outward;
use crate::hpet::Hpet;
use crate::ioapic::{self, IoApic};
use crate::lapic::{Effect, LocalApic};
use crate::pic::Pic;
use crate::pit::Pit;
use crate::pm_timer::{PmTimer, Width};
use crate::uart::Uart;
use serde::{Deserialize, Serialize};

/// Number of serial ports, COM1 to COM4.
pub const UART_COUNT: usize = 4;

pub(crate) const NEVER: u64 = u64::MAX;

/// What waits for a vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    /// Take it with [`Chipset::take_nmi`].
    pub nmi: bool,
    /// Take it with [`Chipset::take_init`]; it comes before `start_up`.
    pub init: bool,
    /// Start-up IPI with its vector (the 4 KiB page to start at); [`Chipset::take_start_up`]. It has an effect
    /// only on a vCPU that waits for it, but must be taken by every one.
    pub start_up: Option<u8>,
    /// An interrupt above the processor priority, or one of the 8259A:
    /// [`Chipset::acknowledge_interrupt`] when the vCPU can take it.
    pub interrupt: bool,
}

impl Pending {
    /// Whether anything waits.
    pub fn any(&self) -> bool {
        *self != Pending::default()
    }

    fn adds_to(&self, before: &Pending) -> bool {
        (self.nmi && !before.nmi)
            || (self.init && !before.init)
            || (self.start_up.is_some() && self.start_up != before.start_up)
            || (self.interrupt && !before.interrupt)
    }
}

/// All devices of this crate, wired as in a PC.
///
/// `now` is virtual time in nanoseconds. It should never decrease; an access that comes with an older time than
/// another (two vCPUs) is treated as if it came at the newest time seen.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chipset {
    // Devices.
    pub(crate) pic: Pic,
    pub(crate) pit: Pit,
    pub(crate) ioapic: IoApic,
    pub(crate) hpet: Hpet,
    pub(crate) pm_timer: PmTimer,
    pub(crate) uarts: [Uart; UART_COUNT],
    pub(crate) lapics: Vec<LocalApic>,
    // Wiring.
    /// Who asserts each global system interrupt, a bit for each source: lines are wired-OR.
    pub(crate) asserted_by: [u8; ioapic::PINS],
    /// Level of the 8259A's INT output.
    pub(crate) pic_output: bool,
    /// Interrupt controllers and PIT are elsewhere, and know whether the HPET has the PIT's place.
    pub(crate) elsewhere: Option<bool>,
    /// What they are to be told.
    pub(crate) outward: Vec<Outward>,
    // What is derived from the devices, so that it is cheap to ask.
    now: u64,
    deadline: u64,
    pending: Vec<Pending>,
    wakeups: Vec<usize>,
}

impl Chipset {
    /// A chipset after reset for vCPUs 0 to `vcpus - 1`, whose APIC ids are their numbers; vCPU 0 is the
    /// bootstrap processor. There is always at least one.
    pub fn new(vcpus: usize) -> Chipset {
        let count = vcpus.max(1);
        let mut chipset = Chipset {
            pic: Pic::new(),
            pit: Pit::new(),
            ioapic: IoApic::new(),
            hpet: Hpet::new(),
            pm_timer: PmTimer::new(Width::Bits32),
            uarts: [Uart::new(), Uart::new(), Uart::new(), Uart::new()],
            lapics: (0..count).map(|vcpu| LocalApic::new(vcpu as u32, vcpu == 0)).collect(),
            asserted_by: [0; ioapic::PINS],
            pic_output: false,
            elsewhere: None,
            outward: Vec::new(),
            now: 0,
            deadline: NEVER,
            pending: vec![Pending::default(); count],
            wakeups: Vec::new(),
        };
        // The output of the idle timer is high: that must not look like a tick when it is first programmed.
        chipset.sync_pit(0);
        chipset
    }

    /// Whether the other one is of the same parts: only then may it take this one's place.
    pub fn is_like(&self, other: &Chipset) -> bool {
        let here = self.elsewhere.is_none() && other.elsewhere.is_none();
        let processors = self.lapics.len() == other.lapics.len() && self.pending.len() == other.pending.len();
        here && processors && self.wakeups.iter().all(|&vcpu| vcpu < self.lapics.len())
    }

    /// Run every timer that is due at `now`. A periodic timer that missed periods interrupts once.
    pub fn advance(&mut self, now: u64) {
        self.clock(now);
    }

    /// Virtual time of the next timer event; always later than the last `now` that the chipset has seen.
    pub fn next_deadline(&self) -> Option<u64> {
        (self.deadline != NEVER).then_some(self.deadline)
    }

    /// Every access comes through here, so that timers due before it have run.
    pub(crate) fn clock(&mut self, now: u64) -> u64 {
        self.now = self.now.max(now);
        if self.now >= self.deadline {
            self.run_timers();
        }
        self.now
    }

    fn run_timers(&mut self) {
        let now = self.now;
        self.hpet.advance(now);
        self.sync_hpet();
        if self.controllers_are_elsewhere() {
            return self.update_deadline();
        }
        self.pit.advance(now);
        self.sync_pit(now);
        for vcpu in 0..self.lapics.len() {
            if let Some(lapic) = self.lapics.get_mut(vcpu) {
                lapic.advance(now);
            }
            self.refresh(vcpu);
        }
        self.update_deadline();
    }

    pub(crate) fn update_deadline(&mut self) {
        if self.controllers_are_elsewhere() {
            self.deadline = self.hpet.next_deadline().unwrap_or(NEVER);
            return;
        }
        let devices = [self.pit.next_deadline(), self.hpet.next_deadline()];
        let timers = self.lapics.iter().map(LocalApic::next_deadline);
        self.deadline = timers.chain(devices).flatten().min().unwrap_or(NEVER);
    }

    /// What waits for a vCPU. Cheap: to be asked before every entry.
    pub fn pending(&self, vcpu: usize) -> Pending {
        self.pending.get(vcpu).copied().unwrap_or_default()
    }

    /// Forget what waits for vCPUs: it waits elsewhere.
    pub(crate) fn nothing_pending(&mut self) {
        self.pending.fill(Pending::default());
    }

    /// Bring what is derived from a local APIC up to date.
    pub(crate) fn refresh(&mut self, vcpu: usize) {
        if self.controllers_are_elsewhere() {
            return;
        }
        let (Some(lapic), Some(pending)) = (self.lapics.get(vcpu), self.pending.get_mut(vcpu)) else {
            return;
        };
        let before = *pending;
        *pending = Pending {
            nmi: lapic.nmi(),
            init: lapic.init(),
            start_up: lapic.start_up(),
            interrupt: lapic.interrupt_requested(),
        };
        if pending.adds_to(&before) && !self.wakeups.contains(&vcpu) {
            self.wakeups.push(vcpu);
        }
    }

    /// vCPUs for which something became pending since the last call. Does not allocate while there are none.
    pub fn take_wakeups(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.wakeups)
    }

    /// The vCPU takes an interrupt: its vector, which is in service from now on.
    ///
    /// `None` if there is none (any more). The 8259A comes before the local APIC; if its request was withdrawn
    /// the vector is its spurious one.
    pub fn acknowledge_interrupt(&mut self, now: u64, vcpu: usize) -> Option<u8> {
        self.clock(now);
        let lapic = self.lapics.get_mut(vcpu)?;
        let vector = if lapic.external_requested() {
            lapic.acknowledge_external();
            let vector = self.pic.acknowledge();
            // INT drops with INTA, so that a request behind it is a new edge.
            self.drive_pic_output(false);
            self.sync_pic();
            Some(vector)
        } else {
            lapic.acknowledge()
        };
        self.refresh(vcpu);
        vector
    }

    /// Whether the vCPU may end the interrupt that it has just acknowledged without telling the local APIC. If so,
    /// [`Chipset::settle_end_of_interrupt`] has to come before anything that depends on what is in service.
    pub fn defer_end_of_interrupt(&mut self, vcpu: usize) -> bool {
        let deferred = self.lapics.get_mut(vcpu).is_some_and(LocalApic::defer_end);
        self.refresh(vcpu);
        deferred
    }

    /// A deferred end of interrupt has come to pass (`ended`), or is told in the ordinary way when it does.
    pub fn settle_end_of_interrupt(&mut self, vcpu: usize, ended: bool) {
        if let Some(lapic) = self.lapics.get_mut(vcpu) {
            lapic.settle_end(ended);
        }
        self.refresh(vcpu);
    }

    /// End the highest interrupt that is in service, as the vCPU does without writing a register.
    pub fn end_interrupt(&mut self, vcpu: usize) {
        if let Some(vector) = self.lapics.get_mut(vcpu).and_then(LocalApic::end_of_interrupt) {
            self.perform(vcpu, Effect::EndOfInterrupt(vector));
        }
        self.refresh(vcpu);
    }

    /// The vCPU takes its NMI; false if there is none.
    pub fn take_nmi(&mut self, vcpu: usize) -> bool {
        let taken = self.lapics.get_mut(vcpu).is_some_and(LocalApic::take_nmi);
        self.refresh(vcpu);
        taken
    }

    /// The vCPU takes INIT, which resets its local APIC unless it is only a VM exit; false if there is none.
    pub fn take_init(&mut self, vcpu: usize, reset: bool) -> bool {
        let taken = self.lapics.get_mut(vcpu).is_some_and(|lapic| lapic.take_init(reset));
        self.refresh(vcpu);
        taken
    }

    /// The vCPU takes a start-up IPI.
    pub fn take_start_up(&mut self, vcpu: usize) -> Option<u8> {
        let vector = self.lapics.get_mut(vcpu).and_then(LocalApic::take_start_up);
        self.refresh(vcpu);
        vector
    }

    /// CR8 of a vCPU, 4 bits.
    pub fn task_priority(&self, vcpu: usize) -> u8 {
        self.lapics.get(vcpu).map_or(0, LocalApic::cr8)
    }

    /// Write CR8; bits above 3 are ignored (the CPU raises #GP for them).
    pub fn set_task_priority(&mut self, vcpu: usize, value: u8) {
        if let Some(lapic) = self.lapics.get_mut(vcpu) {
            lapic.set_cr8(value);
        }
        self.refresh(vcpu);
    }

    /// Type at a serial port; returns how many bytes fitted into its queue (64 KiB).
    pub fn serial_input(&mut self, now: u64, index: usize, bytes: &[u8]) -> usize {
        self.clock(now);
        let accepted = self.uarts.get_mut(index).map_or(0, |uart| uart.push_input(bytes));
        self.sync_uart(index);
        accepted
    }

    /// Bytes of input that the guest has not read yet.
    pub fn serial_pending(&self, index: usize) -> usize {
        self.uarts.get(index).map_or(0, Uart::input_len)
    }

    /// What the guest has sent since the last call.
    pub fn take_serial_output(&mut self, index: usize) -> Vec<u8> {
        self.uarts.get_mut(index).map(Uart::take_output).unwrap_or_default()
    }

    /// How many bytes [`Chipset::take_serial_output`] would return.
    pub fn serial_output_len(&self, index: usize) -> usize {
        self.uarts.get(index).map_or(0, Uart::output_len)
    }
}
