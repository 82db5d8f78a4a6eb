//! Facts about x87 and vector instructions.

use super::machine::{CODE, DATA, DEVICE, Machine};
use crate::{Step, vector as registers};
use gasang_cpu::{Core, Feature};
use gasang_x86::control::{cr0, cr4};
use gasang_x86::{exception as vector, gpr};

fn xmm(machine: &mut Machine, number: usize) -> [u8; 64] {
    machine.with_core(|core| registers::read(core, number))
}

fn set_xmm(machine: &mut Machine, number: usize, value: &[u8]) {
    let mut wide = [0; 64];
    wide[..value.len()].copy_from_slice(value);
    machine.with_core(|core: &mut Core<'_>| registers::write(core, number, &wide));
}

fn doubles(value: [f64; 2]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&value[0].to_le_bytes());
    bytes[8..].copy_from_slice(&value[1].to_le_bytes());
    bytes
}

#[test]
fn vectors_survive_between_instructions() {
    let mut machine = Machine::new();
    set_xmm(&mut machine, 0, &doubles([1.5, 2.5]));
    set_xmm(&mut machine, 1, &doubles([10.0, 20.0]));
    machine.execute(&[0x66, 0x0f, 0x58, 0xc1]); // addpd xmm0, xmm1
    assert_eq!(xmm(&mut machine, 0)[..16], doubles([11.5, 22.5]));
    machine.state.gpr[gpr::RDI] = DATA + 3;
    machine.execute(&[0x0f, 0x11, 0x07]); // movups [rdi], xmm0
    assert_eq!(f64::from_bits(machine.read(DATA + 11, 8)), 22.5);
}

#[test]
fn movaps_misaligned_is_gp_even_where_nothing_is_mapped() {
    for linear in [DATA + 8, DATA + 0x1008] {
        let mut machine = Machine::new();
        machine.protect(DATA + 0x1000, 0);
        machine.state.gpr[gpr::RDI] = linear;
        machine.execute(&[0x0f, 0x28, 0x07]); // movaps xmm0, [rdi]
        assert_eq!(machine.vector(), Some(vector::GP), "{linear:#x}");
    }
}

#[test]
fn an_unmasked_simd_exception_is_xm_or_ud_and_leaves_its_flag() {
    for (enabled, expected) in [(cr4::OSXMMEXCPT, vector::XM), (0, vector::UD)] {
        let mut machine = Machine::new();
        machine.state.cr4 = machine.state.cr4 & !cr4::OSXMMEXCPT | enabled;
        machine.state.extended.set_mxcsr(0x1f80 & !(1 << 9));
        set_xmm(&mut machine, 0, &1.0f64.to_le_bytes());
        set_xmm(&mut machine, 1, &0.0f64.to_le_bytes());
        machine.execute(&[0xf2, 0x0f, 0x5e, 0xc1]); // divsd xmm0, xmm1
        assert_eq!(machine.vector(), Some(expected));
        assert_eq!(machine.state.extended.mxcsr() & 0x3f, 1 << 2, "ZE");
        assert_eq!(xmm(&mut machine, 0)[..8], 1.0f64.to_le_bytes());
    }
}

#[test]
fn an_x87_exception_is_reported_at_the_next_waiting_instruction() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::RDI] = DATA;
    machine.write(DATA, 2, 0x37b); // divide by zero unmasked
    // fldcw [rdi]; fld1; fldz; fdivp st(1), st; fnstsw ax; fwait
    machine.load(&[0xd9, 0x2f, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0xdf, 0xe0, 0x9b]);
    for _ in 0..5 {
        machine.step();
        assert_eq!(machine.vector(), None);
    }
    assert_ne!(machine.state.gpr[gpr::RAX] & 0x80, 0, "ES");
    machine.step();
    assert_eq!((machine.vector(), machine.top()), (Some(vector::MF), CODE + 10));
}

#[test]
fn the_x87_environment_names_guest_addresses() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::RDI] = DATA;
    machine.write(DATA + 8, 2, 0x37b); // divide by zero unmasked: processors may keep addresses for errors only
    // fldcw [rdi+8]; fld1; fdiv qword ptr [rdi]; fnstenv [rdi+0x40]
    machine.load(&[0xd9, 0x6f, 0x08, 0xd9, 0xe8, 0xdc, 0x37, 0xd9, 0x77, 0x40]);
    for _ in 0..4 {
        machine.step();
    }
    assert_eq!(machine.vector(), None);
    assert_eq!(machine.read(DATA + 0x40 + 12, 4), CODE + 5);
    assert_eq!(machine.read(DATA + 0x40 + 20, 4), DATA);
}

#[test]
fn task_switched_makes_every_unit_unavailable() {
    for code in [&[0xd9, 0xe8][..], &[0x0f, 0x77], &[0x0f, 0x58, 0xc1], &[0x9b]] {
        let mut machine = Machine::new();
        machine.state.cr0 |= cr0::TS;
        machine.execute(code);
        assert_eq!(machine.vector(), Some(vector::NM), "{code:02x?}");
    }
    let mut machine = Machine::new();
    machine.state.cr0 |= cr0::TS;
    machine.state.gpr[gpr::RDI] = DATA;
    machine.execute(&[0x0f, 0xc3, 0x07]); // movnti [rdi], eax needs no unit
    assert_eq!(machine.vector(), None);
}

