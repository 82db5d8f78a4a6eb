//! A command that runs: its streams and its end to the host, the host's input and signals to it.
//!
//! One thread waits for all of them. The host is always listened to, even while the command does not read its
//! input: that is why input has a window of its own. Output is read only while the host takes it.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::Child;

use libc::{POLLIN, POLLOUT, pollfd};

use crate::kernel;
use crate::processes::signal_session;
use crate::protocol::{self, CHUNK, Fields, HEAD, WINDOW, frame, invalid, kind};

const END_OF_TERMINAL_INPUT: u8 = 4;
const OUTPUT_WAITING: usize = 2 * CHUNK;

/// Our ends of a command's streams; a terminal is its input and output.
pub struct Streams {
    /// What it reads.
    pub input: Option<File>,
    /// What it writes.
    pub output: Option<File>,
    /// What it complains.
    pub errors: Option<File>,
    /// They are a terminal.
    pub is_terminal: bool,
}

/// A command, from its start on.
pub struct Running<'a> {
    host: &'a mut File,
    child: Child,
    streams: Streams,
    ending: OwnedFd,
    exited: bool,
    heard: Vec<u8>,
    to_say: Vec<u8>,
    input: Vec<u8>,
    input_ends: bool,
}

impl<'a> Running<'a> {
    /// Begin to look after it. If that cannot be, the command is killed.
    pub fn new(host: &'a mut File, mut child: Child, streams: Streams) -> io::Result<Self> {
        let prepared = kernel::process_descriptor(child.id()).and_then(|ending| {
            let files = [&streams.input, &streams.output, &streams.errors];
            for descriptor in files.into_iter().flatten().map(AsRawFd::as_raw_fd) {
                kernel::set_nonblocking(descriptor)?;
            }
            kernel::set_nonblocking(host.as_raw_fd())?;
            Ok(ending)
        });
        match prepared {
            Ok(ending) => Ok(Self {
                host,
                child,
                streams,
                ending,
                exited: false,
                heard: Vec::new(),
                to_say: Vec::new(),
                input: Vec::new(),
                input_ends: false,
            }),
            Err(error) => {
                let _ = child.kill().and_then(|()| child.wait());
                Err(error)
            }
        }
    }

    /// Until it has ended and its streams have; the session is killed if the host goes before.
    pub fn until_end(mut self) -> io::Result<()> {
        let done = self.exchange();
        if done.is_err() || !self.is_over() {
            signal_session(self.child.id(), libc::SIGKILL);
            if !self.exited {
                let _ = self.child.kill().and_then(|()| self.child.wait());
            }
        }
        // To a host that broke the rules there is nothing to say.
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.exited && self.streams.output.is_none() && self.streams.errors.is_none()
    }

    fn exchange(&mut self) -> io::Result<()> {
        let mut told = false;
        self.say(kind::STARTED, &self.child.id().to_le_bytes());
        loop {
            if self.is_over() && !told {
                told = true;
                self.say(kind::END, &[]);
            }
            if told && self.to_say.is_empty() {
                return Ok(());
            }
            let mut ready = self.descriptors();
            kernel::wait_for(&mut ready)?;
            let [host, input, output, errors, ending] = ready.map(|each| each.revents);
            if host & POLLOUT != 0 {
                self.speak()?;
            }
            if host & !POLLOUT != 0 && !self.listen()? {
                return Ok(());
            }
            if input != 0 {
                self.feed();
            }
            if output != 0 && !copy(&mut self.streams.output, kind::OUTPUT, &mut self.to_say) {
                self.streams.output = None;
            }
            if errors != 0 && !copy(&mut self.streams.errors, kind::ERRORS, &mut self.to_say) {
                self.streams.errors = None;
            }
            if ending != 0 {
                self.reap()?;
            }
        }
    }

    /// Host, input, output, errors, the command's end: those that we wait for now.
    fn descriptors(&self) -> [pollfd; 5] {
        let of = |file: &Option<File>, wanted: bool, events: i16| match file {
            Some(file) if wanted => pollfd { fd: file.as_raw_fd(), events, revents: 0 },
            _ => pollfd { fd: -1, events: 0, revents: 0 },
        };
        let has_room = self.to_say.len() < OUTPUT_WAITING;
        let speaking = if self.to_say.is_empty() { 0 } else { POLLOUT };
        let input_events = if self.input.is_empty() { 0 } else { POLLOUT };
        // A terminal's other side may be closed and opened again: only output tells of its end.
        let wants_input = !self.streams.is_terminal || !self.input.is_empty();
        [
            pollfd { fd: self.host.as_raw_fd(), events: POLLIN | speaking, revents: 0 },
            of(&self.streams.input, wants_input, input_events),
            of(&self.streams.output, has_room, POLLIN),
            of(&self.streams.errors, has_room, POLLIN),
            pollfd { fd: if self.exited { -1 } else { self.ending.as_raw_fd() }, events: POLLIN, revents: 0 },
        ]
    }

