//! A look at a processor that another thread runs, while it is outside of the guest.

use crate::controllers::{lapic_from, lapic_to};
use crate::{host_error, msrs};
use gasang_chipset::lapic::LocalApicState;
use gasang_x86::msr;
use kvm_bindings::{KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE};
use kvm_ioctls::{VcpuFd, VmFd};
use std::io;
use std::os::fd::AsRawFd;

/// A second hold of a processor. It waits for one that is inside the guest.
#[derive(Debug)]
pub struct Watch(VcpuFd);

impl Watch {
    pub(crate) fn new(vm: &VmFd, vcpu: &VcpuFd) -> io::Result<Watch> {
        // SAFETY: the descriptor is open as long as it is borrowed.
        let own = unsafe { libc::fcntl(vcpu.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) };
        if own < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it is a processor of this machine, and nobody else has this descriptor.
        unsafe { vm.create_vcpu_from_rawfd(own) }.map(Watch).map_err(host_error)
    }

    /// Whether a processor that halted with interrupts disabled, or waits for its start, was woken.
    ///
    /// # Errors
    /// What KVM says.
    pub fn is_woken(&self) -> io::Result<bool> {
        Ok(match self.0.get_mp_state().map_err(host_error)?.mp_state {
            KVM_MP_STATE_RUNNABLE => true,
            KVM_MP_STATE_HALTED => {
                let events = self.0.get_vcpu_events().map_err(host_error)?;
                events.nmi.pending != 0 || events.nmi.injected != 0
            }
            _ => false,
        })
    }

    /// With the kernel's interrupt controllers: have this local APIC.
    ///
    /// # Errors
    /// What KVM says.
    pub fn set_local_apic(&self, state: &LocalApicState) -> io::Result<()> {
        let mut system = self.0.get_sregs().map_err(host_error)?;
        system.apic_base = state.base;
        self.0.set_sregs(&system).map_err(host_error)?;
        self.0.set_lapic(&lapic_to(state)).map_err(host_error)?;
        msrs::write(&self.0, msr::TSC_DEADLINE, state.tsc_deadline)
    }

    /// Its local APIC, and the time-stamp counter that the guest reads now.
    ///
    /// # Errors
    /// What KVM says.
    pub fn local_apic(&self) -> io::Result<(LocalApicState, u64)> {
        // KVM acts upon INIT when it is asked what the processor is at: before the rest is read.
        self.0.get_mp_state().map_err(host_error)?;
        let base = self.0.get_sregs().map_err(host_error)?.apic_base;
        let page = self.0.get_lapic().map_err(host_error)?;
        let deadline = msrs::read(&self.0, msr::TSC_DEADLINE)?;
        Ok((lapic_from(&page, base, deadline), msrs::read(&self.0, msr::TSC)?))
    }
}
