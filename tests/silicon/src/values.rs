//! Random register and memory contents: mostly the edges where instructions change their mind.

use crate::case::{AVX_OFFSET, EXTENDED_BYTES, Registers};
use crate::layout::DATA_BYTES;
use crate::random::Random;
use gasang_x86::rflags;

/// What kind of values some bytes hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// Any bits.
    Random,
    /// Integers at the edges of their ranges.
    Edges,
    /// Small integers.
    Small,
    /// Single precision.
    Single,
    /// Double precision.
    Double,
    /// 80-bit floating point, 16 bytes apart.
    Extended,
    /// Runs of few different bytes.
    Text,
}

impl Flavor {
    /// All of them.
    pub const EVERY: [Flavor; 7] = [
        Flavor::Random,
        Flavor::Edges,
        Flavor::Small,
        Flavor::Single,
        Flavor::Double,
        Flavor::Extended,
        Flavor::Text,
    ];

    /// Fill `bytes` with such values.
    pub fn fill(self, random: &mut Random, bytes: &mut [u8]) {
        let width = match self {
            Flavor::Random | Flavor::Double | Flavor::Edges => 8,
            Flavor::Small => random.pick(&[1, 2, 4, 8]),
            Flavor::Single => 4,
            Flavor::Extended => 16,
            Flavor::Text => 1,
        };
        for chunk in bytes.chunks_mut(width) {
            let value = match self {
                Flavor::Random => u128::from(random.next()),
                Flavor::Edges => u128::from(edge(random)),
                Flavor::Small => u128::from(random.around(5) as u64),
                Flavor::Single => u128::from(single(random)),
                Flavor::Double => u128::from(double(random)),
                Flavor::Extended => extended(random),
                Flavor::Text => u128::from(random.pick(b"aaaaaaab\0")),
            };
            chunk.copy_from_slice(&value.to_le_bytes()[..chunk.len()]);
        }
    }
}

/// An integer at an edge.
pub fn edge(random: &mut Random) -> u64 {
    const EDGES: [u64; 16] = [
        0,
        1,
        !0,
        0x7f,
        0x80,
        0xff,
        0x7fff,
        0x8000,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x7fff_ffff_ffff_ffff,
        0x8000_0000_0000_0000,
        0x8000_8000_8000_8000,
        0x0102_0408_1020_4080,
    ];
    random.pick(&EDGES)
}

/// A value for a general-purpose register.
pub fn integer(random: &mut Random) -> u64 {
    match random.below(6) {
        0 => random.below(64),
        1 => random.around(300) as u64,
        2 | 3 => edge(random),
        4 => random.next() >> 32,
        _ => random.next(),
    }
}

fn single(random: &mut Random) -> u32 {
    let special = [
        0x0000_0000,
        0x8000_0000,
        0x3f80_0000,
        0xbf80_0000,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0x7f80_0001,
        0x0000_0001,
        0x807f_ffff,
        0x0080_0000,
        0x7f7f_ffff,
        0x4f00_0000,
        0xcf00_0000,
        0x3f00_0000,
        0x4b80_0001,
    ];
    match random.below(3) {
        0 => random.pick(&special),
        1 => ((random.around(1000) as f32) / 16.0).to_bits(),
        _ => random.next() as u32,
    }
}

fn double(random: &mut Random) -> u64 {
    let special = [
        0x0000_0000_0000_0000,
        0x8000_0000_0000_0000,
        0x3ff0_0000_0000_0000,
        0xbff0_0000_0000_0000,
        0x7ff0_0000_0000_0000,
        0xfff0_0000_0000_0000,
        0x7ff8_0000_0000_0000,
        0x7ff0_0000_0000_0001,
        0x0000_0000_0000_0001,
        0x800f_ffff_ffff_ffff,
        0x0010_0000_0000_0000,
        0x7fef_ffff_ffff_ffff,
        0x41e0_0000_0000_0000,
        0xc1e0_0000_0000_0000,
        0x43e0_0000_0000_0000,
        0x3690_0000_0000_0000,
    ];
    match random.below(3) {
        0 => random.pick(&special),
        1 => ((random.around(1000) as f64) / 16.0).to_bits(),
        _ => random.next(),
    }
}

