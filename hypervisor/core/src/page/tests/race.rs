//! Several CPUs at once: whatever they do to the same few frames, the counts are right when they have stopped.

use super::model::check;
use super::{Guest, RW, entry};
use crate::guest_ptr::GuestPtr;
use crate::hypercall::{Cx, Outcome, memory as memory_calls, mmu};
use crate::ids::Mfn;
use crate::mock::{FLAT_BASE, MockPlatform};
use crate::page::{PageType, Type, pte};
use crate::platform::Platform;
use crate::regs::Regs;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU64};
use std::collections::BTreeSet;
use std::sync::Barrier;
use std::vec::Vec;
use std::{format, thread};
use xen_abi::memory::*;
use xen_abi::xen::*;

const THREADS: u64 = 4;
const STEPS: u64 = 20_000;
const SLOTS: [usize; 4] = [0, 1, 300, 511];

/// A generator good enough to mix operations.
struct Mix(u64);

impl Mix {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

/// One CPU: a vCPU of the domain and its own piece of flat memory.
struct Cpu<'a> {
    guest: &'a Guest,
    number: u64,
    mix: Mix,
    frames: &'a [Mfn],
}

impl Cpu<'_> {
    fn frame(&mut self) -> Mfn {
        self.frames[self.mix.next(self.frames.len())]
    }

    fn call(
        &self,
        handler: fn(Cx<'_, MockPlatform>, &[u64; 6], &mut Regs) -> Outcome,
        mut args: [u64; 6],
    ) -> i64 {
        let vcpu = &self.guest.domain.vcpus[self.number as usize % 2];
        let cx = Cx { hv: &self.guest.hv, domain: &self.guest.domain, vcpu };
        for _ in 0..super::PATIENCE * 10 {
            match handler(cx, &args, &mut Regs::default()) {
                Outcome::Again(next) => args = next,
                Outcome::Done(value) => return value,
                Outcome::RegsReplaced => unreachable!("no such hypercall here"),
            }
        }
        panic!("the hypercall never ends");
    }

    fn ext(&self, cmd: u32, arg1: u64) -> i64 {
        let at = GuestPtr::new(FLAT_BASE + 0x1000 * self.number);
        at.write(&self.guest.hv, &MmuextOp { cmd, _pad0: 0, arg1, arg2: 0 }).unwrap();
        self.call(mmu::mmuext_op, [at.address().0, 1, 0, super::SELF, 0, 0])
    }

    fn update(&mut self) -> i64 {
        let at = GuestPtr::new(FLAT_BASE + 0x1000 * self.number);
        let count = 1 + self.mix.next(5);
        let list: Vec<_> = (0..count)
            .map(|_| {
                let (table, slot, page) = (self.frame(), SLOTS[self.mix.next(4)], self.frame());
                let flags = [RW, RW, pte::PRESENT, 0][self.mix.next(4)];
                MmuUpdate { ptr: table.addr().0 + slot as u64 * 8, val: entry(page, flags) }
            })
            .collect();
        at.write_slice(&self.guest.hv, &list).unwrap();
        self.call(mmu::mmu_update, [at.address().0, count as u64, 0, super::SELF, 0, 0])
    }

    fn run(mut self) -> u64 {
        let mut successes = 0;
        for _ in 0..STEPS {
            let result = match self.mix.next(8) {
                0 | 1 => {
                    let (level, mfn) = (self.mix.next(4) as u32, self.frame());
                    self.ext(MMUEXT_PIN_L1_TABLE + level, mfn.0)
                }
                2 | 3 => {
                    let mfn = self.frame();
                    self.ext(MMUEXT_UNPIN_TABLE, mfn.0)
                }
                4 if self.number < 2 => {
                    let mfn = self.frame();
                    self.ext(MMUEXT_NEW_USER_BASEPTR, mfn.0)
                }
                _ => self.update(),
            };
            successes += u64::from(result == 0);
        }
        successes
    }
}

