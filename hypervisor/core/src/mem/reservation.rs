//! How many pages a domain owns and may own.

use core::sync::atomic::{AtomicU64, Ordering};

/// The page account of a domain. Frames of the hypervisor that are merely shared with the domain do not count.
#[derive(Debug)]
pub struct Reservation {
    current: AtomicU64,
    max: AtomicU64,
    /// First of the domain's tables that wait to be dismantled (an mfn), 0 for none: see `page::doomed`.
    pub(crate) doomed: spin::Mutex<u32>,
    /// Whether `doomed` is not empty: read without the lock.
    pub(crate) any_doomed: core::sync::atomic::AtomicBool,
}

impl Reservation {
    /// No pages yet, at most `max`.
    pub const fn new(max: u64) -> Self {
        Self {
            current: AtomicU64::new(0),
            max: AtomicU64::new(max),
            doomed: spin::Mutex::new(0),
            any_doomed: core::sync::atomic::AtomicBool::new(false),
        }
    }

    /// Pages the domain owns.
    pub fn current(&self) -> u64 {
        self.current.load(Ordering::Relaxed)
    }

    /// Most pages the domain may own.
    pub fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed)
    }

    /// Changes the limit; pages beyond a lowered one stay until the domain gives them up.
    pub fn set_max(&self, max: u64) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Books `pages` more, unless that exceeds the limit.
    #[must_use]
    pub fn try_grow(&self, pages: u64) -> bool {
        let max = self.max();
        let grown = |now: u64| now.checked_add(pages).filter(|n| *n <= max);
        self.current.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok()
    }

    /// Books `pages` less.
    pub fn shrink(&self, pages: u64) {
        self.current.fetch_sub(pages, Ordering::Relaxed);
    }
}
