//! A network for one guest, in user mode: Ethernet frames on the guest's side, ordinary sockets on the host's.
//!
//! The guest finds a router, a DHCP server and a name server. TCP ends here (smoltcp) and goes on as a
//! connection of the host's; datagrams and echo requests go through sockets of their own. Whom the guest may
//! reach, rules say. Nothing is kept of the guest's beyond fixed numbers of connections and bytes.

#![forbid(unsafe_code)]

pub mod addresses;
mod datagram;
mod dhcp;
mod dns;
mod frame;
mod network;
mod policy;
mod stream;
mod wire;

pub use network::{Network, Options};
pub use policy::Policy;
pub use stream::{Broken, Ends};