#[test]
fn counts_survive_races() {
    for round in 0..4 {
        let guest = Guest::new(48);
        let frames: Vec<_> = (0..12).map(|_| guest.page()).collect();
        guest.hv.platform.preempt_every.store(round * 3, Relaxed);
        let successes: u64 = thread::scope(|scope| {
            let start = |number| {
                let mix = Mix(u64::from(round) * 1000 + number * 7 + 1);
                let cpu = Cpu { guest: &guest, number, mix, frames: &frames };
                scope.spawn(move || cpu.run())
            };
            let threads: Vec<_> = (0..THREADS).map(start).collect();
            threads.into_iter().map(|t| t.join().expect("no panic")).sum()
        });
        assert!(successes > STEPS / 4, "{}", format!("only {successes} operations did anything"));
        guest.finish_doomed();
        let table = guest.hv.platform.frame_table();
        let pinned = |mfn: &u64| {
            let word = table[*mfn as usize].type_word();
            word.is_pinned() && !word.is_busy()
        };
        let pins: BTreeSet<u64> = (0..table.len() as u64).filter(pinned).collect();
        check(&guest, &pins);
    }
}

/// Linux unpins an address space and makes its pages writable in the next hypercall, while other vCPUs do the same: none of
/// them may find a page of its own still in the hands of another.
#[test]
fn what_an_unpinned_table_held_is_free_at_once() {
    /// An L4 table, several L3 tables below it, and one L2 table that all their entries name.
    const FRAMES: usize = 8;
    let guest = Guest::new(64);
    let tree = |_| core::array::from_fn::<Mfn, FRAMES, _>(|_| guest.page());
    let trees: Vec<_> = (0..2).map(tree).collect();
    let start = Barrier::new(trees.len());
    let life = |number: u64, frames: &[Mfn; FRAMES]| {
        let cpu = Cpu { guest: &guest, number, mix: Mix(number), frames };
        let [l4, l3s @ .., l2] = frames;
        // A thread that stopped here would leave the other waiting: mistakes are counted.
        let mut mistakes = 0;
        for _ in 0..100 {
            for (slot, l3) in l3s.iter().enumerate() {
                guest.poke(*l4, slot, entry(*l3, RW));
                (0..pte::ENTRIES).for_each(|index| guest.poke(*l3, index, entry(*l2, RW)));
            }
            start.wait();
            mistakes += u32::from(cpu.ext(MMUEXT_PIN_L4_TABLE, l4.0) != 0);
            mistakes += u32::from(cpu.ext(MMUEXT_UNPIN_TABLE, l4.0) != 0);
            for mfn in frames.iter().rev() {
                match guest.hv.get_page_and_type(&guest.domain, *mfn, PageType::Writable) {
                    Ok(()) => guest.hv.put_page_and_type(*mfn),
                    Err(_) => mistakes += 1,
                }
            }
        }
        mistakes
    };
    let mistakes: u32 = thread::scope(|scope| {
        let life = &life;
        let start = |(number, frames)| scope.spawn(move || life(number, frames));
        let threads: Vec<_> = (0..).zip(&trees).map(start).collect();
        threads.into_iter().map(|t| t.join().expect("no panic")).sum()
    });
    assert_eq!(mistakes, 0);
}

/// A guest maps a frame that the hypervisor shares with it at the moment at which the hypervisor takes it back (the grant table
/// of version 2 becomes one of version 1): one of them loses. The mapping lived on in the next user of the frame.
#[test]
fn a_shared_frame_is_not_taken_back_while_it_is_mapped() {
    const ROUNDS: usize = 20_000;
    let guest = Guest::new(48);
    let (hv, domain) = (&guest.hv, &guest.domain);
    let mfn = hv.alloc_frames(0).expect("a frame");
    let done = AtomicBool::new(false);
    let mistakes = thread::scope(|scope| {
        let mapper = scope.spawn(|| {
            let mut mistakes = 0;
            while !done.load(Relaxed) {
                if hv.get_page_and_type(domain, mfn, PageType::Writable).is_ok() {
                    mistakes += u32::from((0..20).any(|_| hv.page_owner(mfn) != Some(domain.id)));
                    hv.put_page_and_type(mfn);
                }
            }
            mistakes
        });
        for _ in 0..ROUNDS {
            hv.share_xen_page(domain, mfn);
            while !hv.unshare_xen_page(mfn) {
                core::hint::spin_loop();
            }
        }
        done.store(true, Relaxed);
        mapper.join().expect("no panic")
    });
    assert_eq!(mistakes, 0);
}

