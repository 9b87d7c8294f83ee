//! What a domain got on each CPU, and how it divides that among its vCPUs.
//!
//! vCPUs that run one after the other each have all of their domain's weight in their turn, and nothing of what the one before
//! got. So the domain itself has a virtual runtime on each CPU's timeline, which grows by what its vCPUs get there, at each moment divided by
//! their number then: a vCPU that wakes up is not placed before it, but for 20 ms, as it is their mean and the CPU's base the least one. What the domain owes goes with it from one CPU to the other.
//!
//! A vCPU has its part of the weight for as long as so many want to run, to the nanosecond: what it is charged is the growth of
//! the domain's *flow*, the virtual runtime of a vCPU that runs all the time.
//!
//! All of it changes with the clock locked.

use super::VcpuSched;
use super::clock::lead;
use super::queue::{MOST_WAKE_CREDIT, WAKE_CREDIT, scaled};
use super::share::DomainSched;
use super::waiting::{AHEAD, Group};
use crate::ids::{CpuId, Nanos};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What a domain got on one CPU.
struct Standing {
    /// Its virtual runtime there.
    vruntime: AtomicU64,
    /// Its vCPUs that run or wait there.
    active: AtomicU32,
    /// How far its virtual runtime there would have grown by now if one of them had always run: the growth of the flow, at each moment
    /// divided by their number. It wraps.
    grown: AtomicU64,
    /// The flow up to which that is accounted.
    flow: AtomicU64,
    /// Its vCPUs that wait there.
    group: Group,
}

impl Standing {
    /// `grown` when the flow is `flow`.
    #[inline(always)]
    fn grown(&self, flow: u64) -> u64 {
        let passed = lead(flow, self.flow.load(Ordering::Relaxed)).max(0).unsigned_abs();
        let active = self.active.load(Ordering::Relaxed);
        let each = if active > 1 { passed / u64::from(active) } else { passed };
        self.grown.load(Ordering::Relaxed).wrapping_add(each)
    }

    /// So many more run or wait there from now on.
    #[inline(never)]
    fn change(&self, flow: u64, by: i32) {
        self.grown.store(self.grown(flow), Ordering::Relaxed);
        self.flow.store(flow, Ordering::Relaxed);
        self.active.store(self.active.load(Ordering::Relaxed).wrapping_add_signed(by), Ordering::Relaxed);
    }
}

/// What a domain got.
pub(super) struct Standings {
    on: Box<[Standing]>,
    /// The CPU where it ran last.
    last: AtomicU32,
    /// What [`DomainSched::flow`] was at the time `flow_at`, since when each vCPU had the same part of the weight.
    flow: AtomicU64,
    flow_at: AtomicU64,
}

impl Standings {
    /// On so many CPUs, nothing yet. `None`: there is no memory for it.
    pub fn new(cpus: usize) -> Option<Self> {
        let zero = || AtomicU64::new(0);
        let nothing = || Standing {
            vruntime: zero(),
            active: AtomicU32::new(0),
            grown: zero(),
            flow: zero(),
            group: Group::new(),
        };
        let mut on = Vec::new();
        on.try_reserve_exact(cpus.max(1)).ok()?;
        on.resize_with(cpus.max(1), nothing);
        Some(Self {
            on: on.into_boxed_slice(),
            last: AtomicU32::new(0),
            flow: AtomicU64::new(0),
            flow_at: AtomicU64::new(0),
        })
    }

    fn on(&self, cpu: CpuId) -> &Standing {
        self.on.get(cpu.0 as usize).unwrap_or(&self.on[0])
    }
}

impl VcpuSched {
    /// When it is due on a CPU, as a virtual runtime there: what it got, or what its domain got less [`AHEAD`], whichever is later.
    #[inline(always)]
    pub(super) fn due_on(&self, cpu: CpuId) -> u64 {
        self.share.not_before(cpu, self.vruntime())
    }
}

impl DomainSched {
    /// The virtual runtime, from the domain's beginning until now, of a vCPU that wanted to run all the time and did. It wraps.
    #[inline(always)]
    pub(super) fn flow(&self, now: Nanos) -> u64 {
        let passed = now.0.saturating_sub(self.got.flow_at.load(Ordering::Relaxed));
        self.got.flow.load(Ordering::Relaxed).wrapping_add(scaled(passed, self.part()))
    }

