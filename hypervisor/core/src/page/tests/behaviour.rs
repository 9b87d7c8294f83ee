//! One test per rule.

use super::model::check;
use super::{Guest, RW, entry, errno};
use crate::cpumask::CpuMask;
use crate::ids::{CpuId, DomId, GuestVirt, MachineAddr, Mfn};
use crate::mock::FLAT_BASE;
use crate::page::{EntryPlace, PageError, PageType, PtWrite, Type, pte};
use crate::platform::{Flush, Platform};
use core::sync::atomic::Ordering::Relaxed;
use std::collections::BTreeSet;
use xen_abi::errno::Errno;
use xen_abi::xen::*;

/// An address that nothing is mapped at.
const NOWHERE: u64 = 0x7000_0000_0000;

fn pins(mfns: &[Mfn]) -> BTreeSet<u64> {
    mfns.iter().map(|m| m.0).collect()
}

fn live(g: &Guest, mfn: Mfn) -> Option<PageType> {
    g.hv.frame(mfn).unwrap().type_word().live()
}

#[test]
fn a_pinned_chain_is_typed_and_adjusted() {
    let g = Guest::new(64);
    let data = g.page();
    let [l4, l3, l2, l1] = g.chain(data);
    assert_eq!(g.pin(4, l4), 0);
    assert_eq!(
        [l4, l3, l2, l1, data].map(|m| live(&g, m)),
        [
            Some(PageType::L4),
            Some(PageType::L3),
            Some(PageType::L2),
            Some(PageType::L1),
            Some(PageType::Writable)
        ]
    );
    assert_eq!(g.peek(l4, 0), entry(l3, RW | pte::USER | pte::ACCESSED));
    assert_eq!(g.peek(l3, 0), entry(l2, RW | pte::USER));
    assert_eq!(g.peek(l1, 0), entry(data, RW | pte::USER | pte::GUEST_KERNEL), "a kernel mapping");
    assert_eq!(g.peek(l4, pte::M2P_SLOT), 0, "no kernel runs on it");
    for (slot, n) in pte::HYPERVISOR_SLOTS.zip(0..).skip(1) {
        assert_eq!(g.peek(l4, slot), g.hv.platform.hypervisor_l4_slots()[n], "slot {slot}");
    }
    check(&g, &pins(&[l4]));
    assert_eq!(g.unpin(l4), 0);
    assert_eq!([l4, l3, l2, l1, data].map(|m| live(&g, m)), [None; 5]);
    check(&g, &pins(&[]));
}

#[test]
fn pinning_answers_as_xen_does() {
    let g = Guest::new(64);
    let [l4, l3, ..] = g.chain(g.page());
    assert_eq!(g.pin(4, l4), 0);
    assert_eq!(g.pin(4, l4), errno(Errno::EINVAL), "pinned already");
    assert_eq!(g.pin(1, l3), errno(Errno::EINVAL), "it is an L3 table");
    assert_eq!(g.unpin(l3), errno(Errno::EINVAL), "not pinned");
    assert_eq!(g.pin(1, Mfn(1 << 30)), errno(Errno::EINVAL), "no such frame");
    let xen = g.hv.alloc_frames(0).unwrap();
    assert_eq!(g.pin(1, xen), errno(Errno::EINVAL), "the hypervisor's");
    assert_eq!(g.ext(MMUEXT_MARK_SUPER, 0, 0), errno(Errno::EOPNOTSUPP));
    assert_eq!(g.ext(14, 0, 0), errno(Errno::ENOSYS));
    assert_eq!(g.ext(99, 0, 0), errno(Errno::ENOSYS));
    check(&g, &pins(&[l4]));
}

#[test]
fn a_table_is_never_writable() {
    let g = Guest::new(64);
    let data = g.page();
    let [l4, _, _, l1] = g.running(data);
    assert_eq!(g.map_va(0x1000, entry(l1, RW), 0), errno(Errno::EBUSY));
    assert_eq!(g.map_va(0x1000, entry(l4, RW), 0), errno(Errno::EBUSY));
    assert_eq!(g.map_va(0x1000, entry(l4, pte::PRESENT), 0), 0, "read-only is fine");
    assert_eq!(g.pin(1, data), errno(Errno::EINVAL), "what is writable does not become a table");
    assert_eq!(g.map_va(0, 0, 0), 0);
    assert_eq!(g.pin(1, data), 0, "without its mapping it does");
    check(&g, &pins(&[l4, data]));
}

