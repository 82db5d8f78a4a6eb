//! From guest bytes to a block's operations: what each instruction needs from the translator, and which flags live.

use crate::non_root::{interpret_watched_sti, may_exit};
use gasang_cpu::{CpuModel, Feature, VcpuState, tlb};
use gasang_exec::{decoder_options, has_instruction, without_ignored_prefix};
use iced_x86::{
    Code, CpuidFeature, Decoder, EncodingKind, FlowControl, Instruction, InstructionInfoFactory, MemorySize,
    Mnemonic, OpAccess, OpKind, Register, RflagsBits,
};

/// All six status flags, in iced's bits.
pub const STATUS: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// Instructions in a block at most.
pub const BLOCK_LIMIT: usize = 64;

/// What the translator does with an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing happens (NOP, ENDBR, PREFETCH).
    Nothing,
    /// Runs as itself: registers only.
    Plain,
    /// LEA: an address is computed, nothing is accessed.
    Address,
    /// Runs as itself on memory of `size` bytes.
    Memory { size: u32, write: bool },
    /// PUSH of a register, an immediate or memory, 64 bits.
    Push,
    /// POP to a register, 64 bits.
    Pop,
    /// LEAVE.
    Leave,
    /// CLD.
    ClearDirection,
    /// PUSHFQ.
    PushFlags,
    /// POPFQ at CPL 0.
    PopFlags,
    /// CLI at CPL 0.
    ClearInterrupt,
    /// STI at CPL 0.
    SetInterrupt,
    /// STAC (true) or CLAC at CPL 0.
    AlignmentCheck(bool),
    /// SWAPGS at CPL 0.
    SwapGs,
    /// MOV of a segment register's selector to a 32- or 64-bit register.
    ReadSelector,
    /// REP STOS of elements of 2 to this power bytes.
    Fill(u8),
    /// REP MOVS of elements of 2 to this power bytes.
    Copy(u8),
    /// RDTSC, or (true) RDTSCP.
    ReadTime(bool),
    /// MOV of CR2 or CR3 to a register at CPL 0.
    ReadControl,
    /// RDFSBASE or RDGSBASE, or (true) WRFSBASE or WRGSBASE, 64 bits.
    SegmentBase(bool),
    /// RDPKRU.
    ReadKeyRights,
    /// VMREAD to a register, at CPL 0.
    ReadField,
    /// VMWRITE from a register, at CPL 0.
    WriteField,
    /// BT, BTS, BTR or BTC of a bit string in memory, in words of so many bytes.
    BitString(u32),
    /// JMP to a known target.
    Jump(u64),
    /// Jcc.
    Branch(u64),
    /// Jcc in the midst of a superblock, which is left to an address if the condition is met, or (false) if not.
    Side { leave: u64, when: bool },
    /// JRCXZ, JECXZ.
    BranchIfZero(u64),
    /// CALL of a known target.
    Call(u64),
    /// The same where a superblock goes on at the target.
    CallThrough,
    /// JMP through a register or memory.
    JumpIndirect,
    /// CALL through a register or memory.
    CallIndirect,
    /// RET, releasing so many bytes more.
    Return(u16),
    /// The same where a superblock goes on, if that is the address returned to.
    ReturnThrough { release: u16, to: u64 },
    /// SYSCALL.
    SystemCall,
    /// SYSRET with REX.W at CPL 0.
    SystemReturn,
    /// IRETQ at CPL 0.
    InterruptReturn,
    /// T0 executes it; the block ends here.
    Interpret,
}

impl Kind {
    /// Whether a block ends with it.
    pub fn ends_block(self) -> bool {
        match self {
            Kind::Jump(_)
            | Kind::Branch(_)
            | Kind::BranchIfZero(_)
            | Kind::Call(_)
            | Kind::JumpIndirect
            | Kind::CallIndirect
            | Kind::Return(_)
            | Kind::SystemCall
            | Kind::SystemReturn
            | Kind::InterruptReturn
            | Kind::Interpret => true,
            Kind::Nothing
            | Kind::Plain
            | Kind::Address
            | Kind::Memory { .. }
            | Kind::Push
            | Kind::Pop
            | Kind::Leave
            | Kind::ClearDirection
            | Kind::PushFlags
            | Kind::PopFlags
            | Kind::ClearInterrupt
            | Kind::SetInterrupt
            | Kind::AlignmentCheck(_)
            | Kind::SwapGs
            | Kind::ReadSelector
            | Kind::Fill(_)
            | Kind::Copy(_)
            | Kind::ReadTime(_)
            | Kind::ReadControl
            | Kind::SegmentBase(_)
            | Kind::ReadKeyRights
            | Kind::ReadField
            | Kind::WriteField
            | Kind::Side { .. }
            | Kind::CallThrough
            | Kind::ReturnThrough { .. }
            | Kind::BitString(_) => false,
        }
    }
}

