//! Mapping and unmapping, one property at a time.

use super::*;
use crate::event::Progress;

const PTE: u32 = GNTMAP_HOST_MAP | GNTMAP_CONTAINS_PTE;

#[test]
fn a_page_is_mapped_and_given_back() {
    let w = world();
    let mfn = w.granted(9, 0);
    let mapped = w.map(9, PTE, w.slot(3)).unwrap();
    assert_eq!(mapped.address, mfn.addr());
    assert_eq!(pte::frame_of(w.entry(3)), mfn);
    assert_eq!(w.entry(3) & 3, 3, "present and writable");
    assert_ne!(w.entry(3) & pte::NX, 0);
    assert_eq!(w.in_use(9), GTF_READING | GTF_WRITING);
    assert_eq!(w.counts(mfn).1, 1);
    assert_eq!(w.d0.grants.mappings(), 1);
    assert_eq!(w.unmap(mapped.handle + 1, w.slot(3), 0), Err(GrantError::BadHandle));
    assert_eq!(w.unmap(mapped.handle, w.slot(4), 0), Err(GrantError::General), "another entry");
    assert_eq!(w.in_use(9), GTF_READING | GTF_WRITING, "a failure undoes nothing");
    w.hv.platform.record.lock().unwrap().flushes.clear();
    assert_eq!(w.unmap(mapped.handle, w.slot(3), 0), Ok(()));
    assert!(!w.hv.platform.record.lock().unwrap().flushes.is_empty(), "TLBs forget it");
    assert_eq!((w.entry(3), w.in_use(9), w.counts(mfn)), (0, 0, (1, 0)));
    assert_eq!(w.unmap(mapped.handle, w.slot(3), 0), Err(GrantError::BadHandle));
    assert_eq!(w.d0.grants.mappings(), 0);
}

#[test]
fn a_virtual_address_leads_to_its_entry() {
    let w = world();
    let mfn = w.granted(9, READONLY);
    assert_eq!(w.map(9, GNTMAP_HOST_MAP, 0x5000), Err(GrantError::General), "the entry is read-only");
    let flags = GNTMAP_HOST_MAP | GNTMAP_READONLY | GNTMAP_APPLICATION_MAP | 5 << 16;
    let mapped = w.map(9, flags, 0x5000).unwrap();
    assert_eq!(pte::frame_of(w.entry(5)), mfn);
    assert_eq!(w.entry(5) & (pte::RW | pte::USER | pte::GUEST_KERNEL), pte::USER);
    assert_eq!(w.entry(5) >> 9 & 7, 5, "the guest's own bits");
    assert_eq!(w.in_use(9), GTF_READING);
    assert_eq!(w.counts(mfn), (2, 0));
    assert_eq!(w.unmap(mapped.handle, 0x5000, 0), Ok(()));
    assert_eq!((w.entry(5), w.in_use(9), w.counts(mfn)), (0, 0, (1, 0)));
    assert_eq!(w.map(9, flags, 0x4000_0000), Err(GrantError::General), "no table there");
    assert_eq!((w.in_use(9), w.counts(mfn)), (0, (1, 0)));
}

#[test]
fn entries_and_flags_are_checked() {
    let w = world();
    let mfn = w.granted(9, 0);
    assert_eq!(w.map(9, GNTMAP_READONLY, w.slot(0)), Err(GrantError::BadReference), "asks for nothing");
    assert_eq!(w.map(512, PTE, w.slot(0)), Err(GrantError::BadReference));
    assert_eq!(w.map(u32::MAX, PTE, w.slot(0)), Err(GrantError::BadReference));
    assert_eq!(w.map(10, PTE, w.slot(0)), Err(GrantError::General), "an empty entry");
    for (flags, to) in [(TO_D0, 3), (GTF_ACCEPT_TRANSFER.into(), 0), (TO_D0 | GTF_SUB_PAGE as u64, 0)] {
        w.grant(11, flags, to, mfn);
        assert_eq!(w.map(11, PTE, w.slot(0)), Err(GrantError::General));
        assert_eq!(w.in_use(11), 0);
    }
    let foreign = page(&w.hv, &w.d0);
    for frame in [foreign, Mfn(0xffff_ffff), w.table] {
        w.grant(11, TO_D0, 0, frame);
        let expected = if frame == w.table { None } else { Some(Err(GrantError::BadPage)) };
        let answer = w.map(11, PTE, w.slot(0)).map(|mapped| mapped.handle);
        assert!(expected.is_none_or(|e| e == answer), "{frame:?}: {answer:?}");
    }
    for place in [w.slot(0) + 4, page(&w.hv, &w.d0).addr().0, page(&w.hv, &w.d1).addr().0, !7] {
        assert_eq!(w.map(9, PTE, place), Err(GrantError::General), "no entry of a table of domain 0's");
    }
    assert_eq!((w.in_use(9), w.counts(mfn)), (0, (1, 0)));
    let unknown = MapRequest { host_addr: 0, flags: PTE, granter: DomId(5), reference: GrantRef(9) };
    assert_eq!(w.hv.map_grant(&w.d0, &w.d0.vcpus[0], &unknown), Err(GrantError::BadDomain));
}

