//! A small emitter of host code: the forms that the translator's own sequences need, and the guest's instructions
//! through iced's encoder.

use iced_x86::{Encoder, Instruction};

/// Host registers by number.
pub mod reg {
    #![allow(missing_docs)]
    pub const RAX: u8 = 0;
    pub const RCX: u8 = 1;
    pub const RDX: u8 = 2;
    pub const RSP: u8 = 4;
    pub const RBP: u8 = 5;
    /// The down-counter of instructions.
    pub const R9: u8 = 9;
    /// Scratch: addresses.
    pub const R10: u8 = 10;
    /// Scratch: TLB index, host page.
    pub const R11: u8 = 11;
}

/// Which segment base an operand is relative to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment {
    /// None: a host address.
    Flat,
    /// The TLB context.
    Fs,
    /// The vCPU state.
    Gs,
}

/// A memory operand of host code.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    segment: Segment,
    base: Option<u8>,
    index: Option<(u8, u8)>,
    displacement: i32,
}

impl Memory {
    /// Whether it has an index register.
    pub fn is_indexed(self) -> bool {
        self.index.is_some()
    }

    /// Its displacement.
    pub fn displacement(self) -> i32 {
        self.displacement
    }
}

/// A value in the vCPU state.
pub fn state(offset: i32) -> Memory {
    Memory { segment: Segment::Gs, base: None, index: None, displacement: offset }
}

/// A word of the TLB context, at `base` + `offset`.
pub fn tlb(base: Option<u8>, offset: i32) -> Memory {
    Memory { segment: Segment::Fs, base, index: None, displacement: offset }
}

/// `[base + index * scale + displacement]`.
pub fn address(base: Option<u8>, index: Option<(u8, u8)>, displacement: i32) -> Memory {
    Memory { segment: Segment::Flat, base, index, displacement }
}

/// The condition codes of Jcc and SETcc that the translator's own sequences use.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub enum Condition {
    /// Above or equal, unsigned.
    Ae = 3,
    /// Equal, zero.
    E = 4,
    /// Not equal, not zero.
    Ne = 5,
    /// Above, unsigned.
    A = 7,
    /// Sign.
    S = 8,
}

/// Host code under construction, to be placed at a known address.
pub struct Assembler {
    code: Vec<u8>,
    base: u64,
    encoder: Encoder,
}

impl Assembler {
    /// Code that will lie at `base`.
    pub fn new(base: u64) -> Assembler {
        Assembler { code: Vec::with_capacity(1024), base, encoder: Encoder::new(64) }
    }

    /// Start again at another address.
    pub fn restart(&mut self, base: u64) {
        self.code.clear();
        self.base = base;
    }

    /// The code so far.
    pub fn code(&self) -> &[u8] {
        &self.code
    }

    /// Offset of the next byte.
    pub fn here(&self) -> u32 {
        self.code.len() as u32
    }

    /// One of the guest's instructions, rewritten. False if it has no such form.
    pub fn guest(&mut self, instruction: &Instruction) -> bool {
        let length = self.code.len();
        let rip = self.base + length as u64;
        self.encoder.set_buffer(std::mem::take(&mut self.code));
        let done = self.encoder.encode(instruction, rip).is_ok();
        self.code = self.encoder.take_buffer();
        if !done {
            self.code.truncate(length);
        }
        done
    }

    fn byte(&mut self, byte: u8) {
        self.code.push(byte);
    }

    fn dword(&mut self, value: i32) {
        self.code.extend_from_slice(&value.to_le_bytes());
    }

    /// [segment] [REX] opcode ModRM [SIB] [displacement] for a memory operand.
    fn memory_form(&mut self, wide: bool, opcode: &[u8], register: u8, memory: Memory) {
        match memory.segment {
            Segment::Flat => {}
            Segment::Fs => self.byte(0x64),
            Segment::Gs => self.byte(0x65),
        }
        let index = memory.index.map_or(0, |(index, _)| index);
        let base = memory.base.unwrap_or(0);
        let rex =
            0x40 | u8::from(wide) << 3 | (register >> 3 & 1) << 2 | (index >> 3 & 1) << 1 | base >> 3 & 1;
        if rex != 0x40 {
            self.byte(rex);
        }
        self.code.extend_from_slice(opcode);
        self.modrm(register & 7, memory);
    }

