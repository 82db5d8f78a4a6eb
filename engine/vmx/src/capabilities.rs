//! What this processor offers of VMX: the capability MSRs (SDM vol. 3, appendix A), all from the constants below. A
//! feature that is not built is not in them, so no VM entry can ask for it.

use gasang_cpu::{CpuModel, Feature, PHYSICAL_ADDRESS_BITS};
use gasang_x86::control::{cr0, cr4, efer};
use gasang_x86::msr;
use gasang_x86::vmx::Field;
use gasang_x86::vmx::controls::{
    activity, entry, ept_vpid_capability as ept, exit, pin, primary, secondary, tertiary,
};

/// The VMCS revision identifier: changes with the layout of a VMCS region.
pub const REVISION: u32 = 0x6761_0001;
/// Bytes of a VMCS region and of a VMXON region.
pub const REGION_SIZE: u64 = 4096;
/// CR3-target values.
pub const CR3_TARGETS: u64 = 4;
/// The VMX-preemption timer counts down when this bit of the time-stamp counter changes.
pub const PREEMPTION_TIMER_RATE: u32 = 5;
/// How many entries an MSR area may have: 512 times one more than bits 27:25 of IA32_VMX_MISC.
pub const MSR_AREA_ENTRIES: u64 = 512;

const PIN: u32 = pin::EXTERNAL_INTERRUPT_EXITING
    | pin::NMI_EXITING
    | pin::VIRTUAL_NMIS
    | pin::ACTIVATE_PREEMPTION_TIMER
    | pin::PROCESS_POSTED_INTERRUPTS;
const PRIMARY: u32 = primary::INTERRUPT_WINDOW_EXITING
    | primary::USE_TSC_OFFSETTING
    | primary::HLT_EXITING
    | primary::INVLPG_EXITING
    | primary::MWAIT_EXITING
    | primary::RDPMC_EXITING
    | primary::RDTSC_EXITING
    | primary::CR3_LOAD_EXITING
    | primary::CR3_STORE_EXITING
    | primary::CR8_LOAD_EXITING
    | primary::CR8_STORE_EXITING
    | primary::USE_TPR_SHADOW
    | primary::NMI_WINDOW_EXITING
    | primary::MOV_DR_EXITING
    | primary::UNCONDITIONAL_IO_EXITING
    | primary::USE_IO_BITMAPS
    | primary::MONITOR_TRAP_FLAG
    | primary::USE_MSR_BITMAPS
    | primary::MONITOR_EXITING
    | primary::PAUSE_EXITING
    | primary::ACTIVATE_SECONDARY_CONTROLS;
const SECONDARY: u32 = secondary::VIRTUALIZE_APIC_ACCESSES
    | secondary::ENABLE_EPT
    | secondary::DESCRIPTOR_TABLE_EXITING
    | secondary::VIRTUALIZE_X2APIC_MODE
    | secondary::ENABLE_VPID
    | secondary::WBINVD_EXITING
    | secondary::UNRESTRICTED_GUEST
    | secondary::APIC_REGISTER_VIRTUALIZATION
    | secondary::VIRTUAL_INTERRUPT_DELIVERY
    | secondary::PAUSE_LOOP_EXITING
    | secondary::ENABLE_PML
    | secondary::ENABLE_VM_FUNCTIONS
    | secondary::VMCS_SHADOWING
    | secondary::EPT_VIOLATION_EXCEPTION
    | secondary::MODE_BASED_EXECUTE_CONTROL
    | secondary::USE_TSC_SCALING;
/// Secondary controls that are of use only with a feature of the processor.
const SECONDARY_WITH: [(Feature, u32); 5] = [
    (Feature::Rdtscp, secondary::ENABLE_RDTSCP),
    (Feature::Rdrand, secondary::RDRAND_EXITING),
    (Feature::Rdseed, secondary::RDSEED_EXITING),
    (Feature::Invpcid, secondary::ENABLE_INVPCID),
    (Feature::Xsaves, secondary::ENABLE_XSAVES),
];
const EXIT: u32 = exit::SAVE_DEBUG_CONTROLS
    | exit::HOST_ADDRESS_SPACE_SIZE
    | exit::ACKNOWLEDGE_INTERRUPT
    | exit::SAVE_PAT
    | exit::LOAD_PAT
    | exit::SAVE_EFER
    | exit::LOAD_EFER
    | exit::SAVE_PREEMPTION_TIMER;
