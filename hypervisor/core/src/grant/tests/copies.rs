//! Copying.

use super::*;

fn fill(w: &World, mfn: Mfn, seed: u64) {
    for (n, word) in (0..).zip(w.hv.platform.frame_words(mfn)) {
        word.store(seed.wrapping_add(n) << 1 | 1, Ordering::Relaxed);
    }
}

fn same(w: &World, a: Mfn, b: Mfn) -> bool {
    let words = |mfn| w.hv.platform.frame_words(mfn).iter().map(|word| word.load(Ordering::Relaxed));
    words(a).eq(words(b))
}

fn grant(reference: u32) -> CopyEnd {
    CopyEnd::Grant(DomId(1), GrantRef(reference))
}

fn copy(w: &World, source: (CopyEnd, u16), dest: (CopyEnd, u16), len: u16) -> Result<(), GrantError> {
    w.hv.copy_granted(&w.d0, &CopyRequest { source, dest, len })
}

#[test]
fn pages_are_copied_from_and_to_grants() {
    let w = world();
    let (theirs, own) = (w.granted(9, 0), page(&w.hv, &w.d0));
    fill(&w, theirs, 1);
    let mine = (CopyEnd::Frame(SELF, own), 0);
    assert_eq!(copy(&w, (grant(9), 0), mine, 4096), Ok(()));
    assert!(same(&w, own, theirs));
    fill(&w, own, 77);
    assert_eq!(copy(&w, mine, (grant(9), 0), 4096), Ok(()));
    assert!(same(&w, own, theirs));
    assert_eq!(copy(&w, (grant(9), 5), (grant(9), 2000), 300), Ok(()), "within one grant");
    assert_eq!((w.in_use(9), w.counts(theirs), w.counts(own)), (0, (1, 0), (1, 0)));
}

#[test]
fn what_may_not_be_copied_is_refused() {
    let w = world();
    let (theirs, own) = (w.granted(9, READONLY), page(&w.hv, &w.d0));
    let mine = CopyEnd::Frame(SELF, own);
    assert_eq!(copy(&w, (mine, 0), (grant(9), 0), 8), Err(GrantError::General), "read-only");
    assert_eq!(copy(&w, (grant(9), 4090), (mine, 0), 8), Err(GrantError::BadCopyArgument));
    assert_eq!(copy(&w, (grant(9), 0), (mine, u16::MAX), u16::MAX), Err(GrantError::BadCopyArgument));
    assert_eq!(copy(&w, (grant(8), 0), (mine, 0), 8), Err(GrantError::General), "an empty entry");
    assert_eq!(copy(&w, (grant(9999), 0), (mine, 0), 8), Err(GrantError::BadReference));
    let foreign = CopyEnd::Frame(DomId(1), theirs);
    assert_eq!(copy(&w, (foreign, 0), (mine, 0), 8), Err(GrantError::PermissionDenied));
    let own_by_number = CopyEnd::Frame(DomId(0), own);
    assert_eq!(copy(&w, (own_by_number, 0), (mine, 0), 8), Err(GrantError::PermissionDenied), "as Xen");
    let no_domains = CopyEnd::Frame(DomId(9), own);
    assert_eq!(copy(&w, (no_domains, 0), (mine, 0), 8), Err(GrantError::PermissionDenied), "nobody looks");
    let not_mine = CopyEnd::Frame(SELF, theirs);
    assert_eq!(copy(&w, (not_mine, 0), (mine, 0), 8), Err(GrantError::BadPage));
    let nobody = CopyEnd::Grant(DomId(9), GrantRef(9));
    assert_eq!(copy(&w, (nobody, 0), (mine, 0), 8), Err(GrantError::BadDomain));
    let table = CopyEnd::Frame(SELF, w.l1);
    assert_eq!(copy(&w, (mine, 0), (table, 0), 8), Err(GrantError::General), "never into a page table");
    assert_eq!((w.in_use(9), w.counts(theirs), w.counts(own)), (0, (1, 0), (1, 0)));
}

