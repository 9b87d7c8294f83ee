//! The timers of vCPUs: arming, stopping, and what happens when they expire.

use super::VcpuTime;
use super::heap::{Entry, Heap};
use crate::Hypervisor;
use crate::domain::{Domain, Vcpu, VcpuRef};
use crate::hypercall::Cx;
use crate::ids::{CpuId, Nanos};
use crate::platform::{Platform, Work};
use crate::sched::Reasons;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use spin::Mutex;
use xen_abi::xen::VIRQ_TIMER;

/// Period of a vCPU's periodic timer until it says otherwise.
pub(super) const DEFAULT_PERIOD: u64 = 10_000_000;
/// [`Slot::position`] of a timer that is not armed.
const UNARMED: u32 = u32::MAX;

/// A deadline that does not come.
const NEVER: u64 = u64::MAX;

/// Timers that are served between two looks for other work: each may wake a vCPU.
pub(crate) const MOST_AT_ONCE: u32 = 8;
/// As many where a step of a walk follows.
pub(crate) const MOST_WITH_WALK: u32 = 4;

/// The timers that every vCPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerKind {
    /// `VCPUOP_set_singleshot_timer` and `set_timer_op`: raises `VIRQ_TIMER`.
    Singleshot = 0,
    /// `VCPUOP_set_periodic_timer`: raises `VIRQ_TIMER` while the vCPU runs.
    Periodic = 1,
    /// Ends a `SCHEDOP_poll`.
    Poll = 2,
}

impl TimerKind {
    /// How many kinds there are.
    pub const COUNT: usize = 3;
}

/// Where a timer is armed.
pub(super) struct Slot {
    /// CPU whose heap it is in, or was in last.
    cpu: AtomicU32,
    /// Its index there, or [`UNARMED`].
    position: AtomicU32,
}

impl Slot {
    pub(super) const fn new() -> Self {
        Self { cpu: AtomicU32::new(0), position: AtomicU32::new(UNARMED) }
    }

    /// Its index in the heap; the heap is locked.
    fn index(&self) -> Option<usize> {
        match self.position.load(Ordering::Relaxed) {
            UNARMED => None,
            position => usize::try_from(position).ok(),
        }
    }
}

/// An armed timer.
pub(super) struct Armed<P: Platform> {
    vcpu: VcpuRef<P>,
    kind: TimerKind,
}

impl<P: Platform> Armed<P> {
    fn slot(&self) -> &Slot {
        &self.vcpu.vcpu().time.slots[self.kind as usize]
    }
}

impl<P: Platform> Entry for Armed<P> {
    fn moved_to(&self, index: usize) {
        self.slot().position.store(u32::try_from(index).unwrap_or(UNARMED), Ordering::Relaxed);
    }
}

/// When the platform's timer is armed for the earliest deadline.
enum Arm {
    Always,
    /// Where it is armed for a later time.
    Sooner,
    /// Where nothing is due yet.
    AfterNow(Nanos),
}

/// What one CPU's timer is armed for.
struct CpuTimers<P: Platform> {
    heap: Mutex<Heap<Armed<P>>>,
    /// The earliest deadline in the heap, in nanoseconds; [`NEVER`] without one. Changes with the heap locked.
    next: AtomicU64,
    /// When it looks at the lines whose acknowledgement it waits for, in nanoseconds; [`NEVER`]: not at all.
    line_look: AtomicU64,
    /// When the platform's timer expires, in nanoseconds. Only this CPU uses the word. Once that time is past,
    /// [`Hypervisor::run_timers`] is on its way.
    armed: AtomicU64,
}

impl<P: Platform> CpuTimers<P> {
    fn new() -> Self {
        Self {
            heap: Mutex::new(Heap::new()),
            next: AtomicU64::new(NEVER),
            line_look: AtomicU64::new(NEVER),
            armed: AtomicU64::new(NEVER),
        }
    }

    /// Changes the heap; answers what `change` does, and whether the earliest deadline is another one now.
    #[inline(always)]
    fn with_heap<R>(&self, change: impl FnOnce(&mut Heap<Armed<P>>) -> R) -> (R, bool) {
        let mut heap = self.heap.lock();
        let answer = change(&mut heap);
        let next = heap.next_deadline().map_or(NEVER, |at| at.0);
        let changed = next != self.next.load(Ordering::Relaxed);
        if changed {
            self.next.store(next, Ordering::SeqCst);
        }
        (answer, changed)
    }
}

/// Armed timers of all CPUs, and the wall clock.
pub struct TimerQueues<P: Platform> {
    cpus: Box<[CpuTimers<P>]>,
    /// Nanoseconds to add to the wall clock that the machine booted with.
    pub(super) wallclock_shift: AtomicI64,
}

