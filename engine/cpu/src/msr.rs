//! Model-specific registers and the time-stamp counter (SDM vol. 4).

use crate::core::Core;
use crate::cpuid::Feature;
use crate::exception::{Exception, Trap};
use crate::paging::PHYSICAL_ADDRESS_BITS;
use crate::state::VcpuState;
use gasang_x86::control::{cr0, cr4, efer};
use gasang_x86::msr::feature_control;
use gasang_x86::{msr, segment};

/// Last-branch recording and branch stepping: accepted, as no branches are recorded.
const DEBUGCTL_ACCEPTED: u64 = 3;
/// 8 variable ranges, fixed ranges, write-combining.
const MTRRCAP: u64 = 0x508;
const MTRR_VARIABLE_LAST: u32 = msr::MTRR_PHYSBASE0 + 15;
const FEATURE_CONTROL_KNOWN: u64 = feature_control::LOCK | feature_control::VMX_OUTSIDE_SMX;
/// Branch-trace storage and precise events unavailable; always so.
const MISC_ENABLE_FIXED: u64 = 1 << 11 | 1 << 12;
const MISC_ENABLE_FAST_STRINGS: u64 = 1;
/// Bits that software may write, whatever they do: thermal, SpeedStep, MONITOR, CPUID limit, xTPR, XD.
const MISC_ENABLE_KNOWN: u64 =
    MISC_ENABLE_FIXED | 1 | 1 << 3 | 1 << 7 | 1 << 16 | 1 << 18 | 1 << 22 | 1 << 23 | 1 << 34;

/// IA32_ARCH_CAPABILITIES: what the processor is not affected by (SDM vol. 4, table 2-2): RDCL_NO, SKIP_L1DFL_VMENTRY,
/// SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO.
const ARCH_CAPABILITIES: u64 = 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 20
    | 1 << 24
    | 1 << 26
    | 1 << 27
    | 1 << 62;

fn refuse<T>() -> Result<T, Trap> {
    Err(Exception::general_protection(0).into())
}

/// `value` if it is acceptable.
fn accept(value: u64, acceptable: bool) -> Result<u64, Trap> {
    if acceptable { Ok(value) } else { refuse() }
}

fn canonical(value: u64) -> Result<u64, Trap> {
    accept(value, VcpuState::canonical(value))
}

fn is_memory_type(value: u8) -> bool {
    matches!(value, 0 | 1 | 4 | 5 | 6)
}

/// UC- exists in the PAT only.
fn is_pat(value: u64) -> bool {
    value.to_le_bytes().iter().all(|&entry| is_memory_type(entry) || entry == 7)
}

fn is_mtrr_variable(index: u32, value: u64) -> bool {
    let reserved_high = value >> PHYSICAL_ADDRESS_BITS != 0;
    let base = index % 2 == 0;
    let low_ok = if base { value & 0xf00 == 0 && is_memory_type(value as u8) } else { value & 0x7ff == 0 };
    low_ok && !reserved_high
}

fn is_mtrr_default(value: u64) -> bool {
    value & !0xcff == 0 && is_memory_type(value as u8)
}

/// The place of a fixed-range MTRR in `MsrState::mtrr_fixed`.
fn fixed_range(index: u32) -> Option<usize> {
    match index {
        msr::MTRR_FIX64K_00000 => Some(0),
        msr::MTRR_FIX16K_80000 => Some(1),
        msr::MTRR_FIX16K_A0000 => Some(2),
        msr::MTRR_FIX4K_C0000..=msr::MTRR_FIX4K_F8000 => Some((index - msr::MTRR_FIX4K_C0000) as usize + 3),
        _ => None,
    }
}

