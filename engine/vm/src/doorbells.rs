//! Writes that only tell a device to look: the engine, or the kernel, answers them by signalling a descriptor, and the guest
//! goes on at once. And the ways back, messages and descriptors that interrupt.

use crate::error::Error;
use crate::vm::{LINES, Vm};
use gasang_kvm::{Doorbell, Place};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The doorbells of a machine.
#[derive(Debug, Default)]
pub(crate) struct Doorbells(RwLock<Vec<Doorbell>>);

impl Doorbells {
    /// Ring the one at `place`; whether there is one.
    pub(crate) fn ring(&self, place: Place) -> bool {
        let doorbells = self.read();
        let found = doorbells.iter().find(|doorbell| doorbell.place == place);
        found.map(Doorbell::ring).is_some()
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Doorbell>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Doorbell>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(source: io::Error) -> Error {
    Error::Host { attempt: "cannot make a doorbell".to_owned(), source }
}

impl Vm {
    /// From now on a write of any size that begins at `place` adds 1 to this event counter (eventfd(2)), and is no exit.
    /// Devices of the chipset come first.
    ///
    /// # Errors
    /// If there is a doorbell; what the host says.
    pub fn add_doorbell(&self, place: Place) -> Result<OwnedFd, Error> {
        let mut doorbells = self.shared.doorbells.write();
        if doorbells.iter().any(|doorbell| doorbell.place == place) {
            return Err(Error::Argument(format!("there is a doorbell at {place} already")));
        }
        let doorbell = Doorbell::new(place).map_err(failed)?;
        let descriptor = doorbell.descriptor().map_err(failed)?;
        if let Some(kvm) = &*self.kvm() {
            kvm.machine.add_doorbell(&doorbell).map_err(failed)?;
        }
        doorbells.push(doorbell);
        Ok(descriptor)
    }

    /// No longer.
    ///
    /// # Errors
    /// If there is none; what the host says.
    pub fn remove_doorbell(&self, place: Place) -> Result<(), Error> {
        let mut doorbells = self.shared.doorbells.write();
        let Some(index) = doorbells.iter().position(|doorbell| doorbell.place == place) else {
            return Err(Error::Argument(format!("there is no doorbell at {place}")));
        };
        let doorbell = doorbells.remove(index);
        match &*self.kvm() {
            Some(kvm) => kvm.machine.remove_doorbell(&doorbell).map_err(failed),
            None => Ok(()),
        }
    }

    /// Have a machine of KVM's ring the doorbells that there are.
    pub(crate) fn hang_doorbells(&self, machine: &gasang_kvm::Machine) -> Result<(), Error> {
        let doorbells = self.shared.doorbells.read();
        doorbells.iter().try_for_each(|doorbell| machine.add_doorbell(doorbell)).map_err(failed)
    }

    /// Send a message signalled interrupt: a device's write of `data` to `address`. Whether a local APIC took it.
    ///
    /// # Errors
    /// What KVM says.
    pub fn signal_msi(&self, address: u64, data: u32) -> Result<bool, Error> {
        self.shared.check()?;
        let sent = self.shared.send_msi(address, data);
        sent.map_err(|source| Error::Host { attempt: "KVM: cannot send a message".to_owned(), source })
    }

    /// A descriptor (eventfd(2)) whose every write is an edge of a global system interrupt, until it is closed.
    ///
    /// # Errors
    /// Where the interrupt controllers are not the kernel's; no such line; what the host says.
    pub fn interrupt_descriptor(&self, gsi: u32) -> Result<OwnedFd, Error> {
        if gsi >= LINES {
            return Err(Error::Argument(format!("no interrupt line {gsi}: there are 0 to {}", LINES - 1)));
        }
        let kvm = self.kvm();
        let Some(kernel) = kvm.as_ref().and_then(|kvm| kvm.machine.controllers()) else {
            return Err(Error::Argument(
                "only the kernel's interrupt controllers are interrupted by a descriptor: irqchip 'kernel', on KVM"
                    .to_owned(),
            ));
        };
        kernel.interrupt_descriptor(gsi).map_err(failed)
    }
}
