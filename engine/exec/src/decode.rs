//! Fetching and decoding, and remembering what was decoded.
//!
//! An entry is found by RIP and code size and holds only if the bytes in memory are still the same: nothing ever has
//! to be invalidated.

use crate::features::{decoder_options, has_instruction, without_ignored_prefix};
use crate::non_root::{Interceptor, interceptor};
use crate::operand::MemoryOperand;
use crate::plan::{Plan, Planner, UNDEFINED};
use crate::stub::Host;
use gasang_cpu::{Access, Core, Exception, Trap, VcpuState};
use gasang_memory::PAGE_SIZE;
use gasang_x86::segment;
use iced_x86::{Decoder, DecoderError, Instruction};
use std::io;

const ENTRIES: usize = 1 << 14;
/// Of them that come into being together.
const CHUNK: usize = 1 << 8;
/// The longest instruction.
const LONGEST: usize = 15;

/// A decoded instruction and how to execute it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decoded {
    /// Its bytes, then zeros.
    bytes: u128,
    /// Ones where its bytes are.
    mask: u128,
    rip: u64,
    /// RIP of the instruction after it.
    pub next: u64,
    bits: u32,
    /// How to execute it.
    pub plan: Plan,
    /// What looks at it first in VMX non-root operation.
    pub interceptor: Option<Interceptor>,
    /// Its memory operand, if it has one.
    pub memory: MemoryOperand,
    /// As decoded.
    pub instruction: Instruction,
}

/// Instructions decoded before.
pub(crate) struct DecodeCache {
    /// By slot; a chunk has no entries until the first of its instructions is met.
    chunks: Box<[Vec<Option<Decoded>>]>,
    planner: Planner,
}

/// Instruction bytes as fetched: how many, and whether what stops there is the code segment's limit.
struct Window {
    bytes: u128,
    available: usize,
    limited: bool,
}

fn bytes_mask(length: usize) -> u128 {
    if length >= 16 { !0 } else { (1 << (length * 8)) - 1 }
}

fn slot(rip: u64) -> usize {
    (rip ^ rip >> 12) as usize % ENTRIES
}

/// The linear address of the instruction at RIP, and how many of its bytes the code segment allows.
///
/// # Errors
/// #GP(0).
#[inline]
fn code_address(state: &VcpuState, bits: u32) -> Result<(u64, usize), Trap> {
    if bits == 64 {
        if !VcpuState::canonical(state.rip) {
            return Err(Exception::general_protection(0).into());
        }
        return Ok((state.rip, LONGEST));
    }
    let code = &state.segment[segment::CS];
    let Some(left) = u64::from(code.limit).checked_sub(state.rip) else {
        return Err(Exception::general_protection(0).into());
    };
    Ok((code.base.wrapping_add(state.rip) & 0xffff_ffff, left.min(LONGEST as u64 - 1) as usize + 1))
}

impl Decoded {
    /// Whether the bytes of the window are those that this was decoded from, as far as both go.
    #[inline]
    fn begins_with(&self, window: &Window) -> bool {
        (window.bytes ^ self.bytes) & self.mask & bytes_mask(window.available) == 0
    }
}

impl DecodeCache {
    pub(crate) fn new() -> io::Result<DecodeCache> {
        Ok(DecodeCache {
            chunks: (0..ENTRIES / CHUNK).map(|_| Vec::new()).collect(),
            planner: Planner::new()?,
        })
    }

    /// The instruction at `state.rip`, and the means to execute it.
    ///
    /// # Errors
    /// What fetching it raises: #PF, #GP(0); #GP(0) if it is too long.
    #[inline]
    pub(crate) fn instruction(&mut self, core: &mut Core<'_>) -> Result<(&Decoded, &Host), Trap> {
        let (rip, bits) = (core.state.rip, core.state.code_bits());
        let (linear, allowed) = code_address(core.state, bits)?;
        let mut window = fetch_page(core, linear, allowed)?;
        let slot = slot(rip);
        let mut known = false;
        if let Some(entry) = self.entry(slot).filter(|entry| entry.rip == rip && entry.bits == bits) {
            if entry.begins_with(&window) && entry.mask > bytes_mask(window.available) {
                window = fetch_on(core, linear, allowed)?;
            }
            known = entry.begins_with(&window) && entry.mask <= bytes_mask(window.available);
        }
        if !known {
            let decoded = self.decode(core, linear, allowed, window)?;
            self.put(slot, decoded);
        }
        match self.entry(slot) {
            Some(entry) => Ok((entry, self.planner.host())),
            None => Err(Exception::invalid_opcode().into()),
        }
    }

    /// The instruction at `rip`, if it was decoded and nothing has taken its place.
    pub(crate) fn decoded(&self, rip: u64) -> Option<&Instruction> {
        self.entry(slot(rip)).filter(|entry| entry.rip == rip).map(|entry| &entry.instruction)
    }

