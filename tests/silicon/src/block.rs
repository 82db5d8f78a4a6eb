//! Cases of many instructions: straight code with memory operands, jumps over instructions, calls, loops.
//!
//! Registers that addresses are made of keep their initial values until they have been used, so that every operand lies
//! where it was meant to.

use crate::address::{self, Operand};
use crate::case::{CODE_LIMIT, Case, Registers};
use crate::excluded;
use crate::forms::{Addressing, Form, Prefix, Shape};
use crate::host::BACKGROUNDS;
use crate::layout::{CODE, DATA, HIGH, LOW, PAGE};
use crate::random::Random;
use crate::single::Test;
use crate::values;
use gasang_x86::{gpr, rflags};
use iced_x86::{
    FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpCodeOperandKind, OpKind, Register,
};

/// CMP EAX, EBX: every status flag is defined again.
const DEFINE_FLAGS: [u8; 2] = [0x39, 0xd8];
/// Code ends early enough for the end of a loop.
const BODY_LIMIT: usize = CODE_LIMIT - 48;
/// Room that a frame of instructions leaves around the stack pointer.
const STACK: u64 = DATA + PAGE + 2048;

/// The forms that blocks are made of.
pub fn ingredients(forms: &[Form]) -> Vec<Form> {
    forms.iter().filter(|form| is_ingredient(form)).cloned().collect()
}

fn is_ingredient(form: &Form) -> bool {
    use Mnemonic as M;
    let instruction = &form.instruction;
    let shape = match form.shape {
        Shape::Memory(addressing) => !matches!(
            addressing,
            Addressing::Gather | Addressing::Offset | Addressing::OffsetFs | Addressing::StackPointer
        ),
        Shape::Registers(_) => true,
    };
    let named = matches!(
        instruction.mnemonic(),
        M::Popf
            | M::Popfq
            | M::Enter
            | M::Leave
            | M::Xlatb
            | M::Wrfsbase
            | M::Wrgsbase
            | M::Wait
            | M::Ldmxcsr
    ) || matches!(instruction.mnemonic(), M::Vldmxcsr | M::Fldcw | M::Clflush | M::Std);
    let moves_stack = instruction.is_stack_instruction() && !pushes_or_pops(instruction);
    shape
        && !named
        && !moves_stack
        && matches!(form.prefix, Prefix::None | Prefix::Lock)
        && instruction.flow_control() == FlowControl::Next
        && !instruction.is_privileged()
        && !instruction.is_string_instruction()
        && !excluded::has_parts(instruction)
        && excluded::memory_ranges(instruction).is_empty()
}

/// PUSH and POP of 64-bit registers.
fn pushes_or_pops(instruction: &Instruction) -> bool {
    let one_register = instruction.op_count() == 1 && instruction.op0_kind() == OpKind::Register;
    matches!(instruction.mnemonic(), Mnemonic::Push | Mnemonic::Pop)
        && one_register
        && instruction.op0_register().is_gpr64()
}

/// A block being put together.
struct Draft<'a> {
    random: &'a mut Random,
    registers: Registers,
    code: Vec<u8>,
    window: u64,
    /// Registers, as bits, whose initial values addresses depend on.
    pinned: u16,
    /// Registers that an instruction so far may have written.
    written: u16,
    /// Registers that no instruction may write.
    protected: u16,
    segment_used: bool,
    factory: InstructionInfoFactory,
}

fn bit(register: Register) -> u16 {
    if register.is_gpr() { 1 << register.full_register().number() } else { 0 }
}

/// A random block of `ingredients`.
pub fn case(ingredients: &[Form], random: &mut Random) -> Test {
    let mut registers = values::registers(random);
    registers.rflags &= !rflags::AC;
    // Mostly without exceptions that would end it early.
    if !random.one_in(8) {
        registers.extended[24..26].copy_from_slice(&0x1f80u16.to_le_bytes());
        registers.extended[0..2].copy_from_slice(&0x37fu16.to_le_bytes());
        registers.extended[2] = 0;
        registers.extended[3] &= 0x7f;
    }
    let window = if random.one_in(2) { LOW } else { HIGH };
    registers.gpr[gpr::RSP] = window + STACK + random.below(64);
    let code_offset = 128 + random.below(2 * PAGE - 1024);
    registers.rip = window + CODE + code_offset;
    let protected = (0..3).fold(1 << gpr::RSP, |set, _| set | 1 << random.below(16));
    let mut draft = Draft {
        random,
        registers,
        code: Vec::new(),
        window,
        pinned: 1 << gpr::RSP,
        written: 0,
        protected,
        segment_used: false,
        factory: InstructionInfoFactory::new(),
    };
    draft.body(ingredients);
    draft.close_loop();
    let mut case = Case::EMPTY;
    case.code[..draft.code.len()].copy_from_slice(&draft.code);
    case.code_length = draft.code.len() as u32;
    case.code_offset = code_offset as u32;
    case.background = draft.random.below(BACKGROUNDS as u64) as u32;
    case.registers = draft.registers;
    Test { case, start: 0, dead_at_fault: rflags::STATUS, undefined: 0 }
}

