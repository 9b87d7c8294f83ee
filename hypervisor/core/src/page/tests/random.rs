//! Random sequences of hypercalls.

use super::model::{Scan, check};
use super::{Guest, RW, entry};
use crate::ids::Mfn;
use crate::page::{PageType, pte};
use crate::platform::Platform;
use core::sync::atomic::Ordering::Relaxed;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;
use xen_abi::memory::*;
use xen_abi::xen::*;

/// Frames of the machine, and how many of them the domain has at first.
const FRAMES: usize = 64;
const POOL: usize = 24;
/// The table slots that the sequences use: few, so that they meet; the hypervisor's first and last among them.
const SLOTS: [usize; 8] = [0, 1, 2, 255, 256, 271, 272, 511];

/// A frame by its place in the pool; beyond the pool: somebody else's, or not RAM.
type Pick = u8;

#[derive(Clone, Debug)]
enum Op {
    /// The guest writes a word of a page that it could have mapped writable.
    Poke(Pick, u8, u64, Pick),
    /// It makes a chain of four tables and a page.
    Chain([Pick; 5]),
    Update(Vec<(Pick, u8, u64, Pick)>, u64),
    Pin(u32, Pick),
    Unpin(Pick),
    NewBase(Pick),
    NewUser(Pick),
    MapVa([u8; 4], u64, Pick, u64),
    Emulate(u8, u8, u64, Pick, bool),
    Gdt(Vec<Pick>),
    Ldt(u32),
    Clear(Pick),
    Copy(Pick, Pick),
    Decrease(Pick),
    Increase,
    Exchange(Pick),
    Descriptor(Pick, u64),
}

fn flags() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => Just(RW),
        4 => Just(pte::PRESENT),
        2 => Just(RW | pte::USER),
        1 => Just(RW | pte::PCD),
        1 => Just(pte::PRESENT | pte::NX | pte::DIRTY),
        1 => Just(pte::PRESENT | pte::PSE),
        2 => Just(0),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let pick = || 0..(POOL as u8 + 4);
    let slot = || 0..SLOTS.len() as u8;
    prop_oneof![
        4 => (pick(), slot(), flags(), pick()).prop_map(|(a, b, c, d)| Op::Poke(a, b, c, d)),
        4 => prop::array::uniform5(0..POOL as u8).prop_map(Op::Chain),
        8 => (prop::collection::vec((pick(), slot(), flags(), pick()), 1..12), 0u64..5)
            .prop_map(|(list, cmd)| Op::Update(list, cmd)),
        6 => (1u32..5, pick()).prop_map(|(l, p)| Op::Pin(l, p)),
        3 => pick().prop_map(Op::Unpin),
        4 => pick().prop_map(Op::NewBase),
        2 => pick().prop_map(Op::NewUser),
        6 => (prop::array::uniform4(slot()), flags(), pick(), 0u64..8).prop_map(|(s, f, p, u)| Op::MapVa(s, f, p, u)),
        4 => (slot(), slot(), flags(), pick(), any::<bool>()).prop_map(|(a, b, f, p, c)| Op::Emulate(a, b, f, p, c)),
        1 => prop::collection::vec(pick(), 0..3).prop_map(Op::Gdt),
        1 => (0u32..1200).prop_map(Op::Ldt),
        1 => pick().prop_map(Op::Clear),
        1 => (pick(), pick()).prop_map(|(a, b)| Op::Copy(a, b)),
        2 => pick().prop_map(Op::Decrease),
        2 => Just(Op::Increase),
        2 => pick().prop_map(Op::Exchange),
        1 => (pick(), any::<u64>()).prop_map(|(p, d)| Op::Descriptor(p, d)),
    ]
}

/// A guest under test and what it believes.
struct World {
    guest: Guest,
    pool: Vec<Mfn>,
    /// Somebody else's frame, one that the hypervisor shares with somebody else, one that is not RAM, and one beyond.
    others: [Mfn; 4],
    pins: BTreeSet<u64>,
    /// Frames that a TLB may still have as writable.
    tlb: BTreeSet<u64>,
    flushes: usize,
}

