//! Random sequences of everything that the scheduler is asked for.

use super::*;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any weights on any number of CPUs: everyone gets the share that its weight is worth, as far as one CPU holds it.
    #[test]
    fn shares_follow_weights(cpus in 1u32..4, weights in proptest::collection::vec(1u32..8, 2..7)) {
        let mut sim = Sim::singles(cpus, weights.len());
        for (n, weight) in weights.iter().enumerate() {
            sim.share(n, weight * 128, 0);
        }
        sim.up_all();
        let total = 8_000_000_000u64;
        sim.run(total);
        let want = fair_shares(cpus, &weights);
        for (n, want) in want.iter().enumerate() {
            let got = sim.ran[n] as f64 / total as f64;
            prop_assert!((got - want).abs() < 0.08, "vCPU {n} of {weights:?} on {cpus}: {got} instead of {want}");
        }
    }

    /// Whatever happens: nobody runs twice or where it must not, no CPU idles while somebody waits who may run there,
    /// and the sum of weights does not drift.
    #[test]
    fn any_sequence_keeps_the_invariants(ops in proptest::collection::vec((0u8..8, 0usize..5, 0u32..7), 1..120)) {
        let mut sim = Sim::new(3, 5);
        let mut pauses = [0u32; 5];
        for (op, n, arg) in ops {
            let vcpu = sim.vcpu(n);
            match op {
                0 => { sim.hv.bring_up(&vcpu); }
                1 => sim.hv.take_down(vcpu.vcpu()),
                2 => { pauses[n] += 1; sim.hv.pause(vcpu.vcpu()) }
                3 if pauses[n] > 0 => { pauses[n] -= 1; sim.hv.unpause(&vcpu) }
                4 => sim.hv.kick(&vcpu),
                5 if sim.hv.sched.is_on_cpu(vcpu.vcpu()) => {
                    vcpu.vcpu().sched.add(Reasons::BLOCKED);
                    let cpu = vcpu.vcpu().cpu.load(SeqCst) as usize;
                    sim.reschedule(cpu);
                }
                6 => {
                    let cpus: Vec<u32> = (0..3).filter(|cpu| (arg + 1) >> cpu & 1 != 0).collect();
                    sim.pin(n, &cpus);
                }
                _ => sim.run(u64::from(arg) * STEP),
            }
            sim.settle();
            sim.check_settled();
            for (cpu, current) in sim.current.iter().enumerate() {
                let waiting = |v: &crate::domain::Vcpu<MockPlatform>| {
                    v.sched.runnable() && v.sched.place() != Place::Running && v.sched.may_run_on(CpuId(cpu as u32))
                };
                let somebody = sim.domain.vcpus.iter().any(waiting);
                prop_assert!(current.is_some() || !somebody, "cpu {cpu} idles");
            }
        }
        sim.domain.vcpus.iter().for_each(|vcpu| sim.hv.take_down(vcpu));
        sim.settle();
        sim.run(50 * STEP);
        prop_assert_eq!(sim.running(), [None, None, None]);
        for cpu in 0..3 {
            sim.reschedule(cpu);
        }
        prop_assert_eq!(sim.hv.sched.clock.lock().rest(), (0, 0));
    }
}

/// The share of one CPU that each weight is worth: nobody can use more than one CPU, and what it cannot use the
/// others share.
fn fair_shares(cpus: u32, weights: &[u32]) -> Vec<f64> {
    let mut shares = vec![None; weights.len()];
    loop {
        let fixed = shares.iter().flatten().count() as f64;
        let rest: u32 = weights.iter().zip(&shares).filter(|(_, s)| s.is_none()).map(|(w, _)| *w).sum();
        let room = f64::from(cpus) - fixed;
        let worth = |w: u32| f64::from(w) / f64::from(rest) * room;
        let over: Vec<usize> =
            (0..weights.len()).filter(|n| shares[*n].is_none() && worth(weights[*n]) >= 1.0).collect();
        if over.is_empty() {
            return weights.iter().zip(shares).map(|(w, s)| s.unwrap_or_else(|| worth(*w))).collect();
        }
        over.into_iter().for_each(|n| shares[n] = Some(1.0));
    }
}

