//! What the engine made of a case beside what the host processor made of it.

use crate::case::{AVX_OFFSET, Case, DIED, EXTENDED_BYTES, Outcome};
use crate::excluded;
use crate::intel;
use crate::layout::{DATA, DATA_BYTES, HIGH, LOW, PAGE};
use crate::single::Test;
use gasang_x86::{exception, gpr, rflags};
use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter};

/// Where Linux calls a user address one of the kernel's, and so hides whether its page is present.
const LAST_USER_PAGE: u64 = 0x7fff_ffff_f000;

/// What a tier may do differently.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// At a fault, flags that would have been overwritten next.
    pub dead_flags: bool,
    /// Flags that an instruction leaves undefined.
    pub undefined_flags: bool,
    /// The stack below RSP after a call that faulted.
    pub dead_stack: bool,
}

/// The first difference between two outcomes of a case; None if they are the same.
pub fn difference(test: &Test, host: &Outcome, engine: &Outcome, tier: Tolerance) -> Option<String> {
    if host.vector == DIED {
        return Some("the host's process died".to_string());
    }
    let instruction = instruction(test);
    if host.vector != engine.vector {
        let excused = intel::prefers_another_fault(host, engine)
            || intel::stores_nothing(&instruction, host)
            || intel::computes_before_it_stores(&instruction, host);
        if excused {
            return None;
        }
        return Some(format!(
            "vector {} error {:#x} rip {:#x} on the host, {} error {:#x} rip {:#x} in the engine",
            host.vector,
            host.error_code,
            host.registers.rip,
            engine.vector,
            engine.error_code,
            engine.registers.rip
        ));
    }
    let page_fault = host.vector == u32::from(exception::PF);
    let any_byte = page_fault && excluded::has_parts(&instruction);
    let compared = if any_byte { !(PAGE - 1) } else { !0 };
    let any_fault = page_fault && intel::tells_another_fault(&instruction);
    if page_fault && !any_fault && host.cr2 & compared != engine.cr2 & compared {
        return Some(different("cr2", host.cr2, engine.cr2));
    }
    let hidden = u32::from(page_fault && host.cr2 >= LAST_USER_PAGE);
    if !any_fault && host.error_code | hidden != engine.error_code | hidden {
        return Some(different("error code", host.error_code.into(), engine.error_code.into()));
    }
    registers(&instruction, host, engine)
        .or_else(|| flags(test, host, engine, tier))
        .or_else(|| extended(&instruction, host, engine))
        .or_else(|| memory(test, host, engine, tier))
}

fn different(what: &str, host: u64, engine: u64) -> String {
    format!("{what} {host:#x} on the host, {engine:#x} in the engine")
}

fn registers(instruction: &Instruction, host: &Outcome, engine: &Outcome) -> Option<String> {
    let (host, engine) = (&host.registers, &engine.registers);
    let compared = |values: &[u64; 16]| {
        let mut compared = *values;
        for register in [gpr::RCX, gpr::RSI, gpr::RDI] {
            compared[register] &= intel::compared_of_strings(instruction);
        }
        compared
    };
    let (of_host, of_engine) = (compared(&host.gpr), compared(&engine.gpr));
    let gprs = gpr::NAMES.iter().zip(of_host.iter().zip(&of_engine));
    let others = [
        ("rip", host.rip, engine.rip),
        ("fs base", host.fs_base, engine.fs_base),
        ("gs base", host.gs_base, engine.gs_base),
    ];
    gprs.map(|(&name, (&host, &engine))| (name, host, engine))
        .chain(others)
        .find(|(_, host, engine)| host != engine)
        .map(|(name, host, engine)| different(name, host, engine))
}

fn flags(test: &Test, host: &Outcome, engine: &Outcome, tier: Tolerance) -> Option<String> {
    const COMPARED: u64 =
        rflags::STATUS | rflags::TF | rflags::DF | rflags::NT | rflags::RF | rflags::AC | rflags::ID;
    let mut compared = COMPARED;
    let faulted = host.vector != u32::from(exception::BP);
    if faulted && tier.dead_flags {
        compared &= !test.dead_at_fault;
    }
    if faulted && intel::restores_flags(&instruction(test)) {
        compared &= !rflags::STATUS;
    }
    if tier.undefined_flags {
        compared &= !test.undefined;
    }
    let (host, engine) = (host.registers.rflags & compared, engine.registers.rflags & compared);
    (host != engine).then(|| different("rflags", host, engine))
}

