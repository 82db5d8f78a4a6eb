//! Stack instructions (SDM vol. 1, 6.2; vol. 2). RSP changes only after the memory was accessed.

use crate::decode::Decoded;
use crate::flow::Flow;
use crate::operand::{self, mask, read_operand, segment_number, write_gpr, write_operand};
use crate::plan::Handler;
use gasang_cpu::{Access, Core, Shadow, Trap, VcpuState};
use gasang_x86::{gpr, segment};
use iced_x86::{Instruction, Mnemonic, OpKind};

/// The handler of a stack instruction.
pub(crate) fn handler(instruction: &Instruction) -> Option<Handler> {
    match instruction.mnemonic() {
        Mnemonic::Push => Some(push),
        Mnemonic::Pop => match instruction.op_kind(0) {
            OpKind::Memory => Some(pop_memory),
            _ if segment_number(instruction.op0_register()).is_some() => Some(pop_segment),
            _ => Some(pop_register),
        },
        Mnemonic::Pusha | Mnemonic::Pushad => Some(push_all),
        Mnemonic::Popa | Mnemonic::Popad => Some(pop_all),
        Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq => Some(push_flags),
        Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => Some(pop_flags),
        Mnemonic::Enter => Some(enter),
        Mnemonic::Leave => Some(leave),
        _ => None,
    }
}

/// The stack pointer while an instruction moves it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stack {
    pointer: u64,
    /// Size of the stack pointer in bytes.
    size: usize,
}

impl Stack {
    pub(crate) fn new(state: &VcpuState) -> Stack {
        let size = state.stack_bits() as usize / 8;
        Stack { pointer: state.gpr[gpr::RSP] & mask(size), size }
    }

    /// Push `size` bytes.
    pub(crate) fn push(&mut self, core: &mut Core<'_>, value: u64, size: usize) -> Result<(), Trap> {
        let pointer = self.pointer.wrapping_sub(size as u64) & mask(self.size);
        operand::write(core, segment::SS, pointer, size, value & mask(size))?;
        self.pointer = pointer;
        Ok(())
    }

    /// Raise what a push of `size` bytes would.
    pub(crate) fn probe_push(&self, core: &mut Core<'_>, size: usize) -> Result<(), Trap> {
        let pointer = self.pointer.wrapping_sub(size as u64) & mask(self.size);
        let linear = operand::linear_address(core, segment::SS, pointer, size, Access::Write)?;
        let privilege = core.privilege();
        core.probe(linear, Access::Write, privilege)?;
        core.probe_write(linear, size, privilege)
    }

    /// Pop `size` bytes.
    pub(crate) fn pop(&mut self, core: &mut Core<'_>, size: usize) -> Result<u64, Trap> {
        let value = operand::read(core, segment::SS, self.pointer, size)?;
        self.release(size as u64);
        Ok(value)
    }

    /// Drop `bytes` from the top.
    pub(crate) fn release(&mut self, bytes: u64) {
        self.pointer = self.pointer.wrapping_add(bytes) & mask(self.size);
    }

    /// Make it the stack pointer.
    pub(crate) fn commit(&self, state: &mut VcpuState) {
        write_gpr(state, gpr::RSP, self.pointer, self.size);
    }
}

/// How many bytes each element of a push or pop has.
fn element_size(instruction: &Instruction, elements: u32) -> usize {
    (instruction.stack_pointer_increment().unsigned_abs() / elements) as usize
}

fn push(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let size = element_size(&decoded.instruction, 1);
    let value = read_operand(core, &decoded.instruction, &decoded.memory, 0, size)?;
    let mut stack = Stack::new(core.state);
    stack.push(core, value, size)?;
    stack.commit(core.state);
    Ok(Flow::Next)
}

fn pop_register(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let mut stack = Stack::new(core.state);
    let value = stack.pop(core, element_size(&decoded.instruction, 1))?;
    stack.commit(core.state);
    operand::write_register(core.state, decoded.instruction.op0_register(), value);
    Ok(Flow::Next)
}

/// The destination's address is computed with the stack pointer already incremented (SDM vol. 2, POP).
fn pop_memory(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let size = element_size(&decoded.instruction, 1);
    let before = core.state.gpr[gpr::RSP];
    let mut stack = Stack::new(core.state);
    let value = stack.pop(core, size)?;
    stack.commit(core.state);
    let written = write_operand(core, &decoded.instruction, &decoded.memory, 0, size, value);
    if written.is_err() {
        core.state.gpr[gpr::RSP] = before;
    }
    written.map(|()| Flow::Next)
}

