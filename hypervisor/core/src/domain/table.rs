//! All domains by identifier: those that live, and those that are gone and still own frames.

use super::Domain;
use crate::ids::DomId;
use crate::platform::Platform;
use crate::rwlock::RwLock;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::iter;
use core::sync::atomic::{AtomicU16, Ordering, fence};
use xen_abi::errno::Errno;
use xen_abi::xen::DOMID_FIRST_RESERVED;

type Map<P> = RwLock<BTreeMap<DomId, Arc<Domain<P>>>>;

/// Finds a domain by its identifier. A domain is in here from its making until its teardown begins, and among the dying from
/// then on until its last frame is free. No identifier is in both, and a lock of one map is never taken with the other's held,
/// except by [`DomainTable::begin_dying`] and [`DomainTable::insert`], which write to the first map, in this order. Every guest has the
/// locks taken, so each is held for one lookup, whatever the number of domains.
pub struct DomainTable<P: Platform> {
    alive: Map<P>,
    dying: Map<P>,
    /// Identifier that was given out last.
    last: AtomicU16,
}

impl<P: Platform> DomainTable<P> {
    /// An empty table.
    pub const fn new() -> Self {
        Self {
            alive: RwLock::new(BTreeMap::new()),
            dying: RwLock::new(BTreeMap::new()),
            last: AtomicU16::new(0),
        }
    }

    /// The domain, kept alive by the answer.
    pub fn get(&self, id: DomId) -> Option<Arc<Domain<P>>> {
        self.alive.read().get(&id).cloned()
    }

    /// Adds a domain, after `prepare`, which is done when its identifier is its own and before it is found. Fails with `EEXIST` when its
    /// identifier is taken.
    pub fn insert(&self, domain: Arc<Domain<P>>, prepare: impl FnOnce(&Domain<P>)) -> Result<(), Errno> {
        let mut table = self.alive.write();
        if table.contains_key(&domain.id) || self.dying.read().contains_key(&domain.id) {
            return Err(Errno::EEXIST);
        }
        prepare(&domain);
        self.last.store(domain.id.0, Ordering::Relaxed);
        table.insert(domain.id, domain);
        Ok(())
    }

    /// The domains that live, by identifier. Each is looked up when it is asked for: one that comes or goes meanwhile may be among them
    /// or not.
    pub fn all(&self) -> impl Iterator<Item = Arc<Domain<P>>> + '_ {
        each(&self.alive)
    }

    /// The domains whose teardown began and that still own frames, likewise.
    pub fn dying(&self) -> impl Iterator<Item = Arc<Domain<P>>> + '_ {
        each(&self.dying)
    }

    /// Of all domains, alive or not, the one with the least identifier from `id` on.
    pub(crate) fn first_from(&self, id: DomId) -> Option<Arc<Domain<P>>> {
        // In this order: one that begins to die between the two looks is found by the second.
        let (alive, dying) = (first(&self.alive, id), first(&self.dying, id));
        match (alive, dying) {
            (Some(alive), Some(dying)) => Some(if dying.id < alive.id { dying } else { alive }),
            (alive, dying) => alive.or(dying),
        }
    }

    /// Whether a domain, alive or not, has this identifier.
    pub fn is_taken(&self, id: DomId) -> bool {
        let alive = self.alive.read().contains_key(&id);
        alive || self.dying.read().contains_key(&id)
    }

    /// The first identifier after the one given out last that no domain has.
    pub(super) fn free_id(&self) -> Option<DomId> {
        let last = self.last.load(Ordering::Relaxed);
        let after = (last.saturating_add(1)..DOMID_FIRST_RESERVED).chain(1..=last);
        after.map(DomId).find(|id| !self.is_taken(*id))
    }

    /// Moves a domain to the dying, if this very domain is in the table.
    pub(crate) fn begin_dying(&self, domain: &Arc<Domain<P>>) {
        let mut table = self.alive.write();
        if table.get(&domain.id).is_some_and(|found| Arc::ptr_eq(found, domain)) {
            self.dying.write().insert(domain.id, domain.clone());
            table.remove(&domain.id);
        }
    }

    /// The dying domain that owns a frame.
    pub(crate) fn get_dying(&self, id: DomId) -> Option<Arc<Domain<P>>> {
        self.dying.read().get(&id).cloned()
    }

    /// Forgets a dying domain if its teardown is over and it owns nothing, and answers it then. To be called after either became true.
    pub(super) fn bury(&self, domain: &Arc<Domain<P>>) -> Option<Arc<Domain<P>>> {
        // Either this sees what became true at the same time elsewhere, or the other side sees this.
        fence(Ordering::SeqCst);
        if !domain.is_dead() || domain.pages.current() != 0 {
            return None;
        }
        let mut dying = self.dying.write();
        let found = dying.get(&domain.id).is_some_and(|found| Arc::ptr_eq(found, domain));
        if found { dying.remove(&domain.id) } else { None }
    }
}

/// The domain of a map with the least identifier from `id` on.
#[inline(never)]
fn first<P: Platform>(map: &Map<P>, id: DomId) -> Option<Arc<Domain<P>>> {
    map.read().range(id..).next().map(|(_, domain)| domain.clone())
}

/// The domains of a map one after the other.
fn each<P: Platform>(map: &Map<P>) -> impl Iterator<Item = Arc<Domain<P>>> + '_ {
    let mut from = Some(DomId(0));
    iter::from_fn(move || {
        let found = first(map, from?)?;
        from = found.id.0.checked_add(1).map(DomId);
        Some(found)
    })
}

impl<P: Platform> Default for DomainTable<P> {
    fn default() -> Self {
        Self::new()
    }
}
