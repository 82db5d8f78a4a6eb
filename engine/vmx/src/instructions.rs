//! The VMX instructions but for VMREAD, VMWRITE, VMLAUNCH, VMRESUME and VMFUNC (SDM vol. 3, chapter 31). Operands are fetched by the
//! caller, after `check_operation`; in VMX non-root operation the caller asks `intercept` first.

use crate::capabilities::{Capabilities, REVISION};
use crate::{ept_pointer, translations, vmcs_region};
use gasang_cpu::{Core, Exception, Operation, Trap, VcpuState, Vmcs};
use gasang_x86::control::cr0;
use gasang_x86::msr::feature_control;
use gasang_x86::vmx::controls::{ept_vpid_capability as capability, secondary};
use gasang_x86::vmx::{Field, InstructionError};
use gasang_x86::{control::cr4, rflags};

/// How a VMX instruction ended that raised no exception (SDM vol. 3, 31.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// VMsucceed.
    Succeed,
    /// VMfailInvalid: there is no current VMCS that could tell why.
    FailInvalid,
    /// VMfailValid: the current VMCS tells why.
    FailValid(InstructionError),
}

impl Outcome {
    /// RFLAGS as they tell it: CF, ZF or neither, and no other status flag.
    pub fn flags(self, old: u64) -> u64 {
        let told = match self {
            Outcome::Succeed => 0,
            Outcome::FailInvalid => rflags::CF,
            Outcome::FailValid(_) => rflags::ZF,
        };
        old & !rflags::STATUS | told
    }

    /// Set RFLAGS.
    pub fn record(self, state: &mut VcpuState) {
        state.rflags = self.flags(state.rflags);
    }
}

fn undefined<T>() -> Result<T, Trap> {
    Err(Exception::invalid_opcode().into())
}

fn refuse<T>() -> Result<T, Trap> {
    Err(Exception::general_protection(0).into())
}

/// VMfail: with the error in the current VMCS, if there is one.
pub(crate) fn fail(core: &mut Core<'_>, error: InstructionError) -> Outcome {
    let vmx = &mut core.state.vmx;
    if vmx.current.is_none() {
        return Outcome::FailInvalid;
    }
    vmx.vmcs.set(Field::VmInstructionError, u64::from(error.number()));
    Outcome::FailValid(error)
}

/// Whether the mode has VMX instructions at all.
fn mode_has_vmx(state: &VcpuState) -> bool {
    let compatibility = state.long_mode() && !state.in_64bit_mode();
    state.protected_mode() && !state.virtual_8086() && !compatibility
}

/// What comes first in every VMX instruction but VMXON: #UD outside VMX operation and in modes without them. Where the
/// instruction causes a VM exit, that comes next, before the privilege is looked at.
///
/// # Errors
/// #UD.
pub fn check_defined(core: &Core<'_>) -> Result<(), Trap> {
    let outside = core.state.vmx.operation == Operation::Off;
    if outside || !mode_has_vmx(core.state) { undefined() } else { Ok(()) }
}

/// What every VMX instruction but VMXON checks in VMX root operation before it touches its operand.
///
/// # Errors
/// #UD, #GP(0) at CPL > 0.
pub fn check_operation(core: &Core<'_>) -> Result<(), Trap> {
    check_defined(core)?;
    core.check_privileged()
}

/// What VMXON checks before it touches its operand.
///
/// # Errors
/// #UD; #GP(0) for CPL, CR0, CR4 and IA32_FEATURE_CONTROL.
pub fn check_vmxon(core: &Core<'_>, capabilities: &Capabilities) -> Result<(), Trap> {
    let state = &*core.state;
    if state.cr4 & cr4::VMXE == 0 || !mode_has_vmx(state) {
        return undefined();
    }
    core.check_privileged()?;
    if state.vmx.operation != Operation::Off {
        return Ok(());
    }
    let enabled = feature_control::LOCK | feature_control::VMX_OUTSIDE_SMX;
    if !control_registers_fit(state, capabilities) || state.vmx.feature_control & enabled != enabled {
        return refuse();
    }
    Ok(())
}

/// Whether CR0 and CR4 have the values that VMX operation fixes (SDM vol. 3, 24.8).
pub fn control_registers_fit(state: &VcpuState, capabilities: &Capabilities) -> bool {
    cr0_fits(state.cr0) && cr4_fits(state.cr4, capabilities)
}

/// Whether CR0 may be so in VMX operation.
pub(crate) fn cr0_fits(value: u64) -> bool {
    let fixed = Capabilities::CR0_FIXED0;
    value & fixed == fixed && value & !Capabilities::CR0_FIXED1 == 0
}

/// Whether CR0 may be so in an unrestricted guest.
pub(crate) fn cr0_fits_unrestricted(value: u64) -> bool {
    cr0_fits(value | cr0::PE | cr0::PG)
}

/// Whether CR4 may be so in VMX operation.
pub(crate) fn cr4_fits(value: u64, capabilities: &Capabilities) -> bool {
    let fixed = Capabilities::CR4_FIXED0;
    value & fixed == fixed && value & !capabilities.cr4_fixed1 == 0
}

/// VMXON.
///
/// # Errors
/// As `check_vmxon`.
pub fn vmxon(core: &mut Core<'_>, capabilities: &Capabilities, pointer: u64) -> Result<Outcome, Trap> {
    check_vmxon(core, capabilities)?;
    if core.state.vmx.operation != Operation::Off {
        return Ok(fail(core, InstructionError::VmxonInRoot));
    }
    if !Capabilities::page_address(pointer) || vmcs_region::revision(core.memory, pointer) != REVISION {
        return Ok(Outcome::FailInvalid);
    }
    let vmx = &mut core.state.vmx;
    vmx.operation = Operation::Root;
    vmx.vmxon_pointer = pointer;
    vmx.current = None;
    Ok(Outcome::Succeed)
}

