//! Host tests of the scheduler: a machine of several CPUs in simulated time.

mod fair;
mod naps;
mod orders;
mod policy;
mod random;
mod rounds;
mod turns;
mod walks;

use super::*;
use crate::Hypervisor;
use crate::domain::{Domain, VcpuRef};
use crate::hypercall::Cx;
use crate::ids::{CpuId, DomId, MachineAddr, VcpuId};
use crate::mock::{self, MockPlatform};
use crate::platform::Work;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use xen_abi::GuestHandle;
use xen_abi::errno::Errno;
use xen_abi::vcpu::{RUNSTATE_BLOCKED, RUNSTATE_OFFLINE, RUNSTATE_RUNNABLE, RUNSTATE_RUNNING};

/// A step of simulated time, in nanoseconds.
const STEP: u64 = 500_000;

/// A machine whose CPUs run what the scheduler tells them.
struct Sim {
    hv: Hypervisor<MockPlatform>,
    /// The first domain.
    domain: Arc<Domain<MockPlatform>>,
    /// All vCPUs of all domains.
    vcpus: Vec<VcpuRef<MockPlatform>>,
    current: Vec<Option<VcpuRef<MockPlatform>>>,
    /// Nanoseconds that each vCPU ran.
    ran: Vec<u64>,
}

impl Sim {
    fn new(cpus: u32, vcpus: u32) -> Self {
        Self::with_domains(cpus, &[vcpus], Policy::Share)
    }

    /// As many domains of one vCPU each.
    fn singles(cpus: u32, domains: usize) -> Self {
        Self::with_domains(cpus, &vec![1; domains], Policy::Share)
    }

    fn with_domains(cpus: u32, domains: &[u32], policy: Policy) -> Self {
        let mut hv = mock::hypervisor(64);
        hv.sched = Scheduler::with_policy(cpus as usize, policy);
        hv.timers = crate::time::TimerQueues::new(cpus as usize);
        hv.platform.cpus.store(cpus, SeqCst);
        let mut all = Vec::new();
        for (index, vcpus) in domains.iter().enumerate() {
            let domain = mock::domain(&hv, index as u16 + 1, *vcpus, 16);
            for vcpu in &domain.vcpus {
                vcpu.time.disable_periodic();
                all.push(VcpuRef { domain: domain.clone(), id: vcpu.id });
            }
        }
        let ran = vec![0; all.len()];
        Self { hv, domain: all[0].domain.clone(), vcpus: all, current: vec![None; cpus as usize], ran }
    }

    fn vcpu(&self, n: usize) -> VcpuRef<MockPlatform> {
        self.vcpus[n].clone()
    }

    /// Number of a vCPU among all.
    fn number(&self, vcpu: &VcpuRef<MockPlatform>) -> usize {
        self.vcpus.iter().position(|other| core::ptr::eq(other.vcpu(), vcpu.vcpu())).unwrap()
    }

    /// Gives the domain of vCPU `n` its weight and cap.
    fn share(&self, n: usize, weight: u32, cap: u32) {
        self.hv.set_domain_sched(&self.vcpus[n].domain, weight, cap).unwrap();
    }

    fn up_all(&mut self) {
        for n in 0..self.ran.len() {
            assert!(self.hv.bring_up(&self.vcpu(n)));
        }
        self.settle();
    }

    fn on_cpu(&self, cpu: usize) {
        self.hv.platform.cpu.store(cpu as u32, SeqCst);
    }

    fn reschedule(&mut self, cpu: usize) {
        self.on_cpu(cpu);
        let prev = self.current[cpu].take();
        let next = self.hv.schedule(prev.as_ref());
        let id = |v: &Option<VcpuRef<MockPlatform>>| v.as_ref().map(|v| core::ptr::from_ref(v.vcpu()));
        if id(&prev) != id(&next) {
            self.hv.vcpu_switched(prev.as_ref(), next.as_ref());
        }
        self.current[cpu] = next;
        self.check();
    }

