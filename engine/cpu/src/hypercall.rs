//! VMCALL and VMMCALL, as KVM's guests use them (Linux, Documentation/virt/kvm/x86/hypercalls.rst): number in RAX,
//! arguments in RBX, RCX, RDX, RSI, result in RAX.

use crate::core::Core;
use gasang_x86::{gpr, paravirtual};

impl Core<'_> {
    /// A hypercall, on a model with KVM; on others the instruction does not exist.
    pub fn hypercall(&mut self) {
        let width = if self.state.in_64bit_mode() { u64::MAX } else { u64::from(u32::MAX) };
        let [number, arguments @ ..] = [gpr::RAX, gpr::RBX, gpr::RCX, gpr::RDX, gpr::RSI]
            .map(|register| self.state.gpr.get(register).copied().unwrap_or_default() & width);
        let result = match self.state.cpl() {
            0 => self.platform.hypercall(number, arguments),
            _ => paravirtual::NOT_PERMITTED,
        };
        self.state.gpr[gpr::RAX] = result & width;
    }
}
