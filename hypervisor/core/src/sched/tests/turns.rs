//! Domains whose vCPUs run one after the other, or together in waves: what they gain by that.

use super::*;
use crate::ids::Nanos;

/// The attack of a domain: so many of its vCPUs want to run at any time, and each sleeps when it has run for so many steps.
#[derive(Clone, Copy, Debug)]
struct Attack {
    vcpus: usize,
    awake: usize,
    turn: u64,
}

/// Those of vCPU `first` on that take turns, and what each had run when its turn began.
struct Turns {
    first: usize,
    attack: Attack,
    awake: Vec<(usize, u64)>,
    next: usize,
}

fn sleep(sim: &mut Sim, n: usize) {
    sim.vcpus[n].vcpu().sched.add(Reasons::BLOCKED);
    let cpu = sim.vcpus[n].vcpu().cpu.load(SeqCst) as usize;
    sim.reschedule(cpu);
    sim.settle();
}

fn wake(sim: &mut Sim, n: usize) {
    sim.on_cpu(0);
    sim.hv.kick(&sim.vcpu(n));
    sim.settle();
}

impl Turns {
    fn new(first: usize, attack: Attack) -> Self {
        Self { first, attack, awake: Vec::new(), next: 0 }
    }

    fn step(&mut self, sim: &mut Sim) {
        let over = |sim: &Sim, (n, began): (usize, u64)| {
            sim.ran[n] - began >= self.attack.turn * STEP && sim.hv.sched.is_on_cpu(sim.vcpus[n].vcpu())
        };
        let (done, rest) = self.awake.iter().partition(|turn| over(sim, **turn));
        self.awake = rest;
        for (n, _) in done as Vec<(usize, u64)> {
            sleep(sim, n);
        }
        while self.awake.len() < self.attack.awake {
            let n = self.first + self.next % self.attack.vcpus;
            self.next += 1;
            wake(sim, n);
            self.awake.push((n, sim.ran[n]));
        }
    }
}

/// Lets vCPUs `0..victims` compute beside an attack from the vCPU after them on, for eight seconds. Answers what part of a CPU each victim
/// gets, and how many steps it waits at most.
fn attacked(sim: &mut Sim, victims: usize, attack: Attack) -> Vec<(f64, u64)> {
    const STEPS: u64 = 16_000;
    let attackers = victims..victims + attack.vcpus;
    attackers.for_each(|n| sim.vcpus[n].vcpu().sched.add(Reasons::BLOCKED));
    sim.up_all();
    let mut turns = Turns::new(victims, attack);
    for _ in 0..400 {
        sim.run(STEP);
        turns.step(sim);
    }
    let begin = sim.ran.clone();
    let (mut wait, mut longest) = (vec![0; victims], vec![0; victims]);
    for _ in 0..STEPS {
        let before = sim.ran.clone();
        sim.run(STEP);
        for n in 0..victims {
            wait[n] = if sim.ran[n] > before[n] { 0 } else { wait[n] + 1 };
            longest[n] = longest[n].max(wait[n]);
        }
        turns.step(sim);
    }
    let part = |n: usize| (sim.ran[n] - begin[n]) as f64 / (STEPS * STEP) as f64;
    (0..victims).map(|n| (part(n), longest[n])).collect()
}

fn turns(vcpus: usize, awake: usize, turn: u64) -> Attack {
    Attack { vcpus, awake, turn }
}

/// A domain has its weight once, whether its vCPUs run at the same time or one after the other, and whether the next waits already or not.
#[test]
fn taking_turns_gains_nothing() {
    for attack in [
        turns(1, 1, 20),
        turns(2, 1, 20),
        turns(16, 1, 20),
        turns(64, 1, 20),
        turns(16, 1, 19),
        turns(3, 2, 9),
        turns(8, 2, 9),
        turns(64, 2, 9),
        turns(200, 2, 9),
        turns(16, 3, 6),
    ] {
        let mut sim = Sim::with_domains(1, &[1, attack.vcpus as u32], Policy::Share);
        let (part, waits) = attacked(&mut sim, 1, attack)[0];
        assert!(part > 0.45 && waits <= 30, "{attack:?}: {part} of a half is left, it waits {waits} steps");
    }
}

/// Neither at the cost of several, nor of one that has more weight.
#[test]
fn taking_turns_beside_several_and_heavier_ones() {
    let mut sim = Sim::with_domains(1, &[1, 1, 1, 1, 64], Policy::Share);
    let left = attacked(&mut sim, 4, turns(64, 2, 9));
    assert!(left.iter().all(|(part, _)| *part > 0.17), "{left:?} instead of fifths");
    for (weight, attack) in [
        (512, turns(2, 1, 19)),
        (1024, turns(2, 1, 19)),
        (1024, turns(4, 1, 19)),
        (2560, turns(16, 1, 19)),
        (65_535, turns(64, 1, 19)),
    ] {
        let mut sim = Sim::with_domains(1, &[1, attack.vcpus as u32], Policy::Share);
        sim.share(0, weight, 0);
        let (part, _) = attacked(&mut sim, 1, attack)[0];
        let fair = f64::from(weight) / f64::from(weight + 256);
        assert!(part > fair * 0.9, "{attack:?}: {part} is left of {fair}");
    }
}

