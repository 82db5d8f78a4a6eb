//! Control and debug registers (SDM vol. 3, 26.1.3, 26.3, table 28-3, 28-4, 30.1.3).

use super::exit;
use gasang_cpu::{Core, Trap, VcpuState, VmExit};
use gasang_x86::control::cr0;
use gasang_x86::vmx::controls::{cr_access, primary};
use gasang_x86::vmx::{ExitReason, Field};

/// Offset of the virtual task-priority register in the virtual-APIC page.
const VTPR: u64 = 0x80;
/// The bits that LMSW can change.
const MACHINE_STATUS: u64 = cr0::PE | cr0::MP | cr0::EM | cr0::TS;

/// MOV to or from a control register: which, and the general-purpose register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrAccess {
    /// 0, 3, 4 or 8.
    pub number: usize,
    /// The general-purpose register.
    pub register: u8,
}

impl CrAccess {
    fn exit(self, kind: u64) -> VmExit {
        let register = u64::from(self.register & 15) << cr_access::REGISTER_SHIFT;
        VmExit::of_instruction(ExitReason::ControlRegisterAccess)
            .qualified(self.number as u64 & 15 | kind | register)
    }
}

fn field(state: &VcpuState, field: Field) -> u64 {
    state.vmx.vmcs.get(field)
}

/// MOV to a control register; after #UD and the check of the privilege.
///
/// # Errors
/// `VmExit`.
pub fn mov_to_cr(core: &mut Core<'_>, access: CrAccess, value: u64) -> Result<(), Trap> {
    let state = &*core.state;
    let controls = state.vmx.interceptions.primary;
    let differs = |mask: Field, shadow: Field| (value ^ field(state, shadow)) & field(state, mask) != 0;
    let caught = match access.number {
        0 => differs(Field::Cr0GuestHostMask, Field::Cr0ReadShadow),
        3 => controls & primary::CR3_LOAD_EXITING != 0 && !is_cr3_target(state, value),
        4 => differs(Field::Cr4GuestHostMask, Field::Cr4ReadShadow),
        8 => controls & primary::CR8_LOAD_EXITING != 0,
        _ => false,
    };
    if caught { exit(core, access.exit(cr_access::MOV_TO)) } else { Ok(()) }
}

fn is_cr3_target(state: &VcpuState, value: u64) -> bool {
    let targets =
        [Field::Cr3TargetValue0, Field::Cr3TargetValue1, Field::Cr3TargetValue2, Field::Cr3TargetValue3];
    let count = field(state, Field::Cr3TargetCount) as usize;
    targets.into_iter().take(count).any(|target| field(state, target) == value)
}

/// MOV from a control register; after #UD and the check of the privilege.
///
/// # Errors
/// `VmExit`.
pub fn mov_from_cr(core: &mut Core<'_>, access: CrAccess) -> Result<(), Trap> {
    let controls = core.state.vmx.interceptions.primary;
    let control = match access.number {
        3 => primary::CR3_STORE_EXITING,
        8 => primary::CR8_STORE_EXITING,
        _ => 0,
    };
    if controls & control != 0 { exit(core, access.exit(cr_access::MOV_FROM)) } else { Ok(()) }
}

/// What the guest reads of CR0, by MOV or SMSW: of the bits that the host owns, the shadow's.
pub fn read_cr0(state: &VcpuState) -> u64 {
    read_shadowed(state, state.cr0, Field::Cr0GuestHostMask, Field::Cr0ReadShadow)
}

/// What the guest reads of CR4.
pub fn read_cr4(state: &VcpuState) -> u64 {
    read_shadowed(state, state.cr4, Field::Cr4GuestHostMask, Field::Cr4ReadShadow)
}

fn read_shadowed(state: &VcpuState, value: u64, mask: Field, shadow: Field) -> u64 {
    let mask = field(state, mask);
    value & !mask | field(state, shadow) & mask
}

/// What a MOV to CR0 that does not exit writes: the host's bits stay. Whether VMX operation allows the value is
/// `instructions::control_registers_fit`'s to say, PE and PG aside in an unrestricted guest.
pub fn written_cr0(state: &VcpuState, value: u64) -> u64 {
    written(state, value, state.cr0, Field::Cr0GuestHostMask)
}

/// What a MOV to CR4 that does not exit writes.
pub fn written_cr4(state: &VcpuState, value: u64) -> u64 {
    written(state, value, state.cr4, Field::Cr4GuestHostMask)
}

