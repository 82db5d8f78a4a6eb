//! Direct execution against `step`, from the same states: the same registers, flags, memory, marks and counts, or nothing.

use super::forms::{Random, encoding, place_operand};
use super::machine::{CODE, DATA, Machine, STACK};
use crate::Step;
use crate::direct::{Stop, run};
use gasang_cpu::VcpuState;
use gasang_x86::{gpr, rflags, segment};
use iced_x86::{Code, Decoder, DecoderOptions, EncodingKind, OpCodeInfo};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering;

/// Everything that both change: page tables, code, stack and data.
const COMPARED: std::ops::Range<u64> = 0x1000..DATA + 0x4000;

/// A machine that is executed by `step` and one that is executed directly.
struct Pair {
    stepped: Machine,
    direct: Machine,
}

fn digest(state: &VcpuState) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

fn memory(machine: &Machine) -> Vec<u8> {
    let mut bytes = vec![0; (COMPARED.end - COMPARED.start) as usize];
    machine.memory.read_physical(COMPARED.start, &mut bytes).unwrap();
    bytes
}

fn flags(machine: &Machine) -> Vec<u8> {
    machine.memory.all_flags().iter().map(|flags| flags.load(Ordering::Relaxed)).collect()
}

impl Pair {
    /// Their tables cannot be written: what the TLB keeps of them stays true.
    fn new() -> Pair {
        let mut pair = Pair { stepped: Machine::new(), direct: Machine::new() };
        pair.both(|machine| (1..9).for_each(|page| machine.protect(page << 12, 5)));
        pair
    }

    /// The same to both.
    fn both(&mut self, act: impl Fn(&mut Machine)) {
        act(&mut self.stepped);
        act(&mut self.direct);
    }

    fn set(&mut self, state: &VcpuState, code: &[u8]) {
        self.both(|machine| {
            machine.state = state.clone();
            machine.memory.write_physical(state.rip, code).unwrap();
        });
    }

    /// Execute one instruction in both ways, and compare. Whether it was executed directly.
    fn execute(&mut self, what: &str) -> bool {
        let (before, limit) = (self.direct.state.clone(), self.direct.state.instructions + 1);
        let stop = self.direct.with_core(|core| run(core, limit));
        if stop == Stop::Declined {
            assert_eq!(digest(&self.direct.state), digest(&before), "declined, but changed: {what}");
            self.direct.step();
        }
        let step = self.stepped.step();
        if stop != Stop::Declined {
            assert_eq!(step, Step::Retired, "{what}");
        }
        let (one, other) = (&self.stepped.state, &self.direct.state);
        assert_eq!(digest(one), digest(other), "{what}\nfrom {before:x?}\nstep {one:x?}\ndirect {other:x?}");
        assert!(memory(&self.stepped) == memory(&self.direct), "memory: {what}");
        assert_eq!(flags(&self.stepped), flags(&self.direct), "marks: {what}");
        stop != Stop::Declined
    }
}

/// Registers that point somewhere, or hold what arithmetic treats in different ways.
fn random_state(machine: &mut Machine, random: &mut Random) -> VcpuState {
    machine.set_privilege(if random.below(2) == 0 { 3 } else { 0 });
    let state = &mut machine.state;
    state.rip = CODE + if random.below(16) == 0 { 0xff0 + random.below(16) } else { random.below(0x800) };
    state.rflags = rflags::FIXED | random.next() & (rflags::STATUS | rflags::DF);
    for value in &mut state.gpr {
        *value = match random.below(3) {
            0 => DATA + random.below(0x2000),
            1 => random.below(64),
            _ => random.value(),
        };
    }
    state.gpr[gpr::RSP] = STACK - 0x100 + random.below(2) * (0x100 - random.below(16));
    state.segment[segment::FS].base = DATA + random.below(0x100);
    state.segment[segment::GS].base = random.below(0x100);
    state.clone()
}

/// Which forms were executed directly, and how often, of so many of `codes`.
fn compare(seed: u64, count: usize, codes: impl Fn(&mut Random) -> Vec<u8>) -> BTreeMap<String, u32> {
    let (mut pair, mut random) = (Pair::new(), Random(seed));
    let (initial, mut seen) = (pair.stepped.state.clone(), BTreeMap::new());
    for _ in 0..count {
        pair.stepped.state = initial.clone();
        let mut state = random_state(&mut pair.stepped, &mut random);
        let code = codes(&mut random);
        let instruction = Decoder::with_ip(64, &code, state.rip, DecoderOptions::NONE).decode();
        if random.below(4) != 0 {
            place_operand(&instruction, &mut state, &mut random);
        }
        let what = format!("{:02x?} {:?}", &code[..instruction.len().max(1)], instruction.code());
        pair.set(&state, &code);
        if pair.execute(&what) {
            *seen.entry(format!("{:?}", instruction.code())).or_default() += 1;
        }
    }
    seen
}

#[test]
fn what_is_executed_directly_is_executed_as_step_does_it() {
    let forms: Vec<&OpCodeInfo> = Code::values()
        .map(|code| code.op_code())
        .filter(|form| form.mode64() && form.is_instruction() && form.encoding() == EncodingKind::Legacy)
        .collect();
    let seen = compare(0x5eed_0001, 200_000, |random| {
        let bytes = encoding(forms[random.below(forms.len() as u64) as usize], random);
        if bytes.is_empty() { vec![0x90] } else { bytes }
    });
    assert!(seen.len() > 150, "only {} forms: {seen:?}", seen.len());
}

#[test]
fn random_bytes_are_executed_as_step_does_it() {
    let seen = compare(0x5eed_0002, 60_000, |random| {
        let mut bytes: Vec<u8> = (0..16).map(|_| random.next() as u8).collect();
        for at in 0..random.below(4) as usize {
            bytes[at] = [0x66, 0x48, 0x65, 0x3e, 0xf3, 0x41, 0x0f, 0x4c][random.below(8) as usize];
        }
        bytes
    });
    assert!(seen.len() > 100, "only {} forms: {seen:?}", seen.len());
}

#[test]
#[ignore = "minutes long: for fuzzing"]
fn fuzz_bytes_are_executed_as_step_does_it() {
    let bytes = |random: &mut Random| (0..16).map(|_| random.next() as u8).collect();
    assert!(!compare(0x5eed_0003, 3_000_000, bytes).is_empty());
}
