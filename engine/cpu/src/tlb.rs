//! The translation look-aside buffer: what T0 looks up and what generated code compares against inline.
//!
//! Entries are kept in contexts, one for each (address space, access mode): switching CR3 under PCIDs, entering the
//! kernel, or STAC and CLAC select another context and clear nothing. A processor may forget any translation at any
//! time (SDM vol. 3, 4.10.2.2), so replacing a context is always right.

mod regions;

use crate::ept_cache::EptCache;
use gasang_memory::{PAGE_SIZE, Zeroes};
pub use regions::Missed;
use regions::Regions;

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
pub const JUMPS: usize = 1 << JUMP_BITS;
/// log2 of that.
pub const JUMP_BITS: u32 = 14;
/// Places of a jump entry: the first is where its target belongs, the others lie beside it.
pub const JUMP_PLACES: usize = 4;
/// What the low half of a target is multiplied with: the high bits of the low half of the product number its entry.
pub const JUMP_HASH: u32 = 0x9e37_79b1;

fn jump_index(target: u64) -> usize {
    ((target as u32).wrapping_mul(JUMP_HASH) >> (32 - JUMP_BITS)) as usize
}

const MODES: usize = 3;
const SPACES: usize = 16;
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

    /// Two jump entries whose addresses nothing matches that is looked up in them: 0 and 1 belong elsewhere.
    fn no_jumps(pair: usize) -> TlbEntry {
        let elsewhere = u64::from(2 * pair / JUMP_PLACES == jump_index(0) / JUMP_PLACES);
        TlbEntry { read: elsewhere, write: 0, exec: elsewhere, page: 0 }
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
    /// Writes are allowed and the page is dirty.
    pub write: bool,
    /// Code was translated from the page: writes must not hit.
    pub has_code: bool,
    /// Address of the page's flags (`GuestMemory::flags`).
    pub flags: u64,
    /// Execution is allowed.
    pub execute: bool,
    /// The mapping is global (survives a CR3 write).
    pub global: bool,
    /// log2 of the size of the guest's page: 12, 21, 22 or 30.
    pub size_shift: u32,
}

/// What generated code reaches of a context beside its entries, at fixed distances below the first of them.
pub mod header {
    /// Bytes below the first entry: these words; below them a byte for each group of entries, which says whether one of
    /// the group may be of a page that is not global; below them the regions.
    pub const SIZE: usize = 64 + GROUPS + REGIONS * REGION_SIZE as usize;
    /// Regions: the first half serves reads, the second writes.
    pub const REGIONS: usize = 64;
    /// Bytes of one.
    pub const REGION_SIZE: i32 = 32;
    /// The first region. It holds where it begins, …
    pub const FIRST_REGION: i32 = -(SIZE as i32);
    /// … the first offset at which an access of `LONGEST_ACCESS` bytes does not lie in it (0 if there is no region), …
    pub const REGION_LIMIT: i32 = 8;
    /// … the host address of its first byte, …
    pub const REGION_HOST: i32 = 16;
    /// … and how many accesses may miss it before another is asked for.
    pub const REGION_PATIENCE: i32 = 24;
    /// Accesses to regions are no longer.
    pub const LONGEST_ACCESS: u64 = 128;
    /// Groups of entries, at most.
    pub const GROUPS: usize = 128;
    /// Entries of a group.
    pub const GROUP: usize = 8;
    /// Address of the second level.
    pub const SECOND_LEVEL: i32 = -64;
    /// What the low bits of a second-level key must be for a page that is not global.
    pub const GENERATION: i32 = -56;
    /// The same for a global page.
    pub const GLOBAL_GENERATION: i32 = -48;
    /// Distance of the last entry from the first, in bytes.
    pub const LAST_ENTRY: i32 = -40;
}

/// Entries of a second level.
pub const SECOND_LEVEL_ENTRIES: usize = 1 << SECOND_LEVEL_BITS;
/// log2 of that: a page's number is folded at this bit to find its entry.
pub const SECOND_LEVEL_BITS: u32 = 16;
/// Generations are kept in the bits that a page's address leaves free.
const LAST_GENERATION: u64 = 0xffe;

