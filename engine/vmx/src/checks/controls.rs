//! The control fields (SDM vol. 3, 27.2.1).

use super::{Check, Facts, event, require};
use crate::capabilities::{CR3_TARGETS, Capabilities, EPTP_SWITCHING};
use crate::ept_pointer::{self, Fault};
use crate::guest_state::secondary_controls;
use crate::msr_lists::{Area, ENTRY_SIZE};
use gasang_cpu::Vmcs;
use gasang_x86::vmx::Field;
use gasang_x86::vmx::controls::{exit, pin, primary, secondary};

/// Offset of the virtual task-priority register in the virtual-APIC page.
const VTPR: u64 = 0x80;

/// The control words as they count.
struct Words {
    pin: u32,
    primary: u32,
    secondary: u32,
    exit: u32,
}

pub(super) fn check(vmcs: &Vmcs, capabilities: &Capabilities, facts: &Facts<'_>) -> Result<(), Check> {
    let words = Words {
        pin: vmcs.get32(Field::PinBasedControls),
        primary: vmcs.get32(Field::PrimaryControls),
        secondary: secondary_controls(vmcs),
        exit: vmcs.get32(Field::VmExitControls),
    };
    require(capabilities.pin.accepts(words.pin), Check::PinReserved)?;
    require(capabilities.primary.accepts(words.primary), Check::PrimaryReserved)?;
    require(capabilities.secondary.accepts(words.secondary), Check::SecondaryReserved)?;
    require(vmcs.get(Field::Cr3TargetCount) <= CR3_TARGETS, Check::Cr3TargetCount)?;
    check_bitmaps(vmcs, &words)?;
    check_apic(vmcs, &words, facts)?;
    check_posted_interrupts(vmcs, &words)?;
    check_translation(vmcs, &words, capabilities)?;
    check_functions(vmcs, &words, capabilities)?;
    check_exit(vmcs, &words, capabilities)?;
    require(capabilities.entry.accepts(vmcs.get32(Field::VmEntryControls)), Check::EntryReserved)?;
    event::check(vmcs)?;
    check_area(vmcs, Area::EntryLoad, Check::EntryMsrLoadArea)
}

/// A field that holds the address of a page, where `used` says so.
fn page(used: bool, vmcs: &Vmcs, field: Field, check: Check) -> Result<(), Check> {
    require(!used || Capabilities::page_address(vmcs.get(field)), check)
}

fn check_bitmaps(vmcs: &Vmcs, words: &Words) -> Result<(), Check> {
    let io = words.primary & primary::USE_IO_BITMAPS != 0;
    page(io, vmcs, Field::IoBitmapA, Check::IoBitmapA)?;
    page(io, vmcs, Field::IoBitmapB, Check::IoBitmapB)?;
    page(words.primary & primary::USE_MSR_BITMAPS != 0, vmcs, Field::MsrBitmaps, Check::MsrBitmaps)
}

fn check_apic(vmcs: &Vmcs, words: &Words, facts: &Facts<'_>) -> Result<(), Check> {
    let shadow = words.primary & primary::USE_TPR_SHADOW != 0;
    let has = |control| words.secondary & control != 0;
    page(shadow, vmcs, Field::VirtualApicAddress, Check::VirtualApicAddress)?;
    let threshold = vmcs.get32(Field::TprThreshold);
    if shadow && !has(secondary::VIRTUAL_INTERRUPT_DELIVERY) {
        require(threshold & !0xf == 0, Check::TprThresholdReserved)?;
        if !has(secondary::VIRTUALIZE_APIC_ACCESSES) {
            let priority = virtual_task_priority(vmcs, facts);
            require(threshold <= priority >> 4, Check::TprThresholdAboveVtpr)?;
        }
    }
    let needs_shadow = secondary::VIRTUALIZE_X2APIC_MODE
        | secondary::APIC_REGISTER_VIRTUALIZATION
        | secondary::VIRTUAL_INTERRUPT_DELIVERY;
    require(shadow || !has(needs_shadow), Check::TprShadowOff)?;
    let virtual_nmis = words.pin & pin::VIRTUAL_NMIS != 0;
    require(!virtual_nmis || words.pin & pin::NMI_EXITING != 0, Check::VirtualNmisAlone)?;
    let window = words.primary & primary::NMI_WINDOW_EXITING != 0;
    require(!window || virtual_nmis, Check::NmiWindowAlone)?;
    let accesses = has(secondary::VIRTUALIZE_APIC_ACCESSES);
    page(accesses, vmcs, Field::ApicAccessAddress, Check::ApicAccessAddress)?;
    require(!accesses || !has(secondary::VIRTUALIZE_X2APIC_MODE), Check::X2apicWithApicAccesses)?;
    let external = words.pin & pin::EXTERNAL_INTERRUPT_EXITING != 0;
    require(external || !has(secondary::VIRTUAL_INTERRUPT_DELIVERY), Check::VirtualInterruptsAlone)
}

