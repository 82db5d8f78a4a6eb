//! A connection to a TCP port of the guest's own.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;

use crate::kernel;
use crate::protocol::{self, Fields, kind};

/// Join the host with 127.0.0.1:port until both have ended.
pub fn join(connection: &mut File, payload: &[u8]) -> io::Result<()> {
    let port = Fields(payload).u16()?;
    let mut guest = connect(port)?;
    protocol::send(connection, kind::OK, &[])?;
    let (mut from_host, mut to_guest) = (connection.try_clone()?, guest.try_clone()?);
    let inwards = thread::Builder::new().stack_size(64 << 10).spawn(move || {
        let _ = io::copy(&mut from_host, &mut to_guest);
        let _ = to_guest.shutdown(Shutdown::Write);
    })?;
    let _ = io::copy(&mut guest, connection);
    kernel::end_sending(connection.as_raw_fd());
    let _ = inwards.join();
    Ok(())
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let address = (Ipv4Addr::LOCALHOST, port);
    match TcpStream::connect(address) {
        // In an initial RAM disk nobody may have brought the interface up.
        Err(error) if error.raw_os_error() == Some(libc::ENETUNREACH) => {
            kernel::change_flags(b"lo", libc::IFF_UP | libc::IFF_RUNNING, 0)?;
            TcpStream::connect(address)
        }
        other => other,
    }
}
