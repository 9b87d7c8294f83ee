//! Long work looks for other work often enough, holds nothing that another CPU waits for meanwhile, and gets on.

use super::model::check;
use super::{Guest, PATIENCE, RW, SELF, entry, errno};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::hypercall::{Cx, Outcome, descriptor, event, mmu, vcpu};
use crate::ids::Mfn;
use crate::mock::MockPlatform;
use crate::page::{PageError, PageType, PtWrite, Type, pte};
use crate::platform::Platform;
use crate::regs::Regs;
use crate::sync::Word;
use core::sync::atomic::Ordering::Relaxed;
use std::boxed::Box;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::vec::Vec;
use xen_abi::errno::Errno;
use xen_abi::event_channel::{EVTCHNOP_INIT_CONTROL, EvtchnInitControl};
use xen_abi::vcpu::{VCPUOP_REGISTER_VCPU_INFO, VcpuRegisterVcpuInfo};
use xen_abi::xen::*;

/// L1 tables of the trees here.
const TABLES: usize = 40;
/// Looks at frames between two looks for other work: an L1 table that is checked takes 512 and a few.
const STRETCH: u64 = 1200;

/// Tables `[L4, L3, L2, L1...]` of a domain; each L1 maps one page in all its entries.
fn tree_of(hv: &Hypervisor<MockPlatform>, domain: &Domain<MockPlatform>) -> Vec<Mfn> {
    let page = || {
        let mfn = hv.alloc_domain_page(domain, 0).expect("a free frame");
        hv.platform.frame_words(mfn).iter().for_each(|word| word.store(0, Relaxed));
        mfn
    };
    let poke = |mfn: Mfn, index: usize, named: Mfn| {
        hv.platform.frame_words(mfn)[index].store(entry(named, RW), Relaxed);
    };
    let (data, uppers) = (page(), [page(), page(), page()]);
    poke(uppers[0], 0, uppers[1]);
    poke(uppers[1], 0, uppers[2]);
    let l1s: Vec<_> = (0..TABLES).map(|_| page()).collect();
    for (slot, l1) in l1s.iter().enumerate() {
        poke(uppers[2], slot, *l1);
        (0..pte::ENTRIES).for_each(|index| poke(*l1, index, data));
    }
    uppers.into_iter().chain(l1s).collect()
}

fn tree(g: &Guest) -> Vec<Mfn> {
    tree_of(&g.hv, &g.domain)
}

/// One request of `mmuext_op`, made once.
fn once(g: &Guest, cmd: u32, arg1: u64) -> Outcome {
    let at = g.put(&[MmuextOp { cmd, _pad0: 0, arg1, arg2: 0 }]);
    mmu::mmuext_op(g.cx(), &[at, 1, 0, SELF, 0, 0], &mut Regs::default())
}

/// Unpins the tree's top, with other work at each look, until the L2 table's turn comes.
fn begin_to_give_up(g: &Guest, tree: &[Mfn]) {
    g.hv.platform.preempt_every.store(1, Relaxed);
    let Outcome::Again(mut args) = once(g, MMUEXT_UNPIN_TABLE, tree[0].0) else { panic!("it takes long") };
    while !g.hv.frame(tree[2]).unwrap().type_word().is_busy() {
        let Outcome::Again(next) = mmu::mmuext_op(g.cx(), &args, &mut Regs::default()) else {
            panic!("it takes long")
        };
        args = next;
    }
}

/// A guest with a tree that is on its list of tables to give up, most of it still to do.
fn doomed() -> (Guest, Vec<Mfn>) {
    let g = Guest::new(256);
    let tree = tree(&g);
    assert_eq!(g.pin(4, tree[0]), 0);
    begin_to_give_up(&g, &tree);
    g.hv.platform.preempt_every.store(0, Relaxed);
    assert!(g.hv.frame(tree[2]).unwrap().type_word().is_busy() && g.domain.pages.has_doomed());
    g.hv.platform.longest_stretch();
    (g, tree)
}

/// Makes a hypercall with other work waiting at each look, until it ends; answers how often it was made.
fn patiently(mut call: impl FnMut(&[u64; 6]) -> Outcome, mut args: [u64; 6]) -> (i64, usize) {
    for round in 1..PATIENCE {
        match call(&args) {
            Outcome::Again(next) => args = next,
            Outcome::Done(value) => return (value, round),
            Outcome::RegsReplaced => unreachable!("no such hypercall here"),
        }
    }
    panic!("the hypercall never ends");
}

