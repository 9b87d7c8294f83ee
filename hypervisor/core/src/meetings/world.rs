//! The machine of a run: two CPUs and three domains, each with page tables, some pages, a grant table and ports.

use super::Op;
use crate::Hypervisor;
use crate::cpumask::CpuMask;
use crate::domain::{Accounts, Domain, VcpuFlags, VcpuRef};
use crate::guest_ptr::GuestPtr;
use crate::hypercall::{Cx, Outcome, dispatch};
use crate::ids::{CpuId, Mfn, Port, VcpuId};
use crate::mock::{self, FLAT_BASE, MockPlatform};
use crate::page::{PageType, pte};
use crate::platform::{GuestFrame, Platform};
use crate::regs::Regs;
use crate::sched::Scheduler;
use crate::time::TimerQueues;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};
use std::sync::Mutex;
use std::vec;
use std::vec::Vec;
use xen_abi::hypercall::nr;
use xen_abi::xen::{DOMID_SELF, MmuUpdate, MmuextOp};
use zerocopy::{Immutable, IntoBytes};

/// `DOMID_SELF` as hypercalls take it.
pub const SELF: u64 = DOMID_SELF as u64;
/// A writable entry.
pub const RW: u64 = pte::PRESENT | pte::RW | pte::USER;
/// A read-only one.
pub const RO: u64 = pte::PRESENT | pte::USER;
/// Frames of the machine.
const FRAMES: usize = 112;
/// Most pages of a domain.
const MOST_PAGES: u64 = 40;
/// Most times that a hypercall is made again.
const PATIENCE: usize = 100_000;
/// The entry of each domain's L1 table that maps that table itself, read-only.
pub const TABLE_SLOT: u64 = 20;
/// Ports that operations are about, bound from the start between domains 1 and 2.
pub const PORT: Port = Port(1);
/// Where large arguments lie in a CPU's part of the flat memory.
pub const FLAT_PAYLOAD: u64 = 0x1000;

/// Which CPU does something, as which domain.
#[derive(Clone, Copy, Debug)]
pub struct Who {
    pub cpu: usize,
    pub domain: usize,
    /// At the same time as another: its vCPU may be told to stop.
    meets: bool,
}

/// The machine, and what the domains know of their things.
pub struct World {
    pub hv: Hypervisor<MockPlatform>,
    pub domains: [Arc<Domain<MockPlatform>>; 3],
    /// Of each domain: L4 to L1, as they are loaded.
    pub tables: [[Mfn; 4]; 3],
    /// The page of domain 1 that operations are about.
    pub page: Mfn,
    /// Another one, and another L1 table of that domain that no table names.
    pub other: Mfn,
    pub spare_table: Mfn,
    /// A page of domain 2's.
    pub buffer: Mfn,
    /// The last port that domain 2 bound.
    pub far: AtomicU32,
    /// Frames of each domain's grant table.
    pub grant_tables: [Mfn; 3],
    /// The frame of domain 1's grant status words, when there was one.
    pub status: AtomicU64,
    /// Handles of mappings that domain 2 made, one more than each; 0: none.
    pub handles: [AtomicU64; 4],
    /// Pages of domain 1 that it gives up.
    pub given: Mutex<Vec<Mfn>>,
    /// Pages that domain 0 took in their place, and keeps.
    pub taken: Mutex<Vec<Mfn>>,
    /// Which domain's tables each CPU loaded last.
    pub running: [AtomicUsize; 2],
    before: Accounts,
}

