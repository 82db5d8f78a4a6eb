//! The VMX instructions: operands in and out; what they do is `gasang_vmx`'s (SDM vol. 3, chapter 31).

use crate::decode::Decoded;
use crate::flow::Flow;
use crate::operand::{linear_address, read_operand, read_register, write_operand};
use crate::plan::Handler;
use gasang_cpu::{Access, Core, Exception, Feature, Trap};
use gasang_vmx::Capabilities;
use gasang_vmx::entry::{self, Entered};
use gasang_vmx::functions;
use gasang_vmx::instructions::{self, Outcome};
use gasang_vmx::vmcs_access;
use gasang_x86::msr;
use iced_x86::{Instruction, Mnemonic};
use std::ops::RangeInclusive;

/// The capability MSRs of VMX.
const CAPABILITIES: RangeInclusive<u32> = msr::VMX_BASIC..=msr::VMX_PROCBASED_CTLS3;

/// The handler of an instruction of this module.
pub(crate) fn handler(instruction: &Instruction) -> Option<Handler> {
    Some(match instruction.mnemonic() {
        Mnemonic::Vmxon => vmxon,
        Mnemonic::Vmxoff => |core, _| {
            let outcome = instructions::vmxoff(core)?;
            finish(core, outcome)
        },
        Mnemonic::Vmclear => |core, decoded| {
            let pointer = pointer(core, decoded)?;
            let outcome = instructions::vmclear(core, pointer)?;
            finish(core, outcome)
        },
        Mnemonic::Vmptrld => |core, decoded| {
            let pointer = pointer(core, decoded)?;
            let outcome = instructions::vmptrld(core, &Capabilities::new(core.model), pointer)?;
            finish(core, outcome)
        },
        Mnemonic::Vmptrst => |core, decoded| {
            let pointer = instructions::vmptrst(core)?;
            write_operand(core, &decoded.instruction, &decoded.memory, 0, 8, pointer)?;
            finish(core, Outcome::Succeed)
        },
        Mnemonic::Vmread => vmread,
        Mnemonic::Vmwrite => vmwrite,
        Mnemonic::Vmlaunch => |core, _| enter(core, true),
        Mnemonic::Vmresume => |core, _| enter(core, false),
        Mnemonic::Invept => |core, decoded| {
            let (kind, descriptor) = invalidation(core, decoded)?;
            let outcome = instructions::invept(core, &Capabilities::new(core.model), kind, descriptor)?;
            finish(core, outcome)
        },
        Mnemonic::Invvpid => |core, decoded| {
            let (kind, descriptor) = invalidation(core, decoded)?;
            let outcome = instructions::invvpid(core, &Capabilities::new(core.model), kind, descriptor)?;
            finish(core, outcome)
        },
        Mnemonic::Vmfunc => |core, _| {
            functions::vmfunc(core, &Capabilities::new(core.model))?;
            Ok(Flow::Next)
        },
        Mnemonic::Vmcall => vmcall,
        Mnemonic::Vmmcall => vmmcall,
        _ => return None,
    })
}

/// The value of a capability MSR of VMX; None if it is another MSR.
pub(crate) fn capability(core: &Core<'_>, index: u32) -> Result<Option<u64>, Trap> {
    if !CAPABILITIES.contains(&index) || !core.model.has(Feature::Vmx) {
        return Ok(None);
    }
    core.check_privileged()?;
    Ok(Capabilities::new(core.model).msr(index))
}

/// Tell how an instruction ended.
fn finish(core: &mut Core<'_>, outcome: Outcome) -> Result<Flow, Trap> {
    outcome.record(core.state);
    Ok(Flow::Next)
}

/// The physical address in memory that VMCLEAR and VMPTRLD take.
fn pointer(core: &mut Core<'_>, decoded: &Decoded) -> Result<u64, Trap> {
    instructions::check_operation(core)?;
    read_operand(core, &decoded.instruction, &decoded.memory, 0, 8)
}

fn vmxon(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let capabilities = Capabilities::new(core.model);
    instructions::check_vmxon(core, &capabilities)?;
    let pointer = read_operand(core, &decoded.instruction, &decoded.memory, 0, 8)?;
    let outcome = instructions::vmxon(core, &capabilities, pointer)?;
    finish(core, outcome)
}

/// Bytes of the operands of VMREAD and VMWRITE.
fn field_size(core: &Core<'_>) -> usize {
    if core.state.in_64bit_mode() { 8 } else { 4 }
}

fn vmread(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let encoding = read_register(core.state, decoded.instruction.op1_register());
    match vmcs_access::vmread(core, &Capabilities::new(core.model), encoding)? {
        Ok(value) => {
            let size = field_size(core);
            write_operand(core, &decoded.instruction, &decoded.memory, 0, size, value)?;
            finish(core, Outcome::Succeed)
        }
        Err(outcome) => finish(core, outcome),
    }
}

fn vmwrite(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    instructions::check_operation(core)?;
    let encoding = read_register(core.state, decoded.instruction.op0_register());
    let value = read_operand(core, &decoded.instruction, &decoded.memory, 1, field_size(core))?;
    let outcome = vmcs_access::vmwrite(core, &Capabilities::new(core.model), encoding, value)?;
    finish(core, outcome)
}

/// The type and the descriptor of INVEPT and INVVPID.
fn invalidation(core: &mut Core<'_>, decoded: &Decoded) -> Result<(u64, [u64; 2]), Trap> {
    instructions::check_operation(core)?;
    let kind = read_register(core.state, decoded.instruction.op0_register());
    let memory = &decoded.memory;
    let at = memory.offset(core.state);
    let linear = linear_address(core, memory.segment, at, 16, Access::Read)?;
    let mut descriptor = [0; 16];
    let privilege = core.privilege();
    core.read_bytes(linear, &mut descriptor, privilege)?;
    let descriptor = u128::from_le_bytes(descriptor);
    Ok((kind, [descriptor as u64, (descriptor >> 64) as u64]))
}

/// VMLAUNCH and VMRESUME.
fn enter(core: &mut Core<'_>, launch: bool) -> Result<Flow, Trap> {
    let blocked = core.state.vmx.blocked_by_mov_ss;
    match entry::enter(core, &Capabilities::new(core.model), launch, blocked)? {
        Entered::Failed(outcome, _) => finish(core, outcome),
        Entered::Returned(_) | Entered::Guest => Ok(Flow::Entered),
    }
}

/// VMCALL where no VM exit comes of it: a hypercall to us, as KVM's guests make them, whether or not they are hypervisors
/// themselves; otherwise a call of an SMM monitor that is not there.
fn vmcall(core: &mut Core<'_>, _: &Decoded) -> Result<Flow, Trap> {
    if core.model.has(Feature::Kvm) {
        core.hypercall();
        return Ok(Flow::Next);
    }
    let outcome = instructions::vmcall(core)?;
    finish(core, outcome)
}

/// AMD's VMCALL, which guests of KVM may use on any processor.
fn vmmcall(core: &mut Core<'_>, _: &Decoded) -> Result<Flow, Trap> {
    if !core.model.has(Feature::Kvm) || core.state.vmx.non_root() {
        return Err(Exception::invalid_opcode().into());
    }
    core.hypercall();
    Ok(Flow::Next)
}
