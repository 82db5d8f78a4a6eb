//! Control registers, EFER, XCR0 and debug registers (SDM vol. 3, 2.5, 2.6, 17.2).
#![allow(missing_docs)]

/// CR0.
pub mod cr0 {
    pub const PE: u64 = 1 << 0;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
    pub const DEFINED: u64 = PE | MP | EM | TS | ET | NE | WP | AM | NW | CD | PG;
}

/// CR4.
pub mod cr4 {
    pub const VME: u64 = 1 << 0;
    pub const PVI: u64 = 1 << 1;
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const UMIP: u64 = 1 << 11;
    pub const LA57: u64 = 1 << 12;
    pub const VMXE: u64 = 1 << 13;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
    pub const PKE: u64 = 1 << 22;
}

/// CR3 (SDM vol. 3, 4.5).
pub mod cr3 {
    pub const PCID: u64 = 0xfff;
    /// In the source operand of MOV to CR3 with CR4.PCIDE: do not invalidate the PCID's translations.
    pub const NOFLUSH: u64 = 1 << 63;
}

/// IA32_EFER.
pub mod efer {
    pub const SCE: u64 = 1 << 0;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
}

/// XCR0: state components (SDM vol. 1, 13.3).
pub mod xcr0 {
    pub const X87: u64 = 1 << 0;
    pub const SSE: u64 = 1 << 1;
    pub const AVX: u64 = 1 << 2;
    pub const OPMASK: u64 = 1 << 5;
    pub const ZMM_HI256: u64 = 1 << 6;
    pub const HI16_ZMM: u64 = 1 << 7;
    pub const AVX512: u64 = OPMASK | ZMM_HI256 | HI16_ZMM;
    pub const PKRU: u64 = 1 << 9;
}

/// DR6 and DR7.
pub mod debug {
    pub const DR6_FIXED: u64 = 0xffff_0ff0;
    pub const DR6_BD: u64 = 1 << 13;
    pub const DR6_BS: u64 = 1 << 14;
    pub const DR6_BT: u64 = 1 << 15;
    pub const DR7_FIXED: u64 = 1 << 10;
    pub const DR7_GD: u64 = 1 << 13;
    /// L0, G0 … L3, G3: any breakpoint enabled.
    pub const DR7_ENABLED: u64 = 0xff;
}
