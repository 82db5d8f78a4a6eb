//! The page-directory-pointer-table entries of PAE paging (SDM vol. 3, 4.4.1).

use gasang_cpu::PDPTE_RESERVED;
use gasang_memory::GuestMemory;
use gasang_x86::paging;

/// The four entries that CR3 points to; None if they are not in RAM.
pub(crate) fn read(memory: &GuestMemory, cr3: u64) -> Option<[u64; 4]> {
    let mut bytes = [0; 32];
    memory.read_physical(cr3 & 0xffff_ffe0, &mut bytes).ok()?;
    let mut entries = [0; 4];
    for (entry, chunk) in entries.iter_mut().zip(bytes.chunks_exact(8)) {
        *entry = u64::from_le_bytes(chunk.try_into().ok()?);
    }
    Some(entries)
}

/// Whether no present entry has a reserved bit.
pub(crate) fn valid(entries: &[u64; 4]) -> bool {
    entries.iter().all(|entry| entry & paging::PRESENT == 0 || entry & PDPTE_RESERVED == 0)
}
