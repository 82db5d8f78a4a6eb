//! The translation look-aside buffer: what T0 looks up and what generated code compares against inline.
//!
//! Entries are kept in contexts, one for each (address space, access mode): switching CR3 under PCIDs, entering the
//! kernel, or STAC and CLAC select another context and clear nothing. A processor may forget any translation at any
//! time (SDM vol. 3, 4.10.2.2), so replacing a context is always right.

use gasang_memory::PAGE_SIZE;

/// How memory is accessed as far as permissions go: the index of a context within an address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// CPL < 3 (or an implicit supervisor access) with SMAP enforced, or without SMAP.
    Supervisor = 0,
    /// CPL < 3, SMAP suspended by RFLAGS.AC.
    SupervisorAc = 1,
    /// CPL 3.
    User = 2,
}

/// Jump entries in a context.
pub const JUMPS: usize = 2048;

const MODES: usize = 3;
const SPACES: usize = 8;
/// A key that nothing matches.
const NO_KEY: u64 = !0;

/// A tag that nothing matches which is looked up in the entry `index`: an address of another entry.
#[inline]
fn no_tag(index: usize) -> u64 {
    !(index as u64 * PAGE_SIZE)
}

/// One entry. A tag is the linear address of a page, so that (address ^ tag) is below the page size for a hit, and
/// comparing it with the page size less the access size also refuses an access that leaves the page.
#[repr(C, align(32))]
#[derive(Debug, Clone, Copy)]
pub struct TlbEntry {
    /// Matches reads.
    pub read: u64,
    /// Matches writes: only once the page is dirty and as long as no code was translated from it.
    pub write: u64,
    /// Matches execution: `exec_key` of the page.
    pub exec: u64,
    /// Host address of the page.
    pub page: u64,
}

impl TlbEntry {
    fn empty(index: usize) -> TlbEntry {
        TlbEntry { read: no_tag(index), write: no_tag(index), exec: NO_KEY, page: 0 }
    }

    /// Two jump entries whose addresses nothing matches that is looked up in them: addresses of other entries.
    fn no_jumps(pair: usize) -> TlbEntry {
        let index = pair as u64 * 2;
        TlbEntry { read: !index, write: 0, exec: !(index + 1), page: 0 }
    }
}

/// The key of an executable page: what it is mapped to, from where, and for whom, in one word.
#[inline]
pub fn exec_key(linear: u64, user: bool, physical: u64) -> u64 {
    ((linear >> 12) << 28) | u64::from(user) << 27 | (physical >> 12) & 0x7ff_ffff
}

/// What a page walk found, as the TLB keeps it.
#[derive(Debug, Clone, Copy)]
pub struct Fill {
    /// Linear address (any byte of the page).
    pub linear: u64,
    /// Host address of the page.
    pub page: u64,
    /// Physical address of the page.
    pub physical: u64,
    /// Reads are allowed.
    pub read: bool,
    /// Writes are allowed, the page is dirty and holds no translated code.
    pub write: bool,
    /// Execution is allowed.
    pub execute: bool,
    /// The mapping is global (survives a CR3 write).
    pub global: bool,
    /// log2 of the size of the guest's page: 12, 21, 22 or 30.
    pub size_shift: u32,
}

/// The entries of one address space in one mode; behind them, for generated code, where to go on for targets of indirect
/// jumps: two jump entries (address, host code) in the room of one TLB entry. A jump entry is a translation as well, and
/// is forgotten when its page is.
#[derive(Debug, Clone)]
pub struct TlbContext {
    slots: Box<[TlbEntry]>,
    entries: usize,
    global: Box<[u64]>,
    /// A Bloom filter of the large pages that entries came from: INVLPG of one address drops all of its page.
    large: [u64; 4],
    /// The same for the pages of jump targets.
    jump_pages: [u64; 4],
    /// Something was put here since the last `clear`.
    used: bool,
}

impl TlbContext {
    fn new(entries: usize) -> TlbContext {
        TlbContext {
            slots: (0..entries).map(TlbEntry::empty).chain((0..JUMPS / 2).map(TlbEntry::no_jumps)).collect(),
            entries,
            global: vec![0; entries.div_ceil(64)].into(),
            large: [0; 4],
            jump_pages: [0; 4],
            used: false,
        }
    }