impl<P: Platform> TimerQueues<P> {
    /// Queues for `cpus` physical CPUs (at least one).
    pub fn new(cpus: usize) -> Self {
        Self {
            cpus: (0..cpus.max(1)).map(|_| CpuTimers::new()).collect(),
            wallclock_shift: AtomicI64::new(0),
        }
    }

    /// Makes room for the timers of `vcpus` vCPUs, all of which may be of one CPU. Answers whether there is the memory: where timers are
    /// armed nothing can fail.
    pub(crate) fn reserve(&self, vcpus: usize) -> bool {
        self.cpus.iter().all(|cpu| cpu.heap.lock().reserve(vcpus * TimerKind::COUNT))
    }

    /// The timers of a CPU; those of the boot CPU for a number that no CPU has.
    fn of(&self, cpu: CpuId) -> &CpuTimers<P> {
        self.cpus.get(cpu.0 as usize).unwrap_or(&self.cpus[0])
    }

    /// Arms a timer on `cpu`, wherever and whenever it was armed before. Answers whether `cpu` has a new earliest
    /// deadline.
    #[inline(always)]
    fn arm(
        &self,
        cpu: CpuId,
        deadline: Nanos,
        domain: &Arc<Domain<P>>,
        vcpu: &Vcpu<P>,
        kind: TimerKind,
    ) -> bool {
        let _arming = vcpu.time.arming.lock();
        self.arm_locked(cpu, deadline, domain, vcpu, kind)
    }

    /// [`TimerQueues::arm`]; the vCPU's `arming` is held.
    #[inline(always)]
    fn arm_locked(
        &self,
        cpu: CpuId,
        deadline: Nanos,
        domain: &Arc<Domain<P>>,
        vcpu: &Vcpu<P>,
        kind: TimerKind,
    ) -> bool {
        let slot = &vcpu.time.slots[kind as usize];
        if slot.cpu.load(Ordering::Relaxed) != cpu.0 {
            self.disarm(slot);
            slot.cpu.store(cpu.0, Ordering::Relaxed);
        }
        let arm = |heap: &mut Heap<Armed<P>>| match slot.index() {
            Some(index) => heap.change(index, deadline),
            None => {
                let vcpu = VcpuRef { domain: domain.clone(), id: vcpu.id };
                heap.insert(deadline, Armed { vcpu, kind });
            }
        };
        self.of(cpu).with_heap(arm).1
    }

    /// Stops a timer.
    fn stop(&self, time: &VcpuTime, kind: TimerKind) {
        let _arming = time.arming.lock();
        let slot = &time.slots[kind as usize];
        if slot.index().is_some() {
            self.disarm(slot);
        }
    }

    /// Takes a timer out of its heap; the vCPU's `arming` is held.
    #[inline(never)]
    fn disarm(&self, slot: &Slot) {
        // While `arming` is held it is not armed by others: at most a CPU takes it out of its heap meanwhile.
        if slot.index().is_none() {
            return;
        }
        let take = |heap: &mut Heap<Armed<P>>| {
            let index = slot.index()?;
            slot.position.store(UNARMED, Ordering::Relaxed);
            heap.remove(index)
        };
        // What it took goes when the heap is unlocked.
        drop(self.of(CpuId(slot.cpu.load(Ordering::Relaxed))).with_heap(take));
    }

    /// Whether a timer of `cpu` is due.
    fn is_due(&self, cpu: CpuId, now: Nanos) -> bool {
        self.of(cpu).next.load(Ordering::SeqCst) <= now.0
    }

    /// Takes the earliest timer of `cpu` out of its heap if it is due.
    fn pop_due(&self, cpu: CpuId, now: Nanos) -> Option<Armed<P>> {
        let own = self.of(cpu);
        if !self.is_due(cpu, now) {
            return None;
        }
        let pop = |heap: &mut Heap<Armed<P>>| {
            let due = heap.pop_due(now)?;
            due.slot().position.store(UNARMED, Ordering::Relaxed);
            Some(due)
        };
        own.with_heap(pop).0
    }

