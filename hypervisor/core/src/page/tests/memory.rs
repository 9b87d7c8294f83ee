//! `memory_op`.

use super::model::check;
use super::{Guest, RW, entry, errno};
use crate::guest_ptr::GuestPtr;
use crate::hypercall::Outcome;
use crate::hypercall::memory::memory_op;
use crate::ids::{GuestVirt, Mfn};
use crate::mock::FLAT_BASE;
use crate::page::pte;
use crate::platform::{GuestFrame, Platform};
use crate::regs::Regs;
use core::sync::atomic::Ordering::Relaxed;
use std::collections::BTreeSet;
use std::vec::Vec;
use xen_abi::errno::Errno;
use xen_abi::memory::*;
use xen_abi::xen::DOMID_SELF;
use zerocopy::IntoBytes;

const LIST: u64 = 0x2000;

fn reservation(g: &Guest, list: &[u64], order: u32, mem_flags: u32) -> XenMemoryReservation {
    let at = g.put_at(LIST, list);
    XenMemoryReservation {
        extent_start: at.into(),
        nr_extents: list.len() as u64,
        extent_order: order,
        mem_flags,
        domid: DOMID_SELF,
        ..Default::default()
    }
}

fn list(g: &Guest, len: usize) -> Vec<u64> {
    (0..len).map(|i| GuestPtr::<u64>::new(FLAT_BASE + LIST).read_at(&g.hv, i as u64).unwrap()).collect()
}

#[test]
fn frames_come_and_go() {
    for preempt in [0, 1, 2] {
        let g = Guest::new(64);
        g.hv.platform.preempt_every.store(preempt, Relaxed);
        assert_eq!(g.memory(XENMEM_POPULATE_PHYSMAP, &reservation(&g, &[10, 20, 30], 1, 0)), 3);
        let got = list(&g, 3);
        assert!(got.iter().all(|mfn| mfn % 2 == 0), "aligned to their size: {got:?}");
        let m2p = |mfn: u64| g.hv.platform.m2p()[mfn as usize].load(Relaxed);
        assert_eq!([m2p(got[1]), m2p(got[1] + 1)], [20, 21]);
        assert_eq!(g.domain.pages.current(), 6);
        assert_eq!(g.memory(XENMEM_INCREASE_RESERVATION, &reservation(&g, &[0; 4], 0, 0)), 4);
        assert_eq!(g.domain.pages.current(), 10);
        check(&g, &BTreeSet::new());
        assert_eq!(g.memory(XENMEM_DECREASE_RESERVATION, &reservation(&g, &got, 1, 0)), 3);
        assert_eq!(g.domain.pages.current(), 4);
        assert_eq!(m2p(got[0]), u64::MAX);
        assert_eq!(g.memory(XENMEM_DECREASE_RESERVATION, &reservation(&g, &got, 1, 0)), 0, "not twice");
        check(&g, &BTreeSet::new());
    }
}

#[test]
fn limits_are_obeyed() {
    let g = Guest::new(64);
    g.domain.pages.set_max(3);
    assert_eq!(g.memory(XENMEM_POPULATE_PHYSMAP, &reservation(&g, &[1, 2, 3, 4, 5], 0, 0)), 3);
    g.domain.pages.set_max(1000);
    assert_eq!(g.memory(XENMEM_POPULATE_PHYSMAP, &reservation(&g, &[0], 30, 0)), 0, "an absurd order");
    assert_eq!(g.memory(XENMEM_POPULATE_PHYSMAP, &reservation(&g, &[0], 0, 12)), 0, "below 4 KiB");
    assert_eq!(g.memory(XENMEM_POPULATE_PHYSMAP, &reservation(&g, &[9], 0, 16)), 1);
    assert!(list(&g, 1)[0] < 16, "below 64 KiB");
    let all = reservation(&g, &[0; 200], 0, 0);
    let got = g.memory(XENMEM_INCREASE_RESERVATION, &all);
    assert!((1..64).contains(&got), "as many as there are: {got}");
    assert_eq!(g.hv.frames.free_count(), g.hv.frames.floor());
    check(&g, &BTreeSet::new());
}