    fn clear(&mut self) {
        if self.used {
            let entries = self.slots[..self.entries].iter_mut().enumerate();
            entries.for_each(|(index, entry)| *entry = TlbEntry::empty(index));
            self.clear_jumps();
            self.global.fill(0);
            self.large = [0; 4];
            self.used = false;
        }
    }

    fn clear_non_global(&mut self) {
        if !self.used {
            return;
        }
        for (index, entry) in self.slots[..self.entries].iter_mut().enumerate() {
            if self.global[index / 64] >> (index % 64) & 1 == 0 {
                *entry = TlbEntry::empty(index);
            }
        }
        self.clear_jumps();
    }

    fn clear_jumps(&mut self) {
        if self.jump_pages != [0; 4] {
            let pairs = self.slots[self.entries..].iter_mut().enumerate();
            pairs.for_each(|(pair, slot)| *slot = TlbEntry::no_jumps(pair));
            self.jump_pages = [0; 4];
        }
    }

    fn filter_bit(linear: u64, shift: u32) -> (usize, u64) {
        let hash = (linear >> shift).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        ((hash / 64) as usize, 1 << (hash % 64))
    }

    /// Where `jump_pages` notes the page of a jump's target, whatever its bits above 47 are marked with.
    fn jump_page(linear: u64) -> (usize, u64) {
        Self::filter_bit(linear & 0xffff_ffff_ffff, 12)
    }

    fn may_hold_large(&self, linear: u64) -> bool {
        [21, 22, 30].into_iter().any(|shift| {
            let (word, bit) = Self::filter_bit(linear, shift);
            self.large[word] & bit != 0
        })
    }

    fn invalidate_page(&mut self, linear: u64) {
        if self.may_hold_large(linear) {
            self.clear();
            return;
        }
        let index = index_of(linear, self.entries);
        self.slots[index] = TlbEntry::empty(index);
        let (word, bit) = Self::jump_page(linear);
        if self.jump_pages[word] & bit != 0 {
            self.clear_jumps();
        }
    }

    fn insert_jump(&mut self, linear: u64, code: u64) {
        let index = linear as usize & (JUMPS - 1);
        let slot = &mut self.slots[self.entries + index / 2];
        if index % 2 == 0 {
            (slot.read, slot.write) = (linear, code);
        } else {
            (slot.exec, slot.page) = (linear, code);
        }
        let (word, bit) = Self::jump_page(linear);
        self.jump_pages[word] |= bit;
        self.used = true;
    }

    fn jump(&self, linear: u64) -> Option<u64> {
        let index = linear as usize & (JUMPS - 1);
        let slot = &self.slots[self.entries + index / 2];
        let (target, code) = if index % 2 == 0 { (slot.read, slot.write) } else { (slot.exec, slot.page) };
        (target == linear).then_some(code)
    }
}

#[inline]
fn index_of(linear: u64, entries: usize) -> usize {
    (linear / PAGE_SIZE) as usize & (entries - 1)
}

#[derive(Debug, Clone)]
struct Space {
    pcid: u16,
    last_use: u64,
    contexts: [TlbContext; MODES],
}

/// The TLB of one processor.
#[derive(Debug, Clone)]
pub struct Tlb {
    spaces: Vec<Space>,
    current: usize,
    entries: usize,
    uses: u64,
    /// Walks that filled an entry, since creation.
    pub refills: u64,
    /// Contexts cleared, since creation.
    pub flushes: u64,
}

impl Tlb {
    /// A TLB with `entries` (a power of two) in each context.
    ///
    /// # Panics
    /// If `entries` is not a power of two: a bug of ours.
    pub fn new(entries: usize) -> Tlb {
        assert!(entries.is_power_of_two(), "{entries} TLB entries");
        let space =
            Space { pcid: 0, last_use: 0, contexts: std::array::from_fn(|_| TlbContext::new(entries)) };
        Tlb { spaces: vec![space], current: 0, entries, uses: 0, refills: 0, flushes: 0 }
    }

    /// Entries in a context.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Address of the first entry of the current space's context for `mode`, for generated code. It stays valid until
    /// the current space changes (`select`).
    pub fn context_address(&self, mode: Mode) -> u64 {
        self.spaces[self.current].contexts[mode as usize].slots.as_ptr() as u64
    }

    /// The entry where `linear` would be.
    #[inline]
    pub fn entry(&self, mode: Mode, linear: u64) -> &TlbEntry {
        &self.spaces[self.current].contexts[mode as usize].slots[index_of(linear, self.entries)]
    }