    /// Accounts the flow until now, and answers it: what each vCPU has of the weight changes.
    #[inline(never)]
    pub(super) fn advance_flow(&self, now: Nanos) -> u64 {
        let flow = self.flow(now);
        if now.0 > self.got.flow_at.load(Ordering::Relaxed) {
            self.got.flow.store(flow, Ordering::Relaxed);
            self.got.flow_at.store(now.0, Ordering::Relaxed);
        }
        flow
    }

    /// Likewise, the virtual runtime on a CPU of a domain of which one vCPU there always ran; `flow` is [`DomainSched::flow`].
    #[inline(always)]
    pub(super) fn grown_on(&self, cpu: CpuId, flow: u64) -> u64 {
        self.got.on(cpu).grown(flow)
    }

    /// One more vCPU runs or waits on this CPU.
    pub(super) fn joined(&self, cpu: CpuId, now: Nanos) {
        self.got.on(cpu).change(self.advance_flow(now), 1);
        self.change_active(1);
    }

    /// One less does.
    pub(super) fn left(&self, cpu: CpuId, now: Nanos) {
        self.got.on(cpu).change(self.advance_flow(now), -1);
        self.change_active(-1);
    }

    /// One that waited on a CPU goes to another one.
    pub(super) fn moved(&self, from: CpuId, to: CpuId, now: Nanos) {
        let flow = self.advance_flow(now);
        self.got.on(from).change(flow, -1);
        self.got.on(to).change(flow, 1);
    }

    /// A vCPU ran on a CPU with this base, and the domain's virtual runtime there grew by `each`.
    #[inline(always)]
    pub(super) fn got_on(&self, cpu: CpuId, base: u64, each: u64) {
        let vruntime = self.vruntime_on(cpu, base).saturating_add(each);
        self.got.on(cpu).vruntime.store(vruntime, Ordering::Relaxed);
        self.got.last.store(cpu.0, Ordering::Relaxed);
    }

    /// Whether it owes something on a CPU with this base, or a later one.
    #[inline(always)]
    pub(super) fn may_owe(&self, cpu: CpuId, base: u64) -> bool {
        self.got.on(cpu).vruntime.load(Ordering::Relaxed) > base
    }

    /// Its virtual runtime on a CPU with this base, behind which it is by no more than sleeping earns.
    #[inline(always)]
    pub(super) fn vruntime_on(&self, cpu: CpuId, base: u64) -> u64 {
        let vruntime = self.got.on(cpu).vruntime.load(Ordering::Relaxed);
        if vruntime.saturating_add(WAKE_CREDIT) >= base {
            return vruntime;
        }
        let most = scaled(WAKE_CREDIT, self.whole()).clamp(WAKE_CREDIT, MOST_WAKE_CREDIT);
        vruntime.max(base.saturating_sub(most))
    }

    /// A virtual runtime on a CPU, or what it got there less [`AHEAD`], whichever is later.
    #[inline(always)]
    pub(super) fn not_before(&self, cpu: CpuId, vruntime: u64) -> u64 {
        vruntime.max(self.got.on(cpu).vruntime.load(Ordering::Relaxed).saturating_sub(AHEAD))
    }

    /// Whether what it got on a CPU by now lets those of its vCPUs that wait there run later than they are due.
    #[inline(always)]
    pub(super) fn waits_for_later(&self, cpu: CpuId) -> bool {
        let on = self.got.on(cpu);
        on.group.waits() != 0 && on.vruntime.load(Ordering::Relaxed).saturating_sub(AHEAD) > on.group.key()
    }

    /// Its vCPUs that wait for a CPU.
    #[inline(always)]
    pub(super) fn group(&self, cpu: CpuId) -> &Group {
        &self.got.on(cpu).group
    }

    /// A vCPU comes to a CPU with this base: what the domain is behind it there, beyond what sleeping earns, is over.
    pub(super) fn settle_on(&self, cpu: CpuId, base: u64) {
        self.set_vruntime_on(cpu, self.vruntime_on(cpu, base));
    }

    /// Sets what [`DomainSched::vruntime_on`] answers.
    pub(super) fn set_vruntime_on(&self, cpu: CpuId, vruntime: u64) {
        self.got.on(cpu).vruntime.store(vruntime, Ordering::Relaxed);
    }

    /// The CPU where it ran last.
    pub(super) fn last_cpu(&self) -> CpuId {
        CpuId(self.got.last.load(Ordering::Relaxed))
    }
}
