//! What a guest writes past the caches is judged as memory has it, and goes with no frame to its next owner.

use super::{Guest, RW, entry, errno};
use crate::domain::Domain;
use crate::grant::GrantError;
use crate::hypercall::mmu;
use crate::ids::{DomId, GrantRef, Mfn};
use crate::mock::{MockPlatform, domain};
use crate::page::{PageType, PtWrite, pte};
use crate::platform::Platform;
use std::sync::Arc;
use std::vec::Vec;
use xen_abi::errno::Errno;
use xen_abi::memory::*;
use xen_abi::xen::*;

/// Where the guests here map pages.
const VA: u64 = 0x1000;
/// An entry that no guest may have: frame 0 has no owner.
const EVIL: u64 = RW | pte::USER;

/// A guest that drives a device, its L4 to L1 tables, and a page of zeros.
fn driver() -> (Guest, [Mfn; 4], Mfn) {
    let g = Guest::new(96);
    g.domain.permissions.write().ioports.insert(0x60, 0x60);
    let tables = g.running(g.page());
    let page = g.page();
    (g, tables, page)
}

/// The guest writes past the caches by the mapping at `VA`, and gives the mapping up.
fn write_and_unmap(g: &Guest, page: Mfn, value: u64) {
    assert_eq!(g.hv.platform.access(VA, Some(value)), Some((page, 0)));
    assert!(g.hv.platform.is_behind(page), "the caches know nothing of it");
    assert_eq!(g.map_va(VA, 0, UVMF_INVLPG), 0);
}

/// As [`write_and_unmap`] with what no table may hold; then the page is to be a table.
fn refused_as_table(g: &Guest, page: Mfn) {
    write_and_unmap(g, page, EVIL);
    assert_eq!(g.pin(1, page), errno(Errno::EBUSY), "what memory holds is judged");
    assert_eq!(g.peek(page, 0), EVIL);
    assert!(!g.hv.platform.is_behind(page));
}

#[test]
fn tables_are_judged_as_memory_has_them() {
    let other = || {
        let (g, tables, page) = driver();
        (g, tables[3], page)
    };
    for bits in (1..8).map(|n| (n & 3) << 3 | (n & 4) << 5) {
        let (g, _, page) = other();
        assert_eq!(g.map_va(VA, entry(page, RW | bits), 0), 0);
        refused_as_table(&g, page);
    }
    // Each way to get such a mapping.
    let uncached = |page| entry(page, RW | pte::PCD);
    let (g, l1, page) = other();
    assert_eq!(g.update(l1, 1, uncached(page)), 0);
    refused_as_table(&g, page);
    let (g, l1, page) = other();
    assert_eq!(g.map_va(VA, entry(page, RW), 0), 0);
    assert_eq!(g.updates(&[(l1, 1, uncached(page))], MMU_PT_UPDATE_PRESERVE_AD), 0, "in its place");
    refused_as_table(&g, page);
    let (g, l1, page) = other();
    assert_eq!(g.map_va(0x3000, entry(l1, pte::PRESENT), 0), 0);
    assert_eq!(g.emulate(0x3008, None, uncached(page), 8), PtWrite::Done);
    refused_as_table(&g, page);
    let (g, l1, page) = other();
    assert_eq!(g.map_va(0x3000, entry(l1, pte::PRESENT), 0), 0);
    assert_eq!(g.map_va(VA, entry(page, RW), 0), 0);
    assert_eq!(g.emulate(0x3008, None, (g.peek(l1, 1) | pte::PAT) & 0xff, 1), PtWrite::Done, "one byte");
    refused_as_table(&g, page);
}

#[test]
fn entries_of_whole_tables_count() {
    let (g, [_, _, l2, _], page) = driver();
    let l1 = g.page();
    g.poke(l1, 1, entry(page, RW | pte::PCD));
    assert_eq!(g.update(l2, 1, entry(l1, RW)), 0);
    assert_eq!(g.hv.platform.access(1 << 21 | VA, Some(EVIL)), Some((page, 0)));
    assert_eq!(g.update(l2, 1, 0), 0, "the mapping goes with its table");
    assert_eq!(g.pin(1, page), errno(Errno::EBUSY));
    assert_eq!(g.peek(page, 0), EVIL);
}

#[test]
fn what_becomes_writable_again_is_not_forgotten() {
    let (g, _, page) = driver();
    assert_eq!(g.map_va(VA, entry(page, RW | pte::PCD), 0), 0);
    write_and_unmap(&g, page, EVIL);
    for flags in [RW, pte::PRESENT, RW | pte::PWT, RW] {
        assert_eq!(g.map_va(VA, entry(page, flags), 0), 0);
        assert_eq!(g.map_va(VA, 0, UVMF_INVLPG), 0);
    }
    assert_eq!(g.pin(1, page), errno(Errno::EBUSY));
}