#[test]
fn exchange_gives_contiguous_and_low_memory() {
    for preempt in [0, 1] {
        let g = Guest::new(128);
        let pages: Vec<u64> = (0..8).map(|_| g.page().0).collect();
        g.hv.platform.preempt_every.store(preempt, Relaxed);
        let in_ = reservation(&g, &pages, 0, 0);
        let out_at = g.put_at(0x3000, &[100u64, 104]);
        let out = XenMemoryReservation {
            extent_start: out_at.into(),
            nr_extents: 2,
            extent_order: 2,
            mem_flags: xenmemf_address_bits(18),
            domid: DOMID_SELF,
            ..Default::default()
        };
        let argument = XenMemoryExchange { in_, out, nr_exchanged: 0 };
        assert_eq!(g.memory(XENMEM_EXCHANGE, &argument), 0);
        let back: XenMemoryExchange = GuestPtr::new(FLAT_BASE + 0x1000).read(&g.hv).unwrap();
        assert_eq!(back.nr_exchanged, 8);
        let got: [u64; 2] = GuestPtr::new(out_at).read(&g.hv).unwrap();
        for (mfn, pfn) in got.into_iter().zip([100, 104]) {
            assert!(mfn % 4 == 0 && mfn + 4 <= 64, "{mfn:#x}");
            assert_eq!(g.hv.platform.m2p()[mfn as usize + 3].load(Relaxed), pfn + 3);
        }
        assert_eq!(g.domain.pages.current(), 8);
        check(&g, &BTreeSet::new());
    }
}

#[test]
fn a_failed_exchange_changes_nothing() {
    let g = Guest::new(64);
    let pages: Vec<Mfn> = (0..4).map(|_| g.page()).collect();
    let table = g.chain(pages[3]);
    assert_eq!(g.pin(4, table[0]), 0);
    let numbers: Vec<u64> = pages.iter().map(|m| m.0).collect();
    let in_ = reservation(&g, &numbers, 0, 0);
    let out_at = g.put_at(0x3000, &[100u64]);
    let out = XenMemoryReservation {
        extent_start: out_at.into(),
        nr_extents: 1,
        extent_order: 2,
        domid: DOMID_SELF,
        ..Default::default()
    };
    let exchange = |in_, out| g.memory(XENMEM_EXCHANGE, &XenMemoryExchange { in_, out, nr_exchanged: 0 });
    assert_eq!(exchange(in_, out), errno(Errno::EINVAL), "the last page is mapped");
    assert!(pages.iter().all(|m| g.hv.page_owner(*m) == Some(g.domain.id)));
    check(&g, &BTreeSet::from([table[0].0]));
    let bigger = XenMemoryReservation { nr_extents: 2, ..out };
    assert_eq!(exchange(in_, bigger), errno(Errno::EINVAL), "not the same amount");
    let huge = XenMemoryReservation { extent_order: 40, ..out };
    assert_eq!(exchange(in_, huge), errno(Errno::EPERM));
    assert_eq!(g.unpin(table[0]), 0);
    let impossible = XenMemoryReservation { mem_flags: xenmemf_address_bits(13), ..out };
    assert_eq!(exchange(in_, impossible), errno(Errno::ENOMEM), "no four frames below 8 KiB");
    check(&g, &BTreeSet::new());
    assert_eq!(exchange(in_, out), 0);
    check(&g, &BTreeSet::new());
}