#[test]
fn others_frames_cannot_be_mapped() {
    let g = Guest::new(64);
    let [l4, ..] = g.running(g.page());
    let other = crate::mock::domain(&g.hv, 1, 1, 8);
    let theirs = g.hv.alloc_domain_page(&other, 0).unwrap();
    let xens = g.hv.alloc_frames(0).unwrap();
    for mfn in [theirs, xens] {
        assert_eq!(g.map_va(0x1000, entry(mfn, pte::PRESENT), 0), errno(Errno::EBUSY));
        assert_eq!(g.map_va(0x1000, entry(mfn, RW), 0), errno(Errno::EBUSY));
        assert_eq!(g.update(mfn, 0, 0), errno(Errno::EINVAL), "nor written as a table");
    }
    let map_theirs = |entry, id: u64| {
        g.call(crate::hypercall::mmu::update_va_mapping_otherdomain, [0x1000, entry, 0, id, 0, 0])
    };
    assert_eq!(map_theirs(entry(theirs, RW), 1), 0, "except by the privileged domain, on purpose");
    let before = g.flushes();
    assert_eq!(map_theirs(0, 1), 0);
    assert_eq!(
        g.flushes(),
        before + 1,
        "the owner's CPUs know nothing of this mapping, so it is flushed at once"
    );
    assert_eq!(map_theirs(entry(theirs, RW), 1), 0);
    assert_eq!(map_theirs(entry(theirs, RW), 0), errno(Errno::ESRCH), "naming itself as a foreign domain");
    assert_eq!(map_theirs(entry(theirs, RW), 7), errno(Errno::ESRCH));
    assert_eq!(g.map_va(0x1000, 0, 0), 0);
    assert_eq!(live(&g, theirs), None);
    check(&g, &pins(&[l4]));
}

#[test]
fn device_memory_needs_permission_and_is_uncached() {
    let g = Guest::new(64);
    let [.., l1] = g.running(g.page());
    let device = Mfn(0xfee00);
    assert_eq!(g.map_va(0x1000, entry(device, RW), 0), errno(Errno::EPERM));
    assert_eq!(g.map_va(0x1000, entry(Mfn((1 << 40) - 1), RW), 0), errno(Errno::EINVAL), "an invalid mfn");
    g.domain.permissions.write().iomem.insert(device.0, device.0 + 1);
    assert_eq!(g.map_va(0x1000, entry(device, RW), 0), 0);
    let stored = RW | pte::USER | pte::GUEST_KERNEL | pte::PCD | pte::PWT;
    assert_eq!(g.peek(l1, 1), entry(device, stored));
    assert_eq!(g.map_va(0x1000, 0, 0), 0);
    g.hv.platform.reserved_mmio.lock().unwrap().push(device);
    assert_eq!(g.map_va(0x1000, entry(device, RW | pte::PCD), 0), 0);
    assert_eq!(g.peek(l1, 1) & pte::RW, 0, "the hypervisor's own devices can only be looked at");
    let through_io = [0x2000, entry(device.add(1), RW | pte::PCD), 0, u64::from(DOMID_IO), 0, 0];
    assert_eq!(g.call(crate::hypercall::mmu::update_va_mapping_otherdomain, through_io), 0);
    let ram_as_io = [0x3000, entry(g.page(), RW), 0, u64::from(DOMID_IO), 0, 0];
    assert_eq!(g.call(crate::hypercall::mmu::update_va_mapping_otherdomain, ram_as_io), errno(Errno::EBUSY));
}

#[test]
fn memory_types_are_for_those_who_drive_devices() {
    let g = Guest::new(64);
    g.running(g.page());
    let page = g.page();
    assert_eq!(g.map_va(0x1000, entry(page, RW | pte::PCD), 0), errno(Errno::EINVAL));
    assert_eq!(g.ext(MMUEXT_FLUSH_CACHE, 0, 0), errno(Errno::EACCES));
    g.domain.permissions.write().ioports.insert(0x60, 0x60);
    assert_eq!(g.map_va(0x1000, entry(page, RW | pte::PCD), 0), 0);
    assert_eq!(g.ext(MMUEXT_FLUSH_CACHE_GLOBAL, 0, 0), 0);
    assert_eq!(g.hv.platform.record.lock().unwrap().cache_flushes.len(), 1);
    let shared = g.hv.alloc_frames(0).unwrap();
    g.hv.share_xen_page(&g.domain, shared);
    assert_eq!(
        g.map_va(0x2000, entry(shared, RW | pte::PCD), 0),
        errno(Errno::EBUSY),
        "the hypervisor writes it, too"
    );
    assert_eq!(g.map_va(0x2000, entry(shared, RW), 0), 0);
    assert!(!g.hv.unshare_xen_page(shared), "still mapped");
    assert_eq!(g.map_va(0x2000, 0, 0), 0);
    assert!(g.hv.unshare_xen_page(shared));
}