/// Parts of the extended state that are compared: name, offset, length. x87's instruction and data pointers are not: the
/// processor here keeps them only with an unmasked exception pending, and the engine does not show guests where it runs.
fn parts() -> Vec<(String, usize, usize)> {
    let mut parts = vec![
        ("x87 control word".to_string(), 0, 2),
        ("x87 status word".to_string(), 2, 2),
        ("x87 tags".to_string(), 4, 1),
        ("mxcsr".to_string(), 24, 4),
    ];
    parts.extend((0..8).map(|number| (format!("st{number}"), 32 + number * 16, 10)));
    parts.extend((0..16).map(|number| (format!("xmm{number}"), 160 + number * 16, 16)));
    parts.extend((0..16).map(|number| (format!("upper ymm{number}"), AVX_OFFSET + number * 16, 16)));
    parts
}

/// The image with the components that are not in use as their initial state.
fn normalized(image: &[u8; EXTENDED_BYTES]) -> [u8; EXTENDED_BYTES] {
    let mut normal = *image;
    let in_use = image[512];
    if in_use & 1 == 0 {
        normal[..24].fill(0);
        normal[..2].copy_from_slice(&0x37fu16.to_le_bytes());
        normal[32..160].fill(0);
    }
    if in_use & 2 == 0 {
        normal[160..416].fill(0);
    }
    if in_use & 4 == 0 {
        normal[AVX_OFFSET..].fill(0);
    }
    normal
}

fn extended(instruction: &Instruction, host: &Outcome, engine: &Outcome) -> Option<String> {
    let faulted = host.vector != u32::from(exception::BP);
    let (host, engine) = (normalized(&host.registers.extended), normalized(&engine.registers.extended));
    let hexadecimal = |bytes: &[u8]| bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect::<String>();
    parts().into_iter().find_map(|(name, offset, length)| {
        let (host, engine) = (&host[offset..offset + length], &engine[offset..offset + length]);
        let excused = faulted && intel::changes_at_fault(instruction, &name);
        (host != engine && !excused).then(|| {
            format!("{name} {} on the host, {} in the engine", hexadecimal(host), hexadecimal(engine))
        })
    })
}

fn memory(test: &Test, host: &Outcome, engine: &Outcome, tier: Tolerance) -> Option<String> {
    let instruction = instruction(test);
    let faulted = host.vector != u32::from(exception::BP);
    if host.memory == engine.memory || faulted && intel::stores_in_parts(&instruction) {
        return None;
    }
    let ranges = excluded::memory_ranges(&instruction);
    let excused = |offset: usize| {
        let at = operand_offset(&test.case, &instruction);
        ranges.iter().any(|&(from, to)| (at + from..at + to).contains(&offset))
            || (tier.dead_stack || *intel::IS_HOST)
                && [LOW, HIGH].iter().any(|window| {
                    let address = window + DATA + offset as u64;
                    excluded::is_dead_stack(&instruction, host.vector, host.registers.gpr[gpr::RSP], address)
                })
    };
    let offset =
        (0..DATA_BYTES).find(|&offset| host.memory[offset] != engine.memory[offset] && !excused(offset))?;
    let what = format!("data byte {offset:#x}");
    Some(different(&what, host.memory[offset].into(), engine.memory[offset].into()))
}

/// Where the memory operand lies in the data pages.
fn operand_offset(case: &Case, instruction: &Instruction) -> usize {
    let registers = &case.registers;
    let address = instruction.virtual_address(0, 0, |register, _, _| {
        Some(match register {
            iced_x86::Register::FS => registers.fs_base,
            iced_x86::Register::GS => registers.gs_base,
            register if register.is_segment_register() => 0,
            register => crate::address::read(registers, register),
        })
    });
    let address = address.unwrap_or(0);
    let window = if address & !(16 * PAGE - 1) == HIGH { HIGH } else { LOW };
    (address & if window == LOW { 0xffff_ffff } else { !0 }).wrapping_sub(window + DATA) as usize
}

/// The instruction under test.
pub fn instruction(test: &Test) -> Instruction {
    let code = test.case.code().get(test.start..).unwrap_or_default();
    let rip = test.case.registers.rip + test.start as u64;
    Decoder::with_ip(64, code, rip, DecoderOptions::NONE).decode()
}

/// One line from which a case can be made again: its bytes and what they say.
pub fn reproducer(test: &Test) -> String {
    let bytes: String = test.case.code().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut decoder = Decoder::with_ip(64, test.case.code(), test.case.registers.rip, DecoderOptions::NONE);
    let mut formatter = IntelFormatter::new();
    let mut text = Vec::new();
    while decoder.can_decode() {
        let mut line = String::new();
        formatter.format(&decoder.decode(), &mut line);
        text.push(line);
    }
    format!("{bytes} at {:#x} [{}]", test.case.registers.rip, text.join("; "))
}
