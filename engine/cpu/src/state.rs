//! The registers of one virtual processor, in a layout that generated code may address.

use crate::cpuid::SIGNATURE;
use crate::vmx::VmxState;
use gasang_x86::control::{cr0, debug, efer, xcr0};
use gasang_x86::descriptor::access;
use gasang_x86::{gpr, rflags, segment};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::hash::{Hash, Hasher};

/// A segment register: the selector and its hidden part.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentRegister {
    /// Base linear address.
    pub base: u64,
    /// Limit in bytes (already scaled by the granularity bit).
    pub limit: u32,
    /// Access rights in the VMCS layout (`gasang_x86::descriptor::access`).
    pub attributes: u32,
    /// The visible part.
    pub selector: u16,
}

impl SegmentRegister {
    /// Privilege level of the descriptor.
    pub fn dpl(&self) -> u8 {
        ((self.attributes & access::DPL) >> access::DPL_SHIFT) as u8
    }

    /// Whether the register holds a segment that memory can be reached through.
    pub fn usable(&self) -> bool {
        self.attributes & access::UNUSABLE == 0
    }

    /// A segment register as real mode loads it: base is the selector times 16.
    pub fn real_mode(selector: u16) -> SegmentRegister {
        SegmentRegister {
            base: u64::from(selector) << 4,
            limit: 0xffff,
            attributes: access::PRESENT | access::S | access::WRITABLE | access::ACCESSED,
            selector,
        }
    }
}

/// GDTR or IDTR.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescriptorTable {
    /// Linear address of the table.
    pub base: u64,
    /// Offset of its last byte.
    pub limit: u16,
}

/// What the processor does between instructions (SDM vol. 3, 25.4.2, "activity state").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Activity {
    /// It executes instructions.
    #[default]
    Active,
    /// HLT: waits for an interrupt.
    Halted,
    /// A triple fault, or a shutdown.
    Shutdown,
    /// An application processor after INIT.
    WaitForSipi,
}

/// Interruptibility left behind by the instruction before (SDM vol. 3, 6.8.3; vol. 2, STI and MOV).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Shadow {
    /// Nothing is held back.
    #[default]
    None,
    /// STI set IF: maskable interrupts wait for one instruction.
    Sti,
    /// MOV SS or POP SS: interrupts, NMIs and debug traps wait for one instruction.
    MovSs,
}

/// MSRs that are plain storage or feed instructions directly.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
#[serde(deny_unknown_fields)]
pub struct MsrState {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub fmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub tsc_aux: u64,
    /// Guest TSC is the platform's TSC plus this (the effect of writes to IA32_TIME_STAMP_COUNTER and TSC_ADJUST).
    pub tsc_offset: u64,
    pub tsc_adjust: u64,
    pub pat: u64,
    pub misc_enable: u64,
    pub spec_ctrl: u64,
    pub xss: u64,
    pub mtrr_def_type: u64,
    pub mtrr_variable: [u64; 16],
    pub mtrr_fixed: [u64; 11],
    pub mcg_status: u64,
    pub bios_sign_id: u64,
}

/// x87, SSE, AVX (and AVX-512) state in the host's standard XSAVE format (SDM vol. 1, 13.4): legacy region, header,
/// then the components at the host's offsets. PKRU is kept apart in `VcpuState::pkru`.
#[repr(C, align(64))]
#[derive(Debug, Clone, Hash)]
pub struct ExtendedState {
    /// The image.
    pub bytes: [u8; 4096],
}

impl Serialize for ExtendedState {
    /// As hexadecimal digits, without the zeroes at the end.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let end = self.bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        let digits: String = self.bytes[..end].iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&digits)
    }
}

impl<'de> Deserialize<'de> for ExtendedState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ExtendedState, D::Error> {
        let digits = String::deserialize(deserializer)?;
        let wrong = || D::Error::custom("the extended state is not of at most 4096 bytes in hexadecimal");
        let mut state = ExtendedState { bytes: [0; 4096] };
        if digits.len() > 2 * state.bytes.len() || digits.len() % 2 != 0 || !digits.is_ascii() {
            return Err(wrong());
        }
        for (byte, at) in state.bytes.iter_mut().zip((0..digits.len()).step_by(2)) {
            *byte = u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(state)
    }
}

impl ExtendedState {
    /// Offset of XSTATE_BV in the image.
    pub const XSTATE_BV: usize = 512;