    /// Keep what a walk found, for the current space.
    pub fn insert(&mut self, mode: Mode, fill: &Fill) {
        self.refills += 1;
        let context = &mut self.spaces[self.current].contexts[mode as usize];
        let index = index_of(fill.linear, self.entries);
        let tag = fill.linear & !(PAGE_SIZE - 1);
        let key = |allowed: bool, value: u64, none: u64| if allowed { value } else { none };
        context.used = true;
        context.slots[index] = TlbEntry {
            read: key(fill.read, tag, no_tag(index)),
            write: key(fill.write, tag, no_tag(index)),
            exec: key(fill.execute, exec_key(fill.linear, mode == Mode::User, fill.physical), NO_KEY),
            page: fill.page,
        };
        let (word, bit) = (index / 64, 1 << (index % 64));
        if fill.global {
            context.global[word] |= bit;
        } else {
            context.global[word] &= !bit;
        }
        if fill.size_shift > 12 {
            let (word, bit) = TlbContext::filter_bit(fill.linear, fill.size_shift);
            context.large[word] |= bit;
        }
    }

    /// Host code for the target `linear` of an indirect jump in the current space, if it is known.
    #[inline]
    pub fn jump(&self, mode: Mode, linear: u64) -> Option<u64> {
        self.spaces[self.current].contexts[mode as usize].jump(linear)
    }

    /// Remember host code for the target `linear` of indirect jumps, which is mapped as it is now. Bits 62:48 may be
    /// marked, to tell modes apart.
    pub fn insert_jump(&mut self, mode: Mode, linear: u64, code: u64) {
        self.spaces[self.current].contexts[mode as usize].insert_jump(linear, code);
    }

    /// Forget all host code.
    pub fn clear_jumps(&mut self) {
        self.spaces.iter_mut().flat_map(|space| &mut space.contexts).for_each(TlbContext::clear_jumps);
    }

    /// Make `pcid` the current address space. With PCIDs off the only space is 0.
    pub fn select(&mut self, pcid: u16) {
        self.uses += 1;
        if let Some(found) = self.spaces.iter().position(|space| space.pcid == pcid) {
            self.current = found;
        } else if self.spaces.len() < SPACES {
            let contexts = std::array::from_fn(|_| TlbContext::new(self.entries));
            self.spaces.push(Space { pcid, last_use: 0, contexts });
            self.current = self.spaces.len() - 1;
        } else {
            let oldest = (0..SPACES).min_by_key(|&index| self.spaces[index].last_use).unwrap_or(0);
            self.spaces[oldest].pcid = pcid;
            self.spaces[oldest].contexts.iter_mut().for_each(TlbContext::clear);
            self.current = oldest;
        }
        self.spaces[self.current].last_use = self.uses;
    }

    /// Forget everything, global translations included.
    pub fn flush_all(&mut self) {
        self.flushes += 1;
        self.spaces.iter_mut().flat_map(|space| &mut space.contexts).for_each(TlbContext::clear);
    }

    /// Forget everything but global translations, in every space.
    pub fn flush_non_global(&mut self) {
        self.flushes += 1;
        self.spaces.iter_mut().flat_map(|space| &mut space.contexts).for_each(TlbContext::clear_non_global);
    }

    /// Forget the translations of one PCID, but not global ones.
    pub fn flush_pcid(&mut self, pcid: u16) {
        self.flushes += 1;
        for space in self.spaces.iter_mut().filter(|space| space.pcid == pcid) {
            space.contexts.iter_mut().for_each(TlbContext::clear_non_global);
        }
    }

    /// Forget the page of `linear` everywhere (INVLPG: the current PCID's and global translations; forgetting the
    /// others' too is allowed).
    pub fn invalidate_page(&mut self, linear: u64) {
        for context in self.spaces.iter_mut().flat_map(|space| &mut space.contexts) {
            context.invalidate_page(linear);
        }
    }

