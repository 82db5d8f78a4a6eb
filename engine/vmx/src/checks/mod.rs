//! What VM entries check (SDM vol. 3, 27.2, 27.3), each check by its name. They are pure functions of the VMCS, what the
//! processor offers, and a few facts.

mod controls;
mod event;
mod guest;
mod guest_segments;
mod host;

use crate::capabilities::Capabilities;
use gasang_cpu::Vmcs;
use gasang_memory::GuestMemory;

/// What the checks know besides the VMCS.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// RAM: for the VMCS link pointer, the virtual-APIC page, and page-directory-pointer entries.
    pub memory: &'a GuestMemory,
    /// The processor is in IA-32e mode as it enters.
    pub long_mode: bool,
    /// Physical address of the current VMCS.
    pub current: u64,
}

/// Which of the three stages a check belongs to, and with it how its failure is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    /// Control fields: VMfail with error 7.
    Controls,
    /// Host-state fields: VMfail with error 8.
    Host,
    /// Guest-state fields: a VM exit with reason 33.
    Guest,
}

macro_rules! checks {
    ($($group:ident $check:ident $section:literal $rule:literal;)*) => {
        /// A check of VM entry.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Check { $(#[doc = $rule] $check,)* }

        impl Check {
            /// Every check, in the manual's order.
            pub const ALL: &[Check] = &[$(Check::$check,)*];

            /// The stage that it belongs to.
            pub const fn group(self) -> Group {
                match self { $(Check::$check => Group::$group,)* }
            }

            /// Its short name.
            pub const fn name(self) -> &'static str {
                match self { $(Check::$check => stringify!($check),)* }
            }

            /// What it demands.
            pub const fn rule(self) -> &'static str {
                match self { $(Check::$check => $rule,)* }
            }

            /// Where the manual says so (SDM vol. 3).
            pub const fn section(self) -> &'static str {
                match self { $(Check::$check => $section,)* }
            }
        }
    };
}

