//! Sizes and versions.

use super::*;
use crate::platform::Flush;

/// Writes a version 2 entry: header word and second word.
fn grant_v2(w: &World, reference: usize, first: u64, second: u64) {
    let words = w.hv.platform.frame_words(w.table);
    words[2 * reference + 1].store(second, Ordering::SeqCst);
    words[2 * reference].store(first, Ordering::SeqCst);
}

#[test]
fn a_table_grows_to_its_limit() {
    let w = world();
    assert_eq!(w.hv.grant_table_size(&w.d0, SELF), Ok(TableSize { frames: 1, max_frames: 64 }));
    assert_eq!(w.hv.setup_grant_table(&w.d1, SELF, 0).unwrap(), []);
    let frames = w.hv.setup_grant_table(&w.d1, SELF, 5).unwrap();
    assert_eq!((frames.len(), frames[0]), (5, w.table));
    assert_eq!(w.hv.setup_grant_table(&w.d0, DomId(1), 3).unwrap(), frames[..3], "dom0 may look");
    assert_eq!(w.hv.setup_grant_table(&w.d1, DomId(0), 1), Err(GrantError::PermissionDenied));
    assert_eq!(w.hv.setup_grant_table(&w.d1, DomId(9), 1), Err(GrantError::BadDomain));
    assert_eq!(w.hv.setup_grant_table(&w.d1, SELF, 65), Err(GrantError::General));
    assert_eq!(w.hv.setup_grant_table(&w.d1, SELF, u32::MAX), Err(GrantError::General));
    assert_eq!(w.hv.grant_table_size(&w.d0, DomId(1)).unwrap().frames, 5);
    for frame in frames {
        w.hv.get_page_and_type(&w.d1, frame, PageType::Writable).expect("the domain maps it writable");
    }
}

#[test]
fn reserved_entries_survive_a_change_of_version() {
    let w = world();
    let mfn = w.granted(1, READONLY);
    w.granted(20, 0);
    let handle = w.map(1, GNTMAP_DEVICE_MAP | GNTMAP_READONLY, 0).unwrap().handle;
    let hv = &w.hv;
    assert_eq!(hv.set_grant_table_version(&w.d1, 3), Err(VersionError::Unknown));
    assert_eq!(hv.set_grant_table_version(&w.d1, 2), Ok(()));
    let words = hv.platform.frame_words(w.table);
    assert_eq!(words[2].load(Ordering::SeqCst), TO_D0 | READONLY, "the flags of use are elsewhere");
    assert_eq!(words[3].load(Ordering::SeqCst), mfn.0);
    assert_eq!(words[40].load(Ordering::SeqCst), 0, "the others are cleared");
    let status = hv.grant_status_frames(&w.d1, SELF, 1).unwrap()[0];
    let flags = || hv.platform.frame_words(status)[0].load(Ordering::SeqCst) >> 16 & 0xffff;
    assert_eq!(flags(), u64::from(GTF_READING));
    assert_eq!(hv.grant_status_frames(&w.d1, SELF, 2), Err(GrantError::General));
    w.unmap(handle, 0, mfn.addr().0).unwrap();
    assert_eq!(flags(), 0);
    assert_eq!(w.counts(mfn), (1, 0));

    hv.get_page_and_type(&w.d1, status, PageType::Writable).unwrap();
    assert_eq!(
        hv.set_grant_table_version(&w.d1, 1),
        Err(VersionError::InUse),
        "the guest maps the status frame"
    );
    hv.put_page_and_type(status);
    grant_v2(&w, 2, TO_D0, 1 << 40);
    assert_eq!(hv.set_grant_table_version(&w.d1, 1), Err(VersionError::NotRepresentable));
    grant_v2(&w, 2, 0, 0);
    let free = hv.frames.free_count();
    assert_eq!(hv.set_grant_table_version(&w.d1, 1), Ok(()));
    assert_eq!(hv.frames.free_count(), free + 1);
    assert_eq!(words[1].load(Ordering::SeqCst), TO_D0 | READONLY | mfn.0 << 32);
    assert_eq!(hv.grant_status_frames(&w.d1, SELF, 1), Err(GrantError::General));
}