    fn say(&mut self, kind: u8, payload: &[u8]) {
        self.to_say.extend_from_slice(&frame(kind, payload));
    }

    fn speak(&mut self) -> io::Result<()> {
        match self.host.write(&self.to_say) {
            Ok(count) => {
                self.to_say.drain(..count);
                Ok(())
            }
            Err(error) if is_no_matter(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Take what the host has sent; false when it has gone.
    fn listen(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 << 10];
        match self.host.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => self.heard.extend_from_slice(&buffer[..count]),
            Err(error) if is_no_matter(&error) => {}
            Err(error) => return Err(error),
        }
        while let Some(head) = self.heard.first_chunk::<HEAD>() {
            let (kind, length) = protocol::parse_head(*head)?;
            if self.heard.len() < HEAD + length {
                break;
            }
            let frame: Vec<u8> = self.heard.drain(..HEAD + length).skip(HEAD).collect();
            self.obey(kind, &frame)?;
        }
        Ok(true)
    }

    fn obey(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let mut fields = Fields(payload);
        match kind {
            kind::INPUT if self.input.len() + payload.len() <= WINDOW => {
                if self.streams.input.is_some() {
                    self.input.extend_from_slice(payload);
                } else {
                    self.say(kind::TAKEN, &(payload.len() as u32).to_le_bytes());
                }
            }
            kind::INPUT_END if self.streams.is_terminal => self.input.push(END_OF_TERMINAL_INPUT),
            kind::INPUT_END => {
                self.input_ends = true;
                self.end_input();
            }
            kind::SIGNAL => signal_session(self.child.id(), fields.u32()? as i32),
            kind::RESIZE => {
                let (rows, columns) = (fields.u16()?, fields.u16()?);
                if let (true, Some(terminal)) = (self.streams.is_terminal, &self.streams.output) {
                    kernel::set_window_size(terminal, rows, columns);
                }
            }
            _ => return Err(invalid("no word to a command")),
        }
        Ok(())
    }

    /// Give the command what it takes of its input.
    fn feed(&mut self) {
        let Some(file) = &mut self.streams.input else { return };
        let taken = if self.input.is_empty() {
            Err(ErrorKind::BrokenPipe.into()) // woken without having asked: nobody reads it
        } else {
            file.write(&self.input)
        };
        let count = match taken {
            Ok(count) => count,
            Err(error) if is_no_matter(&error) => 0,
            Err(_) => {
                self.streams.input = None;
                self.input.len()
            }
        };
        if count > 0 {
            self.input.drain(..count);
            self.say(kind::TAKEN, &(count as u32).to_le_bytes());
        }
        self.end_input();
    }

    fn end_input(&mut self) {
        if self.input_ends && self.input.is_empty() {
            self.streams.input = None;
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        self.exited = true;
        let (how, number) = match status.signal() {
            Some(signal) => (1, signal),
            None => (0, status.code().unwrap_or_default()),
        };
        let mut payload = vec![how];
        payload.extend_from_slice(&(number as u32).to_le_bytes());
        self.say(kind::EXITED, &payload);
        if self.streams.is_terminal {
            self.drain_terminal();
        }
        Ok(())
    }

    /// A terminal lives as long as the command: what it said last comes before the end is told.
    fn drain_terminal(&mut self) {
        while copy(&mut self.streams.output, kind::OUTPUT, &mut self.to_say) {
            let mut ready = [self.descriptors()[2]];
            ready[0].fd = self.streams.output.as_ref().map_or(-1, AsRawFd::as_raw_fd);
            ready[0].events = POLLIN;
            if !kernel::is_ready(&mut ready[0]) || self.to_say.len() > WINDOW {
                break;
            }
        }
        self.streams.output = None;
        self.streams.input = None;
    }
}

/// Pass some of a stream on; false when it has ended.
fn copy(stream: &mut Option<File>, kind: u8, to_say: &mut Vec<u8>) -> bool {
    let Some(file) = stream else { return false };
    let mut buffer = [0; CHUNK];
    match file.read(&mut buffer) {
        Ok(0) => false,
        Ok(count) => {
            to_say.extend_from_slice(&frame(kind, &buffer[..count]));
            true
        }
        Err(error) => is_no_matter(&error),
    }
}

fn is_no_matter(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
