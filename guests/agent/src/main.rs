//! The guest's half of gasang's agent; `protocol.rs` says what it speaks.
//!
//! A thread serves each connection. Nothing that the host sends may panic: a panic would end every command.

mod command;
mod defaults;
mod files;
mod kernel;
mod processes;
mod protocol;
mod proxy;
mod repair;
mod running;
mod tree;
mod users;

use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use protocol::kind;

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gasang-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    let listener = kernel::vsock_listen(protocol::PORT)?;
    tell_ready();
    loop {
        match kernel::accept(&listener) {
            Ok(connection) => {
                // Without memory for a thread the host sees the connection end.
                let _ = thread::Builder::new().stack_size(256 << 10).spawn(move || answer(connection));
            }
            // Of a connection that is gone, or for want of descriptors: others will be closed.
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// A host that does not wait for us is no error: it may ask later.
fn tell_ready() {
    if let Ok(mut host) = kernel::vsock_connect(protocol::READY_PORT) {
        let _ = protocol::send(&mut host, kind::PONG, &greeting());
    }
}

fn greeting() -> Vec<u8> {
    let mut payload = protocol::VERSION.to_le_bytes().to_vec();
    protocol::put_bytes(&mut payload, concat!("gasang-agent ", env!("CARGO_PKG_VERSION")).as_bytes());
    payload
}

/// Serve one connection; its end is all that there is to tell of an error.
fn answer(mut connection: File) {
    while let Ok((request, payload)) = protocol::receive(&mut connection) {
        if !answer_one(&mut connection, request, &payload) {
            return;
        }
    }
}

/// Answer a request; whether another may follow it.
fn answer_one(connection: &mut File, request: u8, payload: &[u8]) -> bool {
    let done = match request {
        kind::PING => protocol::send(connection, kind::PONG, &greeting()),
        kind::RUN => command::run(connection, payload),
        kind::READ => files::read(connection, payload),
        kind::WRITE => files::write(connection, payload),
        kind::PUSH => tree::push(connection, payload),
        kind::PULL => tree::pull(connection, payload),
        kind::LIST => processes::list(connection),
        kind::PROXY => proxy::join(connection, payload),
        kind::REPAIR => repair::repair(connection, payload),
        _ => Err(protocol::invalid("an unknown request")),
    };
    if let Err(error) = done {
        let _ = protocol::send(connection, kind::ERROR, &protocol::failure(&error));
        let _ = connection.flush();
        return false;
    }
    request == kind::REPAIR
}
