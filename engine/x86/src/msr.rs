//! Model-specific registers (SDM vol. 4; AMD APM vol. 2, appendix A).
#![allow(missing_docs)]

pub const TSC: u32 = 0x10;
pub const PLATFORM_ID: u32 = 0x17;
pub const APIC_BASE: u32 = 0x1b;
pub const FEATURE_CONTROL: u32 = 0x3a;
pub const TSC_ADJUST: u32 = 0x3b;
pub const SPEC_CTRL: u32 = 0x48;
pub const PRED_CMD: u32 = 0x49;
pub const BIOS_UPDT_TRIG: u32 = 0x79;
pub const BIOS_SIGN_ID: u32 = 0x8b;
pub const SMM_MONITOR_CTL: u32 = 0x9b;
pub const MTRRCAP: u32 = 0xfe;
pub const ARCH_CAPABILITIES: u32 = 0x10a;
pub const SYSENTER_CS: u32 = 0x174;
pub const SYSENTER_ESP: u32 = 0x175;
pub const SYSENTER_EIP: u32 = 0x176;
pub const MCG_CAP: u32 = 0x179;
pub const MCG_STATUS: u32 = 0x17a;
pub const MISC_ENABLE: u32 = 0x1a0;
pub const DEBUGCTL: u32 = 0x1d9;
pub const MTRR_PHYSBASE0: u32 = 0x200;
pub const MTRR_FIX64K_00000: u32 = 0x250;
pub const MTRR_FIX16K_80000: u32 = 0x258;
pub const MTRR_FIX16K_A0000: u32 = 0x259;
pub const MTRR_FIX4K_C0000: u32 = 0x268;
pub const MTRR_FIX4K_F8000: u32 = 0x26f;
pub const PAT: u32 = 0x277;
pub const MTRR_DEF_TYPE: u32 = 0x2ff;
pub const VMX_BASIC: u32 = 0x480;
pub const VMX_PINBASED_CTLS: u32 = 0x481;
pub const VMX_PROCBASED_CTLS: u32 = 0x482;
pub const VMX_EXIT_CTLS: u32 = 0x483;
pub const VMX_ENTRY_CTLS: u32 = 0x484;
pub const VMX_MISC: u32 = 0x485;
pub const VMX_CR0_FIXED0: u32 = 0x486;
pub const VMX_CR0_FIXED1: u32 = 0x487;
pub const VMX_CR4_FIXED0: u32 = 0x488;
pub const VMX_CR4_FIXED1: u32 = 0x489;
pub const VMX_VMCS_ENUM: u32 = 0x48a;
pub const VMX_PROCBASED_CTLS2: u32 = 0x48b;
pub const VMX_EPT_VPID_CAP: u32 = 0x48c;
pub const VMX_TRUE_PINBASED_CTLS: u32 = 0x48d;
pub const VMX_TRUE_PROCBASED_CTLS: u32 = 0x48e;
pub const VMX_TRUE_EXIT_CTLS: u32 = 0x48f;
pub const VMX_TRUE_ENTRY_CTLS: u32 = 0x490;
pub const VMX_VMFUNC: u32 = 0x491;
pub const VMX_PROCBASED_CTLS3: u32 = 0x492;
pub const VMX_EXIT_CTLS2: u32 = 0x493;
pub const TSC_DEADLINE: u32 = 0x6e0;
pub const X2APIC_FIRST: u32 = 0x800;
pub const X2APIC_LAST: u32 = 0x8ff;
pub const XSS: u32 = 0xda0;
pub const EFER: u32 = 0xc000_0080;
pub const STAR: u32 = 0xc000_0081;
pub const LSTAR: u32 = 0xc000_0082;
pub const CSTAR: u32 = 0xc000_0083;
pub const FMASK: u32 = 0xc000_0084;
pub const FS_BASE: u32 = 0xc000_0100;
pub const GS_BASE: u32 = 0xc000_0101;
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
pub const TSC_AUX: u32 = 0xc000_0103;

/// IA32_FEATURE_CONTROL (SDM vol. 3, 24.7).
pub mod feature_control {
    pub const LOCK: u64 = 1 << 0;
    pub const VMX_INSIDE_SMX: u64 = 1 << 1;
    pub const VMX_OUTSIDE_SMX: u64 = 1 << 2;
}

/// IA32_DEBUGCTL (SDM vol. 3, 17.4.1).
pub mod debugctl {
    pub const LBR: u64 = 1 << 0;
    pub const BTF: u64 = 1 << 1;
}
