//! Run queues, and the decision what a CPU runs next.

use super::clock::VirtualClock;
use super::idle::IdleAccount;
use super::{Place, VcpuSched, Watchdogs};
use crate::cpumask::CpuMask;
use crate::domain::{Vcpu, VcpuRef};
use crate::ids::{CpuId, Nanos};
use crate::platform::{Platform, Work};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use spin::Mutex;

/// Weight of a vCPU that nobody gave another: its virtual runtime advances like real time.
pub const DEFAULT_WEIGHT: u32 = 256;
/// Longest time a vCPU runs while another waits for the same CPU, in nanoseconds.
pub const SLICE: u64 = 10_000_000;
/// Virtual runtime by which a waiting vCPU must be behind to be taken to (or run by) another CPU, in nanoseconds.
pub const MARGIN: u64 = 5_000_000;
/// Most virtual runtime that sleeping earns over those that kept running, in nanoseconds.
pub const WAKE_CREDIT: u64 = 10_000_000;
/// A running vCPU is not interrupted for one that is behind by less than this, in nanoseconds.
const GRANULARITY: u64 = 500_000;
/// How far a vCPU may get behind the machine's virtual time while it has a CPU for itself, and ahead of it while nobody waits at
/// all, in nanoseconds. The first happens where its share is more than a whole CPU, the second where there is room.
const LAG: u64 = 30_000_000;
/// The same for those that compete: between them, the difference is their fair treatment, as long as it is not absurd.
const BOUND: u64 = 2_000_000_000;
/// No time: the slice is unlimited, the queue is empty.
const NEVER: u64 = u64::MAX;

/// All run queues.
pub struct Scheduler<P: Platform> {
    cpus: Box<[CpuQueue<P>]>,
    /// vCPUs in all queues.
    waiting: AtomicUsize,
    /// How long each CPU had nothing to run.
    idle: Box<[IdleAccount]>,
    /// Taken last, for a few instructions.
    clock: Mutex<VirtualClock>,
    /// vCPUs in `SCHEDOP_poll`.
    pub(super) pollers: AtomicUsize,
    /// Watchdogs and announced endings of domains.
    pub(crate) watchdogs: Watchdogs<P>,
}

/// One CPU's queue, on cache lines of its own.
#[repr(align(128))]
struct CpuQueue<P: Platform> {
    /// Least virtual runtime last: the next to run is popped.
    waiting: Mutex<Vec<VcpuRef<P>>>,
    /// Virtual runtime of the next to run, [`NEVER`] without one.
    head: AtomicU64,
    /// What runs: its weight (0: the CPU is idle), and its virtual runtime at the time `since`.
    weight: AtomicU32,
    vruntime: AtomicU64,
    since: AtomicU64,
    /// When the running vCPU must let another one go first.
    slice_end: AtomicU64,
}

impl<P: Platform> CpuQueue<P> {
    fn new() -> Self {
        Self {
            waiting: Mutex::new(Vec::new()),
            head: AtomicU64::new(NEVER),
            weight: AtomicU32::new(0),
            vruntime: AtomicU64::new(0),
            since: AtomicU64::new(0),
            slice_end: AtomicU64::new(NEVER),
        }
    }

    fn idle(&self) -> bool {
        self.weight.load(Ordering::SeqCst) == 0
    }

    /// Virtual runtime that the running vCPU has by now; the largest number when there is none.
    fn running_vruntime(&self, now: Nanos) -> u64 {
        match self.weight.load(Ordering::SeqCst) {
            0 => NEVER,
            weight => {
                let ran = now.0.saturating_sub(self.since.load(Ordering::Relaxed));
                self.vruntime.load(Ordering::Relaxed).saturating_add(scaled(ran, weight))
            }
        }
    }

    fn publish_head(&self, waiting: &[VcpuRef<P>]) {
        let head = waiting.last().map_or(NEVER, |next| next.vcpu().sched.vruntime());
        self.head.store(head, Ordering::SeqCst);
    }
}