#[test]
fn the_version_stays_while_grants_are_in_use() {
    let w = world();
    let mfn = w.granted(20, 0);
    let handle = w.map(20, GNTMAP_DEVICE_MAP, 0).unwrap().handle;
    assert_eq!(w.hv.set_grant_table_version(&w.d1, 2), Err(VersionError::InUse));
    assert_eq!(w.hv.set_grant_table_version(&w.d1, 1), Ok(()), "nothing to change");
    w.unmap(handle, 0, mfn.addr().0).unwrap();
    assert_eq!(w.hv.set_grant_table_version(&w.d1, 2), Ok(()));
    assert_eq!(w.hv.grant_table_version(&w.d1), 2);
    assert_eq!(w.hv.grant_table_version(&w.d0), 1);
}

#[test]
fn version_2_entries_are_mapped() {
    let w = world();
    w.hv.set_grant_table_version(&w.d1, 2).unwrap();
    let status = w.hv.grant_status_frames(&w.d1, SELF, 1).unwrap()[0];
    let mfn = page(&w.hv, &w.d1);
    grant_v2(&w, 9, TO_D0, mfn.0);
    assert_eq!(w.map(256, GNTMAP_DEVICE_MAP, 0), Err(GrantError::BadReference), "entries are larger");
    let handle = w.map(9, GNTMAP_DEVICE_MAP, 0).unwrap().handle;
    let flags = || w.hv.platform.frame_words(status)[2].load(Ordering::SeqCst) >> 16 & 0xffff;
    assert_eq!(flags(), u64::from(GTF_READING | GTF_WRITING));
    w.unmap(handle, 0, mfn.addr().0).unwrap();
    assert_eq!((flags(), w.counts(mfn)), (0, (1, 0)));
    for first in [TO_D0 | u64::from(GTF_SUB_PAGE), TO_D0 | 1 << 16, GTF_TRANSITIVE.into(), 0] {
        grant_v2(&w, 9, first, mfn.0);
        assert_eq!(w.map(9, GNTMAP_DEVICE_MAP, 0), Err(GrantError::General));
        assert_eq!(flags(), 0);
    }
}

#[test]
fn unused_grants_are_swapped() {
    let w = world();
    let (a, b) = (w.granted(9, 0), w.granted(10, READONLY));
    assert_eq!(w.hv.swap_grants(&w.d1, GrantRef(9), GrantRef(512)), Err(GrantError::BadReference));
    assert_eq!(w.hv.swap_grants(&w.d1, GrantRef(9), GrantRef(9)), Ok(()));
    assert_eq!(w.hv.swap_grants(&w.d1, GrantRef(9), GrantRef(10)), Ok(()));
    let words = w.hv.platform.frame_words(w.table);
    assert_eq!(words[9].load(Ordering::SeqCst), TO_D0 | READONLY | b.0 << 32);
    assert_eq!(words[10].load(Ordering::SeqCst), TO_D0 | a.0 << 32);
    w.map(10, GNTMAP_DEVICE_MAP, 0).unwrap();
    assert_eq!(w.hv.swap_grants(&w.d1, GrantRef(9), GrantRef(10)), Err(GrantError::Again));
}

