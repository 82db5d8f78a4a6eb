//! Moves, and what extends or exchanges.

use crate::direct::operands::Place;
use crate::direct::{Execution, Flow};
use crate::operand::sign_extend;
use gasang_x86::gpr;

impl Execution<'_, '_> {
    /// MOV between registers and memory, 88 to 8B.
    pub(super) fn move_(&mut self, opcode: u8) -> Option<Flow> {
        let size = self.size_of(opcode);
        let (register, place) = self.modrm(0);
        if opcode & 2 == 0 {
            let value = self.register(register, size);
            self.write(place, size, value)?;
        } else {
            let value = self.read(place, size)?;
            self.set_register(register, size, value);
        }
        Some(Flow::Next)
    }

    /// MOV of an immediate to r/m, C6 and C7.
    pub(super) fn move_immediate(&mut self, opcode: u8) -> Option<Flow> {
        let size = self.size_of(opcode);
        let (number, place) = self.modrm(Self::immediate_size(size));
        let value = self.immediate(size);
        if number & 7 != 0 {
            return None;
        }
        self.write(place, size, value)?;
        Some(Flow::Next)
    }

    /// MOV of an immediate to a register, B0 to BF.
    pub(super) fn move_to_register(&mut self, opcode: u8) -> Option<Flow> {
        let register = self.opcode_register(opcode);
        let size = if opcode < 0xb8 { 1 } else { self.size };
        let value = if size == 8 { self.bytes.quad() } else { self.immediate(size) };
        self.set_register(register, size, value);
        Some(Flow::Next)
    }

    pub(super) fn load_address(&mut self) -> Option<Flow> {
        let (register, place) = self.modrm(0);
        let Place::Memory(address) = place else { return None };
        self.set_register(register, self.size, address.wrapping_sub(self.base));
        Some(Flow::Next)
    }

    /// MOVZX and MOVSX (`signed`) of an operand of `size` bytes, and MOVSXD.
    pub(super) fn extend(&mut self, size: usize, signed: bool) -> Option<Flow> {
        let (register, place) = self.modrm(0);
        let value = self.read(place, size)?;
        let extended = match (size, signed) {
            (1, false) => u64::from(value as u8),
            (2, false) => u64::from(value as u16),
            _ => sign_extend(value, size),
        };
        self.set_register(register, self.size, extended);
        Some(Flow::Next)
    }

    /// CBW, CWDE, CDQE.
    pub(super) fn extend_accumulator(&mut self) -> Option<Flow> {
        let value = sign_extend(self.core.state.gpr[gpr::RAX], self.size / 2);
        self.set_register(gpr::RAX, self.size, value);
        Some(Flow::Next)
    }

    /// CWD, CDQ, CQO.
    pub(super) fn fill_with_sign(&mut self) -> Option<Flow> {
        let value = sign_extend(self.core.state.gpr[gpr::RAX], self.size) as i64 >> 63;
        self.set_register(gpr::RDX, self.size, value as u64);
        Some(Flow::Next)
    }

    /// XCHG of two registers, 86 and 87; with memory it is locked.
    pub(super) fn exchange(&mut self, opcode: u8) -> Option<Flow> {
        let size = self.size_of(opcode);
        let (register, place) = self.modrm(0);
        let Place::Register(other) = place else { return None };
        self.exchange_registers(register, other, size);
        Some(Flow::Next)
    }

    /// XCHG with the accumulator, 90 to 97; without an exchange it is NOP.
    pub(super) fn exchange_accumulator(&mut self, opcode: u8) -> Option<Flow> {
        let register = self.opcode_register(opcode);
        if register != gpr::RAX {
            self.exchange_registers(register, gpr::RAX, self.size);
        }
        Some(Flow::Next)
    }

    fn exchange_registers(&mut self, one: usize, other: usize, size: usize) {
        let (first, second) = (self.register(one, size), self.register(other, size));
        self.set_register(one, size, second);
        self.set_register(other, size, first);
    }

    /// CMOVcc: the operand is read, and the register written, whatever the condition is.
    pub(super) fn move_if(&mut self, opcode: u8) -> Option<Flow> {
        let size = self.size;
        let (register, place) = self.modrm(0);
        let value = self.read(place, size)?;
        let value = if self.condition(opcode) { value } else { self.register(register, size) };
        self.set_register(register, size, value);
        Some(Flow::Next)
    }

    pub(super) fn set_if(&mut self, opcode: u8) -> Option<Flow> {
        let (_, place) = self.modrm(0);
        let value = u64::from(self.condition(opcode));
        self.write(place, 1, value)?;
        Some(Flow::Next)
    }

    /// BSWAP; of 16 bits it is not defined.
    pub(super) fn swap_bytes(&mut self, opcode: u8) -> Option<Flow> {
        let register = self.opcode_register(opcode);
        let value = self.core.state.gpr[register];
        let swapped = match self.size {
            8 => value.swap_bytes(),
            4 => u64::from((value as u32).swap_bytes()),
            _ => return None,
        };
        self.core.state.gpr[register] = swapped;
        Some(Flow::Next)
    }
}