const ENTRY: u32 = entry::LOAD_DEBUG_CONTROLS | entry::IA32E_MODE_GUEST | entry::LOAD_PAT | entry::LOAD_EFER;
const EPT_VPID: u64 = ept::EXECUTE_ONLY
    | ept::WALK_LENGTH_4
    | ept::UNCACHEABLE
    | ept::WRITE_BACK
    | ept::PAGES_2M
    | ept::PAGES_1G
    | ept::INVEPT
    | ept::ACCESSED_AND_DIRTY
    | ept::ADVANCED_INFORMATION
    | ept::INVEPT_SINGLE_CONTEXT
    | ept::INVEPT_ALL_CONTEXT
    | ept::INVVPID
    | ept::INVVPID_INDIVIDUAL_ADDRESS
    | ept::INVVPID_SINGLE_CONTEXT
    | ept::INVVPID_ALL_CONTEXT
    | ept::INVVPID_SINGLE_CONTEXT_RETAINING_GLOBALS;

/// The VM function that switches EPT pointers.
pub const EPTP_SWITCHING: u64 = 1;

/// Controls that are 1 where software does not know better (SDM vol. 3, A.2-A.5).
const PIN_DEFAULT1: u32 = 0x16;
const PRIMARY_DEFAULT1: u32 = 0x0401_e172;
const EXIT_DEFAULT1: u32 = 0x0003_6dff;
const ENTRY_DEFAULT1: u32 = 0x11ff;
/// Those of them that the TRUE capability MSRs let be 0.
const PRIMARY_FLEXIBLE: u32 = primary::CR3_LOAD_EXITING | primary::CR3_STORE_EXITING;
const EXIT_FLEXIBLE: u32 = exit::SAVE_DEBUG_CONTROLS;
const ENTRY_FLEXIBLE: u32 = entry::LOAD_DEBUG_CONTROLS;

/// What a word of controls may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// Bits that must be 1.
    pub ones: u32,
    /// Of these, what software that only knows the older capability MSR is not told to be free.
    pub flexible: u32,
    /// Bits that can be 1.
    pub can_be_one: u32,
}

impl Allowed {
    const fn new(default1: u32, flexible: u32, offered: u32) -> Allowed {
        Allowed { ones: default1 & !flexible, flexible, can_be_one: default1 | offered }
    }

    /// Whether a control word is acceptable.
    pub const fn accepts(&self, controls: u32) -> bool {
        controls & self.ones == self.ones && controls & !self.can_be_one == 0
    }

    /// Whether a control is offered.
    pub const fn offers(&self, control: u32) -> bool {
        self.can_be_one & control == control
    }

    /// The TRUE capability MSR.
    const fn true_msr(&self) -> u64 {
        (self.can_be_one as u64) << 32 | self.ones as u64
    }

    /// The capability MSR.
    const fn msr(&self) -> u64 {
        self.true_msr() | self.flexible as u64
    }
}

/// The capabilities of one processor model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Pin-based controls.
    pub pin: Allowed,
    /// Primary processor-based controls.
    pub primary: Allowed,
    /// Secondary processor-based controls.
    pub secondary: Allowed,
    /// Tertiary processor-based controls that can be 1.
    pub tertiary: u64,
    /// VM-exit controls.
    pub exit: Allowed,
    /// VM-entry controls.
    pub entry: Allowed,
    /// VM functions that can be enabled.
    pub vm_functions: u64,
    /// IA32_VMX_EPT_VPID_CAP.
    pub ept_vpid: u64,
    /// Bits of CR4 that can be 1 in VMX operation.
    pub cr4_fixed1: u64,
    /// Bits of EFER that exist.
    pub efer: u64,
}

