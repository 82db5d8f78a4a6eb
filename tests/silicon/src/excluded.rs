//! What is not compared with the host processor, each with its reason.

use crate::intel;
use gasang_x86::{exception, rflags};
use iced_x86::{Code, CpuidFeature, Instruction, Mnemonic, OpKind, RflagsBits};
use std::arch::x86_64::__cpuid_count;

/// Why an instruction is not executed; None if it is.
pub fn reason(code: Code) -> Option<&'static str> {
    use Mnemonic as M;
    let reason = match code.mnemonic() {
        M::Cpuid | M::Xgetbv => "tells of the virtual processor",
        M::Rdtsc | M::Rdtscp | M::Rdpmc | M::Rdpid => "tells the time or the place",
        M::Int1 => "hypervisors, of which the host may be a guest, save another RIP",
        M::Rdrand | M::Rdseed => "random by design",
        M::Syscall | M::Sysenter | M::Sysexit | M::Sysexitq | M::Sysret | M::Sysretq | M::Int | M::Into => {
            "enters or leaves the host's kernel"
        }
        M::Iret | M::Iretd | M::Iretq | M::Retf => "loads selectors of the host's descriptor tables",
        M::Lar | M::Lsl | M::Verr | M::Verw | M::Lss | M::Lfs | M::Lgs => {
            "reads the host's descriptor tables"
        }
        M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw => "emulated by the host's kernel (UMIP)",
        M::Xsave | M::Xsave64 | M::Xsavec | M::Xsavec64 | M::Xsaveopt | M::Xsaveopt64 => {
            "which components are in use is the processor's choice (SDM vol. 1, 13.6)"
        }
        M::Xrstor | M::Xrstor64 => "a random image is malformed",
        _ => match code {
            Code::Jmp_m1616 | Code::Jmp_m1632 | Code::Jmp_m1664 => "loads a selector of the host's tables",
            Code::Call_m1616 | Code::Call_m1632 | Code::Call_m1664 => "loads a selector of the host's tables",
            Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16 | Code::Mov_Sreg_r64m16 => {
                "loads a selector of the host's tables"
            }
            Code::Reservednop_rm16_r16_0F0D
            | Code::Reservednop_rm32_r32_0F0D
            | Code::Reservednop_rm64_r64_0F0D => "AMD's processors raise #UD, Intel's do nothing",
            Code::Popw_FS | Code::Popq_FS | Code::Popw_GS | Code::Popq_GS => {
                "loads a selector of the host's tables"
            }
            _ => return None,
        },
    };
    Some(reason)
}

/// Whether the host has a feature that user-mode computation may need.
pub fn host_has(feature: CpuidFeature) -> bool {
    use CpuidFeature as F;
    let leaf = |leaf: u32| __cpuid_count(leaf, 0);
    let bit = |word: u32, bit: u32| word >> bit & 1 != 0;
    match feature {
        F::INTEL8086 | F::INTEL186 | F::INTEL286 | F::INTEL386 | F::INTEL486 | F::X64 => true,
        F::FPU | F::FPU287 | F::FPU387 | F::MMX | F::SSE | F::SSE2 | F::CMOV | F::CX8 => true,
        F::MULTIBYTENOP | F::PAUSE | F::CET_IBT | F::CLFSH | F::FXSR | F::MSR => true,
        F::SSE3 => bit(leaf(1).ecx, 0),
        F::PCLMULQDQ => bit(leaf(1).ecx, 1),
        F::SSSE3 => bit(leaf(1).ecx, 9),
        F::FMA => bit(leaf(1).ecx, 12),
        F::CMPXCHG16B => bit(leaf(1).ecx, 13),
        F::SSE4_1 => bit(leaf(1).ecx, 19),
        F::SSE4_2 => bit(leaf(1).ecx, 20),
        F::MOVBE => bit(leaf(1).ecx, 22),
        F::POPCNT => bit(leaf(1).ecx, 23),
        F::AES => bit(leaf(1).ecx, 25),
        F::AVX => bit(leaf(1).ecx, 28),
        F::F16C => bit(leaf(1).ecx, 29),
        F::FSGSBASE => bit(leaf(7).ebx, 0),
        F::BMI1 => bit(leaf(7).ebx, 3),
        F::AVX2 => bit(leaf(7).ebx, 5),
        F::BMI2 => bit(leaf(7).ebx, 8),
        F::ADX => bit(leaf(7).ebx, 19),
        F::CLFLUSHOPT => bit(leaf(7).ebx, 23),
        F::CLWB => bit(leaf(7).ebx, 24),
        F::SHA => bit(leaf(7).ebx, 29),
        F::GFNI => bit(leaf(7).ecx, 8),
        F::VAES => bit(leaf(7).ecx, 9),
        F::VPCLMULQDQ => bit(leaf(7).ecx, 10),
        F::LZCNT => bit(leaf(0x8000_0001).ecx, 5),
        F::PREFETCHW => bit(leaf(0x8000_0001).ecx, 8),
        _ => false,
    }
}

