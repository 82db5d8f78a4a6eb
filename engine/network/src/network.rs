//! The network as the machine has it: frames in, frames out, and a descriptor that tells when to look.

use crate::addresses::{GATEWAY, GATEWAY_MAC, GUEST, NAME_SERVER, is_local};
use crate::datagram::{self, Datagrams};
use crate::policy::Policy;
use crate::stream::{self, Broken, Streams};
use crate::wire::Wire;
use crate::{dhcp, dns, frame};
use mio::net::TcpListener;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4DstUnreachable,
    Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket,
};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

const TIMER: Token = Token(0);
const EVENTS: usize = 256;
/// How often conversations are looked through for those that are over.
const TIDY: Duration = Duration::from_secs(10);
/// Packets that wait for TCP, at most: the rest of the guest's waits in its queue.
const MOST_WAITING: usize = 64;
/// Of a packet in a message about it (RFC 792): its header and eight bytes.
const QUOTED: usize = 8;

/// What a network is made of.
pub struct Options {
    /// Whom the guest may reach.
    pub policy: Policy,
    /// The guest's address on the wire, until it says another.
    pub guest: [u8; 6],
    /// The host's name server, if it has one.
    pub resolver: Option<SocketAddr>,
    /// What numbers that nobody should guess begin with.
    pub seed: u64,
}

struct Forward {
    listener: TcpListener,
    guest_port: u16,
}

/// A guest's network.
pub struct Network {
    poll: Poll,
    events: Events,
    timer: OwnedFd,
    start: Instant,
    policy: Policy,
    resolver: Option<SocketAddr>,
    wire: Wire,
    streams: Streams,
    datagrams: Datagrams,
    forwards: HashMap<Token, Forward>,
    next_token: usize,
    tidied: Instant,
}