/// `call` wants a frame of a tree that is being given up: it waits by being made again, and looks for work all the time.
fn waits(
    name: &str,
    mut call: impl FnMut(&Guest, Mfn, &[u64; 6]) -> Outcome,
    args: impl Fn(&Guest, Mfn) -> [u64; 6],
) {
    for every in [0, 1] {
        let (g, tree) = doomed();
        g.hv.platform.preempt_every.store(every, Relaxed);
        let (wanted, last) = (tree[2], tree[3]);
        let (value, rounds) = patiently(|again| call(&g, wanted, again), args(&g, wanted));
        assert_eq!(value, 0, "{name}");
        // Each entry of the L2 table that is wanted, and what hangs below it, is a piece.
        assert_eq!(rounds >= TABLES - 1, every == 1, "{name}: {rounds} rounds");
        assert_eq!(g.hv.frame(last).unwrap().type_word().live(), None, "{name}");
        let stretch = g.hv.platform.longest_stretch();
        assert!(stretch < STRETCH, "{name}: {stretch} steps");
    }
}

/// 40 MiB of tables, given up within one `update_descriptor`, were 199 million instructions.
#[test]
fn whatever_wants_a_frame_that_is_given_up_waits_in_steps() {
    waits(
        "update_descriptor",
        |g, _, args| descriptor::update_descriptor(g.cx(), args, &mut Regs::default()),
        |_, mfn| [mfn.addr().0, 0, 0, 0, 0, 0],
    );
    waits(
        "set_gdt",
        |g, _, args| descriptor::set_gdt(g.cx(), args, &mut Regs::default()),
        |g, mfn| [g.put(&[mfn.0]), 512, 0, 0, 0, 0],
    );
    waits(
        "register_vcpu_info",
        |g, _, args| vcpu::vcpu_op(g.cx(), args, &mut Regs::default()),
        |g, mfn| {
            let at = g.put(&[VcpuRegisterVcpuInfo { mfn: mfn.0, ..Default::default() }]);
            [VCPUOP_REGISTER_VCPU_INFO.into(), 0, at, 0, 0, 0]
        },
    );
    waits(
        "init_control",
        |g, _, args| event::event_channel_op(g.cx(), args, &mut Regs::default()),
        |g, mfn| {
            let at = g.put(&[EvtchnInitControl { control_gfn: mfn.0, ..Default::default() }]);
            [EVTCHNOP_INIT_CONTROL.into(), at, 0, 0, 0, 0]
        },
    );
    waits(
        "clear_page",
        |g, _, args| mmu::mmuext_op(g.cx(), args, &mut Regs::default()),
        |g, mfn| {
            let at = g.put(&[MmuextOp { cmd: MMUEXT_CLEAR_PAGE, _pad0: 0, arg1: mfn.0, arg2: 0 }]);
            [at, 1, 0, SELF, 0, 0]
        },
    );
}

/// A store to a page table that maps a frame which is being given up faults again and again, and each time some of it goes.
#[test]
fn an_emulated_write_is_executed_again() {
    let g = Guest::new(256);
    let tree = tree(&g);
    let own = g.running(g.page());
    g.domain.vm_assist.store(1 << VMASST_TYPE_WRITABLE_PAGETABLES, Relaxed);
    // Its own L1 table, mapped read-only, is what it writes to.
    let at = 0x5000;
    assert_eq!(g.map_va(at, entry(own[3], pte::PRESENT), 0), 0);
    assert_eq!(g.pin(4, tree[0]), 0);
    begin_to_give_up(&g, &tree);
    g.hv.platform.longest_stretch();
    let rounds =
        (0..PATIENCE).take_while(|_| g.emulate(at, None, entry(tree[2], RW), 8) == PtWrite::Retry).count();
    assert!(rounds >= TABLES - 1, "{rounds} rounds");
    assert_eq!(g.peek(own[3], 0) & pte::FRAME_MASK, tree[2].addr().0);
    assert!(g.hv.platform.longest_stretch() < STRETCH);
}