    /// Does all work that was raised.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let raised = core::mem::take(&mut self.hv.platform.record.lock().unwrap().raised);
            if raised.is_empty() {
                return;
            }
            for (cpu, work) in raised {
                self.serve_timers(cpu, work);
                if work.contains(Work::RESCHEDULE) {
                    self.reschedule(cpu.0 as usize);
                }
            }
        }
        panic!("the CPUs reschedule for ever");
    }

    /// No vCPU runs twice, or where it must not, or though it is not runnable and its CPU had its chance.
    fn check(&self) {
        let mut seen = vec![false; self.ran.len()];
        for (cpu, vcpu) in self.current.iter().enumerate() {
            let Some(vcpu) = vcpu else { continue };
            assert!(!core::mem::replace(&mut seen[self.number(vcpu)], true), "{vcpu:?} runs twice");
            assert_eq!(vcpu.vcpu().cpu.load(SeqCst), cpu as u32);
            assert_eq!(vcpu.vcpu().sched.place(), Place::Running);
        }
    }

    fn check_settled(&self) {
        for (cpu, vcpu) in self.current.iter().enumerate() {
            let Some(vcpu) = vcpu else { continue };
            assert!(vcpu.vcpu().sched.runnable(), "{vcpu:?} runs and should not");
            assert!(vcpu.vcpu().sched.may_run_on(CpuId(cpu as u32)), "{vcpu:?} runs where it must not");
        }
        let idle = self.hv.sched.cpus.iter().filter(|queue| queue.idle()).count();
        assert_eq!(self.hv.sched.idle_cpus.load(core::sync::atomic::Ordering::SeqCst), idle);
    }

    /// Lets time pass.
    fn run(&mut self, nanos: u64) {
        for _ in 0..nanos / STEP {
            for vcpu in self.current.iter().flatten() {
                let n = self.vcpus.iter().position(|v| core::ptr::eq(v.vcpu(), vcpu.vcpu())).unwrap();
                self.ran[n] += STEP;
            }
            self.hv.platform.time.fetch_add(STEP, SeqCst);
            for cpu in 0..self.current.len() {
                self.on_cpu(cpu);
                self.hv.run_timers();
            }
            self.settle();
        }
        self.check_settled();
    }

    fn pin(&self, n: usize, cpus: &[u32]) {
        let mut mask = CpuMask::EMPTY;
        cpus.iter().for_each(|cpu| mask.insert(CpuId(*cpu)));
        self.hv.set_affinity(&self.vcpu(n), &mask).unwrap();
    }

    fn running(&self) -> Vec<Option<u32>> {
        self.current.iter().map(|v| v.as_ref().map(|v| self.number(v) as u32)).collect()
    }

    fn info_word(&self, n: usize) -> &AtomicU64 {
        let addr = MachineAddr(self.domain.vcpus[n].pv.vcpu_info.load(SeqCst));
        &self.hv.platform_words(addr)[addr.page_offset() / 8]
    }
}

impl Hypervisor<MockPlatform> {
    fn platform_words(&self, addr: MachineAddr) -> &crate::platform::FrameWords {
        use crate::platform::Platform;
        self.platform.frame_words(addr.mfn())
    }
}

fn shares(ran: &[u64]) -> Vec<f64> {
    let sum: u64 = ran.iter().sum();
    ran.iter().map(|r| *r as f64 / sum as f64).collect()
}

/// A single vCPU is looked at seldom, and going round the scheduler changes nothing.
#[test]
fn alone() {
    let mut sim = Sim::new(1, 1);
    sim.up_all();
    sim.reschedule(0);
    let look = sim.hv.sched.slice_end(CpuId(0)).unwrap();
    assert!(look.0 >= sim.hv.platform.time.load(SeqCst) + LOOK - STEP);
    sim.run(LOOK);
    assert_eq!(sim.ran[0], LOOK);
}

