//! What the vCPUs of a domain share: its weight, and its cap.
//!
//! # Weight
//! A weight belongs to a domain, whatever the number of its vCPUs: those that run or wait at the moment share it equally, so
//! a domain gains nothing by having more of them, nor by letting them run one after the other ([`super::standing`]). What sleeping
//! earns is the domain's: it grows while the domain gets less than it would on a machine that divides its time infinitely finely, and a
//! vCPU that wakes up comes ahead of the others by no more than that.
//!
//! # Cap
//! A cap is a percentage of one CPU. Each [`CAP_PERIOD`] a domain with a cap gets that much time as a *budget*. A vCPU that
//! is to run takes a part of it first, its *quota*, and runs no longer than that; what it does not use goes back, what it runs
//! beyond (its CPU noticed late) is missing from the next budget. Budgets are not saved up. So, up to any moment, a domain ran at most
//! one budget more than its cap allows, and one that always wants more gets it to the nanosecond. A vCPU that finds
//! no budget is *capped* ([`Reasons::CAPPED`]) until the next one; the CPU that found so sees to that.

use super::queue::{MOST_WAKE_CREDIT, scaled};
use super::standing::Standings;
use super::{Reasons, VcpuSched};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::Nanos;
use crate::platform::{Platform, Work};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use spin::Mutex;
use xen_abi::errno::Errno;

/// Weight of a domain that nobody gave another.
pub const DEFAULT_WEIGHT: u32 = 256;
/// Greatest weight of a domain.
pub const MAX_WEIGHT: u32 = 65_535;
/// How often a domain with a cap gets its budget, in nanoseconds.
pub const CAP_PERIOD: u64 = 10_000_000;
/// Parts into which a weight is divided, so that many vCPUs can share a small one.
const UNIT: u32 = 64;
/// Weight of a vCPU whose virtual runtime advances like real time: the only one of a domain of default weight.
pub(super) const BASE: u32 = DEFAULT_WEIGHT * UNIT;
/// Least time that a vCPU takes out of a budget that has it, in nanoseconds.
const GRAIN: i64 = 500_000;
/// Quota of a vCPU that was let in without a limit: not to be accounted, even if its domain gets a cap meanwhile.
const FREE: i64 = i64::MAX;
/// Nobody is made to run for less than this, in nanoseconds.
const SHORTEST_RUN: i64 = 50_000;

/// How far what a domain got may be ahead of the machine's fair time, in nanoseconds: so long is held against it what it got in bursts, or where
/// there was room.
const MOST_AHEAD: u64 = 2 * MOST_WAKE_CREDIT;
/// Time that a domain runs before that is settled with the fair time, unless it is asked for, in nanoseconds.
const SETTLE: u64 = 1_000_000;

/// Weight and cap of a domain.
pub struct DomainSched {
    /// 1..=[`MAX_WEIGHT`].
    weight: AtomicU32,
    /// Percent of one CPU; 0: none.
    cap: AtomicU32,
    /// vCPUs that run or wait. Changes with the clock locked.
    active: AtomicU32,
    /// What each of them has of the weight ([`DomainSched::part`]). Changes with the clock locked.
    part: AtomicU32,
    /// What they got.
    pub(super) got: Standings,
    /// vCPUs in `SCHEDOP_poll`.
    pub(super) pollers: AtomicU32,
    /// What its vCPUs got, in the machine's fair time: ahead of that by no more than [`MOST_AHEAD`], and behind it by no more than sleeping
    /// ever earns. Changes with the clock locked.
    served: AtomicU64,
    /// Nanoseconds that its vCPUs ran and that `served` does not count yet. Changes with the clock locked.
    unsettled: AtomicU64,
    /// Nanoseconds that CPUs worked for it while they ran other domains ([`super::foreign`]).
    pub(super) owed: AtomicU64,
    budget: Mutex<Budget>,
}

/// Time that a domain with a cap may run, in nanoseconds.
struct Budget {
    /// What nobody took yet; negative: somebody ran too long.
    left: i64,
    /// When it is filled next.
    refill_at: Nanos,
    /// Some vCPU found nothing since it was filled last.
    exhausted: bool,
}

