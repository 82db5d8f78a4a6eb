//! Where generated code keeps its own values: slots of `VcpuState::translator`, reached through the GS base, which
//! holds the address of the state while generated code runs. FS base holds the current TLB context.

use gasang_cpu::state::{DescriptorTable, MsrState};
use gasang_cpu::{SegmentRegister, VcpuState};
use std::mem::{offset_of, size_of};

const fn slot(index: usize) -> i32 {
    (offset_of!(VcpuState, translator) + 8 * index) as i32
}

/// Our stack pointer while the guest's is in RSP.
pub const HOST_RSP: i32 = slot(0);
/// Our FS base (thread-local storage).
pub const HOST_FS: i32 = slot(1);
/// Address of the current TLB context.
pub const TLB_CONTEXT: i32 = slot(2);
/// Instructions left until the next poll, on entry; then in R9, and 0 here.
pub const COUNTER: i32 = slot(3);
/// Saved status flags as LAHF and SETO leave them: AL is OF, AH the others.
pub const FLAGS: i32 = slot(4);
/// Target of an indirect jump, or where the next block starts.
pub const NEXT_RIP: i32 = slot(5);
/// Which site of which block leaves.
pub const SITE: i32 = slot(6);
/// What was left in R9 on leaving.
pub const REMAINING: i32 = slot(7);
/// RAX while flags pass through it; or a value between two memory checks of one instruction.
pub const TEMPORARY: i32 = slot(8);
/// Linear address of the access that missed.
pub const MISSED_ADDRESS: i32 = slot(9);
/// Host RIP of a fault in generated code.
pub const FAULT_RIP: i32 = slot(10);
/// Host RFLAGS at that fault.
pub const FAULT_FLAGS: i32 = slot(11);
/// Which extended state is in the registers: 0 none, bit 0 x87 usable, bit 1 SSE usable, bit 2 AVX usable.
pub const EXTENDED_LIVE: i32 = slot(12);
/// What EXTENDED_LIVE becomes on entry (0: leave the extended state in memory).
pub const EXTENDED_WANTED: i32 = slot(13);
/// XSAVE mask of the components that the guest may have.
pub const EXTENDED_MASK: i32 = slot(14);
/// Where to enter generated code.
pub const ENTRY: i32 = slot(15);

/// Not zero while an interrupt waits for IF: enabling interrupts must leave.
pub const INTERRUPT_WAITING: i32 = slot(16);
/// Address of the TLB context for CPL 0 with RFLAGS.AC clear.
pub const TLB_SUPERVISOR: i32 = slot(17);
/// Address of the TLB context for CPL 0 with RFLAGS.AC set.
pub const TLB_SUPERVISOR_AC: i32 = slot(18);

/// R11 on entry: where an access that is tried again finds its bytes. R10 is zero then.
pub const PLACE: i32 = slot(19);

/// Slots for the host addresses that shared checks found.
pub const SHARED_CHECKS: usize = 12;

/// One of them.
pub const fn shared_check(number: usize) -> i32 {
    slot(20 + number)
}

/// Where generated code goes on after a refill of the TLB.
pub const RETRY: i32 = slot(20 + SHARED_CHECKS);
/// RAX meanwhile.
pub const KEPT_RAX: i32 = slot(21 + SHARED_CHECKS);
/// RCX meanwhile.
pub const KEPT_RCX: i32 = slot(22 + SHARED_CHECKS);
/// What COUNTER was on entry, less what a kick took away since.
pub const BUDGET: i32 = slot(23 + SHARED_CHECKS);
/// Not zero once a kick has come.
pub const KICKED: i32 = slot(24 + SHARED_CHECKS);

/// Address of the counters of executions, if blocks count.
pub const BLOCK_COUNTS: i32 = slot(25 + SHARED_CHECKS);
/// RDX meanwhile.
pub const KEPT_RDX: i32 = slot(26 + SHARED_CHECKS);
/// RSI meanwhile.
pub const KEPT_RSI: i32 = slot(27 + SHARED_CHECKS);
/// RDI meanwhile.
pub const KEPT_RDI: i32 = slot(28 + SHARED_CHECKS);
/// Where a string instruction goes on when it is done.
pub const CONTINUATION: i32 = slot(29 + SHARED_CHECKS);
/// Pages' worth of string instructions that may still be executed before the dispatcher looks.
pub const STRING_ALLOWANCE: i32 = slot(30 + SHARED_CHECKS);
/// The site of the other access of an instruction that makes two.
pub const OTHER_SITE: i32 = slot(31 + SHARED_CHECKS);
/// Address of the TLB context for CPL 3.
pub const TLB_USER: i32 = slot(32 + SHARED_CHECKS);

/// The host's time-stamp counter when the guest's, without its offset, was 0.
pub const TSC_START: i32 = slot(33 + SHARED_CHECKS);
/// Ticks of the guest's for one of the host's, times 2^32; 0 if reading it is T0's.
pub const TSC_SCALE: i32 = slot(34 + SHARED_CHECKS);

