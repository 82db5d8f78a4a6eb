//! TCP: each connection of the guest's ends here, and another one of the host's goes on.

use crate::addresses::{GATEWAY, GUEST, PREFIX};
use crate::frame;
use crate::wire::Wire;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{
    HardwareAddress, IpCidr, IpEndpoint, IpListenEndpoint, IpProtocol, Ipv4Packet, TcpControl, TcpPacket,
    TcpRepr, TcpSeqNumber,
};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

/// Connections at most: one more is refused.
pub const MOST_STREAMS: usize = 512;
/// Bytes on the way in each direction of a connection.
const BUFFER: usize = 256 << 10;
/// How long a guest may take to answer a connection to it.
const HANDSHAKE: Duration = Duration::from_secs(30);
const FIRST_PORT: u16 = 49152;
/// How often TCP and sockets are asked in turn before the guest is; there is always a next time.
const ROUNDS: usize = 16;

/// Both ends of a connection, as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ends {
    /// The guest's port.
    pub guest_port: u16,
    /// Who is at the other end.
    pub peer: (Ipv4Addr, u16),
}

/// What is left of a connection when the rest of it is gone: enough to break it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken {
    /// Its ends.
    pub ends: Ends,
    /// The byte that the guest awaits.
    pub awaited: u32,
}

enum Phase {
    /// The host connects; the guest's SYN waits for the outcome.
    Connecting { syn: Vec<u8> },
    /// The guest has been answered.
    Open(SocketHandle),
}

struct Flow {
    ends: Ends,
    stream: TcpStream,
    phase: Phase,
    /// The host's socket may have something, or room.
    readable: bool,
    writable: bool,
    /// The host will send no more; the guest will not, though some of what it sent may be on the way.
    ended: bool,
    finished: bool,
    /// The host has been told that the guest will not.
    told: bool,
    /// The host takes nothing any more.
    failed: bool,
    /// The guest answered a connection to it.
    met: bool,
    awaited: u32,
}

/// All connections.
pub struct Streams {
    interface: Interface,
    sockets: SocketSet<'static>,
    flows: HashMap<Token, Flow>,
    tokens: HashMap<Ends, Token>,
    next_port: u16,
}

