//! Changes of page tables, collected: one entry into the hypervisor for many of them.
//!
//! ```no_run
//! use guest_pv_lib::memory::{Pages, Window};
//! use guest_pv_lib::mmu::{Batch, Forget, Mode, Pte};
//!
//! /// Shows pages a second time, read-only, with one hypercall for every 64 of them.
//! fn show(pages: &Pages, window: &Window) {
//!     let mut batch = Batch::new(Mode::Lazy);
//!     for page in 0..pages.count() {
//!         let entry = Pte::read_only(pages.mfn(page));
//!         // SAFETY: the window is not used yet, and nothing is written through it.
//!         unsafe { batch.set(window.entry_machine_address(page), entry) }.unwrap();
//!     }
//!     // Nothing was mapped there before, so there is nothing to forget.
//!     batch.commit(Forget::Nothing).unwrap();
//! }
//! ```

use core::fmt;

use xen_abi::xen::MmuUpdate;

use super::Pte;
use super::edge::{self, Forget};
use crate::Errno;
use crate::memory::request;

/// How many changes are collected before they are made in any case.
const ROOM: usize = 64;

/// When the changes of a [`Batch`] are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// At once, one hypercall for each.
    Eager,
    /// When there are enough of them, or at the [`commit`](Batch::commit).
    Lazy,
}

/// Changes of page-table entries that are made in order, later or at once. What was not committed when it is dropped
/// is not made.
#[doc(alias("HYPERVISOR_mmu_update", "HYPERVISOR_multicall"))]
pub struct Batch {
    mode: Mode,
    requests: [MmuUpdate; ROOM],
    len: usize,
}

impl Batch {
    /// An empty one.
    #[must_use]
    pub const fn new(mode: Mode) -> Self {
        Self { mode, requests: [const { MmuUpdate { ptr: 0, val: 0 } }; ROOM], len: 0 }
    }

    /// Adds the change of the entry at machine address `at`.
    ///
    /// # Errors
    ///
    /// What the hypervisor refused, of this change or of a former one.
    ///
    /// # Safety
    ///
    /// As for [`update_va_mapping`](super::update_va_mapping), from now until the batch is committed, and until old
    /// translations are forgotten where the [`commit`](Self::commit) does not see to that.
    pub unsafe fn set(&mut self, at: u64, entry: Pte) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        unsafe { self.push(request(at, entry)) }
    }

    /// Adds a change; where there is no room, the former ones are made first.
    ///
    /// # Safety
    ///
    /// As for [`set`](Self::set).
    pub(crate) unsafe fn push(&mut self, request: MmuUpdate) -> Result<(), Errno> {
        if self.len == ROOM {
            self.commit(Forget::Nothing)?;
        }
        self.requests[self.len] = request;
        self.len += 1;
        if self.mode == Mode::Eager { self.commit(Forget::Nothing) } else { Ok(()) }
    }

    /// What the entry at machine address `at` will hold, where a change of it is among these.
    pub(crate) fn pending(&self, at: u64) -> Option<Pte> {
        self.requests[..self.len]
            .iter()
            .rev()
            .find(|request| request.ptr & !7 == at)
            .map(|request| Pte(request.val))
    }

    /// Makes the changes, and has translations forgotten afterwards. On an error those behind the one that failed
    /// are not made, and the batch is empty.
    ///
    /// # Errors
    ///
    /// What the hypervisor refused.
    pub fn commit(&mut self, forget: Forget) -> Result<(), Errno> {
        let len = core::mem::take(&mut self.len);
        match &self.requests[..len] {
            [] if forget == Forget::Nothing => Ok(()),
            // SAFETY: what those who added them promised. That nobody has a translation that must be forgotten, where this
            // does not forget any, is part of it.
            requests => unsafe { edge::apply_and_forget(requests, forget) },
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} changes of page tables, {:?}", self.len, self.mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmu::{Frame, L1, Mfn, Table};

    /// Sets two entries of a table and says what it holds before and after the commit.
    fn two_entries(mode: Mode) -> [Pte; 2] {
        let table: Frame<Table<L1>> = Frame::new().unwrap().into_table().unwrap();
        let at = table.mfn().address() + 8;
        let mut batch = Batch::new(mode);
        for frame in [5, 6] {
            // SAFETY: a table that no CPU uses.
            unsafe { batch.set(at, Pte::read_only(Mfn(frame))) }.unwrap();
        }
        let before = table.entry(1);
        batch.commit(Forget::Nothing).unwrap();
        [before, table.entry(1)]
    }

    #[test]
    fn a_lazy_batch_waits_and_an_eager_one_does_not() {
        let last = Pte::read_only(Mfn(6));
        assert_eq!(two_entries(Mode::Lazy), [Pte::EMPTY, last]);
        assert_eq!(two_entries(Mode::Eager), [last, last]);
    }

    #[test]
    fn what_is_pending_is_the_latest() {
        let mut batch = Batch::new(Mode::Lazy);
        for (at, entry) in
            [(0x1000, Pte::read_only(Mfn(1))), (0x1008, Pte::read_only(Mfn(2))), (0x1000, Pte::EMPTY)]
        {
            // SAFETY: they are never made.
            unsafe { batch.set(at, entry) }.unwrap();
        }
        assert_eq!(batch.pending(0x1000), Some(Pte::EMPTY));
        assert_eq!(batch.pending(0x1008), Some(Pte::read_only(Mfn(2))));
        assert_eq!(batch.pending(0x1010), None);
    }
}
