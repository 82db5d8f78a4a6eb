//! Permission to use I/O ports (SDM vol. 1, 19.5).

use crate::access::Privilege;
use crate::core::Core;
use crate::exception::{Exception, Trap};
use crate::state::VcpuState;
use gasang_x86::descriptor::{access, system};

/// Offset in a 32- or 64-bit TSS of the 16-bit offset of the I/O permission bitmap.
const BITMAP_OFFSET: u64 = 102;

impl Core<'_> {
    /// Check that the current privilege may access `size` bytes of ports at `port`.
    ///
    /// # Errors
    /// #GP(0), or #PF from the TSS.
    pub fn check_io(&mut self, port: u16, size: u8) -> Result<(), Trap> {
        let state = &*self.state;
        let by_privilege = !state.protected_mode() || !state.virtual_8086() && state.cpl() <= state.iopl();
        if by_privilege || self.permission_bitmap_allows(port, size)? {
            Ok(())
        } else {
            Err(Exception::general_protection(0).into())
        }
    }

    fn permission_bitmap_allows(&mut self, port: u16, size: u8) -> Result<bool, Trap> {
        let tss = self.state.tr;
        let kind = tss.attributes & (access::TYPE & !access::WRITABLE);
        if !tss.usable() || kind != system::TSS_AVAILABLE || u64::from(tss.limit) < BITMAP_OFFSET + 1 {
            return Ok(false);
        }
        let bitmap = self.read_system(tss.base.wrapping_add(BITMAP_OFFSET), 2)?;
        // The processor reads two bytes always: the last byte of the bitmap is followed by one of ones.
        let byte = bitmap + u64::from(port / 8);
        if byte + 1 > u64::from(tss.limit) {
            return Ok(false);
        }
        let bits = self.read_system(tss.base.wrapping_add(byte), 2)?;
        let wanted = (1 << size.min(8)) - 1;
        Ok(bits >> (port % 8) & wanted == 0)
    }

    /// Read `size` bytes of a structure of the system: GDT, LDT, IDT, TSS.
    pub(crate) fn read_system(&mut self, linear: u64, size: usize) -> Result<u64, Trap> {
        let linear = if self.state.long_mode() { linear } else { linear & 0xffff_ffff };
        if !VcpuState::canonical(linear) {
            return Err(Exception::general_protection(0).into());
        }
        self.read(linear, size, Privilege::Implicit)
    }
}