checks! {
    Controls PinReserved "27.2.1.1" "pin-based controls are as IA32_VMX_PINBASED_CTLS allows";
    Controls PrimaryReserved "27.2.1.1" "primary controls are as IA32_VMX_PROCBASED_CTLS allows";
    Controls SecondaryReserved "27.2.1.1" "secondary controls, where activated, are as IA32_VMX_PROCBASED_CTLS2 allows";
    Controls Cr3TargetCount "27.2.1.1" "there are no more CR3-target values than four";
    Controls IoBitmapA "27.2.1.1" "I/O bitmap A is a page within the physical-address width";
    Controls IoBitmapB "27.2.1.1" "I/O bitmap B is a page within the physical-address width";
    Controls MsrBitmaps "27.2.1.1" "the MSR bitmaps are a page within the physical-address width";
    Controls VirtualApicAddress "27.2.1.1" "the virtual-APIC page is a page within the physical-address width";
    Controls TprThresholdReserved "27.2.1.1" "bits 31:4 of the TPR threshold are 0";
    Controls TprThresholdAboveVtpr "27.2.1.1" "the TPR threshold is not above the virtual task priority";
    Controls TprShadowOff "27.2.1.1" "virtualized APIC registers, x2APIC and interrupts need the TPR shadow";
    Controls VirtualNmisAlone "27.2.1.1" "virtual NMIs need NMI exiting";
    Controls NmiWindowAlone "27.2.1.1" "NMI-window exiting needs virtual NMIs";
    Controls ApicAccessAddress "27.2.1.1" "the APIC-access page is a page within the physical-address width";
    Controls X2apicWithApicAccesses "27.2.1.1" "x2APIC mode and APIC accesses are not virtualized both";
    Controls VirtualInterruptsAlone "27.2.1.1" "virtual-interrupt delivery needs external-interrupt exiting";
    Controls PostedInterruptsAlone "27.2.1.1" "posted interrupts need virtual-interrupt delivery and acknowledgement on exit";
    Controls PostedInterruptVector "27.2.1.1" "the posted-interrupt notification vector is a vector";
    Controls PostedInterruptDescriptor "27.2.1.1" "the posted-interrupt descriptor is aligned and within the physical-address width";
    Controls VpidZero "27.2.1.1" "the VPID is not 0";
    Controls EptMemoryType "27.2.1.1" "the EPT memory type is offered";
    Controls EptWalkLength "27.2.1.1" "the EPT page-walk length is offered";
    Controls EptReserved "27.2.1.1" "the EPT pointer has no reserved bits";
    Controls PmlWithoutEpt "27.2.1.1" "page-modification logging needs EPT";
    Controls PmlAddress "27.2.1.1" "the page-modification log is a page within the physical-address width";
    Controls UnrestrictedWithoutEpt "27.2.1.1" "an unrestricted guest needs EPT";
    Controls ModeBasedWithoutEpt "27.2.1.1" "mode-based execute control needs EPT";
    Controls VmFunctionReserved "27.2.1.1" "enabled VM functions are offered";
    Controls EptpSwitchingWithoutEpt "27.2.1.1" "EPTP switching needs EPT";
    Controls EptpListAddress "27.2.1.1" "the EPTP list is a page within the physical-address width";
    Controls VmreadBitmap "27.2.1.1" "the VMREAD bitmap is a page within the physical-address width";
    Controls VmwriteBitmap "27.2.1.1" "the VMWRITE bitmap is a page within the physical-address width";
    Controls VirtualizationExceptionAddress "27.2.1.1" "the virtualization-exception area is a page within the physical-address width";
    Controls TscMultiplierZero "27.2.1.1" "the TSC multiplier is not 0";
    Controls ExitReserved "27.2.1.2" "VM-exit controls are as IA32_VMX_EXIT_CTLS allows";
    Controls SavePreemptionTimerAlone "27.2.1.2" "the preemption timer is saved only where it is active";
    Controls ExitMsrStoreArea "27.2.1.2" "the VM-exit MSR-store area is aligned and within the physical-address width";
    Controls ExitMsrLoadArea "27.2.1.2" "the VM-exit MSR-load area is aligned and within the physical-address width";
    Controls EntryReserved "27.2.1.3" "VM-entry controls are as IA32_VMX_ENTRY_CTLS allows";
    Controls EventType "27.2.1.3" "the injected event has a type that exists";
    Controls EventVector "27.2.1.3" "the vector of the injected event goes with its type";
    Controls EventErrorCode "27.2.1.3" "an error code is delivered with the exceptions that have one, and with no other event";
    Controls EventReserved "27.2.1.3" "bits 30:12 of the interruption information are 0";
    Controls EventErrorCodeReserved "27.2.1.3" "bits 31:16 of the exception error code are 0";
    Controls EventInstructionLength "27.2.1.3" "the length of the injected instruction is between 1 and 15";
    Controls EntryMsrLoadArea "27.2.1.3" "the VM-entry MSR-load area is aligned and within the physical-address width";

    Host HostCr0Fixed "27.2.2" "CR0 has the bits that VMX operation fixes";
    Host HostCr4Fixed "27.2.2" "CR4 has the bits that VMX operation fixes";
    Host HostCr3Width "27.2.2" "CR3 is within the physical-address width";
    Host HostSysenterEsp "27.2.2" "IA32_SYSENTER_ESP is canonical";
    Host HostSysenterEip "27.2.2" "IA32_SYSENTER_EIP is canonical";
    Host HostPat "27.2.2" "IA32_PAT has memory types that exist";
    Host HostEferReserved "27.2.2" "IA32_EFER has no reserved bits";
    Host HostEferMode "27.2.2" "LMA and LME of IA32_EFER are the host address-space size";
    Host HostSelector "27.2.3" "selectors have RPL 0 and name the GDT";
    Host HostCsNull "27.2.3" "CS is not null";
    Host HostTrNull "27.2.3" "TR is not null";
    Host HostSsNull "27.2.3" "SS is not null in a 32-bit host";
    Host HostBase "27.2.3" "the bases of FS, GS, TR, GDTR and IDTR are canonical";
    Host HostSizeInLegacyMode "27.2.4" "outside IA-32e mode there is neither a 64-bit host nor an IA-32e mode guest";
    Host HostSizeInLongMode "27.2.4" "in IA-32e mode the host is a 64-bit one";
    Host HostLegacyPcid "27.2.4" "a 32-bit host has no PCIDs";
    Host HostLegacyRip "27.2.4" "RIP of a 32-bit host has 32 bits";
    Host HostLongPae "27.2.4" "a 64-bit host has physical-address extension";
    Host HostLongRip "27.2.4" "RIP of a 64-bit host is canonical";

    Guest GuestCr0Fixed "27.3.1.1" "CR0 has the bits that VMX operation fixes";
    Guest GuestPagingUnprotected "27.3.1.1" "paging needs protected mode";
    Guest GuestCr4Fixed "27.3.1.1" "CR4 has the bits that VMX operation fixes";
    Guest GuestDebugctl "27.3.1.1" "IA32_DEBUGCTL has no reserved bits";
    Guest GuestLongPaging "27.3.1.1" "an IA-32e mode guest has paging and physical-address extension";
    Guest GuestLegacyPcid "27.3.1.1" "a guest outside IA-32e mode has no PCIDs";
    Guest GuestCr3Width "27.3.1.1" "CR3 is within the physical-address width";
    Guest GuestDr7 "27.3.1.1" "DR7 has 32 bits";
    Guest GuestSysenterEsp "27.3.1.1" "IA32_SYSENTER_ESP is canonical";
    Guest GuestSysenterEip "27.3.1.1" "IA32_SYSENTER_EIP is canonical";
    Guest GuestPat "27.3.1.1" "IA32_PAT has memory types that exist";
    Guest GuestEferReserved "27.3.1.1" "IA32_EFER has no reserved bits";
    Guest GuestEferMode "27.3.1.1" "IA32_EFER agrees with the IA-32e mode guest control and with paging";

    Guest SelectorTable "27.3.1.2" "TR, and LDTR if it is usable, name the GDT";
    Guest SelectorPrivilege "27.3.1.2" "RPL of SS is that of CS";
    Guest Virtual8086Base "27.3.1.2" "in virtual-8086 mode bases are selectors times 16";
    Guest BaseCanonical "27.3.1.2" "the bases of TR, FS, GS, and of LDTR if it is usable, are canonical";
    Guest BaseWide "27.3.1.2" "the bases of CS, and of SS, DS, ES if they are usable, have 32 bits";
    Guest Virtual8086Limit "27.3.1.2" "in virtual-8086 mode limits are 0xffff";
    Guest Virtual8086Rights "27.3.1.2" "in virtual-8086 mode access rights are 0xf3";
    Guest CodeType "27.3.1.2" "CS is accessed code";
    Guest StackType "27.3.1.2" "SS is accessed writable data";
    Guest DataType "27.3.1.2" "DS, ES, FS, GS are accessed and can be read";
    Guest SystemSegment "27.3.1.2" "CS to GS are code or data";
    Guest CodePrivilege "27.3.1.2" "DPL of CS goes with its type and with DPL of SS";
    Guest StackPrivilege "27.3.1.2" "DPL of SS is its RPL, and 0 in real mode";
    Guest DataPrivilege "27.3.1.2" "DPL of data segments is at least their RPL";
    Guest SegmentPresent "27.3.1.2" "CS to GS are present";
    Guest SegmentReserved "27.3.1.2" "access rights of CS to GS have no reserved bits";
    Guest CodeDefault "27.3.1.2" "64-bit code has no 32-bit default operand size";
    Guest SegmentGranularity "27.3.1.2" "limits of CS to GS go with their granularity";
    Guest TrType "27.3.1.2" "TR is a busy TSS";
    Guest TrKind "27.3.1.2" "TR is a system segment, present and usable, without reserved bits";
    Guest TrGranularity "27.3.1.2" "the limit of TR goes with its granularity";
    Guest LdtrType "27.3.1.2" "LDTR is a local descriptor table";
    Guest LdtrKind "27.3.1.2" "LDTR is a present system segment without reserved bits";
    Guest LdtrGranularity "27.3.1.2" "the limit of LDTR goes with its granularity";

    Guest TableBase "27.3.1.3" "the bases of GDTR and IDTR are canonical";
    Guest TableLimit "27.3.1.3" "the limits of GDTR and IDTR have 16 bits";
    Guest RipWide "27.3.1.4" "RIP outside 64-bit mode has 32 bits";
    Guest RipCanonical "27.3.1.4" "RIP is canonical";
    Guest RflagsReserved "27.3.1.4" "reserved bits of RFLAGS are as they are fixed";
    Guest RflagsVirtual8086 "27.3.1.4" "virtual-8086 mode is in protected mode outside IA-32e mode";
    Guest RflagsInterrupt "27.3.1.4" "IF is set where an external interrupt is injected";

    Guest ActivityUnknown "27.3.1.5" "the activity state is offered";
    Guest ActivityHltPrivilege "27.3.1.5" "only privilege 0 is halted";
    Guest ActivityBlocking "27.3.1.5" "STI and MOV SS block only an active processor";
    Guest ActivityEvent "27.3.1.5" "the injected event can reach the activity state";
    Guest InterruptibilityReserved "27.3.1.5" "reserved bits of the interruptibility state are 0";
    Guest InterruptibilityBoth "27.3.1.5" "STI and MOV SS do not block both";
    Guest InterruptibilitySti "27.3.1.5" "STI blocks only with IF";
    Guest InterruptibilityExternal "27.3.1.5" "nothing blocks the injected external interrupt";
    Guest InterruptibilityNmi "27.3.1.5" "MOV SS does not block the injected NMI";
    Guest InterruptibilitySmi "27.3.1.5" "SMIs are blocked in SMM only";
    Guest InterruptibilityVirtualNmi "27.3.1.5" "virtual NMIs are not blocked where one is injected";
    Guest InterruptibilityEnclave "27.3.1.5" "no enclave was interrupted";
    Guest PendingDebugReserved "27.3.1.5" "reserved bits of the pending debug exceptions are 0";
    Guest PendingDebugSingleStep "27.3.1.5" "under blocking and in HLT a single step is pending exactly where TF is set without BTF";
    Guest LinkPointerAddress "27.3.1.5" "the VMCS link pointer is a page within the physical-address width";
    Guest LinkPointerRevision "27.3.1.5" "the VMCS that the link pointer names has the revision, and is a shadow VMCS where these are used";
    Guest LinkPointerCurrent "27.3.1.5" "the VMCS link pointer is not that of the current VMCS";
    Guest PdpteReserved "27.3.1.6" "page-directory-pointer entries have no reserved bits";
}

