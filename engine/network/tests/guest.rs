//! A network, and smoltcp as its guest; peers are on the host's loopback.

use gasang_network::addresses::{GATEWAY, GUEST, MTU, NAME_SERVER};
use gasang_network::{Network, Options, Policy};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{dhcpv4, tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, IpEndpoint, Ipv4Address};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Turns of guest and network before a test fails: many more than any takes.
const TURNS: usize = 200_000;

#[derive(Default)]
struct Card {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

struct Rx(Vec<u8>);
struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Rx, Tx<'_>)> {
        self.received.pop_front().map(|frame| (Rx(frame), Tx(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU + 14;
        capabilities
    }
}

struct Guest {
    network: Network,
    card: Card,
    interface: Interface,
    sockets: SocketSet<'static>,
    start: std::time::Instant,
    next_port: u16,
}

fn network(rules: &[&str], resolver: Option<SocketAddr>) -> Network {
    let rules: Vec<_> = rules.iter().map(|&rule| rule.to_owned()).collect();
    Network::new(Options { policy: Policy::parse(&rules).unwrap(), guest: MAC, resolver, seed: 1 }).unwrap()
}

impl Guest {
    fn new(rules: &[&str], resolver: Option<SocketAddr>) -> Self {
        let mut card = Card::default();
        let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(MAC)));
        let mut interface = Interface::new(config, &mut card, Instant::ZERO);
        interface.update_ip_addrs(|addresses| addresses.push(IpCidr::new(GUEST.into(), 24)).unwrap());
        interface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
        let sockets = SocketSet::new(Vec::new());
        Self {
            network: network(rules, resolver),
            card,
            interface,
            sockets,
            start: std::time::Instant::now(),
            next_port: 50000,
        }
    }

    fn turn(&mut self) {
        let now = Instant::from_micros(self.start.elapsed().as_micros() as i64);
        self.interface.poll(now, &mut self.card, &mut self.sockets);
        while let Some(frame) = self.card.sent.pop_front() {
            self.network.take(&frame);
        }
        self.network.run().unwrap();
        while let Some(frame) = self.network.give() {
            self.card.received.push_back(frame);
        }
    }

    fn until<T>(&mut self, mut found: impl FnMut(&mut Self) -> Option<T>) -> T {
        for _ in 0..TURNS {
            self.turn();
            if let Some(found) = found(self) {
                return found;
            }
            thread::sleep(Duration::from_micros(20));
        }
        panic!("it never happened");
    }

    fn connect(&mut self, address: Ipv4Address, port: u16) -> SocketHandle {
        let mut socket = stream_socket();
        self.next_port += 1;
        socket.connect(self.interface.context(), (address, port), self.next_port).unwrap();
        self.sockets.add(socket)
    }

    fn stream(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// A connection to a server on the host's loopback, and its other end.
    fn meet(&mut self, listener: &TcpListener) -> (SocketHandle, TcpStream) {
        let handle = self.connect(GATEWAY, listener.local_addr().unwrap().port());
        self.until(|guest| guest.stream(handle).may_send().then_some(()));
        (handle, listener.accept().unwrap().0)
    }

    /// Say so many bytes, or as many as there is room for; how many.
    fn say(&mut self, handle: SocketHandle, count: usize) -> usize {
        self.turn();
        self.stream(handle).send_slice(&vec![7; count]).unwrap()
    }

    fn bind(&mut self, port: u16) -> SocketHandle {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 1 << 16]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap();
        self.sockets.add(socket)
    }

    fn exchange(&mut self, handle: SocketHandle, to: IpEndpoint, data: &[u8]) -> Vec<u8> {
        self.sockets.get_mut::<udp::Socket>(handle).send_slice(data, to).unwrap();
        self.until(|guest| {
            guest.sockets.get_mut::<udp::Socket>(handle).recv().ok().map(|(data, _)| data.to_vec())
        })
    }
}

fn stream_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; 1 << 17]);
    tcp::Socket::new(buffer(), buffer())
}

#[test]
fn dhcp_tells_the_guest_who_it_is() {
    let mut guest = Guest::new(&["none"], None);
    guest.interface.update_ip_addrs(|addresses| addresses.clear());
    let handle = guest.sockets.add(dhcpv4::Socket::new());
    let (address, router, servers) =
        guest.until(|guest| match guest.sockets.get_mut::<dhcpv4::Socket>(handle).poll() {
            Some(dhcpv4::Event::Configured(found)) => {
                Some((found.address, found.router, found.dns_servers.to_vec()))
            }
            _ => None,
        });
    assert_eq!((address.address(), address.prefix_len()), (GUEST, 24));
    assert_eq!((router, servers), (Some(GATEWAY), vec![NAME_SERVER]));
}

