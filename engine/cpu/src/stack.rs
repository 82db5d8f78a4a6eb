//! Stacks of privileged transfers: frames pushed whole or not at all, and the stacks that a TSS names.

use crate::access::Privilege;
use crate::core::Core;
use crate::descriptors::{error_code, is_null, rpl};
use crate::exception::{Exception, Trap};
use crate::paging::Access;
use crate::state::{SegmentRegister, VcpuState};
use gasang_x86::descriptor::{access, system};
use gasang_x86::{gpr, segment};

/// A stack: where it is, how wide its pointer is, and who reports its faults.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stack {
    /// SS, present or to be.
    pub segment: SegmentRegister,
    /// SP, ESP or RSP.
    pub pointer: u64,
    /// Width of the pointer.
    pub bits: u32,
    /// Rights of the accesses.
    pub privilege: Privilege,
    /// Error code of #SS.
    pub error: u32,
}

/// Most values that one frame holds: VM86 interrupt with error code, or a call gate's 31 parameters and 4.
pub(crate) const FRAME_VALUES: usize = 40;

impl Stack {
    fn mask(&self) -> u64 {
        mask(self.bits)
    }

    /// The stack pointer register after this stack's pointer is written to it: a 16-bit stack keeps the rest.
    pub fn merge(&self, old: u64) -> u64 {
        if self.bits == 16 { old & !0xffff | self.pointer & 0xffff } else { self.pointer & self.mask() }
    }

    /// The stack with its pointer moved up by `bytes`.
    pub fn released(&self, bytes: u64) -> Stack {
        Stack { pointer: self.pointer.wrapping_add(bytes) & self.mask(), ..*self }
    }
}

/// All ones in `bits` bits.
pub(crate) fn mask(bits: u32) -> u64 {
    match bits {
        16 => 0xffff,
        32 => 0xffff_ffff,
        _ => !0,
    }
}