#[test]
fn questions_about_amounts() {
    let g = Guest::new(64);
    g.page();
    let about = |domid| XenMemoryDomain { domid };
    assert_eq!(g.memory(XENMEM_CURRENT_RESERVATION, &about(DOMID_SELF)), 1);
    assert_eq!(g.memory(XENMEM_MAXIMUM_RESERVATION, &about(0)), 64);
    assert_eq!(g.memory(XENMEM_CURRENT_RESERVATION, &about(9)), errno(Errno::ESRCH));
    assert_eq!(g.memory(XENMEM_MAXIMUM_RAM_PAGE, &0u64), 64);
    assert_eq!(g.memory(999 & 0x3f, &0u64), errno(Errno::ENOSYS));
    let unprivileged = crate::mock::domain(&g.hv, 2, 1, 8);
    let cx = crate::hypercall::Cx { hv: &g.hv, domain: &unprivileged, vcpu: &unprivileged.vcpus[0] };
    let at = g.put_at(0x1000, &[about(0)]);
    let args = [u64::from(XENMEM_CURRENT_RESERVATION), at, 0, 0, 0, 0];
    let answer = crate::hypercall::memory::memory_op(cx, &args, &mut Default::default());
    assert_eq!(
        answer,
        crate::hypercall::Outcome::Done(errno(Errno::EPERM)),
        "about others the privileged may ask"
    );
}

#[test]
fn the_physmap_is_not_for_pv() {
    let g = Guest::new(16);
    assert_eq!(g.memory(XENMEM_ADD_TO_PHYSMAP, &XenAddToPhysmap::default()), errno(Errno::EACCES));
    let foreign = XenAddToPhysmap { space: XENMAPSPACE_GMFN_FOREIGN, ..Default::default() };
    assert_eq!(g.memory(XENMEM_ADD_TO_PHYSMAP, &foreign), errno(Errno::ENOSYS));
    assert_eq!(g.memory(XENMEM_ADD_TO_PHYSMAP_BATCH, &XenAddToPhysmapBatch::default()), errno(Errno::EACCES));
    assert_eq!(g.memory(XENMEM_REMOVE_FROM_PHYSMAP, &XenRemoveFromPhysmap::default()), errno(Errno::EACCES));
    assert_eq!(g.memory(XENMEM_GET_POD_TARGET, &XenPodTarget::default()), errno(Errno::EINVAL));
    assert_eq!(g.memory(XENMEM_MACHPHYS_COMPAT_MFN_LIST, &0u64), errno(Errno::EOPNOTSUPP));
}

#[test]
fn memory_maps() {
    let g = Guest::new(64);
    g.domain.permissions.write().iomem.insert(64, 0xfedff);
    g.domain.permissions.write().iomem.insert(0xfee01, u64::MAX);
    let buffer = FLAT_BASE + 0x4000;
    let ask = |cmd, nr_entries| {
        g.memory(cmd, &XenMemoryMap { nr_entries, buffer: buffer.into(), ..Default::default() })
    };
    assert_eq!(ask(XENMEM_MACHINE_MEMORY_MAP, 1), errno(Errno::EINVAL), "too short");
    assert_eq!(ask(XENMEM_MACHINE_MEMORY_MAP, 8), 0);
    let answer: XenMemoryMap = GuestPtr::new(FLAT_BASE + 0x1000).read(&g.hv).unwrap();
    assert_eq!(answer.nr_entries, 2);
    let entry = |i| GuestPtr::<E820Entry>::new(buffer).read_at(&g.hv, i).unwrap();
    assert_eq!(entry(0), E820Entry { addr: 0, size: 64 << 12, type_: E820_RAM });
    assert_eq!(
        entry(1),
        E820Entry { addr: 0xfee0_0000, size: 0x1000, type_: E820_RESERVED },
        "what it may not map"
    );
    assert_eq!(ask(XENMEM_MEMORY_MAP, 8), errno(Errno::ENOSYS), "none was set");
    let map = XenMemoryMap { nr_entries: 1, buffer: buffer.into(), ..Default::default() };
    let set = XenForeignMemoryMap { domid: DOMID_SELF, map, ..Default::default() };
    assert_eq!(g.memory(XENMEM_SET_MEMORY_MAP, &set), 0);
    assert_eq!(ask(XENMEM_MEMORY_MAP, 8), 0);
    let answer: XenMemoryMap = GuestPtr::new(FLAT_BASE + 0x1000).read(&g.hv).unwrap();
    assert_eq!(answer.nr_entries, 1);
}