#[test]
fn bytes_pass_both_ways_and_each_end_ends_by_itself() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let peer = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap(); // the guest ends first, and is answered still
        stream.write_all(&heard).unwrap();
        heard.len()
    });
    let mut guest = Guest::new(&["host"], None);
    let handle = guest.connect(GATEWAY, port);
    let said: Vec<u8> = (0..3_000_000u32).map(|number| (number % 251) as u8).collect();
    let (mut sent, mut closed, mut heard) = (0, false, Vec::new());
    guest.until(|guest| {
        let socket = guest.stream(handle);
        if socket.can_send() && sent < said.len() {
            sent += socket.send_slice(&said[sent..]).unwrap();
        }
        if sent == said.len() && !closed {
            socket.close();
            closed = true;
        }
        while socket.can_recv() {
            socket.recv(|data| (data.len(), heard.extend_from_slice(data))).unwrap();
        }
        (closed && !socket.may_recv()).then_some(())
    });
    assert_eq!(peer.join().unwrap(), said.len());
    assert!(heard == said);
    guest.until(|guest| guest.network.connections().is_empty().then_some(()));
}

#[test]
fn a_host_that_reads_slowly_gets_all_though_both_have_ended() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::new(&["host"], None);
    // How much is on the way when nobody reads; the last of it in the network, the host's sockets being full.
    let (handle, unread) = guest.meet(&listener);
    let (mut most, mut quiet) = (0, 0);
    while quiet < 200 {
        let sent = guest.say(handle, 1 << 14);
        most += sent;
        quiet = if sent == 0 { quiet + 1 } else { 0 };
    }
    drop(unread);
    // A little less: all of it, and the guest's end, are in the network before the host reads any.
    let said = most - (1 << 18);
    let (handle, mut stream) = guest.meet(&listener);
    stream.shutdown(Shutdown::Write).unwrap();
    let mut sent = 0;
    guest.until(|guest| {
        sent += guest.say(handle, said - sent);
        (sent == said).then_some(())
    });
    guest.stream(handle).close();
    for _ in 0..200 {
        guest.turn();
    }
    let mut heard = 0;
    loop {
        guest.turn();
        match stream.read(&mut [0; 1 << 14]).unwrap() {
            0 => break,
            count => heard += count,
        }
    }
    assert_eq!(heard, said);
    guest.until(|guest| guest.network.connections().is_empty().then_some(()));
}

#[test]
fn who_is_refused_is_told_at_once() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port(); // nobody listens any more
    for (rules, address, port) in [
        (&["host"], GATEWAY, port),
        (&["none"], GATEWAY, port),
        (&["none"], Ipv4Address::new(8, 8, 8, 8), 53),
    ] {
        let mut guest = Guest::new(rules, None);
        let handle = guest.connect(address, port);
        guest.until(|guest| (guest.stream(handle).state() == tcp::State::Closed).then_some(()));
    }
}

#[test]
fn a_broken_connection_is_broken_on_both_sides() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::new(&["host"], None);
    let (handle, mut stream) = guest.meet(&listener);
    guest.stream(handle).abort();
    guest.until(|guest| guest.network.connections().is_empty().then_some(()));
    assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn another_network_breaks_the_connections_of_the_last() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::new(&["host"], None);
    let (handle, mut stream) = guest.meet(&listener);
    stream.write_all(b"once").unwrap();
    guest.until(|guest| guest.stream(handle).can_recv().then_some(()));
    let (before, ..) = guest.stream(handle).recv(|data| (data.len(), (data.to_vec(),))).unwrap();
    assert_eq!(before, b"once");
    guest.until(|guest| guest.card.received.is_empty().then_some(()));
    let open = guest.network.connections();
    assert_eq!(open.len(), 1);
    guest.network = network(&["host"], None);
    guest.network.break_off(&open);
    guest.until(|guest| (guest.stream(handle).state() == tcp::State::Closed).then_some(()));
}

#[test]
fn the_host_connects_to_the_guest() {
    let mut guest = Guest::new(&["none"], None);
    let mut socket = stream_socket();
    socket.listen(80).unwrap();
    let handle = guest.sockets.add(socket);
    let address = guest.network.forward("127.0.0.1:0".parse().unwrap(), 80).unwrap();
    assert!(guest.network.forward(address, 81).is_err(), "it is in use");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET").unwrap();
    guest.until(|guest| guest.stream(handle).can_recv().then_some(()));
    guest.stream(handle).send_slice(b"200").unwrap();
    guest.stream(handle).close();
    stream.shutdown(Shutdown::Write).unwrap();
    guest.until(|guest| guest.network.connections().is_empty().then_some(()));
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "200");
    assert!(guest.network.stop_forward(address) && !guest.network.stop_forward(address));
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn datagrams_pass() {
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = peer.local_addr().unwrap().port();
    let answering = thread::spawn(move || {
        let mut data = [0; 1 << 16];
        let (count, from) = peer.recv_from(&mut data).unwrap();
        peer.send_to(&data[..count], from).unwrap();
    });
    let mut guest = Guest::new(&["host"], None);
    let handle = guest.bind(4000);
    assert_eq!(guest.exchange(handle, (GATEWAY, port).into(), &[7; 9000]), [7; 9000]);
    answering.join().unwrap();
}