/// Whether a vCPU may run.
pub(super) enum Admission {
    /// As long as it likes.
    Unlimited,
    /// For so many nanoseconds.
    For(u64),
    /// Not before this time. `first`: it is the first of its domain that is told so.
    NotBefore { refill_at: Nanos, first: bool },
}

impl Budget {
    /// What a cap is worth in one period.
    fn full(cap: u32) -> i64 {
        i64::from(cap) * (CAP_PERIOD / 100) as i64
    }

    fn put(&mut self, nanos: i64, cap: u32) {
        // What is too short to run for is not lost.
        self.left = self.left.saturating_add(nanos).min(Self::full(cap) + SHORTEST_RUN);
    }

    fn refill(&mut self, now: Nanos, cap: u32) {
        if now < self.refill_at {
            return;
        }
        let periods = (now.0 - self.refill_at.0) / CAP_PERIOD + 1;
        self.put(Self::full(cap).saturating_mul(i64::try_from(periods).unwrap_or(i64::MAX)), cap);
        self.refill_at = Nanos(self.refill_at.0.saturating_add(periods.saturating_mul(CAP_PERIOD)));
    }
}

impl DomainSched {
    /// Default weight, no cap, no vCPU that wants to run, on a machine of so many CPUs. `None`: there is no memory for
    /// it.
    pub fn new(cpus: usize) -> Option<Self> {
        Some(Self {
            weight: AtomicU32::new(DEFAULT_WEIGHT),
            cap: AtomicU32::new(0),
            active: AtomicU32::new(0),
            part: AtomicU32::new(BASE),
            got: Standings::new(cpus)?,
            pollers: AtomicU32::new(0),
            served: AtomicU64::new(0),
            unsettled: AtomicU64::new(0),
            owed: AtomicU64::new(0),
            budget: Mutex::new(Budget { left: 0, refill_at: Nanos(0), exhausted: false }),
        })
    }

    /// The weight of the domain.
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    /// The cap of the domain in percent of one CPU, 0 for none.
    pub fn cap(&self) -> u32 {
        self.cap.load(Ordering::Relaxed)
    }

    /// What each vCPU that runs or waits has of the weight, in units of [`BASE`] to [`DEFAULT_WEIGHT`].
    #[inline(always)]
    pub(super) fn part(&self) -> u32 {
        self.part.load(Ordering::Relaxed)
    }

    /// So many more vCPUs run or wait from now on. The clock is locked.
    pub(super) fn change_active(&self, by: i32) {
        self.active.store(self.active.load(Ordering::Relaxed).wrapping_add_signed(by), Ordering::Relaxed);
        self.divide_weight();
    }

    /// Divides the weight among the vCPUs that run or wait. The clock is locked.
    fn divide_weight(&self) {
        let part = self.whole() / self.active.load(Ordering::Relaxed).max(1);
        self.part.store(part.max(1), Ordering::Relaxed);
    }

    /// All of the weight, in the same units.
    pub(super) fn whole(&self) -> u32 {
        self.weight() * UNIT
    }

    /// A vCPU ran for so many nanoseconds. Answers whether it is time to settle that ([`DomainSched::credit`]). The clock is locked.
    pub(super) fn ran(&self, nanos: u64) -> bool {
        let unsettled = self.unsettled.load(Ordering::Relaxed).saturating_add(nanos);
        self.unsettled.store(unsettled, Ordering::Relaxed);
        unsettled >= SETTLE
    }

    /// What the domain slept until this time in the machine's fair time, and may make up for, in nanoseconds of that. The clock is locked.
    pub(super) fn credit(&self, fair: u64) -> u64 {
        let ran = self.unsettled.swap(0, Ordering::Relaxed);
        let before = self.served.load(Ordering::Relaxed).max(fair.saturating_sub(MOST_WAKE_CREDIT));
        let served = before.saturating_add(scaled(ran, self.whole())).min(fair.saturating_add(MOST_AHEAD));
        self.served.store(served, Ordering::Relaxed);
        fair.saturating_sub(served)
    }
}