/// An entry of the second level: a page's address with its generation in the low bits; the host address of the page with
/// rights in the low bits; the execute key; where the page's flags are. Zeroes match nothing.
pub type SecondEntry = [u64; 4];

/// Rights in a second-level entry.
pub mod right {
    /// Reads are allowed.
    pub const READ: u64 = 1;
    /// Writes are allowed, unless the page's flags say that it has code.
    pub const WRITE: u64 = 2;
    /// The page is global.
    pub const GLOBAL: u64 = 4;
}

/// The entries of one address space in one mode. Before them are the words of `header`. Behind them, for generated code,
/// where to go on for targets of indirect jumps: two jump entries (address, host code) in the room of one TLB entry. What a
/// jump leads to checks how its page is mapped, so jump entries outlive translations.
///
/// A second level, direct-mapped as well but larger and by another index, brings back what the entries lost to others or to
/// a CR3 write that spares global pages. It is never cleared: its keys hold a generation.
#[derive(Debug, Clone)]
pub struct TlbContext {
    slots: Box<[TlbEntry]>,
    entries: usize,
    second: Zeroes<SecondEntry>,
    /// The large pages that entries came from, ascending: INVLPG of one address drops all of its page.
    large: Vec<LargePage>,
    /// Something was put here since the last `clear`.
    used: bool,
    regions: Regions,
    /// Where displaced jump entries go.
    dice: u32,
}

/// log2 of its size, and its number among pages of that size.
type LargePage = (u32, u64);

/// The entry that the bytes for groups of entries begin in, …
const FIRST_LOCAL: usize = header::REGIONS;
/// … and the one that the words of the header begin in.
const HEADER: usize = FIRST_LOCAL + header::GROUPS / size_of::<TlbEntry>();
/// `header::SIZE` in entries.
const HEADER_SLOTS: usize = header::SIZE / size_of::<TlbEntry>();

impl TlbContext {
    fn new(entries: usize) -> TlbContext {
        let none = TlbEntry { read: 0, write: 0, exec: 0, page: 0 };
        let slots = std::iter::repeat_n(none, HEADER_SLOTS)
            .chain((0..entries).map(TlbEntry::empty))
            .chain((0..JUMPS / 2).map(TlbEntry::no_jumps));
        let mut context = TlbContext {
            slots: slots.collect(),
            entries,
            second: Zeroes::new(SECOND_LEVEL_ENTRIES),
            large: Vec::new(),
            used: false,
            regions: Regions::default(),
            dice: 0,
        };
        context.reset_regions();
        context.slots[HEADER] = TlbEntry {
            read: context.second.as_ptr() as u64,
            write: 2,
            exec: 1,
            page: ((entries - 1) * size_of::<TlbEntry>()) as u64,
        };
        context
    }

    fn first_level(&mut self) -> &mut [TlbEntry] {
        &mut self.slots[HEADER_SLOTS..HEADER_SLOTS + self.entries]
    }

    /// The jump entry at `place`: target and host code.
    fn jump_at(&self, place: usize) -> (u64, u64) {
        let slot = &self.slots[HEADER_SLOTS + self.entries + place / 2];
        if place % 2 == 0 { (slot.read, slot.write) } else { (slot.exec, slot.page) }
    }

    fn set_jump(&mut self, place: usize, (target, code): (u64, u64)) {
        let slot = &mut self.slots[HEADER_SLOTS + self.entries + place / 2];
        if place % 2 == 0 {
            (slot.read, slot.write) = (target, code);
        } else {
            (slot.exec, slot.page) = (target, code);
        }
    }

    fn generation(&self) -> u64 {
        self.slots[HEADER].write
    }

    fn global_generation(&self) -> u64 {
        self.slots[HEADER].exec
    }

    fn clear(&mut self) {
        if self.used {
            self.empty(0, self.entries);
            self.clear_non_global();
            self.slots[HEADER].exec += 2;
            self.large.clear();
            self.used = false;
        }
    }