/// Which extended state an instruction needs in the registers: bits of the slot EXTENDED_LIVE.
pub mod extended {
    /// x87 and MMX.
    pub const X87: u8 = 1;
    /// SSE.
    pub const SSE: u8 = 2;
    /// AVX.
    pub const AVX: u8 = 4;
}

/// An instruction of a block.
#[derive(Debug, Clone)]
pub struct Operation {
    /// As decoded.
    pub instruction: Instruction,
    /// Its bytes, and what is behind them.
    pub bytes: [u8; 15],
    /// What to do with it.
    pub kind: Kind,
    /// Extended state it needs (`extended`), 0 for none.
    pub extended: u8,
    /// Status flags it reads.
    pub reads: u32,
    /// Status flags it may change.
    pub writes: u32,
    /// Status flags it certainly overwrites.
    pub kills: u32,
    /// Status flags that someone may read after it.
    pub live_after: u32,
    /// Status flags that someone may read before it is done: itself, or T0 in its place.
    pub live_before: u32,
}

impl Operation {
    /// Flags that must be in the host's EFLAGS when it executes.
    pub fn needs_flags(&self) -> u32 {
        let through = if self.writes != 0 { self.live_after & !self.kills } else { 0 };
        self.reads | through
    }
}

/// What code is decoded as.
#[derive(Debug, Clone, Copy)]
pub struct Decoding {
    /// 64- or 32-bit code.
    pub bits: u32,
    /// CPL 3.
    pub user: bool,
    /// VMX non-root operation.
    pub non_root: bool,
    /// Flags are kept exact everywhere.
    pub strict_flags: bool,
}

/// Whether the first instruction of `bytes`, the rest of its page, goes on in the next.
pub fn leaves_page(rip: u64, bytes: &[u8], how: Decoding, classifier: &Classifier) -> bool {
    let mut decoder = Decoder::with_ip(how.bits, bytes, rip, classifier.decoder_options);
    decoder.decode().is_invalid() && decoder.last_error() == iced_x86::DecoderError::NoMoreBytes
}

/// Decode a block at `rip` from `bytes`, the rest of its page, or a block of `most`
/// instructions that may cross its end.
pub fn decode_block(
    rip: u64,
    bytes: &[u8],
    most: usize,
    how: Decoding,
    classifier: &mut Classifier,
) -> Vec<Operation> {
    let Decoding { bits, strict_flags, .. } = how;
    let mut decoder = Decoder::with_ip(bits, bytes, rip, classifier.decoder_options);
    let mut operations: Vec<Operation> = Vec::with_capacity(16);
    while operations.len() < most && decoder.can_decode() {
        let instruction = decoder.decode();
        // What goes on in the next page is a block of its own: its second page is looked at each time.
        let leaves_page =
            instruction.is_invalid() && decoder.last_error() == iced_x86::DecoderError::NoMoreBytes;
        if leaves_page && !operations.is_empty() {
            break;
        }
        let start = decoder.position() - instruction.len();
        let length = 15.min(bytes.len() - start);
        let mut operation = classify(instruction, how, classifier);
        operation.bytes[..length].copy_from_slice(&bytes[start..start + length]);
        let ends = operation.kind.ends_block();
        operations.push(operation);
        if ends {
            break;
        }
    }
    if how.non_root {
        interpret_watched_sti(&mut operations);
    }
    mark_live_flags(&mut operations, strict_flags);
    operations
}

/// Walk backwards: at the end of the block, and where it may be left, every flag may be read.
pub fn mark_live_flags(operations: &mut [Operation], strict: bool) {
    let mut live = STATUS;
    for operation in operations.iter_mut().rev() {
        operation.live_after = live;
        if matches!(operation.kind, Kind::Side { .. } | Kind::ReturnThrough { .. }) {
            live = STATUS;
        } else if !strict {
            live = live & !operation.kills | operation.reads;
        }
        operation.live_before = live;
    }
}

