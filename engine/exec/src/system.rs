//! System instructions: operands in and out; what they do is `gasang_cpu`'s (SDM vol. 3, 2.8; vol. 2).

use crate::decode::Decoded;
use crate::flow::Flow;
use crate::operand::{self, mask, read_operand, set_flag, write_gpr, write_register};
use crate::plan::Handler;
use crate::vmx;
use gasang_cpu::{Access, Core, Exception, Trap};
use gasang_x86::{exception, gpr, msr, rflags};
use iced_x86::{Instruction, Mnemonic, Register};

/// CPUID.01H:EDX, the local APIC.
const CPUID_APIC: u32 = 1 << 9;
/// Bit 11 of IA32_APIC_BASE.
const APIC_GLOBAL_ENABLE: u64 = 1 << 11;

/// The handler of an instruction of this module.
pub(crate) fn handler(instruction: &Instruction) -> Option<Handler> {
    Some(match instruction.mnemonic() {
        Mnemonic::Mov if is_control_or_debug(instruction.op1_register()) => move_from_special,
        Mnemonic::Mov if is_control_or_debug(instruction.op0_register()) => move_to_special,
        Mnemonic::Cpuid => cpuid,
        Mnemonic::Rdmsr => read_msr,
        Mnemonic::Wrmsr => write_msr,
        Mnemonic::Rdtsc => read_tsc,
        Mnemonic::Rdtscp => read_tsc_and_processor,
        Mnemonic::Rdpid => read_processor,
        Mnemonic::Rdpmc => read_performance_counter,
        Mnemonic::Hlt => halt,
        Mnemonic::Cli => |core, _| core.cli().map(|()| Flow::Next),
        Mnemonic::Sti => |core, _| core.sti().map(|()| Flow::Next),
        Mnemonic::Stac => |core, _| core.stac().map(|()| Flow::Next),
        Mnemonic::Clac => |core, _| core.clac().map(|()| Flow::Next),
        Mnemonic::Clts => |core, _| core.clts().map(|()| Flow::Next),
        Mnemonic::Invd | Mnemonic::Wbinvd | Mnemonic::Wbnoinvd => |core, _| core.wbinvd().map(|()| Flow::Next),
        Mnemonic::Swapgs => |core, _| core.swapgs().map(|()| Flow::Next),
        Mnemonic::Int => |core, decoded| {
            core.software_interrupt(decoded.instruction.immediate8(), decoded.next)?;
            Ok(Flow::Interrupted)
        },
        Mnemonic::Int3 => |core, decoded| {
            core.software_exception(exception::BP, decoded.next)?;
            Ok(Flow::Interrupted)
        },
        Mnemonic::Into => interrupt_on_overflow,
        Mnemonic::Int1 => |core, decoded| core.icebp(decoded.next).map(|()| Flow::Interrupted),
        Mnemonic::Syscall => |core, decoded| core.syscall(decoded.next).map(|()| Flow::JumpedWithNewFlags),
        Mnemonic::Sysret | Mnemonic::Sysretq => |core, decoded| {
            core.sysret(width(&decoded.instruction)).map(|()| Flow::JumpedWithNewFlags)
        },
        Mnemonic::Sysenter => |core, decoded| core.sysenter(decoded.next).map(|()| Flow::Jumped),
        Mnemonic::Sysexit | Mnemonic::Sysexitq => {
            |core, decoded| core.sysexit(width(&decoded.instruction)).map(|()| Flow::Jumped)
        }
        Mnemonic::Rdfsbase | Mnemonic::Rdgsbase => read_segment_base,
        Mnemonic::Wrfsbase | Mnemonic::Wrgsbase => write_segment_base,
        Mnemonic::Invlpg => invalidate_page,
        Mnemonic::Invpcid => invalidate_pcid,
        Mnemonic::Clflush | Mnemonic::Clflushopt | Mnemonic::Clwb => flush_line,
        Mnemonic::Rdrand | Mnemonic::Rdseed => random,
        Mnemonic::Rdpkru => read_pkru,
        Mnemonic::Wrpkru => write_pkru,
        Mnemonic::Pause => |core, _| {
            core.platform.pause();
            Ok(Flow::Next)
        },
        Mnemonic::Nop
        | Mnemonic::Endbr32
        | Mnemonic::Endbr64
        | Mnemonic::Reservednop
        | Mnemonic::Prefetch
        | Mnemonic::Prefetchw
        | Mnemonic::Prefetchwt1
        | Mnemonic::Prefetchnta
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2
        | Mnemonic::Prefetchit0
        | Mnemonic::Prefetchit1
        | Mnemonic::Cldemote
        // Shadow stacks are not offered: their hint instructions are NOPs.
        | Mnemonic::Rdsspd
        | Mnemonic::Rdsspq => |_, _| Ok(Flow::Next),
        _ => return None,
    })
}

