//! The null policy: each vCPU has a CPU of its own, and one that finds none waits until another vCPU goes.
//!
//! A vCPU keeps its CPU while it sleeps or is paused: that it is there at once is what the policy is for. It gives the
//! CPU up when it goes down, when its domain ends, or when its affinity excludes the CPU. There are no slices, and
//! weights and caps mean nothing.

use super::place::From;
use super::queue::{Scheduler, home};
use super::{Reasons, VcpuSched};
use crate::domain::{Vcpu, VcpuRef};
use crate::ids::{CpuId, Nanos};
use crate::platform::Platform;
use alloc::boxed::Box;
use alloc::collections::VecDeque;

/// Which CPU belongs to which vCPU.
pub(super) struct Assignments<P: Platform> {
    owners: Box<[Option<VcpuRef<P>>]>,
    /// vCPUs that want to run and have no CPU, first come, first served.
    waiting: VecDeque<VcpuRef<P>>,
}

fn same<P: Platform>(one: &VcpuRef<P>, other: &Vcpu<P>) -> bool {
    core::ptr::eq(one.vcpu(), other)
}

/// Whether a vCPU gives its CPU up.
fn gone(sched: &VcpuSched) -> bool {
    sched.has(Reasons::DOWN) || sched.has(Reasons::STOPPED)
}

impl<P: Platform> Assignments<P> {
    pub fn new(cpus: usize) -> Self {
        Self { owners: (0..cpus).map(|_| None).collect(), waiting: VecDeque::new() }
    }

    fn owner(&mut self, cpu: CpuId) -> Option<&mut Option<VcpuRef<P>>> {
        self.owners.get_mut(usize::try_from(cpu.0).ok()?)
    }

    fn owns(&mut self, vcpu: &Vcpu<P>, cpu: CpuId) -> bool {
        self.owner(cpu).is_some_and(|owner| owner.as_ref().is_some_and(|owner| same(owner, vcpu)))
    }

    fn is_free(&mut self, cpu: CpuId) -> bool {
        self.owner(cpu).is_some_and(|owner| owner.is_none())
    }

    /// The first that waits for a CPU and may run on `cpu`.
    fn next_for(&mut self, cpu: CpuId) -> Option<VcpuRef<P>> {
        self.waiting.retain(|vcpu| vcpu.vcpu().sched.runnable());
        let index = self.waiting.iter().position(|vcpu| vcpu.vcpu().sched.may_run_on(cpu))?;
        self.waiting.remove(index)
    }
}

impl<P: Platform> Scheduler<P> {
    /// The CPU that belongs to a vCPU which wants to run; it gets one if one is free.
    pub(super) fn own_cpu(&self, platform: &P, vcpu: &VcpuRef<P>) -> Option<CpuId> {
        let mut table = self.assignments.as_ref()?.lock();
        let sched = &vcpu.vcpu().sched;
        let allowed = sched.affinity().intersect(&platform.online_cpus());
        let home = home(vcpu.vcpu());
        if table.owns(vcpu.vcpu(), home) {
            if allowed.contains(home) {
                return Some(home);
            }
            table.owner(home).map(Option::take);
        }
        let liked = allowed.intersect(&sched.soft_affinity());
        let mut free = |cpu: &CpuId| table.is_free(*cpu);
        let found = Some(home)
            .filter(|home| liked.contains(*home) && free(home))
            .or_else(|| liked.iter().find(&mut free))
            .or_else(|| allowed.iter().find(&mut free));
        match found {
            Some(cpu) => {
                if let Some(owner) = table.owner(cpu) {
                    *owner = Some(vcpu.clone());
                }
            }
            None if table.waiting.iter().any(|other| same(other, vcpu.vcpu())) => {}
            None => table.waiting.push_back(vcpu.clone()),
        }
        found
    }

    /// A vCPU stopped running or may do so no more: if that is for good, its CPU goes to one that waits for it.
    pub(super) fn give_up_cpu(&self, platform: &P, now: Nanos, vcpu: &Vcpu<P>) {
        let Some(assignments) = &self.assignments else { return };
        let cpu = home(vcpu);
        if !gone(&vcpu.sched) && vcpu.sched.may_run_on(cpu) && platform.is_online(cpu) {
            return;
        }
        let next = {
            let mut table = assignments.lock();
            if gone(&vcpu.sched) {
                table.waiting.retain(|other| !same(other, vcpu));
            }
            if !table.owns(vcpu, cpu) {
                return;
            }
            table.owner(cpu).map(Option::take);
            table.next_for(cpu)
        };
        if let Some(next) = next {
            self.enqueue(platform, now, &next, From::Sleep);
        }
    }

    /// A CPU came up: one that waits for it gets it.
    pub(super) fn fill_cpu(&self, platform: &P, now: Nanos, cpu: CpuId) {
        let Some(assignments) = &self.assignments else { return };
        let next = {
            let mut table = assignments.lock();
            if table.is_free(cpu) { table.next_for(cpu) } else { None }
        };
        if let Some(next) = next {
            self.enqueue(platform, now, &next, From::Sleep);
        }
    }
}
