//! Changing single entries of live tables: `mmu_update`, `update_va_mapping`, emulated writes and grants end here.
//!
//! An entry is changed under its table's lock bit: new references first, then the entry, then the old references. So at
//! every moment each present entry of a live table is covered by references, and a failure leaves the old entry as it was.
//! Only the hardware changes entries besides: it sets ACCESSED and DIRTY.
//!
//! The last reference to a table waits until that table is unlocked. So one that an entry of a table above level 1 stood for is dropped by
//! the caller, when it has unlocked the table of the entry.

use super::info::PageType;
use super::refs::Busy;
use super::validate::Pages;
use super::{PageError, pte, segment};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{DomId, GuestVirt, Mfn};
use crate::platform::{GuestFrame, Platform};
use crate::sync::Word;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed};

/// How the new value gets into the entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// As it is.
    Plain,
    /// With the ACCESSED and DIRTY bits that the old value has at that moment.
    KeepAccessedDirty,
    /// Only if the old value is this one.
    IfEqual(u64),
}

/// Why an entry was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpdateError {
    /// The new value was refused.
    Page(PageError),
    /// [`Write::IfEqual`]: the old value was this one.
    Differs(u64),
    /// The new entry names a frame that is not known as a table of this type. Checking it may take long, so it is done while the
    /// table that is to be changed is not locked.
    Unchecked(Mfn, PageType),
}

impl From<PageError> for UpdateError {
    fn from(error: PageError) -> Self {
        Self::Page(error)
    }
}

/// Where a virtual address ends: see [`Hypervisor::walk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The L1 entry.
    pub entry: u64,
    /// The L1 table that holds it.
    pub table: Mfn,
    /// Its index there.
    pub index: usize,
}

impl<P: Platform> Hypervisor<P> {
    /// Follows the page tables at `cr3`, a live L4 table, down to the L1 entry for `va`, which need not be present. The answer
    /// may be out of date at once: whoever changes something locks the table and looks again.
    #[inline]
    pub fn walk(&self, cr3: Mfn, va: GuestVirt) -> Option<Walk> {
        if !segment::is_guests(va) {
            return None;
        }
        let frames = self.platform.frame_table();
        let entry = |table, level| self.platform.words(table)[pte::index(va.0, level)].load(Relaxed);
        let top = entry(GuestFrame::held(cr3), 4);
        if top & pte::PRESENT == 0 {
            return None;
        }
        // A live L4 table names other tables only; what they are by now, and what is in them, is less sure. By linear entries the
        // walk may get into the hypervisor's own tables, where it ends.
        let mut table = GuestFrame::find(frames, pte::frame_of(top))?;
        for level in [3, 2] {
            let entry = entry(table, level);
            if entry & pte::PRESENT == 0 {
                return None;
            }
            table = GuestFrame::find(frames, pte::frame_of(entry))?;
        }
        let index = pte::index(va.0, 1);
        Some(Walk { entry: entry(table, 1), table: table.mfn(), index })
    }

    /// Changes an entry of an L1 table that the caller locked. `tables` owns the table, `pages` what the new entry names.
    #[inline(always)]
    pub(crate) fn update_l1(
        &self,
        tables: &Domain<P>,
        pages: &Pages<'_, P>,
        slot: &AtomicU64,
        new: u64,
        how: Write,
    ) -> Result<(), UpdateError> {
        let old = slot.load(Acquire);
        let stored = if new & pte::PRESENT == 0 {
            self.judge_absent(tables, 1, new)?;
            new
        } else {
            let stored = pte::adjust_l1(new);
            // The old entry was judged with the same frame, access and memory type.
            if old & pte::PRESENT != 0 && (old ^ stored) & !pte::HARMLESS == 0 {
                return write(slot, old, stored, how);
            }
            self.take_l1_entry(tables, pages, stored)?
        };
        write(slot, old, stored, how).inspect_err(|_| self.drop_unwritten(tables.id, stored))?;
        if old & pte::PRESENT != 0 {
            self.put_l1_entry(tables.id, old);
        }
        Ok(())
    }

    /// Drops what was taken for an L1 entry that was not written.
    #[cold]
    #[inline(never)]
    fn drop_unwritten(&self, tables: DomId, entry: u64) {
        if entry & pte::PRESENT != 0 {
            self.put_l1_entry(tables, entry);
        }
    }

    /// Changes entry `index` of the table `table` of `domain`, which is live as `t`, level 2..=4, and which the caller locked. `pages`
    /// owns what the new entry names: it has to be the same domain. A table that is named is live already, or
    /// [`UpdateError::Unchecked`] is answered: other CPUs wait for the lock, so it is never held for long. Beside the answer comes a
    /// table to which the caller drops a type reference ([`Hypervisor::put_table`]) when it has unlocked this one.
    pub(crate) fn update_upper(
        &self,
        domain: &Domain<P>,
        pages: &Pages<'_, P>,
        (table, t, index): (Mfn, PageType, usize),
        new: u64,
        how: Write,
    ) -> (Result<(), UpdateError>, Option<Mfn>) {
        if !matches!(pages, Pages::Of(owner) if owner.id == domain.id) {
            return (Err(PageError::BadEntry.into()), None);
        }
        let slot = &self.platform.words(GuestFrame::held(table))[index & 511];
        let old = slot.load(Acquire);
        let (stored, harmless) =
            match self.take_new_upper(domain, (table, t.level().unwrap_or(4), index), old, new) {
                Ok(taken) => taken,
                Err(error) => return (Err(error), None),
            };
        let (answer, unused) = match write(slot, old, stored, how) {
            Ok(()) => (Ok(()), old),
            Err(error) => (Err(error), stored),
        };
        let counted = !harmless && unused & pte::PRESENT != 0;
        (answer, if counted { self.leave_upper_entry(table, unused) } else { None })
    }