    fn modrm(&mut self, register: u8, memory: Memory) {
        let displacement = memory.displacement;
        let Some(base) = memory.base else {
            self.byte(register << 3 | 4);
            let (index, scale) = memory.index.map_or((4, 1u8), |(index, scale)| (index & 7, scale));
            self.byte((scale.trailing_zeros() as u8) << 6 | index << 3 | 5);
            self.dword(displacement);
            return;
        };
        let mode = match displacement {
            0 if base & 7 != 5 => 0,
            -128..=127 => 1,
            _ => 2,
        };
        match memory.index {
            Some((index, scale)) => {
                self.byte(mode << 6 | register << 3 | 4);
                self.byte((scale.trailing_zeros() as u8) << 6 | (index & 7) << 3 | base & 7);
            }
            None if base & 7 == 4 => {
                self.byte(mode << 6 | register << 3 | 4);
                self.byte(0x24);
            }
            None => self.byte(mode << 6 | register << 3 | base & 7),
        }
        match mode {
            1 => self.byte(displacement as u8),
            2 => self.dword(displacement),
            _ => {}
        }
    }

    fn register_form(&mut self, wide: bool, opcode: u8, register: u8, rm: u8) {
        let rex = 0x40 | u8::from(wide) << 3 | (register >> 3 & 1) << 2 | rm >> 3 & 1;
        if rex != 0x40 {
            self.byte(rex);
        }
        self.byte(opcode);
        self.byte(0xc0 | (register & 7) << 3 | rm & 7);
    }

    /// `mov register, memory` (64 bits).
    pub fn load(&mut self, register: u8, memory: Memory) {
        self.memory_form(true, &[0x8b], register, memory);
    }

    /// `mov memory, register` (64 bits).
    pub fn store(&mut self, memory: Memory, register: u8) {
        self.memory_form(true, &[0x89], register, memory);
    }

    /// `mov register, memory` (32 bits, zero-extended).
    pub fn load32(&mut self, register: u8, memory: Memory) {
        self.memory_form(false, &[0x8b], register, memory);
    }

    /// `mov memory, register` (32 bits).
    pub fn store32(&mut self, memory: Memory, register: u8) {
        self.memory_form(false, &[0x89], register, memory);
    }

    /// `bts register, bit` (64 bits).
    pub fn set_bit(&mut self, register: u8, bit: u8) {
        self.byte(0x48 | register >> 3);
        self.code.extend_from_slice(&[0x0f, 0xba, 0xe8 | register & 7, bit]);
    }

    /// `mov word memory, register`.
    pub fn store16(&mut self, memory: Memory, register: u8) {
        self.byte(0x66);
        self.memory_form(false, &[0x89], register, memory);
    }

    /// `movzx register, word memory`.
    pub fn load16(&mut self, register: u8, memory: Memory) {
        self.memory_form(false, &[0x0f, 0xb7], register, memory);
    }

    /// `mov dword memory, value`.
    pub fn store_immediate32(&mut self, memory: Memory, value: u32) {
        self.memory_form(false, &[0xc7], 0, memory);
        self.dword(value as i32);
    }

    /// `mov qword memory, value` (sign-extended).
    pub fn store_immediate(&mut self, memory: Memory, value: i32) {
        self.memory_form(true, &[0xc7], 0, memory);
        self.dword(value);
    }

    /// `mov to, from` (64 bits).
    pub fn copy(&mut self, to: u8, from: u8) {
        self.register_form(true, 0x89, from, to);
    }

    /// `mov to, from` (32 bits, zero-extended).
    pub fn copy32(&mut self, to: u8, from: u8) {
        self.register_form(false, 0x89, from, to);
    }

    /// `mov register, value`, in the shortest form.
    pub fn immediate(&mut self, register: u8, value: u64) {
        if let Ok(value) = u32::try_from(value) {
            if register >= 8 {
                self.byte(0x41);
            }
            self.byte(0xb8 | register & 7);
            self.dword(value as i32);
        } else if let Ok(value) = i32::try_from(value as i64) {
            self.byte(0x48 | register >> 3);
            self.byte(0xc7);
            self.byte(0xc0 | register & 7);
            self.dword(value);
        } else {
            self.immediate64(register, value);
        }
    }

    /// `mov register, value` in the ten-byte form.
    pub fn immediate64(&mut self, register: u8, value: u64) {
        self.byte(0x48 | register >> 3);
        self.byte(0xb8 | register & 7);
        self.code.extend_from_slice(&value.to_le_bytes());
    }

    /// `lea register, memory` (64 bits).
    pub fn lea(&mut self, register: u8, memory: Memory) {
        self.memory_form(true, &[0x8d], register, memory);
    }

