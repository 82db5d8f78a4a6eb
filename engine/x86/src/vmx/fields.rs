//! The fields of the virtual-machine control structure (SDM vol. 3, 25.3-25.9, appendix B), in one table.
//!
//! An encoding says what a field is: bit 0 the high half of a 64-bit field, bits 9:1 its index among those of its kind,
//! bits 11:10 whether it is a control, read-only, the guest's or the host's, bits 14:13 its width.

/// The six areas of a VMCS (SDM vol. 3, 25.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Area {
    /// State of the guest: loaded by VM entries, saved by VM exits.
    Guest,
    /// State of the host: loaded by VM exits.
    Host,
    /// VM-execution controls: what happens in VMX non-root operation.
    Execution,
    /// VM-exit controls.
    Exit,
    /// VM-entry controls.
    Entry,
    /// VM-exit information: why the last exit happened.
    ExitInformation,
}

/// How many bits a field has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Width {
    /// 16 bits.
    Bits16,
    /// 64 bits in every mode; outside 64-bit mode in two halves.
    Bits64,
    /// 32 bits.
    Bits32,
    /// As wide as a general-purpose register of the processor: 64 bits.
    Natural,
}

impl Width {
    /// The bits that a field of this width can hold.
    pub const fn mask(self) -> u64 {
        match self {
            Width::Bits16 => 0xffff,
            Width::Bits32 => 0xffff_ffff,
            Width::Bits64 | Width::Natural => u64::MAX,
        }
    }
}

macro_rules! fields {
    ($($area:ident $field:ident $encoding:literal $name:literal $title:literal;)*) => {
        /// A field of the VMCS. The discriminant is its place in `Field::ALL`, not its encoding.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Field { $(#[doc = $title] $field,)* }

        impl Field {
            /// Every field, by rising encoding within its kind.
            pub const ALL: &[Field] = &[$(Field::$field,)*];
            /// How many there are.
            pub const COUNT: usize = Field::ALL.len();

            const ENCODINGS: [u16; Field::COUNT] = [$($encoding,)*];

            /// The area that it belongs to.
            pub const fn area(self) -> Area {
                match self { $(Field::$field => Area::$area,)* }
            }

            /// Its name within its area, in Python's spelling.
            pub const fn name(self) -> &'static str {
                match self { $(Field::$field => $name,)* }
            }

            /// What the manual calls it.
            pub const fn title(self) -> &'static str {
                match self { $(Field::$field => $title,)* }
            }
        }
    };
}

/// Bit 0 of an encoding: the high half of a 64-bit field.
const HIGH: u32 = 1;
/// Fields of one width and type, at most.
const INDEXES: usize = 64;

/// Where the whole field with an encoding is found; None if there can be none.
const fn place(encoding: u32) -> Option<usize> {
    let (width, kind, index) = (encoding >> 13, encoding >> 10 & 3, encoding >> 1 & 0x1ff);
    if width > 3 || encoding & 0x1000 != 0 || index as usize >= INDEXES {
        return None;
    }
    Some((width as usize * 4 + kind as usize) * INDEXES + index as usize)
}

/// The place in `Field::ALL` of each field, plus 1, by `place`.
static BY_ENCODING: [u8; 16 * INDEXES] = {
    let mut table = [0; 16 * INDEXES];
    let mut number = 0;
    while number < Field::COUNT {
        if let Some(place) = place(Field::ENCODINGS[number] as u32) {
            table[place] = number as u8 + 1;
        }
        number += 1;
    }
    table
};

/// Their widths, by place in `Field::ALL`.
static WIDTHS: [Width; Field::COUNT] = {
    let mut widths = [Width::Natural; Field::COUNT];
    let mut number = 0;
    while number < Field::COUNT {
        widths[number] = match Field::ENCODINGS[number] >> 13 & 3 {
            0 => Width::Bits16,
            1 => Width::Bits64,
            2 => Width::Bits32,
            _ => Width::Natural,
        };
        number += 1;
    }
    widths
};

impl Field {
    /// The encoding, of the whole field.
    #[inline]
    pub const fn encoding(self) -> u32 {
        Field::ENCODINGS[self as usize] as u32
    }

