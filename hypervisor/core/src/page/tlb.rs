//! Which CPUs may still translate through entries that are gone.
//!
//! A global clock ticks whenever some CPU flushes its whole TLB. A frame that loses its last type reference notes the
//! time in its type word; a CPU notes the tick at which its last whole flush began. The frame may take a type that
//! conflicts with the old one once every CPU of its domain flushed *after* that note. Guests flush so often by themselves
//! (every switch of address spaces) that nearly all of these conflicts find nothing left to flush.
//!
//! Stamps are the clock's low 25 bits. A stamp so old that the comparison wraps looks recent, which costs a flush and
//! harms nothing; one that really is recent never looks old, because the clock cannot advance by 2^24 ticks without
//! the CPU's own note being refreshed or being just as old.

use crate::cpumask::{CpuMask, MAX_CPUS};
use crate::ids::CpuId;
use core::sync::atomic::{AtomicU32, Ordering};

/// Bits of a stamp.
pub(crate) const STAMP_BITS: u32 = 25;
const ANY_FREED: u32 = 1 << 31;
const STAMP_MASK: u32 = (1 << STAMP_BITS) - 1;

/// The clock of whole TLB flushes.
#[derive(Debug)]
pub struct TlbClock {
    now: AtomicU32,
    flushed: [AtomicU32; MAX_CPUS],
    /// [`ANY_FREED`] and the stamp of the frame that was freed last; its former user may still see it.
    freed: AtomicU32,
}

impl TlbClock {
    /// A clock at its beginning: no CPU ever flushed.
    pub const fn new() -> Self {
        Self {
            now: AtomicU32::new(1),
            flushed: [const { AtomicU32::new(0) }; MAX_CPUS],
            freed: AtomicU32::new(0),
        }
    }

    /// What a frame notes when an entry that named it was removed.
    pub fn stamp(&self) -> u32 {
        self.now.load(Ordering::SeqCst) & STAMP_MASK
    }

    /// Begins a whole flush; the answer goes to [`TlbClock::flushed`] when it is done.
    pub fn begin_flush(&self) -> u32 {
        self.now.fetch_add(1, Ordering::SeqCst).wrapping_add(1)
    }

    /// `cpu` finished a whole flush that began with `tick`.
    pub fn flushed(&self, cpu: CpuId, tick: u32) {
        if let Some(note) = self.flushed.get(cpu.0 as usize) {
            note.store(tick, Ordering::SeqCst);
        }
    }

    /// The CPUs of `cpus` that did not flush since `stamp`.
    pub fn stale(&self, cpus: &CpuMask, stamp: u32) -> CpuMask {
        let mut stale = *cpus;
        for cpu in cpus.iter() {
            if self.is_clean(cpu, stamp) {
                stale.remove(cpu);
            }
        }
        stale
    }

    /// Whether `cpu` flushed since `stamp`.
    pub fn is_clean(&self, cpu: CpuId, stamp: u32) -> bool {
        let since = self.flushed[cpu.0 as usize].load(Ordering::SeqCst).wrapping_sub(stamp) & STAMP_MASK;
        since != 0 && since < 1 << (STAMP_BITS - 1)
    }

    /// Notes that a domain's frame became free.
    pub fn note_freed(&self) {
        self.freed.store(ANY_FREED | self.stamp(), Ordering::SeqCst);
    }

    /// Stamp of the domain's frame that became free last; `None` before the first.
    pub fn last_freed(&self) -> Option<u32> {
        let freed = self.freed.load(Ordering::SeqCst);
        (freed & ANY_FREED != 0).then_some(freed & STAMP_MASK)
    }
}

impl Default for TlbClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: CpuId = CpuId(3);

    #[test]
    fn a_flush_clears_what_was_noted_before_it() {
        let clock = TlbClock::new();
        let before = clock.stamp();
        assert!(!clock.is_clean(CPU, before));
        let tick = clock.begin_flush();
        let during = clock.stamp();
        clock.flushed(CPU, tick);
        assert!(clock.is_clean(CPU, before));
        assert!(
            !clock.is_clean(CPU, during),
            "an entry removed while the flush ran may have been cached after it"
        );
        assert_eq!(clock.stale(&CpuMask::of(CPU), before), CpuMask::EMPTY);
        assert_eq!(clock.stale(&CpuMask::of(CPU), during), CpuMask::of(CPU));
    }

    #[test]
    fn wrapping_errs_on_the_safe_side() {
        let clock = TlbClock::new();
        clock.now.store(STAMP_MASK, Ordering::SeqCst);
        let before = clock.stamp();
        let tick = clock.begin_flush();
        clock.flushed(CPU, tick);
        assert!(clock.is_clean(CPU, before), "across the wrap of the stamp");
        let ancient = before.wrapping_sub(1 << (STAMP_BITS - 1)) & STAMP_MASK;
        assert!(!clock.is_clean(CPU, ancient), "too old to tell: flush");
    }
}