#[test]
fn a_page_table_is_never_mapped_writable() {
    let w = world();
    let mfn = w.granted(9, 0);
    w.hv.get_page_and_type(&w.d1, mfn, PageType::L1).unwrap();
    assert_eq!(w.map(9, PTE, w.slot(0)), Err(GrantError::General));
    assert_eq!(w.map(9, GNTMAP_DEVICE_MAP, 0), Err(GrantError::General));
    assert_eq!((w.entry(0), w.in_use(9)), (0, 0));
    let mapped = w.map(9, PTE | GNTMAP_READONLY, w.slot(0)).unwrap();
    assert_eq!(w.unmap(mapped.handle, w.slot(0), 0), Ok(()));
    w.hv.put_page_and_type(mfn);
    assert_eq!(w.counts(mfn), (1, 0));
}

#[test]
fn what_is_granted_stays_granted_while_it_is_used() {
    let w = world();
    let mfn = w.granted(9, READONLY);
    let other = page(&w.hv, &w.d1);
    let first = w.map(9, PTE | GNTMAP_READONLY, w.slot(0)).unwrap();
    // The guest rewrites the entry while it is in use: the frame that is pinned stays what the grant is.
    w.grant(9, TO_D0 | u64::from(GTF_READING), 0, other);
    let second = w.map(9, PTE | GNTMAP_READONLY, w.slot(1)).unwrap();
    assert_eq!(second.address, mfn.addr());
    let write = w.map(9, PTE, w.slot(2)).unwrap();
    assert_eq!(write.address, mfn.addr());
    for (mapped, slot) in [(first, 0), (write, 2), (second, 1)] {
        w.unmap(mapped.handle, w.slot(slot), 0).unwrap();
    }
    assert_eq!((w.in_use(9), w.counts(mfn), w.counts(other)), (0, (1, 0), (1, 0)));
}

#[test]
fn the_halves_of_a_mapping_end_one_by_one() {
    let w = world();
    let mfn = w.granted(9, 0);
    let mapped = w.map(9, PTE | GNTMAP_DEVICE_MAP, w.slot(0)).unwrap();
    assert_eq!(w.counts(mfn).1, 2);
    let wrong = mfn.addr().0 + 4096;
    assert_eq!(w.unmap(mapped.handle, 0, wrong), Err(GrantError::BadDeviceAddress));
    assert_eq!(w.unmap(mapped.handle, w.slot(0), 0), Ok(()));
    assert_eq!((w.counts(mfn).1, w.d0.grants.mappings()), (1, 1));
    assert_eq!(w.in_use(9), GTF_READING | GTF_WRITING);
    assert_eq!(w.unmap(mapped.handle, w.slot(0), 0), Ok(()), "nothing left of that half");
    assert_eq!(w.unmap(mapped.handle, 0, mfn.addr().0), Ok(()));
    assert_eq!((w.counts(mfn), w.d0.grants.mappings(), w.in_use(9)), ((1, 0), 0, 0));
}

