//! Virtual time: of each CPU, and of the machine.
//!
//! # Of a CPU
//! The virtual runtimes of what runs or waits on a CPU are numbers on its [`Timeline`]. They only grow by what runs, and the least of
//! them, the timeline's *base*, never goes back: a vCPU that comes is placed beside the base, so it meets those that
//! it competes with and not an average of vCPUs elsewhere.
//!
//! # Of the machine
//! So that shares hold across CPUs, each timeline has an *offset*: with it added, virtual runtimes of different CPUs can be compared. The machine's
//! virtual time is the average of these sums over all vCPUs that run or wait, by weight. A CPU whose timeline would drift away from it (what is bound to
//! it by affinity gets more or less there than elsewhere) moves its offset, which changes nothing between those on that CPU.
//!
//! [`VirtualClock::fair`] is another measure of the machine: what a vCPU of the weight [`BASE`] would have got by now if the CPUs that more than
//! one wants were divided infinitely finely among those on them. It never goes back. A vCPU that has a CPU for itself counts
//! no more than its CPU: its weight may be worth many CPUs, or next to nothing, and the others neither gain nor lose by that.
//!
//! # Invariants
//! - Offsets and loads change with the clock locked; an offset by its own CPU, or by the CPU that puts the first vCPU there.
//! - `base` is written by its own CPU alone, and it is never more than the least virtual runtime that was seen there.
//! - `sum` is exact: it holds, for each vCPU that runs or waits, its weight times its virtual runtime with the offset, less the origin.

use super::queue::NEVER;
use super::share::{BASE, DomainSched};
use crate::ids::{CpuId, Nanos};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Where the machine's virtual time begins, in nanoseconds: what is behind it is not below zero.
const ORIGIN: u64 = 1 << 42;
/// The sums are kept for virtual runtimes less than an origin, so that they are small. It follows the virtual time at this distance.
const FAR: u64 = 1 << 36;
/// What passed since the last account of [`VirtualClock::fair`] is accounted with the next if it is less than this, in nanoseconds: less
/// than any vCPU takes to sleep and to wake up again.
const GRAIN: u64 = 2_000;
/// How often a CPU compares its virtual time with the machine's at most, in nanoseconds.
const COMPARE: u64 = 1_000_000;

/// A CPU's virtual time.
pub(super) struct Timeline {
    base: AtomicU64,
    offset: AtomicU64,
    /// Weight of what runs or waits here, and the number.
    load: AtomicU64,
    count: AtomicU32,
    /// When this was compared with the machine's virtual time.
    compared: AtomicU64,
}

impl Timeline {
    pub fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            base: zero(),
            offset: AtomicU64::new(ORIGIN),
            load: zero(),
            count: AtomicU32::new(0),
            compared: zero(),
        }
    }

    /// The least virtual runtime here, as far as this CPU has looked.
    pub fn base(&self) -> u64 {
        self.base.load(Ordering::Relaxed)
    }

    /// This CPU found that nothing here is behind `least`.
    pub fn advance(&self, least: u64) {
        if least > self.base() {
            self.base.store(least, Ordering::Relaxed);
        }
    }

    /// A virtual runtime of this CPU among those of the machine; [`NEVER`] stays what it is.
    pub fn on_machine(&self, vruntime: u64) -> u64 {
        match vruntime {
            NEVER => NEVER,
            here => here.wrapping_add(self.offset.load(Ordering::Relaxed)),
        }
    }

    /// Whether it is time to compare this with the machine's virtual time.
    pub fn is_to_be_compared(&self, now: Nanos) -> bool {
        now.0.saturating_sub(self.compared.load(Ordering::Relaxed)) >= COMPARE
    }
}

/// How far `one` is ahead of `other`.
pub(super) fn lead(one: u64, other: u64) -> i64 {
    one.wrapping_sub(other) as i64
}

/// Sums over the vCPUs that run or wait.
pub(super) struct VirtualClock {
    /// Weight times virtual runtime less the origin, as far as it is accounted.
    sum: i128,
    origin: u64,
    /// Weight.
    weight: u64,
    /// CPUs on which just one runs or waits, and the weight of those.
    lone: u64,
    lone_weight: u64,
    /// CPUs that run something, and the sum of the times up to which that is accounted, which may wrap.
    busy: u64,
    since: u64,
    /// The virtual time when it was last asked for; it stands still while no vCPU wants to run.
    last: u64,
    /// What [`VirtualClock::fair`] was at the time `fair_at`.
    fair: u64,
    fair_at: u64,
    /// The domain of what runs on each CPU, or ran there last.
    runs: Box<[Option<Arc<DomainSched>>]>,
}

