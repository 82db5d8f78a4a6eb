//! Why VM exits happen (SDM vol. 3, 25.9.1, appendix C).

/// In the exit reason: the exit was from enclave mode.
pub const ENCLAVE: u32 = 1 << 27;
/// In the exit reason: a monitor trap flag VM exit was pending.
pub const PENDING_MONITOR_TRAP_FLAG: u32 = 1 << 28;
/// In the exit reason: the exit was from VMX root operation (to the SMM-transfer monitor).
pub const FROM_ROOT: u32 = 1 << 29;
/// In the exit reason: the VM entry failed, no instruction of the guest was executed.
pub const ENTRY_FAILURE: u32 = 1 << 31;
/// The basic exit reason.
pub const BASIC: u32 = 0xffff;

macro_rules! reasons {
    ($($number:literal $reason:ident $name:literal;)*) => {
        /// A basic exit reason.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum ExitReason { $(#[doc = $name] $reason = $number,)* }

        impl ExitReason {
            /// Every basic exit reason, by number.
            pub const ALL: &[ExitReason] = &[$(ExitReason::$reason,)*];

            /// The reason with this number.
            pub const fn from_number(number: u16) -> Option<ExitReason> {
                match number { $($number => Some(ExitReason::$reason),)* _ => None }
            }

            /// Its name in this enumeration.
            pub const fn identifier(self) -> &'static str {
                match self { $(ExitReason::$reason => stringify!($reason),)* }
            }

            /// What it is called.
            pub const fn name(self) -> &'static str {
                match self { $(ExitReason::$reason => $name,)* }
            }
        }
    };
}

reasons! {
    0 ExceptionOrNmi "exception or NMI";
    1 ExternalInterrupt "external interrupt";
    2 TripleFault "triple fault";
    3 InitSignal "INIT signal";
    4 StartUpIpi "start-up IPI";
    5 IoSmi "I/O SMI";
    6 OtherSmi "other SMI";
    7 InterruptWindow "interrupt window";
    8 NmiWindow "NMI window";
    9 TaskSwitch "task switch";
    10 Cpuid "CPUID";
    11 Getsec "GETSEC";
    12 Hlt "HLT";
    13 Invd "INVD";
    14 Invlpg "INVLPG";
    15 Rdpmc "RDPMC";
    16 Rdtsc "RDTSC";
    17 Rsm "RSM";
    18 Vmcall "VMCALL";
    19 Vmclear "VMCLEAR";
    20 Vmlaunch "VMLAUNCH";
    21 Vmptrld "VMPTRLD";
    22 Vmptrst "VMPTRST";
    23 Vmread "VMREAD";
    24 Vmresume "VMRESUME";
    25 Vmwrite "VMWRITE";
    26 Vmxoff "VMXOFF";
    27 Vmxon "VMXON";
    28 ControlRegisterAccess "control-register access";
    29 MovDr "MOV DR";
    30 IoInstruction "I/O instruction";
    31 Rdmsr "RDMSR";
    32 Wrmsr "WRMSR";
    33 InvalidGuestState "VM-entry failure: invalid guest state";
    34 MsrLoading "VM-entry failure: MSR loading";
    36 Mwait "MWAIT";
    37 MonitorTrapFlag "monitor trap flag";
    39 Monitor "MONITOR";
    40 Pause "PAUSE";
    41 MachineCheck "VM-entry failure: machine check";
    43 TprBelowThreshold "TPR below threshold";
    44 ApicAccess "APIC access";
    45 VirtualizedEoi "virtualized EOI";
    46 GdtrOrIdtrAccess "access to GDTR or IDTR";
    47 LdtrOrTrAccess "access to LDTR or TR";
    48 EptViolation "EPT violation";
    49 EptMisconfiguration "EPT misconfiguration";
    50 Invept "INVEPT";
    51 Rdtscp "RDTSCP";
    52 PreemptionTimerExpired "VMX-preemption timer expired";
    53 Invvpid "INVVPID";
    54 Wbinvd "WBINVD";
    55 Xsetbv "XSETBV";
    56 ApicWrite "APIC write";
    57 Rdrand "RDRAND";
    58 Invpcid "INVPCID";
    59 Vmfunc "VMFUNC";
    60 Encls "ENCLS";
    61 Rdseed "RDSEED";
    62 PageModificationLogFull "page-modification log full";
    63 Xsaves "XSAVES";
    64 Xrstors "XRSTORS";
    65 Pconfig "PCONFIG";
    66 SubPagePermission "SPP-related event";
    67 Umwait "UMWAIT";
    68 Tpause "TPAUSE";
    69 Loadiwkey "LOADIWKEY";
    70 Enclv "ENCLV";
    72 EnqcmdPasidTranslation "ENQCMD PASID translation failure";
    73 EnqcmdsPasidTranslation "ENQCMDS PASID translation failure";
    74 BusLock "bus lock";
    75 InstructionTimeout "instruction timeout";
    76 Seamcall "SEAMCALL";
    77 Tdcall "TDCALL";
}

impl ExitReason {
    /// Its number.
    pub const fn number(self) -> u16 {
        self as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_and_lead_back() {
        assert!(ExitReason::ALL.is_sorted());
        for &reason in ExitReason::ALL {
            assert_eq!(ExitReason::from_number(reason.number()), Some(reason));
        }
        assert_eq!(ExitReason::from_number(35), None);
        assert_eq!(ExitReason::EptViolation.number(), 48);
    }
}