/// Flags that must be right when the block starts.
pub fn live_at_start(operations: &[Operation]) -> u32 {
    operations.first().map_or(STATUS, |first| first.live_before)
}

fn classify(instruction: Instruction, how: Decoding, classifier: &mut Classifier) -> Operation {
    let Decoding { bits, user, non_root, .. } = how;
    let instruction = without_ignored_prefix(instruction);
    let instruction = if bits == 32 { with_64bit_form(instruction) } else { instruction };
    let kind = match bits {
        _ if instruction.is_invalid() || jumps_out(&instruction) => Kind::Interpret,
        _ if non_root && may_exit(&instruction) => Kind::Interpret,
        64 => kind(&instruction, user, classifier),
        _ => kind32(&instruction, user, classifier),
    };
    let (reads, writes) = match kind {
        Kind::Interpret | Kind::PushFlags | Kind::SystemCall | Kind::SystemReturn | Kind::InterruptReturn => {
            (STATUS, 0)
        }
        Kind::PopFlags => (0, STATUS),
        Kind::AlignmentCheck(_) | Kind::ClearInterrupt | Kind::SetInterrupt => (0, 0),
        _ => (instruction.rflags_read() & STATUS, instruction.rflags_modified() & STATUS),
    };
    let kills = if shifts_by_cl(&instruction) { 0 } else { writes };
    let extended = extended_state(&instruction);
    let live = STATUS;
    let bytes = [0; 15];
    Operation {
        instruction,
        bytes,
        kind,
        extended,
        reads,
        writes,
        kills,
        live_after: live,
        live_before: live,
    }
}

/// A direct jump to an address that is not canonical faults at the jump itself, if it is taken.
fn jumps_out(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::NearBranch64 && !VcpuState::canonical(instruction.near_branch64())
}

/// 32-bit code has short forms that are something else in 64-bit code; their longer forms do the same.
fn with_64bit_form(mut instruction: Instruction) -> Instruction {
    let code = match instruction.code() {
        Code::Inc_r32 => Code::Inc_rm32,
        Code::Dec_r32 => Code::Dec_rm32,
        Code::Inc_r16 => Code::Inc_rm16,
        Code::Dec_r16 => Code::Dec_rm16,
        Code::Mov_EAX_moffs32 => Code::Mov_r32_rm32,
        Code::Mov_moffs32_EAX => Code::Mov_rm32_r32,
        Code::Mov_AL_moffs8 => Code::Mov_r8_rm8,
        Code::Mov_moffs8_AL => Code::Mov_rm8_r8,
        code => code,
    };
    instruction.set_code(code);
    instruction
}

/// A shift by CL leaves the flags alone when the count is zero.
fn shifts_by_cl(instruction: &Instruction) -> bool {
    use Mnemonic::{Rcl, Rcr, Rol, Ror, Sal, Sar, Shl, Shld, Shr, Shrd};
    matches!(instruction.mnemonic(), Rcl | Rcr | Rol | Ror | Sal | Sar | Shl | Shr | Shld | Shrd)
        && (0..instruction.op_count()).any(|operand| {
            instruction.op_kind(operand) == OpKind::Register
                && instruction.op_register(operand) == Register::CL
        })
}

fn kind(instruction: &Instruction, user: bool, classifier: &mut Classifier) -> Kind {
    match instruction.code() {
        Code::Syscall if classifier.model.has(Feature::Syscall) => return Kind::SystemCall,
        Code::Sysretq if !user && classifier.model.has(Feature::Syscall) => return Kind::SystemReturn,
        Code::Iretq if !user => return Kind::InterruptReturn,
        _ => {}
    }
    match instruction.flow_control() {
        FlowControl::Next => straight_kind(instruction, user, classifier),
        FlowControl::UnconditionalBranch => match instruction.code() {
            Code::Jmp_rel8_64 | Code::Jmp_rel32_64 => Kind::Jump(instruction.near_branch64()),
            _ => Kind::Interpret,
        },
        FlowControl::IndirectBranch => match instruction.code() {
            Code::Jmp_rm64 => Kind::JumpIndirect,
            _ => Kind::Interpret,
        },
        FlowControl::ConditionalBranch => {
            if instruction.is_jcc_short_or_near() && instruction.op0_kind() == OpKind::NearBranch64 {
                Kind::Branch(instruction.near_branch64())
            } else {
                match instruction.code() {
                    Code::Jrcxz_rel8_64 | Code::Jecxz_rel8_64 => {
                        Kind::BranchIfZero(instruction.near_branch64())
                    }
                    _ => Kind::Interpret,
                }
            }
        }
        FlowControl::Call => match instruction.code() {
            Code::Call_rel32_64 => Kind::Call(instruction.near_branch64()),
            _ => Kind::Interpret,
        },
        FlowControl::IndirectCall => match instruction.code() {
            Code::Call_rm64 => Kind::CallIndirect,
            _ => Kind::Interpret,
        },
        FlowControl::Return => match instruction.code() {
            Code::Retnq => Kind::Return(0),
            Code::Retnq_imm16 => Kind::Return(instruction.immediate16()),
            _ => Kind::Interpret,
        },
        FlowControl::Interrupt | FlowControl::XbeginXabortXend | FlowControl::Exception => Kind::Interpret,
    }
}

