//! Near transfers of control, and far ones as far as their operands (SDM vol. 1, 7.3.8; vol. 2).

use crate::decode::Decoded;
use crate::flow::Flow;
use crate::operand::{self, mask, read_operand, write_gpr};
use crate::plan::Handler;
use crate::stack::Stack;
use gasang_cpu::{Core, Exception, Trap, VcpuState};
use gasang_x86::{gpr, rflags, segment};
use iced_x86::{Code, ConditionCode, Instruction, Mnemonic, OpKind};

/// The handler of a control-transfer instruction.
pub(crate) fn handler(instruction: &Instruction) -> Option<Handler> {
    if instruction.is_jcc_short_or_near() {
        return Some(jump_if);
    }
    match instruction.mnemonic() {
        Mnemonic::Jmp if is_far(instruction) => Some(jump_far),
        Mnemonic::Call if is_far(instruction) => Some(call_far),
        Mnemonic::Jmp => Some(jump),
        Mnemonic::Call => Some(call),
        Mnemonic::Ret => Some(return_near),
        Mnemonic::Retf => Some(return_far),
        Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq => Some(interrupt_return),
        Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne => Some(loop_),
        Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz => Some(jump_if_counter_zero),
        _ => None,
    }
}

fn is_far(instruction: &Instruction) -> bool {
    matches!(
        instruction.code(),
        Code::Jmp_ptr1616
            | Code::Jmp_ptr1632
            | Code::Jmp_m1616
            | Code::Jmp_m1632
            | Code::Jmp_m1664
            | Code::Call_ptr1616
            | Code::Call_ptr1632
            | Code::Call_m1616
            | Code::Call_m1632
            | Code::Call_m1664
    )
}

/// Check that execution may go on at `target`, truncated to `size` bytes; the value for RIP.
fn checked_target(state: &VcpuState, target: u64, size: usize) -> Result<u64, Trap> {
    let target = target & mask(size);
    let allowed = if state.in_64bit_mode() {
        VcpuState::canonical(target)
    } else {
        target <= u64::from(state.segment[segment::CS].limit)
    };
    if allowed { Ok(target) } else { Err(Exception::general_protection(0).into()) }
}

fn go(core: &mut Core<'_>, target: u64, size: usize) -> Result<Flow, Trap> {
    core.state.rip = checked_target(core.state, target, size)?;
    Ok(Flow::Jumped)
}

/// The target of a near branch and the operand size in bytes.
fn near_target(core: &mut Core<'_>, decoded: &Decoded) -> Result<(u64, usize), Trap> {
    let instruction = &decoded.instruction;
    match instruction.op_kind(0) {
        OpKind::NearBranch16 => Ok((u64::from(instruction.near_branch16()), 2)),
        OpKind::NearBranch32 => Ok((u64::from(instruction.near_branch32()), 4)),
        OpKind::NearBranch64 => Ok((instruction.near_branch64(), 8)),
        kind => {
            let size = if kind == OpKind::Memory {
                instruction.memory_size().size()
            } else {
                instruction.op0_register().size()
            };
            Ok((read_operand(core, instruction, &decoded.memory, 0, size)?, size))
        }
    }
}

fn jump(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let (target, size) = near_target(core, decoded)?;
    go(core, target, size)
}

fn call(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let (target, size) = near_target(core, decoded)?;
    let mut stack = Stack::new(core.state);
    stack.probe_push(core, size)?;
    let target = checked_target(core.state, target, size)?;
    stack.push(core, decoded.next, size)?;
    stack.commit(core.state);
    core.state.rip = target;
    Ok(Flow::Jumped)
}

fn return_near(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let size = match decoded.instruction.code() {
        Code::Retnw | Code::Retnw_imm16 => 2,
        Code::Retnd | Code::Retnd_imm16 => 4,
        _ => 8,
    };
    let mut stack = Stack::new(core.state);
    let target = stack.pop(core, size)?;
    let target = checked_target(core.state, target, size)?;
    if decoded.instruction.op_count() != 0 {
        stack.release(u64::from(decoded.instruction.immediate16()));
    }
    stack.commit(core.state);
    core.state.rip = target;
    Ok(Flow::Jumped)
}

/// Whether a condition holds (SDM vol. 1, appendix B).
pub(crate) fn condition_holds(flags: u64, condition: ConditionCode) -> bool {
    let set = |flag: u64| flags & flag != 0;
    let less = set(rflags::SF) != set(rflags::OF);
    match condition {
        ConditionCode::None => true,
        ConditionCode::o => set(rflags::OF),
        ConditionCode::no => !set(rflags::OF),
        ConditionCode::b => set(rflags::CF),
        ConditionCode::ae => !set(rflags::CF),
        ConditionCode::e => set(rflags::ZF),
        ConditionCode::ne => !set(rflags::ZF),
        ConditionCode::be => set(rflags::CF) || set(rflags::ZF),
        ConditionCode::a => !set(rflags::CF) && !set(rflags::ZF),
        ConditionCode::s => set(rflags::SF),
        ConditionCode::ns => !set(rflags::SF),
        ConditionCode::p => set(rflags::PF),
        ConditionCode::np => !set(rflags::PF),
        ConditionCode::l => less,
        ConditionCode::ge => !less,
        ConditionCode::le => set(rflags::ZF) || less,
        ConditionCode::g => !set(rflags::ZF) && !less,
    }
}

