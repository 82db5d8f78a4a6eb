//! Guest code in, host code out, as files that read well in a diff. GASANG_UPDATE_GOLDEN=1 writes them anew.

mod machine;

use gasang_translate::{BlockListing, Options};
use iced_x86::code_asm::*;
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use machine::{CODE, Machine};
use std::fmt::Write;
use std::path::Path;

/// The blocks of a program as text; host addresses count from the start of the block.
fn text(blocks: &[BlockListing]) -> String {
    let mut text = String::new();
    for block in blocks {
        writeln!(text, "block at {:#x}", block.linear).unwrap();
        for (address, _, line) in &block.guest {
            writeln!(text, "    {address:#x}  {line}").unwrap();
        }
        writeln!(text, "becomes").unwrap();
        let host: Vec<u8> = block.host.iter().flat_map(|(_, bytes, _)| bytes.clone()).collect();
        let mut formatter = IntelFormatter::new();
        for instruction in &mut Decoder::with_ip(64, &host, 0x1000_0000, DecoderOptions::NONE) {
            let mut line = String::new();
            formatter.format(&instruction, &mut line);
            let outside = instruction.is_jmp_short_or_near() || instruction.is_jcc_short_or_near();
            let target = instruction.near_branch_target();
            if outside && target < 0x1000_0000 {
                line = format!("{} exit", line.split(' ').next().unwrap());
            }
            writeln!(text, "    {:4x}  {line}", instruction.ip() - 0x1000_0000).unwrap();
        }
    }
    text
}

fn golden(name: &str, build: impl FnOnce(&mut CodeAssembler)) {
    let mut assembler = CodeAssembler::new(64).unwrap();
    build(&mut assembler);
    assembler.hlt().unwrap();
    let code = assembler.assemble(CODE).unwrap();
    let mut machine = Machine::new(&code, Some(Options { trace: true, ..Options::default() }));
    machine.run();
    let found = text(&machine.translator.as_mut().unwrap().take_blocks()[..1]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.txt"));
    if std::env::var_os("GASANG_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{} differs; GASANG_UPDATE_GOLDEN=1 writes it anew", path.display());
}

#[test]
fn a_load_is_checked_inline() {
    golden("load", |a| {
        a.xor(ecx, ecx).unwrap();
        a.mov(rax, qword_ptr(rsi + rcx * 8 + 16)).unwrap();
    });
}

#[test]
fn live_flags_go_to_their_slot_before_a_check() {
    golden("live_flags", |a| {
        a.cmp(rcx, rdx).unwrap();
        a.mov(rax, qword_ptr(rsi)).unwrap();
        a.adc(rbx, 0).unwrap();
    });
}

#[test]
fn neighbouring_accesses_share_a_check() {
    golden("shared_check", |a| {
        a.push(rbp).unwrap();
        a.push(rbx).unwrap();
        a.sub(rsp, 24).unwrap();
        a.mov(qword_ptr(rsp + 8), rdi).unwrap();
    });
}

#[test]
fn spilled_registers_pass_through_scratch() {
    golden("spilled", |a| {
        a.lea(r9, r10 + r11 * 2 + 1).unwrap();
        a.add(r9, qword_ptr(rsi)).unwrap();
    });
}

#[test]
fn a_loop_is_linked_to_itself() {
    golden("loop", |a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.sub(rcx, 1).unwrap();
        a.ja(top).unwrap();
    });
}
