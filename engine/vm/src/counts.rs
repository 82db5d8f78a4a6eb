//! What a processor counts.

use crate::exit::Exit;

/// Counters since creation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    pub(crate) instructions: u64,
    pub(crate) exits: [u64; Exit::KINDS],
    pub(crate) interrupts: u64,
    pub(crate) nmis: u64,
    pub(crate) halts: u64,
    pub(crate) tlb_refills: u64,
    pub(crate) tlb_flushes: u64,
    /// The translator's own, by its names.
    pub(crate) translator: Vec<(&'static str, u64)>,
}

impl Counts {
    /// All of them, by name.
    pub(crate) fn list(&self) -> Vec<(&'static str, u64)> {
        let own = [
            ("instructions", self.instructions),
            ("exits", self.exits.iter().sum()),
            ("interrupts", self.interrupts),
            ("nmis", self.nmis),
            ("halts", self.halts),
            ("tlb_refills", self.tlb_refills),
            ("tlb_flushes", self.tlb_flushes),
        ];
        let exits = Exit::NAMES.into_iter().zip(self.exits);
        own.into_iter().chain(exits).chain(self.translator.iter().copied()).collect()
    }
}