#[test]
fn a_page_is_transferred() {
    let w = world();
    let accept = u64::from(GTF_ACCEPT_TRANSFER);
    let pages = |d: &MockDomain| d.pages.current();
    let before = (pages(&w.d0), pages(&w.d1));
    let mfn = page(&w.hv, &w.d0);
    w.grant(9, accept, 0, Mfn(0x1234));
    assert_eq!(w.hv.transfer_page(&w.d0, mfn, DomId(1), GrantRef(9)), Ok(()));
    assert_eq!(w.flags(9), GTF_ACCEPT_TRANSFER | GTF_TRANSFER_COMMITTED | GTF_TRANSFER_COMPLETED);
    assert_eq!(w.hv.platform.frame_words(w.table)[9].load(Ordering::SeqCst) >> 32, mfn.0);
    assert_eq!(w.hv.page_owner(mfn), Some(DomId(1)));
    assert_eq!(w.hv.platform.m2p()[mfn.0 as usize].load(Ordering::Relaxed), 0x1234);
    assert_eq!((pages(&w.d0), pages(&w.d1)), (before.0, before.1 + 1));

    let used = page(&w.hv, &w.d0);
    w.hv.get_page(DomId(0), used).unwrap();
    assert_eq!(w.hv.transfer_page(&w.d0, used, DomId(1), GrantRef(9)), Err(GrantError::BadPage));
    w.hv.put_page(used);
    let free = w.hv.frames.free_count();
    assert_eq!(w.hv.transfer_page(&w.d0, used, DomId(1), GrantRef(9)), Err(GrantError::General), "taken");
    assert_eq!(w.hv.frames.free_count(), free + 1, "the page is lost, but not to the machine");
    assert_eq!(w.hv.transfer_page(&w.d0, mfn, DomId(1), GrantRef(9)), Err(GrantError::BadPage));
    let lost = page(&w.hv, &w.d0);
    assert_eq!(w.hv.transfer_page(&w.d0, lost, DomId(9), GrantRef(9)), Err(GrantError::BadDomain));
    assert_eq!((pages(&w.d0), pages(&w.d1)), (before.0, before.1 + 1));
}

/// A domain that had the page mapped by a grant, for reading, may have dropped the mapping without a flush: it must not see what
/// the new owner keeps there.
#[test]
fn all_cpus_forget_a_page_that_is_transferred() {
    let w = world();
    w.hv.platform.cpus.store(3, Ordering::Relaxed);
    let mfn = page(&w.hv, &w.d0);
    w.grant(9, GTF_ACCEPT_TRANSFER.into(), 0, Mfn(0x1234));
    w.hv.platform.record.lock().unwrap().flushes.clear();
    assert_eq!(w.hv.transfer_page(&w.d0, mfn, DomId(1), GrantRef(9)), Ok(()));
    let flushes = w.hv.platform.record.lock().unwrap().flushes.clone();
    assert_eq!(flushes, [(w.hv.platform.online_cpus(), Flush::All)]);
}

/// A table grows, and gets what version 2 has more of, a frame at a time; what is pinned is known without a look at every entry.
#[test]
fn tables_grow_and_change_in_steps() {
    let w = world();
    w.hv.platform.preempt_every.store(1, Ordering::Relaxed);
    let setup = || w.hv.setup_grant_table(&w.d1, SELF, 40);
    let rounds = (0..100).take_while(|_| setup() == Err(GrantError::Restart)).count();
    assert_eq!(rounds, 39 - 1, "it had one");
    let frames = setup().expect("a table");
    assert_eq!((frames.len(), w.hv.grant_table_size(&w.d1, SELF).unwrap().frames), (40, 40));
    assert!(frames.iter().all(|mfn| w.hv.platform.frame_words(*mfn)[511].load(Ordering::Relaxed) == 0));
    // The last reference of the last frame, pinned twice.
    let reference = 40 * 512 - 1;
    let mfn = page(&w.hv, &w.d1);
    let entry = TO_D0 | mfn.0 << 32;
    w.hv.platform.frame_words(frames[39])[511].store(entry, Ordering::SeqCst);
    let handles = [(); 2].map(|()| w.map(reference, GNTMAP_DEVICE_MAP, 0).unwrap().handle);
    let change = |version| w.hv.set_grant_table_version(&w.d1, version);
    for handle in handles {
        assert_eq!(change(2), Err(VersionError::InUse));
        w.unmap(handle, 0, mfn.addr().0).unwrap();
    }
    w.hv.platform.longest_stretch();
    let rounds = (0..100).take_while(|_| change(2) == Err(VersionError::Restart)).count();
    // 256 entries a frame, 2048 status words a frame; then two frames are cleared at a time, the last two in the step that ends it.
    assert_eq!(rounds, 40 / 8 - 1 + 38 / 2);
    assert_eq!(w.hv.grant_table_version(&w.d1), 2);
    assert_eq!(w.hv.grant_status_frames(&w.d1, SELF, 5).unwrap().len(), 5);
    assert!(w.hv.platform.longest_stretch() < 200);
    let rounds = (0..100).take_while(|_| change(1) == Err(VersionError::Restart)).count();
    assert_eq!((rounds, change(1), w.hv.grant_table_version(&w.d1)), (38 / 2, Ok(()), 1));
}