/// The entries of an L1 table may be the last references to 512 frames.
#[test]
fn an_l1_table_is_given_up_in_steps() {
    let g = Guest::new(2048);
    let l1 = g.page();
    for index in 0..pte::ENTRIES {
        let page = g.page();
        g.poke(l1, index, entry(page, RW));
    }
    assert_eq!(g.pin(1, l1), 0);
    for index in 0..pte::ENTRIES {
        g.hv.remove_domain_page(&g.domain, pte::frame_of(g.peek(l1, index))).expect("its own");
    }
    let free = g.hv.frames.free_count();
    g.hv.platform.longest_stretch();
    g.hv.platform.preempt_every.store(1, Relaxed);
    let at = g.put(&[MmuextOp { cmd: MMUEXT_UNPIN_TABLE, _pad0: 0, arg1: l1.0, arg2: 0 }]);
    let unpin = |args: &[u64; 6]| {
        let outcome = mmu::mmuext_op(g.cx(), args, &mut Regs::default());
        check(&g, &BTreeSet::new());
        outcome
    };
    let (value, rounds) = patiently(unpin, [at, 1, 0, SELF, 0, 0]);
    assert_eq!((value, g.hv.frames.free_count()), (0, free + 512));
    assert!(rounds > 60, "{rounds} rounds");
    assert_eq!(g.hv.frame(l1).unwrap().type_word().live(), None);
}

/// The frames of a GDT and the pages of an LDT are checked one after the other, and each once, however often the hypercall is made.
#[test]
fn descriptor_pages_are_checked_in_steps() {
    /// A code segment of ring 0: to be made one of ring 3.
    const CODE: u64 = 0x00af_9a00_0000_ffff;
    const FIXED: u64 = 0x00af_fa00_0000_ffff;
    let g = Guest::new(128);
    let [_, _, _, l1] = g.running(g.page());
    let frames: [Mfn; 14] = g.pages();
    frames.iter().for_each(|mfn| (0..512).for_each(|n| g.poke(*mfn, n, CODE)));
    let list = g.put_at(0x900, &frames.map(|mfn| mfn.0));
    let set_gdt = |args: &[u64; 6]| descriptor::set_gdt(g.cx(), args, &mut Regs::default());
    // With work at every look each time gets one further.
    g.hv.platform.preempt_every.store(1, Relaxed);
    assert_eq!(patiently(set_gdt, [list, 14 * 512, 0, 0, 0, 0]), (0, 14));
    assert!(frames.iter().all(|mfn| g.peek(*mfn, 511) == FIXED));
    assert_eq!(g.set_gdt(&[], 0), 0);
    let other: [Mfn; 16] = g.pages();
    for (n, mfn) in other.iter().enumerate() {
        (0..512).for_each(|n| g.poke(*mfn, n, CODE));
        g.poke(l1, 100 + n, 0);
        assert_eq!(g.update(l1, 100 + n, entry(*mfn, pte::PRESENT)), 0);
    }
    let at = g.put(&[MmuextOp { cmd: MMUEXT_SET_LDT, _pad0: 0, arg1: 100 << 12, arg2: 8192 }]);
    let set_ldt = |args: &[u64; 6]| mmu::mmuext_op(g.cx(), args, &mut Regs::default());
    assert_eq!(patiently(set_ldt, [at, 1, 0, SELF, 0, 0]), (0, 16));
    assert_eq!(g.hv.ldt_frames(&g.domain, &g.domain.vcpus[0]), other);
    assert!(other.iter().all(|mfn| g.peek(*mfn, 0) == FIXED));
    g.hv.platform.preempt_every.store(0, Relaxed);
    check(&g, &BTreeSet::from([g.domain.vcpus[0].pv.guest_table.get().unwrap().0]));
}

