//! What must be true of the machine when both CPUs are done: counted by looking at everything there is.

use super::world::World;
use crate::domain::{Domain, Vcpu};
use crate::event;
use crate::grant;
use crate::ids::{CpuId, MachineAddr, Mfn};
use crate::mock::{MockPlatform, Reach};
use crate::page::{Count, DOMID_XEN, FrameInfo, PageType, Type, pte};
use crate::platform::Platform;
use crate::sched::Reasons;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

type MockDomain = Arc<Domain<MockPlatform>>;

/// What uses a frame.
#[derive(Clone, Default, Debug)]
struct Uses {
    typed: BTreeMap<PageType, u64>,
    plain: u64,
}

struct Recount<'a> {
    world: &'a World,
    uses: Vec<Uses>,
}

/// Looks at everything.
pub fn check(world: &World) {
    let (alive, dying): (Vec<_>, Vec<_>) =
        (world.hv.domains.all().collect(), world.hv.domains.dying().collect());
    // What waits to be given up is given up by the domain's next hypercalls.
    for domain in alive.iter().chain(&dying) {
        while world.hv.work_off_doomed(domain).is_err() {}
    }
    // A CPU wakes the vCPUs that poll for what it raised in a batch when it next serves its timers; one step is all of them here.
    for domain in &alive {
        world.hv.settle_some(domain);
    }
    let mut recount = Recount { world, uses: vec![Uses::default(); world.hv.platform.frame_table().len()] };
    (0..recount.uses.len()).for_each(|mfn| recount.table(mfn));
    alive.iter().for_each(|domain| recount.domain(domain));
    recount.compare(&alive.iter().chain(&dying).collect::<Vec<_>>());
    for domain in &alive {
        event::tests::whole::check(&world.hv, domain);
        grant::tests::whole::check(&world.hv, domain);
    }
    for domain in &world.domains {
        if domain.is_dying() {
            let stopped = |vcpu: &Vcpu<MockPlatform>| vcpu.sched.has(Reasons::STOPPED);
            assert!(domain.vcpus.iter().all(stopped), "a vCPU of {:?}, which is gone, may run", domain.id);
        }
    }
    reach(world);
}

/// Looks at what CPUs can reach by what they remember.
pub fn reach(world: &World) {
    for cpu in 0..2 {
        let runs = &world.domains[world.running[cpu].load(Relaxed)];
        for reach in world.hv.platform.reach(CpuId(cpu as u32)) {
            reached(world, runs, reach);
        }
    }
}