#[test]
fn ldmxcsr_refuses_reserved_bits() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::RDI] = DATA;
    machine.write(DATA, 4, 0x1_1f80);
    machine.execute(&[0x0f, 0xae, 0x17]);
    assert_eq!(machine.vector(), Some(vector::GP));
}

#[test]
fn masked_out_elements_do_not_fault() {
    let mut machine = Machine::new();
    if !machine.model.has(Feature::Avx) {
        return;
    }
    machine.protect(DATA + 0x1000, 0);
    machine.state.gpr[gpr::RDI] = DATA + 0xff8;
    machine.write(DATA + 0xff8, 8, 0x2222_2222_1111_1111);
    let mut mask = [0; 16];
    mask[3] = 0x80;
    mask[7] = 0x80;
    set_xmm(&mut machine, 1, &mask);
    machine.execute(&[0xc4, 0xe2, 0x71, 0x2c, 0x07]); // vmaskmovps xmm0, xmm1, [rdi]
    assert_eq!(machine.vector(), None);
    assert_eq!(xmm(&mut machine, 0)[..12], [0x11, 0x11, 0x11, 0x11, 0x22, 0x22, 0x22, 0x22, 0, 0, 0, 0]);
    mask[11] = 0x80;
    set_xmm(&mut machine, 1, &mask);
    set_xmm(&mut machine, 0, &[0x77; 16]);
    machine.execute(&[0xc4, 0xe2, 0x71, 0x2e, 0x07]); // vmaskmovps [rdi], xmm1, xmm0
    assert_eq!((machine.vector(), machine.state.cr2), (Some(vector::PF), DATA + 0x1000));
    assert_eq!(machine.read(DATA + 0xff8, 8), 0x2222_2222_1111_1111, "all or nothing");
}

#[test]
fn maskmovdqu_writes_the_chosen_bytes() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::RDI] = DATA + 1;
    let mut mask = [0; 16];
    mask[2] = 0x80;
    mask[15] = 0xff;
    set_xmm(&mut machine, 0, &[0xaa; 16]);
    set_xmm(&mut machine, 1, &mask);
    machine.execute(&[0x66, 0x0f, 0xf7, 0xc1]); // maskmovdqu xmm0, xmm1
    assert_eq!((machine.read(DATA, 8), machine.read(DATA + 16, 1)), (0xaa00_0000, 0xaa));
}

#[test]
fn a_gather_goes_on_where_it_faulted() {
    let mut machine = Machine::new();
    if !machine.model.has(Feature::Avx2) {
        return;
    }
    machine.state.gpr[gpr::RDI] = DATA;
    for (index, value) in [(0, 0x11), (4, 0x22), (0x1000, 0x33), (12, 0x44)] {
        machine.write(DATA + index, 4, value);
    }
    let indices: Vec<u8> = [0u32, 4, 0x1000, 12].iter().flat_map(|index| index.to_le_bytes()).collect();
    machine.protect(DATA + 0x1000, 0);
    set_xmm(&mut machine, 1, &indices);
    set_xmm(&mut machine, 2, &[0xff; 16]);
    set_xmm(&mut machine, 0, &[0x99; 32]);
    let code = [0xc4, 0xe2, 0x69, 0x90, 0x04, 0x0f]; // vpgatherdd xmm0, [rdi+xmm1], xmm2
    machine.execute(&code);
    assert_eq!((machine.vector(), machine.state.cr2), (Some(vector::PF), DATA + 0x1000));
    assert_eq!(xmm(&mut machine, 0)[..8], [0x11, 0, 0, 0, 0x22, 0, 0, 0]);
    assert_eq!(xmm(&mut machine, 2)[..16], [[0; 8], [0xff; 8]].concat());
    machine.protect(DATA + 0x1000, 7);
    machine.state.rip = CODE;
    assert_eq!(machine.step(), Step::Retired);
    assert_eq!(xmm(&mut machine, 0)[8..16], [0x33, 0, 0, 0, 0x44, 0, 0, 0]);
    assert_eq!(xmm(&mut machine, 0)[16..32], [0; 16], "the upper half is cleared");
    assert_eq!(xmm(&mut machine, 2)[..32], [0; 32], "the mask is spent");
}

#[test]
fn a_vector_store_reaches_a_device() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::RDI] = DEVICE;
    set_xmm(&mut machine, 0, &[0x5a; 16]);
    machine.execute(&[0x0f, 0x11, 0x07]);
    assert_eq!(machine.surroundings.device[..17], [[0x5a; 16].as_slice(), &[0]].concat());
}

#[test]
fn fxsave_and_fxrstor_carry_the_registers() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::RDI] = DATA;
    set_xmm(&mut machine, 7, &[0x42; 16]);
    machine.execute(&[0x0f, 0xae, 0x07]); // fxsave [rdi]
    set_xmm(&mut machine, 7, &[0; 16]);
    machine.execute(&[0x0f, 0xae, 0x0f]); // fxrstor [rdi]
    assert_eq!(xmm(&mut machine, 7)[..16], [0x42; 16]);
}