/// An idle descriptor page is taken as good only while it is one, and was found good.
#[test]
fn an_idle_descriptor_page_is_checked_again_when_it_was_something_else() {
    /// A task state segment, which no guest may have.
    const TSS: u64 = 0x0000_8900_0000_0067;
    let g = Guest::new(64);
    let page = g.page();
    g.poke(page, 3, TSS);
    for _ in 0..2 {
        assert_eq!(g.set_gdt(&[page], 512), errno(Errno::EINVAL), "and refused again");
    }
    g.poke(page, 3, 0);
    assert_eq!((g.set_gdt(&[page], 512), g.set_gdt(&[], 0)), (0, 0));
    assert_eq!(g.hv.get_page_and_type(&g.domain, page, PageType::Writable), Ok(()));
    g.poke(page, 3, TSS);
    assert_eq!(g.set_gdt(&[page], 512), errno(Errno::EINVAL), "writable");
    g.hv.put_page_and_type(page);
    assert_eq!(g.set_gdt(&[page], 512), errno(Errno::EINVAL), "it was writable meanwhile");
    // A frame that went to the allocator and came back was something else, too.
    g.poke(page, 3, 0);
    assert_eq!((g.set_gdt(&[page], 512), g.set_gdt(&[], 0)), (0, 0));
    g.poke(page, 3, TSS);
    g.hv.remove_domain_page(&g.domain, page).expect("its own");
    let again = core::iter::from_fn(|| g.hv.alloc_domain_page(&g.domain, 0).ok()).find(|mfn| *mfn == page);
    assert_eq!(again, Some(page));
    assert_eq!(g.set_gdt(&[page], 512), errno(Errno::EINVAL));
    // A store by hypercall into an idle one is judged.
    g.hv.remove_domain_page(&g.domain, page).expect("its own");
    let good = g.page();
    assert_eq!((g.set_gdt(&[good], 512), g.set_gdt(&[], 0)), (0, 0));
    let bad = descriptor::update_descriptor(g.cx(), &[good.addr().0, TSS, 0, 0, 0, 0], &mut Regs::default());
    assert_eq!(bad, Outcome::Done(errno(Errno::EINVAL)));
}

/// Another CPU that has a table locked looks at its own work only.
#[test]
fn waiting_for_another_cpu_ends_for_work() {
    let g = Guest::new(64);
    let page = g.page();
    let [_, _, l2, l1] = g.running(page);
    g.hv.platform.preempt_every.store(1, Relaxed);
    let info = g.hv.frame(l1).unwrap();
    assert!(info.lock_table(|| false).is_ok_and(|t| t == Some(PageType::L1)));
    let at = g.put(&[MmuUpdate { ptr: l1.addr().0, val: 0 }]);
    let update = mmu::mmu_update(g.cx(), &[at, 1, 0, SELF, 0, 0], &mut Regs::default());
    assert!(matches!(update, Outcome::Again(_)));
    let mapping = mmu::update_va_mapping(g.cx(), &[0, 0, 0, 0, 0, 0], &mut Regs::default());
    assert!(matches!(mapping, Outcome::Again(_)));
    g.hv.unlock_table(l1);
    // One that another CPU checks as what is wanted here.
    let wanted = g.page();
    let checked = g.hv.frame(wanted).unwrap();
    checked.set_type(Type::busy(PageType::L2, 0, 0));
    assert!(matches!(once(&g, MMUEXT_PIN_L2_TABLE, wanted.0), Outcome::Again(_)));
    checked.set_type(Type(0));
    assert_eq!(g.hv.frame(wanted).unwrap().count().refs(), 1);
    // Tables that another CPU gives up.
    let turn = g.domain.pages.giving_up.lock();
    g.domain.pages.any_doomed.store(true, Relaxed);
    assert!(matches!(once(&g, MMUEXT_TLB_FLUSH_LOCAL, 0), Outcome::Again(_)));
    drop(turn);
    g.hv.platform.preempt_every.store(0, Relaxed);
    g.finish_doomed();
    assert_eq!(g.hv.frame(l2).unwrap().type_word().live(), Some(PageType::L2));
    check(&g, &BTreeSet::from([g.domain.vcpus[0].pv.guest_table.get().unwrap().0]));
}

