//! Pages of this domain that a peer may touch, as something that somebody owns.

use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;

use alloc::collections::VecDeque;
use smallvec::SmallVec;

use super::table::Table;
use super::{Access, Error, GrantRef, setup};
use crate::memory::{Pages, SharedPages};

/// References of so many pages are kept without an allocation of their own.
const INLINE: usize = 4;

/// What was dropped while a peer used it.
static ASIDE: spin::Mutex<VecDeque<Held>> = spin::Mutex::new(VecDeque::new());
/// How many those are.
static ASIDE_COUNT: AtomicUsize = AtomicUsize::new(0);

/// Pages with the references by which a peer may use them. The references are valid, or ended and not given back.
#[derive(Debug)]
struct Held {
    pages: SharedPages,
    peer: u16,
    refs: SmallVec<[GrantRef; INLINE]>,
}

/// Pages of this domain that a peer may use: words that change at any time.
///
/// Dropping it ends the grants. Where the peer still uses a page then, all of them are kept aside until it lets go: a
/// peer that never does costs the memory, and nothing else.
///
/// ```no_run
/// use guest_pv_lib::grant::{Access, Granted};
/// use guest_pv_lib::memory::Pages;
///
/// let page = Pages::new(1).unwrap();
/// let granted = Granted::new(page, 0, Access::ReadWrite).unwrap();
/// let name_for_the_peer = granted.refs()[0].0;
/// // ... the peer writes ...
/// match granted.end() {
///     Ok(page) => assert_eq!(page.as_ref().len(), 4096),
///     Err(_still_in_use) => {}
/// }
/// # let _ = name_for_the_peer;
/// ```
#[derive(Debug)]
pub struct Granted(ManuallyDrop<Held>);

impl Granted {
    /// Lets `peer` use `pages`.
    ///
    /// # Errors
    ///
    /// [`Error::NoRoom`] where the table is full and cannot grow, with the pages.
    #[doc(alias = "gnttab_grant_foreign_access")]
    #[inline]
    pub fn new(pages: Pages, peer: u16, access: Access) -> Result<Self, (Error, Pages)> {
        if ASIDE_COUNT.load(Relaxed) != 0 {
            reap();
        }
        let table = match setup::table() {
            Ok(table) => table,
            Err(error) => return Err((error, pages)),
        };
        let mut held = Held { refs: SmallVec::new(), peer, pages: SharedPages::from(pages) };
        // All references first: once the peer may use one page, the others must not fail.
        for page in 0..held.pages.count() {
            match table.reserve(held.pages.mfn(page), setup::grow) {
                Ok(reference) => held.refs.push(GrantRef(reference)),
                Err(error) => return Err((error, held.into_private(table))),
            }
        }
        for (page, reference) in held.refs.iter().enumerate() {
            // SAFETY: reserved above. The page is reached through atomics only until no peer has it (`Held`).
            unsafe { table.fill(reference.0, peer, held.pages.mfn(page), access) };
        }
        Ok(Self(ManuallyDrop::new(held)))
    }

    /// The references, one for each page, in order.
    #[must_use]
    pub fn refs(&self) -> &[GrantRef] {
        &self.0.refs
    }

    /// How many pages.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.pages.count()
    }

    /// Whether the peer has one of the pages mapped, or copies it, right now.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.0.refs.iter().any(|&reference| super::is_in_use(reference))
    }

    /// Ends the grants. Nobody else can touch the pages afterwards.
    ///
    /// # Errors
    ///
    /// The value itself, while the peer uses one of the pages: ask again later, or drop it. Those that it does not use are no
    /// longer granted.
    #[doc(alias = "gnttab_end_foreign_access")]
    #[inline]
    pub fn end(self) -> Result<Pages, Self> {
        // Whoever has references has a table.
        match setup::table() {
            Ok(table) if self.0.revoke(table) => {
                let mut this = ManuallyDrop::new(self);
                // SAFETY: `this` is neither used again nor dropped.
                let held = unsafe { ManuallyDrop::take(&mut this.0) };
                Ok(held.into_private(table))
            }
            _ => Err(self),
        }
    }
}

impl Deref for Granted {
    type Target = [AtomicU32];

    fn deref(&self) -> &[AtomicU32] {
        &self.0.pages
    }
}

impl AsRef<SharedPages> for Granted {
    fn as_ref(&self) -> &SharedPages {
        &self.0.pages
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        // SAFETY: the value is not used after its drop.
        let held = unsafe { ManuallyDrop::take(&mut self.0) };
        held.free_or_keep();
    }
}

impl Held {
    /// Ends those grants that are not in use; true where these are all of them.
    #[inline]
    fn revoke(&self, table: &Table) -> bool {
        self.refs.iter().fold(true, |all, reference| table.revoke(reference.0) & all)
    }

    /// The pages, once [`revoke`](Self::revoke) has said that no entry grants them any more, or before one ever did.
    #[inline]
    fn into_private(self, table: &Table) -> Pages {
        // SAFETY: the references go with `self`, and grant nothing.
        self.refs.iter().for_each(|reference| unsafe { table.give_back(reference.0) });
        // SAFETY: every grant of these pages that was made has been ended while the hypervisor said that it is not in use:
        // nobody else reaches the pages.
        unsafe { self.pages.into_pages() }
    }

    /// Frees the pages, or keeps them aside while a peer uses them.
    fn free_or_keep(self) {
        match setup::table() {
            Ok(table) if self.revoke(table) => drop(self.into_private(table)),
            _ => keep(self),
        }
    }
}

fn keep(held: Held) {
    crate::events::without_upcalls(|| {
        ASIDE.lock().push_back(held);
        ASIDE_COUNT.fetch_add(1, Relaxed);
    });
}

/// Pages that are kept aside because peers use them still, counted by the [`Granted`] that they were.
#[must_use]
pub fn kept_aside() -> usize {
    ASIDE_COUNT.load(Relaxed)
}

/// Pages that are kept aside because `peer` uses them still, or others that were granted together with them. What peers have
/// let go is freed first.
#[must_use]
pub fn kept_aside_for(peer: u16) -> usize {
    reap_up_to(kept_aside());
    crate::events::without_upcalls(|| {
        ASIDE.lock().iter().filter(|held| held.peer == peer).map(|held| held.pages.count()).sum()
    })
}

/// Looks through what is kept aside and frees what peers have let go. New grants do that, a few at a time.
pub fn reap() {
    /// So many at a time: the rest has its turn next time.
    const AT_ONCE: usize = 16;
    reap_up_to(AT_ONCE);
}

fn reap_up_to(most: usize) {
    for _ in 0..most.min(kept_aside()) {
        let Some(held) = crate::events::without_upcalls(|| ASIDE.lock().pop_front()) else { return };
        ASIDE_COUNT.fetch_sub(1, Relaxed);
        held.free_or_keep();
    }
}
