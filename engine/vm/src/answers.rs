//! The accesses of the instruction in progress and their answers.
//!
//! An instruction that needs an answer from outside is abandoned and executed again. Every device access it makes is
//! kept here, the engine's own devices included (reading a UART twice would lose a byte), so that the second execution
//! sees what the first one saw, in order, and no device sees an access twice.

use crate::error::Error;
use crate::exit::Exit;
use serde::{Deserialize, Serialize};

/// One access to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Access {
    PortRead { port: u16, size: u8 },
    PortWrite { port: u16, size: u8, value: u32 },
    MmioRead { address: u64, size: u8 },
    MmioWrite { address: u64, size: u8, value: u64 },
}

impl Access {
    /// The exit that reports the access.
    fn exit(self) -> Exit {
        match self {
            Access::PortRead { port, size } => Exit::PioRead { port, size },
            Access::PortWrite { port, size, value } => Exit::PioWrite { port, size, value },
            Access::MmioRead { address, size } => Exit::MmioRead { address, size },
            Access::MmioWrite { address, size, value } => Exit::MmioWrite { address, size, value },
        }
    }

    /// Bytes that a reply may have; None for a write.
    fn reply_size(self) -> Option<u8> {
        match self {
            Access::PortRead { size, .. } | Access::MmioRead { size, .. } => Some(size),
            Access::PortWrite { .. } | Access::MmioWrite { .. } => None,
        }
    }
}

/// The log of the instruction in progress.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answers {
    log: Vec<(Access, u64)>,
    /// How many entries the current execution has consumed.
    consumed: usize,
    /// The access that waits for an answer from outside, and whether its exit was reported.
    asked: Option<Access>,
    reported: bool,
    /// The next instruction is the one that waited: it finds its log.
    resuming: bool,
}

impl Answers {
    /// The answer given to this access by an earlier execution of the instruction.
    ///
    /// An instruction that takes another course this time (its page tables or operands were changed from elsewhere)
    /// leaves the log: the rest of it is void.
    pub(crate) fn replay(&mut self, access: Access) -> Option<u64> {
        match self.log.get(self.consumed) {
            Some(&(logged, answer)) if logged == access => {
                self.consumed += 1;
                Some(answer)
            }
            _ => {
                self.log.truncate(self.consumed);
                None
            }
        }
    }

    /// Keep the answer of one of the engine's own devices (0 for a write).
    pub(crate) fn keep(&mut self, access: Access, answer: u64) {
        self.log.push((access, answer));
        self.consumed = self.log.len();
    }

    /// Ask outside.
    pub(crate) fn ask(&mut self, access: Access) {
        self.asked = Some(access);
        self.reported = false;
    }

    /// The exit for the access that waits, if one does: to be reported now.
    pub(crate) fn report(&mut self) -> Option<Exit> {
        self.reported = true;
        self.asked.map(Access::exit)
    }

    /// Whether an access waits whose exit was not reported yet.
    pub(crate) fn is_unreported(&self) -> bool {
        self.asked.is_some() && !self.reported
    }

    /// Whether an access waits for its answer.
    pub(crate) fn is_waiting(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether somebody outside is about to answer.
    pub(crate) fn is_reported(&self) -> bool {
        self.asked.is_some() && self.reported
    }

    /// Take the reply to the last exit. Returns the access that it answers: its instruction is to be executed again.
    pub(crate) fn take_reply(&mut self, reply: Option<u64>) -> Result<Option<(Access, u64)>, Error> {
        let Some(access) = self.asked.filter(|_| self.reported) else {
            return if reply.is_none() { Ok(None) } else { Err(Error::ReplyUnexpected) };
        };
        let answer = match (access.reply_size(), reply) {
            (None, None) => 0,
            (None, Some(_)) => return Err(Error::ReplyUnexpected),
            (Some(_), None) => return Err(Error::ReplyMissing(access.exit())),
            (Some(size), Some(value)) if size < 8 && value >> (8 * u32::from(size)) != 0 => {
                return Err(Error::ReplyTooLarge { value, size });
            }
            (Some(_), Some(value)) => value,
        };
        self.asked = None;
        self.log.push((access, answer));
        Ok(Some((access, answer)))
    }

    /// The instruction that waited is executed next.
    pub(crate) fn resume(&mut self) {
        self.resuming = true;
    }

    /// An instruction begins: with the log of its first execution, or with none.
    #[inline]
    pub(crate) fn begin(&mut self) {
        if std::mem::take(&mut self.resuming) {
            self.rewind();
        } else {
            self.commit();
        }
    }

    /// Start again from the first answer.
    pub(crate) fn rewind(&mut self) {
        self.consumed = 0;
    }

    /// The instruction, or an iteration of it, is committed: its answers are spent.
    #[inline]
    pub(crate) fn commit(&mut self) {
        self.log.clear();
        self.consumed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Access = Access::PortRead { port: 0x3f8, size: 1 };
    const WRITE: Access = Access::MmioWrite { address: 0xd000_0000, size: 4, value: 7 };

    #[test]
    fn the_second_execution_sees_the_answers_of_the_first() {
        let mut answers = Answers::default();
        assert_eq!(answers.replay(READ), None);
        answers.keep(READ, 0x41);
        assert_eq!(answers.replay(WRITE), None);
        answers.ask(WRITE);
        assert!(answers.is_unreported());
        assert_eq!(answers.take_reply(None).unwrap(), None, "nobody knows of it yet");
        assert!(matches!(answers.report(), Some(Exit::MmioWrite { value: 7, .. })));
        assert_eq!(answers.take_reply(None).unwrap(), Some((WRITE, 0)));
        answers.resume();
        answers.begin();
        assert_eq!(answers.replay(READ), Some(0x41));
        assert_eq!(answers.replay(WRITE), Some(0));
        assert_eq!(answers.replay(WRITE), None, "a third access is a new one");
        answers.begin();
        assert_eq!(answers.replay(READ), None, "the next instruction starts afresh");
    }

    #[test]
    fn another_course_voids_the_rest_of_the_log() {
        let mut answers = Answers::default();
        answers.keep(READ, 1);
        answers.keep(READ, 2);
        answers.rewind();
        assert_eq!(answers.replay(WRITE), None);
        answers.rewind();
        assert_eq!(answers.replay(READ), None);
    }

    #[test]
    fn replies_are_checked() {
        let mut answers = Answers::default();
        assert!(matches!(answers.take_reply(Some(1)), Err(Error::ReplyUnexpected)));
        answers.ask(READ);
        answers.report();
        assert!(matches!(answers.take_reply(None), Err(Error::ReplyMissing(_))));
        assert!(matches!(answers.take_reply(Some(0x100)), Err(Error::ReplyTooLarge { .. })));
        assert_eq!(answers.take_reply(Some(0xff)).unwrap(), Some((READ, 0xff)));
        assert_eq!(answers.take_reply(None).unwrap(), None);
    }
}
