//! Why a processor left the guest.

/// An MSR that KVM left to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MsrAccess {
    /// RDMSR.
    Read,
    /// WRMSR of this value.
    Write(u64),
}

/// Why a processor left the guest. What reads is answered before it is entered again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// IN, or INS of several items (`Vcpu::port_item`).
    PortRead {
        /// The port.
        port: u16,
        /// Bytes of an item: 1, 2 or 4.
        size: u8,
        /// Items.
        count: u32,
    },
    /// OUT, or OUTS of several items.
    PortWrite {
        /// The port.
        port: u16,
        /// Bytes of an item.
        size: u8,
        /// Items.
        count: u32,
    },
    /// A read of what is no RAM.
    MmioRead {
        /// Physical address.
        address: u64,
        /// Bytes.
        size: u8,
    },
    /// A write.
    MmioWrite {
        /// Physical address.
        address: u64,
        /// Bytes.
        size: u8,
        /// What was written.
        value: u64,
    },
    /// RDMSR or WRMSR of what KVM does not do.
    Msr {
        /// The MSR.
        index: u32,
        /// What with it.
        access: MsrAccess,
    },
    /// HLT; RIP is behind it.
    Halt,
    /// The guest can take an interrupt now.
    InterruptWindow,
    /// CR8 was lowered.
    TaskPriority,
    /// A triple fault.
    Shutdown,
    /// A signal, or nothing that concerns anybody.
    Interrupted,
    /// KVM met an instruction that it had to emulate and cannot. Nothing of it is done.
    EmulationFailure,
    /// KVM or the processor gave up for another reason: in words.
    Failed(String),
}

impl Exit {
    /// Whether KVM waits for what comes of an access.
    pub fn is_access(&self) -> bool {
        use Exit::{MmioRead, MmioWrite, Msr, PortRead, PortWrite};
        matches!(self, PortRead { .. } | PortWrite { .. } | MmioRead { .. } | MmioWrite { .. } | Msr { .. })
    }
}