impl Capabilities {
    /// Bits of CR0 that are 1 in VMX operation. PE and PG are free in an unrestricted guest.
    pub const CR0_FIXED0: u64 = cr0::PE | cr0::NE | cr0::PG;
    /// Bits of CR0 that can be 1.
    pub const CR0_FIXED1: u64 = 0xffff_ffff;
    /// Bits of CR4 that are 1 in VMX operation.
    pub const CR4_FIXED0: u64 = cr4::VMXE;
    /// The activity states that a guest can be entered in, a bit for each. A guest that shuts down has exited; to enter
    /// one in shutdown is nothing that hypervisors do.
    pub const ACTIVITY_STATES: u64 =
        1 << activity::ACTIVE | 1 << activity::HLT | 1 << activity::WAIT_FOR_SIPI;
    /// Bits of physical addresses that must be 0.
    pub const BEYOND_PHYSICAL: u64 = !((1 << PHYSICAL_ADDRESS_BITS) - 1);

    /// What a model offers.
    pub fn new(model: &CpuModel) -> Capabilities {
        let with = SECONDARY_WITH.iter().filter(|(feature, _)| model.has(*feature));
        let secondary = with.fold(SECONDARY, |all, (_, control)| all | control);
        let efer_bits =
            [(Feature::Syscall, efer::SCE), (Feature::Lm, efer::LME | efer::LMA), (Feature::Nx, efer::NXE)];
        Capabilities {
            pin: Allowed::new(PIN_DEFAULT1, 0, PIN),
            primary: Allowed::new(PRIMARY_DEFAULT1, PRIMARY_FLEXIBLE, PRIMARY),
            secondary: Allowed::new(0, 0, secondary),
            tertiary: 0,
            exit: Allowed::new(EXIT_DEFAULT1, EXIT_FLEXIBLE, EXIT),
            entry: Allowed::new(ENTRY_DEFAULT1, ENTRY_FLEXIBLE, ENTRY),
            vm_functions: EPTP_SWITCHING,
            ept_vpid: EPT_VPID,
            cr4_fixed1: model.cr4_allowed(),
            efer: efer_bits
                .iter()
                .filter(|(feature, _)| model.has(*feature))
                .fold(0, |all, (_, bit)| all | bit),
        }
    }

    /// IA32_VMX_BASIC: write-back regions, the TRUE capability MSRs, and INS and OUTS described by exits.
    const fn basic() -> u64 {
        REVISION as u64 | REGION_SIZE << 32 | 6 << 50 | 1 << 54 | 1 << 55
    }

    /// IA32_VMX_MISC: rate of the preemption timer, EFER.LMA stored into the entry control, activity states, CR3 targets,
    /// and VMWRITE to every field: KVM uses shadow VMCSs only where its guest's VM-exit information can be written there.
    const fn misc() -> u64 {
        let states = Capabilities::ACTIVITY_STATES >> 1 << 6;
        PREEMPTION_TIMER_RATE as u64 | 1 << 5 | states | CR3_TARGETS << 16 | 1 << 29
    }

    /// The value of a capability MSR; None if there is no such MSR.
    pub fn msr(&self, index: u32) -> Option<u64> {
        Some(match index {
            msr::VMX_BASIC => Capabilities::basic(),
            msr::VMX_PINBASED_CTLS => self.pin.msr(),
            msr::VMX_PROCBASED_CTLS => self.primary.msr(),
            msr::VMX_EXIT_CTLS => self.exit.msr(),
            msr::VMX_ENTRY_CTLS => self.entry.msr(),
            msr::VMX_MISC => Capabilities::misc(),
            msr::VMX_CR0_FIXED0 => Capabilities::CR0_FIXED0,
            msr::VMX_CR0_FIXED1 => Capabilities::CR0_FIXED1,
            msr::VMX_CR4_FIXED0 => Capabilities::CR4_FIXED0,
            msr::VMX_CR4_FIXED1 => self.cr4_fixed1,
            msr::VMX_VMCS_ENUM => self.highest_index() << 1,
            msr::VMX_PROCBASED_CTLS2 => self.secondary.msr(),
            msr::VMX_EPT_VPID_CAP => self.ept_vpid,
            msr::VMX_TRUE_PINBASED_CTLS => self.pin.true_msr(),
            msr::VMX_TRUE_PROCBASED_CTLS => self.primary.true_msr(),
            msr::VMX_TRUE_EXIT_CTLS => self.exit.true_msr(),
            msr::VMX_TRUE_ENTRY_CTLS => self.entry.true_msr(),
            msr::VMX_VMFUNC if self.secondary.offers(secondary::ENABLE_VM_FUNCTIONS) => self.vm_functions,
            msr::VMX_PROCBASED_CTLS3 if self.primary.offers(primary::ACTIVATE_TERTIARY_CONTROLS) => {
                self.tertiary
            }
            _ => return None,
        })
    }