pub(crate) fn is_control_or_debug(register: Register) -> bool {
    register.is_cr() || register.is_dr() || register.is_tr()
}

/// Operand size of SYSRET and SYSEXIT in bits.
fn width(instruction: &Instruction) -> u32 {
    if matches!(instruction.mnemonic(), Mnemonic::Sysretq | Mnemonic::Sysexitq) { 64 } else { 32 }
}

fn low(core: &Core<'_>, number: usize) -> u32 {
    core.state.gpr[number] as u32
}

/// EDX:EAX.
fn edx_eax(core: &Core<'_>) -> u64 {
    u64::from(low(core, gpr::RDX)) << 32 | u64::from(low(core, gpr::RAX))
}

fn write_edx_eax(core: &mut Core<'_>, value: u64) {
    write_gpr(core.state, gpr::RAX, value, 4);
    write_gpr(core.state, gpr::RDX, value >> 32, 4);
}

fn move_from_special(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let special = decoded.instruction.op1_register();
    let value = if special.is_cr() {
        core.read_cr(special.number())?
    } else if special.is_dr() {
        core.read_dr(special.number())?
    } else {
        return Err(Exception::invalid_opcode().into());
    };
    write_register(core.state, decoded.instruction.op0_register(), value);
    Ok(Flow::Next)
}

fn move_to_special(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let special = decoded.instruction.op0_register();
    let value = operand::read_register(core.state, decoded.instruction.op1_register());
    if special.is_cr() {
        core.write_cr(special.number(), value)?;
    } else if special.is_dr() {
        core.write_dr(special.number(), value)?;
    } else {
        return Err(Exception::invalid_opcode().into());
    }
    Ok(Flow::Next)
}

fn cpuid(core: &mut Core<'_>, _: &Decoded) -> Result<Flow, Trap> {
    let (leaf, subleaf) = (low(core, gpr::RAX), low(core, gpr::RCX));
    let identity = core.platform.identity();
    let [eax, ebx, ecx, mut edx] =
        core.model.cpuid(leaf, subleaf, core.state, identity.apic_id, identity.cpus, identity.tsc_hz);
    if leaf == 1 && apic_is_off(core) {
        edx &= !CPUID_APIC;
    }
    for (number, value) in [(gpr::RAX, eax), (gpr::RBX, ebx), (gpr::RCX, ecx), (gpr::RDX, edx)] {
        write_gpr(core.state, number, u64::from(value), 4);
    }
    Ok(Flow::Next)
}

/// Whether the local APIC is switched off; CPUID denies it then (SDM vol. 3, 10.4.3).
fn apic_is_off(core: &mut Core<'_>) -> bool {
    matches!(core.platform.msr_read(msr::APIC_BASE), Some(Ok(base)) if base & APIC_GLOBAL_ENABLE == 0)
}

fn read_msr(core: &mut Core<'_>, _: &Decoded) -> Result<Flow, Trap> {
    let index = low(core, gpr::RCX);
    let value = match vmx::capability(core, index)? {
        Some(value) => value,
        None => core.rdmsr(index)?,
    };
    write_edx_eax(core, value);
    Ok(Flow::Next)
}

fn write_msr(core: &mut Core<'_>, _: &Decoded) -> Result<Flow, Trap> {
    core.wrmsr(low(core, gpr::RCX), edx_eax(core))?;
    Ok(Flow::Next)
}

fn read_tsc(core: &mut Core<'_>, _: &Decoded) -> Result<Flow, Trap> {
    let value = core.rdtsc()?;
    write_edx_eax(core, value);
    Ok(Flow::Next)
}

