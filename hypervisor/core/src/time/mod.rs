//! System time as guests see it, their timers, and the account of how they spent their time.
//!
//! *System time* is nanoseconds since the hypervisor booted ([`crate::platform::Platform::now`]). Guests compute it
//! themselves from the time-stamp counter and the record that [`publish`] keeps in their `vcpu_info` (a sequence lock: odd while
//! it changes). Wall-clock time is system time plus an offset that stands in `shared_info`.
//!
//! [`timers`] has the timers of each vCPU: one-shot, periodic, and the end of a `SCHEDOP_poll`. Each CPU has a
//! [`heap`] of deadlines; the platform's timer is always armed for the earliest of them, of the scheduler's slice, of the
//! watchdogs and of interrupt lines that wait for guests. [`runstate`] has the account and its copy in guest memory.
//!
//! # Invariants
//! - A timer is in the heap of the CPU that its slot names, at the position that its slot names, or in none. The
//!   heap's lock guards the position; the CPU changes only under `VcpuTime::arming`, while the timer is in no heap.
//! - A periodic timer is armed while its vCPU runs, on the CPU where it runs, and only with `VcpuTime::arming` held and a period that is
//!   not 0. So it costs no CPU anything that its vCPU does not have anyway, and a teardown that sets the period to 0 stops it for good.
//! - Locks: `VcpuTime::arming`, then one heap. Timers expire with no lock held.

pub mod heap;
pub mod publish;
pub mod runstate;
pub mod scale;
#[cfg(test)]
mod tests;
pub mod timers;

pub use runstate::RunState;
pub use timers::{TimerKind, TimerQueues};

use core::sync::atomic::{AtomicU64, Ordering};
use runstate::Account;
use spin::Mutex;
use timers::{DEFAULT_PERIOD, Slot};

/// Timers, run state and registered areas of one vCPU.
pub struct VcpuTime {
    /// How it spent its time.
    account: Mutex<Account>,
    /// Guest address of the copy of the run state, 0 for none.
    runstate_area: AtomicU64,
    /// Guest address of the second time record, 0 for none.
    time_area: AtomicU64,
    /// Time-stamp of the time record that was published last.
    published: AtomicU64,
    /// Version of that record; even.
    version: AtomicU64,
    /// Its timers, by [`TimerKind`].
    slots: [Slot; TimerKind::COUNT],
    /// Held while a timer is armed or stopped, and while the period changes.
    arming: Mutex<()>,
    /// Period of the periodic timer in nanoseconds, 0 while it is stopped.
    period: AtomicU64,
    /// System time at which the periodic timer fired last.
    last_tick: AtomicU64,
}

impl VcpuTime {
    /// Offline since the beginning, with nothing armed. The periodic timer ticks at 100 Hz once the vCPU runs, as the ABI
    /// has it for PV guests.
    pub fn new() -> Self {
        Self {
            account: Mutex::new(Account::new()),
            runstate_area: AtomicU64::new(0),
            time_area: AtomicU64::new(0),
            published: AtomicU64::new(0),
            version: AtomicU64::new(0),
            slots: core::array::from_fn(|_| Slot::new()),
            arming: Mutex::new(()),
            period: AtomicU64::new(DEFAULT_PERIOD),
            last_tick: AtomicU64::new(0),
        }
    }

    /// Whether the periodic timer has a period.
    #[inline(always)]
    fn ticks(&self) -> bool {
        self.period.load(Ordering::SeqCst) != 0
    }
}

#[cfg(test)]
impl VcpuTime {
    /// Stops the periodic timer before it was ever armed.
    pub(crate) fn disable_periodic(&self) {
        self.period.store(0, Ordering::Relaxed);
    }
}

impl Default for VcpuTime {
    fn default() -> Self {
        Self::new()
    }
}
