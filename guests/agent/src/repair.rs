//! What a guest needs after it was restored from a snapshot, or made from another: to be itself, now.

use std::fs::{self, File, OpenOptions};
use std::io;

use crate::kernel;
use crate::protocol::{self, Fields, invalid, kind};

/// Mend what the host asks for: clock, random numbers, names, address. Stops at the first thing that fails.
pub fn repair(connection: &mut File, payload: &[u8]) -> io::Result<()> {
    let mut fields = Fields(payload);
    let (time, random) = (fields.u64()?, fields.bytes()?);
    let (hostname, machine, mac) = (fields.bytes()?, fields.bytes()?, fields.bytes()?);
    if !random.is_empty() {
        kernel::add_entropy(&OpenOptions::new().write(true).open("/dev/urandom")?, random)?;
    }
    if time != 0 {
        kernel::set_clock(time)?;
    }
    if !hostname.is_empty() {
        kernel::set_hostname(hostname)?;
        fs::write("/etc/hostname", [hostname, b"\n"].concat())?;
    }
    if !machine.is_empty() {
        fs::write("/etc/machine-id", [machine, b"\n"].concat())?;
    }
    if !mac.is_empty() {
        set_mac(mac.try_into().map_err(|_| invalid("a MAC address has 6 bytes"))?)?;
    }
    protocol::send(connection, kind::OK, &[])
}

/// Many drivers take another address only while the interface is down.
fn set_mac(mac: [u8; 6]) -> io::Result<()> {
    kernel::set_mac(b"eth0", mac).or_else(|_| {
        kernel::change_flags(b"eth0", 0, libc::IFF_UP)?;
        let done = kernel::set_mac(b"eth0", mac);
        kernel::change_flags(b"eth0", libc::IFF_UP, 0)?;
        done
    })
}
