//! What the dispatcher must know about the places where generated code leaves.

/// A place where a block leaves to the dispatcher. Its index travels in the slot SITE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// The instruction at `rip` needs T0.
    Instruction {
        /// The guest instruction.
        rip: u64,
        /// Instructions of the block from this one on: counted at its start, not executed.
        not_executed: u32,
    },
    /// A memory access (or a use of extended state) that may be tried again.
    Retry {
        /// The guest instruction.
        rip: u64,
        /// As above.
        not_executed: u32,
        /// Host address where the access starts again.
        retry: u64,
        /// Host address where it goes on with R11 and R10 saying where the bytes are; 0 if it must not.
        resume: u64,
        /// It is a superblock's check, perhaps for more than the instruction needs.
        hopeful: bool,
        /// Bytes accessed; or the extended state wanted.
        size: u8,
        /// Whether it writes.
        write: bool,
        /// The region that it is looked for in first; 0 also if there is none.
        region: u8,
        /// The block that it is in.
        block: u32,
    },
    /// A direct jump that may be linked to its target.
    Link {
        /// The block that jumps.
        block: u32,
        /// Guest address of the target.
        target: u64,
        /// Offset in the cache of the jump's displacement.
        displacement: u32,
        /// Offset in the cache of the stub that the jump goes to while it is not linked.
        unlinked: u32,
        /// How the target is entered.
        entry: Entry,
    },
    /// An indirect jump: where it is, should its target turn out not to be canonical.
    Indirect {
        /// The guest instruction.
        rip: u64,
        /// What to add to RSP to undo it.
        undo_rsp: i64,
    },
}

/// How a direct jump enters its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// In the same page, with the status flags in the host's.
    HostFlags,
    /// In the same page, with the status flags in their slot.
    SlotFlags,
    /// In another page, with the status flags in their slot: the page's mapping is checked.
    Page,
    /// The same instruction in a block that shares no checks, with the status flags in their slot.
    Plain,
}

/// Host code that may fault on behalf of a guest instruction.
#[derive(Debug, Clone, Copy)]
pub struct FaultPoint {
    /// Offset in the cache of the host instruction.
    pub offset: u32,
    /// The guest instruction.
    pub rip: u64,
    /// Instructions of the block from this one on.
    pub not_executed: u32,
    /// Whether the status flags are the host's (else they are in their slot).
    pub host_flags: bool,
}
