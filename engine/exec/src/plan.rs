//! Choosing how an instruction is executed: by a handler, or by the host.

use crate::decode::Decoded;
use crate::features::{has_instruction, is_computing};
use crate::flow::Flow;
use crate::host::{BUFFER, BitString, HostPlan, Unit, Use};
use crate::masked::mask_of;
use crate::stub::{Host, NoStub, Stubs, gpr_number};
use crate::{branch, descriptor, extended, gather, legacy, masked, port, stack, string, system, vmx};
use gasang_cpu::{Core, CpuModel, Exception, Trap, host_vendor};
use iced_x86::{
    Code, CpuidFeature, EncodingKind, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};
use std::io;
use std::sync::LazyLock;

/// Executes an instruction; `state.rip` is still its own address.
pub(crate) type Handler = fn(&mut Core<'_>, &Decoded) -> Result<Flow, Trap>;

/// How to execute an instruction.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Plan {
    Handler(Handler),
    Host(HostPlan),
}

impl Plan {
    #[inline]
    pub(crate) fn execute(&self, core: &mut Core<'_>, decoded: &Decoded, host: &Host) -> Result<Flow, Trap> {
        match self {
            Plan::Handler(handler) => handler(core, decoded),
            Plan::Host(plan) => plan.execute(core, decoded, host),
        }
    }
}

/// #UD.
pub(crate) const UNDEFINED: Plan = Plan::Handler(|_, _| Err(Trap::Exception(Exception::invalid_opcode())));

/// Makes plans.
pub(crate) struct Planner {
    stubs: Stubs,
    factory: InstructionInfoFactory,
}

impl Planner {
    pub(crate) fn new() -> io::Result<Planner> {
        Ok(Planner { stubs: Stubs::new()?, factory: InstructionInfoFactory::new() })
    }

    pub(crate) fn host(&self) -> &Host {
        self.stubs.host()
    }

    /// Forget every stub. Plans made before must not be executed any more.
    pub(crate) fn clear(&mut self) {
        self.stubs.clear();
    }

    /// The plan for an instruction of a processor of this model; None if there is no room for its stub.
    pub(crate) fn plan(&mut self, instruction: &Instruction, model: &CpuModel) -> Option<Plan> {
        if instruction.is_invalid() || !has_instruction(model, instruction) {
            return Some(UNDEFINED);
        }
        if let Some(handler) = handler(instruction) {
            return Some(Plan::Handler(handler));
        }
        match self.host_plan(instruction) {
            Ok(plan) => Some(Plan::Host(plan)),
            Err(NoStub::Inexpressible) => Some(UNDEFINED),
            Err(NoStub::Full) => None,
        }
    }

    /// A plan for the host, if the instruction does nothing but compute on registers and one memory operand.
    fn host_plan(&mut self, instruction: &Instruction) -> Result<HostPlan, NoStub> {
        if !is_computation(instruction) {
            return Err(NoStub::Inexpressible);
        }
        let memory = self.memory_use(instruction).ok_or(NoStub::Inexpressible)?;
        let size = instruction.memory_size().size();
        if memory != Use::None && !(1..=BUFFER).contains(&size) {
            return Err(NoStub::Inexpressible);
        }
        let unit = unit(instruction);
        Ok(HostPlan {
            stub: self.stubs.stub(instruction, &mut self.factory)?,
            unit,
            waits: waits(instruction, unit),
            memory,
            size,
            aligned: needs_alignment(instruction, unit, size),
            bit_string: bit_string(instruction),
            mask: mask_of(instruction),
        })
    }

    /// What the instruction does with its memory operand; None if it accesses memory in another way.
    fn memory_use(&mut self, instruction: &Instruction) -> Option<Use> {
        let mut memory = Use::None;
        let accesses = self.factory.info(instruction).used_memory();
        if accesses.len() > 1 || !accesses.is_empty() && !has_memory_operand(instruction) {
            return None;
        }
        for access in accesses {
            memory = match access.access() {
                OpAccess::None | OpAccess::NoMemAccess => return None,
                OpAccess::Read | OpAccess::CondRead => Use::Read,
                OpAccess::Write | OpAccess::CondWrite => Use::Write,
                OpAccess::ReadWrite | OpAccess::ReadCondWrite => Use::ReadWrite,
            };
        }
        Some(memory)
    }
}

