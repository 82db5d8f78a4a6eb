//! Facts about real mode, 16-bit and 32-bit code.

use super::machine::{CODE, DATA, Machine, STACK};
use gasang_cpu::SegmentRegister;
use gasang_x86::control::{cr0, efer};
use gasang_x86::descriptor::access;
use gasang_x86::{exception as vector, gpr, rflags, segment};

/// Real mode: CS and DS are paragraphs of CODE and DATA, SS:SP is 1000:fff0 and its vectors lead to 0000:vvvv.
fn real_mode() -> Machine {
    let mut machine = Machine::new();
    machine.state.cr0 &= !(cr0::PE | cr0::PG);
    machine.state.efer &= !(efer::LMA | efer::LME);
    machine.state.idtr.base = 0;
    machine.state.idtr.limit = 0x3ff;
    for vector in 0..256 {
        machine.write(vector * 4, 4, 0x800 + vector);
    }
    machine.state.segment = [SegmentRegister::real_mode((DATA >> 4) as u16); 6];
    machine.state.segment[segment::SS] = SegmentRegister::real_mode((STACK >> 4) as u16);
    machine.state.segment[segment::CS] = SegmentRegister::real_mode((CODE >> 4) as u16);
    machine.state.segment[segment::CS].attributes |= access::CODE;
    machine.state.rip = 0;
    machine.state.gpr[gpr::RSP] = 0x100;
    machine.tlb.flush_all();
    machine
}

/// Execute one instruction at CS:IP of a real-mode machine.
fn execute(machine: &mut Machine, code: &[u8]) {
    machine.memory.write_physical(CODE + machine.state.rip, code).unwrap();
    machine.step();
}

#[test]
fn sixteen_bit_pushes_leave_the_rest_of_esp() {
    let mut machine = real_mode();
    machine.state.gpr[gpr::RSP] = 0xabcd_0000;
    machine.state.gpr[gpr::RAX] = 0x1122_3344;
    execute(&mut machine, &[0x50]); // push ax
    assert_eq!(machine.state.gpr[gpr::RSP], 0xabcd_fffe);
    assert_eq!(machine.read(STACK + 0xfffe, 2), 0x3344);
    execute(&mut machine, &[0x66, 0x5b]); // pop ebx: half of it beyond the segment
    assert_eq!(machine.state.rip, 0x800 + u64::from(vector::SS));
}

#[test]
fn real_mode_addresses_wrap_in_their_segment() {
    let mut machine = real_mode();
    machine.state.gpr[gpr::RBX] = 0xfff0;
    machine.state.gpr[gpr::RSI] = 0x20;
    machine.write(DATA + 0x10, 2, 0x1234);
    execute(&mut machine, &[0x8b, 0x00]); // mov ax, [bx+si]
    assert_eq!(machine.state.gpr[gpr::RAX], 0x1234);
    machine.state.gpr[gpr::RBX] = 0xffff;
    execute(&mut machine, &[0x8b, 0x07]); // mov ax, [bx]: crosses the limit
    assert_eq!(machine.state.rip, 0x800 + u64::from(vector::GP));
}

#[test]
fn near_calls_of_16_bit_code_push_two_bytes() {
    let mut machine = real_mode();
    execute(&mut machine, &[0xe8, 0xfd, 0xff]); // call 0
    assert_eq!((machine.state.rip, machine.state.gpr[gpr::RSP]), (0, 0xfe));
    assert_eq!(machine.read(STACK + 0xfe, 2), 3);
}

#[test]
fn far_jumps_load_the_code_segment() {
    let mut machine = real_mode();
    execute(&mut machine, &[0xea, 0x34, 0x12, 0x00, 0x20]); // jmp 2000:1234
    assert_eq!(machine.state.rip, 0x1234);
    assert_eq!(machine.state.segment[segment::CS].base, 0x2_0000);
}

#[test]
fn vector_encodings_do_not_exist_in_real_mode() {
    let mut machine = real_mode();
    execute(&mut machine, &[0xc5, 0xf8, 0x58, 0xc1]); // vaddps xmm0, xmm0, xmm1
    assert_eq!(machine.state.rip, 0x800 + u64::from(vector::UD));
}

