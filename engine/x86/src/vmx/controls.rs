//! Bits of the VMCS's control and state fields and of what an EPT violation tells (SDM vol. 3, 25.4, 25.6-25.9, 29.3).

/// A bit, its constant's name, and what the manual calls it.
pub type Bit<T> = (T, &'static str, &'static str);

/// One module for a word of controls: a constant for each bit and their names.
macro_rules! bits {
    ($(#[$documentation:meta])* $module:ident: $width:ty { $($constant:ident $bit:literal $name:literal;)* }) => {
        $(#[$documentation])*
        pub mod $module {
            $(#[doc = $name] pub const $constant: $width = 1 << $bit;)*
            /// Every bit and its names.
            pub const NAMES: &[super::Bit<$width>] = &[$(($constant, stringify!($constant), $name),)*];
        }
    };
}

bits! {
    /// Pin-based VM-execution controls (SDM vol. 3, 25.6.1).
    pin: u32 {
        EXTERNAL_INTERRUPT_EXITING 0 "external-interrupt exiting";
        NMI_EXITING 3 "NMI exiting";
        VIRTUAL_NMIS 5 "virtual NMIs";
        ACTIVATE_PREEMPTION_TIMER 6 "activate VMX-preemption timer";
        PROCESS_POSTED_INTERRUPTS 7 "process posted interrupts";
    }
}

bits! {
    /// Primary processor-based VM-execution controls (SDM vol. 3, 25.6.2).
    primary: u32 {
        INTERRUPT_WINDOW_EXITING 2 "interrupt-window exiting";
        USE_TSC_OFFSETTING 3 "use TSC offsetting";
        HLT_EXITING 7 "HLT exiting";
        INVLPG_EXITING 9 "INVLPG exiting";
        MWAIT_EXITING 10 "MWAIT exiting";
        RDPMC_EXITING 11 "RDPMC exiting";
        RDTSC_EXITING 12 "RDTSC exiting";
        CR3_LOAD_EXITING 15 "CR3-load exiting";
        CR3_STORE_EXITING 16 "CR3-store exiting";
        ACTIVATE_TERTIARY_CONTROLS 17 "activate tertiary controls";
        CR8_LOAD_EXITING 19 "CR8-load exiting";
        CR8_STORE_EXITING 20 "CR8-store exiting";
        USE_TPR_SHADOW 21 "use TPR shadow";
        NMI_WINDOW_EXITING 22 "NMI-window exiting";
        MOV_DR_EXITING 23 "MOV-DR exiting";
        UNCONDITIONAL_IO_EXITING 24 "unconditional I/O exiting";
        USE_IO_BITMAPS 25 "use I/O bitmaps";
        MONITOR_TRAP_FLAG 27 "monitor trap flag";
        USE_MSR_BITMAPS 28 "use MSR bitmaps";
        MONITOR_EXITING 29 "MONITOR exiting";
        PAUSE_EXITING 30 "PAUSE exiting";
        ACTIVATE_SECONDARY_CONTROLS 31 "activate secondary controls";
    }
}

bits! {
    /// Secondary processor-based VM-execution controls (SDM vol. 3, 25.6.2).
    secondary: u32 {
        VIRTUALIZE_APIC_ACCESSES 0 "virtualize APIC accesses";
        ENABLE_EPT 1 "enable EPT";
        DESCRIPTOR_TABLE_EXITING 2 "descriptor-table exiting";
        ENABLE_RDTSCP 3 "enable RDTSCP";
        VIRTUALIZE_X2APIC_MODE 4 "virtualize x2APIC mode";
        ENABLE_VPID 5 "enable VPID";
        WBINVD_EXITING 6 "WBINVD exiting";
        UNRESTRICTED_GUEST 7 "unrestricted guest";
        APIC_REGISTER_VIRTUALIZATION 8 "APIC-register virtualization";
        VIRTUAL_INTERRUPT_DELIVERY 9 "virtual-interrupt delivery";
        PAUSE_LOOP_EXITING 10 "PAUSE-loop exiting";
        RDRAND_EXITING 11 "RDRAND exiting";
        ENABLE_INVPCID 12 "enable INVPCID";
        ENABLE_VM_FUNCTIONS 13 "enable VM functions";
        VMCS_SHADOWING 14 "VMCS shadowing";
        ENCLS_EXITING 15 "enable ENCLS exiting";
        RDSEED_EXITING 16 "RDSEED exiting";
        ENABLE_PML 17 "enable PML";
        EPT_VIOLATION_EXCEPTION 18 "EPT-violation #VE";
        CONCEAL_VMX_FROM_PT 19 "conceal VMX from PT";
        ENABLE_XSAVES 20 "enable XSAVES/XRSTORS";
        PASID_TRANSLATION 21 "PASID translation";
        MODE_BASED_EXECUTE_CONTROL 22 "mode-based execute control for EPT";
        SUB_PAGE_WRITE_PERMISSIONS 23 "sub-page write permissions for EPT";
        PT_USES_GUEST_PHYSICAL_ADDRESSES 24 "Intel PT uses guest physical addresses";
        USE_TSC_SCALING 25 "use TSC scaling";
        ENABLE_USER_WAIT_AND_PAUSE 26 "enable user wait and pause";
        ENABLE_PCONFIG 27 "enable PCONFIG";
        ENCLV_EXITING 28 "enable ENCLV exiting";
        BUS_LOCK_DETECTION 30 "VMM bus-lock detection";
        INSTRUCTION_TIMEOUT 31 "instruction timeout";
    }
}

bits! {
    /// Tertiary processor-based VM-execution controls (SDM vol. 3, 25.6.2).
    tertiary: u64 {
        LOADIWKEY_EXITING 0 "LOADIWKEY exiting";
        ENABLE_HLAT 1 "enable HLAT";
        EPT_PAGING_WRITE 2 "EPT paging-write control";
        GUEST_PAGING_VERIFICATION 3 "guest-paging verification";
        IPI_VIRTUALIZATION 4 "IPI virtualization";
        VIRTUALIZE_SPEC_CTRL 7 "virtualize IA32_SPEC_CTRL";
    }
}

bits! {
    /// Primary VM-exit controls (SDM vol. 3, 25.7.1).
    exit: u32 {
        SAVE_DEBUG_CONTROLS 2 "save debug controls";
        HOST_ADDRESS_SPACE_SIZE 9 "host address-space size";
        LOAD_PERF_GLOBAL_CTRL 12 "load IA32_PERF_GLOBAL_CTRL";
        ACKNOWLEDGE_INTERRUPT 15 "acknowledge interrupt on exit";
        SAVE_PAT 18 "save IA32_PAT";
        LOAD_PAT 19 "load IA32_PAT";
        SAVE_EFER 20 "save IA32_EFER";
        LOAD_EFER 21 "load IA32_EFER";
        SAVE_PREEMPTION_TIMER 22 "save VMX-preemption timer value";
        CLEAR_BNDCFGS 23 "clear IA32_BNDCFGS";
        CONCEAL_VMX_FROM_PT 24 "conceal VMX from PT";
        CLEAR_RTIT_CTL 25 "clear IA32_RTIT_CTL";
        CLEAR_LBR_CTL 26 "clear IA32_LBR_CTL";
        CLEAR_UINV 27 "clear UINV";
        LOAD_CET_STATE 28 "load CET state";
        LOAD_PKRS 29 "load PKRS";
        SAVE_PERF_GLOBAL_CTRL 30 "save IA32_PERF_GLOBAL_CTRL";
        ACTIVATE_SECONDARY_CONTROLS 31 "activate secondary controls";
    }
}

bits! {
    /// VM-entry controls (SDM vol. 3, 25.8.1).
    entry: u32 {
        LOAD_DEBUG_CONTROLS 2 "load debug controls";
        IA32E_MODE_GUEST 9 "IA-32e mode guest";
        ENTRY_TO_SMM 10 "entry to SMM";
        DEACTIVATE_DUAL_MONITOR 11 "deactivate dual-monitor treatment";
        LOAD_PERF_GLOBAL_CTRL 13 "load IA32_PERF_GLOBAL_CTRL";
        LOAD_PAT 14 "load IA32_PAT";
        LOAD_EFER 15 "load IA32_EFER";
        LOAD_BNDCFGS 16 "load IA32_BNDCFGS";
        CONCEAL_VMX_FROM_PT 17 "conceal VMX from PT";
        LOAD_RTIT_CTL 18 "load IA32_RTIT_CTL";
        LOAD_UINV 19 "load UINV";
        LOAD_CET_STATE 20 "load CET state";
        LOAD_LBR_CTL 21 "load guest IA32_LBR_CTL";
        LOAD_PKRS 22 "load PKRS";
    }
}

bits! {
    /// Guest interruptibility state (SDM vol. 3, 25.4.2).
    interruptibility: u32 {
        BLOCKING_BY_STI 0 "blocking by STI";
        BLOCKING_BY_MOV_SS 1 "blocking by MOV SS";
        BLOCKING_BY_SMI 2 "blocking by SMI";
        BLOCKING_BY_NMI 3 "blocking by NMI";
        ENCLAVE_INTERRUPTION 4 "enclave interruption";
    }
}

bits! {
    /// Guest pending debug exceptions (SDM vol. 3, 25.4.2).
    pending_debug: u64 {
        B0 0 "breakpoint 0";
        B1 1 "breakpoint 1";
        B2 2 "breakpoint 2";
        B3 3 "breakpoint 3";
        BLD 11 "bus lock";
        ENABLED_BREAKPOINT 12 "enabled breakpoint";
        BS 14 "single step";
        RTM 16 "debug exception in a transactional region";
    }
}

bits! {
    /// Exit qualification of an EPT violation (SDM vol. 3, 28.2.1, table 28-7).
    ept_violation: u64 {
        READ 0 "data read";
        WRITE 1 "data write";
        FETCH 2 "instruction fetch";
        READABLE 3 "readable";
        WRITABLE 4 "writable";
        EXECUTABLE 5 "executable";
        USER_EXECUTABLE 6 "executable in user mode";
        LINEAR_ADDRESS_VALID 7 "guest-linear address valid";
        TRANSLATION_OF_LINEAR 8 "access to the translation of a linear address";
        USER_LINEAR 9 "user-mode linear address";
        WRITABLE_LINEAR 10 "writable linear address";
        EXECUTE_DISABLE_LINEAR 11 "execute-disable linear address";
        NMI_UNBLOCKING 12 "NMI unblocking due to IRET";
        SHADOW_STACK_ACCESS 13 "shadow-stack access";
        SUPERVISOR_SHADOW_STACK 14 "supervisor shadow-stack page";
        GUEST_PAGING_VERIFICATION 15 "guest-paging verification";
        ASYNCHRONOUS 16 "asynchronous to instruction execution";
    }
}

bits! {
    /// IA32_VMX_EPT_VPID_CAP (SDM vol. 3, A.10).
    ept_vpid_capability: u64 {
        EXECUTE_ONLY 0 "execute-only translations";
        WALK_LENGTH_4 6 "page-walk length 4";
        WALK_LENGTH_5 7 "page-walk length 5";
        UNCACHEABLE 8 "uncacheable EPT paging structures";
        WRITE_BACK 14 "write-back EPT paging structures";
        PAGES_2M 16 "2-MByte pages";
        PAGES_1G 17 "1-GByte pages";
        INVEPT 20 "INVEPT";
        ACCESSED_AND_DIRTY 21 "accessed and dirty flags";
        ADVANCED_INFORMATION 22 "advanced VM-exit information for EPT violations";
        SUPERVISOR_SHADOW_STACK 23 "supervisor shadow-stack control";
        INVEPT_SINGLE_CONTEXT 25 "single-context INVEPT";
        INVEPT_ALL_CONTEXT 26 "all-context INVEPT";
        INVVPID 32 "INVVPID";
        INVVPID_INDIVIDUAL_ADDRESS 40 "individual-address INVVPID";
        INVVPID_SINGLE_CONTEXT 41 "single-context INVVPID";
        INVVPID_ALL_CONTEXT 42 "all-context INVVPID";
        INVVPID_SINGLE_CONTEXT_RETAINING_GLOBALS 43 "single-context-retaining-globals INVVPID";
    }
}

/// Interruption information: of VM entries, of VM exits, and of IDT vectoring (SDM vol. 3, 25.8.3, 25.9.2, 25.9.3).
#[allow(missing_docs)]
pub mod interruption {
    pub const VECTOR: u32 = 0xff;
    pub const TYPE: u32 = 7 << 8;
    pub const TYPE_SHIFT: u32 = 8;
    /// An error code is delivered, or is valid in its field.
    pub const ERROR_CODE: u32 = 1 << 11;
    /// VM exits only: the fault was met by IRET, which has ended the blocking of NMIs.
    pub const NMI_UNBLOCKING: u32 = 1 << 12;
    /// VM entries: 30:12; the exit's and IDT vectoring's are bits 30:13.
    pub const ENTRY_RESERVED: u32 = 0x7fff_f000;
    pub const VALID: u32 = 1 << 31;

    pub const EXTERNAL_INTERRUPT: u32 = 0;
    pub const NMI: u32 = 2;
    pub const HARDWARE_EXCEPTION: u32 = 3;
    pub const SOFTWARE_INTERRUPT: u32 = 4;
    /// INT1.
    pub const PRIVILEGED_SOFTWARE_EXCEPTION: u32 = 5;
    /// INT3 and INTO.
    pub const SOFTWARE_EXCEPTION: u32 = 6;
    /// VM entries only: with vector 0, a pending monitor trap flag VM exit.
    pub const OTHER_EVENT: u32 = 7;

    /// The type of an event.
    pub const fn kind(information: u32) -> u32 {
        (information & TYPE) >> TYPE_SHIFT
    }

    /// Whether the event is valid.
    pub const fn valid(information: u32) -> bool {
        information & VALID != 0
    }
}

/// Guest activity states (SDM vol. 3, 25.4.2).
#[allow(missing_docs)]
pub mod activity {
    pub const ACTIVE: u64 = 0;
    pub const HLT: u64 = 1;
    pub const SHUTDOWN: u64 = 2;
    pub const WAIT_FOR_SIPI: u64 = 3;
}

/// The EPT pointer (SDM vol. 3, 25.6.11).
#[allow(missing_docs)]
pub mod ept_pointer {
    pub const MEMORY_TYPE: u64 = 7;
    pub const UNCACHEABLE: u64 = 0;
    pub const WRITE_BACK: u64 = 6;
    /// One less than the length of a page walk.
    pub const WALK_LENGTH: u64 = 7 << 3;
    pub const WALK_LENGTH_SHIFT: u32 = 3;
    pub const ACCESSED_AND_DIRTY: u64 = 1 << 6;
    pub const SUPERVISOR_SHADOW_STACK: u64 = 1 << 7;
    /// Bits 11:8, and those that no physical address has.
    pub const RESERVED: u64 = 0xf00;
}

/// Entries of EPT paging structures (SDM vol. 3, 29.3.2).
#[allow(missing_docs)]
pub mod ept {
    pub const READ: u64 = 1 << 0;
    pub const WRITE: u64 = 1 << 1;
    pub const EXECUTE: u64 = 1 << 2;
    pub const PERMISSIONS: u64 = READ | WRITE | EXECUTE;
    /// Of an entry that maps a page.
    pub const MEMORY_TYPE: u64 = 7 << 3;
    pub const MEMORY_TYPE_SHIFT: u32 = 3;
    pub const IGNORE_PAT: u64 = 1 << 6;
    pub const LARGE: u64 = 1 << 7;
    pub const ACCESSED: u64 = 1 << 8;
    pub const DIRTY: u64 = 1 << 9;
    /// With mode-based execute control: user-mode linear addresses.
    pub const USER_EXECUTE: u64 = 1 << 10;
    pub const SUPPRESS_EXCEPTION: u64 = 1 << 63;
}

/// Exit qualification of a control-register access (SDM vol. 3, table 28-3).
#[allow(missing_docs)]
pub mod cr_access {
    pub const MOV_TO: u64 = 0 << 4;
    pub const MOV_FROM: u64 = 1 << 4;
    pub const CLTS: u64 = 2 << 4;
    pub const LMSW: u64 = 3 << 4;
    pub const LMSW_MEMORY: u64 = 1 << 6;
    pub const REGISTER_SHIFT: u32 = 8;
    pub const LMSW_SOURCE_SHIFT: u32 = 16;
}

/// Exit qualification of an I/O instruction (SDM vol. 3, table 28-5).
#[allow(missing_docs)]
pub mod io_access {
    pub const IN: u64 = 1 << 3;
    pub const STRING: u64 = 1 << 4;
    pub const REP: u64 = 1 << 5;
    pub const IMMEDIATE: u64 = 1 << 6;
    pub const PORT_SHIFT: u32 = 16;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bit_has_two_names() {
        for names in [pin::NAMES, primary::NAMES, secondary::NAMES, exit::NAMES, entry::NAMES] {
            let all = names.iter().fold(0u32, |all, (bit, ..)| all | bit);
            assert_eq!(all.count_ones() as usize, names.len());
        }
    }

    #[test]
    fn parts_of_interruption_information() {
        let page_fault =
            interruption::VALID | interruption::HARDWARE_EXCEPTION << 8 | interruption::ERROR_CODE | 14;
        assert_eq!(page_fault, 0x8000_0b0e);
        assert_eq!(interruption::kind(page_fault), interruption::HARDWARE_EXCEPTION);
        assert!(interruption::valid(page_fault));
    }
}
