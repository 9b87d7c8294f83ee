//! Where a vCPU that wants to run goes: into which queue, and out of it again to another CPU.

use super::VcpuSched;
use super::charge::LAG;
use super::clock::{VirtualClock, lead, place};
use super::queue::{CpuQueue, GRANULARITY, MARGIN, NEVER, Policy, SLICE, Scheduler, home, scaled, slice};
use super::share::DomainSched;
use super::standing::bounded;
use super::waiting::{AHEAD, Waiting};
use super::words::{Place, Wanted};
use crate::cpumask::CpuMask;
use crate::domain::{Vcpu, VcpuRef};
use crate::ids::{CpuId, Nanos};
use crate::platform::Platform;
use core::sync::atomic::Ordering;

/// A busy CPU takes over a vCPU that would rather run elsewhere only where it is behind by so many times [`MARGIN`].
const RELUCTANCE: u64 = 4;
/// What a wake-up takes of the time of the vCPU that it finds running, in nanoseconds: the interrupt and the queueing, roughly. The
/// vCPU that wakes up pays for it.
pub(super) const WAKE_COST: u64 = 1_000;

/// A vCPU that is behind the others by no more than this when it wakes up needs not have earned it, in nanoseconds.
const CLOSE: i64 = 50_000;

/// What a vCPU did before it came into a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// It ran, or waited in another queue.
    Cpu,
    /// It was kept from running by its domain's cap.
    Cap,
    /// It slept, or was kept from running: it is due before those that kept running.
    Sleep,
}

/// Most vCPUs of another CPU's queue that one look for one to take over judges.
const LOOT: usize = 512;

/// What a look at another CPU's queue found.
enum Loot<P: Platform> {
    None,
    /// Only such as would rather run elsewhere; the least virtual runtime of these among those of the machine.
    Reluctant(u64),
    Taken(VcpuRef<P>),
}

/// How far a vCPU of this weight that comes from another CPU may be behind the base of the one where it goes, or ahead of it, in
/// nanoseconds of virtual runtime: what it owes or is owed beyond that does not follow it.
fn reach(weight: u32) -> u64 {
    LAG + scaled(4 * SLICE, weight)
}

impl<P: Platform> Scheduler<P> {
    /// Takes the vCPU that is furthest behind and may run on `cpu` out of the other queues, if its virtual runtime among those of the
    /// machine is below `limit` (with more reluctance for one whose soft affinity is elsewhere), and what its domain got on `cpu` lets it
    /// run there before `due`, when the next one here is due; it does if that one is of the same domain, `siblings`.
    pub(super) fn steal(
        &self,
        cpu: CpuId,
        limit: u64,
        (due, siblings): (u64, Option<&DomainSched>),
        now: Nanos,
    ) -> Option<VcpuRef<P>> {
        let elsewhere = self.cpus.len() > 1 && self.waiting.load(Ordering::SeqCst) != 0;
        if !elsewhere || !self.any_head_below(cpu, limit) {
            return None;
        }
        let far = if limit == NEVER { NEVER } else { limit.saturating_sub((RELUCTANCE - 1) * MARGIN) };
        let mut tried = CpuMask::of(cpu);
        // The least of those that would rather run elsewhere, and its CPU.
        let mut reluctant: Option<(u64, CpuId)> = None;
        while let Some((victim, _)) = self
            .heads()
            .filter(|(other, head)| *head < limit && !tried.contains(*other))
            .min_by_key(|(_, head)| *head)
        {
            tried.insert(victim);
            match self.steal_from((victim, cpu), (limit, due, siblings), true, now) {
                Loot::Taken(stolen) => return Some(stolen),
                Loot::Reluctant(vruntime) if vruntime < far => {
                    let least = reluctant.is_none_or(|(other, _)| vruntime < other);
                    reluctant = if least { Some((vruntime, victim)) } else { reluctant };
                }
                Loot::Reluctant(_) | Loot::None => {}
            }
        }
        match self.steal_from((reluctant?.1, cpu), (far, due, siblings), false, now) {
            Loot::Taken(stolen) => Some(stolen),
            Loot::Reluctant(_) | Loot::None => None,
        }
    }

