//! Work that a CPU does for one domain while it runs a vCPU of another one.
//!
//! Timers expire, walks ([`super::walk`]) go on and domains are built on whatever CPU they are, in the middle of the time of the vCPU
//! that runs there. How long that takes is up to the domain that caused it: it has many vCPUs, timers, pollers. So it is not charged to the vCPU
//! that runs, but owed by the domain that caused it, and charged to that domain's next vCPU that is charged anything.
//!
//! The cause is the domain of the timer; of a walk it is the domain that asked for it: the one that runs, or the one whose timer
//! expired. What the machine does for itself is owed by no domain. On an idle CPU work takes time from none and is not counted.

use super::queue::{CpuQueue, Scheduler, scaled};
use super::share::DomainSched;
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{CpuId, DomId};
use crate::platform::Platform;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// For whom a CPU works: the domain that it runs.
const OWN: u32 = u32::MAX;
/// For no domain.
const NONE: u32 = u32::MAX - 1;

/// What a CPU keeps of that. Only the CPU itself changes it.
pub(super) struct Foreign {
    /// The domain that ran last.
    runs: AtomicU32,
    /// The number of the domain for which the CPU works, [`OWN`] or [`NONE`].
    works_for: AtomicU32,
    /// Nanoseconds of foreign work since the running vCPU was last charged.
    spent: AtomicU64,
}

impl Foreign {
    pub const fn new() -> Self {
        Self { runs: AtomicU32::new(NONE), works_for: AtomicU32::new(OWN), spent: AtomicU64::new(0) }
    }

    /// The CPU runs another domain from now on.
    pub fn begin(&self, domain: DomId) {
        self.runs.store(domain.0.into(), Ordering::Relaxed);
        self.spent.store(0, Ordering::Relaxed);
    }

    /// Nanoseconds to take off what the running vCPU is charged.
    #[inline(always)]
    pub fn spent(&self) -> u64 {
        self.spent.load(Ordering::Relaxed)
    }
}

/// What a vCPU is charged that ran for `ran` nanoseconds, in which its domain's flow grew by `got`, and the domain's own virtual runtime by
/// `each`: without the work for others in this time, and with that which others did for its domain. Answers the three corrected. The
/// clock is locked.
#[cold]
#[inline(never)]
pub(super) fn correct<P: Platform>(
    queue: &CpuQueue<P>,
    share: &DomainSched,
    part: u32,
    (ran, got, each): (u64, u64, u64),
) -> (u64, u64, u64) {
    let own = ran - queue.foreign.spent.swap(0, Ordering::Relaxed).min(ran);
    let owed = share.owed.swap(0, Ordering::Relaxed);
    // In proportion: what the part of the weight was meanwhile is in the growth, and may be another one by now.
    let of_own = |grown: u64| {
        let rest = u128::from(grown) * u128::from(own) / u128::from(ran.max(1));
        if own < ran { u64::try_from(rest).unwrap_or(grown) } else { grown }
    };
    let got = of_own(got).saturating_add(scaled(owed, part));
    let each = of_own(each).saturating_add(scaled(owed, share.whole()));
    (own.saturating_add(owed), got, each)
}

impl<P: Platform> Scheduler<P> {
    /// Whether `cpu` runs this domain, or ran it last.
    #[inline(always)]
    pub(crate) fn runs(&self, cpu: CpuId, domain: DomId) -> bool {
        self.queue(cpu).foreign.runs.load(Ordering::Relaxed) == u32::from(domain.0)
    }

    /// The domain for which `cpu` works at this moment.
    pub(super) fn works_for(&self, cpu: CpuId) -> Option<DomId> {
        let queue = self.queue(cpu);
        let id = match queue.foreign.works_for.load(Ordering::Relaxed) {
            OWN if queue.idle() => return None,
            OWN => queue.foreign.runs.load(Ordering::Relaxed),
            other => other,
        };
        u16::try_from(id).ok().map(DomId)
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Does work of this CPU that `domain` caused, or none. The time that it takes is not charged to a vCPU of another domain that runs here.
    #[inline(never)]
    pub(crate) fn work_for(&self, cpu: CpuId, domain: Option<&Domain<P>>, work: impl FnOnce()) {
        let queue = self.sched.queue(cpu);
        let is_foreign = !queue.idle() && !domain.is_some_and(|domain| self.sched.runs(cpu, domain.id));
        let began = is_foreign.then(|| self.platform.now());
        let id = domain.map_or(NONE, |domain| domain.id.0.into());
        let before = queue.foreign.works_for.swap(id, Ordering::Relaxed);
        work();
        queue.foreign.works_for.store(before, Ordering::Relaxed);
        let Some(began) = began else { return };
        let took = self.platform.now().0.saturating_sub(began.0);
        queue.foreign.spent.fetch_add(took, Ordering::Relaxed);
        if let Some(domain) = domain {
            domain.sched.owed.fetch_add(took, Ordering::Relaxed);
        }
    }
}
