//! The arithmetic and the reading protocol of `vcpu_time_info` (`xen.h`).
//!
//! The hypervisor makes the version odd, changes the fields, and makes it even again: a reader that saw the same even
//! version before and after has consistent fields.

use core::sync::atomic::Ordering::{Acquire, Relaxed};
use core::sync::atomic::fence;

use crate::shared::VcpuTimeInfo;

/// What turns a TSC value into system time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factors {
    /// TSC at the last update.
    pub tsc_timestamp: u64,
    /// System time at the last update, in nanoseconds.
    pub system_time: u64,
    /// Nanoseconds per shifted tick, as a fraction of 2^32.
    pub multiplier: u32,
    /// Left shift of the ticks before the multiplication; negative for a right shift.
    pub shift: i8,
}

impl Factors {
    /// System time when the TSC reads `tsc`. A TSC before the last update counts as that update.
    #[must_use]
    pub const fn at(&self, tsc: u64) -> u64 {
        let ticks = tsc.wrapping_sub(self.tsc_timestamp);
        // The upper half is a TSC before the update. (The TSC of a hardware guest starts at zero, so that its first
        // update may lie before that.)
        let ticks = if ticks.cast_signed() < 0 { 0 } else { ticks };
        self.system_time.wrapping_add(scale(ticks, self.multiplier, self.shift))
    }

    /// Frequency of the TSC in Hz, or none where the hypervisor has not set the factors.
    #[must_use]
    pub const fn tsc_frequency(&self) -> Option<u64> {
        if self.multiplier == 0 {
            return None;
        }
        let unshifted = (1_000_000_000u64 << 32) / self.multiplier as u64;
        let by = self.shift.unsigned_abs() as u32;
        if self.shift < 0 { unshifted.checked_shl(by) } else { unshifted.checked_shr(by) }
    }
}

/// `((ticks << shift) * multiplier) >> 32`, of which the low 64 bits count.
#[must_use]
pub const fn scale(ticks: u64, multiplier: u32, shift: i8) -> u64 {
    let by = shift.unsigned_abs() as u32;
    let ticks = if by >= 64 {
        0
    } else if shift < 0 {
        ticks >> by
    } else {
        ticks << by
    };
    ((ticks as u128 * multiplier as u128) >> 32) as u64
}

/// Reads the fields and the version that they belong to, waiting out an update.
#[must_use]
pub fn read(info: &VcpuTimeInfo) -> (u32, Factors) {
    loop {
        let version = info.version.load(Acquire);
        let factors = Factors {
            tsc_timestamp: info.tsc_timestamp.load(Relaxed),
            system_time: info.system_time.load(Relaxed),
            multiplier: info.multiplier.load(Relaxed),
            shift: info.shift.load(Relaxed).cast_signed(),
        };
        if version & 1 == 0 && unchanged(info, version) {
            return (version, factors);
        }
        core::hint::spin_loop();
    }
}

/// Whether the fields are still those of `version`.
#[must_use]
pub fn unchanged(info: &VcpuTimeInfo, version: u32) -> bool {
    fence(Acquire);
    info.version.load(Relaxed) == version
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::sync::atomic::Ordering::{Release, SeqCst};

    /// The factors Xen publishes for a TSC of 1 GHz: half the ticks, times almost two.
    const GIGAHERTZ: Factors =
        Factors { tsc_timestamp: 5_000, system_time: 1_000_000, multiplier: 1 << 31, shift: 1 };

    #[test]
    fn one_tick_is_a_nanosecond_at_one_gigahertz() {
        assert_eq!(GIGAHERTZ.at(5_000), 1_000_000);
        assert_eq!(GIGAHERTZ.at(5_123), 1_000_123);
        assert_eq!(GIGAHERTZ.tsc_frequency(), Some(1_000_000_000));
    }

    #[test]
    fn a_tsc_behind_the_update_does_not_run_into_the_far_future() {
        assert_eq!(GIGAHERTZ.at(4_999), 1_000_000);
    }

    #[test]
    fn an_update_may_lie_before_the_tsc_was_zero() {
        let factors = Factors { tsc_timestamp: 0u64.wrapping_sub(500), ..GIGAHERTZ };
        assert_eq!(factors.at(100), 1_000_600);
    }

    #[test]
    fn shifts_go_both_ways_and_never_overflow() {
        assert_eq!(scale(8, u32::MAX, -2), 1);
        assert_eq!(scale(1 << 40, 1 << 31, 0), 1 << 39);
        assert_eq!(scale(u64::MAX, u32::MAX, 63), (((1u128 << 63) * u128::from(u32::MAX)) >> 32) as u64);
        assert_eq!(scale(u64::MAX, u32::MAX, i8::MIN), 0);
        assert_eq!(scale(u64::MAX, u32::MAX, i8::MAX), 0);
        let slow = Factors { multiplier: 1 << 31, shift: -1, ..GIGAHERTZ };
        assert_eq!(slow.tsc_frequency(), Some(4_000_000_000));
        assert_eq!(Factors { multiplier: 0, ..GIGAHERTZ }.tsc_frequency(), None);
    }

    #[test]
    fn readers_never_see_half_an_update() {
        let info = VcpuTimeInfo::default();
        info.multiplier.store(1 << 31, SeqCst);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 1..=100_000u64 {
                    info.version.fetch_add(1, SeqCst);
                    info.tsc_timestamp.store(round, Release);
                    info.system_time.store(round * 1000, Release);
                    info.version.fetch_add(1, SeqCst);
                }
            });
            while !writer.is_finished() {
                let (_, factors) = read(&info);
                assert_eq!(factors.system_time, factors.tsc_timestamp * 1000);
            }
        });
    }
}