    /// Code was translated from the page at host address `page`: writes to it must no longer hit.
    pub fn forbid_writes(&mut self, page: u64) {
        let contexts = self.spaces.iter_mut().flat_map(|space| &mut space.contexts);
        for context in contexts.filter(|context| context.used) {
            let entries = context.slots[..context.entries].iter_mut().enumerate();
            for (index, entry) in entries.filter(|(_, entry)| entry.page == page) {
                entry.write = no_tag(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(linear: u64, global: bool, size_shift: u32) -> Fill {
        Fill {
            linear,
            page: 0x7000_0000,
            physical: 0x5000,
            read: true,
            write: true,
            execute: true,
            global,
            size_shift,
        }
    }

    fn holds(tlb: &Tlb, linear: u64) -> bool {
        tlb.entry(Mode::Supervisor, linear).read == linear & !0xfff
    }

    #[test]
    fn global_pages_survive_a_cr3_write_but_not_a_full_flush() {
        let mut tlb = Tlb::new(16);
        tlb.insert(Mode::Supervisor, &fill(0x1000, true, 12));
        tlb.insert(Mode::Supervisor, &fill(0x2000, false, 12));
        tlb.flush_non_global();
        assert!(holds(&tlb, 0x1000));
        assert!(!holds(&tlb, 0x2000));
        tlb.flush_all();
        assert!(!holds(&tlb, 0x1000));
    }

    #[test]
    fn translations_of_one_pcid_wait_while_another_runs() {
        let mut tlb = Tlb::new(16);
        tlb.select(1);
        tlb.insert(Mode::Supervisor, &fill(0x1000, false, 12));
        tlb.select(2);
        assert!(!holds(&tlb, 0x1000));
        tlb.select(1);
        assert!(holds(&tlb, 0x1000));
        tlb.flush_pcid(2);
        assert!(holds(&tlb, 0x1000));
        tlb.flush_pcid(1);
        assert!(!holds(&tlb, 0x1000));
    }

    #[test]
    fn a_replaced_space_starts_empty() {
        let mut tlb = Tlb::new(16);
        tlb.select(1);
        tlb.insert(Mode::Supervisor, &fill(0x1000, false, 12));
        (2..20).for_each(|pcid| tlb.select(pcid));
        tlb.select(1);
        assert!(!holds(&tlb, 0x1000));
    }

    #[test]
    fn invalidating_any_address_of_a_large_page_forgets_all_of_it() {
        let mut tlb = Tlb::new(16);
        tlb.insert(Mode::Supervisor, &fill(0x20_1000, false, 21));
        tlb.invalidate_page(0x20_5000);
        assert!(!holds(&tlb, 0x20_1000));
    }

    #[test]
    fn no_address_hits_an_empty_entry() {
        let tlb = Tlb::new(16);
        for page in (0..32).chain((!0 >> 12) - 32..=!0 >> 12) {
            for address in [page << 12, page << 12 | 0xfff] {
                let entry = tlb.entry(Mode::Supervisor, address);
                assert!(address ^ entry.read >= 4096 && address ^ entry.write >= 4096, "{address:#x}");
            }
        }
    }

    #[test]
    fn a_jump_is_forgotten_with_its_page() {
        let mut tlb = Tlb::new(16);
        tlb.insert_jump(Mode::User, 0x1234, 7);
        tlb.insert_jump(Mode::User, 0x1235, 8);
        assert_eq!(tlb.jump(Mode::User, 0x1234), Some(7));
        assert_eq!(tlb.jump(Mode::User, 0x1235), Some(8));
        assert_eq!(tlb.jump(Mode::Supervisor, 0x1234), None);
        assert_eq!(tlb.jump(Mode::User, 0x1234 + JUMPS as u64), None);
        tlb.invalidate_page(0x1fff);
        assert_eq!(tlb.jump(Mode::User, 0x1234), None);
        let marked = 0x1234 | 1 << 62;
        tlb.insert_jump(Mode::User, marked, 9);
        assert_eq!(tlb.jump(Mode::User, marked), Some(9));
        tlb.invalidate_page(0x1000);
        assert_eq!(tlb.jump(Mode::User, marked), None);
        tlb.insert_jump(Mode::User, 0x1234, 7);
        tlb.flush_non_global();
        assert_eq!(tlb.jump(Mode::User, 0x1234), None);
    }

    #[test]
    fn one_compare_refuses_misses_and_page_crossings() {
        let mut tlb = Tlb::new(16);
        tlb.insert(Mode::Supervisor, &fill(0x1000, false, 12));
        let hit =
            |address: u64, size: u64| address ^ tlb.entry(Mode::Supervisor, address).read <= 4096 - size;
        assert!(hit(0x1ff8, 8));
        assert!(!hit(0x1ff9, 8));
        assert!(!hit(0x11ff8, 8), "same index, other page");
    }
}