/// What has another CPU for itself, whatever its weight, changes nothing between those on this CPU.
#[test]
fn taking_turns_beside_a_lone_one() {
    for (weight, lone) in [(4096, 1), (256, 1), (1, 1), (256, 3)] {
        let mut domains = vec![1, 16];
        domains.extend(vec![1; lone]);
        let mut sim = Sim::with_domains(1 + lone as u32, &domains, Policy::Share);
        (0..17).for_each(|n| sim.pin(n, &[0]));
        for n in 0..lone {
            sim.pin(17 + n, &[1 + n as u32]);
            sim.share(17 + n, weight, 0);
        }
        let (part, _) = attacked(&mut sim, 1, turns(16, 1, 19))[0];
        assert!(part > 0.45, "{part} of a half is left beside {lone} of weight {weight}");
    }
}

/// From one CPU to the next with each turn: no more than its share of the machine.
#[test]
fn taking_turns_on_several_cpus() {
    let mut sim = Sim::with_domains(4, &[1, 1, 1, 1, 1, 1, 1, 1, 8], Policy::Share);
    let left = attacked(&mut sim, 8, turns(8, 1, 19));
    let got = 4.0 - left.iter().map(|(part, _)| part).sum::<f64>();
    assert!(got < 0.444 * 1.15, "{got} CPUs instead of 0.444");
}

/// Lets the vCPUs of a domain wake up together, one per CPU beside one that computes there, each sleep before its slice ends, and all wake again.
/// Answers how many CPUs they got.
fn waves(cpus: u32) -> f64 {
    const STEPS: u64 = 10_000;
    let count = cpus as usize;
    let mut domains = vec![1; count];
    domains.push(cpus);
    let mut sim = Sim::with_domains(cpus, &domains, Policy::Share);
    for n in 0..count {
        sim.pin(n, &[n as u32]);
        sim.pin(count + n, &[n as u32]);
    }
    sim.up_all();
    let mut began = vec![0; count];
    for _ in 0..STEPS {
        sim.run(STEP);
        for (n, began) in began.iter().enumerate() {
            let turn = (SLICE / (n as u64 + 1)).max(4 * STEP) / STEP * STEP - STEP;
            let vcpu = sim.vcpu(count + n);
            if sim.ran[count + n] - began >= turn && sim.hv.sched.is_on_cpu(vcpu.vcpu()) {
                sleep(&mut sim, count + n);
            }
        }
        if (count..2 * count).all(|n| sim.vcpus[n].vcpu().sched.has(Reasons::BLOCKED)) {
            began.copy_from_slice(&sim.ran[count..]);
            (count..2 * count).for_each(|n| wake(&mut sim, n));
        }
    }
    sim.ran[count..].iter().sum::<u64>() as f64 / (STEPS * STEP) as f64
}

/// Those that wake up one after the other have no more of the weight than they are worth together.
#[test]
fn waves_gain_nothing() {
    for cpus in [2, 4, 8] {
        let (got, fair) = (waves(cpus), f64::from(cpus) / f64::from(cpus + 1));
        assert!(got < fair * 1.1, "{got} of {cpus} CPUs instead of {fair}");
    }
}

/// A vCPU that runs for a moment at a time is charged all of it, however short the moment is.
#[test]
fn short_runs_are_charged() {
    const MOMENT: u64 = 1_900;
    let mut sim = Sim::singles(1, 1);
    sim.up_all();
    let charged = |sim: &Sim| sim.domain.sched.vruntime_on(CpuId(0), 0);
    let before = charged(&sim);
    // With the interrupts of the wake-ups.
    let costs = |wakes: u64| wakes * crate::sched::place::WAKE_COST;
    for round in 1..=200 {
        sim.hv.platform.time.fetch_add(MOMENT, SeqCst);
        sleep(&mut sim, 0);
        assert_eq!(charged(&sim) - before, round * MOMENT + costs(round - 1));
        sim.hv.platform.time.fetch_add(MOMENT, SeqCst);
        wake(&mut sim, 0);
        assert_eq!(sim.running(), [Some(0)]);
    }
}

/// What a domain ran before its weight changes is charged by the weight that it had.
#[test]
fn another_weight_counts_from_now_on() {
    const TIME: u64 = 400_000_000;
    let mut sim = Sim::singles(1, 1);
    sim.up_all();
    sim.reschedule(0);
    let charged = |sim: &Sim| sim.vcpus[0].vcpu().sched.vruntime();
    let mut expected = charged(&sim);
    for (weight, part) in [(512, 2), (256, 1), (1024, 4), (128, 2)] {
        sim.share(0, weight, 0);
        sim.settle();
        sim.run(TIME);
        sim.reschedule(0);
        expected += if weight < 256 { TIME * part } else { TIME / part };
        assert_eq!(charged(&sim), expected, "with weight {weight}");
    }
}

