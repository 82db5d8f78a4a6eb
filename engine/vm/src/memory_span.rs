//! Guest RAM as a device has it that reads and writes it in place.

use crate::error::Error;
use crate::vm::Vm;
use gasang_memory::GuestMemory;
use std::sync::Arc;

/// Bytes of RAM in one piece, mapped as long as this exists. The guest may change them at any time.
pub struct MemorySpan {
    host: u64,
    length: u64,
    _memory: Arc<GuestMemory>,
}

impl MemorySpan {
    /// Where they are in this process.
    pub fn host(&self) -> u64 {
        self.host
    }

    /// How many.
    pub fn length(&self) -> u64 {
        self.length
    }
}

impl Vm {
    /// RAM at a physical address, in place. Whoever writes it tells by `memory_written`.
    ///
    /// # Errors
    /// If any of it is not RAM.
    pub fn memory_span(&self, address: u64, length: u64) -> Result<MemorySpan, Error> {
        let memory = Arc::clone(&self.shared.memory);
        memory.map().check(address, length.max(1))?;
        let host = memory.host(address).unwrap_or_default();
        Ok(MemorySpan { host, length, _memory: memory })
    }

    /// Give the host back what RAM takes: whole pages, which read as zeroes then.
    ///
    /// # Errors
    /// If any of it is not RAM, or no whole pages; what the host says.
    pub fn discard_memory(&self, address: u64, length: u64) -> Result<(), Error> {
        let discarded = self.shared.memory.discard(address, length);
        discarded
            .map_err(|source| Error::Host { attempt: "cannot discard guest memory".to_owned(), source })?;
        self.shared.memory_written(address, length);
        Ok(())
    }

    /// RAM was written in place: code translated from it is void.
    ///
    /// # Errors
    /// If any of it is not RAM.
    pub fn memory_written(&self, address: u64, length: u64) -> Result<(), Error> {
        self.shared.memory.map().check(address, length)?;
        self.shared.memory_written(address, length);
        Ok(())
    }
}
