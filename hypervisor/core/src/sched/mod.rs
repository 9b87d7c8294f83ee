//! Which vCPU runs where: proportional share by weight, wake-up preference, affinity, work stealing.
//!
//! # What a vCPU is to the scheduler
//! [`VcpuSched`] holds one word of *reasons not to run* ([`Reasons`] and a pause count): a vCPU is runnable exactly when
//! that word is zero. Anybody may set a reason without a lock; a CPU that runs the vCPU notices in its next
//! [`Hypervisor::schedule`]. Taking the last reason away is a *wake* and puts the vCPU into a run queue. What CPUs do to
//! these words at the same time is in [`words`].
//!
//! # Invariants
//! - `vcpu.cpu` names the queue a vCPU belongs to, and that queue's lock guards its `place` (off, waiting in
//!   the queue, or running on that CPU). `vcpu.cpu` itself changes only under the lock of the queue it names.
//! - A vCPU that was chosen stays *running* until the binary says in [`Hypervisor::vcpu_switched`] that its registers are in
//!   `Vcpu::saved`; only then is it queued again or taken by another CPU.
//! - One queue lock at a time; the clock's lock is taken last, and nothing inside it. Queues are read from outside through what they publish (`head`, `running`),
//!   which may be out of date: it only ever decides whom to look at, not whom to run.
//!
//! # Policy
//! Each vCPU has a *virtual runtime*: nanoseconds it ran, divided by its part of its domain's weight ([`share`]). The
//! least one of a CPU runs first. The CPUs' virtual times ([`clock`]) can be compared: a CPU takes over another's waiting vCPU when it is
//! behind by more than [`MARGIN`], so that shares hold across CPUs and not just within one. What slept comes back beside the least one of
//! its CPU, with at most [`WAKE_CREDIT`] of its own time of advantage, and no more than its domain earned by getting less than its share: it
//! runs at once, but saved up nothing.
//! What begins to run keeps its CPU for a while (option `sched_ratelimit_us=`, [`LEAST_RUN_US`]) unless it sleeps, yields or must
//! stop: who sleeps for a few microseconds, again and again, cannot fill the time of those that compute with switches between them. Nor
//! can one that others bring up and take down before it runs: a CPU that looked for it in vain is not told again for as long.
//! A wake-up on the CPU that does it makes no look during the least run: it only ends the slice with it (`Scheduler::learn`).
//! Where no vCPU waits a decision is a handful of loads, and the slice lasts until the next look ([`LOOK`]). A slice that ended early leaves the timer armed:
//! it expires once for nothing, which costs less than to arm it at each switch.
//!
//! Hard affinity is a rule; soft affinity is where a vCPU is put, and by whom it is taken over, as long as that leaves no CPU idle.
//! The option `sched=null` replaces all of this by one vCPU for each CPU ([`null`]).

mod affinity;
mod charge;
mod clock;
mod foreign;
mod idle;
mod least_run;
mod null;
mod ops;
mod place;
mod queue;
mod share;
mod shutdown;
mod standing;
#[cfg(test)]
mod tests;
mod upcall;
mod waiting;
pub(crate) mod walk;
mod watchdog;
mod words;

pub use least_run::LEAST_RUN_US;
pub(crate) use least_run::is_least_run_us;
pub use queue::{LOOK, MARGIN, Policy, SLICE, Scheduler, WAKE_CREDIT};
pub use share::{CAP_PERIOD, DEFAULT_WEIGHT, DomainSched, MAX_WEIGHT};
pub(crate) use upcall::mark;
pub use watchdog::Watchdogs;

use crate::cpumask::{AtomicCpuMask, CpuMask};
use crate::ids::CpuId;
use alloc::sync::Arc;
use bitflags::bitflags;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use spin::Mutex;
use words::{Place, VcpuWords};

