//! What is counted of a translator's work.

/// What a translator has done since it was made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Statistics {
    /// Blocks translated.
    pub blocks: u64,
    /// Superblocks among them.
    pub superblocks: u64,
    /// Guest instructions translated.
    pub translated: u64,
    /// Nanoseconds spent on translating.
    pub translation_time: u64,
    /// Blocks thrown away because their bytes were written.
    pub invalidated: u64,
    /// Times that the whole cache was thrown away.
    pub cache_flushes: u64,
    /// Instructions that T0 executed.
    pub interpreted: u64,
    /// Instructions executed directly, because they were met too seldom for a translation.
    pub direct: u64,
    /// Entries to generated code.
    pub entries: u64,
    /// TLB misses of generated code.
    pub misses: u64,
    /// Searches for a region.
    pub regions: u64,
    /// Exits for extended state.
    pub extended: u64,
    /// Lookups after indirect jumps.
    pub lookups: u64,
    /// Host faults in generated code.
    pub faults: u64,
}
