//! Delivery of exceptions and interrupts (SDM vol. 3, chapter 6).
#![allow(unused_variables)]

use crate::core::Core;
use crate::exception::{Exception, Trap};

impl Core<'_> {
    /// Deliver an exception; `state.rip` is what the frame saves. Faults met on the way are delivered in its place, as
    /// #DF if the two do not go together.
    ///
    /// # Errors
    /// `Shutdown` for a triple fault (the activity is then `Shutdown`), `Pending`.
    pub fn deliver_exception(&mut self, exception: Exception) -> Result<(), Trap> {
        todo!()
    }

    /// Deliver an external interrupt between instructions; `state.rip` is the next instruction. Wakes from HLT.
    ///
    /// # Errors
    /// As `deliver_exception`.
    pub fn deliver_interrupt(&mut self, vector: u8) -> Result<(), Trap> {
        todo!()
    }

    /// Deliver an NMI between instructions and block the next until IRET.
    ///
    /// # Errors
    /// As `deliver_exception`.
    pub fn deliver_nmi(&mut self) -> Result<(), Trap> {
        todo!()
    }

    /// INT n, INT3 (vector 3), INTO (vector 4): gate and VM86 privilege checks included.
    ///
    /// # Errors
    /// An exception still to be delivered (`state.rip` unchanged), `Pending`.
    pub fn software_interrupt(&mut self, vector: u8, next: u64) -> Result<(), Trap> {
        todo!()
    }

    /// INT1: #DB without the checks of INT n.
    ///
    /// # Errors
    /// As `software_interrupt`.
    pub fn icebp(&mut self, next: u64) -> Result<(), Trap> {
        todo!()
    }
}