fn read_tsc_and_processor(core: &mut Core<'_>, _: &Decoded) -> Result<Flow, Trap> {
    let (value, processor) = core.rdtscp()?;
    write_edx_eax(core, value);
    write_gpr(core.state, gpr::RCX, u64::from(processor), 4);
    Ok(Flow::Next)
}

fn read_processor(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let value = core.rdpid()?;
    write_register(core.state, decoded.instruction.op0_register(), value);
    Ok(Flow::Next)
}

fn read_performance_counter(core: &mut Core<'_>, _: &Decoded) -> Result<Flow, Trap> {
    let value = core.rdpmc(low(core, gpr::RCX))?;
    write_edx_eax(core, value);
    Ok(Flow::Next)
}

fn halt(core: &mut Core<'_>, _: &Decoded) -> Result<Flow, Trap> {
    core.hlt()?;
    Ok(Flow::Halted)
}

fn interrupt_on_overflow(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    if core.state.rflags & rflags::OF == 0 {
        return Ok(Flow::Next);
    }
    core.software_exception(exception::OF, decoded.next)?;
    Ok(Flow::Interrupted)
}

fn read_segment_base(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let fs = decoded.instruction.mnemonic() == Mnemonic::Rdfsbase;
    let base = if fs { core.rdfsbase()? } else { core.rdgsbase()? };
    write_register(core.state, decoded.instruction.op0_register(), base);
    Ok(Flow::Next)
}

fn write_segment_base(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let base = operand::read_register(core.state, decoded.instruction.op0_register());
    let fs = decoded.instruction.mnemonic() == Mnemonic::Wrfsbase;
    if fs {
        core.wrfsbase(base)?
    } else {
        core.wrgsbase(base)?
    }
    Ok(Flow::Next)
}

/// INVLPG takes a linear address without the checks of an access: neither limit nor canonical form.
fn invalidate_page(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let offset = decoded.memory.offset(core.state);
    let linear = operand::unchecked_linear(core, decoded.memory.segment, offset);
    core.invlpg(linear)?;
    Ok(Flow::Next)
}

fn invalidate_pcid(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    core.check_privileged()?;
    let register = decoded.instruction.op0_register();
    let kind = operand::read_register(core.state, register);
    let memory = &decoded.memory;
    let at = memory.offset(core.state);
    let linear = operand::linear_address(core, memory.segment, at, 16, Access::Read)?;
    let mut descriptor = [0; 16];
    let privilege = core.privilege();
    core.read_bytes(linear, &mut descriptor, privilege)?;
    let descriptor = u128::from_le_bytes(descriptor);
    core.invpcid(kind, [descriptor as u64, (descriptor >> 64) as u64])?;
    Ok(Flow::Next)
}

/// CLFLUSH and its kin check their address as a load does; there is no cache of ours to flush.
fn flush_line(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let memory = &decoded.memory;
    let offset = memory.offset(core.state);
    let linear = core.logical_to_linear(memory.segment, offset, 1, Access::Read)?;
    let privilege = core.privilege();
    core.probe(linear, Access::Read, privilege)?;
    Ok(Flow::Next)
}

fn random(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let register = decoded.instruction.op0_register();
    let value = core.platform.random() & mask(register.size());
    write_register(core.state, register, value);
    core.state.rflags &= !rflags::STATUS;
    set_flag(core.state, rflags::CF, true);
    Ok(Flow::Next)
}

fn read_pkru(core: &mut Core<'_>, _: &Decoded) -> Result<Flow, Trap> {
    let value = core.rdpkru(low(core, gpr::RCX))?;
    write_edx_eax(core, u64::from(value));
    Ok(Flow::Next)
}

fn write_pkru(core: &mut Core<'_>, _: &Decoded) -> Result<Flow, Trap> {
    core.wrpkru(low(core, gpr::RAX), low(core, gpr::RCX), low(core, gpr::RDX))?;
    Ok(Flow::Next)
}

/// Read operand 0 or 1 as a selector-sized value, for the instructions on descriptors.
pub(crate) fn read_word(core: &mut Core<'_>, decoded: &Decoded, index: u32) -> Result<u16, Trap> {
    Ok(read_operand(core, &decoded.instruction, &decoded.memory, index, 2)? as u16)
}
