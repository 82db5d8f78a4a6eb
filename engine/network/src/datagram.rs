//! Datagrams and echoes: one socket of the host's for each pair of ends, until nothing passed for a while.

use crate::addresses::{GUEST, MTU};
use crate::frame;
use crate::wire::Wire;
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr};
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Sockets at most: one more takes the place of that which was used longest ago.
const MOST_FLOWS: usize = 256;
const IDLE: Duration = Duration::from_secs(60);
const HEADERS: usize = 28;

/// What tells datagrams of one conversation from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ends {
    /// A port of the guest's, and a peer's address and port as the guest knows them.
    Udp(u16, (Ipv4Addr, u16)),
    /// The identifier of echo requests, and whom they go to.
    Echo(u16, Ipv4Addr),
}

struct Flow {
    ends: Ends,
    socket: UdpSocket,
    used: Instant,
    /// The names that were asked for, by the number of the question (RFC 1035).
    asked: HashMap<u16, String>,
}

/// All conversations.
#[derive(Default)]
pub struct Datagrams {
    flows: HashMap<Token, Flow>,
    tokens: HashMap<Ends, Token>,
}

impl Datagrams {
    /// Send `data` to the host's `address` for a conversation; `name` is what it asks a name server for.
    pub fn send(
        &mut self,
        ends: Ends,
        address: SocketAddr,
        data: &[u8],
        name: Option<String>,
        token: Token,
        registry: &Registry,
    ) -> io::Result<()> {
        let token = match self.tokens.get(&ends) {
            Some(&token) => token,
            None => self.begin(ends, address, token, registry)?,
        };
        let Some(flow) = self.flows.get_mut(&token) else { return Ok(()) };
        flow.used = Instant::now();
        if let (Some(name), [high, low, ..]) = (name, data) {
            if flow.asked.len() >= MOST_FLOWS {
                flow.asked.clear();
            }
            flow.asked.insert(u16::from_be_bytes([*high, *low]), name);
        }
        flow.socket.send(data).map(drop)
    }

    /// Take what came for a conversation. `heard` is told a name that was asked for and the reply. False if it
    /// is none of ours.
    pub fn ready(&mut self, token: Token, wire: &mut Wire, mut heard: impl FnMut(&str, &[u8])) -> bool {
        let Some(flow) = self.flows.get_mut(&token) else { return false };
        let mut data = vec![0; MTU - HEADERS];
        // An error is that of a datagram sent before: there is nobody, which its sender finds out itself.
        while let Ok(count) = flow.socket.recv(&mut data) {
            let data = &data[..count];
            flow.used = Instant::now();
            if let [high, low, ..] = *data
                && let Some(name) = flow.asked.remove(&u16::from_be_bytes([high, low]))
            {
                heard(&name, data);
            }
            if let Some(frame) = flow.frame(data, wire) {
                wire.send(frame);
            }
        }
        true
    }

    /// Forget what was not used for a while.
    pub fn expire(&mut self) {
        let old = self.flows.iter().filter(|(_, flow)| flow.used.elapsed() > IDLE);
        for token in old.map(|(&token, _)| token).collect::<Vec<_>>() {
            self.forget(token);
        }
    }

    /// There is a conversation, so `expire` has something to do some time.
    pub fn any(&self) -> bool {
        !self.flows.is_empty()
    }

    fn begin(
        &mut self,
        ends: Ends,
        address: SocketAddr,
        token: Token,
        registry: &Registry,
    ) -> io::Result<Token> {
        if self.flows.len() >= MOST_FLOWS {
            let oldest = self.flows.iter().min_by_key(|(_, flow)| flow.used).map(|(&token, _)| token);
            oldest.into_iter().for_each(|token| self.forget(token));
        }
        let mut socket = match ends {
            Ends::Udp(..) => UdpSocket::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?,
            Ends::Echo(..) => {
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, Some(ipproto::ICMP))?;
                UdpSocket::from_std(socket.into())
            }
        };
        socket.connect(address)?;
        registry.register(&mut socket, token, Interest::READABLE)?;
        self.tokens.insert(ends, token);
        self.flows.insert(token, Flow { ends, socket, used: Instant::now(), asked: HashMap::new() });
        Ok(token)
    }

    fn forget(&mut self, token: Token) {
        if let Some(flow) = self.flows.remove(&token) {
            self.tokens.remove(&flow.ends);
        }
    }
}

impl Flow {
    /// The frame that brings an answer to the guest.
    fn frame(&self, data: &[u8], wire: &Wire) -> Option<Vec<u8>> {
        match self.ends {
            Ends::Udp(port, peer) => Some(frame::udp(wire.guest, peer, (GUEST, port), data)),
            Ends::Echo(ident, peer) => {
                let packet = Icmpv4Packet::new_checked(data).ok()?;
                match Icmpv4Repr::parse(&packet, &ChecksumCapabilities::ignored()).ok()? {
                    Icmpv4Repr::EchoReply { seq_no, data, .. } => {
                        // The host's kernel put an identifier of its own into the request.
                        let reply = Icmpv4Repr::EchoReply { ident, seq_no, data };
                        Some(frame::icmp(wire.guest, (peer, GUEST), &reply))
                    }
                    _ => None,
                }
            }
        }
    }
}
