//! Guest-physical addresses: what EPT permits, and what becomes of an access that it does not let through (SDM vol. 3,
//! 28.2.1, 29.3.3).

use crate::core::Core;
use crate::ept::{Ept, EptFault, EptWalk};
use crate::exception::Trap;
use crate::paging::Access;
use crate::virtualization_exception::Violation;
use crate::vmx::VmExit;
use gasang_x86::vmx::ExitReason;
use gasang_x86::vmx::controls::{ept, ept_violation, secondary};

/// An access as EPT violations tell it; reading and writing need the permission of the same place.
pub(crate) fn ept_access(access: Access) -> u64 {
    match access {
        Access::Read => ept_violation::READ,
        Access::Write => ept_violation::WRITE,
        Access::Execute => ept_violation::FETCH,
    }
}

/// Permissions as EPT violations tell them.
fn told_permissions(permissions: u64) -> u64 {
    let user_execute = permissions & ept::USER_EXECUTE != 0;
    (permissions & ept::PERMISSIONS) << 3 | if user_execute { ept_violation::USER_EXECUTABLE } else { 0 }
}

impl Core<'_> {
    /// The VM exit for a guest-physical address that EPT does not let through (SDM vol. 3, 28.2.1, 29.3.3), or the
    /// virtualization exception in its place.
    pub(crate) fn ept_exit(&mut self, address: u64, fault: EptFault, about: u64, linear: u64) -> Trap {
        self.tlb.ept_walks.forget(address);
        let exit = match fault {
            EptFault::Misconfiguration => VmExit::new(ExitReason::EptMisconfiguration),
            EptFault::LogFull => return self.state.exit(VmExit::new(ExitReason::PageModificationLogFull)),
            EptFault::Violation { permissions, convertible } => {
                let qualification = about | told_permissions(permissions);
                if convertible && self.converts_violations() {
                    return self.virtualization_exception(Violation {
                        qualification,
                        linear,
                        physical: address,
                    });
                }
                VmExit {
                    guest_linear: linear,
                    ..VmExit::new(ExitReason::EptViolation).qualified(qualification)
                }
            }
        };
        self.state.exit(VmExit { guest_physical: address, ..exit })
    }

    /// The tables of EPT, if it is in use.
    pub(crate) fn ept(&self) -> Option<Ept> {
        self.state.vmx.ept_pointer().map(|pointer| Ept::new(pointer, self.mode_based()))
    }

    fn mode_based(&self) -> bool {
        self.state.vmx.interceptions.secondary & secondary::MODE_BASED_EXECUTE_CONTROL != 0
    }

    /// The permission that EPT must give to execute at a linear address, of user mode or not: without paging all are of user
    /// mode (SDM vol. 3, 29.3.3.2).
    pub(crate) fn execute_permission(&self, user: bool) -> u64 {
        if user && self.mode_based() { ept::USER_EXECUTE } else { ept::EXECUTE }
    }

    /// Follow EPT for an access that needs the permissions `wanted`.
    pub(crate) fn through_ept(
        &mut self,
        tables: Ept,
        address: u64,
        wanted: u64,
        mark: bool,
    ) -> Result<EptWalk, EptFault> {
        let write = wanted & ept::WRITE != 0;
        if let Some(found) = self.tlb.ept_walks.find(tables.identity(), address)
            && found.permissions & wanted == wanted
            && (found.dirty || !write)
        {
            return Ok(found);
        }
        loop {
            let found = tables.walk(self.memory, address)?;
            if found.permissions & wanted != wanted {
                return Err(EptFault::Violation {
                    permissions: found.permissions,
                    convertible: found.convertible,
                });
            }
            if mark && self.log_is_full() && tables.marks(&found, write) {
                return Err(EptFault::LogFull);
            }
            let mut written = [0; 4];
            let mut count = 0;
            let told = |host| {
                written[count] = host;
                count += 1;
            };
            let marked = !mark || tables.mark(self.memory, &found, write, told);
            written[..count].iter().for_each(|&host| self.before_write(host, 8));
            if marked {
                if mark && write && !found.dirty {
                    self.log_modification(address);
                }
                // What is not writable is not remembered: marking an entry of the guest's there must ask anew.
                let writable = found.permissions & ept::WRITE != 0;
                if writable && (mark || !tables.accessed_and_dirty) {
                    self.tlb.ept_walks.insert(tables.identity(), address, &found, found.dirty || write);
                }
                return Ok(found);
            }
        }
    }

    /// Read a guest-physical address on the processor's own behalf: the entries that PAE paging keeps.
    ///
    /// # Errors
    /// A VM exit, or `Pending` for a device.
    pub(crate) fn read_guest_physical(&mut self, address: u64, size: usize) -> Result<u64, Trap> {
        let Some(tables) = self.ept() else { return self.read_physical(address, size) };
        let found = self
            .through_ept(tables, address, ept::READ, true)
            .map_err(|fault| self.ept_exit(address, fault, ept_violation::READ, 0))?;
        self.read_physical(found.physical, size)
    }
}
