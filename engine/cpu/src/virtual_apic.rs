//! The virtual-APIC page, and accesses to the APIC-access page that it stands in for (SDM vol. 3, 30.4). What follows a
//! virtualized write, after the instruction, is the matter of gasang-vmx.

use crate::core::Core;
use crate::exception::Trap;
use crate::paging::Access;
use crate::state::VcpuState;
use crate::vmx::{VmExit, VmxState};
use gasang_x86::vmx::controls::{primary, secondary};
use gasang_x86::vmx::virtual_apic::{self as apic, access};
use gasang_x86::vmx::{ExitReason, Field};
use serde::{Deserialize, Serialize};

const PAGE_OFFSET: u64 = 0xfff;

/// An access to a register of the virtual-APIC page by the instruction that is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApicAccess {
    /// Offset in the page.
    pub offset: u64,
    /// Bytes.
    pub size: usize,
    /// It was written, and what comes of that is to be seen to.
    pub written: bool,
}

/// What of the virtual APIC is not in its page or the VMCS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VirtualApic {
    /// The virtual task priority was below its threshold at VM entry: a VM exit before the guest's first instruction.
    pub below_threshold: bool,
    /// A virtual interrupt is recognized, and waits to be delivered.
    pub interrupt: bool,
    /// The register that the instruction has accessed.
    pub access: Option<ApicAccess>,
}

impl VcpuState {
    /// Whether a virtual interrupt is recognized and nothing blocks it (SDM vol. 3, 30.2.2).
    #[inline]
    pub fn virtual_interrupt_deliverable(&self) -> bool {
        self.vmx.virtual_apic.interrupt && self.interruptible()
    }
}

impl VmxState {
    /// The instruction writes a register of the virtual-APIC page: what comes of it follows after the instruction.
    pub fn virtual_register_written(&mut self, offset: u64) {
        self.virtual_apic.access = Some(ApicAccess { offset, size: 4, written: true });
    }

    fn has(&self, control: u32) -> bool {
        self.interceptions.secondary & control != 0
    }

    /// Whether `size` bytes at an offset are of one register, and the virtual-APIC page is there.
    fn of_one_register(&self, offset: u64, size: usize) -> bool {
        self.interceptions.primary & primary::USE_TPR_SHADOW != 0
            && size <= 4
            && offset & 0xf < 4
            && (offset + size as u64 - 1) & 0xf < 4
    }

    /// Whether a read comes from the virtual-APIC page (SDM vol. 3, 30.4.2).
    fn virtualizes_read(&self, offset: u64, size: usize) -> bool {
        if !self.of_one_register(offset, size)
            || self.virtual_apic.access.is_some_and(|before| before.written)
        {
            return false;
        }
        match offset & !0xf {
            apic::TPR => true,
            apic::VERSION | apic::EOI | apic::ISR..=apic::IRR_LAST => {
                self.has(secondary::APIC_REGISTER_VIRTUALIZATION)
            }
            register => self.has(secondary::APIC_REGISTER_VIRTUALIZATION) && is_read_and_written(register),
        }
    }

    /// Whether a write goes to the virtual-APIC page (SDM vol. 3, 30.4.3.1).
    fn virtualizes_write(&self, offset: u64, size: usize) -> bool {
        let other = |before: ApicAccess| before.offset != offset || before.size != size;
        if !self.of_one_register(offset, size) || self.virtual_apic.access.is_some_and(other) {
            return false;
        }
        match offset & !0xf {
            apic::TPR => true,
            apic::EOI | apic::ICR => {
                self.has(secondary::APIC_REGISTER_VIRTUALIZATION | secondary::VIRTUAL_INTERRUPT_DELIVERY)
            }
            register => self.has(secondary::APIC_REGISTER_VIRTUALIZATION) && is_read_and_written(register),
        }
    }
}