#[test]
fn a_part_of_a_page_is_all_that_was_granted() {
    let w = world();
    w.hv.set_grant_table_version(&w.d1, 2).unwrap();
    let (theirs, own) = (page(&w.hv, &w.d1), page(&w.hv, &w.d0));
    let words = w.hv.platform.frame_words(w.table);
    words[19].store(theirs.0, Ordering::SeqCst);
    words[18].store(TO_D0 | u64::from(GTF_SUB_PAGE) | 100 << 32 | 50 << 48, Ordering::SeqCst);
    let mine = (CopyEnd::Frame(SELF, own), 0);
    assert_eq!(copy(&w, (grant(9), 100), mine, 50), Ok(()));
    assert_eq!(copy(&w, (grant(9), 99), mine, 50), Err(GrantError::General));
    assert_eq!(copy(&w, (grant(9), 101), mine, 50), Err(GrantError::General));
    assert_eq!(copy(&w, mine, (grant(9), 149), 1), Ok(()));
    assert_eq!(copy(&w, mine, (grant(9), 150), 1), Err(GrantError::General));
    assert_eq!(w.counts(theirs), (1, 0));
}

#[test]
fn a_grant_is_passed_on_once() {
    let w = world();
    // Domain 2 grants to domain 1, which passes it on to domain 0.
    let d2 = mock::domain(&w.hv, 2, 1, 50);
    let (theirs, own) = (page(&w.hv, &d2), page(&w.hv, &w.d0));
    fill(&w, theirs, 5);
    let table2 = w.hv.setup_grant_table(&d2, SELF, 1).unwrap()[0];
    let entry2 = &w.hv.platform.frame_words(table2)[30];
    entry2.store(TO_D0 | 1 << 16 | theirs.0 << 32, Ordering::SeqCst);
    w.hv.set_grant_table_version(&w.d1, 2).unwrap();
    let status = w.hv.grant_status_frames(&w.d1, SELF, 1).unwrap()[0];
    let words = w.hv.platform.frame_words(w.table);
    words[19].store(30, Ordering::SeqCst);
    words[18].store(u64::from(GTF_TRANSITIVE) | 2 << 32, Ordering::SeqCst);
    let mine = (CopyEnd::Frame(SELF, own), 0);
    assert_eq!(copy(&w, (grant(9), 0), mine, 4096), Ok(()));
    assert!(same(&w, own, theirs));
    assert_eq!(copy(&w, mine, (grant(9), 0), 8), Ok(()));
    assert_eq!(w.map(9, GNTMAP_DEVICE_MAP, 0), Err(GrantError::General), "it cannot be mapped");
    let flags = entry2.load(Ordering::SeqCst) & 0xffff;
    assert_eq!(flags, TO_D0, "nothing is in use any more");
    assert_eq!(w.hv.platform.frame_words(status)[2].load(Ordering::SeqCst), 0);
    assert_eq!(w.counts(theirs), (1, 0));

    words[18].store(u64::from(GTF_TRANSITIVE) | 1 << 32, Ordering::SeqCst);
    assert_eq!(copy(&w, (grant(9), 0), mine, 8), Err(GrantError::General), "to itself");
    words[18].store(u64::from(GTF_TRANSITIVE) | 9 << 32, Ordering::SeqCst);
    assert_eq!(copy(&w, (grant(9), 0), mine, 8), Err(GrantError::General), "to nobody");
    entry2.store(TO_D0 | READONLY | 1 << 16 | theirs.0 << 32, Ordering::SeqCst);
    words[18].store(u64::from(GTF_TRANSITIVE) | 2 << 32, Ordering::SeqCst);
    assert_eq!(copy(&w, mine, (grant(9), 0), 8), Err(GrantError::General), "read-only at its source");
    assert_eq!(w.counts(theirs), (1, 0));
}

