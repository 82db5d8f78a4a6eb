//! Why a processor came back: the value of `Vcpu::run`.

/// What the guest did that the engine does not answer itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The guest reads `size` (1, 2, 4) bytes at an I/O port; the next run takes the answer.
    PioRead {
        /// Port number.
        port: u16,
        /// Bytes.
        size: u8,
    },
    /// The guest writes an I/O port.
    PioWrite {
        /// Port number.
        port: u16,
        /// Bytes.
        size: u8,
        /// The value, zero-extended.
        value: u32,
    },
    /// The guest reads `size` (1, 2, 4, 8) bytes at a physical address; the next run takes the answer.
    MmioRead {
        /// Physical address.
        address: u64,
        /// Bytes.
        size: u8,
    },
    /// The guest writes a physical address.
    MmioWrite {
        /// Physical address.
        address: u64,
        /// Bytes.
        size: u8,
        /// The value, zero-extended.
        value: u64,
    },
    /// Output of a serial port, collected since the last such exit.
    SerialOutput {
        /// 0 is COM1.
        index: usize,
        /// At least one byte.
        data: Vec<u8>,
    },
    /// The guest of a hypervisor outside left VMX non-root operation, or its entry failed late.
    VmExit {
        /// The exit-reason field.
        reason: u32,
        /// The exit qualification.
        qualification: u64,
    },
    /// HLT with interrupts disabled, and no other processor is left that could wake this one.
    Halted,
    /// The processor is shut down after a triple fault.
    Shutdown,
    /// KVM cannot execute the guest any further; translation goes on from here.
    KvmLost {
        /// Why, in words.
        reason: String,
    },
    /// A kick, or the end of the instruction budget.
    Interrupted,
}

impl Exit {
    /// How many kinds there are.
    pub(crate) const KINDS: usize = 10;
    /// Names of the kinds, as statistics show them.
    pub(crate) const NAMES: [&'static str; Self::KINDS] = [
        "exits_pio_read",
        "exits_pio_write",
        "exits_mmio_read",
        "exits_mmio_write",
        "exits_serial_output",
        "exits_vm_exit",
        "exits_halted",
        "exits_shutdown",
        "exits_interrupted",
        "exits_kvm_lost",
    ];

    /// The port, physical address, serial port or exit reason that it is about; else 0.
    pub(crate) fn place(&self) -> u64 {
        match *self {
            Exit::PioRead { port, .. } | Exit::PioWrite { port, .. } => u64::from(port),
            Exit::MmioRead { address, .. } | Exit::MmioWrite { address, .. } => address,
            Exit::SerialOutput { index, .. } => index as u64,
            Exit::VmExit { reason, .. } => u64::from(reason),
            Exit::Halted | Exit::Shutdown | Exit::Interrupted | Exit::KvmLost { .. } => 0,
        }
    }

    /// Index into `NAMES`.
    pub(crate) fn kind(&self) -> usize {
        match self {
            Exit::PioRead { .. } => 0,
            Exit::PioWrite { .. } => 1,
            Exit::MmioRead { .. } => 2,
            Exit::MmioWrite { .. } => 3,
            Exit::SerialOutput { .. } => 4,
            Exit::VmExit { .. } => 5,
            Exit::Halted => 6,
            Exit::Shutdown => 7,
            Exit::Interrupted => 8,
            Exit::KvmLost { .. } => 9,
        }
    }
}
