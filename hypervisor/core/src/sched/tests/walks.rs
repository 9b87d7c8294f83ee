//! Host tests of what concerns all vCPUs of a domain: it is done in steps, and for all of them.

use super::Sim;
use crate::Hypervisor;
use crate::domain::{Domain, VcpuRef};
use crate::hypercall::Cx;
use crate::hypercall::domctl::info::describe;
use crate::ids::{CpuId, DomId, Nanos, Port, VcpuId};
use crate::mock::{self, MockPlatform};
use crate::platform::Work;
use crate::sched::walk::CHANGES;
use crate::sched::{CAP_PERIOD, Reasons};
use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;
use xen_abi::domctl::XEN_DOMINF_SHUTDOWN;
use xen_abi::errno::Errno;
use xen_abi::sched::{SHUTDOWN_POWEROFF, SHUTDOWN_SUSPEND};
use xen_abi::xen::{VIRQ_DOM_EXC, VIRQ_TIMER};

/// vCPUs of the domain, as many as a description may ask for.
const VCPUS: u32 = 512;
/// Passes after which everything is done.
const PASSES: usize = 2 * VCPUS as usize;
/// What the hypervisor needs from one look at the clock to the next, where its work takes time, in nanoseconds.
const LOOK_TAKES: u64 = 1000;

type Mock = Hypervisor<MockPlatform>;
type MockDomain = Arc<Domain<MockPlatform>>;

/// A first domain with the port of its `VIRQ_DOM_EXC`, and a domain with many vCPUs, all up and asleep.
struct Bench {
    hv: Mock,
    dom0: MockDomain,
    ended: Port,
    domain: MockDomain,
}

fn bench() -> Bench {
    bench_on(1)
}

fn bench_on(cpus: u32) -> Bench {
    let (mut hv, dom0) = mock::machine_with_domain(600);
    if cpus > 1 {
        hv.sched = crate::sched::Scheduler::new(cpus as usize);
        hv.timers = crate::time::TimerQueues::new(cpus as usize);
        hv.platform.cpus.store(cpus, SeqCst);
    }
    let ended = hv.bind_virq(&dom0, VcpuId(0), VIRQ_DOM_EXC).expect("a port");
    let domain = mock::domain(&hv, 1, VCPUS, 16);
    for vcpu in &domain.vcpus {
        vcpu.time.disable_periodic();
        vcpu.sched.add(Reasons::BLOCKED);
        vcpu.sched.words.take(Reasons::DOWN);
    }
    hv.platform.preempt_every.store(1, SeqCst);
    Bench { hv, dom0, ended, domain }
}

impl Bench {
    /// vCPUs of which this holds.
    fn count(&self, holds: impl Fn(&VcpuRef<MockPlatform>) -> bool) -> usize {
        self.domain.vcpu_refs().filter(holds).count()
    }

    fn with(&self, reasons: Reasons) -> usize {
        self.count(|vcpu| vcpu.vcpu().sched.has(reasons))
    }

    /// Whether this CPU is to serve its timers; it is asked once for each time.
    fn is_called(&self) -> bool {
        let raised = core::mem::take(&mut self.hv.platform.record.lock().unwrap().raised);
        raised.iter().any(|(cpu, work)| *cpu == CpuId(0) && work.contains(Work::TIMER))
    }

    /// Serves timers as long as the CPU is called to, and counts each time how many vCPUs changed. The first time is over already;
    /// `before` is what was counted before it. Answers the count at the end.
    fn passes(&self, before: usize, count: impl Fn() -> usize) -> usize {
        let mut last = before;
        for _ in 0..PASSES {
            let now = count();
            // One may have been told of the event besides.
            assert!(last.abs_diff(now) <= CHANGES + 1, "{last}, {now} between two looks");
            last = now;
            if !self.is_called() {
                return last;
            }
            self.hv.run_timers();
        }
        panic!("the walk does not end");
    }

    fn dom0_has_heard(&self) -> bool {
        self.hv.event_is_pending(&self.dom0, self.ended).expect("a port")
    }

    fn is_shut_down(&self) -> bool {
        describe(&self.hv, &self.domain).flags & XEN_DOMINF_SHUTDOWN != 0
    }

