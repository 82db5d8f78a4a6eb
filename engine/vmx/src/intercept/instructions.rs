//! Instructions that cause VM exits always, or as one control says (SDM vol. 3, 26.1.2, 26.1.3).

use super::information::{Memory, Operand, TableInstruction, of_register};
use super::{bitmap_bit, exit};
use crate::instructions::check_defined;
use gasang_cpu::{Core, Exception, Trap, VmExit};
use gasang_x86::control::cr4;
use gasang_x86::vmx::controls::{primary, secondary};
use gasang_x86::vmx::{ExitReason, Field};

/// Bits of the VMREAD and of the VMWRITE bitmap.
const BITMAP_BITS: u64 = 1 << 15;

/// When an instruction causes a VM exit.
enum When {
    Always,
    Primary(u32),
    Secondary(u32),
    /// It is another function's matter, or not an instruction's.
    Never,
}

fn when(reason: ExitReason) -> When {
    match reason {
        ExitReason::Cpuid | ExitReason::Invd | ExitReason::Xsetbv | ExitReason::Vmcall => When::Always,
        ExitReason::Hlt => When::Primary(primary::HLT_EXITING),
        ExitReason::Invlpg | ExitReason::Invpcid => When::Primary(primary::INVLPG_EXITING),
        ExitReason::Rdpmc => When::Primary(primary::RDPMC_EXITING),
        ExitReason::Rdtsc | ExitReason::Rdtscp => When::Primary(primary::RDTSC_EXITING),
        ExitReason::GdtrOrIdtrAccess | ExitReason::LdtrOrTrAccess => {
            When::Secondary(secondary::DESCRIPTOR_TABLE_EXITING)
        }
        ExitReason::Wbinvd => When::Secondary(secondary::WBINVD_EXITING),
        ExitReason::Rdrand => When::Secondary(secondary::RDRAND_EXITING),
        ExitReason::Rdseed => When::Secondary(secondary::RDSEED_EXITING),
        _ => When::Never,
    }
}

/// The secondary control without which an instruction does not exist in VMX non-root operation.
fn enabled_by(reason: ExitReason) -> u32 {
    match reason {
        ExitReason::Rdtscp => secondary::ENABLE_RDTSCP,
        ExitReason::Invpcid => secondary::ENABLE_INVPCID,
        ExitReason::Xsaves | ExitReason::Xrstors => secondary::ENABLE_XSAVES,
        _ => 0,
    }
}

fn undefined<T>() -> Result<T, Trap> {
    Err(Exception::invalid_opcode().into())
}

/// What has priority over the exit: #UD, and #GP for the privilege (SDM vol. 3, 26.1.1).
fn check_priority(core: &Core<'_>, reason: ExitReason) -> Result<(), Trap> {
    let enabling = enabled_by(reason);
    if core.state.vmx.interceptions.secondary & enabling != enabling {
        return undefined();
    }
    match reason {
        ExitReason::Cpuid | ExitReason::Vmcall => Ok(()),
        ExitReason::Rdtsc | ExitReason::Rdtscp if core.state.cr4 & cr4::TSD == 0 => Ok(()),
        ExitReason::Rdpmc if core.state.cr4 & cr4::PCE != 0 => Ok(()),
        ExitReason::Xsetbv | ExitReason::Xsaves | ExitReason::Xrstors
            if core.state.cr4 & cr4::OSXSAVE == 0 =>
        {
            undefined()
        }
        _ => core.check_privileged(),
    }
}

fn causes_exit(core: &Core<'_>, reason: ExitReason) -> bool {
    let interceptions = &core.state.vmx.interceptions;
    match when(reason) {
        When::Always => true,
        When::Primary(control) => interceptions.primary & control != 0,
        When::Secondary(control) => interceptions.secondary & control != 0,
        When::Never => false,
    }
}

/// An instruction that is told by its exit reason and at most a qualification: CPUID, HLT, INVD, INVLPG (the linear
/// address), RDPMC, RDTSC, RDTSCP, VMCALL, WBINVD, XSETBV.
///
/// # Errors
/// `VmExit`; #UD and #GP(0) that come before it.
pub fn instruction(core: &mut Core<'_>, reason: ExitReason, qualification: u64) -> Result<(), Trap> {
    check_priority(core, reason)?;
    if !causes_exit(core, reason) {
        return Ok(());
    }
    exit(core, VmExit::of_instruction(reason).qualified(qualification))
}

