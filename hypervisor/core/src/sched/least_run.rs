//! How long what begins to run keeps its CPU (option `sched_ratelimit_us=`), and how long a CPU is not told again of what comes
//! and goes before it runs: both for the same time, so that neither those who nap nor those who are brought up and taken down again
//! and again take more of a CPU than those who compute there.

use super::VcpuSched;
use super::queue::{CpuQueue, NEVER, Scheduler};
use crate::ids::{CpuId, Nanos};
use crate::platform::Platform;
use core::sync::atomic::Ordering;
use xen_abi::errno::Errno;
use xen_abi::sysctl::{XEN_SYSCTL_SCHED_RATELIMIT_MAX, XEN_SYSCTL_SCHED_RATELIMIT_MIN};

/// How long a vCPU that begins to run keeps its CPU whatever wakes up, in microseconds, unless the option `sched_ratelimit_us=` or
/// the control domain says otherwise: as in Xen.
pub const LEAST_RUN_US: u32 = 1000;

/// Whether Xen takes this for a minimum time slice, in microseconds.
pub(crate) fn is_least_run_us(least: u32) -> bool {
    least == 0 || (XEN_SYSCTL_SCHED_RATELIMIT_MIN..=XEN_SYSCTL_SCHED_RATELIMIT_MAX).contains(&least)
}

impl<P: Platform> Scheduler<P> {
    /// How long a vCPU that begins to run keeps its CPU whatever wakes up, in microseconds; 0: not at all.
    pub fn least_run_us(&self) -> u32 {
        u32::try_from(self.least_run.load(Ordering::Relaxed) / 1000).unwrap_or(u32::MAX)
    }

    /// Sets [`Scheduler::least_run_us`].
    ///
    /// # Errors
    /// `EINVAL` for what Xen's schedulers refuse: other than 0, below `XEN_SYSCTL_SCHED_RATELIMIT_MIN` or above
    /// `XEN_SYSCTL_SCHED_RATELIMIT_MAX`.
    pub fn set_least_run_us(&self, least: u32) -> Result<(), Errno> {
        if !is_least_run_us(least) {
            return Err(Errno::EINVAL);
        }
        self.least_run.store(u64::from(least) * 1000, Ordering::Relaxed);
        Ok(())
    }

    /// The end of the least run of what runs in this queue's CPU, if it has not come yet.
    pub(super) fn least_run_end(&self, queue: &CpuQueue<P>, now: Nanos) -> Option<u64> {
        let end = queue.began.load(Ordering::Relaxed).saturating_add(self.least_run.load(Ordering::Relaxed));
        (end > now.0 && !queue.idle()).then_some(end)
    }

    /// The time of a least run after a look in vain, if it is not over. This CPU looks again by itself then, so that those who come and go
    /// take no more of its time than those who run.
    pub(super) fn vain_end(&self, queue: &CpuQueue<P>, now: Nanos) -> Option<u64> {
        let end = queue.vain.load(Ordering::Relaxed).saturating_add(self.least_run.load(Ordering::Relaxed));
        (end > now.0).then_some(end)
    }

    /// Whether this CPU chooses anew at the end of the least run of what it runs, or of that time after a look in vain: it need not be told
    /// before.
    pub(super) fn looks_by_itself(&self, queue: &CpuQueue<P>, now: Nanos) -> bool {
        let end = self.least_run_end(queue, now).max(self.vain_end(queue, now));
        end.is_some_and(|end| queue.slice_end.load(Ordering::SeqCst) <= end)
    }

    /// Whether the running vCPU keeps this CPU because its least run is not over, and did not ask to let others go first. Answers
    /// the end of that where others are due, [`NEVER`] where they are not.
    pub(super) fn spare(
        &self,
        cpu: CpuId,
        queue: &CpuQueue<P>,
        now: Nanos,
        sched: &VcpuSched,
    ) -> Option<u64> {
        let end = self.least_run_end(queue, now).filter(|_| !sched.yielded.load(Ordering::Relaxed))?;
        Some(if self.is_due(cpu, queue, sched.due_on(cpu)) { end } else { NEVER })
    }
}
