//! What KVM offers its guests, by its numbers (Linux, Documentation/virt/kvm/x86: cpuid.rst, msr.rst, hypercalls.rst).

/// What CPUID leaf 0x40000000 says in EBX, ECX, EDX.
pub const SIGNATURE: &[u8; 12] = b"KVMKVMKVM\0\0\0";

/// Physical address of the wall-clock structure; the write fills it.
pub const MSR_WALL_CLOCK: u32 = 0x4b56_4d00;
/// Physical address of this processor's time structure, and bit 0 to keep it up to date.
pub const MSR_SYSTEM_TIME: u32 = 0x4b56_4d01;
/// Physical address of this processor's steal-time structure, and bit 0.
pub const MSR_STEAL_TIME: u32 = 0x4b56_4d03;
/// Physical address of the word by which an end of interrupt is told, and bit 0.
pub const MSR_END_OF_INTERRUPT: u32 = 0x4b56_4d04;
/// The older numbers of the first two.
pub const MSR_WALL_CLOCK_OLD: u32 = 0x11;
#[allow(missing_docs)]
pub const MSR_SYSTEM_TIME_OLD: u32 = 0x12;

/// Bit 0 of the address MSRs.
pub const ENABLED: u64 = 1;
/// Bits of `MSR_STEAL_TIME` that must be clear.
pub const STEAL_TIME_RESERVED: u64 = 0x3e;

/// Flag of a time structure: all processors' structures agree.
pub const TIME_STABLE: u8 = 1;
/// Bit of the end-of-interrupt word: clearing it ends the interrupt.
pub const END_BY_CLEARING: u32 = 1;
/// `preempted` of a steal-time structure: the processor does not run.
pub const PREEMPTED: u32 = 1;
/// In `preempted`, set by other processors: forget translations before running again.
pub const FLUSH_TLB: u32 = 2;

/// Hypercall: nothing, on today's processors.
pub const HYPERCALL_POLL_INTERRUPT: u64 = 1;
/// Hypercall: wake the halted processor whose APIC id is the second argument.
pub const HYPERCALL_KICK: u64 = 5;
/// Hypercall: send an IPI (ICR in the fourth argument) to the processors in a bitmap of 128 bits, from the APIC id in
/// the third argument on.
pub const HYPERCALL_SEND_IPI: u64 = 10;
/// Result of a hypercall from above CPL 0 (-EPERM).
pub const NOT_PERMITTED: u64 = 1u64.wrapping_neg();
/// Result of an unknown hypercall (-KVM_ENOSYS).
pub const NO_SUCH_CALL: u64 = 1000u64.wrapping_neg();
