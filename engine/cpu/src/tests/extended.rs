//! Facts about FXSAVE and the XSAVE family (SDM vol. 1, chapter 13).

use super::*;
use gasang_x86::control::xcr0;

const AREA: u64 = 0x20_0000;
const XMM: u64 = 160;
const HEADER: u64 = 512;
const ALL: u64 = xcr0::X87 | xcr0::SSE | xcr0::AVX | xcr0::PKRU;

/// 64-bit mode with x87, SSE, AVX and PKRU enabled, and a page for the image.
fn machine() -> Machine {
    let mut machine = Machine::long();
    machine.map(AREA, AREA, OPEN);
    machine.state.cr4 |= cr4::OSXSAVE | cr4::PKE;
    machine.core().xsetbv(0, ALL).unwrap();
    machine
}

/// Put recognisable values into XMM1, the upper half of YMM1, ST0 and PKRU.
fn fill(machine: &mut Machine) {
    let image = &mut machine.state.extended;
    image.bytes[XMM as usize + 16] = 0xa1;
    image.bytes[576 + 16] = 0xb1;
    image.bytes[32] = 0xc0;
    image.bytes[..2].copy_from_slice(&0x27fu16.to_le_bytes());
    image.set_in_use(xcr0::X87 | xcr0::SSE | xcr0::AVX);
    image.set_mxcsr(0x1fa0);
    machine.state.pkru = 0x54;
}

fn is_filled(machine: &Machine) -> bool {
    let image = &machine.state.extended;
    let bytes = [image.bytes[XMM as usize + 16], image.bytes[576 + 16], image.bytes[32]];
    bytes == [0xa1, 0xb1, 0xc0] && image.mxcsr() == 0x1fa0 && machine.state.pkru == 0x54
}

fn reset(machine: &mut Machine) {
    machine.state.extended = ExtendedState::initial();
    machine.state.pkru = 0;
}

#[test]
fn every_way_of_saving_restores_the_same_state() {
    for kind in [SaveKind::Standard, SaveKind::Opt, SaveKind::Compacted, SaveKind::Supervisor] {
        let mut machine = machine();
        fill(&mut machine);
        machine.core().xsave(AREA, !0, kind, true).unwrap();
        assert_eq!(machine.peek(AREA + HEADER, 8), ALL, "{kind:?}");
        reset(&mut machine);
        machine.core().xrstor(AREA, !0, kind == SaveKind::Supervisor, true).unwrap();
        assert!(is_filled(&machine), "{kind:?}");
    }
}

#[test]
fn the_compacted_format_leaves_no_gap() {
    let mut machine = machine();
    fill(&mut machine);
    machine.core().xsave(AREA, xcr0::X87 | xcr0::PKRU, SaveKind::Compacted, true).unwrap();
    assert_eq!(machine.peek(AREA + HEADER + 8, 8), 1 << 63 | xcr0::X87 | xcr0::PKRU);
    assert_eq!(machine.peek(AREA + 576, 8), 0x54);
}

#[test]
fn xsave_merges_its_header_with_the_old_one() {
    let mut machine = machine();
    fill(&mut machine);
    machine.poke(AREA + HEADER, 8, xcr0::SSE);
    machine.core().xsave(AREA, xcr0::AVX, SaveKind::Standard, true).unwrap();
    assert_eq!(machine.peek(AREA + HEADER, 8), xcr0::SSE | xcr0::AVX);
    assert_eq!(machine.peek(AREA + XMM + 16, 1), 0, "XMM was not asked for");
    assert_eq!(machine.peek(AREA + 24, 4), 0x1fa0, "MXCSR comes with AVX");
    reset(&mut machine);
    machine.core().xsave(AREA, xcr0::AVX, SaveKind::Opt, true).unwrap();
    assert_eq!(machine.peek(AREA + HEADER, 8), xcr0::SSE, "AVX is initial now");
}

