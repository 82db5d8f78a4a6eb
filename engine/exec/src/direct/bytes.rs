//! The bytes of an instruction.

use gasang_memory::{GuestMemory, PAGE_SIZE};
use iced_x86::{Decoder, DecoderError, DecoderOptions};

/// The longest instruction.
const LONGEST: usize = 15;

/// What is left of an instruction's bytes, the next one lowest; beyond the instruction's end it may be anything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bytes {
    rest: u128,
    taken: u64,
}

impl Bytes {
    /// The bytes at host address `host`; None if the instruction may go on in the next page.
    #[inline]
    pub(super) fn fetch(memory: &GuestMemory, host: u64) -> Option<Bytes> {
        if host & (PAGE_SIZE - 1) > PAGE_SIZE - 16 {
            return Bytes::fetch_last(memory, host);
        }
        let (low, high) = (memory.load(host, 8), memory.load(host + 8, 8));
        Some(Bytes { rest: u128::from(high) << 64 | u128::from(low), taken: 0 })
    }

    /// The same close to the end of the page.
    #[cold]
    fn fetch_last(memory: &GuestMemory, host: u64) -> Option<Bytes> {
        let mut bytes = [0; 16];
        let left = (PAGE_SIZE - host % PAGE_SIZE) as usize;
        memory.copy_out(host, &mut bytes[..left]);
        let mut decoder = Decoder::new(64, &bytes[..left.min(LONGEST)], DecoderOptions::NONE);
        let _ = decoder.decode();
        (decoder.last_error() != DecoderError::NoMoreBytes)
            .then_some(Bytes { rest: u128::from_le_bytes(bytes), taken: 0 })
    }

    /// How many were taken.
    #[inline]
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// The next byte, which stays.
    #[inline]
    pub(super) fn peek(&self) -> u8 {
        self.rest as u8
    }

    #[inline]
    pub(super) fn byte(&mut self) -> u8 {
        let byte = self.rest as u8;
        self.rest >>= 8;
        self.taken += 1;
        byte
    }

    /// A signed byte.
    #[inline]
    pub(super) fn short(&mut self) -> u64 {
        self.byte() as i8 as u64
    }

    #[inline]
    pub(super) fn word(&mut self) -> u64 {
        let word = self.rest as u16;
        self.rest >>= 16;
        self.taken += 2;
        u64::from(word)
    }

    /// A signed doubleword.
    #[inline]
    pub(super) fn long(&mut self) -> u64 {
        let long = self.rest as i32 as u64;
        self.rest >>= 32;
        self.taken += 4;
        long
    }

    #[inline]
    pub(super) fn quad(&mut self) -> u64 {
        let quad = self.rest as u64;
        self.rest >>= 64;
        self.taken += 8;
        quad
    }
}
