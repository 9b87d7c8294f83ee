//! Entries of one domain that name frames of another, or of none: they touch nothing of those frames, at no moment.

use super::{Guest, RW, entry};
use crate::domain::Domain;
use crate::guest_ptr::GuestPtr;
use crate::hypercall::{Cx, Outcome, mmu};
use crate::ids::Mfn;
use crate::mock::{FLAT_BASE, MockPlatform, domain};
use crate::page::info::Links;
use crate::page::{PageType, Type, pte};
use crate::regs::Regs;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::thread;
use xen_abi::xen::*;

type Handler = fn(Cx<'_, MockPlatform>, &[u64; 6], &mut Regs) -> Outcome;

fn call(g: &Guest, d: &Arc<Domain<MockPlatform>>, handler: Handler, mut args: [u64; 6]) -> i64 {
    let cx = Cx { hv: &g.hv, domain: d, vcpu: &d.vcpus[0] };
    loop {
        match handler(cx, &args, &mut Regs::default()) {
            Outcome::Again(next) => args = next,
            Outcome::Done(value) => return value,
            Outcome::RegsReplaced => unreachable!(),
        }
    }
}

fn update(g: &Guest, d: &Arc<Domain<MockPlatform>>, table: Mfn, index: u64, val: u64) -> i64 {
    let at = FLAT_BASE + 0x1000;
    GuestPtr::new(at).write(&g.hv, &MmuUpdate { ptr: table.addr().0 + index * 8, val }).unwrap();
    call(g, d, mmu::mmu_update, [at, 1, 0, super::SELF, 0, 0])
}

fn ext(g: &Guest, d: &Arc<Domain<MockPlatform>>, cmd: u32, mfn: Mfn) -> i64 {
    let at = FLAT_BASE + 0x2000;
    GuestPtr::new(at).write(&g.hv, &MmuextOp { cmd, _pad0: 0, arg1: mfn.0, arg2: 0 }).unwrap();
    call(g, d, mmu::mmuext_op, [at, 1, 0, super::SELF, 0, 0])
}

fn page_of(g: &Guest, d: &Arc<Domain<MockPlatform>>) -> Mfn {
    let mfn = g.hv.alloc_domain_page(d, 0).unwrap();
    (0..512).for_each(|n| g.poke(mfn, n, 0));
    mfn
}

/// While `attack` goes on in another thread, `round` is made many times; answers how many of them it says went wrong.
fn meanwhile(attack: impl Fn() + Sync, mut round: impl FnMut() -> bool) -> usize {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                attack();
            }
        });
        let wrong = (0..300_000).filter(|_| !round()).count();
        done.store(true, Relaxed);
        wrong
    })
}

/// A domain unpins a table while another one's entries, of the same level, name it: all below the table is free at once.
#[test]
fn linear_entries() {
    let g = Guest::new(200);
    let (a, b) = (domain(&g.hv, 1, 1, 60), domain(&g.hv, 2, 1, 60));
    let own = page_of(&g, &a);
    assert_eq!(ext(&g, &a, MMUEXT_PIN_L2_TABLE, own), 0);
    let (l2, l1) = (page_of(&g, &b), page_of(&g, &b));
    g.poke(l2, 0, entry(l1, RW));
    let attack = || assert!(update(&g, &a, own, 7, entry(l2, pte::PRESENT)) < 0);
    let wrong = meanwhile(attack, || {
        g.hv.get_page_and_type(&b, l2, PageType::L2).unwrap();
        g.hv.put_page_and_type(l2);
        g.hv.work_off_doomed(&b).unwrap();
        let free = g.hv.get_typed(&b, l1, PageType::Writable);
        if free.is_ok() {
            g.hv.put_page_and_type(l1);
        }
        while g.hv.known_frame(l2).type_word().0 & (Type::BUSY | Type::COUNT) != 0 {
            thread::yield_now();
        }
        free.is_ok()
    });
    assert_eq!(wrong, 0, "what was below the table was still in use");
}

