//! Walks of extended page tables that are remembered: a guest's own page walk goes through them at each of its levels
//! (SDM vol. 3, 29.4.1, "guest-physical mappings").

use crate::ept::EptWalk;

const ENTRIES: usize = 1024;

/// What a walk found for a page of guest-physical addresses.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    /// 1 + the number of the guest-physical page; 0 for none.
    page: u64,
    /// `Ept::identity` of the tables.
    tables: u64,
    physical: u64,
    permissions: u64,
    convertible: bool,
    dirty: bool,
}

/// The walks of one processor. None takes memory before one is remembered.
#[derive(Debug, Clone, Default)]
pub(crate) struct EptCache {
    entries: Vec<Entry>,
}

impl EptCache {
    /// What a walk through these tables found for `address`, as long as nothing has invalidated it.
    pub fn find(&self, tables: u64, address: u64) -> Option<EptWalk> {
        let page = address >> 12;
        let entry = self.entries.get(page as usize % ENTRIES)?;
        let known = entry.page == page + 1 && entry.tables == tables;
        known.then(|| {
            EptWalk::remembered(
                entry.physical | address & 0xfff,
                entry.permissions,
                entry.convertible,
                entry.dirty,
            )
        })
    }

    /// Remember a walk whose flags are set; `dirty` says whether the dirty flag is, or is not kept.
    pub fn insert(&mut self, tables: u64, address: u64, walk: &EptWalk, dirty: bool) {
        if self.entries.is_empty() {
            self.entries = vec![Entry::default(); ENTRIES];
        }
        let page = address >> 12;
        self.entries[page as usize % ENTRIES] = Entry {
            page: page + 1,
            tables,
            physical: walk.physical & !0xfff,
            permissions: walk.permissions,
            convertible: walk.convertible,
            dirty,
        };
    }

    /// Forget what was found for `address`: it has caused an EPT violation (SDM vol. 3, 29.4.3.1).
    pub fn forget(&mut self, address: u64) {
        let page = address >> 12;
        if let Some(entry) = self.entries.get_mut(page as usize % ENTRIES) {
            *entry = Entry::default();
        }
    }

    /// Forget everything.
    pub fn clear(&mut self) {
        self.entries.fill(Entry::default());
    }
}