/// A change of version cleared the whole table with its lock held, for which the domain's back ends wait. Between its steps the other
/// entries are as good as cleared, so that no mapping makes it fail halfway; reserved ones stay what they are.
#[test]
fn a_change_of_version_lets_others_have_the_table_between_its_steps() {
    let w = world();
    let frames = w.hv.setup_grant_table(&w.d1, SELF, 64).expect("a table");
    let mfn = page(&w.hv, &w.d1);
    let entry = TO_D0 | mfn.0 << 32;
    let words = w.hv.platform.frame_words(frames[0]);
    let fill = || [5, 100].map(|n: usize| words[n].store(entry, Ordering::SeqCst));
    fill();
    w.hv.platform.preempt_every.store(1, Ordering::Relaxed);
    let change = |version| w.hv.set_grant_table_version(&w.d1, version);
    let usable = |reference| match w.map(reference, GNTMAP_DEVICE_MAP, 0) {
        Ok(mapped) => w.unmap(mapped.handle, 0, mfn.addr().0),
        Err(error) => Err(error),
    };
    let mut refused = 0;
    while change(2) == Err(VersionError::Restart) {
        assert_eq!(usable(5), Ok(()));
        match usable(100) {
            Ok(()) => assert_eq!(refused, 0),
            Err(error) => {
                assert_eq!((error, words[100].load(Ordering::SeqCst)), (GrantError::General, entry));
                assert_eq!(usable(64 * 512), Err(GrantError::BadReference));
                refused += 1;
            }
        }
    }
    assert_eq!((refused, w.hv.grant_table_version(&w.d1)), (62 / 2, 2));
    // One that is given up leaves the entries that it did not clear yet.
    assert_eq!(change(1), Err(VersionError::Restart));
    assert_eq!(change(2), Ok(()));
    assert_eq!(usable(5), Ok(()));
    while change(1) == Err(VersionError::Restart) {}
    fill();
    assert_eq!(change(2), Err(VersionError::Restart));
    assert_eq!((change(1), usable(100)), (Ok(()), Ok(())));
}

/// A change of version cleared all frames of a table in one go, however many an option lets it have.
#[test]
fn a_very_large_table_changes_its_version_in_steps() {
    const FRAMES: u32 = 400;
    let hv = crate::mock::hypervisor(2048);
    let config = crate::domain::DomainConfig {
        max_grant_frames: FRAMES,
        ..crate::domain::DomainConfig::new(DomId(1))
    };
    let domain = hv.create_domain(&config).expect("a domain");
    let frames = hv.setup_grant_table(&domain, SELF, FRAMES).expect("a table");
    hv.platform.preempt_every.store(1, Ordering::SeqCst);
    for version in [2, 1] {
        for frame in &frames {
            hv.platform
                .frame_words(*frame)
                .iter()
                .for_each(|word| word.store(u64::MAX << 4, Ordering::SeqCst));
        }
        hv.platform.longest_stretch();
        let change = |_: &u32| hv.set_grant_table_version(&domain, version) == Err(VersionError::Restart);
        let rounds = (0..1000).take_while(change).count();
        let stretch = hv.platform.longest_stretch();
        assert!(rounds > 20 && stretch < 300, "{rounds} rounds, {stretch} steps");
        assert_eq!(hv.grant_table_version(&domain), version);
        let words = |frame: &crate::ids::Mfn| hv.platform.frame_words(*frame);
        assert!(frames[1..].iter().all(|frame| words(frame).iter().all(|w| w.load(Ordering::SeqCst) == 0)));
    }
}