    fn highest_index(&self) -> u64 {
        let supported = Field::ALL.iter().filter(|field| self.supports(**field));
        supported.map(|field| u64::from(field.index())).max().unwrap_or(0)
    }

    /// Whether the VMCS has a field: those of features that are not offered do not exist (SDM vol. 3, appendix B).
    pub fn supports(&self, field: Field) -> bool {
        let secondary = |control| self.secondary.offers(control);
        match field {
            Field::VirtualProcessorIdentifier => secondary(secondary::ENABLE_VPID),
            Field::PostedInterruptNotificationVector | Field::PostedInterruptDescriptorAddress => {
                self.pin.offers(pin::PROCESS_POSTED_INTERRUPTS)
            }
            Field::EptpIndex | Field::VirtualizationExceptionInformationAddress => {
                secondary(secondary::EPT_VIOLATION_EXCEPTION)
            }
            Field::GuestInterruptStatus
            | Field::EoiExitBitmap0
            | Field::EoiExitBitmap1
            | Field::EoiExitBitmap2
            | Field::EoiExitBitmap3 => secondary(secondary::VIRTUAL_INTERRUPT_DELIVERY),
            Field::PmlIndex | Field::PmlAddress => secondary(secondary::ENABLE_PML),
            Field::ApicAccessAddress => secondary(secondary::VIRTUALIZE_APIC_ACCESSES),
            Field::VmFunctionControls => secondary(secondary::ENABLE_VM_FUNCTIONS),
            Field::EptpListAddress => self.vm_functions & EPTP_SWITCHING != 0,
            Field::EptPointer
            | Field::GuestPhysicalAddress
            | Field::GuestPdpte0
            | Field::GuestPdpte1
            | Field::GuestPdpte2
            | Field::GuestPdpte3 => secondary(secondary::ENABLE_EPT),
            Field::VmreadBitmap | Field::VmwriteBitmap => secondary(secondary::VMCS_SHADOWING),
            Field::XssExitingBitmap => secondary(secondary::ENABLE_XSAVES),
            Field::EnclsExitingBitmap => secondary(secondary::ENCLS_EXITING),
            Field::EnclvExitingBitmap => secondary(secondary::ENCLV_EXITING),
            Field::PconfigExitingBitmap => secondary(secondary::ENABLE_PCONFIG),
            Field::SubPagePermissionTablePointer => secondary(secondary::SUB_PAGE_WRITE_PERMISSIONS),
            Field::TscMultiplier => secondary(secondary::USE_TSC_SCALING),
            Field::PleGap | Field::PleWindow => secondary(secondary::PAUSE_LOOP_EXITING),
            Field::InstructionTimeoutControl => secondary(secondary::INSTRUCTION_TIMEOUT),
            Field::LowPasidDirectoryAddress | Field::HighPasidDirectoryAddress => {
                secondary(secondary::PASID_TRANSLATION)
            }
            Field::VmxPreemptionTimerValue => self.pin.offers(pin::ACTIVATE_PREEMPTION_TIMER),
            Field::GuestPerfGlobalCtrl => self.entry.offers(entry::LOAD_PERF_GLOBAL_CTRL),
            Field::HostPerfGlobalCtrl => self.exit.offers(exit::LOAD_PERF_GLOBAL_CTRL),
            Field::GuestBndcfgs => self.entry.offers(entry::LOAD_BNDCFGS),
            Field::GuestRtitCtl => self.entry.offers(entry::LOAD_RTIT_CTL),
            Field::GuestLbrCtl => self.entry.offers(entry::LOAD_LBR_CTL),
            Field::GuestUserInterruptNotificationVector => self.entry.offers(entry::LOAD_UINV),
            Field::GuestPkrs => self.entry.offers(entry::LOAD_PKRS),
            Field::HostPkrs => self.exit.offers(exit::LOAD_PKRS),
            Field::GuestSCet | Field::GuestSsp | Field::GuestInterruptSspTableAddress => {
                self.entry.offers(entry::LOAD_CET_STATE)
            }
            Field::HostSCet | Field::HostSsp | Field::HostInterruptSspTableAddress => {
                self.exit.offers(exit::LOAD_CET_STATE)
            }
            Field::SecondaryVmExitControls => self.exit.offers(exit::ACTIVATE_SECONDARY_CONTROLS),
            Field::TertiaryControls => self.primary.offers(primary::ACTIVATE_TERTIARY_CONTROLS),
            Field::HlatPrefixSize | Field::HlatPointer => self.tertiary & tertiary::ENABLE_HLAT != 0,
            Field::LastPidPointerIndex | Field::PidPointerTableAddress => {
                self.tertiary & tertiary::IPI_VIRTUALIZATION != 0
            }
            Field::SpecCtrlMask | Field::SpecCtrlShadow => {
                self.tertiary & tertiary::VIRTUALIZE_SPEC_CTRL != 0
            }
            Field::SharedEptPointer => false,
            // All else is there wherever VMX is.
            _ => true,
        }
    }

