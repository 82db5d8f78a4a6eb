//! Random encodings of every instruction that the host executes, here and directly: same registers, flags and memory.

use super::machine::{CODE, DATA, Machine};
use super::native::{DATA_SIZE, Native};
use crate::plan::is_executed_by_host;
use gasang_cpu::{Activity, CpuModel, ExtendedState, Feature, VcpuState};
use gasang_x86::control::xcr0;
use gasang_x86::rflags;
use iced_x86::{
    Code, Decoder, DecoderOptions, EncodingKind, Instruction, MandatoryPrefix, Mnemonic, OpCodeInfo,
    OpCodeOperandKind, OpCodeTableKind, OpKind, Register,
};
use std::collections::BTreeSet;
use std::ops::Range;

/// Encodings tried of each form.
const TRIES: usize = 60;

/// A small generator of pseudo-random numbers (xorshift64*).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Values that instructions treat in different ways.
    pub fn value(&mut self) -> u64 {
        match self.below(8) {
            0 => self.below(4),
            1 => self.below(256),
            2 => !self.below(256),
            3 => 1 << self.below(64),
            4 => self.next() as i32 as u64,
            _ => self.next(),
        }
    }
}

/// Bytes that may decode as the form.
pub fn encoding(form: &OpCodeInfo, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    let prefix = match form.mandatory_prefix() {
        MandatoryPrefix::None | MandatoryPrefix::PNP => 0,
        MandatoryPrefix::P66 => 1,
        MandatoryPrefix::PF3 => 2,
        MandatoryPrefix::PF2 => 3,
    };
    let map = match form.table() {
        OpCodeTableKind::Normal => 0,
        OpCodeTableKind::T0F => 1,
        OpCodeTableKind::T0F38 => 2,
        OpCodeTableKind::T0F3A => 3,
        _ => return bytes,
    };
    let w = if form.is_wig() { random.below(2) } else { u64::from(form.w() != 0) };
    if form.encoding() == EncodingKind::EVEX {
        bytes.extend(evex_prefix(form, map, w as u8, prefix, random));
    } else if form.encoding() == EncodingKind::VEX {
        let registers = random.next() as u8 & 0xe0;
        let vvvv = random.next() as u8 & 0x78;
        let length = if form.is_lig() { random.below(2) as u8 } else { form.l() as u8 };
        let vvvv = if random.below(2) == 0 { 0x78 } else { vvvv };
        bytes.extend([0xc4, registers | map, (w as u8) << 7 | vvvv | length << 2 | prefix]);
    } else {
        if form.operand_size() == 16 {
            bytes.push(0x66);
        }
        bytes.extend([0x66, 0xf3, 0xf2].get((prefix as usize).wrapping_sub(1)));
        let wide = form.operand_size() == 64 || form.w() != 0;
        let rex = 0x40 | u8::from(wide) << 3 | random.next() as u8 & 7;
        if wide || random.below(2) == 0 {
            bytes.push(rex);
        }
        bytes.extend([&[][..], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]][map as usize]);
    }
    let opcode = form.op_code();
    if form.op_code_len() == 2 {
        bytes.extend([(opcode >> 8) as u8, opcode as u8]);
    } else {
        let in_opcode =
            (0..form.op_count()).any(|index| format!("{:?}", form.op_kind(index)).ends_with("_opcode"));
        bytes.push(opcode as u8 | if in_opcode { random.next() as u8 & 7 } else { 0 });
    }
    let mut modrm = random.next() as u8;
    if form.group_index() >= 0 {
        modrm = modrm & !0x38 | (form.group_index() as u8) << 3;
    }
    bytes.push(modrm);
    bytes.extend(random.next().to_le_bytes());
    bytes
}