/// A reference that is not there is dropped: the machine stops, for nothing that is known of frames is true any more.
#[test]
fn a_reference_too_many_stops_the_machine() {
    let drops: [fn(&Guest, Mfn); 4] = [
        |guest, mfn| {
            guest.hv.put_page(mfn);
            guest.hv.put_page(mfn);
        },
        |guest, mfn| guest.hv.put_page_and_type(mfn),
        |guest, mfn| guest.hv.put_table(&guest.domain, mfn),
        |guest, mfn| {
            // What a table on the list keeps in the place of the count is no reference: the list leads to a frame that is not on it.
            let word = Type::busy(PageType::L2, 0, Type::DOOMED | 5);
            guest.hv.known_frame(mfn).set_type(word);
            *guest.domain.pages.doomed.lock() = mfn.0 as u32;
            guest.domain.pages.any_doomed.store(true, Relaxed);
            guest.hv.put_page_and_type(mfn);
            guest.finish_doomed();
        },
    ];
    for drop in drops {
        let guest = Guest::new(16);
        let mfn = guest.page();
        let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(&guest, mfn)));
        let why = stopped.expect_err("stopped");
        let why = why.downcast_ref::<std::string::String>().expect("a message");
        assert!(why.contains("dropped twice"), "{why}");
    }
}

/// Frames have their numbers in the machine-to-physical table when they become the domain's, not later: another vCPU may give
/// them up at once, and the entries may be another domain's then.
#[test]
fn frames_have_their_numbers_when_they_become_the_domains() {
    const ROUNDS: u64 = 200;
    const ORDER: u32 = 9;
    /// The only block of that size.
    const FIRST: Mfn = Mfn(1 << ORDER);
    let guest = Guest::new(600 + (1 << ORDER));
    let (hv, domain) = (&guest.hv, &guest.domain);
    let [freed, ready, seen] = [const { AtomicU64::new(0) }; 3];
    let wait = |word: &AtomicU64, round: u64| {
        while word.load(Acquire) != round {
            core::hint::spin_loop();
        }
    };
    let entry = &hv.platform.m2p()[FIRST.0 as usize];
    let late = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut late = 0;
            for round in 1..=ROUNDS {
                wait(&freed, round - 1);
                ready.store(round, Release);
                while hv.page_owner(FIRST) != Some(domain.id) {
                    core::hint::spin_loop();
                }
                late += u32::from(entry.load(Relaxed) != round);
                seen.store(round, Release);
            }
            late
        });
        let (list, at) = (GuestPtr::new(FLAT_BASE), GuestPtr::new(FLAT_BASE + 0x1000));
        let extent_start = FLAT_BASE.into();
        let request = XenMemoryReservation {
            extent_start,
            nr_extents: 1,
            extent_order: ORDER,
            domid: DOMID_SELF,
            ..Default::default()
        };
        at.write(hv, &request).unwrap();
        let cpu = Cpu { guest: &guest, number: 0, mix: Mix(1), frames: &[] };
        let call = |cmd: u32, value: u64| {
            list.write(hv, &value).unwrap();
            cpu.call(memory_calls::memory_op, [cmd.into(), at.address().0, 0, 0, 0, 0])
        };
        for round in 1..=ROUNDS {
            wait(&ready, round);
            assert_eq!(call(XENMEM_POPULATE_PHYSMAP, round), 1);
            wait(&seen, round);
            assert_eq!(call(XENMEM_DECREASE_RESERVATION, FIRST.0), 1);
            freed.store(round, Release);
        }
        watcher.join().expect("no panic")
    });
    assert_eq!(late, 0);
}
