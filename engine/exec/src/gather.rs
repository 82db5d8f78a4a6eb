//! Gathers and scatters (SDM vol. 2, VGATHERDPS and its kin): elements from addresses that a vector holds. An element
//! that is done is taken from the mask, so that after a fault the rest goes on.

use crate::decode::Decoded;
use crate::flow::Flow;
use crate::host::Unit;
use crate::operand::{MemoryOperand, element_address, sign_extend};
use crate::plan::Handler;
use crate::vector::{self, WIDTH, element, is_negative};
use gasang_cpu::{Access, Core, Exception, Trap};
use iced_x86::{EncodingKind, Instruction, OpKind, Register};

/// The handler of a gather or scatter.
pub(crate) fn handler(instruction: &Instruction) -> Option<Handler> {
    instruction.is_vsib().then_some(execute as Handler)
}

/// What an instruction of this module works on.
struct Operation {
    /// The register gathered to, or scattered from.
    data: usize,
    index: usize,
    index_size: usize,
    element_size: usize,
    count: usize,
    scatters: bool,
    /// The mask: a vector register (VEX) or an opmask.
    mask: usize,
    mask_is_vector: bool,
}

impl Operation {
    /// None if the operands make the instruction undefined.
    fn of(instruction: &Instruction) -> Option<Operation> {
        let scatters = instruction.op0_kind() == OpKind::Memory;
        let data = if scatters { instruction.op1_register() } else { instruction.op0_register() };
        let index = instruction.memory_index();
        let mask_is_vector = instruction.encoding() == EncodingKind::VEX;
        let mask = if mask_is_vector { instruction.op2_register() } else { instruction.op_mask() };
        let index_size = if instruction.is_vsib64() { 8 } else { 4 };
        let element_size = instruction.memory_size().size();
        let operands_differ = index.number() != data.number() || scatters;
        let mask_differs =
            !mask_is_vector || mask.number() != data.number() && mask.number() != index.number();
        let valid = operands_differ && mask_differs && mask != Register::None && data.is_vector_register();
        valid.then(|| Operation {
            data: data.number(),
            index: index.number(),
            index_size,
            element_size,
            count: (data.size() / element_size).min(index.size() / index_size),
            scatters,
            mask: mask.number(),
            mask_is_vector,
        })
    }

    fn chosen(&self, core: &Core<'_>) -> [bool; WIDTH] {
        let mut chosen = [false; WIDTH];
        let (vector, opmask) = if self.mask_is_vector {
            (vector::read(core, self.mask), 0)
        } else {
            ([0; WIDTH], vector::read_opmask(core, self.mask))
        };
        for (lane, chosen) in chosen.iter_mut().enumerate().take(self.count) {
            *chosen = if self.mask_is_vector {
                is_negative(&vector, lane, self.element_size)
            } else {
                opmask >> lane & 1 != 0
            };
        }
        chosen
    }

    /// Make `value` the data register, and take the first `done` elements from the mask.
    fn commit(&self, core: &mut Core<'_>, value: &[u8; WIDTH], done: usize) {
        if !self.scatters {
            vector::write(core, self.data, value);
        }
        if self.mask_is_vector {
            let mut mask = vector::read(core, self.mask);
            mask[..done * self.element_size].fill(0);
            vector::write(core, self.mask, &mask);
        } else {
            let chosen = self.chosen(core);
            let left = (done..self.count).filter(|&lane| chosen[lane]);
            let bits = left.fold(0, |bits, lane| bits | 1u64 << lane);
            vector::write_opmask(core, self.mask, bits);
        }
    }
}

fn execute(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let vex = decoded.instruction.encoding() == EncodingKind::VEX;
    if vex { Unit::Avx } else { Unit::Avx512 }.check(core)?;
    let operation =
        Operation::of(&decoded.instruction).ok_or(Trap::Exception(Exception::invalid_opcode()))?;
    let indices = vector::read(core, operation.index);
    let mut value = vector::read(core, operation.data);
    let chosen = operation.chosen(core);
    for lane in (0..operation.count).filter(|&lane| chosen[lane]) {
        let index = element(&indices, lane, operation.index_size);
        let index = sign_extend(index, operation.index_size);
        match transfer(core, &decoded.memory, &operation, index, lane, &mut value) {
            Ok(()) => {}
            // Executed again from the start, with the answers given so far.
            Err(Trap::Pending) => return Err(Trap::Pending),
            Err(trap) => {
                operation.commit(core, &value, lane);
                return Err(trap);
            }
        }
    }
    value[operation.count * operation.element_size..].fill(0);
    operation.commit(core, &value, operation.count);
    if operation.mask_is_vector {
        vector::write(core, operation.mask, &[0; WIDTH]);
    }
    Ok(Flow::Next)
}

/// Gather or scatter one element.
fn transfer(
    core: &mut Core<'_>,
    memory: &MemoryOperand,
    operation: &Operation,
    index: u64,
    lane: usize,
    value: &mut [u8; WIDTH],
) -> Result<(), Trap> {
    let offset = memory.offset_with_index(core.state, index);
    let size = operation.element_size;
    let access = if operation.scatters { Access::Write } else { Access::Read };
    let linear = element_address(core, memory.segment, offset, size, access)?;
    let privilege = core.privilege();
    if operation.scatters {
        return core.write(linear, size, element(value, lane, size), privilege);
    }
    let read = core.read(linear, size, privilege)?;
    value[lane * size..(lane + 1) * size].copy_from_slice(&read.to_le_bytes()[..size]);
    Ok(())
}