    /// The image of a processor after FNINIT with MXCSR 0x1f80: every component in its initial configuration.
    pub fn initial() -> ExtendedState {
        let mut image = ExtendedState { bytes: [0; 4096] };
        image.bytes[0..2].copy_from_slice(&0x37fu16.to_le_bytes());
        image.bytes[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        image
    }

    /// Which components are not in their initial configuration.
    pub fn in_use(&self) -> u64 {
        u64::from_le_bytes(self.bytes[512..520].try_into().unwrap_or_default())
    }

    /// Set which components are not in their initial configuration.
    pub fn set_in_use(&mut self, components: u64) {
        self.bytes[512..520].copy_from_slice(&components.to_le_bytes());
    }

    /// MXCSR.
    pub fn mxcsr(&self) -> u32 {
        u32::from_le_bytes(self.bytes[24..28].try_into().unwrap_or_default())
    }

    /// Set MXCSR. Marks SSE as in use, so that XRSTOR takes the image's value.
    pub fn set_mxcsr(&mut self, value: u32) {
        self.bytes[24..28].copy_from_slice(&value.to_le_bytes());
        self.set_in_use(self.in_use() | xcr0::SSE);
    }
}

/// Everything that is architectural state of one processor. Generated code addresses it by `offset_of!`.
#[repr(C, align(64))]
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VcpuState {
    /// General-purpose registers in encoding order.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// All of RFLAGS, as PUSHFQ would show it plus VM and RF.
    pub rflags: u64,
    /// Control registers. CR8 is the platform's (`Platform::task_priority`).
    pub cr0: u64,
    /// Page-fault linear address.
    pub cr2: u64,
    /// Paging-structure base and PCID.
    pub cr3: u64,
    /// Architectural extensions.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// Enabled state components.
    pub xcr0: u64,
    /// Instructions retired since reset.
    pub instructions: u64,
    /// ES, CS, SS, DS, FS, GS in encoding order.
    pub segment: [SegmentRegister; 6],
    /// Local descriptor table register.
    pub ldtr: SegmentRegister,
    /// Task register.
    pub tr: SegmentRegister,
    /// Global descriptor table register.
    pub gdtr: DescriptorTable,
    /// Interrupt descriptor table register.
    pub idtr: DescriptorTable,
    /// DR0-DR3, and DR6, DR7 at their numbers; 4 and 5 unused.
    pub dr: [u64; 8],
    /// Model-specific registers.
    pub msr: MsrState,
    /// The four page-directory-pointer-table entries that PAE paging keeps in the processor.
    pub pdpte: [u64; 4],
    /// Protection-key rights for user pages.
    pub pkru: u32,
    /// Activity state.
    pub activity: Activity,
    /// Interrupt shadow for the next instruction.
    pub shadow: Shadow,
    /// An NMI was delivered and no IRET has followed.
    pub nmi_blocked: bool,
    /// Debug-trap conditions (DR6 bits) waiting for the end of the current instruction.
    pub pending_debug: u64,
    /// Room for generated code's own values; what lies where is the translator's matter.
    #[serde(skip, default = "no_values")]
    pub translator: [u64; 64],
    /// Virtual-machine extensions, which generated code does not touch.
    pub vmx: VmxState,
    /// x87, SSE, AVX state.
    pub extended: ExtendedState,
}

fn no_values() -> [u64; 64] {
    [0; 64]
}

impl Hash for VcpuState {
    /// Of all that the guest could find out, but for the extended state, of which `CpuModel::settled` has the one image.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let VcpuState {
            gpr,
            rip,
            rflags,
            cr0,
            cr2,
            cr3,
            cr4,
            efer,
            xcr0,
            instructions,
            segment,
            ldtr,
            tr,
            gdtr,
            idtr,
            dr,
            msr,
            pdpte,
            pkru,
            activity,
            shadow,
            nmi_blocked,
            pending_debug,
            vmx,
            translator: _,
            extended: _,
        } = self;
        (gpr, rip, rflags, cr0, cr2, cr3, cr4, efer, xcr0, instructions).hash(hasher);
        (segment, ldtr, tr, gdtr, idtr, dr, msr, pdpte, pkru).hash(hasher);
        (activity, shadow, nmi_blocked, pending_debug, vmx).hash(hasher);
    }
}

