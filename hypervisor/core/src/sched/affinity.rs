//! Where vCPUs may and should run, and what becomes of that when CPUs come and go.

use super::place::From;
use super::queue::Policy;
use crate::Hypervisor;
use crate::cpumask::CpuMask;
use crate::domain::VcpuRef;
use crate::ids::{CpuId, VcpuId};
use crate::platform::{Platform, Work};
use core::sync::atomic::Ordering;
use xen_abi::errno::Errno;

impl<P: Platform> Hypervisor<P> {
    /// Says where a vCPU may run from now on. One that runs elsewhere leaves at once, one that waits finds the best place.
    ///
    /// # Errors
    /// `EINVAL` when no CPU of the set is up.
    pub fn set_affinity(&self, vcpu: &VcpuRef<P>, mask: &CpuMask) -> Result<(), Errno> {
        if mask.intersect(&self.platform.online_cpus()).is_empty() {
            return Err(Errno::EINVAL);
        }
        let cpu = CpuId(vcpu.vcpu().cpu.load(Ordering::SeqCst));
        vcpu.vcpu().sched.affinity.store(mask);
        if !mask.contains(cpu) {
            self.interrupt(vcpu.vcpu());
        }
        self.find_place(vcpu);
        if self.sched.policy() == Policy::Null {
            self.sched.fill_cpu(&self.platform, self.platform.now(), cpu);
        }
        Ok(())
    }

    /// Says where a vCPU should rather run, among the CPUs where it may. One that runs stays until it waits the next time.
    ///
    /// # Errors
    /// `EINVAL` for no CPU at all.
    pub fn set_soft_affinity(&self, vcpu: &VcpuRef<P>, mask: &CpuMask) -> Result<(), Errno> {
        if mask.is_empty() {
            return Err(Errno::EINVAL);
        }
        vcpu.vcpu().sched.soft_affinity.store(mask);
        self.find_place(vcpu);
        Ok(())
    }

    /// Finds the best place for a vCPU that waits.
    fn find_place(&self, vcpu: &VcpuRef<P>) {
        let now = self.platform.now();
        match self.sched.policy() {
            Policy::Share => self.sched.requeue(&self.platform, now, vcpu),
            // One without a CPU is in no queue.
            Policy::Null => self.sched.enqueue(&self.platform, now, vcpu, From::Cpu),
        }
    }

    /// A CPU left [`Platform::online_cpus`] just now: what waits there goes elsewhere, what runs there follows when the
    /// CPU chooses next, its timers become this CPU's. A vCPU that may run on no other CPU may run anywhere from now on.
    pub fn cpu_left(&self, cpu: CpuId) {
        let online = self.platform.online_cpus();
        for domain in self.domains.all() {
            for vcpu in &domain.vcpus {
                let vcpu = VcpuRef { domain: domain.clone(), id: VcpuId(vcpu.id.0) };
                if vcpu.vcpu().sched.affinity().intersect(&online).is_empty() {
                    self.log(format_args!("{vcpu:?}: no CPU of its affinity is left, it may run anywhere\n"));
                    vcpu.vcpu().sched.affinity.store(&CpuMask::ALL);
                }
                if vcpu.vcpu().cpu.load(Ordering::SeqCst) == cpu.0 {
                    self.sched.give_up_cpu(&self.platform, self.platform.now(), vcpu.vcpu());
                    self.find_place(&vcpu);
                }
            }
        }
        self.sched.adopt_refills(cpu, self.platform.this_cpu());
        self.adopt_walks(cpu);
        self.timers.adopt(cpu, self.platform.this_cpu());
        self.rearm_timer();
        self.platform.raise_work(cpu, Work::RESCHEDULE);
    }

    /// A CPU is in [`Platform::online_cpus`] from now on.
    pub fn cpu_joined(&self, cpu: CpuId) {
        self.sched.fill_cpu(&self.platform, self.platform.now(), cpu);
        self.platform.raise_work(cpu, Work::RESCHEDULE);
    }

    /// Binds a vCPU to one CPU until it is called with `None` (`SCHEDOP_pin_override`).
    ///
    /// # Errors
    /// `EBUSY` when it is bound already, `EINVAL` when it is not, or for a CPU that is not up.
    pub fn pin_override(&self, vcpu: &VcpuRef<P>, cpu: Option<CpuId>) -> Result<(), Errno> {
        let sched = &vcpu.vcpu().sched;
        let mut set_aside = sched.pinned_from.lock();
        match (cpu, set_aside.take()) {
            (None, Some(mask)) => {
                drop(set_aside);
                // Its CPUs may have gone meanwhile: then it may run anywhere.
                self.set_affinity(vcpu, &mask).or_else(|_| self.set_affinity(vcpu, &CpuMask::ALL))
            }
            (None, None) => Err(Errno::EINVAL),
            (Some(_), Some(mask)) => {
                *set_aside = Some(mask);
                Err(Errno::EBUSY)
            }
            (Some(cpu), None) => {
                if !self.platform.is_online(cpu) {
                    return Err(Errno::EINVAL);
                }
                *set_aside = Some(sched.affinity());
                drop(set_aside);
                self.set_affinity(vcpu, &CpuMask::of(cpu))
            }
        }
    }
}
