//! The 256-bit registers IRR, ISR and TMR.

use serde::{Deserialize, Serialize};

/// One bit for each vector, in the eight 32-bit words that the guest reads.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
pub(super) struct Vectors([u32; 8]);

impl Vectors {
    pub(super) fn set(&mut self, vector: u8, value: bool) {
        if let Some(word) = self.0.get_mut(usize::from(vector / 32)) {
            let bit = 1 << (vector % 32);
            *word = if value { *word | bit } else { *word & !bit };
        }
    }

    pub(super) fn contains(&self, vector: u8) -> bool {
        self.word(usize::from(vector / 32)) >> (vector % 32) & 1 != 0
    }

    pub(super) fn highest(&self) -> Option<u8> {
        let (index, word) = self.0.iter().enumerate().rev().find(|(_, word)| **word != 0)?;
        Some((index * 32) as u8 + word.ilog2() as u8)
    }

    pub(super) fn from_words(words: [u32; 8]) -> Vectors {
        Vectors(words)
    }

    pub(super) fn word(&self, index: usize) -> u32 {
        self.0.get(index).copied().unwrap_or(0)
    }
}
