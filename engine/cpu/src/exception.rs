//! Why an instruction did not complete.

use gasang_x86::exception as vector;

/// An exception: vector, error code if the vector has one, and what else its delivery writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// Vector number.
    pub vector: u8,
    /// Error code, for the vectors that push one.
    pub error_code: Option<u32>,
    /// CR2 for #PF; bits to merge into DR6 for #DB; 0 otherwise.
    pub payload: u64,
    /// A trap (INT3, INTO, #DB after an instruction): the saved RIP is already that of the next instruction.
    pub trap: bool,
}

impl Exception {
    const fn new(vector: u8, error_code: Option<u32>) -> Exception {
        Exception { vector, error_code, payload: 0, trap: false }
    }

    /// #DE, divide error.
    pub const fn divide() -> Exception {
        Exception::new(vector::DE, None)
    }

    /// #UD, invalid opcode.
    pub const fn invalid_opcode() -> Exception {
        Exception::new(vector::UD, None)
    }

    /// #NM, device not available.
    pub const fn device_not_available() -> Exception {
        Exception::new(vector::NM, None)
    }

    /// #DF, double fault.
    pub const fn double_fault() -> Exception {
        Exception::new(vector::DF, Some(0))
    }

    /// #TS, invalid TSS.
    pub const fn invalid_tss(error_code: u32) -> Exception {
        Exception::new(vector::TS, Some(error_code))
    }

    /// #NP, segment not present.
    pub const fn not_present(error_code: u32) -> Exception {
        Exception::new(vector::NP, Some(error_code))
    }

    /// #SS, stack fault.
    pub const fn stack(error_code: u32) -> Exception {
        Exception::new(vector::SS, Some(error_code))
    }

    /// #GP, general protection.
    pub const fn general_protection(error_code: u32) -> Exception {
        Exception::new(vector::GP, Some(error_code))
    }

    /// #PF, page fault at `linear`.
    pub const fn page_fault(linear: u64, error_code: u32) -> Exception {
        Exception { vector: vector::PF, error_code: Some(error_code), payload: linear, trap: false }
    }

    /// #AC, alignment check.
    pub const fn alignment() -> Exception {
        Exception::new(vector::AC, Some(0))
    }

    /// #MF, x87 floating-point error.
    pub const fn x87() -> Exception {
        Exception::new(vector::MF, None)
    }

    /// #XM, SIMD floating-point exception.
    pub const fn simd() -> Exception {
        Exception::new(vector::XM, None)
    }

    /// #VE, virtualization exception.
    pub const fn virtualization() -> Exception {
        Exception::new(vector::VE, None)
    }

    /// #BR, bound range exceeded.
    pub const fn bound_range() -> Exception {
        Exception::new(vector::BR, None)
    }

    /// #DB as a fault (instruction breakpoint, general detect); `dr6` are the bits to set.
    pub const fn debug_fault(dr6: u64) -> Exception {
        Exception { vector: vector::DB, error_code: None, payload: dr6, trap: false }
    }

    /// #DB as a trap after an instruction (single step, data breakpoint); `dr6` are the bits to set.
    pub const fn debug_trap(dr6: u64) -> Exception {
        Exception { vector: vector::DB, error_code: None, payload: dr6, trap: true }
    }
}

/// Why an instruction stopped short of its end. Nothing of it is committed, except whole iterations of a REP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trap {
    /// It raised an exception, not yet delivered.
    Exception(Exception),
    /// The platform needs an answer from outside; execute the instruction again when it is there.
    Pending,
    /// A triple fault: the processor is shut down.
    Shutdown,
    /// It causes a VM exit, which `state.vmx.pending_exit` describes: kept there so that this type stays small.
    VmExit,
}

impl From<Exception> for Trap {
    fn from(exception: Exception) -> Trap {
        Trap::Exception(exception)
    }
}

// Every access to memory returns a trap: it must not grow.
const _: () = assert!(size_of::<Trap>() <= 24);
