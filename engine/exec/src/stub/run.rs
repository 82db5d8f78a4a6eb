//! Entering a stub and coming back, with or without the guest's x87 and vector state in the host's registers.

use gasang_cpu::{ExtendedState, VcpuState};
use gasang_x86::control::xcr0;
use std::arch::asm;
use std::mem::offset_of;

/// A fault that the host processor raised at the guest's instruction: the exception vector.
pub(crate) type HostFault = u8;

/// The handler of the region of stubs: return from the stub, with the exception vector plus one in RAX.
pub(super) extern "C" fn on_fault(_signal: i32, context: *mut libc::ucontext_t) {
    // SAFETY: the fault handler passes a valid context. Inside a stub RSP always points at the return address.
    unsafe {
        let registers = &mut (*context).uc_mcontext.gregs;
        let stack = registers[libc::REG_RSP as usize];
        registers[libc::REG_RIP as usize] = *(stack as *const i64);
        registers[libc::REG_RSP as usize] = stack + 8;
        registers[libc::REG_RAX as usize] = registers[libc::REG_TRAPNO as usize] + 1;
    }
}

fn outcome(returned: u64) -> Result<(), HostFault> {
    if returned == 0 { Ok(()) } else { Err((returned - 1) as u8) }
}

/// Run a stub that uses general-purpose registers only.
///
/// # Safety
/// `entry` is a stub made by `emit`; `memory` is the host address of as many bytes as its instruction accesses, which
/// the guest may access so.
pub(super) unsafe fn run(entry: u64, state: &mut VcpuState, memory: u64) -> Result<(), HostFault> {
    let returned;
    // SAFETY: the stub changes no register but those declared or saved here, RSP excepted, which it restores.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "call rax",
            "pop rbp",
            "pop rbx",
            inlateout("rax") entry => returned,
            inlateout("rdi") std::ptr::from_mut(state) => _,
            inlateout("rsi") memory => _,
            out("rcx") _, out("rdx") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
    }
    outcome(returned)
}

/// The components that XSAVE and XRSTOR exchange: all that the host has enabled, but PKRU and what is not a register
/// of instructions executed here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Components(u64);

impl Components {
    /// Without x87.
    pub(super) fn vectors(self) -> Components {
        Components(self.0 & !xcr0::X87)
    }

    fn has_x87(self) -> bool {
        self.0 & xcr0::X87 != 0
    }

    /// What this host has; None without XSAVE.
    pub(super) fn of_host() -> Option<Components> {
        if !std::arch::is_x86_feature_detected!("xsave") {
            return None;
        }
        // SAFETY: XGETBV exists where the operating system has enabled XSAVE, which the detection includes.
        let enabled = unsafe { xgetbv() };
        Some(Components(enabled & (xcr0::X87 | xcr0::SSE | xcr0::AVX | xcr0::AVX512)))
    }
}

unsafe fn xgetbv() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller vouches for XGETBV; XCR0 always exists.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// What `run_extended` is told, where the assembly finds it.
#[repr(C)]
struct Call {
    entry: u64,
    area: *mut ExtendedState,
    /// The state that host code expects: everything in its initial configuration.
    initial: *const ExtendedState,
    components: u64,
    /// Not 0 if x87 is among the components.
    x87: u64,
}

/// Offset of MXCSR in an image.
const MXCSR: usize = 24;

/// Run a stub that uses x87, MMX or vector registers: those of `components`, of all that are `enabled` on the host.
///
/// # Safety
/// As `run`.
pub(super) unsafe fn run_extended(
    entry: u64,
    state: &mut VcpuState,
    memory: u64,
    initial: &ExtendedState,
    enabled: Components,
    components: Components,
) -> Result<(), HostFault> {
    make_restorable(&mut state.extended, enabled.0);
    let x87 = u64::from(components.has_x87());
    let call = Call { entry, area: &mut state.extended, initial, components: components.0, x87 };
    let returned;
    // SAFETY: as in `run`; the image is well-formed, so XRSTOR does not fault, and the host's own state is back at the
    // end: host code relies on x87 control, MXCSR and an empty x87 stack only, all initial.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "push rcx",
            "mov eax, [rcx + {components}]",
            "mov edx, [rcx + {components} + 4]",
            "mov r8, [rcx + {area}]",
            "xrstor64 [r8]",
            "call [rcx + {entry}]",
            "pop rcx",
            "mov r9, rax",
            "mov eax, [rcx + {components}]",
            "mov edx, [rcx + {components} + 4]",
            "mov r8, [rcx + {area}]",
            "xsave64 [r8]",
            "mov r8, [rcx + {initial}]",
            "cmp qword ptr [rcx + {x87}], 0",
            "je 2f",
            "xrstor64 [r8]",
            "jmp 3f",
            "2:",
            "ldmxcsr [r8 + {mxcsr}]",
            "3:",
            "pop rbp",
            "pop rbx",
            components = const offset_of!(Call, components),
            area = const offset_of!(Call, area),
            entry = const offset_of!(Call, entry),
            initial = const offset_of!(Call, initial),
            x87 = const offset_of!(Call, x87),
            mxcsr = const MXCSR,
            inlateout("rcx") std::ptr::from_ref(&call) => _,
            inlateout("rdi") std::ptr::from_mut(state) => _,
            inlateout("rsi") memory => _,
            lateout("r9") returned,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            clobber_abi("sysv64"),
        );
    }
    outcome(returned)
}

/// Make sure that XRSTOR accepts an image, whatever it holds: only components that the host has, the standard format,
/// no reserved bits.
fn make_restorable(image: &mut ExtendedState, enabled: u64) {
    const HEADER_REST: std::ops::Range<usize> = 520..576;
    // Bits 31:16 are reserved, but for MM (bit 17) on processors that have it.
    const MXCSR_DEFINED: u32 = 0x2_ffff;
    image.set_in_use(image.in_use() & enabled);
    image.bytes[HEADER_REST].fill(0);
    let mxcsr = image.mxcsr();
    if mxcsr & !0xffff != 0 {
        image.bytes[MXCSR..MXCSR + 4]
            .copy_from_slice(&(mxcsr & MXCSR_DEFINED & host_mxcsr_mask()).to_le_bytes());
    }
}

/// The bits of MXCSR that this host has (SDM vol. 1, 11.6.6).
fn host_mxcsr_mask() -> u32 {
    #[repr(C, align(16))]
    struct Image([u8; 512]);
    let mut image = Image([0; 512]);
    // SAFETY: FXSAVE writes 512 bytes at an address aligned to 16.
    unsafe { asm!("fxsave64 [{0}]", in(reg) &raw mut image, options(nostack)) };
    let mask = u32::from_le_bytes([image.0[28], image.0[29], image.0[30], image.0[31]]);
    if mask == 0 { 0xffbf } else { mask }
}
