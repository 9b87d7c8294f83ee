//! Linear entries of level 4: which addresses may be read, and when entries may be made.

use super::{Guest, RW, entry, errno};
use crate::domain::VcpuFlags;
use crate::ids::GuestVirt;
use crate::mock::domain;
use crate::page::{LinearRoots, PageError, pte};
use core::sync::atomic::Ordering::Relaxed;
use std::collections::BTreeMap;
use std::vec::Vec;
use xen_abi::errno::Errno;

fn address(indices: [usize; 4]) -> GuestVirt {
    let low = indices.iter().fold(0, |va, index| va << 9 | *index as u64) << 12;
    GuestVirt((low << 16).cast_signed().wrapping_shr(16).cast_unsigned())
}

/// What a table of the model is: roots hold the hypervisor's slots and are named by linear entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Root(usize),
    Own(u8),
    Hypervisors,
}

/// Follows an address as the CPU does, without a look at USER; answers whether it comes by one of the hypervisor's tables.
fn walks_into_hypervisor(roots: &[BTreeMap<usize, usize>], root: usize, va: GuestVirt) -> bool {
    let mut table = Table::Root(root);
    for level in (1..=4).rev() {
        let index = pte::index(va.0, level);
        table = match table {
            Table::Root(_) if pte::HYPERVISOR_SLOTS.contains(&index) => Table::Hypervisors,
            Table::Root(root) => match roots[root].get(&index) {
                Some(named) => Table::Root(*named),
                None => Table::Own(3),
            },
            Table::Own(level) => Table::Own(level.saturating_sub(1)),
            Table::Hypervisors => Table::Hypervisors,
        };
    }
    table == Table::Hypervisors
}

#[test]
fn exactly_the_addresses_that_walk_into_the_hypervisor_are_refused() {
    const LINEAR: [usize; 3] = [300, 5, 511];
    const OTHERS: [usize; 7] = [0, 255, 256, 262, 271, 272, 301];
    // Two roots that name themselves, one that names another as well; every index is linear in some.
    let roots: Vec<BTreeMap<usize, usize>> = [
        BTreeMap::from([(300, 0), (5, 0), (511, 0)]),
        BTreeMap::from([(300, 1), (5, 2), (511, 1)]),
        BTreeMap::from([(300, 2), (5, 2), (511, 2)]),
    ]
    .into();
    let set = LinearRoots::new();
    LINEAR.iter().for_each(|index| set.watch(*index));
    let all: Vec<usize> = LINEAR.iter().chain(&OTHERS).copied().collect();
    let mut refused = 0;
    for l4 in all.iter().filter(|index| !pte::HYPERVISOR_SLOTS.contains(index)) {
        for (l3, l2) in all.iter().flat_map(|l3| all.iter().map(move |l2| (l3, l2))) {
            for l1 in &all {
                let va = address([*l4, *l3, *l2, *l1]);
                let expected = (0..roots.len()).any(|root| walks_into_hypervisor(&roots, root, va));
                assert_eq!(set.may_read(va, 8), !expected, "{va:?}");
                refused += usize::from(expected);
            }
        }
    }
    assert!(refused > 1000, "{refused}");
}

#[test]
fn every_page_of_a_range_counts() {
    let set = LinearRoots::new();
    let (before, inside) = (address([300, 255, 511, 511]), address([300, 256, 0, 0]));
    assert!(set.may_read(inside, 8), "nothing is linear");
    set.watch(300);
    assert!(set.may_read(before, 4096));
    assert!(!set.may_read(before, 4097));
    assert!(!set.may_read(GuestVirt(before.0 + 4095), 2));
    assert!(!set.may_read(inside, 1) && set.may_read(inside, 0));
    assert!(!set.may_read(before, 3 << 20) && set.may_read(address([301, 256, 0, 0]), 3 << 20));
}

