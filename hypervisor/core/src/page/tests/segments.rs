//! Descriptors, GDT, LDT.

use super::model::check;
use super::{Guest, entry, errno};
use crate::page::{PageType, check_descriptor, pte};
use std::collections::BTreeSet;
use std::vec::Vec;
use xen_abi::errno::Errno;
use xen_abi::xen::MMUEXT_SET_LDT;

/// A flat ring-0 code segment of 64 bits, and the same for ring 3.
const CODE_0: u64 = 0x00af_9b00_0000_ffff;
const CODE_3: u64 = 0x00af_fb00_0000_ffff;
/// A present TSS, LDT and interrupt gate.
const SYSTEM: [u64; 3] = [0x0000_8900_0000_0067, 0x0000_8200_0000_0067, 0x0000_8e00_0008_0000];

#[test]
fn descriptors_are_ring_3_or_nothing() {
    assert_eq!(check_descriptor(0), Some(0));
    assert_eq!(check_descriptor(CODE_3), Some(CODE_3));
    assert_eq!(check_descriptor(CODE_0), Some(CODE_3), "ring 0 is made ring 3");
    for system in SYSTEM {
        assert_eq!(check_descriptor(system), None, "{system:#x}");
        assert_eq!(check_descriptor(system & !(1 << 47)), Some(system & !(1 << 47)), "not present: harmless");
    }
    let gate = 0x0000_ec00_0033_1000;
    assert_eq!(check_descriptor(gate), Some(0x0000_8c00_0033_1000), "every use of a call gate faults");
    assert_eq!(check_descriptor(0x0000_ec00_e018_1000), None, "into a segment of the hypervisor's");
    assert_eq!(
        check_descriptor(0x0000_ec00_e033_1000),
        Some(0x0000_8c00_e033_1000),
        "into one that it lends"
    );
    assert_eq!(check_descriptor(0x0000_ec01_0033_1000), None, "reserved bits");
}

#[test]
fn a_gdt_is_checked_and_kept() {
    let g = Guest::new(64);
    let [first, second, bad]: [_; 3] = g.pages();
    g.poke(first, 2, CODE_0);
    g.poke(bad, 511, SYSTEM[0]);
    assert_eq!(g.set_gdt(&[first, second], 1024), 0);
    assert_eq!(g.peek(first, 2), CODE_3);
    assert_eq!(g.pin(1, first), errno(Errno::EINVAL), "descriptor pages are no tables");
    check(&g, &BTreeSet::new());
    assert_eq!(g.set_gdt(&[bad], 512), errno(Errno::EINVAL));
    assert_eq!(g.set_gdt(&[first; 15], 14 * 512 + 1), errno(Errno::EINVAL), "the hypervisor's part");
    check(&g, &BTreeSet::new());
    assert_eq!(g.set_gdt(&[second], 100), 0);
    assert_eq!(g.hv.frame(first).unwrap().type_word().live(), None);
    check(&g, &BTreeSet::new());
    assert_eq!(g.set_gdt(&[], 0), 0);
    check(&g, &BTreeSet::new());
}

#[test]
fn an_ldt_is_found_by_its_address() {
    let g = Guest::new(64);
    let tables = g.running(g.page());
    let ldt: Vec<_> = (0..2).map(|_| g.page()).collect();
    for (i, mfn) in ldt.iter().enumerate() {
        assert_eq!(g.map_va(0x4000 + i as u64 * 0x1000, entry(*mfn, pte::PRESENT), 0), 0);
    }
    assert_eq!(g.ext(MMUEXT_SET_LDT, 0x4000, 1030), 0, "two whole pages and one that is not mapped");
    assert_eq!(g.hv.ldt_frames(&g.domain, &g.domain.vcpus[0])[..3], [ldt[0], ldt[1], crate::ids::Mfn(0)]);
    assert_eq!(g.hv.frame(ldt[0]).unwrap().type_word().live(), Some(PageType::SegDesc));
    check(&g, &BTreeSet::from([tables[0].0]));
    assert_eq!(g.map_va(0x9000, entry(ldt[0], super::RW), 0), errno(Errno::EBUSY), "nobody writes to it");
    assert_eq!(g.ext(MMUEXT_SET_LDT, 0x4001, 1), errno(Errno::EINVAL), "unaligned");
    assert_eq!(g.ext(MMUEXT_SET_LDT, 0x4000, 8193), errno(Errno::EINVAL));
    assert_eq!(g.ext(MMUEXT_SET_LDT, 0xffff_8000_0000_0000, 1), errno(Errno::EINVAL));
    assert_eq!(g.ext(MMUEXT_SET_LDT, 0, 0), 0);
    check(&g, &BTreeSet::from([tables[0].0]));
}

#[test]
fn single_descriptors() {
    let g = Guest::new(64);
    let [gdt, data] = g.pages();
    assert_eq!(g.set_gdt(&[gdt], 512), 0);
    let write = |mfn: crate::ids::Mfn, offset: u64, value: u64| {
        g.call(crate::hypercall::descriptor::update_descriptor, [mfn.addr().0 + offset, value, 0, 0, 0, 0])
    };
    assert_eq!(write(gdt, 16, CODE_0), 0);
    assert_eq!(g.peek(gdt, 2), CODE_3);
    assert_eq!(write(data, 8, CODE_3), 0, "any page that may be written will do");
    assert_eq!(write(gdt, 17, CODE_3), errno(Errno::EINVAL));
    assert_eq!(write(gdt, 16, SYSTEM[1]), errno(Errno::EINVAL));
    let [l4, ..] = g.chain(g.page());
    assert_eq!(g.pin(4, l4), 0);
    assert_eq!(write(l4, 16, CODE_3), errno(Errno::EINVAL), "a page table will not");
    check(&g, &BTreeSet::from([l4.0]));
}
