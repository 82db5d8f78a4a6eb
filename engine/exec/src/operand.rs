//! Where the operands of an instruction are: registers, and memory through segments.

use crate::stub::gpr_number;
use gasang_cpu::{Access, Core, Exception, Trap, VcpuState};
use gasang_x86::control::{cr0, debug};
use gasang_x86::{gpr, rflags, segment};
use iced_x86::{Instruction, OpKind, Register};

/// No register.
const NONE: u8 = 16;

/// The all-ones value of `size` bytes.
#[inline]
pub(crate) fn mask(size: usize) -> u64 {
    match size {
        0 => 0,
        1..8 => (1 << (size * 8)) - 1,
        _ => !0,
    }
}

/// `value` of `size` bytes, sign-extended.
#[inline]
pub(crate) fn sign_extend(value: u64, size: usize) -> u64 {
    let shift = 64 - 8 * size.clamp(1, 8) as u32;
    ((value << shift) as i64 >> shift) as u64
}

/// A memory operand as decoded: segment:base+index*scale+displacement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryOperand {
    /// Segment register.
    pub segment: usize,
    base: u8,
    index: u8,
    scale: u8,
    displacement: u64,
    /// Truncates to the address size.
    pub mask: u64,
}

impl MemoryOperand {
    /// The memory operand of `instruction`, decoded in a `bits`-bit code segment. Without one, what it says is moot.
    pub(crate) fn of(instruction: &Instruction, bits: u32) -> MemoryOperand {
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        let address_bytes = if base == Register::RIP {
            8
        } else if base == Register::EIP {
            4
        } else if base.is_gpr() {
            base.size()
        } else if index.is_gpr() {
            index.size()
        } else {
            match instruction.memory_displ_size() {
                2 => 2,
                4 => 4,
                8 => 8,
                _ => bits as usize / 8,
            }
        };
        let number = |register| gpr_number(register).map_or(NONE, |number| number as u8);
        MemoryOperand {
            segment: effective_segment(instruction, bits),
            base: number(base),
            index: number(index),
            scale: instruction.memory_index_scale().trailing_zeros() as u8,
            displacement: instruction.memory_displacement64(),
            mask: mask(address_bytes),
        }
    }

    /// The effective address.
    #[inline]
    pub(crate) fn offset(&self, state: &VcpuState) -> u64 {
        let mut offset = self.displacement;
        if self.base < NONE {
            offset = offset.wrapping_add(state.gpr[usize::from(self.base & 15)]);
        }
        if self.index < NONE {
            offset = offset.wrapping_add(state.gpr[usize::from(self.index & 15)] << (self.scale & 3));
        }
        offset & self.mask
    }

    /// The effective address with `index` in place of the index register, which is a vector.
    pub(crate) fn offset_with_index(&self, state: &VcpuState, index: u64) -> u64 {
        self.offset(state).wrapping_add(index << (self.scale & 3)) & self.mask
    }
}

/// The segment of a memory operand. In 64-bit mode overrides other than FS and GS are ignored.
fn effective_segment(instruction: &Instruction, bits: u32) -> usize {
    let stack = matches!(
        instruction.memory_base(),
        Register::RSP | Register::RBP | Register::ESP | Register::EBP | Register::SP | Register::BP
    );
    match segment_number(instruction.memory_segment()) {
        Some(number) if bits != 64 || number >= segment::FS => number,
        _ if stack => segment::SS,
        _ => segment::DS,
    }
}

/// Index of a segment register in the register file.
pub(crate) fn segment_number(register: Register) -> Option<usize> {
    match register {
        Register::ES => Some(segment::ES),
        Register::CS => Some(segment::CS),
        Register::SS => Some(segment::SS),
        Register::DS => Some(segment::DS),
        Register::FS => Some(segment::FS),
        Register::GS => Some(segment::GS),
        _ => None,
    }
}

fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::CH | Register::DH | Register::BH)
}

/// A general-purpose register of any size, zero-extended.
#[inline]
pub(crate) fn read_register(state: &VcpuState, register: Register) -> u64 {
    let value = state.gpr[gpr_number(register).unwrap_or(gpr::RAX) & 15];
    if is_high_byte(register) { value >> 8 & 0xff } else { value & mask(register.size()) }
}

/// Write a general-purpose register of any size: 32 bits clear the upper half, smaller ones leave the rest.
#[inline]
pub(crate) fn write_register(state: &mut VcpuState, register: Register, value: u64) {
    let Some(number) = gpr_number(register) else { return };
    let slot = &mut state.gpr[number & 15];
    if is_high_byte(register) {
        *slot = *slot & !0xff00 | (value & 0xff) << 8;
    } else {
        merge(slot, value, register.size());
    }
}

/// Write `size` bytes of a general-purpose register by number (low byte for 1).
#[inline]
pub(crate) fn write_gpr(state: &mut VcpuState, number: usize, value: u64, size: usize) {
    merge(&mut state.gpr[number & 15], value, size);
}

