//! `grant_table_op` as a guest calls it.

use super::*;
use crate::hypercall::{Cx, Outcome, grant::grant_table_op};
use crate::ids::GuestVirt;
use crate::mock::FLAT_BASE;
use crate::regs::Regs;
use xen_abi::GuestHandle;
use zerocopy::{FromBytes, IntoBytes};

const ARG: u64 = FLAT_BASE + 0x1000;
const LIST: u64 = FLAT_BASE + 0x8000;

fn call(w: &World, domain: &MockDomain, cmd: u32, arg: u64, count: u64) -> Outcome {
    let cx = Cx { hv: &w.hv, domain, vcpu: &domain.vcpus[0] };
    grant_table_op(cx, &[u64::from(cmd), arg, count, 0, 0, 0], &mut Regs::default())
}

fn write<T: IntoBytes + zerocopy::Immutable + ?Sized>(w: &World, at: u64, value: &T) {
    w.hv.platform.copy_to_guest(GuestVirt(at), value.as_bytes()).unwrap();
}

fn read<T: FromBytes + IntoBytes>(w: &World, at: u64) -> T {
    let mut value = T::new_zeroed();
    w.hv.platform.copy_from_guest(value.as_mut_bytes(), GuestVirt(at)).unwrap();
    value
}

fn errno(error: Errno) -> Outcome {
    Outcome::Done(error.to_ret())
}

#[test]
fn linux_asks_for_its_table() {
    let w = world();
    write(&w, ARG, &GnttabQuerySize { dom: DOMID_SELF, ..Default::default() });
    assert_eq!(call(&w, &w.d0, GNTTABOP_QUERY_SIZE, ARG, 1), Outcome::Done(0));
    let size: GnttabQuerySize = read(&w, ARG);
    assert_eq!((size.status, size.nr_frames, size.max_nr_frames), (GNTST_OKAY, 1, 64));
    let setup = GnttabSetupTable {
        dom: DOMID_SELF,
        nr_frames: 3,
        frame_list: GuestHandle::new(LIST),
        ..Default::default()
    };
    write(&w, ARG, &setup);
    assert_eq!(call(&w, &w.d0, GNTTABOP_SETUP_TABLE, ARG, 1), Outcome::Done(0));
    assert_eq!(read::<GnttabSetupTable>(&w, ARG).status, GNTST_OKAY);
    let frames: [u64; 3] = read(&w, LIST);
    assert!(frames.iter().all(|mfn| w.hv.page_owner(Mfn(*mfn)) == Some(DomId(0))));
    write(&w, ARG, &GnttabSetupTable { frame_list: GuestHandle::new(8), ..setup });
    assert_eq!(call(&w, &w.d0, GNTTABOP_SETUP_TABLE, ARG, 1), Outcome::Done(0));
    assert_eq!(read::<GnttabSetupTable>(&w, ARG).status, GNTST_BAD_VIRT_ADDR);

    write(&w, ARG, &GnttabSetVersion { version: 2 });
    assert_eq!(call(&w, &w.d0, GNTTABOP_SET_VERSION, ARG, 1), Outcome::Done(0));
    let status = GnttabGetStatusFrames {
        nr_frames: 1,
        dom: DOMID_SELF,
        frame_list: GuestHandle::new(LIST),
        ..Default::default()
    };
    write(&w, ARG, &status);
    assert_eq!(call(&w, &w.d0, GNTTABOP_GET_STATUS_FRAMES, ARG, 1), Outcome::Done(0));
    assert_eq!(read::<GnttabGetStatusFrames>(&w, ARG).status, GNTST_OKAY);
    write(&w, ARG, &GnttabGetVersion { dom: DOMID_SELF, ..Default::default() });
    assert_eq!(call(&w, &w.d0, GNTTABOP_GET_VERSION, ARG, 1), Outcome::Done(0));
    assert_eq!(read::<GnttabGetVersion>(&w, ARG).version, 2);
    write(&w, ARG, &GnttabGetVersion { dom: 0, ..Default::default() });
    assert_eq!(call(&w, &w.d1, GNTTABOP_GET_VERSION, ARG, 1), errno(Errno::EPERM));
}

#[test]
fn arguments_are_checked() {
    let w = world();
    assert_eq!(call(&w, &w.d0, GNTTABOP_QUERY_SIZE, ARG, 2), errno(Errno::EINVAL));
    assert_eq!(call(&w, &w.d0, GNTTABOP_QUERY_SIZE, 8, 1), errno(Errno::EFAULT));
    assert_eq!(call(&w, &w.d0, GNTTABOP_MAP_GRANT_REF, ARG, 1 << 31), errno(Errno::EINVAL));
    assert_eq!(call(&w, &w.d0, GNTTABOP_MAP_GRANT_REF, 8, 1), errno(Errno::EFAULT));
    assert_eq!(call(&w, &w.d0, GNTTABOP_MAP_GRANT_REF, u64::MAX - 7, 3), errno(Errno::EFAULT));
    assert_eq!(call(&w, &w.d0, GNTTABOP_MAP_GRANT_REF, 8, 0), Outcome::Done(0));
    assert_eq!(call(&w, &w.d0, GNTTABOP_MAP_GRANT_REF | 1 << 12, ARG, 1), errno(Errno::EINVAL));
    assert_eq!(call(&w, &w.d0, 77, ARG, 1), errno(Errno::ENOSYS));
    write(&w, ARG, &GnttabSetVersion { version: 7 });
    assert_eq!(call(&w, &w.d0, GNTTABOP_SET_VERSION, ARG, 1), errno(Errno::EINVAL));
    assert_eq!(read::<GnttabSetVersion>(&w, ARG).version, 1, "tells what it is");
}