    /// `lea register, memory` (32 bits, zero-extended).
    pub fn lea32(&mut self, register: u8, memory: Memory) {
        self.memory_form(false, &[0x8d], register, memory);
    }

    /// `rorx to, from, count` (32 bits): a rotation that leaves the flags alone.
    pub fn rotate_right32(&mut self, to: u8, from: u8, count: u8) {
        let inverted_r = if to >= 8 { 0 } else { 0x80 };
        let inverted_b = if from >= 8 { 0 } else { 0x20 };
        self.code.extend_from_slice(&[0xc4, inverted_r | 0x40 | inverted_b | 3, 0x7b, 0xf0]);
        self.byte(0xc0 | (to & 7) << 3 | from & 7);
        self.byte(count);
    }

    /// `imul to, from, value` (32 bits).
    pub fn multiply32(&mut self, to: u8, from: u8, value: i32) {
        let rex = (to >> 3) << 2 | from >> 3;
        if rex != 0 {
            self.byte(0x40 | rex);
        }
        self.byte(0x69);
        self.byte(0xc0 | (to & 7) << 3 | from & 7);
        self.dword(value);
    }

    /// `and register, value` (32 bits).
    pub fn and32(&mut self, register: u8, value: i32) {
        if register >= 8 {
            self.byte(0x41);
        }
        self.byte(0x81);
        self.byte(0xe0 | register & 7);
        self.dword(value);
    }

    /// `xor register, memory` (64 bits).
    pub fn xor(&mut self, register: u8, memory: Memory) {
        self.memory_form(true, &[0x33], register, memory);
    }

    /// `add register, memory` (64 bits).
    pub fn add(&mut self, register: u8, memory: Memory) {
        self.memory_form(true, &[0x03], register, memory);
    }

    /// `sub register, memory` (64 bits).
    pub fn subtract_memory(&mut self, register: u8, memory: Memory) {
        self.memory_form(true, &[0x2b], register, memory);
    }

    /// `sub dword memory, 1`.
    pub fn decrement32(&mut self, memory: Memory) {
        self.memory_form(false, &[0x83], 5, memory);
        self.byte(1);
    }

    /// `cmp register, memory` (64 bits).
    pub fn compare(&mut self, register: u8, memory: Memory) {
        self.memory_form(true, &[0x3b], register, memory);
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.code.extend_from_slice(bytes);
    }

    /// `cmp register, with` (64 bits).
    pub fn compare_registers(&mut self, register: u8, with: u8) {
        self.register_form(true, 0x39, with, register);
    }

    /// `cmp register, value` (64 bits).
    pub fn compare_immediate(&mut self, register: u8, value: i32) {
        self.byte(0x48 | register >> 3);
        if (-128..128).contains(&value) {
            self.code.extend_from_slice(&[0x83, 0xf8 | register & 7, value as u8]);
        } else {
            self.code.extend_from_slice(&[0x81, 0xf8 | register & 7]);
            self.dword(value);
        }
    }

    /// `sub register, value` (64 bits).
    pub fn subtract(&mut self, register: u8, value: i32) {
        self.byte(0x48 | register >> 3);
        if (-128..128).contains(&value) {
            self.code.extend_from_slice(&[0x83, 0xe8 | register & 7, value as u8]);
        } else {
            self.code.extend_from_slice(&[0x81, 0xe8 | register & 7]);
            self.dword(value);
        }
    }

    /// `test byte memory, value`.
    pub fn test8(&mut self, memory: Memory, value: u8) {
        self.memory_form(false, &[0xf6], 0, memory);
        self.byte(value);
    }

    /// `and byte memory, value`.
    pub fn and8(&mut self, memory: Memory, value: u8) {
        self.memory_form(false, &[0x80], 4, memory);
        self.byte(value);
    }

    /// `or byte memory, value`.
    pub fn or8(&mut self, memory: Memory, value: u8) {
        self.memory_form(false, &[0x80], 1, memory);
        self.byte(value);
    }

    /// `sar register, count` (64 or 32 bits).
    pub fn shift_right_arithmetic(&mut self, register: u8, count: u8, wide: bool) {
        self.byte(0x40 | u8::from(wide) << 3 | register >> 3);
        self.code.extend_from_slice(&[0xc1, 0xf8 | register & 7, count]);
    }

    /// `movsxd register, register`, unless the value is `wide` already.
    pub fn sign_extend32(&mut self, register: u8, wide: bool) {
        if !wide {
            self.register_form(true, 0x63, register, register);
        }
    }

    /// `shl register, count` (32 bits).
    pub fn shift_left32(&mut self, register: u8, count: u8) {
        self.byte(0x40 | register >> 3);
        self.code.extend_from_slice(&[0xc1, 0xe0 | register & 7, count]);
    }

