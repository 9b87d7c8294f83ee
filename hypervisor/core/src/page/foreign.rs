//! Entries whose references somebody else counts: mappings of grants.
//!
//! The grant code takes the references to the granted page itself, once per mapping, and then has the entry written here;
//! to unmap, it has the entry cleared here and drops the references. If a guest overwrites such an entry by
//! `mmu_update` instead, the references are dropped like those of any other entry: the unmapping fails then, and what the
//! grant code still holds goes with the domain.

use super::info::PageType;
use super::{PageError, pte};
use crate::Hypervisor;
use crate::domain::{Domain, Vcpu};
use crate::ids::{GuestVirt, MachineAddr, Mfn};
use crate::platform::{GuestFrame, Platform};
use core::sync::atomic::Ordering::{AcqRel, Acquire};

/// Which L1 entry of the calling domain is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryPlace {
    /// The entry at this machine address (`GNTMAP_contains_pte`).
    Machine(MachineAddr),
    /// The entry that translates this address in the calling vCPU's kernel address space.
    Linear(GuestVirt),
}

/// How long the caller waits for a table that another CPU has locked.
#[derive(Clone, Copy)]
enum Wait {
    /// Until there is other work.
    UntilWork,
    /// Until it is the caller's turn: it cannot stop.
    InTurn,
}

impl<P: Platform> Hypervisor<P> {
    /// Stores `entry` (present, with references that the caller holds) and drops what the old entry held.
    ///
    /// # Errors
    /// [`PageError::BadEntry`] or what the table is refused for when `place` is no entry of an L1 table of the domain.
    pub fn put_foreign_entry(
        &self,
        domain: &Domain<P>,
        vcpu: &Vcpu<P>,
        place: EntryPlace,
        entry: u64,
    ) -> Result<(), PageError> {
        let old =
            self.with_l1_entry(domain, vcpu, place, Wait::UntilWork, |old| Ok((old, pte::adjust_l1(entry))))?;
        if old & pte::PRESENT != 0 {
            self.put_l1_entry(domain.id, old);
        }
        Ok(())
    }

    /// Replaces an entry of [`Hypervisor::put_foreign_entry`] by `new` without dropping references. It must still name
    /// `frame`, writable or not as `writable` says. With a `new` entry, which was taken out of its place already, it does not stop for
    /// other work.
    ///
    /// # Errors
    /// As there, and [`PageError::CannotMap`] when the entry is another one.
    pub fn take_foreign_entry(
        &self,
        domain: &Domain<P>,
        vcpu: &Vcpu<P>,
        place: EntryPlace,
        (frame, writable): (Mfn, bool),
        new: u64,
    ) -> Result<(), PageError> {
        let wanted = pte::PRESENT | if writable { pte::RW } else { 0 };
        let wait = if new == 0 { Wait::UntilWork } else { Wait::InTurn };
        self.with_l1_entry(domain, vcpu, place, wait, |old| {
            let same = pte::frame_of(old) == frame && old & (pte::PRESENT | pte::RW) == wanted;
            if same { Ok((old, new)) } else { Err(PageError::CannotMap) }
        })?;
        Ok(())
    }

    /// Clears an entry and answers it; the references that it held go to the caller.
    ///
    /// # Errors
    /// As [`Hypervisor::put_foreign_entry`].
    pub fn steal_entry(
        &self,
        domain: &Domain<P>,
        vcpu: &Vcpu<P>,
        place: EntryPlace,
    ) -> Result<u64, PageError> {
        self.with_l1_entry(domain, vcpu, place, Wait::UntilWork, |old| Ok((old, 0)))
    }

    /// Drops the references of an entry that [`Hypervisor::steal_entry`] answered for the domain `tables`.
    pub fn drop_entry(&self, tables: &Domain<P>, entry: u64) {
        if entry & pte::PRESENT != 0 {
            self.put_l1_entry(tables.id, entry);
        }
    }

    /// Replaces an L1 entry under its table's lock by what `change` answers beside the function's own answer.
    fn with_l1_entry(
        &self,
        domain: &Domain<P>,
        vcpu: &Vcpu<P>,
        place: EntryPlace,
        wait: Wait,
        change: impl FnOnce(u64) -> Result<(u64, u64), PageError>,
    ) -> Result<u64, PageError> {
        let (table, index) = match place {
            EntryPlace::Machine(at) if at.0.is_multiple_of(8) => (at.mfn(), at.page_offset() / 8),
            EntryPlace::Machine(_) => return Err(PageError::BadEntry),
            EntryPlace::Linear(va) => {
                let cr3 = vcpu.pv.guest_table.get().ok_or(PageError::BadEntry)?;
                let walk = self.walk(cr3, va).ok_or(PageError::BadEntry)?;
                (walk.table, walk.index)
            }
        };
        let locked = match wait {
            Wait::UntilWork => self.lock_table_of(domain, table)?,
            Wait::InTurn => self.lock_table_in_turn(domain, table)?,
        };
        let t = locked.ok_or(PageError::WrongType)?;
        let slot = &self.platform.words(GuestFrame::held(table))[index & 511];
        let answer = if t == PageType::L1 { change(slot.load(Acquire)) } else { Err(PageError::WrongType) };
        if let Ok((_, new)) = answer {
            slot.swap(new, AcqRel);
        }
        self.unlock_table(table);
        answer.map(|(old, _)| old)
    }
}
