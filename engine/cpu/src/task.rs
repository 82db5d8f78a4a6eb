//! Hardware task switches (SDM vol. 3, chapter 7).
#![allow(unused_variables)]

use crate::core::Core;
use crate::delivery::Event;
use crate::descriptors::Descriptor;
use crate::exception::Trap;

/// What causes a task switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskSwitch {
    Jump,
    Call,
    Interrupt,
    Return,
}

impl Core<'_> {
    /// Deliver an event through a task gate.
    pub(crate) fn deliver_to_task(&mut self, event: &Event, gate: &Descriptor) -> Result<(), Trap> {
        todo!()
    }

    pub(crate) fn switch_task(
        &mut self,
        selector: u16,
        switch: TaskSwitch,
        next: u64,
        external: u32,
    ) -> Result<(), Trap> {
        todo!()
    }
}
