//! What VMX non-root operation intercepts (SDM vol. 3, chapter 26). Whoever executes instructions asks here before each
//! that could cause a VM exit. A function that intercepts has described the exit in `state.vmx.pending_exit`, but for
//! the instruction's length, and returns `Trap::VmExit`. Outside non-root operation all of them let everything pass.

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
pub use input_output::{PortAccess, msr, port};
pub use instructions::{
    descriptor_table, instruction, invpcid, memory_instruction, random, vmx_instruction, xsaves,
};
pub use timing::{due, due_after, external_interrupts, nmis, pause, time_stamp_counter};

use gasang_cpu::{Core, Trap, VmExit};

/// The trap of an exit.
fn exit<T>(core: &mut Core<'_>, exit: VmExit) -> Result<T, Trap> {
    Err(core.state.exit(exit))
}

/// A VM exit for an exception that was not delivered through `Core::deliver_exception`, if it is intercepted.
///
/// # Errors
/// `VmExit`.
pub fn exception(core: &mut Core<'_>, exception: &gasang_cpu::Exception) -> Result<(), Trap> {
    let vmx = &core.state.vmx;
    let caught = vmx.interceptions.exception(exception.vector, exception.error_code.unwrap_or(0));
    if vmx.non_root() && caught { exit(core, VmExit::of_exception(exception)) } else { Ok(()) }
}

/// One bit of a bitmap in memory. What is not RAM reads as ones.
fn bitmap_bit(core: &Core<'_>, address: u64, bit: u64) -> bool {
    let mut byte = [0xff];
    let _ = core.memory.read_physical(address.wrapping_add(bit / 8), &mut byte);
    byte[0] >> (bit % 8) & 1 != 0
}
