//! Instruction forms, from the decoder's own tables: every opcode of 64-bit user mode that this host has, with every
//! kind of register and every way of addressing.

use crate::excluded;
use crate::layout::{CODE, LOW};
use crate::random::Random;
use iced_x86::{Code, Decoder, DecoderOptions, Encoder, Instruction, OpCodeOperandKind, OpKind, Register};
use std::sync::LazyLock;

/// A way of addressing a memory operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Addressing {
    Base,
    BaseDisplacement8,
    BaseDisplacement32,
    BaseIndex,
    BaseIndexDisplacement8,
    BaseIndexDisplacement32,
    IndexDisplacement32,
    Absolute,
    InstructionPointer,
    Fs,
    Gs,
    Address32,
    Address32Index,
    InstructionPointer32,
    StackPointer,
    R12,
    FramePointer,
    R13,
    SpilledBase,
    SpilledIndex,
    /// Vector indices.
    Gather,
    /// The operand of MOV that is nothing but a 64-bit displacement.
    Offset,
    /// The same in FS.
    OffsetFs,
}

impl Addressing {
    const EVERY: [Addressing; 20] = [
        Addressing::Base,
        Addressing::BaseDisplacement8,
        Addressing::BaseDisplacement32,
        Addressing::BaseIndex,
        Addressing::BaseIndexDisplacement8,
        Addressing::BaseIndexDisplacement32,
        Addressing::IndexDisplacement32,
        Addressing::Absolute,
        Addressing::InstructionPointer,
        Addressing::Fs,
        Addressing::Gs,
        Addressing::Address32,
        Addressing::Address32Index,
        Addressing::InstructionPointer32,
        Addressing::StackPointer,
        Addressing::R12,
        Addressing::FramePointer,
        Addressing::R13,
        Addressing::SpilledBase,
        Addressing::SpilledIndex,
    ];

    /// Whether only the window below 4 GiB is in reach.
    pub fn is_low(self) -> bool {
        matches!(
            self,
            Addressing::IndexDisplacement32
                | Addressing::Absolute
                | Addressing::Address32
                | Addressing::Address32Index
                | Addressing::InstructionPointer32
        )
    }
}

/// Which registers an instruction's register operands are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// RAX, RCX, RDX, RBX, RSI, RDI.
    Low,
    /// R9 to R11: the translator keeps them in memory.
    Spilled,
    /// R8, R12 to R15.
    High,
    /// RSP, RBP.
    Stack,
    /// AH, CH, DH, BH where the operand is a byte.
    HighByte,
    /// Any.
    Mixed,
    /// All the same.
    Same,
}

impl Class {
    const EVERY: [Class; 7] =
        [Class::Low, Class::Spilled, Class::High, Class::Stack, Class::HighByte, Class::Mixed, Class::Same];

    /// The number of a register.
    fn number(self, random: &mut Random, same: u32) -> u32 {
        match self {
            Class::Low => random.pick(&[0, 1, 2, 3, 6, 7]),
            Class::Spilled => random.pick(&[9, 10, 11]),
            Class::High => random.pick(&[8, 12, 13, 14, 15]),
            Class::Stack => random.pick(&[4, 5]),
            Class::HighByte => random.below(4) as u32,
            Class::Mixed => random.below(16) as u32,
            Class::Same => same,
        }
    }
}

/// What distinguishes a form from others of its opcode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shape {
    /// No memory operand that the encoding describes.
    Registers(Class),
    /// With a memory operand.
    Memory(Addressing),
}

/// A prefix of an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Prefix {
    /// None.
    None,
    /// LOCK where it is allowed.
    Lock,
    /// LOCK where it is not.
    InvalidLock,
    /// REP or REPE.
    Repeat,
    /// REPNE.
    RepeatNotEqual,
}

/// An instruction form.
#[derive(Debug, Clone)]
pub struct Form {
    /// The instruction; displacements without registers and branch targets are chosen for each case.
    pub instruction: Instruction,
    /// Registers or addressing.
    pub shape: Shape,
    /// Prefix.
    pub prefix: Prefix,
}