/// The same in 32-bit code, whose segments are flat.
fn kind32(instruction: &Instruction, user: bool, classifier: &mut Classifier) -> Kind {
    use Code::{
        Call_rel32_32, Call_rm32, Jecxz_rel8_32, Jmp_rel8_32, Jmp_rel32_32, Jmp_rm32, Leaved, Pop_r32,
        Push_r32, Push_rm32, Pushd_imm8, Pushd_imm32, Retnd, Retnd_imm16,
    };
    let target = u64::from(instruction.near_branch32());
    if unusual_address(instruction) {
        return Kind::Interpret;
    }
    match instruction.code() {
        Jmp_rel8_32 | Jmp_rel32_32 => Kind::Jump(target),
        Jecxz_rel8_32 => Kind::BranchIfZero(target),
        Call_rel32_32 => Kind::Call(target),
        Jmp_rm32 => Kind::JumpIndirect,
        Call_rm32 => Kind::CallIndirect,
        Retnd => Kind::Return(0),
        Retnd_imm16 => Kind::Return(instruction.immediate16()),
        Push_r32 | Push_rm32 | Pushd_imm8 | Pushd_imm32 => Kind::Push,
        Pop_r32 if instruction.op0_register() != Register::ESP => Kind::Pop,
        Leaved => Kind::Leave,
        _ if instruction.is_jcc_short_or_near() && instruction.op0_kind() == OpKind::NearBranch32 => {
            Kind::Branch(target)
        }
        _ if instruction.flow_control() == FlowControl::Next => straight_kind(instruction, user, classifier),
        _ => Kind::Interpret,
    }
}

