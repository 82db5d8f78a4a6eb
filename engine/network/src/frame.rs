//! Ethernet frames as they are made for the guest; those from it are taken apart where they are understood.

use crate::addresses::GATEWAY_MAC;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv4Packet, Icmpv4Repr, IpProtocol,
    Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};
use std::net::Ipv4Addr;

const ETHERNET: usize = 14;
const HOP_LIMIT: u8 = 64;

/// A frame to `to` with a payload of `length` bytes that `write` fills.
pub fn ethernet(
    to: EthernetAddress,
    kind: EthernetProtocol,
    length: usize,
    write: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET + length];
    EthernetRepr { src_addr: GATEWAY_MAC, dst_addr: to, ethertype: kind }
        .emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
    write(&mut frame[ETHERNET..]);
    frame
}

/// A frame with an IP packet whose payload `write` fills.
pub fn ipv4(
    to: EthernetAddress,
    (source, destination): (Ipv4Addr, Ipv4Addr),
    protocol: IpProtocol,
    length: usize,
    write: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let header = Ipv4Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: protocol,
        payload_len: length,
        hop_limit: HOP_LIMIT,
    };
    ethernet(to, EthernetProtocol::Ipv4, header.buffer_len() + length, |packet| {
        header.emit(&mut Ipv4Packet::new_unchecked(&mut *packet), &ChecksumCapabilities::default());
        write(&mut packet[header.buffer_len()..]);
    })
}

/// A frame with a datagram from one address and port to another.
pub fn udp(
    to: EthernetAddress,
    (source, source_port): (Ipv4Addr, u16),
    (destination, destination_port): (Ipv4Addr, u16),
    data: &[u8],
) -> Vec<u8> {
    let header = UdpRepr { src_port: source_port, dst_port: destination_port };
    ipv4(to, (source, destination), IpProtocol::Udp, header.header_len() + data.len(), |packet| {
        header.emit(
            &mut UdpPacket::new_unchecked(packet),
            &source.into(),
            &destination.into(),
            data.len(),
            |payload| payload.copy_from_slice(data),
            &ChecksumCapabilities::default(),
        );
    })
}

/// A frame with a message of ICMP.
pub fn icmp(to: EthernetAddress, ends: (Ipv4Addr, Ipv4Addr), message: &Icmpv4Repr) -> Vec<u8> {
    ipv4(to, ends, IpProtocol::Icmp, message.buffer_len(), |packet| {
        message.emit(&mut Icmpv4Packet::new_unchecked(packet), &ChecksumCapabilities::default());
    })
}