    /// The first level forgets what may not be global; global pages that it loses with that come back from the second.
    fn clear_non_global(&mut self) {
        if !self.used {
            return;
        }
        self.forget_regions();
        for slot in 0..HEADER - FIRST_LOCAL {
            let TlbEntry { read, write, exec, page } = std::mem::replace(
                &mut self.slots[FIRST_LOCAL + slot],
                TlbEntry { read: 0, write: 0, exec: 0, page: 0 },
            );
            for (word, mut local) in [read, write, exec, page].into_iter().enumerate() {
                while local != 0 {
                    let byte = local.trailing_zeros() as usize / 8;
                    local &= !(0xff << (8 * byte));
                    self.empty(((slot * 4 + word) * 8 + byte) * header::GROUP, header::GROUP);
                }
            }
        }
        let header = &mut self.slots[HEADER];
        header.write += 2;
        if header.write > LAST_GENERATION || header.exec + 2 > LAST_GENERATION {
            // A new one: entries that were never used take no memory.
            self.second = Zeroes::new(SECOND_LEVEL_ENTRIES);
            (header.read, header.write, header.exec) = (self.second.as_ptr() as u64, 2, 1);
        }
    }

    /// Forget some entries of the first level.
    fn empty(&mut self, first: usize, count: usize) {
        let entries = self.first_level().iter_mut().enumerate().skip(first).take(count);
        entries.for_each(|(index, entry)| *entry = TlbEntry::empty(index));
    }

    /// The entry `index` is about to be that of a page that is not global. When the second level brings it back, it is
    /// marked still: what takes the mark away makes the second level forget the page.
    fn mark_local(&mut self, index: usize) {
        let byte = index / header::GROUP;
        let TlbEntry { read, write, exec, page } =
            &mut self.slots[FIRST_LOCAL + byte / size_of::<TlbEntry>()];
        *[read, write, exec, page][byte / 8 % 4] |= 1 << (byte % 8 * 8);
    }

    /// Have writes to some host pages miss; the second level looks at the pages' flags.
    fn forbid_writes(&mut self, forbidden: impl Fn(u64) -> bool) {
        self.forget_written_regions();
        let entries = self.first_level().iter_mut().enumerate();
        for (index, entry) in entries.filter(|(_, entry)| forbidden(entry.page)) {
            entry.write = no_tag(index);
        }
    }

    fn clear_jumps(&mut self) {
        let first = HEADER_SLOTS + self.entries;
        let pairs = self.slots[first..].iter_mut().enumerate();
        pairs.for_each(|(pair, slot)| *slot = TlbEntry::no_jumps(pair));
    }

    fn may_hold_large(&self, linear: u64) -> bool {
        [21, 22, 30].into_iter().any(|shift| self.large.binary_search(&(shift, linear >> shift)).is_ok())
    }

    fn invalidate_page(&mut self, linear: u64) {
        if self.may_hold_large(linear) {
            self.clear();
            return;
        }
        self.forget_regions_with(linear);
        let index = index_of(linear, self.entries);
        self.first_level()[index] = TlbEntry::empty(index);
        let second = &mut self.second[second_index(linear)];
        if second[0] >> 12 == linear >> 12 {
            *second = [0; 4];
        }
    }

    fn insert(&mut self, fill: &Fill, user: bool) {
        self.used = true;
        let tag = fill.linear & !(PAGE_SIZE - 1);
        let exec = if fill.execute { exec_key(fill.linear, user, fill.physical) } else { NO_KEY };
        let index = index_of(fill.linear, self.entries);
        let key = |allowed| if allowed { tag } else { no_tag(index) };
        if !fill.global {
            self.mark_local(index);
        }
        self.first_level()[index] = TlbEntry {
            read: key(fill.read),
            write: key(fill.write && !fill.has_code),
            exec,
            page: fill.page,
        };
        let mut rights = 0;
        for (allowed, bit) in
            [(fill.read, right::READ), (fill.write, right::WRITE), (fill.global, right::GLOBAL)]
        {
            rights |= if allowed { bit } else { 0 };
        }
        if self.second(fill.linear).is_some_and(|before| (before[1] ^ fill.page) & !(PAGE_SIZE - 1) != 0) {
            self.forget_regions_with(fill.linear);
        }
        let generation = if fill.global { self.global_generation() } else { self.generation() };
        self.second[second_index(fill.linear)] = [tag | generation, fill.page | rights, exec, fill.flags];
        if fill.size_shift > 12 {
            let page = (fill.size_shift, fill.linear >> fill.size_shift);
            if let Err(place) = self.large.binary_search(&page) {
                self.large.insert(place, page);
            }
        }
    }

