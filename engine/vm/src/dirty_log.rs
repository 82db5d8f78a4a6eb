//! Which pages were written, by processors and devices, since somebody asked last.

use crate::error::Error;
use crate::kvm_machine::{KvmMachine, cannot_log};
use crate::processor::Processor;
use crate::vm::Vm;
use std::sync::{MutexGuard, PoisonError};

impl Vm {
    /// Log from now on which pages are written, beginning with none; or no longer.
    ///
    /// # Errors
    /// A thread inside a processor; what KVM says.
    pub fn log_dirty_pages(&self, on: bool) -> Result<(), Error> {
        let mut processors = self.hold_all()?;
        if let Some(kvm) = &*self.kvm() {
            kvm.machine.log_dirty_pages(on).map_err(cannot_log)?;
        }
        processors.iter_mut().for_each(|processor| processor.tlb.log_writes(on));
        self.shared.log_writes(on);
        self.take_written(&mut processors)?;
        Ok(())
    }

    /// The pages that were written since the last call, or since `log_dirty_pages`: physical address and length of each
    /// run of them, ascending.
    ///
    /// # Errors
    /// A machine that does not log; a thread inside a processor; what KVM says.
    pub fn take_dirty_pages(&self) -> Result<Vec<(u64, u64)>, Error> {
        if !self.shared.logs_writes() {
            return Err(Error::Argument("nothing is logged: log_dirty_pages(True) begins it".to_owned()));
        }
        let mut processors = self.hold_all()?;
        self.take_written(&mut processors)
    }

    /// Every processor, held outside of the guest.
    pub(crate) fn hold_all(&self) -> Result<Vec<MutexGuard<'_, Processor>>, Error> {
        self.vcpus.iter().map(|vcpu| vcpu.lock()).collect()
    }

    /// The machine as KVM has it, if it is there.
    pub(crate) fn kvm(&self) -> MutexGuard<'_, Option<KvmMachine>> {
        self.kvm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_written(&self, processors: &mut [MutexGuard<'_, Processor>]) -> Result<Vec<(u64, u64)>, Error> {
        if let Some(kvm) = &*self.kvm()
            && self.shared.logs_writes()
        {
            kvm.machine.collect_dirty_pages().map_err(cannot_log)?;
        }
        // A page counts as written while a TLB lets translated code write it unnoticed: none does after this.
        processors.iter_mut().for_each(|processor| processor.tlb.flush_all());
        Ok(self.shared.memory.take_dirty())
    }
}
