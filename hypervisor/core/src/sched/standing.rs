//! What a domain got on each CPU, and how it divides that among its vCPUs.
//!
//! vCPUs that run one after the other each have all of their domain's weight in their turn, and nothing of what the one before
//! got. So the domain itself has a virtual runtime on each CPU's timeline, which grows by what its vCPUs get there, divided by their number: a
//! vCPU that wakes up is not placed before it. What the domain owes goes with it from one CPU to the other.
//!
//! A vCPU has its part of the weight for as long as so many want to run, to the nanosecond: what it is charged is the growth of
//! the domain's *flow*, the virtual runtime of a vCPU that runs all the time.
//!
//! All of it changes with the clock locked.

use super::queue::{MOST_WAKE_CREDIT, WAKE_CREDIT, scaled};
use super::share::DomainSched;
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
        let nothing = || Standing { vruntime: AtomicU64::new(0), active: AtomicU32::new(0) };
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

impl DomainSched {
    /// The virtual runtime, from the domain's beginning until now, of a vCPU that wanted to run all the time and did. It wraps.
    #[inline(always)]
    pub(super) fn flow(&self, now: Nanos) -> u64 {
        let passed = now.0.saturating_sub(self.got.flow_at.load(Ordering::Relaxed));
        self.got.flow.load(Ordering::Relaxed).wrapping_add(scaled(passed, self.part()))
    }

    /// Accounts the flow until now: what each vCPU has of the weight changes.
    #[inline(never)]
    pub(super) fn advance_flow(&self, now: Nanos) {
        if now.0 > self.got.flow_at.load(Ordering::Relaxed) {
            self.got.flow.store(self.flow(now), Ordering::Relaxed);
            self.got.flow_at.store(now.0, Ordering::Relaxed);
        }
    }

    /// One more vCPU runs or waits on this CPU.
    pub(super) fn joined(&self, cpu: CpuId, now: Nanos) {
        self.advance_flow(now);
        self.active.fetch_add(1, Ordering::Relaxed);
        self.got.on(cpu).active.fetch_add(1, Ordering::Relaxed);
    }

    /// One less does.
    pub(super) fn left(&self, cpu: CpuId, now: Nanos) {
        self.advance_flow(now);
        self.active.fetch_sub(1, Ordering::Relaxed);
        self.got.on(cpu).active.fetch_sub(1, Ordering::Relaxed);
    }

    /// One that waited on a CPU goes to another one.
    pub(super) fn moved(&self, from: CpuId, to: CpuId) {
        self.got.on(from).active.fetch_sub(1, Ordering::Relaxed);
        self.got.on(to).active.fetch_add(1, Ordering::Relaxed);
    }

    /// A vCPU got so much virtual runtime on a CPU with this base.
    #[inline(always)]
    pub(super) fn got_on(&self, cpu: CpuId, base: u64, got: u64) {
        let active = self.got.on(cpu).active.load(Ordering::Relaxed);
        let each = if active > 1 { got / u64::from(active) } else { got };
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

    /// Sets what [`DomainSched::vruntime_on`] answers.
    pub(super) fn set_vruntime_on(&self, cpu: CpuId, vruntime: u64) {
        self.got.on(cpu).vruntime.store(vruntime, Ordering::Relaxed);
    }

    /// The CPU where it ran last.
    pub(super) fn last_cpu(&self) -> CpuId {
        CpuId(self.got.last.load(Ordering::Relaxed))
    }
}
