//! The DHCP server (RFC 2131): the guest gets its address, whatever it asks for.

use crate::addresses::{GATEWAY, GUEST, MTU, NAME_SERVER, NETMASK};
use crate::frame;
use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress, EthernetFrame};
use std::net::Ipv4Addr;

/// The port that a server listens at.
pub const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
const LEASE_SECONDS: u32 = 86400;
const INTERFACE_MTU: u8 = 26; // RFC 2132, 5.1

/// The frame that answers a client's message, if that is one to answer.
pub fn answer(message: &[u8]) -> Option<Vec<u8>> {
    let packet = DhcpPacket::new_checked(message).ok()?;
    let request = DhcpRepr::parse(&packet).ok()?;
    let kind = match request.message_type {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        DhcpMessageType::Request if wants_another(&request) => DhcpMessageType::Nak,
        DhcpMessageType::Request | DhcpMessageType::Inform => DhcpMessageType::Ack,
        _ => return None,
    };
    if request.server_identifier.is_some_and(|server| server != GATEWAY) {
        return None;
    }
    let reply = reply(kind, &request);
    let mut bytes = vec![0; reply.buffer_len()];
    reply.emit(&mut DhcpPacket::new_unchecked(&mut bytes[..])).ok()?;
    // The client may have no address yet.
    let to = (Ipv4Addr::BROADCAST, CLIENT_PORT);
    let mut frame = frame::udp(EthernetAddress::BROADCAST, (GATEWAY, SERVER_PORT), to, &bytes);
    if !request.broadcast {
        EthernetFrame::new_unchecked(&mut frame[..]).set_dst_addr(request.client_hardware_address);
    }
    Some(frame)
}

fn wants_another(request: &DhcpRepr) -> bool {
    let wanted = request.requested_ip.unwrap_or(request.client_ip);
    wanted != GUEST && wanted != Ipv4Addr::UNSPECIFIED
}

fn reply<'a>(kind: DhcpMessageType, request: &DhcpRepr) -> DhcpRepr<'a> {
    const MTU_OPTION: DhcpOption = DhcpOption { kind: INTERFACE_MTU, data: &(MTU as u16).to_be_bytes() };
    let granted = kind != DhcpMessageType::Nak;
    DhcpRepr {
        message_type: kind,
        transaction_id: request.transaction_id,
        secs: 0,
        client_hardware_address: request.client_hardware_address,
        client_ip: Ipv4Addr::UNSPECIFIED,
        your_ip: if granted { GUEST } else { Ipv4Addr::UNSPECIFIED },
        server_ip: GATEWAY,
        router: granted.then_some(GATEWAY),
        subnet_mask: granted.then_some(NETMASK),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: request.broadcast,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(GATEWAY),
        parameter_request_list: None,
        dns_servers: granted.then(|| [NAME_SERVER].into_iter().collect()),
        max_size: None,
        lease_duration: granted.then_some(LEASE_SECONDS),
        renew_duration: None,
        rebind_duration: None,
        additional_options: if granted { &[MTU_OPTION] } else { &[] },
    }
}