/// VMXOFF. The current VMCS, if software has not cleared it, is written to memory: nothing is to be lost by it.
///
/// # Errors
/// As `check_operation`.
pub fn vmxoff(core: &mut Core<'_>) -> Result<Outcome, Trap> {
    check_operation(core)?;
    put_away(core);
    core.state.vmx.operation = Operation::Off;
    Ok(Outcome::Succeed)
}

/// VMCALL in VMX root operation, where no SMM monitor hears it.
///
/// # Errors
/// As `check_operation`.
pub fn vmcall(core: &mut Core<'_>) -> Result<Outcome, Trap> {
    check_operation(core)?;
    Ok(fail(core, InstructionError::VmcallInRoot))
}

/// Write the current VMCS to memory; there is none then.
fn put_away(core: &mut Core<'_>) {
    if let Some(address) = core.state.vmx.current.take() {
        vmcs_region::store(core, address);
        *core.state.vmx.vmcs = Vmcs::default();
    }
}

/// VMCLEAR.
///
/// # Errors
/// As `check_operation`.
pub fn vmclear(core: &mut Core<'_>, pointer: u64) -> Result<Outcome, Trap> {
    check_operation(core)?;
    if !Capabilities::page_address(pointer) {
        return Ok(fail(core, InstructionError::VmclearInvalidAddress));
    }
    if pointer == core.state.vmx.vmxon_pointer {
        return Ok(fail(core, InstructionError::VmclearVmxonPointer));
    }
    if core.state.vmx.current == Some(pointer) {
        core.state.vmx.vmcs.launched = false;
        put_away(core);
    } else {
        vmcs_region::clear_launch_state(core, pointer);
    }
    Ok(Outcome::Succeed)
}

/// VMPTRLD.
///
/// # Errors
/// As `check_operation`.
pub fn vmptrld(core: &mut Core<'_>, capabilities: &Capabilities, pointer: u64) -> Result<Outcome, Trap> {
    check_operation(core)?;
    if !Capabilities::page_address(pointer) {
        return Ok(fail(core, InstructionError::VmptrldInvalidAddress));
    }
    if pointer == core.state.vmx.vmxon_pointer {
        return Ok(fail(core, InstructionError::VmptrldVmxonPointer));
    }
    let first = vmcs_region::revision(core.memory, pointer);
    let shadow_refused =
        first & vmcs_region::SHADOW != 0 && !capabilities.secondary.offers(secondary::VMCS_SHADOWING);
    if first & !vmcs_region::SHADOW != REVISION || shadow_refused {
        return Ok(fail(core, InstructionError::VmptrldIncorrectRevision));
    }
    if core.state.vmx.current != Some(pointer) {
        put_away(core);
        *core.state.vmx.vmcs = vmcs_region::load(core.memory, pointer);
        core.state.vmx.current = Some(pointer);
    }
    Ok(Outcome::Succeed)
}

/// VMPTRST: the pointer to store; all ones without a current VMCS.
///
/// # Errors
/// As `check_operation`.
pub fn vmptrst(core: &Core<'_>) -> Result<u64, Trap> {
    check_operation(core)?;
    Ok(core.state.vmx.current.unwrap_or(u64::MAX))
}

/// INVEPT of type `kind` with the 128-bit descriptor as two words, low first.
///
/// # Errors
/// As `check_operation`; #UD where it is not offered.
pub fn invept(
    core: &mut Core<'_>,
    capabilities: &Capabilities,
    kind: u64,
    descriptor: [u64; 2],
) -> Result<Outcome, Trap> {
    let offers = |bit| capabilities.ept_vpid & bit != 0;
    if !offers(capability::INVEPT) {
        return undefined();
    }
    check_operation(core)?;
    // Nothing looks at the upper word, reserved though it is.
    let [pointer, _] = descriptor;
    let valid = match kind {
        1 => {
            let offered = offers(capability::INVEPT_SINGLE_CONTEXT);
            offered && ept_pointer::check(pointer, capabilities).is_ok()
        }
        2 => offers(capability::INVEPT_ALL_CONTEXT),
        _ => false,
    };
    if !valid {
        return Ok(fail(core, InstructionError::InvalidInvalidationOperand));
    }
    translations::forget_ept(core, (kind == 1).then_some(pointer));
    Ok(Outcome::Succeed)
}

/// INVVPID of type `kind` with the 128-bit descriptor as two words, low first.
///
/// # Errors
/// As `check_operation`; #UD where it is not offered.
pub fn invvpid(
    core: &mut Core<'_>,
    capabilities: &Capabilities,
    kind: u64,
    descriptor: [u64; 2],
) -> Result<Outcome, Trap> {
    let offers = |bit| capabilities.ept_vpid & bit != 0;
    if !offers(capability::INVVPID) {
        return undefined();
    }
    check_operation(core)?;
    let [vpid, linear] = descriptor;
    let named = vpid != 0 && vpid >> 16 == 0;
    let valid = match kind {
        0 => named && offers(capability::INVVPID_INDIVIDUAL_ADDRESS) && VcpuState::canonical(linear),
        1 => named && offers(capability::INVVPID_SINGLE_CONTEXT),
        2 => vpid >> 16 == 0 && offers(capability::INVVPID_ALL_CONTEXT),
        3 => named && offers(capability::INVVPID_SINGLE_CONTEXT_RETAINING_GLOBALS),
        _ => false,
    };
    if !valid {
        return Ok(fail(core, InstructionError::InvalidInvalidationOperand));
    }
    translations::forget_vpid(core, (kind != 2).then_some(vpid as u16));
    Ok(Outcome::Succeed)
}
