//! What sleeps gets what it asks for beside a domain of many vCPUs, whether these compute or come and go.

use super::*;

const MS: u64 = 1_000_000;
/// Time between two looks of the model.
const TICK: u64 = 50_000;
/// How long a helper runs before it sleeps again.
const HELPS: u64 = 5_000;

/// vCPU 0 is alone in its domain and asks for so much time in turns.
#[derive(Clone, Copy, Debug)]
struct Asks {
    run: u64,
    sleep: u64,
}

impl Asks {
    fn due(self) -> f64 {
        self.run as f64 / (self.run + self.sleep) as f64
    }
}

struct Beside {
    sim: Sim,
    asks: Asks,
    /// What vCPU 0 had run when it woke up, and when it wakes up next.
    began: u64,
    wakes: u64,
    /// Time between two looks.
    tick: u64,
}

impl Beside {
    fn new(sim: Sim, asks: Asks) -> Self {
        Self { sim, asks, began: 0, wakes: 0, tick: TICK }
    }

    fn now(&self) -> u64 {
        self.sim.hv.platform.time.load(SeqCst)
    }

    fn wake(&mut self, n: usize) {
        let vcpu = self.sim.vcpu(n);
        self.sim.on_cpu(vcpu.vcpu().cpu.load(SeqCst) as usize);
        self.sim.hv.kick(&vcpu);
    }

    fn sleep(&mut self, n: usize) {
        let vcpu = self.sim.vcpu(n);
        vcpu.vcpu().sched.add(Reasons::BLOCKED);
        self.sim.reschedule(vcpu.vcpu().cpu.load(SeqCst) as usize);
        self.sim.settle();
    }

    fn tick(&mut self) {
        for vcpu in self.sim.current.iter().flatten() {
            let n = self.sim.number(vcpu);
            self.sim.ran[n] += self.tick;
        }
        self.sim.hv.platform.time.fetch_add(self.tick, SeqCst);
        for cpu in 0..self.sim.current.len() {
            self.sim.on_cpu(cpu);
            self.sim.hv.run_timers();
        }
        self.sim.settle();
        let sched = &self.sim.vcpus[0].vcpu().sched;
        if sched.has(Reasons::BLOCKED) {
            if self.now() >= self.wakes {
                self.began = self.sim.ran[0];
                self.wake(0);
                self.sim.settle();
            }
        } else if self.sim.hv.sched.is_on_cpu(self.sim.vcpus[0].vcpu())
            && self.sim.ran[0] - self.began >= self.asks.run
        {
            self.sleep(0);
            self.wakes = self.now() + self.asks.sleep;
        }
    }

    /// What part of what it asks for vCPU 0 gets in so long, after a second, while `step` does what else happens before each tick.
    fn part(&mut self, nanos: u64, mut step: impl FnMut(&mut Self)) -> f64 {
        let (mut start, mut before) = (0, 0);
        while start == 0 || self.now() < start + nanos {
            if start == 0 && self.now() >= 1000 * MS {
                (start, before) = (self.now(), self.sim.ran[0]);
            }
            step(self);
            self.tick();
        }
        (self.sim.ran[0] - before) as f64 / (self.now() - start) as f64 / self.asks.due()
    }
}

/// All vCPUs of a domain that compute wait with about the same virtual runtime, and each runs for a slice at least: what sleeps now and then
/// had to wait for all of them, each time, and had a tenth of its part beside 500.
#[test]
fn many_that_compute_do_not_go_first() {
    for (cpus, many, run, sleep) in [
        (1, 15, 11, 11),
        (1, 127, 5, 5),
        (1, 255, 15, 45),
        (1, 511, 11, 11),
        (2, 255, 11, 11),
        (4, 511, 11, 11),
    ] {
        let mut sim = Sim::with_domains(cpus, &[1, many], Policy::Share);
        sim.up_all();
        let asks = Asks { run: run * MS, sleep: sleep * MS };
        let part = Beside::new(sim, asks).part(5000 * MS, |_| {});
        assert!(part > 0.95, "{part} beside {many} on {cpus} CPUs, {asks:?}");
    }
}