    /// The timers of `cpu` become those of `heir`.
    pub(crate) fn adopt(&self, cpu: CpuId, heir: CpuId) {
        if cpu == heir {
            return;
        }
        let look = self.line_look(cpu).swap(NEVER, Ordering::SeqCst);
        self.line_look(heir).fetch_min(look, Ordering::SeqCst);
        // One at a time, so that the locks are taken in their order. Nobody arms a timer on a CPU that is gone.
        loop {
            let first = self.of(cpu).heap.lock().first().map(|armed| (armed.vcpu.clone(), armed.kind));
            let Some((vcpu, kind)) = first else { return };
            let slot = &vcpu.vcpu().time.slots[kind as usize];
            let _arming = vcpu.vcpu().time.arming.lock();
            let take = |heap: &mut Heap<Armed<P>>| {
                let index = slot.index().filter(|_| slot.cpu.load(Ordering::Relaxed) == cpu.0)?;
                slot.position.store(UNARMED, Ordering::Relaxed);
                heap.remove(index)
            };
            let Some((deadline, _)) = self.of(cpu).with_heap(take).0 else { continue };
            slot.cpu.store(heir.0, Ordering::Relaxed);
            self.of(heir).with_heap(|heap| heap.insert(deadline, Armed { vcpu: vcpu.clone(), kind }));
        }
    }

    fn line_look(&self, cpu: CpuId) -> &AtomicU64 {
        &self.of(cpu).line_look
    }

    /// `cpu` is to look at the lines that wait for an acknowledgement, at this time at the latest. Answers whether it would have looked
    /// later.
    pub(crate) fn expect_line(&self, cpu: CpuId, at: Nanos) -> bool {
        self.line_look(cpu).fetch_min(at.0, Ordering::SeqCst) > at.0
    }

