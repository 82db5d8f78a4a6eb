//! The guest-state fields, but for segment registers (SDM vol. 3, 27.3.1).

use super::{Check, Facts, event, guest_segments, is_pat, require};
use crate::capabilities::{Capabilities, REVISION};
use crate::guest_state::{CS, PDPTES, SS, secondary_controls};
use crate::instructions::{cr0_fits, cr0_fits_unrestricted, cr4_fits};
use crate::{pdptes, vmcs_region};
use gasang_cpu::{VcpuState, Vmcs};
use gasang_x86::control::{cr0, cr4, efer};
use gasang_x86::descriptor::access;
use gasang_x86::msr::debugctl;
use gasang_x86::vmx::Field;
use gasang_x86::vmx::controls::{
    activity, entry, interruptibility, interruption, pending_debug, pin, secondary,
};
use gasang_x86::{exception as vector, rflags};

/// What several checks want to know.
pub(super) struct Guest<'a> {
    pub vmcs: &'a Vmcs,
    pub unrestricted: bool,
    pub long: bool,
    pub virtual_8086: bool,
    entry: u32,
    secondary: u32,
}

impl Guest<'_> {
    pub(super) fn canonical(&self, field: Field) -> bool {
        VcpuState::canonical(self.vmcs.get(field))
    }
}

pub(super) fn check(vmcs: &Vmcs, capabilities: &Capabilities, facts: &Facts<'_>) -> Result<[u64; 4], Check> {
    let entry = vmcs.get32(Field::VmEntryControls);
    let secondary = secondary_controls(vmcs);
    let guest = Guest {
        vmcs,
        unrestricted: secondary & secondary::UNRESTRICTED_GUEST != 0,
        long: entry & entry::IA32E_MODE_GUEST != 0,
        virtual_8086: vmcs.get(Field::GuestRflags) & rflags::VM != 0,
        entry,
        secondary,
    };
    guest.check_registers(capabilities)?;
    guest_segments::check(&guest)?;
    guest.check_tables()?;
    guest.check_instruction_pointer()?;
    guest.check_activity()?;
    guest.check_interruptibility()?;
    guest.check_pending_debug()?;
    guest.check_link_pointer(facts)?;
    guest.check_pdptes(facts)
}

