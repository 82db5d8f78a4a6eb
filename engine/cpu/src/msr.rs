//! Model-specific registers and the time-stamp counter (SDM vol. 4).
#![allow(unused_variables)]

use crate::core::Core;
use crate::exception::Trap;

impl Core<'_> {
    /// RDMSR.
    ///
    /// # Errors
    /// #GP(0) at CPL > 0 and for an unknown register.
    pub fn rdmsr(&mut self, index: u32) -> Result<u64, Trap> {
        todo!()
    }

    /// WRMSR.
    ///
    /// # Errors
    /// #GP(0) at CPL > 0, for an unknown register, and for a value it refuses.
    pub fn wrmsr(&mut self, index: u32, value: u64) -> Result<(), Trap> {
        todo!()
    }

    /// RDTSC.
    ///
    /// # Errors
    /// #GP(0) at CPL > 0 under CR4.TSD.
    pub fn rdtsc(&mut self) -> Result<u64, Trap> {
        todo!()
    }

    /// RDTSCP: the counter, and what ECX receives.
    ///
    /// # Errors
    /// As `rdtsc`; #UD if the model lacks it.
    pub fn rdtscp(&mut self) -> Result<(u64, u32), Trap> {
        todo!()
    }

    /// RDPID.
    ///
    /// # Errors
    /// #UD if the model lacks it.
    pub fn rdpid(&mut self) -> Result<u64, Trap> {
        todo!()
    }

    /// RDPMC: there are no performance counters.
    ///
    /// # Errors
    /// #GP(0) always.
    pub fn rdpmc(&mut self, index: u32) -> Result<u64, Trap> {
        todo!()
    }

    /// The guest's time-stamp counter.
    pub fn time_stamp_counter(&mut self) -> u64 {
        todo!()
    }
}