    /// Whether the timer of `cpu`, which is this one, expires by this time.
    pub(crate) fn expires_by(&self, cpu: CpuId, at: u64) -> bool {
        self.of(cpu).armed.load(Ordering::Relaxed) <= at
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Serves all timers of this CPU that are due, and arms the platform's timer for the next. Called when
    /// [`Work::TIMER`] was raised.
    pub fn run_timers(&self) {
        let cpu = self.platform.this_cpu();
        let now = self.platform.now();
        // A walk that is asked for here begins after the next look for other work.
        let walks = self.has_walks(cpu);
        if let Some(due) = self.timers.pop_due(cpu, now) {
            if walks || self.timers.is_due(cpu, now) {
                self.expire_many(cpu, now, &due, if walks { MOST_WITH_WALK } else { MOST_AT_ONCE });
            } else {
                self.expire_charged(cpu, now, &due);
            }
        }
        // As nearly always, that was all.
        if self.has_walks(cpu) || !self.arm_for(cpu, self.sched.deadlines_after(cpu, now), Arm::AfterNow(now))
        {
            self.do_what_else_is_due(cpu, now, walks);
        }
    }

    /// [`Hypervisor::expire`], which is charged to the domain of the timer if this CPU runs another one.
    #[inline(always)]
    fn expire_charged(&self, cpu: CpuId, now: Nanos, due: &Armed<P>) {
        if self.sched.runs(cpu, due.vcpu.domain.id) {
            self.expire(cpu, now, due);
        } else {
            self.expire_for_another(cpu, now, due);
        }
    }

    #[cold]
    #[inline(never)]
    fn expire_for_another(&self, cpu: CpuId, now: Nanos, due: &Armed<P>) {
        self.work_for(cpu, Some(&due.vcpu.domain), || self.expire(cpu, now, due));
    }

    /// A timer expired on this CPU, whose own one is armed later.
    #[inline(always)]
    fn expire(&self, cpu: CpuId, now: Nanos, due: &Armed<P>) {
        match due.kind {
            TimerKind::Singleshot => self.tick(&due.vcpu),
            // It ticks for a vCPU that runs. One that stopped running meanwhile arms it when it starts.
            TimerKind::Periodic if self.cpu_of(&due.vcpu) != Some(cpu) => {}
            TimerKind::Periodic => drop(self.periodic_work(cpu, &due.vcpu, now)),
            TimerKind::Poll => self.end_poll(&due.vcpu),
        }
    }

    /// `first` expired, and maybe others at the same time, of which `most` are served. Who polls for their events is woken later, for all of
    /// them at once.
    #[cold]
    #[inline(never)]
    fn expire_many(&self, cpu: CpuId, now: Nanos, first: &Armed<P>, most: u32) {
        self.ask_only(true);
        self.expire_charged(cpu, now, first);
        for _ in 1..most {
            let Some(due) = self.timers.pop_due(cpu, now) else { break };
            self.expire_charged(cpu, now, &due);
        }
        self.ask_only(false);
        if self.timers.is_due(cpu, now) {
            // Many vCPUs may have chosen the same moment. This CPU looks at its other work before it goes on.
            self.platform.raise_work(cpu, Work::TIMER);
        }
    }

    /// Does what is due by now on this CPU besides the timers of vCPUs; `walks`: a step of a walk is.
    #[cold]
    #[inline(never)]
    fn do_what_else_is_due(&self, cpu: CpuId, now: Nanos, walks: bool) {
        if self.sched.slice_end(cpu).is_some_and(|end| end <= now) {
            self.platform.raise_work(cpu, Work::RESCHEDULE);
        }
        let line_look = self.timers.line_look(cpu);
        if line_look.load(Ordering::SeqCst) <= now.0 {
            line_look.store(NEVER, Ordering::SeqCst);
            if let Some(next) = self.end_waits_for_guests(now) {
                self.timers.expect_line(cpu, next);
            }
        }
        if self.sched.watchdogs.next_look(cpu).is_some_and(|next| next <= now) {
            self.run_watchdogs(now);
        }
        if self.keeper.next_deadline(cpu).is_some_and(|next| next <= now) {
            self.work_for(cpu, None, || self.keep_domains());
        }
        if self.sched.next_refill(cpu).is_some_and(|next| next <= now) {
            self.refill_budgets(now);
        }
        if walks {
            self.walk_on();
        }
        // The choice that is due now arms the timer for the next slice. What was done here may have ended a slice sooner.
        let (slice, refill) = self.sched.deadlines(cpu);
        self.arm_for(cpu, (if slice > now.0 { slice } else { NEVER }, refill), Arm::Always);
    }

    /// Arms the platform's timer for the earliest deadline of this CPU.
    pub(crate) fn rearm_timer(&self) {
        let cpu = self.platform.this_cpu();
        self.arm_for(cpu, self.sched.deadlines(cpu), Arm::Always);
    }

    /// As [`Hypervisor::rearm_timer`] where the timer would expire too late. A deadline that is gone leaves it armed: it expires once for
    /// nothing, which costs less than to arm it at each switch.
    pub(crate) fn rearm_sooner(&self) {
        let cpu = self.platform.this_cpu();
        self.arm_for(cpu, self.sched.deadlines(cpu), Arm::Sooner);
    }

    /// Arms it likewise, for `nanos` from now at the latest: for work in [`Hypervisor::run_timers`], which arms it at its end, that may
    /// take longer than the next deadline is away.
    pub(crate) fn arm_timer_within(&self, nanos: u64) {
        let cpu = self.platform.this_cpu();
        let end = self.platform.now().0.saturating_add(nanos);
        let (slice, refill) = self.sched.deadlines(cpu);
        self.arm_for(cpu, (slice.min(end), refill), Arm::Always);
    }

    /// Arms it for the earliest deadline of `cpu`, which is this one; the first two are the scheduler's. Answers `false` where `how`
    /// keeps it from that.
    #[inline(never)]
    fn arm_for(&self, cpu: CpuId, (slice, refill): (u64, u64), how: Arm) -> bool {
        let or_never = |deadline: Option<Nanos>| deadline.map_or(NEVER, |at| at.0);
        let own = self.timers.of(cpu);
        let timer = own.next.load(Ordering::SeqCst);
        let line = own.line_look.load(Ordering::SeqCst);
        let watchdog = or_never(self.sched.watchdogs.next_look(cpu));
        let keeper = or_never(self.keeper.next_deadline(cpu));
        let first = timer.min(line).min(watchdog).min(keeper).min(refill).min(slice);
        let arms = match how {
            Arm::Always => true,
            Arm::Sooner => first < own.armed.load(Ordering::Relaxed),
            Arm::AfterNow(now) => first > now.0,
        };
        if arms {
            own.armed.store(first, Ordering::Relaxed);
            self.platform.arm_timer((first != NEVER).then_some(Nanos(first)));
        }
        arms
    }

    /// Arms the calling vCPU's one-shot timer. A time that has passed expires at the next look.
    pub fn arm_singleshot(&self, cx: Cx<'_, P>, deadline: Nanos) {
        self.arm_here(cx.domain, cx.vcpu, TimerKind::Singleshot, deadline);
    }

    /// Arms the timer that ends the calling vCPU's `SCHEDOP_poll`.
    pub(crate) fn arm_poll_timer(&self, cx: Cx<'_, P>, deadline: Nanos) {
        self.arm_here(cx.domain, cx.vcpu, TimerKind::Poll, deadline);
    }

    /// Stops the timer that would end a poll.
    pub(crate) fn stop_poll_timer(&self, vcpu: &Vcpu<P>) {
        self.timers.stop(&vcpu.time, TimerKind::Poll);
    }

    /// Stops a vCPU's one-shot timer.
    pub fn stop_singleshot(&self, vcpu: &Vcpu<P>) {
        self.timers.stop(&vcpu.time, TimerKind::Singleshot);
    }

    /// Sets the period of a vCPU's periodic timer in nanoseconds, 0 to stop it. The next tick is one period after the
    /// last one: at once if that is past. The timer of a vCPU that does not run is armed when it starts, that of one that runs on
    /// another CPU on that CPU.
    pub fn set_periodic(&self, vcpu: &VcpuRef<P>, period: u64) {
        let time = &vcpu.vcpu().time;
        {
            let _arming = time.arming.lock();
            self.timers.disarm(&time.slots[TimerKind::Periodic as usize]);
            time.period.store(period, Ordering::SeqCst);
        }
        // A CPU that starts to run it says so before it looks at the period: either it sees the new one, or it is seen here. One that
        // stops running it meanwhile leaves the timer armed; it expires once, and is not armed again. Where yet another one runs it by
        // now, which armed the timer before that was done here, the timer follows.
        let mut armed = None;
        while let Some(cpu) = self.cpu_of(vcpu).filter(|cpu| armed != Some(*cpu)) {
            armed = Some(cpu);
            if !self.periodic_work(cpu, vcpu, self.platform.now()) {
                continue;
            }
            if cpu == self.platform.this_cpu() {
                self.rearm_timer();
            } else {
                self.platform.raise_work(cpu, Work::TIMER);
            }
        }
    }

    /// The CPU that a vCPU runs on.
    fn cpu_of(&self, vcpu: &VcpuRef<P>) -> Option<CpuId> {
        let vcpu = vcpu.vcpu();
        self.sched.is_on_cpu(vcpu).then(|| CpuId(vcpu.cpu.load(Ordering::SeqCst)))
    }

    /// Raises `VIRQ_TIMER` at a vCPU.
    pub fn tick(&self, vcpu: &VcpuRef<P>) {
        self.send_virq(&vcpu.domain, vcpu.id, VIRQ_TIMER);
    }

    /// The periodic timer of a vCPU that runs on `cpu` ticks if it is due, and is armed for its next tick. Answers whether that is the
    /// CPU's earliest deadline now, so that the platform's timer is to be armed anew.
    ///
    /// The timer stays armed when its vCPU stops running: that would be two changes of the heap for each sleep that is shorter than a
    /// period. Where it expires meanwhile it does not tick, and is armed again when the vCPU starts.
    pub(super) fn periodic_work(&self, cpu: CpuId, vcpu: &VcpuRef<P>, now: Nanos) -> bool {
        let time = &vcpu.vcpu().time;
        if !time.ticks() {
            return false;
        }
        let arming = time.arming.lock();
        // Who stops the timer does that with `arming` held, so that it is not armed again afterwards.
        let period = time.period.load(Ordering::Relaxed);
        if period == 0 {
            return false;
        }
        let mut next = time.last_tick.load(Ordering::Relaxed).saturating_add(period);
        let due = next <= now.0;
        let slot = &time.slots[TimerKind::Periodic as usize];
        if !due && slot.cpu.load(Ordering::Relaxed) == cpu.0 && slot.index().is_some() {
            // What it is armed for changes with `arming` held only.
            return false;
        }
        if due {
            time.last_tick.store(now.0, Ordering::Relaxed);
            next = now.0.saturating_add(period);
        }
        let (domain, kind) = (&vcpu.domain, TimerKind::Periodic);
        let earliest = self.timers.arm_locked(cpu, Nanos(next), domain, vcpu.vcpu(), kind);
        drop(arming);
        if due {
            self.tick(vcpu);
        }
        earliest
    }

    /// Whoever polled until its time was up goes on.
    fn end_poll(&self, vcpu: &VcpuRef<P>) {
        if vcpu.vcpu().sched.has(Reasons::POLLING) {
            self.resume(vcpu, Reasons::BLOCKED);
        }
    }

    /// Stops all timers of a vCPU that will not run again. A CPU that took one of them out of its heap before does not arm it again.
    pub fn stop_timers(&self, vcpu: &Vcpu<P>) {
        let _arming = vcpu.time.arming.lock();
        vcpu.time.period.store(0, Ordering::SeqCst);
        for slot in &vcpu.time.slots {
            self.timers.disarm(slot);
        }
    }

    /// Arms a timer on this CPU, and the platform's timer with it where this is the earliest.
    fn arm_here(&self, domain: &Arc<Domain<P>>, vcpu: &Vcpu<P>, kind: TimerKind, deadline: Nanos) {
        if self.timers.arm(self.platform.this_cpu(), deadline, domain, vcpu, kind) {
            self.rearm_timer();
        }
    }
}
