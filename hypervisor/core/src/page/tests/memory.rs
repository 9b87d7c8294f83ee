//! `memory_op`.

use super::model::check;
use super::{Guest, RW, entry, errno};
use crate::guest_ptr::GuestPtr;
use crate::ids::{GuestVirt, Mfn};
use crate::mock::FLAT_BASE;
use crate::page::pte;
use crate::platform::{GuestFrame, Platform};
use core::sync::atomic::Ordering::Relaxed;
use std::collections::BTreeSet;
use std::vec::Vec;
use xen_abi::errno::Errno;
use xen_abi::memory::*;
use xen_abi::xen::DOMID_SELF;

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
    assert_eq!(g.hv.frames.free_count(), 0);
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
    let (own, page) = (g.hv.frames.alloc(0).unwrap(), g.page());
    let device = g.hv.frames.alloc(0).unwrap();
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
    let own = g.hv.frames.alloc(0).unwrap();
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
