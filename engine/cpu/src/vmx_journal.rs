//! VM entries and VM exits: how many there were, and each as it happened, for whoever watches.

use crate::vmx::Vmcs;
use gasang_x86::vmx::exit_reason::BASIC;
use gasang_x86::vmx::{ExitReason, Field};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};

/// Transitions that are kept until somebody takes them; more are only counted.
const MOST: usize = 1 << 16;

/// How often the processor entered a guest, and left one for which reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransitionCounts {
    /// VM entries that succeeded.
    pub entries: u64,
    exits: [u64; ExitReason::ALL.len()],
}

impl Default for TransitionCounts {
    fn default() -> TransitionCounts {
        TransitionCounts { entries: 0, exits: [0; ExitReason::ALL.len()] }
    }
}

impl Hash for TransitionCounts {
    /// No guest can find it out.
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl TransitionCounts {
    /// Count a VM exit, or a VM entry that failed late, by the exit-reason field.
    pub fn exit(&mut self, reason: u32) {
        let known = ExitReason::ALL.iter().position(|known| u32::from(known.number()) == reason & BASIC);
        if let Some(count) = known.and_then(|place| self.exits.get_mut(place)) {
            *count += 1;
        }
    }

    /// All VM exits.
    pub fn all_exits(&self) -> u64 {
        self.exits.iter().sum()
    }

    /// The reasons that occurred, and how often.
    pub fn by_reason(&self) -> impl Iterator<Item = (ExitReason, u64)> + '_ {
        let all = ExitReason::ALL.iter().copied().zip(self.exits);
        all.filter(|&(_, count)| count != 0)
    }
}

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
    lost: u64,
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

    /// Take what was noted; what is counted as lost is not counted again.
    pub fn take(&mut self) -> (Vec<Transition>, u64) {
        (std::mem::take(&mut self.transitions), std::mem::take(&mut self.lost))
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
        let changed: Vec<_> = journal.take().0.into_iter().map(|transition| transition.changed).collect();
        assert_eq!(changed, [vec![(Field::GuestRip, 7)], vec![(Field::ExitReason, 12)], vec![]]);
        assert!(journal.take().0.is_empty());
    }

    #[test]
    fn what_nobody_takes_is_counted() {
        let mut journal = Journal::default();
        (0..MOST + 3).for_each(|_| journal.note(transition(TransitionKind::Exit), &Vmcs::default()));
        let (kept, lost) = journal.take();
        assert_eq!((kept.len(), lost), (MOST, 3));
    }

    #[test]
    fn exits_are_counted_by_reason() {
        let mut counts = TransitionCounts::default();
        for reason in [10, 48, 10, 0x8000_0021, 35] {
            counts.exit(reason);
        }
        let named: Vec<_> = counts.by_reason().collect();
        let expected =
            [(ExitReason::Cpuid, 2), (ExitReason::InvalidGuestState, 1), (ExitReason::EptViolation, 1)];
        assert_eq!(named, expected);
        assert_eq!(counts.all_exits(), 4);
    }
}