impl Recount<'_> {
    fn typed(&mut self, mfn: Mfn, t: PageType) {
        if mfn.0 != 0 {
            *self.uses[mfn.0 as usize].typed.entry(t).or_default() += 1;
        }
    }

    /// A mapping that holds its references itself.
    fn mapping(&mut self, mfn: Mfn, writable: bool) {
        if writable {
            self.typed(mfn, PageType::Writable);
        } else {
            self.uses[mfn.0 as usize].plain += 1;
        }
    }

    fn table(&mut self, mfn: usize) {
        let platform = &self.world.hv.platform;
        let word = platform.frame_table()[mfn].type_word();
        if platform.frame_table()[mfn].count().refs() == 0 {
            // The type word of a free frame holds links.
            return;
        }
        if word.is_pinned() && !word.is_busy() {
            self.typed(Mfn(mfn as u64), word.page_type());
        }
        let Some(level) = word.page_type().level() else { return };
        let entries = match (word.is_busy(), word.count()) {
            (true, _) => word.entries(),
            (false, 0) => 0,
            (false, _) => pte::ENTRIES,
        };
        let words = platform.frame_words(Mfn(mfn as u64));
        for (index, slot) in words.iter().enumerate().take(entries) {
            let entry = slot.load(Relaxed);
            if entry & pte::PRESENT == 0 || pte::is_hypervisor_slot(level, index) {
                continue;
            }
            let named = pte::frame_of(entry);
            if level == 1 {
                self.mapping(named, entry & pte::RW != 0);
            } else if named.0 as usize != mfn {
                let t = platform.frame_table()[named.0 as usize].type_word().page_type();
                let linear = t.level() == Some(level);
                let below = [PageType::L1, PageType::L2, PageType::L3][level as usize - 2];
                self.typed(named, if linear { t } else { below });
            }
        }
    }

    /// What a domain's vCPUs, events and grants hold.
    fn domain(&mut self, domain: &MockDomain) {
        let hv = &self.world.hv;
        for vcpu in &domain.vcpus {
            for root in [&vcpu.pv.guest_table, &vcpu.pv.guest_table_user] {
                root.get().iter().for_each(|root| self.typed(*root, PageType::L4));
            }
            vcpu.pv.gdt_frames.iter().for_each(|f| self.typed(Mfn(f.load(Relaxed)), PageType::SegDesc));
            hv.ldt_frames(domain, vcpu).iter().for_each(|frame| self.typed(*frame, PageType::SegDesc));
            let info = MachineAddr(vcpu.pv.vcpu_info.load(Relaxed));
            if info.0 != 0 && info.mfn() != domain.shared_info {
                self.typed(info.mfn(), PageType::Writable);
            }
        }
        event::tests::whole::frames(domain).iter().for_each(|frame| self.typed(*frame, PageType::Writable));
        for (mfn, readonly) in grant::tests::whole::device_mappings(domain) {
            self.mapping(mfn, !readonly);
        }
    }

    fn compare(&self, domains: &[&MockDomain]) {
        let table = self.world.hv.platform.frame_table();
        let mut free = vec![false; table.len()];
        for (mfn, info) in table.iter().enumerate() {
            if let Some(order) = info.count().free_order() {
                free[mfn..mfn + (1 << order)].fill(true);
            }
        }
        for (mfn, (info, uses)) in table.iter().zip(&self.uses).enumerate().skip(1) {
            let (count, word) = (info.count(), info.type_word());
            if free[mfn] || count.refs() == 0 {
                assert!(uses.typed.is_empty() && uses.plain == 0, "{mfn:#x} is free and in use: {uses:?}");
                assert!(free[mfn], "{mfn:#x} is lost: {info:?}");
                continue;
            }
            frame(mfn, count, word, uses);
        }
        assert_eq!(self.world.hv.frames.free_count(), free.iter().filter(|free| **free).count() as u64);
        for domain in domains {
            let owned = table.iter().skip(1).zip(&free[1..]).filter(|(info, free)| {
                let count = info.count();
                !**free && count.refs() != 0 && count.owner() == domain.id && !count.is_xenheap()
            });
            assert_eq!(domain.pages.current(), owned.count() as u64, "pages of {:?}", domain.id);
        }
    }
}

/// Compares the words of a frame that is in use with what uses it.
fn frame(mfn: usize, count: Count, word: Type, uses: &Uses) {
    assert!(!word.has(Type::LOCKED), "{mfn:#x} stayed locked");
    assert!(uses.typed.len() <= 1, "{mfn:#x} is used as several things: {uses:?}");
    if count.is_xenheap() && !count.is_allocated() {
        assert!(uses.typed.is_empty() && uses.plain == 0, "{mfn:#x} is the hypervisor's: {uses:?}");
        return;
    }
    let shared = u64::from(count.is_xenheap());
    let typed = uses.typed.values().sum::<u64>() + shared;
    let live = if word.is_busy() { 0 } else { word.count() };
    assert_eq!(live, typed, "type references of {mfn:#x}, {:?}: {uses:?}", word.page_type());
    if let Some(t) = uses.typed.keys().next() {
        assert_eq!(word.page_type(), *t, "type of {mfn:#x}");
    }
    let own = u64::from(count.is_allocated());
    let held = u64::from(shared == 0 && (typed != 0 || word.is_busy()));
    assert_eq!(
        count.refs(),
        uses.plain + own + held,
        "references of {mfn:#x}: {uses:?}, {:?}",
        word.page_type()
    );
}

/// What a CPU that runs `domain` can reach must be what that domain may have.
fn reached(world: &World, domain: &MockDomain, reach: Reach) {
    let Some(info) = world.hv.frame(reach.frame) else { return };
    let wrong = |why: &str| panic!("{:?} reaches {why}: {reach:x?}, {info:?}", domain.id);
    // Free: what is written there is cleared or overwritten before it means anything.
    let Some(owner) = info.owner() else { return };
    if owner == DOMID_XEN {
        wrong("a frame of the hypervisor's");
    }
    if reach.writable && is_guarded(info) {
        wrong("a table or descriptor page for writing");
    }
    if owner != domain.id && !domain.privileged && !grant::tests::whole::maps(domain, owner, reach.frame) {
        wrong("a frame that is not its own");
    }
}

fn is_guarded(info: &FrameInfo) -> bool {
    let word = info.type_word();
    word.is_busy() || word.live().is_some_and(|t| t != PageType::Writable)
}