/// What vCPU 0 gets of a CPU beside a domain of four vCPUs that take turns of `turn` nanoseconds and of `helpers` that the one whose turn
/// ends wakes up before it falls asleep, to run for a moment each.
fn beside_helpers(helpers: usize, turn: u64) -> f64 {
    const TICK: u64 = 10_000;
    const TIME: u64 = 3_000_000_000;
    let mut sim = Sim::with_domains(1, &[1, 4 + helpers as u32], Policy::Share);
    (1..5 + helpers).for_each(|n| sim.vcpus[n].vcpu().sched.add(Reasons::BLOCKED));
    sim.up_all();
    let (mut next, mut began, mut victim) = (1, 0, 0);
    wake(&mut sim, next);
    let mut now = 0;
    while now < TIME {
        let Some(n) = sim.running()[0].map(|n| n as usize) else { panic!("vCPU 0 always wants to run") };
        let ran = if n > 4 { TICK / 2 } else { TICK };
        now += ran;
        sim.hv.platform.time.fetch_add(ran, SeqCst);
        sim.ran[n] += ran;
        victim += if n == 0 { ran } else { 0 };
        if n > 4 {
            sleep(&mut sim, n);
        } else if n == next && sim.ran[n] - began >= turn {
            for helper in 5..5 + helpers {
                sim.on_cpu(0);
                sim.hv.kick(&sim.vcpu(helper));
            }
            sim.settle();
            // It is its turn until it is chosen again, where a helper came first.
            if sim.running() == [Some(n as u32)] {
                sleep(&mut sim, n);
                next = next % 4 + 1;
                began = sim.ran[next];
                wake(&mut sim, next);
            }
        }
        sim.on_cpu(0);
        sim.hv.run_timers();
        sim.settle();
    }
    victim as f64 / TIME as f64
}

/// A domain whose vCPUs are many for a moment at the end of each turn is charged for the turn as it was: what its virtual runtime grew
/// by was divided by their number at the end, and a neighbour got a fifth.
#[test]
fn many_at_the_end_of_a_turn_gain_nothing() {
    for (helpers, turn) in [(0, 950_000), (15, 500_000), (15, 950_000), (31, 950_000), (15, 9_500_000)] {
        let victim = beside_helpers(helpers, turn);
        assert!(victim > 0.47, "{victim} beside {helpers} helpers at the end of turns of {turn} ns");
    }
}

/// Work for another domain is taken off what was charged for the time that it took, not at the rate of the moment of the charge.
#[test]
fn foreign_work_is_taken_off_in_proportion() {
    const HELPERS: usize = 31;
    let mut sim = Sim::with_domains(1, &[1 + HELPERS as u32, 1], Policy::Share);
    (1..2 + HELPERS).for_each(|n| sim.vcpus[n].vcpu().sched.add(Reasons::BLOCKED));
    sim.up_all();
    sim.reschedule(0);
    let other = sim.vcpus[1 + HELPERS].domain.clone();
    let before = sim.vcpus[0].vcpu().sched.vruntime();
    sim.hv.platform.time.fetch_add(8_000_000, SeqCst);
    let hv = &sim.hv;
    let work = || {
        hv.platform.time.fetch_add(1_000_000, SeqCst);
    };
    hv.work_for(CpuId(0), Some(&other), work);
    // All of its vCPUs want to run when it is charged.
    for n in 1..=HELPERS {
        sim.hv.kick(&sim.vcpu(n));
    }
    sim.settle();
    sim.reschedule(0);
    let charged = sim.vcpus[0].vcpu().sched.vruntime() - before;
    assert!((7_900_000..8_500_000).contains(&charged), "{charged}");
}

/// What a domain owes on the CPU where a vCPU of it wakes up is not replaced by less that it owes on the CPU where it ran last.
#[test]
fn a_greater_debt_stays() {
    const MS: u64 = 1_000_000;
    // Owed here, owed there, and what counts.
    for (here, there, counts) in [(15, 1, 15), (15, 19, 19), (0, 19, 19), (15, 0, 15)] {
        let mut sim = Sim::with_domains(2, &[2, 1, 1], Policy::Share);
        sim.vcpus[..2].iter().for_each(|vcpu| vcpu.vcpu().sched.add(Reasons::BLOCKED));
        sim.pin(0, &[0]);
        sim.pin(2, &[0]);
        sim.pin(3, &[1]);
        sim.up_all();
        sim.reschedule(0);
        sim.reschedule(1);
        sim.run(200 * MS);
        let sched = &sim.hv.sched;
        let now = Nanos(sim.hv.platform.time.load(SeqCst));
        let bases = [0, 1].map(|cpu| sched.queue(CpuId(cpu)).base(&sched.clock.lock(), now));
        let share = sim.vcpus[0].vcpu().sched.share.clone();
        share.set_vruntime_on(CpuId(0), bases[0] + here * MS);
        // It ran last on CPU 1.
        share.got_on(CpuId(1), 0, 0);
        share.set_vruntime_on(CpuId(1), bases[1] + there * MS);
        wake(&mut sim, 0);
        let owed = share.vruntime_on(CpuId(0), bases[0]) - bases[0];
        assert!(owed >= counts * MS && owed < (counts + 1) * MS, "{owed} of {counts} ms ({here}, {there})");
    }
}
