//! Which instructions cause VM exits, and what the exits tell of them (SDM vol. 3, 26.1, 28.2.1, 28.2.5). The caller has
//! made the checks that come first (#UD, privilege), and tells instruction lengths later.

use gasang_cpu::{Core, Trap, VmExit};
use gasang_x86::control::cr0;
use gasang_x86::gpr;
use gasang_x86::vmx::controls::{cr_access, io_access, primary, secondary};
use gasang_x86::vmx::{ExitReason, Field};

/// Offset of the task-priority register in the virtual-APIC page.
const VIRTUAL_TASK_PRIORITY: u64 = 0x80;
/// Bits of CR0 that LMSW loads.
const MACHINE_STATUS: u64 = cr0::PE | cr0::MP | cr0::EM | cr0::TS;

/// The VM exit of an instruction.
pub fn exits<T>(core: &mut Core<'_>, reason: ExitReason, qualification: u64) -> Result<T, Trap> {
    Err(core.state.exit(VmExit::of_instruction(reason).qualified(qualification)))
}

/// The VM exit of an instruction, with what the instruction-information field tells.
pub fn exits_with<T>(
    core: &mut Core<'_>,
    reason: ExitReason,
    qualification: u64,
    information: u32,
) -> Result<T, Trap> {
    let exit = VmExit::of_instruction(reason).qualified(qualification);
    Err(core.state.exit(VmExit { instruction_information: information, ..exit }))
}

/// Whether a primary processor-based control is set.
pub fn primary(core: &Core<'_>, control: u32) -> bool {
    core.state.vmx.interceptions.primary & control != 0
}

/// Whether a secondary processor-based control is set and counts.
pub fn secondary(core: &Core<'_>, control: u32) -> bool {
    core.state.vmx.interceptions.secondary & control != 0
}

/// A memory operand, as the instruction-information field tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryInformation {
    /// log2 of the scale.
    pub scaling: u32,
    /// Bits of the address: 16, 32 or 64.
    pub address_bits: u32,
    /// Segment register.
    pub segment: usize,
    /// Index register, if there is one.
    pub index: Option<usize>,
    /// Base register, if there is one.
    pub base: Option<usize>,
}

impl MemoryInformation {
    /// Its bits in the field.
    pub fn bits(&self) -> u32 {
        let register = |register: Option<usize>, shift: u32| match register {
            Some(number) => (number as u32) << shift,
            None => 1 << (shift + 4),
        };
        self.scaling
            | address_size(self.address_bits)
            | (self.segment as u32) << 15
            | register(self.index, 18)
            | register(self.base, 23)
    }
}

/// Bits 9:7: address size.
fn address_size(bits: u32) -> u32 {
    let code = match bits {
        16 => 0,
        32 => 1,
        _ => 2,
    };
    code << 7
}

/// Bits of the instruction-information field beside those of a memory operand.
pub mod information {
    /// The operand is a register.
    pub const REGISTER: u32 = 1 << 10;
    /// Where the number of the first register operand is.
    pub const REGISTER1_SHIFT: u32 = 3;
    /// Where the number of the second is.
    pub const REGISTER2_SHIFT: u32 = 28;
    /// Where the identity of a descriptor-table instruction is.
    pub const IDENTITY_SHIFT: u32 = 28;
    /// LGDT and its kin: 32-bit operands.
    pub const OPERAND_32BIT: u32 = 1 << 11;
    /// Where RDRAND's and RDSEED's operand size is.
    pub const OPERAND_SIZE_SHIFT: u32 = 11;
}

/// What of a control register the guest owns is its own; the rest it sees as the read shadow has it.
fn with_shadow(core: &Core<'_>, value: u64, mask: Field, shadow: Field) -> u64 {
    let (mask, shadow) = (core.state.vmx.vmcs.get(mask), core.state.vmx.vmcs.get(shadow));
    value & !mask | shadow & mask
}

/// CR0 as the guest reads it.
pub fn visible_cr0(core: &Core<'_>) -> u64 {
    with_shadow(core, core.state.cr0, Field::Cr0GuestHostMask, Field::Cr0ReadShadow)
}