/// What the naive model knows of a domain.
#[derive(Clone, Copy)]
struct Share {
    weight: u32,
    cap: u32,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Domains of any number of vCPUs, any weights and caps, all of which always want to run, on any number of CPUs: each
    /// domain gets what a fluid machine would give it. Where there are caps, the capped spend what they get on several CPUs at
    /// once, so that only what the others are worth in the rest of the time is certain. Nobody starves: within a second everybody
    /// ran.
    #[test]
    fn domains_get_what_is_theirs(
        cpus in 1u32..4,
        domains in proptest::collection::vec((1u32..4, 1u32..6, prop_oneof![Just(0u32), 10u32..150]), 1..5),
    ) {
        let vcpus: Vec<u32> = domains.iter().map(|d| d.0).collect();
        let mut sim = Sim::with_domains(cpus, &vcpus, Policy::Share);
        let mut first = 0;
        let mut shares = Vec::new();
        for (count, weight, cap) in &domains {
            sim.share(first, weight * 128, *cap);
            shares.push(Share { weight: *weight, cap: *cap });
            first += *count as usize;
        }
        sim.up_all();
        let total = 6_000_000_000u64;
        sim.run(1_000_000_000);
        for (n, ran) in sim.ran.iter().enumerate() {
            prop_assert!(*ran > 0, "vCPU {} of {:?} on {} never ran", n, domains, cpus);
        }
        sim.run(total - 1_000_000_000);
        let capped = shares.iter().any(|share| share.cap != 0);
        let uncapped: Vec<Share> = shares.iter().map(|share| Share { cap: 0, ..*share }).collect();
        let want = fluid(cpus, &vcpus, &shares);
        let certain = fluid(cpus, &vcpus, &uncapped);
        let mut first = 0;
        for (d, count) in vcpus.iter().enumerate() {
            let ran: u64 = sim.ran[first..first + *count as usize].iter().sum();
            first += *count as usize;
            let got = ran as f64 / total as f64;
            let bursts: u32 = shares.iter().enumerate().filter(|(e, _)| *e != d).map(|(_, s)| s.cap).sum();
            let rest = (1.0 - f64::from(bursts) / 100.0 / f64::from(cpus)).max(0.0);
            let enough = got > want[d].min(certain[d]) * rest - 0.1 && (capped || got < want[d] + 0.1);
            prop_assert!(enough, "domain {} of {:?} on {}: {} instead of {}", d, domains, cpus, got, want[d]);
            if shares[d].cap != 0 {
                let bound = f64::from(shares[d].cap) / 100.0 * (1.0 + 10_000_000.0 / total as f64) + 0.002;
                prop_assert!(got <= bound, "domain {} of {:?} ran {}", d, domains, got);
            }
        }
    }

