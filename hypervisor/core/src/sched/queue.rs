//! Run queues, and the decision what a CPU runs next.

use super::clock::{Timeline, VirtualClock};
use super::foreign::Foreign;
use super::idle::IdleAccount;
use super::least_run::LEAST_RUN_US;
use super::null::Assignments;
use super::place::From;
use super::share::{Admission, BASE};
use super::waiting::Waiting;
use super::walk::{CHANGES, Walks};
use super::words::{Contended, Place};
use super::{DomainSched, VcpuSched, Watchdogs};
use crate::domain::{Vcpu, VcpuRef};
use crate::ids::{CpuId, DomId, Nanos};
use crate::platform::{Platform, Work};
use crate::time::RunState;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use spin::Mutex;

/// Longest time a vCPU runs while another waits for the same CPU, in nanoseconds. One of less than the default weight has less
/// of it, so that a round is short where many run.
pub const SLICE: u64 = 10_000_000;
/// Shortest slice, in nanoseconds.
const SHORTEST_SLICE: u64 = 2_000_000;
/// Virtual runtime by which a waiting vCPU must be behind to be taken to (or run by) another CPU, in nanoseconds.
pub const MARGIN: u64 = 5_000_000;
/// Most time that sleeping earns over those that kept running, in nanoseconds: of virtual runtime, or of the vCPU's own time
/// if that is more.
pub const WAKE_CREDIT: u64 = 10_000_000;
/// Most of that in virtual runtime, in nanoseconds: all vCPUs of a domain of the default weight that wake up at the same time are
/// ahead by no more than this, however many they are.
pub(super) const MOST_WAKE_CREDIT: u64 = 100_000_000;
/// A running vCPU is not interrupted for one that is behind by less than this, in nanoseconds.
pub(super) const GRANULARITY: u64 = 500_000;
/// A CPU that runs a vCPU for which no other one waits looks at its choice so often, in nanoseconds: so that the time is accounted which it
/// ran, before others come.
pub const LOOK: u64 = 100_000_000;
/// No time: the slice is unlimited, the queue is empty.
pub(super) const NEVER: u64 = u64::MAX;

/// How vCPUs and CPUs come together (option `sched=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Each domain gets its proportional share.
    #[default]
    Share,
    /// Each vCPU gets a CPU of its own, or waits for one.
    Null,
}

/// All run queues.
pub struct Scheduler<P: Platform> {
    pub(super) cpus: Box<[CpuQueue<P>]>,
    /// vCPUs in all queues.
    pub(super) waiting: AtomicU32,
    /// How long a vCPU runs at least before another one takes its CPU, in nanoseconds.
    pub(super) least_run: AtomicU64,
    /// CPUs that run nothing, those that are not up included.
    pub(super) idle_cpus: AtomicUsize,
    /// How long each CPU had nothing to run.
    idle: Box<[IdleAccount]>,
    /// Taken last, for a few instructions.
    pub(super) clock: Mutex<VirtualClock>,
    /// Which CPU belongs to which vCPU, where the policy is [`Policy::Null`].
    pub(super) assignments: Option<Mutex<Assignments<P>>>,
    /// Watchdogs and announced endings of domains.
    pub(crate) watchdogs: Watchdogs<P>,
}

