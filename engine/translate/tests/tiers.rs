//! Small programs in T0 and in T1: the same registers, flags and memory must come out.

mod machine;

use gasang_translate::Options;
use gasang_x86::gpr;
use iced_x86::code_asm::*;
use machine::{CODE, DATA, Machine, UNCLAIMED};

/// Assemble, run in both tiers (T1 in both flag modes), compare; returns T0's machine.
fn both(build: impl FnOnce(&mut CodeAssembler)) -> Machine {
    both_in(64, build)
}

/// The same in 64- or 32-bit code.
fn both_in(bits: u32, build: impl FnOnce(&mut CodeAssembler)) -> Machine {
    let mut assembler = CodeAssembler::new(bits).unwrap();
    build(&mut assembler);
    assembler.hlt().unwrap();
    let code = assembler.assemble(CODE).unwrap();
    let machine = |options| {
        let machine = Machine::new(&code, options);
        if bits == 32 { machine.narrow() } else { machine }
    };
    let mut precise = machine(None);
    precise.run();
    for options in [
        Options::default(),
        Options { strict_flags: true, ..Options::default() },
        Options { flush_on_write: true, ..Options::default() },
        Options { eager: false, patience: 1, ..Options::default() },
        Options { eager: false, patience: u8::MAX, ..Options::default() },
    ] {
        let mut translated = machine(Some(options));
        translated.run();
        assert_eq!(translated.state.gpr.map(Hex), precise.state.gpr.map(Hex), "{options:?}");
        assert_eq!(translated.state.rip, precise.state.rip);
        assert_eq!(Hex(translated.state.rflags), Hex(precise.state.rflags));
        assert_eq!(translated.state.instructions, precise.state.instructions, "instructions");
        let (mut one, mut other) = (vec![0; 8 << 20], vec![0; 8 << 20]);
        for (memory, bytes) in [(&translated.memory, &mut one), (&precise.memory, &mut other)] {
            memory.read_physical(0, &mut bytes[..0xa_0000]).unwrap();
            memory.read_physical(0xc_0000, &mut bytes[0xc_0000..]).unwrap();
        }
        let difference = one.iter().zip(&other).position(|(a, b)| a != b);
        assert_eq!(difference.map(|at| at as u64).map(Hex), None, "first differing byte of memory");
        let statistics = translated.translator.as_ref().unwrap().statistics();
        assert!(statistics.blocks > 0 || !options.eager, "something was translated");
    }
    precise
}

#[derive(PartialEq, Eq)]
struct Hex(u64);

impl std::fmt::Debug for Hex {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:#x}", self.0)
    }
}

#[test]
fn arithmetic_on_all_registers() {
    let machine = both(|a| {
        a.mov(rax, 0x1234_5678_9abc_def0u64).unwrap();
        a.mov(r9, rax).unwrap();
        a.mov(r10, 0x1111_1111_1111_1111u64).unwrap();
        a.lea(r11, r9 + r10 * 2 + 5).unwrap();
        a.add(r9, r11).unwrap();
        a.xor(r10d, r9d).unwrap();
        a.mov(r11b, 7).unwrap();
        a.imul_3(rbx, r10, 3).unwrap();
        a.adc(rcx, rbx).unwrap();
    });
    assert_eq!(machine.state.gpr[gpr::R11] & 0xff, 7);
}

#[test]
fn a_loop_counts_down_through_memory() {
    let machine = both(|a| {
        let mut top = a.create_label();
        a.mov(rcx, 50_000u64).unwrap();
        a.set_label(&mut top).unwrap();
        a.add(qword_ptr(rsi), 3).unwrap();
        a.mov(rax, qword_ptr(rsi + 8)).unwrap();
        a.add(rax, rcx).unwrap();
        a.mov(qword_ptr(rsi + 8), rax).unwrap();
        a.dec(rcx).unwrap();
        a.jne(top).unwrap();
    });
    assert_eq!(machine.memory.load(machine.memory.host(DATA).unwrap(), 8), 150_000);
}

