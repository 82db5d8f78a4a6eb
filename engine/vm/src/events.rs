//! Interrupts as a machine took them, so that another can take the same at the same instructions.

use std::collections::VecDeque;

/// The vector of an NMI.
pub(crate) const NMI: u8 = 2;

/// An interrupt or NMI, and after how many instructions it was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Instructions retired before it.
    pub instructions: u64,
    /// Vector; 2 is an NMI.
    pub vector: u8,
}

/// Where a processor's interrupts come from, and whether they are written down.
#[derive(Debug)]
pub(crate) enum Events {
    /// From the chipset, when they can be delivered.
    Own { record: Option<Vec<Event>> },
    /// From the chipset, at the instructions told and nowhere else.
    Replayed(VecDeque<Event>),
}

impl Events {
    /// An interrupt was delivered.
    pub(crate) fn delivered(&mut self, event: Event) {
        match self {
            Events::Own { record: Some(record) } => record.push(event),
            Events::Own { record: None } => {}
            Events::Replayed(script) => {
                script.pop_front();
            }
        }
    }

    /// Whether the script decides; it may be at its end.
    pub(crate) fn is_replayed(&self) -> bool {
        matches!(self, Events::Replayed(_))
    }

    /// The next event of the script.
    pub(crate) fn next(&self) -> Option<Event> {
        match self {
            Events::Own { .. } => None,
            Events::Replayed(script) => script.front().copied(),
        }
    }

    /// Take the record.
    pub(crate) fn drain(&mut self) -> Vec<Event> {
        match self {
            Events::Own { record: Some(record) } => std::mem::take(record),
            Events::Own { record: None } | Events::Replayed(_) => Vec::new(),
        }
    }

    /// Follow a script from now on.
    pub(crate) fn replay(&mut self, events: Vec<Event>) {
        match self {
            Events::Replayed(script) => script.extend(events),
            Events::Own { .. } => *self = Events::Replayed(events.into()),
        }
    }
}
