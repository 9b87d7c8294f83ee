//! What CPUs remember of page tables, and what memory holds behind their caches, against what frames are by now.
//!
//! Two domains, one of them privileged, run on three CPUs whose TLBs keep everything until it is flushed. They map, unmap without flushing, access memory, make
//! pages tables and descriptor pages, give pages up and get others; the hypervisor takes frames for itself, shares some, and takes
//! them back. After each step everything that some CPU can reach by what it remembers is looked at: nothing of it may be a
//! table or a descriptor page that can be written, another domain's, or the hypervisor's. The privileged domain drives devices and maps
//! some of the pages uncached; the caches may lose what they have at any time. Memory must hold nothing else of a table than they
//! show, nor of a frame that is free or the hypervisor's.

use super::{PATIENCE, RW, SELF, entry};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::guest_ptr::GuestPtr;
use crate::hypercall::{Cx, Outcome, descriptor, memory as memory_calls, mmu};
use crate::ids::{CpuId, Mfn};
use crate::mock::{FLAT_BASE, MockPlatform, Reach, domain, hypervisor};
use crate::page::{DOMID_XEN, FrameInfo, PageType, pte};
use crate::platform::{GuestFrame, Platform};
use crate::regs::Regs;
use core::sync::atomic::Ordering::Relaxed;
use proptest::prelude::*;
use std::sync::Arc;
use std::vec;
use std::vec::Vec;
use xen_abi::memory::*;
use xen_abi::xen::*;
use zerocopy::{Immutable, IntoBytes};

const FRAMES: usize = 56;
/// Pages of each domain besides its tables.
const POOL: usize = 4;
/// Entries of each L1 table that are used.
const SLOTS: u64 = 4;
const CPUS: usize = 3;