#[test]
fn a_linear_entry_waits_until_every_cpu_takes_care() {
    let g = Guest::new(64);
    let [l4, ..] = g.running(g.page());
    let secret = address([300, 262, 0, 0]);
    assert!(g.domain.linear_roots.may_read(secret, 8));
    g.hv.platform.grace_rounds.store(3, Relaxed);
    let checked = || g.domain.vcpus.iter().all(|vcpu| vcpu.pv.has_flags(VcpuFlags::CHECKS_READS));
    let mut tries = 0;
    assert!(!checked());
    while let Err(error) = g.hv.allow_linear_root(&g.domain, 300) {
        assert_eq!(error, PageError::Restart);
        assert!(!g.domain.linear_roots.may_read(secret, 8), "watched from the first attempt on");
        assert!(checked());
        tries += 1;
    }
    assert_eq!(tries, 4, "one to begin, and as many as the grace period takes");
    assert_eq!(g.update(l4, 300, entry(l4, pte::PRESENT)), 0);
    // An index that somebody else waits for is no other's.
    assert_eq!(g.hv.allow_linear_root(&g.domain, 301), Err(PageError::Restart));
    assert_eq!(g.hv.allow_linear_root(&g.domain, 302), Err(PageError::Restart));
    assert_eq!(g.hv.allow_linear_root(&g.domain, 301), Ok(()));
    assert_eq!(g.hv.allow_linear_root(&g.domain, 302), Ok(()));
    assert_eq!(g.update(l4, 300, 0), 0);
    assert!(!g.domain.linear_roots.may_read(secret, 8), "a TLB may remember the entry");
    let other = domain(&g.hv, 1, 1, 8);
    assert!(other.linear_roots.may_read(secret, 8), "each domain has its own");
}

#[test]
fn only_level_4_leads_to_the_hypervisor() {
    let g = Guest::new(64);
    let [_, l3, l2, _] = g.running(g.page());
    assert_eq!(g.update(l3, 300, entry(l3, pte::PRESENT)), 0);
    assert_eq!(g.update(l2, 300, entry(l2, pte::PRESENT)), 0);
    assert!(g.domain.linear_roots.may_read(address([300, 256, 0, 0]), 1));
}

#[test]
fn a_table_that_is_checked_with_a_linear_entry_waits_as_well() {
    let g = Guest::new(64);
    let tables = g.chain(g.page());
    g.poke(tables[0], 400, entry(tables[0], pte::PRESENT));
    g.hv.platform.grace_rounds.store(2, Relaxed);
    assert_eq!(g.pin(4, tables[0]), 0);
    assert!(!g.domain.linear_roots.may_read(address([400, 256, 0, 0]), 1));
    assert_eq!(g.unpin(tables[0]), 0);
}

#[test]
fn the_option_refuses_them_at_every_level() {
    let mut g = Guest::new(64);
    g.hv.options.pv_linear_pt = false;
    let [l4, l3, l2, _] = g.running(g.page());
    for table in [l4, l3, l2] {
        assert_eq!(g.update(table, 300, entry(table, pte::PRESENT)), errno(Errno::EINVAL));
    }
    let second = g.chain(g.page())[0];
    assert_eq!(g.pin(4, second), 0);
    assert_eq!(g.update(second, 300, entry(l4, pte::PRESENT)), errno(Errno::EINVAL));
    let third = g.chain(g.page())[0];
    g.poke(third, 300, entry(third, pte::PRESENT));
    assert_eq!(g.pin(4, third), errno(Errno::EINVAL), "nor when a table is checked");
    assert_eq!(g.update(l4, 301, entry(l3, RW)), 0, "ordinary entries are none");
    assert!(g.domain.linear_roots.may_read(address([300, 256, 0, 0]), 1));
}

#[test]
fn an_isolated_domain_has_none_in_its_roots() {
    let g = Guest::new(64);
    g.hv.platform.isolated.store(true, Relaxed);
    let [l4, l3, l2, _] = g.running(g.page());
    assert_eq!(g.update(l4, 300, entry(l4, pte::PRESENT)), errno(Errno::EINVAL));
    let second = g.chain(g.page())[0];
    g.poke(second, 300, entry(l4, pte::PRESENT));
    assert_eq!(g.pin(4, second), errno(Errno::EINVAL), "nor when a table is checked");
    for table in [l3, l2] {
        assert_eq!(g.update(table, 300, entry(table, pte::PRESENT)), 0, "further down they are harmless");
    }
    assert!(g.domain.linear_roots.may_read(address([300, 256, 0, 0]), 1));
}