impl VirtualClock {
    /// Of a machine with so many CPUs, on which nothing runs or waits.
    pub fn new(cpus: usize) -> Self {
        Self {
            sum: 0,
            origin: ORIGIN,
            weight: 0,
            lone: 0,
            lone_weight: 0,
            busy: 0,
            since: 0,
            last: ORIGIN,
            fair: 0,
            fair_at: 0,
            runs: (0..cpus).map(|_| None).collect(),
        }
    }

    /// From now on a vCPU of this domain runs on `cpu`. Answers which one that was before, to be let go without the lock.
    pub fn begin(&mut self, cpu: CpuId, domain: &Arc<DomainSched>) -> Option<Arc<DomainSched>> {
        self.runs.get_mut(cpu.0 as usize)?.replace(domain.clone())
    }

    /// The domain of what runs on `cpu`, or ran there last.
    pub fn runs_on(&self, cpu: CpuId) -> Option<&DomainSched> {
        self.runs.get(cpu.0 as usize)?.as_deref()
    }

    /// The virtual time at `now`.
    #[inline(never)]
    pub fn read(&mut self, now: Nanos) -> u64 {
        if self.weight != 0 {
            // The sums wrap, their difference does not. A CPU may have accounted for a little more than `now`.
            let unaccounted = (self.busy.wrapping_mul(now.0).wrapping_sub(self.since) as i64).max(0);
            let sum = self.sum + i128::from(unaccounted) * i128::from(BASE);
            let mean = self.mean(sum);
            self.last = self.origin.wrapping_add_signed(mean);
            if mean.unsigned_abs() > FAR {
                self.origin = self.last;
                self.sum -= i128::from(mean) * i128::from(self.weight);
            }
        }
        self.last
    }

    /// A sum divided by the weight. Mostly both are small.
    fn mean(&self, sum: i128) -> i64 {
        if let (Ok(sum), Ok(weight)) = (i64::try_from(sum), i64::try_from(self.weight)) {
            return sum / weight;
        }
        let mean = sum / i128::from(self.weight);
        i64::try_from(mean).unwrap_or(if mean < 0 { i64::MIN } else { i64::MAX })
    }

    /// Nanoseconds that a vCPU of the weight [`BASE`] would have got until `now` of CPUs that divide their time infinitely finely: those that
    /// more than one wants, or all, where there are none.
    #[inline(always)]
    pub fn fair(&mut self, now: Nanos) -> u64 {
        if now.0.saturating_sub(self.fair_at) >= GRAIN {
            self.advance_fair(now);
        }
        self.fair
    }

    #[inline(never)]
    fn advance_fair(&mut self, now: Nanos) {
        let passed = now.0 - self.fair_at;
        self.fair_at = now.0;
        let (mut cpus, mut weight) = (self.busy.saturating_sub(self.lone), self.weight - self.lone_weight);
        if cpus == 0 || weight == 0 {
            (cpus, weight) = (self.busy, self.weight);
        }
        if weight != 0 {
            self.fair = self.fair.saturating_add(divided(passed, cpus, weight));
        }
    }

    /// One of this weight more runs or waits on a CPU.
    fn load(&mut self, line: &Timeline, weight: u32) {
        let (load, count) = (line.load.load(Ordering::Relaxed), line.count.load(Ordering::Relaxed));
        let more = load + u64::from(weight);
        self.set_load(line, more, count + 1);
        match count {
            0 => (self.lone, self.lone_weight) = (self.lone + 1, self.lone_weight + more),
            1 => (self.lone, self.lone_weight) = (self.lone - 1, self.lone_weight - load),
            _ => {}
        }
    }

    /// One of this weight less does.
    fn unload(&mut self, line: &Timeline, weight: u32) {
        let (load, count) = (line.load.load(Ordering::Relaxed), line.count.load(Ordering::Relaxed));
        let less = load - u64::from(weight);
        self.set_load(line, less, count - 1);
        match count {
            1 => (self.lone, self.lone_weight) = (self.lone - 1, self.lone_weight - load),
            2 => (self.lone, self.lone_weight) = (self.lone + 1, self.lone_weight + less),
            _ => {}
        }
    }

    fn set_load(&mut self, line: &Timeline, load: u64, count: u32) {
        self.weight = self.weight - line.load.load(Ordering::Relaxed) + load;
        line.load.store(load, Ordering::Relaxed);
        line.count.store(count, Ordering::Relaxed);
    }

    /// A vCPU wants to run from now on.
    pub fn add(&mut self, line: &Timeline, weight: u32, vruntime: u64, now: Nanos) {
        self.fair(now);
        self.settle(line, now);
        self.load(line, weight);
        self.sum += self.product(line, weight, vruntime);
    }

