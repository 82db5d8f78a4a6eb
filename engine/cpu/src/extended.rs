//! x87, SSE and AVX state: who may use it, MXCSR, PKRU, XCR0, FXSAVE (SDM vol. 1, 10.5, 13.3; vol. 3, 2.5, 2.6).

use crate::core::Core;
use crate::cpuid::Feature;
use crate::exception::{Exception, Trap};
use crate::state::ExtendedState;
use gasang_x86::control::{cr0, cr4, xcr0};

/// Bits of MXCSR that exist.
pub(crate) const MXCSR_MASK: u32 = 0xffff;
pub(crate) const MXCSR_INITIAL: u32 = 0x1f80;
/// Offset of MXCSR, followed by its mask, in the legacy region.
pub(crate) const MXCSR: usize = 24;
/// Offset of FIP, followed by FDP, in the legacy region.
const INSTRUCTION_POINTERS: usize = 8;
/// Offset and size of XMM0-XMM15 in the legacy region.
pub(crate) const XMM: usize = 160;
pub(crate) const XMM_SIZE: usize = 256;
/// FXSAVE writes this much of its 512 bytes: the rest is reserved or the software's.
const LEGACY_USED: usize = XMM + XMM_SIZE;
const LEGACY_SIZE: usize = 512;
const CONTROL_WORD_INITIAL: u16 = 0x37f;
/// Bits of the x87 control word that exist, and the one that is always set.
const CONTROL_WORD_BITS: u16 = 0x1f3f;
const CONTROL_WORD_FIXED: u16 = 0x40;
/// Exception flags of the x87 status word, their masks in the control word.
const EXCEPTIONS: u16 = 0x3f;
/// ES and B of the x87 status word.
const ERROR_SUMMARY: u16 = 0x8080;

fn invalid_opcode<T>() -> Result<T, Trap> {
    Err(Exception::invalid_opcode().into())
}

pub(crate) fn refuse<T>() -> Result<T, Trap> {
    Err(Exception::general_protection(0).into())
}

impl ExtendedState {
    /// Write the initial values of x87 and SSE into the image where it does not hold them yet.
    pub(crate) fn materialize_legacy(&mut self) {
        let in_use = self.in_use();
        if in_use & xcr0::X87 == 0 {
            self.initialize_x87();
        }
        if in_use & xcr0::SSE == 0 {
            self.bytes[XMM..XMM + XMM_SIZE].fill(0);
        }
        self.set_in_use(in_use | xcr0::X87 | xcr0::SSE);
    }

    /// After x87 was loaded from memory: the control word's reserved bits have their values, and the summary of pending
    /// errors follows from flags and masks.
    pub(crate) fn settle_x87(&mut self) {
        let word = |at: usize| u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]);
        let control = word(0) & CONTROL_WORD_BITS | CONTROL_WORD_FIXED;
        let pending = word(2) & !control & EXCEPTIONS != 0;
        let status = word(2) & !ERROR_SUMMARY | if pending { ERROR_SUMMARY } else { 0 };
        self.bytes[..2].copy_from_slice(&control.to_le_bytes());
        self.bytes[2..4].copy_from_slice(&status.to_le_bytes());
    }

    pub(crate) fn initialize_x87(&mut self) {
        self.bytes[..MXCSR].fill(0);
        self.bytes[MXCSR + 8..XMM].fill(0);
        self.bytes[..2].copy_from_slice(&CONTROL_WORD_INITIAL.to_le_bytes());
    }
}

/// FIP and FDP of 64 bits as the 32-bit form keeps them: no code or data selectors (CPUID: zero_fcs_fds).
pub(crate) fn narrow_pointers(legacy: &mut [u8]) {
    for pointer in [INSTRUCTION_POINTERS, INSTRUCTION_POINTERS + 8] {
        if let Some(high) = legacy.get_mut(pointer + 4..pointer + 8) {
            high.fill(0);
        }
    }
}