/// Calls until the batch is done, with arguments as the guest's registers would hold them.
fn call_to_the_end(w: &World, cmd: u32, arg: u64, count: u64) -> (Outcome, u32) {
    let mut outcome = call(w, &w.d0, cmd, arg, count);
    let mut rounds = 0;
    while let Outcome::Again(args) = outcome {
        rounds += 1;
        let cx = Cx { hv: &w.hv, domain: &w.d0, vcpu: &w.d0.vcpus[0] };
        outcome = grant_table_op(cx, &args, &mut Regs::default());
    }
    (outcome, rounds)
}

#[test]
fn batches_are_continued_where_they_stopped() {
    let w = world();
    let mfn = w.granted(9, 0);
    w.hv.platform.preempt_every.store(3, Ordering::Relaxed);
    let maps: Vec<_> = (0..100u64)
        .map(|n| GnttabMapGrantRef {
            host_addr: w.slot(n),
            flags: GNTMAP_HOST_MAP | GNTMAP_CONTAINS_PTE,
            ref_: 9,
            dom: 1,
            ..Default::default()
        })
        .collect();
    write(&w, ARG, &maps[..]);
    let (outcome, rounds) = call_to_the_end(&w, GNTTABOP_MAP_GRANT_REF, ARG, 100);
    assert_eq!(outcome, Outcome::Done(0));
    assert!(rounds > 10);
    assert_eq!(w.counts(mfn).1, 100);
    w.hv.platform.preempt_every.store(1, Ordering::Relaxed);
    let unmaps: Vec<_> = (0..100u64)
        .map(|n| {
            let mapped: GnttabMapGrantRef = read(&w, ARG + 32 * n);
            assert_eq!((mapped.status, mapped.dev_bus_addr), (GNTST_OKAY, mfn.addr().0));
            GnttabUnmapGrantRef {
                host_addr: w.slot(n),
                handle: mapped.handle,
                status: 99,
                ..Default::default()
            }
        })
        .collect();
    write(&w, LIST, &unmaps[..]);
    let (outcome, rounds) = call_to_the_end(&w, GNTTABOP_UNMAP_GRANT_REF, LIST, 100);
    assert_eq!((outcome, rounds), (Outcome::Done(0), 3), "after each 32");
    for n in 0..100 {
        assert_eq!(read::<GnttabUnmapGrantRef>(&w, LIST + 24 * n).status, GNTST_OKAY);
    }
    assert_eq!((w.counts(mfn), w.in_use(9)), ((1, 0), 0));
}

/// What is refused takes its time as well: such a batch may have 2^31 - 1 elements.
#[test]
fn refused_unmappings_stop_for_other_work() {
    let w = world();
    w.hv.platform.preempt_every.store(1, Ordering::Relaxed);
    let list = [GnttabUnmapGrantRef { handle: 77, status: 99, ..Default::default() }; 100];
    write(&w, LIST, &list[..]);
    let (outcome, rounds) = call_to_the_end(&w, GNTTABOP_UNMAP_GRANT_REF, LIST, 100);
    assert_eq!((outcome, rounds), (Outcome::Done(0), 3), "after each 32");
    for n in 0..100 {
        assert_eq!(read::<GnttabUnmapGrantRef>(&w, LIST + 24 * n).status, GNTST_BAD_HANDLE);
    }
    let list = [GnttabUnmapAndReplace { handle: 77, status: 99, ..Default::default() }; 100];
    write(&w, LIST, &list[..]);
    let (outcome, rounds) = call_to_the_end(&w, GNTTABOP_UNMAP_AND_REPLACE, LIST, 100);
    assert_eq!((outcome, rounds), (Outcome::Done(0), 3), "after each 32");
}

