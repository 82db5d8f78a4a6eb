//! What host and agent say to each other: version 1.
//!
//! The agent connects once to port [`READY_PORT`] of the host (CID 2), sends `Pong`, and closes: it is up. It
//! listens at [`PORT`]; each connection is one request of the host's, or a `Repair` and then one.
//!
//! A frame is a type (u8), the length of its payload (u32, at most [`MOST_PAYLOAD`]) and the payload. Numbers
//! are little-endian; a string or a list is a u32 count and then so many bytes or elements. `fails` is an
//! `Error` in place of any other answer, after which the connection ends.
//!
//! | request | payload | what follows |
//! |---|---|---|
//! | Ping | | `Pong`: version u32, name string |
//! | Run | flags u8 (1: a terminal, 2: no input), rows u16, columns u16, user, directory, arguments list, environment list of NAME=value | see below |
//! | Read | path | `Data`..., `End` |
//! | Write | mode u32 ([`KEEP_MODE`]: as it was, or 0644), path; then `Data`..., `End` | `Ok`; the file is replaced whole |
//! | Push | path, name; then entries, `End` | `Ok`; if the path is a directory, the tree goes into it by its name |
//! | Pull | path | entries, `End` |
//! | List | | `Data`: for each command u32 process, its words; `End` |
//! | Proxy | port u16 of 127.0.0.1 | `Ok`, and then bytes without frames, both ways |
//! | Repair | time u64 (nanoseconds since 1970, 0: leave it), random bytes, hostname, machine-id, MAC of eth0 (empty: leave it) | `Ok` |
//!
//! An entry of a tree is `Entry` (kind u8: 0 file, 1 directory, 2 symbolic link; mode u32; path relative to the
//! tree's root, which is empty; target of a link), and for a file `Data`... up to the next entry.
//!
//! While a command runs the host sends `Input`, `InputEnd`, `Signal` (u32), `Resize` (rows u16, columns u16);
//! of input, no more than [`WINDOW`] bytes beyond what `Taken` (u32 bytes) has told. The agent sends `Started`
//! (u32 process) or `CannotStart` (errno u32, message; and nothing else), then `Output`, `Errors`, `Taken`;
//! `Exited` (how u8: 0 code, 1 signal; u32) when the command has ended; and `End` when in addition nobody has
//! its output open any more. A connection that ends before that kills the command's session.

use std::io::{self, Read, Write};

/// The version of all this.
pub const VERSION: u32 = 1;
/// Where the agent listens.
pub const PORT: u32 = 1024;
/// Where the host waits for word that it does.
pub const READY_PORT: u32 = 1024;
/// Bytes of a frame behind its head.
pub const MOST_PAYLOAD: usize = 1 << 20;
/// Bytes of a command's input on their way.
pub const WINDOW: usize = 256 << 10;
/// Of a file written: its mode stays.
pub const KEEP_MODE: u32 = u32::MAX;
/// Bytes of a frame of data.
pub const CHUNK: usize = 32 << 10;

/// Types of frames.
#[allow(missing_docs)]
pub mod kind {
    pub const PING: u8 = 0x01;
    pub const RUN: u8 = 0x02;
    pub const READ: u8 = 0x03;
    pub const WRITE: u8 = 0x04;
    pub const PUSH: u8 = 0x05;
    pub const PULL: u8 = 0x06;
    pub const LIST: u8 = 0x07;
    pub const PROXY: u8 = 0x08;
    pub const REPAIR: u8 = 0x09;

    pub const INPUT: u8 = 0x10;
    pub const INPUT_END: u8 = 0x11;
    pub const SIGNAL: u8 = 0x12;
    pub const RESIZE: u8 = 0x13;

    pub const STARTED: u8 = 0x20;
    pub const OUTPUT: u8 = 0x21;
    pub const ERRORS: u8 = 0x22;
    pub const EXITED: u8 = 0x23;
    pub const CANNOT_START: u8 = 0x24;
    pub const TAKEN: u8 = 0x25;

    pub const DATA: u8 = 0x30;
    pub const END: u8 = 0x31;
    pub const ENTRY: u8 = 0x32;

    pub const OK: u8 = 0x40;
    pub const ERROR: u8 = 0x41;
    pub const PONG: u8 = 0x42;
}

/// Bytes of a frame's head.
pub const HEAD: usize = 5;

/// A head's type and payload length. Fails for a length that no frame has.
pub fn parse_head(head: [u8; HEAD]) -> io::Result<(u8, usize)> {
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > MOST_PAYLOAD {
        return Err(invalid("a frame is too long"));
    }
    Ok((head[0], length))
}

/// Read one frame.
pub fn receive(from: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; HEAD];
    from.read_exact(&mut head)?;
    let (kind, length) = parse_head(head)?;
    let mut payload = vec![0; length];
    from.read_exact(&mut payload)?;
    Ok((kind, payload))
}

/// Write one frame.
pub fn send(to: &mut impl Write, kind: u8, payload: &[u8]) -> io::Result<()> {
    to.write_all(&frame(kind, payload))
}

/// A frame's bytes.
pub fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + payload.len());
    bytes.push(kind);
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A string's bytes, behind `payload`.
pub fn put_bytes(payload: &mut Vec<u8>, bytes: &[u8]) {
    payload.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    payload.extend_from_slice(bytes);
}

/// The payload of `Error` and `CannotStart`.
pub fn failure(error: &io::Error) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend_from_slice(&(error.raw_os_error().unwrap_or(libc::EIO) as u32).to_le_bytes());
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    put_bytes(&mut payload, text.as_bytes());
    payload
}

/// An error of whoever speaks to us.
pub fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The fields of a payload, one after the other.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// So many bytes.
    pub fn take(&mut self, length: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(|| invalid("half a frame"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    /// A u8.
    pub fn u8(&mut self) -> io::Result<u8> {
        Ok(self.number::<1>()?[0])
    }

    /// A u16.
    pub fn u16(&mut self) -> io::Result<u16> {
        Ok(u16::from_le_bytes(self.number()?))
    }

    /// A u32.
    pub fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.number()?))
    }

    /// A u64.
    pub fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_le_bytes(self.number()?))
    }

    /// A string.
    pub fn bytes(&mut self) -> io::Result<&'a [u8]> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    /// A list of strings.
    pub fn list(&mut self) -> io::Result<Vec<&'a [u8]>> {
        let count = self.u32()?;
        (0..count).map(|_| self.bytes()).collect()
    }
}