/// An 80-bit floating-point number, odd encodings included.
fn extended(random: &mut Random) -> u128 {
    let special: [(u16, u64); 14] = [
        (0x0000, 0),
        (0x8000, 0),
        (0x3fff, 1 << 63),
        (0xbfff, 1 << 63),
        (0x7fff, 1 << 63),
        (0xffff, 1 << 63),
        (0x7fff, 3 << 62),
        (0x7fff, 1 << 63 | 1),
        (0x0000, 1),
        (0x0000, 1 << 63),
        (0x7fff, 1),
        (0x4000, 1),
        (0x403e, 1 << 63),
        (0x4000, 0xc90f_daa2_2168_c235),
    ];
    let (exponent, significand) = match random.below(4) {
        0 => random.pick(&special),
        1 | 2 => {
            let sign = (random.below(2) << 15) as u16;
            (sign | (0x3fff + random.around(70)) as u16, random.next() | 1 << 63)
        }
        _ => (random.next() as u16, random.next() | 1 << 63),
    };
    u128::from(exponent) << 64 | u128::from(significand)
}

/// The backgrounds of the data pages.
pub fn backgrounds<const COUNT: usize>(seed: u64) -> Box<[[u8; DATA_BYTES]; COUNT]> {
    let mut backgrounds = Box::new([[0; DATA_BYTES]; COUNT]);
    for (index, bytes) in backgrounds.iter_mut().enumerate() {
        let mut random = Random::of(seed, index as u64);
        Flavor::EVERY[index % Flavor::EVERY.len()].fill(&mut random, bytes);
    }
    backgrounds
}

/// Random registers; RIP is for the caller to set.
pub fn registers(random: &mut Random) -> Registers {
    let mut registers = Registers::ZERO;
    for register in &mut registers.gpr {
        *register = integer(random);
    }
    registers.rflags = random.next() & rflags::STATUS | rflags::FIXED | rflags::IF;
    if random.one_in(4) {
        registers.rflags |= rflags::DF;
    }
    if random.one_in(40) {
        registers.rflags |= rflags::AC;
    }
    registers.fs_base = random.next() >> 17;
    registers.gs_base = random.next() >> 17;
    extended_state(random, &mut registers.extended);
    registers
}

fn extended_state(random: &mut Random, image: &mut [u8; EXTENDED_BYTES]) {
    x87(random, image);
    image[24..28].copy_from_slice(&mxcsr(random).to_le_bytes());
    for register in 0..16 {
        let flavor = random.pick(&Flavor::EVERY);
        flavor.fill(random, &mut image[160 + register * 16..][..16]);
        flavor.fill(random, &mut image[AVX_OFFSET + register * 16..][..16]);
    }
    image[512..520].copy_from_slice(&7u64.to_le_bytes());
}

/// x87 state: control word, status word, tags, registers.
fn x87(random: &mut Random, image: &mut [u8; EXTENDED_BYTES]) {
    let masks = if random.one_in(4) { random.below(64) } else { 0x3f } as u16;
    let control = masks | 0x40 | (random.pick(&[0, 2, 3]) << 8) as u16 | (random.below(4) << 10) as u16;
    let mut status = (random.next() as u16) & 0x7f7f;
    let pending = status & !control & 0x3f;
    if pending != 0 && !random.one_in(8) {
        status &= !pending;
    }
    if status & !control & 0x3f != 0 {
        status |= 0x8080;
    }
    let tags = match random.below(4) {
        0 => random.next() as u8,
        1 => 0,
        _ => 0xff,
    };
    image[0..2].copy_from_slice(&control.to_le_bytes());
    image[2..4].copy_from_slice(&status.to_le_bytes());
    image[4] = tags;
    for register in 0..8 {
        let value = extended(random).to_le_bytes();
        image[32 + register * 16..][..10].copy_from_slice(&value[..10]);
    }
}

fn mxcsr(random: &mut Random) -> u32 {
    let masks = if random.one_in(4) { random.below(64) << 7 } else { 0x1f80 };
    let modes = random.pick(&[0, 0, 0x40, 0x8000, 0x8040]);
    let sticky = if random.one_in(2) { random.below(64) } else { 0 };
    (masks | modes | random.below(4) << 13 | sticky) as u32
}