#[test]
fn a_copy_goes_along_with_a_mapping() {
    let w = world();
    let (theirs, own) = (w.granted(9, 0), page(&w.hv, &w.d0));
    let handle = w.map(9, GNTMAP_DEVICE_MAP | GNTMAP_READONLY, 0).unwrap().handle;
    let mine = (CopyEnd::Frame(SELF, own), 0);
    assert_eq!(copy(&w, mine, (grant(9), 0), 64), Ok(()));
    assert_eq!(w.in_use(9), GTF_READING, "the mapping's");
    w.unmap(handle, 0, theirs.addr().0).unwrap();
    assert_eq!((w.in_use(9), w.counts(theirs)), (0, (1, 0)));
}

/// A copy to a frame that cannot be written gave the pin for writing back as one for reading: the grant stayed pinned for ever, and
/// its frame could be copied long after the granter had taken it back.
#[test]
fn a_copy_that_fails_leaves_no_pin() {
    let w = world();
    let (theirs, own) = (w.granted(9, 0), page(&w.hv, &w.d0));
    w.hv.get_page_and_type(&w.d1, theirs, PageType::L1).unwrap();
    let mine = (CopyEnd::Frame(SELF, own), 0);
    for _ in 0..3 {
        assert_eq!(copy(&w, mine, (grant(9), 0), 8), Err(GrantError::General), "a page table");
    }
    assert_eq!(w.in_use(9), 0);
    assert!(!w.d1.grants.table.lock().active(GrantRef(9)).unwrap().pins.any());
    // The granter has it back, and grants another one by the same reference.
    w.hv.put_page_and_type(theirs);
    let other = w.granted(9, 0);
    fill(&w, theirs, 11);
    fill(&w, other, 22);
    assert_eq!(copy(&w, (grant(9), 0), mine, 4096), Ok(()));
    assert!(same(&w, own, other));
    assert_eq!((w.counts(theirs), w.counts(other)), ((1, 0), (1, 0)));
}

/// A copy into a frame of the caller's that is being given up as a table waits in steps, with nothing of the granter's locked; one
/// into such a frame of the granter's is refused, as into one that is a table still.
#[test]
fn a_copy_into_a_table_that_is_given_up() {
    let w = world();
    let theirs = w.granted(9, 0);
    // An L2 table that names 32 L1 tables of 512 entries each.
    let doomed = |domain: &MockDomain| {
        let (l2, data) = (page(&w.hv, domain), page(&w.hv, domain));
        for slot in 0..32 {
            let l1 = page(&w.hv, domain);
            w.hv.platform.frame_words(l2)[slot].store(l1.addr().0 | 7, Ordering::Relaxed);
            let entries = w.hv.platform.frame_words(l1);
            entries.iter().for_each(|entry| entry.store(data.addr().0 | 7, Ordering::Relaxed));
        }
        w.hv.get_page_and_type(domain, l2, PageType::L2).unwrap();
        w.hv.put_page_and_type(l2);
        l2
    };
    let (mine, granted) = (doomed(&w.d0), doomed(&w.d1));
    let locks = w.d1.clone();
    *w.hv.platform.at_question.lock().unwrap() = Some(std::boxed::Box::new(move || {
        assert!(locks.grants.table.try_lock().is_some(), "the granter waits for work that is not its own");
    }));
    w.hv.platform.longest_stretch();
    w.hv.platform.preempt_every.store(1, Ordering::Relaxed);
    let into = (CopyEnd::Frame(SELF, mine), 0);
    let from_grant = || copy(&w, (grant(9), 0), into, 64);
    let rounds = (0..10_000).take_while(|_| from_grant() == Err(GrantError::Restart)).count();
    assert!(rounds >= 32, "{rounds} rounds");
    assert_eq!((from_grant(), w.in_use(9)), (Ok(()), 0));
    assert!(w.hv.platform.longest_stretch() < 1200);
    *w.hv.platform.at_question.lock().unwrap() = None;
    w.grant(10, TO_D0, 0, granted);
    assert_eq!(copy(&w, into, (grant(10), 0), 64), Err(GrantError::General));
    assert_eq!(w.map(10, GNTMAP_DEVICE_MAP, 0), Err(GrantError::General));
    assert!(w.d1.pages.has_doomed() && w.in_use(10) == 0, "its owner's work");
    assert_eq!(w.counts(theirs), (1, 0));
}