bitflags! {
    /// Why a vCPU does not run.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Reasons: u32 {
        /// Never brought up, or taken down again (`VCPUOP_down`).
        const DOWN = 1 << 0;
        /// Waits for an event (`SCHEDOP_block`), or for one of its ports (with [`Reasons::POLLING`]).
        const BLOCKED = 1 << 1;
        /// Waits in `SCHEDOP_poll`; always together with [`Reasons::BLOCKED`], and no reason of its own.
        const POLLING = 1 << 2;
        /// Its domain was shut down.
        const STOPPED = 1 << 3;
        /// Its domain used up the time that its cap allows.
        const CAPPED = 1 << 4;
        /// Its controller pauses its domain.
        const PAUSED = 1 << 5;
    }
}

/// What the scheduler keeps for each vCPU.
pub struct VcpuSched {
    words: VcpuWords,
    /// It asked to let others go first, once.
    yielded: AtomicBool,
    /// Under the null policy: it waits for a CPU. The lock of the assignments guards it.
    in_line: AtomicBool,
    /// Virtual runtime in nanoseconds.
    vruntime: AtomicU64,
    /// What it shares with the domain's other vCPUs.
    share: Arc<DomainSched>,
    /// Its part of the domain's weight, as it is counted in the sum of all while the vCPU runs or waits.
    counted: AtomicU32,
    /// What it holds of the domain's budget, in nanoseconds ([`share`]); never negative.
    quota: AtomicI64,
    /// CPUs it may run on.
    affinity: AtomicCpuMask,
    /// CPUs it should rather run on.
    soft_affinity: AtomicCpuMask,
    /// The affinity that `SCHEDOP_pin_override` set aside.
    pinned_from: Mutex<Option<CpuMask>>,
}

impl VcpuSched {
    /// A vCPU that may run on these CPUs (`None`: anywhere), but for these reasons.
    pub fn new(share: Arc<DomainSched>, reasons: Reasons, cpus: Option<&CpuMask>) -> Self {
        let (affinity, soft_affinity) = (AtomicCpuMask::new(), AtomicCpuMask::new());
        affinity.store(cpus.unwrap_or(&CpuMask::ALL));
        soft_affinity.store(&CpuMask::ALL);
        Self {
            words: VcpuWords::new(AtomicU32::new, reasons),
            yielded: AtomicBool::new(false),
            in_line: AtomicBool::new(false),
            vruntime: AtomicU64::new(0),
            share,
            counted: AtomicU32::new(0),
            quota: AtomicI64::new(0),
            affinity,
            soft_affinity,
            pinned_from: Mutex::new(None),
        }
    }

    /// Whether nothing keeps it from running.
    pub fn runnable(&self) -> bool {
        self.words.runnable()
    }

    /// Whether it is up (`VCPUOP_is_up`).
    pub fn is_up(&self) -> bool {
        !self.has(Reasons::DOWN)
    }

    /// Whether all of `reasons` hold.
    pub fn has(&self, reasons: Reasons) -> bool {
        self.words.has(reasons)
    }

    /// Why it does not run, apart from pauses.
    pub fn reasons(&self) -> Reasons {
        Reasons::from_bits_truncate(self.words.reasons())
    }

    /// Its virtual runtime in nanoseconds.
    pub fn vruntime(&self) -> u64 {
        self.vruntime.load(Ordering::Relaxed)
    }

    /// CPUs it may run on.
    pub fn affinity(&self) -> CpuMask {
        self.affinity.load()
    }

    /// CPUs it should rather run on.
    pub fn soft_affinity(&self) -> CpuMask {
        self.soft_affinity.load()
    }

    fn add(&self, reasons: Reasons) {
        self.words.add(reasons);
    }

    fn place(&self) -> Place {
        self.words.place()
    }

    fn set_place(&self, place: Place) {
        self.words.set_place(place);
    }

    fn may_run_on(&self, cpu: CpuId) -> bool {
        self.affinity.contains(cpu)
    }

    fn likes(&self, cpu: CpuId) -> bool {
        self.soft_affinity.contains(cpu)
    }
}
