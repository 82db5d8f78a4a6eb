//! Which of the decoder's features the guest's processor has, and which of them only compute.

use gasang_cpu::{CpuModel, Feature};
use iced_x86::{CodeSize, CpuidFeature, DecoderOptions, Instruction, Mnemonic};

/// What a feature asks of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Nothing: every processor has it, or it is a hint that others take for a NOP, or `gasang_cpu` sees to it.
    Nothing,
    Bit(Feature),
    /// Never offered.
    Refused,
}

/// How the model decodes what older processors decode otherwise: TZCNT and LZCNT are BSF and BSR without their bits.
pub fn decoder_options(model: &CpuModel) -> u32 {
    let old_form = |feature, option| if model.has(feature) { DecoderOptions::NONE } else { option };
    old_form(Feature::Bmi1, DecoderOptions::NO_MPFX_0FBC)
        | old_form(Feature::Abm, DecoderOptions::NO_MPFX_0FBD)
}

/// BSF and BSR ignore F3, but the host would take it for TZCNT and LZCNT.
pub fn without_ignored_prefix(mut instruction: Instruction) -> Instruction {
    if matches!(instruction.mnemonic(), Mnemonic::Bsf | Mnemonic::Bsr) {
        instruction.set_has_rep_prefix(false);
    }
    instruction
}

/// Whether the model has an instruction.
pub fn has_instruction(model: &CpuModel, instruction: &Instruction) -> bool {
    let status_byte = matches!(instruction.mnemonic(), Mnemonic::Lahf | Mnemonic::Sahf);
    let wide = instruction.code_size() == CodeSize::Code64;
    (!status_byte || !wide || model.has(Feature::LahfLm))
        && instruction.cpuid_features().iter().all(|&feature| is_offered(model, feature))
}

/// Whether the model has a feature of the decoder's.
fn is_offered(model: &CpuModel, feature: CpuidFeature) -> bool {
    match computing(feature).or_else(|| others(feature)).unwrap_or(Needs::Refused) {
        Needs::Nothing => true,
        Needs::Bit(bit) => model.has(bit),
        Needs::Refused => false,
    }
}

/// Whether the feature's instructions, once those with handlers are taken away, only compute on registers and one
/// memory operand.
pub(crate) fn is_computing(feature: CpuidFeature) -> bool {
    computing(feature).is_some()
}