impl Core<'_> {
    fn check_task_switched(&self) -> Result<(), Trap> {
        if self.state.cr0 & cr0::TS != 0 { Err(Exception::device_not_available().into()) } else { Ok(()) }
    }

    /// The check of an x87 instruction that is not a wait.
    ///
    /// # Errors
    /// #NM under CR0.EM or CR0.TS.
    #[inline]
    pub fn check_fpu(&self) -> Result<(), Trap> {
        if self.state.cr0 & (cr0::EM | cr0::TS) != 0 {
            return Err(Exception::device_not_available().into());
        }
        Ok(())
    }

    /// The check of WAIT/FWAIT.
    ///
    /// # Errors
    /// #NM under CR0.MP and CR0.TS.
    pub fn check_wait(&self) -> Result<(), Trap> {
        if self.state.cr0 & cr0::MP != 0 { self.check_task_switched() } else { Ok(()) }
    }

    /// The check of an MMX instruction.
    ///
    /// # Errors
    /// #UD under CR0.EM, #NM under CR0.TS.
    #[inline]
    pub fn check_mmx(&self) -> Result<(), Trap> {
        if self.state.cr0 & cr0::EM != 0 {
            return invalid_opcode();
        }
        self.check_task_switched()
    }

    /// The check of a legacy SSE instruction.
    ///
    /// # Errors
    /// #UD under CR0.EM or without CR4.OSFXSR, #NM under CR0.TS.
    #[inline]
    pub fn check_simd(&self) -> Result<(), Trap> {
        if self.state.cr0 & cr0::EM != 0 || self.state.cr4 & cr4::OSFXSR == 0 {
            return invalid_opcode();
        }
        self.check_task_switched()
    }

    fn check_components(&self, components: u64) -> Result<(), Trap> {
        let enabled = self.state.cr4 & cr4::OSXSAVE != 0 && self.state.xcr0 & components == components;
        if self.state.real_or_virtual_8086() || !enabled {
            return invalid_opcode();
        }
        self.check_task_switched()
    }

    /// The check of a VEX-encoded vector instruction.
    ///
    /// # Errors
    /// #UD in real or VM86 mode, without CR4.OSXSAVE or XCR0's AVX; #NM under CR0.TS.
    #[inline]
    pub fn check_avx(&self) -> Result<(), Trap> {
        self.check_components(xcr0::SSE | xcr0::AVX)
    }

    /// The check of an EVEX-encoded instruction.
    ///
    /// # Errors
    /// As `check_avx`, with XCR0's AVX-512 components.
    #[inline]
    pub fn check_avx512(&self) -> Result<(), Trap> {
        self.check_components(xcr0::SSE | xcr0::AVX | xcr0::AVX512)
    }

    /// How much of XMM and YMM the mode can reach: all 16 registers in 64-bit mode, 8 outside.
    pub(crate) fn reachable(&self, size: usize) -> usize {
        if self.state.in_64bit_mode() { size } else { size / 2 }
    }

    /// FXSAVE, or FXSAVE64 if `wide`.
    ///
    /// # Errors
    /// #NM, #GP(0) for misalignment, #PF.
    pub fn fxsave(&mut self, linear: u64, wide: bool) -> Result<(), Trap> {
        self.check_fpu()?;
        if linear % 16 != 0 {
            return refuse();
        }
        self.state.extended.materialize_legacy();
        let mut legacy = [0; LEGACY_USED];
        legacy.copy_from_slice(&self.state.extended.bytes[..LEGACY_USED]);
        legacy[MXCSR + 4..MXCSR + 8].copy_from_slice(&MXCSR_MASK.to_le_bytes());
        if !wide {
            narrow_pointers(&mut legacy);
        }
        let length = XMM + self.reachable(XMM_SIZE);
        self.write_bytes(linear, &legacy[..length], self.privilege())
    }

    /// FXRSTOR, or FXRSTOR64 if `wide`.
    ///
    /// # Errors
    /// As `fxsave`; #GP(0) for reserved MXCSR bits.
    pub fn fxrstor(&mut self, linear: u64, wide: bool) -> Result<(), Trap> {
        self.check_fpu()?;
        if linear % 16 != 0 {
            return refuse();
        }
        let mut legacy = [0; LEGACY_SIZE];
        self.read_bytes(linear, &mut legacy, self.privilege())?;
        check_mxcsr(&legacy)?;
        if !wide {
            narrow_pointers(&mut legacy);
        }
        let length = XMM + self.reachable(XMM_SIZE);
        self.state.extended.materialize_legacy();
        self.state.extended.bytes[..length].copy_from_slice(&legacy[..length]);
        self.state.extended.settle_x87();
        Ok(())
    }

    /// XGETBV with ECX.
    ///
    /// # Errors
    /// #UD without CR4.OSXSAVE, #GP(0) for an invalid index.
    pub fn xgetbv(&mut self, index: u32) -> Result<u64, Trap> {
        if self.state.cr4 & cr4::OSXSAVE == 0 {
            return invalid_opcode();
        }
        match index {
            0 => Ok(self.state.xcr0),
            1 if self.model.has(Feature::Xgetbv1) => Ok(self.state.xcr0 & self.components_in_use()),
            _ => refuse(),
        }
    }

    /// XSETBV with ECX and EDX:EAX.
    ///
    /// # Errors
    /// #UD without CR4.OSXSAVE, #GP(0) at CPL > 0, for an invalid index or combination.
    pub fn xsetbv(&mut self, index: u32, value: u64) -> Result<(), Trap> {
        if self.state.cr4 & cr4::OSXSAVE == 0 {
            return invalid_opcode();
        }
        self.check_privileged()?;
        let implies = |some: u64, all: u64| value & some == 0 || value & all == all;
        let consistent = value & xcr0::X87 != 0
            && implies(xcr0::AVX, xcr0::SSE)
            && implies(xcr0::AVX512, xcr0::AVX | xcr0::AVX512);
        if index != 0 || value & !self.model.xcr0_allowed() != 0 || !consistent {
            return refuse();
        }
        self.state.xcr0 = value;
        Ok(())
    }

    /// LDMXCSR's value check and write (`check_simd` first).
    ///
    /// # Errors
    /// #GP(0) for reserved bits.
    pub fn write_mxcsr(&mut self, value: u32) -> Result<(), Trap> {
        if value & !MXCSR_MASK != 0 {
            return refuse();
        }
        // Marking SSE as in use makes its registers count: they must be there.
        self.state.extended.materialize_legacy();
        self.state.extended.set_mxcsr(value);
        Ok(())
    }

    fn check_pkru(&self, ecx: u32) -> Result<(), Trap> {
        if self.state.cr4 & cr4::PKE == 0 {
            return invalid_opcode();
        }
        if ecx == 0 { Ok(()) } else { refuse() }
    }

    /// RDPKRU with ECX.
    ///
    /// # Errors
    /// #UD without CR4.PKE, #GP(0) for ECX other than 0.
    pub fn rdpkru(&mut self, ecx: u32) -> Result<u32, Trap> {
        self.check_pkru(ecx)?;
        Ok(self.state.pkru)
    }

    /// WRPKRU with EAX, ECX, EDX.
    ///
    /// # Errors
    /// #UD without CR4.PKE, #GP(0) for ECX or EDX other than 0.
    pub fn wrpkru(&mut self, eax: u32, ecx: u32, edx: u32) -> Result<(), Trap> {
        self.check_pkru(ecx | edx)?;
        self.set_pkru(eax);
        Ok(())
    }

    /// Change PKRU: translations hold the rights that it gave.
    pub(crate) fn set_pkru(&mut self, value: u32) {
        if self.state.pkru != value {
            self.state.pkru = value;
            self.tlb.flush_all();
        }
    }
}

/// #GP(0) if a legacy region has reserved bits in MXCSR.
pub(crate) fn check_mxcsr(legacy: &[u8]) -> Result<(), Trap> {
    let bytes = legacy.get(MXCSR..MXCSR + 4).and_then(|bytes| bytes.try_into().ok());
    if u32::from_le_bytes(bytes.unwrap_or_default()) & !MXCSR_MASK != 0 {
        return refuse();
    }
    Ok(())
}