impl VcpuState {
    /// A processor after RESET (SDM vol. 3, table 10-1).
    pub fn reset() -> VcpuState {
        let data = SegmentRegister::real_mode(0);
        let mut state = VcpuState {
            gpr: [0; 16],
            rip: 0xfff0,
            rflags: rflags::FIXED,
            cr0: cr0::CD | cr0::NW | cr0::ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            xcr0: xcr0::X87,
            instructions: 0,
            segment: [data; 6],
            ldtr: SegmentRegister { limit: 0xffff, attributes: access::PRESENT | 2, ..Default::default() },
            tr: SegmentRegister { limit: 0xffff, attributes: access::PRESENT | 11, ..Default::default() },
            gdtr: DescriptorTable { base: 0, limit: 0xffff },
            idtr: DescriptorTable { base: 0, limit: 0xffff },
            dr: [0, 0, 0, 0, 0, 0, debug::DR6_FIXED, debug::DR7_FIXED],
            msr: MsrState { pat: 0x0007_0406_0007_0406, misc_enable: 1, ..Default::default() },
            pdpte: [0; 4],
            pkru: 0,
            activity: Activity::Active,
            shadow: Shadow::None,
            nmi_blocked: false,
            pending_debug: 0,
            vmx: VmxState::reset(),
            translator: [0; 64],
            extended: ExtendedState::initial(),
        };
        state.gpr[gpr::RDX] = u64::from(SIGNATURE);
        state.segment[segment::CS] = SegmentRegister {
            base: 0xffff_0000,
            selector: 0xf000,
            attributes: data.attributes | access::CODE,
            ..data
        };
        state
    }

    /// Current privilege level: the DPL of SS, as the processor itself keeps it (SDM vol. 3, 25.4.1).
    #[inline]
    pub fn cpl(&self) -> u8 {
        self.segment[segment::SS].dpl()
    }

    /// Protected mode (with or without paging or long mode).
    #[inline]
    pub fn protected_mode(&self) -> bool {
        self.cr0 & cr0::PE != 0
    }

    /// Virtual-8086 mode.
    #[inline]
    pub fn virtual_8086(&self) -> bool {
        self.rflags & rflags::VM != 0
    }

    /// Real-address or virtual-8086 mode: segment registers hold paragraph numbers.
    #[inline]
    pub fn real_or_virtual_8086(&self) -> bool {
        !self.protected_mode() || self.virtual_8086()
    }

    /// IA-32e mode (EFER.LMA).
    #[inline]
    pub fn long_mode(&self) -> bool {
        self.efer & efer::LMA != 0
    }

    /// 64-bit mode: IA-32e mode with CS.L.
    #[inline]
    pub fn in_64bit_mode(&self) -> bool {
        self.long_mode() && self.segment[segment::CS].attributes & access::LONG != 0
    }

    /// Whether a maskable interrupt can be delivered before the next instruction (SDM vol. 3, 6.8.1, 6.8.3).
    #[inline]
    pub fn interruptible(&self) -> bool {
        self.rflags & rflags::IF != 0 && self.shadow == Shadow::None
    }

    /// Whether an NMI can be; under virtual NMIs, a virtual one.
    #[inline]
    pub fn nmis_possible(&self) -> bool {
        !self.nmi_blocked && self.shadow != Shadow::MovSs
    }

    /// Default operand and address size of the code segment in bits: 64, 32 or 16.
    #[inline]
    pub fn code_bits(&self) -> u32 {
        let attributes = self.segment[segment::CS].attributes;
        if self.long_mode() && attributes & access::LONG != 0 {
            64
        } else if attributes & access::DB != 0 && self.protected_mode() {
            32
        } else {
            16
        }
    }

    /// Width of the stack pointer in bits: 64, 32 or 16.
    #[inline]
    pub fn stack_bits(&self) -> u32 {
        if self.in_64bit_mode() {
            64
        } else if self.segment[segment::SS].attributes & access::DB != 0 {
            32
        } else {
            16
        }
    }

    /// I/O privilege level.
    #[inline]
    pub fn iopl(&self) -> u8 {
        ((self.rflags & rflags::IOPL) >> rflags::IOPL_SHIFT) as u8
    }

    /// Whether `address` is canonical (48-bit linear addresses, SDM vol. 1, 3.3.7.1).
    #[inline]
    pub fn canonical(address: u64) -> bool {
        ((address as i64) << 16 >> 16) as u64 == address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_starts_at_the_top_of_the_first_four_gib() {
        let state = VcpuState::reset();
        assert_eq!(state.segment[segment::CS].base + state.rip, 0xffff_fff0);
        assert_eq!(state.code_bits(), 16);
        assert_eq!(state.cpl(), 0);
    }

    #[test]
    fn canonical_addresses_extend_bit_47() {
        assert!(VcpuState::canonical(0x7fff_ffff_ffff));
        assert!(!VcpuState::canonical(0x8000_0000_0000));
        assert!(VcpuState::canonical(0xffff_8000_0000_0000));
    }
}
