//! Privileged instructions without a home of their own, INIT and SIPI.

use crate::core::Core;
use crate::cpuid::SIGNATURE;
use crate::exception::{Exception, Trap};
use crate::state::{Activity, VcpuState};
use gasang_x86::control::{cr0, cr4};
use gasang_x86::{gpr, segment};

impl Core<'_> {
    /// The check of a privileged instruction (HLT, INVD, WBINVD, CLTS, LGDT, ...).
    ///
    /// # Errors
    /// #GP(0) unless CPL is 0.
    #[inline]
    pub fn check_privileged(&self) -> Result<(), Trap> {
        if self.state.cpl() == 0 { Ok(()) } else { Err(Exception::general_protection(0).into()) }
    }

    /// The check of SGDT, SIDT, SLDT, SMSW, STR.
    ///
    /// # Errors
    /// #GP(0) at CPL > 0 under CR4.UMIP.
    pub fn check_umip(&self) -> Result<(), Trap> {
        if self.state.cr4 & cr4::UMIP == 0 { Ok(()) } else { self.check_privileged() }
    }

    /// HLT: the activity becomes `Halted`.
    ///
    /// # Errors
    /// #GP(0) unless CPL is 0.
    pub fn hlt(&mut self) -> Result<(), Trap> {
        self.check_privileged()?;
        self.state.activity = Activity::Halted;
        Ok(())
    }

    /// WBINVD, WBNOINVD, INVD: nothing to do beyond the check.
    ///
    /// # Errors
    /// #GP(0) unless CPL is 0.
    pub fn wbinvd(&mut self) -> Result<(), Trap> {
        self.check_privileged()
    }
}

impl VcpuState {
    /// INIT: as RESET, but for what survives it (SDM vol. 3, table 10-1): x87 and SIMD state, MSRs, the time-stamp
    /// counter, VMX (INIT is blocked in VMX operation), CR0's CD and NW. An application processor then waits for a
    /// SIPI: the caller sets the activity, and flushes the TLB.
    pub fn init(&mut self) {
        let reset = VcpuState::reset();
        let cache_control = cr0::CD | cr0::NW;
        *self = VcpuState {
            cr0: self.cr0 & cache_control | reset.cr0 & !cache_control,
            xcr0: self.xcr0,
            instructions: self.instructions,
            msr: self.msr,
            extended: self.extended.clone(),
            pkru: self.pkru,
            vmx: self.vmx.clone(),
            ..reset
        };
        self.gpr[gpr::RDX] = u64::from(SIGNATURE);
    }

    /// Start-up IPI: execution begins at page `vector`.
    pub fn sipi(&mut self, vector: u8) {
        let code = &mut self.segment[segment::CS];
        code.selector = u16::from(vector) << 8;
        code.base = u64::from(vector) << 12;
        self.rip = 0;
        self.activity = Activity::Active;
    }
}
