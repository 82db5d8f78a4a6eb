//! T1: the block translator.
//!
//! Guest code becomes host code block by block. Most instructions run as themselves on the guest's registers, which are
//! in the host's registers of the same name; memory operands go through an inline TLB check; control transfers are
//! linked block to block; everything sensitive leaves to T0, one precise instruction at a time.

mod assembler;
mod block_counts;
mod blocks;
mod branches;
mod cache;
mod code_log;
mod code_pages;
mod cold;
mod decode;
mod emit;
mod entry;
mod host_state;
mod invalidation;
mod jumps;
mod kick;
mod listing;
mod measured;
mod modes;
mod non_root;
mod operations;
mod options;
mod plan;
mod profile;
mod refill;
mod site;
mod slots;
mod statistics;
mod strings;
mod superblocks;
mod system;
mod time;
mod transitions;
mod translation;
mod translator;
mod vmcs_fields;
mod warmth;

pub use block_counts::Executions;
pub use code_log::{CodeLog, CodeRecord};
pub use code_pages::{CodePages, Inside};
pub use host_state::check_host;
pub use listing::{BlockListing, disassemble};
pub use options::Options;
pub use profile::{Measured, Measurements, Phase, Profile};
pub use statistics::Statistics;
pub use translator::Translator;