/// Host address of the source of a string instruction while its target is looked for.
pub const STRING_SOURCE: i32 = slot(35 + SHARED_CHECKS);
/// How many elements lie there.
pub const STRING_COUNT: i32 = slot(36 + SHARED_CHECKS);

/// How far behind where a read starts again it goes on with bytes from elsewhere (PLACE); 0 if it must not.
pub const RESUME: i32 = slot(37 + SHARED_CHECKS);
/// Address of room for bytes on both sides of a page's end, `COPIED_BYTES` of each.
pub const COPIED: i32 = slot(38 + SHARED_CHECKS);

/// Host address of the current VMCS's values, by the numbers of fields; 0 if they are T0's alone (`vmcs_fields`).
pub const VMCS_VALUES: i32 = slot(39 + SHARED_CHECKS);
/// The bits of an encoding that tell fields apart.
pub const VMCS_TELLING: i32 = slot(40 + SHARED_CHECKS);
/// Address of the table of fields, …
pub const VMCS_FIELDS: i32 = slot(41 + SHARED_CHECKS);
/// … and of that of the bits that they have.
pub const VMCS_MASKS: i32 = slot(42 + SHARED_CHECKS);

/// Bytes of the longest access.
pub const COPIED_BYTES: u64 = 64;

/// Index of a slot's word in `VcpuState::translator`.
pub const fn word(slot: i32) -> usize {
    (slot as usize - offset_of!(VcpuState, translator)) / 8
}

/// Offset of a general-purpose register in the state.
pub const fn gpr(index: usize) -> i32 {
    (offset_of!(VcpuState, gpr) + 8 * index) as i32
}

/// Offset of RFLAGS in the state.
pub const RFLAGS: i32 = offset_of!(VcpuState, rflags) as i32;

/// Offset of the base of a segment register in the state.
pub const fn segment_base(index: usize) -> i32 {
    (offset_of!(VcpuState, segment) + index * size_of::<SegmentRegister>()) as i32
        + offset_of!(SegmentRegister, base) as i32
}

/// Offset of the selector of a segment register in the state.
pub const fn selector(index: usize) -> i32 {
    (offset_of!(VcpuState, segment) + index * size_of::<SegmentRegister>()) as i32 + SEGMENT_SELECTOR
}

/// Offsets in a segment register.
pub const SEGMENT_LIMIT: i32 = offset_of!(SegmentRegister, limit) as i32;
/// Of the access rights.
pub const SEGMENT_ATTRIBUTES: i32 = offset_of!(SegmentRegister, attributes) as i32;
/// Of the visible part.
pub const SEGMENT_SELECTOR: i32 = offset_of!(SegmentRegister, selector) as i32;

/// Offset of CR2.
pub const CR2: i32 = offset_of!(VcpuState, cr2) as i32;
/// Offset of CR3.
pub const CR3: i32 = offset_of!(VcpuState, cr3) as i32;
/// Offset of CR4.
pub const CR4: i32 = offset_of!(VcpuState, cr4) as i32;
/// Offset of PKRU.
pub const PKRU: i32 = offset_of!(VcpuState, pkru) as i32;

/// Offset of IA32_EFER.
pub const EFER: i32 = offset_of!(VcpuState, efer) as i32;
/// Offset of IA32_STAR.
pub const STAR: i32 = (offset_of!(VcpuState, msr) + offset_of!(MsrState, star)) as i32;
/// Offset of IA32_LSTAR.
pub const LSTAR: i32 = (offset_of!(VcpuState, msr) + offset_of!(MsrState, lstar)) as i32;
/// Offset of IA32_FMASK.
pub const FMASK: i32 = (offset_of!(VcpuState, msr) + offset_of!(MsrState, fmask)) as i32;
/// Offset of the GDT's base.
pub const GDT_BASE: i32 = (offset_of!(VcpuState, gdtr) + offset_of!(DescriptorTable, base)) as i32;
/// Offset of the GDT's limit.
pub const GDT_LIMIT: i32 = (offset_of!(VcpuState, gdtr) + offset_of!(DescriptorTable, limit)) as i32;
/// Offset of what says that NMIs are blocked.
pub const NMI_BLOCKED: i32 = offset_of!(VcpuState, nmi_blocked) as i32;

/// Offset of what is added to the time-stamp counter.
pub const TSC_OFFSET: i32 = (offset_of!(VcpuState, msr) + offset_of!(MsrState, tsc_offset)) as i32;
/// Offset of IA32_TSC_AUX.
pub const TSC_AUX: i32 = (offset_of!(VcpuState, msr) + offset_of!(MsrState, tsc_aux)) as i32;

/// Offset of IA32_KERNEL_GS_BASE.
pub const KERNEL_GS_BASE: i32 = (offset_of!(VcpuState, msr) + offset_of!(MsrState, kernel_gs_base)) as i32;

/// Offset of the extended-state image.
pub const EXTENDED: i32 = offset_of!(VcpuState, extended) as i32;