    /// Whatever is done with weights, caps, affinity of both kinds, pauses, sleep and CPUs under either policy: nobody runs twice or
    /// where it must not, and whoever wants to run and may does so after a while.
    #[test]
    fn nobody_is_lost(
        null in any::<bool>(),
        ops in proptest::collection::vec((0u8..11, 0usize..6, 0u32..7), 1..150),
    ) {
        let policy = if null { Policy::Null } else { Policy::Share };
        let mut sim = Sim::with_domains(3, &[3, 2, 1], policy);
        let mut pauses = [0u32; 6];
        for (op, n, arg) in ops {
            let vcpu = sim.vcpu(n);
            let cpus: Vec<u32> = (0..3).filter(|cpu| (arg + 1) >> cpu & 1 != 0).collect();
            match op {
                0 | 1 => { sim.hv.bring_up(&vcpu); }
                2 => sim.hv.take_down(vcpu.vcpu()),
                3 if pauses[n] > 0 => { pauses[n] -= 1; sim.hv.unpause(&vcpu) }
                3 => { pauses[n] += 1; sim.hv.pause(vcpu.vcpu()) }
                4 => sim.hv.kick(&vcpu),
                5 if sim.hv.sched.is_on_cpu(vcpu.vcpu()) => {
                    vcpu.vcpu().sched.add(Reasons::BLOCKED);
                    let cpu = vcpu.vcpu().cpu.load(SeqCst) as usize;
                    sim.reschedule(cpu);
                }
                5 => sim.hv.yield_cpu(vcpu.vcpu()),
                6 => {
                    let mut mask = CpuMask::EMPTY;
                    cpus.iter().for_each(|cpu| mask.insert(CpuId(*cpu)));
                    // Refused where all of them are off.
                    let _ = sim.hv.set_affinity(&vcpu, &mask);
                }
                7 => {
                    let mut mask = CpuMask::EMPTY;
                    cpus.iter().for_each(|cpu| mask.insert(CpuId(*cpu)));
                    sim.hv.set_soft_affinity(&vcpu, &mask).unwrap();
                }
                8 => sim.share(n, 64 << arg, [0, 5, 20, 50, 100, 170, 0][arg as usize]),
                9 => {
                    let cpu = CpuId(1 + arg % 2);
                    sim.on_cpu(0);
                    if sim.hv.platform.offline.contains(cpu) {
                        sim.hv.platform.offline.remove(cpu);
                        sim.hv.cpu_joined(cpu);
                    } else {
                        sim.hv.platform.offline.insert(cpu);
                        sim.hv.cpu_left(cpu);
                    }
                }
                _ => sim.run(u64::from(arg) * STEP),
            }
            sim.settle();
            sim.check_settled();
            for (cpu, current) in sim.current.iter().enumerate() {
                prop_assert!(current.is_none() || !sim.hv.platform.offline.contains(CpuId(cpu as u32)));
            }
        }
        everybody_runs(&mut sim, policy, &mut pauses)?;
    }
}

/// Wakes all, lifts all that keeps from running, and sees that each of them runs; then takes all down and sees that nothing is left.
fn everybody_runs(sim: &mut Sim, policy: Policy, pauses: &mut [u32]) -> Result<(), TestCaseError> {
    sim.on_cpu(0);
    for cpu in [1, 2].map(CpuId) {
        sim.hv.platform.offline.remove(cpu);
        sim.hv.cpu_joined(cpu);
    }
    for (n, pauses) in pauses.iter().enumerate() {
        let vcpu = sim.vcpu(n);
        (0..*pauses).for_each(|_| sim.hv.unpause(&vcpu));
        sim.hv.bring_up(&vcpu);
        sim.hv.kick(&vcpu);
        sim.share(n, 256, 0);
        sim.hv.set_affinity(&vcpu, &CpuMask::ALL).unwrap();
    }
    sim.settle();
    let before = sim.ran.clone();
    sim.run(1_000_000_000);
    let ran = sim.ran.iter().zip(before).filter(|(now, before)| *now > before).count();
    // Under the null policy the others have no CPU.
    prop_assert_eq!(ran, if policy == Policy::Null { 3 } else { 6 }, "{:?}", sim.ran);
    for n in 0..6 {
        sim.hv.take_down(sim.vcpu(n).vcpu());
    }
    sim.settle();
    sim.run(50 * STEP);
    for cpu in 0..3 {
        sim.reschedule(cpu);
    }
    prop_assert_eq!(sim.running(), vec![None; 3]);
    prop_assert_eq!(sim.hv.sched.clock.lock().rest(), (0, 0));
    Ok(())
}

/// A vCPU that computes for so many steps and then sleeps for so many, again and again; it never sleeps where that is 0.
pub(super) type Habit = (u64, u64);