fn pop_segment(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let number = segment_number(decoded.instruction.op0_register()).unwrap_or(segment::DS);
    let mut stack = Stack::new(core.state);
    let selector = stack.pop(core, element_size(&decoded.instruction, 1))?;
    core.load_segment(number, selector as u16)?;
    stack.commit(core.state);
    if number == segment::SS {
        core.state.shadow = Shadow::MovSs;
    }
    Ok(Flow::Next)
}

fn push_all(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let size = element_size(&decoded.instruction, 8);
    let mut stack = Stack::new(core.state);
    for number in gpr::RAX..=gpr::RDI {
        stack.push(core, core.state.gpr[number], size)?;
    }
    stack.commit(core.state);
    Ok(Flow::Next)
}

fn pop_all(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let size = element_size(&decoded.instruction, 8);
    let mut stack = Stack::new(core.state);
    let mut values = [0; 8];
    for value in values.iter_mut().rev() {
        *value = stack.pop(core, size)?;
    }
    for (number, value) in values.into_iter().enumerate().filter(|&(number, _)| number != gpr::RSP) {
        write_gpr(core.state, number, value, size);
    }
    stack.commit(core.state);
    Ok(Flow::Next)
}

fn push_flags(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let size = element_size(&decoded.instruction, 1);
    let value = core.pushf_value(size as u32 * 8)?;
    let mut stack = Stack::new(core.state);
    stack.push(core, value, size)?;
    stack.commit(core.state);
    Ok(Flow::Next)
}

fn pop_flags(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let size = element_size(&decoded.instruction, 1);
    // The privilege check comes before the stack is read.
    core.pushf_value(size as u32 * 8)?;
    let mut stack = Stack::new(core.state);
    let value = stack.pop(core, size)?;
    core.popf(value, size as u32 * 8)?;
    stack.commit(core.state);
    Ok(Flow::Next)
}

/// ENTER (SDM vol. 2). The frame pointer changes last, and the new top of the stack must be writable.
fn enter(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let size = enter_size(&decoded.instruction);
    let allocated = u64::from(decoded.instruction.immediate16());
    let level = decoded.instruction.immediate8_2nd() % 32;
    let mut stack = Stack::new(core.state);
    let frame = core.state.gpr[gpr::RBP];
    stack.push(core, frame, size)?;
    let new_frame = stack.pointer;
    let mut display = frame;
    for _ in 1..level {
        display = display.wrapping_sub(size as u64) & mask(stack.size);
        let value = operand::read(core, segment::SS, display, size)?;
        stack.push(core, value, size)?;
    }
    if level > 0 {
        stack.push(core, new_frame, size)?;
    }
    stack.pointer = stack.pointer.wrapping_sub(allocated) & mask(stack.size);
    probe_top(core, &stack, size)?;
    write_gpr(core.state, gpr::RBP, new_frame, size);
    stack.commit(core.state);
    Ok(Flow::Next)
}

fn enter_size(instruction: &Instruction) -> usize {
    match instruction.code() {
        iced_x86::Code::Enterw_imm16_imm8 => 2,
        iced_x86::Code::Enterd_imm16_imm8 => 4,
        _ => 8,
    }
}

fn probe_top(core: &mut Core<'_>, stack: &Stack, size: usize) -> Result<(), Trap> {
    let access = gasang_cpu::Access::Write;
    let linear = core.logical_to_linear(segment::SS, stack.pointer, size as u64, access)?;
    let privilege = core.privilege();
    core.probe(linear, access, privilege)
}

fn leave(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let size = leave_size(&decoded.instruction);
    let mut stack = Stack::new(core.state);
    stack.pointer = core.state.gpr[gpr::RBP] & mask(stack.size);
    let frame = stack.pop(core, size)?;
    stack.commit(core.state);
    write_gpr(core.state, gpr::RBP, frame, size);
    Ok(Flow::Next)
}

fn leave_size(instruction: &Instruction) -> usize {
    match instruction.code() {
        iced_x86::Code::Leavew => 2,
        iced_x86::Code::Leaved => 4,
        _ => 8,
    }
}