#[test]
fn upper_entries_have_neither_superpages_nor_memory_types() {
    let g = Guest::new(64);
    let [_, _, l2, l1] = g.running(g.page());
    for flags in [pte::PSE, pte::PCD, pte::PWT, pte::GLOBAL] {
        assert_eq!(g.update(l2, 1, entry(l1, RW | flags)), errno(Errno::EINVAL), "{flags:#x}");
    }
    let fresh = g.chain(g.page());
    g.poke(fresh[2], 7, entry(fresh[3], RW | pte::PSE));
    assert_eq!(g.pin(4, fresh[0]), errno(Errno::EINVAL));
    assert_eq!(fresh.map(|m| live(&g, m)), [None; 4], "nothing is left of it");
}

#[test]
fn the_hypervisors_slots_are_not_the_guests() {
    let g = Guest::new(64);
    let [l4, l3, ..] = g.running(g.page());
    for slot in [256, 260, 271] {
        assert_eq!(g.update(l4, slot, entry(l3, RW)), errno(Errno::EINVAL));
    }
    assert_eq!(g.update(l4, 272, entry(l3, RW)), 0);
    let other = g.page();
    g.poke(other, 256, entry(l4, RW));
    g.poke(other, 0, entry(l3, RW));
    assert_eq!(g.pin(4, other), 0, "what was in the slots does not matter");
    assert_eq!(g.peek(other, 257), g.hv.platform.hypervisor_l4_slots()[1]);
    assert_eq!(g.peek(other, pte::M2P_SLOT), 0, "user code must not read machine frame numbers");
    assert_eq!(g.peek(l4, pte::M2P_SLOT), g.hv.platform.hypervisor_l4_slots()[0], "a kernel may");
    assert_eq!(g.map_va(0xffff_8000_0000_0000, 0, 0), errno(Errno::EINVAL));
    assert_eq!(g.map_va(1 << 47, 0, 0), errno(Errno::EINVAL), "not canonical");
    check(&g, &pins(&[l4, other]));
}

#[test]
fn linear_entries() {
    let g = Guest::new(64);
    let [l4, ..] = g.running(g.page());
    assert_eq!(g.update(l4, 300, entry(l4, RW)), errno(Errno::EINVAL), "a writable view of its own table");
    assert_eq!(g.update(l4, 300, entry(l4, pte::PRESENT)), 0);
    let second = g.chain(g.page())[0];
    assert_eq!(g.pin(4, second), 0);
    assert_eq!(g.update(second, 300, entry(l4, pte::PRESENT)), 0, "one names the other");
    assert_eq!(g.update(l4, 301, entry(second, pte::PRESENT)), errno(Errno::EINVAL), "but not in a circle");
    check(&g, &pins(&[l4, second]));
    assert_eq!(g.unpin(second), 0);
    assert_eq!(live(&g, second), None);
    check(&g, &pins(&[l4]));
}

#[test]
fn updates_keep_what_the_hardware_set() {
    let g = Guest::new(64);
    let data = g.page();
    let [.., l1] = g.running(data);
    g.poke(l1, 0, g.peek(l1, 0) | pte::ACCESSED | pte::DIRTY);
    assert_eq!(g.updates(&[(l1, 0, entry(data, pte::PRESENT))], MMU_PT_UPDATE_PRESERVE_AD), 0);
    assert_eq!(
        g.peek(l1, 0),
        entry(data, pte::PRESENT | pte::USER | pte::GUEST_KERNEL | pte::ACCESSED | pte::DIRTY)
    );
    assert_eq!(g.update(l1, 0, entry(data, pte::PRESENT)), 0);
    assert_eq!(g.peek(l1, 0) & (pte::ACCESSED | pte::DIRTY), 0);
}

