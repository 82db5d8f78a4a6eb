//! Every check of VM entry fails when its rule is broken, and is then the one that is reported.

mod guest;

use super::*;
use crate::checks::{self, Check, Facts};
use crate::vmcs_region::SHADOW;
use gasang_x86::rflags;
use gasang_x86::vmx::controls::{activity, interruptibility, interruption, pending_debug, pin, secondary};

#[test]
fn no_model_offers_what_is_only_checked() {
    let capabilities = Machine::new().capabilities;
    assert_eq!(capabilities.secondary.can_be_one & NOT_OFFERED, 0);
    assert_eq!(capabilities.pin.can_be_one & pin::PROCESS_POSTED_INTERRUPTS, 0);
}

/// A valid VMCS, to be broken.
struct Case {
    machine: Machine,
    vmcs: Vmcs,
    long_mode: bool,
}

/// Secondary controls that are checked, though no model offers them.
const NOT_OFFERED: u32 = secondary::VIRTUALIZE_APIC_ACCESSES
    | secondary::VIRTUALIZE_X2APIC_MODE
    | secondary::APIC_REGISTER_VIRTUALIZATION
    | secondary::VIRTUAL_INTERRUPT_DELIVERY;
const WIDE: u64 = 1 << 46;
const NOT_CANONICAL: u64 = 1 << 47;

impl Case {
    /// All that is checked is offered.
    fn new() -> Case {
        let mut machine = Machine::current();
        machine.capabilities.pin.can_be_one |= pin::PROCESS_POSTED_INTERRUPTS;
        machine.capabilities.secondary.can_be_one |= NOT_OFFERED;
        let vmcs = valid(&machine.capabilities);
        Case { machine, vmcs, long_mode: true }
    }

    fn result(&self) -> Result<(), Check> {
        let facts = Facts { memory: &self.machine.memory, long_mode: self.long_mode, current: VMCS };
        let capabilities = &self.machine.capabilities;
        checks::controls_and_host(&self.vmcs, capabilities, &facts)?;
        checks::guest(&self.vmcs, capabilities, &facts).map(|_| ())
    }

    fn set(&mut self, field: Field, value: u64) {
        self.vmcs.set(field, value);
    }

    fn add(&mut self, field: Field, bits: u64) {
        self.vmcs.set(field, self.vmcs.get(field) | bits);
    }

    fn remove(&mut self, field: Field, bits: u64) {
        self.vmcs.set(field, self.vmcs.get(field) & !bits);
    }

    fn pin(&mut self, bits: u32) {
        self.add(Field::PinBasedControls, bits.into());
    }

    fn primary(&mut self, bits: u32) {
        self.add(Field::PrimaryControls, bits.into());
    }

    fn secondary(&mut self, bits: u32) {
        self.add(Field::SecondaryControls, bits.into());
    }

    /// With EPT, and whatever else needs it.
    fn ept(&mut self, bits: u32) {
        self.secondary(secondary::ENABLE_EPT | bits);
        self.set(Field::EptPointer, PAGES | 0x1e);
    }

    fn shadow_priority(&mut self) {
        self.primary(primary::USE_TPR_SHADOW);
        self.set(Field::VirtualApicAddress, PAGES);
    }

    fn event(&mut self, kind: u32, vector: u32) {
        let information = interruption::VALID | kind << interruption::TYPE_SHIFT | vector;
        self.set(Field::VmEntryInterruptionInformation, information.into());
    }

    fn blocked(&mut self, bits: u32) {
        self.set(Field::GuestInterruptibilityState, bits.into());
    }

    /// A guest outside IA-32e mode.
    fn legacy(&mut self) {
        self.remove(Field::VmEntryControls, entry::IA32E_MODE_GUEST.into());
        self.remove(Field::GuestEfer, efer::LMA | efer::LME);
        self.remove(Field::GuestCr4, cr4::PAE);
        self.set(Field::GuestCsAccessRights, u64::from(CODE64 & !access::LONG | access::DB));
    }

    /// A guest in virtual-8086 mode.
    fn virtual_8086(&mut self) {
        self.legacy();
        self.add(Field::GuestRflags, rflags::VM);
        for (selector, base, limit, rights) in crate::guest_state::SEGMENTS {
            self.set(selector, 0x100);
            self.set(base, 0x1000);
            self.set(limit, 0xffff);
            self.set(rights, 0xf3);
        }
    }

    /// A host outside IA-32e mode, and a guest too.
    fn legacy_host(&mut self) {
        self.long_mode = false;
        self.legacy();
        self.remove(Field::VmExitControls, exit::HOST_ADDRESS_SPACE_SIZE.into());
        self.remove(Field::HostEfer, efer::LMA | efer::LME);
    }

    fn local_table(&mut self, rights: u32, limit: u64) {
        self.set(Field::GuestLdtrAccessRights, rights.into());
        self.set(Field::GuestLdtrLimit, limit);
    }
}

/// Break the rule of one check, and no rule before it.
fn break_rule(check: Check, case: &mut Case) {
    match check.group() {
        checks::Group::Controls => break_controls(check, case),
        checks::Group::Host => break_host(check, case),
        checks::Group::Guest => guest::break_guest(check, case),
    }
}