/// Weights hold on one CPU.
#[test]
fn weights_on_one_cpu() {
    let mut sim = Sim::singles(1, 3);
    for (n, weight) in [256, 512, 1024].into_iter().enumerate() {
        sim.share(n, weight, 0);
    }
    sim.up_all();
    sim.run(7_000_000_000);
    let got = shares(&sim.ran);
    for (got, want) in got.iter().zip([1.0 / 7.0, 2.0 / 7.0, 4.0 / 7.0]) {
        assert!((got - want).abs() < 0.01, "{got} instead of {want}");
    }
}

/// Three equal vCPUs on two CPUs get two thirds of a CPU each: somebody must keep moving.
#[test]
fn three_on_two_cpus() {
    let mut sim = Sim::new(2, 3);
    sim.up_all();
    sim.run(6_000_000_000);
    for ran in &sim.ran {
        assert!(ran.abs_diff(4_000_000_000) < 120_000_000, "{:?}", sim.ran);
    }
}

/// A weight that is worth more than a CPU gets one CPU, and the others share the rest.
#[test]
fn infeasible_weight() {
    let mut sim = Sim::singles(2, 3);
    sim.share(0, 4096, 0);
    sim.up_all();
    sim.run(6_000_000_000);
    assert!(sim.ran[0] > 5_700_000_000, "{:?}", sim.ran);
    assert!(sim.ran[1].abs_diff(sim.ran[2]) < 300_000_000, "{:?}", sim.ran);
}

/// Pinned vCPUs stay, and the others go where there is room.
#[test]
fn affinity_is_respected() {
    let mut sim = Sim::new(2, 3);
    sim.pin(0, &[0]);
    sim.pin(1, &[0]);
    sim.pin(2, &[1]);
    sim.up_all();
    sim.run(2_000_000_000);
    assert!(sim.ran[2] >= 1_990_000_000, "{:?}", sim.ran);
    assert!(sim.ran[0].abs_diff(sim.ran[1]) < 50_000_000, "{:?}", sim.ran);
    // Moving a running one away takes effect at once.
    sim.pin(2, &[0]);
    sim.settle();
    assert_ne!(sim.running()[1], Some(2));
    sim.run(100_000_000);
    assert_eq!(sim.running()[1], None);
}

/// An idle CPU takes waiting vCPUs, and a woken vCPU finds an idle CPU.
#[test]
fn idle_cpus_take_work() {
    let mut sim = Sim::new(4, 4);
    sim.up_all();
    let mut running: Vec<_> = sim.running().into_iter().flatten().collect();
    running.sort_unstable();
    assert_eq!(running, [0, 1, 2, 3]);
    sim.hv.take_down(sim.vcpu(2).vcpu());
    sim.settle();
    assert_eq!(sim.running().iter().flatten().count(), 3);
    sim.hv.bring_up(&sim.vcpu(2));
    sim.settle();
    assert_eq!(sim.running().iter().flatten().count(), 4);
}

/// A vCPU that sleeps most of the time runs at once when it wakes beside those that never sleep, and its short runs do
/// not cost it its place.
#[test]
fn woken_vcpu_runs_soon() {
    let mut sim = Sim::new(1, 3);
    sim.up_all();
    sim.run(100_000_000);
    let (sleeper, mut late) = (sim.vcpu(0), 0);
    for _ in 0..50 {
        while sim.running()[0] != Some(0) {
            sim.run(STEP);
        }
        sleeper.vcpu().sched.add(Reasons::BLOCKED);
        sim.reschedule(0);
        sim.run(20_000_000);
        sim.hv.kick(&sleeper);
        sim.settle();
        late += u32::from(sim.running() != [Some(0)]);
        sim.run(STEP);
    }
    assert!(late <= 3, "{late} times of 50: at the end of a slice the one that waited comes first");
    assert!(sim.ran[1].abs_diff(sim.ran[2]) < 50_000_000, "{:?}", sim.ran);
}

