//! Surroundings without devices: ports and addresses outside RAM read as ones, nothing is ever pending.

use gasang_cpu::{Platform, Trap};
use gasang_translate::CodePages;
use std::sync::Arc;

/// The surroundings of a processor under test.
#[derive(Debug)]
pub struct Surroundings {
    pages: Arc<CodePages>,
    clock: u64,
    task_priority: u8,
}

impl Surroundings {
    /// Surroundings that pass on which code was written.
    pub fn new(pages: Arc<CodePages>) -> Surroundings {
        Surroundings { pages, clock: 0, task_priority: 0 }
    }
}

impl Platform for Surroundings {
    fn port_read(&mut self, _: u16, _: u8) -> Result<u32, Trap> {
        Ok(!0)
    }

    fn port_write(&mut self, _: u16, _: u8, _: u32) -> Result<(), Trap> {
        Ok(())
    }

    fn mmio_read(&mut self, _: u64, _: u8) -> Result<u64, Trap> {
        Ok(!0)
    }

    fn mmio_write(&mut self, _: u64, _: u8, _: u64) -> Result<(), Trap> {
        Ok(())
    }

    fn msr_read(&mut self, _: u32) -> Option<Result<u64, Trap>> {
        None
    }

    fn msr_write(&mut self, _: u32, _: u64, _: u64) -> Option<Result<(), Trap>> {
        None
    }

    fn task_priority(&mut self) -> u8 {
        self.task_priority
    }

    fn set_task_priority(&mut self, value: u8) {
        self.task_priority = value;
    }

    fn time_stamp_counter(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn random(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn code_written(&mut self, host: u64, length: u64) {
        self.pages.note(0, host, length);
    }

    fn iteration_committed(&mut self) {}
}