#[test]
fn where_the_m2p_is() {
    let g = Guest::new(64);
    assert_eq!(g.memory(XENMEM_MACHPHYS_MAPPING, &XenMachphysMapping::default()), 0);
    let mapping: XenMachphysMapping = GuestPtr::new(FLAT_BASE + 0x1000).read(&g.hv).unwrap();
    assert_eq!((mapping.v_start, mapping.max_mfn), (0xffff_8000_0000_0000, 63));
}

#[test]
fn the_hypervisors_frames_show_no_words() {
    let g = Guest::new(64);
    let (own, page) = (g.hv.alloc_frames(0).unwrap(), g.page());
    let device = g.hv.alloc_frames(0).unwrap();
    g.hv.frame(device).unwrap().set_io();
    let words_of = |mfn| {
        let look = std::panic::AssertUnwindSafe(|| g.hv.platform.frame_words(mfn).len());
        std::panic::catch_unwind(look).is_ok()
    };
    assert!(words_of(page) && words_of(g.domain.shared_info));
    for (mfn, what) in [(own, "its own"), (device, "not RAM"), (Mfn(1 << 30), "beyond RAM")] {
        assert!(!words_of(mfn), "{what}");
    }
    g.hv.frames.free(own, 0);
    assert!(words_of(own), "nobody's");
}

#[test]
fn a_walk_ends_where_the_hypervisors_tables_begin() {
    let g = Guest::new(64);
    let [l4, ..] = g.running(g.page());
    assert_eq!(g.update(l4, 300, entry(l4, pte::PRESENT)), 0);
    let own = g.hv.alloc_frames(0).unwrap();
    // As if one of the hypervisor's slots named one of its tables, with entries in it.
    g.hv.platform.words(GuestFrame::held(own)).iter().for_each(|word| word.store(entry(l4, RW), Relaxed));
    g.poke(l4, 262, entry(own, RW));
    let at = |indices: [u64; 4]| {
        GuestVirt(0xffff << 48 | indices.iter().fold(0, |va, index| va << 9 | index) << 12)
    };
    assert!(g.hv.walk(l4, at([300, 300, 300, 262])).is_some(), "an entry of the guest's own table");
    for indices in [[300, 262, 0, 0], [300, 300, 262, 0]] {
        assert_eq!(g.hv.walk(l4, at(indices)), None, "{indices:?}");
    }
}

/// Looks at frames between two looks for other work, for 16 frames that are cleared, named and given away or taken.
const STRETCH: u64 = 120;

/// Makes a hypercall with other work at each look until it ends; answers what it says, how often it was made, and the longest time
/// between two looks.
fn patiently(g: &Guest, cmd: u32, argument: &[u8]) -> (i64, usize, u64) {
    g.hv.platform.preempt_every.store(1, Relaxed);
    g.hv.platform.longest_stretch();
    let mut args = [u64::from(cmd), g.put_at(0x1000, argument), 0, 0, 0, 0];
    let mut answer = None;
    let rounds = (0..super::PATIENCE)
        .take_while(|_| match memory_op(g.cx(), &args, &mut Regs::default()) {
            Outcome::Again(next) => {
                args = next;
                true
            }
            outcome => {
                answer = Some(outcome);
                false
            }
        })
        .count();
    g.hv.platform.preempt_every.store(0, Relaxed);
    let Some(Outcome::Done(value)) = answer else { panic!("{answer:?} after {rounds} rounds") };
    (value, rounds, g.hv.platform.longest_stretch())
}

/// Makes all free frames dirty, as a domain that ends leaves them.
fn dirty_all(g: &Guest) {
    let other = crate::mock::domain(&g.hv, 1, 1, u64::MAX >> 1);
    while let Ok(mfn) = g.hv.alloc_domain_page(&other, 0) {
        g.poke(mfn, 7, 0x5ec7e7);
    }
    while g.hv.destroy_domain(&other).is_err() {}
    assert!(g.hv.frames.any_dirty());
}