/// A domain pins a page that it had mapped, while another one tries to map it.
#[test]
fn writable_entries() {
    let g = Guest::new(200);
    let (a, b) = (domain(&g.hv, 1, 1, 60), domain(&g.hv, 2, 1, 60));
    let own = page_of(&g, &a);
    assert_eq!(ext(&g, &a, MMUEXT_PIN_L1_TABLE, own), 0);
    let page = page_of(&g, &b);
    let attack = || assert!(update(&g, &a, own, 7, entry(page, RW)) < 0);
    let wrong = meanwhile(attack, || {
        g.hv.get_page_and_type(&b, page, PageType::Writable).unwrap();
        g.hv.put_page_and_type(page);
        let table = g.hv.get_typed(&b, page, PageType::L1);
        if table.is_ok() {
            g.hv.put_page_and_type(page);
        }
        table.is_ok()
    });
    assert_eq!(wrong, 0, "a page was still taken for writable");
}

/// The last reference to a table puts it on its owner's list, whatever domain drops it.
#[test]
fn tables_wait_on_their_owners_list() {
    let g = Guest::new(200);
    let (a, b) = (domain(&g.hv, 1, 1, 60), domain(&g.hv, 2, 1, 60));
    let (l2, l1) = (page_of(&g, &b), page_of(&g, &b));
    g.poke(l2, 0, entry(l1, RW));
    g.hv.get_page_and_type(&b, l2, PageType::L2).unwrap();
    g.hv.put_table(&a, l2);
    assert!(!a.pages.has_doomed() && b.pages.has_doomed());
    assert_eq!(g.hv.work_off_doomed(&b), Ok(()));
    assert_eq!(g.hv.get_typed(&b, l1, PageType::Writable), Ok(()));
    g.hv.put_page_and_type(l1);
}

/// A guest names a free frame as its table, on a machine with memory above 2 TiB: no links of the free list look like a type.
#[test]
fn free_frames() {
    for links in [(5, 0), (0, 5), (0x2000_0001, 5), (0x5fff_ffff, 0x7fff_fffe), (0x7fff_ffff, 0x7fff_ffff)] {
        let links = Links { next: links.0, previous: links.1 };
        assert_eq!(Links::from_word(links.word()), links);
        let word = Type(links.word());
        assert_eq!((word.page_type(), word.is_table()), (PageType::None, false), "{links:?}");
        let g = Guest::new(200);
        let a = domain(&g.hv, 1, 1, 60);
        let free = g.hv.known_frame(Mfn(150));
        assert_eq!(free.owner(), None);
        let before = free.type_word();
        free.type_.store(word.0, Relaxed);
        assert!(matches!(free.lock_table(|| true), Ok(None)));
        for t in
            [PageType::L1, PageType::L2, PageType::L3, PageType::L4, PageType::SegDesc, PageType::Writable]
        {
            assert!(!free.try_get_live(t), "{links:?} as {t:?}");
        }
        assert!(update(&g, &a, Mfn(150), 7, 0) < 0);
        assert_eq!(free.type_word().0, word.0);
        free.type_.store(before.0, Relaxed);
    }
}

/// Another domain's table is not locked, not even until its owner is known.
#[test]
fn tables_of_others() {
    let g = Guest::new(200);
    let (a, b) = (domain(&g.hv, 1, 1, 60), domain(&g.hv, 2, 1, 60));
    let table = page_of(&g, &b);
    g.hv.get_page_and_type(&b, table, PageType::L1).unwrap();
    // Locked by another CPU: who waits for the lock asks for other work.
    assert!(matches!(g.hv.known_frame(table).lock_table(|| true), Ok(Some(PageType::L1))));
    g.hv.platform.preempt_every.store(1, Relaxed);
    assert!(matches!(g.hv.lock_table_of(&a, table), Err(crate::page::PageError::NotOwner)));
    assert!(matches!(g.hv.lock_table_of(&b, table), Err(crate::page::PageError::Restart)));
    g.hv.unlock_table(table);
    g.hv.put_page_and_type(table);
}