impl Form {
    /// Its bytes at `rip`; None if it cannot be encoded there.
    pub fn encode(&self, instruction: &Instruction, rip: u64) -> Option<Vec<u8>> {
        let invalid_lock = self.prefix == Prefix::InvalidLock;
        let mut encoder = Encoder::new(64);
        encoder.encode(instruction, rip + u64::from(invalid_lock)).ok()?;
        let mut bytes = encoder.take_buffer();
        if invalid_lock {
            bytes.insert(0, 0xf0);
        }
        (bytes.len() <= 15).then_some(bytes)
    }

    fn is_decoded_as_encoded(&self) -> bool {
        let rip = LOW + CODE;
        let Some(bytes) = self.encode(&self.instruction, rip) else { return false };
        if self.prefix == Prefix::InvalidLock {
            return true;
        }
        let decoded = Decoder::with_ip(64, &bytes, rip, DecoderOptions::NONE).decode();
        decoded.code() == self.instruction.code()
    }
}

/// Whether the opcode belongs to 64-bit user mode on this host.
fn is_candidate(code: Code) -> bool {
    let description = code.op_code();
    description.is_instruction()
        && description.mode64()
        && description.decoder_option() == DecoderOptions::NONE
        && excluded::reason(code).is_none()
        && !code.cpuid_features().is_empty()
        && code.cpuid_features().iter().all(|&feature| excluded::host_has(feature))
}

/// Every form, in the same order each time.
pub fn every(seed: u64) -> Vec<Form> {
    let mut forms = Vec::new();
    for (index, code) in Code::values().enumerate().filter(|(_, code)| is_candidate(*code)) {
        forms_of(code, &mut Random::of(seed, index as u64), &mut forms);
    }
    forms
}

/// The bytes of any instruction that 64-bit mode knows, system instructions and features of other processors included;
/// None if the draw does not come out.
pub fn random_bytes(random: &mut Random) -> Option<Vec<u8>> {
    static CODES: LazyLock<Vec<Code>> = LazyLock::new(|| {
        let usable = |code: &Code| {
            let description = code.op_code();
            description.is_instruction()
                && description.mode64()
                && description.decoder_option() == DecoderOptions::NONE
        };
        Code::values().filter(usable).collect()
    });
    let code = random.pick(&CODES);
    let shapes = shapes(code.op_code().op_kinds());
    let shape = *shapes.get(random.below(shapes.len() as u64) as usize)?;
    let prefix = match random.below(12) {
        0 if code.op_code().can_use_rep_prefix() => Prefix::Repeat,
        1 if code.op_code().can_use_lock_prefix() => Prefix::Lock,
        _ => Prefix::None,
    };
    let form = form(code, shape, prefix, random)?;
    form.encode(&form.instruction, LOW + CODE)
}

fn forms_of(code: Code, random: &mut Random, forms: &mut Vec<Form>) {
    let description = code.op_code();
    let prefixes = [
        (Prefix::None, true),
        (Prefix::Repeat, description.can_use_rep_prefix()),
        (Prefix::RepeatNotEqual, description.can_use_repne_prefix()),
        (Prefix::Lock, description.can_use_lock_prefix()),
    ];
    for shape in shapes(description.op_kinds()) {
        for prefix in prefixes.iter().filter(|(_, possible)| *possible).map(|&(prefix, _)| prefix) {
            let prefix = match (prefix, shape) {
                (Prefix::Lock, Shape::Registers(Class::Low)) => Prefix::InvalidLock,
                (Prefix::Lock, Shape::Registers(_)) => continue,
                _ => prefix,
            };
            // Registers that go with REX do not go with AH and its kin: another draw may fit.
            let found = (0..8).filter_map(|_| form(code, shape, prefix, random)).next();
            forms.extend(found);
        }
        let refuses_lock = !description.can_use_lock_prefix() && shape == Shape::Memory(Addressing::Base);
        if refuses_lock {
            forms.extend(form(code, shape, Prefix::InvalidLock, random));
        }
    }
}