/// 1024 frames at a time for a guest, and 2^18 for a privileged one, were cleared and given away in one go.
#[test]
fn large_extents_come_and_go_in_pieces() {
    const ORDER: u32 = 10;
    let g = Guest::new(4096);
    dirty_all(&g);
    let populate = reservation(&g, &[0x10_0000], ORDER, 0);
    let (done, rounds, stretch) = patiently(&g, XENMEM_POPULATE_PHYSMAP, populate.as_bytes());
    assert_eq!((done, rounds), (1, 63), "1024 frames, 16 in a piece");
    assert!(stretch < STRETCH, "{stretch} steps");
    let first = list(&g, 1)[0];
    for n in [0, 15, 16, 1023] {
        assert_eq!(g.hv.platform.m2p()[(first + n) as usize].load(Relaxed), 0x10_0000 + n);
        assert_eq!(g.peek(Mfn(first + n), 7), 0, "somebody else's secret");
    }
    assert_eq!(g.domain.pages.current(), 1024);
    check(&g, &BTreeSet::new());
    let increase = reservation(&g, &[0], ORDER, 0);
    assert_eq!(patiently(&g, XENMEM_INCREASE_RESERVATION, increase.as_bytes()).0, 1);
    let second = list(&g, 1)[0];
    let decrease = reservation(&g, &[first, second], ORDER, 0);
    let (done, rounds, stretch) = patiently(&g, XENMEM_DECREASE_RESERVATION, decrease.as_bytes());
    assert_eq!((done, g.domain.pages.current()), (2, 0));
    assert!(rounds >= 126 && stretch < STRETCH, "{rounds} rounds, {stretch} steps");
    check(&g, &BTreeSet::new());
    // A progress that no continuation has is an extent that there is not.
    let forged = u64::from(XENMEM_DECREASE_RESERVATION) | 1 << (32 + ORDER);
    let at = g.put_at(0x1000, decrease.as_bytes());
    let answer = memory_op(g.cx(), &[forged, at, 0, 0, 0, 0], &mut Regs::default());
    assert_eq!(answer, Outcome::Done((forged >> MEMOP_EXTENT_SHIFT) as i64));
}

/// A guest that does not go on with what it began keeps what it has got, and its domain leaves nothing behind.
#[test]
fn what_is_begun_and_left_goes_back() {
    for leave_at in [1, 3, 30, 62] {
        let g = Guest::new(4096);
        dirty_all(&g);
        let free = g.hv.frames.free_count();
        g.hv.platform.preempt_every.store(1, Relaxed);
        for pfn in 0..5u64 {
            let populate = reservation(&g, &[pfn << 20], 9, 0);
            let mut args =
                [u64::from(XENMEM_POPULATE_PHYSMAP), g.put_at(0x1000, populate.as_bytes()), 0, 0, 0, 0];
            for _ in 0..leave_at.min(31) {
                match memory_op(g.cx(), &args, &mut Regs::default()) {
                    Outcome::Again(next) => args = next,
                    outcome => panic!("{outcome:?}"),
                }
            }
        }
        // Two vCPUs can have one each under way.
        assert_eq!(g.domain.pages.growing.lock().len(), 2);
        let begun = 16 * leave_at.min(31) as u64;
        assert_eq!(g.domain.pages.current(), 3 * begun + 2 * 512);
        assert_eq!(g.hv.frames.free_count(), free - 3 * begun - 2 * 512);
        while g.hv.release_domain_pages(&g.domain).is_err() {}
        assert_eq!((g.domain.pages.current(), g.hv.frames.free_count()), (0, free));
        check(&g, &BTreeSet::new());
    }
}

/// The caller's extents whose frames are listed at an address.
fn extents(at: u64, nr_extents: u64, extent_order: u32) -> XenMemoryReservation {
    XenMemoryReservation {
        extent_start: at.into(),
        nr_extents,
        extent_order,
        domid: DOMID_SELF,
        ..Default::default()
    }
}