impl World {
    pub fn new() -> Self {
        let mut hv = mock::hypervisor(FRAMES);
        hv.machine.apic_ids = vec![0, 1];
        hv.machine.acpi_ids = vec![0, 1];
        hv.platform.cpus.store(2, Relaxed);
        hv.sched = Scheduler::new(2);
        hv.timers = TimerQueues::new(2);
        let before = hv.accounts();
        let domains = [0, 1, 2].map(|id| {
            let domain = mock::domain(&hv, id, 3, MOST_PAGES);
            domain.dirty_cpus.remove(CpuId(0));
            domain
        });
        let page = |domain: usize| {
            let mfn = hv.alloc_domain_page(&domains[domain], 0).expect("a page");
            hv.platform.clear_frame(GuestFrame::held(mfn));
            mfn
        };
        let tables = [0, 1, 2].map(|id| {
            let tables: [Mfn; 4] = core::array::from_fn(|_| page(id));
            let link = |table: Mfn, index: u64, value: u64| {
                hv.platform.frame_words(table)[index as usize].store(value, Relaxed);
            };
            tables.windows(2).for_each(|pair| link(pair[0], 0, pair[1].addr().0 | RW));
            link(tables[3], TABLE_SLOT, tables[3].addr().0 | RO);
            let domain = &domains[id];
            assert_eq!(hv.pin_table(domain, tables[0], PageType::L4), Ok(()));
            for vcpu in &domain.vcpus[..2] {
                hv.set_first_baseptr(domain, vcpu, tables[0]).expect("a good table");
                vcpu.pv.set_flags(VcpuFlags::INITIALISED, true);
                vcpu.time.disable_periodic();
                let only = CpuMask::of(CpuId(vcpu.id.0));
                hv.set_affinity(&VcpuRef { domain: domain.clone(), id: vcpu.id }, &only).expect("a CPU");
            }
            domain.vm_assist.store(1 << 2, Relaxed);
            tables
        });
        let self_ = crate::ids::DomId(DOMID_SELF);
        let grant_tables = [0, 1, 2]
            .map(|id: usize| hv.setup_grant_table(&domains[id], self_, 1).expect("a grant table")[0]);
        let (page, other, spare_table, buffer) = (page(1), page(1), page(1), page(2));
        let port = hv.alloc_unbound(&domains[1], self_, domains[2].id).expect("a port");
        assert_eq!(port, PORT);
        let world = Self {
            hv,
            domains,
            tables,
            page,
            other,
            spare_table,
            buffer,
            far: AtomicU32::new(1),
            grant_tables,
            status: AtomicU64::new(0),
            handles: [const { AtomicU64::new(0) }; 4],
            given: Mutex::default(),
            taken: Mutex::default(),
            running: [const { AtomicUsize::new(1) }; 2],
            before,
        };
        for cpu in 0..2 {
            world.hv.platform.cpu.store(cpu as u32, Relaxed);
            world.load(1, cpu);
        }
        world
    }

    /// This CPU has the tables of a domain loaded from now on, and forgets nothing if it had them before.
    fn load(&self, domain: usize, cpu: usize) {
        let id = CpuId(cpu as u32);
        if self.running[cpu].load(Relaxed) == domain && self.hv.platform.has_tables(id) {
            return;
        }
        let new = &self.domains[domain];
        new.dirty_cpus.insert(id);
        if new.vcpus[cpu].pv.root().is_some() {
            self.hv.platform.load_page_tables(&new.vcpus[cpu]);
        }
        let old = self.running[cpu].swap(domain, Relaxed);
        if old != domain {
            self.domains[old].dirty_cpus.remove(id);
        }
    }

    fn vcpu(&self, who: Who) -> VcpuRef<MockPlatform> {
        VcpuRef { domain: self.domains[who.domain].clone(), id: VcpuId(who.cpu as u32) }
    }