#[test]
fn batches_stop_where_they_fail_and_say_how_far_they_got() {
    let g = Guest::new(64);
    let page = g.page();
    let [.., l1] = g.running(page);
    let list: std::vec::Vec<_> = (0..20)
        .map(|i| MmuUpdate { ptr: l1.addr().0 + 8 * i, val: entry(if i == 13 { l1 } else { page }, RW) })
        .collect();
    let (at, pdone) = (g.put(&list), FLAT_BASE + 0x800);
    let args = [at, 20, pdone, super::SELF, 0, 0];
    assert_eq!(g.call(crate::hypercall::mmu::mmu_update, args), errno(Errno::EBUSY));
    let done: u32 = crate::guest_ptr::GuestPtr::new(pdone).read(&g.hv).unwrap();
    assert_eq!(done, 13);
    assert_ne!(g.peek(l1, 12), 0);
    assert_eq!(g.peek(l1, 13), 0);
    // Every check is a preemption: the number must still be right.
    g.hv.platform.preempt_every.store(1, Relaxed);
    assert_eq!(g.call(crate::hypercall::mmu::mmu_update, args), errno(Errno::EBUSY));
    let done: u32 = crate::guest_ptr::GuestPtr::new(pdone).read(&g.hv).unwrap();
    assert_eq!(done, 13);
    assert_eq!(
        g.call(crate::hypercall::mmu::mmu_update, [NOWHERE, 1, 0, super::SELF, 0, 0]),
        errno(Errno::EFAULT)
    );
    assert_eq!(g.updates(&[(l1, 0, 0)], 5), errno(Errno::ENOSYS));
}

#[test]
fn machine_to_physical_entries() {
    let g = Guest::new(64);
    let page = g.page();
    let set = |mfn: Mfn| g.updates(&[(mfn, 0, 0x77)], MMU_MACHPHYS_UPDATE);
    assert_eq!(set(page), 0);
    assert_eq!(g.hv.platform.m2p()[page.0 as usize].load(Relaxed), 0x77);
    assert_eq!(set(g.hv.alloc_frames(0).unwrap()), errno(Errno::EINVAL));
}

#[test]
fn base_pointers_hold_their_tables() {
    let g = Guest::new(64);
    let (first, second) = (g.chain(g.page()), g.chain(g.page()));
    assert_eq!(
        g.ext(MMUEXT_NEW_BASEPTR, first[0].0, 0),
        0,
        "not pinned: the vCPU's reference is the only one"
    );
    assert_eq!(g.ext(MMUEXT_NEW_USER_BASEPTR, second[0].0, 0), 0);
    check(&g, &pins(&[]));
    assert_eq!(g.ext(MMUEXT_NEW_BASEPTR, second[0].0, 0), 0);
    assert_eq!(first.map(|m| live(&g, m)), [None; 4], "the old one is given up");
    assert_eq!(g.ext(MMUEXT_NEW_USER_BASEPTR, 0, 0), 0);
    assert_eq!(live(&g, second[0]), Some(PageType::L4));
    assert_eq!(g.ext(MMUEXT_NEW_BASEPTR, g.hv.alloc_frames(0).unwrap().0, 0), errno(Errno::EINVAL));
    check(&g, &pins(&[]));
    g.hv.drop_vcpu_tables(&g.domain, &g.domain.vcpus[0]);
    g.finish_doomed();
    assert_eq!(second.map(|m| live(&g, m)), [None; 4]);
    check(&g, &pins(&[]));
}

