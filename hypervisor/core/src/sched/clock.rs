//! The machine's virtual time: the average of the virtual runtimes of all vCPUs that run or wait, by weight.
//!
//! A vCPU behind it got less than its share, one ahead of it more. It is computed from exact sums, which count what
//! runs at the very moment as well, so that it neither drifts nor waits for anybody's accounting.

use super::share::BASE;
use crate::ids::Nanos;

/// Sums over the vCPUs that run or wait.
pub(super) struct VirtualClock {
    /// Weight times virtual runtime, as far as it is accounted.
    sum: u128,
    /// Weight.
    weight: u64,
    /// CPUs that run something, and the sum of the times up to which that is accounted.
    busy: u64,
    since: u128,
    /// The virtual time when it was last asked for; it stands still while nobody wants to run.
    last: u64,
}

impl VirtualClock {
    pub const fn new() -> Self {
        Self { sum: 0, weight: 0, busy: 0, since: 0, last: 0 }
    }

    /// The virtual time at `now`.
    pub fn read(&mut self, now: Nanos) -> u64 {
        if self.weight != 0 {
            let unaccounted = (u128::from(self.busy) * u128::from(now.0)).saturating_sub(self.since);
            let sum = self.sum + unaccounted * u128::from(BASE);
            self.last = u64::try_from(sum / u128::from(self.weight)).unwrap_or(u64::MAX);
        }
        self.last
    }

    /// A vCPU wants to run from now on.
    pub fn add(&mut self, weight: u32, vruntime: u64) {
        self.weight += u64::from(weight);
        self.sum += u128::from(weight) * u128::from(vruntime);
    }

    /// A vCPU does not want to run any more.
    pub fn remove(&mut self, weight: u32, vruntime: u64, now: Nanos) {
        self.read(now);
        self.weight = self.weight.saturating_sub(weight.into());
        self.sum = self.sum.saturating_sub(u128::from(weight) * u128::from(vruntime));
    }

    /// The weight of a vCPU that wants to run changed.
    pub fn reweigh(&mut self, vruntime: u64, old: u32, new: u32, now: Nanos) {
        self.read(now);
        self.weight = (self.weight + u64::from(new)).saturating_sub(old.into());
        let product = |weight: u32| u128::from(weight) * u128::from(vruntime);
        self.sum = (self.sum + product(new)).saturating_sub(product(old));
    }

    /// The virtual runtime of a vCPU changed.
    pub fn change(&mut self, weight: u32, old: u64, new: u64) {
        let product = |vruntime: u64| u128::from(weight) * u128::from(vruntime);
        self.sum = (self.sum + product(new)).saturating_sub(product(old));
    }

    /// What a CPU runs was accounted up to `old`, and is up to `new` from now on; `None`: it runs nothing.
    pub fn account(&mut self, old: Option<Nanos>, new: Option<Nanos>) {
        if let Some(old) = old {
            self.busy = self.busy.saturating_sub(1);
            self.since = self.since.saturating_sub(old.0.into());
        }
        if let Some(new) = new {
            self.busy += 1;
            self.since += u128::from(new.0);
        }
    }

    /// Sum of the weights.
    pub fn weight(&self) -> u64 {
        self.weight
    }
}