fn break_controls(check: Check, case: &mut Case) {
    match check {
        Check::PinReserved => case.remove(Field::PinBasedControls, 2),
        Check::PrimaryReserved => case.primary(1),
        Check::SecondaryReserved => case.secondary(secondary::ENABLE_PCONFIG),
        Check::Cr3TargetCount => case.set(Field::Cr3TargetCount, 5),
        Check::IoBitmapA => {
            case.primary(primary::USE_IO_BITMAPS);
            case.set(Field::IoBitmapA, PAGES + 1);
        }
        Check::IoBitmapB => {
            case.primary(primary::USE_IO_BITMAPS);
            case.set(Field::IoBitmapB, WIDE);
        }
        Check::MsrBitmaps => {
            case.primary(primary::USE_MSR_BITMAPS);
            case.set(Field::MsrBitmaps, PAGES + 0x800);
        }
        Check::VirtualApicAddress => {
            case.shadow_priority();
            case.set(Field::VirtualApicAddress, WIDE);
        }
        Check::TprThresholdReserved => {
            case.shadow_priority();
            case.set(Field::TprThreshold, 0x10);
        }
        Check::TprThresholdAboveVtpr => {
            case.shadow_priority();
            case.machine.poke(PAGES + 0x80, 1, 0x2f);
            case.set(Field::TprThreshold, 3);
        }
        Check::TprShadowOff => case.secondary(secondary::APIC_REGISTER_VIRTUALIZATION),
        Check::VirtualNmisAlone => case.pin(pin::VIRTUAL_NMIS),
        Check::NmiWindowAlone => {
            case.pin(pin::NMI_EXITING);
            case.primary(primary::NMI_WINDOW_EXITING);
        }
        Check::ApicAccessAddress => {
            case.secondary(secondary::VIRTUALIZE_APIC_ACCESSES);
            case.set(Field::ApicAccessAddress, 8);
        }
        Check::X2apicWithApicAccesses => {
            case.shadow_priority();
            case.secondary(secondary::VIRTUALIZE_APIC_ACCESSES | secondary::VIRTUALIZE_X2APIC_MODE);
        }
        Check::VirtualInterruptsAlone => {
            case.shadow_priority();
            case.secondary(secondary::VIRTUAL_INTERRUPT_DELIVERY);
        }
        Check::PostedInterruptsAlone => case.pin(pin::PROCESS_POSTED_INTERRUPTS),
        Check::PostedInterruptVector | Check::PostedInterruptDescriptor => {
            case.shadow_priority();
            case.pin(pin::PROCESS_POSTED_INTERRUPTS | pin::EXTERNAL_INTERRUPT_EXITING);
            case.secondary(secondary::VIRTUAL_INTERRUPT_DELIVERY);
            case.add(Field::VmExitControls, exit::ACKNOWLEDGE_INTERRUPT.into());
            let high = check == Check::PostedInterruptVector;
            case.set(Field::PostedInterruptNotificationVector, if high { 0x100 } else { 0xf2 });
            case.set(Field::PostedInterruptDescriptorAddress, PAGES + 0x20);
        }
        Check::VpidZero => case.secondary(secondary::ENABLE_VPID),
        Check::EptMemoryType => {
            case.ept(0);
            case.set(Field::EptPointer, PAGES | 0x1d);
        }
        Check::EptWalkLength => {
            case.ept(0);
            case.set(Field::EptPointer, PAGES | 0x26);
        }
        Check::EptReserved => {
            case.ept(0);
            case.add(Field::EptPointer, WIDE);
        }
        Check::PmlWithoutEpt => case.secondary(secondary::ENABLE_PML),
        Check::PmlAddress => {
            case.ept(secondary::ENABLE_PML);
            case.set(Field::PmlAddress, 1);
        }
        Check::UnrestrictedWithoutEpt => case.secondary(secondary::UNRESTRICTED_GUEST),
        Check::ModeBasedWithoutEpt => case.secondary(secondary::MODE_BASED_EXECUTE_CONTROL),
        Check::VmFunctionReserved => {
            case.secondary(secondary::ENABLE_VM_FUNCTIONS);
            case.set(Field::VmFunctionControls, 2);
        }
        Check::EptpSwitchingWithoutEpt => {
            case.secondary(secondary::ENABLE_VM_FUNCTIONS);
            case.set(Field::VmFunctionControls, 1);
        }
        Check::EptpListAddress => {
            case.ept(secondary::ENABLE_VM_FUNCTIONS);
            case.set(Field::VmFunctionControls, 1);
            case.set(Field::EptpListAddress, WIDE);
        }
        Check::VmreadBitmap => {
            case.secondary(secondary::VMCS_SHADOWING);
            case.set(Field::VmreadBitmap, 1);
        }
        Check::VmwriteBitmap => {
            case.secondary(secondary::VMCS_SHADOWING);
            case.set(Field::VmwriteBitmap, WIDE);
        }
        Check::VirtualizationExceptionAddress => {
            case.secondary(secondary::EPT_VIOLATION_EXCEPTION);
            case.set(Field::VirtualizationExceptionInformationAddress, 1);
        }
        Check::TscMultiplierZero => case.secondary(secondary::USE_TSC_SCALING),
        Check::ExitReserved => case.add(Field::VmExitControls, 1 << 31),
        Check::SavePreemptionTimerAlone => {
            case.add(Field::VmExitControls, exit::SAVE_PREEMPTION_TIMER.into());
        }
        Check::ExitMsrStoreArea => {
            case.set(Field::VmExitMsrStoreCount, 1);
            case.set(Field::VmExitMsrStoreAddress, PAGES + 8);
        }
        Check::ExitMsrLoadArea => {
            case.set(Field::VmExitMsrLoadCount, 2);
            case.set(Field::VmExitMsrLoadAddress, WIDE - 0x10);
        }
        Check::EntryReserved => case.add(Field::VmEntryControls, entry::ENTRY_TO_SMM.into()),
        Check::EventType => case.event(1, 32),
        Check::EventVector => case.event(interruption::NMI, 3),
        Check::EventErrorCode => case.event(interruption::HARDWARE_EXCEPTION, 14),
        Check::EventReserved => case.event(interruption::EXTERNAL_INTERRUPT, 0x1000 | 32),
        Check::EventErrorCodeReserved => {
            case.event(interruption::HARDWARE_EXCEPTION, interruption::ERROR_CODE | 13);
            case.set(Field::VmEntryExceptionErrorCode, 0x1_0000);
        }
        Check::EventInstructionLength => {
            case.event(interruption::SOFTWARE_EXCEPTION, 3);
            case.set(Field::VmEntryInstructionLength, 16);
        }
        Check::EntryMsrLoadArea => {
            case.set(Field::VmEntryMsrLoadCount, 1);
            case.set(Field::VmEntryMsrLoadAddress, 4);
        }
        _ => panic!("no breaker for {check:?}"),
    }
}

