//! The processor manual as constants: no behaviour lives here.
//!
//! Sources: Intel 64 and IA-32 Architectures SDM (cited as SDM, volume and section), AMD64 APM; for what no processor
//! has but a hypervisor offers, Linux's documentation of KVM.

pub mod control;
pub mod descriptor;
pub mod exception;
pub mod msr;
pub mod paging;
pub mod paravirtual;
pub mod rflags;
pub mod vmx;

/// General-purpose registers in encoding order: index into the register file.
pub mod gpr {
    #![allow(missing_docs)]
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
    pub const R8: usize = 8;
    pub const R9: usize = 9;
    pub const R10: usize = 10;
    pub const R11: usize = 11;
    pub const R12: usize = 12;
    pub const R13: usize = 13;
    pub const R14: usize = 14;
    pub const R15: usize = 15;
    /// Names by index, as the manual writes them in 64-bit mode.
    pub const NAMES: [&str; 16] = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
        "r14", "r15",
    ];
}

/// Segment registers in encoding order: index into the segment register file.
pub mod segment {
    #![allow(missing_docs)]
    pub const ES: usize = 0;
    pub const CS: usize = 1;
    pub const SS: usize = 2;
    pub const DS: usize = 3;
    pub const FS: usize = 4;
    pub const GS: usize = 5;
    pub const NAMES: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];
}