/// Lets vCPUs live by their habits for a number of steps; answers how many steps each waited at most, from its wake-up on.
pub(super) fn live(sim: &mut Sim, habits: &[Habit], steps: u64) -> Vec<u64> {
    let mut longest = vec![0; habits.len()];
    // Steps of the present burst or sleep that are over, and of the wait before the burst.
    let (mut spent, mut waited) = (vec![0; habits.len()], vec![0; habits.len()]);
    for _ in 0..steps {
        let before = sim.ran.clone();
        sim.run(STEP);
        for (n, (burst, sleep)) in habits.iter().copied().enumerate() {
            let vcpu = sim.vcpu(n);
            let asleep = vcpu.vcpu().sched.has(Reasons::BLOCKED);
            let ran = sim.ran[n] > before[n];
            waited[n] = if asleep || ran { 0 } else { waited[n] + 1 };
            longest[n] = longest[n].max(if spent[n] == 0 { waited[n] } else { 0 });
            spent[n] += u64::from(asleep || ran);
            if asleep && spent[n] >= sleep {
                spent[n] = 0;
                sim.on_cpu(0);
                sim.hv.kick(&vcpu);
            } else if !asleep && sleep != 0 && spent[n] >= burst && sim.hv.sched.is_on_cpu(vcpu.vcpu()) {
                spent[n] = 0;
                vcpu.vcpu().sched.add(Reasons::BLOCKED);
                let cpu = vcpu.vcpu().cpu.load(SeqCst) as usize;
                sim.reschedule(cpu);
            }
        }
        sim.settle();
    }
    longest
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Some compute without end, others wake up again and again: being woken gains nobody more than its share at the cost of those
    /// that compute. Whoever asks for less than half of its share waits, on one CPU, for none of those, at most for the bursts of others
    /// that woke up just before it.
    #[test]
    fn waking_neither_starves_nor_stalls(
        cpus in 1u32..3,
        habits in proptest::collection::vec((1u64..12, prop_oneof![2 => Just(0u64), 3 => 4u64..60]), 2..7),
    ) {
        let mut sim = Sim::singles(cpus, habits.len());
        sim.up_all();
        live(&mut sim, &habits, 400);
        let before = sim.ran.clone();
        let steps = 6000;
        let longest = live(&mut sim, &habits, steps);
        let got = |n: usize| (sim.ran[n] - before[n]) as f64 / (steps * STEP) as f64;
        let asks = |(burst, sleep): Habit| if sleep == 0 { 1.0 } else { burst as f64 / (burst + sleep) as f64 };
        let equal = (f64::from(cpus) / habits.len() as f64).min(1.0);
        for (n, habit) in habits.iter().enumerate() {
            if habit.1 == 0 {
prop_assert!(got(n) > equal - 0.08, "{n} of {habits:?} on {cpus}: {} instead of {equal}", got(n));
            } else if asks(*habit) < equal / 2.0 {
                let others = habits.iter().enumerate().filter(|(other, habit)| *other != n && habit.1 != 0);
                // With several CPUs one that computes may be behind, too, as far as its CPU did not get round to it: a slice.
                let slice = if cpus == 1 { 0 } else { SLICE / STEP };
                // What runs may have begun just before: it keeps its CPU for its least run.
                let least = u64::from(LEAST_RUN_US) * 1000 / STEP;
                let bound = 2 * others.map(|(_, habit)| habit.0).sum::<u64>() + slice + least + 2;
                prop_assert!(longest[n] <= bound, "{n} of {habits:?} on {cpus} waited {} steps", longest[n]);
            }
        }
    }
}

/// What each domain gets of a machine that divides its time infinitely finely: by weight, no more than its cap and
/// its number of vCPUs allow, and what one cannot use the others share.
fn fluid(cpus: u32, vcpus: &[u32], shares: &[Share]) -> Vec<f64> {
    let limit = |d: usize| {
        let cap = if shares[d].cap == 0 { f64::MAX } else { f64::from(shares[d].cap) / 100.0 };
        cap.min(f64::from(vcpus[d])).min(f64::from(cpus))
    };
    let mut fixed: Vec<Option<f64>> = vec![None; shares.len()];
    loop {
        let room = f64::from(cpus) - fixed.iter().flatten().sum::<f64>();
        let open: Vec<usize> = (0..shares.len()).filter(|d| fixed[*d].is_none()).collect();
        let weights: f64 = open.iter().map(|d| f64::from(shares[*d].weight)).sum();
        let worth = |d: usize| f64::from(shares[d].weight) / weights * room;
        let over: Vec<usize> = open.iter().copied().filter(|d| worth(*d) >= limit(*d)).collect();
        if over.is_empty() {
            return (0..shares.len()).map(|d| fixed[d].unwrap_or_else(|| worth(d))).collect();
        }
        over.into_iter().for_each(|d| fixed[d] = Some(limit(d)));
    }
}
