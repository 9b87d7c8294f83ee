//! How long each CPU had nothing to run.

use crate::ids::Nanos;
use core::sync::atomic::{AtomicU64, Ordering};

/// `since` of a CPU that runs a vCPU.
const BUSY: u64 = u64::MAX;

/// One CPU's account. Only the CPU itself changes it; others may read it a little out of date.
#[derive(Debug)]
pub(super) struct IdleAccount {
    /// When the CPU became idle, or [`BUSY`].
    since: AtomicU64,
    /// Nanoseconds of idling before that.
    total: AtomicU64,
}

impl IdleAccount {
    /// A CPU that has been idle since system time began.
    pub const fn new() -> Self {
        Self { since: AtomicU64::new(0), total: AtomicU64::new(0) }
    }

    /// The CPU runs something from now on, or nothing.
    pub fn switch(&self, busy: bool, now: Nanos) {
        let since = self.since.load(Ordering::Relaxed);
        if busy == (since == BUSY) {
            return;
        }
        if busy {
            self.total.fetch_add(now.0.saturating_sub(since), Ordering::Relaxed);
        }
        self.since.store(if busy { BUSY } else { now.0 }, Ordering::Relaxed);
    }

    /// Nanoseconds that it was idle until now.
    pub fn read(&self, now: Nanos) -> u64 {
        let current = match self.since.load(Ordering::Relaxed) {
            BUSY => 0,
            since => now.0.saturating_sub(since),
        };
        self.total.load(Ordering::Relaxed).saturating_add(current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_idling_counts() {
        let account = IdleAccount::new();
        assert_eq!(account.read(Nanos(5)), 5);
        account.switch(true, Nanos(10));
        account.switch(true, Nanos(20));
        assert_eq!(account.read(Nanos(30)), 10);
        account.switch(false, Nanos(40));
        account.switch(false, Nanos(50));
        assert_eq!(account.read(Nanos(60)), 30);
    }
}
