//! The allocator of frames: a buddy system whose only storage is the frame table itself.
//!
//! Invariants, all under the allocator's lock:
//! - A free block of order `n` is `2^n` frames, aligned to its size. Its first frame's count word says `FREE_HEAD` and
//!   the order, its type word ([`Links`]) links it into the list of its
//!   order and zone. The words of the block's other frames are 0.
//! - Besides, the count word of any free frame may say `DIRTY`: a domain that ended left its data there. Such frames are cleared when
//!   they are taken, or before that by CPUs that have nothing else to do ([`FrameAllocator::scrub`]).
//! - Two free buddies of the same order never stand side by side: they are one block of the next order.
//! - A zone is the frames whose number has the same bit length, so "below 2^n" is a set of whole zones and no block
//!   crosses a zone. Frame 0 is never handed to the allocator: 0 means "none", and a block that starts there would
//!   cross zones.
//!
//! Low memory is worth more than high memory (devices reach it), so blocks come from the highest zone that has one.
//!
//! A guest may flush late: TLBs can still hold translations to a frame that is free. So frames leave the lists as [`Taken`]
//! only, which gives up their number after it was told how to flush; every way back in notes the time. The hypervisor's one
//! taker of frames is `alloc.rs`. Who may take how many says `claim.rs`, in the same step.

use super::claim::{Claim, Taker, floor_of};
use crate::ids::Mfn;
use crate::page::{Count, FrameInfo, Links, TlbClock};
use crate::sync::FairMutex;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Largest order there is: 4 GiB blocks.
pub const MAX_ORDER: u32 = 20;
const ORDERS: usize = MAX_ORDER as usize + 1;
/// Bit lengths 0..=32 of frame numbers: 16 TiB.
const ZONES: usize = 33;
const NONE: u32 = 0;
/// Frames that are cleared between two looks for other work.
const SCRUB_FRAMES: usize = 8;
/// Frames that are looked at meanwhile.
const SCRUB_LOOKS: usize = 4096;

/// The free frames of the machine.
pub struct FrameAllocator {
    table: &'static [FrameInfo],
    pub(super) lists: FairMutex<Lists>,
    /// Changed under the lock.
    free: AtomicU64,
    /// Free frames that are dirty, and perhaps some that are about to become free.
    dirty: AtomicU64,
    /// Where the next look for one begins.
    scrub_at: AtomicUsize,
    tlb: TlbClock,
}

/// A block that left the free lists: some TLB may still translate to it.
#[must_use = "the frames would be lost"]
pub(super) struct Taken {
    first: Mfn,
    /// When a frame became free last.
    freed: u64,
}

impl Taken {
    /// The first of the frames, which are safe to use: `flush` has all CPUs flushed that did not since the time that it gets.
    pub(super) fn after(self, flush: impl FnOnce(u64)) -> Mfn {
        if self.freed != 0 {
            flush(self.freed);
        }
        self.first
    }
}

pub(super) struct Lists {
    /// Free frames that are set aside for the memory of domains.
    pub(super) claimed: u64,
    /// Free frames that are set aside for what the hypervisor keeps for domains.
    pub(super) promised: u64,
    /// Frames of the floor that are lent in place of such.
    pub(super) credit: u64,
    /// First block of each list.
    heads: [[u32; ORDERS]; ZONES],
    /// By zone: bit `n` is set when the list of order `n` has a block.
    filled: [u32; ZONES],
}

impl FrameAllocator {
    /// An allocator over this frame table, with nothing free yet.
    pub const fn new(table: &'static [FrameInfo]) -> Self {
        Self {
            table,
            lists: FairMutex::new(Lists {
                claimed: 0,
                promised: 0,
                credit: 0,
                heads: [[NONE; ORDERS]; ZONES],
                filled: [0; ZONES],
            }),
            free: AtomicU64::new(0),
            dirty: AtomicU64::new(0),
            scrub_at: AtomicUsize::new(0),
            tlb: TlbClock::new(),
        }
    }

    /// Gives `start..end` to the allocator: RAM whose frame-table words are still all 0. Frame 0 and what lies beyond the frame
    /// table or beyond 16 TiB is left out.
    pub fn add_region(&self, start: Mfn, end: Mfn) {
        self.give_range(start.0.max(1)..end.0.min(self.table.len() as u64).min(Links::END), None);
    }