/// Having slept for long is no licence to keep the others out.
#[test]
fn sleep_is_not_saved_up() {
    let mut sim = Sim::new(1, 2);
    sim.up_all();
    sim.domain.vcpus[0].sched.add(Reasons::BLOCKED);
    sim.reschedule(0);
    sim.run(10_000_000_000);
    sim.hv.kick(&sim.vcpu(0));
    sim.settle();
    let before = sim.ran.clone();
    sim.run(200_000_000);
    let gained = sim.ran[1] - before[1];
    assert!(gained > 80_000_000, "the other got only {gained}");
}

/// `yield` lets the one that waits go first.
#[test]
fn yield_lets_others_go() {
    let mut sim = Sim::new(1, 2);
    sim.up_all();
    let first = sim.running()[0].unwrap() as usize;
    sim.hv.yield_cpu(sim.vcpus[first].vcpu());
    sim.settle();
    assert_eq!(sim.running(), [Some(1 - first as u32)]);
}

/// Pauses nest; a paused vCPU does not run even when it is woken.
#[test]
fn pauses_nest() {
    let mut sim = Sim::new(1, 1);
    sim.up_all();
    let vcpu = sim.vcpu(0);
    sim.hv.pause(vcpu.vcpu());
    sim.hv.pause(vcpu.vcpu());
    sim.settle();
    assert_eq!(sim.running(), [None]);
    vcpu.vcpu().sched.add(Reasons::BLOCKED);
    sim.hv.kick(&vcpu);
    sim.hv.unpause(&vcpu);
    sim.settle();
    assert_eq!(sim.running(), [None]);
    sim.hv.unpause(&vcpu);
    sim.settle();
    assert_eq!(sim.running(), [Some(0)]);
}

/// The event-before-block race: what is pending when a vCPU goes to sleep keeps it awake, masked or not; what comes
/// later wakes it, even before its CPU has let go of it.
#[test]
fn block_does_not_lose_events() {
    const PENDING: u64 = 1;
    const MASK: u64 = 1 << 8;
    let mut sim = Sim::new(1, 1);
    sim.up_all();
    let vcpu = sim.vcpu(0);
    let cx = Cx { hv: &sim.hv, domain: &vcpu.domain, vcpu: vcpu.vcpu() };
    // Pending and masked before: block unmasks, and finds it.
    sim.info_word(0).store(PENDING | MASK, SeqCst);
    cx.hv.block(cx);
    assert!(vcpu.vcpu().sched.runnable());
    assert_eq!(sim.info_word(0).load(SeqCst), PENDING);
    // Nothing pending: it sleeps; the event comes before its CPU chose anew.
    sim.info_word(0).store(MASK, SeqCst);
    cx.hv.block(cx);
    assert!(!vcpu.vcpu().sched.runnable());
    sim.info_word(0).store(PENDING, SeqCst);
    cx.hv.kick(&vcpu);
    sim.settle();
    assert_eq!(sim.running(), [Some(0)]);
    // Now it really sleeps, and is woken later.
    sim.info_word(0).store(MASK, SeqCst);
    sim.hv.block(Cx { hv: &sim.hv, domain: &vcpu.domain, vcpu: vcpu.vcpu() });
    sim.settle();
    assert_eq!(sim.running(), [None]);
    sim.hv.kick(&vcpu);
    sim.settle();
    assert_eq!(sim.running(), [Some(0)]);
}

/// A wake between the choice of another vCPU and the saving of the registers is not lost.
#[test]
fn wake_during_switch() {
    let mut sim = Sim::new(1, 1);
    sim.up_all();
    let vcpu = sim.vcpu(0);
    vcpu.vcpu().sched.add(Reasons::BLOCKED);
    sim.on_cpu(0);
    assert!(sim.hv.schedule(Some(&vcpu)).is_none());
    sim.hv.kick(&vcpu);
    sim.current[0] = None;
    sim.hv.vcpu_switched(Some(&vcpu), None);
    sim.settle();
    assert_eq!(sim.running(), [Some(0)]);
}

