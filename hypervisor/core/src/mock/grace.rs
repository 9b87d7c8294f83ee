//! Grace periods among CPUs that really run at the same time: tasks of a model.

use super::MockPlatform;
use super::tlb::Tlb;
use crate::cpumask::CpuMask;
use crate::ids::CpuId;
use crate::platform::Platform;

/// CPUs that may hold something that they looked up.
#[derive(Default)]
pub(super) struct Grace {
    /// Whether CPUs say when they run something. Where they do not, no period waits for any.
    known: bool,
    /// Those that run something.
    running: CpuMask,
    /// Those of them that did not come to a quiet point since the last period began.
    waits_for: CpuMask,
}

impl MockPlatform {
    /// Whether a CPU has page tables loaded.
    pub fn has_tables(&self, cpu: CpuId) -> bool {
        self.tlbs.lock().unwrap().get(&cpu).is_some_and(Tlb::has_root)
    }

    /// This CPU runs something from now on: grace periods wait for it.
    pub fn begin_running(&self) {
        let mut grace = self.grace.lock().unwrap();
        grace.known = true;
        grace.running.insert(self.this_cpu());
    }

    /// This CPU holds nothing that it looked up, and has no tables of a dying domain loaded.
    pub fn quiet_point(&self) {
        self.grace.lock().unwrap().waits_for.remove(self.this_cpu());
    }

    /// This CPU runs nothing any more. What it has loaded stays until a grace period begins.
    pub fn end_running(&self) {
        let mut grace = self.grace.lock().unwrap();
        grace.running.remove(self.this_cpu());
        if grace.waits_for.contains(self.this_cpu()) {
            grace.waits_for.remove(self.this_cpu());
            self.tlbs.lock().unwrap().remove(&self.this_cpu());
        }
    }

    pub(super) fn begin_waiting(&self) {
        let mut grace = self.grace.lock().unwrap();
        grace.waits_for = grace.running;
        if grace.known {
            self.tlbs.lock().unwrap().retain(|cpu, _| grace.running.contains(*cpu));
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.grace.lock().unwrap().waits_for.is_empty()
    }
}
