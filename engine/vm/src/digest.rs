//! Digests of RAM and of everything else, to compare two machines.

use gasang_memory::{GuestMemory, PAGE_SIZE};
use std::hash::{Hash, Hasher};

fn mix(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// A hasher that gives the same number in every process, unlike the standard library's.
struct Stable(u64);

impl Hasher for Stable {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let word = chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
            self.0 = mix(self.0, word);
        }
    }
}

/// The digest of a value.
pub(crate) fn of(value: &impl Hash) -> u64 {
    let mut hasher = Stable(1);
    value.hash(&mut hasher);
    hasher.finish()
}

/// Hash of a page at its place; 0 for a page of zeros, which is the same as one never touched.
fn page(index: u64, bytes: &[u8; PAGE_SIZE as usize]) -> u64 {
    // Four independent lanes, so that the multiplications overlap.
    let mut lanes = [index, 1, 2, 3];
    let mut any = 0;
    for chunk in bytes.chunks_exact(32) {
        for (lane, word) in lanes.iter_mut().zip(chunk.chunks_exact(8)) {
            let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
            any |= word;
            *lane = mix(*lane, word);
        }
    }
    if any == 0 { 0 } else { lanes.into_iter().fold(index, mix) }
}

/// The digest. Memory that was never touched costs nothing.
///
/// # Errors
/// What the host says.
pub(crate) fn memory(memory: &GuestMemory) -> std::io::Result<u64> {
    let mut digest = 0u64;
    let mut bytes = [0; PAGE_SIZE as usize];
    for range in memory.populated()? {
        for index in range.start / PAGE_SIZE..range.end / PAGE_SIZE {
            memory.copy_out(memory.base() + index * PAGE_SIZE, &mut bytes);
            digest = digest.wrapping_add(page(index, &bytes));
        }
    }
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_contents_have_equal_digests_whatever_was_touched() {
        let (one, two) =
            (GuestMemory::new(64 * PAGE_SIZE).unwrap(), GuestMemory::new(64 * PAGE_SIZE).unwrap());
        one.write_physical(0x5123, b"gasang").unwrap();
        two.write_physical(0x9000, &[1; 100]).unwrap();
        two.write_physical(0x9000, &[0; 100]).unwrap();
        two.write_physical(0x5123, b"gasang").unwrap();
        assert_eq!(memory(&one).unwrap(), memory(&two).unwrap());
    }

    #[test]
    fn digests_of_values_depend_on_every_byte_and_on_nothing_else() {
        let value = |byte: u8| ([1u64, 2, 3], vec![0u8, byte], Some(7u32));
        assert_eq!(of(&value(9)), of(&value(9)));
        assert_ne!(of(&value(9)), of(&value(8)));
        assert_eq!(of(&1u64), mix(1, 1));
    }

    #[test]
    fn a_bit_or_a_place_makes_a_difference() {
        let digest = |address: u64, byte: u8| {
            let ram = GuestMemory::new(64 * PAGE_SIZE).unwrap();
            ram.write_physical(address, &[byte]).unwrap();
            memory(&ram).unwrap()
        };
        assert_ne!(digest(0x1000, 1), digest(0x1000, 3));
        assert_ne!(digest(0x1000, 1), digest(0x1008, 1));
        assert_ne!(digest(0x1000, 1), digest(0x2000, 1));
    }
}
