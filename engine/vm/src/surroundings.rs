//! A processor's `Platform`: the chipset first, everything else is an exit.

use crate::answers::{Access, Answers};
use crate::attention::{CHIPSET, WAKE};
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::error::Error;
use crate::paravirtual::Paravirtual;
use crate::shared::Shared;
use crate::tracepoints::{Tracepoint, Tracepoints};
use gasang_chipset::{Chipset, GeneralProtection, Pending};
use gasang_cpu::{Exception, Feature, Identity, Platform, Trap};
use gasang_kvm::Place;
use gasang_x86::paravirtual::{HYPERCALL_KICK, HYPERCALL_POLL_INTERRUPT, HYPERCALL_SEND_IPI, NO_SUCH_CALL};
use std::sync::Arc;

/// So many times a processor may wait for another in a row before its thread lets others run: the one it waits for may be
/// without a host processor.
const PAUSES: u32 = 32;

/// What lies around one processor.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) answers: Answers,
    /// What the chipset had for this processor when it was last asked.
    pub(crate) pending: Pending,
    /// What KVM offers this processor.
    pub(crate) paravirtual: Paravirtual,
    pub(crate) tracepoints: Tracepoints,
    pub(crate) entropy: Entropy,
    /// PAUSE instructions executed.
    pauses: u32,
}

fn general_protection(_: GeneralProtection) -> Trap {
    Exception::general_protection(0).into()
}

/// The platform's time of a guest TSC value; 0 for what lies before the machine's creation.
fn platform_time(clock: &Clock, tsc: u64, tsc_offset: u64) -> u64 {
    // The offset is a signed number in two's complement.
    let counter = i128::from(tsc) - i128::from(tsc_offset as i64);
    clock.time_at(u64::try_from(counter.max(0)).unwrap_or(u64::MAX))
}

impl Surroundings {
    pub(crate) fn new(index: usize, shared: Arc<Shared>) -> Surroundings {
        let entropy = Entropy::new(shared.clock.kind(), shared.seed, index);
        let (answers, pending, paravirtual, tracepoints) = Default::default();
        Surroundings { index, shared, answers, pending, paravirtual, tracepoints, entropy, pauses: 0 }
    }

    /// Pass a tracepoint now.
    pub(crate) fn trace(&mut self, point: Tracepoint) {
        self.tracepoints.pass(point, || self.shared.clock.now());
    }

    /// Take the reply to the last exit. Returns whether an instruction is to be executed again.
    pub(crate) fn take_reply(&mut self, reply: Option<u64>) -> Result<bool, Error> {
        let Some((access, answer)) = self.answers.take_reply(reply)? else { return Ok(false) };
        self.trace(Tracepoint::Access(access, answer));
        Ok(true)
    }

    /// Use the chipset as this processor. The run loop looks at it before the next instruction.
    pub(crate) fn chipset<T>(&mut self, access: impl FnOnce(&mut Chipset, u64) -> T) -> T {
        let (result, pending) = self.shared.with_chipset(Some(self.index), access);
        self.pending = pending;
        result
    }

    /// As `chipset`, from within an instruction.
    fn device<T>(&mut self, access: impl FnOnce(&mut Chipset, u64, usize) -> T) -> T {
        let index = self.index;
        let result = self.chipset(|chipset, now| access(chipset, now, index));
        if let Some(attention) = self.shared.attention.get(index) {
            attention.note(CHIPSET);
        }
        result
    }

    /// Acknowledge an interrupt, if there is one: its vector. The guest may end it by clearing a bit, if it asked for
    /// that.
    pub(crate) fn acknowledge_interrupt(&mut self) -> Option<u8> {
        let index = self.index;
        self.settle_end_of_interrupt();
        let vector = self.chipset(|chipset, now| chipset.acknowledge_interrupt(now, index))?;
        if self.paravirtual.end_of_interrupt_word().is_some()
            && self.chipset(|chipset, _| chipset.defer_end_of_interrupt(index))
        {
            self.paravirtual.defer_end(&self.shared);
        }
        Some(vector)
    }

