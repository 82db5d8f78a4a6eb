//! What is executed from which state, and what became of it.

use crate::layout::{CODE, DATA_BYTES};

/// Bytes of the extended state compared: x87, SSE, the XSAVE header and AVX in the standard format.
pub const EXTENDED_BYTES: usize = 832;
/// Offset of the AVX component.
pub const AVX_OFFSET: usize = 576;

/// The registers of user mode.
#[repr(C, align(64))]
#[derive(Debug, Clone)]
pub struct Registers {
    /// In encoding order.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// Base of FS.
    pub fs_base: u64,
    /// Base of GS.
    pub gs_base: u64,
    /// XSAVE image.
    pub extended: [u8; EXTENDED_BYTES],
}

impl Registers {
    /// All zero.
    pub const ZERO: Registers =
        Registers { gpr: [0; 16], rip: 0, rflags: 0, fs_base: 0, gs_base: 0, extended: [0; EXTENDED_BYTES] };
}

/// Bytes that replace the background of the data pages.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Patch {
    /// Offset from the first data page.
    pub offset: u32,
    /// How many.
    pub length: u32,
    /// They come first.
    pub bytes: [u8; Patch::BYTES],
}

impl Patch {
    /// The most that one can replace.
    pub const BYTES: usize = 64;
    /// None.
    pub const EMPTY: Patch = Patch { offset: 0, length: 0, bytes: [0; Patch::BYTES] };
}

/// The most code of a case.
pub const CODE_LIMIT: usize = 256;

/// Code and the state that it starts from. What follows the code is INT3.
#[repr(C)]
#[derive(Debug, Clone)]
pub struct Case {
    /// Where it starts from.
    pub registers: Registers,
    /// Offset of the code from the first code page.
    pub code_offset: u32,
    /// Its length.
    pub code_length: u32,
    /// The code, then anything.
    pub code: [u8; CODE_LIMIT],
    /// Which of the backgrounds the data pages have.
    pub background: u32,
    /// What replaces it, later ones over earlier ones.
    pub patches: [Patch; 3],
}

impl Case {
    /// Nothing to execute yet.
    pub const EMPTY: Case = Case {
        registers: Registers::ZERO,
        code_offset: 0,
        code_length: 0,
        code: [0; CODE_LIMIT],
        background: 0,
        patches: [Patch::EMPTY; 3],
    };

    /// The code.
    pub fn code(&self) -> &[u8] {
        &self.code[..self.code_length as usize]
    }

    /// Offset of the code from the start of the window.
    pub fn code_in_window(&self) -> u64 {
        CODE + u64::from(self.code_offset)
    }
}

/// A vector that no exception has: the child died.
pub const DIED: u32 = 0xdead;
/// A vector that no exception has: execution did not end.
pub const ENDLESS: u32 = 0xe0de;
/// A vector that no exception has: not executed.
pub const NOT_RUN: u32 = 0xffff;

/// The state when an exception ended execution.
#[repr(C)]
#[derive(Debug, Clone)]
pub struct Outcome {
    /// As the exception found or left them.
    pub registers: Registers,
    /// The exception.
    pub vector: u32,
    /// Its error code; 0 without one.
    pub error_code: u32,
    /// For a page fault, the address.
    pub cr2: u64,
    /// The data pages.
    pub memory: [u8; DATA_BYTES],
}

impl Outcome {
    /// Nothing happened yet.
    pub fn new() -> Box<Outcome> {
        Box::new(Outcome {
            registers: Registers::ZERO,
            vector: NOT_RUN,
            error_code: 0,
            cr2: 0,
            memory: [0; DATA_BYTES],
        })
    }
}