/// CR4 as the guest reads it.
pub fn visible_cr4(core: &Core<'_>) -> u64 {
    with_shadow(core, core.state.cr4, Field::Cr4GuestHostMask, Field::Cr4ReadShadow)
}

fn cr_qualification(number: usize, kind: u64, register: usize) -> u64 {
    number as u64 | kind | (register as u64) << cr_access::REGISTER_SHIFT
}

/// MOV from control register `number` to general-purpose register `register`: what it gets in place of the register's
/// value, if anything.
///
/// # Errors
/// `VmExit`.
pub fn read_cr(core: &mut Core<'_>, number: usize, register: usize) -> Result<Option<u64>, Trap> {
    let qualification = cr_qualification(number, cr_access::MOV_FROM, register);
    match number {
        0 => Ok(Some(visible_cr0(core))),
        4 => Ok(Some(visible_cr4(core))),
        3 if primary(core, primary::CR3_STORE_EXITING) => {
            exits(core, ExitReason::ControlRegisterAccess, qualification)
        }
        8 if primary(core, primary::CR8_STORE_EXITING) => {
            exits(core, ExitReason::ControlRegisterAccess, qualification)
        }
        8 if primary(core, primary::USE_TPR_SHADOW) => Ok(Some(virtual_task_priority(core) >> 4 & 0xf)),
        _ => Ok(None),
    }
}

/// MOV of `value` from general-purpose register `register` to control register `number`: what is to be written there; None
/// if it was written elsewhere.
///
/// # Errors
/// `VmExit`; for a task priority below its threshold after the write (`state.rip` must then go on at the next instruction).
pub fn write_cr(
    core: &mut Core<'_>,
    number: usize,
    register: usize,
    value: u64,
) -> Result<Option<u64>, Trap> {
    let qualification = cr_qualification(number, cr_access::MOV_TO, register);
    let intercepted = match number {
        0 => differs(core, value, Field::Cr0GuestHostMask, Field::Cr0ReadShadow),
        3 => primary(core, primary::CR3_LOAD_EXITING) && !is_cr3_target(core, value),
        4 => differs(core, value, Field::Cr4GuestHostMask, Field::Cr4ReadShadow),
        8 => primary(core, primary::CR8_LOAD_EXITING),
        _ => false,
    };
    if intercepted {
        return exits(core, ExitReason::ControlRegisterAccess, qualification);
    }
    let owned = |mask: Field, real: u64| {
        let mask = core.state.vmx.vmcs.get(mask);
        real & mask | value & !mask
    };
    match number {
        0 => Ok(Some(owned(Field::Cr0GuestHostMask, core.state.cr0))),
        4 => Ok(Some(owned(Field::Cr4GuestHostMask, core.state.cr4))),
        8 if primary(core, primary::USE_TPR_SHADOW) && value <= 15 => {
            set_virtual_task_priority(core, value << 4);
            Ok(None)
        }
        _ => Ok(Some(value)),
    }
}

/// Whether a value has other bits than the read shadow where the host owns them.
fn differs(core: &Core<'_>, value: u64, mask: Field, shadow: Field) -> bool {
    let vmcs = &core.state.vmx.vmcs;
    (value ^ vmcs.get(shadow)) & vmcs.get(mask) != 0
}

fn is_cr3_target(core: &Core<'_>, value: u64) -> bool {
    let vmcs = &core.state.vmx.vmcs;
    let targets =
        [Field::Cr3TargetValue0, Field::Cr3TargetValue1, Field::Cr3TargetValue2, Field::Cr3TargetValue3];
    let count = vmcs.get(Field::Cr3TargetCount) as usize;
    targets.iter().take(count).any(|&target| vmcs.get(target) == value)
}

/// CLTS: whether TS is to be cleared.
///
/// # Errors
/// `VmExit`.
pub fn clts(core: &mut Core<'_>) -> Result<bool, Trap> {
    let vmcs = &core.state.vmx.vmcs;
    let owned = vmcs.get(Field::Cr0GuestHostMask) & cr0::TS != 0;
    if owned && vmcs.get(Field::Cr0ReadShadow) & cr0::TS != 0 {
        return exits(core, ExitReason::ControlRegisterAccess, cr_access::CLTS);
    }
    Ok(!owned)
}