impl Core<'_> {
    /// SS:SP as the current instruction uses it.
    pub(crate) fn current_stack(&self) -> Stack {
        let bits = self.state.stack_bits();
        Stack {
            segment: self.state.segment[segment::SS],
            pointer: self.state.gpr[gpr::RSP] & mask(bits),
            bits,
            privilege: self.privilege(),
            error: 0,
        }
    }

    fn stack_linear(&self, stack: &Stack, offset: u64, size: u64, access: Access) -> Result<u64, Trap> {
        let found = if stack.bits == 64 {
            let last = offset.wrapping_add(size.wrapping_sub(1));
            (VcpuState::canonical(offset) && VcpuState::canonical(last)).then_some(offset)
        } else {
            self.segment_to_linear(&stack.segment, offset, size, access)
        };
        found.ok_or(Trap::Exception(Exception::stack(stack.error)))
    }

    /// Read the `index`th value of `width` bytes from the top of the stack.
    pub(crate) fn peek(&mut self, stack: &Stack, index: u64, width: u64) -> Result<u64, Trap> {
        let offset = stack.released(index * width).pointer;
        let linear = self.stack_linear(stack, offset, width, Access::Read)?;
        self.read(linear, width as usize, stack.privilege)
    }

    /// Push `values` of `width` bytes, the first one first, all or none. The stack after it.
    pub(crate) fn push_frame(&mut self, stack: &Stack, values: &[u64], width: u64) -> Result<Stack, Trap> {
        let total = values.len() as u64 * width;
        let pushed = Stack { pointer: stack.pointer.wrapping_sub(total) & stack.mask(), ..*stack };
        if pushed.pointer > stack.pointer {
            return self.push_around(stack, values, width).map(|()| pushed);
        }
        let mut bytes = [0; FRAME_VALUES * 8];
        let parts = bytes.chunks_exact_mut(width as usize);
        for (part, value) in parts.zip(values.iter().rev()) {
            part.copy_from_slice(&value.to_le_bytes()[..width as usize]);
        }
        let written = self
            .stack_linear(stack, pushed.pointer, total, Access::Write)
            .and_then(|linear| self.write_bytes(linear, &bytes[..total as usize], stack.privilege));
        match written {
            // A fault is that of the first value that cannot be pushed, not of the lowest address.
            Err(Trap::Exception(_)) => self.push_around(stack, values, width)?,
            other => other?,
        }
        Ok(pushed)
    }

    /// Push a frame value by value: one that faults, or in the midst of which the stack pointer wraps.
    fn push_around(&mut self, stack: &Stack, values: &[u64], width: u64) -> Result<(), Trap> {
        let mut places = [0; FRAME_VALUES];
        for (index, place) in places.iter_mut().enumerate().take(values.len()) {
            let offset = stack.pointer.wrapping_sub((index as u64 + 1) * width) & stack.mask();
            *place = self.stack_linear(stack, offset, width, Access::Write)?;
            self.probe(*place, Access::Write, stack.privilege)?;
            self.probe_write(*place, width as usize, stack.privilege)?;
        }
        for (place, value) in places.iter().zip(values) {
            self.write(*place, width as usize, *value, stack.privilege)?;
        }
        Ok(())
    }

    /// Read `size` bytes of the current TSS, or #TS.
    fn read_tss(&mut self, offset: u64, size: u64, external: u32) -> Result<u64, Trap> {
        let tss = self.state.tr;
        if !tss.usable() || offset + size - 1 > u64::from(tss.limit) {
            return Err(Exception::invalid_tss(error_code(tss.selector) | external).into());
        }
        self.read_system(tss.base.wrapping_add(offset), size as usize)
    }

    /// A stack pointer of a 64-bit TSS: RSP0-2 (`slot` 0-2) or IST1-7 (`slot` 4-10).
    pub(crate) fn tss_stack64(&mut self, slot: u64, external: u32) -> Result<u64, Trap> {
        self.read_tss(4 + slot * 8, 8, external)
    }

    /// A stack for `cpl` in IA-32e mode; `ss` is what SS becomes.
    pub(crate) fn stack64(&self, pointer: u64, cpl: u8, ss: SegmentRegister, external: u32) -> Stack {
        let privilege = if cpl == 3 { Privilege::User } else { Privilege::Implicit };
        Stack { segment: ss, pointer, bits: 64, privilege, error: external }
    }

    /// The stack for `cpl` that the current 16- or 32-bit TSS names (SDM vol. 3, 5.8.5).
    pub(crate) fn inner_stack(&mut self, cpl: u8, external: u32) -> Result<Stack, Trap> {
        let level = u64::from(cpl);
        let wide = self.state.tr.attributes & access::TYPE & system::TSS_AVAILABLE == system::TSS_AVAILABLE;
        let (pointer, selector) = if wide {
            (self.read_tss(4 + level * 8, 4, external)?, self.read_tss(8 + level * 8, 2, external)?)
        } else {
            (self.read_tss(2 + level * 4, 2, external)?, self.read_tss(4 + level * 4, 2, external)?)
        };
        let register = self.inner_stack_segment(selector as u16, cpl, external)?;
        let bits = if register.attributes & access::DB != 0 { 32 } else { 16 };
        Ok(Stack {
            segment: register,
            pointer: pointer & mask(bits),
            bits,
            privilege: Privilege::Implicit,
            error: error_code(register.selector) | external,
        })
    }

    /// The SS of an inner stack, or #TS.
    fn inner_stack_segment(
        &mut self,
        selector: u16,
        cpl: u8,
        external: u32,
    ) -> Result<SegmentRegister, Trap> {
        let invalid = Exception::invalid_tss(error_code(selector) | external);
        if is_null(selector) {
            return Err(Exception::invalid_tss(external).into());
        }
        let descriptor = self.descriptor(selector)?.ok_or(invalid)?;
        if rpl(selector) != cpl || descriptor.dpl() != cpl || !descriptor.is_writable_data() {
            return Err(invalid.into());
        }
        if !descriptor.present() {
            return Err(Exception::stack(error_code(selector) | external).into());
        }
        self.set_accessed(&descriptor)?;
        Ok(descriptor.segment(selector))
    }
}