fn straight_kind(instruction: &Instruction, user: bool, classifier: &mut Classifier) -> Kind {
    use Code::{
        Clac, Cli, Leaveq, Mov_r32m16_Sreg, Mov_r64m16_Sreg, Pop_r64, Popfq, Push_r64, Push_rm64, Pushfq,
        Pushq_imm8, Pushq_imm32, Stac, Sti, Swapgs,
    };
    match instruction.code() {
        Pushfq => return Kind::PushFlags,
        Popfq if !user => return Kind::PopFlags,
        Cli if !user => return Kind::ClearInterrupt,
        Sti if !user => return Kind::SetInterrupt,
        Stac if !user => return Kind::AlignmentCheck(true),
        Clac if !user => return Kind::AlignmentCheck(false),
        Swapgs if !user => return Kind::SwapGs,
        Code::Mov_r64_cr if !user && matches!(instruction.op1_register(), Register::CR2 | Register::CR3) => {
            return Kind::ReadControl;
        }
        Code::Rdfsbase_r64 | Code::Rdgsbase_r64 => return Kind::SegmentBase(false),
        Code::Wrfsbase_r64 | Code::Wrgsbase_r64 => return Kind::SegmentBase(true),
        Code::Rdpkru => return Kind::ReadKeyRights,
        Code::Vmread_rm64_r64 if !user && instruction.op0_kind() == OpKind::Register => {
            return Kind::ReadField;
        }
        Code::Vmwrite_r64_rm64 if !user && instruction.op1_kind() == OpKind::Register => {
            return Kind::WriteField;
        }
        Code::Rdtsc => return Kind::ReadTime(false),
        Code::Rdtscp if classifier.model.has(Feature::Rdtscp) => return Kind::ReadTime(true),
        Mov_r32m16_Sreg | Mov_r64m16_Sreg if instruction.op0_kind() == OpKind::Register => {
            return Kind::ReadSelector;
        }
        Push_r64 | Push_rm64 | Pushq_imm8 | Pushq_imm32 => return Kind::Push,
        Pop_r64 => return Kind::Pop,
        Leaveq => return Kind::Leave,
        Code::Cld => return Kind::ClearDirection,
        _ => {}
    }
    match instruction.mnemonic() {
        Mnemonic::Nop
        | Mnemonic::Endbr64
        | Mnemonic::Endbr32
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2
        | Mnemonic::Prefetchnta
        | Mnemonic::Prefetchw => {
            return Kind::Nothing;
        }
        Mnemonic::Lea => return Kind::Address,
        // The platform may let other processors go first.
        Mnemonic::Pause => return Kind::Interpret,
        _ => {}
    }
    if let Some(kind) = repeated_string(instruction) {
        return kind;
    }
    if let Some(kind) = bit_string(instruction) {
        return kind;
    }
    if !classifier.runs_as_itself(instruction) {
        return Kind::Interpret;
    }
    let has_memory =
        (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
    if has_memory { memory_kind(instruction, classifier) } else { Kind::Plain }
}

/// REP STOS and REP MOVS with 64-bit addresses.
fn repeated_string(instruction: &Instruction) -> Option<Kind> {
    use Code::{
        Movsb_m8_m8, Movsd_m32_m32, Movsq_m64_m64, Movsw_m16_m16, Stosb_m8_AL, Stosd_m32_EAX, Stosq_m64_RAX,
        Stosw_m16_AX,
    };
    let based = matches!(instruction.memory_segment(), Register::FS | Register::GS);
    let wide = instruction.op0_kind() == OpKind::MemoryESRDI;
    if !wide || based || !instruction.has_rep_prefix() || instruction.has_repne_prefix() {
        return None;
    }
    match instruction.code() {
        Stosb_m8_AL => Some(Kind::Fill(0)),
        Stosw_m16_AX => Some(Kind::Fill(1)),
        Stosd_m32_EAX => Some(Kind::Fill(2)),
        Stosq_m64_RAX => Some(Kind::Fill(3)),
        Movsb_m8_m8 => Some(Kind::Copy(0)),
        Movsw_m16_m16 => Some(Kind::Copy(1)),
        Movsd_m32_m32 => Some(Kind::Copy(2)),
        Movsq_m64_m64 => Some(Kind::Copy(3)),
        _ => None,
    }
}

/// In 32-bit code: operands relative to FS or GS, whose limits are not known to be flat, and 16-bit addresses.
fn unusual_address(instruction: &Instruction) -> bool {
    let segment = matches!(instruction.memory_segment(), Register::FS | Register::GS);
    segment || instruction.memory_base().is_gpr16() || instruction.memory_index().is_gpr16()
}

fn memory_kind(instruction: &Instruction, classifier: &mut Classifier) -> Kind {
    let size = instruction.memory_size();
    let bytes = match size {
        MemorySize::Fword6 => 6,
        _ => size.size() as u32,
    };
    if bytes == 0 || bytes > 64 {
        return Kind::Interpret;
    }
    let info = classifier.info.info(instruction);
    let Some(operand) = (0..instruction.op_count()).find(|&n| instruction.op_kind(n) == OpKind::Memory)
    else {
        return Kind::Interpret;
    };
    match info.op_access(operand) {
        OpAccess::Read | OpAccess::CondRead => Kind::Memory { size: bytes, write: false },
        OpAccess::Write | OpAccess::ReadWrite | OpAccess::ReadCondWrite => {
            Kind::Memory { size: bytes, write: true }
        }
        OpAccess::None | OpAccess::CondWrite | OpAccess::NoMemAccess => Kind::Interpret,
    }
}

/// Tells what instructions are, remembering what depends on their code alone.
pub struct Classifier {
    /// Operands, registers and memory of an instruction.
    pub info: InstructionInfoFactory,
    model: CpuModel,
    decoder_options: u32,
    /// By instruction code: 0 not looked at, else 1 + whether its instructions run as themselves.
    codes: Box<[u8]>,
}

impl Classifier {
    /// A classifier for guests with processors of `model`.
    pub fn new(model: &CpuModel) -> Classifier {
        Classifier {
            info: InstructionInfoFactory::new(),
            model: model.clone(),
            decoder_options: decoder_options(model),
            codes: vec![0; Code::values().len()].into(),
        }
    }

    /// Whether the host may execute the instruction on the guest's registers: it computes, neither reads nor changes
    /// anything that is the system's, and the guest's processor has it.
    fn runs_as_itself(&mut self, instruction: &Instruction) -> bool {
        let code = instruction.code() as usize;
        if self.codes[code] == 0 {
            self.codes[code] = 1 + u8::from(self.code_runs_as_itself(instruction));
        }
        self.codes[code] == 2 && !masked_memory(instruction)
    }

    fn code_runs_as_itself(&self, instruction: &Instruction) -> bool {
        !instruction.is_privileged()
            && !instruction.is_stack_instruction()
            && !instruction.is_string_instruction()
            && !instruction.is_vsib()
            && !refused(instruction)
            && !touches_segment_register(instruction)
            && instruction.cpuid_features().iter().all(|&feature| allowed_feature(feature))
            && has_instruction(&self.model, instruction)
            // LAHF and SAHF have a bit of their own in 64-bit code only: what is remembered must hold there too.
            && (self.model.has(Feature::LahfLm) || !matches!(instruction.mnemonic(), Mnemonic::Lahf | Mnemonic::Sahf))
    }
}

fn masked_memory(instruction: &Instruction) -> bool {
    instruction.has_op_mask()
        && (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory)
}

/// BT and its kin with a bit number from a register reach any word before or behind their operand.
fn bit_string(instruction: &Instruction) -> Option<Kind> {
    use Mnemonic::{Bt, Btc, Btr, Bts};
    let bit_test = matches!(instruction.mnemonic(), Bt | Bts | Btr | Btc);
    if !bit_test || instruction.op0_kind() != OpKind::Memory || instruction.op1_kind() != OpKind::Register {
        return None;
    }
    match instruction.memory_size().size() {
        size @ (4 | 8) => Some(Kind::BitString(size as u32)),
        _ => Some(Kind::Interpret),
    }
}

fn touches_segment_register(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|operand| {
        instruction.op_kind(operand) == OpKind::Register
            && instruction.op_register(operand).is_segment_register()
    })
}

