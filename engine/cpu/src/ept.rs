//! Extended page tables: from guest-physical addresses to physical ones (SDM vol. 3, 29.3). Only the walk; the exits that
//! its faults cause, and what is remembered of it, are the caller's matter.

use crate::paging::PHYSICAL_ADDRESS_BITS;
use gasang_memory::GuestMemory;
use gasang_x86::vmx::controls::{ept, ept_pointer};

const BEYOND_PHYSICAL: u64 = 0x000f_ffff_ffff_f000 & !((1 << PHYSICAL_ADDRESS_BITS) - 1);
const ADDRESS: u64 = (1 << PHYSICAL_ADDRESS_BITS) - 0x1000;
/// Bits of guest-physical addresses that four levels translate.
const ADDRESS_BITS: u32 = 48;

/// What a walk found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// The physical address.
    pub physical: u64,
    /// What is allowed: `ept::READ`, `WRITE`, `EXECUTE`, of all levels together.
    pub permissions: u64,
    /// Size of the page in bits: 12, 21 or 30.
    pub page_bits: u32,
    /// The memory type of the page.
    pub memory_type: u8,
    /// Accesses that write set a dirty flag, and it is not set yet: a mapping for reads that must not serve writes.
    pub clean: bool,
}

/// Why there is no mapping for an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An EPT violation: what all levels met allow, for the exit qualification; 0 if one is not present.
    Violation {
        /// `ept::READ`, `WRITE`, `EXECUTE`.
        permissions: u64,
    },
    /// An EPT misconfiguration.
    Misconfiguration,
}

/// Whether an entry that is present can be one of its level: 3 for a PML4E, down to 0.
fn is_valid(entry: u64, level: u32) -> bool {
    let writable_only = entry & (ept::READ | ept::WRITE) == ept::WRITE;
    let leaf = is_leaf(entry, level);
    let reserved = match level {
        // Bits 7:3; 6:3 where bit 7 says that it is a table.
        3 => 0xf8,
        _ if !leaf => 0x78,
        // Low bits of the address of a large page.
        level => (1 << (12 + 9 * level)) - 0x1000,
    };
    let memory_type = (entry & ept::MEMORY_TYPE) >> ept::MEMORY_TYPE_SHIFT;
    let typed = !leaf || !matches!(memory_type, 2 | 3 | 7);
    !writable_only && entry & (reserved | BEYOND_PHYSICAL) == 0 && typed
}

fn is_leaf(entry: u64, level: u32) -> bool {
    level == 0 || level < 3 && entry & ept::LARGE != 0
}

/// Translate `address` for an access that wants `wanted` (`ept::READ`, `WRITE`, `EXECUTE`), under the EPT pointer, which
/// a VM entry has accepted. Sets accessed and dirty flags where the pointer asks for them: of a paging-structure entry of
/// the guest the caller wants `WRITE` then.
///
/// # Errors
/// Why not.
pub fn walk(memory: &GuestMemory, pointer: u64, address: u64, wanted: u64) -> Result<Mapping, Fault> {
    loop {
        // Again, if another processor changed an entry while its flags were set.
        if let Some(result) = attempt(memory, pointer, address, wanted).transpose() {
            return result;
        }
    }
}

/// One walk; None if an entry changed under it.
fn attempt(memory: &GuestMemory, pointer: u64, address: u64, wanted: u64) -> Result<Option<Mapping>, Fault> {
    let flags = pointer & ept_pointer::ACCESSED_AND_DIRTY != 0;
    let mut permissions = ept::PERMISSIONS;
    if address >> ADDRESS_BITS != 0 {
        return Err(Fault::Violation { permissions: 0 });
    }
    let mut table = pointer & ADDRESS;
    for level in (0..4).rev() {
        let at = table + (address >> (12 + 9 * level) & 0x1ff) * 8;
        // What is not RAM reads as ones, which no entry can be.
        let host = memory.host(at).ok_or(Fault::Misconfiguration)?;
        let entry = memory.load(host, 8);
        permissions &= entry;
        if entry & ept::PERMISSIONS == 0 {
            return Err(Fault::Violation { permissions: 0 });
        }
        if !is_valid(entry, level) {
            return Err(Fault::Misconfiguration);
        }
        let leaf = is_leaf(entry, level);
        if leaf && permissions & wanted != wanted {
            return Err(Fault::Violation { permissions });
        }
        let dirty = leaf && wanted & ept::WRITE != 0;
        let Some(entry) = (if flags { mark(memory, host, entry, dirty) } else { Some(entry) }) else {
            return Ok(None);
        };
        if leaf {
            let page_bits = 12 + 9 * level;
            let offset = (1 << page_bits) - 1;
            return Ok(Some(Mapping {
                physical: entry & ADDRESS & !offset | address & offset,
                permissions,
                page_bits,
                memory_type: ((entry & ept::MEMORY_TYPE) >> ept::MEMORY_TYPE_SHIFT) as u8,
                clean: flags && entry & ept::DIRTY == 0,
            }));
        }
        table = entry & ADDRESS;
    }
    // The last level is always a leaf.
    Err(Fault::Misconfiguration)
}

