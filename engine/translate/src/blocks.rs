//! The blocks that exist: by guest address, by page, and who jumps to whom.

use crate::emit::Entries;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Bytes of a page that share one bit of a page's code map: a write elsewhere in the page leaves its code alone.
const GRANULE: u64 = 64;

/// A translation block.
#[derive(Debug, Clone)]
pub struct Block {
    /// Guest address.
    pub linear: u64,
    /// Host address of its first guest byte.
    pub host: u64,
    /// Bytes of guest code.
    pub length: u32,
    /// Host address of the page that its only instruction goes on in; 0 if all of it is in one page.
    pub tail: u64,
    /// Guest instructions.
    pub instructions: u32,
    /// Translated for CPL 3.
    pub user: bool,
    /// 64-bit code.
    pub wide: bool,
    /// Offset in the cache.
    pub offset: u32,
    /// Where it is entered.
    pub entries: Entries,
    /// Sites (numbers) of the jumps linked to it.
    pub incoming: Vec<u32>,
    /// Memory checks that found their span to cross a page.
    pub crossings: u32,
    /// False once it was thrown away.
    pub alive: bool,
}

impl Block {
    fn key(&self) -> Key {
        Key { linear: self.linear, host: self.host, user: self.user, wide: self.wide }
    }

    /// Host addresses and lengths of its bytes, page by page.
    fn pieces(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        let (length, left) = (u64::from(self.length), 4096 - self.host % 4096);
        let first = if self.tail == 0 { length } else { left };
        let rest = (self.tail != 0).then(|| (self.tail, length - left));
        std::iter::once((self.host, first)).chain(rest)
    }

    fn overlaps(&self, host: u64, length: u64) -> bool {
        self.pieces().any(|(at, size)| at < host + length && host < at + size)
    }

    /// Its bytes in the page at `page`, as granules.
    fn granules_in(&self, page: u64) -> u64 {
        let here = self.pieces().filter(|(at, _)| at & !0xfff == page);
        here.fold(0, |map, (at, size)| map | granules(at, size))
    }
}

/// What identifies a block: the same bytes at another guest address, or for another privilege, are another block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    linear: u64,
    host: u64,
    user: bool,
    wide: bool,
}

/// A multiplicative hash: keys are addresses, not chosen against us in any way that costs more than time.
#[derive(Debug, Default)]
pub(crate) struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

pub(crate) type AddressMap<K, V> = HashMap<K, V, BuildHasherDefault<AddressHasher>>;

#[derive(Debug, Default)]
struct PageCode {
    blocks: Vec<u32>,
    granules: u64,
}

/// All blocks.
#[derive(Debug, Default)]
pub struct Blocks {
    blocks: Vec<Block>,
    by_key: AddressMap<Key, u32>,
    pages: AddressMap<u64, PageCode>,
}

fn granules(host: u64, length: u64) -> u64 {
    let first = host % 4096 / GRANULE;
    let last = ((host % 4096 + length.max(1) - 1) / GRANULE).min(63);
    (u64::MAX >> (63 - last)) & (u64::MAX << first)
}

/// Blocks that there is room for from the start: a boot's.
const ROOM: usize = 1 << 16;

impl Blocks {
    /// No blocks, and room for those of a boot.
    pub fn with_room() -> Blocks {
        Blocks {
            blocks: Vec::with_capacity(ROOM),
            by_key: AddressMap::with_capacity_and_hasher(ROOM, BuildHasherDefault::default()),
            pages: AddressMap::default(),
        }
    }

    /// The guest address of the block whose code is at `offset` in the cache.
    pub fn at(&self, offset: u32) -> Option<u64> {
        // Blocks are placed one behind the other.
        let next = self.blocks.partition_point(|block| block.offset <= offset);
        self.blocks[..next].last().map(|block| block.linear)
    }

    /// All blocks, also those that are not alive, by their numbers.
    pub fn all(&self) -> &[Block] {
        &self.blocks
    }