/// Features whose instructions the host executes.
fn computing(feature: CpuidFeature) -> Option<Needs> {
    Some(match feature {
        CpuidFeature::INTEL8086
        | CpuidFeature::INTEL186
        | CpuidFeature::INTEL286
        | CpuidFeature::INTEL386
        | CpuidFeature::INTEL486
        | CpuidFeature::X64
        | CpuidFeature::CMOV
        | CpuidFeature::CX8
        | CpuidFeature::FPU
        | CpuidFeature::FPU287
        | CpuidFeature::FPU287XL_ONLY
        | CpuidFeature::FPU387
        | CpuidFeature::FPU387SL_ONLY => Needs::Nothing,
        CpuidFeature::LZCNT => Needs::Bit(Feature::Abm),
        CpuidFeature::BMI1 => Needs::Bit(Feature::Bmi1),
        CpuidFeature::MMX => Needs::Bit(Feature::Mmx),
        CpuidFeature::SSE => Needs::Bit(Feature::Sse),
        CpuidFeature::SSE2 => Needs::Bit(Feature::Sse2),
        CpuidFeature::SSE3 => Needs::Bit(Feature::Sse3),
        CpuidFeature::SSSE3 => Needs::Bit(Feature::Ssse3),
        CpuidFeature::SSE4_1 => Needs::Bit(Feature::Sse41),
        CpuidFeature::SSE4_2 => Needs::Bit(Feature::Sse42),
        CpuidFeature::CMPXCHG16B => Needs::Bit(Feature::Cx16),
        CpuidFeature::POPCNT => Needs::Bit(Feature::Popcnt),
        CpuidFeature::MOVBE => Needs::Bit(Feature::Movbe),
        CpuidFeature::BMI2 => Needs::Bit(Feature::Bmi2),
        CpuidFeature::ADX => Needs::Bit(Feature::Adx),
        CpuidFeature::AES => Needs::Bit(Feature::Aes),
        CpuidFeature::PCLMULQDQ => Needs::Bit(Feature::Pclmulqdq),
        CpuidFeature::SHA => Needs::Bit(Feature::Sha),
        CpuidFeature::GFNI => Needs::Bit(Feature::Gfni),
        CpuidFeature::AVX => Needs::Bit(Feature::Avx),
        CpuidFeature::AVX2 => Needs::Bit(Feature::Avx2),
        CpuidFeature::F16C => Needs::Bit(Feature::F16c),
        CpuidFeature::FMA => Needs::Bit(Feature::Fma),
        CpuidFeature::VAES => Needs::Bit(Feature::Vaes),
        CpuidFeature::VPCLMULQDQ => Needs::Bit(Feature::Vpclmulqdq),
        CpuidFeature::AVX512F => Needs::Bit(Feature::Avx512f),
        CpuidFeature::AVX512VL => Needs::Bit(Feature::Avx512vl),
        CpuidFeature::AVX512BW => Needs::Bit(Feature::Avx512bw),
        CpuidFeature::AVX512CD => Needs::Bit(Feature::Avx512cd),
        CpuidFeature::AVX512DQ => Needs::Bit(Feature::Avx512dq),
        CpuidFeature::AVX512_BITALG => Needs::Bit(Feature::Avx512bitalg),
        CpuidFeature::AVX512_IFMA => Needs::Bit(Feature::Avx512ifma),
        CpuidFeature::AVX512_VBMI => Needs::Bit(Feature::Avx512vbmi),
        CpuidFeature::AVX512_VBMI2 => Needs::Bit(Feature::Avx512vbmi2),
        CpuidFeature::AVX512_VNNI => Needs::Bit(Feature::Avx512vnni),
        CpuidFeature::AVX512_VPOPCNTDQ => Needs::Bit(Feature::Avx512vpopcntdq),
        _ => return None,
    })
}

/// Features whose instructions have handlers.
fn others(feature: CpuidFeature) -> Option<Needs> {
    Some(match feature {
        CpuidFeature::INTEL8086_ONLY
        | CpuidFeature::INTEL286_ONLY
        | CpuidFeature::INTEL386_ONLY
        | CpuidFeature::CPUID
        | CpuidFeature::MSR
        | CpuidFeature::TSC
        | CpuidFeature::RDTSCP
        | CpuidFeature::RDPMC
        | CpuidFeature::RDPID
        | CpuidFeature::SEP
        | CpuidFeature::SYSCALL
        | CpuidFeature::FSGSBASE
        | CpuidFeature::FXSR
        | CpuidFeature::XSAVE
        | CpuidFeature::PKU
        | CpuidFeature::SMAP
        | CpuidFeature::WBNOINVD
        | CpuidFeature::PAUSE
        | CpuidFeature::MULTIBYTENOP
        | CpuidFeature::PREFETCHW
        | CpuidFeature::PREFETCHWT1
        | CpuidFeature::PREFETCHITI
        | CpuidFeature::CLDEMOTE
        | CpuidFeature::CET_IBT
        | CpuidFeature::CET_SS
        | CpuidFeature::VMX
        | CpuidFeature::INVEPT
        | CpuidFeature::INVVPID
        | CpuidFeature::SVM
        | CpuidFeature::D3NOW => Needs::Nothing,
        CpuidFeature::CLFSH => Needs::Bit(Feature::Clflush),
        CpuidFeature::CLFLUSHOPT => Needs::Bit(Feature::Clflushopt),
        CpuidFeature::CLWB => Needs::Bit(Feature::Clwb),
        CpuidFeature::RDRAND => Needs::Bit(Feature::Rdrand),
        CpuidFeature::RDSEED => Needs::Bit(Feature::Rdseed),
        CpuidFeature::INVPCID => Needs::Bit(Feature::Invpcid),
        CpuidFeature::XSAVEOPT => Needs::Bit(Feature::Xsaveopt),
        CpuidFeature::XSAVEC => Needs::Bit(Feature::Xsavec),
        CpuidFeature::XSAVES => Needs::Bit(Feature::Xsaves),
        _ => return None,
    })
}
