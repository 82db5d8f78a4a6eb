//! Extended page tables: from a guest's physical addresses to the processor's (SDM vol. 3, 29.3).

use crate::paging::RESERVED_ADDRESS;
use gasang_memory::GuestMemory;
use gasang_x86::paging::ADDRESS;
use gasang_x86::vmx::controls::{ept, ept_pointer};

/// Bits 6:3 of an entry that leads to another table.
const RESERVED_IN_TABLE: u64 = 0xf << 3;

/// Where there is no entry.
const NOTHING: EptFault = EptFault::Violation { permissions: 0, convertible: false };

/// The tables that an EPT pointer leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ept {
    root: u64,
    /// Accessed and dirty flags are kept; a guest's paging structures count as written whenever they are read.
    pub accessed_and_dirty: bool,
    /// The bits of entries that permit something. Where none of them is set nothing is present.
    permissions: u64,
}

/// Why a guest-physical address leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EptFault {
    /// What the entries on the way permit does not suffice.
    Violation {
        /// `ept::PERMISSIONS` and, under mode-based execute control, `ept::USER_EXECUTE`, as far as all of them have it.
        permissions: u64,
        /// The entry that decides does not suppress virtualization exceptions.
        convertible: bool,
    },
    /// An entry is not a valid one.
    Misconfiguration,
    /// A flag is to be set, and the page-modification log has no room to tell of it.
    LogFull,
}

/// A finished walk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EptWalk {
    pub physical: u64,
    /// What every entry on the way permits.
    pub permissions: u64,
    /// The last entry does not suppress virtualization exceptions.
    pub convertible: bool,
    /// The page is marked as dirty, or nobody keeps such marks.
    pub dirty: bool,
    /// (host address, entry as read), root first.
    used: [(u64, u64); 4],
    levels: usize,
}

impl EptWalk {
    /// A walk made before, which has no flags left to set.
    pub fn remembered(physical: u64, permissions: u64, convertible: bool, dirty: bool) -> EptWalk {
        EptWalk { physical, permissions, convertible, dirty, used: [(0, 0); 4], levels: 0 }
    }

    /// The entries used: host address, what was read, and what it becomes: with the accessed flag and, in the last, for a
    /// write, with the dirty flag.
    fn marked(&self, write: bool) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        self.used[..self.levels].iter().enumerate().map(move |(index, &(host, entry))| {
            let last = index + 1 == self.levels;
            (host, entry, entry | ept::ACCESSED | if last && write { ept::DIRTY } else { 0 })
        })
    }
}

impl Ept {
    /// Under mode-based execute control there is a permission of its own for executing at user-mode addresses.
    pub fn new(pointer: u64, mode_based: bool) -> Ept {
        Ept {
            root: pointer & ADDRESS,
            accessed_and_dirty: pointer & ept_pointer::ACCESSED_AND_DIRTY != 0,
            permissions: ept::PERMISSIONS | if mode_based { ept::USER_EXECUTE } else { 0 },
        }
    }

    /// A number that tells apart tables through which walks find different things.
    pub fn identity(self) -> u64 {
        self.root | u64::from(self.accessed_and_dirty) | u64::from(self.permissions != ept::PERMISSIONS) << 1
    }

    /// Follow the entries for `address`; whether they permit an access is the caller's question.
    pub fn walk(self, memory: &GuestMemory, address: u64) -> Result<EptWalk, EptFault> {
        let mut table = self.root;
        let mut found = EptWalk {
            physical: 0,
            permissions: self.permissions,
            convertible: false,
            dirty: true,
            used: [(0, 0); 4],
            levels: 0,
        };
        for level in (0..4).rev() {
            let shift = 12 + 9 * level;
            let place = table + (address >> shift & 0x1ff) * 8;
            // Where there is no RAM nothing is present.
            let host = memory.host(place).ok_or(NOTHING)?;
            let entry = memory.load(host, 8);
            found.permissions &= entry;
            found.convertible = entry & ept::SUPPRESS_EXCEPTION == 0;
            if entry & self.permissions == 0 {
                return Err(EptFault::Violation { permissions: 0, convertible: found.convertible });
            }
            let leaf = level == 0 || level < 3 && entry & ept::LARGE != 0;
            if is_misconfigured(entry, level, leaf) {
                return Err(EptFault::Misconfiguration);
            }
            found.used[found.levels] = (host, entry);
            found.levels += 1;
            if leaf {
                let offset = (1 << shift) - 1;
                found.physical = entry & ADDRESS & !offset | address & offset;
                found.dirty = !self.accessed_and_dirty || entry & ept::DIRTY != 0;
                return Ok(found);
            }
            table = entry & ADDRESS;
        }
        Err(EptFault::Misconfiguration)
    }

    /// Whether an access sets flags that are not set yet.
    pub fn marks(self, walk: &EptWalk, write: bool) -> bool {
        self.accessed_and_dirty && walk.marked(write).any(|(_, entry, new)| new != entry)
    }

    /// Set the accessed flags of the entries used and, for a write, the dirty flag of the last, if flags are kept. False if
    /// an entry changed meanwhile: walk again. `told` hears of each entry that is written.
    pub fn mark(self, memory: &GuestMemory, walk: &EptWalk, write: bool, mut told: impl FnMut(u64)) -> bool {
        !self.accessed_and_dirty
            || walk.marked(write).filter(|(_, entry, new)| new != entry).all(|(host, entry, new)| {
                told(host);
                memory.compare_exchange_u64(host, entry, new)
            })
    }
}

/// Whether a present entry is none that the manual allows (SDM vol. 3, 29.3.3.1). Execute-only pages are allowed.
fn is_misconfigured(entry: u64, level: u32, leaf: bool) -> bool {
    let write_only = entry & (ept::READ | ept::WRITE) == ept::WRITE;
    let mut reserved = RESERVED_ADDRESS;
    if !leaf {
        reserved |= RESERVED_IN_TABLE | if level == 3 { ept::LARGE } else { 0 };
    } else if level > 0 {
        reserved |= (1 << (12 + 9 * level)) - 1 & ADDRESS;
    }
    let memory_type = (entry & ept::MEMORY_TYPE) >> ept::MEMORY_TYPE_SHIFT;
    let bad_type = leaf && matches!(memory_type, 2 | 3 | 7);
    write_only || entry & reserved != 0 || bad_type
}
