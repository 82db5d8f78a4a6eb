//! From opcodes to what executes them (SDM vol. 2, appendix A).

use crate::direct::{Execution, Flow};
use gasang_x86::segment;

/// With more legacy prefixes, what is handled here could be longer than an instruction may be: REX, the opcode, ModRM, SIB,
/// a displacement and an immediate have 12 bytes at most.
const MOST_PREFIXES: u64 = 3;

impl Execution<'_, '_> {
    /// Execute the instruction, or change nothing and return None. With legacy prefixes other than these it is declined;
    /// REX counts only right before the opcode.
    #[inline]
    pub(super) fn execute(&mut self) -> Option<Flow> {
        while self.bytes.taken() <= MOST_PREFIXES {
            let byte = self.bytes.byte();
            match byte {
                0x40..=0x4f => {
                    self.set_rex(byte);
                    let opcode = self.bytes.byte();
                    return self.one_byte(opcode);
                }
                0x66 => self.size = 2,
                0x64 => self.base = self.core.state.segment[segment::FS].base,
                0x65 => self.base = self.core.state.segment[segment::GS].base,
                // Segments without a base, and hints.
                0x2e | 0x3e => {}
                0xf3 if self.bytes.taken() == 1 => return self.end_branch(),
                _ => return self.one_byte(byte),
            }
        }
        None
    }

    #[inline]
    fn one_byte(&mut self, opcode: u8) -> Option<Flow> {
        match opcode {
            0x0f => {
                let second = self.bytes.byte();
                self.two_bytes(second)
            }
            0x00..=0x3f if opcode & 7 < 6 => self.binary(opcode),
            0x50..=0x57 => self.push_register(opcode),
            0x58..=0x5f => self.pop_register(opcode),
            0x63 if self.size != 2 => self.extend(4, true),
            0x68 | 0x6a => {
                let value = self.immediate(if opcode == 0x68 { 4 } else { 1 });
                self.push_value(value)
            }
            0x69 | 0x6b => self.multiply_immediate(opcode),
            0x70..=0x7f => self.jump_if(opcode, 1),
            0x80 | 0x81 | 0x83 => self.binary_immediate(opcode),
            0x84 | 0x85 => self.test(opcode),
            0x86 | 0x87 => self.exchange(opcode),
            0x88..=0x8b => self.move_(opcode),
            0x8d => self.load_address(),
            0x90..=0x97 => self.exchange_accumulator(opcode),
            0x98 => self.extend_accumulator(),
            0x99 => self.fill_with_sign(),
            0xa8 | 0xa9 => self.test_accumulator(opcode),
            0xb0..=0xbf => self.move_to_register(opcode),
            0xc0 | 0xc1 | 0xd0..=0xd3 => self.shift(opcode),
            0xc2 => {
                let released = self.bytes.word();
                self.return_near(released)
            }
            0xc3 => self.return_near(0),
            0xc6 | 0xc7 => self.move_immediate(opcode),
            0xc9 => self.leave(),
            0xe8 => self.call_near(),
            0xe9 => self.jump_near(4),
            0xeb => self.jump_near(1),
            0xf6 | 0xf7 => self.unary(opcode),
            0xfe => self.group_4(),
            0xff => self.group_5(),
            _ => None,
        }
    }

    #[inline]
    fn two_bytes(&mut self, opcode: u8) -> Option<Flow> {
        match opcode {
            0x1f => self.long_nop(),
            0x40..=0x4f => self.move_if(opcode),
            0x80..=0x8f => self.jump_if(opcode, 4),
            0x90..=0x9f => self.set_if(opcode),
            0xa3 | 0xab | 0xb3 | 0xbb => self.bit_test(opcode >> 3),
            0xaf => self.multiply_register(),
            0xb6 | 0xb7 => self.extend(if opcode == 0xb6 { 1 } else { 2 }, false),
            0xba => self.bit_test_immediate(),
            0xbe | 0xbf => self.extend(if opcode == 0xbe { 1 } else { 2 }, true),
            0xc8..=0xcf => self.swap_bytes(opcode),
            _ => None,
        }
    }
}