/// The shapes that operands of these kinds allow.
fn shapes(kinds: &[OpCodeOperandKind]) -> Vec<Shape> {
    use OpCodeOperandKind as K;
    let mut shapes = Vec::new();
    let is_gather =
        |kind: &K| matches!(kind, K::mem_vsib32x | K::mem_vsib32y | K::mem_vsib64x | K::mem_vsib64y);
    if kinds.iter().any(is_gather) {
        return vec![Shape::Memory(Addressing::Gather)];
    }
    if kinds.contains(&K::mem_offs) {
        return vec![Shape::Memory(Addressing::Offset), Shape::Memory(Addressing::OffsetFs)];
    }
    if !kinds.contains(&K::mem) {
        let registers = kinds.iter().any(|&kind| is_register_choice(kind));
        let classes = if registers { &Class::EVERY[..] } else { &Class::EVERY[..1] };
        shapes.extend(classes.iter().map(|&class| Shape::Registers(class)));
    }
    if kinds.iter().any(|&kind| is_memory(kind)) {
        shapes.extend(Addressing::EVERY.map(Shape::Memory));
    }
    shapes
}

fn is_memory(kind: OpCodeOperandKind) -> bool {
    use OpCodeOperandKind as K;
    matches!(
        kind,
        K::mem
            | K::r8_or_mem
            | K::r16_or_mem
            | K::r32_or_mem
            | K::r64_or_mem
            | K::mm_or_mem
            | K::xmm_or_mem
            | K::ymm_or_mem
    )
}

/// The first register of the bank that an operand of this kind chooses from.
fn bank(kind: OpCodeOperandKind) -> Option<Register> {
    use OpCodeOperandKind as K;
    Some(match kind {
        K::r8_or_mem | K::r8_reg | K::r8_opcode => Register::AL,
        K::r16_or_mem | K::r16_reg | K::r16_reg_mem | K::r16_rm | K::r16_opcode => Register::AX,
        K::r32_or_mem | K::r32_reg | K::r32_reg_mem | K::r32_rm | K::r32_opcode | K::r32_vvvv => {
            Register::EAX
        }
        K::r64_or_mem | K::r64_reg | K::r64_reg_mem | K::r64_rm | K::r64_opcode | K::r64_vvvv => {
            Register::RAX
        }
        K::mm_or_mem | K::mm_reg | K::mm_rm => Register::MM0,
        K::xmm_or_mem | K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 | K::xmm_is5 => Register::XMM0,
        K::ymm_or_mem | K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 | K::ymm_is5 => Register::YMM0,
        K::cr_reg => Register::CR0,
        K::dr_reg => Register::DR0,
        K::seg_reg => Register::ES,
        K::sti_opcode => Register::ST0,
        _ => return None,
    })
}

fn is_register_choice(kind: OpCodeOperandKind) -> bool {
    bank(kind).is_some()
}

fn register(kind: OpCodeOperandKind, class: Class, random: &mut Random, same: u32) -> Option<Register> {
    let first = bank(kind)?;
    let number = class.number(random, same);
    Some(match first {
        Register::AL if class == Class::HighByte => Register::AH + number % 4,
        Register::AL => {
            const BYTES: [Register; 8] = [
                Register::AL,
                Register::CL,
                Register::DL,
                Register::BL,
                Register::SPL,
                Register::BPL,
                Register::SIL,
                Register::DIL,
            ];
            if number < 8 { BYTES[number as usize] } else { Register::R8L + (number - 8) }
        }
        Register::MM0 | Register::ST0 | Register::CR0 | Register::DR0 => first + number % 8,
        Register::ES => first + number % 6,
        _ => first + number,
    })
}

/// The register of an operand that has no choice.
fn fixed_register(kind: OpCodeOperandKind) -> Option<Register> {
    use OpCodeOperandKind as K;
    Some(match kind {
        K::es => Register::ES,
        K::cs => Register::CS,
        K::ss => Register::SS,
        K::ds => Register::DS,
        K::fs => Register::FS,
        K::gs => Register::GS,
        K::al => Register::AL,
        K::cl => Register::CL,
        K::ax => Register::AX,
        K::dx => Register::DX,
        K::eax => Register::EAX,
        K::rax => Register::RAX,
        K::st0 => Register::ST0,
        _ => return None,
    })
}