/// The last reference to a table that other vCPUs lock again and again: to drop it waits for them as long as there is no other work, and
/// then leaves it to them.
#[test]
fn the_last_reference_does_not_wait_for_ever() {
    let leave = |level: u32| {
        let g = Guest::new(64);
        let [table, below] = g.pages();
        if level == 2 {
            g.poke(table, 3, entry(below, RW));
        }
        assert_eq!(g.pin(level, table), 0);
        let info = g.hv.frame(table).unwrap();
        let state = || (info.type_word().live().is_some(), info.count().refs());
        assert!(info.lock_table(|| false).is_ok_and(|t| t.is_some()));
        g.hv.platform.preempt_every.store(3, Relaxed);
        assert_eq!(g.unpin(table), 0);
        assert_eq!(state(), (true, 2), "it is locked");
        // As something else it is to be had soon.
        g.hv.platform.preempt_every.store(1, Relaxed);
        assert!(matches!(once(&g, MMUEXT_CLEAR_PAGE, table.0), Outcome::Again(_)));
        g.hv.platform.preempt_every.store(0, Relaxed);
        g.hv.unlock_table(table);
        g.finish_doomed();
        assert_eq!(state(), (false, 1));
        assert_eq!(g.ext(MMUEXT_CLEAR_PAGE, table.0, 0), 0);
        check(&g, &BTreeSet::new());
    };
    // In a model of one CPU, which fails where that waits for ever.
    interleave::model::explore(0, 1, None, |_| (), move |(), _| [1, 2].into_iter().for_each(leave), |()| {});
}

/// What a new entry names is checked before its table is locked: other CPUs may want that table meanwhile.
#[test]
fn a_table_is_not_locked_while_others_are_checked() {
    let g = Guest::new(256);
    let tree = tree(&g);
    let l4 = g.page();
    assert_eq!(g.pin(4, l4), 0);
    let table: &'static [_] = g.hv.platform.table();
    let looks = Arc::new(AtomicUsize::new(0));
    let seen = looks.clone();
    *g.hv.platform.at_question.lock().unwrap() = Some(Box::new(move || {
        seen.fetch_add(1, Relaxed);
        assert!(
            !table[l4.0 as usize].type_word().has(Type::LOCKED),
            "locked while something else is checked"
        );
    }));
    assert_eq!(g.update(l4, 5, entry(tree[1], RW)), 0);
    assert!(looks.load(Relaxed) >= TABLES - 1);
    *g.hv.platform.at_question.lock().unwrap() = None;
    assert_eq!(g.hv.frame(tree[1]).unwrap().type_word().count(), 1);
    check(&g, &BTreeSet::from([l4.0]));
    // A refusal leaves nothing behind, and an entry that is checked piece by piece gets there.
    let bad = g.page();
    g.poke(bad, 0, entry(Mfn(1 << 30), RW));
    assert_eq!(g.update(l4, 6, entry(bad, RW)), errno(Errno::EINVAL));
    assert_eq!(g.update(l4, 5, 0), 0);
    g.hv.platform.preempt_every.store(1, Relaxed);
    let at = g.put(&[MmuUpdate { ptr: l4.addr().0 + 8 * 7, val: entry(tree[1], RW) }]);
    let update = |args: &[u64; 6]| mmu::mmu_update(g.cx(), args, &mut Regs::default());
    let (value, rounds) = patiently(update, [at, 1, 0, SELF, 0, 0]);
    assert_eq!(value, 0);
    assert!(rounds > TABLES / 2, "{rounds} rounds");
    check(&g, &BTreeSet::from([l4.0]));
}

/// A batch lets go of its table as soon as another CPU waits for it in turn, or has left its last reference to the batch.
#[test]
fn a_batch_lets_go_of_a_table_that_is_wanted() {
    for sign in [Type::WANTED, Type::LEFT] {
        let g = Guest::new(256);
        let tree = tree(&g);
        assert_eq!(g.pin(4, tree[0]), 0);
        let l1 = tree[4];
        g.hv.get_typed(&g.domain, l1, PageType::L1).expect("a reference to leave");
        let table: &'static [_] = g.hv.platform.table();
        let info = &table[l1.0 as usize];
        let looks = Arc::new(AtomicUsize::new(0));
        let seen = looks.clone();
        *g.hv.platform.at_question.lock().unwrap() =
            Some(Box::new(move || match seen.fetch_add(1, Relaxed) {
                4 => {
                    assert!(info.type_word().has(Type::LOCKED));
                    info.type_.set_bits(sign);
                }
                5 => {
                    assert!(!info.type_word().has(Type::LOCKED), "it has its turn after one request more");
                    info.type_.clear_bits(Type::WANTED);
                }
                _ => {}
            }));
        let requests: Vec<_> = (0..16).map(|n| MmuUpdate { ptr: l1.addr().0 + 8 * n, val: 0 }).collect();
        let at = g.put(&requests);
        let answer = mmu::mmu_update(g.cx(), &[at, 16, 0, SELF, 0, 0], &mut Regs::default());
        assert_eq!(answer, Outcome::Done(0));
        *g.hv.platform.at_question.lock().unwrap() = None;
        assert!(looks.load(Relaxed) >= 15);
        // What was left is dropped, and what was not is there.
        assert_eq!(info.type_word().count(), if sign == Type::LEFT { 1 } else { 2 });
    }
}