/// One CPU's queue, on cache lines of its own.
#[repr(align(128))]
pub(super) struct CpuQueue<P: Platform> {
    /// Its CPU.
    pub cpu: CpuId,
    /// Those that wait for it.
    pub waiting: Mutex<Waiting<P>>,
    /// Virtual time here.
    pub line: Timeline,
    /// When the next one to run is due, as a virtual runtime; [`NEVER`] without one.
    pub head: AtomicU64,
    /// What runs: its weight (0: the CPU is idle), and when it was due, as a virtual runtime at the time `since`.
    pub weight: AtomicU32,
    pub(super) vruntime: AtomicU64,
    pub(super) since: AtomicU64,
    /// Its own virtual runtime at that time.
    pub(super) own: AtomicU64,
    /// The flow of its domain at that time, and how far the domain's own virtual runtime here would have grown.
    pub(super) flow: AtomicU64,
    pub(super) grown: AtomicU64,
    /// Work for other domains than the one that runs.
    pub(super) foreign: Foreign,
    /// When it was chosen to run here in place of another one.
    pub(super) began: AtomicU64,
    /// When this CPU was made to look for another one, and found none that could run: it had come and gone.
    pub(super) vain: AtomicU64,
    /// Somebody waits for what runs here to let it go first.
    pub contended: Contended,
    /// When this CPU looks again where no vCPU waited anywhere when it looked last, [`NEVER`] where one did.
    pub(super) look: AtomicU64,
    /// The timer expires too late for this CPU's choice of a vCPU: it is armed anew once the switch is over.
    pub rearm: AtomicBool,
    /// When the running vCPU must stop, for others' sake or for its cap's.
    pub slice_end: AtomicU64,
    /// Domains with vCPUs that this CPU found capped, and when they get their next budget.
    capped: Mutex<Vec<(Nanos, DomId)>>,
    /// The earliest of these times.
    next_refill: AtomicU64,
    /// Domains whose vCPUs this CPU visits.
    pub walks: Walks<P>,
}

impl<P: Platform> CpuQueue<P> {
    fn new(cpu: CpuId) -> Self {
        Self {
            cpu,
            waiting: Mutex::new(Waiting::new(cpu)),
            line: Timeline::new(),
            head: AtomicU64::new(NEVER),
            weight: AtomicU32::new(0),
            vruntime: AtomicU64::new(0),
            since: AtomicU64::new(0),
            own: AtomicU64::new(0),
            flow: AtomicU64::new(0),
            grown: AtomicU64::new(0),
            foreign: Foreign::new(),
            began: AtomicU64::new(0),
            vain: AtomicU64::new(0),
            contended: Contended::new(AtomicU32::new(0)),
            look: AtomicU64::new(NEVER),
            rearm: AtomicBool::new(false),
            slice_end: AtomicU64::new(NEVER),
            capped: Mutex::new(Vec::new()),
            next_refill: AtomicU64::new(NEVER),
            walks: Walks::new(),
        }
    }

    /// The first deadline that the timer is armed for on the scheduler's behalf.
    pub fn deadline(&self) -> u64 {
        self.slice_end.load(Ordering::Relaxed).min(self.next_refill.load(Ordering::Relaxed))
    }

    pub fn idle(&self) -> bool {
        self.weight.load(Ordering::SeqCst) == 0
    }

    /// Virtual runtime that the running vCPU has by now, among those of the machine; [`NEVER`] when there is none.
    pub fn running_on_machine(&self, now: Nanos) -> u64 {
        self.line.on_machine(self.running_vruntime(now))
    }

    /// Virtual runtime of the next to run, among those of the machine; [`NEVER`] without one.
    pub fn head_on_machine(&self) -> u64 {
        self.line.on_machine(self.head.load(Ordering::SeqCst))
    }

    /// When the first of what runs or waits here is due, as a virtual runtime. Where nothing runs, that of those that did: what comes first to an
    /// idle CPU is no measure for what comes at the same time.
    ///
    /// What runs is where it would be if it were charged now, with the parts of its domain's weight that it had since it was charged last.
    pub fn base(&self, clock: &VirtualClock, now: Nanos) -> u64 {
        let base = self.line.base();
        match clock.runs_on(self.cpu).filter(|_| !self.idle()) {
            Some(share) => {
                let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
                let then = (word(&self.own), word(&self.flow), word(&self.grown));
                let running = share.due_by(self.cpu, now, then);
                base.max(running.min(self.head.load(Ordering::SeqCst)))
            }
            None => base,
        }
    }

