//! What KVM tells its guests in their own memory, for one processor: time, time stolen, ends of interrupts (Linux,
//! Documentation/virt/kvm/x86/msr.rst).

use crate::clock::ClockKind;
use crate::shared::{NEVER, Shared};
use gasang_cpu::{Exception, Feature, Trap};
use gasang_x86::paravirtual::{
    ENABLED, END_BY_CLEARING, FLUSH_TLB, MSR_END_OF_INTERRUPT, MSR_STEAL_TIME, MSR_SYSTEM_TIME,
    MSR_SYSTEM_TIME_OLD, MSR_WALL_CLOCK, MSR_WALL_CLOCK_OLD, PREEMPTED, STEAL_TIME_RESERVED, TIME_STABLE,
};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::FileExt;

/// Time stolen is told this often, in virtual nanoseconds.
const STEAL_PERIOD: u64 = 4_000_000;
const NANOSECONDS: u64 = 1_000_000_000;
/// Offsets in the steal-time structure.
const STEAL_VERSION: u64 = 8;
const STEAL_PREEMPTED: u64 = 16;

/// The registers of one processor, and what goes with them.
#[derive(Debug)]
pub(crate) struct Paravirtual {
    registers: Registers,
    /// When time stolen is to be told next, and where the host tells it; never without.
    steal_due: u64,
    host: Option<File>,
    /// What the host had counted when it was last asked.
    counted: u64,
    /// The registers were loaded: the thread that runs the processor begins to count.
    loaded: bool,
}

/// The MSRs, as written; zero is off.
#[derive(Debug, Default, Clone, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registers {
    wall_clock: u64,
    system_time: u64,
    steal_time: u64,
    end_of_interrupt: u64,
    /// The guest may end an interrupt by clearing the bit.
    end_deferred: bool,
    stolen: u64,
    /// Of every structure; even between updates.
    version: u32,
}

impl Default for Paravirtual {
    fn default() -> Paravirtual {
        Paravirtual {
            registers: Registers::default(),
            steal_due: NEVER,
            host: None,
            counted: 0,
            loaded: false,
        }
    }
}

impl Hash for Paravirtual {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.registers.hash(hasher);
    }
}

/// An address MSR's address, if it is switched on.
fn enabled(register: u64) -> Option<u64> {
    (register & ENABLED != 0).then_some(register & !ENABLED)
}

/// Write guest memory; a place that is no RAM is the guest's own mistake, and takes nothing.
fn write(shared: &Shared, address: u64, bytes: &[u8]) {
    let _ = shared.write_memory(address, bytes);
}

/// Write a structure that begins with, or has at `at`, its version: odd while it changes.
fn write_versioned(shared: &Shared, address: u64, at: u64, version: &mut u32, parts: &[(u64, &[u8])]) {
    *version = version.wrapping_add(1);
    write(shared, address.wrapping_add(at), &version.to_le_bytes());
    for (offset, bytes) in parts {
        write(shared, address.wrapping_add(*offset), bytes);
    }
    *version = version.wrapping_add(1);
    write(shared, address.wrapping_add(at), &version.to_le_bytes());
}

impl Paravirtual {
    /// The registers, to be loaded into another machine.
    pub(crate) fn registers(&self) -> &Registers {
        &self.registers
    }

    /// Have these, in memory that has what they point to.
    pub(crate) fn load(&mut self, registers: Registers) {
        *self = Paravirtual { registers, loaded: true, ..Paravirtual::default() };
    }

    fn register(&mut self, shared: &Shared, msr: u32) -> Option<&mut u64> {
        let registers = &mut self.registers;
        let (feature, register) = match msr {
            MSR_WALL_CLOCK | MSR_WALL_CLOCK_OLD => (Feature::KvmClock, &mut registers.wall_clock),
            MSR_SYSTEM_TIME | MSR_SYSTEM_TIME_OLD => (Feature::KvmClock, &mut registers.system_time),
            MSR_STEAL_TIME => (Feature::KvmStealTime, &mut registers.steal_time),
            MSR_END_OF_INTERRUPT => (Feature::KvmEndOfInterrupt, &mut registers.end_of_interrupt),
            _ => return None,
        };
        shared.model.has(feature).then_some(register)
    }

