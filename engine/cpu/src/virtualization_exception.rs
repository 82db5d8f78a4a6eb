//! Virtualization exceptions: EPT violations that the guest hears of itself (SDM vol. 3, 26.5.7).

use crate::core::Core;
use crate::exception::{Exception, Trap};
use gasang_x86::control::cr0;
use gasang_x86::vmx::controls::secondary;
use gasang_x86::vmx::{ExitReason, Field};
use serde::{Deserialize, Serialize};

/// Offset of the word in the information area that must be 0, and becomes all ones.
const BUSY: u64 = 4;
/// Bytes of the information area.
const LENGTH: usize = 34;

/// What the information area tells of an EPT violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Violation {
    /// What would have been the exit qualification.
    pub qualification: u64,
    /// Guest-linear address.
    pub linear: u64,
    /// Guest-physical address.
    pub physical: u64,
}

impl Core<'_> {
    /// Whether an EPT violation that is convertible is a virtualization exception now (SDM vol. 3, 26.5.7.1).
    pub(crate) fn converts_violations(&self) -> bool {
        let vmx = &self.state.vmx;
        let enabled = vmx.interceptions.secondary & secondary::EPT_VIOLATION_EXCEPTION != 0;
        enabled && self.state.cr0 & cr0::PE != 0 && vmx.delivering.is_none() && !self.information_area_busy()
    }

    fn information_area(&self) -> u64 {
        self.state.vmx.vmcs.get(Field::VirtualizationExceptionInformationAddress)
    }

    fn information_area_busy(&self) -> bool {
        let mut busy = [0xff; 4];
        // What is not RAM reads as ones.
        let _ = self.memory.read_physical(self.information_area() + BUSY, &mut busy);
        busy != [0; 4]
    }

    /// The exception in place of a VM exit. It is told when it is delivered: what only probes delivers nothing.
    pub(crate) fn virtualization_exception(&mut self, violation: Violation) -> Trap {
        self.state.vmx.violation = Some(violation);
        Exception::virtualization().into()
    }

    /// Fill the information area, before it is asked whether the exception is intercepted (SDM vol. 3, 26.5.7.2).
    pub(crate) fn tell_violation(&mut self) {
        let Some(violation) = self.state.vmx.violation.take() else { return };
        let index = self.state.vmx.vmcs.get(Field::EptpIndex) as u16;
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&u32::from(ExitReason::EptViolation.number()).to_le_bytes());
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        bytes[8..16].copy_from_slice(&violation.qualification.to_le_bytes());
        bytes[16..24].copy_from_slice(&violation.linear.to_le_bytes());
        bytes[24..32].copy_from_slice(&violation.physical.to_le_bytes());
        bytes[32..].copy_from_slice(&index.to_le_bytes());
        self.write_ram(self.information_area(), &bytes);
    }
}