#[test]
fn a_mapping_is_replaced_by_another_one() {
    let w = world();
    let mfn = w.granted(9, 0);
    let own = page(&w.hv, &w.d0);
    let entry = own.addr().0 | 7;
    w.hv.get_page_and_type(&w.d0, own, PageType::Writable).unwrap();
    w.hv.platform.frame_words(w.l1)[8].store(entry, Ordering::Relaxed);
    let mapped = w.map(9, GNTMAP_HOST_MAP, 0x1000).unwrap();
    let request = UnmapRequest { host_addr: 0x1000, device_addr: 0, new_addr: 0x8000, handle: mapped.handle };
    assert_eq!(w.unmap_request(request), Ok(()));
    assert_eq!((w.entry(1), w.entry(8)), (entry, 0));
    assert_eq!((w.counts(mfn), w.counts(own).1), ((1, 0), 1));

    let mapped = w.map(9, PTE, w.slot(2)).unwrap();
    let request =
        UnmapRequest { host_addr: w.slot(2), device_addr: 0, new_addr: 0x1000, handle: mapped.handle };
    assert_eq!(w.unmap_request(request), Err(GrantError::General), "not for entries by machine address");
    assert_eq!(w.entry(1), entry);
}

/// What an exchange took from its place is dropped when it is refused. It may be a page that another domain granted: the caller's CPUs
/// forget it first, and no others have to.
#[test]
fn a_refused_exchange_flushes_the_callers_cpus() {
    let w = world();
    w.hv.platform.cpus.store(3, Ordering::Relaxed);
    let mfn = w.granted(9, 0);
    let [mapped, _] = [0x1000, 0x2000].map(|va| w.map(9, GNTMAP_HOST_MAP, va).unwrap());
    let request = UnmapRequest { host_addr: 0x3000, device_addr: 0, new_addr: 0x2000, handle: mapped.handle };
    assert_eq!(w.unmap_request(request), Err(GrantError::General), "nothing is mapped there");
    assert_eq!((w.entry(2), w.counts(mfn).1), (0, 1));
    let own = (crate::cpumask::CpuMask::of(crate::ids::CpuId(0)), crate::platform::Flush::All);
    assert_eq!(w.hv.platform.record.lock().unwrap().flushes.last(), Some(&own));
}

#[test]
fn handles_are_limited_and_come_again() {
    let hv = mock::hypervisor(100);
    let d0 = mock::domain(&hv, 0, 1, 50);
    let mut maptrack = Maptrack::new(1);
    let handles: Vec<_> = (0..512).map(|_| maptrack.allocate(|_| true).unwrap()).collect();
    assert_eq!(maptrack.allocate(|_| true), Err(GrantError::NoSpace));
    maptrack.free(handles[7]);
    assert_eq!(maptrack.allocate(|_| true), Ok(7));
    assert_eq!(maptrack.take(7), Err(GrantError::BadHandle), "busy");
    drop(d0);
}

#[test]
fn a_domain_in_teardown_gives_its_mappings_up() {
    let w = world();
    let (a, b) = (w.granted(9, 0), w.granted(10, READONLY));
    w.map(9, GNTMAP_DEVICE_MAP, 0).unwrap();
    w.map(10, GNTMAP_DEVICE_MAP | GNTMAP_READONLY, 0).unwrap();
    w.map(9, PTE, w.slot(0)).unwrap();
    w.hv.platform.preempt_every.store(1, Ordering::Relaxed);
    let mut rounds = 0;
    while w.hv.release_grant_mappings(&w.d0) == Progress::Preempted {
        rounds += 1;
    }
    assert!(rounds < 5);
    assert_eq!((w.in_use(9), w.in_use(10), w.d0.grants.mappings()), (0, 0, 0));
    assert_eq!(w.counts(b), (1, 0));
    assert_eq!(w.counts(a).1, 1, "the page-table entry's own");
    w.hv.domains.begin_dying(&w.d1);
    let free = w.hv.frames.free_count();
    while w.hv.release_grant_frames(&w.d1) == Progress::Preempted {}
    assert_eq!(w.hv.frames.free_count(), free + 1);
}

#[test]
fn a_granter_that_is_gone_keeps_nobody_from_unmapping() {
    let w = world();
    let mfn = w.granted(9, 0);
    let mapped = w.map(9, PTE, w.slot(0)).unwrap();
    w.hv.domains.begin_dying(&w.d1);
    assert_eq!(w.unmap(mapped.handle, w.slot(0), 0), Ok(()));
    assert_eq!(w.counts(mfn), (1, 0));
}
