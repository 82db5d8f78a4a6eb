//! Instructions on segment registers and descriptor tables (SDM vol. 2; vol. 3, 3.4, 3.5).

use crate::decode::Decoded;
use crate::flow::Flow;
use crate::operand::{linear_address, segment_number, set_flag, write_operand, write_register};
use crate::plan::Handler;
use crate::system::read_word;
use gasang_cpu::{Access, Core, DescriptorTable, Exception, Shadow, Trap};
use gasang_x86::{rflags, segment};
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

/// The handler of an instruction of this module.
pub(crate) fn handler(instruction: &Instruction) -> Option<Handler> {
    let is_segment = |index| {
        instruction.op_kind(index) == OpKind::Register && instruction.op_register(index).is_segment_register()
    };
    Some(match instruction.mnemonic() {
        Mnemonic::Mov if is_segment(0) => move_to_segment,
        Mnemonic::Mov if is_segment(1) => move_from_segment,
        Mnemonic::Lgdt | Mnemonic::Lidt => load_table,
        Mnemonic::Sgdt | Mnemonic::Sidt => store_table,
        Mnemonic::Lldt => |core, decoded| {
            check_privileged_in_protected_mode(core)?;
            let selector = read_word(core, decoded, 0)?;
            core.lldt(selector).map(|()| Flow::Next)
        },
        Mnemonic::Ltr => |core, decoded| {
            check_privileged_in_protected_mode(core)?;
            let selector = read_word(core, decoded, 0)?;
            core.ltr(selector).map(|()| Flow::Next)
        },
        Mnemonic::Sldt => |core, decoded| {
            let selector = core.sldt()?;
            store_word(core, decoded, u64::from(selector))
        },
        Mnemonic::Str => |core, decoded| {
            let selector = core.str()?;
            store_word(core, decoded, u64::from(selector))
        },
        Mnemonic::Smsw => |core, decoded| {
            let value = core.smsw()?;
            store_word(core, decoded, value)
        },
        Mnemonic::Lmsw => |core, decoded| {
            core.check_privileged()?;
            let value = read_word(core, decoded, 0)?;
            core.lmsw(value).map(|()| Flow::Next)
        },
        Mnemonic::Lar => load_access_rights,
        Mnemonic::Lsl => load_limit,
        Mnemonic::Verr | Mnemonic::Verw => verify,
        _ => return None,
    })
}

fn move_to_segment(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let number = segment_number(decoded.instruction.op0_register()).unwrap_or(segment::CS);
    if number == segment::CS {
        return Err(Exception::invalid_opcode().into());
    }
    let selector = read_word(core, decoded, 1)?;
    core.load_segment(number, selector)?;
    if number == segment::SS {
        core.state.shadow = Shadow::MovSs;
    }
    Ok(Flow::Next)
}

/// To memory a segment register is 16 bits, whatever the operand size; a register receives it zero-extended.
fn move_from_segment(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let number = segment_number(decoded.instruction.op1_register()).unwrap_or(segment::DS);
    let selector = core.state.segment[number].selector;
    store_word(core, decoded, u64::from(selector))
}

/// Store to operand 0: 16 bits in memory, as much as the operand size in a register.
pub(crate) fn store_word(core: &mut Core<'_>, decoded: &Decoded, value: u64) -> Result<Flow, Trap> {
    write_operand(core, &decoded.instruction, &decoded.memory, 0, 2, value)?;
    Ok(Flow::Next)
}

/// LGDT, LIDT: a limit of two bytes, a base of three, four or eight.
fn load_table(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    core.check_privileged()?;
    let (length, base_mask) = match decoded.instruction.code() {
        Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => (6, 0xff_ffff),
        Code::Lgdt_m1632 | Code::Lidt_m1632 => (6, 0xffff_ffff),
        _ => (10, !0),
    };
    let memory = &decoded.memory;
    let offset = memory.offset(core.state);
    let linear = linear_address(core, memory.segment, offset, length, Access::Read)?;
    let mut bytes = [0; 16];
    let privilege = core.privilege();
    core.read_bytes(linear, &mut bytes[..length], privilege)?;
    let value = u128::from_le_bytes(bytes);
    let (base, limit) = ((value >> 16) as u64 & base_mask, value as u16);
    match decoded.instruction.mnemonic() {
        Mnemonic::Lgdt => core.lgdt(base, limit)?,
        _ => core.lidt(base, limit)?,
    }
    Ok(Flow::Next)
}

fn store_table(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let DescriptorTable { base, limit } = match decoded.instruction.mnemonic() {
        Mnemonic::Sgdt => core.sgdt()?,
        _ => core.sidt()?,
    };
    let length = if core.state.in_64bit_mode() { 10 } else { 6 };
    let bytes = (u128::from(base) << 16 | u128::from(limit)).to_le_bytes();
    let memory = &decoded.memory;
    let offset = memory.offset(core.state);
    let linear = linear_address(core, memory.segment, offset, length, Access::Write)?;
    let privilege = core.privilege();
    core.write_bytes(linear, &bytes[..length], privilege)?;
    Ok(Flow::Next)
}

fn load_access_rights(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    check_protected_mode(core)?;
    let selector = read_word(core, decoded, 1)?;
    let rights = core.lar(selector)?;
    commit_if_valid(core, decoded, rights.map(u64::from))
}

fn load_limit(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    check_protected_mode(core)?;
    let selector = read_word(core, decoded, 1)?;
    let limit = core.lsl(selector)?;
    commit_if_valid(core, decoded, limit.map(u64::from))
}

fn commit_if_valid(core: &mut Core<'_>, decoded: &Decoded, value: Option<u64>) -> Result<Flow, Trap> {
    if let Some(value) = value {
        write_register(core.state, decoded.instruction.op0_register(), value);
    }
    set_flag(core.state, rflags::ZF, value.is_some());
    Ok(Flow::Next)
}

fn verify(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    check_protected_mode(core)?;
    let selector = read_word(core, decoded, 0)?;
    let allowed = match decoded.instruction.mnemonic() {
        Mnemonic::Verr => core.verr(selector)?,
        _ => core.verw(selector)?,
    };
    set_flag(core.state, rflags::ZF, allowed);
    Ok(Flow::Next)
}

/// Instructions on descriptors are undefined outside protected mode, whatever their operand.
fn check_protected_mode(core: &Core<'_>) -> Result<(), Trap> {
    if core.state.real_or_virtual_8086() { Err(Exception::invalid_opcode().into()) } else { Ok(()) }
}

/// LLDT and LTR are privileged as well; that too before the operand is read.
fn check_privileged_in_protected_mode(core: &Core<'_>) -> Result<(), Trap> {
    check_protected_mode(core)?;
    core.check_privileged()
}
