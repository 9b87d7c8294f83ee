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
use core::sync::atomic::Ordering;
use spin::Mutex;

/// Which CPU belongs to which vCPU.
pub(super) struct Assignments<P: Platform> {
    owners: Box<[Option<VcpuRef<P>>]>,
    /// vCPUs that want to run and have no CPU, first come, first served; `in_line` says that one is here.
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

    /// Makes room for `vcpus` vCPUs that wait; answers whether there is the memory.
    pub fn reserve(&mut self, vcpus: usize) -> bool {
        self.waiting.try_reserve(vcpus.saturating_sub(self.waiting.len())).is_ok()
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
        self.keep_in_line(|vcpu| vcpu.vcpu().sched.runnable());
        let index = self.waiting.iter().position(|vcpu| vcpu.vcpu().sched.may_run_on(cpu))?;
        let next = self.waiting.remove(index)?;
        next.vcpu().sched.in_line.store(false, Ordering::Relaxed);
        Some(next)
    }

    /// A vCPU wants to run and has no CPU.
    fn line_up(&mut self, vcpu: &VcpuRef<P>) {
        if !vcpu.vcpu().sched.in_line.swap(true, Ordering::Relaxed) {
            self.waiting.push_back(vcpu.clone());
        }
    }

    /// Takes all out of the line that are not to be kept.
    fn keep_in_line(&mut self, keep: impl Fn(&VcpuRef<P>) -> bool) {
        self.waiting.retain(|vcpu| {
            let kept = keep(vcpu);
            vcpu.vcpu().sched.in_line.store(kept, Ordering::Relaxed);
            kept
        });
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
                // One that has a CPU would take the next one from those that have none.
                if sched.in_line.load(Ordering::Relaxed) {
                    table.keep_in_line(|other| !same(other, vcpu.vcpu()));
                }
            }
            None => table.line_up(vcpu),
        }
        found
    }

    /// A vCPU stopped running or may do so no more: if that is for good, its CPU goes to one that waits for it.
    #[inline(always)]
    pub(super) fn give_up_cpu(&self, platform: &P, now: Nanos, vcpu: &Vcpu<P>) {
        if let Some(assignments) = &self.assignments {
            self.give_up_assigned(assignments, platform, now, vcpu);
        }
    }

    #[inline(never)]
    fn give_up_assigned(
        &self,
        assignments: &Mutex<Assignments<P>>,
        platform: &P,
        now: Nanos,
        vcpu: &Vcpu<P>,
    ) {
        let cpu = home(vcpu);
        if !gone(&vcpu.sched) && vcpu.sched.may_run_on(cpu) && platform.is_online(cpu) {
            return;
        }
        let next = {
            let mut table = assignments.lock();
            // The others of its domain that were stopped with it go out with it: one look for all of them.
            if gone(&vcpu.sched) && vcpu.sched.in_line.load(Ordering::Relaxed) {
                table.keep_in_line(|other| !gone(&other.vcpu().sched));
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