    /// Whether some other CPU's first waiting vCPU is behind `limit`.
    pub(super) fn any_head_below(&self, cpu: CpuId, limit: u64) -> bool {
        self.heads().any(|(other, head)| head < limit && other != cpu)
    }

    /// Every CPU with the virtual runtime of its first waiting vCPU among those of the machine.
    fn heads(&self) -> impl Iterator<Item = (CpuId, u64)> + '_ {
        let numbers = (0u32..).map(CpuId);
        numbers.zip(self.cpus.iter()).map(|(cpu, queue)| (cpu, queue.head_on_machine()))
    }

    /// Takes the first of a queue that may run on `cpu` and is behind `limit`, where `liked` says so only one that likes to. It looks at
    /// [`LOOT`] at most: what is so far behind in a queue waits for that CPU.
    #[inline(never)]
    fn steal_from(
        &self,
        (victim, cpu): (CpuId, CpuId),
        (limit, due, siblings): (u64, u64, Option<&DomainSched>),
        liked: bool,
        now: Nanos,
    ) -> Loot<P> {
        let queue = self.queue(victim);
        let mut waiting = queue.waiting.lock();
        let mut reluctant = Loot::None;
        let index = waiting.vcpus().iter().enumerate().rev().take(LOOT).find_map(|(index, candidate)| {
            let sched = &candidate.vcpu().sched;
            let may_come = || {
                siblings.is_some_and(|siblings| core::ptr::eq(siblings, &*sched.share))
                    || sched.share.due(cpu, 0) < due
            };
            let fits = sched.may_run_on(cpu) && sched.runnable() && may_come();
            let vruntime = if fits { queue.line.on_machine(waiting.due(candidate)) } else { NEVER };
            if vruntime >= limit {
                return None;
            }
            if liked && !sched.likes(cpu) {
                if matches!(reluctant, Loot::None) {
                    reluctant = Loot::Reluctant(vruntime);
                }
                return None;
            }
            Some(index)
        });
        let Some(index) = index else { return reluctant };
        let stolen = waiting.remove(index);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        queue.publish_head(&waiting);
        let sched = &stolen.vcpu().sched;
        let (weight, lines) = (sched.counted.load(Ordering::Relaxed), (&queue.line, &self.queue(cpu).line));
        let mut clock = self.clock.lock();
        let there = clock.transfer(lines, weight, sched.vruntime(), reach(weight), now);
        let carried = sched.share.carried((victim, &queue.line), &self.queue(cpu).line, reach(weight));
        let got = sched.share.settle_on(cpu, self.queue(cpu).line.base(), carried, 0);
        sched.share.moved(victim, cpu, now);
        let bounded = bounded(there, got);
        clock.change(weight, there, bounded);
        drop(clock);
        sched.vruntime.store(bounded, Ordering::Relaxed);
        sched.set_place(Place::Running);
        stolen.vcpu().cpu.store(cpu.0, Ordering::SeqCst);
        Loot::Taken(stolen)
    }

    /// Puts a vCPU that became runnable into a queue and sees to it that some CPU notices. Does nothing for one
    /// that is on a CPU already.
    pub(super) fn enqueue(&self, platform: &P, now: Nanos, vcpu: &VcpuRef<P>, from: From) {
        if let Some((cpu, vruntime)) = self.queue_up(platform, now, vcpu, from) {
            self.notice(platform, cpu, now, vruntime);
        }
    }

    /// Puts a vCPU that became runnable into a queue. Answers whose, and its virtual runtime there, where that CPU may have to
    /// notice.
    pub(super) fn queue_up(
        &self,
        platform: &P,
        now: Nanos,
        vcpu: &VcpuRef<P>,
        from: From,
    ) -> Option<(CpuId, u64)> {
        let mut placed = false;
        // Its lead over the base of the CPU that it comes from, and that of its domain.
        let mut left = None;
        let woken = vcpu.vcpu();
        let sched = &woken.sched;
        loop {
            let cpu = home(woken);
            let queue = self.queue(cpu);
            let mut waiting = queue.waiting.lock();
            if home(woken) != cpu {
                continue;
            }
            match sched.words.wanted() {
                Wanted::Nothing => return None,
                Wanted::Again => {
                    // It stopped being runnable while it waited, and kept its place: there may be a better one by now.
                    drop(waiting);
                    self.requeue(platform, now, vcpu);
                    return None;
                }
                Wanted::Queue => {}
            }
            if !placed {
                let target = match self.policy() {
                    Policy::Share => self.target(platform, now, woken, cpu),
                    // Without one it waits until another vCPU gives its CPU up.
                    Policy::Null => self.own_cpu(platform, vcpu)?,
                };
                placed = true;
                if target != cpu {
                    let base = queue.base(&self.clock.lock(), now);
                    let own = |vruntime| lead(vruntime, base);
                    left = Some((own(sched.vruntime()), own(sched.share.vruntime_on(cpu, base))));
                    woken.cpu.store(target.0, Ordering::SeqCst);
                    continue;
                }
            }
            let mut clock = self.clock.lock();
            if from != From::Cpu || left.is_some() {
                let base = queue.base(&clock, now);
                let (lead, carried) = match left {
                    Some((own, domain)) => {
                        let reach = reach(sched.share.part());
                        (own, place(base, domain, reach, reach))
                    }
                    None => (lead(sched.vruntime(), base), 0),
                };
                let cost = if from == From::Sleep { WAKE_COST } else { 0 };
                let got = sched.share.settle_on(cpu, base, carried, cost);
                let there = if from == From::Sleep {
                    let cost = scaled(WAKE_COST, sched.share.part());
                    self.woken(&mut clock, queue, sched, (base, lead, got), now).saturating_add(cost)
                } else {
                    let reach = reach(sched.share.part());
                    place(base, lead, reach, reach)
                };
                sched.vruntime.store(bounded(there, got), Ordering::Relaxed);
            }
            self.join(&mut clock, queue, sched, now);
            drop(clock);
            let due = self.insert(queue, &mut waiting, vcpu.clone());
            drop(waiting);
            return Some((cpu, due));
        }
    }

    /// The virtual runtime of a vCPU that wakes up with this lead over the base of its CPU: not before what its domain `got` there, nor
    /// before what its domain earned.
    fn woken(
        &self,
        clock: &mut VirtualClock,
        queue: &CpuQueue<P>,
        sched: &VcpuSched,
        (base, own, got): (u64, i64, u64),
        now: Nanos,
    ) -> u64 {
        let share = &sched.share;
        // The base is the least one, and the domain's is a mean of its own, which take turns: what wakes up does not wait for all of these.
        let standing = lead(got, base);
        let mut floor = standing - AHEAD as i64;
        let last = share.last_cpu();
        if last != queue.cpu && share.may_owe(last, self.queue(last).line.base()) {
            let there = self.queue(last).base(clock, now);
            let owed = lead(share.vruntime_on(last, there), there);
            if owed > standing.max(0) {
                floor = owed;
                share.set_vruntime_on(queue.cpu, base.saturating_add_signed(owed));
            }
        }
        if own.max(floor) < -CLOSE {
            let earned = share.credit(clock.fair(now));
            return place(base, own.max(floor), earned, 0);
        }
        // The division is for few.
        let ahead = own.max(floor);
        let most = if ahead <= LAG as i64 { LAG } else { reach(share.part()) };
        place(base, ahead, CLOSE.unsigned_abs(), most)
    }

    /// Makes room for `vcpus` vCPUs, all of which may wait for one CPU. Answers whether there is the memory: where they are queued
    /// nothing can fail.
    pub(crate) fn reserve(&self, vcpus: usize) -> bool {
        let room = |queue: &CpuQueue<P>| {
            let mut waiting = queue.waiting.lock();
            waiting.reserve(vcpus)
        };
        self.cpus.iter().all(room)
            && self.assignments.as_ref().is_none_or(|assignments| assignments.lock().reserve(vcpus))
    }

    /// Adds a vCPU to those that wait; answers when it is due.
    fn insert(&self, queue: &CpuQueue<P>, waiting: &mut Waiting<P>, vcpu: VcpuRef<P>) -> u64 {
        let (due, first) = waiting.insert(vcpu);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        queue.head.store(first, Ordering::SeqCst);
        due
    }

    /// Where a vCPU that became runnable is queued: where it was if nobody is there and it likes to be there, else on an
    /// idle CPU, one that it likes first, else where it was, else on the CPU whose vCPU is furthest ahead.
    fn target(&self, platform: &P, now: Nanos, vcpu: &Vcpu<P>, home: CpuId) -> CpuId {
        // Nearly always there is no choice: all CPUs are busy, and it may and likes to be where it was.
        if self.stays(platform, vcpu, home) {
            return home;
        }
        let allowed = vcpu.sched.affinity().intersect(&platform.online_cpus());
        let liked = allowed.intersect(&vcpu.sched.soft_affinity());
        if liked.contains(home) && self.is_free(home) {
            return home;
        }
        self.free_one(&liked)
            .or_else(|| Some(home).filter(|home| allowed.contains(*home) && self.is_free(*home)))
            .or_else(|| self.free_one(&allowed.without(&liked)))
            .or_else(|| liked.contains(home).then_some(home))
            .or_else(|| self.busiest(&liked, now))
            .or_else(|| self.busiest(&allowed, now))
            .unwrap_or(home)
    }

    /// Whether a vCPU has no better place than where it was: all CPUs are busy, and it may and likes to be there.
    fn stays(&self, platform: &P, vcpu: &Vcpu<P>, home: CpuId) -> bool {
        let busy = self.idle_cpus.load(Ordering::SeqCst) == 0 && platform.is_online(home);
        busy && vcpu.sched.may_run_on(home) && vcpu.sched.likes(home)
    }

    /// A CPU stopped running this vCPU and saved its registers. If it may go on there, it waits there from now on; it is off otherwise, and
    /// the answer is whether it is runnable.
    pub(super) fn stopped(&self, platform: &P, vcpu: &VcpuRef<P>, now: Nanos) -> bool {
        let stopped = vcpu.vcpu();
        let (cpu, sched) = (home(stopped), &stopped.sched);
        let queue = self.queue(cpu);
        let mut waiting = queue.waiting.lock();
        sched.return_quota();
        let runnable = sched.runnable();
        let waits = runnable
            && sched.place() == Place::Running
            && self.policy() == Policy::Share
            && self.stays(platform, stopped, cpu);
        if !waits {
            self.leave(queue, sched, now);
            return runnable;
        }
        sched.set_place(Place::Waiting);
        let due = self.insert(queue, &mut waiting, vcpu.clone());
        drop(waiting);
        self.notice(platform, cpu, now, due);
        // When the choice was made it did not wait yet.
        self.offer(platform, cpu, now);
        false
    }

    /// Whether nothing runs or waits on a CPU.
    fn is_free(&self, cpu: CpuId) -> bool {
        let queue = self.queue(cpu);
        queue.idle() && queue.head.load(Ordering::SeqCst) == NEVER
    }

    /// The first of these CPUs on which nothing runs or waits.
    #[inline(never)]
    fn free_one(&self, cpus: &CpuMask) -> Option<CpuId> {
        cpus.iter().find(|cpu| self.is_free(*cpu))
    }

    /// That of these CPUs whose vCPU is furthest ahead.
    #[inline(never)]
    fn busiest(&self, cpus: &CpuMask, now: Nanos) -> Option<CpuId> {
        cpus.iter().max_by_key(|cpu| self.queue(*cpu).running_on_machine(now))
    }

    /// Makes `cpu` choose anew where that is due to a vCPU that was queued there. While the least run of what runs there is not
    /// over, one look is enough, which ends its slice with its least run; likewise after a look in vain.
    pub(super) fn notice(&self, platform: &P, cpu: CpuId, now: Nanos, vruntime: u64) {
        let queue = self.queue(cpu);
        let unaware = queue.contended.unaware();
        let due = || queue.running_vruntime(now) > vruntime.saturating_add(GRANULARITY);
        if unaware || due() && !self.looks_by_itself(queue, now) {
            self.nudge(platform, cpu);
        }
    }

    /// `cpu`, which is this one, learns without a look of a vCPU that was queued here, while the least run of what it runs is not over:
    /// what the look would change is the end of the slice. Answers whether that is sooner than before; `None` where a look is needed.
    pub(super) fn learn(&self, platform: &P, cpu: CpuId, now: Nanos, vruntime: u64) -> Option<bool> {
        let queue = self.queue(cpu);
        let end = self.least_run_end(queue, now).filter(|_| self.policy() == Policy::Share)?;
        let running = queue.running_vruntime(now);
        let unaware = queue.contended.unaware();
        // What runs may have yielded, or have to stop: then a look is on its way.
        let slice_end = if !unaware {
            if running > vruntime.saturating_add(GRANULARITY) { end } else { NEVER }
        } else if self.is_due(cpu, queue, running) {
            end
        } else {
            now.0.saturating_add(slice(queue.weight.load(Ordering::Relaxed)))
        };
        let sooner = slice_end < queue.slice_end.load(Ordering::Relaxed);
        if sooner {
            queue.slice_end.store(slice_end, Ordering::SeqCst);
        }
        if unaware {
            queue.contended.set(true);
            self.offer(platform, cpu, now);
        }
        Some(sooner)
    }

    /// Makes another CPU choose anew if what waits here should rather run there.
    pub(super) fn offer(&self, platform: &P, cpu: CpuId, now: Nanos) {
        if self.cpus.len() == 1 {
            return;
        }
        let head = self.queue(cpu).head_on_machine();
        if head == NEVER {
            return;
        }
        let first = self.queue(cpu).waiting.lock().first().map(|(first, _)| first.clone());
        let Some(first) = first else { return };
        let sched = &first.vcpu().sched;
        let mut others = sched.affinity().intersect(&platform.online_cpus());
        others.remove(cpu);
        let best = others
            .iter()
            // What keeps its CPU in any case would only offer what waits there in turn.
            .filter(|other| self.least_run_end(self.queue(*other), now).is_none())
            .map(|other| (other, self.queue(other).running_on_machine(now)))
            .max_by_key(|(other, vruntime)| (*vruntime, sched.likes(*other)));
        if let Some((other, vruntime)) = best
            && vruntime > head.saturating_add(if sched.likes(other) { MARGIN } else { RELUCTANCE * MARGIN })
        {
            self.nudge(platform, other);
        }
    }

    /// Takes a waiting vCPU out of its queue and finds it the best one.
    pub(super) fn requeue(&self, platform: &P, now: Nanos, vcpu: &VcpuRef<P>) {
        if self.take_out(vcpu.vcpu(), now).1 {
            self.enqueue(platform, now, vcpu, From::Cpu);
        }
    }

    /// Takes a vCPU that has a reason not to run out of its queue. Answers whether it is on no CPU either, nor being put there.
    pub(crate) fn retire(&self, vcpu: &Vcpu<P>, now: Nanos) -> bool {
        self.take_out(vcpu, now).0 == Place::Off
    }

    /// Whether a vCPU that has a reason not to run is on no CPU, and stays so: whoever was choosing it has finished.
    pub(crate) fn is_off(&self, vcpu: &Vcpu<P>) -> bool {
        loop {
            let cpu = home(vcpu);
            let _waiting = self.queue(cpu).waiting.lock();
            if home(vcpu) == cpu {
                return vcpu.sched.place() != Place::Running;
            }
        }
    }

    /// Takes a vCPU out of its queue, if it is in one. Answers where it is now, and whether it was.
    fn take_out(&self, vcpu: &Vcpu<P>, now: Nanos) -> (Place, bool) {
        loop {
            let cpu = home(vcpu);
            let queue = self.queue(cpu);
            let mut waiting = queue.waiting.lock();
            if home(vcpu) != cpu {
                continue;
            }
            // Under this lock it is in this queue, or waits in none.
            let waits = vcpu.sched.place() == Place::Waiting;
            let index = if waits {
                waiting.vcpus().iter().position(|other| core::ptr::eq(other.vcpu(), vcpu))
            } else {
                None
            };
            if let Some(index) = index {
                waiting.remove(index);
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                queue.publish_head(&waiting);
                self.leave(queue, &vcpu.sched, now);
            }
            return (vcpu.sched.place(), index.is_some());
        }
    }
}