    /// `shr register, count` (32 bits).
    pub fn shift_right32(&mut self, register: u8, count: u8) {
        self.byte(0x40 | register >> 3);
        self.code.extend_from_slice(&[0xc1, 0xe8 | register & 7, count]);
    }

    /// `xor to, from` (64 bits).
    pub fn xor_registers(&mut self, to: u8, from: u8) {
        self.register_form(true, 0x31, from, to);
    }

    /// `test one, other` (64 bits).
    pub fn test_registers(&mut self, one: u8, other: u8) {
        self.register_form(true, 0x85, other, one);
    }

    /// `or register, value` (32 bits, a small value).
    pub fn or8_register(&mut self, register: u8, value: u8) {
        self.byte(0x40 | register >> 3);
        self.code.extend_from_slice(&[0x83, 0xc8 | register & 7, value]);
    }

    /// `or to, from` (64 bits).
    pub fn or(&mut self, to: u8, from: u8) {
        self.register_form(true, 0x09, from, to);
    }

    /// `and register, value` (64 bits, sign-extended).
    pub fn and(&mut self, register: u8, value: i32) {
        self.byte(0x48 | register >> 3);
        self.code.extend_from_slice(&[0x81, 0xe0 | register & 7]);
        self.dword(value);
    }

    /// `test register, value` (64 bits, sign-extended).
    pub fn test(&mut self, register: u8, value: i32) {
        self.byte(0x48 | register >> 3);
        self.code.extend_from_slice(&[0xf7, 0xc0 | register & 7]);
        self.dword(value);
    }

    /// `wrfsbase register`.
    pub fn write_fs_base(&mut self, register: u8) {
        self.code.extend_from_slice(&[0xf3, 0x48 | register >> 3, 0x0f, 0xae, 0xd0 | register & 7]);
    }

    /// LAHF.
    pub fn lahf(&mut self) {
        self.byte(0x9f);
    }

    /// SAHF.
    pub fn sahf(&mut self) {
        self.byte(0x9e);
    }

    /// `seto al`.
    pub fn set_overflow_al(&mut self) {
        self.code.extend_from_slice(&[0x0f, 0x90, 0xc0]);
    }

    /// `add al, 0x7f`: OF again from an AL of 0 or 1.
    pub fn overflow_from_al(&mut self) {
        self.code.extend_from_slice(&[0x04, 0x7f]);
    }

    /// `jmp memory`.
    pub fn jump_memory(&mut self, memory: Memory) {
        self.memory_form(false, &[0xff], 4, memory);
    }

    /// `jmp` to any host address, which follows the instruction.
    pub fn jump_far(&mut self, target: u64) {
        self.code.extend_from_slice(&[0xff, 0x25, 0, 0, 0, 0]);
        self.code.extend_from_slice(&target.to_le_bytes());
    }

    /// `lea register, code` of what comes where the returned displacement is closed.
    pub fn lea_forward(&mut self, register: u8) -> u32 {
        self.lea_code(register, self.base);
        self.here() - 4
    }

    /// `lea register, code` of a host address within reach.
    pub fn lea_code(&mut self, register: u8, target: u64) {
        self.code.extend_from_slice(&[0x48 | (register >> 3) << 2, 0x8d, 0x05 | (register & 7) << 3]);
        self.relative(target);
    }

    /// `jmp` to a host address; returns the offset of its displacement, for patching.
    pub fn jump(&mut self, target: u64) -> u32 {
        self.byte(0xe9);
        self.relative(target)
    }

    /// `jcc` to a host address; returns the offset of its displacement.
    pub fn jump_if(&mut self, condition: u8, target: u64) -> u32 {
        self.code.extend_from_slice(&[0x0f, 0x80 | condition]);
        self.relative(target)
    }

    fn relative(&mut self, target: u64) -> u32 {
        let at = self.here();
        let next = self.base + u64::from(at) + 4;
        self.dword(target.wrapping_sub(next) as i32);
        at
    }

    /// `jrcxz` (or `jecxz`) over a gap to be closed by `close_short`; returns the offset of the displacement byte.
    pub fn jump_if_rcx_zero(&mut self, ecx: bool) -> u32 {
        if ecx {
            self.byte(0x67);
        }
        self.byte(0xe3);
        self.byte(0);
        self.here() - 1
    }

    /// Make the short jump whose displacement is at `at` land here.
    pub fn close_short(&mut self, at: u32) {
        let distance = self.here() - at - 1;
        assert!(distance < 128, "a short jump over {distance} bytes");
        self.code[at as usize] = distance as u8;
    }