    /// Puts frames back, in as large blocks as they make. A domain that ends and has the claim `left_by` leaves them.
    fn give_range(&self, frames: Range<u64>, left_by: Option<&Claim>) {
        let Range { start: mut at, end } = frames;
        let mut lists = self.lists.lock();
        left_by.inspect(|own| lists.leave(own, end.saturating_sub(at)));
        while at < end {
            let fit = (end - at).ilog2();
            let order = at.trailing_zeros().min(fit).min(MAX_ORDER);
            lists.release(self.table, at as u32, order);
            self.free.fetch_add(1 << order, Ordering::Relaxed);
            at += 1 << order;
        }
    }

    /// Marks `2^order` frames of [`Taken`] as the hypervisor's. What is in them is left over from whoever had them.
    pub(super) fn keep(&self, first: Mfn, order: u32) {
        self.note_taken(first, order);
        self.block(first, order).iter().for_each(FrameInfo::set_xen);
    }

    /// Counts the dirty ones of `2^order` frames of [`Taken`] as free no more; they stay dirty.
    pub(super) fn note_taken(&self, first: Mfn, order: u32) {
        self.cleared(self.block(first, order).iter().filter(|info| info.count().is_dirty()).count());
    }

    /// Takes back `2^order` frames of the hypervisor's own (or a part of such a block): dirty, for a guest must not see what the
    /// hypervisor, or who had them before it, left there.
    pub fn free(&self, first: Mfn, order: u32) {
        for info in self.block(first, order) {
            info.type_.store(0, Ordering::Relaxed);
            info.count.store(Count::DIRTY, Ordering::Relaxed);
        }
        self.give_dirty(first.0..first.0 + (1 << order), None);
    }

    /// As [`FrameAllocator::free`], for frames that were cleared.
    pub fn free_cleared(&self, first: Mfn, order: u32) {
        for info in self.block(first, order) {
            info.type_.store(0, Ordering::Relaxed);
            info.count.store(0, Ordering::Relaxed);
        }
        self.give(first, order);
    }

