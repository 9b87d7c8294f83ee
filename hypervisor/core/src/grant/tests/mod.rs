//! Grants on the mock machine: domain 1 grants, domain 0 uses.

mod accounting;
mod copies;
mod hypercalls;
mod maps;
mod orders;
mod random;
mod tables;
pub(crate) mod whole;

use super::*;
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{GrantRef, Mfn};
use crate::mock::{self, MockPlatform};
use crate::page::{PageType, pte};
use crate::platform::Platform;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use std::vec::Vec;
use xen_abi::xen::DOMID_SELF;

type Mock = Hypervisor<MockPlatform>;
type MockDomain = Arc<Domain<MockPlatform>>;

const SELF: DomId = DomId(DOMID_SELF);
/// What a grant to domain 0 says.
const TO_D0: u64 = GTF_PERMIT_ACCESS as u64;
const READONLY: u64 = GTF_READONLY as u64;

/// Domains 0 and 1, a page table of domain 0, and the frame of domain 1's grant table.
struct World {
    hv: Mock,
    d0: MockDomain,
    d1: MockDomain,
    /// An empty L1 table of domain 0's, in use at the bottom of its address space.
    l1: Mfn,
    table: Mfn,
}

fn world() -> World {
    let hv = mock::hypervisor(800);
    let d0 = mock::domain(&hv, 0, 1, 300);
    let d1 = mock::domain(&hv, 1, 1, 300);
    let tables: Vec<_> = (0..4).map(|_| page(&hv, &d0)).collect();
    for pair in tables.windows(2) {
        hv.platform.frame_words(pair[0])[0].store(pair[1].addr().0 | 7, Ordering::Relaxed);
    }
    hv.set_first_baseptr(&d0, &d0.vcpus[0], tables[0]).expect("page tables");
    let table = hv.setup_grant_table(&d1, SELF, 1).expect("a grant table")[0];
    World { hv, d0, d1, l1: tables[3], table }
}

/// A zeroed page of a domain.
fn page(hv: &Mock, domain: &Domain<MockPlatform>) -> Mfn {
    let mfn = hv.alloc_domain_page(domain, 0).expect("a page");
    hv.platform.frame_words(mfn).iter().for_each(|word| word.store(0, Ordering::Relaxed));
    mfn
}

impl World {
    /// Domain 1 writes a version 1 entry.
    fn grant(&self, reference: u32, flags: u64, to: u16, mfn: Mfn) {
        let word = flags | u64::from(to) << 16 | mfn.0 << 32;
        self.hv.platform.frame_words(self.table)[reference as usize].store(word, Ordering::SeqCst);
    }

    /// The flags of a version 1 entry.
    fn flags(&self, reference: u32) -> u16 {
        let word = self.hv.platform.frame_words(self.table)[reference as usize].load(Ordering::SeqCst);
        (word & 0xffff) as u16
    }

    fn in_use(&self, reference: u32) -> u16 {
        self.flags(reference) & (GTF_READING | GTF_WRITING)
    }

    /// A page of domain 1, granted to domain 0.
    fn granted(&self, reference: u32, flags: u64) -> Mfn {
        let mfn = page(&self.hv, &self.d1);
        self.grant(reference, TO_D0 | flags, 0, mfn);
        mfn
    }

    /// Machine address of an entry of the L1 table.
    fn slot(&self, index: u64) -> u64 {
        self.l1.addr().0 + 8 * index
    }

    fn entry(&self, index: usize) -> u64 {
        self.hv.platform.frame_words(self.l1)[index].load(Ordering::SeqCst)
    }

    fn map(&self, reference: u32, flags: u32, host_addr: u64) -> Result<Mapped, GrantError> {
        let request = MapRequest { host_addr, flags, granter: self.d1.id, reference: GrantRef(reference) };
        self.hv.map_grant(&self.d0, &self.d0.vcpus[0], &request)
    }

    fn unmap(&self, handle: u32, host_addr: u64, device_addr: u64) -> Result<(), GrantError> {
        self.unmap_request(UnmapRequest { host_addr, device_addr, new_addr: 0, handle })
    }

    fn unmap_request(&self, request: UnmapRequest) -> Result<(), GrantError> {
        let mut batch = UnmapBatch::default();
        let answer = self.hv.unmap_grant(&self.d0, &self.d0.vcpus[0], &request, &mut batch);
        self.hv.finish_unmaps(&self.d0, &mut batch);
        answer
    }

    /// References and type references of a frame.
    fn counts(&self, mfn: Mfn) -> (u64, u64) {
        let info = self.hv.frame(mfn).expect("a frame");
        (info.count().refs(), info.type_word().count())
    }
}
