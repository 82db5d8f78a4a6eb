//! Where memory operands lie, and the registers that make them lie there.

use crate::case::Registers;
use crate::layout::{DATA, PAGE, READ_ONLY};
use crate::random::Random;
use gasang_x86::segment;
use iced_x86::{CodeSize, Instruction, Register, UsedMemory};

/// A memory operand as registers and a displacement.
#[derive(Debug, Clone, Copy)]
pub struct Operand {
    /// Segment register.
    pub segment: Register,
    /// Base register or none.
    pub base: Register,
    /// Index register or none.
    pub index: Register,
    /// Factor of the index.
    pub scale: u64,
    /// Displacement.
    pub displacement: u64,
    /// 32-bit addresses.
    pub narrow: bool,
}

impl Operand {
    /// From what the decoder's tables say of an instruction.
    pub fn of(memory: &UsedMemory) -> Operand {
        Operand {
            segment: memory.segment(),
            base: memory.base(),
            index: memory.index(),
            scale: u64::from(memory.scale()),
            displacement: memory.displacement(),
            narrow: memory.address_size() == CodeSize::Code32,
        }
    }

    /// The memory operand that an instruction's encoding describes.
    pub fn encoded(instruction: &Instruction) -> Operand {
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        Operand {
            segment: instruction.memory_segment(),
            base,
            index,
            scale: u64::from(instruction.memory_index_scale()),
            displacement: instruction.memory_displacement64(),
            narrow: base.is_gpr32() || index.is_gpr32(),
        }
    }

    /// The part of the address that the index and the displacement make.
    fn offset(&self, registers: &Registers) -> u64 {
        let index = if self.index == Register::None || self.index.is_vector_register() {
            0
        } else {
            read(registers, self.index).wrapping_mul(self.scale)
        };
        self.displacement.wrapping_add(index)
    }

    /// An offset for which the segment's base can be loaded.
    fn offset_in_segment(&self, registers: &Registers, random: &mut Random, target: u64) -> u64 {
        if self.base == Register::None {
            let offset = self.offset(registers);
            let reachable = is_canonical(offset.wrapping_add(4096)) && is_canonical(offset);
            return if reachable && is_canonical(target.wrapping_sub(offset)) {
                self.offset(registers)
            } else {
                target
            };
        }
        if self.narrow {
            let offset = random.next() >> 32;
            return if is_canonical(target.wrapping_sub(offset)) { offset } else { target };
        }
        let base = (random.next() as i64 >> random.pick(&[17, 32, 40])) as u64;
        let offset = target.wrapping_sub(base);
        // AMD's processors check the offset as well as the linear address, Intel's do not.
        let near_the_end = |offset: u64| is_canonical(offset) != is_canonical(offset.wrapping_add(4096));
        if is_canonical(offset) == is_canonical(target) && !near_the_end(offset) { offset } else { target }
    }

    /// Choose the segment base and the base register such that the operand is at `target`.
    pub fn place(&self, registers: &mut Registers, random: &mut Random, target: u64) {
        let mut offset = target;
        if let Some(number) = segment_with_base(self.segment) {
            offset = self.offset_in_segment(registers, random, target);
            let base = if number == segment::FS { &mut registers.fs_base } else { &mut registers.gs_base };
            *base = target.wrapping_sub(offset);
        }
        if self.base.is_gpr() {
            let mut value = offset.wrapping_sub(self.offset(registers));
            if self.narrow {
                value = value & 0xffff_ffff | random.next() << 32;
            }
            registers.gpr[self.base.full_register().number()] = value;
        }
    }
}

/// Whether a segment base can be loaded.
fn is_canonical(address: u64) -> bool {
    ((address << 16) as i64 >> 16) as u64 == address
}

/// FS and GS have bases in 64-bit mode.
fn segment_with_base(register: Register) -> Option<usize> {
    match register {
        Register::FS => Some(segment::FS),
        Register::GS => Some(segment::GS),
        _ => None,
    }
}

/// The value of a general-purpose register (not AH and its kin).
pub fn read(registers: &Registers, register: Register) -> u64 {
    let value = registers.gpr[register.full_register().number()];
    match register.size() {
        1 => value & 0xff,
        2 => value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    }
}

/// An offset in the window for `size` bytes that may be read and written.
pub fn harmless(random: &mut Random, size: u64) -> u64 {
    let first = DATA + 64;
    let span = 3 * PAGE - 128 - size;
    let crossing = |random: &mut Random, page: u64| {
        let before = 1 + random.below(size.max(2) - 1);
        DATA + page * PAGE - before
    };
    match random.below(8) {
        0..=3 => (first + random.below(span)) & !63,
        4 => (first + random.below(span)) & !(size.next_power_of_two().min(64) - 1),
        5 => first + random.below(span),
        6 => crossing(random, 1),
        _ => crossing(random, 2),
    }
}

/// An address for `size` bytes where an access may fault: `window` is where the pages are. An operand that is accessed
/// in `parts` does not leave the address space: which part faults first is the processor's choice.
pub fn harmful(random: &mut Random, window: u64, size: u64, parts: bool) -> u64 {
    let before = 1 + random.below(size.max(2) - 1);
    let unmapped_behind = READ_ONLY + PAGE;
    match random.below(9) {
        0 => window + random.below(DATA - 64),
        1 => window + DATA - before,
        2 => window + READ_ONLY + (random.below(PAGE - 1024) & !63),
        3 => window + READ_ONLY + random.below(PAGE - 1024),
        4 => window + READ_ONLY - before,
        5 => window + unmapped_behind - before,
        6 => window + unmapped_behind + random.below(PAGE),
        7 => {
            random.pick(&[
                1 << 47,
                0x8000_0000_0000_0000,
                0x7fff_ffff_ffff_0000,
                0xffff_0000_0000_0000,
                0xdead_beef_0000_1000,
            ]) + random.below(PAGE)
        }
        _ if parts => window + unmapped_behind,
        // The last bytes before what is not canonical.
        _ => (1 << 47) - before,
    }
}
