//! What processors of Intel's do in their own way where the manual leaves it to the processor. The engine does it as AMD's
//! do; on a host of Intel's such differences are not counted.

use crate::case::Outcome;
use gasang_cpu::host_vendor;
use gasang_x86::exception;
use iced_x86::{Instruction, Mnemonic, OpKind};
use std::sync::LazyLock;

/// Whether this host is one.
pub static IS_HOST: LazyLock<bool> = LazyLock::new(|| &host_vendor() == b"GenuineIntel");

/// The exception summary of the x87 status word: an unmasked exception is pending.
const EXCEPTION_SUMMARY: u8 = 0x80;

fn converts_half(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Vcvtph2ps | Mnemonic::Vcvtps2ph)
}

/// Vectors of 16 bytes and more are not checked for alignment, unless the instruction demands it; nor are 8 bytes of
/// numbers of half precision.
pub fn ignores_alignment(instruction: &Instruction) -> bool {
    *IS_HOST && (instruction.memory_size().size() >= 16 || converts_half(instruction))
}

/// Of two faults of one instruction, whether #AC comes before #SS and #GP is the processor's choice.
pub fn prefers_another_fault(host: &Outcome, engine: &Outcome) -> bool {
    const AC: u32 = exception::AC as u32;
    let fault = |vector| matches!(vector as u8, exception::SS | exception::GP | exception::PF);
    let one_is_alignment =
        host.vector == AC && fault(engine.vector) || engine.vector == AC && fault(host.vector);
    *IS_HOST && one_is_alignment && host.registers.rip == engine.registers.rip
}

/// An x87 store that finds an unmasked exception does not access memory, and so does not fault.
pub fn stores_nothing(instruction: &Instruction, host: &Outcome) -> bool {
    let stores = matches!(
        instruction.mnemonic(),
        Mnemonic::Fst
            | Mnemonic::Fstp
            | Mnemonic::Fist
            | Mnemonic::Fistp
            | Mnemonic::Fisttp
            | Mnemonic::Fbstp
    );
    *IS_HOST && stores && host.registers.extended[2] & EXCEPTION_SUMMARY != 0
}

/// VCVTPS2PH raises what its computation raises before its store can fault.
pub fn computes_before_it_stores(instruction: &Instruction, host: &Outcome) -> bool {
    *IS_HOST && instruction.mnemonic() == Mnemonic::Vcvtps2ph && host.vector == u32::from(exception::XM)
}

/// Bits of RCX, RSI and RDI that are compared: a repeated instruction that counts in ECX clears the upper halves even
/// without an iteration, or when the first one faults.
pub fn compared_of_strings(instruction: &Instruction) -> u64 {
    let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    let by_ecx = (0..instruction.op_count())
        .any(|index| matches!(instruction.op_kind(index), OpKind::MemorySegESI | OpKind::MemoryESEDI));
    if *IS_HOST && repeated && by_ecx { 0xffff_ffff } else { !0 }
}

/// A repeated comparison that faults has the flags of before it (SDM vol. 2, REP), not of its last iteration.
pub fn restores_flags(instruction: &Instruction) -> bool {
    use Mnemonic::{Cmpsb, Cmpsd, Cmpsq, Cmpsw, Scasb, Scasd, Scasq, Scasw};
    *IS_HOST
        && matches!(instruction.mnemonic(), Cmpsb | Cmpsw | Cmpsd | Cmpsq | Scasb | Scasw | Scasd | Scasq)
}

/// Parts of the extended state that change though the instruction faults: MMX stores have made the x87 registers MMX's,
/// VCVTPS2PH has noted what it computed, gathers have reduced their mask to its sign bits and cleared what their result
/// leaves clear.
pub fn changes_at_fault(instruction: &Instruction, part: &str) -> bool {
    let register =
        |index| instruction.op_kind(index) == OpKind::Register && instruction.op_register(index).is_mm();
    let stores_mmx = (0..instruction.op_count()).any(register) && instruction.op0_kind() == OpKind::Memory;
    let of_x87 = part == "x87 status word" || part.starts_with("st");
    let notes = instruction.mnemonic() == Mnemonic::Vcvtps2ph && part == "mxcsr";
    let gathers = instruction.is_vsib() && {
        let (mask, target) = (instruction.op2_register().number(), instruction.op0_register().number());
        let changed = [format!("xmm{mask}"), format!("upper ymm{mask}"), format!("upper ymm{target}")];
        changed.iter().any(|changed| changed == part)
    };
    *IS_HOST && (stores_mmx && of_x87 || notes || gathers)
}

/// Of a store of bytes under a mask, which of the faults is told.
pub fn tells_another_fault(instruction: &Instruction) -> bool {
    *IS_HOST && matches!(instruction.mnemonic(), Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu)
}

/// The first part of an 80-bit store is written though the second, in another page, faults.
pub fn stores_in_parts(instruction: &Instruction) -> bool {
    *IS_HOST && instruction.mnemonic() == Mnemonic::Fstp && instruction.memory_size().size() == 10
}