/// Set an entry's accessed flag, and its dirty flag. Returns the entry as it is then; None if it is another meanwhile.
fn mark(memory: &GuestMemory, host: u64, entry: u64, dirty: bool) -> Option<u64> {
    let marked = entry | ept::ACCESSED | if dirty { ept::DIRTY } else { 0 };
    let done = marked == entry || memory.compare_exchange_u64(host, entry, marked);
    done.then_some(marked)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: u64 = 0x1_0000;
    const POINTER: u64 = TABLES | 0x1e;
    const OPEN: u64 = ept::PERMISSIONS;

    /// 4 KiB at 0x5000 to 0x9000, 2 MiB at 0x20_0000 to 0x40_0000, 1 GiB at 0x4000_0000 to 0.
    fn memory() -> GuestMemory {
        let memory = GuestMemory::new(4 << 20).unwrap();
        poke(&memory, TABLES, TABLES + 0x1000 | OPEN);
        poke(&memory, TABLES + 0x1000, TABLES + 0x2000 | OPEN);
        poke(&memory, TABLES + 0x1008, OPEN | ept::LARGE | 6 << 3);
        poke(&memory, TABLES + 0x2000, TABLES + 0x3000 | OPEN);
        poke(&memory, TABLES + 0x2008, 0x40_0000 | OPEN | ept::LARGE);
        poke(&memory, TABLES + 0x3000 + 5 * 8, 0x9000 | OPEN | 6 << 3);
        memory
    }

    fn poke(memory: &GuestMemory, address: u64, value: u64) {
        memory.write_physical(address, &value.to_le_bytes()).unwrap();
    }

    fn peek(memory: &GuestMemory, address: u64) -> u64 {
        memory.load(memory.host(address).unwrap(), 8)
    }

    #[test]
    fn pages_of_all_sizes_are_found() {
        let memory = memory();
        for (address, physical, page_bits, memory_type) in
            [(0x5123, 0x9123, 12, 6), (0x2a_bcde, 0x4a_bcde, 21, 0), (0x7123_4567, 0x3123_4567, 30, 6)]
        {
            let found = walk(&memory, POINTER, address, ept::READ).unwrap();
            assert_eq!(
                (found.physical, found.page_bits, found.memory_type),
                (physical, page_bits, memory_type)
            );
            assert_eq!((found.permissions, found.clean), (OPEN, false));
        }
    }

    #[test]
    fn what_is_not_mapped_or_not_allowed_is_a_violation() {
        let memory = memory();
        let violation = |permissions| Err(Fault::Violation { permissions });
        assert_eq!(walk(&memory, POINTER, 0x6000, ept::READ), violation(0));
        assert_eq!(walk(&memory, POINTER, 1 << 48, ept::READ), violation(0));
        poke(&memory, TABLES + 0x2000, TABLES + 0x3000 | ept::READ | ept::EXECUTE);
        assert_eq!(walk(&memory, POINTER, 0x5000, ept::WRITE), violation(ept::READ | ept::EXECUTE));
        assert!(walk(&memory, POINTER, 0x5000, ept::EXECUTE).is_ok());
        poke(&memory, TABLES + 0x3028, 0x9000 | ept::EXECUTE);
        assert_eq!(walk(&memory, POINTER, 0x5000, ept::READ), violation(ept::EXECUTE));
    }

    #[test]
    fn entries_that_cannot_be_are_misconfigurations() {
        let memory = memory();
        for (address, entry) in [
            (TABLES + 0x3028, 0x9000 | ept::WRITE),
            (TABLES + 0x3028, 0x9000 | OPEN | 2 << 3),
            (TABLES + 0x3028, 0x9000 | OPEN | 1 << 46),
            (TABLES + 0x2000, TABLES + 0x3000 | OPEN | 1 << 3),
            (TABLES + 0x2000, 0x1000 | OPEN | ept::LARGE),
            (TABLES, TABLES + 0x1000 | OPEN | ept::LARGE),
            (TABLES, 0x8000_0000 | OPEN),
        ] {
            let old = peek(&memory, address);
            poke(&memory, address, entry);
            assert_eq!(walk(&memory, POINTER, 0x5000, ept::READ), Err(Fault::Misconfiguration), "{entry:#x}");
            poke(&memory, address, old);
        }
    }

    #[test]
    fn flags_are_set_where_the_pointer_asks() {
        let memory = memory();
        walk(&memory, POINTER, 0x5000, ept::WRITE).unwrap();
        assert_eq!(peek(&memory, TABLES) & ept::ACCESSED, 0);
        let pointer = POINTER | ept_pointer::ACCESSED_AND_DIRTY;
        assert!(walk(&memory, pointer, 0x5000, ept::READ).unwrap().clean);
        for entry in [TABLES, TABLES + 0x1000, TABLES + 0x2000, TABLES + 0x3028] {
            assert_eq!(peek(&memory, entry) & (ept::ACCESSED | ept::DIRTY), ept::ACCESSED);
        }
        assert!(!walk(&memory, pointer, 0x5000, ept::WRITE).unwrap().clean);
        assert_eq!(peek(&memory, TABLES + 0x2000) & ept::DIRTY, 0);
        assert_ne!(peek(&memory, TABLES + 0x3028) & ept::DIRTY, 0);
    }
}