    /// A forward jump to be closed by `close`; returns the offset of its displacement.
    pub fn jump_if_forward(&mut self, condition: Condition) -> u32 {
        self.code.extend_from_slice(&[0x0f, 0x80 | condition as u8]);
        self.dword(0);
        self.here() - 4
    }

    /// Make the forward jump whose displacement is at `at` land here.
    pub fn close(&mut self, at: u32) {
        let distance = (self.here() - at - 4) as i32;
        self.code[at as usize..at as usize + 4].copy_from_slice(&distance.to_le_bytes());
    }

    /// Host address of an offset.
    pub fn address_of(&self, offset: u32) -> u64 {
        self.base + u64::from(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

    fn text(build: impl FnOnce(&mut Assembler)) -> String {
        let mut assembler = Assembler::new(0x1000);
        build(&mut assembler);
        let mut decoder = Decoder::with_ip(64, assembler.code(), 0x1000, DecoderOptions::NONE);
        let mut formatter = IntelFormatter::new();
        let mut lines = Vec::new();
        for instruction in &mut decoder {
            let mut line = String::new();
            formatter.format(&instruction, &mut line);
            lines.push(line);
        }
        lines.join("; ")
    }

    #[test]
    fn emitted_forms_disassemble_as_meant() {
        use reg::*;
        assert_eq!(text(|a| a.load(R11, tlb(Some(R11), 24))), "mov r11,fs:[r11+18h]");
        assert_eq!(text(|a| a.store(state(0x80), RAX)), "mov gs:[80h],rax");
        assert_eq!(text(|a| a.lea(R10, address(Some(RSP), None, -8))), "lea r10,[rsp-8]");
        assert_eq!(text(|a| a.lea(R10, address(Some(13), Some((12, 8)), 0))), "lea r10,[r13+r12*8]");
        assert_eq!(text(|a| a.lea32(R10, address(None, Some((1, 4)), 16))), "lea r10d,[rcx*4+10h]");
        assert_eq!(text(|a| a.rotate_right32(R11, R10, 7)), "rorx r11d,r10d,7");
        assert_eq!(text(|a| a.multiply32(R11, R10, 0x1234)), "imul r11d,r10d,1234h");
        assert!(text(|a| a.jump_far(0x1234)).starts_with("jmp qword ptr [1006h]"));
        assert_eq!(text(|a| a.lea_code(R11, 0x1100)), "lea r11,[1100h]");
        assert_eq!(text(|a| a.and32(R11, 0x7fe0)), "and r11d,7FE0h");
        assert_eq!(text(|a| a.xor(R10, tlb(Some(R11), 8))), "xor r10,fs:[r11+8]");
        assert_eq!(text(|a| a.compare_immediate(R10, 4088)), "cmp r10,0FF8h");
        assert_eq!(text(|a| a.subtract(R9, 5)), "sub r9,5");
        assert_eq!(text(|a| a.immediate(R10, 0xffff_ffff_8100_0000)), "mov r10,0FFFFFFFF81000000h");
        assert_eq!(text(|a| a.immediate(3, 7)), "mov ebx,7");
        assert_eq!(text(|a| a.store_immediate32(state(8), 5)), "mov dword ptr gs:[8],5");
        assert_eq!(text(|a| a.load16(RAX, state(8))), "movzx eax,word ptr gs:[8]");
        assert_eq!(text(|a| a.store16(state(8), RAX)), "mov gs:[8],ax");
        assert_eq!(text(|a| a.test8(state(8), 2)), "test byte ptr gs:[8],2");
        assert_eq!(text(|a| a.shift_right_arithmetic(R11, 6, true)), "sar r11,6");
        assert_eq!(text(|a| a.sign_extend32(R11, false)), "movsxd r11,r11d");
        assert_eq!(text(|a| a.shift_left32(R10, 8)), "shl r10d,8");
        assert_eq!(text(|a| a.or(R10, R11)), "or r10,r11");
        assert_eq!(text(|a| a.and(R10, -2)), "and r10,0FFFFFFFFFFFFFFFEh");
        assert_eq!(text(|a| a.test(R11, 0x200)), "test r11,200h");
        assert_eq!(text(|a| a.write_fs_base(R10)), "wrfsbase r10");
        assert_eq!(
            text(|a| a.jump_memory(address(Some(R11), Some((R10, 8)), 0))),
            "jmp qword ptr [r11+r10*8]"
        );
    }
}