/// A CPU that finds nothing to run leaves the page tables of its vCPU while that is still its own: as soon as another CPU may run it,
/// it may give the tables up and write to them.
#[test]
fn tables_are_left_before_their_vcpu() {
    let mut sim = Sim::new(1, 1);
    sim.up_all();
    let vcpu = sim.vcpu(0);
    let left = Arc::new(AtomicU32::new(0));
    let (seen, leaving) = (left.clone(), vcpu.clone());
    *sim.hv.platform.at_leaving.lock().unwrap() = Some(Box::new(move || {
        assert_eq!(leaving.vcpu().sched.place(), Place::Running, "another CPU may run it");
        assert!(leaving.domain.dirty_cpus.load().contains(CpuId(0)), "a flush misses this CPU");
        seen.fetch_add(1, SeqCst);
    }));
    sim.hv.block(Cx { hv: &sim.hv, domain: &vcpu.domain, vcpu: vcpu.vcpu() });
    sim.settle();
    *sim.hv.platform.at_leaving.lock().unwrap() = None;
    assert_eq!((sim.running(), left.load(SeqCst)), (vec![None], 1));
    assert!(!vcpu.domain.dirty_cpus.load().contains(CpuId(0)));
}

/// Poll: refusals, the wake by its port only, and the timeout.
#[test]
fn poll() {
    use crate::guest_ptr::GuestPtr;
    let mut sim = Sim::new(1, 1);
    sim.up_all();
    let vcpu = sim.vcpu(0);
    let at = GuestHandle::<u32>::new(mock::FLAT_BASE);
    let poll = |sim: &Sim, count, timeout| {
        sim.hv.poll(Cx { hv: &sim.hv, domain: &vcpu.domain, vcpu: vcpu.vcpu() }, at, count, timeout)
    };
    assert_eq!(poll(&sim, 129, 0), Err(Errno::EINVAL));
    GuestPtr::from(at).write(&sim.hv, &0xffff_ffff).unwrap();
    assert_eq!(poll(&sim, 1, 0), Err(Errno::EINVAL));
    assert!(vcpu.vcpu().sched.runnable());
    assert_eq!(sim.domain.sched.pollers.load(SeqCst), 0);
    let port = sim.hv.bind_ipi(&sim.domain, VcpuId(0)).unwrap();
    GuestPtr::from(at).write(&sim.hv, &port.0).unwrap();
    assert_eq!(poll(&sim, 1, 0), Ok(()));
    sim.settle();
    assert_eq!(sim.running(), [None]);
    sim.hv.wake_pollers(&sim.domain, crate::ids::Port(port.0 + 1));
    sim.settle();
    assert_eq!(sim.running(), [None]);
    sim.hv.wake_pollers(&sim.domain, port);
    sim.settle();
    assert_eq!(sim.running(), [Some(0)]);
    assert_eq!(sim.domain.sched.pollers.load(SeqCst), 0);
    // Its time comes.
    let deadline = sim.hv.platform.time.load(SeqCst) + 3_000_000;
    assert_eq!(poll(&sim, 1, deadline), Ok(()));
    sim.settle();
    sim.run(2_000_000);
    assert_eq!(sim.running(), [None]);
    sim.run(2_000_000);
    assert_eq!(sim.running(), [Some(0)]);
}

