//! Writes that the kernel answers by signalling a descriptor (KVM API, 4.59, KVM_IOEVENTFD), and descriptors that it
//! answers by an interrupt (4.75, KVM_IRQFD).

use crate::host_error;
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Where a write goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// An I/O port.
    Port(u16),
    /// A physical address.
    Memory(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Port(port) => write!(formatter, "port {port:#x}"),
            Place::Memory(address) => write!(formatter, "address {address:#x}"),
        }
    }
}

/// A counter of writes of any size that begin at a place.
#[derive(Debug)]
pub struct Doorbell {
    /// The place.
    pub place: Place,
    event: EventFd,
}

impl Doorbell {
    /// One that was not rung.
    ///
    /// # Errors
    /// What eventfd says.
    pub fn new(place: Place) -> io::Result<Doorbell> {
        Ok(Doorbell { place, event: EventFd::new(EFD_NONBLOCK)? })
    }

    /// Count a write.
    pub fn ring(&self) {
        // A counter that is full was rung often enough.
        let _ = self.event.write(1);
    }

    /// A descriptor of the counter.
    ///
    /// # Errors
    /// What the host says.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        own(&self.event)
    }

    pub(crate) fn hang(&self, vm: &VmFd) -> io::Result<()> {
        vm.register_ioevent(&self.event, &self.address(), NoDatamatch).map_err(host_error)
    }

    pub(crate) fn take_down(&self, vm: &VmFd) -> io::Result<()> {
        vm.unregister_ioevent(&self.event, &self.address(), NoDatamatch).map_err(host_error)
    }

    fn address(&self) -> IoEventAddress {
        match self.place {
            Place::Port(port) => IoEventAddress::Pio(port.into()),
            Place::Memory(address) => IoEventAddress::Mmio(address),
        }
    }
}

/// A descriptor whose every write is an edge of an interrupt line, until it is closed.
pub(crate) fn interrupt_descriptor(vm: &VmFd, gsi: u32) -> io::Result<OwnedFd> {
    let event = EventFd::new(EFD_NONBLOCK)?;
    vm.register_irqfd(&event, gsi).map_err(host_error)?;
    own(&event)
}

fn own(event: &EventFd) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is open as long as it is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }.try_clone_to_owned()
}