#[test]
fn initial_components_are_written_by_xsave_alone() {
    for (kind, expected) in [(SaveKind::Standard, 0x37f), (SaveKind::Opt, 0xeeee)] {
        let mut machine = machine();
        machine.poke(AREA, 2, 0xeeee);
        machine.core().xsave(AREA, xcr0::X87, kind, true).unwrap();
        assert_eq!(machine.peek(AREA, 2), expected, "{kind:?}");
        assert_eq!(machine.peek(AREA + HEADER, 8), 0);
    }
}

#[test]
fn xrstor_initializes_what_the_image_does_not_hold() {
    let mut machine = machine();
    fill(&mut machine);
    machine.poke(AREA + 24, 4, 0x1f80);
    machine.core().xrstor(AREA, xcr0::SSE | xcr0::AVX, false, true).unwrap();
    let image = &machine.state.extended;
    assert_eq!((image.bytes[XMM as usize + 16], image.bytes[576 + 16]), (0, 0));
    assert_eq!(image.in_use(), xcr0::X87);
    assert_eq!((image.bytes[32], machine.state.pkru), (0xc0, 0x54), "not asked for");
    assert_eq!(image.mxcsr(), 0x1f80);
    machine.core().xrstor(AREA, xcr0::PKRU | xcr0::X87, false, true).unwrap();
    assert_eq!(machine.state.pkru, 0);
    assert_eq!(machine.state.extended.bytes[..2], 0x37fu16.to_le_bytes());
}

#[test]
fn malformed_images_are_refused() {
    let refused = |at: u64, size: usize, value: u64, supervisor: bool| {
        let mut machine = machine();
        fill(&mut machine);
        machine.poke(AREA + at, size, value);
        let result = machine.core().xrstor(AREA, !0, supervisor, true);
        assert_eq!(result, Err(general_protection(0)), "{at} {value:#x}");
        assert!(is_filled(&machine));
    };
    refused(HEADER, 8, 1 << 4, false);
    refused(HEADER + 8, 8, 1, false);
    refused(HEADER + 16, 1, 1, false);
    refused(24, 4, 1 << 16, false);
    refused(HEADER + 8, 8, 1 << 63 | 1 << 4, false);
    refused(HEADER, 8, 0, true);
}

#[test]
fn components_outside_xcr0_are_not_saved() {
    let mut machine = machine();
    fill(&mut machine);
    machine.core().xsetbv(0, xcr0::X87 | xcr0::SSE).unwrap();
    machine.core().xsave(AREA, !0, SaveKind::Standard, true).unwrap();
    assert_eq!(machine.peek(AREA + HEADER, 8), xcr0::X87 | xcr0::SSE);
    assert_eq!(machine.peek(AREA + 576 + 16, 1), 0);
}

#[test]
fn images_must_be_aligned() {
    let mut machine = machine();
    assert_eq!(machine.core().xsave(AREA + 32, 1, SaveKind::Standard, true), Err(general_protection(0)));
    assert_eq!(machine.core().fxsave(AREA + 8, true), Err(general_protection(0)));
}

#[test]
fn an_image_that_faults_half_way_is_not_begun() {
    let mut machine = machine();
    fill(&mut machine);
    let fault = machine.core().xsave(AREA + 0x1000 - 512, !0, SaveKind::Standard, true);
    assert!(matches!(fault, Err(Trap::Exception(_))));
    assert_eq!(machine.peek(AREA + 0x1000 - 512, 8), 0);
}

#[test]
fn fxsave_and_fxrstor_agree() {
    let mut machine = machine();
    fill(&mut machine);
    machine.core().fxsave(AREA, true).unwrap();
    assert_eq!(machine.peek(AREA + 28, 4), 0xffff, "the mask of MXCSR");
    let before = machine.state.extended.clone();
    machine.state.extended = ExtendedState::initial();
    machine.core().fxrstor(AREA, true).unwrap();
    assert_eq!(machine.state.extended.bytes[..28], before.bytes[..28]);
    assert_eq!(machine.state.extended.bytes[32..416], before.bytes[32..416]);
    machine.poke(AREA + 24, 4, 1 << 16);
    assert_eq!(machine.core().fxrstor(AREA, true), Err(general_protection(0)));
}