fn handler(instruction: &Instruction) -> Option<Handler> {
    branch::handler(instruction)
        .or_else(|| stack::handler(instruction))
        .or_else(|| string::handler(instruction))
        .or_else(|| port::handler(instruction))
        .or_else(|| descriptor::handler(instruction))
        .or_else(|| system::handler(instruction))
        .or_else(|| vmx::handler(instruction))
        .or_else(|| legacy::handler(instruction))
        .or_else(|| extended::handler(instruction))
        .or_else(|| masked::handler(instruction))
        .or_else(|| gather::handler(instruction))
}

/// Whether the host executes an instruction for a processor of this model.
#[cfg(test)]
pub(crate) fn is_executed_by_host(instruction: &Instruction, model: &CpuModel) -> bool {
    !instruction.is_invalid()
        && has_instruction(model, instruction)
        && handler(instruction).is_none()
        && is_computation(instruction)
}

fn has_memory_operand(instruction: &Instruction) -> bool {
    instruction.op_kinds().any(|kind| kind == OpKind::Memory)
}

/// Whether the operands are general-purpose, x87 or vector registers, immediates and memory, and the feature is one
/// that only computes.
fn is_computation(instruction: &Instruction) -> bool {
    let operands_plain = (0..instruction.op_count()).all(|index| match instruction.op_kind(index) {
        OpKind::Register => is_data_register(instruction.op_register(index)),
        OpKind::Memory => !instruction.is_vsib(),
        OpKind::Immediate8
        | OpKind::Immediate8_2nd
        | OpKind::Immediate16
        | OpKind::Immediate32
        | OpKind::Immediate64
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => true,
        _ => false,
    });
    operands_plain
        && instruction.flow_control() == FlowControl::Next
        && !instruction.is_privileged()
        && !instruction.is_stack_instruction()
        && instruction.cpuid_features().iter().all(|&feature| is_computing(feature))
}

fn is_data_register(register: Register) -> bool {
    register.is_gpr()
        || register.is_st()
        || register.is_mm()
        || register.is_vector_register()
        || register.is_k()
}

/// Which registers the instruction works on.
fn unit(instruction: &Instruction) -> Unit {
    let uses = |test: fn(Register) -> bool| {
        (0..instruction.op_count()).any(|index| {
            instruction.op_kind(index) == OpKind::Register && test(instruction.op_register(index))
        })
    };
    let of =
        |test: fn(CpuidFeature) -> bool| instruction.cpuid_features().iter().any(|&feature| test(feature));
    match instruction.encoding() {
        EncodingKind::EVEX | EncodingKind::MVEX => Unit::Avx512,
        EncodingKind::VEX if uses(Register::is_k) => Unit::Avx512,
        EncodingKind::VEX if of(is_general) => Unit::VexInteger,
        EncodingKind::VEX => Unit::Avx,
        _ if instruction.code() == Code::Wait => Unit::Wait,
        _ if of(is_x87) => Unit::X87,
        _ if of(is_general) || is_general_in_sse(instruction.mnemonic()) => Unit::Integer,
        _ if converts_to_mmx(instruction.mnemonic()) => Unit::SseAndMmx,
        _ if uses(Register::is_vector_register) && uses(Register::is_mm) => Unit::SseAndMmx,
        _ if uses(Register::is_vector_register) => Unit::Sse,
        _ if uses(Register::is_mm) || instruction.mnemonic() == Mnemonic::Emms => Unit::Mmx,
        _ => Unit::Sse,
    }
}

fn is_x87(feature: CpuidFeature) -> bool {
    matches!(
        feature,
        CpuidFeature::FPU
            | CpuidFeature::FPU287
            | CpuidFeature::FPU287XL_ONLY
            | CpuidFeature::FPU387
            | CpuidFeature::FPU387SL_ONLY
    )
}