fn form(code: Code, shape: Shape, prefix: Prefix, random: &mut Random) -> Option<Form> {
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    let class = match shape {
        Shape::Registers(class) => class,
        Shape::Memory(_) if random.one_in(4) => Class::HighByte,
        Shape::Memory(_) => Class::Mixed,
    };
    let same = random.below(16) as u32;
    for (index, &kind) in code.op_code().op_kinds().iter().enumerate() {
        operand(&mut instruction, index as u32, kind, shape, class, random, same)?;
    }
    match prefix {
        Prefix::None | Prefix::InvalidLock => {}
        Prefix::Lock => instruction.set_has_lock_prefix(true),
        Prefix::Repeat => instruction.set_has_rep_prefix(true),
        Prefix::RepeatNotEqual => instruction.set_has_repne_prefix(true),
    }
    let form = Form { instruction, shape, prefix };
    form.is_decoded_as_encoded().then_some(form)
}

fn operand(
    instruction: &mut Instruction,
    index: u32,
    kind: OpCodeOperandKind,
    shape: Shape,
    class: Class,
    random: &mut Random,
    same: u32,
) -> Option<()> {
    use OpCodeOperandKind as K;
    match shape {
        Shape::Memory(addressing) if is_memory(kind) => {
            instruction.set_op_kind(index, OpKind::Memory);
            address(instruction, addressing, random);
            return Some(());
        }
        _ => {}
    }
    if let Some(register) = fixed_register(kind).or_else(|| register(kind, class, random, same)) {
        instruction.set_op_kind(index, OpKind::Register);
        instruction.set_op_register(index, register);
        return Some(());
    }
    let immediate = |instruction: &mut Instruction, kind: OpKind, value: u64| {
        instruction.set_op_kind(index, kind);
        instruction.set_immediate_u64(index, value);
    };
    let value = random_immediate(random);
    match kind {
        K::imm8
            if instruction.op_count() == 2 && index == 1 && instruction.code() == Code::Enterq_imm16_imm8 =>
        {
            instruction.set_op_kind(index, OpKind::Immediate8_2nd);
            instruction.set_immediate8_2nd(value as u8);
        }
        K::imm8 if index > 0 && instruction.op_kind(index - 1) == OpKind::Immediate8 => {
            instruction.set_op_kind(index, OpKind::Immediate8_2nd);
            instruction.set_immediate8_2nd(value as u8);
        }
        K::imm8 => immediate(instruction, OpKind::Immediate8, value & 0xff),
        K::imm8_const_1 => immediate(instruction, OpKind::Immediate8, 1),
        K::imm8sex16 => immediate(instruction, OpKind::Immediate8to16, value as i8 as u64),
        K::imm8sex32 => immediate(instruction, OpKind::Immediate8to32, value as i8 as u64),
        K::imm8sex64 => immediate(instruction, OpKind::Immediate8to64, value as i8 as u64),
        K::imm16 => immediate(instruction, OpKind::Immediate16, value & 0xffff),
        K::imm32 => immediate(instruction, OpKind::Immediate32, value & 0xffff_ffff),
        K::imm32sex64 => immediate(instruction, OpKind::Immediate32to64, value as i32 as u64),
        K::imm64 => immediate(instruction, OpKind::Immediate64, value),
        K::br64_1 | K::br64_4 => {
            instruction.set_op_kind(index, OpKind::NearBranch64);
            instruction.set_near_branch64(LOW + CODE + 16);
        }
        K::seg_rSI => {
            instruction.set_op_kind(index, random.pick(&[OpKind::MemorySegRSI, OpKind::MemorySegESI]))
        }
        K::es_rDI => instruction.set_op_kind(index, random.pick(&[OpKind::MemoryESRDI, OpKind::MemoryESEDI])),
        K::seg_rDI => {
            instruction.set_op_kind(index, random.pick(&[OpKind::MemorySegRDI, OpKind::MemorySegEDI]))
        }
        K::seg_rBX_al => {
            instruction.set_op_kind(index, OpKind::Memory);
            instruction.set_memory_base(random.pick(&[Register::RBX, Register::EBX]));
            instruction.set_memory_index(Register::AL);
        }
        K::mem_offs => {
            instruction.set_op_kind(index, OpKind::Memory);
            instruction.set_memory_displ_size(8);
            instruction.set_memory_displacement64(LOW);
            if shape == Shape::Memory(Addressing::OffsetFs) {
                instruction.set_segment_prefix(Register::FS);
            }
        }
        K::mem_vsib32x | K::mem_vsib64x => gather(instruction, index, Register::XMM0, random),
        K::mem_vsib32y | K::mem_vsib64y => gather(instruction, index, Register::YMM0, random),
        _ => return None,
    }
    Some(())
}

