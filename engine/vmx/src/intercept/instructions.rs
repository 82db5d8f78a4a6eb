//! Instructions that cause VM exits always, or as one control says (SDM vol. 3, 26.1.2, 26.1.3).

use super::exit;
use super::information::{Memory, Operand, TableInstruction, of_register};
use crate::instructions::check_defined;
use gasang_cpu::{Core, Exception, Trap, VmExit};
use gasang_x86::control::cr4;
use gasang_x86::vmx::controls::{primary, secondary};
use gasang_x86::vmx::{ExitReason, Field};

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
        ExitReason::Cpuid
        | ExitReason::Getsec
        | ExitReason::Invd
        | ExitReason::Xsetbv
        | ExitReason::Vmcall
        | ExitReason::Vmfunc
        | ExitReason::Vmclear
        | ExitReason::Vmlaunch
        | ExitReason::Vmptrld
        | ExitReason::Vmptrst
        | ExitReason::Vmread
        | ExitReason::Vmresume
        | ExitReason::Vmwrite
        | ExitReason::Vmxoff
        | ExitReason::Vmxon
        | ExitReason::Invept
        | ExitReason::Invvpid => When::Always,
        ExitReason::Hlt => When::Primary(primary::HLT_EXITING),
        ExitReason::Invlpg | ExitReason::Invpcid => When::Primary(primary::INVLPG_EXITING),
        ExitReason::Rdpmc => When::Primary(primary::RDPMC_EXITING),
        ExitReason::Rdtsc | ExitReason::Rdtscp => When::Primary(primary::RDTSC_EXITING),
        ExitReason::MovDr => When::Primary(primary::MOV_DR_EXITING),
        ExitReason::Mwait => When::Primary(primary::MWAIT_EXITING),
        ExitReason::Monitor => When::Primary(primary::MONITOR_EXITING),
        ExitReason::Pause => When::Primary(primary::PAUSE_EXITING),
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
        ExitReason::Vmfunc => secondary::ENABLE_VM_FUNCTIONS,
        ExitReason::Xsaves | ExitReason::Xrstors => secondary::ENABLE_XSAVES,
        _ => 0,
    }
}

