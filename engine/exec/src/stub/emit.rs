//! The host code around one instruction: load what it uses, execute it, store what it wrote.
//!
//! On entry RDI holds the address of the vCPU state and RSI that of the memory operand; RSP points at the return
//! address throughout, which is what the fault handler relies on. RAX returns 0.

use super::rewrite::HostForm;
use gasang_cpu::VcpuState;
use gasang_x86::{gpr, rflags};
use std::mem::offset_of;

const FLAGS: i32 = offset_of!(VcpuState, rflags) as i32;

fn gpr_offset(number: usize) -> i32 {
    (offset_of!(VcpuState, gpr) + number * 8) as i32
}

/// Machine code being written.
struct Code(Vec<u8>);

impl Code {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// An instruction `opcode` with a register and [base + displacement]; `wide` is REX.W.
    fn with_memory(&mut self, wide: bool, opcode: u8, register: usize, base: usize, displacement: i32) {
        let rex = 0x40 | u8::from(wide) << 3 | (register >> 3 << 2) as u8 | (base >> 3) as u8;
        if rex != 0x40 {
            self.0.push(rex);
        }
        let short = i8::try_from(displacement);
        let mode = if short.is_ok() { 0x40 } else { 0x80 };
        self.bytes(&[opcode, mode | ((register & 7) << 3) as u8 | (base & 7) as u8]);
        match short {
            Ok(short) => self.0.push(short as u8),
            Err(_) => self.bytes(&displacement.to_le_bytes()),
        }
    }

    fn load(&mut self, register: usize, base: usize, displacement: i32) {
        self.with_memory(true, 0x8b, register, base, displacement);
    }

    fn store(&mut self, register: usize, base: usize, displacement: i32) {
        self.with_memory(true, 0x89, register, base, displacement);
    }

    fn move_register(&mut self, to: usize, from: usize) {
        if to != from {
            let rex = 0x48 | (from >> 3 << 2) as u8 | (to >> 3) as u8;
            self.bytes(&[rex, 0x89, 0xc0 | ((from & 7) << 3) as u8 | (to & 7) as u8]);
        }
    }

    /// Status flags from the state; spends RAX and RCX.
    fn load_flags(&mut self, state: usize) {
        self.with_memory(false, 0x8b, gpr::RAX, state, FLAGS);
        self.bytes(&[
            0x89, 0xc1, // mov ecx, eax
            0xc1, 0xe9, 0x0b, // shr ecx, 11
            0x83, 0xe1, 0x01, // and ecx, 1
            0x88, 0xc4, // mov ah, al
            0x80, 0xc1, 0x7f, // add cl, 0x7f: overflows if OF is to be set
            0x9e, // sahf
        ]);
    }

    /// Status flags to the state; spends RAX and RCX.
    fn store_flags(&mut self, state: usize) {
        self.bytes(&[
            0x9f, // lahf
            0x0f, 0x90, 0xc0, // seto al
            0x0f, 0xb6, 0xcc, // movzx ecx, ah
            0x0f, 0xb6, 0xc0, // movzx eax, al
            0xc1, 0xe0, 0x0b, // shl eax, 11
            0x09, 0xc8, // or eax, ecx
        ]);
        self.with_memory(false, 0x8b, gpr::RCX, state, FLAGS);
        self.bytes(&[0x81, 0xe1]); // and ecx, imm32
        self.bytes(&(!(rflags::STATUS as u32)).to_le_bytes());
        self.bytes(&[0x09, 0xc8]); // or eax, ecx
        self.with_memory(false, 0x89, gpr::RAX, state, FLAGS);
    }
}

/// The whole stub for `form`.
pub(super) fn emit(form: &HostForm) -> Vec<u8> {
    let mut code = Code(Vec::with_capacity(128));
    let host_register = |guest: usize| if guest == gpr::RSP { form.stack } else { guest };
    code.move_register(form.state, gpr::RDI);
    if form.reads_flags {
        code.load_flags(form.state);
    }
    code.move_register(form.memory, gpr::RSI);
    for guest in (0..16).filter(|guest| form.used >> guest & 1 != 0) {
        code.load(host_register(guest), form.state, gpr_offset(guest));
    }
    code.bytes(&form.bytes);
    for guest in (0..16).filter(|guest| form.written >> guest & 1 != 0) {
        code.store(host_register(guest), form.state, gpr_offset(guest));
    }
    if form.writes_flags {
        code.store_flags(form.state);
    }
    code.bytes(&[0x31, 0xc0, 0xc3]); // xor eax, eax; ret
    code.0
}
