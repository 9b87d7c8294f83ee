//! Linear level-4 entries, and which addresses lead through them into the hypervisor's own tables.
//!
//! An entry of an L4 table that names an L4 table makes the CPU use that table one level further down. Its entries 256..=271,
//! which are the hypervisor's, are then reached by addresses of the guest's half. Ring 3 gets nowhere by them: the hypervisor's
//! entries have no USER bit. But what the hypervisor reads for a guest it reads with its own rights, which the CPU does not
//! check for USER. So those reads must refuse such addresses. (Writes cannot get there: a linear entry is always read-only.)
//!
//! The page tables may change while they are looked at, and a TLB may hold what they were. So nothing is looked up: each domain
//! remembers, for ever, which L4 indices had a linear entry in any of its L4 tables. The rule ([`LinearRoots::may_read`])
//! depends on the address and on that set only, and is exact: an address walks from an L4 table to an L4 table at
//! its first index only if that index is in the set, and so on for the indices below.
//!
//! A CPU that is reading when an index comes into the set has checked the address before. So an entry is not made until a
//! grace period has passed since its index came into the set ([`Platform::begin_grace`]): every read that did not see it
//! is over by then. The hypercall that wants the entry is made again meanwhile.

use super::{PageError, pte};
use crate::Hypervisor;
use crate::domain::{Domain, VcpuFlags};
use crate::ids::GuestVirt;
use crate::platform::Platform;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use spin::Mutex;

/// A set of L4 indices.
type Indices = [AtomicU64; pte::ENTRIES / 64];

fn contains(set: &Indices, index: usize) -> bool {
    set[index / 64 % set.len()].load(Relaxed) >> (index % 64) & 1 != 0
}

fn insert(set: &Indices, index: usize) {
    set[index / 64 % set.len()].fetch_or(1 << (index % 64), SeqCst);
}

/// At which L4 indices a domain's tables have, or once had, linear entries.
#[derive(Debug, Default)]
pub struct LinearRoots {
    /// Reads take care of these.
    watched: Indices,
    /// Entries may be made at these, all of which are watched by every CPU.
    allowed: Indices,
    /// The index that is watched already, and the grace period after which entries may be made there.
    waiting: Mutex<Option<(usize, u64)>>,
}

impl LinearRoots {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has reads take care of an index.
    pub(crate) fn watch(&self, index: usize) {
        insert(&self.watched, index);
    }

    /// Whether `len` bytes at `va`, an address outside of the hypervisor's range, can be read without reading anything that only the
    /// hypervisor maps.
    pub fn may_read(&self, va: GuestVirt, len: usize) -> bool {
        if len == 0 || self.watched.iter().all(|word| word.load(Relaxed) == 0) {
            return true;
        }
        let last = va.0.wrapping_add(len as u64 - 1) >> 12;
        (va.0 >> 12..=last).all(|page| !self.leads_to_hypervisor(page << 12))
    }

    /// Whether the walk of this address can be at an L4 table when its next index is one of the hypervisor's slots.
    fn leads_to_hypervisor(&self, va: u64) -> bool {
        for level in (2..=4).rev() {
            if !contains(&self.watched, pte::index(va, level)) {
                return false;
            }
            if pte::HYPERVISOR_SLOTS.contains(&pte::index(va, level - 1)) {
                return true;
            }
        }
        false
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Whether a linear entry may be made at `index` of an L4 table of `domain`.
    ///
    /// # Errors
    /// [`PageError::Restart`] until every CPU takes care of it in what it reads for the domain.
    pub(crate) fn allow_linear_root(&self, domain: &Domain<P>, index: usize) -> Result<(), PageError> {
        let roots = &domain.linear_roots;
        if contains(&roots.allowed, index) {
            return Ok(());
        }
        let mut waiting = roots.waiting.lock();
        if let Some((watched, grace)) = *waiting {
            if !self.platform.grace_is_over(grace) {
                return Err(PageError::Restart);
            }
            insert(&roots.allowed, watched);
            *waiting = None;
            if watched == index {
                return Ok(());
            }
        }
        roots.watch(index);
        domain.vcpus.iter().for_each(|vcpu| vcpu.pv.set_flags(VcpuFlags::CHECKS_READS, true));
        self.platform.check_guest_reads();
        *waiting = Some((index, self.platform.begin_grace()));
        Err(PageError::Restart)
    }
}
