//! Instructions that 64-bit mode lacks, and other old acquaintances (SDM vol. 2).

use crate::branch::read_far_pointer;
use crate::decode::Decoded;
use crate::flow::Flow;
use crate::operand::{self, mask, read_operand, sign_extend, write_gpr, write_operand, write_register};
use crate::plan::Handler;
use gasang_cpu::{Core, Exception, Trap};
use gasang_x86::{gpr, rflags, segment};
use iced_x86::{Instruction, Mnemonic};

/// The handler of an instruction of this module.
pub(crate) fn handler(instruction: &Instruction) -> Option<Handler> {
    match instruction.mnemonic() {
        Mnemonic::Daa => Some(decimal_adjust_after_addition),
        Mnemonic::Das => Some(decimal_adjust_after_subtraction),
        Mnemonic::Aaa => Some(ascii_adjust_after_addition),
        Mnemonic::Aas => Some(ascii_adjust_after_subtraction),
        Mnemonic::Aam => Some(ascii_adjust_after_multiplication),
        Mnemonic::Aad => Some(ascii_adjust_before_division),
        Mnemonic::Salc => Some(set_al_on_carry),
        Mnemonic::Bound => Some(bound),
        Mnemonic::Xlatb => Some(translate_byte),
        Mnemonic::Lds | Mnemonic::Les | Mnemonic::Lfs | Mnemonic::Lgs | Mnemonic::Lss => {
            Some(load_far_pointer)
        }
        Mnemonic::Arpl => Some(adjust_rpl),
        Mnemonic::Lea => Some(load_effective_address),
        Mnemonic::Cld => Some(clear_direction),
        Mnemonic::Std => Some(set_direction),
        _ => None,
    }
}

/// Write AL and SF, ZF, PF as a result would set them, with the given CF and AF; OF, undefined, is cleared.
fn commit_al(core: &mut Core<'_>, al: u8, carry: bool, adjust: bool) {
    write_gpr(core.state, gpr::RAX, u64::from(al), 1);
    let mut flags = core.state.rflags & !rflags::STATUS;
    for (set, flag) in [
        (carry, rflags::CF),
        (adjust, rflags::AF),
        (al == 0, rflags::ZF),
        (al & 0x80 != 0, rflags::SF),
        (al.count_ones() % 2 == 0, rflags::PF),
    ] {
        if set {
            flags |= flag;
        }
    }
    core.state.rflags = flags;
}

fn flag(core: &Core<'_>, flag: u64) -> bool {
    core.state.rflags & flag != 0
}

fn decimal_adjust_after_addition(core: &mut Core<'_>, _: &Decoded) -> Result<Flow, Trap> {
    let before = core.state.gpr[gpr::RAX] as u8;
    let mut al = before;
    let adjust = before & 0xf > 9 || flag(core, rflags::AF);
    if adjust {
        al = al.wrapping_add(6);
    }
    let carry = before > 0x99 || flag(core, rflags::CF);
    if carry {
        al = al.wrapping_add(0x60);
    }
    commit_al(core, al, carry, adjust);
    Ok(Flow::Next)
}

fn decimal_adjust_after_subtraction(core: &mut Core<'_>, _: &Decoded) -> Result<Flow, Trap> {
    let before = core.state.gpr[gpr::RAX] as u8;
    let mut al = before;
    let mut carry = false;
    let adjust = before & 0xf > 9 || flag(core, rflags::AF);
    if adjust {
        carry = flag(core, rflags::CF) || al < 6;
        al = al.wrapping_sub(6);
    }
    if before > 0x99 || flag(core, rflags::CF) {
        al = al.wrapping_sub(0x60);
        carry = true;
    }
    commit_al(core, al, carry, adjust);
    Ok(Flow::Next)
}

/// AAA (`step` 0x106) and AAS (minus that).
fn ascii_adjust(core: &mut Core<'_>, step: u16) {
    let mut ax = core.state.gpr[gpr::RAX] as u16;
    let adjust = ax & 0xf > 9 || flag(core, rflags::AF);
    if adjust {
        ax = ax.wrapping_add(step);
    }
    ax &= 0xff0f;
    commit_al(core, ax as u8, adjust, adjust);
    write_gpr(core.state, gpr::RAX, u64::from(ax), 2);
}