/// An instruction with an operand that the exit describes; `displacement` is the operand's, for the qualification.
fn described<T>(
    core: &mut Core<'_>,
    reason: ExitReason,
    displacement: u64,
    information: u32,
) -> Result<T, Trap> {
    let described = VmExit { instruction_information: information, ..VmExit::of_instruction(reason) };
    exit(core, described.qualified(displacement))
}

/// The VMX instructions but VMCALL: in VMX non-root operation they exit at every privilege; only #UD comes first. VMREAD
/// and VMWRITE have an operand, and the register of the encoding; INVEPT and INVVPID the register of the type; the others
/// no register.
///
/// # Errors
/// `VmExit`, #UD.
pub fn vmx_instruction<T>(
    core: &mut Core<'_>,
    reason: ExitReason,
    operand: Option<&Operand>,
    register: u8,
) -> Result<T, Trap> {
    check_defined(core)?;
    let told = operand.map(|operand| (operand.displacement(), operand.with_register(register)));
    let (displacement, information) = told.unwrap_or_default();
    described(core, reason, displacement, information)
}

/// VMREAD (`ExitReason::Vmread`) and VMWRITE (`ExitReason::Vmwrite`) of the field that `encoding` names, which is in
/// `register`: under VMCS shadowing those that the bitmaps do not name are executed, of the shadow VMCS (SDM vol. 3,
/// 26.1.3).
///
/// # Errors
/// `VmExit`, #UD.
pub fn vmcs_access(
    core: &mut Core<'_>,
    reason: ExitReason,
    operand: &Operand,
    register: u8,
    encoding: u64,
) -> Result<(), Trap> {
    check_defined(core)?;
    let bitmap = if reason == ExitReason::Vmread { Field::VmreadBitmap } else { Field::VmwriteBitmap };
    let shadowed = core.state.vmx.interceptions.secondary & secondary::VMCS_SHADOWING != 0;
    if shadowed && encoding < BITMAP_BITS {
        let bitmap = core.state.vmx.vmcs.get(bitmap);
        if !bitmap_bit(core, bitmap, encoding) {
            return Ok(());
        }
    }
    vmx_instruction(core, reason, Some(operand), register)
}

/// SGDT to LTR. `operand_bits` is the operand size outside 64-bit mode.
///
/// # Errors
/// `VmExit`; #UD and #GP(0) that come before it.
pub fn descriptor_table(
    core: &mut Core<'_>,
    what: TableInstruction,
    operand: &Operand,
    operand_bits: u32,
) -> Result<(), Trap> {
    let reason =
        if what.of_gdtr_or_idtr() { ExitReason::GdtrOrIdtrAccess } else { ExitReason::LdtrOrTrAccess };
    if !causes_exit(core, reason) {
        return Ok(());
    }
    if !what.of_gdtr_or_idtr() && core.state.real_or_virtual_8086() {
        return undefined();
    }
    if what.loads() {
        core.check_privileged()?;
    } else {
        core.check_umip()?;
    }
    described(core, reason, operand.displacement(), what.information(operand, operand_bits))
}

/// RDRAND (`ExitReason::Rdrand`) and RDSEED (`ExitReason::Rdseed`).
///
/// # Errors
/// `VmExit`.
pub fn random(core: &mut Core<'_>, reason: ExitReason, register: u8, operand_bits: u32) -> Result<(), Trap> {
    if !causes_exit(core, reason) {
        return Ok(());
    }
    described(core, reason, 0, of_register(register, operand_bits))
}

/// INVPCID; `register` holds its type.
///
/// # Errors
/// `VmExit`; #UD and #GP(0) that come before it.
pub fn invpcid(core: &mut Core<'_>, operand: &Operand, register: u8) -> Result<(), Trap> {
    check_priority(core, ExitReason::Invpcid)?;
    if !causes_exit(core, ExitReason::Invpcid) {
        return Ok(());
    }
    described(core, ExitReason::Invpcid, operand.displacement(), operand.with_register(register))
}

/// XSAVES (`ExitReason::Xsaves`) and XRSTORS (`ExitReason::Xrstors`) of the components in EDX:EAX: they exit for those
/// of IA32_XSS that the XSS-exiting bitmap names.
///
/// # Errors
/// `VmExit`; #UD and #GP(0) that come before it.
pub fn xsaves(core: &mut Core<'_>, reason: ExitReason, requested: u64, operand: &Memory) -> Result<(), Trap> {
    check_priority(core, reason)?;
    let bitmap = core.state.vmx.vmcs.get(Field::XssExitingBitmap);
    if requested & core.state.msr.xss & bitmap == 0 {
        return Ok(());
    }
    described(core, reason, operand.displacement, operand.information())
}
