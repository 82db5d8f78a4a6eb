//! The devices of a PC that are too hot for Python, as pure functions of (state, virtual time, access).
//!
//! Nothing here reads a clock: `now` is virtual time in nanoseconds, given with each access by the one clock
//! that the virtual machine owns. Each device knows register offsets and its own pins; [`Chipset`] alone knows
//! addresses, interrupt numbers and who is wired to whom.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod chipset;
mod elsewhere;
mod fabric;
pub mod hpet;
pub mod ioapic;
pub mod lapic;
pub mod message;
pub mod pic;
pub mod pit;
mod pit_channel;
pub mod pm_timer;
mod routing;
mod time;
pub mod uart;

pub use chipset::{Chipset, Pending, UART_COUNT};
pub use elsewhere::{Controllers, Outward};
pub use lapic::{APIC_TIMER_HZ, GeneralProtection};
pub use message::{Delivery, InterruptMessage};