#[test]
fn good_tables_and_descriptors_are_taken_once_written_back() {
    let (g, _, page) = driver();
    assert_eq!(g.map_va(VA, entry(page, RW | pte::PCD), 0), 0);
    write_and_unmap(&g, page, entry(page, pte::PRESENT));
    assert_eq!(g.pin(1, page), 0);
    g.hv.platform.evict();
    assert_eq!(g.peek(page, 0) & !(pte::USER | pte::GUEST_KERNEL), entry(page, pte::PRESENT));
    assert_eq!(g.unpin(page), 0);
    let flushes = || g.hv.platform.record.lock().unwrap().line_flushes.clone();
    assert_eq!(flushes(), [(page, 0, 4096)]);
    assert_eq!(g.pin(2, g.page()), 0);
    assert_eq!(g.pin(1, page), 0);
    assert_eq!(flushes().len(), 1, "coherent by now");

    let (g, _, page) = driver();
    assert_eq!(g.map_va(VA, entry(page, RW | pte::PCD), 0), 0);
    // A present 64-bit TSS.
    write_and_unmap(&g, page, 0x89 << 40);
    assert_eq!(g.set_gdt(&[page], 512), errno(Errno::EINVAL));
    assert_eq!(g.hv.platform.record.lock().unwrap().line_flushes.len(), 1);
}

/// Only the reference that the privileged domain's mapping holds keeps another domain's page what it is.
#[test]
fn pages_of_other_domains_count() {
    let (g, ..) = driver();
    let theirs = domain(&g.hv, 1, 1, 8);
    let page = g.hv.alloc_domain_page(&theirs, 0).expect("a frame");
    g.poke(page, 0, 0);
    let map =
        |val| g.call(mmu::update_va_mapping_otherdomain, [VA, val, UVMF_INVLPG, theirs.id.0.into(), 0, 0]);
    assert_eq!(map(entry(page, RW | pte::PCD)), 0);
    assert_eq!(g.hv.platform.access(VA, Some(EVIL)), Some((page, 0)));
    assert_eq!(map(0), 0);
    assert!(g.hv.pin_table(&theirs, page, PageType::L1).is_err());
    assert_eq!(g.peek(page, 0), EVIL);
}

/// A page with a word that only memory has, which nothing maps any more.
fn written(g: &Guest) -> Mfn {
    let page = g.page();
    assert_eq!(g.map_va(VA, entry(page, RW | pte::PCD), 0), 0);
    assert_eq!(g.hv.platform.access(VA, Some(7)), Some((page, 0)));
    assert_eq!(g.map_va(VA, 0, 0), 0);
    assert!(g.hv.platform.is_behind(page));
    page
}

/// The page left its domain: no CPU can write to it any more, and memory holds what the caches show.
fn is_settled(g: &Guest, page: Mfn) {
    assert!(!g.hv.platform.is_behind(page));
    assert_eq!(g.hv.platform.access(VA, Some(8)), None, "a TLB still knows it");
    assert!(!g.hv.frame(page).unwrap().is_incoherent());
}

fn one_page(g: &Guest, list: u64, page: u64) -> XenMemoryReservation {
    let extent_start = g.put_at(list, &[page]).into();
    XenMemoryReservation { extent_start, nr_extents: 1, domid: DOMID_SELF, ..Default::default() }
}

#[test]
fn frames_leave_their_domain_written_back() {
    let (g, ..) = driver();
    let page = written(&g);
    assert_eq!(g.memory(XENMEM_DECREASE_RESERVATION, &one_page(&g, 0x2000, page.0)), 1);
    is_settled(&g, page);

    let (g, ..) = driver();
    let page = written(&g);
    let (in_, out) = (one_page(&g, 0x2000, page.0), one_page(&g, 0x2008, 7));
    assert_eq!(g.memory(XENMEM_EXCHANGE, &XenMemoryExchange { in_, out, nr_exchanged: 0 }), 0);
    is_settled(&g, page);

    let (g, ..) = driver();
    let page = written(&g);
    let given = g.hv.transfer_page(&g.domain, page, DomId(9), GrantRef(8));
    assert_eq!(given, Err(GrantError::BadDomain), "lost all the same");
    is_settled(&g, page);
}

/// Domain 1 drives a device, and is destroyed: its pages are written back one by one.
#[test]
fn frames_of_a_dying_domain_are_written_back_in_steps() {
    const PAGES: usize = 400;
    let g = Guest::new(512);
    let driver: Arc<Domain<MockPlatform>> = domain(&g.hv, 1, 1, 512);
    let pages: Vec<_> = (0..PAGES).map(|_| g.hv.alloc_domain_page(&driver, 0).expect("a frame")).collect();
    for page in &pages {
        let info = g.hv.frame(*page).expect("a frame");
        assert_eq!(g.hv.get_page_and_type(&driver, *page, PageType::Writable), Ok(()));
        info.mark_incoherent();
        g.hv.put_page_and_type(*page);
        assert!(info.is_incoherent());
    }
    g.hv.pause_domain(&driver).expect("it runs");
    g.hv.platform.longest_stretch();
    while g.hv.destroy_domain(&driver).is_err() {}
    let longest = g.hv.platform.longest_stretch();
    assert!(longest < 1200, "{longest} steps without a look for other work");
    let flushed = g.hv.platform.record.lock().unwrap().line_flushes.len();
    assert_eq!(flushed, PAGES);
    assert_eq!(
        g.hv.platform.frame_table().iter().filter(|info| info.count().owner() == driver.id).count(),
        0
    );
}