fn break_host(check: Check, case: &mut Case) {
    match check {
        Check::HostCr0Fixed => case.remove(Field::HostCr0, cr0::NE),
        Check::HostCr4Fixed => case.remove(Field::HostCr4, cr4::VMXE),
        Check::HostCr3Width => case.add(Field::HostCr3, WIDE),
        Check::HostSysenterEsp => case.set(Field::HostSysenterEsp, NOT_CANONICAL),
        Check::HostSysenterEip => case.set(Field::HostSysenterEip, NOT_CANONICAL),
        Check::HostPat => {
            case.add(Field::VmExitControls, exit::LOAD_PAT.into());
            case.set(Field::HostPat, 2);
        }
        Check::HostEferReserved => case.add(Field::HostEfer, 2),
        Check::HostEferMode => case.remove(Field::HostEfer, efer::LME),
        Check::HostSelector => case.set(Field::HostGsSelector, 0x13),
        Check::HostCsNull => case.set(Field::HostCsSelector, 0),
        Check::HostTrNull => case.set(Field::HostTrSelector, 0),
        Check::HostSsNull => {
            case.legacy_host();
            case.set(Field::HostSsSelector, 0);
        }
        Check::HostBase => case.set(Field::HostGdtrBase, NOT_CANONICAL),
        Check::HostSizeInLegacyMode => case.long_mode = false,
        Check::HostSizeInLongMode => {
            case.legacy_host();
            case.long_mode = true;
        }
        Check::HostLegacyPcid => {
            case.legacy_host();
            case.add(Field::HostCr4, cr4::PCIDE);
        }
        Check::HostLegacyRip => {
            case.legacy_host();
            case.set(Field::HostRip, 1 << 32);
        }
        Check::HostLongPae => case.remove(Field::HostCr4, cr4::PAE),
        Check::HostLongRip => case.set(Field::HostRip, NOT_CANONICAL),
        _ => panic!("no breaker for {check:?}"),
    }
}

#[test]
fn a_valid_vmcs_passes() {
    assert_eq!(Case::new().result(), Ok(()));
    for shape in [Case::legacy, Case::virtual_8086, Case::legacy_host] {
        let mut case = Case::new();
        shape(&mut case);
        assert_eq!(case.result(), Ok(()));
    }
}

#[test]
fn every_broken_rule_is_reported_by_its_check() {
    for &check in Check::ALL {
        let mut case = Case::new();
        break_rule(check, &mut case);
        assert_eq!(case.result(), Err(check), "{}", check.rule());
    }
}

#[test]
fn names_and_sections_are_told() {
    for check in Check::ALL {
        assert!(check.section().starts_with("27.") && !check.rule().is_empty() && !check.name().is_empty());
    }
}

#[test]
fn an_unrestricted_guest_is_in_real_mode() {
    let mut case = Case::new();
    case.legacy();
    case.ept(secondary::UNRESTRICTED_GUEST);
    case.remove(Field::GuestCr0, cr0::PE | cr0::PG);
    for (selector, base, limit, rights) in crate::guest_state::SEGMENTS {
        case.set(selector, 0x1003);
        case.set(base, 0x1_0030);
        case.set(limit, 0xffff);
        case.set(rights, 0x93);
    }
    assert_eq!(case.result(), Ok(()));
}
