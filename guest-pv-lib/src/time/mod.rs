//! Time: the paravirtual clock, and timers that fire `VIRQ_TIMER`.
//!
//! System time is nanoseconds since the hypervisor started. It is computed from the TSC and factors that the
//! hypervisor keeps up to date in the shared page, without a hypercall.

pub mod pvclock;
mod timer;

use core::sync::atomic::Ordering::{Acquire, Relaxed};
use core::sync::atomic::{Ordering, fence};

pub use timer::{set_oneshot, set_periodic, set_timer, stop_oneshot, stop_periodic};

use crate::shared;

/// Reads the time stamp counter, after all earlier loads.
#[must_use]
pub fn tsc() -> u64 {
    // SAFETY: both instructions are there on every x86-64 processor and touch no memory.
    unsafe {
        core::arch::x86_64::_mm_lfence();
        core::arch::x86_64::_rdtsc()
    }
}

/// System time in nanoseconds.
#[doc(alias = "vcpu_time_info")]
#[must_use]
pub fn now() -> u64 {
    let info = &shared::this_vcpu().time;
    loop {
        let (version, factors) = pvclock::read(info);
        let now = factors.at(tsc());
        if pvclock::unchanged(info, version) {
            return now;
        }
    }
}

/// System time, in nanoseconds, at which this CPU's time-stamp counter reads `tsc`.
#[must_use]
pub fn at_tsc(tsc: u64) -> u64 {
    pvclock::read(&shared::this_vcpu().time).1.at(tsc)
}

/// Wall-clock time at which system time was zero: seconds and nanoseconds since 1970 (UTC).
#[doc(alias("wc_sec", "wc_nsec"))]
#[must_use]
pub fn wall_clock_at_zero() -> (u64, u32) {
    let info = shared::info();
    loop {
        let version = info.wc_version.load(Acquire);
        let low = u64::from(info.wc_sec.load(Relaxed));
        let high = u64::from(info.wc_sec_hi.load(Relaxed));
        let nanos = info.wc_nsec.load(Relaxed);
        fence(Ordering::Acquire);
        if version & 1 == 0 && info.wc_version.load(Relaxed) == version {
            return (high << 32 | low, nanos);
        }
        core::hint::spin_loop();
    }
}