impl World {
    fn new(preempt_every: u32) -> Self {
        let guest = Guest::new(FRAMES);
        guest.domain.permissions.write().iomem.insert(FRAMES as u64, 1 << 20);
        let other = crate::mock::domain(&guest.hv, 1, 1, 8);
        let others = [
            guest.hv.alloc_domain_page(&other, 0).unwrap(),
            guest.hv.alloc_frames(0).unwrap(),
            Mfn(FRAMES as u64 + 5),
            Mfn((1 << 40) - 1),
        ];
        // Live as writable, so that only its owner keeps the domain from mapping it.
        guest.hv.share_xen_page(&other, others[1]);
        let pool = (0..POOL).map(|_| guest.page()).collect();
        guest.hv.platform.preempt_every.store(preempt_every, Relaxed);
        Self { guest, pool, others, pins: BTreeSet::new(), tlb: BTreeSet::new(), flushes: 0 }
    }

    fn frame(&self, pick: Pick) -> Mfn {
        self.pool.get(pick as usize).copied().unwrap_or_else(|| self.others[(pick as usize - POOL) % 4])
    }

    /// Whether the guest can have this frame mapped writable.
    fn may_poke(&self, mfn: Mfn) -> bool {
        let Some(info) = self.guest.hv.frame(mfn) else { return false };
        let word = info.type_word();
        info.owner() == Some(self.guest.domain.id)
            && !word.is_busy()
            && matches!(word.live(), None | Some(PageType::Writable))
    }

    fn poke(&mut self, mfn: Mfn, slot: usize, value: u64) {
        if self.may_poke(mfn) {
            self.guest.poke(mfn, slot, value);
        }
    }

    fn run(&mut self, op: &Op) -> i64 {
        let g = &self.guest;
        match op {
            Op::Poke(table, slot, flags, page) => {
                let value = entry(self.frame(*page), *flags);
                self.poke(self.frame(*table), SLOTS[*slot as usize], value);
                0
            }
            Op::Chain(frames) => {
                for pair in frames.windows(2) {
                    let value = entry(self.frame(pair[1]), RW);
                    self.poke(self.frame(pair[0]), 0, value);
                }
                0
            }
            Op::Update(list, cmd) => {
                let list: Vec<_> = list
                    .iter()
                    .map(|(t, s, f, p)| (self.frame(*t), SLOTS[*s as usize], entry(self.frame(*p), *f)))
                    .collect();
                g.updates(&list, *cmd)
            }
            Op::Pin(level, pick) => {
                let result = g.pin(*level, self.frame(*pick));
                if result == 0 {
                    assert!(self.pins.insert(self.frame(*pick).0), "pinned twice");
                }
                result
            }
            Op::Unpin(pick) => {
                let mfn = self.frame(*pick);
                let result = g.unpin(mfn);
                assert_eq!(
                    result == 0,
                    self.pins.remove(&mfn.0),
                    "unpinning what is pinned, and only that, works"
                );
                result
            }
            Op::NewBase(pick) => g.ext(MMUEXT_NEW_BASEPTR, self.frame(*pick).0, 0),
            Op::NewUser(pick) => g.ext(MMUEXT_NEW_USER_BASEPTR, self.frame(*pick).0, 0),
            Op::MapVa(slots, flags, page, uvmf) => {
                g.map_va(address(*slots), entry(self.frame(*page), *flags), *uvmf)
            }
            Op::Emulate(a, b, flags, page, cmpxchg) => {
                let va = address([0, 0, 0, *a]) + SLOTS[*b as usize] as u64 * 8;
                let new = entry(self.frame(*page), *flags);
                let result = g.emulate(va, cmpxchg.then_some(0), new, 8);
                i64::from(result == crate::page::PtWrite::Done)
            }
            Op::Gdt(frames) => {
                let frames: Vec<_> = frames.iter().map(|p| self.frame(*p)).collect();
                g.set_gdt(&frames, frames.len() as u32 * 512)
            }
            Op::Ldt(entries) => g.ext(MMUEXT_SET_LDT, 0, u64::from(*entries)),
            Op::Clear(pick) => g.ext(MMUEXT_CLEAR_PAGE, self.frame(*pick).0, 0),
            Op::Copy(to, from) => g.ext(MMUEXT_COPY_PAGE, self.frame(*to).0, self.frame(*from).0),
            Op::Decrease(pick) => self.decrease(*pick),
            Op::Increase => self.increase(),
            Op::Exchange(pick) => self.exchange(*pick),
            Op::Descriptor(pick, value) => {
                let at = self.frame(*pick).addr().0 + 8;
                g.call(crate::hypercall::descriptor::update_descriptor, [at, *value, 0, 0, 0, 0])
            }
        }
    }

    fn reservation(&self, mfn: u64, offset: u64) -> XenMemoryReservation {
        let at = self.guest.put_at(offset, &[mfn]);
        XenMemoryReservation {
            extent_start: at.into(),
            nr_extents: 1,
            domid: DOMID_SELF,
            ..Default::default()
        }
    }