#[test]
fn flushes_reach_whom_they_name() {
    let g = Guest::new(64);
    let page = g.page();
    g.running(page);
    g.hv.platform.cpus.store(4, Relaxed);
    g.domain.dirty_cpus.insert(CpuId(2));
    g.domain.vcpus[1].cpu.store(2, Relaxed);
    let last = || g.hv.platform.record.lock().unwrap().flushes.last().copied();
    let (mut both, bitmap) = (CpuMask::of(CpuId(0)), g.put_at(0x900, &[2u64]));
    both.insert(CpuId(2));
    let va = GuestVirt(0x5000);
    for (cmd, arg1, arg2, expected) in [
        (MMUEXT_TLB_FLUSH_LOCAL, 0, 0, (CpuMask::of(CpuId(0)), Flush::All)),
        (MMUEXT_TLB_FLUSH_ALL, 0, 0, (both, Flush::All)),
        (MMUEXT_TLB_FLUSH_MULTI, 0, bitmap, (CpuMask::of(CpuId(2)), Flush::All)),
        (MMUEXT_INVLPG_LOCAL, va.0, 0, (CpuMask::of(CpuId(0)), Flush::Page(va))),
        (MMUEXT_INVLPG_ALL, va.0, 0, (both, Flush::Page(va))),
        (MMUEXT_INVLPG_MULTI, va.0, bitmap, (CpuMask::of(CpuId(2)), Flush::Page(va))),
    ] {
        assert_eq!(g.ext(cmd, arg1, arg2), 0);
        assert_eq!(last(), Some(expected), "{cmd}");
    }
    assert_eq!(g.ext(MMUEXT_TLB_FLUSH_MULTI, 0, NOWHERE), errno(Errno::EINVAL), "no bitmap there");
    for (flags, expected) in [
        (UVMF_TLB_FLUSH | UVMF_LOCAL, (CpuMask::of(CpuId(0)), Flush::All)),
        (UVMF_TLB_FLUSH | UVMF_ALL, (both, Flush::All)),
        (UVMF_INVLPG | UVMF_ALL, (both, Flush::Page(va))),
        (UVMF_INVLPG | bitmap, (CpuMask::of(CpuId(2)), Flush::Page(va))),
    ] {
        assert_eq!(g.map_va(va.0, entry(page, RW), flags), 0);
        assert_eq!(last(), Some(expected), "{flags:#x}");
    }
    assert_eq!(g.map_va(va.0, 0, UVMF_INVLPG | NOWHERE), errno(Errno::EFAULT));
}

#[test]
fn a_frame_is_flushed_out_before_it_becomes_a_table() {
    let g = Guest::new(64);
    let page = g.page();
    g.running(page);
    let before = g.flushes();
    assert_eq!(g.pin(1, g.page()), 0, "never mapped: nothing to flush");
    assert_eq!(g.flushes(), before);
    assert_eq!(g.map_va(0, 0, 0), 0);
    assert_eq!(g.pin(1, page), 0);
    assert_eq!(g.flushes(), before + 1, "a TLB may still have it writable");
    assert_eq!(g.unpin(page), 0);
    assert_eq!(g.ext(MMUEXT_TLB_FLUSH_ALL, 0, 0), 0);
    let before = g.flushes();
    assert_eq!(g.map_va(0, entry(page, RW), 0), 0);
    assert_eq!(g.flushes(), before, "the guest's own flush was enough");
}

#[test]
fn a_freed_frame_is_flushed_out_before_somebody_else_gets_it() {
    let g = Guest::new(64);
    let page = g.page();
    g.running(page);
    assert_eq!(g.map_va(0, 0, 0), 0);
    let before = g.flushes();
    g.hv.remove_domain_page(&g.domain, page).unwrap();
    let other = crate::mock::domain(&g.hv, 1, 1, 8);
    g.hv.alloc_domain_page(&other, 0).unwrap();
    assert_eq!(g.flushes(), before + 1);
    g.hv.alloc_domain_page(&other, 0).unwrap();
    assert_eq!(g.flushes(), before + 1, "once");
}

#[test]
fn guest_instructions_that_write_to_tables() {
    let g = Guest::new(64);
    let data = g.page();
    let [.., l1] = g.running(data);
    assert_eq!(g.map_va(0x1000, entry(l1, pte::PRESENT), 0), 0);
    let at = |index: u64| 0x1000 + index * 8;
    assert_eq!(g.emulate(at(2), None, entry(data, RW), 8), PtWrite::Done);
    assert_eq!(g.peek(l1, 2), entry(data, RW | pte::USER | pte::GUEST_KERNEL));
    assert_eq!(g.emulate(at(2), Some(1), 0, 8), PtWrite::Differs(g.peek(l1, 2)));
    assert_eq!(g.emulate(at(2), Some(g.peek(l1, 2)), 0, 8), PtWrite::Done);
    assert_eq!(g.peek(l1, 2), 0);
    assert_eq!(g.emulate(at(3), None, entry(l1, RW), 8), PtWrite::Refused);
    assert_eq!(g.emulate(at(3) + 4, None, 0x1234_5678, 4), PtWrite::Done, "the upper half of an empty entry");
    assert_eq!(g.peek(l1, 3), 0x1234_5678 << 32);
    assert_eq!(g.emulate(at(3) + 2, None, 1, 4), PtWrite::NotATable, "across its natural alignment");
    assert_eq!(g.emulate(0, None, 0, 8), PtWrite::NotATable, "a writable page");
    assert_eq!(g.emulate(0x9000, None, 0, 8), PtWrite::NotATable, "nothing there");
    assert_eq!(g.map_va(0x2000, entry(g.page(), pte::PRESENT), 0), 0);
    assert_eq!(g.emulate(0x2000, None, 0, 8), PtWrite::NotATable, "no table");
}