    /// RDMSR; None if the register is none of these, or hidden.
    pub(crate) fn read(&mut self, shared: &Shared, msr: u32) -> Option<u64> {
        self.register(shared, msr).map(|register| *register)
    }

    /// WRMSR.
    pub(crate) fn write(
        &mut self,
        shared: &Shared,
        msr: u32,
        value: u64,
        tsc_offset: u64,
    ) -> Option<Result<(), Trap>> {
        let register = self.register(shared, msr)?;
        let reserved = match msr {
            MSR_STEAL_TIME => STEAL_TIME_RESERVED,
            MSR_END_OF_INTERRUPT => 0b10,
            _ => 0,
        };
        if value & reserved != 0 {
            return Some(Err(Exception::general_protection(0).into()));
        }
        *register = value;
        match msr {
            MSR_WALL_CLOCK | MSR_WALL_CLOCK_OLD => self.tell_wall_clock(shared),
            MSR_SYSTEM_TIME | MSR_SYSTEM_TIME_OLD => self.tell_time(shared, tsc_offset),
            MSR_STEAL_TIME => self.begin_stealing(shared),
            _ => {}
        }
        Some(Ok(()))
    }

    /// INIT: everything is off. An end of interrupt that was deferred went with the local APIC's state.
    pub(crate) fn reset(&mut self) {
        *self = Paravirtual::default();
    }

    /// The wall-clock time at the machine's creation, when virtual time was 0: the guest adds its time since.
    fn tell_wall_clock(&mut self, shared: &Shared) {
        let seconds = (shared.wall_clock / NANOSECONDS) as u32;
        let nanoseconds = (shared.wall_clock % NANOSECONDS) as u32;
        let parts: [(u64, &[u8]); 2] = [(4, &seconds.to_le_bytes()), (8, &nanoseconds.to_le_bytes())];
        let Registers { wall_clock, version, .. } = &mut self.registers;
        write_versioned(shared, *wall_clock, 0, version, &parts);
    }

    /// Virtual time by the guest's time-stamp counter: neither drifts from the other, so that this holds until the guest
    /// moves its counter.
    pub(crate) fn tell_time(&mut self, shared: &Shared, tsc_offset: u64) {
        let Some(address) = enabled(self.registers.system_time) else { return };
        let flags = if shared.model.has(Feature::KvmClockStable) { TIME_STABLE } else { 0 };
        let mut body = [0; 24];
        body[..8].copy_from_slice(&tsc_offset.to_le_bytes());
        // At that count it was virtual time 0.
        let (multiplier, shift) = shared.clock.multiplier_and_shift();
        body[16..20].copy_from_slice(&multiplier.to_le_bytes());
        body[20] = shift;
        body[21] = flags;
        write_versioned(shared, address, 0, &mut self.registers.version, &[(8, &body)]);
    }

    fn begin_stealing(&mut self, shared: &Shared) {
        self.steal_due = NEVER;
        self.host = None;
        let Some(address) = enabled(self.registers.steal_time) else { return };
        write(shared, address.wrapping_add(STEAL_PREEMPTED), &[0]);
        if shared.clock.kind() == ClockKind::Host {
            // The thread that runs this processor; a host that does not tell has stolen nothing.
            self.host = File::open("/proc/thread-self/schedstat").ok();
            self.counted = self.host.as_ref().map_or(0, run_delay);
        }
        self.update_stolen(shared, shared.clock.now());
    }

    /// Tell the time that this processor was ready to run and the host ran something else, if that is due.
    #[inline]
    pub(crate) fn tell_stolen(&mut self, shared: &Shared, now: u64) {
        if now >= self.steal_due {
            self.update_stolen(shared, now);
        }
    }

