//! Saving and restoring x87 and vector state (SDM vol. 1, 10.5, chapter 13).

use crate::decode::Decoded;
use crate::flow::Flow;
use crate::host::Unit;
use crate::operand::{self, linear_address};
use crate::plan::Handler;
use gasang_cpu::{Access, Core, SaveKind, Trap};
use gasang_x86::gpr;
use iced_x86::{Instruction, Mnemonic};

/// The handler of an instruction of this module.
pub(crate) fn handler(instruction: &Instruction) -> Option<Handler> {
    Some(match instruction.mnemonic() {
        Mnemonic::Fxsave => |core, decoded| fxsave(core, decoded, false),
        Mnemonic::Fxsave64 => |core, decoded| fxsave(core, decoded, true),
        Mnemonic::Fxrstor => |core, decoded| fxrstor(core, decoded, false),
        Mnemonic::Fxrstor64 => |core, decoded| fxrstor(core, decoded, true),
        Mnemonic::Xsave => |core, decoded| xsave(core, decoded, SaveKind::Standard, false),
        Mnemonic::Xsave64 => |core, decoded| xsave(core, decoded, SaveKind::Standard, true),
        Mnemonic::Xsaveopt => |core, decoded| xsave(core, decoded, SaveKind::Opt, false),
        Mnemonic::Xsaveopt64 => |core, decoded| xsave(core, decoded, SaveKind::Opt, true),
        Mnemonic::Xsavec => |core, decoded| xsave(core, decoded, SaveKind::Compacted, false),
        Mnemonic::Xsavec64 => |core, decoded| xsave(core, decoded, SaveKind::Compacted, true),
        Mnemonic::Xsaves => |core, decoded| xsave(core, decoded, SaveKind::Supervisor, false),
        Mnemonic::Xsaves64 => |core, decoded| xsave(core, decoded, SaveKind::Supervisor, true),
        Mnemonic::Xrstor => |core, decoded| xrstor(core, decoded, false, false),
        Mnemonic::Xrstor64 => |core, decoded| xrstor(core, decoded, false, true),
        Mnemonic::Xrstors => |core, decoded| xrstor(core, decoded, true, false),
        Mnemonic::Xrstors64 => |core, decoded| xrstor(core, decoded, true, true),
        Mnemonic::Ldmxcsr => |core, decoded| load_mxcsr(core, decoded, Unit::Sse),
        Mnemonic::Vldmxcsr => |core, decoded| load_mxcsr(core, decoded, Unit::Avx),
        Mnemonic::Xgetbv => read_xcr,
        Mnemonic::Xsetbv => write_xcr,
        _ => return None,
    })
}

/// Bytes of an image that segmentation checks: the legacy region, and with XSAVE its header.
const LEGACY: usize = 512;
const WITH_HEADER: usize = 576;

fn image(core: &mut Core<'_>, decoded: &Decoded, size: usize, access: Access) -> Result<u64, Trap> {
    let offset = decoded.memory.offset(core.state);
    linear_address(core, decoded.memory.segment, offset, size, access)
}

fn fxsave(core: &mut Core<'_>, decoded: &Decoded, wide: bool) -> Result<Flow, Trap> {
    let linear = image(core, decoded, LEGACY, Access::Write)?;
    core.fxsave(linear, wide)?;
    Ok(Flow::Next)
}

fn fxrstor(core: &mut Core<'_>, decoded: &Decoded, wide: bool) -> Result<Flow, Trap> {
    let linear = image(core, decoded, LEGACY, Access::Read)?;
    core.fxrstor(linear, wide)?;
    Ok(Flow::Next)
}

/// EDX:EAX.
pub(crate) fn components(core: &Core<'_>) -> u64 {
    core.state.gpr[gpr::RDX] << 32 | core.state.gpr[gpr::RAX] & 0xffff_ffff
}

fn xsave(core: &mut Core<'_>, decoded: &Decoded, kind: SaveKind, wide: bool) -> Result<Flow, Trap> {
    let linear = image(core, decoded, WITH_HEADER, Access::Write)?;
    core.xsave(linear, components(core), kind, wide)?;
    Ok(Flow::Next)
}

fn xrstor(core: &mut Core<'_>, decoded: &Decoded, supervisor: bool, wide: bool) -> Result<Flow, Trap> {
    let linear = image(core, decoded, WITH_HEADER, Access::Read)?;
    core.xrstor(linear, components(core), supervisor, wide)?;
    Ok(Flow::Next)
}

/// The model says which bits of MXCSR there are, not the host.
fn load_mxcsr(core: &mut Core<'_>, decoded: &Decoded, unit: Unit) -> Result<Flow, Trap> {
    unit.check(core)?;
    let offset = decoded.memory.offset(core.state);
    let value = operand::read(core, decoded.memory.segment, offset, 4)?;
    core.write_mxcsr(value as u32)?;
    Ok(Flow::Next)
}

fn read_xcr(core: &mut Core<'_>, _: &Decoded) -> Result<Flow, Trap> {
    let value = core.xgetbv(core.state.gpr[gpr::RCX] as u32)?;
    core.state.gpr[gpr::RAX] = value & 0xffff_ffff;
    core.state.gpr[gpr::RDX] = value >> 32;
    Ok(Flow::Next)
}

fn write_xcr(core: &mut Core<'_>, _: &Decoded) -> Result<Flow, Trap> {
    core.xsetbv(core.state.gpr[gpr::RCX] as u32, components(core))?;
    Ok(Flow::Next)
}
