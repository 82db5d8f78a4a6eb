//! Who is who on the guest's network, the same in every machine: QEMU's numbers, which people know.

use smoltcp::wire::EthernetAddress;
use std::net::Ipv4Addr;

/// The guest, as DHCP tells it.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// The router; behind it, where a rule says `host`, is the host's loopback.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The name server.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// Of the network, whose first three bytes are those of the others.
pub const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
/// Bytes of prefix.
pub const PREFIX: u8 = 24;
/// Whatever is not the guest has this address on the wire: locally administered, not of any maker.
pub const GATEWAY_MAC: EthernetAddress = EthernetAddress([0x52, 0x55, 10, 0, 2, 2]);

/// Bytes of the largest IP packet: with it a TCP segment is as long as one may be, and nobody has to cut.
pub const MTU: usize = 65520;

/// Whether an address is one of the guest's network.
pub fn is_local(address: Ipv4Addr) -> bool {
    address.octets()[..3] == GATEWAY.octets()[..3]
}