    fn update_stolen(&mut self, shared: &Shared, now: u64) {
        let Some(address) = enabled(self.registers.steal_time) else { return };
        if let Some(host) = &self.host {
            self.steal_due = now.saturating_add(STEAL_PERIOD);
            let counted = run_delay(host);
            self.registers.stolen += counted.saturating_sub(std::mem::replace(&mut self.counted, counted));
        }
        let Registers { stolen, version, .. } = &mut self.registers;
        write_versioned(shared, address, STEAL_VERSION, version, &[(0, &stolen.to_le_bytes())]);
    }

    /// The word in guest memory by which other processors learn whether this one runs.
    fn preempted(&self, shared: &Shared) -> Option<u64> {
        let wanted = shared.attention.len() > 1 && shared.model.has(Feature::KvmTlbFlush);
        let address = enabled(self.registers.steal_time).filter(|_| wanted)?;
        shared.memory.host(address.wrapping_add(STEAL_PREEMPTED))
    }

    /// The processor leaves the guest for a while.
    pub(crate) fn leave(&self, shared: &Shared) {
        if let Some(host) = self.preempted(shared) {
            shared.memory.store(host, 4, u64::from(PREEMPTED));
        }
    }

    /// The processor is back; whether others want its translations forgotten.
    pub(crate) fn enter(&mut self, shared: &Shared) -> bool {
        if std::mem::take(&mut self.loaded) && shared.clock.kind() == ClockKind::Host {
            self.begin_stealing(shared);
        }
        let Some(host) = self.preempted(shared) else { return false };
        loop {
            let found = shared.memory.load(host, 4) as u32;
            if found == 0 || shared.memory.compare_exchange_u32(host, found, 0) {
                return found & FLUSH_TLB != 0;
            }
        }
    }

    /// MSR_KVM_PV_EOI_EN.
    pub(crate) fn end_of_interrupt(&self) -> u64 {
        self.registers.end_of_interrupt
    }

    /// Set it, as KVM has it.
    pub(crate) fn set_end_of_interrupt(&mut self, value: u64) {
        self.registers.end_of_interrupt = value;
    }

    /// Where the guest looks whether it may end an interrupt by itself, if it does.
    pub(crate) fn end_of_interrupt_word(&self) -> Option<u64> {
        enabled(self.registers.end_of_interrupt)
    }

    /// The guest may end the interrupt that comes now by clearing a bit.
    pub(crate) fn defer_end(&mut self, shared: &Shared) {
        if let Some(address) = self.end_of_interrupt_word() {
            write(shared, address, &END_BY_CLEARING.to_le_bytes());
            self.registers.end_deferred = true;
        }
    }

    /// If the end of an interrupt was deferred: whether it has come. It is deferred no longer.
    pub(crate) fn take_end(&mut self, shared: &Shared) -> Option<bool> {
        if !std::mem::take(&mut self.registers.end_deferred) {
            return None;
        }
        let address = self.end_of_interrupt_word()?;
        let mut word = [0; 4];
        if shared.memory.read_physical(address, &mut word).is_err() {
            return Some(false);
        }
        let ended = u32::from_le_bytes(word) & END_BY_CLEARING == 0;
        if !ended {
            write(shared, address, &[0; 4]);
        }
        Some(ended)
    }
}