#[inline]
fn merge(slot: &mut u64, value: u64, size: usize) {
    let mask = mask(size);
    *slot = if size == 4 { value & mask } else { *slot & !mask | value & mask };
}

/// Set or clear a flag.
pub(crate) fn set_flag(state: &mut VcpuState, flag: u64, set: bool) {
    if set {
        state.rflags |= flag;
    } else {
        state.rflags &= !flag;
    }
}

/// The linear address of an operand, whatever segmentation and canonical form say to it.
pub(crate) fn unchecked_linear(core: &Core<'_>, segment: usize, offset: u64) -> u64 {
    let flat = core.state.in_64bit_mode() && !matches!(segment, segment::FS | segment::GS);
    let base = if flat { 0 } else { core.state.segment[segment].base };
    core.wrap_linear(base.wrapping_add(offset))
}

/// The linear address of a data access, with what segmentation, alignment checking and data breakpoints say to it.
///
/// # Errors
/// #GP(0), #SS(0), #AC(0).
#[inline]
pub(crate) fn linear_address(
    core: &mut Core<'_>,
    segment: usize,
    offset: u64,
    size: usize,
    access: Access,
) -> Result<u64, Trap> {
    let linear = element_address(core, segment, offset, size, access)?;
    if core.state.rflags & rflags::AC != 0 {
        check_alignment(core.state, linear, size)?;
    }
    Ok(linear)
}

/// As `linear_address`, for an element of a vector under a mask: its alignment is never checked.
///
/// # Errors
/// #GP(0), #SS(0).
#[inline]
pub(crate) fn element_address(
    core: &mut Core<'_>,
    segment: usize,
    offset: u64,
    size: usize,
    access: Access,
) -> Result<u64, Trap> {
    let linear = core.logical_to_linear(segment, offset, size as u64, access)?;
    if core.state.dr[7] & debug::DR7_ENABLED != 0 {
        core.state.pending_debug |= core.data_breakpoints(linear, size as u64, access == Access::Write);
    }
    Ok(linear)
}

/// Whether a program asked for #AC and may get it (SDM vol. 3, 6.15, interrupt 17).
pub(crate) fn checks_alignment(state: &VcpuState) -> bool {
    state.rflags & rflags::AC != 0 && state.cr0 & cr0::AM != 0 && state.cpl() == 3
}

/// #AC for a misaligned access by a program that asked for it.
fn check_alignment(state: &VcpuState, linear: u64, size: usize) -> Result<(), Trap> {
    let alignment = match size {
        2 | 4 | 8 | 16 => size as u64,
        32 | 64 => 16,
        10 => 8,
        // x87's environments and images, 16-bit and 32-bit; FXSAVE's.
        14 | 94 => 2,
        28 | 108 | 512 => 4,
        _ => 1,
    };
    if checks_alignment(state) && linear % alignment != 0 {
        Err(Exception::alignment().into())
    } else {
        Ok(())
    }
}

/// Read 1, 2, 4 or 8 bytes of data.
///
/// # Errors
/// What segmentation and paging raise; `Pending`.
pub(crate) fn read(core: &mut Core<'_>, segment: usize, offset: u64, size: usize) -> Result<u64, Trap> {
    let linear = linear_address(core, segment, offset, size, Access::Read)?;
    let privilege = core.privilege();
    core.read(linear, size, privilege)
}

/// Write 1, 2, 4 or 8 bytes of data.
///
/// # Errors
/// As `read`.
pub(crate) fn write(
    core: &mut Core<'_>,
    segment: usize,
    offset: u64,
    size: usize,
    value: u64,
) -> Result<(), Trap> {
    let linear = linear_address(core, segment, offset, size, Access::Write)?;
    let privilege = core.privilege();
    core.write(linear, size, value, privilege)
}

/// Read operand `index` of an instruction: a register, an immediate, or `size` bytes of memory.
///
/// # Errors
/// As `read`.
pub(crate) fn read_operand(
    core: &mut Core<'_>,
    instruction: &Instruction,
    memory: &MemoryOperand,
    index: u32,
    size: usize,
) -> Result<u64, Trap> {
    match instruction.op_kind(index) {
        OpKind::Register => {
            let register = instruction.op_register(index);
            match segment_number(register) {
                Some(number) => Ok(u64::from(core.state.segment[number].selector)),
                None => Ok(read_register(core.state, register) & mask(size)),
            }
        }
        OpKind::Memory => read(core, memory.segment, memory.offset(core.state), size),
        _ => Ok(instruction.try_immediate(index).unwrap_or_default()),
    }
}

/// Write operand `index`: a register (whole, whatever `size`), or `size` bytes of memory.
///
/// # Errors
/// As `read`.
pub(crate) fn write_operand(
    core: &mut Core<'_>,
    instruction: &Instruction,
    memory: &MemoryOperand,
    index: u32,
    size: usize,
    value: u64,
) -> Result<(), Trap> {
    if instruction.op_kind(index) == OpKind::Memory {
        return write(core, memory.segment, memory.offset(core.state), size, value);
    }
    write_register(core.state, instruction.op_register(index), value);
    Ok(())
}
