//! Random numbers for RDRAND and RDSEED.

use crate::clock::ClockKind;

/// Where they come from.
#[derive(Debug)]
pub(crate) enum Entropy {
    /// The host's generator, a buffer at a time.
    Host { buffer: Box<[u8; 256]>, left: usize },
    /// The same numbers in every run with the same seed (splitmix64), for machines whose time is deterministic too.
    Fixed(u64),
}

impl Entropy {
    /// For processor `vcpu`. `seed` chooses the numbers of a machine whose time is deterministic.
    pub(crate) fn new(clock: ClockKind, seed: u64, vcpu: usize) -> Entropy {
        match clock {
            ClockKind::Host => Entropy::Host { buffer: Box::new([0; 256]), left: 0 },
            ClockKind::Instructions => Entropy::Fixed(seed ^ (vcpu as u64).rotate_right(8)),
        }
    }

    /// What chooses the numbers that come, if anything does.
    pub(crate) fn state(&self) -> Option<u64> {
        match self {
            Entropy::Host { .. } => None,
            Entropy::Fixed(state) => Some(*state),
        }
    }

    /// Have this choose them, where something does.
    pub(crate) fn set_state(&mut self, state: u64) {
        if let Entropy::Fixed(own) = self {
            *own = state;
        }
    }

    pub(crate) fn next(&mut self) -> u64 {
        match self {
            Entropy::Host { buffer, left } => {
                if *left < 8 {
                    getrandom::fill(buffer.as_mut_slice()).expect("the host has a random number generator");
                    *left = buffer.len();
                }
                *left -= 8;
                let bytes = buffer.get_mut(*left..*left + 8).unwrap_or_default();
                let value = bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte));
                // A number is given to one guest once.
                bytes.fill(0);
                value
            }
            Entropy::Fixed(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                mixed ^ mixed >> 31
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deterministic_machines_see_the_same_numbers() {
        let numbers = |seed, vcpu| {
            let mut entropy = Entropy::new(ClockKind::Instructions, seed, vcpu);
            [entropy.next(), entropy.next()]
        };
        assert_eq!(numbers(3, 0), numbers(3, 0));
        assert_ne!(numbers(3, 0), numbers(3, 1));
        assert_ne!(numbers(3, 0), numbers(4, 0));
    }

    #[test]
    fn the_hosts_numbers_do_not_repeat() {
        let mut entropy = Entropy::new(ClockKind::Host, 0, 0);
        let mut seen: Vec<u64> = (0..100).map(|_| entropy.next()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 100);
    }
}
