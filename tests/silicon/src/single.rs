//! Cases of one instruction.

use crate::address::{self, Operand};
use crate::case::{CODE_LIMIT, Case, EXTENDED_BYTES, Patch, Registers};
use crate::excluded;
use crate::forms::{Addressing, Form, Prefix, Shape};
use crate::layout::{CODE, CODE_BYTES, DATA, DATA_BYTES, HIGH, LOW, PAGE};
use crate::random::Random;
use crate::values::{self, Flavor};
use gasang_x86::{gpr, rflags};
use iced_x86::{
    FlowControl, Instruction, InstructionInfoFactory, MemorySize, Mnemonic, OpKind, Register, UsedMemory,
};

/// A case and what its comparison has to know.
#[derive(Debug, Clone)]
pub struct Test {
    /// The case.
    pub case: Case,
    /// Where the instruction under test begins in the code.
    pub start: usize,
    /// Status flags that the instruction or what follows it overwrites: a translator that was not told to be strict
    /// need not have them at a fault.
    pub dead_at_fault: u64,
    /// Status flags that the code leaves undefined.
    pub undefined: u64,
}

/// Instructions before the one under test: the flags are then the host's.
const PREFIXES: [&[u8]; 5] = [
    &[],
    &[0x39, 0xd8],       // cmp eax, ebx
    &[0x4d, 0x39, 0xc8], // cmp r8, r9
    &[0xa8, 0x81],       // test al, 0x81
    &[0x90],             // nop
];

/// What follows the instruction: its flags are alive, dead, read, or partly read.
struct Suffix {
    code: &'static [u8],
    reads: u64,
    writes: u64,
}

const SUFFIXES: [Suffix; 5] = [
    Suffix { code: &[], reads: 0, writes: 0 },
    // cmp eax, ebx
    Suffix { code: &[0x39, 0xd8], reads: 0, writes: rflags::STATUS },
    // lahf
    Suffix { code: &[0x9f], reads: rflags::STATUS & !rflags::OF, writes: 0 },
    // setb al
    Suffix { code: &[0x0f, 0x92, 0xc0], reads: rflags::CF, writes: 0 },
    // adc eax, 0
    Suffix { code: &[0x83, 0xd0, 0x00], reads: rflags::CF, writes: rflags::STATUS },
];

/// What is being put together.
struct Draft<'a> {
    random: &'a mut Random,
    instruction: Instruction,
    registers: Registers,
    /// Which of the windows addresses lie in.
    window: u64,
    patches: Vec<Patch>,
    /// An operand was put where it may fault.
    harmed: bool,
}

/// A random case of a form; None if the encoding does not come out.
pub fn case(form: &Form, random: &mut Random) -> Option<Test> {
    let mut registers = values::registers(random);
    if excluded::alignment_is_odd(&form.instruction) {
        registers.rflags &= !rflags::AC;
    }
    let low = matches!(form.shape, Shape::Memory(addressing) if addressing.is_low());
    let window = if low || random.one_in(2) { LOW } else { HIGH };
    let mut draft = Draft {
        random,
        instruction: form.instruction,
        registers,
        window,
        patches: Vec::new(),
        harmed: false,
    };
    let prefix = draft.random.pick(&PREFIXES);
    // Undefined flags must not find their way into registers.
    let undefined = excluded::undefined_flags(&form.instruction);
    let suffixes: Vec<_> = SUFFIXES.iter().filter(|suffix| suffix.reads & undefined == 0).collect();
    let suffix = draft.random.pick(&suffixes);
    let code_offset = draft.code_offset();
    draft.registers.rip = window + CODE + code_offset;
    let rip = draft.registers.rip + prefix.len() as u64;
    draft.operands(form);
    draft.flow(rip);
    let bytes = form.encode(&draft.instruction, rip)?;
    let mut case = Case::EMPTY;
    let code = [prefix, &bytes, suffix.code].concat();
    let length = code.len().min(CODE_LIMIT).min(CODE_BYTES - code_offset as usize);
    case.code[..length].copy_from_slice(&code[..length]);
    case.code_length = length as u32;
    case.code_offset = code_offset as u32;
    case.background = draft.random.below(crate::host::BACKGROUNDS as u64) as u32;
    for (slot, patch) in case.patches.iter_mut().zip(&draft.patches) {
        *slot = *patch;
    }
    case.registers = draft.registers;
    let dead_at_fault = suffix.writes | excluded::status_flags(form.instruction.rflags_modified());
    let undefined = if length < code.len() { undefined } else { undefined & !suffix.writes };
    Some(Test { case, start: prefix.len(), dead_at_fault, undefined })
}