#[test]
fn carry_survives_the_checks_of_memory_between() {
    both(|a| {
        let mut top = a.create_label();
        a.mov(rcx, 100u64).unwrap();
        a.mov(rax, u64::MAX).unwrap();
        a.clc().unwrap();
        a.set_label(&mut top).unwrap();
        a.adc(qword_ptr(rsi), rax).unwrap();
        a.mov(rbx, qword_ptr(rsi + 64)).unwrap();
        a.push(rbx).unwrap();
        a.pop(r10).unwrap();
        a.adc(r10, qword_ptr(rsi)).unwrap();
        a.mov(qword_ptr(rsi + 64), r10).unwrap();
        a.dec(rcx).unwrap();
        a.jne(top).unwrap();
    });
}

#[test]
fn calls_and_returns_nest_and_keep_flags() {
    both(|a| {
        let (mut function, mut inner, mut start) = (a.create_label(), a.create_label(), a.create_label());
        a.jmp(start).unwrap();
        a.set_label(&mut inner).unwrap();
        a.cmp(rax, rdi).unwrap();
        a.ret().unwrap();
        a.set_label(&mut function).unwrap();
        a.push(rbp).unwrap();
        a.mov(rbp, rsp).unwrap();
        a.call(inner).unwrap();
        a.leave().unwrap();
        a.ret().unwrap();
        a.set_label(&mut start).unwrap();
        for value in [1u64, 5, 9] {
            a.mov(rax, value).unwrap();
            a.mov(rdi, 5u64).unwrap();
            a.call(function).unwrap();
            a.setg(bl).unwrap();
            a.setb(bh).unwrap();
            a.pushfq().unwrap();
            a.pop(r11).unwrap();
            a.add(qword_ptr(rsi), rbx).unwrap();
            a.add(qword_ptr(rsi + 8), r11).unwrap();
        }
        a.lea(rax, ptr(inner)).unwrap();
        a.call(rax).unwrap();
        a.mov(qword_ptr(rsi + 16), rax).unwrap();
        a.call(qword_ptr(rsi + 16)).unwrap();
    });
}

#[test]
fn data_crosses_pages_and_reaches_devices() {
    both(|a| {
        a.mov(rax, 0x0102_0304_0506_0708u64).unwrap();
        a.mov(qword_ptr(rsi + 0xffc), rax).unwrap();
        a.add(qword_ptr(rsi + 0xffd), rax).unwrap();
        a.mov(rdi, UNCLAIMED).unwrap();
        a.mov(rbx, qword_ptr(rdi)).unwrap();
        a.add(ebx, dword_ptr(rdi + 4)).unwrap();
        a.mov(dword_ptr(rdi), ebx).unwrap();
        a.lock().add(dword_ptr(rsi + 0x1fff), ebx).unwrap();
    });
}

#[test]
fn reads_across_pages_come_from_copies() {
    both(|a| {
        a.mov(rax, 0x0102_0304_0506_0708u64).unwrap();
        a.mov(qword_ptr(rsi + 0xff8), rax).unwrap();
        a.mov(qword_ptr(rsi + 0x1000), rax).unwrap();
        a.mov(rbx, qword_ptr(rsi + 0xffd)).unwrap();
        a.movdqu(xmm3, xmmword_ptr(rsi + 0xff5)).unwrap();
        a.movzx(r9d, word_ptr(rsi + 0xfff)).unwrap();
        a.lea(rsp, rsi + 0xffc).unwrap();
        a.pop(r12).unwrap();
        a.lea(rsp, rsi + 0x3000).unwrap();
        a.movq(r13, xmm3).unwrap();
        a.mov(qword_ptr(rsi + 0x800), r9).unwrap();
    });
}

#[test]
fn selectors_are_read_without_leaving() {
    let machine = both(|a| {
        a.mov(rax, u64::MAX).unwrap();
        a.mov(r9, rax).unwrap();
        a.mov(eax, ds).unwrap();
        a.mov(r9d, cs).unwrap();
        a.mov(rbx, ss).unwrap();
    });
    assert_eq!(machine.state.gpr[gpr::RAX], 0x10);
    assert_eq!(machine.state.gpr[gpr::R9], 8);
}

