//! A guest instruction as the host will execute it: in 64-bit form, its memory operand reached through one register,
//! no mention of RSP.

use gasang_x86::gpr;
use iced_x86::{
    Code, Encoder, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register, RflagsBits,
};

const STATUS: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// What the code around the instruction has to know.
#[derive(Debug, Clone)]
pub(super) struct HostForm {
    /// The encoded instruction.
    pub bytes: Vec<u8>,
    /// Guest registers that the instruction uses, as a bit set.
    pub used: u16,
    /// Guest registers that it may write.
    pub written: u16,
    /// Host register that holds the address of the vCPU state.
    pub state: usize,
    /// Host register that holds the host address of the memory operand.
    pub memory: usize,
    /// Host register that stands in for the guest's RSP.
    pub stack: usize,
    /// It reads status flags, or leaves some as they were.
    pub reads_flags: bool,
    /// It writes status flags.
    pub writes_flags: bool,
}

/// The instruction in its host form; None if it has none, which makes it undefined.
pub(super) fn rewrite(instruction: &Instruction, factory: &mut InstructionInfoFactory) -> Option<HostForm> {
    let mut host = *instruction;
    host.set_code(code_in_64bit_mode(instruction.code()));
    detach_memory(&mut host);
    let (used, written) = registers(&host, factory);
    let only_low = uses_high_byte(&host);
    let free = |taken: u16| {
        // The order spares the moves where possible: arguments arrive in RDI and RSI.
        let order = [gpr::RSI, gpr::RDX, gpr::RBX, gpr::RBP, gpr::RCX, gpr::RAX, gpr::R11, gpr::R10, gpr::R9];
        order.into_iter().find(|&register| taken >> register & 1 == 0 && (register < 8 || !only_low))
    };
    // The state register is not RAX or RCX (scratch while flags are loaded) nor RSI (arrives with the operand).
    let state = [gpr::RDI, gpr::R11, gpr::R10, gpr::R9, gpr::R8]
        .into_iter()
        .find(|&register| used >> register & 1 == 0)?;
    let mut taken = used | 1 << state | 1 << gpr::RSP;
    let memory = free(taken)?;
    taken |= 1 << memory;
    let stack = free(taken)?;
    substitute(&mut host, memory, stack);
    let mut encoder = Encoder::new(64);
    encoder.encode(&host, 0).ok()?;
    let writes_flags = instruction.rflags_modified() & STATUS != 0 || rotates(instruction.mnemonic());
    Some(HostForm {
        bytes: encoder.take_buffer(),
        used,
        written,
        state,
        memory,
        stack,
        reads_flags: instruction.rflags_read() & STATUS != 0 || writes_flags,
        writes_flags,
    })
}

/// Rotates and shifts by an immediate that comes to no rotation: the manual says that they change no flag, silicon sets
/// OF all the same.
fn rotates(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Rcl
            | Mnemonic::Rcr
            | Mnemonic::Rol
            | Mnemonic::Ror
            | Mnemonic::Shl
            | Mnemonic::Sal
            | Mnemonic::Shr
            | Mnemonic::Sar
            | Mnemonic::Shld
            | Mnemonic::Shrd
    )
}

/// Forms that 64-bit mode lacks, or that hold an absolute address, have equivalents with a ModRM byte.
fn code_in_64bit_mode(code: Code) -> Code {
    match code {
        Code::Inc_r16 => Code::Inc_rm16,
        Code::Inc_r32 => Code::Inc_rm32,
        Code::Dec_r16 => Code::Dec_rm16,
        Code::Dec_r32 => Code::Dec_rm32,
        Code::Mov_AL_moffs8 => Code::Mov_r8_rm8,
        Code::Mov_AX_moffs16 => Code::Mov_r16_rm16,
        Code::Mov_EAX_moffs32 => Code::Mov_r32_rm32,
        Code::Mov_RAX_moffs64 => Code::Mov_r64_rm64,
        Code::Mov_moffs8_AL => Code::Mov_rm8_r8,
        Code::Mov_moffs16_AX => Code::Mov_rm16_r16,
        Code::Mov_moffs32_EAX => Code::Mov_rm32_r32,
        Code::Mov_moffs64_RAX => Code::Mov_rm64_r64,
        Code::Add_rm8_imm8_82 => Code::Add_rm8_imm8,
        Code::Or_rm8_imm8_82 => Code::Or_rm8_imm8,
        Code::Adc_rm8_imm8_82 => Code::Adc_rm8_imm8,
        Code::Sbb_rm8_imm8_82 => Code::Sbb_rm8_imm8,
        Code::And_rm8_imm8_82 => Code::And_rm8_imm8,
        Code::Sub_rm8_imm8_82 => Code::Sub_rm8_imm8,
        Code::Xor_rm8_imm8_82 => Code::Xor_rm8_imm8,
        Code::Cmp_rm8_imm8_82 => Code::Cmp_rm8_imm8,
        other => other,
    }
}

