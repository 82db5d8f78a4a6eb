//! A processor whose interrupt controllers are the kernel's: it waits there, and its local APIC comes and goes with it.

use crate::error::Error;
use crate::exit::Exit;
use crate::hardware::failed;
use crate::processor::Processor;
use gasang_chipset::Pending;
use gasang_kvm::{Machine, Watch};
use std::sync::Arc;
use std::time::Duration;

/// How often a processor that only another can wake looks whether it was.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

impl Processor {
    /// Whether the interrupt controllers are the kernel's.
    pub(crate) fn has_kernel_controllers(&self) -> bool {
        self.hardware.as_ref().is_some_and(|hardware| hardware.controllers_in_kernel)
    }

    /// What is the processor's of the interrupt controllers goes to the kernel with them.
    ///
    /// # Errors
    /// What KVM says.
    pub(crate) fn follow_controllers(&mut self) -> Result<(), Error> {
        let Some(hardware) = &mut self.hardware else { return Ok(()) };
        let end_of_interrupt = self.surroundings.paravirtual.end_of_interrupt();
        self.surroundings.tracepoints.counts.let_kernel_count(hardware.vcpu.statistics());
        let set = hardware.vcpu.set_end_of_interrupt(end_of_interrupt);
        set.map_err(failed("set the local APIC"))?;
        self.surroundings.pending = Pending::default();
        self.publish_counts();
        Ok(())
    }

    /// What others can look at the processor by.
    ///
    /// # Errors
    /// What KVM says.
    pub(crate) fn on_hardware_watch(&self, machine: &Machine) -> Result<Option<Watch>, Error> {
        let vcpu = self.hardware.as_ref().map(|hardware| &hardware.vcpu);
        vcpu.map(|vcpu| machine.watch(vcpu).map_err(failed("make a processor"))).transpose()
    }

    /// Bring the interrupt controllers back to the chipset, if nobody has: those of all processors. None is in the guest any
    /// more, where it would interrupt others in the kernel.
    ///
    /// # Errors
    /// What KVM says.
    pub(crate) fn bring_controllers_back(&mut self) -> Result<(), Error> {
        let Some(hardware) = self.hardware.as_mut().filter(|hardware| hardware.controllers_in_kernel) else {
            return Ok(());
        };
        let end_of_interrupt = hardware.vcpu.end_of_interrupt().map_err(failed("read the local APIC"))?;
        self.surroundings.paravirtual.set_end_of_interrupt(end_of_interrupt);
        self.surroundings.tracepoints.counts.let_kernel_count(None);
        self.surroundings.shared.take_controllers().map_err(failed("read the interrupt controllers"))
    }

    /// CR8, if the kernel has it.
    ///
    /// # Errors
    /// What KVM says.
    pub(crate) fn kernel_task_priority(&mut self) -> Result<Option<u8>, Error> {
        let hardware = self.hardware.as_mut().filter(|hardware| hardware.controllers_in_kernel);
        hardware.map(|hardware| hardware.vcpu.cr8().map_err(failed("read CR8"))).transpose()
    }

    /// Set it there; false if the kernel does not have it.
    ///
    /// # Errors
    /// What KVM says.
    pub(crate) fn set_kernel_task_priority(&mut self, value: u8) -> Result<bool, Error> {
        let Some(hardware) = self.hardware.as_mut().filter(|hardware| hardware.controllers_in_kernel) else {
            return Ok(false);
        };
        hardware.vcpu.set_cr8(value).map_err(failed("set CR8"))?;
        Ok(true)
    }

    /// The processor was called out of the kernel: if it waits for what only another can send, let it wait here, until it
    /// is sent. `Halted` if nobody is left who could.
    pub(crate) fn look_whether_stopped(&mut self) -> Result<Option<Exit>, Error> {
        let shared = Arc::clone(&self.surroundings.shared);
        let index = self.surroundings.index;
        if !self.is_stopped_in_kernel()? {
            return Ok(None);
        }
        let raised = || shared.attention.get(index).is_none_or(|attention| attention.is_raised());
        while !raised() && self.is_stopped_in_kernel()? {
            // Those that have stopped are outside of the kernel, where they can be looked at.
            let all = shared.standstill.stop(index, &shared.attention);
            if all && !shared.on_kvm.is_anybody_woken().map_err(failed("read the state"))? {
                return Ok(Some(self.output().unwrap_or(Exit::Halted)));
            }
            if let Some(attention) = shared.attention.get(index) {
                attention.sleep(Some(LOOK_AGAIN));
            }
        }
        shared.standstill.go(index);
        Ok(None)
    }

    fn is_stopped_in_kernel(&mut self) -> Result<bool, Error> {
        let Some(hardware) = &mut self.hardware else { return Ok(false) };
        hardware.vcpu.is_stopped().map_err(failed("read the state"))
    }
}
