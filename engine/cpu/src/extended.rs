//! x87, SSE and AVX state: FXSAVE and the XSAVE family (SDM vol. 1, 10.5, chapter 13).
#![allow(unused_variables)]

use crate::core::Core;
use crate::exception::Trap;

/// Which XSAVE instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveKind {
    /// XSAVE.
    Standard,
    /// XSAVEOPT.
    Opt,
    /// XSAVEC.
    Compacted,
    /// XSAVES.
    Supervisor,
}

impl Core<'_> {
    /// The check of an x87 instruction that is not a wait.
    ///
    /// # Errors
    /// #NM under CR0.EM or CR0.TS.
    #[inline]
    pub fn check_fpu(&self) -> Result<(), Trap> {
        todo!()
    }

    /// The check of WAIT/FWAIT.
    ///
    /// # Errors
    /// #NM under CR0.MP and CR0.TS.
    pub fn check_wait(&self) -> Result<(), Trap> {
        todo!()
    }

    /// The check of an MMX instruction.
    ///
    /// # Errors
    /// #UD under CR0.EM, #NM under CR0.TS.
    #[inline]
    pub fn check_mmx(&self) -> Result<(), Trap> {
        todo!()
    }

    /// The check of a legacy SSE instruction.
    ///
    /// # Errors
    /// #UD under CR0.EM or without CR4.OSFXSR, #NM under CR0.TS.
    #[inline]
    pub fn check_simd(&self) -> Result<(), Trap> {
        todo!()
    }

    /// The check of a VEX-encoded vector instruction.
    ///
    /// # Errors
    /// #UD in real or VM86 mode, without CR4.OSXSAVE or XCR0's AVX; #NM under CR0.TS.
    #[inline]
    pub fn check_avx(&self) -> Result<(), Trap> {
        todo!()
    }

    /// The check of an EVEX-encoded instruction.
    ///
    /// # Errors
    /// As `check_avx`, with XCR0's AVX-512 components.
    #[inline]
    pub fn check_avx512(&self) -> Result<(), Trap> {
        todo!()
    }

    /// FXSAVE, or FXSAVE64 if `wide`.
    ///
    /// # Errors
    /// #NM, #UD, #GP(0) for misalignment, #PF.
    pub fn fxsave(&mut self, linear: u64, wide: bool) -> Result<(), Trap> {
        todo!()
    }

    /// FXRSTOR, or FXRSTOR64 if `wide`.
    ///
    /// # Errors
    /// As `fxsave`; #GP(0) for reserved MXCSR bits.
    pub fn fxrstor(&mut self, linear: u64, wide: bool) -> Result<(), Trap> {
        todo!()
    }

    /// XSAVE and its kin (`rfbm`: EDX:EAX); `wide` with REX.W.
    ///
    /// # Errors
    /// #NM, #UD, #GP(0) for misalignment, #PF.
    pub fn xsave(&mut self, linear: u64, rfbm: u64, kind: SaveKind, wide: bool) -> Result<(), Trap> {
        todo!()
    }

    /// XRSTOR, or XRSTORS if `supervisor`; `wide` with REX.W.
    ///
    /// # Errors
    /// As `xsave`; #GP(0) for a malformed image.
    pub fn xrstor(&mut self, linear: u64, rfbm: u64, supervisor: bool, wide: bool) -> Result<(), Trap> {
        todo!()
    }

    /// XGETBV with ECX.
    ///
    /// # Errors
    /// #UD without CR4.OSXSAVE, #GP(0) for an invalid index.
    pub fn xgetbv(&mut self, index: u32) -> Result<u64, Trap> {
        todo!()
    }

    /// XSETBV with ECX and EDX:EAX.
    ///
    /// # Errors
    /// #UD without CR4.OSXSAVE, #GP(0) at CPL > 0, for an invalid index or combination.
    pub fn xsetbv(&mut self, index: u32, value: u64) -> Result<(), Trap> {
        todo!()
    }

    /// LDMXCSR's value check and write (`check_simd` first).
    ///
    /// # Errors
    /// #GP(0) for reserved bits.
    pub fn write_mxcsr(&mut self, value: u32) -> Result<(), Trap> {
        todo!()
    }

    /// RDPKRU with ECX.
    ///
    /// # Errors
    /// #UD without CR4.PKE, #GP(0) for ECX other than 0.
    pub fn rdpkru(&mut self, ecx: u32) -> Result<u32, Trap> {
        todo!()
    }

    /// WRPKRU with EAX, ECX, EDX.
    ///
    /// # Errors
    /// #UD without CR4.PKE, #GP(0) for ECX or EDX other than 0.
    pub fn wrpkru(&mut self, eax: u32, ecx: u32, edx: u32) -> Result<(), Trap> {
        todo!()
    }
}