/// Half of them without a mask, a quarter with zeroing, a quarter with a broadcast or a rounding of their own.
fn evex_prefix(form: &OpCodeInfo, map: u8, w: u8, prefix: u8, random: &mut Random) -> [u8; 4] {
    let registers = random.next() as u8 & 0xf0;
    let vvvv = if random.below(2) == 0 { 0x78 } else { random.next() as u8 & 0x78 };
    let high_vvvv = if vvvv == 0x78 { 8 } else { random.next() as u8 & 8 };
    let length = if form.is_lig() { random.below(3) as u8 } else { form.l() as u8 };
    let mask = if random.below(2) == 0 { 0 } else { random.next() as u8 & 7 };
    let zeroing = if random.below(4) == 0 { 0x80 } else { 0 };
    let broadcast = if random.below(4) == 0 { 0x10 } else { 0 };
    [0x62, registers | map, w << 7 | vvvv | 4 | prefix, zeroing | length << 5 | broadcast | high_vvvv | mask]
}

/// Put the memory operand inside the data, if there is one and its address can be chosen.
pub fn place_operand(instruction: &Instruction, state: &mut VcpuState, random: &mut Random) -> bool {
    if !instruction.op_kinds().any(|kind| kind == OpKind::Memory) {
        return true;
    }
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    if !base.is_gpr64() || index == base || index != Register::None && !index.is_gpr64() {
        return false;
    }
    let bits_register =
        instruction.op1_kind() == OpKind::Register && instruction.op1_register().full_register() == base;
    if is_bit_test(instruction) && bits_register {
        return false;
    }
    let target = match random.below(4) {
        0 => DATA + 0x1000 - random.below(64),
        1 => DATA + 0x1000 - random.below(8) * 8,
        _ => DATA + 0x400 + random.below(16) * 64,
    };
    let index_value = if index == Register::None {
        0
    } else {
        state.gpr[index.number()].wrapping_mul(u64::from(instruction.memory_index_scale()))
    };
    state.gpr[base.number()] =
        target.wrapping_sub(index_value).wrapping_sub(instruction.memory_displacement64());
    true
}

fn is_bit_test(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
}

