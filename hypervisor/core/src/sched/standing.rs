//! What a domain got on each CPU, and how it divides that among its vCPUs.
//!
//! vCPUs that run one after the other each have all of their domain's weight in their turn, and nothing of what the one before
//! got. So the domain itself has a virtual runtime on each CPU's timeline, which grows by what its vCPUs get there, at each moment divided by
//! their number then. It is their mean, and the CPU's base the least one: a vCPU is due not more than 20 ms before it, nor much more
//! after it ([`DomainSched::due`]). What the domain owes goes with it from one CPU to the other.
//!
//! A vCPU has its part of the weight for as long as so many want to run, to the nanosecond: what it is charged is the growth of
//! the domain's *flow*, the virtual runtime of a vCPU that runs all the time.
//!
//! # Invariants
//! - All of it changes with the clock locked.
//! - A domain is behind a CPU's base by no more than sleeping earns when the first of its vCPUs comes there. From then on until the last one
//!   has left it stays what it is: the base is not after what is due there, and that is near it.

use super::VcpuSched;
use super::clock::{Timeline, lead, place};
use super::queue::{MOST_WAKE_CREDIT, WAKE_CREDIT, scaled};
use super::share::DomainSched;
use super::waiting::{AHEAD, Group};
use crate::ids::{CpuId, Nanos};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How much further ahead of it they may be, in nanoseconds: so far their order among each other is kept.
const SPREAD: u64 = 8 * AHEAD;

/// When a vCPU of this virtual runtime is due, whose domain `got` so much: then, but not more than [`AHEAD`] before that, nor much more after
/// it. What it was charged while others of its domain wanted to run as well is ahead of what the domain got, as
/// soon as these give up what they were due; this CPU's virtual time would go ahead with it, of the machine's.
#[inline(always)]
fn due(vruntime: u64, got: u64) -> u64 {
    let ahead = got.saturating_add(AHEAD);
    if vruntime > ahead {
        return ahead + (vruntime - ahead).min(SPREAD) / 8;
    }
    vruntime.max(got.saturating_sub(AHEAD))
}

/// A virtual runtime, or the latest that a vCPU may have whose domain `got` so much: what it is ahead of that by more is over.
#[inline(always)]
pub(super) fn bounded(vruntime: u64, got: u64) -> u64 {
    vruntime.min(got.saturating_add(AHEAD + SPREAD))
}

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
    /// When it is due on a CPU, as a virtual runtime there.
    #[inline(always)]
    pub(super) fn due_on(&self, cpu: CpuId) -> u64 {
        self.share.due(cpu, self.vruntime())
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

    /// A vCPU, which has this virtual runtime by that, ran on a CPU, and the domain's virtual runtime there grew by `each`. Answers the vCPU's, which
    /// is bounded, and when it is due.
    #[inline(always)]
    pub(super) fn got_on(&self, cpu: CpuId, each: u64, vruntime: u64) -> (u64, u64) {
        let on = &self.got.on(cpu).vruntime;
        let got = on.load(Ordering::Relaxed).saturating_add(each);
        on.store(got, Ordering::Relaxed);
        self.got.last.store(cpu.0, Ordering::Relaxed);
        let vruntime = bounded(vruntime, got);
        (vruntime, due(vruntime, got))
    }

    /// Whether it owes something on a CPU with this base, or a later one.
    #[inline(always)]
    pub(super) fn may_owe(&self, cpu: CpuId, base: u64) -> bool {
        self.got.on(cpu).vruntime.load(Ordering::Relaxed) > base
    }

    /// Its virtual runtime on a CPU with this base. Where none of its vCPUs runs or waits, it is behind the base by no more than sleeping
    /// earns. Where one does, the base does not go away from it.
    #[inline(always)]
    pub(super) fn vruntime_on(&self, cpu: CpuId, base: u64) -> u64 {
        let on = self.got.on(cpu);
        let got = on.vruntime.load(Ordering::Relaxed);
        if on.active.load(Ordering::Relaxed) == 0 { self.not_long_before(base, got) } else { got }
    }

    /// A virtual runtime, or the least that sleeping earns beside this base.
    #[inline(always)]
    fn not_long_before(&self, base: u64, vruntime: u64) -> u64 {
        if vruntime.saturating_add(WAKE_CREDIT) >= base {
            return vruntime;
        }
        let most = scaled(WAKE_CREDIT, self.whole()).clamp(WAKE_CREDIT, MOST_WAKE_CREDIT);
        vruntime.max(base.saturating_sub(most))
    }

    /// When a vCPU of this virtual runtime is due on a CPU, as a virtual runtime there.
    #[inline(always)]
    pub(super) fn due(&self, cpu: CpuId, vruntime: u64) -> u64 {
        due(vruntime, self.got.on(cpu).vruntime.load(Ordering::Relaxed))
    }

    /// The same of the vCPU that runs there at `now`, had it been charged: it had `vruntime` when the flow was `flow` and the domain's own
    /// virtual runtime would have `grown` so far.
    #[inline(always)]
    pub(super) fn due_by(&self, cpu: CpuId, now: Nanos, (vruntime, flow, grown): (u64, u64, u64)) -> u64 {
        let since = |now: u64, then: u64| lead(now, then).max(0).unsigned_abs();
        let (on, flow_now) = (self.got.on(cpu), self.flow(now));
        let got = on.vruntime.load(Ordering::Relaxed).saturating_add(since(on.grown(flow_now), grown));
        due(vruntime.saturating_add(since(flow_now, flow)), got)
    }

    /// Whether those of its vCPUs that wait on a CPU are due at another time by now than they stand for.
    #[inline(always)]
    pub(super) fn stands_elsewhere(&self, cpu: CpuId) -> bool {
        let group = self.group(cpu);
        group.waits() != 0 && self.due(cpu, group.least()) != group.key()
    }

    /// Its vCPUs that wait for a CPU.
    #[inline(always)]
    pub(super) fn group(&self, cpu: CpuId) -> &Group {
        &self.got.on(cpu).group
    }

    /// A vCPU comes to a CPU with this base: what the domain is behind it there, beyond what sleeping earns, is over. Where it has no other
    /// vCPU, its virtual runtime is not before `carried`. Answers it; from then on the domain pays for `cost` nanoseconds of the CPU.
    #[inline(always)]
    pub(super) fn settle_on(&self, cpu: CpuId, base: u64, carried: u64, cost: u64) -> u64 {
        let on = self.got.on(cpu);
        let mut got = on.vruntime.load(Ordering::Relaxed);
        if on.active.load(Ordering::Relaxed) == 0 {
            got = self.not_long_before(base, got).max(carried);
        }
        on.vruntime.store(got.saturating_add(scaled(cost, self.whole())), Ordering::Relaxed);
        got
    }

    /// Its virtual runtime on the CPU that one of its vCPUs comes from, as one of the CPU that it goes to, but no further ahead of the base there.
    pub(super) fn carried(&self, (cpu, from): (CpuId, &Timeline), to: &Timeline, reach: u64) -> u64 {
        let there = from.on_machine(self.vruntime_on(cpu, from.base()));
        place(to.base(), lead(there, to.on_machine(to.base())), reach, reach)
    }

    /// A vCPU lets others go first: on this CPU the domain gives up what it is due before `vruntime`.
    pub(super) fn give_way(&self, cpu: CpuId, vruntime: u64) {
        let got = &self.got.on(cpu).vruntime;
        got.store(got.load(Ordering::Relaxed).max(vruntime.saturating_sub(AHEAD)), Ordering::Relaxed);
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
