//! The cable between guest and network: frames that wait on either side, and TCP's view of it.

use crate::addresses::{GATEWAY_MAC, MTU};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr};
use std::collections::VecDeque;

/// Frames that wait for the guest, at most: then TCP waits, and datagrams are lost.
const MOST_FRAMES: usize = 256;
const ETHERNET: usize = 14;

/// Frames on the way.
pub struct Wire {
    /// Where the guest is reached: as it said itself last.
    pub guest: EthernetAddress,
    /// IP packets of the guest's for TCP.
    pub incoming: VecDeque<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
}

impl Wire {
    /// A cable to a guest with this address.
    pub fn new(guest: EthernetAddress) -> Self {
        Self { guest, incoming: VecDeque::new(), outgoing: VecDeque::new() }
    }

    /// There is no room for another frame to the guest.
    pub fn is_full(&self) -> bool {
        self.outgoing.len() >= MOST_FRAMES
    }

    /// A frame for the guest, which is lost if too many wait.
    pub fn send(&mut self, frame: Vec<u8>) {
        if !self.is_full() {
            self.outgoing.push_back(frame);
        }
    }

    /// The next frame for the guest.
    pub fn give(&mut self) -> Option<Vec<u8>> {
        self.outgoing.pop_front()
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Sending<'_>)> {
        if self.is_full() {
            return None;
        }
        self.incoming.pop_front().map(|packet| (Received(packet), Sending(self)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sending<'_>> {
        (!self.is_full()).then_some(Sending(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        // The driver leaves TCP's checksums to us, and there is nobody between it and us.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

/// A packet of the guest's.
pub struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

/// Room for a packet to the guest.
pub struct Sending<'a>(&'a mut Wire);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; ETHERNET + length];
        EthernetRepr { src_addr: GATEWAY_MAC, dst_addr: self.0.guest, ethertype: EthernetProtocol::Ipv4 }
            .emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
        let result = f(&mut frame[ETHERNET..]);
        self.0.outgoing.push_back(frame);
        result
    }
}