/// A vCPU computes, and others of its domain come and go at once. What wakes up while it computes is placed by what it is charged since, and
/// not by the part of the weight that it had when all of them wanted to run: that was seconds ahead.
#[test]
fn helpers_that_sleep_again_move_no_base() {
    for (helpers, run, sleep, every) in
        [(7, 1, 30, 100), (31, 5, 20, 100), (127, 1, 30, 100), (127, 10, 90, 3000), (511, 5, 20, 3000)]
    {
        let mut sim = Sim::with_domains(1, &[1, 1 + helpers as u32], Policy::Share);
        sim.vcpus[2..].iter().for_each(|vcpu| vcpu.vcpu().sched.add(Reasons::BLOCKED));
        sim.up_all();
        let asks = Asks { run: run * MS, sleep: sleep * MS };
        let mut next = 0;
        let part = Beside::new(sim, asks).part(5000 * MS, |beside| {
            if beside.now() >= next && beside.sim.running()[0] == Some(1) {
                next = beside.now() + every * MS;
                (2..2 + helpers).for_each(|n| beside.wake(n));
                beside.sim.settle();
            }
            while let Some(helper) = beside.sim.running()[0].filter(|n| *n > 1) {
                beside.sim.hv.platform.time.fetch_add(HELPS, SeqCst);
                beside.sim.ran[helper as usize] += HELPS;
                beside.sleep(helper as usize);
            }
        });
        assert!(part > 0.95, "{part} beside {helpers} helpers each {every} ms, {asks:?}");
    }
}

/// Some of a domain's many vCPUs are brought up and taken down again and again. What comes from another CPU goes before others no
/// longer than its domain is behind there, and what computes all the time has its CPU.
#[test]
fn many_that_come_and_go_take_no_cpu_from_others() {
    const COMPUTE: usize = 190;
    const COME: usize = 127;
    let sim = Sim::with_domains(2, &[1, (COMPUTE + COME) as u32], Policy::Share);
    let up = |sim: &mut Sim, vcpus: core::ops::Range<usize>| {
        for n in vcpus {
            sim.on_cpu(n % 2);
            sim.hv.bring_up(&sim.vcpu(n));
            sim.settle();
        }
    };
    let mut beside = Beside::new(sim, Asks { run: u64::MAX, sleep: 0 });
    up(&mut beside.sim, 0..1 + COMPUTE);
    let part = beside.part(4000 * MS, |beside| {
        let came = 1 + COMPUTE..1 + COMPUTE + COME;
        match beside.now() % (5 * MS) / TICK {
            0 => up(&mut beside.sim, came),
            4 => came.for_each(|n| beside.sim.hv.take_down(beside.sim.vcpu(n).vcpu())),
            _ => {}
        }
        beside.sim.settle();
    });
    assert!(part > 0.85, "{part}");
}

/// A domain whose computing vCPU was charged for the time in which its siblings wanted to run as well, although these sleep again before
/// they ran, took the virtual time of its CPU ahead of the machine's: what sleeps there found no other CPU.
#[test]
fn helpers_that_nap_take_no_cpu_ahead() {
    const LOOKS: u64 = 20_000;
    const SLEEPERS: usize = 3;
    for (helpers, rest, run, sleep) in [(31, 700_000, 6, 9), (31, 700_000, 20, 34), (8, 200_000, 20, 34)] {
        let asks = Asks { run: run * MS, sleep: sleep * MS };
        let sim = Sim::with_domains(4, &[1, 1, 1, 1, 1, 1, 1 + helpers as u32], Policy::Share);
        let vcpus = sim.vcpus.len();
        let napping = vcpus - helpers..vcpus;
        let (mut wakes, mut began) = (std::vec![0; vcpus], std::vec![0; vcpus]);
        let mut beside = Beside::new(sim, asks);
        beside.tick = LOOKS;
        napping.clone().for_each(|n| beside.sim.vcpus[n].vcpu().sched.add(Reasons::BLOCKED));
        beside.sim.up_all();
        let part = beside.part(3000 * MS, |beside| {
            let sleepers = (1..SLEEPERS).map(|n| (n, asks.run, asks.sleep));
            for (n, run, sleep) in sleepers.chain(napping.clone().map(|n| (n, LOOKS, rest))) {
                let (now, vcpu) = (beside.now(), beside.sim.vcpu(n));
                if vcpu.vcpu().sched.has(Reasons::BLOCKED) {
                    if now >= wakes[n] {
                        began[n] = beside.sim.ran[n];
                        beside.wake(n);
                        beside.sim.settle();
                    }
                } else if beside.sim.hv.sched.is_on_cpu(vcpu.vcpu()) && beside.sim.ran[n] - began[n] >= run {
                    beside.sleep(n);
                    wakes[n] = now + sleep;
                }
            }
        });
        assert!(part > 0.85, "{part} beside {helpers} helpers that rest for {rest} ns, {asks:?}");
    }
}