/// Instructions of the basic sets that are sensitive, have implicit or unusual memory operands, or are rare enough.
fn refused(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    let named = matches!(
        instruction.mnemonic(),
        M::Sgdt
            | M::Sidt
            | M::Sldt
            | M::Str
            | M::Smsw
            | M::Lar
            | M::Lsl
            | M::Verr
            | M::Verw
            | M::Lss
            | M::Lfs
            | M::Lgs
            | M::Lds
            | M::Les
            | M::Xlatb
            | M::Enter
            | M::Std
            | M::Rdpmc
            | M::Cpuid
            | M::Rdtsc
            // Guests have bits of MXCSR that the host may not have, and the other way round.
            | M::Ldmxcsr
            | M::Vldmxcsr
            | M::Maskmovq
            | M::Maskmovdqu
            | M::Vmaskmovdqu
            | M::Vmaskmovps
            | M::Vmaskmovpd
            | M::Vpmaskmovd
            | M::Vpmaskmovq
            | M::Fnsave
            | M::Fsave
            | M::Frstor
            | M::Fnstenv
            | M::Fstenv
            | M::Fldenv
            | M::Fxsave
            | M::Fxrstor
            | M::Fxsave64
            | M::Fxrstor64
            | M::Clflush
            | M::Monitor
            | M::Mwait
    );
    let absolute = matches!(
        instruction.code(),
        Code::Mov_AL_moffs8
            | Code::Mov_AX_moffs16
            | Code::Mov_EAX_moffs32
            | Code::Mov_RAX_moffs64
            | Code::Mov_moffs8_AL
            | Code::Mov_moffs16_AX
            | Code::Mov_moffs32_EAX
            | Code::Mov_moffs64_RAX
    );
    named || absolute
}

