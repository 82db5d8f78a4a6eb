//! Segment registers: addresses through them, and loading them (SDM vol. 3, 3.4, 5.3-5.5; vol. 2, MOV).

use crate::core::Core;
use crate::cpuid::Feature;
use crate::descriptors::{Descriptor, error_code, is_null, rpl};
use crate::exception::{Exception, Trap};
use crate::paging::Access;
use crate::state::{SegmentRegister, VcpuState};
use gasang_x86::control::cr4;
use gasang_x86::descriptor::access;
use gasang_x86::segment;

/// Access rights of every segment in VM86 mode: present, writable, accessed data of privilege 3.
pub(crate) const VIRTUAL_8086_ATTRIBUTES: u32 =
    access::PRESENT | access::DPL | access::S | access::WRITABLE | access::ACCESSED;

impl SegmentRegister {
    /// A null selector: nothing can be reached through it outside 64-bit mode.
    pub(crate) fn null(selector: u16) -> SegmentRegister {
        SegmentRegister { base: 0, limit: 0, attributes: access::UNUSABLE, selector }
    }

    /// SS as a transfer to `cpl` in 64-bit mode leaves it: null, and yet the keeper of CPL.
    pub(crate) fn null_stack(cpl: u8) -> SegmentRegister {
        let dpl = u32::from(cpl) << access::DPL_SHIFT;
        SegmentRegister { attributes: access::UNUSABLE | dpl, ..SegmentRegister::null(u16::from(cpl)) }
    }

    /// What a segment becomes when real mode loads it: the hidden limit and size survive ("unreal mode").
    fn reloaded_in_real_mode(&self, selector: u16) -> SegmentRegister {
        let fresh = SegmentRegister::real_mode(selector);
        if !self.usable() {
            return fresh;
        }
        let kept = self.attributes & (access::DB | access::GRANULARITY);
        SegmentRegister { limit: self.limit, attributes: fresh.attributes | kept, ..fresh }
    }

    /// A segment in VM86 mode.
    pub(crate) fn virtual_8086(selector: u16) -> SegmentRegister {
        SegmentRegister { attributes: VIRTUAL_8086_ATTRIBUTES, ..SegmentRegister::real_mode(selector) }
    }

    /// Whether `size` bytes at `offset` are within the limit.
    pub(crate) fn contains(&self, offset: u64, size: u64) -> bool {
        let limit = u64::from(self.limit);
        let last = offset.wrapping_add(size.wrapping_sub(1));
        if last < offset {
            return false;
        }
        let data = self.attributes & (access::CODE | access::S) == access::S;
        if data && self.attributes & access::EXPAND_DOWN != 0 {
            let top = if self.attributes & access::DB != 0 { 0xffff_ffff } else { 0xffff };
            offset > limit && last <= top
        } else {
            last <= limit
        }
    }

    /// Whether the type allows the access (protected mode).
    fn allows(&self, access: Access) -> bool {
        let code = self.attributes & access::CODE != 0;
        match access {
            Access::Read => !code || self.attributes & access::READABLE != 0,
            Access::Write => !code && self.attributes & access::WRITABLE != 0,
            Access::Execute => code,
        }
    }
}

fn segment_fault(segment: usize) -> Trap {
    if segment == segment::SS { Exception::stack(0).into() } else { Exception::general_protection(0).into() }
}