    /// All vCPUs poll, this port or another.
    fn poll(&self, port: impl Fn(u32) -> Port) {
        for vcpu in &self.domain.vcpus {
            vcpu.sched.words.begin_poll(&vcpu.sched.share.pollers);
            vcpu.sched.words.narrow_poll(port(vcpu.id.0));
        }
    }
}

impl super::Sim {
    /// A CPU serves its timers, if that is the work it has.
    pub(super) fn serve_timers(&self, cpu: CpuId, work: Work) {
        if work.contains(Work::TIMER) {
            self.on_cpu(cpu.0 as usize);
            self.hv.run_timers();
        }
    }
}

/// Many vCPUs poll a port: a sender of an event woke them all, with the port locked.
#[test]
fn many_pollers_are_woken_in_steps() {
    let b = bench();
    let port = b.hv.bind_ipi(&b.domain, VcpuId(0)).expect("a port");
    let other = Port(port.0 + 1);
    b.poll(|n| if n % 4 == 3 { other } else { port });
    b.is_called();
    b.hv.send_event(&b.domain, port).expect("its port");
    let polling = || b.with(Reasons::POLLING);
    let few = VCPUS as usize / 4;
    assert_eq!(b.passes(VCPUS as usize, polling), few);
    assert!(b.domain.vcpus.iter().all(|vcpu| vcpu.sched.runnable() != (vcpu.id.0 % 4 == 3)));
    assert_eq!(b.domain.sched.pollers.load(SeqCst) as usize, few);
}

/// Events at two ports while the first walk is on: each poller of either wakes up.
#[test]
fn a_second_event_joins_the_walk() {
    let b = bench();
    let ports = [0, 1].map(|vcpu| b.hv.bind_ipi(&b.domain, VcpuId(vcpu)).expect("a port"));
    b.poll(|n| ports[n as usize % 2]);
    b.is_called();
    b.hv.send_event(&b.domain, ports[0]).expect("its port");
    assert!(b.is_called());
    b.hv.run_timers();
    b.hv.send_event(&b.domain, ports[1]).expect("its port");
    b.hv.run_timers();
    b.passes(b.with(Reasons::POLLING), || b.with(Reasons::POLLING));
    assert_eq!((b.with(Reasons::POLLING), b.domain.sched.pollers.load(SeqCst)), (0, 0));
}

/// A guest that sends events to many pollers in a loop kept the CPU at it that was asked first, for as long as it liked.
#[test]
fn the_cpu_that_asked_last_goes_on() {
    let b = bench_on(2);
    let port = b.hv.bind_ipi(&b.domain, VcpuId(0)).expect("a port");
    let guest = |b: &Bench| b.hv.wake_pollers(&b.domain, port);
    b.poll(|_| port);
    guest(&b);
    b.hv.platform.cpu.store(1, SeqCst);
    guest(&b);
    let polling = b.with(Reasons::POLLING);
    b.hv.platform.cpu.store(0, SeqCst);
    b.is_called();
    b.hv.run_timers();
    assert_eq!(b.with(Reasons::POLLING), polling, "it is not this one's work any more");
    assert!(!b.is_called());
    b.hv.platform.cpu.store(1, SeqCst);
    (0..PASSES).for_each(|_| b.hv.run_timers());
    assert_eq!(b.with(Reasons::POLLING), 0);
}

/// The vCPUs of a domain that ends were all stopped in one go. Its controller hears of the end when all of them have stopped.
#[test]
fn an_end_stops_vcpus_in_steps() {
    let b = bench();
    b.is_called();
    b.hv.shutdown_domain(&b.domain, SHUTDOWN_POWEROFF);
    let stopped = || {
        let stopped = b.with(Reasons::STOPPED);
        let all = stopped == VCPUS as usize;
        assert_eq!((b.dom0_has_heard(), b.is_shut_down()), (all, all), "{stopped} have stopped");
        stopped
    };
    assert_eq!(b.passes(0, stopped), VCPUS as usize);
    b.hv.resume_domain(&b.domain);
    assert_eq!(b.passes(VCPUS as usize, || b.with(Reasons::STOPPED)), 0);
}