/// Status flags that an instruction leaves undefined and that depend on more than its operands, with the reason.
///
/// The processor leaves such a flag as it was, or as something before made it. T0 executes every instruction with the
/// guest's flags and has to agree even so; T1 does not restore flags that an instruction is about to make undefined.
const UNDEFINED: [(&[Mnemonic], u64, &str); 6] = [
    (&[Mnemonic::Bsf, Mnemonic::Bsr], rflags::STATUS & !rflags::ZF, "only ZF is defined (SDM vol. 2, BSF)"),
    (&[Mnemonic::Div, Mnemonic::Idiv], rflags::STATUS, "no flag is defined (SDM vol. 2, DIV)"),
    (
        &[Mnemonic::Mul, Mnemonic::Imul],
        rflags::SF | rflags::ZF | rflags::AF | rflags::PF,
        "only CF and OF are defined (SDM vol. 2, MUL)",
    ),
    (
        &[Mnemonic::Lzcnt, Mnemonic::Tzcnt],
        rflags::OF | rflags::SF | rflags::AF | rflags::PF,
        "only CF and ZF are defined (SDM vol. 2, LZCNT)",
    ),
    (
        &[Mnemonic::Bt, Mnemonic::Bts, Mnemonic::Btr, Mnemonic::Btc],
        rflags::OF | rflags::SF | rflags::AF | rflags::PF,
        "only CF is defined, ZF stays (SDM vol. 2, BT)",
    ),
    (
        &[Mnemonic::Rcl, Mnemonic::Rcr, Mnemonic::Rol, Mnemonic::Ror],
        rflags::OF,
        "OF for counts other than 1 (SDM vol. 2, RCL)",
    ),
];

/// The flags of `UNDEFINED` for an instruction.
pub fn undefined_flags(instruction: &Instruction) -> u64 {
    let mnemonic = instruction.mnemonic();
    UNDEFINED.iter().filter(|(mnemonics, ..)| mnemonics.contains(&mnemonic)).fold(0, |all, row| all | row.1)
}

/// The decoder's bits for status flags as the processor's.
pub fn status_flags(bits: u32) -> u64 {
    let pairs = [
        (RflagsBits::CF, rflags::CF),
        (RflagsBits::PF, rflags::PF),
        (RflagsBits::AF, rflags::AF),
        (RflagsBits::ZF, rflags::ZF),
        (RflagsBits::SF, rflags::SF),
        (RflagsBits::OF, rflags::OF),
    ];
    pairs.iter().filter(|(bit, _)| bits & bit != 0).fold(0, |all, (_, flag)| all | flag)
}

/// Bytes that differ by right: ranges of the memory operand, with the reason.
///
/// x87 instruction and data pointers: the processor here saves them only with an unmasked exception pending (APM
/// vol. 2, 11.4.4), and the engine does not show guests where it runs.
pub fn memory_ranges(instruction: &Instruction) -> &'static [(usize, usize)] {
    match instruction.code() {
        Code::Fnstenv_m28byte | Code::Fnsave_m108byte | Code::Fstenv_m28byte | Code::Fsave_m108byte => {
            &[(12, 28)]
        }
        Code::Fnstenv_m14byte | Code::Fnsave_m94byte | Code::Fstenv_m14byte | Code::Fsave_m94byte => {
            &[(6, 14)]
        }
        Code::Fxsave_m512byte | Code::Fxsave64_m512byte => &[(6, 24), (28, 32), (416, 512)],
        _ => &[],
    }
}

/// Whether the memory operand is accessed in parts, in an order that is the processor's choice: of a faulting address
/// only the page is compared.
pub fn has_parts(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    instruction.memory_size().size() > 64
        || matches!(
            instruction.mnemonic(),
            M::Fldenv
                | M::Fnstenv
                | M::Fbld
                | M::Fbstp
                | M::Maskmovq
                | M::Maskmovdqu
                | M::Vmaskmovdqu
                | M::Vmaskmovps
        )
        || matches!(instruction.mnemonic(), M::Vmaskmovpd | M::Vpmaskmovd | M::Vpmaskmovq)
}

/// Whether the encoding describes a memory operand.
pub fn has_memory(instruction: &Instruction) -> bool {
    instruction.op_kinds().any(|kind| kind == OpKind::Memory)
}

/// Instructions that this host's alignment check treats in its own way: ENTER accesses in another order, MOVSXD with a
/// 16-bit destination reads 32 bits, VMASKMOVDQU depends on its mask.
pub fn alignment_is_odd(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Enter | Mnemonic::Vmaskmovdqu)
        || instruction.code() == Code::Movsxd_r16_rm16
        || intel::ignores_alignment(instruction)
}

/// Bytes of the stack that T1, and processors of Intel's, may have written though the instruction faulted: the return address of a call out of the
/// address space, which lies below RSP and so holds nothing.
pub fn is_dead_stack(instruction: &Instruction, vector: u32, rsp: u64, address: u64) -> bool {
    instruction.mnemonic() == Mnemonic::Call
        && vector == u32::from(exception::GP)
        && (1..=8).contains(&rsp.wrapping_sub(address))
}

/// Instructions that this host refuses before it has fetched all of their bytes.
pub fn is_refused_early(code: Code) -> bool {
    matches!(code.mnemonic(), Mnemonic::Ud0 | Mnemonic::Ud1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forms;

    #[test]
    fn only_flags_that_the_manual_leaves_undefined_are_excluded() {
        let forms = forms::every(1);
        for (mnemonics, flags, reason) in UNDEFINED {
            for mnemonic in mnemonics {
                let undefined = forms
                    .iter()
                    .filter(|form| form.instruction.mnemonic() == *mnemonic)
                    .fold(0, |all, form| all | status_flags(form.instruction.rflags_undefined()));
                assert_eq!(flags & !undefined, 0, "{mnemonic:?}: {reason}");
            }
        }
    }
}
