//! Where translated code lies, for profilers.

use std::sync::{Mutex, PoisonError};

/// A block's place on the host, and where it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeRecord {
    /// Host address of its code.
    pub host: u64,
    /// Bytes of code.
    pub size: u32,
    /// Guest address.
    pub linear: u64,
    /// Guest instructions.
    pub instructions: u32,
    /// Translated for CPL 3.
    pub user: bool,
}

/// What was translated since it was last asked for. Translators add to it, and any thread may ask.
#[derive(Debug, Default)]
pub struct CodeLog(Mutex<Vec<CodeRecord>>);

impl CodeLog {
    /// Note a block.
    pub fn add(&self, record: CodeRecord) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    }

    /// The blocks since the last call, in the order of their translation.
    pub fn take(&self) -> Vec<CodeRecord> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