    pub fn cx(&self, who: Who) -> Cx<'_, MockPlatform> {
        let domain = &self.domains[who.domain];
        Cx { hv: &self.hv, domain, vcpu: &domain.vcpus[who.cpu] }
    }

    /// An operation before the pair; answers whether it did what it is for.
    pub fn before(&self, op: &Op, cpu: usize) -> bool {
        self.hv.platform.cpu.store(cpu as u32, Relaxed);
        self.load(op.domain, cpu);
        (op.run)(self, Who { cpu, domain: op.domain, meets: false })
    }

    /// The vCPUs of the pair are to run.
    pub fn begin(&self, domains: [usize; 2]) {
        for (cpu, domain) in domains.into_iter().enumerate() {
            self.hv.bring_up(&self.vcpu(Who { cpu, domain, meets: true }));
        }
    }

    /// One CPU's part of the pair; answers whether it did what it is for.
    pub fn meeting(&self, op: &Op, cpu: usize) -> bool {
        let who = Who { cpu, domain: op.domain, meets: true };
        let hv = &self.hv;
        hv.platform.begin_running();
        let (me, mut last, mut done) = (self.vcpu(who), None, false);
        loop {
            let next = hv.schedule(last.as_ref());
            hv.vcpu_switched(last.as_ref(), next.as_ref());
            let Some(next) = next else { break };
            // Another one is a vCPU that operations brought up, which does nothing.
            if core::ptr::eq(next.vcpu(), me.vcpu()) && next.vcpu().sched.runnable() {
                self.load(who.domain, cpu);
                done = (op.run)(self, who);
            }
            hv.take_down(next.vcpu());
            last = Some(next);
        }
        hv.platform.end_running();
        done
    }

    /// Whether the vCPU may go on.
    pub fn may_run(&self, who: Who) -> bool {
        !who.meets || self.domains[who.domain].vcpus[who.cpu].sched.runnable()
    }

    /// A hypercall, made as often as it asks for that; `None`: its vCPU was stopped.
    pub fn call(&self, who: Who, number: u32, args: &[u64]) -> Option<i64> {
        let mut regs = Regs::default();
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        for _ in 0..PATIENCE {
            if !self.may_run(who) {
                return None;
            }
            (regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9) =
                (all[0], all[1], all[2], all[3], all[4], all[5]);
            match dispatch(self.cx(who), number.into(), &mut regs) {
                Outcome::Again(next) => all = next,
                Outcome::Done(value) => return Some(value),
                Outcome::RegsReplaced => unreachable!("no such hypercall here"),
            }
            if self.may_run(who) {
                self.hv.platform.quiet_point();
            }
            core::hint::spin_loop();
        }
        panic!("hypercall {number} makes no progress");
    }

    /// A word among the arguments of this CPU's vCPU.
    pub fn argument(&self, who: Who, offset: u64) -> u64 {
        GuestPtr::new(FLAT_BASE + 0x1_0000 * (1 + who.cpu as u64) + offset)
            .read(&self.hv)
            .expect("the flat buffer")
    }

    /// What domain 0 took is its own, whatever became of another domain at the same time.
    pub fn check_taken(&self) {
        for mfn in &*self.taken.lock().unwrap() {
            let count = self.hv.known_frame(*mfn).count();
            assert!(count.is_allocated() && count.owner() == self.domains[0].id, "{mfn:?} was taken away");
        }
    }

    /// As [`World::call`]: whether it answered 0.
    pub fn did(&self, who: Who, number: u32, args: &[u64]) -> bool {
        self.call(who, number, args) == Some(0)
    }

    /// Puts values where this CPU's vCPU has arguments.
    pub fn put<T: IntoBytes + Immutable>(&self, who: Who, offset: u64, values: &[T]) -> u64 {
        let at = FLAT_BASE + 0x1_0000 * (1 + who.cpu as u64) + offset;
        GuestPtr::new(at).write_slice(&self.hv, values).expect("the flat buffer");
        at
    }

    pub fn ext(&self, who: Who, cmd: u32, arg1: u64, arg2: u64) -> bool {
        let at = self.put(who, 0, &[MmuextOp { cmd, _pad0: 0, arg1, arg2 }]);
        self.did(who, nr::MMUEXT_OP, &[at, 1, 0, SELF])
    }

    /// `mmu_update` of an entry, for a page of `owner`'s.
    pub fn update(&self, who: Who, table: Mfn, index: u64, val: u64, owner: u64) -> bool {
        let at = self.put(who, 0, &[MmuUpdate { ptr: table.addr().0 + 8 * index, val }]);
        self.did(who, nr::MMU_UPDATE, &[at, 1, 0, owner])
    }

    /// `update_va_mapping` of a low page.
    pub fn map(&self, who: Who, slot: u64, val: u64) -> bool {
        self.did(who, nr::UPDATE_VA_MAPPING, &[slot << 12, val, 0])
    }

    /// Goes on with what was begun of the ends of domains.
    pub fn finish_ends(&self) {
        self.destroy(&self.hv.domains.dying().collect::<Vec<_>>());
    }

    fn destroy(&self, domains: &[Arc<Domain<MockPlatform>>]) {
        for domain in domains {
            let ended = (0..PATIENCE).any(|_| self.hv.destroy_domain(domain).is_ok());
            assert!(ended, "domain {} does not end", domain.id.0);
        }
    }

    /// Destroys all domains; nothing may be left.
    pub fn end(&self) {
        let mut rest: Vec<_> = self.hv.domains.all().collect();
        rest.extend(self.hv.domains.dying());
        self.destroy(&rest);
        let after = self.hv.accounts();
        assert!(after.same_as(&self.before), "before: {}; after: {after}", self.before);
    }
}
