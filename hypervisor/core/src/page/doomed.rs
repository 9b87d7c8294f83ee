//! Tables that nothing uses any more and that still hold references: they are given up piece by piece.
//!
//! An L4 table with everything below it may name a million frames, so giving it up must be preemptible. The CPU that
//! drops its last reference only puts it on its owner's list (the links are in the type words, the head in the owner's
//! [`Reservation`](crate::mem::Reservation)); hypercalls empty the list before they end, and stop and continue when
//! the CPU has other work. An L1 table is given up at once, and put on the list when other work comes up meanwhile: its entries
//! may be the last references to 512 frames.
//!
//! One CPU at a time works on a domain's list, and the others wait for it: a hypercall that drops a table ends only when
//! everything below that table is free again, whichever CPU did the work. Guests rely on it: they unpin an address space and make
//! its pages writable in the next call.
//!
//! A table on the list is busy, so it cannot be used; a request for its frame is told to come again. So it is while a CPU has
//! it off the list and gives it up: another CPU that wants the frame for something else has to wait, not to fail.
//!
//! There is no way to give up a list in one go. A caller that cannot be continued lets its guest execute the instruction again
//! (page faults), or refuses (a grant of a frame that its granter still has as a table, as in Xen).

use super::info::{FrameInfo, Type};
use super::{PageError, PageType, pte};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{DomId, Mfn};
use crate::platform::{FrameWords, Platform};
use core::hint::spin_loop;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Release};

impl<P: Platform> Hypervisor<P> {
    /// Puts a table on its owner's list: one whose last type reference goes, or a partial one. `word` is its type word
    /// as the caller saw it; answers whether it was still that. The word must say that it is a table ([`PageType::is_table`]), and
    /// the caller keeps the frame from being freed meanwhile by a reference, or by the last type reference itself: the word becomes a
    /// link of the list, and what is on the list is given up entry by entry.
    pub(crate) fn doom(&self, domain: &Domain<P>, mfn: Mfn, info: &FrameInfo, word: Type) -> bool {
        let entries = if word.is_busy() { word.entries() } else { pte::ENTRIES };
        let mut head = domain.pages.doomed.lock();
        let next = Type::busy(word.page_type(), entries, Type::DOOMED | u64::from(*head));
        if !info.swap_type(word, next) {
            return false;
        }
        // The frame table ends below 2^32 frames.
        *head = mfn.0 as u32;
        domain.pages.any_doomed.store(true, Release);
        true
    }

    /// Gives up what is on the list of `domain`.
    ///
    /// # Errors
    /// [`PageError::Restart`] when this CPU has other work first.
    #[inline]
    pub(crate) fn work_off_doomed(&self, domain: &Domain<P>) -> Result<(), PageError> {
        if domain.pages.has_doomed() { self.work_off(domain) } else { Ok(()) }
    }

    #[cold]
    #[inline(never)]
    fn work_off(&self, domain: &Domain<P>) -> Result<(), PageError> {
        let _turn = loop {
            if let Some(turn) = domain.pages.giving_up.try_lock() {
                break turn;
            }
            // The CPU that has the turn looks at its own work only.
            if self.platform.work_pending() {
                return Err(PageError::Restart);
            }
            spin_loop();
        };
        while let Some((mfn, word)) = self.pop_doomed(domain) {
            self.give_up_table(domain, mfn, word)?;
            // One without any entry gets here without a look.
            if domain.pages.has_doomed() && self.platform.work_pending() {
                return Err(PageError::Restart);
            }
        }
        Ok(())
    }

    /// Takes the first table off the list; it stays busy, and doomed for whoever looks.
    fn pop_doomed(&self, domain: &Domain<P>) -> Option<(Mfn, Type)> {
        let mut head = domain.pages.doomed.lock();
        if *head == 0 {
            domain.pages.any_doomed.store(false, Release);
            return None;
        }
        let mfn = Mfn(u64::from(*head));
        let info = self.known_frame(mfn);
        let word = info.type_word();
        if !word.has(Type::BUSY | Type::DOOMED) {
            // A reference to the table before it was dropped once more, and took one off the link.
            super::refs::broken(mfn, info);
        }
        *head = (word.0 & Type::COUNT) as u32;
        info.set_type(Type::busy(word.page_type(), word.entries(), Type::DOOMED));
        Some((mfn, word))
    }

    /// Gives up the entries of one table from the last to the first, then the table.
    fn give_up_table(&self, domain: &Domain<P>, mfn: Mfn, word: Type) -> Result<(), PageError> {
        let (t, info) = (word.page_type(), self.known_frame(mfn));
        let words = self.platform.frame_words(mfn);
        let left = match t {
            PageType::L1 => self.give_up_l1(domain.id, words, word.entries()),
            _ => self.give_up_upper(domain, mfn, t.level().unwrap_or(4), words, word.entries()),
        };
        if left > 0 {
            let resting = Type::busy(t, left, Type::DOOMED);
            info.set_type(resting);
            self.doom(domain, mfn, info, resting);
            return Err(PageError::Restart);
        }
        info.set_type(Type::idle(t, self.frames.tlb().stamp()));
        self.put_page(mfn);
        Ok(())
    }

    /// Gives up entries below `left` of a table of `level` 2..=4 until other work waits; answers how many are left. One at least
    /// is done each time.
    fn give_up_upper(
        &self,
        domain: &Domain<P>,
        mfn: Mfn,
        level: u8,
        words: &FrameWords,
        mut left: usize,
    ) -> usize {
        while left > 0 {
            if left.is_multiple_of(8) && pte::is_empty_group(words, left / 8 - 1) {
                left -= 8;
                continue;
            }
            left -= 1;
            let entry = words[left & 511].load(Acquire);
            if entry & pte::PRESENT == 0 || pte::is_hypervisor_slot(level, left) {
                continue;
            }
            self.put_upper_entry(domain, mfn, entry);
            if self.platform.work_pending() {
                break;
            }
        }
        left
    }

    /// Gives up entries below `left` of an L1 table of `owner` until other work waits; answers how many are left. A group of
    /// eight at least is done each time.
    pub(crate) fn give_up_l1(&self, owner: DomId, words: &FrameWords, left: usize) -> usize {
        let put = |word: &AtomicU64| {
            let entry = word.load(Acquire);
            if entry & pte::PRESENT != 0 {
                self.put_l1_entry(owner, entry);
            }
        };
        // A table that was left while it was checked may end within a group.
        let whole = left / 8;
        words[whole * 8..left].iter().rev().for_each(put);
        for (n, group) in words.as_chunks::<8>().0[..whole].iter().enumerate().rev() {
            if pte::is_empty(group) {
                continue;
            }
            group.iter().rev().for_each(put);
            if self.platform.work_pending() {
                return n * 8;
            }
        }
        0
    }
}