fn virtual_task_priority(vmcs: &Vmcs, facts: &Facts<'_>) -> u32 {
    let mut byte = [0xff];
    let address = vmcs.get(Field::VirtualApicAddress) + VTPR;
    // What is not RAM reads as ones.
    let _ = facts.memory.read_physical(address, &mut byte);
    u32::from(byte[0])
}

fn check_posted_interrupts(vmcs: &Vmcs, words: &Words) -> Result<(), Check> {
    if words.pin & pin::PROCESS_POSTED_INTERRUPTS == 0 {
        return Ok(());
    }
    let delivery = words.secondary & secondary::VIRTUAL_INTERRUPT_DELIVERY != 0;
    let acknowledged = words.exit & exit::ACKNOWLEDGE_INTERRUPT != 0;
    require(delivery && acknowledged, Check::PostedInterruptsAlone)?;
    let vector = vmcs.get(Field::PostedInterruptNotificationVector);
    require(vector <= 0xff, Check::PostedInterruptVector)?;
    let descriptor = vmcs.get(Field::PostedInterruptDescriptorAddress);
    require(descriptor & (0x3f | Capabilities::BEYOND_PHYSICAL) == 0, Check::PostedInterruptDescriptor)
}

fn check_translation(vmcs: &Vmcs, words: &Words, capabilities: &Capabilities) -> Result<(), Check> {
    let has = |control| words.secondary & control != 0;
    let vpid = vmcs.get(Field::VirtualProcessorIdentifier);
    require(!has(secondary::ENABLE_VPID) || vpid != 0, Check::VpidZero)?;
    let ept = has(secondary::ENABLE_EPT);
    if ept {
        ept_pointer::check(vmcs.get(Field::EptPointer), capabilities).map_err(|fault| match fault {
            Fault::MemoryType => Check::EptMemoryType,
            Fault::WalkLength => Check::EptWalkLength,
            Fault::AccessedAndDirty | Fault::Reserved => Check::EptReserved,
        })?;
    }
    let log = has(secondary::ENABLE_PML);
    require(ept || !log, Check::PmlWithoutEpt)?;
    page(log, vmcs, Field::PmlAddress, Check::PmlAddress)?;
    require(ept || !has(secondary::UNRESTRICTED_GUEST), Check::UnrestrictedWithoutEpt)?;
    require(ept || !has(secondary::MODE_BASED_EXECUTE_CONTROL), Check::ModeBasedWithoutEpt)
}

fn check_functions(vmcs: &Vmcs, words: &Words, capabilities: &Capabilities) -> Result<(), Check> {
    let has = |control| words.secondary & control != 0;
    if has(secondary::ENABLE_VM_FUNCTIONS) {
        let functions = vmcs.get(Field::VmFunctionControls);
        require(functions & !capabilities.vm_functions == 0, Check::VmFunctionReserved)?;
        let switching = functions & EPTP_SWITCHING != 0;
        require(!switching || has(secondary::ENABLE_EPT), Check::EptpSwitchingWithoutEpt)?;
        page(switching, vmcs, Field::EptpListAddress, Check::EptpListAddress)?;
    }
    let shadowing = has(secondary::VMCS_SHADOWING);
    page(shadowing, vmcs, Field::VmreadBitmap, Check::VmreadBitmap)?;
    page(shadowing, vmcs, Field::VmwriteBitmap, Check::VmwriteBitmap)?;
    let exceptions = has(secondary::EPT_VIOLATION_EXCEPTION);
    let area = Field::VirtualizationExceptionInformationAddress;
    page(exceptions, vmcs, area, Check::VirtualizationExceptionAddress)?;
    let scaling = has(secondary::USE_TSC_SCALING);
    require(!scaling || vmcs.get(Field::TscMultiplier) != 0, Check::TscMultiplierZero)
}

fn check_exit(vmcs: &Vmcs, words: &Words, capabilities: &Capabilities) -> Result<(), Check> {
    require(capabilities.exit.accepts(words.exit), Check::ExitReserved)?;
    let active = words.pin & pin::ACTIVATE_PREEMPTION_TIMER != 0;
    let saved = words.exit & exit::SAVE_PREEMPTION_TIMER != 0;
    require(active || !saved, Check::SavePreemptionTimerAlone)?;
    check_area(vmcs, Area::ExitStore, Check::ExitMsrStoreArea)?;
    check_area(vmcs, Area::ExitLoad, Check::ExitMsrLoadArea)
}

/// An MSR area that has entries: aligned to 16 bytes, and neither end beyond the physical-address width.
fn check_area(vmcs: &Vmcs, area: Area, check: Check) -> Result<(), Check> {
    let (address, count) = area.fields();
    let (address, count) = (vmcs.get(address), vmcs.get(count));
    if count == 0 {
        return Ok(());
    }
    let last = address.wrapping_add(count * ENTRY_SIZE - 1);
    let within = (address | last) & Capabilities::BEYOND_PHYSICAL == 0;
    require(address & (ENTRY_SIZE - 1) == 0 && within, check)
}