    /// What the second level knows of a page: (host address, rights).
    fn second(&self, linear: u64) -> Option<SecondEntry> {
        let entry = self.second[second_index(linear)];
        let generation = entry[0] ^ linear & !(PAGE_SIZE - 1);
        (generation == self.generation() || generation == self.global_generation()).then_some(entry)
    }

    /// Bring an entry back from the second level.
    fn revive(&mut self, linear: u64, entry: &SecondEntry, has_code: bool) {
        let index = index_of(linear, self.entries);
        let tag = |allowed| if allowed { linear & !(PAGE_SIZE - 1) } else { no_tag(index) };
        self.first_level()[index] = TlbEntry {
            read: tag(entry[1] & right::READ != 0),
            write: tag(entry[1] & right::WRITE != 0 && !has_code),
            exec: entry[2],
            page: entry[1] & !(PAGE_SIZE - 1),
        };
    }

    /// A jump entry that is displaced goes to one of the places beside it, or nowhere, as dice say: sooner or later what is
    /// not in use is gone, and what is in use stays. (By any fixed rule some displace each other for ever.)
    fn insert_jump(&mut self, target: u64, code: u64) {
        let first = jump_index(target);
        let places = (0..JUMP_PLACES).map(|step| first ^ step);
        if let Some(place) = places.clone().find(|&place| self.jump_at(place).0 == target) {
            return self.set_jump(place, (target, code));
        }
        let displaced = self.jump_at(first);
        self.set_jump(first, (target, code));
        if displaced.1 == 0 {
            return;
        }
        if let Some(place) = places.skip(1).find(|&place| self.jump_at(place).1 == 0) {
            self.set_jump(place, displaced);
        } else {
            // Numerical Recipes' generator; its high bits are the better ones.
            self.dice = self.dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let step = (self.dice >> 16) as usize % JUMP_PLACES;
            if step != 0 {
                self.set_jump(first ^ step, displaced);
            }
        }
    }

    fn jump(&self, target: u64) -> Option<u64> {
        let first = jump_index(target);
        let mut places = (0..JUMP_PLACES).map(|step| self.jump_at(first ^ step));
        places.find(|&(known, code)| known == target && code != 0).map(|(_, code)| code)
    }
}

#[inline]
fn second_index(linear: u64) -> usize {
    let page = linear / PAGE_SIZE;
    (page ^ page >> SECOND_LEVEL_BITS) as usize & (SECOND_LEVEL_ENTRIES - 1)
}

#[inline]
fn index_of(linear: u64, entries: usize) -> usize {
    (linear / PAGE_SIZE) as usize & (entries - 1)
}

/// Whose linear addresses they are (SDM vol. 3, 29.3.1): the processor's own in root operation, or a guest's of VMX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner {
    /// In VMX non-root operation.
    pub non_root: bool,
    /// Virtual-processor identifier; 0 in root operation, and for guests without one.
    pub vpid: u16,
    /// Physical address of the guest's EPT PML4 table, if it has one.
    pub ept: Option<u64>,
}

#[derive(Debug, Clone)]
struct Space {
    owner: Owner,
    pcid: u16,
    last_use: u64,
    contexts: [TlbContext; MODES],
    /// Host addresses of pages to which writes must not hit any more once this is the current space.
    forbidden: Vec<u64>,
}

/// When more pages wait in a space that is not the current one, all its writes will miss.
const MOST_FORBIDDEN: usize = 64;

impl Space {
    fn new(owner: Owner, pcid: u16, entries: usize) -> Space {
        let contexts = std::array::from_fn(|_| TlbContext::new(entries));
        Space { owner, pcid, last_use: 0, contexts, forbidden: Vec::new() }
    }

    /// Have writes to `page` miss from now on.
    fn forbid_writes(&mut self, page: u64) {
        for context in self.contexts.iter_mut().filter(|context| context.used) {
            context.forbid_writes(|found| found == page);
        }
    }

