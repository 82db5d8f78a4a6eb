//! VM entries and VM exits as they happened, for whoever watches.

use crate::vmx::Vmcs;
use gasang_x86::vmx::Field;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};

/// Transitions that are kept until somebody takes them; more are only counted.
const MOST: usize = 1 << 16;

/// What a transition was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransitionKind {
    /// A VM entry.
    Entry,
    /// A VM exit, or the end of a VM entry that failed because of the guest's state.
    Exit,
}

/// A VM entry or a VM exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Which of them.
    pub kind: TransitionKind,
    /// Physical address of the VMCS.
    pub vmcs: u64,
    /// The platform's time-stamp counter.
    pub time: u64,
    /// Instructions retired before it.
    pub instructions: u64,
    /// The guest's RIP.
    pub rip: u64,
    /// The exit-reason field, whole; 0 for an entry.
    pub reason: u32,
    /// The exit qualification; 0 for an entry.
    pub qualification: u64,
    /// Fields that changed since the transition before, with their values: what the hypervisor wrote, or the exit saved.
    pub changed: Vec<(Field, u64)>,
}

/// Transitions that nobody has taken yet, and each VMCS as it was at its last.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    transitions: Vec<Transition>,
    known: HashMap<u64, Box<Vmcs>>,
    /// Transitions for which there was no room.
    pub lost: u64,
}

impl Hash for Journal {
    /// No guest can find it out.
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl Journal {
    /// Note a transition of `vmcs`; `changed` is filled in.
    pub fn note(&mut self, mut transition: Transition, vmcs: &Vmcs) {
        let known = self.known.entry(transition.vmcs).or_default();
        if self.transitions.len() < MOST {
            transition.changed = vmcs.fields().filter(|&(field, value)| known.get(field) != value).collect();
            self.transitions.push(transition);
        } else {
            self.lost += 1;
        }
        **known = vmcs.clone();
    }

    /// Take what was noted.
    pub fn take(&mut self) -> Vec<Transition> {
        std::mem::take(&mut self.transitions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transition(kind: TransitionKind) -> Transition {
        Transition {
            kind,
            vmcs: 0x1000,
            time: 0,
            instructions: 0,
            rip: 0,
            reason: 0,
            qualification: 0,
            changed: Vec::new(),
        }
    }

    #[test]
    fn each_transition_tells_what_changed_since_the_one_before() {
        let mut journal = Journal::default();
        let mut vmcs = Vmcs::default();
        vmcs.set(Field::GuestRip, 7);
        journal.note(transition(TransitionKind::Entry), &vmcs);
        vmcs.set(Field::ExitReason, 12);
        journal.note(transition(TransitionKind::Exit), &vmcs);
        journal.note(transition(TransitionKind::Entry), &vmcs);
        let changed: Vec<_> = journal.take().into_iter().map(|transition| transition.changed).collect();
        assert_eq!(changed, [vec![(Field::GuestRip, 7)], vec![(Field::ExitReason, 12)], vec![]]);
        assert!(journal.take().is_empty());
    }

    #[test]
    fn what_nobody_takes_is_counted() {
        let mut journal = Journal::default();
        (0..MOST + 3).for_each(|_| journal.note(transition(TransitionKind::Exit), &Vmcs::default()));
        assert_eq!((journal.take().len(), journal.lost), (MOST, 3));
    }
}