    /// About when the running vCPU would be due by now, as a virtual runtime; [`NEVER`] when there is none. Its part of its domain's weight may have
    /// become another one since it was charged last.
    pub fn running_vruntime(&self, now: Nanos) -> u64 {
        match self.weight.load(Ordering::SeqCst) {
            0 => NEVER,
            weight => {
                let since = self.since.load(Ordering::Acquire);
                let before = self.vruntime.load(Ordering::Acquire);
                // It accounts its time at this moment: what it ran before belongs to a smaller virtual runtime.
                let changes = self.since.load(Ordering::Relaxed) != since;
                let ran = if changes { 0 } else { now.0.saturating_sub(since) };
                before.saturating_add(scaled(ran, weight))
            }
        }
    }

    pub fn publish_head(&self, waiting: &Waiting<P>) {
        self.head.store(waiting.first_due(), Ordering::SeqCst);
    }

    fn publish_refill(&self, capped: &[(Nanos, DomId)]) {
        let next = capped.iter().map(|(at, _)| at.0).min().unwrap_or(NEVER);
        self.next_refill.store(next, Ordering::SeqCst);
    }
}

/// How long a vCPU of this weight runs while others wait, in nanoseconds.
pub(super) fn slice(weight: u32) -> u64 {
    (SLICE * u64::from(weight.min(BASE)) / u64::from(BASE)).max(SHORTEST_SLICE)
}