fn ascii_adjust_after_addition(core: &mut Core<'_>, _: &Decoded) -> Result<Flow, Trap> {
    ascii_adjust(core, 0x106);
    Ok(Flow::Next)
}

fn ascii_adjust_after_subtraction(core: &mut Core<'_>, _: &Decoded) -> Result<Flow, Trap> {
    ascii_adjust(core, 0x106u16.wrapping_neg());
    Ok(Flow::Next)
}

fn ascii_adjust_after_multiplication(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let base = decoded.instruction.immediate8();
    let al = core.state.gpr[gpr::RAX] as u8;
    let Some(high) = al.checked_div(base) else { return Err(Exception::divide().into()) };
    let low = al % base;
    commit_al(core, low, false, false);
    write_gpr(core.state, gpr::RAX, u64::from(high) << 8 | u64::from(low), 2);
    Ok(Flow::Next)
}

fn ascii_adjust_before_division(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let base = decoded.instruction.immediate8();
    let [al, ah, ..] = core.state.gpr[gpr::RAX].to_le_bytes();
    let al = al.wrapping_add(ah.wrapping_mul(base));
    commit_al(core, al, false, false);
    write_gpr(core.state, gpr::RAX, u64::from(al), 2);
    Ok(Flow::Next)
}

fn set_al_on_carry(core: &mut Core<'_>, _: &Decoded) -> Result<Flow, Trap> {
    let al = if flag(core, rflags::CF) { 0xff } else { 0 };
    write_gpr(core.state, gpr::RAX, al, 1);
    Ok(Flow::Next)
}

fn bound(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let register = decoded.instruction.op0_register();
    let size = register.size();
    let memory = &decoded.memory;
    let at = memory.offset(core.state);
    let lower = operand::read(core, memory.segment, at, size)?;
    let upper = operand::read(core, memory.segment, at.wrapping_add(size as u64) & memory.mask, size)?;
    let signed = |value| sign_extend(value, size) as i64;
    let index = signed(operand::read_register(core.state, register));
    if index < signed(lower) || index > signed(upper) {
        return Err(Exception::bound_range().into());
    }
    Ok(Flow::Next)
}

fn translate_byte(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let memory = &decoded.memory;
    let table = core.state.gpr[gpr::RBX];
    let at = table.wrapping_add(core.state.gpr[gpr::RAX] & mask(1)) & memory.mask;
    let value = operand::read(core, memory.segment, at, 1)?;
    write_gpr(core.state, gpr::RAX, value, 1);
    Ok(Flow::Next)
}

fn load_far_pointer(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let register = decoded.instruction.op0_register();
    let (offset, selector) = read_far_pointer(core, decoded, register.size())?;
    let number = match decoded.instruction.mnemonic() {
        Mnemonic::Lds => segment::DS,
        Mnemonic::Les => segment::ES,
        Mnemonic::Lfs => segment::FS,
        Mnemonic::Lgs => segment::GS,
        _ => segment::SS,
    };
    core.load_segment(number, selector)?;
    write_register(core.state, register, offset);
    Ok(Flow::Next)
}

fn adjust_rpl(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let source = operand::read_register(core.state, decoded.instruction.op1_register());
    let destination = read_operand(core, &decoded.instruction, &decoded.memory, 0, 2)?;
    let adjusted = core.arpl(destination as u16, source as u16)?;
    if let Some(value) = adjusted {
        write_operand(core, &decoded.instruction, &decoded.memory, 0, 2, u64::from(value))?;
    }
    operand::set_flag(core.state, rflags::ZF, adjusted.is_some());
    Ok(Flow::Next)
}

fn load_effective_address(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let address = decoded.memory.offset(core.state);
    write_register(core.state, decoded.instruction.op0_register(), address);
    Ok(Flow::Next)
}

fn clear_direction(core: &mut Core<'_>, _: &Decoded) -> Result<Flow, Trap> {
    core.state.rflags &= !rflags::DF;
    Ok(Flow::Next)
}

fn set_direction(core: &mut Core<'_>, _: &Decoded) -> Result<Flow, Trap> {
    core.state.rflags |= rflags::DF;
    Ok(Flow::Next)
}
