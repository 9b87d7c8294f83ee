//! What a vCPU that runs is charged for that, what counts it among those that run or wait, and how far a CPU's virtual time may drift from the machine's.

use super::clock::{VirtualClock, lead};
use super::queue::{CpuQueue, NEVER, SLICE, Scheduler, scaled};
use super::words::Place;
use super::{VcpuSched, foreign};
use crate::domain::{Vcpu, VcpuRef};
use crate::ids::Nanos;
use crate::platform::Platform;
use core::sync::atomic::Ordering;

/// How far a CPU's timeline may get behind the machine's virtual time while what runs has the CPU for itself, and ahead of it while no
/// vCPU waits at all, in nanoseconds. The first happens where its share is more than a whole CPU, the second where there is room.
pub(super) const LAG: u64 = 30_000_000;
/// The same for those that compete: the difference is what a CPU owes to those of another one, as long as affinity does not keep
/// them from it. Where it does, this says how long it goes on once affinity changes.
const BOUND: u64 = 500_000_000;

impl<P: Platform> Scheduler<P> {
    /// Adds the time since the last look to the virtual runtime of the vCPU that runs here.
    pub(super) fn charge(&self, queue: &CpuQueue<P>, vcpu: &Vcpu<P>, now: Nanos) {
        let since = Nanos(queue.since.swap(now.0, Ordering::Relaxed));
        let (weight, old) = (vcpu.sched.counted.load(Ordering::Relaxed), vcpu.sched.vruntime());
        let mut ran = now.0.saturating_sub(since.0);
        let share = &vcpu.sched.share;
        let part = share.part();
        let mut clock = self.clock.lock();
        let flow = share.flow(now);
        let grown = share.grown_on(queue.cpu, flow);
        let mut got = lead(flow, queue.flow.swap(flow, Ordering::Relaxed)).max(0).unsigned_abs();
        let mut each = lead(grown, queue.grown.swap(grown, Ordering::Relaxed)).max(0).unsigned_abs();
        if queue.foreign.spent() | share.owed.load(Ordering::Relaxed) != 0 {
            (ran, got, each) = foreign::correct(queue, share, part, (ran, got, each));
        }
        let (new, due) = share.got_on(queue.cpu, each, old.saturating_add(got));
        clock.change(weight, old, new);
        clock.account(Some(since), Some(now), now);
        if share.ran(ran) {
            share.credit(clock.fair(now));
        }
        if part != weight {
            clock.reweigh(&queue.line, new, weight, part, now);
        }
        // At the same time as `flow`, for [`CpuQueue::base`].
        queue.vruntime.store(due, Ordering::Relaxed);
        queue.own.store(new, Ordering::Relaxed);
        if queue.line.is_to_be_compared(now) {
            self.bound_drift(queue, &mut clock, share.whole(), due, now);
        }
        drop(clock);
        vcpu.sched.counted.store(part, Ordering::Relaxed);
        vcpu.sched.vruntime.store(new, Ordering::Relaxed);
        queue.line.advance(due.min(queue.head.load(Ordering::SeqCst)));
        vcpu.sched.use_quota(ran);
    }

    /// From now on a vCPU of a domain runs here that did not run here before.
    pub(super) fn begin_charges(&self, queue: &CpuQueue<P>, vcpu: &VcpuRef<P>, now: Nanos) {
        let share = &vcpu.vcpu().sched.share;
        let mut clock = self.clock.lock();
        let flow = share.flow(now);
        queue.flow.store(flow, Ordering::Relaxed);
        queue.grown.store(share.grown_on(queue.cpu, flow), Ordering::Relaxed);
        let before = clock.begin(queue.cpu, share);
        drop(clock);
        drop(before);
        queue.foreign.begin(vcpu.domain.id);
    }

    /// A vCPU that was off waits from now on; the lock of its queue is held.
    pub(super) fn join(&self, clock: &mut VirtualClock, queue: &CpuQueue<P>, sched: &VcpuSched, now: Nanos) {
        sched.share.joined(queue.cpu, now);
        let weight = sched.share.part();
        sched.counted.store(weight, Ordering::Relaxed);
        clock.add(&queue.line, weight, sched.vruntime(), now);
        sched.set_place(Place::Waiting);
    }

    /// A vCPU that waited or ran is off from now on, if it was not before; the lock of its queue is held.
    pub(super) fn leave(&self, queue: &CpuQueue<P>, sched: &VcpuSched, now: Nanos) {
        if sched.place() == Place::Off {
            return;
        }
        let weight = sched.counted.load(Ordering::Relaxed);
        let mut clock = self.clock.lock();
        sched.share.left(queue.cpu, now);
        clock.remove(&queue.line, weight, sched.vruntime(), now);
        drop(clock);
        sched.set_place(Place::Off);
    }

    /// Moves the CPU's virtual time back to where it may be beside the machine's; a vCPU of this weight and virtual runtime runs there.
    #[inline(never)]
    fn bound_drift(
        &self,
        queue: &CpuQueue<P>,
        clock: &mut VirtualClock,
        weight: u32,
        vruntime: u64,
        now: Nanos,
    ) {
        let ahead = lead(queue.line.on_machine(vruntime), clock.compare(&queue.line, now));
        // Nothing is bounded closer than this.
        if ahead.unsigned_abs() > LAG {
            let (behind, before) = self.bounds(queue, weight);
            clock.shift(&queue.line, ahead.clamp(-behind, before) - ahead);
        }
    }

    /// How far what runs here may be behind the machine's virtual time, and ahead of it. What came since it was let run for itself does not count:
    /// this CPU looks as soon as one comes.
    fn bounds(&self, queue: &CpuQueue<P>, weight: u32) -> (i64, i64) {
        let free = queue.look.load(Ordering::Relaxed) != NEVER;
        let alone = free || queue.head.load(Ordering::SeqCst) == NEVER;
        let room = free || self.waiting.load(Ordering::SeqCst) == 0;
        let own = scaled(4 * SLICE, weight);
        let bound = |free: bool| i64::try_from(if free { LAG } else { BOUND } + own).unwrap_or(i64::MAX);
        (bound(alone), bound(room))
    }
}