/// LMSW of `source`, from memory at a linear address or from a register: what is to be loaded.
///
/// # Errors
/// `VmExit`.
pub fn lmsw(core: &mut Core<'_>, source: u16, memory: Option<u64>) -> Result<u16, Trap> {
    let vmcs = &core.state.vmx.vmcs;
    let (mask, shadow) = (vmcs.get(Field::Cr0GuestHostMask), vmcs.get(Field::Cr0ReadShadow));
    let value = u64::from(source);
    let changes = (value ^ shadow) & mask & MACHINE_STATUS & !cr0::PE != 0;
    let enters_protected_mode = mask & value & !shadow & cr0::PE != 0;
    if changes || enters_protected_mode {
        let operand = if memory.is_some() { cr_access::LMSW_MEMORY } else { 0 };
        let qualification = cr_access::LMSW | operand | value << cr_access::LMSW_SOURCE_SHIFT;
        let exit = VmExit::of_instruction(ExitReason::ControlRegisterAccess).qualified(qualification);
        return Err(core.state.exit(VmExit { guest_linear: memory.unwrap_or(0), ..exit }));
    }
    Ok((core.state.cr0 & mask | value & !mask) as u16)
}

/// A byte of a bitmap in memory. Where there is no RAM every bit is set.
fn bitmap_byte(core: &Core<'_>, bitmap: Field, offset: u64) -> u64 {
    let address = core.state.vmx.vmcs.get(bitmap).wrapping_add(offset);
    core.memory.host(address).map_or(0xff, |host| core.memory.load(host, 1))
}

/// Whether IN and OUT of `size` bytes at `port` cause VM exits.
fn io_intercepted(core: &Core<'_>, port: u16, size: u8) -> bool {
    if !primary(core, primary::USE_IO_BITMAPS) {
        return primary(core, primary::UNCONDITIONAL_IO_EXITING);
    }
    (0..u32::from(size)).any(|byte| {
        let Ok(port) = u16::try_from(u32::from(port) + byte) else { return true };
        let bitmap = if port < 0x8000 { Field::IoBitmapA } else { Field::IoBitmapB };
        bitmap_byte(core, bitmap, u64::from(port & 0x7fff) / 8) >> (port % 8) & 1 != 0
    })
}

/// An I/O instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortAccess {
    /// First port.
    pub port: u16,
    /// Bytes.
    pub size: u8,
    /// IN or INS.
    pub input: bool,
    /// The port is an immediate.
    pub immediate: bool,
    /// INS or OUTS.
    pub string: Option<StringAccess>,
}

/// What INS and OUTS have beside the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StringAccess {
    /// With REP.
    pub repeated: bool,
    /// Linear address of the operand in memory.
    pub linear: u64,
    /// Bits of the address.
    pub address_bits: u32,
    /// Its segment register.
    pub segment: usize,
}

/// An I/O instruction.
///
/// # Errors
/// `VmExit`.
pub fn io(core: &mut Core<'_>, access: &PortAccess) -> Result<(), Trap> {
    if !io_intercepted(core, access.port, access.size) {
        return Ok(());
    }
    let flag = |set: bool, bit: u64| if set { bit } else { 0 };
    let qualification = u64::from(access.size - 1)
        | flag(access.input, io_access::IN)
        | flag(access.string.is_some(), io_access::STRING)
        | flag(access.string.is_some_and(|string| string.repeated), io_access::REP)
        | flag(access.immediate, io_access::IMMEDIATE)
        | u64::from(access.port) << io_access::PORT_SHIFT;
    let exit = VmExit::of_instruction(ExitReason::IoInstruction).qualified(qualification);
    Err(core.state.exit(match access.string {
        None => exit,
        Some(string) => VmExit {
            guest_linear: string.linear,
            instruction_information: address_size(string.address_bits)
                | if access.input { 0 } else { (string.segment as u32) << 15 },
            ..exit
        },
    }))
}

