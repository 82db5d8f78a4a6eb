//! ACPI power management timer: a free-running counter at 3.579545 MHz (ACPI specification, 4.8.3.3).

use crate::time::ticks;
use serde::{Deserialize, Serialize};

/// Frequency of the counter.
pub const PM_TIMER_HZ: u64 = 3_579_545;

/// Width of the counter, as FADT flag `TMR_VAL_EXT` announces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Width {
    /// Flag clear.
    Bits24,
    /// Flag set.
    Bits32,
}

/// The timer. It has no volatile state: the counter is a function of virtual time.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PmTimer {
    // Static configuration.
    width: Width,
}

impl PmTimer {
    /// A counter that is zero at virtual time zero.
    pub fn new(width: Width) -> PmTimer {
        PmTimer { width }
    }

    /// The counter at `now`.
    pub fn read(&self, now: u64) -> u32 {
        let count = ticks(now, PM_TIMER_HZ) as u32;
        match self.width {
            Width::Bits24 => count & 0x00ff_ffff,
            Width::Bits32 => count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_its_frequency_in_a_second() {
        assert_eq!(PmTimer::new(Width::Bits24).read(1_000_000_000), 3_579_545);
    }

    #[test]
    fn wraps_at_its_width() {
        let seconds = 10 * 1_000_000_000;
        assert_eq!(PmTimer::new(Width::Bits24).read(seconds), 35_795_450 % (1 << 24));
        assert_eq!(PmTimer::new(Width::Bits32).read(seconds), 35_795_450);
    }
}