/// A domain that is resumed while it still stops goes on as a whole, and stops as a whole when its teardown begins.
#[test]
fn the_last_word_counts() {
    let b = bench();
    b.hv.shutdown_domain(&b.domain, SHUTDOWN_SUSPEND);
    (0..5).for_each(|_| b.hv.run_timers());
    assert!((1..VCPUS as usize).contains(&b.with(Reasons::STOPPED)));
    b.hv.resume_domain(&b.domain);
    b.passes(b.with(Reasons::STOPPED), || b.with(Reasons::STOPPED));
    assert_eq!((b.with(Reasons::STOPPED), b.dom0_has_heard()), (0, false));
    b.hv.platform.grace_rounds.store(u32::MAX, SeqCst);
    let mut stopped = 0;
    for _ in 0..PASSES {
        assert!(b.hv.destroy_domain(&b.domain).is_err());
        let now = b.with(Reasons::STOPPED);
        assert!(now - stopped <= CHANGES, "{stopped}, {now} between two looks");
        stopped = now;
    }
    assert_eq!(stopped, VCPUS as usize);
}

/// A pause of many vCPUs counts once, however often its caller comes back to it.
#[test]
fn a_pause_is_made_in_steps() {
    let b = bench();
    let caller = (DomId(0), VcpuId(0));
    let mut paused = 0;
    let calls = (0..PASSES).take_while(|_| {
        let still = b.hv.pause_domain_and_wait(&b.domain, caller).expect("a pause");
        let now = b.with(Reasons::PAUSED);
        // A step, a look, and another step.
        assert!(now - paused <= 2 * CHANGES, "{paused}, {now} between two looks");
        paused = now;
        !still
    });
    assert!(calls.count() >= VCPUS as usize / CHANGES / 2);
    assert_eq!(paused, VCPUS as usize);
    assert_eq!(b.hv.unpause_domain(&b.domain), Ok(()));
    assert_eq!(b.passes(paused, || b.with(Reasons::PAUSED)), 0);
    assert_eq!(b.hv.unpause_domain(&b.domain), Err(Errno::EINVAL));
    assert_eq!(b.hv.pause_domain_and_wait(&b.domain, caller), Ok(false), "the next one counts again");
    assert!(b.domain.is_paused());
}

/// A CPU that found that a domain has no budget looked at all its vCPUs, and the next budget let all of them go on in one go.
#[test]
fn many_vcpus_are_capped_and_go_on_in_steps() {
    let b = bench();
    b.hv.set_domain_sched(&b.domain, 256, 1).expect("a cap");
    b.domain.vcpu_refs().for_each(|vcpu| b.hv.kick(&vcpu));
    assert_eq!(b.count(|vcpu| vcpu.vcpu().sched.runnable()), VCPUS as usize);
    let mut current = None;
    let mut capped = 0;
    for _ in 0..PASSES {
        b.hv.platform.time.fetch_add(1000, SeqCst);
        let next = b.hv.schedule(current.as_ref());
        b.hv.vcpu_switched(current.as_ref(), next.as_ref());
        current = next;
        let now = b.with(Reasons::CAPPED);
        assert!(now.saturating_sub(capped) <= CHANGES, "{capped}, {now} between two looks");
        capped = now;
        if current.is_some() {
            b.hv.platform.time.fetch_add(50_000, SeqCst);
        }
    }
    assert_eq!(capped, VCPUS as usize);
    b.hv.platform.time.fetch_add(CAP_PERIOD, SeqCst);
    b.is_called();
    b.hv.run_timers();
    assert_eq!(b.passes(capped, || b.with(Reasons::CAPPED)), 0);
}

/// vCPUs of the domain that polls.
const POLLERS: u32 = 64;
/// The number of the third domain's vCPU.
const SENDER: usize = POLLERS as usize + 1;

/// A machine of one CPU that runs the only vCPU of a domain, the victim. The vCPUs of another one poll a port.
struct Burden {
    sim: Sim,
    pollers: MockDomain,
    port: Port,
}

impl Burden {
    fn new() -> Self {
        let mut sim = Sim::with_domains(1, &[1, POLLERS, 1], super::Policy::Share);
        let pollers = sim.vcpus[1].domain.clone();
        let port = sim.hv.bind_virq(&pollers, VcpuId(0), VIRQ_TIMER).expect("a port");
        for vcpu in &pollers.vcpus {
            vcpu.sched.add(Reasons::BLOCKED);
            vcpu.sched.words.take(Reasons::DOWN);
            vcpu.sched.words.begin_poll(&vcpu.sched.share.pollers);
            vcpu.sched.words.narrow_poll(port);
        }
        let victim = sim.vcpu(0);
        assert!(sim.hv.bring_up(&victim));
        sim.settle();
        sim.run(10_000_000);
        sim.reschedule(0);
        assert_eq!(sim.running(), [Some(0)]);
        Self { sim, pollers, port }
    }