impl Streams {
    /// None yet.
    pub fn new(wire: &mut Wire, now: Instant, seed: u64) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, wire, now);
        interface.set_any_ip(true);
        interface.update_ip_addrs(|addresses| {
            // There is room for it: an interface has some.
            let _ = addresses.push(IpCidr::new(GATEWAY.into(), PREFIX));
        });
        let _ = interface.routes_mut().add_default_ipv4_route(GATEWAY);
        let sockets = SocketSet::new(Vec::new());
        Self { interface, sockets, flows: HashMap::new(), tokens: HashMap::new(), next_port: 0 }
    }

    /// A segment of the guest's: its IP packet, which is whole. `connect` begins a connection of the host's to
    /// the peer, or refuses.
    pub fn take(
        &mut self,
        packet: &[u8],
        wire: &mut Wire,
        connect: impl FnOnce(Ends) -> Option<(Token, TcpStream)>,
    ) {
        let Some((ends, segment)) = parse(packet) else { return };
        if let Some(&token) = self.tokens.get(&ends) {
            let Some(flow) = self.flows.get_mut(&token) else { return };
            if segment.ack() {
                flow.awaited = number(segment.ack_number());
            }
            match flow.phase {
                Phase::Open(_) => wire.incoming.push_back(packet.to_vec()),
                Phase::Connecting { .. } if segment.rst() => self.forget(token),
                Phase::Connecting { .. } => {}
            }
            return;
        }
        if !segment.syn() || segment.ack() {
            refuse(ends, &segment, wire);
            return;
        }
        match if self.flows.len() < MOST_STREAMS { connect(ends) } else { None } {
            Some((token, stream)) => {
                let phase = Phase::Connecting { syn: packet.to_vec() };
                self.add(token, Flow::new(ends, stream, phase));
            }
            None => refuse(ends, &segment, wire),
        }
    }

    /// Take a connection to the guest that waits, if one does; whether one did. It is lost if there are too many.
    pub fn accept(
        &mut self,
        listener: &TcpListener,
        guest_port: u16,
        token: Token,
        registry: &Registry,
    ) -> bool {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            // Whoever it was is gone; others may wait.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => return true,
            // Nobody waits, or the host has no descriptor left, which asking again does not change.
            Err(_) => return false,
        };
        let Some(ends) = self.free_ends(guest_port) else { return true };
        if registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE).is_err() {
            return true;
        }
        let _ = stream.set_nodelay(true);
        let mut socket = new_socket();
        socket.set_timeout(Some(HANDSHAKE));
        let remote = IpEndpoint::new(GUEST.into(), guest_port);
        let local = IpEndpoint::new(GATEWAY.into(), ends.peer.1);
        if socket.connect(self.interface.context(), remote, local).is_err() {
            return true;
        }
        let handle = self.sockets.add(socket);
        self.add(token, Flow::new(ends, stream, Phase::Open(handle)));
        true
    }

    /// The host's socket of a connection is ready; false if it is none of a connection.
    pub fn ready(&mut self, token: Token, readable: bool, writable: bool) -> bool {
        let Some(flow) = self.flows.get_mut(&token) else { return false };
        flow.readable |= readable;
        flow.writable |= writable;
        true
    }

    /// Pass on all that can be.
    pub fn run(&mut self, wire: &mut Wire, now: Instant) {
        self.open(wire);
        for _ in 0..ROUNDS {
            let changed = self.interface.poll(now, wire, &mut self.sockets) == PollResult::SocketStateChanged;
            let moved = self.exchange();
            if !changed && !moved && (wire.incoming.is_empty() || wire.is_full()) {
                break;
            }
        }
    }

    /// When to `run` again if nothing happens before.
    pub fn wants(&mut self, now: Instant) -> Option<Duration> {
        self.interface.poll_delay(now, &self.sockets)
    }

    /// Every connection, so that another network may break it.
    pub fn broken(&self) -> Vec<Broken> {
        let open = self.flows.values().filter(|flow| matches!(flow.phase, Phase::Open(_)));
        open.map(|flow| Broken { ends: flow.ends, awaited: flow.awaited }).collect()
    }

    fn add(&mut self, token: Token, flow: Flow) {
        self.tokens.insert(flow.ends, token);
        self.flows.insert(token, flow);
    }

    fn forget(&mut self, token: Token) {
        let Some(flow) = self.flows.remove(&token) else { return };
        self.tokens.remove(&flow.ends);
        if let Phase::Open(handle) = flow.phase {
            self.sockets.remove(handle);
        }
        if !(flow.ended && flow.told) {
            // What was broken on one side is broken on the other.
            let _ = rustix::net::sockopt::set_socket_linger(&flow.stream, Some(std::time::Duration::ZERO));
        }
    }

    fn free_ends(&mut self, guest_port: u16) -> Option<Ends> {
        if self.flows.len() >= MOST_STREAMS {
            return None;
        }
        loop {
            self.next_port = (self.next_port + 1) % (u16::MAX - FIRST_PORT);
            let ends = Ends { guest_port, peer: (GATEWAY, FIRST_PORT + self.next_port) };
            if !self.tokens.contains_key(&ends) {
                return Some(ends);
            }
        }
    }

    /// Answer the guest where the host has connected, or failed to.
    fn open(&mut self, wire: &mut Wire) {
        let waiting = self
            .flows
            .iter()
            .filter(|(_, flow)| flow.writable && matches!(flow.phase, Phase::Connecting { .. }));
        for token in waiting.map(|(&token, _)| token).collect::<Vec<_>>() {
            let Some(flow) = self.flows.get_mut(&token) else { continue };
            let Phase::Connecting { syn } = &mut flow.phase else { continue };
            let syn = std::mem::take(syn);
            let failed = !matches!(flow.stream.take_error(), Ok(None)) || flow.stream.peer_addr().is_err();
            let mut socket = new_socket();
            let (address, port) = flow.ends.peer;
            let listens = socket.listen(IpListenEndpoint { addr: Some(address.into()), port }).is_ok();
            if failed || !listens {
                if let Some((ends, segment)) = parse(&syn) {
                    refuse(ends, &segment, wire);
                }
                self.forget(token);
                continue;
            }
            let _ = flow.stream.set_nodelay(true);
            flow.phase = Phase::Open(self.sockets.add(socket));
            wire.incoming.push_back(syn);
        }
    }

    /// Bytes between guest and host; whether there were any, or an end.
    fn exchange(&mut self) -> bool {
        let mut moved = false;
        let mut over = Vec::new();
        for (&token, flow) in &mut self.flows {
            let Phase::Open(handle) = flow.phase else { continue };
            let socket = self.sockets.get_mut::<Socket>(handle);
            moved |= flow.exchange(socket);
            if flow.is_over(socket) {
                over.push(token);
            }
        }
        for token in over {
            self.forget(token);
        }
        moved
    }
}

impl Flow {
    fn new(ends: Ends, stream: TcpStream, phase: Phase) -> Self {
        Self {
            ends,
            stream,
            phase,
            readable: false,
            writable: false,
            ended: false,
            finished: false,
            told: false,
            failed: false,
            met: false,
            awaited: 0,
        }
    }

