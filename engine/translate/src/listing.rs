//! Blocks as people read them: the guest's code beside the host code that it became.

use crate::emit::Origin;
use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter};

/// One line: address, bytes, text.
pub type Line = (u64, Vec<u8>, String);

/// A translated block.
#[derive(Debug, Clone)]
pub struct BlockListing {
    /// Guest address.
    pub linear: u64,
    /// Physical address.
    pub physical: u64,
    /// The guest's instructions.
    pub guest: Vec<Line>,
    /// The host's instructions.
    pub host: Vec<Line>,
}

fn text(formatter: &mut IntelFormatter, instruction: &Instruction) -> String {
    let mut line = String::new();
    formatter.format(instruction, &mut line);
    line
}

fn lines(code: &[u8], address: u64) -> Vec<Line> {
    let mut formatter = IntelFormatter::new();
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut lines = Vec::new();
    for instruction in &mut decoder {
        let start = (instruction.ip() - address) as usize;
        let bytes = code[start..start + instruction.len()].to_vec();
        lines.push((instruction.ip(), bytes, text(&mut formatter, &instruction)));
    }
    lines
}

/// The instruction that `code` begins with, in mode `bits`, as text and its bytes; None for what is no instruction.
pub fn disassemble(code: &[u8], bits: u32, address: u64) -> Option<(String, &[u8])> {
    let instruction = Decoder::with_ip(bits, code, address, DecoderOptions::NONE).decode();
    let text = text(&mut IntelFormatter::new(), &instruction);
    (!instruction.is_invalid()).then(|| (text, &code[..instruction.len()]))
}

/// The listing of a block just made from `guest`, addresses and bytes, whose host code is at `address`.
pub fn list_block(origin: &Origin, guest: &[(u64, Vec<u8>)], host: &[u8], address: u64) -> BlockListing {
    BlockListing {
        linear: origin.linear,
        physical: origin.physical,
        guest: guest.iter().flat_map(|(address, bytes)| lines(bytes, *address)).collect(),
        host: lines(host, address),
    }
}
