//! What a processor reaches beyond its registers and RAM.

use crate::exception::Trap;
use gasang_x86::paravirtual;

/// What CPUID tells of this processor in particular.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// x2APIC id.
    pub apic_id: u32,
    /// Processors of the machine.
    pub cpus: u32,
    /// Frequency of the time-stamp counter.
    pub tsc_hz: u64,
}

/// The processor's surroundings: I/O ports, memory-mapped devices, its local APIC, the clock, and whoever must hear of
/// writes to translated code.
///
/// A method that returns `Err(Trap::Pending)` asks for an answer from outside: the instruction is abandoned without
/// effect and executed again; the platform then gives the accesses it has already answered the same answers, in order.
pub trait Platform {
    /// IN: read `size` (1, 2, 4) bytes at a port.
    fn port_read(&mut self, port: u16, size: u8) -> Result<u32, Trap>;
    /// OUT.
    fn port_write(&mut self, port: u16, size: u8, value: u32) -> Result<(), Trap>;
    /// Read `size` (1, 2, 4, 8) bytes at a physical address that is not RAM; never crosses a page.
    fn mmio_read(&mut self, address: u64, size: u8) -> Result<u64, Trap>;
    /// Write at a physical address that is not RAM.
    fn mmio_write(&mut self, address: u64, size: u8, value: u64) -> Result<(), Trap>;
    /// Read an MSR of the local APIC, of its timer or of the hypervisor; None if the MSR is not the platform's; #GP as the error.
    fn msr_read(&mut self, msr: u32) -> Option<Result<u64, Trap>>;
    /// Write such an MSR. `tsc_offset` converts a deadline of guest TSC to the platform's.
    fn msr_write(&mut self, msr: u32, value: u64, tsc_offset: u64) -> Option<Result<(), Trap>>;
    /// The guest's time-stamp counter now runs at this distance from the platform's.
    fn time_stamp_counter_moved(&mut self, tsc_offset: u64) {
        let _ = tsc_offset;
    }
    /// VMCALL or VMMCALL at CPL 0: the result for RAX.
    fn hypercall(&mut self, number: u64, arguments: [u64; 4]) -> u64 {
        let _ = (number, arguments);
        paravirtual::NO_SUCH_CALL
    }
    /// CR8: the task-priority class, 0-15.
    fn task_priority(&mut self) -> u8;
    /// Write CR8.
    fn set_task_priority(&mut self, value: u8);
    /// The time-stamp counter before the guest's offset.
    fn time_stamp_counter(&mut self) -> u64;

    /// How `time_stamp_counter` follows from the host's, if it does: the host's when it was 0, and its ticks for one of
    /// the host's, times 2^32.
    fn time_stamp_scale(&self) -> Option<(u64, u64)> {
        None
    }
    /// Which processor this is.
    fn identity(&self) -> Identity {
        Identity { apic_id: 0, cpus: 1, tsc_hz: 1_000_000_000 }
    }
    /// Entropy for RDRAND and RDSEED.
    fn random(&mut self) -> u64;
    /// RAM at `host` (host address) is written by this instruction and its page holds translated code: none of the code
    /// made from the old bytes may run after it.
    fn code_written(&mut self, host: u64, length: u64);
    /// An instruction is about to be executed, after `retired` others: answers given to the one before are spent, and a
    /// clock that counts instructions stands there. Whoever executes instructions one at a time, or calls the platform
    /// from translated code, says so before each.
    fn instruction_begins(&mut self, retired: u64) {
        let _ = retired;
    }
    /// PAUSE: the processor waits for another, in a loop.
    fn pause(&mut self) {}
    /// Whether the platform has something for the processor that counts before its next instruction, such as the
    /// interrupt that the last one caused.
    fn wants_attention(&self) -> bool {
        false
    }
    /// Whether the local APIC has an interrupt for the processor, as of when the platform was looked at last.
    fn interrupt_waits(&self) -> bool {
        false
    }
    /// Whether an NMI, INIT or start-up IPI waits for the processor.
    fn signal_waits(&self) -> bool {
        false
    }
    /// An iteration of a REP string instruction is committed: the answers given so far are spent.
    fn iteration_committed(&mut self);
}
