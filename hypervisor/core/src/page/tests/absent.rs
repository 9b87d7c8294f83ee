//! Not-present entries on a processor with L1TF.

use super::{Guest, RW, entry};
use crate::cpu_policy::Vendor;
use crate::cpu_policy::side_channels::Facts;
use crate::domain::Domain;
use crate::mock::{MockPlatform, domain};
use crate::page::{PageError, PageType, Pages, Write, pte};
use crate::platform::Platform;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

const OPEN: Facts = Facts {
    vendor: Vendor::Intel,
    family: 6,
    model: 0x3c,
    stepping: 3,
    address_bits: 39,
    leaf7_edx: 0,
    ext8_ebx: 0,
    arch_capabilities: 0,
};
/// Names memory, as a kernel without a mitigation keeps what it swapped out.
const UNSAFE: u64 = 0x12_3000;
const SAFE: u64 = 1 << 40 | 0x12_3000;

fn judged(g: &Guest) -> Arc<Domain<MockPlatform>> {
    *g.hv.platform.safe_entries.lock().unwrap() = Some(OPEN.safe_entries(1 << 30));
    domain(&g.hv, 1, 1, 32)
}

#[test]
fn an_entry_that_is_written_ends_the_domain() {
    for (value, ends) in [(0, false), (SAFE, false), (UNSAFE, true), (UNSAFE | pte::RW, true)] {
        let g = Guest::new(64);
        let tables = judged(&g);
        let l1 = g.hv.alloc_domain_page(&tables, 0).unwrap();
        g.hv.pin_table(&tables, l1, PageType::L1).unwrap();
        assert!(g.hv.lock_table_of(&tables, l1).is_ok_and(|t| t == Some(PageType::L1)));
        let slot = &g.hv.platform.frame_words(l1)[3];
        let changed = g.hv.update_l1(&tables, &Pages::Of(&tables), slot, value, Write::Plain);
        g.hv.unlock_table(l1);
        assert_eq!(changed.is_err(), ends, "{value:#x}");
        assert_eq!(slot.load(Relaxed), if ends { 0 } else { value });
        assert!(!tables.stopped.load(Relaxed), "not while the table is locked");
        g.hv.end_convicted();
        assert_eq!(tables.stopped.load(Relaxed), ends, "{value:#x}");
    }
}

#[test]
fn a_table_that_is_checked_ends_the_domain() {
    for (t, value, ends) in [
        (PageType::L1, SAFE, false),
        (PageType::L1, UNSAFE, true),
        (PageType::L2, SAFE, false),
        (PageType::L2, SAFE | pte::PSE, true),
        (PageType::L3, UNSAFE, true),
        (PageType::L4, UNSAFE, true),
    ] {
        let g = Guest::new(64);
        let tables = judged(&g);
        let table = g.hv.alloc_domain_page(&tables, 0).unwrap();
        g.poke(table, 511, value);
        let pinned = g.hv.pin_table(&tables, table, t);
        assert_eq!(pinned, if ends { Err(PageError::BadEntry) } else { Ok(()) }, "{t:?} {value:#x}");
        g.hv.end_convicted();
        assert_eq!(tables.stopped.load(Relaxed), ends, "{t:?} {value:#x}");
    }
}

#[test]
fn others_may_keep_what_they_like_there() {
    let g = Guest::new(64);
    let [l4, ..] = g.running(g.page());
    let l1 = g.page();
    g.poke(l1, 5, UNSAFE);
    assert_eq!(g.pin(1, l1), 0);
    assert_eq!(g.update(l1, 6, UNSAFE), 0);
    assert_eq!(g.update(l1, 7, entry(g.page(), RW)), 0);
    assert_eq!(g.update(l4, 5, UNSAFE), 0);
    g.hv.end_convicted();
    assert!(!g.domain.stopped.load(Relaxed));
}
