//! The commands that run, and the processes of a session.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::sync::{Mutex, PoisonError};

use crate::kernel;
use crate::protocol::{self, kind};

static RUNNING: Mutex<BTreeMap<u32, Vec<Vec<u8>>>> = Mutex::new(BTreeMap::new());

/// A command that is in the list while this lives.
pub struct Listed(u32);

impl Listed {
    /// Put the command of a process into the list.
    pub fn new(process: u32, arguments: Vec<Vec<u8>>) -> Self {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).insert(process, arguments);
        Self(process)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// Tell which commands run.
pub fn list(connection: &mut File) -> io::Result<()> {
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for (process, arguments) in running {
        let mut payload = process.to_le_bytes().to_vec();
        payload.extend_from_slice(&(arguments.len() as u32).to_le_bytes());
        for argument in arguments {
            protocol::put_bytes(&mut payload, &argument);
        }
        protocol::send(connection, kind::DATA, &payload)?;
    }
    protocol::send(connection, kind::END, &[])
}

/// Send a signal to every process of a session: those that made groups of their own too.
pub fn signal_session(session: u32, signal: i32) {
    // Those that are made while we look are found when we look again; a killer must not be outrun.
    let rounds = if signal == libc::SIGKILL { 8 } else { 1 };
    for _ in 0..rounds {
        let found = members(session);
        for process in &found {
            kernel::kill(*process, signal);
        }
        if found.is_empty() {
            return;
        }
    }
}

/// The processes of a session that have not ended.
fn members(session: u32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|process| {
            let Ok(text) = fs::read(format!("/proc/{process}/stat")) else { return false };
            // The name of the program, in parentheses, may hold anything.
            let Some(end) = text.iter().rposition(|byte| *byte == b')') else { return false };
            let rest = String::from_utf8_lossy(&text[end + 1..]).into_owned();
            let mut fields = rest.split_ascii_whitespace();
            let state = fields.next();
            state != Some("Z") && fields.nth(2).and_then(|field| field.parse().ok()) == Some(session)
        })
        .collect()
}