/// Features whose instructions use general-purpose registers only.
fn is_general(feature: CpuidFeature) -> bool {
    matches!(
        feature,
        CpuidFeature::INTEL8086
            | CpuidFeature::INTEL186
            | CpuidFeature::INTEL286
            | CpuidFeature::INTEL386
            | CpuidFeature::INTEL486
            | CpuidFeature::X64
            | CpuidFeature::CMOV
            | CpuidFeature::CX8
            | CpuidFeature::CMPXCHG16B
            | CpuidFeature::POPCNT
            | CpuidFeature::LZCNT
            | CpuidFeature::MOVBE
            | CpuidFeature::ADX
            | CpuidFeature::BMI1
            | CpuidFeature::BMI2
    )
}

/// Instructions of the SSE features that use no vector register and no MXCSR: no operating system needs to enable them.
fn is_general_in_sse(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Movnti | Mnemonic::Lfence | Mnemonic::Mfence | Mnemonic::Sfence | Mnemonic::Crc32
    )
}

/// Conversions to MMX registers that are subject to MXCSR.
fn converts_to_mmx(mnemonic: Mnemonic) -> bool {
    matches!(mnemonic, Mnemonic::Cvtps2pi | Mnemonic::Cvttps2pi | Mnemonic::Cvtpd2pi | Mnemonic::Cvttpd2pi)
}

/// Whether a pending x87 error comes before the instruction: MMX's, and x87's but for those that say "no wait".
fn waits(instruction: &Instruction, unit: Unit) -> bool {
    let no_wait = matches!(
        instruction.mnemonic(),
        Mnemonic::Fninit
            | Mnemonic::Fnclex
            | Mnemonic::Fnstcw
            | Mnemonic::Fnstsw
            | Mnemonic::Fnstenv
            | Mnemonic::Fnsave
            | Mnemonic::Fneni
            | Mnemonic::Fndisi
            | Mnemonic::Fnsetpm
    );
    unit.has_x87() && !no_wait
}

/// AMD's processors do not ask alignment of SHA's instructions, others do as the manual says.
static SHA_TAKES_UNALIGNED: LazyLock<bool> = LazyLock::new(|| &host_vendor() == b"AuthenticAMD");

fn is_sha(instruction: &Instruction) -> bool {
    instruction.cpuid_features().contains(&CpuidFeature::SHA)
}

/// Legacy SSE instructions want their 16-byte operands aligned, but for those made for unaligned ones; of the VEX and
/// EVEX forms only those that say so (SDM vol. 1, 10.4.1.1, 14.9).
fn needs_alignment(instruction: &Instruction, unit: Unit, size: usize) -> bool {
    let says_aligned = matches!(
        instruction.mnemonic(),
        Mnemonic::Vmovaps
            | Mnemonic::Vmovapd
            | Mnemonic::Vmovdqa
            | Mnemonic::Vmovdqa32
            | Mnemonic::Vmovdqa64
            | Mnemonic::Vmovntps
            | Mnemonic::Vmovntpd
            | Mnemonic::Vmovntdq
            | Mnemonic::Vmovntdqa
            | Mnemonic::Cmpxchg16b
    );
    let made_for_unaligned = matches!(
        instruction.mnemonic(),
        Mnemonic::Movups
            | Mnemonic::Movupd
            | Mnemonic::Movdqu
            | Mnemonic::Lddqu
            | Mnemonic::Pcmpestri
            | Mnemonic::Pcmpestri64
            | Mnemonic::Pcmpestrm
            | Mnemonic::Pcmpestrm64
            | Mnemonic::Pcmpistri
            | Mnemonic::Pcmpistrm
    );
    let made_for_unaligned = made_for_unaligned || is_sha(instruction) && *SHA_TAKES_UNALIGNED;
    says_aligned || matches!(unit, Unit::Sse | Unit::SseAndMmx) && size == 16 && !made_for_unaligned
}

/// BT, BTS, BTR, BTC on memory with the bit offset in a register.
fn bit_string(instruction: &Instruction) -> Option<BitString> {
    let tests_bits =
        matches!(instruction.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc);
    let register = (tests_bits && instruction.op1_kind() == OpKind::Register)
        .then(|| gpr_number(instruction.op1_register()))??;
    has_memory_operand(instruction).then_some(BitString { register })
}