    /// Number of free frames.
    pub fn free_count(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Free frames that no domain gets.
    pub(crate) const fn floor(&self) -> u64 {
        floor_of(self.table.len())
    }

    /// Which CPUs may still translate through what.
    pub fn tlb(&self) -> &TlbClock {
        &self.tlb
    }

    /// Takes a block of `2^order` frames aligned to its size, entirely below machine address `2^bits`, whose frame-table words the
    /// caller fills in. `taker` says what it may leave.
    pub(super) fn take(&self, order: u32, bits: u32, taker: Taker<'_>) -> Option<Taken> {
        if order > MAX_ORDER {
            return None;
        }
        let top = (bits.saturating_sub(12) as usize).min(ZONES - 1);
        let mut lists = self.lists.lock();
        let (frames, free) = (1 << order, self.free.load(Ordering::Relaxed));
        let drawn = lists.judge(taker, free, frames, self.floor())?;
        let first = lists.take(self.table, order, top)?;
        self.free.store(free - frames, Ordering::Relaxed);
        lists.draw(taker, drawn);
        Some(Taken { first: Mfn(u64::from(first)), freed: self.tlb.last_freed() })
    }

    /// Puts back a block whose frame-table words are 0.
    pub(crate) fn give(&self, first: Mfn, order: u32) {
        // Before they can be taken.
        self.tlb.note_freed();
        let mut lists = self.lists.lock();
        self.free.fetch_add(1 << order, Ordering::Relaxed);
        lists.release(self.table, first.0 as u32, order);
    }

    /// Puts back frames that were [taken](FrameAllocator::take) and that no guest saw since: a part of a block. They are as dirty as
    /// they were.
    pub(crate) fn give_rest(&self, frames: Range<u64>) {
        self.give_range(frames, None);
    }

    /// Puts back frames of which each is dirty and has no other bit in its words. A domain that ends and has the claim
    /// `left_by` leaves them.
    pub(crate) fn give_dirty(&self, frames: Range<u64>, left_by: Option<&Claim>) {
        self.tlb.note_freed();
        self.dirty.fetch_add(frames.end.saturating_sub(frames.start), Ordering::Relaxed);
        self.give_range(frames, left_by);
    }

    /// Whether there may be dirty frames among the free ones.
    pub fn any_dirty(&self) -> bool {
        self.dirty.load(Ordering::Relaxed) != 0
    }

    /// Clears the dirty ones of frames that were taken.
    pub(crate) fn clear_taken(&self, first: Mfn, order: u32, clear: impl Fn(Mfn)) {
        let mut count = 0;
        for (mfn, info) in (first.0..).zip(self.block(first, order)) {
            if info.count().is_dirty() {
                clear(Mfn(mfn));
                info.count.store(0, Ordering::Relaxed);
                count += 1;
            }
        }
        self.cleared(count);
    }

    /// Clears some dirty frames ahead of time.
    pub(crate) fn scrub(&self, clear: impl Fn(Mfn)) {
        if !self.any_dirty() {
            return;
        }
        // Each CPU has a part of the table for itself.
        let claimed = self.scrub_at.fetch_add(SCRUB_LOOKS, Ordering::Relaxed);
        let mut at = if claimed < self.table.len() { claimed } else { 0 };
        let next = at + SCRUB_LOOKS;
        if at != claimed {
            self.scrub_at.store(next, Ordering::Relaxed);
        }
        let end = next.min(self.table.len());
        for _ in 0..SCRUB_FRAMES {
            let dirty = self.table[at..end].iter().position(|info| info.count().is_dirty());
            let Some(dirty) = dirty else { return };
            self.scrub_one(at + dirty, &clear);
            at += dirty + 1;
        }
        // The rest of the part comes next, unless another CPU is ahead already.
        let _ = self.scrub_at.compare_exchange(next, at, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn scrub_one(&self, at: usize, clear: &impl Fn(Mfn)) {
        // Nobody takes the frame meanwhile.
        let _lists = self.lists.lock();
        let info = &self.table[at];
        if !info.count().is_dirty() || !self.is_free(at) {
            return;
        }
        clear(Mfn(at as u64));
        info.count.fetch_and(!Count::DIRTY, Ordering::Relaxed);
        self.cleared(1);
    }

    /// Whether a frame is in a free block; the lock is held.
    fn is_free(&self, frame: usize) -> bool {
        (0..=MAX_ORDER).any(|order| {
            let head = frame >> order << order;
            self.table[head].count().free_order() == Some(order)
        })
    }

    fn cleared(&self, frames: usize) {
        if frames != 0 {
            self.dirty.fetch_sub(frames as u64, Ordering::Relaxed);
        }
    }

    fn block(&self, first: Mfn, order: u32) -> &[FrameInfo] {
        &self.table[first.0 as usize..first.0 as usize + (1 << order)]
    }
}

/// Zone of a frame: the bit length of its number.
const fn zone_of(frame: u32) -> usize {
    (u32::BITS - frame.leading_zeros()) as usize
}

/// Changes the links of a free block.
fn relink(table: &[FrameInfo], frame: u32, change: impl FnOnce(&mut Links)) {
    let word = &table[frame as usize].type_;
    let mut links = Links::from_word(word.load(Ordering::Relaxed));
    change(&mut links);
    word.store(links.word(), Ordering::Relaxed);
}

impl Lists {
    fn take(&mut self, table: &[FrameInfo], order: u32, top: usize) -> Option<u32> {
        let wanted = !0u32 << order;
        let zone = (0..=top).rev().find(|z| self.filled[*z] & wanted != 0)?;
        let mut found = (self.filled[zone] & wanted).trailing_zeros();
        let frame = self.heads[zone][found as usize];
        self.unlink(table, frame, found);
        while found > order {
            found -= 1;
            self.link(table, frame + (1 << found), found);
        }
        Some(frame)
    }

    fn release(&mut self, table: &[FrameInfo], mut frame: u32, mut order: u32) {
        while order < MAX_ORDER {
            let buddy = frame ^ (1 << order);
            let is_free = |f: &FrameInfo| f.count().free_order() == Some(order);
            if !table.get(buddy as usize).is_some_and(is_free) {
                break;
            }
            self.unlink(table, buddy, order);
            frame &= buddy;
            order += 1;
        }
        self.link(table, frame, order);
    }

    fn link(&mut self, table: &[FrameInfo], frame: u32, order: u32) {
        let (zone, list) = (zone_of(frame), order as usize);
        let next = self.heads[zone][list];
        let info = &table[frame as usize];
        let dirty = info.count.load(Ordering::Relaxed) & Count::DIRTY;
        info.count.store(Count::free_head(order).0 | dirty, Ordering::Relaxed);
        info.type_.store(Links { next, previous: NONE }.word(), Ordering::Relaxed);
        if next != NONE {
            relink(table, next, |links| links.previous = frame);
        }
        self.heads[zone][list] = frame;
        self.filled[zone] |= 1 << order;
    }

    fn unlink(&mut self, table: &[FrameInfo], frame: u32, order: u32) {
        let (zone, list) = (zone_of(frame), order as usize);
        let info = &table[frame as usize];
        let Links { next, previous } = Links::from_word(info.type_.load(Ordering::Relaxed));
        if previous == NONE {
            self.heads[zone][list] = next;
            if next == NONE {
                self.filled[zone] &= !(1 << order);
            }
        } else {
            relink(table, previous, |links| links.next = next);
        }
        if next != NONE {
            relink(table, next, |links| links.previous = previous);
        }
        info.count.fetch_and(Count::DIRTY, Ordering::Relaxed);
        info.type_.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::boxed::Box;
    use std::vec;
    use std::vec::Vec;

    fn allocator(frames: usize) -> FrameAllocator {
        FrameAllocator::new(Box::leak(
            (0..frames).map(|_| FrameInfo::new()).collect::<Vec<_>>().into_boxed_slice(),
        ))
    }

    fn take(a: &FrameAllocator, order: u32) -> Option<Mfn> {
        Some(a.take(order, 64, Taker::Hypervisor)?.after(|_| {}))
    }

    fn alloc_below(a: &FrameAllocator, order: u32, bits: u32) -> Option<Mfn> {
        let first = a.take(order, bits, Taker::Hypervisor)?.after(|_| {});
        a.keep(first, order);
        Some(first)
    }

    fn alloc(a: &FrameAllocator, order: u32) -> Option<Mfn> {
        alloc_below(a, order, 64)
    }

    /// The free frames, found by walking the frame table.
    fn scan(a: &FrameAllocator) -> Vec<(u64, u32)> {
        let blocks = a.table.iter().enumerate();
        blocks.filter_map(|(i, f)| Some((i as u64, f.count().free_order()?))).collect()
    }

    /// Every list, link by link.
    fn walk(a: &FrameAllocator) -> Vec<(u64, u32)> {
        let lists = a.lists.lock();
        let mut blocks = Vec::new();
        for zone in 0..ZONES {
            for order in 0..ORDERS {
                let (mut at, mut previous) = (lists.heads[zone][order], NONE);
                assert_eq!(at != NONE, lists.filled[zone] & 1 << order != 0);
                while at != NONE {
                    let links = Links::from_word(a.table[at as usize].type_.load(Ordering::Relaxed));
                    assert_eq!(links.previous, previous);
                    assert_eq!(zone_of(at), zone);
                    blocks.push((u64::from(at), order as u32));
                    (previous, at) = (at, links.next);
                }
            }
        }
        blocks.sort_unstable();
        blocks
    }

    fn check(a: &FrameAllocator, held: &[(Mfn, u32)], usable: std::ops::Range<u64>) {
        let blocks = scan(a);
        assert_eq!(blocks, walk(a));
        let mut covered: Vec<_> = blocks.iter().copied().chain(held.iter().map(|(m, o)| (m.0, *o))).collect();
        covered.sort_unstable();
        let mut at = usable.start.max(1);
        for (first, order) in covered {
            assert_eq!(first, at, "blocks neither overlap nor leave a hole");
            assert_eq!(first % (1 << order), 0, "aligned to their size");
            at += 1 << order;
        }
        assert_eq!(at, usable.end);
        assert_eq!(a.free_count(), blocks.iter().map(|b| 1 << b.1).sum::<u64>());
        for (first, order) in &blocks {
            let buddy = (first ^ 1 << order, *order);
            assert!(!blocks.contains(&buddy), "free buddies are merged");
        }
    }

    #[test]
    fn respects_the_address_limit() {
        let a = allocator(64);
        a.add_region(Mfn(0), Mfn(64));
        // 16 frames = 64 KiB = 2^16.
        let low: Vec<_> = core::iter::from_fn(|| alloc_below(&a, 0, 16)).collect();
        assert_eq!(low.len(), 15, "frames 1..16");
        assert!(low.iter().all(|m| m.0 < 16));
        assert!(alloc(&a, 0).is_some_and(|m| m.0 >= 32), "high memory first");
        assert_eq!(alloc(&a, 6), None, "no aligned block of that size without frame 0");
        assert_eq!(alloc(&a, MAX_ORDER + 1), None);
    }

    #[test]
    fn leaves_out_what_the_table_does_not_cover() {
        let a = allocator(10);
        a.add_region(Mfn(0), Mfn(1 << 40));
        assert_eq!(a.free_count(), 9);
    }

    /// Frames 16 to 20 of 32 were left dirty by a domain.
    fn with_dirty() -> FrameAllocator {
        let a = allocator(32);
        a.add_region(Mfn(16), Mfn(32));
        assert_eq!(take(&a, 4), Some(Mfn(16)));
        for info in a.block(Mfn(16), 2) {
            info.count.store(Count::DIRTY, Ordering::Relaxed);
        }
        a.give_dirty(16..20, None);
        a.give_range(20..32, None);
        a
    }

    fn dirty(a: &FrameAllocator) -> Vec<usize> {
        (0..a.table.len()).filter(|n| a.table[*n].count().is_dirty()).collect()
    }

    #[test]
    fn dirty_frames_are_cleared_by_whoever_takes_them() {
        let a = with_dirty();
        assert_eq!((a.free_count(), scan(&a), dirty(&a)), (16, vec![(16, 4)], vec![16, 17, 18, 19]));
        let seen = core::cell::RefCell::new(Vec::new());
        let clear = |mfn: Mfn| seen.borrow_mut().push(mfn.0);
        assert_eq!(take(&a, 1), Some(Mfn(16)));
        a.clear_taken(Mfn(16), 1, clear);
        assert_eq!((seen.take(), dirty(&a)), (vec![16, 17], vec![18, 19]));
        assert_eq!(alloc(&a, 1), Some(Mfn(18)), "the hypervisor does not care");
        assert!(!a.any_dirty() && dirty(&a).is_empty());
        a.clear_taken(Mfn(20), 2, |_| unreachable!("nothing there"));
    }

    #[test]
    fn what_the_hypervisor_had_is_dirty() {
        let a = allocator(32);
        a.add_region(Mfn(16), Mfn(32));
        let first = alloc(&a, 2).expect("a block");
        a.free(first, 1);
        assert_eq!(dirty(&a), [first.0 as usize, first.0 as usize + 1]);
        a.free_cleared(first.add(2), 1);
        assert_eq!((dirty(&a).len(), a.free_count()), (2, 16));
    }

    #[test]
    fn frames_come_with_the_time_of_the_last_free() {
        let a = allocator(32);
        a.add_region(Mfn(16), Mfn(32));
        let Some(taken) = a.take(0, 64, Taker::Hypervisor) else { panic!("no frame") };
        let first = taken.after(|_| unreachable!("none was in use yet"));
        a.tlb().begin_flush();
        a.give(first, 0);
        a.tlb().begin_flush();
        let mut flushed = 0;
        let again = a.take(0, 64, Taker::Hypervisor).map(|taken| taken.after(|freed| flushed = freed));
        assert_eq!((again, flushed), (Some(first), 2));
    }

    #[test]
    fn idle_cpus_clear_free_frames_and_no_others() {
        let a = with_dirty();
        assert_eq!(take(&a, 1), Some(Mfn(16)), "on its way to a domain");
        let seen = core::cell::RefCell::new(Vec::new());
        a.scrub(|mfn| seen.borrow_mut().push(mfn.0));
        assert_eq!((seen.take(), dirty(&a)), (vec![18, 19], vec![16, 17]));
        assert_eq!(scan(&a), walk(&a), "still in their lists");
        a.clear_taken(Mfn(16), 1, |_| {});
        a.scrub(|_| unreachable!("no dirty ones left"));
    }

    proptest! {
        #[test]
        fn never_overlaps_never_loses(
            start in 0u64..40, len in 1u64..300,
            ops in prop::collection::vec((0u32..6, any::<prop::sample::Index>()), 1..120),
        ) {
            let end = start + len;
            let a = allocator(340);
            a.add_region(Mfn(start), Mfn(end));
            let mut held = Vec::new();
            check(&a, &held, start..end.max(1));
            for (order, pick) in ops {
                if order == 5 {
                    if !held.is_empty() {
                        let (mfn, order) = held.swap_remove(pick.index(held.len()));
                        a.free(mfn, order);
                    }
                } else if let Some(mfn) = alloc(&a, order) {
                    held.push((mfn, order));
                }
                check(&a, &held, start..end.max(1));
            }
        }
    }
}
