//! A look at a processor that another thread runs, while it is outside of the guest.

use crate::host_error;
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
}