/// Whether a register, other than the task priority, is one that APIC-register virtualization lets the guest read and
/// write alike.
fn is_read_and_written(register: u64) -> bool {
    matches!(
        register,
        apic::ID
            | apic::LDR
            | apic::DFR
            | apic::SPURIOUS
            | apic::ERROR
            | apic::ICR
            | apic::ICR_HIGH
            | apic::LVT..=apic::LVT_LAST | apic::INITIAL_COUNT | apic::DIVIDE
    )
}

impl Core<'_> {
    /// Whether a physical address, where EPT has led to it, is in the APIC-access page of the guest that runs.
    pub(crate) fn in_apic_access_page(&self, physical: u64) -> bool {
        let vmx = &self.state.vmx;
        vmx.has(secondary::VIRTUALIZE_APIC_ACCESSES)
            && physical & !PAGE_OFFSET == vmx.vmcs.get(Field::ApicAccessAddress)
    }

    /// Read at the APIC-access page.
    ///
    /// # Errors
    /// `VmExit`.
    pub(crate) fn read_apic(&mut self, physical: u64, bytes: &mut [u8]) -> Result<(), Trap> {
        let (offset, size) = (physical & PAGE_OFFSET, bytes.len());
        let vmx = &mut self.state.vmx;
        if vmx.delivering.is_some() || !vmx.virtualizes_read(offset, size) {
            return Err(self.apic_access_exit(offset, Access::Read));
        }
        vmx.virtual_apic.access.get_or_insert(ApicAccess { offset, size, written: false });
        let page = vmx.vmcs.get(Field::VirtualApicAddress);
        bytes.fill(0xff);
        // What is not RAM reads as ones.
        let _ = self.memory.read_physical(page + offset, bytes);
        Ok(())
    }

    /// Write at the APIC-access page.
    ///
    /// # Errors
    /// `VmExit`.
    pub(crate) fn write_apic(&mut self, physical: u64, bytes: &[u8]) -> Result<(), Trap> {
        let (offset, size) = (physical & PAGE_OFFSET, bytes.len());
        let vmx = &mut self.state.vmx;
        if vmx.delivering.is_some() || !vmx.virtualizes_write(offset, size) {
            return Err(self.apic_access_exit(offset, Access::Write));
        }
        vmx.virtual_apic.access = Some(ApicAccess { offset, size, written: true });
        let page = vmx.vmcs.get(Field::VirtualApicAddress);
        self.write_ram(page + offset, bytes);
        Ok(())
    }

    /// The VM exit of a linear access to the APIC-access page (SDM vol. 3, 30.4.1).
    pub(crate) fn apic_access_exit(&mut self, physical: u64, kind: Access) -> Trap {
        let kind = match kind {
            _ if self.state.vmx.delivering.is_some() => access::DELIVERY,
            Access::Read => access::READ,
            Access::Write => access::WRITE,
            Access::Execute => access::FETCH,
        };
        let exit = VmExit::new(ExitReason::ApicAccess);
        self.state.exit(VmExit {
            by_instruction: matches!(kind, access::READ | access::WRITE),
            ..exit.qualified(physical & PAGE_OFFSET | kind << access::SHIFT)
        })
    }

    /// The VM exit of a paging structure in the APIC-access page, where EPT leads to it (SDM vol. 3, 30.4.6.1).
    pub(crate) fn apic_structure_exit(&mut self) -> Trap {
        let delivery = self.state.vmx.delivering.is_some();
        let kind = if delivery { access::GUEST_PHYSICAL_DELIVERY } else { access::GUEST_PHYSICAL };
        self.state.exit(VmExit::new(ExitReason::ApicAccess).qualified(kind << access::SHIFT))
    }

    /// A register of the virtual-APIC page.
    pub fn virtual_register(&self, offset: u64) -> u32 {
        let mut bytes = [0xff; 4];
        let page = self.state.vmx.vmcs.get(Field::VirtualApicAddress);
        let _ = self.memory.read_physical(page + offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Set a register of the virtual-APIC page.
    pub fn set_virtual_register(&mut self, offset: u64, value: u32) {
        let page = self.state.vmx.vmcs.get(Field::VirtualApicAddress);
        self.write_ram(page + offset, &value.to_le_bytes());
    }
}
