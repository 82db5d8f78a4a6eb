//! The blocks that exist: by guest address, by page, and who jumps to whom.

use crate::emit::Entries;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Bytes of a page that share one bit of a page's code map: a write elsewhere in the page leaves its code alone.
const GRANULE: u64 = 64;

/// Guest bytes within a page of the host's memory; none if the size is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Piece {
    /// Host address.
    pub host: u64,
    /// Bytes.
    pub size: u64,
}

impl Piece {
    fn is_some(&self) -> bool {
        self.size != 0
    }

    fn overlaps(&self, host: u64, length: u64) -> bool {
        self.is_some() && self.host < host + length && host < self.host + self.size
    }

    fn page(&self) -> u64 {
        self.host & !0xfff
    }
}

/// A second page that has code of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherPage {
    /// Its guest address.
    pub linear: u64,
    /// Its host address.
    pub host: u64,
    /// Its physical address.
    pub physical: u64,
}

/// How a block is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    /// By itself when it is first met.
    Block,
    /// With what followed it when it turned out to be hot.
    Superblock,
    /// Each access checked by itself: for those who leave a superblock because a shared check crosses a page.
    Plain,
}

/// A translation block.
#[derive(Debug, Clone)]
pub struct Block {
    /// Guest address.
    pub linear: u64,
    /// Host address of its first guest byte.
    pub host: u64,
    /// Where its guest bytes are.
    pub pieces: [Piece; 2],
    /// The other page that it looks at on entry.
    pub other: Option<OtherPage>,
    /// How it was translated.
    pub variant: Variant,
    /// Guest instructions.
    pub instructions: u32,
    /// Translated for CPL 3.
    pub user: bool,
    /// 64-bit code.
    pub wide: bool,
    /// For VMX non-root operation.
    pub non_root: bool,
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
        let plain = self.variant == Variant::Plain;
        let Block { linear, host, user, wide, non_root, .. } = *self;
        Key { linear, host, user, wide, non_root, plain }
    }

    fn pieces(&self) -> impl Iterator<Item = Piece> + use<> {
        self.pieces.into_iter().filter(Piece::is_some)
    }

    /// Its bytes in a page, as granules.
    fn granules_in(&self, page: u64) -> u64 {
        self.pieces().filter(|piece| piece.page() == page).fold(0, |map, piece| map | granules(piece))
    }
}

/// What identifies a block: the same bytes at another guest address, or for another privilege, are another block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// Guest address.
    pub linear: u64,
    /// Host address of the first byte.
    pub host: u64,
    /// For CPL 3.
    pub user: bool,
    /// 64-bit code.
    pub wide: bool,
    /// For VMX non-root operation.
    pub non_root: bool,
    /// `Variant::Plain`, or one of the others.
    pub plain: bool,
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
    /// Writes to the page that changed no block's bytes.
    spared: usize,
}

/// So many writes for each block of a page may change none before the blocks are thrown away, so that writes go unnoticed.
const SPARED: usize = 64;

/// All blocks.
#[derive(Debug, Default)]
pub struct Blocks {
    blocks: Vec<Block>,
    by_key: AddressMap<Key, u32>,
    pages: AddressMap<u64, PageCode>,
}

fn granules(piece: Piece) -> u64 {
    let first = piece.host % 4096 / GRANULE;
    let last = ((piece.host % 4096 + piece.size.max(1) - 1) / GRANULE).min(63);
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

    /// The block that a key identifies.
    pub fn find(&self, key: Key) -> Option<u32> {
        self.by_key.get(&key).copied()
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
        for piece in block.pieces() {
            let page = self.pages.entry(piece.page()).or_default();
            page.blocks.push(number);
            page.granules |= granules(piece);
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
        if page.granules & granules(Piece { host, size: length }) == 0 {
            return Vec::new();
        }
        let overlaps =
            |number: &u32| self.blocks[*number as usize].pieces().any(|piece| piece.overlaps(host, length));
        let gone: Vec<u32> = page.blocks.iter().copied().filter(overlaps).collect();
        self.take(&gone);
        gone
    }

    /// A write to the page of `host` changed no block's bytes. The blocks of the page, if there were so many writes that
    /// whatever is still executed had better be translated anew.
    pub fn spare(&mut self, host: u64) -> Vec<u32> {
        let Some(page) = self.pages.get_mut(&(host & !0xfff)) else { return Vec::new() };
        page.spared += 1;
        if page.spared < SPARED * page.blocks.len() { Vec::new() } else { page.blocks.clone() }
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
            for piece in self.blocks[number as usize].pieces() {
                self.tidy(piece.page());
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

    const fn key(linear: u64, host: u64) -> Key {
        Key { linear, host, user: false, wide: true, non_root: false, plain: false }
    }

    fn block(linear: u64, host: u64, size: u64) -> Block {
        Block {
            linear,
            host,
            pieces: [Piece { host, size }, Piece::default()],
            other: None,
            variant: Variant::Block,
            instructions: 1,
            user: false,
            wide: true,
            non_root: false,
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
        assert_eq!(blocks.find(key(0x1000, 0x7000)), None);
        assert_eq!(blocks.find(key(0x1010, 0x7010)), Some(1));
        assert_eq!(blocks.take_overlapping(0x701f, 1), [1]);
        assert!(!blocks.has_page(0x7000));
    }

    #[test]
    fn a_page_that_is_written_beside_its_code_again_and_again_is_given_up() {
        let mut blocks = Blocks::default();
        blocks.insert(block(0x1000, 0x7000, 16));
        blocks.insert(block(0x1010, 0x7010, 16));
        assert!((1..2 * SPARED).all(|_| blocks.spare(0x7100).is_empty()));
        assert_eq!(blocks.spare(0x7200), [0, 1]);
        assert_eq!(blocks.spare(0x8000), []);
    }

    #[test]
    fn a_block_across_two_pages_is_in_both() {
        let mut blocks = Blocks::default();
        let pieces = [Piece { host: 0x7ffe, size: 2 }, Piece { host: 0x2000, size: 3 }];
        let across = Block { pieces, ..block(0x1ffe, 0x7ffe, 5) };
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
        let granules = |host, size| granules(Piece { host, size });
        assert_eq!(granules(0x7fff, 1), 1 << 63);
        assert_eq!(granules(0x7000, 4096), u64::MAX);
        assert_eq!(granules(0x7ff8, 100), 1 << 63, "a length past the page counts to its end");
    }
}