    /// The same when this becomes the current space.
    fn forbid_writes_later(&mut self, page: u64) {
        if self.contexts.iter().any(|context| context.used) && self.forbidden.len() <= MOST_FORBIDDEN {
            self.forbidden.push(page);
        }
    }

    /// Before this becomes the current space.
    fn catch_up(&mut self) {
        let forbidden = std::mem::take(&mut self.forbidden);
        if forbidden.is_empty() {
            return;
        }
        let all = forbidden.len() > MOST_FORBIDDEN;
        for context in self.contexts.iter_mut().filter(|context| context.used) {
            context.forbid_writes(|found| all || forbidden.contains(&found));
        }
    }
}

/// The TLB of one processor.
#[derive(Debug, Clone)]
pub struct Tlb {
    spaces: Vec<Space>,
    owner: Owner,
    current: usize,
    entries: usize,
    uses: u64,
    /// There may be global translations of addresses in the lower half.
    low_globals: bool,
    /// Somebody wants to know which pages are written: none is writable before it is.
    logs_writes: bool,
    /// What walks of EPT found.
    pub(crate) ept_walks: EptCache,
    /// Walks that filled an entry, since creation.
    pub refills: u64,
    /// Contexts cleared, since creation.
    pub flushes: u64,
    /// Single pages forgotten, since creation.
    pub page_flushes: u64,
}

impl Tlb {
    /// A TLB with `entries` (a power of two, at most 1,024) in each context.
    ///
    /// # Panics
    /// If `entries` is none of these: a bug of ours.
    pub fn new(entries: usize) -> Tlb {
        let possible = entries.is_power_of_two() && entries <= header::GROUPS * header::GROUP;
        assert!(possible, "{entries} TLB entries");
        Tlb {
            spaces: vec![Space::new(Owner::default(), 0, entries)],
            owner: Owner::default(),
            current: 0,
            entries,
            uses: 0,
            low_globals: false,
            logs_writes: false,
            ept_walks: EptCache::default(),
            refills: 0,
            flushes: 0,
            page_flushes: 0,
        }
    }

    /// Give no page an entry that lets it be written before it is written, or do again.
    pub fn log_writes(&mut self, on: bool) {
        self.logs_writes = on;
    }

    /// Whether that is so.
    pub fn logs_writes(&self) -> bool {
        self.logs_writes
    }

    /// Times that an address space was selected, since creation: writes of CR3, mostly.
    pub fn selections(&self) -> u64 {
        self.uses
    }

    /// Entries in a context.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Address of the first entry of the current space's context for `mode`, for generated code. It stays valid until
    /// the current space changes (`select`).
    pub fn context_address(&self, mode: Mode) -> u64 {
        self.spaces[self.current].contexts[mode as usize].slots[HEADER_SLOTS..].as_ptr() as u64
    }

    /// The entry where `linear` would be.
    #[inline]
    pub fn entry(&self, mode: Mode, linear: u64) -> &TlbEntry {
        let context = &self.spaces[self.current].contexts[mode as usize];
        &context.slots[HEADER_SLOTS + index_of(linear, self.entries)]
    }

    /// Keep what a walk found, for the current space.
    pub fn insert(&mut self, mode: Mode, fill: &Fill) {
        self.refills += 1;
        self.low_globals |= fill.global && fill.linear >> 63 == 0;
        self.spaces[self.current].contexts[mode as usize].insert(fill, mode == Mode::User);
    }

    /// Bring the entry for `linear` back from the second level; `has_code` says it of a host page. False if it is not
    /// there.
    pub fn revive(&mut self, mode: Mode, linear: u64, has_code: impl FnOnce(u64) -> bool) -> bool {
        let context = &mut self.spaces[self.current].contexts[mode as usize];
        let Some(entry) = context.second(linear) else { return false };
        let has_code = has_code(entry[1] & !(PAGE_SIZE - 1));
        context.revive(linear, &entry, has_code);
        true
    }

    /// Host code for the target `linear` of an indirect jump in the current space, if it is known.
    #[inline]
    pub fn jump(&self, mode: Mode, linear: u64) -> Option<u64> {
        self.spaces[self.current].contexts[mode as usize].jump(linear)
    }