/// Tables of another domain that a toolstack drops are given up in steps, too, before its hypercall ends.
#[test]
fn a_foreign_tree_is_given_up_in_steps() {
    let g = Guest::new(512);
    let other = crate::mock::domain(&g.hv, 1, 1, 200);
    let tree = tree_of(&g.hv, &other);
    let request = |cmd| [g.put(&[MmuextOp { cmd, _pad0: 0, arg1: tree[0].0, arg2: 0 }]), 1, 0, 1, 0, 0];
    let call = |args: &[u64; 6]| mmu::mmuext_op(g.cx(), args, &mut Regs::default());
    assert_eq!(patiently(call, request(MMUEXT_PIN_L4_TABLE)).0, 0);
    g.hv.platform.longest_stretch();
    g.hv.platform.preempt_every.store(1, Relaxed);
    let (value, rounds) = patiently(call, request(MMUEXT_UNPIN_TABLE));
    assert_eq!((value, other.pages.has_doomed()), (0, false));
    assert!(rounds > TABLES && g.hv.platform.longest_stretch() < STRETCH, "{rounds} rounds");
    assert_eq!(g.hv.frame(tree[TABLES]).unwrap().type_word().live(), None);
    // Nor is a caller without rights given anything to do with another domain's tables by saying that it has.
    other.pages.any_doomed.store(true, Relaxed);
    let turn = other.pages.giving_up.lock();
    let guest = Cx { hv: &g.hv, domain: &other, vcpu: &other.vcpus[0] };
    let caller = crate::mock::domain(&g.hv, 2, 1, 8);
    let stranger = Cx { domain: &caller, vcpu: &caller.vcpus[0], ..guest };
    let finish = [0, 1 << 31, 2, 7, 0, 0];
    assert_eq!(mmu::mmu_update(stranger, &finish, &mut Regs::default()), Outcome::Done(7));
    assert_eq!(mmu::mmu_update(g.cx(), &finish, &mut Regs::default()), Outcome::Again(finish));
    drop(turn);
}

/// Tables without an entry are given up one after the other, too, with a look for other work behind each: they were 2,262 instructions
/// each, and 1,007 of them in a row without one.
#[test]
fn empty_tables_are_given_up_in_steps() {
    let g = Guest::new(600);
    let top = g.page();
    let tables: Vec<_> = (0..pte::ENTRIES).map(|_| g.page()).collect();
    tables.iter().enumerate().for_each(|(slot, table)| g.poke(top, slot, entry(*table, RW)));
    assert_eq!(g.pin(3, top), 0);
    g.hv.platform.longest_stretch();
    g.hv.platform.preempt_every.store(1, Relaxed);
    let at = g.put(&[MmuextOp { cmd: MMUEXT_UNPIN_TABLE, _pad0: 0, arg1: top.0, arg2: 0 }]);
    let unpin = |args: &[u64; 6]| mmu::mmuext_op(g.cx(), args, &mut Regs::default());
    let (value, rounds) = patiently(unpin, [at, 1, 0, SELF, 0, 0]);
    assert_eq!(value, 0);
    assert!(rounds >= pte::ENTRIES, "{rounds} rounds");
    let stretch = g.hv.platform.longest_stretch();
    assert!(stretch < 16, "{stretch} steps");
    assert!(tables.iter().all(|table| g.hv.frame(*table).unwrap().type_word().live().is_none()));
}

