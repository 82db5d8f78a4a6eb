//! Which code is worth translating: all that is new, but what was rewritten only when it is met again and again.
//!
//! T0 remembers what it decoded and goes on by itself when the bytes are others, and what it executes need not be watched
//! for writes. Code that is rewritten between its runs is left to it.

/// log2 of how much code is remembered; what is met more recently displaces the rest.
const PLACE_BITS: u32 = 18;
/// Meetings before the first translation, where code can be executed directly.
pub(crate) const PATIENCE: u8 = 4;
/// Meetings before a translation, by how often the translation was thrown away.
const PATIENCE_LOST: [u8; 5] = [0, 2, 4, 8, 15];

/// Counts by place: meetings in the low four bits, translations thrown away in the next four, above them what tells code
/// from other code of the same place.
#[derive(Debug)]
pub struct Warmth {
    counts: Box<[u16]>,
}

impl Warmth {
    /// Nothing was met yet.
    pub fn new() -> Warmth {
        Warmth { counts: vec![0; 1 << PLACE_BITS].into() }
    }

    /// The count for `host`, a new one if its place was another's.
    fn count(&mut self, host: u64) -> &mut u16 {
        let hash = host.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let count = &mut self.counts[(hash >> (64 - PLACE_BITS)) as usize];
        let tag = (hash >> (56 - PLACE_BITS)) as u16 & 0xff;
        if *count >> 8 != tag {
            *count = tag << 8;
        }
        count
    }

    /// The code at host address `host` is met; whether it is to be translated now, with so much patience for new code.
    pub fn meet(&mut self, host: u64, patience: u8) -> bool {
        let count = self.count(host);
        let (meetings, losses) = (*count as u8 & 0xf, usize::from(*count >> 4 & 0xf));
        if meetings >= PATIENCE_LOST[losses].max(patience) {
            return true;
        }
        *count += 1;
        false
    }

    /// The translation of the code at `host` was thrown away because its bytes were written.
    pub fn lose(&mut self, host: u64) {
        let count = self.count(host);
        let losses = (usize::from(*count >> 4 & 0xf) + 1).min(PATIENCE_LOST.len() - 1);
        *count = *count & 0xff00 | (losses as u16) << 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_translated_at_once_and_later_each_time_it_was_rewritten() {
        let mut warmth = Warmth::new();
        for patience in [0, 2, 4, 8, 15, 15] {
            for _ in 0..patience {
                assert!(!warmth.meet(0x1000, 0));
            }
            assert!(warmth.meet(0x1000, 0));
            assert!(warmth.meet(0x1000, 0), "and stays so");
            warmth.lose(0x1000);
        }
        assert!(warmth.meet(0x1001, 0), "other code is new");
    }
}
