//! Page-table roots of vCPUs: a level-4 table that was validated, and the two words of a vCPU that name one.
//!
//! A CPU may load a table only while a type reference keeps it a level-4 table. [`Root`] is such a reference together with
//! the frame that it belongs to. [`Hypervisor::take_root`] alone makes one, so nothing that a guest or a toolstack names gets
//! into a [`RootSlot`] without validation. A slot holds 0 for "no table", and the entry code compares with 0; therefore
//! frame 0, which no domain owns, is refused here explicitly and does not depend on the memory map.

use super::PageError;
use super::info::PageType;
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::Mfn;
use crate::platform::Platform;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

/// The word of a slot without a table.
const NONE: u64 = 0;

/// A validated level-4 table with one type reference to it. Whoever has it puts it into a [`RootSlot`] or gives it back by
/// [`Hypervisor::put_root`].
#[derive(Debug)]
#[must_use = "it holds a type reference"]
pub(crate) struct Root(Mfn);

impl Root {
    /// The frame of the table.
    pub(crate) const fn mfn(&self) -> Mfn {
        self.0
    }
}

/// Where a vCPU keeps a root: the frame number of the table, or 0. The assembly of the hypervisor reads it.
#[derive(Debug)]
#[repr(transparent)]
pub struct RootSlot(AtomicU64);

impl RootSlot {
    /// Without a table.
    pub const fn empty() -> Self {
        Self(AtomicU64::new(NONE))
    }

    /// The frame of the table in it, if there is one.
    #[inline]
    pub fn get(&self) -> Option<Mfn> {
        match self.0.load(Acquire) {
            NONE => None,
            mfn => Some(Mfn(mfn)),
        }
    }

    /// Puts a table in, or none; answers what was there.
    pub(super) fn replace(&self, root: Option<Root>) -> Option<Root> {
        let new = root.map_or(NONE, |root| root.0.0);
        match self.0.swap(new, AcqRel) {
            NONE => None,
            mfn => Some(Root(Mfn(mfn))),
        }
    }

    /// Puts the first table in; the table comes back when there is one already.
    pub(super) fn put_first(&self, root: Root) -> Result<(), Root> {
        match self.0.compare_exchange(NONE, root.0.0, AcqRel, Relaxed) {
            Ok(_) => Ok(()),
            Err(_) => Err(root),
        }
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Validates a level-4 table of `domain`, with all that hangs below it, and takes a type reference.
    ///
    /// # Errors
    /// [`PageError::BadFrame`] for frame 0, what the table is refused for, [`PageError::Restart`].
    #[inline(always)]
    pub(super) fn take_root(&self, domain: &Domain<P>, mfn: Mfn) -> Result<Root, PageError> {
        if mfn.0 == NONE {
            return Err(PageError::BadFrame);
        }
        self.work_off_doomed(domain)?;
        self.get_typed(domain, mfn, PageType::L4)?;
        Ok(Root(mfn))
    }

    /// Gives the reference of a root of `domain` back.
    pub(super) fn put_root(&self, domain: &Domain<P>, root: Root) {
        self.put_table(domain, root.0);
    }
}