impl Draft<'_> {
    fn body(&mut self, ingredients: &[Form]) {
        let count = 5 + self.random.below(16);
        for _ in 0..count {
            let piece = match self.random.below(12) {
                0 => self.skipped(ingredients),
                1 => self.called(ingredients),
                _ => self.instruction(ingredients, 0),
            };
            if self.code.len() + piece.len() > BODY_LIMIT {
                break;
            }
            self.code.extend(piece);
        }
    }

    /// An instruction that a conditional jump may skip.
    fn skipped(&mut self, ingredients: &[Form]) -> Vec<u8> {
        let piece = self.instruction(ingredients, 2);
        let jump = [0x70 | self.random.below(16) as u8, piece.len() as u8];
        [&jump[..], &piece].concat()
    }

    /// An instruction in a procedure of its own: CALL, JMP over it, the instruction, RET.
    fn called(&mut self, ingredients: &[Form]) -> Vec<u8> {
        let before = self.written;
        let piece = self.instruction(ingredients, 7);
        if self.moved_stack(&piece) {
            self.written = before;
            return Vec::new();
        }
        let call = [0xe8, 2, 0, 0, 0, 0xeb, piece.len() as u8 + 1];
        [&call[..], &piece, &[0xc3]].concat()
    }

    /// Whether the bytes are a PUSH or POP.
    fn moved_stack(&self, piece: &[u8]) -> bool {
        let decoded = iced_x86::Decoder::with_ip(64, piece, 0, iced_x86::DecoderOptions::NONE).decode();
        pushes_or_pops(&decoded)
    }

    /// One instruction, to be executed `ahead` bytes behind the code so far; with what defines its flags.
    fn instruction(&mut self, ingredients: &[Form], ahead: usize) -> Vec<u8> {
        let rip = self.registers.rip + (self.code.len() + ahead) as u64;
        loop {
            let form = &ingredients[self.random.below(ingredients.len() as u64) as usize];
            let mut instruction = form.instruction;
            let written = self.writes(&instruction);
            let harms = written & self.protected != 0 && !pushes_or_pops(&instruction)
                || pushes_or_pops(&instruction) && written & !(1 << gpr::RSP) & self.protected != 0;
            if harms || excluded::has_memory(&instruction) && !self.place(&mut instruction) {
                continue;
            }
            let Some(mut bytes) = form.encode(&instruction, rip) else { continue };
            self.written |= written & !(1 << gpr::RSP);
            if excluded::undefined_flags(&instruction) != 0 {
                bytes.extend(DEFINE_FLAGS);
            }
            return bytes;
        }
    }

    /// The general-purpose registers that an instruction may write.
    fn writes(&mut self, instruction: &Instruction) -> u16 {
        let info = self.factory.info(instruction);
        info.used_registers()
            .iter()
            .filter(|used| !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None))
            .fold(0, |set, used| set | bit(used.register()))
    }

    /// Make the memory operand lie in the data pages; whether that can be done.
    fn place(&mut self, instruction: &mut Instruction) -> bool {
        let operand = Operand::encoded(instruction);
        let registers = bit(operand.base) | bit(operand.index);
        let segment = matches!(operand.segment, Register::FS | Register::GS);
        if registers & self.written != 0 || segment && self.segment_used || is_bit_string(instruction) {
            return false;
        }
        let size = instruction.memory_size().size().max(1) as u64;
        let mut target = address::harmless(self.random, size);
        if size >= 16 && !self.random.one_in(16) {
            target &= !63;
        }
        if operand.base.is_gpr() {
            let low_only = operand.narrow;
            let window = if low_only { LOW } else { self.window };
            if bit(operand.base) & self.pinned != 0 {
                return false;
            }
            operand.place(&mut self.registers, self.random, window + target);
            self.segment_used |= segment;
        } else {
            let far = matches!(operand.base, Register::RIP) && self.window == HIGH;
            let reachable = !matches!(operand.base, Register::EIP) || self.window == LOW;
            let index = match bit(operand.index) {
                0 => 0,
                _ => address::read(&self.registers, operand.index).wrapping_mul(operand.scale),
            };
            let displacement = (if far { HIGH } else { LOW } + target).wrapping_sub(index);
            if segment || !reachable || operand.index != Register::None && displacement >> 31 != 0 {
                return false;
            }
            instruction.set_memory_displacement64(displacement);
        }
        self.pinned |= registers;
        true
    }

    /// Sometimes, execute all of it a few times.
    fn close_loop(&mut self) {
        let counter = (0..16).find(|number| {
            let bit = 1 << number;
            *number != gpr::RSP && self.protected & bit != 0 && self.pinned & bit == 0
        });
        let (Some(counter), true) = (counter, self.random.one_in(3)) else { return };
        if self.pinned & self.written != 0 {
            return;
        }
        self.registers.gpr[counter] = 2 + self.random.below(3);
        let rex = 0x48 | (counter >> 3) as u8;
        self.code.extend([rex, 0xff, 0xc8 | (counter & 7) as u8]); // dec counter
        let back = -(self.code.len() as i32 + 6);
        self.code.extend([0x0f, 0x85]); // jnz to the start
        self.code.extend(back.to_le_bytes());
    }
}

/// BT and its kin with a bit offset in a register.
fn is_bit_string(instruction: &Instruction) -> bool {
    let tests =
        matches!(instruction.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc);
    tests && instruction.code().op_code().op_kind(1) != OpCodeOperandKind::imm8
}