#[test]
fn whole_pages_are_cleared_and_copied() {
    let g = Guest::new(64);
    let [.., l1] = g.running(g.page());
    let (from, to) = (g.page(), g.page());
    g.poke(from, 511, 77);
    assert_eq!(g.ext(MMUEXT_COPY_PAGE, to.0, from.0), 0);
    assert_eq!(g.peek(to, 511), 77);
    assert_eq!(g.ext(MMUEXT_CLEAR_PAGE, to.0, 0), 0);
    assert_eq!(g.peek(to, 511), 0);
    assert_eq!(g.ext(MMUEXT_CLEAR_PAGE, l1.0, 0), errno(Errno::EINVAL));
    assert_eq!(g.ext(MMUEXT_COPY_PAGE, to.0, Mfn::INVALID.0), errno(Errno::EINVAL));
}

#[test]
fn partial_tables_are_carried_on_or_given_up() {
    let g = Guest::new(64);
    let l4s: [Mfn; 2] = [g.chain(g.page())[0], g.chain(g.page())[0]];
    let third = g.chain(g.page());
    for (slot, chain) in [(1, l4s[0]), (2, l4s[1])] {
        g.poke(third[0], slot, g.peek(chain, 0));
    }
    g.hv.platform.preempt_every.store(1, Relaxed);
    assert_eq!(g.hv.pin_table(&g.domain, third[0], PageType::L4), Err(PageError::Restart));
    assert!(g.hv.frame(third[0]).unwrap().type_word().has(Type::BUSY | Type::PARTIAL));
    check(&g, &pins(&[]));
    assert_eq!(g.update(third[0], 5, 0), 0, "it is wanted as something else: given up, then written");
    assert_eq!(live(&g, third[1]), None);
    check(&g, &pins(&[]));
    assert_eq!(g.pin(4, third[0]), 0);
    check(&g, &pins(&[third[0]]));
}

#[test]
fn grant_mappings_bring_their_own_references() {
    let g = Guest::new(64);
    let [.., l1] = g.running(g.page());
    let other = crate::mock::domain(&g.hv, 1, 1, 8);
    let granted = g.hv.alloc_domain_page(&other, 0).unwrap();
    let (hv, d, vcpu) = (&g.hv, &g.domain, &g.domain.vcpus[0]);
    hv.get_page_and_type(&other, granted, PageType::Writable).unwrap();
    let place = EntryPlace::Linear(GuestVirt(0x3000));
    assert_eq!(hv.put_foreign_entry(d, vcpu, place, entry(granted, RW)), Ok(()));
    assert_eq!(hv.take_foreign_entry(d, vcpu, place, (granted, false), 0), Err(PageError::CannotMap));
    let same = EntryPlace::Machine(MachineAddr(l1.addr().0 + 3 * 8));
    assert_eq!(hv.take_foreign_entry(d, vcpu, same, (granted, true), 0), Ok(()));
    assert_eq!(g.peek(l1, 3), 0);
    hv.put_page_and_type(granted);
    assert_eq!(live(&g, granted), None);
    let misplaced = EntryPlace::Machine(MachineAddr(l1.addr().0 + 4));
    assert_eq!(hv.put_foreign_entry(d, vcpu, misplaced, 0), Err(PageError::BadEntry));
}

#[test]
fn references_of_absent_frames() {
    let g = Guest::new(8);
    assert_eq!(g.hv.get_page(DomId(0), Mfn(8)), Err(PageError::BadFrame));
    assert_eq!(g.hv.get_page(DomId(0), Mfn(7)), Err(PageError::BadFrame), "free");
    let page = g.page();
    assert_eq!(g.hv.get_page(DomId(1), page), Err(PageError::NotOwner));
    assert_eq!(g.hv.get_page(DomId(0), page), Ok(()));
    g.hv.remove_domain_page(&g.domain, page).unwrap();
    assert_eq!(g.hv.remove_domain_page(&g.domain, page), Ok(()), "again: changes nothing");
    assert_eq!(g.hv.page_owner(page), Some(DomId(0)), "a reference keeps it");
    g.hv.put_page(page);
    assert_eq!(g.hv.page_owner(page), None);
    check(&g, &pins(&[]));
}