    /// The number that the next block will get.
    pub fn next_number(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// A block by number.
    pub fn get(&self, number: u32) -> &Block {
        &self.blocks[number as usize]
    }

    /// The block for guest address `linear`, whose first byte is at host address `host`.
    pub fn find(&self, linear: u64, host: u64, user: bool, wide: bool) -> Option<u32> {
        self.by_key.get(&Key { linear, host, user, wide }).copied()
    }

    /// Count a crossing in a block; how many there were.
    pub fn count_crossing(&mut self, number: u32) -> u32 {
        let block = &mut self.blocks[number as usize];
        block.crossings += 1;
        block.crossings
    }

    /// Whether there is a block from the page that holds `host`.
    pub fn has_page(&self, host: u64) -> bool {
        self.pages.contains_key(&(host & !0xfff))
    }

    /// Keep a block.
    pub fn insert(&mut self, block: Block) {
        let number = self.next_number();
        for (at, size) in block.pieces() {
            let page = self.pages.entry(at & !0xfff).or_default();
            page.blocks.push(number);
            page.granules |= granules(at, size);
        }
        self.by_key.insert(block.key(), number);
        self.blocks.push(block);
    }

    /// The site numbered `site` now jumps to block `to`.
    pub fn link(&mut self, to: u32, site: u32) {
        self.blocks[to as usize].incoming.push(site);
    }

    /// Take out the blocks made from bytes that a write to `length` bytes at `host` (within a page) changes.
    pub fn take_overlapping(&mut self, host: u64, length: u64) -> Vec<u32> {
        let Some(page) = self.pages.get(&(host & !0xfff)) else { return Vec::new() };
        if page.granules & granules(host, length) == 0 {
            return Vec::new();
        }
        let overlaps = |number: &u32| self.blocks[*number as usize].overlaps(host, length);
        let gone: Vec<u32> = page.blocks.iter().copied().filter(overlaps).collect();
        self.take(&gone);
        gone
    }

    /// Take out these blocks.
    pub fn take(&mut self, gone: &[u32]) {
        for &number in gone {
            let block = &mut self.blocks[number as usize];
            block.alive = false;
            let key = block.key();
            self.by_key.remove(&key);
        }
        for &number in gone {
            for (at, _) in self.blocks[number as usize].pieces() {
                self.tidy(at & !0xfff);
            }
        }
    }

    /// Forget what is not alive in a page.
    fn tidy(&mut self, address: u64) {
        let Some(page) = self.pages.get_mut(&address) else { return };
        let blocks = &self.blocks;
        page.blocks.retain(|&number| blocks[number as usize].alive);
        page.granules =
            page.blocks.iter().fold(0, |map, &number| map | blocks[number as usize].granules_in(address));
        if page.blocks.is_empty() {
            self.pages.remove(&address);
        }
    }

    /// Forget everything.
    pub fn clear(&mut self) {
        self.blocks.clear();
        self.by_key.clear();
        self.pages.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(linear: u64, host: u64, length: u32) -> Block {
        Block {
            linear,
            host,
            length,
            tail: 0,
            instructions: 1,
            user: false,
            wide: true,
            offset: 0,
            entries: Entries::default(),
            incoming: Vec::new(),
            crossings: 0,
            alive: true,
        }
    }

    #[test]
    fn a_write_takes_out_the_blocks_that_it_overlaps_and_no_others() {
        let mut blocks = Blocks::default();
        blocks.insert(block(0x1000, 0x7000, 16));
        blocks.insert(block(0x1010, 0x7010, 16));
        assert!(blocks.has_page(0x7fff));
        assert_eq!(blocks.take_overlapping(0x7400, 8), []);
        assert_eq!(blocks.take_overlapping(0x7020, 8), [], "same granule, other bytes");
        assert_eq!(blocks.take_overlapping(0x700f, 1), [0]);
        assert_eq!(blocks.find(0x1000, 0x7000, false, true), None);
        assert_eq!(blocks.find(0x1010, 0x7010, false, true), Some(1));
        assert_eq!(blocks.take_overlapping(0x701f, 1), [1]);
        assert!(!blocks.has_page(0x7000));
    }

    #[test]
    fn a_block_across_two_pages_is_in_both() {
        let mut blocks = Blocks::default();
        let across = Block { tail: 0x2000, ..block(0x1ffe, 0x7ffe, 5) };
        blocks.insert(across.clone());
        assert_eq!(blocks.take_overlapping(0x2003, 8), [], "behind its end");
        assert_eq!(blocks.take_overlapping(0x8000, 8), [], "the page that follows in the host's memory");
        assert_eq!(blocks.take_overlapping(0x2002, 1), [0]);
        assert!(!blocks.has_page(0x7000) && !blocks.has_page(0x2000));
        blocks.insert(across);
        assert_eq!(blocks.take_overlapping(0x7ffe, 1), [1]);
        assert!(!blocks.has_page(0x7000) && !blocks.has_page(0x2000));
    }

    #[test]
    fn the_last_byte_of_a_page_is_in_its_last_granule() {
        assert_eq!(granules(0x7fff, 1), 1 << 63);
        assert_eq!(granules(0x7000, 4096), u64::MAX);
        assert_eq!(granules(0x7ff8, 100), 1 << 63, "a length past the page counts to its end");
    }
}