    fn exchange(&mut self, socket: &mut Socket) -> bool {
        if !self.met && socket.state() == State::Established {
            self.met = true;
            socket.set_timeout(None);
        }
        let mut moved = self.pass_to_host(socket);
        moved |= self.pass_to_guest(socket);
        self.finished |=
            matches!(socket.state(), State::CloseWait | State::LastAck | State::Closing | State::TimeWait);
        if self.finished && !self.told && socket.recv_queue() == 0 {
            let _ = self.stream.shutdown(std::net::Shutdown::Write);
            self.told = true;
            moved = true;
        }
        moved
    }

    fn pass_to_host(&mut self, socket: &mut Socket) -> bool {
        let mut moved = false;
        while self.writable && socket.can_recv() {
            let written = socket.recv(|data| match self.stream.write(data) {
                Ok(count) => (count, Ok(count)),
                Err(error) => (0, Err(error.kind())),
            });
            match written {
                Ok(Ok(count)) => moved |= count > 0,
                Ok(Err(ErrorKind::Interrupted)) => {}
                Ok(Err(ErrorKind::WouldBlock)) => self.writable = false,
                _ => {
                    self.failed = true;
                    socket.abort();
                    return true;
                }
            }
        }
        moved
    }

    fn pass_to_guest(&mut self, socket: &mut Socket) -> bool {
        let mut moved = false;
        while self.readable && !self.ended && socket.can_send() {
            let read = socket.send(|room| match self.stream.read(room) {
                Ok(count) => (count, Ok(count)),
                Err(error) => (0, Err(error.kind())),
            });
            match read {
                Ok(Ok(0)) => {
                    self.ended = true;
                    socket.close();
                    moved = true;
                }
                Ok(Ok(_)) => moved = true,
                Ok(Err(ErrorKind::Interrupted)) => {}
                Ok(Err(ErrorKind::WouldBlock)) => self.readable = false,
                _ => {
                    socket.abort();
                    return true;
                }
            }
        }
        moved
    }

    /// Nothing more passes. Its last acknowledgement is not waited for (TIME-WAIT): no segment is late here.
    fn is_over(&self, socket: &Socket) -> bool {
        matches!(socket.state(), State::Closed | State::TimeWait) && (socket.recv_queue() == 0 || self.failed)
    }
}

fn new_socket() -> Socket<'static> {
    let mut socket = Socket::new(SocketBuffer::new(vec![0; BUFFER]), SocketBuffer::new(vec![0; BUFFER]));
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket
}

fn number(sequence: TcpSeqNumber) -> u32 {
    sequence.0 as u32
}

fn parse(packet: &[u8]) -> Option<(Ends, TcpPacket<&[u8]>)> {
    let ip = Ipv4Packet::new_checked(packet).ok()?;
    let peer = ip.dst_addr();
    let segment = TcpPacket::new_checked(ip.payload()).ok()?;
    Some((Ends { guest_port: segment.src_port(), peer: (peer, segment.dst_port()) }, segment))
}

/// Answer a segment that belongs to nothing (RFC 9293, 3.10.7.1).
fn refuse(ends: Ends, segment: &TcpPacket<&[u8]>, wire: &mut Wire) {
    if segment.rst() {
        return;
    }
    if segment.ack() {
        reset(ends, segment.ack_number(), None, wire);
    } else {
        let length = segment.payload().len() as u32 + u32::from(segment.syn()) + u32::from(segment.fin());
        let behind = TcpSeqNumber(number(segment.seq_number()).wrapping_add(length) as i32);
        reset(ends, TcpSeqNumber(0), Some(behind), wire);
    }
}

/// Break a connection that another network had.
pub fn break_off(broken: Broken, wire: &mut Wire) {
    reset(broken.ends, TcpSeqNumber(broken.awaited as i32), None, wire);
}

fn reset(ends: Ends, sequence: TcpSeqNumber, acknowledged: Option<TcpSeqNumber>, wire: &mut Wire) {
    let (address, port) = ends.peer;
    let segment = TcpRepr {
        src_port: port,
        dst_port: ends.guest_port,
        control: TcpControl::Rst,
        seq_number: sequence,
        ack_number: acknowledged,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let ends = (address, GUEST);
    let frame = frame::ipv4(wire.guest, ends, IpProtocol::Tcp, segment.buffer_len(), |packet| {
        let (source, destination) = (address.into(), GUEST.into());
        let mut packet = TcpPacket::new_unchecked(packet);
        segment.emit(&mut packet, &source, &destination, &ChecksumCapabilities::default());
    });
    wire.send(frame);
}

/// The host's socket to `address`, which connects.
pub fn connect(address: SocketAddr, token: Token, registry: &Registry) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE).ok()?;
    Some(stream)
}