#[test]
fn eight_registers_outside_64bit_mode() {
    let mut machine = machine();
    fill(&mut machine);
    machine.state.extended.bytes[XMM as usize + 15 * 16] = 0xf5;
    let last = machine.state.extended.bytes[XMM as usize + 15 * 16];
    machine.set_descriptor(FREE, flat(CODE32, 0));
    machine.core().far_jump(FREE, 0, 32, 0).unwrap();
    machine.core().fxsave(AREA, false).unwrap();
    assert_eq!(machine.peek(AREA + XMM + 16, 1), 0xa1);
    assert_eq!(machine.peek(AREA + XMM + 15 * 16, 1), 0);
    machine.core().xrstor(AREA, xcr0::SSE, false, false).unwrap();
    assert_eq!(machine.state.extended.bytes[XMM as usize + 16], 0);
    assert_eq!(machine.state.extended.bytes[XMM as usize + 15 * 16], last, "out of reach");
}

#[test]
fn xcr0_takes_valid_combinations_only() {
    let mut machine = machine();
    for value in [0, xcr0::SSE, xcr0::X87 | xcr0::AVX, xcr0::X87 | xcr0::OPMASK, 1 << 4 | 1, 1 << 63 | 1] {
        assert_eq!(machine.core().xsetbv(0, value), Err(general_protection(0)), "{value:#x}");
    }
    assert_eq!(machine.core().xsetbv(1, 1), Err(general_protection(0)));
    assert_eq!(machine.core().xgetbv(0), Ok(ALL));
    assert_eq!(machine.core().xgetbv(1), Ok(0));
    fill(&mut machine);
    assert_eq!(machine.core().xgetbv(1), Ok(ALL));
    machine.enter_user(USER_CODE);
    assert_eq!(machine.core().xsetbv(0, 1), Err(general_protection(0)));
    machine.state.cr4 &= !cr4::OSXSAVE;
    assert_eq!(machine.core().xgetbv(0), Err(Exception::invalid_opcode().into()));
}

#[test]
fn units_can_be_away() {
    let undefined = Err(Exception::invalid_opcode().into());
    let away = Err(Exception::device_not_available().into());
    let mut machine = machine();
    let core = machine.core();
    assert!(core.check_fpu().is_ok() && core.check_simd().is_ok() && core.check_avx().is_ok());
    assert_eq!(core.check_avx512(), undefined, "not in XCR0");
    machine.state.cr0 |= cr0::TS;
    let core = machine.core();
    assert_eq!((core.check_fpu(), core.check_simd(), core.check_avx()), (away, away, away));
    assert!(core.check_wait().is_ok());
    machine.state.cr0 |= cr0::EM | cr0::MP;
    let core = machine.core();
    assert_eq!((core.check_fpu(), core.check_simd(), core.check_mmx()), (away, undefined, undefined));
    assert_eq!(core.check_wait(), away);
    machine.state.cr0 &= !(cr0::EM | cr0::TS);
    machine.state.cr4 &= !cr4::OSFXSR;
    assert_eq!(machine.core().check_simd(), undefined);
}

#[test]
fn pkru_instructions_need_pke() {
    let mut machine = machine();
    machine.core().wrpkru(5, 0, 0).unwrap();
    assert_eq!(machine.core().rdpkru(0), Ok(5));
    assert_eq!(machine.core().rdpkru(1), Err(general_protection(0)));
    machine.state.cr4 &= !cr4::PKE;
    assert_eq!(machine.core().wrpkru(0, 0, 0), Err(Exception::invalid_opcode().into()));
}

#[test]
fn mxcsr_refuses_reserved_bits() {
    let mut machine = machine();
    assert_eq!(machine.core().write_mxcsr(1 << 16), Err(general_protection(0)));
    machine.core().write_mxcsr(0x9fc0).unwrap();
    assert_eq!(machine.state.extended.mxcsr(), 0x9fc0);
}