    fn polling(&self) -> usize {
        self.pollers.vcpus.iter().filter(|vcpu| vcpu.sched.has(Reasons::POLLING)).count()
    }

    /// Does all that is left to do for the pollers in the time of the victim. Answers how long it took.
    fn work_off(&mut self) -> u64 {
        let time = || self.sim.hv.platform.time.load(SeqCst);
        let began = time();
        self.sim.hv.platform.look_takes.store(LOOK_TAKES, SeqCst);
        let mut passes = 0..PASSES;
        while self.polling() != 0 {
            passes.next().expect("an end");
            self.sim.hv.run_timers();
        }
        self.sim.hv.platform.look_takes.store(0, SeqCst);
        time() - began
    }

    /// What the victim is charged when its CPU looks for another vCPU: virtual runtime, and of its cap's budget.
    fn charged(&mut self) -> u64 {
        let victim = self.sim.vcpu(0);
        let before = victim.vcpu().sched.vruntime();
        self.sim.reschedule(0);
        victim.vcpu().sched.vruntime() - before
    }

    fn owed(&self, vcpu: usize) -> u64 {
        self.sim.vcpus[vcpu].domain.sched.owed.load(SeqCst)
    }
}

/// What timers of a domain and the walk over its vCPUs take is charged to that domain, not to the vCPU in whose time it is done.
#[test]
fn work_for_a_domain_is_charged_to_it() {
    let mut burden = Burden::new();
    let (hv, domain) = (&burden.sim.hv, &burden.pollers);
    let at = hv.platform.time.load(SeqCst);
    hv.arm_singleshot(Cx { hv, domain, vcpu: &domain.vcpus[0] }, Nanos(at));
    let took = burden.work_off();
    let (owed, charged) = (burden.owed(1), burden.charged());
    assert!(owed > u64::from(POLLERS) * LOOK_TAKES, "{took}, {owed}");
    // A few looks at the clock in each pass are for no domain.
    assert!(charged < took / 4, "{charged} of {took}");
    assert!(charged <= took - owed + LOOK_TAKES, "{charged} of {took} with {owed} owed");
    // One of them runs now, and pays for it.
    let poller = burden.sim.running()[0].expect("a poller") as usize;
    let before = burden.sim.vcpus[poller].vcpu().sched.vruntime();
    burden.sim.reschedule(0);
    assert!(burden.sim.vcpus[poller].vcpu().sched.vruntime() - before >= owed);
    assert_eq!(burden.owed(1), 0);
}

/// A walk that another domain asked for is charged to that one.
#[test]
fn a_walk_is_charged_to_who_asked_for_it() {
    let mut burden = Burden::new();
    let port = burden.port;
    let (sender, victim) = (burden.sim.vcpu(SENDER), burden.sim.vcpu(0));
    // The sender runs, and falls asleep at once.
    burden.sim.hv.suspend(victim.vcpu(), Reasons::BLOCKED);
    assert!(burden.sim.hv.bring_up(&sender));
    burden.sim.settle();
    assert_eq!(burden.sim.running(), [Some(SENDER as u32)]);
    burden.sim.hv.wake_pollers(&burden.pollers, port);
    let left = burden.polling();
    assert!(left == POLLERS as usize - CHANGES, "{left}");
    burden.sim.hv.suspend(sender.vcpu(), Reasons::BLOCKED);
    burden.pollers.vcpus.iter().for_each(|vcpu| burden.sim.hv.suspend(vcpu, Reasons::PAUSED));
    burden.sim.hv.resume(&victim, Reasons::BLOCKED);
    burden.sim.reschedule(0);
    assert_eq!(burden.sim.running(), [Some(0)]);
    let took = burden.work_off();
    let charged = burden.charged();
    assert!(burden.owed(SENDER) >= LOOK_TAKES && burden.owed(1) == 0, "{} owed", burden.owed(SENDER));
    assert!(charged <= took - burden.owed(SENDER) + LOOK_TAKES, "{charged} of {took}");
}