/// Nanoseconds of real time as virtual runtime of a vCPU of this weight.
pub(super) fn scaled(ran: u64, weight: u32) -> u64 {
    if weight == BASE {
        return ran;
    }
    // Nobody runs for so long that the product does not fit; but then it is divided the long way.
    if let Some(product) = ran.checked_mul(u64::from(BASE)) {
        return product / u64::from(weight.max(1));
    }
    let scaled = u128::from(ran) * u128::from(BASE) / u128::from(weight.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// A time that may be [`NEVER`].
fn time(nanos: &AtomicU64) -> Option<Nanos> {
    match nanos.load(Ordering::SeqCst) {
        NEVER => None,
        at => Some(Nanos(at)),
    }
}

/// The CPU whose queue a vCPU belongs to.
pub(super) fn home<P: Platform>(vcpu: &Vcpu<P>) -> CpuId {
    CpuId(vcpu.cpu.load(Ordering::SeqCst))
}

/// What a look for the next vCPU found.
struct Pick<P: Platform> {
    vcpu: VcpuRef<P>,
    /// Others wait for this CPU.
    contended: bool,
    /// The end of its least run where others would run by now but for that, [`NEVER`] otherwise.
    spared_until: u64,
}

impl<P: Platform> Scheduler<P> {
    /// Empty run queues for `cpus` physical CPUs (at least one).
    pub fn new(cpus: usize) -> Self {
        Self::with_policy(cpus, Policy::Share)
    }

    /// The same with another policy.
    pub fn with_policy(cpus: usize, policy: Policy) -> Self {
        let cpus = cpus.max(1);
        Self {
            cpus: (0u32..).take(cpus).map(|cpu| CpuQueue::new(CpuId(cpu))).collect(),
            waiting: AtomicU32::new(0),
            least_run: AtomicU64::new(u64::from(LEAST_RUN_US) * 1000),
            idle_cpus: AtomicUsize::new(cpus),
            idle: (0..cpus).map(|_| IdleAccount::new()).collect(),
            clock: Mutex::new(VirtualClock::new(cpus)),
            assignments: (policy == Policy::Null).then(|| Mutex::new(Assignments::new(cpus))),
            watchdogs: Watchdogs::new(),
        }
    }

    /// What the vCPUs of a new domain share. `None`: there is no memory for it.
    pub(crate) fn new_share(&self) -> Option<DomainSched> {
        DomainSched::new(self.cpus.len())
    }

    /// How vCPUs and CPUs come together.
    pub fn policy(&self) -> Policy {
        if self.assignments.is_some() { Policy::Null } else { Policy::Share }
    }

    /// Whether a vCPU that waits is due before one of this virtual runtime, which runs on `cpu`.
    pub(super) fn is_due(&self, cpu: CpuId, queue: &CpuQueue<P>, kept: u64) -> bool {
        queue.head.load(Ordering::SeqCst) < kept
            || self.any_head_below(cpu, queue.line.on_machine(kept).saturating_sub(MARGIN))
    }

    /// When the vCPU that runs on `cpu` must stop, or its CPU looks whether it should; `None` while there is none, and under
    /// [`Policy::Null`].
    pub fn slice_end(&self, cpu: CpuId) -> Option<Nanos> {
        time(&self.queue(cpu).slice_end)
    }

    /// [`Scheduler::slice_end`] and [`Scheduler::next_refill`] in nanoseconds, the largest number for `None`.
    pub(crate) fn deadlines(&self, cpu: CpuId) -> (u64, u64) {
        let queue = self.queue(cpu);
        (queue.slice_end.load(Ordering::SeqCst), queue.next_refill.load(Ordering::SeqCst))
    }

    /// As [`Scheduler::deadlines`], for a CPU whose timer expired. For a look at a vCPU that has the CPU for itself it is not armed again:
    /// such a look is made when it expires next, or with the next choice.
    #[inline(always)]
    pub(crate) fn deadlines_after(&self, cpu: CpuId, now: Nanos) -> (u64, u64) {
        let (slice, refill) = self.deadlines(cpu);
        let looks_only = slice > now.0 && slice == self.queue(cpu).look.load(Ordering::Relaxed);
        (if looks_only { NEVER } else { slice }, refill)
    }

    /// When `cpu` has to see to a domain's next budget.
    pub(crate) fn next_refill(&self, cpu: CpuId) -> Option<Nanos> {
        time(&self.queue(cpu).next_refill)
    }

    /// Takes a domain whose next budget `cpu` has to see to by now.
    pub(super) fn take_refill(&self, cpu: CpuId, now: Nanos) -> Option<DomId> {
        let queue = self.queue(cpu);
        let mut capped = queue.capped.lock();
        let due = capped.iter().position(|(at, _)| *at <= now)?;
        let (_, id) = capped.remove(due);
        queue.publish_refill(&capped);
        Some(id)
    }

    /// What `cpu` has to see to becomes the business of `heir`.
    pub(super) fn adopt_refills(&self, cpu: CpuId, heir: CpuId) {
        let mut orphans = core::mem::take(&mut *self.queue(cpu).capped.lock());
        self.queue(cpu).next_refill.store(NEVER, Ordering::SeqCst);
        let queue = self.queue(heir);
        let mut capped = queue.capped.lock();
        capped.append(&mut orphans);
        queue.publish_refill(&capped);
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
    pub(super) fn queue(&self, cpu: CpuId) -> &CpuQueue<P> {
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
        let before = current.map(VcpuRef::vcpu);
        if let Some(before) = before {
            self.charge(queue, before, now);
            if before.sched.share.stands_elsewhere(cpu) {
                self.regroup(queue, before);
            }
        }
        let goes_on = |before: &Vcpu<P>| before.sched.runnable() && before.sched.may_run_on(cpu);
        if !platform.is_online(cpu) {
            queue.contended.set(false);
            self.publish_running(queue, None, now, false, NEVER);
            return None;
        }
        let (mut capped, mut dropped) = (0, 0);
        loop {
            let keep = current.filter(|_| before.is_some_and(goes_on));
            let Some(Pick { vcpu, contended, spared_until }) = self.pick(cpu, queue, now, keep, &mut dropped)
            else {
                if queue.head.load(Ordering::SeqCst) != NEVER {
                    // More than one look may drop. This CPU comes back to the others.
                    self.nudge(platform, cpu);
                }
                return None;
            };
            let chosen = vcpu.vcpu();
            let sched = &chosen.sched;
            let admission = match self.policy() {
                Policy::Share => sched.admit(now),
                Policy::Null => Admission::Unlimited,
            };
            let limit = match admission {
                Admission::Unlimited => NEVER,
                Admission::For(nanos) => now.0.saturating_add(nanos),
                Admission::NotBefore { refill_at, first } => {
                    if first {
                        self.note_capped(cpu, refill_at, vcpu.domain.id);
                    }
                    if keep.is_none_or(|keep| !keep.is(&vcpu)) {
                        self.put_back(platform, now, &vcpu);
                    }
                    capped += 1;
                    if capped % CHANGES == 0 && platform.work_pending() {
                        // A domain may have many vCPUs. This CPU comes back to the others.
                        self.publish_running(queue, None, now, false, NEVER);
                        self.nudge(platform, cpu);
                        return None;
                    }
                    continue;
                }
            };
            let weight = sched.counted.load(Ordering::Relaxed);
            let slice = if contended {
                let vain_end = self.vain_end(queue, now).unwrap_or(NEVER);
                now.0.saturating_add(slice(weight)).min(spared_until).min(vain_end)
            } else {
                self.next_look(now)
            };
            let published = keep.is_some() && !contended && limit == NEVER;
            if before.is_none_or(|before| !core::ptr::eq(before, chosen)) {
                queue.began.store(now.0, Ordering::Relaxed);
                if !before.is_some_and(|before| Arc::ptr_eq(&before.sched.share, &sched.share)) {
                    // Else the time that was charged now is that of the same domain.
                    self.begin_charges(queue, &vcpu, now);
                }
            }
            if !published {
                self.publish_running(queue, Some(sched), now, contended, slice.min(limit));
            }
            if contended {
                self.offer(platform, cpu, now);
            }
            return Some(vcpu);
        }
    }

    fn note_capped(&self, cpu: CpuId, refill_at: Nanos, domain: DomId) {
        let queue = self.queue(cpu);
        let mut capped = queue.capped.lock();
        capped.push((refill_at, domain));
        queue.publish_refill(&capped);
    }

    /// A vCPU that was taken out of a queue is not to run after all.
    fn put_back(&self, platform: &P, now: Nanos, vcpu: &VcpuRef<P>) {
        if self.saved(vcpu.vcpu(), now) {
            self.enqueue(platform, now, vcpu, From::Cpu);
        } else {
            vcpu.vcpu().time.change_runstate(RunState::Offline, now);
        }
    }

    /// Looks for the vCPU to run on `cpu`; `keep` runs there and may go on. Publishes that the CPU is idle where there is none.
    fn pick(
        &self,
        cpu: CpuId,
        queue: &CpuQueue<P>,
        now: Nanos,
        keep: Option<&VcpuRef<P>>,
        dropped: &mut u32,
    ) -> Option<Pick<P>> {
        let waiting = || queue.contended.look(&self.waiting);
        if let Some(keep) = keep {
            let sched = &keep.vcpu().sched;
            if !waiting() || self.policy() == Policy::Null {
                self.publish_running(queue, Some(sched), now, false, self.next_look(now));
                sched.yielded.store(false, Ordering::Relaxed);
                return Some(Pick { vcpu: keep.clone(), contended: false, spared_until: NEVER });
            }
            if let Some(spared_until) = self.spare(cpu, queue, now, sched) {
                return Some(Pick { vcpu: keep.clone(), contended: true, spared_until });
            }
        }
        if let Some(vcpu) = self.contend(cpu, queue, now, keep, dropped) {
            let contended = waiting() && self.policy() == Policy::Share || keep.is_some();
            return Some(Pick { vcpu, contended, spared_until: NEVER });
        }
        self.publish_running(queue, None, now, false, NEVER);
        // Who queued a vCPU before it could see that this CPU is idle looked for no idle CPU.
        let vcpu = waiting().then(|| self.contend(cpu, queue, now, None, dropped)).flatten()?;
        let contended = self.policy() == Policy::Share && waiting();
        Some(Pick { vcpu, contended, spared_until: NEVER })
    }

    /// Tells the other CPUs what this one runs from now on.
    fn publish_running(
        &self,
        queue: &CpuQueue<P>,
        vcpu: Option<&VcpuSched>,
        now: Nanos,
        contended: bool,
        slice_end: u64,
    ) {
        let weight = vcpu.map_or(0, |vcpu| vcpu.counted.load(Ordering::Relaxed));
        queue.look.store(if contended { NEVER } else { self.next_look(now) }, Ordering::Relaxed);
        // First the end of the slice: who finds this CPU aware of those that wait relies on that.
        queue.slice_end.store(slice_end, Ordering::SeqCst);
        // What else it may have known the look of `pick` took away.
        if contended {
            queue.contended.set(true);
        }
        queue.vruntime.store(vcpu.map_or(0, |vcpu| vcpu.due_on(queue.cpu)), Ordering::Relaxed);
        queue.own.store(vcpu.map_or(0, VcpuSched::vruntime), Ordering::Relaxed);
        let since = Nanos(queue.since.swap(now.0, Ordering::Release));
        let was_idle = queue.weight.swap(weight, Ordering::SeqCst) == 0;
        let old = (!was_idle).then_some(since);
        let new = vcpu.map(|_| now);
        match (was_idle, weight == 0) {
            (true, false) => self.idle_cpus.fetch_sub(1, Ordering::SeqCst),
            (false, true) => self.idle_cpus.fetch_add(1, Ordering::SeqCst),
            _ => 0,
        };
        if old != new {
            self.clock.lock().account(old, new, now);
        }
    }

    /// The best of: the vCPU that runs and may go on, the first in the own queue, and any that waits elsewhere and is
    /// much further behind.
    fn contend(
        &self,
        cpu: CpuId,
        queue: &CpuQueue<P>,
        now: Nanos,
        keep: Option<&VcpuRef<P>>,
        dropped: &mut u32,
    ) -> Option<VcpuRef<P>> {
        let kept = keep.map(|keep| self.let_others_go(queue, &keep.vcpu().sched));
        let own = kept.unwrap_or(NEVER).min(queue.head.load(Ordering::SeqCst));
        let limit = if own == NEVER { NEVER } else { queue.line.on_machine(own).saturating_sub(MARGIN) };
        let siblings = keep.filter(|_| kept == Some(own)).map(|keep| &*keep.domain.sched);
        if self.policy() == Policy::Share
            && let Some(stolen) = self.steal(cpu, limit, (own, siblings), now)
        {
            return Some(stolen);
        }
        let mut waiting = queue.waiting.lock();
        let first =
            self.pop_if(queue, &mut waiting, now, dropped, |first| kept.is_none_or(|kept| first < kept));
        first.or_else(|| keep.cloned())
    }

    /// The virtual runtime with which the running vCPU competes: one that yielded goes behind the first that waits.
    fn let_others_go(&self, queue: &CpuQueue<P>, sched: &VcpuSched) -> u64 {
        let first = queue.head.load(Ordering::SeqCst);
        if sched.yielded.swap(false, Ordering::Relaxed) && first != NEVER {
            let after = first.saturating_add(GRANULARITY);
            let (old, new) = (sched.vruntime(), sched.vruntime().max(after));
            sched.vruntime.store(new, Ordering::Relaxed);
            let mut clock = self.clock.lock();
            clock.change(sched.counted.load(Ordering::Relaxed), old, new);
            sched.share.give_way(queue.cpu, after);
        }
        sched.due_on(queue.cpu)
    }

    /// When a CPU looks again whose vCPU no other one waits for.
    fn next_look(&self, now: Nanos) -> u64 {
        match self.policy() {
            Policy::Share => now.0.saturating_add(LOOK),
            Policy::Null => NEVER,
        }
    }

    /// A CPU stopped running this vCPU and saved its registers: it belongs to nobody now. Answers whether it is runnable.
    pub(super) fn saved(&self, vcpu: &Vcpu<P>, now: Nanos) -> bool {
        let queue = self.queue(home(vcpu));
        let _waiting = queue.waiting.lock();
        vcpu.sched.return_quota();
        self.leave(queue, &vcpu.sched, now);
        vcpu.sched.runnable()
    }

    /// Makes a CPU look whether it should run something else.
    pub(super) fn nudge(&self, platform: &P, cpu: CpuId) {
        platform.raise_work(cpu, Work::RESCHEDULE);
    }
}