/// Nanoseconds of real time as virtual runtime of a vCPU of this weight.
fn scaled(ran: u64, weight: u32) -> u64 {
    let scaled = u128::from(ran) * u128::from(DEFAULT_WEIGHT) / u128::from(weight.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// The CPU whose queue a vCPU belongs to.
fn home<P: Platform>(vcpu: &Vcpu<P>) -> CpuId {
    CpuId(vcpu.cpu.load(Ordering::SeqCst))
}

impl<P: Platform> Scheduler<P> {
    /// Empty run queues for `cpus` physical CPUs (at least one).
    pub fn new(cpus: usize) -> Self {
        Self {
            cpus: (0..cpus.max(1)).map(|_| CpuQueue::new()).collect(),
            waiting: AtomicUsize::new(0),
            idle: (0..cpus.max(1)).map(|_| IdleAccount::new()).collect(),
            clock: Mutex::new(VirtualClock::new()),
            pollers: AtomicUsize::new(0),
            watchdogs: Watchdogs::new(),
        }
    }

    /// When the vCPU that runs on `cpu` must let another one go first; `None` while nobody waits.
    pub fn slice_end(&self, cpu: CpuId) -> Option<Nanos> {
        match self.queue(cpu).slice_end.load(Ordering::SeqCst) {
            NEVER => None,
            end => Some(Nanos(end)),
        }
    }

    /// Nanoseconds that a CPU had nothing to run until now; 0 for a number that no CPU has.
    pub fn idle_time(&self, cpu: CpuId, now: Nanos) -> u64 {
        self.idle.get(cpu.0 as usize).map_or(0, |idle| idle.read(now))
    }

    /// A CPU runs something from now on, or nothing.
    pub(super) fn account_idle(&self, cpu: CpuId, busy: bool, now: Nanos) {
        if let Some(idle) = self.idle.get(cpu.0 as usize) {
            idle.switch(busy, now);
        }
    }

    /// Sum of the weights of all vCPUs that run or wait.
    pub fn total_active_weight(&self) -> u64 {
        self.clock.lock().weight()
    }

    /// Whether this vCPU is on a CPU, registers and all.
    pub fn is_on_cpu(&self, vcpu: &Vcpu<P>) -> bool {
        vcpu.sched.place() == Place::Running
    }

    /// The queue of a CPU; that of the boot CPU for a number that no CPU has.
    fn queue(&self, cpu: CpuId) -> &CpuQueue<P> {
        self.cpus.get(cpu.0 as usize).unwrap_or(&self.cpus[0])
    }

    /// Chooses what `cpu` runs from now on. `current` is what it ran until now.
    pub(super) fn choose(
        &self,
        platform: &P,
        cpu: CpuId,
        now: Nanos,
        current: Option<&VcpuRef<P>>,
    ) -> Option<VcpuRef<P>> {
        let queue = self.queue(cpu);
        if let Some(current) = current {
            self.charge(queue, current.vcpu(), now);
        }
        let keep = current.filter(|c| c.vcpu().sched.runnable() && c.vcpu().sched.may_run_on(cpu));
        if let Some(keep) = keep {
            self.publish_running(cpu, Some(&keep.vcpu().sched), now, NEVER);
            if self.waiting.load(Ordering::SeqCst) == 0 {
                keep.vcpu().sched.yielded.store(false, Ordering::Relaxed);
                return Some(keep.clone());
            }
        }
        let chosen = match self.contend(cpu, now, keep) {
            Some(chosen) => Some(chosen),
            None => {
                self.publish_running(cpu, None, now, NEVER);
                // Who queued a vCPU before it could see that this CPU is idle looked for no idle CPU.
                (self.waiting.load(Ordering::SeqCst) != 0).then(|| self.contend(cpu, now, None)).flatten()
            }
        };
        if let Some(chosen) = &chosen {
            self.dispatched(platform, cpu, now, chosen, keep.is_some());
        }
        chosen
    }

    /// Publishes who runs, for how long, and asks another CPU for help with who does not.
    fn dispatched(&self, platform: &P, cpu: CpuId, now: Nanos, chosen: &VcpuRef<P>, kept: bool) {
        let contended = kept || self.waiting.load(Ordering::SeqCst) != 0;
        let sched = &chosen.vcpu().sched;
        self.publish_running(
            cpu,
            Some(sched),
            now,
            if contended { now.0.saturating_add(SLICE) } else { NEVER },
        );
        self.offer(platform, cpu, now);
    }

    /// Tells the other CPUs what this one runs from now on.
    fn publish_running(&self, cpu: CpuId, vcpu: Option<&VcpuSched>, now: Nanos, slice_end: u64) {
        let queue = self.queue(cpu);
        let weight = vcpu.map_or(0, |vcpu| vcpu.counted.load(Ordering::Relaxed));
        queue.slice_end.store(slice_end, Ordering::SeqCst);
        queue.vruntime.store(vcpu.map_or(0, VcpuSched::vruntime), Ordering::Relaxed);
        let since = Nanos(queue.since.swap(now.0, Ordering::Relaxed));
        let was_idle = queue.weight.swap(weight, Ordering::SeqCst) == 0;
        let old = (!was_idle).then_some(since);
        let new = vcpu.map(|_| now);
        if old != new {
            self.clock.lock().account(old, new);
        }
    }

    /// The best of: the vCPU that runs and may go on, the first in the own queue, and any that waits elsewhere and is
    /// much further behind.
    fn contend(&self, cpu: CpuId, now: Nanos, keep: Option<&VcpuRef<P>>) -> Option<VcpuRef<P>> {
        let queue = self.queue(cpu);
        let kept = keep.map(|keep| {
            let sched = &keep.vcpu().sched;
            let first = queue.head.load(Ordering::SeqCst);
            if sched.yielded.swap(false, Ordering::Relaxed) && first != NEVER {
                let (old, new) = (sched.vruntime(), sched.vruntime().max(first.saturating_add(GRANULARITY)));
                sched.vruntime.store(new, Ordering::Relaxed);
                self.clock.lock().change(sched.counted.load(Ordering::Relaxed), old, new);
            }
            sched.vruntime()
        });
        let own = kept.unwrap_or(NEVER).min(queue.head.load(Ordering::SeqCst));
        let limit = if own == NEVER { NEVER } else { own.saturating_sub(MARGIN) };
        if let Some(stolen) = self.steal(cpu, limit) {
            return Some(stolen);
        }
        let mut waiting = queue.waiting.lock();
        let first = self.pop_if(queue, &mut waiting, now, |first| kept.is_none_or(|kept| first < kept));
        first.or_else(|| keep.cloned())
    }

    /// Takes the first runnable vCPU out of a queue if `wanted` says so of its virtual runtime; drops those that
    /// are not runnable any more.
    fn pop_if(
        &self,
        queue: &CpuQueue<P>,
        waiting: &mut Vec<VcpuRef<P>>,
        now: Nanos,
        wanted: impl Fn(u64) -> bool,
    ) -> Option<VcpuRef<P>> {
        let mut chosen = None;
        while let Some(first) = waiting.last() {
            let sched = &first.vcpu().sched;
            let runnable = sched.runnable();
            if runnable && !wanted(sched.vruntime()) {
                break;
            }
            let place = if runnable { Place::Running } else { Place::Off };
            self.set_place(sched, place, now);
            let first = waiting.pop();
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            if runnable {
                chosen = first;
                break;
            }
        }
        queue.publish_head(waiting);
        chosen
    }

    /// Takes the vCPU that is furthest behind and may run on `cpu` out of the other queues, if its virtual runtime is below
    /// `limit`.
    fn steal(&self, cpu: CpuId, limit: u64) -> Option<VcpuRef<P>> {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut tried = CpuMask::of(cpu);
        loop {
            let (victim, _) = self
                .heads()
                .filter(|(other, head)| *head < limit && !tried.contains(*other))
                .min_by_key(|(_, head)| *head)?;
            tried.insert(victim);
            if let Some(stolen) = self.steal_from(victim, cpu, limit) {
                return Some(stolen);
            }
        }
    }

    /// Every CPU with the virtual runtime of its first waiting vCPU.
    fn heads(&self) -> impl Iterator<Item = (CpuId, u64)> + '_ {
        let numbers = (0u32..).map(CpuId);
        numbers.zip(self.cpus.iter()).map(|(cpu, queue)| (cpu, queue.head.load(Ordering::SeqCst)))
    }

    fn steal_from(&self, victim: CpuId, cpu: CpuId, limit: u64) -> Option<VcpuRef<P>> {
        let queue = self.queue(victim);
        let mut waiting = queue.waiting.lock();
        let index = waiting.iter().rposition(|candidate| {
            let sched = &candidate.vcpu().sched;
            sched.runnable() && sched.may_run_on(cpu) && sched.vruntime() < limit
        })?;
        let stolen = waiting.remove(index);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        queue.publish_head(&waiting);
        stolen.vcpu().sched.set_place(Place::Running);
        stolen.vcpu().cpu.store(cpu.0, Ordering::SeqCst);
        Some(stolen)
    }

    /// Adds the time since the last look to the virtual runtime of the vCPU that runs here.
    fn charge(&self, queue: &CpuQueue<P>, vcpu: &Vcpu<P>, now: Nanos) {
        let since = Nanos(queue.since.swap(now.0, Ordering::Relaxed));
        let (weight, old) = (vcpu.sched.counted.load(Ordering::Relaxed), vcpu.sched.vruntime());
        let charged = old.saturating_add(scaled(now.0.saturating_sub(since.0), weight));
        let alone = queue.head.load(Ordering::SeqCst) == NEVER;
        let room = self.waiting.load(Ordering::SeqCst) == 0;
        let bound = |free: bool| if free { LAG } else { BOUND } + scaled(4 * SLICE, weight);
        let (behind, ahead) = (bound(alone), bound(room));
        let mut clock = self.clock.lock();
        let vtime = clock.read(now);
        let bounded = charged.clamp(vtime.saturating_sub(behind), vtime.saturating_add(ahead));
        clock.change(weight, old, bounded);
        clock.account(Some(since), Some(now));
        drop(clock);
        vcpu.sched.vruntime.store(bounded, Ordering::Relaxed);
    }

    /// Moves a vCPU between off, waiting and running; the lock of its queue is held.
    fn set_place(&self, sched: &VcpuSched, place: Place, now: Nanos) {
        match (sched.place(), place) {
            (Place::Off, Place::Waiting | Place::Running) => {
                let weight = sched.weight();
                sched.counted.store(weight, Ordering::Relaxed);
                self.clock.lock().add(weight, sched.vruntime());
            }
            (Place::Waiting | Place::Running, Place::Off) => {
                let weight = sched.counted.load(Ordering::Relaxed);
                self.clock.lock().remove(weight, sched.vruntime(), now);
            }
            _ => {}
        }
        sched.set_place(place);
    }

    /// Puts a vCPU that became runnable into a queue and sees to it that some CPU notices. Does nothing for one
    /// that is on a CPU already. `slept`: it waited for something, and did not just lose its CPU.
    pub(super) fn enqueue(&self, platform: &P, now: Nanos, vcpu: &VcpuRef<P>, slept: bool) {
        let mut placed = false;
        loop {
            let cpu = home(vcpu.vcpu());
            let queue = self.queue(cpu);
            let mut waiting = queue.waiting.lock();
            let sched = &vcpu.vcpu().sched;
            if home(vcpu.vcpu()) != cpu {
                continue;
            }
            match sched.place() {
                _ if !sched.runnable() => return,
                Place::Running => return,
                Place::Waiting => {
                    // It stopped being runnable while it waited, and kept its place: there may be a better one by now.
                    drop(waiting);
                    return self.requeue(platform, now, vcpu);
                }
                Place::Off => {}
            }
            let target = if placed { cpu } else { self.target(platform, now, vcpu.vcpu(), cpu) };
            placed = true;
            if target != cpu {
                vcpu.vcpu().cpu.store(target.0, Ordering::SeqCst);
                continue;
            }
            if slept {
                let floor = self.clock.lock().read(now).saturating_sub(WAKE_CREDIT);
                sched.vruntime.fetch_max(floor, Ordering::Relaxed);
            }
            self.insert(queue, &mut waiting, vcpu.clone(), now);
            drop(waiting);
            return self.notice(platform, cpu, now, sched.vruntime());
        }
    }

    fn insert(&self, queue: &CpuQueue<P>, waiting: &mut Vec<VcpuRef<P>>, vcpu: VcpuRef<P>, now: Nanos) {
        let vruntime = vcpu.vcpu().sched.vruntime();
        self.set_place(&vcpu.vcpu().sched, Place::Waiting, now);
        // Equals go behind: first come, first served.
        let index = waiting.partition_point(|other| other.vcpu().sched.vruntime() > vruntime);
        waiting.insert(index, vcpu);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        queue.publish_head(waiting);
    }

    /// Where a vCPU that became runnable is queued: where it was if nobody is there, else an idle CPU, else where it
    /// was, else the CPU whose vCPU is furthest ahead.
    fn target(&self, platform: &P, now: Nanos, vcpu: &Vcpu<P>, home: CpuId) -> CpuId {
        let online = platform.online_cpus();
        let may = |cpu: CpuId| vcpu.sched.may_run_on(cpu) && online.contains(cpu);
        let free = |cpu: CpuId| {
            let queue = self.queue(cpu);
            queue.idle() && queue.head.load(Ordering::SeqCst) == NEVER
        };
        let home_allowed = may(home);
        if home_allowed && free(home) {
            return home;
        }
        let candidates = || (0u32..).take(self.cpus.len()).map(CpuId).filter(|cpu| may(*cpu));
        candidates()
            .find(|cpu| free(*cpu))
            .or_else(|| home_allowed.then_some(home))
            .or_else(|| candidates().max_by_key(|cpu| self.queue(*cpu).running_vruntime(now)))
            .unwrap_or(home)
    }

    /// Makes `cpu` choose anew where that is due to a vCPU that was queued there.
    fn notice(&self, platform: &P, cpu: CpuId, now: Nanos, vruntime: u64) {
        let queue = self.queue(cpu);
        let no_slice = queue.slice_end.load(Ordering::SeqCst) == NEVER;
        if no_slice || queue.running_vruntime(now) > vruntime.saturating_add(GRANULARITY) {
            platform.raise_work(cpu, Work::RESCHEDULE);
        }
    }

    /// Makes another CPU choose anew if what waits here should rather run there.
    fn offer(&self, platform: &P, cpu: CpuId, now: Nanos) {
        let head = self.queue(cpu).head.load(Ordering::SeqCst);
        if head == NEVER || self.cpus.len() == 1 {
            return;
        }
        let Some(allowed) = self.queue(cpu).waiting.lock().last().map(|first| first.vcpu().sched.affinity())
        else {
            return;
        };
        let online = platform.online_cpus();
        let best = (0u32..)
            .map(CpuId)
            .zip(self.cpus.iter())
            .filter(|(other, _)| *other != cpu && allowed.contains(*other) && online.contains(*other))
            .map(|(other, queue)| (other, queue.running_vruntime(now)))
            .max_by_key(|(_, vruntime)| *vruntime);
        if let Some((other, vruntime)) = best
            && vruntime > head.saturating_add(MARGIN)
        {
            platform.raise_work(other, Work::RESCHEDULE);
        }
    }

    /// Takes a waiting vCPU out of its queue and finds it the best one.
    pub(super) fn requeue(&self, platform: &P, now: Nanos, vcpu: &VcpuRef<P>) {
        let queue = self.queue(home(vcpu.vcpu()));
        let mut waiting = queue.waiting.lock();
        let same = |other: &VcpuRef<P>| core::ptr::eq(other.vcpu(), vcpu.vcpu());
        let Some(index) = waiting.iter().position(same) else { return };
        waiting.remove(index);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        queue.publish_head(&waiting);
        self.set_place(&vcpu.vcpu().sched, Place::Off, now);
        drop(waiting);
        self.enqueue(platform, now, vcpu, false);
    }

    /// Takes a vCPU that has a reason not to run out of its queue. Answers whether it is on no CPU either, nor being put there.
    pub(crate) fn retire(&self, vcpu: &Vcpu<P>, now: Nanos) -> bool {
        loop {
            let cpu = home(vcpu);
            let queue = self.queue(cpu);
            let mut waiting = queue.waiting.lock();
            if home(vcpu) != cpu {
                continue;
            }
            if let Some(index) = waiting.iter().position(|other| core::ptr::eq(other.vcpu(), vcpu)) {
                waiting.remove(index);
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                queue.publish_head(&waiting);
                self.set_place(&vcpu.sched, Place::Off, now);
            }
            return vcpu.sched.place() == Place::Off;
        }
    }

    /// A CPU stopped running this vCPU and saved its registers: it belongs to nobody now. Answers whether it is runnable.
    pub(super) fn saved(&self, vcpu: &Vcpu<P>, now: Nanos) -> bool {
        let _queue = self.queue(home(vcpu)).waiting.lock();
        self.set_place(&vcpu.sched, Place::Off, now);
        vcpu.sched.runnable()
    }
}