/// An exchange of 512 frames for one block, and back: in pieces, each of which can be the last.
#[test]
fn large_exchanges_are_made_in_pieces() {
    let g = Guest::new(4096);
    let pages: Vec<u64> = (0..512).map(|_| g.page().0).collect();
    dirty_all(&g);
    let (many, one) = (g.put_at(0x4000, &pages), g.put_at(0x3000, &[0x7000u64]));
    let (small, large) = (extents(many, 512, 0), extents(one, 1, 9));
    for (in_, out) in [(small, large), (large, small)] {
        let exchange = XenMemoryExchange { in_, out, nr_exchanged: 0 };
        let (done, rounds, stretch) = patiently(&g, XENMEM_EXCHANGE, exchange.as_bytes());
        assert_eq!(done, 0);
        assert!(rounds > 90 && stretch < STRETCH, "{rounds} rounds, {stretch} steps");
        assert_eq!(g.domain.pages.current(), 512);
        assert!(g.domain.pages.trades.lock().is_empty());
        check(&g, &BTreeSet::new());
    }
    let got: [u64; 512] = GuestPtr::new(many).read(&g.hv).unwrap();
    assert!(got.iter().all(|mfn| g.peek(Mfn(*mfn), 7) == 0), "somebody else's secret");
    // One that fails half-way changes nothing.
    let free = g.hv.frames.free_count();
    g.hv.get_page(g.domain.id, Mfn(got[300])).expect("its own");
    let exchange = XenMemoryExchange { in_: small, out: large, nr_exchanged: 0 };
    assert_eq!(patiently(&g, XENMEM_EXCHANGE, exchange.as_bytes()).0, errno(Errno::EINVAL));
    g.hv.put_page(Mfn(got[300]));
    assert_eq!((g.domain.pages.current(), g.hv.frames.free_count()), (512, free));
    check(&g, &BTreeSet::new());
    // One that is left before or behind the point of no return is brought to an end by the teardown, and by others before.
    for leave_at in [1, 20, 50, 80] {
        let g = Guest::new(4096);
        let pages: Vec<u64> = (0..512).map(|_| g.page().0).collect();
        dirty_all(&g);
        let free = g.hv.frames.free_count();
        let (many, one) = (g.put_at(0x4000, &pages), g.put_at(0x3000, &[0x7000u64]));
        let exchange =
            XenMemoryExchange { in_: extents(many, 512, 0), out: extents(one, 1, 9), nr_exchanged: 0 };
        g.hv.platform.preempt_every.store(1, Relaxed);
        for at in [0x1000, 0x1100, 0x1200] {
            let args = [u64::from(XENMEM_EXCHANGE), g.put_at(at, exchange.as_bytes()), 0, 0, 0, 0];
            let again = |_: &i32| matches!(memory_op(g.cx(), &args, &mut Regs::default()), Outcome::Again(_));
            assert!((0..leave_at).take_while(again).count() > 0);
        }
        assert!(!g.domain.pages.trades.lock().is_empty());
        while g.hv.release_domain_pages(&g.domain).is_err() {}
        assert_eq!(
            (g.domain.pages.current(), g.hv.frames.free_count()),
            (0, free + 512),
            "left at {leave_at}"
        );
        check(&g, &BTreeSet::new());
    }
}

