//! Random bytes from random states, in every mode: nothing panics, nothing leaves the machine.

use super::forms::Random;
use super::machine::{CODE, DATA, Machine};
use gasang_cpu::Activity;
use gasang_x86::control::{cr0, cr4, debug, efer, xcr0};
use gasang_x86::descriptor::access;
use gasang_x86::{gpr, rflags, segment};

const STEPS: usize = 12;

/// Addresses that lead somewhere, among some that do not.
fn address(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => random.value(),
        1 => 0x1f_f000 + random.below(0x1000),
        2 => DATA + 0xff0 + random.below(0x20),
        3 => CODE + random.below(64),
        4 => random.below(0x8000),
        _ => DATA + random.below(0x4000),
    }
}

fn random_segments(machine: &mut Machine, bits: u32, random: &mut Random) {
    for number in 0..6 {
        let register = &mut machine.state.segment[number];
        if random.below(3) == 0 {
            register.base = random.below(0x1000);
        }
        if random.below(8) == 0 {
            register.limit = random.below(0x2_0000) as u32;
        }
        if random.below(16) == 0 {
            register.attributes ^= 1 << random.below(17);
        }
    }
    let code = &mut machine.state.segment[segment::CS];
    code.attributes = code.attributes & !(access::LONG | access::DB) | access::CODE | access::PRESENT;
    match bits {
        64 => code.attributes |= access::LONG,
        32 => code.attributes |= access::DB,
        _ => {}
    }
    if bits != 64 {
        code.base = 0;
    }
}

/// A mode and what goes with it.
fn random_mode(machine: &mut Machine, random: &mut Random) {
    let privilege = if random.below(3) == 0 { 3 } else { 0 };
    machine.set_privilege(privilege);
    let state = &mut machine.state;
    match random.below(6) {
        0 => {
            state.cr0 &= !(cr0::PE | cr0::PG);
            state.efer = 0;
            machine.set_privilege(0);
            random_segments(machine, 16, random);
        }
        1 => {
            state.cr0 &= !cr0::PG;
            state.efer = 0;
            state.rflags |= rflags::VM;
            machine.set_privilege(3);
            random_segments(machine, 16, random);
        }
        2 => {
            state.cr0 &= !cr0::PG;
            state.efer = 0;
            let bits = if random.below(2) == 0 { 32 } else { 16 };
            random_segments(machine, bits, random);
        }
        3 => {
            let bits = if random.below(2) == 0 { 32 } else { 16 };
            random_segments(machine, bits, random);
        }
        _ => random_segments(machine, 64, random),
    }
}

fn random_state(machine: &mut Machine, random: &mut Random) {
    machine.reset();
    machine.state.rflags |=
        random.next() & (rflags::STATUS | rflags::DF | rflags::IF | rflags::IOPL | rflags::NT);
    random_mode(machine, random);
    let flip = |random: &mut Random, bit: u64| if random.below(8) == 0 { bit } else { 0 };
    let state = &mut machine.state;
    for bit in [cr0::TS, cr0::EM, cr0::NE, cr0::WP, cr0::AM] {
        state.cr0 ^= flip(random, bit);
    }
    for bit in [cr4::OSFXSR, cr4::OSXSAVE, cr4::UMIP, cr4::SMAP, cr4::SMEP, cr4::DE, cr4::PKE, cr4::TSD] {
        state.cr4 ^= flip(random, bit);
    }
    state.efer ^= flip(random, efer::SCE);
    state.xcr0 ^= flip(random, xcr0::AVX);
    state.rflags |= flip(random, rflags::TF) | flip(random, rflags::AC) | flip(random, rflags::RF);
    if random.below(8) == 0 {
        state.dr[0] = address(random);
        state.dr[7] = debug::DR7_FIXED | 3 | random.next() & 0xf_0000;
    }
    for value in &mut state.gpr {
        *value = address(random);
    }
    state.gpr[gpr::RCX] = random.below(0x300);
    for byte in &mut state.extended.bytes[..512] {
        *byte = random.next() as u8;
    }
    state.extended.set_in_use(random.next());
    state.rip = CODE + random.below(2) * (0x1000 - random.below(12));
    machine.surroundings.pending = random.below(8) == 0;
}

/// Bytes that are instructions more often than chance would have it.
fn random_code(random: &mut Random) -> [u8; 64] {
    const PREFIXES: [u8; 14] =
        [0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0x48, 0x41, 0x4c];
    std::array::from_fn(|_| match random.below(10) {
        0 => 0x0f,
        1 => PREFIXES[random.below(14) as usize],
        2 => [0xc4, 0xc5, 0x62, 0x8f][random.below(4) as usize],
        _ => random.next() as u8,
    })
}

/// How many instructions `states` random states executed.
fn run(seed: u64, states: usize) -> u64 {
    let mut machine = Machine::new();
    let mut random = Random(seed);
    let mut retired = 0;
    for _ in 0..states {
        random_state(&mut machine, &mut random);
        let code = random_code(&mut random);
        machine.memory.write_physical(machine.state.rip, &code).unwrap();
        for _ in 0..STEPS {
            machine.step();
            machine.surroundings.pending = false;
            if machine.state.activity != Activity::Active {
                break;
            }
        }
        retired += machine.state.instructions;
    }
    retired
}

#[test]
fn random_bytes_never_panic_and_never_escape() {
    let retired = run(0x1234_5678_9abc_def1, 4000);
    assert!(retired > 2000, "only {retired} instructions were executed");
}

#[test]
#[ignore = "minutes long: for fuzzing"]
fn many_random_bytes_never_panic_and_never_escape() {
    let retired = run(0x0fed_cba9_8765_4321, 1_000_000);
    assert!(retired > 500_000, "only {retired} instructions were executed");
}
