//! All domains by identifier.

use super::Domain;
use crate::ids::DomId;
use crate::platform::Platform;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use spin::RwLock;
use xen_abi::errno::Errno;

/// Finds a domain by its identifier. A domain is in here from its making until its teardown begins.
pub struct DomainTable<P: Platform>(RwLock<BTreeMap<DomId, Arc<Domain<P>>>>);

impl<P: Platform> DomainTable<P> {
    /// An empty table.
    pub const fn new() -> Self {
        Self(RwLock::new(BTreeMap::new()))
    }

    /// The domain, kept alive by the answer.
    pub fn get(&self, id: DomId) -> Option<Arc<Domain<P>>> {
        self.0.read().get(&id).cloned()
    }

    /// Adds a domain. Fails with `EEXIST` when its identifier is taken.
    pub fn insert(&self, domain: Arc<Domain<P>>) -> Result<(), Errno> {
        let mut table = self.0.write();
        if table.contains_key(&domain.id) {
            return Err(Errno::EEXIST);
        }
        table.insert(domain.id, domain);
        Ok(())
    }

    /// Takes a domain out.
    pub fn remove(&self, id: DomId) -> Option<Arc<Domain<P>>> {
        self.0.write().remove(&id)
    }

    /// All domains there are now.
    pub fn all(&self) -> Vec<Arc<Domain<P>>> {
        self.0.read().values().cloned().collect()
    }
}

impl<P: Platform> Default for DomainTable<P> {
    fn default() -> Self {
        Self::new()
    }
}
