//! Where RAM lies in a PC's physical address space.

use crate::NotRam;
use std::ops::Range;

/// RAM below 4 GiB ends here at the latest; devices live above it.
pub const LOW_RAM_LIMIT: u64 = 0xc000_0000;
/// RAM beyond `LOW_RAM_LIMIT` continues here.
pub const HIGH_RAM_START: u64 = 0x1_0000_0000;
/// Video memory of a PC: no RAM.
pub const VIDEO_HOLE: Range<u64> = 0xa_0000..0xc_0000;

/// The map: RAM offset to physical address and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhysicalMap {
    low: u64,
    high: u64,
}

impl PhysicalMap {
    /// The map of a machine with `size` bytes of RAM.
    pub fn new(size: u64) -> PhysicalMap {
        let low = size.min(LOW_RAM_LIMIT);
        PhysicalMap { low, high: size - low }
    }

    /// Offset in RAM of the byte at physical `address`.
    #[inline]
    pub fn offset(&self, address: u64) -> Option<u64> {
        if address < self.low {
            return (!VIDEO_HOLE.contains(&address)).then_some(address);
        }
        let above = address.checked_sub(HIGH_RAM_START)?;
        (above < self.high).then(|| self.low + above)
    }

    /// Physical address of the byte at RAM `offset`.
    pub fn physical(&self, offset: u64) -> u64 {
        if offset < self.low { offset } else { offset - self.low + HIGH_RAM_START }
    }

    /// RAM as (physical address, length), ascending.
    pub fn regions(&self) -> Vec<(u64, u64)> {
        let mut regions = vec![(0, self.low.min(VIDEO_HOLE.start))];
        if self.low > VIDEO_HOLE.end {
            regions.push((VIDEO_HOLE.end, self.low - VIDEO_HOLE.end));
        }
        if self.high > 0 {
            regions.push((HIGH_RAM_START, self.high));
        }
        regions
    }

    /// Whether `length` bytes from `address` are all RAM.
    pub fn check(&self, address: u64, length: u64) -> Result<(), NotRam> {
        let refused = NotRam { address, length };
        let end = address.checked_add(length).ok_or(refused)?;
        let low = end <= self.low && (end <= VIDEO_HOLE.start || address >= VIDEO_HOLE.end);
        let high = address >= HIGH_RAM_START && end - HIGH_RAM_START <= self.high;
        if length == 0 || low || high { Ok(()) } else { Err(refused) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_continues_at_four_gib() {
        let map = PhysicalMap::new(LOW_RAM_LIMIT + 0x1000);
        assert_eq!(map.offset(LOW_RAM_LIMIT - 1), Some(LOW_RAM_LIMIT - 1));
        assert_eq!(map.offset(LOW_RAM_LIMIT), None);
        assert_eq!(map.offset(HIGH_RAM_START), Some(LOW_RAM_LIMIT));
        assert_eq!(map.offset(HIGH_RAM_START + 0x1000), None);
        assert_eq!(map.physical(LOW_RAM_LIMIT), HIGH_RAM_START);
        assert!(map.check(LOW_RAM_LIMIT - 4, 8).is_err());
    }
}