/// The account of a vCPU adds up to the time that passed, and says what it did.
#[test]
fn runstates_add_up() {
    let mut sim = Sim::new(1, 2);
    sim.up_all();
    sim.run(1_000_000_000);
    sim.domain.vcpus[0].sched.add(Reasons::BLOCKED);
    while sim.running()[0] != Some(0) && sim.domain.vcpus[0].sched.place() == Place::Running {
        sim.run(STEP);
    }
    sim.reschedule(0);
    sim.run(500_000_000);
    let now = crate::ids::Nanos(sim.hv.platform.time.load(SeqCst));
    for vcpu in &sim.domain.vcpus {
        let info = vcpu.time.runstate_at(now);
        assert_eq!(info.time.iter().sum::<u64>(), now.0);
        assert_eq!(info.time[RUNSTATE_RUNNING as usize], sim.ran[vcpu.id.0 as usize]);
        assert_eq!(info.time[RUNSTATE_OFFLINE as usize], 1_000_000);
    }
    let first = sim.domain.vcpus[0].time.runstate_at(now);
    let second = sim.domain.vcpus[1].time.runstate_at(now);
    assert!(second.time[RUNSTATE_RUNNABLE as usize] >= 490_000_000);
    assert_eq!((first.state, second.state), (RUNSTATE_BLOCKED, RUNSTATE_RUNNING));
}

/// A watchdog ends its domain unless it is wound up; the control domain's end is the machine's.
#[test]
fn watchdogs() {
    let mut sim = Sim::new(1, 1);
    sim.up_all();
    assert_eq!(sim.hv.watchdog(&sim.domain, 1, 5), Err(Errno::EINVAL));
    assert_eq!(sim.hv.watchdog(&sim.domain, 0, 1), Ok(1));
    assert_eq!(sim.hv.watchdog(&sim.domain, 0, 100), Ok(2));
    assert_eq!(sim.hv.watchdog(&sim.domain, 0, 1), Err(Errno::ENOSPC));
    assert_eq!(sim.hv.watchdog(&sim.domain, 3, 1), Err(Errno::EINVAL));
    sim.run(900_000_000);
    assert_eq!(sim.hv.watchdog(&sim.domain, 1, 1), Ok(0));
    assert_eq!(sim.hv.watchdog(&sim.domain, 2, 0), Ok(0));
    sim.run(900_000_000);
    assert_eq!(sim.running(), [Some(0)]);
    sim.run(200_000_000);
    assert_eq!(sim.running(), [None]);
    let ended = *sim.domain.lifecycle.lock();
    assert_eq!(ended, crate::domain::Lifecycle::Shutdown(xen_abi::sched::SHUTDOWN_WATCHDOG));
}

/// Winding up watchdogs from other CPUs does not cost the CPU that looks at them anything, whatever the times.
#[test]
fn winding_up_a_watchdog_tells_no_cpu() {
    let mut sim = Sim::singles(2, 2);
    sim.up_all();
    sim.on_cpu(1);
    let domain = sim.vcpus[1].domain.clone();
    let told = |sim: &Sim| {
        let raised = core::mem::take(&mut sim.hv.platform.record.lock().unwrap().raised);
        raised.iter().filter(|(cpu, work)| cpu.0 == 0 && work.contains(Work::TIMER)).count()
    };
    told(&sim);
    assert_eq!(sim.hv.watchdog(&domain, 0, 1000), Ok(1));
    assert_eq!(told(&sim), 1);
    for seconds in (1..1000).rev() {
        sim.hv.watchdog(&domain, 1, 1000).unwrap();
        sim.hv.watchdog(&domain, 1, seconds).unwrap();
        sim.hv.watchdog(&domain, 1, 0).unwrap();
        assert_eq!(sim.hv.watchdog(&domain, 0, seconds), Ok(1));
    }
    assert_eq!(told(&sim), 0);
    sim.run(900_000_000);
    assert!(!domain.stopped.load(SeqCst));
    sim.run(200_000_000);
    assert!(domain.stopped.load(SeqCst), "the last one had a second");
}

