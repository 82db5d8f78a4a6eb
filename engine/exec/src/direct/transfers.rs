//! Near transfers of control and the stack. Their operands have 64 bits; with a prefix that says 16 they are declined.

use crate::direct::{Execution, Flow};
use gasang_cpu::VcpuState;
use gasang_x86::gpr;

impl Execution<'_, '_> {
    fn jump(&self, target: u64) -> Option<Flow> {
        VcpuState::canonical(target).then_some(Flow::Jumped(target))
    }

    /// JMP and Jcc by a displacement of this many bytes.
    fn displaced(&mut self, size: usize) -> Option<u64> {
        if self.size == 2 {
            return None;
        }
        let displacement = self.immediate(size);
        Some(self.next(0).wrapping_add(displacement))
    }

    pub(super) fn jump_near(&mut self, size: usize) -> Option<Flow> {
        let target = self.displaced(size)?;
        self.jump(target)
    }

    pub(super) fn jump_if(&mut self, opcode: u8, size: usize) -> Option<Flow> {
        let target = self.displaced(size)?;
        if self.condition(opcode) { self.jump(target) } else { Some(Flow::Next) }
    }

    pub(super) fn call_near(&mut self) -> Option<Flow> {
        let target = self.displaced(4)?;
        self.call(target)
    }

    fn call(&mut self, target: u64) -> Option<Flow> {
        let flow = self.jump(target)?;
        let next = self.next(0);
        self.push(next)?;
        Some(flow)
    }

    /// RET, which drops `released` bytes more.
    pub(super) fn return_near(&mut self, released: u64) -> Option<Flow> {
        if self.size == 2 {
            return None;
        }
        let pointer = self.core.state.gpr[gpr::RSP];
        let target = self.load(pointer, 8)?;
        let flow = self.jump(target)?;
        self.core.state.gpr[gpr::RSP] = pointer.wrapping_add(8 + released);
        Some(flow)
    }

    /// Opcode FF: INC, DEC, near CALL and JMP, PUSH.
    pub(super) fn group_5(&mut self) -> Option<Flow> {
        let (number, place) = self.modrm(0);
        let number = number & 7;
        if number < 2 {
            return self.step(number, place, self.size);
        }
        if self.size == 2 || !matches!(number, 2 | 4 | 6) {
            return None;
        }
        let value = self.read(place, 8)?;
        match number {
            2 => self.call(value),
            4 => self.jump(value),
            _ => self.push_value(value),
        }
    }

    /// Opcode FE.
    pub(super) fn group_4(&mut self) -> Option<Flow> {
        let (number, place) = self.modrm(0);
        if number & 7 < 2 { self.step(number & 7, place, 1) } else { None }
    }

    pub(super) fn push_value(&mut self, value: u64) -> Option<Flow> {
        if self.size == 2 {
            return None;
        }
        self.push(value)?;
        Some(Flow::Next)
    }

    pub(super) fn push_register(&mut self, opcode: u8) -> Option<Flow> {
        let value = self.core.state.gpr[self.opcode_register(opcode)];
        self.push_value(value)
    }

    pub(super) fn pop_register(&mut self, opcode: u8) -> Option<Flow> {
        if self.size == 2 {
            return None;
        }
        let pointer = self.core.state.gpr[gpr::RSP];
        let value = self.load(pointer, 8)?;
        self.core.state.gpr[gpr::RSP] = pointer.wrapping_add(8);
        self.core.state.gpr[self.opcode_register(opcode)] = value;
        Some(Flow::Next)
    }

    pub(super) fn leave(&mut self) -> Option<Flow> {
        if self.size == 2 {
            return None;
        }
        let pointer = self.core.state.gpr[gpr::RBP];
        let frame = self.load(pointer, 8)?;
        self.core.state.gpr[gpr::RSP] = pointer.wrapping_add(8);
        self.core.state.gpr[gpr::RBP] = frame;
        Some(Flow::Next)
    }

    /// NOP with an operand, which is not accessed, 0F 1F.
    pub(super) fn long_nop(&mut self) -> Option<Flow> {
        let (number, _) = self.modrm(0);
        (number & 7 == 0).then_some(Flow::Next)
    }

    /// ENDBR64, after its prefix: without shadow stacks and branch tracking a NOP.
    pub(super) fn end_branch(&mut self) -> Option<Flow> {
        let bytes = [self.bytes.byte(), self.bytes.byte(), self.bytes.byte()];
        (bytes == [0x0f, 0x1e, 0xfa]).then_some(Flow::Next)
    }
}