#[test]
fn copies_and_flushes_by_hypercall() {
    let w = world();
    let (theirs, own) = (w.granted(9, 0), page(&w.hv, &w.d0));
    w.hv.platform.frame_words(theirs)[0].store(0x1122_3344_5566_7788, Ordering::Relaxed);
    let source = GnttabCopyPtr { u: 9, domid: 1, offset: 2, ..Default::default() };
    let dest = GnttabCopyPtr { u: own.0, domid: DOMID_SELF, offset: 8, ..Default::default() };
    let copy =
        GnttabCopy { source, dest, len: 4, flags: GNTCOPY_SOURCE_GREF, status: 99, ..Default::default() };
    write(&w, ARG, &[copy, GnttabCopy { len: 4095, ..copy }]);
    assert_eq!(call(&w, &w.d0, GNTTABOP_COPY, ARG, 2), Outcome::Done(0));
    let done: [GnttabCopy; 2] = read(&w, ARG);
    assert_eq!(done.map(|copy| copy.status), [GNTST_OKAY, GNTST_BAD_COPY_ARG]);
    assert_eq!(w.hv.platform.frame_words(own)[1].load(Ordering::Relaxed), 0x3344_5566);

    let flush = |mfn: Mfn, op| GnttabCacheFlush { a: mfn.addr().0, offset: 0, length: 64, op };
    for (mfn, op, answer) in [
        (own, GNTTAB_CACHE_CLEAN, Outcome::Done(0)),
        (own, GNTTAB_CACHE_CLEAN | GNTTAB_CACHE_INVAL, Outcome::Done(0)),
        (own, GNTTAB_CACHE_INVAL, errno(Errno::EOPNOTSUPP)),
        (own, 0, Outcome::Done(0)),
        (own, 8, errno(Errno::EINVAL)),
        (theirs, GNTTAB_CACHE_CLEAN, errno(Errno::EINVAL)),
        (Mfn(1 << 30), GNTTAB_CACHE_CLEAN, errno(Errno::EINVAL)),
    ] {
        write(&w, ARG, &flush(mfn, op));
        assert_eq!(call(&w, &w.d0, GNTTABOP_CACHE_FLUSH, ARG, 1), answer, "{mfn:?} {op}");
    }
    w.map(9, GNTMAP_DEVICE_MAP, 0).unwrap();
    write(&w, ARG, &flush(theirs, GNTTAB_CACHE_CLEAN));
    assert_eq!(call(&w, &w.d0, GNTTABOP_CACHE_FLUSH, ARG, 1), Outcome::Done(0));
    let record = w.hv.platform.record.lock().unwrap();
    assert_eq!(record.line_flushes, [(own, 0, 64), (own, 0, 64), (theirs, 0, 64)]);
    assert_eq!(record.cache_flushes.len(), 0, "nothing but these lines");
}

/// Whose cache lines may be written back was asked of the granter's whole table, with that locked. It is a look through the caller's
/// own handles, in steps.
#[test]
fn cache_flushes_look_through_the_callers_own_handles() {
    let w = world();
    let (mapped, other) = (w.granted(9, 0), w.granted(10, 0));
    // A grant is mapped 128 times at most.
    for n in 0..5000u32 {
        let reference = 10 + n / 120;
        if n.is_multiple_of(120) {
            w.grant(reference, TO_D0, 0, other);
        }
        w.map(reference, GNTMAP_DEVICE_MAP | GNTMAP_READONLY, 0).unwrap();
    }
    w.map(9, GNTMAP_DEVICE_MAP, 0).unwrap();
    // A granter whose table another CPU has locked is not waited for.
    let granter = w.d1.grants.table.lock();
    w.hv.platform.preempt_every.store(1, Ordering::Relaxed);
    let flush =
        |mfn: Mfn| GnttabCacheFlush { a: mfn.addr().0, offset: 8, length: 100, op: GNTTAB_CACHE_CLEAN };
    write(&w, ARG, &[flush(mapped), flush(other)]);
    let (outcome, rounds) = call_to_the_end(&w, GNTTABOP_CACHE_FLUSH, ARG, 2);
    assert_eq!(outcome, Outcome::Done(0));
    assert!((5..8).contains(&rounds), "{rounds} rounds for 5001 handles");
    assert_eq!(w.hv.platform.record.lock().unwrap().line_flushes, [(mapped, 8, 100), (other, 8, 100)]);
    drop(granter);
    write(&w, ARG, &flush(page(&w.hv, &w.d1)));
    assert_eq!(call_to_the_end(&w, GNTTABOP_CACHE_FLUSH, ARG, 1).0, errno(Errno::EINVAL));
    assert_eq!(call(&w, &w.d0, GNTTABOP_CACHE_FLUSH | 0xfffff << 12, ARG, 1), errno(Errno::EINVAL));
}

/// The handles of a domain that ends go in steps, and each once.
#[test]
fn handles_of_a_dying_domain_go_in_steps() {
    let w = world();
    let mfn = w.granted(9, 0);
    let map = |n: u32| {
        let reference = 9 + n / 120;
        if n.is_multiple_of(120) {
            w.grant(reference, TO_D0, 0, mfn);
        }
        w.map(reference, GNTMAP_DEVICE_MAP, 0).unwrap().handle
    };
    let handles: Vec<u32> = (0..3000).map(map).collect();
    handles.iter().skip(1).for_each(|handle| w.unmap(*handle, 0, mfn.addr().0).unwrap());
    w.hv.platform.preempt_every.store(1, Ordering::Relaxed);
    let going = || w.hv.release_grant_mappings(&w.d0) == crate::event::Progress::Preempted;
    let rounds = (0..10_000).take_while(|_| going()).count();
    assert_eq!(rounds, 3000usize.div_ceil(64));
    assert_eq!((w.d0.grants.mappings(), w.in_use(9), w.counts(mfn)), (0, 0, (1, 0)));
}
