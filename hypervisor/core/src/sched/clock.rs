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
//! [`VirtualClock::fair`] is another measure of the machine: what a vCPU of the weight [`BASE`] would have got by now if the machine were
//! divided infinitely finely among those that run or wait. It never goes back.
//!
//! # Invariants
//! - Offsets and loads change with the clock locked; an offset by its own CPU, or by the CPU that puts the first vCPU there.
//! - `base` is written by its own CPU alone, and it is never more than the least virtual runtime that was seen there.
//! - `sum` is exact: it holds, for each vCPU that runs or waits, its weight times its virtual runtime with the offset, less the origin.

use super::queue::NEVER;
use super::share::BASE;
use crate::ids::Nanos;
use core::sync::atomic::{AtomicU64, Ordering};

/// Where the machine's virtual time begins, in nanoseconds: what is behind it is not below zero.
const ORIGIN: u64 = 1 << 42;
/// The sums are kept for virtual runtimes less than an origin, so that they are small. It follows the virtual time at this distance.
const FAR: u64 = 1 << 36;
/// How often a CPU compares its virtual time with the machine's at most, in nanoseconds.
const COMPARE: u64 = 1_000_000;

/// A CPU's virtual time.
pub(super) struct Timeline {
    base: AtomicU64,
    offset: AtomicU64,
    /// Weight of what runs or waits here.
    load: AtomicU64,
    /// When this was compared with the machine's virtual time.
    compared: AtomicU64,
}

impl Timeline {
    pub fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self { base: zero(), offset: AtomicU64::new(ORIGIN), load: zero(), compared: zero() }
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

    fn weigh(&self, less: u32, more: u32) {
        let load = self.load.load(Ordering::Relaxed);
        self.load.store((load + u64::from(more)).saturating_sub(less.into()), Ordering::Relaxed);
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
    /// CPUs that run something, and the sum of the times up to which that is accounted, which may wrap.
    busy: u64,
    since: u64,
    /// The virtual time when it was last asked for; it stands still while no vCPU wants to run.
    last: u64,
    /// What [`VirtualClock::fair`] was at the time `fair_at`.
    fair: u64,
    fair_at: u64,
}

impl VirtualClock {
    pub const fn new() -> Self {
        Self { sum: 0, origin: ORIGIN, weight: 0, busy: 0, since: 0, last: ORIGIN, fair: 0, fair_at: 0 }
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

    /// Nanoseconds that a vCPU of the weight [`BASE`] would have got until `now` of a machine that divides its time infinitely finely.
    pub fn fair(&mut self, now: Nanos) -> u64 {
        if now.0 > self.fair_at {
            let passed = now.0 - self.fair_at;
            self.fair_at = now.0;
            if self.weight != 0 {
                self.fair = self.fair.saturating_add(self.divided(passed));
            }
        }
        self.fair
    }

    /// So many nanoseconds of the busy CPUs, divided among the vCPUs.
    fn divided(&self, passed: u64) -> u64 {
        if let Some(ran) = passed.checked_mul(self.busy).and_then(|ran| ran.checked_mul(BASE.into())) {
            return ran / self.weight;
        }
        // For days no vCPU came or went.
        let each = passed / self.weight;
        each.saturating_mul(self.busy).saturating_mul(BASE.into())
    }

    /// A vCPU wants to run from now on.
    pub fn add(&mut self, line: &Timeline, weight: u32, vruntime: u64, now: Nanos) {
        self.fair(now);
        self.settle(line, now);
        self.weight += u64::from(weight);
        line.weigh(0, weight);
        self.sum += self.product(line, weight, vruntime);
    }

    /// A vCPU does not want to run any more.
    pub fn remove(&mut self, line: &Timeline, weight: u32, vruntime: u64, now: Nanos) {
        self.fair(now);
        if self.weight == u64::from(weight) {
            // It was the last one: here the virtual time stands still.
            self.read(now);
        }
        self.weight = self.weight.saturating_sub(weight.into());
        line.weigh(weight, 0);
        self.sum -= self.product(line, weight, vruntime);
    }

    /// The weight of a vCPU that wants to run changed.
    pub fn reweigh(&mut self, line: &Timeline, vruntime: u64, old: u32, new: u32, now: Nanos) {
        self.fair(now);
        self.weight = (self.weight + u64::from(new)).saturating_sub(old.into());
        line.weigh(old, new);
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
        self.settle(to, now);
        let old = from.on_machine(vruntime);
        let new = place(to.base(), lead(old, to.on_machine(to.base())), reach, reach);
        self.change(weight, old, to.on_machine(new));
        from.weigh(weight, 0);
        to.weigh(0, weight);
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

/// A virtual runtime with this lead over `base`, but no more than so far behind it, and ahead of it.
pub(super) fn place(base: u64, lead: i64, behind: u64, ahead: u64) -> u64 {
    if lead < 0 {
        base.saturating_sub(lead.unsigned_abs().min(behind))
    } else {
        base.saturating_add(lead.unsigned_abs().min(ahead))
    }
}
