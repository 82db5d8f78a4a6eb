//! A processor's `Platform`: the chipset first, everything else is an exit.

use crate::answers::{Access, Answers};
use crate::attention::CHIPSET;
use crate::clock::TSC_HZ;
use crate::entropy::Entropy;
use crate::shared::Shared;
use gasang_chipset::{Chipset, GeneralProtection, Pending};
use gasang_cpu::{Exception, Identity, Platform, Trap};
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
    entropy: Entropy,
    /// PAUSE instructions executed.
    pauses: u32,
}

fn general_protection(_: GeneralProtection) -> Trap {
    Exception::general_protection(0).into()
}

/// The platform's time of a guest TSC value; 0 for what lies before the machine's creation.
fn platform_time(tsc: u64, tsc_offset: u64) -> u64 {
    // The offset is a signed number in two's complement.
    let time = i128::from(tsc) - i128::from(tsc_offset as i64);
    u64::try_from(time.max(0)).unwrap_or(u64::MAX)
}

impl Surroundings {
    pub(crate) fn new(index: usize, shared: Arc<Shared>) -> Surroundings {
        let entropy = Entropy::new(shared.clock.kind(), shared.seed, index);
        let (answers, pending) = (Answers::default(), Pending::default());
        Surroundings { index, shared, answers, pending, entropy, pauses: 0 }
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
            return Ok(answer);
        }
        self.answers.ask(access);
        Err(Trap::Pending)
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
        let answer = self.answer(Access::PortWrite { port, size, value }, |chipset, now, _| {
            chipset.port_write(now, port, size, value).then_some(0)
        });
        answer.map(|_| ())
    }

    fn mmio_read(&mut self, address: u64, size: u8) -> Result<u64, Trap> {
        self.answer(Access::MmioRead { address, size }, |chipset, now, vcpu| {
            chipset.mmio_read(now, vcpu, address, size)
        })
    }

    fn mmio_write(&mut self, address: u64, size: u8, value: u64) -> Result<(), Trap> {
        let answer = self.answer(Access::MmioWrite { address, size, value }, |chipset, now, vcpu| {
            chipset.mmio_write(now, vcpu, address, size, value).then_some(0)
        });
        answer.map(|_| ())
    }

    fn msr_read(&mut self, msr: u32) -> Option<Result<u64, Trap>> {
        let read = self.device(|chipset, now, vcpu| chipset.msr_read(now, vcpu, msr))?;
        Some(read.map_err(general_protection))
    }

    fn msr_write(&mut self, msr: u32, value: u64, tsc_offset: u64) -> Option<Result<(), Trap>> {
        let time = |tsc| platform_time(tsc, tsc_offset);
        let written = self.device(|chipset, now, vcpu| chipset.msr_write(now, vcpu, msr, value, &time))?;
        Some(written.map_err(general_protection))
    }

    fn task_priority(&mut self) -> u8 {
        let index = self.index;
        self.chipset(|chipset, _| chipset.task_priority(index))
    }

    fn set_task_priority(&mut self, value: u8) {
        self.device(|chipset, _, vcpu| chipset.set_task_priority(vcpu, value));
    }

    fn time_stamp_counter(&mut self) -> u64 {
        self.shared.clock.now()
    }

    fn identity(&self) -> Identity {
        Identity { apic_id: self.index as u32, cpus: self.shared.attention.len() as u32, tsc_hz: TSC_HZ }
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
        if self.pauses % PAUSES == 0 && self.shared.attention.len() > 1 {
            std::thread::yield_now();
        }
    }

    #[inline]
    fn wants_attention(&self) -> bool {
        self.shared.attention.get(self.index).is_none_or(|attention| attention.is_raised())
    }

    fn iteration_committed(&mut self) {
        self.answers.commit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_of_guest_tsc_becomes_virtual_time() {
        assert_eq!(platform_time(1000, 0), 1000);
        assert_eq!(platform_time(1000, 300), 700);
        assert_eq!(platform_time(1000, 2000), 0, "a guest whose counter is ahead");
        assert_eq!(platform_time(1000, 500u64.wrapping_neg()), 1500);
        assert_eq!(platform_time(u64::MAX, 500u64.wrapping_neg()), u64::MAX);
    }
}