    /// Whether `address` can be that of a 4-KiB structure.
    pub const fn page_address(address: u64) -> bool {
        address & 0xfff == 0 && address & Capabilities::BEYOND_PHYSICAL == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities() -> Capabilities {
        Capabilities::new(&CpuModel::parse("max").unwrap())
    }

    #[test]
    fn no_control_must_be_one_that_cannot_be() {
        let capabilities = capabilities();
        for word in [capabilities.pin, capabilities.primary, capabilities.secondary, capabilities.exit] {
            assert!(word.accepts(word.ones) && word.accepts(word.can_be_one));
        }
    }

    #[test]
    fn older_capability_msrs_tell_less_freedom() {
        let capabilities = capabilities();
        assert_eq!(capabilities.msr(msr::VMX_PROCBASED_CTLS).unwrap() as u32, 0x0401_e172);
        assert_eq!(capabilities.msr(msr::VMX_TRUE_PROCBASED_CTLS).unwrap() as u32, 0x0400_6172);
        assert_eq!(capabilities.msr(msr::VMX_EXIT_CTLS).unwrap() as u32, 0x0003_6dff);
        assert_eq!(capabilities.msr(msr::VMX_TRUE_ENTRY_CTLS).unwrap() as u32, 0x11fb);
    }

    #[test]
    fn every_capability_msr_is_there_but_those_of_absent_features() {
        let capabilities = capabilities();
        for index in msr::VMX_BASIC..=msr::VMX_EXIT_CTLS2 {
            let absent = matches!(index, msr::VMX_PROCBASED_CTLS3 | msr::VMX_EXIT_CTLS2);
            assert_eq!(capabilities.msr(index).is_none(), absent, "{index:#x}");
        }
    }

    #[test]
    fn the_highest_index_is_that_of_the_tsc_multiplier() {
        assert_eq!(capabilities().msr(msr::VMX_VMCS_ENUM), Some(0x32));
    }

    #[test]
    fn a_model_without_rdtscp_does_not_offer_to_enable_it() {
        let model = CpuModel::parse("max,-rdtscp").unwrap();
        assert!(!Capabilities::new(&model).secondary.offers(secondary::ENABLE_RDTSCP));
    }
}