#[test]
fn names_that_no_rule_knows_are_not_asked_for() {
    const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x04shop\x04test\0\0\x01\0\x01";
    let resolver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = resolver.local_addr().unwrap();
    let answering = thread::spawn(move || {
        let mut data = [0; 512];
        let (count, from) = resolver.recv_from(&mut data).unwrap();
        assert_eq!(&data[..count], QUESTION);
        data[2] |= 0x80;
        data[7] = 1;
        let mut reply = data[..count].to_vec();
        reply.extend(b"\xC0\x0C\0\x01\0\x01\0\0\0\x09\0\x04\xC0\0\x02\x01");
        resolver.send_to(&reply, from).unwrap();
    });
    let mut guest = Guest::new(&["shop.test:443"], Some(address));
    let handle = guest.bind(4000);
    let server = IpEndpoint::from((NAME_SERVER, 53));
    let mut other = QUESTION.to_vec();
    other[13] = b'q';
    assert_eq!(guest.exchange(handle, server, &other)[3] & 15, 5, "refused");
    assert_eq!(guest.exchange(handle, server, QUESTION)[7], 1, "one answer");
    answering.join().unwrap();
}

#[test]
fn no_frame_is_too_strange() {
    let mut network = network(&["none"], None);
    let mut random = chance();
    // A SYN, a datagram, a request for an address and one for a name, whole and then with bytes of chance.
    let seeds: Vec<Vec<u8>> = vec![
        ip_frame(
            6,
            &[0x9C, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 2, 0xFF, 0xFF, 0, 0, 0, 0, 2, 4, 5, 0xB4],
        ),
        ip_frame(17, &[0x9C, 0x40, 0, 53, 0, 20, 0, 0, 1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
        ip_frame(17, &[[0, 68, 0, 67, 1, 8, 0, 0].as_slice(), &[1; 256]].concat()),
        ip_frame(1, &[8, 0, 0, 0, 0, 1, 0, 1, 9, 9]),
        [
            [255; 6].as_slice(),
            &MAC,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &MAC,
            &[10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2],
        ]
        .concat(),
    ];
    for round in 0..200_000 {
        let mut frame = seeds[round % seeds.len()].clone();
        for _ in 0..random() % 6 {
            let at = random() as usize % frame.len();
            frame[at] = random() as u8;
        }
        if random() % 4 == 0 {
            frame.truncate(random() as usize % (frame.len() + 1));
        }
        network.take(&frame);
        if round % 16 == 0 {
            network.run().unwrap();
            while network.give().is_some() {}
        }
    }
}

#[test]
fn no_segment_of_a_connection_is_too_strange() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut network = network(&["host"], None);
    let mut random = chance();
    let mut met = 0;
    for round in 0..400u32 {
        let guest_port = 1024 + round as u16;
        network.take(&segment(guest_port, port, 1000, 0, 2, 0xFFFF, &[]));
        let mut peer = None;
        let mut theirs = 0;
        for _ in 0..TURNS {
            network.run().unwrap();
            if let Some(frame) = network.give() {
                theirs = u32::from_be_bytes(frame[38..42].try_into().unwrap()).wrapping_add(1);
                peer = Some(listener.accept().unwrap().0);
                break;
            }
        }
        let mut peer = peer.expect("it is answered");
        network.take(&segment(guest_port, port, 1001, theirs, 16, 0xFFFF, &[]));
        met += 1;
        let _ = peer.write_all(&[5; 4000]);
        for _ in 0..100 {
            // Numbers near the right ones get further than others.
            let near = |random: &mut dyn FnMut() -> u64, right: u32| match random() % 4 {
                0 => random() as u32,
                1 => right.wrapping_add(random() as u32 % 100_000),
                2 => right.wrapping_sub(random() as u32 % 100_000),
                _ => right,
            };
            let (sequence, acknowledged) = (near(&mut random, 1001), near(&mut random, theirs));
            let flags = if random() % 8 == 0 { random() as u8 } else { 16 | random() as u8 & 8 };
            let data = vec![3; random() as usize % 3000];
            let mut frame = segment(guest_port, port, sequence, acknowledged, flags, random() as u16, &data);
            if random() % 8 == 0 {
                let at = 34 + random() as usize % (frame.len() - 34);
                frame[at] = random() as u8;
            }
            network.take(&frame);
            network.run().unwrap();
            while network.give().is_some() {}
        }
    }
    assert_eq!(met, 400);
}

fn segment(
    from: u16,
    to: u16,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    window: u16,
    data: &[u8],
) -> Vec<u8> {
    let mut payload = [from.to_be_bytes(), to.to_be_bytes()].concat();
    payload.extend(sequence.to_be_bytes());
    payload.extend(acknowledged.to_be_bytes());
    payload.extend([0x50, flags]);
    payload.extend(window.to_be_bytes());
    payload.extend([0; 4]);
    payload.extend(data);
    let mut frame = ip_frame(6, &payload);
    frame[33] = GATEWAY.octets()[3];
    frame
}

/// Numbers of chance, the same each time.
fn chance() -> impl FnMut() -> u64 {
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

fn ip_frame(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 2, 15, 10, 0, 2, 3];
    header[2..4].copy_from_slice(&length.to_be_bytes());
    [&[0x52, 0x55, 10, 0, 2, 2][..], &MAC, &[8, 0], &header[..], payload].concat()
}
