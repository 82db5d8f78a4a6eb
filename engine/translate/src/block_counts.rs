//! How often each block was executed, counted by the blocks themselves: four instructions more at the head of each.

use crate::blocks::Blocks;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// No block is shorter, in bytes of host code.
const SHORTEST: u32 = 64;

/// The blocks at one guest address, whatever was translated there in turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Executions {
    /// Times that they were entered.
    pub times: u64,
    /// Guest instructions in them, all times together. An instruction that faults, or that T0 executes instead, and
    /// those after it in its block count too.
    pub instructions: u64,
}

/// Counters of one translator's blocks.
#[derive(Debug)]
pub struct BlockCounts {
    /// By the block's number. Generated code increments them.
    counts: Box<[AtomicU64]>,
    /// Of blocks that are gone, by guest address.
    gone: HashMap<u64, Executions>,
}

impl BlockCounts {
    /// Counters for as many blocks as a code cache of `cache_bytes` may hold.
    pub fn new(cache_bytes: u32) -> BlockCounts {
        BlockCounts {
            counts: (0..cache_bytes / SHORTEST).map(|_| AtomicU64::new(0)).collect(),
            gone: HashMap::new(),
        }
    }

    /// Whether there is a counter for the block numbered `block`.
    pub fn has(&self, block: u32) -> bool {
        (block as usize) < self.counts.len()
    }

    /// Address of the counter of block 0, for generated code.
    pub fn address(&self) -> u64 {
        self.counts.as_ptr() as u64
    }

    /// Before all blocks go, and their numbers begin anew.
    pub fn keep(&mut self, blocks: &Blocks) {
        add(&mut self.gone, &self.counts, blocks);
        let used = self.counts.iter().take(blocks.all().len());
        used.for_each(|count| count.store(0, Ordering::Relaxed));
    }

    /// Executions by guest address, of all blocks that there were.
    pub fn executions(&self, blocks: &Blocks) -> Vec<(u64, Executions)> {
        let mut all = self.gone.clone();
        add(&mut all, &self.counts, blocks);
        all.into_iter().collect()
    }
}

fn add(to: &mut HashMap<u64, Executions>, counts: &[AtomicU64], blocks: &Blocks) {
    for (block, count) in blocks.all().iter().zip(counts) {
        let times = count.load(Ordering::Relaxed);
        if times != 0 {
            let found = to.entry(block.linear).or_default();
            found.times += times;
            found.instructions += times * u64::from(block.instructions);
        }
    }
}