impl Core<'_> {
    /// The linear address of `size` bytes at `offset` in a segment register. `offset` is already truncated to the
    /// address size.
    ///
    /// # Errors
    /// #SS(0) for SS, #GP(0) for the others: limit, type, unusable segment, non-canonical address.
    #[inline]
    pub fn logical_to_linear(
        &self,
        segment: usize,
        offset: u64,
        size: u64,
        access: Access,
    ) -> Result<u64, Trap> {
        let register = &self.state.segment[segment];
        if !self.state.in_64bit_mode() {
            return self
                .segment_to_linear(register, offset, size, access)
                .ok_or_else(|| segment_fault(segment));
        }
        let base = if segment >= segment::FS { register.base } else { 0 };
        let linear = base.wrapping_add(offset);
        let last = linear.wrapping_add(size.wrapping_sub(1));
        if VcpuState::canonical(linear) && VcpuState::canonical(last) {
            Ok(linear)
        } else {
            Err(segment_fault(segment))
        }
    }

    /// The linear address of `size` bytes at `offset` in a segment, outside 64-bit mode; None if it refuses.
    pub(crate) fn segment_to_linear(
        &self,
        register: &SegmentRegister,
        offset: u64,
        size: u64,
        access: Access,
    ) -> Option<u64> {
        let typed = self.state.real_or_virtual_8086() || register.allows(access);
        if !register.usable() || !typed || !register.contains(offset, size) {
            return None;
        }
        Some(register.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// MOV to a segment register, POP, LDS and their kin: any but CS. The caller sets the shadow of MOV SS.
    ///
    /// # Errors
    /// #UD for CS, #GP, #NP, #SS with the selector, #PF.
    pub fn load_segment(&mut self, segment: usize, selector: u16) -> Result<(), Trap> {
        if segment == segment::CS || segment > segment::GS {
            return Err(Exception::invalid_opcode().into());
        }
        let loaded = if self.state.real_or_virtual_8086() {
            self.paragraph_segment(segment, selector)
        } else if segment == segment::SS {
            self.stack_segment(selector)?
        } else {
            self.data_segment(selector)?
        };
        self.state.segment[segment] = loaded;
        Ok(())
    }

    /// What real or VM86 mode loads into `segment`.
    pub(crate) fn paragraph_segment(&self, segment: usize, selector: u16) -> SegmentRegister {
        if self.state.virtual_8086() {
            SegmentRegister::virtual_8086(selector)
        } else {
            self.state.segment[segment].reloaded_in_real_mode(selector)
        }
    }

    fn stack_segment(&mut self, selector: u16) -> Result<SegmentRegister, Trap> {
        let cpl = self.state.cpl();
        let refused = Exception::general_protection(error_code(selector));
        if is_null(selector) {
            if self.state.in_64bit_mode() && cpl < 3 && rpl(selector) == cpl {
                return Ok(SegmentRegister::null_stack(cpl));
            }
            return Err(refused.into());
        }
        let descriptor = self.descriptor_or(selector, Exception::general_protection)?;
        if rpl(selector) != cpl || descriptor.dpl() != cpl || !descriptor.is_writable_data() {
            return Err(refused.into());
        }
        if !descriptor.present() {
            return Err(Exception::stack(error_code(selector)).into());
        }
        self.set_accessed(&descriptor)?;
        Ok(descriptor.segment(selector))
    }

    /// What protected mode loads into DS, ES, FS or GS.
    pub(crate) fn data_segment(&mut self, selector: u16) -> Result<SegmentRegister, Trap> {
        if is_null(selector) {
            return Ok(SegmentRegister::null(selector));
        }
        let descriptor = self.descriptor_or(selector, Exception::general_protection)?;
        let reachable = descriptor.is_conforming() || self.may_reach(&descriptor, selector);
        if !descriptor.is_readable() || !reachable {
            return Err(Exception::general_protection(error_code(selector)).into());
        }
        if !descriptor.present() {
            return Err(Exception::not_present(error_code(selector)).into());
        }
        self.set_accessed(&descriptor)?;
        Ok(descriptor.segment(selector))
    }

    /// Whether CPL and RPL are both at least as privileged as the descriptor.
    pub(crate) fn may_reach(&self, descriptor: &Descriptor, selector: u16) -> bool {
        descriptor.dpl() >= self.state.cpl().max(rpl(selector))
    }

    /// SWAPGS.
    ///
    /// # Errors
    /// #UD outside 64-bit mode, #GP(0) at CPL > 0.
    pub fn swapgs(&mut self) -> Result<(), Trap> {
        if !self.state.in_64bit_mode() {
            return Err(Exception::invalid_opcode().into());
        }
        self.check_privileged()?;
        std::mem::swap(&mut self.state.segment[segment::GS].base, &mut self.state.msr.kernel_gs_base);
        Ok(())
    }

    fn check_base_instruction(&self) -> Result<(), Trap> {
        let enabled = self.state.cr4 & cr4::FSGSBASE != 0 && self.model.has(Feature::Fsgsbase);
        if self.state.in_64bit_mode() && enabled { Ok(()) } else { Err(Exception::invalid_opcode().into()) }
    }

    fn write_base(&mut self, segment: usize, value: u64) -> Result<(), Trap> {
        self.check_base_instruction()?;
        if !VcpuState::canonical(value) {
            return Err(Exception::general_protection(0).into());
        }
        self.state.segment[segment].base = value;
        Ok(())
    }

    /// RDFSBASE.
    ///
    /// # Errors
    /// #UD outside 64-bit mode or without CR4.FSGSBASE.
    pub fn rdfsbase(&mut self) -> Result<u64, Trap> {
        self.check_base_instruction()?;
        Ok(self.state.segment[segment::FS].base)
    }

    /// RDGSBASE.
    ///
    /// # Errors
    /// As `rdfsbase`.
    pub fn rdgsbase(&mut self) -> Result<u64, Trap> {
        self.check_base_instruction()?;
        Ok(self.state.segment[segment::GS].base)
    }

    /// WRFSBASE. `value` is already truncated to the operand size.
    ///
    /// # Errors
    /// As `rdfsbase`; #GP(0) for a non-canonical value.
    pub fn wrfsbase(&mut self, value: u64) -> Result<(), Trap> {
        self.write_base(segment::FS, value)
    }

    /// WRGSBASE.
    ///
    /// # Errors
    /// As `wrfsbase`.
    pub fn wrgsbase(&mut self, value: u64) -> Result<(), Trap> {
        self.write_base(segment::GS, value)
    }
}
