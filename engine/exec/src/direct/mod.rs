//! The common integer instructions of 64-bit code, executed straight from their bytes.
//!
//! `Interpreter::step` decodes an instruction once, makes a stub for it and remembers both: dear for an instruction that is
//! executed once or twice. Here nothing is made or remembered. What is handled is what compilers write most; it does
//! exactly what `step` does, or nothing: whatever is not surely simple (a fault, a device, an operand that crosses a
//! page, any other instruction) is declined with the state as it was, and is `step`'s.
//!
//! The bytes are read for each instruction, so code that is rewritten is executed as it is.

mod arithmetic;
mod bytes;
mod moves;
mod opcodes;
mod operands;
mod transfers;

use crate::direct::bytes::Bytes;
use crate::operand::checks_alignment;
use gasang_cpu::{Access, Core, Privilege, Shadow, VcpuState};
use gasang_memory::PAGE_SIZE;
use gasang_x86::control::debug;
use gasang_x86::rflags;

/// Why `run` came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// A jump, call or return was executed, and RIP is its target.
    Jumped,
    /// The instruction at RIP is for `Interpreter::step`.
    Declined,
    /// As many instructions as were asked for were executed.
    Spent,
}

/// What an instruction did with RIP.
enum Flow {
    Next,
    Jumped(u64),
}

/// An instruction in execution. What is left of `bytes` shrinks as it is decoded.
struct Execution<'a, 'b> {
    core: &'a mut Core<'b>,
    privilege: Privilege,
    bytes: Bytes,
    /// RIP.
    start: u64,
    /// The REX prefix, or 0.
    rex: u8,
    /// Size of operands that are not bytes.
    size: usize,
    /// Base of the segment of memory operands: not 0 only with a prefix.
    base: u64,
}

/// Execute instructions until one jumps, one is declined, or `state.instructions` is `limit`. RIP and
/// `state.instructions` are those of `Interpreter::step` after as many instructions.
pub fn run(core: &mut Core<'_>, limit: u64) -> Stop {
    if !is_plain(core.state) {
        return Stop::Declined;
    }
    let privilege = core.privilege();
    let (mut page, mut host) = (1, 0);
    while core.state.instructions < limit {
        let start = core.state.rip;
        if start & !(PAGE_SIZE - 1) != page {
            let Some(found) = code_page(core, start, privilege) else { return Stop::Declined };
            (page, host) = (start & !(PAGE_SIZE - 1), found);
        }
        let Some(bytes) = Bytes::fetch(core.memory, host | start & (PAGE_SIZE - 1)) else {
            return Stop::Declined;
        };
        let mut execution = Execution { core, privilege, bytes, start, rex: 0, size: 4, base: 0 };
        let flow = execution.execute();
        let next = execution.next(0);
        let Some(flow) = flow else { return Stop::Declined };
        core.state.instructions += 1;
        match flow {
            Flow::Next => core.state.rip = next,
            Flow::Jumped(target) => {
                core.state.rip = target;
                return Stop::Jumped;
            }
        }
    }
    Stop::Spent
}

/// Whether nothing is to be watched before, in or after an instruction but the instruction itself.
fn is_plain(state: &VcpuState) -> bool {
    let watched = state.rflags & (rflags::TF | rflags::RF | rflags::VM) != 0
        || state.shadow != Shadow::None
        || state.pending_debug != 0
        || state.dr[7] & debug::DR7_ENABLED != 0;
    state.in_64bit_mode() && !watched && !checks_alignment(state)
}

/// The host address of the page that code at `linear` is in.
fn code_page(core: &mut Core<'_>, linear: u64, privilege: Privilege) -> Option<u64> {
    if !VcpuState::canonical(linear) {
        return None;
    }
    let place = core.translate(linear, Access::Execute, privilege).ok()?;
    Some(place.host? & !(PAGE_SIZE - 1))
}
