//! What the VM-instruction error field says (SDM vol. 3, 31.4).

macro_rules! errors {
    ($($number:literal $error:ident $name:literal;)*) => {
        /// The error of a VMX instruction that failed with a current VMCS.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum InstructionError { $(#[doc = $name] $error = $number,)* }

        impl InstructionError {
            /// Every error, by number.
            pub const ALL: &[InstructionError] = &[$(InstructionError::$error,)*];

            /// The error with this number.
            pub const fn from_number(number: u32) -> Option<InstructionError> {
                match number { $($number => Some(InstructionError::$error),)* _ => None }
            }

            /// Its name in this enumeration.
            pub const fn identifier(self) -> &'static str {
                match self { $(InstructionError::$error => stringify!($error),)* }
            }

            /// What went wrong.
            pub const fn name(self) -> &'static str {
                match self { $(InstructionError::$error => $name,)* }
            }
        }
    };
}

errors! {
    1 VmcallInRoot "VMCALL in VMX root operation";
    2 VmclearInvalidAddress "VMCLEAR of an invalid physical address";
    3 VmclearVmxonPointer "VMCLEAR of the VMXON pointer";
    4 VmlaunchNotClear "VMLAUNCH with a VMCS that is not clear";
    5 VmresumeNotLaunched "VMRESUME with a VMCS that is not launched";
    6 VmresumeAfterVmxoff "VMRESUME after VMXOFF";
    7 InvalidControlField "VM entry with an invalid control field";
    8 InvalidHostStateField "VM entry with an invalid host-state field";
    9 VmptrldInvalidAddress "VMPTRLD of an invalid physical address";
    10 VmptrldVmxonPointer "VMPTRLD of the VMXON pointer";
    11 VmptrldIncorrectRevision "VMPTRLD of a region with another VMCS revision identifier";
    12 UnsupportedField "VMREAD or VMWRITE of a field that is not supported";
    13 VmwriteReadOnly "VMWRITE to a read-only field";
    15 VmxonInRoot "VMXON in VMX root operation";
    16 InvalidExecutivePointer "VM entry with an invalid executive-VMCS pointer";
    17 ExecutiveNotLaunched "VM entry with an executive VMCS that is not launched";
    18 ExecutiveNotVmxonPointer "VM entry with an executive-VMCS pointer other than the VMXON pointer";
    19 VmcallNotClear "VMCALL with a VMCS that is not clear";
    20 VmcallInvalidExitControls "VMCALL with invalid VM-exit control fields";
    22 VmcallIncorrectMsegRevision "VMCALL with another MSEG revision identifier";
    23 VmxoffDualMonitor "VMXOFF under the dual-monitor treatment";
    24 VmcallInvalidMonitorFeatures "VMCALL with invalid features of the SMM monitor";
    25 InvalidExecutiveControls "VM entry with invalid execution controls in the executive VMCS";
    26 BlockedByMovSs "VM entry while MOV SS blocks events";
    28 InvalidInvalidationOperand "INVEPT or INVVPID with an invalid operand";
}

impl InstructionError {
    /// Its number.
    pub const fn number(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_and_lead_back() {
        assert!(InstructionError::ALL.is_sorted());
        for &error in InstructionError::ALL {
            assert_eq!(InstructionError::from_number(error.number()), Some(error));
        }
        for absent in [0, 14, 21, 27, 29] {
            assert_eq!(InstructionError::from_number(absent), None);
        }
    }
}
