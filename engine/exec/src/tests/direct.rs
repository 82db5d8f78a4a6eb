//! Direct execution against `step`, from the same states: the same registers, flags, memory, marks and counts, or nothing.

use super::forms::{Random, encoding, place_operand};
use super::machine::{CODE, DATA, DEVICE, Machine, STACK};
use crate::Step;
use crate::direct::{Stop, run};
use gasang_cpu::{Shadow, VcpuState};
use gasang_memory::PAGE_HAS_CODE;
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
        let prefixes = random.below(4) as usize;
        for byte in &mut bytes[..prefixes] {
            *byte = [0x66, 0x48, 0x65, 0x3e, 0xf3, 0x41, 0x0f, 0x4c][random.below(8) as usize];
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

fn run_from(machine: &mut Machine, code: &[u8], instructions: u64) -> Stop {
    machine.load(code);
    let limit = machine.state.instructions + instructions;
    machine.with_core(|core| run(core, limit))
}

#[test]
fn a_run_ends_after_a_jump_or_as_many_instructions_as_allowed() {
    let mut machine = Machine::new();
    // inc eax; inc eax; jz +2 (not taken); jmp +2.
    let code = [0xff, 0xc0, 0xff, 0xc0, 0x74, 0x02, 0xeb, 0x02];
    assert_eq!(run_from(&mut machine, &code, 1), Stop::Spent);
    assert_eq!((machine.state.gpr[gpr::RAX], machine.state.instructions), (1, 1));
    assert_eq!(machine.with_core(|core| run(core, 100)), Stop::Jumped);
    let state = &machine.state;
    assert_eq!((state.gpr[gpr::RAX], state.instructions, state.rip), (2, 4, CODE + 10));
}

#[test]
fn an_instruction_that_the_one_before_rewrote_is_executed_as_rewritten() {
    let mut machine = Machine::new();
    // mov byte ptr [rip], 0x40 (the next byte but two); mov al, 1, which becomes mov al, 0x40.
    let code = [0xc6, 0x05, 0x01, 0, 0, 0, 0x40, 0xb0, 0x01];
    assert_eq!(run_from(&mut machine, &code, 2), Stop::Spent);
    assert_eq!(machine.state.gpr[gpr::RAX] & 0xff, 0x40);
}

#[test]
fn what_is_not_surely_simple_is_declined() {
    let store = [0x48, 0x89, 0x03]; // mov [rbx], rax
    let declines = |prepare: &dyn Fn(&mut Machine)| {
        let mut machine = Machine::new();
        machine.state.gpr[gpr::RBX] = DATA;
        prepare(&mut machine);
        let before = digest(&machine.state);
        let stop = run_from(&mut machine, &store, 1);
        assert!(stop == Stop::Spent || digest(&machine.state) == before);
        stop == Stop::Declined
    };
    assert!(!declines(&|_| {}));
    assert!(declines(&|machine| machine.state.gpr[gpr::RBX] = DATA + 0xffc), "an operand in two pages");
    assert!(declines(&|machine| machine.state.gpr[gpr::RBX] = DEVICE), "a device");
    assert!(declines(&|machine| machine.state.gpr[gpr::RBX] = 1 << 47), "not canonical");
    assert!(declines(&|machine| machine.protect(DATA, 0)), "a page fault");
    assert!(declines(&|machine| machine.state.rip = CODE + 0xffe), "an instruction in two pages");
    assert!(declines(&|machine| machine.state.rflags |= rflags::TF), "single step");
    assert!(declines(&|machine| machine.state.dr[7] |= 1), "a breakpoint");
    assert!(declines(&|machine| machine.state.shadow = Shadow::MovSs), "an interrupt shadow");
    assert!(declines(&|machine| machine.set_code_bits(32)), "32-bit code");
    let with_code = |machine: &mut Machine| {
        let host = machine.memory.host(DATA).unwrap();
        machine.memory.flags(host).fetch_or(PAGE_HAS_CODE, Ordering::Relaxed);
    };
    assert!(declines(&with_code), "a page that code was translated from");
}