fn random_state(machine: &mut Machine, instruction: &Instruction, random: &mut Random) {
    for value in &mut machine.state.gpr {
        *value = random.value() as i32 as i64 as u64;
        if random.below(2) == 0 {
            *value = random.value();
        }
    }
    if is_bit_test(instruction) && instruction.op1_kind() == OpKind::Register {
        // Bit offsets that stay inside the data, in whatever operand size.
        machine.state.gpr[instruction.op1_register().full_register().number()] =
            (random.below(0x1000) as i64 - 0x800) as u64;
    }
    machine.state.rflags = random.next() & rflags::STATUS | rflags::FIXED;
    let x87 = instruction.cpuid_features().iter().any(|feature| format!("{feature:?}").starts_with("FPU"));
    machine.state.extended = ExtendedState::initial();
    let image = &mut machine.state.extended.bytes;
    let avx512 = ranges_of_avx512(&machine.model);
    for (index, byte) in image.iter_mut().enumerate() {
        let vectors = (160..416).contains(&index) || (576..832).contains(&index);
        let vectors = vectors || avx512.iter().any(|range| range.contains(&index));
        if vectors || (32..160).contains(&index) && index % 16 < 10 {
            *byte = random.next() as u8;
        }
    }
    // Half of the vectors are numbers of single and double precision.
    for at in (160..416).step_by(8) {
        if random.below(2) == 0 {
            continue;
        }
        let number = if random.below(2) == 0 {
            (random.below(2000) as f64 / 8.0 - 100.0).to_bits()
        } else {
            u64::from((random.below(2000) as f32 / 8.0).to_bits()) << 32 | 0x3f80_0000
        };
        image[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    image[2..4].copy_from_slice(&[0, if x87 { (random.next() as u8 & 7) << 3 } else { 0 }]);
    image[4] = if x87 { 0xff } else { 0 };
    machine.state.extended.set_in_use(machine.state.xcr0);
}

/// Where an image has what AVX-512 adds, if the model has it: opmask registers and the upper parts of vector registers.
fn ranges_of_avx512(model: &CpuModel) -> Vec<Range<usize>> {
    let numbers = if model.has(Feature::Avx512f) { &[5, 6, 7][..] } else { &[] };
    let components = numbers.iter().filter_map(|&number| model.component(number));
    components.map(|component| component.offset..component.offset + component.size).collect()
}

/// What of the extended state must agree: not the last instruction's addresses, which only the guest's side has right.
fn comparable(state: &VcpuState, model: &CpuModel) -> Vec<u8> {
    let image = &state.extended.bytes;
    let avx512 = ranges_of_avx512(model).into_iter().flat_map(|range| image[range].to_vec());
    [&image[0..5], &image[24..28], &image[32..416], &image[576..832]]
        .concat()
        .into_iter()
        .chain(avx512)
        .collect()
}

/// Every feature that there can be here: AVX-512 too, which `max` leaves out.
fn every_feature() -> CpuModel {
    let with = |spec: String, name: &str| {
        let more = format!("{spec},+{name}");
        if CpuModel::parse(&more).is_ok() { more } else { spec }
    };
    let names = CpuModel::known_features().into_iter().filter(|name| name.starts_with("avx512"));
    CpuModel::parse(&names.fold("max".to_owned(), with)).unwrap()
}

/// Execute one encoding on both sides; whether it could be compared.
fn compare(machine: &mut Machine, native: &mut Native, instruction: &Instruction, bytes: &[u8]) -> bool {
    let mut data = vec![0; DATA_SIZE];
    machine.memory.read_physical(DATA, &mut data).unwrap();
    native.data().copy_from_slice(&data);
    machine.state.rip = CODE;
    let before = machine.state.clone();
    machine.execute(bytes);
    if machine.state.instructions == before.instructions {
        // It faulted (and, with a random stack pointer, perhaps shut the processor down).
        machine.state.activity = Activity::Active;
        return false;
    }
    let mut expected = before;
    native.execute(bytes, &mut expected);
    assert_eq!(machine.state.rip, CODE + bytes.len() as u64, "{instruction} {bytes:02x?}");
    assert_eq!(machine.state.gpr, expected.gpr, "{instruction} {bytes:02x?}");
    let status = |state: &VcpuState| state.rflags & rflags::STATUS;
    assert_eq!(status(&machine.state), status(&expected), "flags of {instruction} {bytes:02x?}");
    let vectors_equal = comparable(&machine.state, &machine.model) == comparable(&expected, &machine.model);
    assert!(vectors_equal, "vectors of {instruction} {bytes:02x?}");
    machine.memory.read_physical(DATA, &mut data).unwrap();
    assert!(native.data() == data.as_slice(), "memory of {instruction} {bytes:02x?}");
    true
}

#[test]
fn the_host_and_t0_agree_on_random_encodings_of_every_form() {
    let mut machine = Machine::new();
    machine.model = every_feature();
    machine.state.xcr0 |= machine.model.xcr0_allowed() & xcr0::AVX512;
    let mut native = Native::new();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut compared = 0;
    let mut never = BTreeSet::new();
    for code in Code::values().filter(|code| code.op_code().mode64() && code.op_code().is_instruction()) {
        let form = code.op_code();
        let encodings = [EncodingKind::Legacy, EncodingKind::VEX, EncodingKind::EVEX];
        if !encodings.contains(&form.encoding()) || code == Code::Wait {
            continue;
        }
        let (mut decoded, mut done) = (false, 0);
        for _ in 0..TRIES {
            let bytes = encoding(form, &mut random);
            let instruction = Decoder::with_ip(64, &bytes, CODE, DecoderOptions::NONE).decode();
            if instruction.code() != code || !is_executed_by_host(&instruction, &machine.model) {
                continue;
            }
            decoded = true;
            let bytes = &bytes[..instruction.len()];
            random_state(&mut machine, &instruction, &mut random);
            if place_operand(&instruction, &mut machine.state, &mut random)
                && compare(&mut machine, &mut native, &instruction, bytes)
            {
                done += 1;
            }
        }
        compared += usize::from(done > 0);
        // The absolute addresses of these would have to be in the code.
        let absolute = (0..form.op_count()).any(|index| form.op_kind(index) == OpCodeOperandKind::mem_offs);
        if decoded && done == 0 && !absolute {
            never.insert(format!("{code:?}"));
        }
    }
    assert!(never.is_empty(), "never compared: {never:?}");
    let expected = match &machine.model {
        model if model.has(Feature::Avx512f) => 1500,
        model if model.has(Feature::Avx2) => 1000,
        _ => 500,
    };
    assert!(compared > expected, "only {compared} forms were compared");
}
