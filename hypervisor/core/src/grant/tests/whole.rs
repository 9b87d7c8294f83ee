//! What must be true of all grants whenever no CPU uses any.

use super::super::entry::{PinKinds, Pins};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{DomId, GrantRef, Mfn};
use crate::mock::MockPlatform;
use alloc::sync::Arc;
use std::collections::BTreeMap;
use std::vec::Vec;
use xen_abi::grant_table::*;

type MockDomain = Arc<Domain<MockPlatform>>;

/// The frames for which device mappings of a domain hold references, and whether for reading only. No handle is between two states.
pub(crate) fn device_mappings(domain: &MockDomain) -> Vec<(Mfn, bool)> {
    let maptrack = domain.grants.maptrack.lock();
    let all = maptrack.mappings();
    assert_eq!(all.len(), maptrack.len(), "handles in use of {:?}", domain.id);
    let device = all.iter().filter(|mapping| mapping.flags & GNTMAP_DEVICE_MAP != 0);
    device.map(|mapping| (mapping.mfn, mapping.flags & GNTMAP_READONLY != 0)).collect()
}

/// Whether a domain has a mapping of a frame that `granter` granted.
pub(crate) fn maps(user: &MockDomain, granter: DomId, mfn: Mfn) -> bool {
    let mappings = user.grants.maptrack.lock().mappings();
    mappings.iter().any(|mapping| (mapping.granter, mapping.mfn) == (granter, mfn))
}

/// Compares the pins of a domain's grants, which is alive, with the mappings that there are.
pub(crate) fn check(hv: &Hypervisor<MockPlatform>, granter: &MockDomain) {
    let mut wanted: BTreeMap<u32, Pins> = BTreeMap::new();
    for user in hv.domains.all() {
        for mapping in user.grants.maptrack.lock().mappings() {
            if mapping.granter == granter.id {
                let pins = wanted.entry(mapping.reference.0).or_default();
                *pins = pins.plus(PinKinds::of_flags(mapping.flags)).expect("few pins");
            }
        }
    }
    let mut table = granter.grants.lock(hv, granter);
    for reference in (0..table.entries()).map(GrantRef) {
        let pins = table.active(reference).expect("an entry").pins;
        let there = wanted.remove(&reference.0).unwrap_or_default();
        assert_eq!(pins, there, "pins of {reference:?} of {:?}", granter.id);
    }
    assert!(wanted.is_empty(), "mappings of grants that are not there: {wanted:?}");
}
