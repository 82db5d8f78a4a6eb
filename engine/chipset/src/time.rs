//! Conversions between virtual nanoseconds and a device's own ticks, and the arithmetic of periods.

const NANOSECONDS: u128 = 1_000_000_000;

/// Whole ticks of an oscillator of `hz` that have passed at `now`.
pub(crate) fn ticks(now: u64, hz: u64) -> u64 {
    (u128::from(now) * u128::from(hz) / NANOSECONDS) as u64
}

/// The first nanosecond at which [`ticks`] is at least `tick`; saturates at `u64::MAX`, which means never.
pub(crate) fn nanoseconds(tick: u64, hz: u64) -> u64 {
    (u128::from(tick) * NANOSECONDS).div_ceil(u128::from(hz)).try_into().unwrap_or(u64::MAX)
}

/// The first `start + k * period` (k >= 1) that is later than `after`; saturates. `period` must not be 0.
pub(crate) fn next_boundary(start: u64, period: u64, after: u64) -> u64 {
    let periods = after.saturating_sub(start) / period.max(1) + 1;
    start.saturating_add(periods.saturating_mul(period))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoseconds_is_the_first_instant_of_its_tick() {
        for tick in [1, 2, 3, 1193182, 987_654_321] {
            let instant = nanoseconds(tick, 1_193_182);
            assert_eq!(ticks(instant, 1_193_182), tick);
            assert_eq!(ticks(instant - 1, 1_193_182), tick - 1);
        }
    }

    #[test]
    fn next_boundary_keeps_phase_over_missed_periods() {
        assert_eq!(next_boundary(100, 10, 100), 110);
        assert_eq!(next_boundary(100, 10, 109), 110);
        assert_eq!(next_boundary(100, 10, 110), 120);
        assert_eq!(next_boundary(100, 10, 5555), 5560);
        assert_eq!(next_boundary(100, u64::MAX, 200), u64::MAX);
    }
}