fn jump_if(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    if !condition_holds(core.state.rflags, decoded.instruction.condition_code()) {
        return Ok(Flow::Next);
    }
    jump(core, decoded)
}

/// Size in bytes of the counter of LOOP and JCXZ: the address size.
fn counter_size(instruction: &Instruction) -> usize {
    match instruction.code() {
        Code::Jcxz_rel8_16
        | Code::Jcxz_rel8_32
        | Code::Loop_rel8_16_CX
        | Code::Loop_rel8_32_CX
        | Code::Loope_rel8_16_CX
        | Code::Loope_rel8_32_CX
        | Code::Loopne_rel8_16_CX
        | Code::Loopne_rel8_32_CX => 2,
        Code::Jrcxz_rel8_16
        | Code::Jrcxz_rel8_64
        | Code::Loop_rel8_16_RCX
        | Code::Loop_rel8_64_RCX
        | Code::Loope_rel8_16_RCX
        | Code::Loope_rel8_64_RCX
        | Code::Loopne_rel8_16_RCX
        | Code::Loopne_rel8_64_RCX => 8,
        _ => 4,
    }
}

fn jump_if_counter_zero(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    if core.state.gpr[gpr::RCX] & mask(counter_size(&decoded.instruction)) != 0 {
        return Ok(Flow::Next);
    }
    jump(core, decoded)
}

fn loop_(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let size = counter_size(&decoded.instruction);
    let counter = core.state.gpr[gpr::RCX].wrapping_sub(1) & mask(size);
    let zero = core.state.rflags & rflags::ZF != 0;
    let taken = counter != 0
        && match decoded.instruction.mnemonic() {
            Mnemonic::Loope => zero,
            Mnemonic::Loopne => !zero,
            _ => true,
        };
    // The counter changes only if the branch does not fault.
    let flow = if taken { jump(core, decoded)? } else { Flow::Next };
    write_gpr(core.state, gpr::RCX, counter, size);
    Ok(flow)
}

/// Selector, offset and operand size in bits of a far pointer operand.
fn far_pointer(core: &mut Core<'_>, decoded: &Decoded) -> Result<(u16, u64, u32), Trap> {
    let instruction = &decoded.instruction;
    match instruction.op_kind(0) {
        OpKind::FarBranch16 => {
            Ok((instruction.far_branch_selector(), u64::from(instruction.far_branch16()), 16))
        }
        OpKind::FarBranch32 => {
            Ok((instruction.far_branch_selector(), u64::from(instruction.far_branch32()), 32))
        }
        _ => {
            let size = match instruction.code() {
                Code::Jmp_m1616 | Code::Call_m1616 => 2,
                Code::Jmp_m1632 | Code::Call_m1632 => 4,
                _ => 8,
            };
            let (offset, selector) = read_far_pointer(core, decoded, size)?;
            Ok((selector, offset, size as u32 * 8))
        }
    }
}

/// Read an offset of `size` bytes and the selector behind it.
pub(crate) fn read_far_pointer(
    core: &mut Core<'_>,
    decoded: &Decoded,
    size: usize,
) -> Result<(u64, u16), Trap> {
    let memory = &decoded.memory;
    let at = memory.offset(core.state);
    let offset = operand::read(core, memory.segment, at, size)?;
    let selector = operand::read(core, memory.segment, at.wrapping_add(size as u64) & memory.mask, 2)?;
    Ok((offset, selector as u16))
}

fn jump_far(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let (selector, offset, bits) = far_pointer(core, decoded)?;
    core.far_jump(selector, offset, bits, decoded.next)?;
    Ok(Flow::Jumped)
}

fn call_far(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let (selector, offset, bits) = far_pointer(core, decoded)?;
    core.far_call(selector, offset, bits, decoded.next)?;
    Ok(Flow::Jumped)
}

fn return_far(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let bits = match decoded.instruction.code() {
        Code::Retfw | Code::Retfw_imm16 => 16,
        Code::Retfd | Code::Retfd_imm16 => 32,
        _ => 64,
    };
    let release =
        if decoded.instruction.op_count() != 0 { u64::from(decoded.instruction.immediate16()) } else { 0 };
    core.far_return(bits, release)?;
    Ok(Flow::Jumped)
}

fn interrupt_return(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let bits = match decoded.instruction.mnemonic() {
        Mnemonic::Iret => 16,
        Mnemonic::Iretd => 32,
        _ => 64,
    };
    core.iret(bits, decoded.next)?;
    Ok(Flow::Jumped)
}