/// A domain whose teardown is over is not remembered because something ends it once more.
#[test]
fn the_dead_are_not_remembered() {
    let sim = Sim::singles(1, 2);
    let domain = sim.vcpu(1).domain;
    sim.hv.destroy_domain(&domain).unwrap();
    let holders = Arc::strong_count(&domain);
    sim.hv.shutdown_domain(&domain, 0);
    sim.hv.announce_shutdown(&domain, 1);
    assert_eq!(sim.hv.watchdog(&domain, 0, 1), Err(Errno::EINVAL));
    assert_eq!(Arc::strong_count(&domain), holders);
}

#[test]
#[should_panic(expected = "the machine ended: Reboot")]
fn control_domain_ends_the_machine() {
    let (hv, dom0) = mock::machine_with_domain(16);
    hv.announce_shutdown(&dom0, xen_abi::sched::SHUTDOWN_REBOOT);
    // The announced reason counts.
    hv.shutdown_domain(&dom0, xen_abi::sched::SHUTDOWN_POWEROFF);
}

/// A crash is a crash, whatever was announced; the rest of the machine lives on.
#[test]
fn crash_stops_a_domain() {
    let mut sim = Sim::new(2, 2);
    sim.up_all();
    sim.hv.announce_shutdown(&sim.domain, 0);
    sim.hv.crash_domain(&sim.domain, "test");
    sim.settle();
    assert_eq!(sim.running(), [None, None]);
    assert_eq!(*sim.domain.lifecycle.lock(), crate::domain::Lifecycle::Shutdown(3));
    assert_eq!(sim.domain.id, DomId(1));
    let log = alloc::string::String::from_utf8(sim.hv.platform.record.lock().unwrap().console.clone());
    assert!(log.unwrap().contains("Domain 1 crashed: test"));
}

/// A vCPU without page tables is not put on its CPU: its domain ends, whatever state that is in, and the machine goes on.
#[test]
fn a_vcpu_without_page_tables() {
    for policy in [Policy::Share, Policy::Null] {
        for dying in [false, true] {
            let sim = Sim::with_domains(1, &[2, 1], policy);
            let other = sim.vcpu(2);
            sim.hv.bring_up(&sim.vcpu(0));
            let chosen = sim.hv.schedule(None).expect("a vCPU");
            assert_eq!((chosen.domain.id, chosen.vcpu().pv.root()), (DomId(1), None));
            if dying {
                assert!(sim.hv.destroy_domain(&sim.domain).is_err(), "it is about to run");
            }
            sim.hv.bring_up(&other);
            sim.hv.refuse_chosen(&chosen);
            assert!(!sim.hv.sched.is_on_cpu(chosen.vcpu()));
            assert!(sim.domain.vcpus.iter().all(|vcpu| vcpu.sched.has(Reasons::STOPPED)));
            let crashed = *sim.domain.lifecycle.lock() == crate::domain::Lifecycle::Shutdown(3);
            assert_eq!((crashed, sim.domain.is_dying()), (!dying, dying));
            let next = sim.hv.schedule(None).expect("another domain's");
            assert!(core::ptr::eq(next.vcpu(), other.vcpu()));
        }
    }
}

/// Pinning aside and back.
#[test]
fn pin_override() {
    let sim = Sim::new(2, 1);
    let vcpu = sim.vcpu(0);
    assert_eq!(sim.hv.pin_override(&vcpu, None), Err(Errno::EINVAL));
    assert_eq!(sim.hv.pin_override(&vcpu, Some(CpuId(7))), Err(Errno::EINVAL));
    assert_eq!(sim.hv.pin_override(&vcpu, Some(CpuId(1))), Ok(()));
    assert_eq!(sim.hv.pin_override(&vcpu, Some(CpuId(0))), Err(Errno::EBUSY));
    assert_eq!(vcpu.vcpu().sched.affinity(), CpuMask::of(CpuId(1)));
    assert_eq!(sim.hv.pin_override(&vcpu, None), Ok(()));
    assert_eq!(vcpu.vcpu().sched.affinity(), CpuMask::ALL);
}
