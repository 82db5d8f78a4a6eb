//! What a translator is made with; the stress modes are environment switches.

/// Size of the code cache under GASANG_TINY_CACHE.
const TINY_CACHE: u32 = 256 << 10;

/// Times that new code is executed before it is translated.
const PATIENCE: u8 = 4;

/// Instructions between two looks at which block is executed.
const LOOK_PERIOD: u64 = 1 << 12;

/// The same under GASANG_HOT.
const LOOK_PERIOD_HOT: u64 = 100;

/// Options of a translator.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Size of the code cache in bytes.
    pub cache_bytes: u32,
    /// The code cache asks the host for large pages.
    pub large_pages: bool,
    /// Status flags are exact at every instruction, even where the guest overwrites them before it reads them.
    pub strict_flags: bool,
    /// Keep a listing of each block.
    pub trace: bool,
    /// Blocks count how often they are executed.
    pub count_blocks: bool,
    /// Instructions between two looks at which block is executed, about; 0 for no superblocks.
    pub look_period: u64,
    /// Looks that make a block hot.
    pub looks: u8,
    /// Superblocks look for their accesses in regions first.
    pub regions: bool,
    /// Translate all code when it is met first.
    pub eager: bool,
    /// Times that new code is executed directly before it is translated, if not `eager`; more than 15 stand for ever.
    pub patience: u8,
    /// Throw everything away whenever translated code is written.
    pub flush_on_write: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cache_bytes: 64 << 20,
            large_pages: true,
            strict_flags: false,
            trace: false,
            count_blocks: false,
            look_period: 0,
            looks: 2,
            regions: true,
            eager: true,
            patience: 0,
            flush_on_write: false,
        }
    }
}

impl Options {
    /// For machines: code that is new or was rewritten waits for its translation. GASANG_EAGER=1 has it translated at once,
    /// as do the other switches: GASANG_STRICT_FLAGS=1, GASANG_TINY_CACHE=1 and GASANG_FLUSH_ON_WRITE=1. GASANG_NO_DIRECT=1
    /// has new code translated at once, but not what was rewritten; GASANG_COLD=1 has none translated that can be executed
    /// directly. GASANG_HOT=1 makes superblocks of whatever is executed, GASANG_NO_SUPERBLOCKS=1 none, GASANG_NO_REGIONS=1
    /// such that know no regions. GASANG_SMALL_PAGES=1 leaves the code cache's pages as the host makes them.
    pub fn from_environment() -> Options {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| value == "1");
        let defaults = Options::default();
        let (strict_flags, flush_on_write) = (set("GASANG_STRICT_FLAGS"), set("GASANG_FLUSH_ON_WRITE"));
        let tiny = set("GASANG_TINY_CACHE");
        let (hot, cold) = (set("GASANG_HOT"), set("GASANG_NO_SUPERBLOCKS"));
        Options {
            strict_flags,
            flush_on_write,
            look_period: if hot {
                LOOK_PERIOD_HOT
            } else if cold {
                0
            } else {
                LOOK_PERIOD
            },
            looks: if hot { 1 } else { defaults.looks },
            regions: !set("GASANG_NO_REGIONS"),
            eager: set("GASANG_EAGER") || strict_flags || flush_on_write || tiny,
            patience: if set("GASANG_COLD") {
                u8::MAX
            } else if set("GASANG_NO_DIRECT") {
                0
            } else {
                PATIENCE
            },
            cache_bytes: if tiny { TINY_CACHE } else { defaults.cache_bytes },
            large_pages: !set("GASANG_SMALL_PAGES"),
            ..defaults
        }
    }
}