/// So are those that a domain has pinned when it ends.
#[test]
fn pinned_tables_are_given_up_in_steps() {
    for level in [1, 2] {
        let g = Guest::new(600);
        let free = g.hv.frames.free_count();
        for _ in 0..256 {
            assert_eq!(g.pin(level, g.page()), 0);
        }
        g.hv.platform.longest_stretch();
        g.hv.platform.preempt_every.store(1, Relaxed);
        let steps = (0..PATIENCE).take_while(|_| g.hv.release_domain_pages(&g.domain).is_err()).count();
        assert!((256..PATIENCE).contains(&steps), "level {level}: {steps} steps");
        let stretch = g.hv.platform.longest_stretch();
        // Frames that are merely looked at are steps here, too.
        assert!(stretch < 256, "level {level}: {stretch} steps");
        assert_eq!(g.hv.frames.free_count(), free);
    }
}

/// A page of an LDT that is refused is checked each time: that is no way to keep a CPU. What is left out meanwhile is found when it is used.
#[test]
fn refused_pages_of_an_ldt_are_left_for_later() {
    const TSS: u64 = 0x0000_8900_0000_0067;
    let g = Guest::new(128);
    let [_, _, _, l1] = g.running(g.page());
    let pages: [Mfn; 16] = g.pages();
    for (n, mfn) in pages.iter().enumerate() {
        g.poke(*mfn, 511, if n < 15 { TSS } else { 0 });
        assert_eq!(g.update(l1, 100 + n, entry(*mfn, pte::PRESENT)), 0);
    }
    g.hv.platform.longest_stretch();
    g.hv.platform.preempt_every.store(1, Relaxed);
    let at = g.put(&[MmuextOp { cmd: MMUEXT_SET_LDT, _pad0: 0, arg1: 100 << 12, arg2: 8192 }]);
    let set_ldt = |args: &[u64; 6]| mmu::mmuext_op(g.cx(), args, &mut Regs::default());
    assert_eq!(patiently(set_ldt, [at, 1, 0, SELF, 0, 0]), (0, 1));
    let stretch = g.hv.platform.longest_stretch();
    assert!(stretch < 24, "{stretch} steps");
    let vcpu = &g.domain.vcpus[0];
    assert_eq!(g.hv.find_ldt_page(&g.domain, vcpu, 3), Err(PageError::BadEntry));
    assert_eq!(g.hv.find_ldt_page(&g.domain, vcpu, 15), Ok(()));
    assert_eq!(g.hv.find_ldt_page(&g.domain, vcpu, 16), Err(PageError::BadEntry));
    assert_eq!(g.hv.ldt_frames(&g.domain, vcpu)[15], pages[15]);
    // Once more changes nothing: the reference of before is dropped.
    assert_eq!(g.hv.find_ldt_page(&g.domain, vcpu, 15), Ok(()));
    g.hv.platform.preempt_every.store(0, Relaxed);
    check(&g, &BTreeSet::from([vcpu.pv.guest_table.get().unwrap().0]));
    assert_eq!(g.ext(MMUEXT_SET_LDT, 0, 0), 0);
    check(&g, &BTreeSet::from([vcpu.pv.guest_table.get().unwrap().0]));
}

/// The run state of a vCPU that leaves its CPU is written while the next one waits, with this CPU's timer not armed for it. Where its page
/// is a table by then that is still to be given up, the switch gave up all such tables of the domain.
#[test]
fn a_switch_of_vcpus_gives_up_no_tables() {
    let g = Guest::new(256);
    let data = g.page();
    let chain = g.running(data);
    let tree = tree(&g);
    assert_eq!(g.pin(4, tree[0]), 0);
    begin_to_give_up(&g, &tree);
    g.hv.platform.preempt_every.store(0, Relaxed);
    assert!(g.hv.frame(tree[2]).unwrap().type_word().is_busy() && g.domain.pages.has_doomed());
    // The answer of the walk: a writable entry that names a frame that is being given up by now.
    g.poke(chain[3], 1, entry(tree[2], RW));
    let vcpu = crate::domain::VcpuRef { domain: g.domain.clone(), id: crate::ids::VcpuId(0) };
    vcpu.vcpu().time.set_runstate_area(0x1000);
    let live = |mfn: &&Mfn| g.hv.frame(**mfn).unwrap().type_word().live().is_some();
    let before = tree[3..].iter().filter(live).count();
    assert_eq!(before, tree.len() - 3);
    g.hv.vcpu_time_stopped(&vcpu);
    let after = tree[3..].iter().filter(live).count();
    assert!(after == before, "a context switch gave up {} tables", before - after);
}