    /// Before anything that depends on which interrupts are in service: has the guest ended one by clearing a bit?
    pub(crate) fn settle_end_of_interrupt(&mut self) {
        if let Some(ended) = self.paravirtual.take_end(&self.shared) {
            let index = self.index;
            self.chipset(|chipset, _| chipset.settle_end_of_interrupt(index, ended));
        }
    }

    /// Give the access the answer it had before, the chipset's, or none yet.
    fn answer(
        &mut self,
        access: Access,
        of_chipset: impl FnOnce(&mut Chipset, u64, usize) -> Option<u64>,
    ) -> Result<u64, Trap> {
        if let Some(answer) = self.answers.replay(access) {
            return Ok(answer);
        }
        if let Some(answer) = self.device(of_chipset) {
            self.answers.keep(access, answer);
            self.trace(Tracepoint::Access(access, answer));
            return Ok(answer);
        }
        self.answers.ask(access);
        Err(Trap::Pending)
    }

    fn read_msr(&mut self, msr: u32) -> Option<Result<u64, Trap>> {
        if let Some(value) = self.paravirtual.read(&self.shared, msr) {
            return Some(Ok(value));
        }
        self.settle_end_of_interrupt();
        let read = self.device(|chipset, now, vcpu| chipset.msr_read(now, vcpu, msr))?;
        Some(read.map_err(general_protection))
    }

    fn write_msr(&mut self, msr: u32, value: u64, tsc_offset: u64) -> Option<Result<(), Trap>> {
        // First of all: the word that tells may be about to move.
        self.settle_end_of_interrupt();
        if let Some(written) = self.paravirtual.write(&self.shared, msr, value, tsc_offset) {
            return Some(written);
        }
        let shared = Arc::clone(&self.shared);
        let time = |tsc| platform_time(&shared.clock, tsc, tsc_offset);
        let written = self.device(|chipset, now, vcpu| chipset.msr_write(now, vcpu, msr, value, &time))?;
        Some(written.map_err(general_protection))
    }
}

impl Platform for Surroundings {
    fn port_read(&mut self, port: u16, size: u8) -> Result<u32, Trap> {
        let answer = self.answer(Access::PortRead { port, size }, |chipset, now, _| {
            chipset.port_read(now, port, size).map(u64::from)
        });
        answer.map(|value| value as u32)
    }

    fn port_write(&mut self, port: u16, size: u8, value: u32) -> Result<(), Trap> {
        let shared = Arc::clone(&self.shared);
        let answer = self.answer(Access::PortWrite { port, size, value }, |chipset, now, _| {
            let taken = chipset.port_write(now, port, size, value);
            (taken || shared.doorbells.ring(Place::Port(port))).then_some(0)
        });
        answer.map(|_| ())
    }

    fn mmio_read(&mut self, address: u64, size: u8) -> Result<u64, Trap> {
        self.settle_end_of_interrupt();
        self.answer(Access::MmioRead { address, size }, |chipset, now, vcpu| {
            chipset.mmio_read(now, vcpu, address, size)
        })
    }

    fn mmio_write(&mut self, address: u64, size: u8, value: u64) -> Result<(), Trap> {
        self.settle_end_of_interrupt();
        let shared = Arc::clone(&self.shared);
        let answer = self.answer(Access::MmioWrite { address, size, value }, |chipset, now, vcpu| {
            let taken = chipset.mmio_write(now, vcpu, address, size, value);
            (taken || shared.doorbells.ring(Place::Memory(address))).then_some(0)
        });
        answer.map(|_| ())
    }

    fn msr_read(&mut self, msr: u32) -> Option<Result<u64, Trap>> {
        let read = self.read_msr(msr)?;
        self.trace(Tracepoint::Msr { write: false, index: msr, value: read.as_ref().ok().copied() });
        Some(read)
    }