#[test]
fn code_of_32_bits_is_translated_too() {
    both_in(32, |a| {
        let (mut function, mut start, mut top) = (a.create_label(), a.create_label(), a.create_label());
        a.jmp(start).unwrap();
        a.set_label(&mut function).unwrap();
        a.push(ebp).unwrap();
        a.mov(ebp, esp).unwrap();
        a.inc(eax).unwrap();
        a.add(eax, dword_ptr(ebp + 8)).unwrap();
        a.leave().unwrap();
        a.ret_1(4u32).unwrap();
        a.set_label(&mut start).unwrap();
        a.mov(ecx, 1000).unwrap();
        a.set_label(&mut top).unwrap();
        a.push(ecx).unwrap();
        a.push(dword_ptr(esi + ecx * 4)).unwrap();
        a.call(function).unwrap();
        a.mov(dword_ptr(esi + ecx * 4 - 4), eax).unwrap();
        a.pop(ecx).unwrap();
        a.push(-7).unwrap();
        a.pop(edx).unwrap();
        a.bts(dword_ptr(esi), edx).unwrap();
        a.adc(ebx, 0).unwrap();
        // Behind the short jump.
        a.mov(edi, CODE as i32 + 2).unwrap();
        a.push(ecx).unwrap();
        a.call(edi).unwrap();
        a.dec(ecx).unwrap();
        a.jne(top).unwrap();
        a.lea(edi, edi + ecx * 2 - 0x7fff_ffff).unwrap();
        a.mov(dword_ptr(esi + 0x1ffe), edi).unwrap();
        a.mov(edx, dword_ptr(esi + 0x1ffd)).unwrap();
        a.movd(xmm1, edx).unwrap();
        a.paddd(xmm1, xmmword_ptr(esi)).unwrap();
        a.movups(xmmword_ptr(esi + 0x100), xmm1).unwrap();
        a.mov(eax, ds).unwrap();
        a.aaa().unwrap();
    });
}

#[test]
fn vectors_wait_for_their_state() {
    both(|a| {
        a.mov(rax, 0x3ff8_0000_0000_0000u64).unwrap();
        a.movq(xmm0, rax).unwrap();
        a.addsd(xmm0, xmm0).unwrap();
        a.movups(xmmword_ptr(rsi + 3), xmm0).unwrap();
        a.in_(al, 0x60).unwrap();
        a.mulsd(xmm0, qword_ptr(rsi + 3)).unwrap();
        a.vaddpd(ymm1, ymm0, ymm0).unwrap();
        a.vmovupd(ymmword_ptr(rsi + 0x40), ymm1).unwrap();
        a.fld1().unwrap();
        a.fadd(qword_ptr(rsi + 3)).unwrap();
        a.fstp(qword_ptr(rsi + 0x80)).unwrap();
        a.movq(rbx, xmm0).unwrap();
    });
}

#[test]
fn bit_strings_reach_any_word() {
    both(|a| {
        a.mov(rax, 12_345i64).unwrap();
        a.bts(qword_ptr(rsi), rax).unwrap();
        a.setc(bl).unwrap();
        a.bt(qword_ptr(rsi), rax).unwrap();
        a.setc(bh).unwrap();
        a.mov(r9d, -77i32).unwrap();
        a.lock().btc(dword_ptr(rsi + 0x100), r9d).unwrap();
        a.adc(rbx, 0).unwrap();
    });
}

#[test]
fn code_that_rewrites_itself_runs_as_rewritten() {
    let machine = both(|a| {
        let (mut top, mut patched) = (a.create_label(), a.create_label());
        a.mov(rcx, 20u64).unwrap();
        a.lea(rdi, ptr(patched)).unwrap();
        a.set_label(&mut top).unwrap();
        a.inc(byte_ptr(rdi + 1)).unwrap();
        a.set_label(&mut patched).unwrap();
        a.mov(al, 0x10).unwrap();
        a.nop().unwrap();
        a.add(rbx, rax).unwrap();
        a.xor(byte_ptr(rdi + 1), 3).unwrap();
        a.or(byte_ptr(rdi + 2), 0).unwrap();
        a.dec(rcx).unwrap();
        a.jne(top).unwrap();
    });
    assert_ne!(machine.state.gpr[gpr::RBX], 0);
}