    /// Remember host code for the target `linear` of indirect jumps. It checks how its page is mapped. Bits 62:48 may be
    /// marked, to tell modes apart.
    pub fn insert_jump(&mut self, mode: Mode, linear: u64, code: u64) {
        self.spaces[self.current].contexts[mode as usize].insert_jump(linear, code);
    }

    /// Forget all host code.
    pub fn clear_jumps(&mut self) {
        self.spaces.iter_mut().flat_map(|space| &mut space.contexts).for_each(TlbContext::clear_jumps);
    }

    /// Linear addresses are `owner`'s from now on, in its space `pcid`: VM entry and VM exit.
    pub fn change_owner(&mut self, owner: Owner, pcid: u16) {
        self.owner = owner;
        self.select(pcid);
    }

    /// Make `pcid` the current address space of the owner. With PCIDs off the only space is 0.
    pub fn select(&mut self, pcid: u16) {
        self.uses += 1;
        let owner = self.owner;
        if let Some(found) = self.spaces.iter().position(|space| space.pcid == pcid && space.owner == owner) {
            self.current = found;
        } else if self.spaces.len() < SPACES {
            self.spaces.push(Space::new(owner, pcid, self.entries));
            self.current = self.spaces.len() - 1;
        } else {
            let oldest = (0..SPACES).min_by_key(|&index| self.spaces[index].last_use).unwrap_or(0);
            let space = &mut self.spaces[oldest];
            if space.owner.non_root != owner.non_root {
                // Code for the one is not for the other.
                space.contexts.iter_mut().for_each(TlbContext::clear_jumps);
            }
            (space.owner, space.pcid) = (owner, pcid);
            space.contexts.iter_mut().for_each(TlbContext::clear);
            self.current = oldest;
        }
        self.spaces[self.current].last_use = self.uses;
        self.spaces[self.current].catch_up();
    }

    /// Forget everything, global translations included.
    pub fn flush_all(&mut self) {
        self.flushes += 1;
        self.ept_walks.clear();
        self.spaces.iter_mut().flat_map(|space| &mut space.contexts).for_each(TlbContext::clear);
    }

    /// Forget everything but global translations, in every space.
    pub fn flush_non_global(&mut self) {
        self.flushes += 1;
        self.spaces.iter_mut().flat_map(|space| &mut space.contexts).for_each(TlbContext::clear_non_global);
    }

    /// Forget the translations of one PCID of the owner's, but not global ones.
    pub fn flush_pcid(&mut self, pcid: u16) {
        self.flushes += 1;
        let owner = self.owner;
        for space in self.spaces.iter_mut().filter(|space| space.pcid == pcid && space.owner == owner) {
            space.contexts.iter_mut().for_each(TlbContext::clear_non_global);
        }
    }

    /// Forget all translations of some owners: INVEPT, INVVPID, and transitions without VPIDs.
    pub fn flush_owners(&mut self, of: impl Fn(Owner) -> bool) {
        self.flushes += 1;
        self.ept_walks.clear();
        for space in self.spaces.iter_mut().filter(|space| of(space.owner)) {
            space.contexts.iter_mut().for_each(TlbContext::clear);
        }
    }

    /// Forget the page of `linear`: the current PCID's and global translations (INVLPG), and perhaps others.
    pub fn invalidate_page(&mut self, linear: u64) {
        if self.low_globals || linear >> 63 == 1 {
            return self.invalidate_page_everywhere(linear);
        }
        self.page_flushes += 1;
        for context in &mut self.spaces[self.current].contexts {
            context.invalidate_page(linear);
        }
    }

    /// Forget the page of `linear` in every space.
    pub fn invalidate_page_everywhere(&mut self, linear: u64) {
        self.page_flushes += 1;
        for context in self.spaces.iter_mut().flat_map(|space| &mut space.contexts) {
            context.invalidate_page(linear);
        }
    }

    /// Code was translated from the page at host address `page`, and its flags say so: writes to it must no longer hit.
    pub fn forbid_writes(&mut self, page: u64) {
        for (number, space) in self.spaces.iter_mut().enumerate() {
            if number == self.current {
                space.forbid_writes(page);
            } else {
                space.forbid_writes_later(page);
            }
        }
    }
}

#[cfg(test)]
mod tests;
