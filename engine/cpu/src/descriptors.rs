//! Descriptors in memory: segments, system segments and gates (SDM vol. 3, 3.4.5, 3.5, 5.8.3, 6.11, 6.14.1).

use crate::access::Privilege;
use crate::core::Core;
use crate::exception::{Exception, Trap};
use crate::paging::Access;
use crate::state::SegmentRegister;
use gasang_x86::descriptor::{access, selector};

/// Byte of a descriptor that holds type, S, DPL and P.
const ACCESS_BYTE: u64 = 5;

/// A selector as an error code, without the external bit.
pub(crate) fn error_code(selector: u16) -> u32 {
    u32::from(selector & !selector::RPL)
}

/// Whether a selector is null.
pub(crate) fn is_null(selector: u16) -> bool {
    selector & !selector::RPL == 0
}

pub(crate) fn rpl(selector: u16) -> u8 {
    (selector & selector::RPL) as u8
}

/// A descriptor and where it was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descriptor {
    /// Linear address.
    pub address: u64,
    /// First eight bytes.
    pub raw: u64,
    /// The next eight of a system descriptor in IA-32e mode, otherwise 0.
    pub high: u64,
}

impl Descriptor {
    /// Access rights as a segment register holds them.
    pub fn attributes(&self) -> u32 {
        (self.raw >> 40) as u32 & 0xf0ff
    }

    /// Whether it is a system segment or a gate.
    pub fn is_system(&self) -> bool {
        self.attributes() & access::S == 0
    }

    /// The type field.
    pub fn kind(&self) -> u32 {
        self.attributes() & access::TYPE
    }

    pub fn dpl(&self) -> u8 {
        ((self.attributes() & access::DPL) >> access::DPL_SHIFT) as u8
    }

    pub fn present(&self) -> bool {
        self.attributes() & access::PRESENT != 0
    }

    pub fn is_code(&self) -> bool {
        !self.is_system() && self.kind() & access::CODE != 0
    }

    /// A code segment that keeps its caller's privilege.
    pub fn is_conforming(&self) -> bool {
        self.is_code() && self.kind() & access::CONFORMING != 0
    }

    pub fn is_writable_data(&self) -> bool {
        !self.is_system() && self.kind() & (access::CODE | access::WRITABLE) == access::WRITABLE
    }

    /// Data, or code that can be read.
    pub fn is_readable(&self) -> bool {
        !self.is_system() && self.kind() & (access::CODE | access::READABLE) != access::CODE
    }

    pub fn base(&self) -> u64 {
        self.raw >> 16 & 0xff_ffff | self.raw >> 56 << 24 | self.high << 32
    }

    pub fn limit(&self) -> u32 {
        let limit = (self.raw & 0xffff | self.raw >> 32 & 0xf_0000) as u32;
        if self.attributes() & access::GRANULARITY != 0 { limit << 12 | 0xfff } else { limit }
    }

    /// The segment register that loading it under `selector` gives. Segments are accessed by then.
    pub fn segment(&self, selector: u16) -> SegmentRegister {
        let accessed = if self.is_system() { 0 } else { access::ACCESSED };
        SegmentRegister {
            base: self.base(),
            limit: self.limit(),
            attributes: self.attributes() | accessed,
            selector,
        }
    }

    /// Of a gate: the selector of the code segment or TSS.
    pub fn gate_selector(&self) -> u16 {
        (self.raw >> 16) as u16
    }

    /// Of a gate: the entry point; 16-bit gates have 16 bits of it.
    pub fn gate_offset(&self) -> u64 {
        let low = self.raw & 0xffff;
        if self.is_32bit_gate() { low | self.raw >> 48 << 16 | self.high << 32 } else { low }
    }

    /// Of a gate: whether frames are of 32 bits (or, in IA-32e mode, 64).
    pub fn is_32bit_gate(&self) -> bool {
        self.kind() & 8 != 0
    }

    /// Of a call gate: parameters to copy.
    pub fn gate_parameters(&self) -> usize {
        (self.raw >> 32 & 0x1f) as usize
    }

    /// Of an interrupt gate in IA-32e mode: the stack to use, 0 for none.
    pub fn interrupt_stack(&self) -> u64 {
        self.raw >> 32 & 7
    }
}

impl Core<'_> {
    /// Read the descriptor that `selector` names; None if it is outside its table.
    pub(crate) fn descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>, Trap> {
        let (base, limit) = if selector & selector::TI == 0 {
            (self.state.gdtr.base, u32::from(self.state.gdtr.limit))
        } else if self.state.ldtr.usable() {
            (self.state.ldtr.base, self.state.ldtr.limit)
        } else {
            return Ok(None);
        };
        let offset = u32::from(selector & selector::INDEX);
        if offset + 7 > limit {
            return Ok(None);
        }
        let address = base.wrapping_add(u64::from(offset));
        let mut descriptor = Descriptor { address, raw: self.read_system(address, 8)?, high: 0 };
        if self.state.long_mode() && descriptor.is_system() {
            if offset + 15 > limit {
                return Ok(None);
            }
            descriptor.high = self.read_system(address.wrapping_add(8), 8)?;
        }
        Ok(Some(descriptor))
    }

    /// Read the descriptor of `selector`, or fail with `exception` of its error code.
    pub(crate) fn descriptor_or(
        &mut self,
        selector: u16,
        exception: impl FnOnce(u32) -> Exception,
    ) -> Result<Descriptor, Trap> {
        self.descriptor(selector)?.ok_or_else(|| exception(error_code(selector)).into())
    }

    /// Set the accessed bit of a segment's descriptor, if it is clear.
    pub(crate) fn set_accessed(&mut self, descriptor: &Descriptor) -> Result<(), Trap> {
        if descriptor.is_system() || descriptor.kind() & access::ACCESSED != 0 {
            return Ok(());
        }
        self.change_access_byte(descriptor.address, access::ACCESSED, 0)
    }

    /// Set and clear bits in the access byte of the descriptor at `address`, as one locked operation.
    pub(crate) fn change_access_byte(&mut self, address: u64, set: u32, clear: u32) -> Result<(), Trap> {
        let linear = address.wrapping_add(ACCESS_BYTE);
        let linear = if self.state.long_mode() { linear } else { linear & 0xffff_ffff };
        let Some(host) = self.host_for(linear, 1, Access::Write, Privilege::Implicit)? else {
            let byte = self.read_system(linear, 1)?;
            let new = byte & !u64::from(clear) | u64::from(set);
            return self.write(linear, 1, new, Privilege::Implicit);
        };
        // The aligned word around the byte: in the same page, wherever the table lies.
        let word = host & !3;
        let shift = (host & 3) * 8;
        loop {
            let old = self.memory.load(word, 4) as u32;
            let new = old & !(clear << shift) | set << shift;
            if self.memory.compare_exchange_u32(word, old, new) {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(raw: u64) -> Descriptor {
        Descriptor { address: 0, raw, high: 0 }
    }

    #[test]
    fn a_flat_segment_decodes() {
        let code = descriptor(0x00af_9b00_0000_ffff);
        assert!(code.is_code() && !code.is_conforming() && code.present() && code.is_readable());
        assert_eq!((code.base(), code.limit(), code.dpl()), (0, 0xffff_ffff, 0));
        assert_ne!(code.attributes() & access::LONG, 0);
    }

    #[test]
    fn base_and_limit_are_gathered_from_their_pieces() {
        let data = descriptor(0x1241_f356_789a_bcde);
        assert_eq!((data.base(), data.limit(), data.dpl()), (0x1256_789a, 0x1_bcde, 3));
        assert!(data.is_writable_data());
    }
}