/// Nanoseconds that a thread has waited for a processor of the host's (proc(5), schedstat); 0 if it is not told.
fn run_delay(schedstat: &File) -> u64 {
    let mut text = [0; 128];
    let length = schedstat.read_at(&mut text, 0).unwrap_or(0);
    let text = text.get(..length).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use gasang_cpu::CpuModel;
    use gasang_memory::GuestMemory;
    use std::sync::Arc;

    const PLACE: u64 = 0x2000;

    fn machine(cpu: &str, vcpus: usize) -> Shared {
        let memory = Arc::new(GuestMemory::new(1 << 20).unwrap());
        let clock = Clock::new(ClockKind::Host);
        Shared::new(memory, CpuModel::parse(cpu).unwrap(), clock, 1_500_000_001, 0, vcpus, None)
    }

    fn word(shared: &Shared, at: u64) -> u32 {
        shared.memory.load(shared.memory.host(PLACE + at).unwrap(), 4) as u32
    }

    fn set_word(shared: &Shared, at: u64, value: u32) {
        shared.memory.write_physical(PLACE + at, &value.to_le_bytes()).unwrap();
    }

    fn on(shared: &Shared, msr: u32) -> Paravirtual {
        let mut paravirtual = Paravirtual::default();
        assert!(matches!(paravirtual.write(shared, msr, PLACE | 1, 0), Some(Ok(()))));
        paravirtual
    }

    #[test]
    fn who_has_left_is_marked_and_forgets_translations_if_others_asked() {
        let shared = machine("max", 2);
        let mut paravirtual = on(&shared, MSR_STEAL_TIME);
        assert!(!paravirtual.enter(&shared));
        paravirtual.leave(&shared);
        assert_eq!(word(&shared, STEAL_PREEMPTED), PREEMPTED);
        assert!(!paravirtual.enter(&shared), "nobody asked");
        assert_eq!(word(&shared, STEAL_PREEMPTED), 0);
        paravirtual.leave(&shared);
        set_word(&shared, STEAL_PREEMPTED, PREEMPTED | FLUSH_TLB);
        assert!(paravirtual.enter(&shared));
        assert_eq!(word(&shared, STEAL_PREEMPTED), 0);
        assert!(!paravirtual.enter(&shared), "once is enough");
    }

    #[test]
    fn nobody_is_marked_who_is_alone_or_whose_guest_does_not_look() {
        for (cpu, vcpus) in [("max", 1), ("max,-kvm-pv-tlb-flush", 2)] {
            let shared = machine(cpu, vcpus);
            on(&shared, MSR_STEAL_TIME).leave(&shared);
            assert_eq!(word(&shared, STEAL_PREEMPTED), 0, "{cpu}");
        }
    }

    #[test]
    fn an_end_of_interrupt_is_what_the_guest_made_of_the_bit() {
        let shared = machine("max", 1);
        let mut paravirtual = on(&shared, MSR_END_OF_INTERRUPT);
        assert_eq!(paravirtual.take_end(&shared), None, "nothing was deferred");
        paravirtual.defer_end(&shared);
        assert_eq!(word(&shared, 0), END_BY_CLEARING);
        set_word(&shared, 0, 0);
        assert_eq!(paravirtual.take_end(&shared), Some(true));
        assert_eq!(paravirtual.take_end(&shared), None);
        paravirtual.defer_end(&shared);
        assert_eq!(paravirtual.take_end(&shared), Some(false));
        assert_eq!(word(&shared, 0), 0, "the guest ends it in the ordinary way");
    }

    #[test]
    fn the_wall_clock_is_that_of_the_machines_creation() {
        let shared = machine("max", 1);
        Paravirtual::default().write(&shared, MSR_WALL_CLOCK, PLACE, 0).unwrap().unwrap();
        assert_eq!([0, 4, 8].map(|at| word(&shared, at)), [2, 1, 500_000_001]);
    }

    #[test]
    fn hidden_registers_are_nobodys() {
        let shared = machine("max,-kvm-pv-eoi", 1);
        let mut paravirtual = Paravirtual::default();
        assert!(paravirtual.write(&shared, MSR_END_OF_INTERRUPT, PLACE, 0).is_none());
        assert!(paravirtual.read(&shared, MSR_END_OF_INTERRUPT).is_none());
        assert!(paravirtual.read(&shared, MSR_STEAL_TIME).is_some());
        assert!(paravirtual.read(&shared, 0x4b56_4d02).is_none());
    }
}