fn written(state: &VcpuState, value: u64, old: u64, mask: Field) -> u64 {
    let mask = field(state, mask);
    value & !mask | old & mask
}

/// CLTS; after the check of the privilege.
///
/// # Errors
/// `VmExit`.
pub fn clts(core: &mut Core<'_>) -> Result<(), Trap> {
    let state = &*core.state;
    let both = field(state, Field::Cr0GuestHostMask) & field(state, Field::Cr0ReadShadow);
    if both & cr0::TS == 0 {
        return Ok(());
    }
    exit(core, VmExit::of_instruction(ExitReason::ControlRegisterAccess).qualified(cr_access::CLTS))
}

/// Whether a CLTS that does not exit clears TS: not if the host owns it.
pub fn clts_clears(state: &VcpuState) -> bool {
    field(state, Field::Cr0GuestHostMask) & cr0::TS == 0
}

/// LMSW; `linear` is the address of a memory operand. After the check of the privilege. What it writes otherwise is
/// `written_cr0`'s to say.
///
/// # Errors
/// `VmExit`.
pub fn lmsw(core: &mut Core<'_>, value: u16, linear: Option<u64>) -> Result<(), Trap> {
    let state = &*core.state;
    let (mask, shadow) = (field(state, Field::Cr0GuestHostMask), field(state, Field::Cr0ReadShadow));
    // LMSW sets PE or leaves it.
    let sets = u64::from(value) & MACHINE_STATUS | shadow & cr0::PE;
    if (sets ^ shadow) & mask & MACHINE_STATUS == 0 {
        return Ok(());
    }
    let memory = if linear.is_some() { cr_access::LMSW_MEMORY } else { 0 };
    let qualification = cr_access::LMSW | memory | u64::from(value) << cr_access::LMSW_SOURCE_SHIFT;
    let described = VmExit {
        guest_linear: linear.unwrap_or(0),
        ..VmExit::of_instruction(ExitReason::ControlRegisterAccess)
    };
    exit(core, described.qualified(qualification))
}

/// MOV to (`from` false) or from a debug register. The exit comes even before the check of the privilege, and before #UD
/// for DR4 and DR5 under CR4.DE (SDM vol. 3, 26.1.3).
///
/// # Errors
/// `VmExit`.
pub fn mov_dr(core: &mut Core<'_>, number: usize, register: u8, from: bool) -> Result<(), Trap> {
    if core.state.vmx.interceptions.primary & primary::MOV_DR_EXITING == 0 {
        return Ok(());
    }
    let register = u64::from(register & 15) << cr_access::REGISTER_SHIFT;
    let qualification = number as u64 & 7 | u64::from(from) << 4 | register;
    exit(core, VmExit::of_instruction(ExitReason::MovDr).qualified(qualification))
}

/// Address of the virtual task-priority register, if MOV to and from CR8 mean it.
fn virtual_task_priority(state: &VcpuState) -> Option<u64> {
    let shadowed = state.vmx.interceptions.primary & primary::USE_TPR_SHADOW != 0;
    shadowed.then(|| field(state, Field::VirtualApicAddress) + VTPR)
}

fn read_priority(core: &Core<'_>, address: u64) -> u8 {
    let mut byte = [0xff];
    let _ = core.memory.read_physical(address, &mut byte);
    byte[0]
}

/// MOV from CR8 under the TPR shadow; None where CR8 is the real one.
pub fn read_shadowed_cr8(core: &Core<'_>) -> Option<u64> {
    virtual_task_priority(core.state).map(|address| u64::from(read_priority(core, address) >> 4))
}

/// MOV to CR8 of a value below 16 under the TPR shadow; false where CR8 is the real one. After the instruction
/// `below_threshold` is to be asked.
pub fn write_shadowed_cr8(core: &mut Core<'_>, value: u64) -> bool {
    let Some(address) = virtual_task_priority(core.state) else { return false };
    let register = (value as u32 & 0xf) << 4;
    core.write_ram(address, &register.to_le_bytes());
    true
}

/// The exit that follows an instruction which lowered the virtual task priority below the TPR threshold; like a trap.
pub fn below_threshold(core: &Core<'_>) -> Option<VmExit> {
    let address = virtual_task_priority(core.state)?;
    let threshold = field(core.state, Field::TprThreshold) & 0xf;
    let below = u64::from(read_priority(core, address) >> 4) < threshold;
    below.then(|| VmExit::new(ExitReason::TprBelowThreshold))
}