/// The guest changes the request between two rounds of an exchange: what was begun is not gone on with in another shape, which took more
/// frames than were given, and all free memory at worst.
#[test]
fn an_exchange_whose_request_changes_is_another_one() {
    const SHAPES: [(u32, u32); 7] = [(5, 0), (0, 5), (0, 0), (2, 0), (5, 5), (1, 2), (4, 0)];
    const FRAMES: u64 = 32;
    let mut resumed = 0;
    for (from, to) in SHAPES.iter().flat_map(|from| SHAPES.iter().map(move |to| (from, to))) {
        // Of the largest chunk 64 rounds get the new frames, two take the old ones, and 32 give.
        for rounds in [1, 3, 6, 9, 14, 40, 65, 66, 80] {
            let g = Guest::new(512);
            let first = g.hv.alloc_domain_pages(&g.domain, 5, 0).expect("32 frames").0;
            dirty_all(&g);
            let free = g.hv.frames.free_count();
            let request = |(in_order, out_order): (u32, u32)| {
                let old: Vec<u64> = (0..FRAMES >> in_order).map(|n| first + (n << in_order)).collect();
                let new: Vec<u64> = (0..FRAMES >> out_order).map(|n| 0x7000 + (n << out_order)).collect();
                let extents = |at: u64, order: u32| XenMemoryReservation {
                    extent_start: at.into(),
                    nr_extents: FRAMES >> order,
                    extent_order: order,
                    domid: DOMID_SELF,
                    ..Default::default()
                };
                let (old, new) = (g.put_at(0x3000, &old), g.put_at(0x4000, &new));
                let (in_, out) = (extents(old, in_order), extents(new, out_order));
                g.put_at(0x1000, XenMemoryExchange { in_, out, nr_exchanged: 0 }.as_bytes())
            };
            g.hv.platform.preempt_every.store(1, Relaxed);
            let call =
                |at| memory_op(g.cx(), &[u64::from(XENMEM_EXCHANGE), at, 0, 0, 0, 0], &mut Regs::default());
            let at = request(*from);
            let begun = (0..rounds).take_while(|_| matches!(call(at), Outcome::Again(_))).count();
            resumed += usize::from(begun == rounds);
            let at = request(*to);
            let what = std::format!("{from:?} then {to:?} after {rounds} rounds");
            let mut least = free;
            let ended = (0..super::PATIENCE).map(|_| call(at)).find(|outcome| {
                least = least.min(g.hv.frames.free_count());
                !matches!(outcome, Outcome::Again(_))
            });
            // The one that was left and the one that is made, no more; and there is memory for both.
            assert!(least + 2 * FRAMES >= free, "{what}: {least} of {free} frames were left");
            // Frames that the first one took are not the domain's to give when the second one comes to them.
            let expected = [0, -22].map(Outcome::Done);
            assert!(ended.is_some_and(|ended| expected.contains(&ended)), "{what}: {ended:?}");
            while g.hv.release_domain_pages(&g.domain).is_err() {}
            let left = (g.domain.pages.current(), g.hv.frames.free_count());
            assert_eq!(left, (0, free + FRAMES), "{what}");
        }
    }
    assert!(resumed > 30, "{resumed}");
}

/// The new frames of exchanges that were left counted for no domain: eight times 2 MiB of a domain of any size. One at a time may be
/// beyond what the domain may have.
#[test]
fn exchanges_that_are_left_are_accounted() {
    for (room, beyond) in [(0, 512), (600, 512), (512 * 9, 512)] {
        let g = Guest::with_vcpus(12_000, 8);
        let pages: Vec<u64> = (0..512).map(|_| g.page().0).collect();
        let (many, one) = (g.put_at(0x4000, &pages), g.put_at(0x3000, &[0x7000u64]));
        let exchange =
            XenMemoryExchange { in_: extents(many, 512, 0), out: extents(one, 1, 9), nr_exchanged: 0 };
        g.domain.pages.set_max(512 + room);
        let free = g.hv.frames.free_count();
        g.hv.platform.preempt_every.store(1, Relaxed);
        for request in 0..8 {
            let at = g.put_at(0x1000 + request * 0x100, exchange.as_bytes());
            let args = [u64::from(XENMEM_EXCHANGE), at, 0, 0, 0, 0];
            for _ in 0..3 {
                assert!(matches!(memory_op(g.cx(), &args, &mut Regs::default()), Outcome::Again(_)));
            }
            let held = free - g.hv.frames.free_count();
            assert!(held <= room + beyond, "{held} frames with {room} to have");
            assert!(g.domain.pages.current() + beyond >= 512 + held, "{held} frames are not accounted");
            assert!(g.domain.pages.current() <= 512 + room);
        }
        // The last one comes to its end.
        let args = [u64::from(XENMEM_EXCHANGE), g.put_at(0x1700, exchange.as_bytes()), 0, 0, 0, 0];
        let call = |_| memory_op(g.cx(), &args, &mut Regs::default());
        let ended = (0..super::PATIENCE).map(call).find(|outcome| !matches!(outcome, Outcome::Again(_)));
        assert_eq!(ended, Some(Outcome::Done(0)));
        while g.hv.release_domain_pages(&g.domain).is_err() {}
        assert_eq!((g.domain.pages.current(), g.hv.frames.free_count()), (0, free + 512));
        check(&g, &BTreeSet::new());
    }
}
