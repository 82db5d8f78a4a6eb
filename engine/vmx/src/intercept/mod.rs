//! What VMX non-root operation intercepts (SDM vol. 3, chapter 26). Whoever executes instructions there, and only there,
//! asks here before each that could cause a VM exit. A function that intercepts has described the exit in
//! `state.vmx.pending_exit`, but for the instruction's length, and returns `Trap::VmExit`. Exceptions are not among it:
//! they are intercepted where they are delivered, in gasang-cpu.

mod control_registers;
mod information;
mod input_output;
mod instructions;
mod timing;

pub use control_registers::{
    CrAccess, below_threshold, clts, clts_clears, lmsw, mov_dr, mov_from_cr, mov_to_cr, read_cr0, read_cr4,
    read_shadowed_cr8, write_shadowed_cr8, written_cr0, written_cr4,
};
pub use information::{Memory, Operand, TableInstruction};
pub use input_output::{PortAccess, StringAccess, msr, port};
pub use instructions::{
    descriptor_table, instruction, invpcid, random, vmcs_access, vmx_instruction, xsaves,
};
pub use timing::{Due, Signals, due, pause};

use gasang_cpu::{Core, Trap, VmExit};

/// The trap of an exit.
fn exit<T>(core: &mut Core<'_>, exit: VmExit) -> Result<T, Trap> {
    Err(core.state.exit(exit))
}

/// One bit of a bitmap in memory. What is not RAM reads as ones.
fn bitmap_bit(core: &Core<'_>, address: u64, bit: u64) -> bool {
    let mut byte = [0xff];
    let _ = core.memory.read_physical(address.wrapping_add(bit / 8), &mut byte);
    byte[0] >> (bit % 8) & 1 != 0
}
