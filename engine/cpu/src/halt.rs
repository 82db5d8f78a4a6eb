//! Privileged instructions without a home of their own, INIT and SIPI.
#![allow(unused_variables)]

use crate::core::Core;
use crate::exception::Trap;
use crate::state::VcpuState;

impl Core<'_> {
    /// The check of a privileged instruction (HLT, INVD, WBINVD, CLTS, LGDT, ...).
    ///
    /// # Errors
    /// #GP(0) unless CPL is 0.
    #[inline]
    pub fn check_privileged(&self) -> Result<(), Trap> {
        todo!()
    }

    /// The check of SGDT, SIDT, SLDT, SMSW, STR.
    ///
    /// # Errors
    /// #GP(0) at CPL > 0 under CR4.UMIP.
    pub fn check_umip(&self) -> Result<(), Trap> {
        todo!()
    }

    /// HLT: the activity becomes `Halted`.
    ///
    /// # Errors
    /// #GP(0) unless CPL is 0.
    pub fn hlt(&mut self) -> Result<(), Trap> {
        todo!()
    }

    /// WBINVD, WBNOINVD, INVD: nothing to do beyond the check.
    ///
    /// # Errors
    /// #GP(0) unless CPL is 0.
    pub fn wbinvd(&mut self) -> Result<(), Trap> {
        todo!()
    }
}

impl VcpuState {
    /// INIT: as RESET, but for what survives it (SDM vol. 3, table 10-1). An application processor then waits for a
    /// SIPI: the caller sets the activity. The TLB must be flushed.
    pub fn init(&mut self) {
        todo!()
    }

    /// Start-up IPI: execution begins at page `vector`.
    pub fn sipi(&mut self, vector: u8) {
        todo!()
    }
}