/// Whether a memory operand is written out in the instruction (rather than implied by it).
fn has_memory_operand(instruction: &Instruction) -> bool {
    instruction.op_kinds().any(|kind| kind == OpKind::Memory)
}

fn detach_memory(host: &mut Instruction) {
    host.set_segment_prefix(Register::None);
    host.set_has_xacquire_prefix(false);
    host.set_has_xrelease_prefix(false);
    if has_memory_operand(host) {
        host.set_memory_base(Register::None);
        host.set_memory_index(Register::None);
        host.set_memory_index_scale(1);
        host.set_memory_displacement64(0);
        host.set_memory_displ_size(0);
    }
}

/// The number of a general-purpose register of any size.
pub(crate) fn gpr_number(register: Register) -> Option<usize> {
    register.is_gpr().then(|| register.full_register().number())
}

fn registers(host: &Instruction, factory: &mut InstructionInfoFactory) -> (u16, u16) {
    let (mut used, mut written) = (0, 0);
    for register in factory.info(host).used_registers() {
        let Some(number) = gpr_number(register.register()) else { continue };
        used |= 1 << number;
        match register.access() {
            OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite => {
                written |= 1 << number;
            }
            OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess => {}
        }
    }
    (used, written)
}

/// AH, CH, DH and BH cannot be named beside a REX prefix.
fn uses_high_byte(host: &Instruction) -> bool {
    let high = [Register::AH, Register::CH, Register::DH, Register::BH];
    (0..host.op_count())
        .any(|index| host.op_kind(index) == OpKind::Register && high.contains(&host.op_register(index)))
}

fn substitute(host: &mut Instruction, memory: usize, stack: usize) {
    for index in 0..host.op_count() {
        if host.op_kind(index) == OpKind::Register {
            let first = match host.op_register(index) {
                Register::RSP => Register::RAX,
                Register::ESP => Register::EAX,
                Register::SP => Register::AX,
                Register::SPL => {
                    host.set_op_register(index, low_byte(stack));
                    continue;
                }
                _ => continue,
            };
            host.set_op_register(index, first + stack as u32);
        }
    }
    if has_memory_operand(host) {
        host.set_memory_base(Register::RAX + memory as u32);
    }
}

/// The low byte of a register by number. (AH, CH, DH and BH come between BL and SPL.)
fn low_byte(number: usize) -> Register {
    let first = if number < 4 { Register::AL } else { Register::SPL - 4 };
    first + number as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    fn form(bits: u32, bytes: &[u8]) -> (HostForm, Instruction) {
        let instruction = Decoder::new(bits, bytes, DecoderOptions::NONE).decode();
        let form = rewrite(&instruction, &mut InstructionInfoFactory::new()).unwrap();
        let host = Decoder::new(64, &form.bytes, DecoderOptions::NONE).decode();
        (form, host)
    }

    #[test]
    fn the_guest_stack_pointer_is_never_a_host_operand() {
        // add spl, [rsp+8]; lea-free forms of every size.
        for bytes in [&[0x40, 0x02, 0x64, 0x24, 0x08][..], &[0x48, 0x83, 0xec, 0x20], &[0x66, 0x01, 0xc4]] {
            let (form, host) = form(64, bytes);
            assert_ne!(form.used & 1 << gpr::RSP, 0);
            assert!((0..host.op_count()).all(|index| host.op_kind(index) != OpKind::Register
                || host.op_register(index).full_register() != Register::RSP));
            assert_ne!(host.memory_base(), Register::RSP);
        }
    }

    #[test]
    fn a_high_byte_register_keeps_a_form_without_rex() {
        // add ah, [r12]: cannot exist; add ah, [rbx+rsi*4+5] can.
        let (form, host) = form(64, &[0x02, 0x64, 0xb3, 0x05]);
        assert_eq!(host.op0_register(), Register::AH);
        assert!(form.memory < 8);
        assert_eq!(form.used, 1 << gpr::RAX);
    }

    #[test]
    fn short_increments_and_absolute_moves_get_their_long_forms() {
        assert_eq!(form(32, &[0x40]).1.code(), Code::Inc_rm32);
        assert_eq!(form(16, &[0x4b]).1.code(), Code::Dec_rm16);
        let (form, host) = form(32, &[0xa1, 0x78, 0x56, 0x34, 0x12]);
        assert_eq!(host.code(), Code::Mov_r32_rm32);
        assert_eq!(host.memory_base(), Register::RAX + form.memory as u32);
        assert_eq!(host.memory_displacement64(), 0);
    }
}
