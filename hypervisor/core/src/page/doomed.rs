//! Tables that nobody uses any more and that still hold references: they are given up piece by piece.
//!
//! An L4 table with everything below it may name a million frames, so giving it up must be preemptible. Whoever
//! drops its last reference only puts it on its owner's list (the links are in the type words, the head in the owner's
//! [`Reservation`](crate::mem::Reservation)); hypercalls empty the list before they end, and stop and continue when
//! the CPU has other work. L1 tables are short enough to be given up at once.
//!
//! One CPU at a time works on a domain's list, and the others wait for it: a hypercall that drops a table ends only when
//! everything below that table is free again, whoever did the work. Guests rely on it: they unpin an address space and make
//! its pages writable in the next call.
//!
//! A table on the list is busy, so nobody can use it; whoever wants its frame is told to come again. So it is while a CPU has
//! it off the list and gives it up: another CPU that wants the frame for something else has to wait, not to fail.

use super::info::{FrameInfo, Type};
use super::{PageError, pte};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::Mfn;
use crate::platform::Platform;
use core::sync::atomic::Ordering::{Acquire, Release};

impl<P: Platform> Hypervisor<P> {
    /// Puts a table on its owner's list: one whose last type reference goes, or a partial one. `word` is its type word
    /// as the caller saw it; answers whether it was still that.
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
        if domain.pages.has_doomed() { self.work_off(domain, true) } else { Ok(()) }
    }

    /// As [`Hypervisor::work_off_doomed`], without stopping.
    pub(crate) fn finish_doomed(&self, domain: &Domain<P>) {
        // Not preemptible, so it cannot fail.
        let _ = self.work_off(domain, false);
    }

    #[cold]
    #[inline(never)]
    fn work_off(&self, domain: &Domain<P>, preemptible: bool) -> Result<(), PageError> {
        let _turn = domain.pages.giving_up.lock();
        while let Some((mfn, word)) = self.pop_doomed(domain) {
            self.give_up_table(domain, mfn, word, preemptible)?;
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
        *head = (word.0 & Type::COUNT) as u32;
        info.set_type(Type::busy(word.page_type(), word.entries(), Type::DOOMED));
        Some((mfn, word))
    }

    /// Gives up the entries of one table from the last to the first, then the table.
    fn give_up_table(
        &self,
        domain: &Domain<P>,
        mfn: Mfn,
        word: Type,
        preemptible: bool,
    ) -> Result<(), PageError> {
        let (t, info) = (word.page_type(), self.known_frame(mfn));
        let level = t.level().unwrap_or(1);
        let words = self.platform.frame_words(mfn);
        let mut left = word.entries();
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
            if preemptible && left > 0 && self.platform.work_pending() {
                let resting = Type::busy(t, left, 0);
                info.set_type(resting);
                self.doom(domain, mfn, info, resting);
                return Err(PageError::Restart);
            }
        }
        info.set_type(Type::idle(t, self.frames.tlb().stamp()));
        self.put_page(mfn);
        Ok(())
    }
}