#[test]
fn instructions_on_descriptors_do_not_exist_in_real_mode() {
    for code in [&[0x0f, 0x00, 0xd0][..], &[0x0f, 0x02, 0xc0], &[0x0f, 0x00, 0x27], &[0x63, 0xc0]] {
        let mut machine = real_mode();
        execute(&mut machine, code);
        assert_eq!(machine.state.rip, 0x800 + u64::from(vector::UD), "{code:02x?}");
    }
}

#[test]
fn sixteen_bit_strings_use_si_and_di_alone() {
    let mut machine = real_mode();
    machine.state.gpr[gpr::RSI] = 0xffff_0000_0000_ffff;
    machine.state.gpr[gpr::RDI] = 0x100;
    machine.state.gpr[gpr::RCX] = 0xaaaa_0003;
    for (offset, byte) in [(0xffff, 1), (0, 2), (1, 3)] {
        machine.write(DATA + offset, 1, byte);
    }
    execute(&mut machine, &[0xf3, 0xa4]); // rep movsb
    assert_eq!(machine.read(DATA + 0x100, 4), 0x03_0201);
    assert_eq!(machine.state.gpr[gpr::RSI], 0xffff_0000_0000_0002);
    assert_eq!(machine.state.gpr[gpr::RCX], 0xaaaa_0000);
}

#[test]
fn pusha_and_popa_skip_the_stack_pointer() {
    let mut machine = real_mode();
    for number in 0..8 {
        machine.state.gpr[number] = 0x100 + number as u64;
    }
    execute(&mut machine, &[0x60]);
    assert_eq!(machine.state.gpr[gpr::RSP], 0x104 - 16);
    assert_eq!(machine.read(STACK + 0x104 - 10, 2), 0x104, "SP as it was");
    machine.state.gpr[gpr::RDI] = 0;
    execute(&mut machine, &[0x61]);
    assert_eq!((machine.state.gpr[gpr::RDI], machine.state.gpr[gpr::RSP]), (0x107, 0x104));
}

#[test]
fn short_increments_keep_carry() {
    let mut machine = Machine::new();
    machine.set_code_bits(32);
    machine.state.rflags |= rflags::CF;
    machine.state.gpr[gpr::RSP] = 0xffff_ffff;
    machine.execute(&[0x44]); // inc esp
    assert_eq!(machine.state.gpr[gpr::RSP], 0);
    assert_eq!(machine.state.rflags & (rflags::CF | rflags::ZF), rflags::CF | rflags::ZF);
}

#[test]
fn bound_and_into_raise_their_own_exceptions() {
    let mut machine = Machine::new();
    machine.set_code_bits(32);
    machine.write(DATA, 8, 5 << 32 | 0xffff_fffd);
    machine.state.gpr[gpr::RDI] = DATA;
    machine.state.gpr[gpr::RAX] = -3i32 as u32 as u64;
    machine.execute(&[0x62, 0x07]); // bound eax, [edi]
    assert_eq!(machine.vector(), None);
    machine.state.gpr[gpr::RAX] = 6;
    machine.execute(&[0x62, 0x07]);
    assert_eq!(machine.vector(), Some(vector::BR));
}

#[test]
fn ascii_adjustments_agree_with_the_manual() {
    // (opcode bytes, AX before, AF before, AX after, CF and AF after)
    let cases: [(&[u8], u64, bool, u64, bool); 6] = [
        (&[0x37], 0x010b, false, 0x0201, true),
        (&[0x37], 0x0105, false, 0x0105, false),
        (&[0x3f], 0x0203, true, 0x000d, true),
        (&[0xd4, 0x0a], 0x004b, false, 0x0705, false),
        (&[0xd5, 0x0a], 0x0705, false, 0x004b, false),
        (&[0x2f], 0x00ee, false, 0x0088, true),
    ];
    for (code, before, adjust, after, carry) in cases {
        let mut machine = Machine::new();
        machine.set_code_bits(32);
        machine.state.gpr[gpr::RAX] = before;
        if adjust {
            machine.state.rflags |= rflags::AF;
        }
        machine.execute(code);
        assert_eq!(machine.state.gpr[gpr::RAX], after, "{code:02x?}");
        assert_eq!(machine.state.rflags & rflags::CF != 0, carry, "{code:02x?}");
    }
}

#[test]
fn aam_of_zero_divides_by_zero() {
    let mut machine = Machine::new();
    machine.set_code_bits(32);
    machine.execute(&[0xd4, 0x00]);
    assert_eq!(machine.vector(), Some(vector::DE));
}