/// What has priority over the exit: #UD, and #GP for the privilege (SDM vol. 3, 26.1.1).
fn check_priority(core: &Core<'_>, reason: ExitReason) -> Result<(), Trap> {
    let enabling = enabled_by(reason);
    if core.state.vmx.interceptions.secondary & enabling != enabling {
        return Err(Exception::invalid_opcode().into());
    }
    match reason {
        ExitReason::Cpuid | ExitReason::Pause | ExitReason::Rdrand | ExitReason::Rdseed => Ok(()),
        ExitReason::Vmcall | ExitReason::Vmfunc => Ok(()),
        ExitReason::Rdtsc | ExitReason::Rdtscp if core.state.cr4 & cr4::TSD == 0 => Ok(()),
        ExitReason::Rdpmc if core.state.cr4 & cr4::PCE != 0 => Ok(()),
        ExitReason::Xsetbv if core.state.cr4 & cr4::OSXSAVE == 0 => Err(Exception::invalid_opcode().into()),
        ExitReason::Monitor | ExitReason::Mwait if core.state.cpl() != 0 => {
            Err(Exception::invalid_opcode().into())
        }
        // There is no SMX here.
        ExitReason::Getsec => Err(Exception::invalid_opcode().into()),
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
/// address), MONITOR, MWAIT (whether it was armed), RDPMC, RDTSC, RDTSCP, VMCALL, VMFUNC, WBINVD, XSETBV.
///
/// # Errors
/// `VmExit`; #UD and #GP(0) that come before it.
pub fn instruction(core: &mut Core<'_>, reason: ExitReason, qualification: u64) -> Result<(), Trap> {
    if !core.state.vmx.non_root() {
        return Ok(());
    }
    check_priority(core, reason)?;
    if !causes_exit(core, reason) {
        return Ok(());
    }
    exit(core, VmExit::of_instruction(reason).qualified(qualification))
}

/// An instruction with an operand that the exit describes; `displacement` is the operand's, for the qualification.
fn described(
    core: &mut Core<'_>,
    reason: ExitReason,
    displacement: u64,
    information: u32,
) -> Result<(), Trap> {
    let described = VmExit { instruction_information: information, ..VmExit::of_instruction(reason) };
    exit(core, described.qualified(displacement))
}

/// VMCLEAR, VMPTRLD, VMPTRST, VMXON, VMREAD, VMWRITE, INVEPT, INVVPID (with their information), VMLAUNCH, VMRESUME and
/// VMXOFF (without). In VMX non-root operation they exit at every privilege; only #UD comes first.
///
/// # Errors
/// `VmExit`, #UD.
pub fn vmx_instruction(
    core: &mut Core<'_>,
    reason: ExitReason,
    displacement: u64,
    information: u32,
) -> Result<(), Trap> {
    if !core.state.vmx.non_root() {
        return Ok(());
    }
    check_defined(core)?;
    described(core, reason, displacement, information)
}

/// SGDT to LTR. `operand_bits` is the operand size outside 64-bit mode.
///
/// # Errors
/// `VmExit`; #GP(0) that comes before it.
pub fn descriptor_table(
    core: &mut Core<'_>,
    what: TableInstruction,
    operand: &Operand,
    operand_bits: u32,
    displacement: u64,
) -> Result<(), Trap> {
    let reason =
        if what.of_gdtr_or_idtr() { ExitReason::GdtrOrIdtrAccess } else { ExitReason::LdtrOrTrAccess };
    if !core.state.vmx.non_root() || !causes_exit(core, reason) {
        return Ok(());
    }
    if what.loads() {
        core.check_privileged()?;
    } else {
        core.check_umip()?;
    }
    described(core, reason, displacement, what.information(operand, operand_bits))
}

/// RDRAND (`ExitReason::Rdrand`) and RDSEED (`ExitReason::Rdseed`).
///
/// # Errors
/// `VmExit`.
pub fn random(core: &mut Core<'_>, reason: ExitReason, register: u8, operand_bits: u32) -> Result<(), Trap> {
    if !core.state.vmx.non_root() || !causes_exit(core, reason) {
        return Ok(());
    }
    described(core, reason, 0, of_register(register, operand_bits))
}

/// INVPCID; `register` holds its type.
///
/// # Errors
/// `VmExit`; #UD and #GP(0) that come before it.
pub fn invpcid(core: &mut Core<'_>, operand: &Memory, register: u8, displacement: u64) -> Result<(), Trap> {
    memory_instruction(core, ExitReason::Invpcid, displacement, operand.with_register(register))
}

/// An instruction with a memory operand that exits as its control says.
///
/// # Errors
/// `VmExit`; #UD and #GP(0) that come before it.
pub fn memory_instruction(
    core: &mut Core<'_>,
    reason: ExitReason,
    displacement: u64,
    information: u32,
) -> Result<(), Trap> {
    if !core.state.vmx.non_root() {
        return Ok(());
    }
    check_priority(core, reason)?;
    if causes_exit(core, reason) { described(core, reason, displacement, information) } else { Ok(()) }
}

/// XSAVES (`ExitReason::Xsaves`) and XRSTORS (`ExitReason::Xrstors`) of the components in EDX:EAX: they exit for those
/// of IA32_XSS that the XSS-exiting bitmap names.
///
/// # Errors
/// `VmExit`; #UD and #GP(0) that come before it.
pub fn xsaves(
    core: &mut Core<'_>,
    reason: ExitReason,
    requested: u64,
    operand: &Memory,
    displacement: u64,
) -> Result<(), Trap> {
    if !core.state.vmx.non_root() {
        return Ok(());
    }
    check_priority(core, reason)?;
    let bitmap = core.state.vmx.vmcs.get(Field::XssExitingBitmap);
    if requested & core.state.msr.xss & bitmap == 0 {
        return Ok(());
    }
    described(core, reason, displacement, operand.information())
}
