//! IN and OUT (SDM vol. 1, chapter 19).

use crate::decode::Decoded;
use crate::flow::Flow;
use crate::operand::{read_register, write_register};
use crate::plan::Handler;
use gasang_cpu::{Core, Trap};
use gasang_x86::control::debug;
use gasang_x86::gpr;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// The handler of IN or OUT.
pub(crate) fn handler(instruction: &Instruction) -> Option<Handler> {
    match instruction.mnemonic() {
        Mnemonic::In => Some(input),
        Mnemonic::Out => Some(output),
        _ => None,
    }
}

/// The port that operand `index` names, checked.
fn port(core: &mut Core<'_>, instruction: &Instruction, index: u32, size: u8) -> Result<u16, Trap> {
    let port = match instruction.op_kind(index) {
        OpKind::Register => core.state.gpr[gpr::RDX] as u16,
        _ => u16::from(instruction.immediate8()),
    };
    core.check_io(port, size)?;
    if core.state.dr[7] & debug::DR7_ENABLED != 0 {
        core.state.pending_debug |= core.io_breakpoints(port, size);
    }
    Ok(port)
}

fn size(register: Register) -> u8 {
    register.size() as u8
}

fn input(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let register = decoded.instruction.op0_register();
    let port = port(core, &decoded.instruction, 1, size(register))?;
    let value = core.platform.port_read(port, size(register))?;
    write_register(core.state, register, u64::from(value));
    Ok(Flow::Next)
}

fn output(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let register = decoded.instruction.op1_register();
    let port = port(core, &decoded.instruction, 0, size(register))?;
    let value = read_register(core.state, register);
    core.platform.port_write(port, size(register), value as u32)?;
    Ok(Flow::Next)
}