    /// A vCPU does not want to run any more.
    pub fn remove(&mut self, line: &Timeline, weight: u32, vruntime: u64, now: Nanos) {
        self.fair(now);
        if self.weight == u64::from(weight) {
            // It was the last one: here the virtual time stands still.
            self.read(now);
        }
        self.unload(line, weight);
        self.sum -= self.product(line, weight, vruntime);
    }

    /// The weight of a vCPU that wants to run changed.
    pub fn reweigh(&mut self, line: &Timeline, vruntime: u64, old: u32, new: u32, now: Nanos) {
        self.fair(now);
        self.unload(line, old);
        self.load(line, new);
        self.sum += self.product(line, new, vruntime) - self.product(line, old, vruntime);
    }

    /// The virtual runtime of a vCPU changed.
    pub fn change(&mut self, weight: u32, old: u64, new: u64) {
        self.sum += i128::from(weight) * i128::from(lead(new, old));
    }

    /// A vCPU goes from one CPU to another, where it keeps its virtual runtime among those of the machine, but is placed no more than so
    /// far behind that CPU's base, or ahead of it. Answers its virtual runtime there.
    pub fn transfer(
        &mut self,
        (from, to): (&Timeline, &Timeline),
        weight: u32,
        vruntime: u64,
        reach: u64,
        now: Nanos,
    ) -> u64 {
        self.fair(now);
        self.settle(to, now);
        let old = from.on_machine(vruntime);
        let new = place(to.base(), lead(old, to.on_machine(to.base())), reach, reach);
        self.change(weight, old, to.on_machine(new));
        self.unload(from, weight);
        self.load(to, weight);
        new
    }

    /// All that runs or waits on a CPU is further ahead by so much from now on, among those of the machine.
    pub fn shift(&mut self, line: &Timeline, by: i64) {
        self.sum += i128::from(line.load.load(Ordering::Relaxed)) * i128::from(by);
        let offset = line.offset.load(Ordering::Relaxed).wrapping_add_signed(by);
        line.offset.store(offset, Ordering::Relaxed);
    }

    /// The virtual time at `now`, with which a CPU compares its own.
    pub fn compare(&mut self, line: &Timeline, now: Nanos) -> u64 {
        line.compared.store(now.0, Ordering::Relaxed);
        self.read(now)
    }

    /// A CPU where nothing runs or waits takes over the machine's virtual time.
    fn settle(&mut self, line: &Timeline, now: Nanos) {
        if line.load.load(Ordering::Relaxed) == 0 && line.is_to_be_compared(now) {
            let offset = self.compare(line, now).wrapping_sub(line.base());
            line.offset.store(offset, Ordering::Relaxed);
        }
    }

    /// What a vCPU of a CPU is worth in the sum.
    fn product(&self, line: &Timeline, weight: u32, vruntime: u64) -> i128 {
        i128::from(weight) * i128::from(lead(line.on_machine(vruntime), self.origin))
    }

    /// What a CPU runs was accounted up to `old`, and is up to `new` from now on; `None`: it runs nothing.
    pub fn account(&mut self, old: Option<Nanos>, new: Option<Nanos>, now: Nanos) {
        if old.is_some() != new.is_some() {
            self.fair(now);
        }
        if let Some(old) = old {
            self.busy = self.busy.saturating_sub(1);
            self.since = self.since.wrapping_sub(old.0);
        }
        if let Some(new) = new {
            self.busy += 1;
            self.since = self.since.wrapping_add(new.0);
        }
    }

    /// Sum of the weights.
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// What is left of the sums where no vCPU runs or waits: nothing.
    #[cfg(test)]
    pub fn rest(&self) -> (i128, u64) {
        (self.sum, self.weight)
    }
}

/// So many nanoseconds of CPUs, divided by a weight.
fn divided(passed: u64, cpus: u64, weight: u64) -> u64 {
    if cpus * u64::from(BASE) == weight {
        return passed;
    }
    match passed.checked_mul(cpus).and_then(|ran| ran.checked_mul(BASE.into())) {
        Some(ran) => ran / weight,
        // For days no vCPU came or went.
        None => (passed / weight).saturating_mul(cpus).saturating_mul(BASE.into()),
    }
}

/// A virtual runtime with this lead over `base`, but no more than so far behind it, and ahead of it.
pub(super) fn place(base: u64, lead: i64, behind: u64, ahead: u64) -> u64 {
    if lead < 0 {
        base.saturating_sub(lead.unsigned_abs().min(behind))
    } else {
        base.saturating_add(lead.unsigned_abs().min(ahead))
    }
}
