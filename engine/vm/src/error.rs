//! What the engine refuses, and why.

use crate::exit::Exit;
use gasang_memory::NotRam;
use std::fmt;

/// An error of the caller or of the host; never of the guest.
#[derive(Debug)]
pub enum Error {
    /// The processor model or a feature of it is unknown or impossible here.
    Model(String),
    /// An argument is out of its range; says which and what is allowed.
    Argument(String),
    /// The host refused something, such as memory.
    Host {
        /// What was attempted.
        attempt: String,
        /// What the host said.
        source: std::io::Error,
    },
    /// The last exit was a read and no reply came with this run.
    ReplyMissing(Exit),
    /// A reply without a read to answer.
    ReplyUnexpected,
    /// The reply does not fit in the size of the read.
    ReplyTooLarge {
        /// The reply.
        value: u64,
        /// Bytes of the read.
        size: u8,
    },
    /// Another thread is inside the processor.
    Busy(usize),
    /// No register has this name.
    UnknownRegister(String),
    /// A register takes another kind of value, or not this one.
    RegisterValue {
        /// The register.
        name: String,
        /// What it takes.
        takes: &'static str,
    },
    /// The range is not RAM.
    NotRam(NotRam),
    /// A replayed event does not happen here: the two machines have diverged.
    Diverged {
        /// Instructions retired.
        instructions: u64,
        /// The vector that should have been delivered.
        vector: u8,
        /// What this machine had instead.
        found: Option<u8>,
    },
    /// A saved state that this machine cannot have; says why.
    State(String),
    /// Registers cannot be set while an access waits for its answer.
    Unanswered,
    /// KVM cannot go on with the guest; says why.
    Kvm(String),
    /// A VMX instruction while the guest has not left VMX non-root operation.
    NonRoot,
    /// A VMX instruction raised an exception; says which.
    Exception(&'static str),
    /// The engine broke down earlier (a bug of ours); the message of that panic.
    Broken(String),
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Model(message)
            | Error::Argument(message)
            | Error::Kvm(message)
            | Error::State(message) => formatter.write_str(message),
            Error::Host { attempt, source } => write!(formatter, "{attempt}: {source}"),
            Error::ReplyMissing(exit) => {
                write!(formatter, "the last exit, {exit:?}, waits for a reply: pass it to run")
            }
            Error::ReplyUnexpected => {
                formatter.write_str("a reply was passed to run, but the last exit was no read")
            }
            Error::ReplyTooLarge { value, size } => {
                write!(formatter, "reply {value:#x} does not fit in the {size} bytes that the guest reads")
            }
            Error::Unanswered => formatter.write_str("the last exit waits for its answer: run first"),
            Error::Busy(index) => write!(formatter, "vCPU {index} is running in another thread"),
            Error::UnknownRegister(name) => write!(formatter, "no register is named '{name}'"),
            Error::RegisterValue { name, takes } => write!(formatter, "register {name} takes {takes}"),
            Error::NotRam(range) => range.fmt(formatter),
            Error::Diverged { instructions, vector, found } => {
                write!(
                    formatter,
                    "replay diverged after {instructions} instructions: vector {vector} was due, "
                )?;
                match found {
                    Some(found) => write!(formatter, "this machine has {found}"),
                    None => formatter.write_str("this machine has none"),
                }
            }
            Error::NonRoot => formatter.write_str(
                "the processor is in VMX non-root operation: run the guest to its next VM exit first",
            ),
            Error::Exception(exception) => write!(formatter, "the VMX instruction raised {exception}"),
            Error::Broken(message) => write!(formatter, "the engine broke down (a bug in gasang): {message}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Host { source, .. } => Some(source),
            Error::NotRam(range) => Some(range),
            _ => None,
        }
    }
}

impl From<NotRam> for Error {
    fn from(range: NotRam) -> Error {
        Error::NotRam(range)
    }
}
