//! Which frames a domain that is being built has, in the order of its pages.
//!
//! Other domains decide how scattered free memory is, and so how many extents a domain gets: one for each of its pages at worst.
//!
//! # Invariants
//! - An extent is eight bytes, and extents are kept in pieces of less than a page: there may be no two free frames in a row.
//! - Each piece is judged before it is allocated, against what is promised to the domain ([`frames_for_extents`]) and what all may
//!   have: however scattered memory is, the frames that the hypervisor spares for itself stay.
//! - Pieces are given up a few at a time ([`Extents::shrink`]).

use crate::ids::Mfn;
use crate::mem::{Claim, FrameAllocator};
use alloc::vec::Vec;

/// Consecutive pages of the domain in consecutive frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// First page.
    pub(super) page: u64,
    /// Its frame.
    pub(super) frame: Mfn,
    /// How many.
    pub(super) count: u64,
}

/// An extent as it is kept. It ends where the next one begins. The direct map has room for 5 TiB, so numbers of pages and frames have 32 bits.
#[derive(Clone, Copy, Debug)]
struct Start {
    page: u32,
    frame: u32,
}

/// Extents in a piece.
const PIECE: usize = 480;
/// Pieces in a list of these.
const LIST: usize = 128;
/// Pieces that are given up between two looks for other work.
const SHRINK: usize = 32;

const _: () = assert!(PIECE * size_of::<Start>() < 4000 && LIST * size_of::<Vec<Start>>() < 4000);

/// Frames that the extents of a domain with so many pages take at most.
pub(crate) fn frames_for_extents(pages: u64) -> u64 {
    let pieces = pages.div_ceil(PIECE as u64);
    pieces + pieces.div_ceil(LIST as u64) + 1
}

/// All extents of a domain, in order.
#[derive(Debug, Default)]
pub(crate) struct Extents {
    lists: Vec<Vec<Vec<Start>>>,
    /// How many there are.
    count: usize,
    /// Pages in all of them.
    pages: u64,
}

impl Extents {
    /// Adds `count` pages in frames from `frame` on. `room` says whether the heap may grow by so many frames; `None`: it may not, or
    /// there is no memory.
    #[inline(never)]
    pub(super) fn add(&mut self, frame: Mfn, count: u64, room: impl Fn(u64) -> bool) -> Option<()> {
        if self.count == 0 || !self.goes_on(frame) {
            let start = Start { page: u32::try_from(self.pages).ok()?, frame: u32::try_from(frame.0).ok()? };
            self.make_room(room)?.push(start);
            self.count += 1;
        }
        self.pages += count;
        Some(())
    }

    /// Whether the last extent goes on in this frame.
    fn goes_on(&self, frame: Mfn) -> bool {
        self.get(self.count - 1).is_some_and(|last| last.frame.add(last.count) == frame)
    }

    /// The piece that the next extent goes to.
    fn make_room(&mut self, room: impl Fn(u64) -> bool) -> Option<&mut Vec<Start>> {
        if self.count.is_multiple_of(PIECE * LIST) {
            let mut list = Vec::new();
            (room(1) && list.try_reserve_exact(LIST).is_ok()).then_some(())?;
            self.lists.try_reserve(1).ok()?;
            self.lists.push(list);
        }
        let list = self.lists.last_mut()?;
        if self.count.is_multiple_of(PIECE) {
            let mut piece = Vec::new();
            (room(1) && piece.try_reserve_exact(PIECE).is_ok()).then_some(())?;
            list.push(piece);
        }
        list.last_mut()
    }

    /// How many pages there are.
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    fn start(&self, n: usize) -> Option<Start> {
        self.lists.get(n / (PIECE * LIST))?.get(n / PIECE % LIST)?.get(n % PIECE).copied()
    }

    /// The `n`-th one.
    #[inline(never)]
    pub(super) fn get(&self, n: usize) -> Option<Extent> {
        let start = self.start(n)?;
        let (page, end) = (start.page.into(), self.start(n + 1).map_or(self.pages, |next| next.page.into()));
        Some(Extent { page, frame: Mfn(start.frame.into()), count: end - page })
    }