/// Targets 64 KiB apart share an entry of the indirect-jump table; the one that the table names may be gone.
#[test]
fn an_invalidated_block_does_not_catch_jumps_to_its_namesake() {
    let machine = both(|a| {
        let mut start = a.create_label();
        a.jmp(start).unwrap();
        a.set_label(&mut start).unwrap();
        // inc rbx; ret and, 64 KiB further, inc rbp; ret
        a.mov(rdi, DATA + 0x100).unwrap();
        a.mov(dword_ptr(rdi), 0xc3c3_ff48u32 as i32).unwrap();
        a.mov(dword_ptr(rdi + 0x10000), 0xc3c5_ff48u32 as i32).unwrap();
        a.call(rdi).unwrap();
        a.mov(byte_ptr(rdi + 2), 0xc6u32 as i32).unwrap();
        a.add(rdi, 0x10000).unwrap();
        a.call(rdi).unwrap();
        a.call(rdi).unwrap();
    });
    assert_eq!(machine.state.gpr[gpr::RBP], 2);
}

#[test]
fn flags_go_to_the_stack_and_back() {
    both(|a| {
        a.cmp(rax, rsi).unwrap();
        a.pushfq().unwrap();
        a.sti().unwrap();
        a.nop().unwrap();
        a.pushfq().unwrap();
        a.cli().unwrap();
        a.pop(rbx).unwrap();
        a.popfq().unwrap();
        a.adc(rbx, 0).unwrap();
        a.std().unwrap();
        a.pushfq().unwrap();
        a.cld().unwrap();
        a.pop(r9).unwrap();
        a.swapgs().unwrap();
        a.shl(rbx, cl).unwrap();
        a.cmovb(r10, rsi).unwrap();
    });
}

#[test]
fn divide_works_and_strings_move() {
    both(|a| {
        a.mov(rax, 1_000_003u64).unwrap();
        a.xor(edx, edx).unwrap();
        a.mov(r9, 17u64).unwrap();
        a.div(r9).unwrap();
        a.mov(qword_ptr(rsi), rdx).unwrap();
        a.lea(rdi, rsi + 0x0ff8).unwrap();
        a.mov(rcx, 3u64).unwrap();
        a.rep().stosq().unwrap();
        a.mov(rcx, 100u64).unwrap();
        a.lea(rdi, rsi + 0x800).unwrap();
        a.rep().movsb().unwrap();
        a.jrcxz_to_end();
    });
}

trait JumpOver {
    fn jrcxz_to_end(&mut self);
}

impl JumpOver for CodeAssembler {
    fn jrcxz_to_end(&mut self) {
        let mut end = self.create_label();
        self.jrcxz(end).unwrap();
        self.mov(rbx, 1u64).unwrap();
        self.set_label(&mut end).unwrap();
        self.nop().unwrap();
    }
}

#[test]
fn new_code_is_translated_when_it_was_met_as_often_as_there_is_patience() {
    let run = |rounds, patience| {
        let mut assembler = CodeAssembler::new(64).unwrap();
        let mut again = assembler.create_label();
        assembler.mov(ecx, rounds).unwrap();
        assembler.set_label(&mut again).unwrap();
        assembler.dec(ecx).unwrap();
        assembler.jnz(again).unwrap();
        assembler.hlt().unwrap();
        let code = assembler.assemble(CODE).unwrap();
        let mut machine = Machine::new(&code, Some(Options { eager: false, patience, ..Options::default() }));
        machine.run();
        let statistics = machine.translator.unwrap().statistics();
        (statistics.blocks, statistics.direct)
    };
    // MOV, then DEC and JNZ in each round; HLT is T0's.
    assert_eq!(run(5, 4), (0, 11));
    assert_eq!(run(1000, 4), (1, 11), "the fifth time round it is a block's");
    assert_eq!(run(1000, u8::MAX), (0, 2001));
    assert_eq!(run(1000, 0).1, 0);
}