impl Draft<'_> {
    /// Where the code begins: mostly in the middle of a page, sometimes across the pages or at their end.
    fn code_offset(&mut self) -> u64 {
        match self.random.below(16) {
            0 | 1 => PAGE - 1 - self.random.below(12),
            2 if self.random.one_in(4) && !excluded::is_refused_early(self.instruction.code()) => {
                2 * PAGE - 1 - self.random.below(12)
            }
            _ => 512 + self.random.below(2 * PAGE - 2048),
        }
    }

    /// An address for a memory operand.
    fn target(&mut self, size: u64) -> u64 {
        // Of the two operands of CMPS, which one faults first is the processor's choice.
        let one_only = self.instruction.is_string_instruction() && self.instruction.op_count() == 2;
        if self.random.one_in(6) && !(self.harmed && one_only) {
            self.harmed = true;
            let parts = excluded::has_parts(&self.instruction);
            return address::harmful(self.random, self.window, size, parts);
        }
        self.window + address::harmless(self.random, size)
    }

    /// Place every memory operand, then see to the instructions that want something special.
    fn operands(&mut self, form: &Form) {
        self.counters(form.prefix);
        if form.shape == Shape::Memory(Addressing::Gather) {
            return self.gather();
        }
        if let Shape::Memory(addressing) = form.shape {
            self.displacement_only(addressing);
        }
        let mut factory = InstructionInfoFactory::new();
        let used: Vec<UsedMemory> = factory.info(&self.instruction).used_memory().to_vec();
        for memory in &used {
            let size = operand_size(memory.memory_size());
            let operand = Operand::of(memory);
            let mut target = self.target(size);
            if operand.base == Register::None || is_instruction_pointer(operand.base) {
                let displaced = self.registerless_target();
                let has_base = matches!(operand.segment, Register::FS | Register::GS);
                target = if has_base { target } else { displaced };
            }
            let delta = self.bit_offset();
            operand.place(&mut self.registers, self.random, target.wrapping_sub(delta));
            self.contents(target, memory.memory_size());
        }
        self.special();
    }

    /// The address of an operand that the displacement alone decides: `displacement_only` chose it.
    fn registerless_target(&self) -> u64 {
        let memory = Operand::encoded(&self.instruction);
        let index = if memory.index.is_gpr() {
            address::read(&self.registers, memory.index).wrapping_mul(memory.scale)
        } else {
            0
        };
        memory.displacement.wrapping_add(index)
    }

    /// Choose the displacement of an operand without a base register.
    fn displacement_only(&mut self, addressing: Addressing) {
        let size = operand_size(self.instruction.memory_size());
        let reachable = match addressing {
            Addressing::Absolute | Addressing::IndexDisplacement32 | Addressing::InstructionPointer32 => LOW,
            Addressing::InstructionPointer => self.window,
            Addressing::Offset | Addressing::OffsetFs => {
                let target = self.target(size);
                self.instruction.set_memory_displacement64(target);
                return;
            }
            _ => return,
        };
        let mut target = if self.random.one_in(6) {
            address::harmful(self.random, reachable, size, excluded::has_parts(&self.instruction))
        } else {
            reachable + address::harmless(self.random, size)
        };
        if target.abs_diff(reachable) > 0x10_0000 {
            target = reachable + 5 * PAGE;
        }
        if self.instruction.memory_index() != Register::None {
            let index = self.random.around(400) as u64;
            self.registers.gpr[self.instruction.memory_index().full_register().number()] = index;
            target =
                target.wrapping_sub(index.wrapping_mul(u64::from(self.instruction.memory_index_scale())));
        }
        self.instruction.set_memory_displacement64(target);
    }

    /// How many bytes BT and its kin with a bit offset in a register go away from their operand's address.
    fn bit_offset(&mut self) -> u64 {
        let tests = matches!(
            self.instruction.mnemonic(),
            Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
        );
        if !tests || self.instruction.op1_kind() != OpKind::Register {
            return 0;
        }
        let register = self.instruction.op1_register();
        let mut bits = self.random.around(12_000);
        if self.random.one_in(8) {
            bits = (self.random.next() as i64) >> self.random.below(40);
        }
        let bits = match register.size() {
            2 => i64::from(bits as i16),
            4 => i64::from(bits as i32),
            _ => bits,
        };
        self.registers.gpr[register.full_register().number()] = bits as u64;
        let word = register.size() as i64;
        (bits.div_euclid(word * 8) * word) as u64
    }

    /// Put values worth computing with at an address, if it is in the data pages.
    fn contents(&mut self, target: u64, size: MemorySize) {
        let flavor = match size.element_type() {
            MemorySize::Float32 if !self.random.one_in(4) => Flavor::Single,
            MemorySize::Float64 if !self.random.one_in(4) => Flavor::Double,
            MemorySize::Float80 if !self.random.one_in(4) => Flavor::Extended,
            _ => self.random.pick(&Flavor::EVERY),
        };
        let mut bytes = [0; Patch::BYTES];
        flavor.fill(self.random, &mut bytes);
        if self.random.one_in(4) {
            let register = self.random.below(16) as usize;
            bytes[..8].copy_from_slice(&self.registers.gpr[register].to_le_bytes());
        }
        self.patch(target, &bytes);
    }

    /// Put bytes at an address, as far as it is in the data pages.
    fn patch(&mut self, target: u64, bytes: &[u8]) {
        let offset = target.wrapping_sub(self.window + DATA);
        let low = target.wrapping_sub(LOW + DATA);
        let offset = if offset < DATA_BYTES as u64 { offset } else { low };
        if offset >= DATA_BYTES as u64 {
            return;
        }
        let length = bytes.len().min(DATA_BYTES - offset as usize).min(Patch::BYTES);
        let mut patch = Patch { offset: offset as u32, length: length as u32, ..Patch::EMPTY };
        patch.bytes[..length].copy_from_slice(&bytes[..length]);
        self.patches.push(patch);
    }

    /// The address of the first memory operand, whatever it is.
    fn first_address(&self) -> u64 {
        let mut factory = InstructionInfoFactory::new();
        let info = factory.info(&self.instruction);
        let Some(memory) = info.used_memory().first() else { return 0 };
        let registers = &self.registers;
        let narrow = Operand::of(memory).narrow;
        let address = memory.virtual_address(0, |register, _, _| match register {
            Register::FS => Some(registers.fs_base),
            Register::GS => Some(registers.gs_base),
            register if register.is_segment_register() => Some(0),
            register if register.is_gpr() => Some(address::read(registers, register)),
            _ => Some(0),
        });
        let address = address.unwrap_or(0);
        if narrow && memory.segment() != Register::FS && memory.segment() != Register::GS {
            address & 0xffff_ffff
        } else {
            address
        }
    }

    /// RCX of REP and LOOP: few iterations mostly.
    fn counters(&mut self, prefix: Prefix) {
        let repeats = matches!(prefix, Prefix::Repeat | Prefix::RepeatNotEqual);
        if !repeats || !self.instruction.is_string_instruction() {
            return;
        }
        let count = self.random.below(60);
        let narrow = (0..self.instruction.op_count()).any(|operand| {
            matches!(
                self.instruction.op_kind(operand),
                OpKind::MemorySegESI | OpKind::MemoryESEDI | OpKind::MemorySegEDI
            )
        });
        self.registers.gpr[gpr::RCX] = if narrow { count | self.random.next() << 32 } else { count };
    }

    fn special(&mut self) {
        let registers = &mut self.registers;
        match self.instruction.mnemonic() {
            Mnemonic::Div | Mnemonic::Idiv if !self.random.one_in(4) => {
                registers.gpr[gpr::RDX] = self.random.below(3).wrapping_sub(1);
                if self.instruction.op0_register().size() == 1 {
                    registers.gpr[gpr::RAX] &= 0x1ff;
                }
            }
            Mnemonic::Cmpxchg if self.random.one_in(2) => {
                let value = registers.gpr[gpr::RAX];
                if self.instruction.op0_kind() == OpKind::Memory {
                    let address = self.first_address();
                    self.patch(address, &value.to_le_bytes());
                } else if self.instruction.op0_register().size() > 1 {
                    registers.gpr[self.instruction.op0_register().full_register().number()] = value;
                }
            }
            Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b if self.random.one_in(2) => {
                let (low, high) = (registers.gpr[gpr::RAX], registers.gpr[gpr::RDX]);
                let wide = self.instruction.mnemonic() == Mnemonic::Cmpxchg16b;
                let value = if wide {
                    u128::from(high) << 64 | u128::from(low)
                } else {
                    u128::from(high & 0xffff_ffff) << 32 | u128::from(low & 0xffff_ffff)
                };
                let address = self.first_address();
                self.patch(address, &value.to_le_bytes()[..if wide { 16 } else { 8 }]);
            }
            Mnemonic::Wrfsbase | Mnemonic::Wrgsbase if self.random.one_in(2) => {
                let number = self.instruction.op0_register().full_register().number();
                registers.gpr[number] >>= 17;
            }
            Mnemonic::Enter | Mnemonic::Leave => {
                let target = self.target(64);
                self.registers.gpr[gpr::RBP] = target;
            }
            Mnemonic::Ldmxcsr | Mnemonic::Vldmxcsr => {
                let address = self.first_address();
                // Bit 17 exists on AMD's processors only.
                let valid = if self.random.one_in(4) { !(1 << 17) } else { 0xffff };
                let value = self.random.next() & valid;
                self.patch(address, &value.to_le_bytes()[..4]);
            }
            Mnemonic::Fxrstor | Mnemonic::Fxrstor64 => {
                let address = self.first_address();
                let value = self.random.next() & 0xffff;
                self.patch(address.wrapping_add(24), &value.to_le_bytes()[..4]);
            }
            Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne | Mnemonic::Jrcxz | Mnemonic::Jecxz => {
                registers.gpr[gpr::RCX] = self.random.below(3) | self.random.below(2) << 32;
            }
            _ => {}
        }
    }

    /// Indices of a gather such that most elements lie in the data pages.
    fn gather(&mut self) {
        let memory = Operand::encoded(&self.instruction);
        let bytes = if self.instruction.is_vsib64() { 8 } else { 4 };
        let index = memory.index.number();
        for lane in 0..32 / bytes {
            let mut value = self.random.around(400);
            if self.random.one_in(40) {
                value = self.random.next() as i64;
            }
            let at = lane * bytes;
            let place = if at < 16 { 160 + index * 16 + at } else { AVX_HIGH + index * 16 + at - 16 };
            self.registers.extended[place..place + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        }
        let target = self.window + DATA + 3600 + self.random.below(64);
        memory.place(&mut self.registers, self.random, target);
    }

    /// Where execution goes on, for a transfer of control.
    fn flow(&mut self, rip: u64) {
        let target = self.branch_target(rip);
        match self.instruction.flow_control() {
            FlowControl::IndirectBranch | FlowControl::IndirectCall => {
                if self.instruction.op0_kind() == OpKind::Register {
                    let register = self.instruction.op0_register().full_register();
                    self.registers.gpr[register.number()] = target;
                } else {
                    let address = self.first_address();
                    self.patch(address, &target.to_le_bytes());
                }
            }
            FlowControl::Return => {
                let address = self.registers.gpr[gpr::RSP];
                self.patch(address, &target.to_le_bytes());
            }
            _ if self.instruction.op_kinds().any(|kind| kind == OpKind::NearBranch64) => {
                let distance = 32 + self.random.below(80);
                let near = if self.random.one_in(2) { rip + distance } else { rip - distance };
                let short = self.instruction.code().op_code().op_kind(0);
                let is_short = short == iced_x86::OpCodeOperandKind::br64_1;
                let reachable = target.abs_diff(rip) < 1 << 30;
                self.instruction.set_near_branch64(if is_short || !reachable { near } else { target });
            }
            _ => {}
        }
    }

    /// Mostly INT3 in the code pages, which ends the case; else a place where nothing can be fetched.
    fn branch_target(&mut self, rip: u64) -> u64 {
        match self.random.below(12) {
            0 => self.window + DATA + self.random.below(PAGE),
            1 => self.window + CODE + CODE_BYTES as u64 + self.random.below(PAGE),
            2 => (1 << 47) + self.random.below(PAGE),
            _ => {
                let code = rip & !(CODE_BYTES as u64 - 1);
                let target = code + self.random.below(CODE_BYTES as u64);
                if target.abs_diff(rip) < 64 { rip + 80 } else { target }
            }
        }
    }
}

/// Offset of the upper halves of the YMM registers in an XSAVE image.
const AVX_HIGH: usize = crate::case::AVX_OFFSET;
const _: () = assert!(AVX_HIGH + 256 <= EXTENDED_BYTES);

fn is_instruction_pointer(register: Register) -> bool {
    matches!(register, Register::RIP | Register::EIP)
}

fn operand_size(size: MemorySize) -> u64 {
    match size.size() as u64 {
        0 => 8,
        size => size,
    }
}