type Handler = fn(Cx<'_, MockPlatform>, &[u64; 6], &mut Regs) -> Outcome;

#[derive(Clone, Debug)]
enum Op {
    /// `update_va_mapping` of a page of the first or the second L1 table, with some kind of flush.
    Map {
        va: u64,
        page: usize,
        flags: u64,
        flush: u64,
    },
    /// The same by `mmu_update`.
    Update {
        va: u64,
        page: usize,
        flags: u64,
    },
    /// The privileged domain maps a page of the other one.
    Foreign {
        va: u64,
        page: usize,
        flags: u64,
    },
    /// The second L1 table enters the L2 table, or leaves it.
    Link(bool),
    /// Ring 3 reads or writes; what it writes is an entry that gives it some frame of the machine.
    Access {
        va: u64,
        write: Option<u64>,
    },
    Pin(u32, usize),
    Unpin(usize),
    Gdt(Option<usize>),
    Clear(usize),
    Decrease(usize),
    Increase,
    Exchange(usize),
    Flush(u32),
    /// `MMUEXT_TLB_FLUSH_MULTI` for no vCPU.
    FlushNone,
    /// The address space is loaded anew.
    Reload,
    /// This CPU runs the other domain from now on, if that has a vCPU left.
    Switch,
    /// The hypervisor takes a frame for itself, or gives one back.
    Heap(bool),
    /// The hypervisor shares a frame with the domain, or ends that.
    Share(bool),
    /// Time passes for CPUs that nobody looks at.
    Ticks(u64),
    /// The caches lose what they have.
    Evict,
}

fn op() -> impl Strategy<Value = Op> {
    let page = || 0..POOL + 1;
    let va = || (0..2 * SLOTS).prop_map(|n| (n / SLOTS) << 21 | (n % SLOTS) << 12);
    let types = prop_oneof![Just(pte::PWT), Just(pte::PCD), Just(pte::PAT), Just(pte::CACHE_BITS)];
    let uncached = types.prop_map(|bits| RW | bits).boxed();
    let flags = || prop_oneof![6 => Just(RW), 2 => uncached.clone(), 2 => Just(pte::PRESENT), 4 => Just(0)];
    let flush = prop_oneof![
        3 => Just(0),
        1 => Just(UVMF_INVLPG | UVMF_LOCAL),
        1 => Just(UVMF_TLB_FLUSH | UVMF_ALL),
    ];
    let period = 1u64 << crate::page::tlb::STAMP_BITS;
    prop_oneof![
        6 => (va(), page(), flags(), flush)
            .prop_map(|(va, page, flags, flush)| Op::Map { va, page, flags, flush }),
        4 => (va(), page(), flags()).prop_map(|(va, page, flags)| Op::Update { va, page, flags }),
        3 => (va(), page(), flags()).prop_map(|(va, page, flags)| Op::Foreign { va, page, flags }),
        3 => any::<bool>().prop_map(Op::Link),
        8 => (va(), prop::option::weighted(0.2, 0..FRAMES as u64)).prop_map(|(va, write)| Op::Access { va, write }),
        5 => (prop_oneof![6 => Just(1), 1 => 2u32..5], page()).prop_map(|(level, page)| Op::Pin(level, page)),
        3 => page().prop_map(Op::Unpin),
        1 => prop::option::of(page()).prop_map(Op::Gdt),
        1 => page().prop_map(Op::Clear),
        4 => page().prop_map(Op::Decrease),
        3 => Just(Op::Increase),
        1 => page().prop_map(Op::Exchange),
        1 => prop_oneof![Just(MMUEXT_TLB_FLUSH_LOCAL), Just(MMUEXT_TLB_FLUSH_ALL)].prop_map(Op::Flush),
        1 => Just(Op::FlushNone),
        1 => Just(Op::Reload),
        1 => Just(Op::Switch),
        3 => any::<bool>().prop_map(Op::Heap),
        2 => any::<bool>().prop_map(Op::Share),
        2 => prop_oneof![Just(period / 2), Just(period - 1), Just(period), 0..3 * period].prop_map(Op::Ticks),
        2 => Just(Op::Evict),
    ]
}

/// A domain, its tables `[L4, L3, L2, L1, L1]` and its pages.
struct Tenant {
    domain: Arc<Domain<MockPlatform>>,
    tables: [Mfn; 5],
    pool: Vec<Mfn>,
    /// Frames that the hypervisor shares with it.
    shared: Vec<Mfn>,
}

struct World {
    hv: Hypervisor<MockPlatform>,
    tenants: [Tenant; 2],
    /// By CPU: which vCPU of which tenant it runs.
    running: [(usize, usize); CPUS],
    heap: Vec<Mfn>,
    here: usize,
}

impl Tenant {
    fn new(hv: &Hypervisor<MockPlatform>, id: u16) -> Self {
        let domain = domain(hv, id, CPUS as u32, FRAMES as u64);
        domain.dirty_cpus.remove(CpuId(0));
        let page = || {
            let mfn = hv.alloc_domain_page(&domain, 0).expect("a page");
            hv.platform.clear_frame(GuestFrame::held(mfn));
            mfn
        };
        let tables: [Mfn; 5] = core::array::from_fn(|_| page());
        let link = |table: usize, index: usize, to: Mfn| {
            hv.platform.frame_words(tables[table])[index].store(entry(to, RW), Relaxed);
        };
        (0..3).for_each(|n| link(n, 0, tables[n + 1]));
        link(2, 1, tables[4]);
        let pool: Vec<_> = (0..POOL).map(|_| page()).collect();
        for (n, mfn) in pool.iter().enumerate().take(SLOTS as usize) {
            hv.platform.frame_words(tables[3])[n].store(entry(*mfn, RW), Relaxed);
        }
        assert_eq!(hv.pin_table(&domain, tables[0], PageType::L4), Ok(()));
        for vcpu in &domain.vcpus {
            hv.set_first_baseptr(&domain, vcpu, tables[0]).expect("a good table");
        }
        Self { domain, tables, pool, shared: Vec::new() }
    }
}

impl World {
    fn new() -> Self {
        let hv = hypervisor(FRAMES);
        hv.platform.cpus.store(CPUS as u32, Relaxed);
        let tenants = [Tenant::new(&hv, 0), Tenant::new(&hv, 1)];
        tenants[0].domain.permissions.write().iomem.insert(0xfee00, 0xfee00);
        let running = [(0, 0), (0, 1), (1, 2)];
        let mut world = Self { hv, tenants, running, heap: Vec::new(), here: 0 };
        for cpu in 0..CPUS {
            world.go_to(cpu);
            world.load();
        }
        world.go_to(0);
        world
    }

    fn go_to(&mut self, cpu: usize) {
        self.here = cpu;
        self.hv.platform.cpu.store(cpu as u32, Relaxed);
    }

    fn tenant(&self) -> &Tenant {
        &self.tenants[self.running[self.here].0]
    }

    /// What the binary does before a vCPU runs: its flush of this CPU is noted nowhere.
    fn load(&self) {
        let (tenant, vcpu) = self.running[self.here];
        let domain = &self.tenants[tenant].domain;
        domain.dirty_cpus.insert(CpuId(self.here as u32));
        self.hv.platform.load_page_tables(&domain.vcpus[vcpu]);
    }

    fn put<T: IntoBytes + Immutable>(&self, offset: u64, values: &[T]) -> u64 {
        GuestPtr::new(FLAT_BASE + offset).write_slice(&self.hv, values).expect("the flat buffer");
        FLAT_BASE + offset
    }

    fn call(&self, handler: Handler, mut args: [u64; 6]) -> i64 {
        let (tenant, vcpu) = self.running[self.here];
        let domain = &self.tenants[tenant].domain;
        let cx = Cx { hv: &self.hv, domain, vcpu: &domain.vcpus[vcpu] };
        for _ in 0..PATIENCE {
            match handler(cx, &args, &mut Regs::default()) {
                Outcome::Done(value) => return value,
                Outcome::Again(next) => args = next,
                Outcome::RegsReplaced => unreachable!("no such hypercall here"),
            }
        }
        panic!("the hypercall never ends");
    }

    fn ext(&self, cmd: u32, arg1: u64, arg2: u64) -> i64 {
        let at = self.put(0, &[MmuextOp { cmd, _pad0: 0, arg1, arg2 }]);
        self.call(mmu::mmuext_op, [at, 1, 0, SELF, 0, 0])
    }

    fn update(&self, table: Mfn, index: u64, val: u64) -> i64 {
        self.update_foreign(table, index, val, SELF)
    }

    fn update_foreign(&self, table: Mfn, index: u64, val: u64, owner: u64) -> i64 {
        let at = self.put(0, &[MmuUpdate { ptr: table.addr().0 + index * 8, val }]);
        self.call(mmu::mmu_update, [at, 1, 0, owner, 0, 0])
    }

    fn memory<T: IntoBytes + Immutable>(&self, cmd: u32, argument: &T) -> i64 {
        let at = self.put(0x1000, core::slice::from_ref(argument));
        self.call(memory_calls::memory_op, [u64::from(cmd), at, 0, 0, 0, 0])
    }

    /// One of the domain's pages, or the frame that was shared with it last.
    fn page(&self, n: usize) -> Mfn {
        let tenant = self.tenant();
        tenant.pool.get(n).or(tenant.shared.last()).copied().unwrap_or(tenant.pool[0])
    }

    fn run(&mut self, op: &Op) {
        let tables = self.tenant().tables;
        match *op {
            Op::Map { va, page, flags, flush } => {
                let new = entry(self.page(page), flags);
                self.call(mmu::update_va_mapping, [va, new, flush, 0, 0, 0]);
            }
            Op::Update { va, page, flags } => {
                let new = entry(self.page(page), flags);
                self.update(tables[3 + (va >> 21) as usize], va >> 12 & 511, new);
            }
            Op::Foreign { va, page, flags } => {
                let other = &self.tenants[1];
                let new = entry(other.pool[page % POOL], flags);
                let table = tables[3 + (va >> 21) as usize];
                self.update_foreign(table, va >> 12 & 511, new, other.domain.id.0.into());
            }
            Op::Link(link) => {
                self.update(tables[2], 1, if link { entry(tables[4], RW) } else { 0 });
            }
            Op::Access { va, write } => {
                let value = write.map(|frame| entry(Mfn(frame), RW | pte::USER));
                self.hv.platform.access(va + 8 * write.unwrap_or(0), value);
            }
            Op::Pin(level, page) => {
                self.ext(level - 1, self.page(page).0, 0);
            }
            Op::Unpin(page) => {
                self.ext(MMUEXT_UNPIN_TABLE, self.page(page).0, 0);
            }
            Op::Gdt(page) => {
                let frames: Vec<u64> = page.iter().map(|page| self.page(*page).0).collect();
                let at = self.put(0, &frames);
                self.call(descriptor::set_gdt, [at, frames.len() as u64 * 512, 0, 0, 0, 0]);
            }
            Op::Clear(page) => {
                self.ext(MMUEXT_CLEAR_PAGE, self.page(page).0, 0);
            }
            Op::Decrease(page) => {
                self.memory(XENMEM_DECREASE_RESERVATION, &self.reservation(self.page(page), 0x2000));
            }
            Op::Increase => self.increase(),
            Op::Exchange(page) => self.exchange(self.page(page)),
            Op::Flush(cmd) => {
                self.ext(cmd, 0, 0);
            }
            Op::FlushNone => {
                let bitmap = self.put(0x3000, &[0u64]);
                self.ext(MMUEXT_TLB_FLUSH_MULTI, 0, bitmap);
            }
            Op::Reload => {
                self.ext(MMUEXT_NEW_BASEPTR, tables[0].0, 0);
            }
            Op::Switch => {
                let (before, vcpu) = self.running[self.here];
                self.running[self.here] = (1 - before, vcpu);
                self.load();
                self.tenants[before].domain.dirty_cpus.remove(CpuId(self.here as u32));
            }
            Op::Heap(true) => self.heap.extend(self.hv.alloc_frames(0)),
            Op::Heap(false) => self.heap.pop().into_iter().for_each(|mfn| self.hv.frames.free(mfn, 0)),
            Op::Share(true) => self.share(),
            Op::Share(false) => {
                let tenant = &mut self.tenants[self.running[self.here].0];
                let hv = &self.hv;
                tenant.shared.retain(|mfn| {
                    let alone = hv.unshare_xen_page(*mfn);
                    if alone {
                        hv.frames.free(*mfn, 0);
                    }
                    !alone
                });
            }
            Op::Ticks(ticks) => self.hv.frames.tlb().pass(ticks),
            Op::Evict => self.hv.platform.evict(),
        }
    }

    fn share(&mut self) {
        let Some(mfn) = self.hv.alloc_frames(0) else { return };
        let tenant = &mut self.tenants[self.running[self.here].0];
        self.hv.share_xen_page(&tenant.domain, mfn);
        tenant.shared.push(mfn);
    }

    fn reservation(&self, mfn: Mfn, offset: u64) -> XenMemoryReservation {
        let extent_start = self.put(offset, &[mfn.0]).into();
        XenMemoryReservation { extent_start, nr_extents: 1, domid: DOMID_SELF, ..Default::default() }
    }

    /// A frame more, in the place of one that the domain gave up, if there is one.
    fn increase(&mut self) {
        let reservation = self.reservation(Mfn(0), 0x2000);
        if self.memory(XENMEM_INCREASE_RESERVATION, &reservation) == 1 {
            let new = GuestPtr::from(reservation.extent_start).read(&self.hv).expect("the flat buffer");
            let (hv, tenant) = (&self.hv, &mut self.tenants[self.running[self.here].0]);
            let id = tenant.domain.id;
            if let Some(gone) = tenant.pool.iter_mut().find(|mfn| hv.page_owner(**mfn) != Some(id)) {
                *gone = Mfn(new);
            }
        }
    }

    fn exchange(&mut self, mfn: Mfn) {
        let (in_, out) = (self.reservation(mfn, 0x2000), self.reservation(Mfn(7), 0x2008));
        if self.memory(XENMEM_EXCHANGE, &XenMemoryExchange { in_, out, nr_exchanged: 0 }) == 0 {
            let new = GuestPtr::from(out.extent_start).read(&self.hv).expect("the flat buffer");
            let pool = &mut self.tenants[self.running[self.here].0].pool;
            pool.iter_mut().filter(|at| **at == mfn).for_each(|at| *at = Mfn(new));
        }
    }

    /// Looks at everything that some CPU can reach, and at what the caches keep from the hypervisor.
    fn check(&self) {
        for (mfn, info) in self.hv.platform.table().iter().enumerate() {
            let word = info.type_word();
            let guests = info.owner().is_some_and(|owner| owner != DOMID_XEN);
            let is_data = guests && !word.is_busy() && matches!(word.live(), None | Some(PageType::Writable));
            assert!(is_data || !self.hv.platform.is_behind(Mfn(mfn as u64)), "{mfn:#x} in memory: {info:?}");
        }
        for (cpu, (tenant, _)) in self.running.iter().enumerate() {
            let domain = &self.tenants[*tenant].domain;
            for reach in self.hv.platform.reach(CpuId(cpu as u32)) {
                if let Some(info) = self.hv.frame(reach.frame)
                    && let Some(why) = forbidden(info, domain, reach)
                {
                    panic!(
                        "CPU {cpu}, which runs domain {}, reaches {why}: {reach:x?}, {info:?}",
                        domain.id.0
                    );
                }
            }
        }
    }
}

/// Why a domain must not reach a frame like that. The privileged one may have mapped any page of the other's.
fn forbidden(info: &FrameInfo, domain: &Domain<MockPlatform>, reach: Reach) -> Option<&'static str> {
    let word = info.type_word();
    match info.owner() {
        // Free: what it writes there is cleared or overwritten before it means anything.
        None => None,
        Some(DOMID_XEN) => Some("a frame of the hypervisor's"),
        Some(owner) if owner != domain.id && !domain.privileged => Some("a frame that is not its own"),
        Some(_) if !reach.writable => None,
        Some(_) if word.is_busy() => Some("a table for writing"),
        Some(_) => match word.live() {
            None | Some(PageType::Writable) => None,
            Some(_) => Some("a table or descriptor page for writing"),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]
    #[test]
    fn nothing_stale_reaches_what_it_must_not(
        ops in prop::collection::vec((0..CPUS, op()), 1..160),
    ) {
        let mut world = World::new();
        world.check();
        for (cpu, op) in &ops {
            world.go_to(*cpu);
            world.run(op);
            world.check();
        }
    }
}

/// A domain leaves its translations in the TLB, gives the frames up, and the hypervisor's heap grows into them.
#[test]
fn the_heap_gets_no_frame_that_a_guest_still_reaches() {
    let mut world = World::new();
    let page = world.page(2);
    for cpu in [0, 1] {
        world.go_to(cpu);
        world.run(&Op::Access { va: 0x2000, write: Some(1) });
    }
    world.run(&Op::Update { va: 0x2000, page: 2, flags: 0 });
    world.run(&Op::Decrease(2));
    assert!(world.hv.platform.access(0x2000, Some(1)).is_some_and(|(frame, _)| frame == page), "stale");
    let taken: Vec<_> = core::iter::from_fn(|| world.hv.alloc_frames(0)).collect();
    assert!(taken.contains(&page));
    world.check();
    assert_eq!(world.hv.platform.access(0x2000, Some(1)), None);
}

/// A domain lets half a period of the short stamps pass with flushes of nothing while its other vCPU keeps a translation, and makes
/// the page a table.
#[test]
fn flushes_of_nothing_let_no_time_pass() {
    let mut world = World::new();
    world.go_to(1);
    world.run(&Op::Access { va: 0x2000, write: Some(1) });
    world.hv.platform.access(0x2008, Some(0)).expect("mapped");
    world.go_to(0);
    world.run(&Op::Update { va: 0x2000, page: 2, flags: 0 });
    let before = world.hv.frames.tlb().now();
    (0..10).for_each(|_| world.run(&Op::FlushNone));
    assert_eq!(world.hv.frames.tlb().now(), before);
    world.run(&Op::Ticks((1 << 24) + 1));
    world.run(&Op::Pin(1, 2));
    world.check();
    let word = world.hv.frame(world.page(2)).expect("a frame").type_word();
    assert_eq!(word.live(), Some(PageType::L1));
    world.go_to(1);
    assert_eq!(world.hv.platform.access(0x2000, Some(1)), None);
}

/// The privileged domain had a page of another one mapped writable, and did not flush when it dropped that: only its own owner's
/// CPUs are flushed when the page becomes a table.
#[test]
fn a_page_that_another_domain_had_mapped_becomes_a_table() {
    let mut world = World::new();
    let page = world.tenants[1].pool[1];
    world.run(&Op::Foreign { va: 0x1000, page: 1, flags: RW });
    assert!(world.hv.platform.access(0x1000, Some(0)).is_some_and(|(frame, _)| frame == page));
    world.run(&Op::Foreign { va: 0x1000, page: 1, flags: 0 });
    world.go_to(2);
    world.run(&Op::Update { va: 0x1000, page: 1, flags: 0 });
    world.run(&Op::Pin(1, 1));
    let word = world.hv.frame(page).expect("a frame").type_word();
    assert_eq!(word.live(), Some(PageType::L1));
    world.check();
}