    fn msr_write(&mut self, msr: u32, value: u64, tsc_offset: u64) -> Option<Result<(), Trap>> {
        let written = self.write_msr(msr, value, tsc_offset)?;
        let accepted = written.as_ref().ok().map(|()| value);
        self.trace(Tracepoint::Msr { write: true, index: msr, value: accepted });
        Some(written)
    }

    fn time_stamp_counter_moved(&mut self, tsc_offset: u64) {
        self.paravirtual.tell_time(&self.shared, tsc_offset);
    }

    fn hypercall(&mut self, number: u64, arguments: [u64; 4]) -> u64 {
        self.trace(Tracepoint::Hypercall { number, arguments });
        let model = &self.shared.model;
        let [first, second, third, fourth] = arguments;
        match number {
            HYPERCALL_POLL_INTERRUPT => 0,
            HYPERCALL_KICK if model.has(Feature::KvmUnhalt) => {
                // Nobody answers to an APIC id that is no processor's.
                self.shared.raise(usize::try_from(second).unwrap_or(usize::MAX), WAKE);
                0
            }
            HYPERCALL_SEND_IPI if model.has(Feature::KvmSendIpi) => {
                let targets = u128::from(second) << 64 | u128::from(first);
                self.settle_end_of_interrupt();
                self.device(|chipset, now, _| chipset.send_ipi_to(now, fourth as u32, targets, third as u32))
            }
            _ => NO_SUCH_CALL,
        }
    }

    fn task_priority(&mut self) -> u8 {
        let index = self.index;
        self.chipset(|chipset, _| chipset.task_priority(index))
    }

    fn set_task_priority(&mut self, value: u8) {
        self.device(|chipset, _, vcpu| chipset.set_task_priority(vcpu, value));
    }

    fn time_stamp_counter(&mut self) -> u64 {
        self.shared.clock.counter()
    }

    fn time_stamp_scale(&self) -> Option<(u64, u64)> {
        self.shared.clock.scale()
    }

    fn identity(&self) -> Identity {
        Identity {
            apic_id: self.index as u32,
            cpus: self.shared.attention.len() as u32,
            tsc_hz: self.shared.clock.tsc_hz(),
        }
    }

    fn random(&mut self) -> u64 {
        self.entropy.next()
    }

    fn code_written(&mut self, host: u64, length: u64) {
        self.shared.code_written(self.index, host, length);
    }

    fn instruction_begins(&mut self, retired: u64) {
        self.shared.clock.set_retired(retired);
        self.answers.begin();
    }

    fn pause(&mut self) {
        self.pauses = self.pauses.wrapping_add(1);
        if self.pauses % PAUSES != 0 {
            return;
        }
        if self.shared.attention.len() > 1 {
            std::thread::yield_now();
        }
        // The loop may wait for a timer's interrupt, and counts too few instructions to come to its poll soon.
        if self.shared.clock.now() >= self.shared.next_deadline()
            && let Some(attention) = self.shared.attention.get(self.index)
        {
            attention.note(CHIPSET);
        }
    }

    #[inline]
    fn wants_attention(&self) -> bool {
        self.shared.attention.get(self.index).is_none_or(|attention| attention.is_raised())
    }

    fn interrupt_waits(&self) -> bool {
        self.pending.interrupt
    }

    fn signal_waits(&self) -> bool {
        self.pending.nmi || self.pending.init || self.pending.start_up.is_some()
    }

    fn iteration_committed(&mut self) {
        self.answers.commit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ClockKind;

    #[test]
    fn a_deadline_of_guest_tsc_becomes_virtual_time() {
        let clock = Clock::new(ClockKind::Host);
        assert_eq!(platform_time(&clock, 1000, 0), 1000);
        assert_eq!(platform_time(&clock, 1000, 300), 700);
        assert_eq!(platform_time(&clock, 1000, 2000), 0, "a guest whose counter is ahead");
        assert_eq!(platform_time(&clock, 1000, 500u64.wrapping_neg()), 1500);
        assert_eq!(platform_time(&clock, u64::MAX, 500u64.wrapping_neg()), u64::MAX);
    }
}