fn allowed_feature(feature: CpuidFeature) -> bool {
    use CpuidFeature as F;
    matches!(
        feature,
        F::INTEL8086
            | F::INTEL8086_ONLY
            | F::INTEL186
            | F::INTEL286
            | F::INTEL386
            | F::INTEL486
            | F::X64
            | F::CMOV
            | F::CX8
            | F::CMPXCHG16B
            | F::FPU
            | F::FPU287
            | F::FPU387
            | F::MMX
            | F::MULTIBYTENOP
            | F::PAUSE
            | F::SSE
            | F::SSE2
            | F::SSE3
            | F::SSSE3
            | F::SSE4_1
            | F::SSE4_2
            | F::AES
            | F::PCLMULQDQ
            | F::POPCNT
            | F::LZCNT
            | F::BMI1
            | F::BMI2
            | F::ADX
            | F::MOVBE
            | F::SHA
            | F::AVX
            | F::AVX2
            | F::FMA
            | F::F16C
            | F::VAES
            | F::VPCLMULQDQ
            | F::GFNI
    )
}

fn extended_state(instruction: &Instruction) -> u8 {
    let vector = (0..instruction.op_count()).any(|operand| {
        instruction.op_kind(operand) == OpKind::Register
            && instruction.op_register(operand).is_vector_register()
    });
    let control = matches!(
        instruction.mnemonic(),
        Mnemonic::Ldmxcsr
            | Mnemonic::Stmxcsr
            | Mnemonic::Vldmxcsr
            | Mnemonic::Vstmxcsr
            | Mnemonic::Vzeroupper
            | Mnemonic::Vzeroall
    );
    // From memory to a general-purpose register, under MXCSR.
    let converts = matches!(
        instruction.mnemonic(),
        Mnemonic::Cvtsd2si
            | Mnemonic::Cvtss2si
            | Mnemonic::Cvttsd2si
            | Mnemonic::Cvttss2si
            | Mnemonic::Vcvtsd2si
            | Mnemonic::Vcvtss2si
            | Mnemonic::Vcvttsd2si
            | Mnemonic::Vcvttss2si
    );
    if vector || control || converts {
        let legacy = instruction.encoding() == EncodingKind::Legacy;
        return if legacy { extended::SSE } else { extended::AVX };
    }
    let x87 = instruction.mnemonic() == Mnemonic::Wait
        || instruction.cpuid_features().iter().any(|feature| {
            matches!(
                feature,
                CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387 | CpuidFeature::MMX
            )
        });
    let mmx = (0..instruction.op_count()).any(|operand| {
        instruction.op_kind(operand) == OpKind::Register && instruction.op_register(operand).is_mm()
    });
    if x87 || mmx { extended::X87 } else { 0 }
}

/// Whether the host may raise a fault of its own in the instruction (memory is always there when it executes).
pub fn may_fault(operation: &Operation) -> bool {
    operation.extended != 0
        || matches!(operation.instruction.mnemonic(), Mnemonic::Div | Mnemonic::Idiv | Mnemonic::Cmpxchg16b)
}

/// The key under which a page must be executable for a block of `linear`.
pub fn page_key(linear: u64, user: bool, physical: u64) -> u64 {
    tlb::exec_key(linear, user, physical)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: Decoding = Decoding { bits: 64, user: false, non_root: false, strict_flags: false };

    fn first_kind(model: &str, code: &[u8]) -> Kind {
        let mut classifier = Classifier::new(&CpuModel::parse(model).unwrap());
        decode_block(0x1000, code, BLOCK_LIMIT, WIDE, &mut classifier)[0].kind
    }

    #[test]
    fn what_the_model_lacks_is_left_to_t0() {
        let popcnt = [0xf3, 0x48, 0x0f, 0xb8, 0xc1];
        assert_eq!(first_kind("x86-64-v2", &popcnt), Kind::Plain);
        assert_eq!(first_kind("x86-64-v1", &popcnt), Kind::Interpret);
    }

    #[test]
    fn an_instruction_that_leaves_the_page_is_a_block_of_its_own_for_t0() {
        let mut classifier = Classifier::new(&CpuModel::parse("max").unwrap());
        let alone = decode_block(0x1fff, &[0x48], BLOCK_LIMIT, WIDE, &mut classifier);
        assert_eq!(alone.iter().map(|operation| operation.kind).collect::<Vec<_>>(), [Kind::Interpret]);
        assert_eq!(alone[0].instruction.next_ip(), 0x2000);
        let after_another = decode_block(0x1ffe, &[0x90, 0x48], BLOCK_LIMIT, WIDE, &mut classifier);
        assert_eq!(after_another.len(), 1);
    }
}