/// RDMSR or WRMSR of the MSR that ECX names.
///
/// # Errors
/// `VmExit`.
pub fn msr(core: &mut Core<'_>, write: bool) -> Result<(), Trap> {
    let index = core.state.gpr[gpr::RCX] as u32;
    let intercepted = !primary(core, primary::USE_MSR_BITMAPS)
        || match index {
            0..=0x1fff => msr_bit(core, u64::from(index), 0, write),
            0xc000_0000..=0xc000_1fff => msr_bit(core, u64::from(index & 0x1fff), 1024, write),
            _ => true,
        };
    if intercepted {
        return exits(core, if write { ExitReason::Wrmsr } else { ExitReason::Rdmsr }, 0);
    }
    Ok(())
}

/// The bit of an MSR in its quarter of the bitmaps: reads and then writes, of low and then of high numbers.
fn msr_bit(core: &Core<'_>, number: u64, quarter: u64, write: bool) -> bool {
    let offset = quarter + if write { 2048 } else { 0 } + number / 8;
    bitmap_byte(core, Field::MsrBitmaps, offset) >> (number % 8) & 1 != 0
}

/// MOV to or from debug register `number`. The VM exit comes even before the check of privilege, and before #UD for DR4 and
/// DR5 under CR4.DE (SDM vol. 3, 26.1.3).
///
/// # Errors
/// `VmExit`.
pub fn mov_dr(core: &mut Core<'_>, number: usize, register: usize, from: bool) -> Result<(), Trap> {
    if !primary(core, primary::MOV_DR_EXITING) {
        return Ok(());
    }
    exits(core, ExitReason::MovDr, number as u64 | u64::from(from) << 4 | (register as u64) << 8)
}

/// PAUSE (SDM vol. 3, 26.1.3): by itself, or at CPL 0 in a loop that lasts.
///
/// # Errors
/// `VmExit`.
pub fn pause(core: &mut Core<'_>) -> Result<(), Trap> {
    if primary(core, primary::PAUSE_EXITING) {
        return exits(core, ExitReason::Pause, 0);
    }
    if !secondary(core, secondary::PAUSE_LOOP_EXITING) || core.state.cpl() != 0 {
        return Ok(());
    }
    let now = core.platform.time_stamp_counter();
    let vmx = &mut core.state.vmx;
    let (gap, window) = (vmx.vmcs.get(Field::PleGap), vmx.vmcs.get(Field::PleWindow));
    let [first, last] = vmx.pause_loop;
    vmx.pause_loop = [first, now];
    if last == 0 || now.saturating_sub(last) > gap {
        vmx.pause_loop = [now, now];
    } else if now.saturating_sub(first) > window {
        vmx.pause_loop = [now, now];
        return exits(core, ExitReason::Pause, 0);
    }
    Ok(())
}

fn virtual_task_priority(core: &Core<'_>) -> u64 {
    let address = core.state.vmx.vmcs.get(Field::VirtualApicAddress).wrapping_add(VIRTUAL_TASK_PRIORITY);
    core.memory.host(address).map_or(0, |host| core.memory.load(host, 1))
}

fn set_virtual_task_priority(core: &mut Core<'_>, value: u64) {
    let address = core.state.vmx.vmcs.get(Field::VirtualApicAddress).wrapping_add(VIRTUAL_TASK_PRIORITY);
    core.write_ram(address, &(value as u32).to_le_bytes());
}

/// After a write of the virtual task priority, with RIP at the next instruction (SDM vol. 3, 30.1.2).
///
/// # Errors
/// `VmExit` if it is below its threshold.
pub fn check_task_priority(core: &mut Core<'_>) -> Result<(), Trap> {
    let threshold = core.state.vmx.vmcs.get(Field::TprThreshold) & 0xf;
    if virtual_task_priority(core) >> 4 < threshold {
        return Err(core.state.exit(VmExit::new(ExitReason::TprBelowThreshold)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_operands_are_told_in_their_bits() {
        let operand =
            MemoryInformation { scaling: 3, address_bits: 64, segment: 4, index: Some(9), base: Some(5) };
        assert_eq!(operand.bits(), 3 | 2 << 7 | 4 << 15 | 9 << 18 | 5 << 23);
        let bare = MemoryInformation { scaling: 0, address_bits: 32, segment: 3, index: None, base: None };
        assert_eq!(bare.bits(), 1 << 7 | 3 << 15 | 1 << 22 | 1 << 27);
    }
}
