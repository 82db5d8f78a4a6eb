//! The page-modification log: which guest-physical pages became dirty (SDM vol. 3, 29.3.6).

use crate::core::Core;
use gasang_memory::PAGE_SIZE;
use gasang_x86::vmx::Field;
use gasang_x86::vmx::controls::secondary;

/// Entries of the log, of eight bytes each.
const ENTRIES: u64 = 512;

impl Core<'_> {
    /// Whether pages that become dirty are logged.
    pub(crate) fn logs_modifications(&self) -> bool {
        self.state.vmx.interceptions.secondary & secondary::ENABLE_PML != 0
    }

    /// Whether the log is kept and has no room for another page.
    pub(crate) fn log_is_full(&self) -> bool {
        self.logs_modifications() && self.state.vmx.vmcs.get(Field::PmlIndex) >= ENTRIES
    }

    /// EPT's dirty flag of the page of a guest-physical address was clear, and is set now.
    pub(crate) fn log_modification(&mut self, address: u64) {
        if !self.logs_modifications() {
            return;
        }
        let index = self.state.vmx.vmcs.get(Field::PmlIndex);
        let place = self.state.vmx.vmcs.get(Field::PmlAddress) + index * 8;
        self.write_ram(place, &(address & !(PAGE_SIZE - 1)).to_le_bytes());
        // Below 0 it is FFFFH, beyond the log.
        self.state.vmx.vmcs.set(Field::PmlIndex, index.wrapping_sub(1));
    }
}
