//! The factors between ticks of the time-stamp counter and nanoseconds.

/// How a counter's ticks become nanoseconds, and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Fixed-point factor, 32 fractional bits: nanoseconds are `(ticks << shift) * mul >> 32`.
    pub mul: u32,
    /// Binary exponent applied to the ticks before the multiplication; a negative one shifts right.
    pub shift: i8,
    /// Frequency in kHz.
    pub khz: u64,
}

impl Scale {
    /// The factors for a frequency in kHz, which is not 0.
    pub fn new(khz: u64) -> Self {
        let mut shift = 0i8;
        let mut hz = khz.saturating_mul(1000);
        while hz > 2_000_000_000 {
            hz >>= 1;
            shift -= 1;
        }
        while hz <= 1_000_000_000 {
            hz <<= 1;
            shift += 1;
        }
        Self { mul: ((1_000_000_000u64 << 32) / hz) as u32, shift, khz }
    }

    /// Nanoseconds of that many ticks.
    pub fn nanos(&self, ticks: u64) -> u64 {
        let shifted = if self.shift < 0 { ticks >> -self.shift } else { ticks << self.shift };
        ((u128::from(shifted) * u128::from(self.mul)) >> 32) as u64
    }

    /// The counter's value `nanos` after it was `start`; the largest one for a time that it never counts to. A guest chooses its
    /// deadlines, and one that wrapped around here would be over at once, and again each time that the timer is armed for it.
    pub fn ticks_at(&self, start: u64, nanos: u64) -> u64 {
        let ticks = u128::from(nanos) * u128::from(self.khz) / 1_000_000;
        u64::try_from(ticks).map_or(u64::MAX, |ticks| start.saturating_add(ticks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A deadline near 2^64/3 ns on a counter of 3 GHz wrapped to a moment that had passed: a timer interrupt without end.
    #[test]
    fn a_far_deadline_is_never_a_near_one() {
        let scale = Scale::new(3_000_000);
        for far in [u64::MAX / 3 + 1, u64::MAX / 3 + 1000, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
            assert_eq!(scale.ticks_at(1 << 40, far), u64::MAX, "{far}");
        }
        assert_eq!(scale.ticks_at(u64::MAX - 10, 1000), u64::MAX, "not by the start either");
        assert_eq!(scale.ticks_at(500, 1_000_000), 3_000_500);
    }

    proptest! {
        #[test]
        fn later_is_never_earlier(khz in 1000u64..10_000_000, start in any::<u64>(), a in any::<u64>(), b in any::<u64>()) {
            let scale = Scale::new(khz);
            let (first, last) = (a.min(b), a.max(b));
            prop_assert!(start <= scale.ticks_at(start, first));
            prop_assert!(scale.ticks_at(start, first) <= scale.ticks_at(start, last));
        }

        #[test]
        fn there_and_back(khz in 1000u64..10_000_000, nanos in 0u64..1 << 50) {
            let scale = Scale::new(khz);
            let back = scale.nanos(scale.ticks_at(0, nanos));
            // The factor has 31 bits or more, and a tick is at most a microsecond.
            prop_assert!(back.abs_diff(nanos) <= (nanos >> 30) + 1001, "{nanos} {back}");
        }
    }
}