impl Check {
    /// The exit qualification of the VM-entry failure that a guest check causes (SDM vol. 3, 27.8).
    pub const fn qualification(self) -> u64 {
        match self {
            Check::PdpteReserved => 2,
            Check::LinkPointerAddress | Check::LinkPointerRevision | Check::LinkPointerCurrent => 4,
            _ => 0,
        }
    }
}

/// `check` fails unless the rule holds.
fn require(holds: bool, check: Check) -> Result<(), Check> {
    if holds { Ok(()) } else { Err(check) }
}

/// The checks of controls and host state, in this order.
///
/// # Errors
/// The first check that fails.
pub fn controls_and_host(vmcs: &Vmcs, capabilities: &Capabilities, facts: &Facts<'_>) -> Result<(), Check> {
    controls::check(vmcs, capabilities, facts)?;
    host::check(vmcs, capabilities, facts)
}

/// The checks of the guest's state; returns the page-directory-pointer entries that PAE paging is to use.
///
/// # Errors
/// The first check that fails.
pub fn guest(vmcs: &Vmcs, capabilities: &Capabilities, facts: &Facts<'_>) -> Result<[u64; 4], Check> {
    guest::check(vmcs, capabilities, facts)
}

fn is_pat(value: u64) -> bool {
    value.to_le_bytes().iter().all(|entry| matches!(entry, 0 | 1 | 4..=7))
}