    #[inline]
    fn entry(&self, slot: usize) -> Option<&Decoded> {
        self.chunks[slot / CHUNK].get(slot % CHUNK)?.as_ref()
    }

    fn put(&mut self, slot: usize, decoded: Decoded) {
        let chunk = &mut self.chunks[slot / CHUNK];
        if chunk.is_empty() {
            chunk.resize_with(CHUNK, || None);
        }
        chunk[slot % CHUNK] = Some(decoded);
    }

    fn decode(
        &mut self,
        core: &mut Core<'_>,
        linear: u64,
        allowed: usize,
        window: Window,
    ) -> Result<Decoded, Trap> {
        let (rip, bits) = (core.state.rip, core.state.code_bits());
        let mut window = window;
        let options = decoder_options(core.model);
        let mut result = decode_bytes(&window, rip, bits, options);
        if result.is_none() && window.available < allowed {
            window = fetch_on(core, linear, allowed)?;
            result = decode_bytes(&window, rip, bits, options);
        }
        let Some(instruction) = result.map(without_ignored_prefix) else {
            if window.available < LONGEST && !window.limited {
                core.fetch_fault(core.wrap_linear(linear.wrapping_add(window.available as u64)))?;
            }
            return Err(Exception::general_protection(0).into());
        };
        let mut plan = self.planner.plan(&instruction, core.model);
        if plan.is_none() {
            // No room for its stub. Plans refer to stubs: forget both.
            self.chunks.iter_mut().for_each(Vec::clear);
            self.planner.clear();
            plan = self.planner.plan(&instruction, core.model);
        }
        let length = instruction.len();
        let next = rip.wrapping_add(length as u64);
        let mask = bytes_mask(length);
        Ok(Decoded {
            bytes: window.bytes & mask,
            mask,
            rip,
            next: if bits == 64 { next } else { next & 0xffff_ffff },
            bits,
            plan: plan.unwrap_or(UNDEFINED),
            interceptor: has_instruction(core.model, &instruction)
                .then(|| interceptor(&instruction))
                .flatten(),
            memory: MemoryOperand::of(&instruction, bits),
            instruction,
        })
    }
}

impl Window {
    fn new(bytes: &[u8; LONGEST], fetched: usize, allowed: usize) -> Window {
        let mut wide = [0; 16];
        wide[..LONGEST].copy_from_slice(bytes);
        let available = fetched.min(allowed);
        let bytes = u128::from_le_bytes(wide) & bytes_mask(available);
        Window { bytes, available, limited: allowed < LONGEST && fetched >= allowed }
    }
}

/// The bytes at `linear` as far as its page and the code segment go. Code is not fetched from devices: they read as an
/// invalid opcode.
#[inline]
fn fetch_page(core: &mut Core<'_>, linear: u64, allowed: usize) -> Result<Window, Trap> {
    let privilege = core.privilege();
    let place = core.translate(linear, Access::Execute, privilege)?;
    let left = (PAGE_SIZE - linear % PAGE_SIZE) as usize;
    let Some(host) = place.host else { return Ok(Window::new(&[0xff; LONGEST], left, allowed)) };
    if left >= 16 && allowed == LONGEST {
        let (low, high) = (core.memory.load(host, 8), core.memory.load(host + 8, 8));
        let bytes = (u128::from(high) << 64 | u128::from(low)) & bytes_mask(LONGEST);
        return Ok(Window { bytes, available: LONGEST, limited: false });
    }
    let mut bytes = [0; LONGEST];
    let length = left.min(LONGEST);
    core.memory.copy_out(host, &mut bytes[..length]);
    Ok(Window::new(&bytes, length, allowed))
}

/// The bytes at `linear` as far as they go, for an instruction that leaves its page.
fn fetch_on(core: &mut Core<'_>, linear: u64, allowed: usize) -> Result<Window, Trap> {
    let mut bytes = [0; LONGEST];
    let fetched = core.fetch(linear, &mut bytes)?;
    Ok(Window::new(&bytes, fetched, allowed))
}

/// Decode; None if the instruction goes on beyond the window. (Invalid instructions decode as such.)
fn decode_bytes(window: &Window, rip: u64, bits: u32, options: u32) -> Option<Instruction> {
    let bytes = window.bytes.to_le_bytes();
    let mut decoder = Decoder::with_ip(bits, &bytes[..window.available.min(LONGEST)], rip, options);
    let instruction = decoder.decode();
    match decoder.last_error() {
        DecoderError::NoMoreBytes => None,
        // The decoder calls what goes on beyond 15 bytes invalid.
        DecoderError::InvalidInstruction if instruction.len() == LONGEST => {
            let mut shorter = Decoder::with_ip(bits, &bytes[..LONGEST - 1], rip, options);
            let _ = shorter.decode();
            (shorter.last_error() != DecoderError::NoMoreBytes).then_some(instruction)
        }
        _ => Some(instruction),
    }
}
