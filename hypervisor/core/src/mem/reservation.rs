//! How many pages a domain owns and may own, and what else the accounting keeps for a domain as a whole.

use super::{Claim, Growing, Trade};
use crate::ids::{Mfn, VcpuId};
use crate::page::{LDT_FRAMES, Teardown};
use crate::sync::Turns;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use spin::Mutex;
use xen_abi::memory::E820Entry;

/// Frames of a part of memory: 2 MiB.
const PART: u64 = 512;
/// Words of bits for such parts: 8 GiB have a bit for each part, beyond that several parts share one.
const PART_WORDS: usize = 64;

/// The page account of a domain. Frames of the hypervisor that are merely shared with the domain do not count.
#[derive(Debug)]
pub struct Reservation {
    current: AtomicU64,
    max: AtomicU64,
    /// All frames that the domain ever owned are from `lowest` on and below `end`.
    lowest: AtomicU64,
    end: AtomicU64,
    /// What is set aside for the domain beyond the frames that it has. A domain that is started again has it from its former life.
    pub(crate) claim: Arc<Claim>,
    /// Parts of memory that they are in: part `n` is bit `n` modulo the number of bits.
    parts: [AtomicU64; PART_WORDS],
    /// First of the tables that wait to be given up (an mfn), 0 for none: see `page::doomed`.
    pub(crate) doomed: Mutex<u32>,
    /// Whether tables are on `doomed` or being given up, to be read without a lock.
    pub(crate) any_doomed: AtomicBool,
    /// Held by the CPU that gives tables up.
    pub(crate) giving_up: Mutex<()>,
    /// CPUs that cannot stop until they have a table of the domain's locked.
    pub(crate) turns: Turns,
    /// Descriptor-page references of the vCPUs' LDTs.
    pub(crate) ldts: Mutex<BTreeMap<VcpuId, [Mfn; LDT_FRAMES]>>,
    /// The memory map that a toolstack set; empty: none.
    pub(crate) memory_map: Mutex<Vec<E820Entry>>,
    /// Blocks of which not all frames are the domain's yet, oldest first: see `mem::pieces`.
    pub(crate) growing: Mutex<Vec<Growing>>,
    /// Exchanges of which not all steps are done, oldest first.
    pub(crate) trades: Mutex<Vec<Trade>>,
    /// One exchange that is being made is not booked.
    pub(crate) trades_beyond: AtomicBool,
    /// How far the teardown got.
    pub(crate) teardown: Mutex<Teardown>,
}

impl Reservation {
    /// No pages yet, at most `max`.
    pub(crate) const fn new(max: u64, claim: Arc<Claim>) -> Self {
        Self {
            current: AtomicU64::new(0),
            max: AtomicU64::new(max),
            lowest: AtomicU64::new(u64::MAX),
            end: AtomicU64::new(0),
            claim,
            parts: [const { AtomicU64::new(0) }; PART_WORDS],
            doomed: Mutex::new(0),
            any_doomed: AtomicBool::new(false),
            giving_up: Mutex::new(()),
            turns: Turns::new(),
            ldts: Mutex::new(BTreeMap::new()),
            memory_map: Mutex::new(Vec::new()),
            growing: Mutex::new(Vec::new()),
            trades: Mutex::new(Vec::new()),
            trades_beyond: AtomicBool::new(false),
            teardown: Mutex::new(Teardown::new()),
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

    /// Frames that are set aside for the domain beyond those that it has (`XENMEM_claim_pages`).
    pub fn claimed(&self) -> u64 {
        self.claim.pages()
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

    /// Books `pages` more, whatever the limit.
    pub(crate) fn grow(&self, pages: u64) {
        self.current.fetch_add(pages, Ordering::Relaxed);
    }

    /// Notes which frames become the domain's, for its teardown to look at no others.
    pub(crate) fn note_frames(&self, first: Mfn, count: u64) {
        if first.0 < self.lowest.load(Ordering::Relaxed) {
            self.lowest.fetch_min(first.0, Ordering::Relaxed);
        }
        if first.0 + count > self.end.load(Ordering::Relaxed) {
            self.end.fetch_max(first.0 + count, Ordering::Relaxed);
        }
        for part in first.0 / PART..(first.0 + count).div_ceil(PART) {
            let (word, bit) = self.part(part);
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    fn part(&self, part: u64) -> (&AtomicU64, u64) {
        (&self.parts[(part / 64) as usize % PART_WORDS], 1 << (part % 64))
    }

    /// Whether a frame of the part of memory that `frame` is in may ever have been the domain's, and where that part ends.
    pub(crate) fn had_any_near(&self, frame: u64) -> (bool, u64) {
        let part = frame / PART;
        let (word, bit) = self.part(part);
        (word.load(Ordering::Relaxed) & bit != 0, (part + 1).saturating_mul(PART))
    }

    /// Where to look on from `frame`, in whose part no frame was ever the domain's: it and the frames before there never were.
    pub(crate) fn next_had(&self, frame: u64) -> u64 {
        let part = frame / PART;
        let known = self.part(part).0.load(Ordering::Relaxed) >> (part % 64);
        // The word tells of the parts up to the next 64th.
        let parts = u64::from(known.trailing_zeros()).clamp(1, 64 - part % 64);
        (part + parts).saturating_mul(PART)
    }

    /// A range that all frames that the domain ever owned are in.
    pub(crate) fn frames(&self) -> core::ops::Range<u64> {
        self.lowest.load(Ordering::Relaxed)..self.end.load(Ordering::Relaxed)
    }

    /// Books `pages` less.
    pub fn shrink(&self, pages: u64) {
        self.current.fetch_sub(pages, Ordering::Relaxed);
    }

    /// Whether tables of the domain wait to be given up.
    #[inline]
    pub(crate) fn has_doomed(&self) -> bool {
        self.any_doomed.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_with_frames_are_known() {
        let pages = Reservation::new(1 << 20, Arc::default());
        pages.note_frames(Mfn(5 * PART - 1), 2);
        pages.note_frames(Mfn(100 * PART), 1);
        let near = |frame| pages.had_any_near(frame);
        assert_eq!(near(4 * PART), (true, 5 * PART));
        assert_eq!(near(5 * PART + 7), (true, 6 * PART));
        assert_eq!(near(6 * PART), (false, 7 * PART));
        assert_eq!(near(100 * PART + PART - 1), (true, 101 * PART));
        let next = |part| pages.next_had(part * PART + 3) / PART;
        assert_eq!([next(0), next(3), next(6), next(63), next(64), next(99)], [4, 4, 64, 64, 100, 100]);
        assert_eq!(next(101), 128);
        // Parts that share a bit are looked at for nothing, never the other way round.
        let shared = PART_WORDS as u64 * 64 * PART;
        assert!(near(shared + 4 * PART).0);
    }
}
