//! Which code is worth translating: what was met some times, and what was rewritten only when it is met again and again.
//!
//! What is not translated is executed directly, or by T0, which remembers what it decoded; neither needs to watch the bytes
//! for writes. Code that is executed a few times, or rewritten between its runs, is left to them.

use gasang_memory::Zeroes;

/// log2 of how many places there are for counts.
const PLACE_BITS: u32 = 19;
/// Meetings before a translation, by how often the translation was thrown away.
const PATIENCE: [u8; 5] = [0, 2, 4, 8, MOST];
/// As many meetings as are counted.
const MOST: u8 = 15;
/// After so many meetings each place forgets half of its own: code that is met once leaves no trace for ever.
const MEMORY: u32 = 1 << 20;

/// Counts by place: meetings in the low four bits, translations thrown away in the high four. Code that shares a place
/// shares its counts: it is translated a little sooner, or later.
#[derive(Debug)]
pub struct Warmth {
    counts: Zeroes<u8>,
    /// Meetings counted since each place forgot half of them.
    counted: u32,
}

impl Warmth {
    /// Nothing was met yet.
    pub fn new() -> Warmth {
        Warmth { counts: Zeroes::new(1 << PLACE_BITS), counted: 0 }
    }

    /// The count for `host`.
    #[inline]
    fn count(&mut self, host: u64) -> &mut u8 {
        let hash = host.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &mut self.counts[(hash >> (64 - PLACE_BITS)) as usize]
    }

    /// The code at host address `host` is met; whether it is to be translated now, with so much patience for new code.
    #[inline]
    pub fn meet(&mut self, host: u64, patience: u8) -> bool {
        let count = self.count(host);
        let (meetings, losses) = (*count & 0xf, usize::from(*count >> 4));
        if meetings >= PATIENCE[losses].max(patience) {
            return true;
        }
        if meetings == MOST {
            return false;
        }
        *count += 1;
        self.counted += 1;
        if self.counted == MEMORY {
            self.forget_half();
        }
        false
    }

    /// The translation of the code at `host` was thrown away because its bytes were written.
    pub fn lose(&mut self, host: u64) {
        let count = self.count(host);
        let losses = (usize::from(*count >> 4) + 1).min(PATIENCE.len() - 1);
        *count = (losses as u8) << 4;
    }

    #[cold]
    fn forget_half(&mut self) {
        self.counted = 0;
        self.counts.iter_mut().for_each(|count| *count = *count & 0xf0 | (*count & 0xf) / 2);
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

    #[test]
    fn new_code_is_met_as_often_as_there_is_patience() {
        let mut warmth = Warmth::new();
        for _ in 0..2 {
            assert_eq!((0..).take_while(|_| !warmth.meet(0x1000, 4)).count(), 4);
            // A first loss asks for less.
            warmth.lose(0x1000);
        }
        assert!((0..100).all(|_| !warmth.meet(0x1001, u8::MAX)));
    }

    #[test]
    fn code_that_is_met_once_is_forgotten() {
        let mut warmth = Warmth::new();
        for host in 0..u64::from(4 * MEMORY) {
            warmth.meet(host << 4, 4);
        }
        let new = (0..1000).filter(|host| warmth.meet(host << 40 | 8, 4)).count();
        assert!(new < 900, "{new} of 1000");
    }
}