impl Guest<'_> {
    fn check_registers(&self, capabilities: &Capabilities) -> Result<(), Check> {
        let vmcs = self.vmcs;
        let (control0, control4) = (vmcs.get(Field::GuestCr0), vmcs.get(Field::GuestCr4));
        let fits = if self.unrestricted { cr0_fits_unrestricted } else { cr0_fits };
        require(fits(control0), Check::GuestCr0Fixed)?;
        let paging = control0 & cr0::PG != 0;
        require(!paging || control0 & cr0::PE != 0, Check::GuestPagingUnprotected)?;
        require(cr4_fits(control4, capabilities), Check::GuestCr4Fixed)?;
        let debug = self.entry & entry::LOAD_DEBUG_CONTROLS != 0;
        let branches = debugctl::LBR | debugctl::BTF;
        require(!debug || vmcs.get(Field::GuestDebugctl) & !branches == 0, Check::GuestDebugctl)?;
        require(!self.long || paging && control4 & cr4::PAE != 0, Check::GuestLongPaging)?;
        require(self.long || control4 & cr4::PCIDE == 0, Check::GuestLegacyPcid)?;
        require(vmcs.get(Field::GuestCr3) & Capabilities::BEYOND_PHYSICAL == 0, Check::GuestCr3Width)?;
        require(!debug || vmcs.get(Field::GuestDr7) >> 32 == 0, Check::GuestDr7)?;
        require(self.canonical(Field::GuestSysenterEsp), Check::GuestSysenterEsp)?;
        require(self.canonical(Field::GuestSysenterEip), Check::GuestSysenterEip)?;
        let pat = self.entry & entry::LOAD_PAT != 0;
        require(!pat || is_pat(vmcs.get(Field::GuestPat)), Check::GuestPat)?;
        if self.entry & entry::LOAD_EFER == 0 {
            return Ok(());
        }
        let value = vmcs.get(Field::GuestEfer);
        require(value & !capabilities.efer == 0, Check::GuestEferReserved)?;
        let (active, enabled) = (value & efer::LMA != 0, value & efer::LME != 0);
        require(active == self.long && (!paging || active == enabled), Check::GuestEferMode)
    }

    fn check_tables(&self) -> Result<(), Check> {
        let bases = [Field::GuestGdtrBase, Field::GuestIdtrBase];
        require(bases.into_iter().all(|base| self.canonical(base)), Check::TableBase)?;
        let limits = [Field::GuestGdtrLimit, Field::GuestIdtrLimit];
        require(limits.into_iter().all(|limit| self.vmcs.get(limit) <= 0xffff), Check::TableLimit)
    }

    fn check_instruction_pointer(&self) -> Result<(), Check> {
        let rip = self.vmcs.get(Field::GuestRip);
        let code64 = self.long && self.vmcs.get32(CS.3) & access::LONG != 0;
        require(code64 || rip >> 32 == 0, Check::RipWide)?;
        require(VcpuState::canonical(rip), Check::RipCanonical)?;
        let flags = self.vmcs.get(Field::GuestRflags);
        let known = flags & !(rflags::WRITABLE | rflags::FIXED) == 0 && flags & rflags::FIXED != 0;
        require(known, Check::RflagsReserved)?;
        let protected = self.vmcs.get(Field::GuestCr0) & cr0::PE != 0;
        require(!self.virtual_8086 || protected && !self.long, Check::RflagsVirtual8086)?;
        let external = self.injects(interruption::EXTERNAL_INTERRUPT);
        require(!external || flags & rflags::IF != 0, Check::RflagsInterrupt)
    }

    fn injects(&self, kind: u32) -> bool {
        event::injected(self.vmcs).is_some_and(|(injected, _)| injected == kind)
    }

    fn blocking(&self) -> u32 {
        self.vmcs.get32(Field::GuestInterruptibilityState)
    }

    fn check_activity(&self) -> Result<(), Check> {
        let state = self.vmcs.get(Field::GuestActivityState);
        let known = state < 64 && Capabilities::ACTIVITY_STATES >> state & 1 != 0;
        require(known, Check::ActivityUnknown)?;
        let privileged = self.vmcs.get32(SS.3) & access::DPL == 0;
        require(state != activity::HLT || privileged, Check::ActivityHltPrivilege)?;
        let blocks = interruptibility::BLOCKING_BY_STI | interruptibility::BLOCKING_BY_MOV_SS;
        require(state == activity::ACTIVE || self.blocking() & blocks == 0, Check::ActivityBlocking)?;
        let Some((kind, number)) = event::injected(self.vmcs) else { return Ok(()) };
        let exception = kind == interruption::HARDWARE_EXCEPTION;
        let reaches = match state {
            activity::ACTIVE => true,
            activity::HLT => match kind {
                interruption::EXTERNAL_INTERRUPT | interruption::NMI | interruption::OTHER_EVENT => true,
                _ => exception && matches!(number, vector::DB | vector::MC),
            },
            _ => false,
        };
        require(reaches, Check::ActivityEvent)
    }

    fn check_interruptibility(&self) -> Result<(), Check> {
        let blocking = self.blocking();
        let has = |bit| blocking & bit != 0;
        let sti = has(interruptibility::BLOCKING_BY_STI);
        let mov_ss = has(interruptibility::BLOCKING_BY_MOV_SS);
        require(blocking >> 5 == 0, Check::InterruptibilityReserved)?;
        require(!sti || !mov_ss, Check::InterruptibilityBoth)?;
        let enabled = self.vmcs.get(Field::GuestRflags) & rflags::IF != 0;
        require(!sti || enabled, Check::InterruptibilitySti)?;
        let external = self.injects(interruption::EXTERNAL_INTERRUPT);
        require(!external || !sti && !mov_ss, Check::InterruptibilityExternal)?;
        let nmi = self.injects(interruption::NMI);
        require(!nmi || !mov_ss, Check::InterruptibilityNmi)?;
        require(!has(interruptibility::BLOCKING_BY_SMI), Check::InterruptibilitySmi)?;
        let virtual_nmis = self.vmcs.get32(Field::PinBasedControls) & pin::VIRTUAL_NMIS != 0;
        let blocked = virtual_nmis && has(interruptibility::BLOCKING_BY_NMI);
        require(!nmi || !blocked, Check::InterruptibilityVirtualNmi)?;
        require(!has(interruptibility::ENCLAVE_INTERRUPTION), Check::InterruptibilityEnclave)
    }

    fn check_pending_debug(&self) -> Result<(), Check> {
        let pending = self.vmcs.get(Field::GuestPendingDebugExceptions);
        let breakpoints = pending_debug::B0 | pending_debug::B1 | pending_debug::B2 | pending_debug::B3;
        let known = breakpoints | pending_debug::ENABLED_BREAKPOINT | pending_debug::BS;
        require(pending & !known == 0, Check::PendingDebugReserved)?;
        let blocks = interruptibility::BLOCKING_BY_STI | interruptibility::BLOCKING_BY_MOV_SS;
        let halted = self.vmcs.get(Field::GuestActivityState) == activity::HLT;
        if self.blocking() & blocks == 0 && !halted {
            return Ok(());
        }
        let steps = self.vmcs.get(Field::GuestRflags) & rflags::TF != 0
            && self.vmcs.get(Field::GuestDebugctl) & debugctl::BTF == 0;
        require(steps == (pending & pending_debug::BS != 0), Check::PendingDebugSingleStep)
    }

    fn check_link_pointer(&self, facts: &Facts<'_>) -> Result<(), Check> {
        let pointer = self.vmcs.get(Field::VmcsLinkPointer);
        if pointer == u64::MAX {
            return Ok(());
        }
        require(Capabilities::page_address(pointer), Check::LinkPointerAddress)?;
        let shadowing = self.secondary & secondary::VMCS_SHADOWING != 0;
        let expected = REVISION | if shadowing { vmcs_region::SHADOW } else { 0 };
        let first = vmcs_region::revision(facts.memory, pointer);
        require(first == expected, Check::LinkPointerRevision)?;
        require(pointer != facts.current, Check::LinkPointerCurrent)
    }

    fn check_pdptes(&self, facts: &Facts<'_>) -> Result<[u64; 4], Check> {
        let vmcs = self.vmcs;
        let paging = vmcs.get(Field::GuestCr0) & cr0::PG != 0;
        if self.long || !paging || vmcs.get(Field::GuestCr4) & cr4::PAE == 0 {
            return Ok([0; 4]);
        }
        let entries = if self.secondary & secondary::ENABLE_EPT != 0 {
            Some(PDPTES.map(|field| vmcs.get(field)))
        } else {
            pdptes::read(facts.memory, vmcs.get(Field::GuestCr3))
        };
        entries.filter(pdptes::valid).ok_or(Check::PdpteReserved)
    }
}