    /// The field with this encoding of its whole.
    fn whole(encoding: u32) -> Option<Field> {
        let number = BY_ENCODING[place(encoding)?];
        Field::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// The field that VMREAD or VMWRITE name by `encoding`, and whether they mean its high half.
    pub fn from_encoding(encoding: u32) -> Option<(Field, bool)> {
        let field = Field::whole(encoding & !HIGH)?;
        let high = encoding & HIGH != 0;
        if high && !matches!(field.width(), Width::Bits64) { None } else { Some((field, high)) }
    }

    /// Its width (SDM vol. 3, 25.11.2).
    #[inline]
    pub fn width(self) -> Width {
        WIDTHS[self as usize]
    }

    /// Whether VMWRITE to it is refused by a processor that does not offer writing of all fields.
    pub const fn read_only(self) -> bool {
        self.encoding() >> 10 & 3 == 1
    }

    /// Its index among the fields of its width and type: bits 9:1 of the encoding.
    pub const fn index(self) -> u32 {
        self.encoding() >> 1 & 0x1ff
    }
}

fields! {
    // 16-bit control fields.
    Execution VirtualProcessorIdentifier 0x0000 "vpid" "virtual-processor identifier";
    Execution PostedInterruptNotificationVector 0x0002 "posted_interrupt_notification_vector" "posted-interrupt notification vector";
    Execution EptpIndex 0x0004 "eptp_index" "EPTP index";
    Execution HlatPrefixSize 0x0006 "hlat_prefix_size" "HLAT prefix size";
    Execution LastPidPointerIndex 0x0008 "last_pid_pointer_index" "last PID-pointer index";
    // 16-bit guest-state fields.
    Guest GuestEsSelector 0x0800 "es_selector" "guest ES selector";
    Guest GuestCsSelector 0x0802 "cs_selector" "guest CS selector";
    Guest GuestSsSelector 0x0804 "ss_selector" "guest SS selector";
    Guest GuestDsSelector 0x0806 "ds_selector" "guest DS selector";
    Guest GuestFsSelector 0x0808 "fs_selector" "guest FS selector";
    Guest GuestGsSelector 0x080a "gs_selector" "guest GS selector";
    Guest GuestLdtrSelector 0x080c "ldtr_selector" "guest LDTR selector";
    Guest GuestTrSelector 0x080e "tr_selector" "guest TR selector";
    Guest GuestInterruptStatus 0x0810 "interrupt_status" "guest interrupt status";
    Guest PmlIndex 0x0812 "pml_index" "PML index";
    Guest GuestUserInterruptNotificationVector 0x0814 "uinv" "guest UINV";
    // 16-bit host-state fields.
    Host HostEsSelector 0x0c00 "es_selector" "host ES selector";
    Host HostCsSelector 0x0c02 "cs_selector" "host CS selector";
    Host HostSsSelector 0x0c04 "ss_selector" "host SS selector";
    Host HostDsSelector 0x0c06 "ds_selector" "host DS selector";
    Host HostFsSelector 0x0c08 "fs_selector" "host FS selector";
    Host HostGsSelector 0x0c0a "gs_selector" "host GS selector";
    Host HostTrSelector 0x0c0c "tr_selector" "host TR selector";
    // 64-bit control fields.
    Execution IoBitmapA 0x2000 "io_bitmap_a" "address of I/O bitmap A";
    Execution IoBitmapB 0x2002 "io_bitmap_b" "address of I/O bitmap B";
    Execution MsrBitmaps 0x2004 "msr_bitmaps" "address of MSR bitmaps";
    Exit VmExitMsrStoreAddress 0x2006 "msr_store_address" "VM-exit MSR-store address";
    Exit VmExitMsrLoadAddress 0x2008 "msr_load_address" "VM-exit MSR-load address";
    Entry VmEntryMsrLoadAddress 0x200a "msr_load_address" "VM-entry MSR-load address";
    Execution ExecutiveVmcsPointer 0x200c "executive_vmcs_pointer" "executive-VMCS pointer";
    Execution PmlAddress 0x200e "pml_address" "PML address";
    Execution TscOffset 0x2010 "tsc_offset" "TSC offset";
    Execution VirtualApicAddress 0x2012 "virtual_apic_address" "virtual-APIC address";
    Execution ApicAccessAddress 0x2014 "apic_access_address" "APIC-access address";
    Execution PostedInterruptDescriptorAddress 0x2016 "posted_interrupt_descriptor_address" "posted-interrupt descriptor address";
    Execution VmFunctionControls 0x2018 "vm_function_controls" "VM-function controls";
    Execution EptPointer 0x201a "ept_pointer" "EPT pointer";
    Execution EoiExitBitmap0 0x201c "eoi_exit_bitmap_0" "EOI-exit bitmap 0";
    Execution EoiExitBitmap1 0x201e "eoi_exit_bitmap_1" "EOI-exit bitmap 1";
    Execution EoiExitBitmap2 0x2020 "eoi_exit_bitmap_2" "EOI-exit bitmap 2";
    Execution EoiExitBitmap3 0x2022 "eoi_exit_bitmap_3" "EOI-exit bitmap 3";
    Execution EptpListAddress 0x2024 "eptp_list_address" "EPTP-list address";
    Execution VmreadBitmap 0x2026 "vmread_bitmap" "VMREAD-bitmap address";
    Execution VmwriteBitmap 0x2028 "vmwrite_bitmap" "VMWRITE-bitmap address";
    Execution VirtualizationExceptionInformationAddress 0x202a "virtualization_exception_information_address" "virtualization-exception information address";
    Execution XssExitingBitmap 0x202c "xss_exiting_bitmap" "XSS-exiting bitmap";
    Execution EnclsExitingBitmap 0x202e "encls_exiting_bitmap" "ENCLS-exiting bitmap";
    Execution SubPagePermissionTablePointer 0x2030 "sub_page_permission_table_pointer" "sub-page-permission-table pointer";
    Execution TscMultiplier 0x2032 "tsc_multiplier" "TSC multiplier";
    Execution TertiaryControls 0x2034 "tertiary_controls" "tertiary processor-based VM-execution controls";
    Execution EnclvExitingBitmap 0x2036 "enclv_exiting_bitmap" "ENCLV-exiting bitmap";
    Execution LowPasidDirectoryAddress 0x2038 "low_pasid_directory_address" "low PASID directory address";
    Execution HighPasidDirectoryAddress 0x203a "high_pasid_directory_address" "high PASID directory address";
    Execution SharedEptPointer 0x203c "shared_ept_pointer" "shared EPT pointer";
    Execution PconfigExitingBitmap 0x203e "pconfig_exiting_bitmap" "PCONFIG-exiting bitmap";
    Execution HlatPointer 0x2040 "hlat_pointer" "hypervisor-managed linear-address translation pointer";
    Execution PidPointerTableAddress 0x2042 "pid_pointer_table_address" "PID-pointer table address";
    Exit SecondaryVmExitControls 0x2044 "secondary_controls" "secondary VM-exit controls";
    Execution SpecCtrlMask 0x204a "spec_ctrl_mask" "IA32_SPEC_CTRL mask";
    Execution SpecCtrlShadow 0x204c "spec_ctrl_shadow" "IA32_SPEC_CTRL shadow";
    // 64-bit read-only data field.
    ExitInformation GuestPhysicalAddress 0x2400 "guest_physical_address" "guest-physical address";
    // 64-bit guest-state fields.
    Guest VmcsLinkPointer 0x2800 "vmcs_link_pointer" "VMCS link pointer";
    Guest GuestDebugctl 0x2802 "debugctl" "guest IA32_DEBUGCTL";
    Guest GuestPat 0x2804 "pat" "guest IA32_PAT";
    Guest GuestEfer 0x2806 "efer" "guest IA32_EFER";
    Guest GuestPerfGlobalCtrl 0x2808 "perf_global_ctrl" "guest IA32_PERF_GLOBAL_CTRL";
    Guest GuestPdpte0 0x280a "pdpte_0" "guest PDPTE0";
    Guest GuestPdpte1 0x280c "pdpte_1" "guest PDPTE1";
    Guest GuestPdpte2 0x280e "pdpte_2" "guest PDPTE2";
    Guest GuestPdpte3 0x2810 "pdpte_3" "guest PDPTE3";
    Guest GuestBndcfgs 0x2812 "bndcfgs" "guest IA32_BNDCFGS";
    Guest GuestRtitCtl 0x2814 "rtit_ctl" "guest IA32_RTIT_CTL";
    Guest GuestLbrCtl 0x2816 "lbr_ctl" "guest IA32_LBR_CTL";
    Guest GuestPkrs 0x2818 "pkrs" "guest IA32_PKRS";
    // 64-bit host-state fields.
    Host HostPat 0x2c00 "pat" "host IA32_PAT";
    Host HostEfer 0x2c02 "efer" "host IA32_EFER";
    Host HostPerfGlobalCtrl 0x2c04 "perf_global_ctrl" "host IA32_PERF_GLOBAL_CTRL";
    Host HostPkrs 0x2c06 "pkrs" "host IA32_PKRS";
    // 32-bit control fields.
    Execution PinBasedControls 0x4000 "pin_based_controls" "pin-based VM-execution controls";
    Execution PrimaryControls 0x4002 "primary_controls" "primary processor-based VM-execution controls";
    Execution ExceptionBitmap 0x4004 "exception_bitmap" "exception bitmap";
    Execution PageFaultErrorCodeMask 0x4006 "page_fault_error_code_mask" "page-fault error-code mask";
    Execution PageFaultErrorCodeMatch 0x4008 "page_fault_error_code_match" "page-fault error-code match";
    Execution Cr3TargetCount 0x400a "cr3_target_count" "CR3-target count";
    Exit VmExitControls 0x400c "controls" "VM-exit controls";
    Exit VmExitMsrStoreCount 0x400e "msr_store_count" "VM-exit MSR-store count";
    Exit VmExitMsrLoadCount 0x4010 "msr_load_count" "VM-exit MSR-load count";
    Entry VmEntryControls 0x4012 "controls" "VM-entry controls";
    Entry VmEntryMsrLoadCount 0x4014 "msr_load_count" "VM-entry MSR-load count";
    Entry VmEntryInterruptionInformation 0x4016 "interruption_information" "VM-entry interruption-information field";
    Entry VmEntryExceptionErrorCode 0x4018 "exception_error_code" "VM-entry exception error code";
    Entry VmEntryInstructionLength 0x401a "instruction_length" "VM-entry instruction length";
    Execution TprThreshold 0x401c "tpr_threshold" "TPR threshold";
    Execution SecondaryControls 0x401e "secondary_controls" "secondary processor-based VM-execution controls";
    Execution PleGap 0x4020 "ple_gap" "PLE_Gap";
    Execution PleWindow 0x4022 "ple_window" "PLE_Window";
    Execution InstructionTimeoutControl 0x4024 "instruction_timeout_control" "instruction-timeout control";
    // 32-bit read-only data fields.
    ExitInformation VmInstructionError 0x4400 "instruction_error" "VM-instruction error";
    ExitInformation ExitReason 0x4402 "reason" "exit reason";
    ExitInformation VmExitInterruptionInformation 0x4404 "interruption_information" "VM-exit interruption information";
    ExitInformation VmExitInterruptionErrorCode 0x4406 "interruption_error_code" "VM-exit interruption error code";
    ExitInformation IdtVectoringInformation 0x4408 "idt_vectoring_information" "IDT-vectoring information field";
    ExitInformation IdtVectoringErrorCode 0x440a "idt_vectoring_error_code" "IDT-vectoring error code";
    ExitInformation VmExitInstructionLength 0x440c "instruction_length" "VM-exit instruction length";
    ExitInformation VmExitInstructionInformation 0x440e "instruction_information" "VM-exit instruction information";
    // 32-bit guest-state fields.
    Guest GuestEsLimit 0x4800 "es_limit" "guest ES limit";
    Guest GuestCsLimit 0x4802 "cs_limit" "guest CS limit";
    Guest GuestSsLimit 0x4804 "ss_limit" "guest SS limit";
    Guest GuestDsLimit 0x4806 "ds_limit" "guest DS limit";
    Guest GuestFsLimit 0x4808 "fs_limit" "guest FS limit";
    Guest GuestGsLimit 0x480a "gs_limit" "guest GS limit";
    Guest GuestLdtrLimit 0x480c "ldtr_limit" "guest LDTR limit";
    Guest GuestTrLimit 0x480e "tr_limit" "guest TR limit";
    Guest GuestGdtrLimit 0x4810 "gdtr_limit" "guest GDTR limit";
    Guest GuestIdtrLimit 0x4812 "idtr_limit" "guest IDTR limit";
    Guest GuestEsAccessRights 0x4814 "es_access_rights" "guest ES access rights";
    Guest GuestCsAccessRights 0x4816 "cs_access_rights" "guest CS access rights";
    Guest GuestSsAccessRights 0x4818 "ss_access_rights" "guest SS access rights";
    Guest GuestDsAccessRights 0x481a "ds_access_rights" "guest DS access rights";
    Guest GuestFsAccessRights 0x481c "fs_access_rights" "guest FS access rights";
    Guest GuestGsAccessRights 0x481e "gs_access_rights" "guest GS access rights";
    Guest GuestLdtrAccessRights 0x4820 "ldtr_access_rights" "guest LDTR access rights";
    Guest GuestTrAccessRights 0x4822 "tr_access_rights" "guest TR access rights";
    Guest GuestInterruptibilityState 0x4824 "interruptibility_state" "guest interruptibility state";
    Guest GuestActivityState 0x4826 "activity_state" "guest activity state";
    Guest GuestSmbase 0x4828 "smbase" "guest SMBASE";
    Guest GuestSysenterCs 0x482a "sysenter_cs" "guest IA32_SYSENTER_CS";
    Guest VmxPreemptionTimerValue 0x482e "preemption_timer_value" "VMX-preemption timer value";
    // 32-bit host-state field.
    Host HostSysenterCs 0x4c00 "sysenter_cs" "host IA32_SYSENTER_CS";
    // Natural-width control fields.
    Execution Cr0GuestHostMask 0x6000 "cr0_guest_host_mask" "CR0 guest/host mask";
    Execution Cr4GuestHostMask 0x6002 "cr4_guest_host_mask" "CR4 guest/host mask";
    Execution Cr0ReadShadow 0x6004 "cr0_read_shadow" "CR0 read shadow";
    Execution Cr4ReadShadow 0x6006 "cr4_read_shadow" "CR4 read shadow";
    Execution Cr3TargetValue0 0x6008 "cr3_target_value_0" "CR3-target value 0";
    Execution Cr3TargetValue1 0x600a "cr3_target_value_1" "CR3-target value 1";
    Execution Cr3TargetValue2 0x600c "cr3_target_value_2" "CR3-target value 2";
    Execution Cr3TargetValue3 0x600e "cr3_target_value_3" "CR3-target value 3";
    // Natural-width read-only data fields.
    ExitInformation ExitQualification 0x6400 "qualification" "exit qualification";
    ExitInformation IoRcx 0x6402 "io_rcx" "I/O RCX";
    ExitInformation IoRsi 0x6404 "io_rsi" "I/O RSI";
    ExitInformation IoRdi 0x6406 "io_rdi" "I/O RDI";
    ExitInformation IoRip 0x6408 "io_rip" "I/O RIP";
    ExitInformation GuestLinearAddress 0x640a "guest_linear_address" "guest-linear address";
    // Natural-width guest-state fields.
    Guest GuestCr0 0x6800 "cr0" "guest CR0";
    Guest GuestCr3 0x6802 "cr3" "guest CR3";
    Guest GuestCr4 0x6804 "cr4" "guest CR4";
    Guest GuestEsBase 0x6806 "es_base" "guest ES base";
    Guest GuestCsBase 0x6808 "cs_base" "guest CS base";
    Guest GuestSsBase 0x680a "ss_base" "guest SS base";
    Guest GuestDsBase 0x680c "ds_base" "guest DS base";
    Guest GuestFsBase 0x680e "fs_base" "guest FS base";
    Guest GuestGsBase 0x6810 "gs_base" "guest GS base";
    Guest GuestLdtrBase 0x6812 "ldtr_base" "guest LDTR base";
    Guest GuestTrBase 0x6814 "tr_base" "guest TR base";
    Guest GuestGdtrBase 0x6816 "gdtr_base" "guest GDTR base";
    Guest GuestIdtrBase 0x6818 "idtr_base" "guest IDTR base";
    Guest GuestDr7 0x681a "dr7" "guest DR7";
    Guest GuestRsp 0x681c "rsp" "guest RSP";
    Guest GuestRip 0x681e "rip" "guest RIP";
    Guest GuestRflags 0x6820 "rflags" "guest RFLAGS";
    Guest GuestPendingDebugExceptions 0x6822 "pending_debug_exceptions" "guest pending debug exceptions";
    Guest GuestSysenterEsp 0x6824 "sysenter_esp" "guest IA32_SYSENTER_ESP";
    Guest GuestSysenterEip 0x6826 "sysenter_eip" "guest IA32_SYSENTER_EIP";
    Guest GuestSCet 0x6828 "s_cet" "guest IA32_S_CET";
    Guest GuestSsp 0x682a "ssp" "guest SSP";
    Guest GuestInterruptSspTableAddress 0x682c "interrupt_ssp_table_address" "guest IA32_INTERRUPT_SSP_TABLE_ADDR";
    // Natural-width host-state fields.
    Host HostCr0 0x6c00 "cr0" "host CR0";
    Host HostCr3 0x6c02 "cr3" "host CR3";
    Host HostCr4 0x6c04 "cr4" "host CR4";
    Host HostFsBase 0x6c06 "fs_base" "host FS base";
    Host HostGsBase 0x6c08 "gs_base" "host GS base";
    Host HostTrBase 0x6c0a "tr_base" "host TR base";
    Host HostGdtrBase 0x6c0c "gdtr_base" "host GDTR base";
    Host HostIdtrBase 0x6c0e "idtr_base" "host IDTR base";
    Host HostSysenterEsp 0x6c10 "sysenter_esp" "host IA32_SYSENTER_ESP";
    Host HostSysenterEip 0x6c12 "sysenter_eip" "host IA32_SYSENTER_EIP";
    Host HostRsp 0x6c14 "rsp" "host RSP";
    Host HostRip 0x6c16 "rip" "host RIP";
    Host HostSCet 0x6c18 "s_cet" "host IA32_S_CET";
    Host HostSsp 0x6c1a "ssp" "host SSP";
    Host HostInterruptSspTableAddress 0x6c1c "interrupt_ssp_table_address" "host IA32_INTERRUPT_SSP_TABLE_ADDR";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn encodings_and_names_are_unique() {
        let encodings: HashSet<u32> = Field::ALL.iter().map(|field| field.encoding()).collect();
        assert_eq!(encodings.len(), Field::COUNT);
        let names: HashSet<_> = Field::ALL.iter().map(|field| (field.area(), field.name())).collect();
        assert_eq!(names.len(), Field::COUNT);
    }

    #[test]
    fn reserved_bits_of_encodings_are_zero() {
        for field in Field::ALL {
            assert_eq!(field.encoding() & 0xffff_9001, 0, "{field:?}");
        }
    }

    #[test]
    fn discriminants_are_places_in_the_list() {
        for (place, field) in Field::ALL.iter().enumerate() {
            assert_eq!(*field as usize, place);
        }
    }

    #[test]
    fn types_agree_with_areas() {
        for field in Field::ALL {
            let expected: &[Area] = match field.encoding() >> 10 & 3 {
                0 => &[Area::Execution, Area::Exit, Area::Entry],
                1 => &[Area::ExitInformation],
                2 => &[Area::Guest],
                _ => &[Area::Host],
            };
            assert!(expected.contains(&field.area()), "{field:?}");
            assert_eq!(field.read_only(), field.area() == Area::ExitInformation);
        }
    }

    #[test]
    fn every_field_is_found_by_its_encoding() {
        for &field in Field::ALL {
            assert_eq!(Field::from_encoding(field.encoding()), Some((field, false)));
            let high = (field.width() == Width::Bits64).then_some((field, true));
            assert_eq!(Field::from_encoding(field.encoding() | 1), high);
        }
        assert_eq!(Field::from_encoding(0x7ffe), None);
        assert_eq!(Field::from_encoding(0x0001_681e), None);
    }

    #[test]
    fn widths_follow_the_manual() {
        assert_eq!(Field::GuestEsSelector.width(), Width::Bits16);
        assert_eq!(Field::EptPointer.width(), Width::Bits64);
        assert_eq!(Field::ExitReason.width(), Width::Bits32);
        assert_eq!(Field::GuestRip.width(), Width::Natural);
    }

    #[test]
    fn the_highest_index_is_that_of_the_spec_ctrl_shadow() {
        let highest = Field::ALL.iter().max_by_key(|field| field.index()).unwrap();
        assert_eq!((*highest, highest.index()), (Field::SpecCtrlShadow, 0x26));
    }
}