impl Core<'_> {
    /// RDMSR.
    ///
    /// # Errors
    /// #GP(0) at CPL > 0 and for an unknown register.
    pub fn rdmsr(&mut self, index: u32) -> Result<u64, Trap> {
        self.check_privileged()?;
        self.read_msr(index)
    }

    /// What RDMSR reads at CPL 0.
    ///
    /// # Errors
    /// #GP(0) for an unknown register.
    pub fn read_msr(&mut self, index: u32) -> Result<u64, Trap> {
        if let Some(answer) = self.platform.msr_read(index) {
            return answer;
        }
        let state = &*self.state;
        let msrs = &state.msr;
        Ok(match index {
            msr::TSC => self.time_stamp_counter(),
            msr::TSC_ADJUST if self.model.has(Feature::TscAdjust) => msrs.tsc_adjust,
            msr::PLATFORM_ID | msr::DEBUGCTL | msr::MCG_CAP => 0,
            msr::FEATURE_CONTROL => state.vmx.feature_control,
            msr::BIOS_SIGN_ID => msrs.bios_sign_id,
            msr::MTRRCAP => MTRRCAP,
            msr::ARCH_CAPABILITIES if self.model.has(Feature::ArchCapabilities) => ARCH_CAPABILITIES,
            msr::SYSENTER_CS => msrs.sysenter_cs,
            msr::SYSENTER_ESP => msrs.sysenter_esp,
            msr::SYSENTER_EIP => msrs.sysenter_eip,
            msr::MCG_STATUS => msrs.mcg_status,
            msr::MISC_ENABLE => msrs.misc_enable | MISC_ENABLE_FIXED,
            msr::MTRR_PHYSBASE0..=MTRR_VARIABLE_LAST => {
                msrs.mtrr_variable[(index - msr::MTRR_PHYSBASE0) as usize]
            }
            msr::PAT => msrs.pat,
            msr::MTRR_DEF_TYPE => msrs.mtrr_def_type,
            msr::XSS if self.model.has(Feature::Xsaves) => msrs.xss,
            msr::EFER => state.efer,
            msr::STAR => msrs.star,
            msr::LSTAR => msrs.lstar,
            msr::CSTAR => msrs.cstar,
            msr::FMASK => msrs.fmask,
            msr::FS_BASE => state.segment[segment::FS].base,
            msr::GS_BASE => state.segment[segment::GS].base,
            msr::KERNEL_GS_BASE => msrs.kernel_gs_base,
            msr::TSC_AUX if self.has_tsc_aux() => msrs.tsc_aux,
            _ => match fixed_range(index) {
                Some(range) => msrs.mtrr_fixed[range],
                None => return refuse(),
            },
        })
    }

    /// WRMSR.
    ///
    /// # Errors
    /// #GP(0) at CPL > 0, for an unknown register, and for a value it refuses.
    pub fn wrmsr(&mut self, index: u32, value: u64) -> Result<(), Trap> {
        self.check_privileged()?;
        self.write_msr(index, value)
    }

    /// What WRMSR does at CPL 0.
    ///
    /// # Errors
    /// #GP(0) for an unknown register, and for a value it refuses.
    pub fn write_msr(&mut self, index: u32, value: u64) -> Result<(), Trap> {
        if let Some(answer) = self.platform.msr_write(index, value, self.state.msr.tsc_offset) {
            return answer;
        }
        let low = value >> 32 == 0;
        match index {
            msr::TSC => self.write_time_stamp_counter(value),
            msr::TSC_ADJUST if self.model.has(Feature::TscAdjust) => self.write_tsc_adjust(value),
            msr::EFER => self.write_efer(value)?,
            msr::TSC_AUX if self.has_tsc_aux() => self.state.msr.tsc_aux = accept(value, low)?,
            msr::FS_BASE => self.state.segment[segment::FS].base = canonical(value)?,
            msr::GS_BASE => self.state.segment[segment::GS].base = canonical(value)?,
            // A microcode update is loaded by nobody here; the revision stays what was written.
            msr::BIOS_SIGN_ID => self.state.msr.bios_sign_id = value,
            msr::DEBUGCTL => {
                accept(value, value & !DEBUGCTL_ACCEPTED == 0)?;
            }
            msr::XSS if self.model.has(Feature::Xsaves) => self.state.msr.xss = accept(value, value == 0)?,
            msr::FEATURE_CONTROL => {
                let locked = self.state.vmx.feature_control & feature_control::LOCK != 0;
                self.state.vmx.feature_control =
                    accept(value, !locked && value & !FEATURE_CONTROL_KNOWN == 0)?;
            }
            msr::MISC_ENABLE => {
                accept(value, value & !MISC_ENABLE_KNOWN == 0)?;
                self.state.msr.misc_enable = value & MISC_ENABLE_FAST_STRINGS;
            }
            _ => return self.write_stored_msr(index, value),
        }
        Ok(())
    }

    /// The registers that keep what they are given, if it is valid.
    fn write_stored_msr(&mut self, index: u32, value: u64) -> Result<(), Trap> {
        let low = value >> 32 == 0;
        let msrs = &mut self.state.msr;
        let (place, acceptable) = match index {
            msr::SYSENTER_CS => (&mut msrs.sysenter_cs, low),
            msr::SYSENTER_ESP => (&mut msrs.sysenter_esp, VcpuState::canonical(value)),
            msr::SYSENTER_EIP => (&mut msrs.sysenter_eip, VcpuState::canonical(value)),
            msr::MCG_STATUS => (&mut msrs.mcg_status, value & !7 == 0),
            msr::PAT => (&mut msrs.pat, is_pat(value)),
            msr::MTRR_DEF_TYPE => (&mut msrs.mtrr_def_type, is_mtrr_default(value)),
            msr::STAR => (&mut msrs.star, true),
            msr::LSTAR => (&mut msrs.lstar, VcpuState::canonical(value)),
            msr::CSTAR => (&mut msrs.cstar, VcpuState::canonical(value)),
            msr::FMASK => (&mut msrs.fmask, true),
            msr::KERNEL_GS_BASE => (&mut msrs.kernel_gs_base, VcpuState::canonical(value)),
            msr::MTRR_PHYSBASE0..=MTRR_VARIABLE_LAST => (
                &mut msrs.mtrr_variable[(index - msr::MTRR_PHYSBASE0) as usize],
                is_mtrr_variable(index, value),
            ),
            _ => match fixed_range(index) {
                Some(range) => {
                    (&mut msrs.mtrr_fixed[range], value.to_le_bytes().into_iter().all(is_memory_type))
                }
                None => return refuse(),
            },
        };
        *place = accept(value, acceptable)?;
        Ok(())
    }

    fn has_tsc_aux(&self) -> bool {
        self.model.has(Feature::Rdtscp) || self.model.has(Feature::Rdpid)
    }

    /// EFER (SDM vol. 3, 2.2.1): LMA is the processor's, LME is fixed while paging is on.
    fn write_efer(&mut self, value: u64) -> Result<(), Trap> {
        let mut allowed = efer::LMA;
        for (bit, feature) in
            [(efer::SCE, Feature::Syscall), (efer::LME, Feature::Lm), (efer::NXE, Feature::Nx)]
        {
            if self.model.has(feature) {
                allowed |= bit;
            }
        }
        let old = self.state.efer;
        let new = value & !efer::LMA | old & efer::LMA;
        let changed = old ^ new;
        if value & !allowed != 0 || changed & efer::LME != 0 && self.state.cr0 & cr0::PG != 0 {
            return refuse();
        }
        self.state.efer = new;
        if changed & efer::NXE != 0 {
            self.tlb.flush_all();
        }
        Ok(())
    }

    /// Writing the counter moves TSC_ADJUST by the same amount (SDM vol. 3, 17.17.3).
    fn write_time_stamp_counter(&mut self, value: u64) {
        let offset = value.wrapping_sub(self.platform.time_stamp_counter());
        let msrs = &mut self.state.msr;
        msrs.tsc_adjust = msrs.tsc_adjust.wrapping_add(offset.wrapping_sub(msrs.tsc_offset));
        msrs.tsc_offset = offset;
        self.platform.time_stamp_counter_moved(offset);
    }

    fn write_tsc_adjust(&mut self, value: u64) {
        let msrs = &mut self.state.msr;
        msrs.tsc_offset = msrs.tsc_offset.wrapping_add(value.wrapping_sub(msrs.tsc_adjust));
        msrs.tsc_adjust = value;
        self.platform.time_stamp_counter_moved(self.state.msr.tsc_offset);
    }

    /// RDTSC.
    ///
    /// # Errors
    /// #GP(0) at CPL > 0 under CR4.TSD.
    pub fn rdtsc(&mut self) -> Result<u64, Trap> {
        if self.state.cr4 & cr4::TSD != 0 {
            self.check_privileged()?;
        }
        Ok(self.time_stamp_counter())
    }

    /// RDTSCP: the counter, and what ECX receives.
    ///
    /// # Errors
    /// As `rdtsc`; #UD if the model lacks it.
    pub fn rdtscp(&mut self) -> Result<(u64, u32), Trap> {
        if !self.model.has(Feature::Rdtscp) {
            return Err(Exception::invalid_opcode().into());
        }
        Ok((self.rdtsc()?, self.state.msr.tsc_aux as u32))
    }

    /// RDPID.
    ///
    /// # Errors
    /// #UD if the model lacks it.
    pub fn rdpid(&mut self) -> Result<u64, Trap> {
        if !self.model.has(Feature::Rdpid) {
            return Err(Exception::invalid_opcode().into());
        }
        Ok(self.state.msr.tsc_aux)
    }

    /// RDPMC: there are no performance counters.
    ///
    /// # Errors
    /// #GP(0) always.
    pub fn rdpmc(&mut self, _index: u32) -> Result<u64, Trap> {
        refuse()
    }

    /// The guest's time-stamp counter.
    pub fn time_stamp_counter(&mut self) -> u64 {
        let counter = self.platform.time_stamp_counter().wrapping_add(self.state.msr.tsc_offset);
        match self.state.vmx.tsc_scaling {
            None => counter,
            Some((multiplier, offset)) => {
                let product = u128::from(counter) * u128::from(multiplier) >> 48;
                (product as u64).wrapping_add(offset)
            }
        }
    }
}
