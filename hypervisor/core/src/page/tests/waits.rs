//! Who waits for whose table: linear entries that are refused, or change their direction, while others change the same tables.

use super::{Guest, RW, SELF, entry};
use crate::guest_ptr::GuestPtr;
use crate::hypercall::{Cx, Outcome, mmu};
use crate::ids::Mfn;
use crate::mock::FLAT_BASE;
use crate::page::{Type, pte};
use crate::regs::Regs;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU32};
use interleave::model::{Chance, explore, task};
use std::sync::Arc;
use xen_abi::errno::Errno;
use xen_abi::xen::{MMUEXT_UNPIN_TABLE, MmuUpdate, MmuextOp};

/// Runs of a model.
const RUNS: u64 = 60;

/// A domain with two pinned L3 tables that each name a third one by a linear entry: neither may be named by the other.
struct World {
    guest: Guest,
    tables: [Mfn; 2],
    /// One CPU is done.
    over: AtomicBool,
}

impl World {
    fn new() -> Self {
        let guest = Guest::new(64);
        let named = guest.page();
        assert_eq!(guest.pin(3, named), 0);
        let tables = guest.pages();
        for table in tables {
            guest.poke(table, 7, entry(named, pte::PRESENT));
            assert_eq!(guest.pin(3, table), 0);
        }
        Self { guest, tables, over: AtomicBool::new(false) }
    }

    /// One hypercall, by this task's CPU.
    fn call<T: zerocopy::IntoBytes + zerocopy::Immutable>(
        &self,
        handler: fn(Cx<'_, crate::mock::MockPlatform>, &[u64; 6], &mut Regs) -> Outcome,
        requests: &[T],
    ) -> Outcome {
        let at = GuestPtr::new(FLAT_BASE + 0x1000 * task().expect("a task") as u64);
        at.write_slice(&self.guest.hv, requests).expect("the flat buffer");
        let args = [at.address().0, requests.len() as u64, 0, SELF, 0, 0];
        handler(self.guest.cx(), &args, &mut Regs::default())
    }

    /// Asks for a linear entry of one table that names the other.
    fn name(&self, from: usize, to: usize) -> Outcome {
        let val = entry(self.tables[to], pte::PRESENT);
        self.call(mmu::mmu_update, &[MmuUpdate { ptr: self.tables[from].addr().0 + 8 * 9, val }])
    }

    fn unpin(&self, table: usize) {
        let arg1 = self.tables[table].0;
        let done =
            self.call(mmu::mmuext_op, &[MmuextOp { cmd: MMUEXT_UNPIN_TABLE, _pad0: 0, arg1, arg2: 0 }]);
        assert!(matches!(done, Outcome::Done(0) | Outcome::Again(_)), "{done:?}");
    }
}

/// Each of two CPUs has one of the tables locked and is refused an entry that names the other, while a third one unpins both.
#[test]
fn refused_linear_entries_do_not_wait_for_each_other() {
    for seed in 0..RUNS * 50 {
        let act = |world: &World, cpu: usize| match cpu {
            0 | 1 => {
                world.name(cpu, 1 - cpu);
            }
            _ => (0..2).for_each(|table| world.unpin(table)),
        };
        explore(seed, 3, None, |_| World::new(), act, |_| {});
    }
}

/// Tables 0 and 1 of the same level, of which the first names the second, which nothing else keeps. One CPU takes that entry away while
/// another one changes the second table; it makes that name the first one, and takes this back when a third CPU has unpinned the
/// first one.
#[test]
fn entries_that_change_direction_do_not_wait_for_each_other() {
    let make = |_: &mut Chance| {
        let guest = Guest::new(64);
        let tables: [Mfn; 2] = guest.pages();
        assert_eq!(guest.pin(3, tables[1]), 0);
        guest.poke(tables[0], 9, entry(tables[1], pte::PRESENT));
        assert_eq!((guest.pin(3, tables[0]), guest.unpin(tables[1])), (0, 0));
        World { guest, tables, over: AtomicBool::new(false) }
    };
    let act = |world: &World, cpu: usize| {
        let change = |table: usize, index: u64, val: u64| MmuUpdate {
            ptr: world.tables[table].addr().0 + 8 * index,
            val,
        };
        match cpu {
            0 => {
                let mut list = [change(1, 20, 0); 24];
                list[8] = change(1, 8, entry(world.tables[0], pte::PRESENT));
                list[18] = change(1, 8, 0);
                world.call(mmu::mmu_update, &list);
            }
            1 => {
                world.call(mmu::mmu_update, &[change(0, 9, 0)]);
            }
            _ => world.unpin(0),
        }
    };
    for seed in 0..RUNS * 20 {
        explore(seed, 3, None, make, act, |_| {});
    }
}

/// An entry that is refused never held the table that it names: the last reference to that would have had to wait for its lock, with
/// another table locked.
#[test]
fn a_refused_linear_entry_takes_no_reference() {
    for seed in 0..RUNS {
        let act = |world: &World, cpu: usize| {
            if cpu == 0 {
                (0..4).for_each(|_| assert_eq!(world.name(0, 1), Outcome::Done(Errno::EINVAL.to_ret())));
                return world.over.store(true, Relaxed);
            }
            while !world.over.load(Relaxed) {
                let word = world.guest.hv.known_frame(world.tables[1]).type_word();
                assert_eq!(word.count(), 1, "the pin");
            }
        };
        explore(seed, 2, None, |_| World::new(), act, |_| {});
    }
}

/// Who drops the last reference to a table waits for its lock, whatever else waits for that CPU. So it is not held from one flush to the
/// next.
#[test]
fn a_batch_unlocks_a_table_after_each_flush() {
    let guest = Arc::new(Guest::new(64));
    let other = crate::mock::domain(&guest.hv, 1, 1, 8);
    let page = guest.hv.alloc_domain_page(&other, 0).expect("a page");
    let table = guest.running(guest.page())[3];
    let list = |val| core::array::from_fn::<_, 8, _>(|n| (table, 8 + n, val));
    let foreign =
        list(entry(page, RW)).map(|(mfn, n, val)| MmuUpdate { ptr: mfn.addr().0 + 8 * n as u64, val });
    assert_eq!(guest.call(mmu::mmu_update, [guest.put(&foreign), 8, 0, 1, 0, 0]), 0);
    let looks = Arc::new([0, 0].map(AtomicU32::new));
    let (seen, shared) = (looks.clone(), guest.clone());
    *guest.hv.platform.at_question.lock().unwrap() = Some(alloc::boxed::Box::new(move || {
        let locked = shared.hv.known_frame(table).type_word().has(Type::LOCKED);
        seen[usize::from(locked)].fetch_add(1, Relaxed);
    }));
    assert_eq!(guest.updates(&list(0), 0), 0);
    *guest.hv.platform.at_question.lock().unwrap() = None;
    assert_eq!((looks[0].load(Relaxed) >= 7, looks[1].load(Relaxed)), (true, 0));
}