impl VcpuSched {
    /// Takes a quota out of the domain's budget, unless what is left of the last one will do; or finds it
    /// exhausted and notes [`Reasons::CAPPED`].
    pub(super) fn admit(&self, now: Nanos) -> Admission {
        let cap = self.share.cap();
        if cap == 0 {
            self.quota.store(FREE, Ordering::Relaxed);
            return Admission::Unlimited;
        }
        let mut budget = self.share.budget.lock();
        budget.refill(now, cap);
        let mut quota = self.quota.load(Ordering::Relaxed);
        if quota < SHORTEST_RUN {
            let active = i64::from(self.share.active.load(Ordering::Relaxed).max(1));
            let took = (budget.left / active).max(GRAIN).min(budget.left).max(0);
            budget.left -= took;
            quota += took;
        }
        if quota >= SHORTEST_RUN {
            self.quota.store(quota, Ordering::Relaxed);
            return Admission::For(quota.unsigned_abs());
        }
        budget.put(quota, cap);
        self.quota.store(0, Ordering::Relaxed);
        // Under the lock: who fills the budget either finds this vCPU capped, or it finds the budget filled.
        self.add(Reasons::CAPPED);
        let first = !core::mem::replace(&mut budget.exhausted, true);
        Admission::NotBefore { refill_at: budget.refill_at, first }
    }

    /// Uses the quota up by the time that the vCPU ran.
    pub(super) fn use_quota(&self, ran: u64) {
        let quota = self.quota.load(Ordering::Relaxed);
        if quota == FREE {
            self.quota.store(0, Ordering::Relaxed);
            return;
        }
        let rest = quota.saturating_sub(i64::try_from(ran).unwrap_or(i64::MAX));
        self.quota.store(rest.max(0), Ordering::Relaxed);
        if rest < 0 {
            self.share.budget.lock().put(rest, self.share.cap());
        }
    }

    /// Gives back what the vCPU, which stopped running, has of the budget.
    pub(super) fn return_quota(&self) {
        let quota = self.quota.swap(0, Ordering::Relaxed);
        if quota != 0 && quota != FREE {
            self.share.budget.lock().put(quota, self.share.cap());
        }
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Gives a domain its weight and its cap, in percent of one CPU (0: none). Both take effect at once.
    ///
    /// # Errors
    /// `EINVAL` for a weight that is 0 or above [`MAX_WEIGHT`], or a cap beyond 16 bits.
    pub fn set_domain_sched(&self, domain: &Arc<Domain<P>>, weight: u32, cap: u32) -> Result<(), Errno> {
        if weight == 0 || weight > MAX_WEIGHT || cap > u32::from(u16::MAX) {
            return Err(Errno::EINVAL);
        }
        let (share, now) = (&domain.sched, self.platform.now());
        {
            let _clock = self.sched.clock.lock();
            share.advance_flow(now);
            share.weight.store(weight, Ordering::Relaxed);
            share.divide_weight();
        }
        {
            let mut budget = share.budget.lock();
            if share.cap.swap(cap, Ordering::Relaxed) == 0 {
                // From now on: what ran before is not held against it.
                budget.left = Budget::full(cap);
                budget.refill_at = Nanos(now.0.saturating_add(CAP_PERIOD));
            }
            budget.put(0, cap);
            budget.exhausted = false;
        }
        self.uncap(domain);
        self.settle(domain);
        // Each looks whether what it runs is one of them.
        self.platform.online_cpus().iter().for_each(|cpu| self.platform.raise_work(cpu, Work::RESCHEDULE));
        Ok(())
    }

    /// Weight and cap of a domain, as [`Hypervisor::set_domain_sched`] takes them.
    pub fn domain_sched(&self, domain: &Domain<P>) -> (u32, u32) {
        (domain.sched.weight(), domain.sched.cap())
    }

    /// Lets a domain go on whose vCPUs this CPU found capped, and whose next budget is due. For the next such domain this CPU comes
    /// back.
    pub(crate) fn refill_budgets(&self, now: Nanos) {
        let cpu = self.platform.this_cpu();
        let Some(id) = self.sched.take_refill(cpu, now) else { return };
        if let Some(domain) = self.domains.get(id) {
            {
                let mut budget = domain.sched.budget.lock();
                budget.refill(now, domain.sched.cap());
                budget.exhausted = false;
            }
            self.work_for(cpu, Some(&domain), || self.uncap(&domain));
        }
        if self.sched.next_refill(cpu).is_some_and(|next| next <= now) {
            self.platform.raise_work(cpu, Work::TIMER);
        }
    }
}