impl Network {
    /// A network with nobody but the guest. An error is one of the host's descriptors.
    pub fn new(options: Options) -> io::Result<Self> {
        let poll = Poll::new()?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        let mut wire = Wire::new(EthernetAddress(options.guest));
        let streams = Streams::new(&mut wire, smoltcp::time::Instant::ZERO, options.seed);
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS),
            timer,
            start: Instant::now(),
            policy: options.policy,
            resolver: options.resolver,
            wire,
            streams,
            datagrams: Datagrams::default(),
            forwards: HashMap::new(),
            next_token: TIMER.0 + 1,
            tidied: Instant::now(),
        })
    }

    /// Readable when `run` has something to do.
    pub fn descriptor(&self) -> RawFd {
        self.poll.as_raw_fd()
    }

    /// The guest has this address from now on.
    pub fn set_guest(&mut self, address: [u8; 6]) {
        self.wire.guest = EthernetAddress(address);
    }

    /// There is room for frames of the guest's.
    pub fn has_room(&self) -> bool {
        self.wire.incoming.len() < MOST_WAITING
    }

    /// A frame of the guest's, whatever is in it.
    pub fn take(&mut self, frame: &[u8]) {
        let Ok(ethernet) = EthernetFrame::new_checked(frame) else { return };
        if ethernet.src_addr().is_unicast() {
            self.wire.guest = ethernet.src_addr();
        }
        match ethernet.ethertype() {
            EthernetProtocol::Arp => self.take_arp(ethernet.payload()),
            EthernetProtocol::Ipv4 => self.take_ipv4(ethernet.payload()),
            _ => {}
        }
    }

    /// The next frame for the guest.
    pub fn give(&mut self) -> Option<Vec<u8>> {
        self.wire.give()
    }

    /// Do what there is to do on the host's side.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let polled = self.poll.poll(&mut events, Some(Duration::ZERO));
        if polled.is_ok() {
            for event in &events {
                self.ready(
                    event.token(),
                    event.is_readable() || event.is_read_closed() || event.is_error(),
                    event.is_writable() || event.is_error(),
                );
            }
        }
        self.events = events;
        match polled {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let now = self.now();
        self.streams.run(&mut self.wire, now);
        if self.tidied.elapsed() > TIDY {
            self.datagrams.expire();
            self.tidied = Instant::now();
        }
        self.set_timer(now)
    }

    /// Take connections at an address of the host's to a port of the guest's; return where, for a port of 0.
    pub fn forward(&mut self, address: SocketAddr, guest_port: u16) -> io::Result<SocketAddr> {
        let mut listener = TcpListener::bind(address)?;
        let bound = listener.local_addr()?;
        let token = self.token();
        self.poll.registry().register(&mut listener, token, Interest::READABLE)?;
        self.forwards.insert(token, Forward { listener, guest_port });
        Ok(bound)
    }

    /// Take no more connections there; false if none were taken.
    pub fn stop_forward(&mut self, address: SocketAddr) -> bool {
        let before = self.forwards.len();
        self.forwards.retain(|_, forward| forward.listener.local_addr().ok() != Some(address));
        self.forwards.len() != before
    }

    /// Every open connection, so that the network of another machine with the same guest may break it.
    pub fn connections(&self) -> Vec<Broken> {
        self.streams.broken()
    }

    /// Tell the guest that connections of a network before this one are broken.
    pub fn break_off(&mut self, connections: &[Broken]) {
        for &broken in connections {
            stream::break_off(broken, &mut self.wire);
        }
    }

    fn now(&self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(self.start.elapsed().as_micros() as i64)
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    fn set_timer(&mut self, now: smoltcp::time::Instant) -> io::Result<()> {
        let tcp = self.streams.wants(now).map(Duration::from);
        let tidy = self.datagrams.any().then_some(TIDY);
        // A timer of zero would be none; nobody waits for a month.
        let (least, most) = (Duration::from_micros(1), Duration::from_secs(30 * 86400));
        let wait = tcp.into_iter().chain(tidy).min().unwrap_or(most).clamp(least, most);
        let value = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    fn ready(&mut self, token: Token, readable: bool, writable: bool) {
        if token == TIMER {
            let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        } else if self.forwards.contains_key(&token) {
            self.accept(token);
        } else if !self.streams.ready(token, readable, writable) {
            let policy = &mut self.policy;
            self.datagrams.ready(token, &mut self.wire, |name, reply| {
                for address in dns::addresses(reply) {
                    policy.learn(name, address);
                }
            });
        }
    }

    fn accept(&mut self, forward: Token) {
        loop {
            let token = self.token();
            let Some(forward) = self.forwards.get(&forward) else { return };
            if !self.streams.accept(&forward.listener, forward.guest_port, token, self.poll.registry()) {
                return;
            }
        }
    }

    /// Everybody on the network but the guest is us.
    fn take_arp(&mut self, packet: &[u8]) {
        let Ok(packet) = ArpPacket::new_checked(packet) else { return };
        let Ok(ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        }) = ArpRepr::parse(&packet)
        else {
            return;
        };
        if operation != ArpOperation::Request
            || target_protocol_addr == GUEST
            || !is_local(target_protocol_addr)
        {
            return;
        }
        let reply = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: GATEWAY_MAC,
            source_protocol_addr: target_protocol_addr,
            target_hardware_addr: source_hardware_addr,
            target_protocol_addr: source_protocol_addr,
        };
        let frame =
            frame::ethernet(source_hardware_addr, EthernetProtocol::Arp, reply.buffer_len(), |packet| {
                reply.emit(&mut ArpPacket::new_unchecked(packet));
            });
        self.wire.send(frame);
    }

    fn take_ipv4(&mut self, packet: &[u8]) {
        let Ok(ip) = Ipv4Packet::new_checked(packet) else { return };
        let packet = &packet[..usize::from(ip.total_len())];
        // Nobody cuts packets on a wire as wide as this one is.
        if ip.version() != 4 || ip.more_frags() || ip.frag_offset() != 0 {
            return;
        }
        match ip.next_header() {
            IpProtocol::Udp => self.take_udp(&ip),
            _ if ip.src_addr() != GUEST => {}
            IpProtocol::Tcp => self.take_tcp(packet),
            IpProtocol::Icmp => self.take_icmp(&ip),
            _ => {}
        }
    }

    fn take_tcp(&mut self, packet: &[u8]) {
        let token = self.token();
        let (policy, resolver, registry) = (&self.policy, self.resolver, self.poll.registry());
        self.streams.take(packet, &mut self.wire, |ends| {
            let (peer, port) = ends.peer;
            let address = if (peer, port) == (NAME_SERVER, dns::PORT) {
                resolver.filter(|_| policy.resolves_all())?
            } else {
                SocketAddr::from((policy.destination(peer, Some(port))?, port))
            };
            Some((token, stream::connect(address, token, registry)?))
        });
    }

    fn take_udp(&mut self, ip: &Ipv4Packet<&[u8]>) {
        let Ok(datagram) = UdpPacket::new_checked(ip.payload()) else { return };
        let peer = (ip.dst_addr(), datagram.dst_port());
        if datagram.dst_port() == dhcp::SERVER_PORT && (peer.0.is_broadcast() || peer.0 == GATEWAY) {
            if let Some(frame) = dhcp::answer(datagram.payload()) {
                self.wire.send(frame);
            }
            return;
        }
        if ip.src_addr() != GUEST {
            return;
        }
        let ends = datagram::Ends::Udp(datagram.src_port(), peer);
        let sent = if peer == (NAME_SERVER, dns::PORT) {
            self.ask(ends, datagram.src_port(), datagram.payload())
        } else {
            match self.policy.destination(peer.0, Some(peer.1)) {
                Some(address) => {
                    self.pass(ends, SocketAddr::from((address, peer.1)), datagram.payload(), None)
                }
                None => false,
            }
        };
        if !sent && !peer.0.is_multicast() && !peer.0.is_broadcast() {
            self.say_unreachable(ip, Icmpv4DstUnreachable::CommProhibited);
        }
    }

    /// A question for the name server; whether it was one.
    fn ask(&mut self, ends: datagram::Ends, port: u16, question: &[u8]) -> bool {
        let name = dns::question(question);
        let allowed =
            self.policy.resolves_all() || name.as_ref().is_some_and(|name| self.policy.resolves(name));
        if let Some(resolver) = self.resolver.filter(|_| allowed)
            && self.pass(ends, resolver, question, name)
        {
            return true;
        }
        let Some(refusal) = dns::refusal(question) else { return false };
        self.wire.send(frame::udp(self.wire.guest, (NAME_SERVER, dns::PORT), (GUEST, port), &refusal));
        true
    }

    fn pass(&mut self, ends: datagram::Ends, to: SocketAddr, data: &[u8], name: Option<String>) -> bool {
        let token = self.token();
        self.datagrams.send(ends, to, data, name, token, self.poll.registry()).is_ok()
    }

    fn take_icmp(&mut self, ip: &Ipv4Packet<&[u8]>) {
        let Ok(packet) = Icmpv4Packet::new_checked(ip.payload()) else { return };
        let Ok(Icmpv4Repr::EchoRequest { ident, seq_no, data }) =
            Icmpv4Repr::parse(&packet, &ChecksumCapabilities::ignored())
        else {
            return;
        };
        let peer = ip.dst_addr();
        if peer == GATEWAY || peer == NAME_SERVER {
            let reply = Icmpv4Repr::EchoReply { ident, seq_no, data };
            self.wire.send(frame::icmp(self.wire.guest, (peer, GUEST), &reply));
            return;
        }
        let sent = self.policy.destination(peer, None).is_some_and(|address| {
            self.pass(datagram::Ends::Echo(ident, peer), SocketAddr::from((address, 0)), ip.payload(), None)
        });
        if !sent && !peer.is_multicast() && !peer.is_broadcast() {
            self.say_unreachable(ip, Icmpv4DstUnreachable::CommProhibited);
        }
    }

    fn say_unreachable(&mut self, ip: &Ipv4Packet<&[u8]>, reason: Icmpv4DstUnreachable) {
        let Ok(header) = Ipv4Repr::parse(ip, &ChecksumCapabilities::ignored()) else { return };
        let data = &ip.payload()[..ip.payload().len().min(QUOTED)];
        let message = Icmpv4Repr::DstUnreachable { reason, header, data };
        self.wire.send(frame::icmp(self.wire.guest, (GATEWAY, GUEST), &message));
    }
}
