//! I/O ports and MSRs, and their bitmaps (SDM vol. 3, 25.6.4, 25.6.9, 26.1.3, table 28-5).

use super::information::of_string;
use super::{bitmap_bit, exit};
use gasang_cpu::{Core, Trap, VmExit};
use gasang_x86::vmx::controls::{io_access, primary};
use gasang_x86::vmx::{ExitReason, Field};

/// An I/O instruction about to be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortAccess {
    /// The first port.
    pub port: u16,
    /// 1, 2 or 4 bytes.
    pub size: u8,
    /// IN or INS.
    pub input: bool,
    /// The port is an immediate operand.
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

impl PortAccess {
    fn exit(&self) -> VmExit {
        let flag = |set: bool, bit: u64| if set { bit } else { 0 };
        let repeated = self.string.is_some_and(|string| string.repeated);
        let qualification = u64::from(self.size.saturating_sub(1) & 7)
            | flag(self.input, io_access::IN)
            | flag(self.string.is_some(), io_access::STRING)
            | flag(repeated, io_access::REP)
            | flag(self.immediate, io_access::IMMEDIATE)
            | u64::from(self.port) << io_access::PORT_SHIFT;
        let plain = VmExit::of_instruction(ExitReason::IoInstruction).qualified(qualification);
        match self.string {
            Some(string) => VmExit {
                guest_linear: string.linear,
                instruction_information: of_string(string.address_bits, string.segment),
                ..plain
            },
            None => plain,
        }
    }
}

/// IN, OUT, INS, OUTS; after the check of IOPL and the I/O permission bitmap.
///
/// # Errors
/// `VmExit`.
pub fn port(core: &mut Core<'_>, access: &PortAccess) -> Result<(), Trap> {
    if !port_caught(core, access) {
        return Ok(());
    }
    exit(core, access.exit())
}

fn port_caught(core: &Core<'_>, access: &PortAccess) -> bool {
    let controls = core.state.vmx.interceptions.primary;
    if controls & primary::USE_IO_BITMAPS == 0 {
        return controls & primary::UNCONDITIONAL_IO_EXITING != 0;
    }
    let vmcs = &core.state.vmx.vmcs;
    let last = u32::from(access.port) + u32::from(access.size) - 1;
    // An access that wraps around exits whatever the bitmaps say.
    last > 0xffff
        || (u32::from(access.port)..=last).any(|port| {
            let bitmap = if port < 0x8000 { Field::IoBitmapA } else { Field::IoBitmapB };
            bitmap_bit(core, vmcs.get(bitmap), u64::from(port & 0x7fff))
        })
}

/// RDMSR, or WRMSR (`write`), of an MSR; after the check of the privilege.
///
/// # Errors
/// `VmExit`.
pub fn msr(core: &mut Core<'_>, index: u32, write: bool) -> Result<(), Trap> {
    if !msr_caught(core, index, write) {
        return Ok(());
    }
    exit(core, VmExit::of_instruction(if write { ExitReason::Wrmsr } else { ExitReason::Rdmsr }))
}

fn msr_caught(core: &Core<'_>, index: u32, write: bool) -> bool {
    let vmx = &core.state.vmx;
    if vmx.interceptions.primary & primary::USE_MSR_BITMAPS == 0 {
        return true;
    }
    // Four bitmaps of 1 KiB: reads of low and of high MSRs, then writes.
    let high = match index {
        0..=0x1fff => 0,
        0xc000_0000..=0xc000_1fff => 1024,
        _ => return true,
    };
    let part = if write { 2048 } else { 0 };
    bitmap_bit(core, vmx.vmcs.get(Field::MsrBitmaps) + part + high, u64::from(index & 0x1fff))
}