    fn decrease(&mut self, pick: Pick) -> i64 {
        let mfn = self.frame(pick);
        self.guest.memory(XENMEM_DECREASE_RESERVATION, &self.reservation(mfn.0, 0x2000))
    }

    fn increase(&mut self) -> i64 {
        let reservation = self.reservation(0, 0x2000);
        let done = self.guest.memory(XENMEM_INCREASE_RESERVATION, &reservation);
        if done == 1 {
            let mfn: u64 =
                crate::guest_ptr::GuestPtr::from(reservation.extent_start).read(&self.guest.hv).unwrap();
            // It takes the place of one that the guest gave up, if there is one.
            let gone =
                self.pool.iter().position(|m| self.guest.hv.page_owner(*m) != Some(self.guest.domain.id));
            if let Some(place) = gone {
                self.pool[place] = Mfn(mfn);
            }
        }
        done
    }

    fn exchange(&mut self, pick: Pick) -> i64 {
        let mfn = self.frame(pick);
        let (in_, out) = (self.reservation(mfn.0, 0x2000), self.reservation(7, 0x2008));
        let result = self.guest.memory(XENMEM_EXCHANGE, &XenMemoryExchange { in_, out, nr_exchanged: 0 });
        if result == 0 {
            let new: u64 = crate::guest_ptr::GuestPtr::from(out.extent_start).read(&self.guest.hv).unwrap();
            self.pool.iter_mut().filter(|m| **m == mfn).for_each(|m| *m = Mfn(new));
        }
        result
    }

    /// Recounts everything, and looks whether an old TLB entry lets the guest write a table.
    fn check(&mut self) -> Scan {
        let scan = check(&self.guest, &self.pins);
        if self.guest.flushes() != self.flushes {
            self.flushes = self.guest.flushes();
            self.tlb.clear();
        }
        self.tlb.extend(&scan.writable);
        let seen: Vec<_> = self.tlb.intersection(&scan.guarded).collect();
        assert!(seen.is_empty(), "a stale TLB entry still writes to {seen:x?}");
        scan
    }

    /// The state that a guest can see, and all counts.
    fn state(&self) -> Vec<(u64, u64, Vec<u64>)> {
        let table = self.guest.hv.platform.frame_table();
        let of = |mfn: usize| {
            let (count, word) = (table[mfn].count(), table[mfn].type_word());
            let used = if count.refs() == 0 { 0 } else { count.0 };
            let typed = if word.live().is_some() { word.0 } else { 0 };
            let words = self.guest.hv.platform.frame_words(Mfn(mfn as u64));
            (used, typed, SLOTS.iter().map(|s| words[*s].load(Relaxed)).collect())
        };
        (0..table.len()).map(of).collect()
    }
}

/// The address that these slots of L4, L3, L2 and L1 translate.
fn address(slots: [u8; 4]) -> u64 {
    let va = slots.iter().fold(0, |va, s| va << 9 | SLOTS[*s as usize] as u64) << 12;
    if va >> 47 == 1 { va | 0xffff << 48 } else { va }
}

proptest! {
    #[test]
    fn counts_never_drift(ops in prop::collection::vec(op(), 1..60), preempt in 0u32..4) {
        let mut world = World::new(preempt);
        world.check();
        for op in &ops {
            world.run(op);
            world.check();
        }
        tear_down(world);
    }

    #[test]
    fn preemption_changes_nothing(ops in prop::collection::vec(op(), 1..40), every in 1u32..5) {
        let (mut smooth, mut jumpy) = (World::new(0), World::new(every));
        for op in &ops {
            prop_assert_eq!(smooth.run(op), jumpy.run(op), "{:?}", op);
            jumpy.check();
        }
        prop_assert_eq!(smooth.state(), jumpy.state());
    }
}

/// After the teardown everything is free.
fn tear_down(world: World) {
    let Guest { hv, domain } = world.guest;
    hv.domains.begin_dying(&domain);
    let mut patience = super::PATIENCE;
    while hv.release_domain_pages(&domain).is_err() {
        patience -= 1;
        assert!(patience > 0, "the teardown never ends");
    }
    for (mfn, info) in hv.platform.frame_table().iter().enumerate() {
        assert_ne!(
            info.owner().filter(|_| !info.count().is_xenheap()),
            Some(domain.id),
            "{mfn:#x} is left: {info:?}"
        );
    }
    assert_eq!(domain.pages.current(), 0);
}