    /// Takes what a new entry of [`Hypervisor::update_upper`] stands for. Answers it as it is to be stored, and whether it stands for what
    /// the old one stood for, so that nothing was taken.
    fn take_new_upper(
        &self,
        domain: &Domain<P>,
        place: (Mfn, u8, usize),
        old: u64,
        new: u64,
    ) -> Result<(u64, bool), UpdateError> {
        let (_, level, index) = place;
        if pte::is_hypervisor_slot(level, index) {
            return Err(PageError::BadEntry.into());
        }
        self.judge_absent(domain, level, new)?;
        if new & pte::PRESENT == 0 {
            return Ok((new, false));
        }
        if new & pte::UPPER_DISALLOWED != 0 {
            return Err(PageError::BadEntry.into());
        }
        let stored = pte::adjust_upper(new, level);
        if old & pte::PRESENT != 0 && (old ^ stored) & !pte::HARMLESS == 0 {
            return Ok((stored, true));
        }
        self.take_live_entry(domain, place, stored)?;
        Ok((stored, false))
    }

    /// Locks a table of `owner`, whatever its level.
    ///
    /// # Errors
    /// [`PageError::BadFrame`] or [`PageError::NotOwner`]; [`PageError::Restart`] while another CPU has it locked and this one has
    /// other work; `Ok(None)` when the frame is no live table.
    #[inline(always)]
    pub(crate) fn lock_table_of(&self, owner: &Domain<P>, mfn: Mfn) -> Result<Option<PageType>, PageError> {
        let info = self.frame(mfn).ok_or(PageError::BadFrame)?;
        info.judge(owner.id)?;
        let locked = info.lock_table(|| self.platform.work_pending()).map_err(|Busy| PageError::Restart)?;
        // It may have changed hands. A table that is locked and its owner's stays both.
        match info.judge(owner.id) {
            Ok(()) => Ok(locked),
            Err(error) => Err(self.unlock_strange(mfn, locked, error)),
        }
    }

    /// Unlocks what was locked as a table of another owner. Answers `error`.
    #[cold]
    #[inline(never)]
    fn unlock_strange(&self, mfn: Mfn, locked: Option<PageType>, error: PageError) -> PageError {
        if locked.is_some() {
            self.unlock_table(mfn);
        }
        error
    }

    /// As [`Hypervisor::lock_table_of`], for a caller that cannot stop while another CPU has the table locked. It waits for those only that
    /// came before it, each of which has the table locked for a short time.
    ///
    /// # Errors
    /// As there, but not [`PageError::Restart`].
    pub(crate) fn lock_table_in_turn(
        &self,
        owner: &Domain<P>,
        mfn: Mfn,
    ) -> Result<Option<PageType>, PageError> {
        let info = self.frame(mfn).ok_or(PageError::BadFrame)?;
        info.judge(owner.id)?;
        let locked = owner.pages.turns.take(|| info.lock_table_in_turn());
        match info.judge(owner.id) {
            Ok(()) => Ok(locked),
            Err(error) => Err(self.unlock_strange(mfn, locked, error)),
        }
    }
}

/// Writes an entry whose value was `old`; only the hardware may have changed it since. When a present entry goes, the new value is
/// what every CPU finds before anything is read that comes after this ([`super::tlb`]).
#[inline(always)]
pub(super) fn write<W: Word>(slot: &W, old: u64, new: u64, how: Write) -> Result<(), UpdateError> {
    match how {
        Write::Plain if old & pte::PRESENT == 0 => slot.put(new),
        Write::Plain => {
            slot.exchange(new);
        }
        Write::KeepAccessedDirty => write_over(slot, old, new, None)?,
        Write::IfEqual(expected) => write_over(slot, old, new, Some(expected))?,
    }
    Ok(())
}

/// The cases of [`write`] that depend on what is there at that moment: an entry that is to be `expected`, or that keeps its ACCESSED
/// and DIRTY bits.
#[inline(never)]
fn write_over<W: Word>(slot: &W, old: u64, new: u64, expected: Option<u64>) -> Result<(), UpdateError> {
    if let Some(expected) = expected {
        return slot.replace(expected, new).map(drop).map_err(UpdateError::Differs);
    }
    let mut seen = old;
    while let Err(now) = slot.replace(seen, new | seen & (pte::ACCESSED | pte::DIRTY)) {
        seen = now;
    }
    Ok(())
}