fn random_immediate(random: &mut Random) -> u64 {
    match random.below(4) {
        0 => random.next(),
        1 => random.around(40) as u64,
        2 => random.pick(&[0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0x7fff_ffff, 0x8000_0000, !0, 1 << 63]),
        _ => random.below(256),
    }
}

fn gather(instruction: &mut Instruction, operand: u32, bank: Register, random: &mut Random) {
    instruction.set_op_kind(operand, OpKind::Memory);
    instruction.set_memory_base(Register::RAX + random.below(16) as u32);
    instruction.set_memory_index(bank + random.below(16) as u32);
    instruction.set_memory_index_scale(random.pick(&[1, 2, 4, 8]));
    displacement(instruction, random.around(1000));
}

fn displacement(instruction: &mut Instruction, value: i64) {
    instruction.set_memory_displ_size(if i8::try_from(value).is_ok() { 1 } else { 8 });
    instruction.set_memory_displacement64(value as u64);
}

/// Give the instruction's memory operand its registers.
fn address(instruction: &mut Instruction, addressing: Addressing, random: &mut Random) {
    use Addressing as A;
    const NO_RSP: [u32; 15] = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    let first = if addressing.is_low() && matches!(addressing, A::Address32 | A::Address32Index) {
        Register::EAX
    } else {
        Register::RAX
    };
    let any_base = random.below(16) as u32;
    let base = match addressing {
        A::StackPointer => 4,
        A::R12 => 12,
        A::FramePointer => 5,
        A::R13 => 13,
        A::SpilledBase | A::SpilledIndex => random.pick(&[9, 10, 11]),
        _ => any_base,
    };
    let mut index = random.pick(&NO_RSP);
    if addressing == A::SpilledIndex {
        index = random.pick(&[9, 10, 11]);
    }
    if index == base {
        index = if index == 15 { 8 } else { index + 1 };
    }
    if index == 4 {
        index = if base == 3 { 1 } else { 3 };
    }
    instruction.set_memory_index_scale(1);
    match addressing {
        A::Absolute => {
            instruction.set_memory_displ_size(8);
            instruction.set_memory_displacement64(LOW);
            return;
        }
        A::InstructionPointer | A::InstructionPointer32 => {
            let rip = if addressing == A::InstructionPointer { Register::RIP } else { Register::EIP };
            instruction.set_memory_base(rip);
            instruction.set_memory_displ_size(8);
            instruction.set_memory_displacement64(LOW);
            return;
        }
        A::IndexDisplacement32 => {}
        _ => instruction.set_memory_base(first + base),
    }
    let indexed = matches!(
        addressing,
        A::BaseIndex
            | A::BaseIndexDisplacement8
            | A::BaseIndexDisplacement32
            | A::IndexDisplacement32
            | A::Address32Index
            | A::SpilledIndex
    ) || random.one_in(3) && matches!(addressing, A::Fs | A::Gs | A::StackPointer);
    if indexed {
        instruction.set_memory_index(first + index);
        instruction.set_memory_index_scale(random.pick(&[1, 2, 4, 8]));
    }
    match addressing {
        A::BaseDisplacement8 | A::BaseIndexDisplacement8 => displacement(instruction, random.around(127)),
        A::IndexDisplacement32 => {
            instruction.set_memory_displ_size(8);
            instruction.set_memory_displacement64(LOW);
        }
        A::BaseDisplacement32
        | A::BaseIndexDisplacement32
        | A::Fs
        | A::Gs
        | A::Address32
        | A::Address32Index
        | A::StackPointer
        | A::FramePointer => {
            displacement(instruction, random.around(0x7fff_ff00));
        }
        _ => {}
    }
    match addressing {
        A::Fs => instruction.set_segment_prefix(Register::FS),
        A::Gs => instruction.set_segment_prefix(Register::GS),
        _ => {}
    }
}