    /// The number of the one that a page is in; the page is one of the domain's.
    #[inline(never)]
    pub(super) fn find(&self, page: u64) -> usize {
        let is_after = |start: &Start| u64::from(start.page) > page;
        let (mut low, mut high) = (0, self.count);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.start(middle).as_ref().is_none_or(is_after) { high = middle } else { low = middle }
        }
        low
    }

    /// Gives up some of what is kept, from the last one on. Answers whether nothing is left.
    pub(crate) fn shrink(&mut self) -> bool {
        for _ in 0..SHRINK {
            let Some(list) = self.lists.last_mut() else { return true };
            if list.pop().is_none() {
                self.lists.pop();
            }
        }
        self.lists.is_empty()
    }
}

/// Whether the heap may grow by so many frames for what is kept for the domain with this claim.
pub(super) fn judged<'a>(frames: &'a FrameAllocator, claim: &'a Claim) -> impl Fn(u64) -> bool + 'a {
    |wanted| frames.has_room(claim, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;
    use proptest::prelude::*;

    proptest! {
        /// Extents are what was added, whatever their sizes, and where a page is is found in each.
        #[test]
        fn pages_are_found(counts in proptest::collection::vec(1u64..4, 1..2000), gaps in proptest::collection::vec(any::<bool>(), 2000)) {
            let (mut extents, mut frames, mut frame) = (Extents::default(), std::vec::Vec::new(), 7);
            for (count, gap) in counts.into_iter().zip(gaps) {
                frame += u64::from(gap);
                extents.add(Mfn(frame), count, |_| true).unwrap();
                frames.extend(frame..frame + count);
                frame += count;
            }
            prop_assert_eq!(extents.pages(), frames.len() as u64);
            for (page, frame) in (0..).zip(&frames) {
                let extent = extents.get(extents.find(page)).unwrap();
                prop_assert!(extent.page <= page && page < extent.page + extent.count);
                prop_assert_eq!(extent.frame.0 + (page - extent.page), *frame);
            }
            prop_assert!(extents.get(extents.count).is_none());
        }
    }

    /// Where no two frames are in a row, what is kept takes what [`frames_for_extents`] says and no more, and all of it goes in steps.
    #[test]
    fn scattered_pages_take_what_was_promised() {
        const PAGES: u64 = 200_000;
        let (mut extents, taken) = (Extents::default(), Cell::new(0));
        let room = |frames| {
            taken.set(taken.get() + frames);
            true
        };
        for page in 0..PAGES {
            extents.add(Mfn(2 * page), 1, room).unwrap();
        }
        assert!(taken.get() <= frames_for_extents(PAGES), "{} frames", taken.get());
        assert!(extents.lists.iter().all(|list| list.capacity() == LIST));
        assert!(extents.lists.iter().flatten().all(|piece| piece.capacity() == PIECE));
        assert_eq!(extents.get(extents.find(PAGES - 1)), extents.get(PAGES as usize - 1));
        let steps = 1 + (0..).take_while(|_| !extents.shrink()).count();
        assert!(steps >= PAGES as usize / PIECE / SHRINK, "{steps}");
    }

    /// Where the heap may not grow any more there are no more extents, and those that there are stay as they were.
    #[test]
    fn extents_end_where_there_is_no_room() {
        let (mut extents, left) = (Extents::default(), Cell::new(3));
        let room = |frames| {
            let fits = left.get() >= frames;
            left.set(left.get() - if fits { frames } else { 0 });
            fits
        };
        let added = (0..).take_while(|page| extents.add(Mfn(2 * page), 1, room).is_some()).count();
        // One of the three is for the list.
        assert_eq!((added, extents.pages()), (2 * PIECE, 2 * PIECE as u64));
        assert_eq!(extents.get(added - 1).map(|e| (e.page, e.count)), Some((added as u64 - 1, 1)));
        assert!(extents.add(Mfn(2 * added as u64 - 1), 4, |_| false).is_some(), "what goes on takes nothing");
    }
}
