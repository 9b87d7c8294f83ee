//! What comes late, sleeps, or is bound to a CPU gets its share at once, whatever ran before and wherever else.

use super::random::{Habit, live};
use super::*;

/// Works for a millisecond and sleeps for nine, beside vCPUs that compute without end.
const NAPS: Habit = (2, 18);
const COMPUTES: Habit = (1, 0);
const SECOND: u64 = 1_000_000_000;

/// Lets the last vCPU nap beside those that compute, for ten seconds after one. Answers what part of the time it got, and how many steps it
/// waited at most after it woke up.
fn last_naps(sim: &mut Sim) -> (f64, u64) {
    let mut habits = vec![COMPUTES; sim.vcpus.len()];
    *habits.last_mut().unwrap() = NAPS;
    live(sim, &habits, SECOND / STEP);
    let before = *sim.ran.last().unwrap();
    let longest = live(sim, &habits, 10 * SECOND / STEP);
    ((sim.ran.last().unwrap() - before) as f64 / (10 * SECOND) as f64, *longest.last().unwrap())
}

fn assert_prompt(sim: &mut Sim, what: &str) {
    let (got, waited) = last_naps(sim);
    // What runs may have begun just before.
    let bound = (SLICE + u64::from(LEAST_RUN_US) * 1000) / STEP;
    assert!(got >= 0.095, "{what}: {got} instead of a tenth");
    assert!(waited <= bound, "{what}: it waited for {waited} steps");
}

/// What computed for minutes without a neighbour is no burden to those that it meets then: they run as if they had always been there.
#[test]
fn the_first_neighbour_after_long() {
    let mut sim = Sim::with_domains(4, &[4, 1], Policy::Share);
    for n in [0, 1, 2, 4] {
        assert!(sim.hv.bring_up(&sim.vcpu(n)));
    }
    sim.settle();
    let habits = [COMPUTES, COMPUTES, COMPUTES, (1, u64::MAX), NAPS];
    live(&mut sim, &habits, 120 * SECOND / STEP);
    assert!(sim.hv.bring_up(&sim.vcpu(3)));
    sim.settle();
    let habits = [COMPUTES, COMPUTES, COMPUTES, COMPUTES, NAPS];
    let longest = live(&mut sim, &habits, 5 * SECOND / STEP);
    assert!(longest[4] * STEP <= 3_000_000, "it waited for {} steps", longest[4]);
}

/// The same where a domain comes that wants two CPUs: all run within the time of a few slices.
#[test]
fn a_domain_comes_after_long() {
    let mut sim = Sim::with_domains(3, &[2, 1, 2], Policy::Share);
    for n in 0..3 {
        sim.hv.bring_up(&sim.vcpu(n));
    }
    sim.settle();
    sim.run(300 * SECOND);
    for n in 3..5 {
        sim.hv.bring_up(&sim.vcpu(n));
    }
    sim.settle();
    for window in 0..50 {
        let before = sim.ran.clone();
        sim.run(SECOND / 10);
        let ran: Vec<u64> = sim.ran.iter().zip(before).map(|(now, before)| now - before).collect();
        assert!(ran.iter().all(|ran| *ran > 0), "window {window}: {ran:?}");
    }
}

/// What is bound to a CPU competes with what runs there, whatever those on other CPUs get.
#[test]
fn affinity_and_naps() {
    let mut sim = Sim::with_domains(2, &[1, 1, 1, 1], Policy::Share);
    sim.pin(0, &[1]);
    (1..4).for_each(|n| sim.pin(n, &[0]));
    sim.up_all();
    sim.run(10 * SECOND);
    assert_prompt(&mut sim, "bound to a CPU");
}

/// Weights hold between those that are bound to the same CPU, on a CPU that is ahead as on one that is behind.
#[test]
fn affinity_and_weights() {
    let mut sim = Sim::singles(2, 12);
    for n in 0..12 {
        sim.pin(n, &[u32::from(n > 1)]);
    }
    sim.share(1, 512, 0);
    sim.share(2, 1024, 0);
    sim.up_all();
    sim.run(20 * SECOND);
    let before = sim.ran.clone();
    sim.run(20 * SECOND);
    let ran: Vec<u64> = sim.ran.iter().zip(before).map(|(now, before)| now - before).collect();
    let part = |n: usize| ran[n] as f64 / (20 * SECOND) as f64;
    assert!((part(1) - 2.0 / 3.0).abs() < 0.02, "{ran:?}");
    assert!((part(2) - 4.0 / 13.0).abs() < 0.02, "{ran:?}");
}

/// Once affinity does not bind them any more, all get what they are worth, and none waits for long until then.
#[test]
fn affinity_is_lifted() {
    let mut sim = Sim::singles(2, 6);
    for n in 0..6 {
        sim.pin(n, &[u32::from(n > 0)]);
    }
    sim.up_all();
    sim.run(60 * SECOND);
    (0..6).for_each(|n| sim.pin(n, &[0, 1]));
    sim.settle();
    for second in 0..6 {
        let before = sim.ran.clone();
        sim.run(SECOND);
        let ran: Vec<u64> = sim.ran.iter().zip(before).map(|(now, before)| now - before).collect();
        assert!(ran.iter().all(|ran| *ran > SECOND / 20), "second {second}: {ran:?}");
        let fair = ran.iter().all(|ran| ran.abs_diff(SECOND / 3) < SECOND / 20);
        assert!(second < 4 || fair, "second {second}: {ran:?}");
    }
}

/// However many vCPUs a domain has, and however light others are: who naps runs at once.
#[test]
fn naps_beside_many() {
    for cpus in [1, 2] {
        let mut sim = Sim::with_domains(cpus, &[64 * cpus, 1], Policy::Share);
        sim.up_all();
        assert_prompt(&mut sim, "beside a domain of many vCPUs");
    }
    let mut sim = Sim::singles(1, 17);
    (0..16).for_each(|n| sim.share(n, 8, 0));
    sim.up_all();
    assert_prompt(&mut sim, "beside light domains");
}

/// Hundreds of vCPUs that wake up and go before they run are dropped in several looks, between which the CPU sees to other work.
#[test]
fn those_that_went_are_dropped_in_steps() {
    let mut sim = Sim::with_domains(1, &[1, 600], Policy::Share);
    assert!(sim.hv.bring_up(&sim.vcpu(0)));
    sim.settle();
    // Its least run is over.
    sim.run(SECOND / 10);
    for keeps in [true, false] {
        (1..=600).for_each(|n| assert!(sim.hv.bring_up(&sim.vcpu(n))));
        (1..=600).for_each(|n| sim.hv.take_down(sim.vcpu(n).vcpu()));
        if !keeps {
            sim.vcpus[0].vcpu().sched.add(Reasons::BLOCKED);
        }
        sim.reschedule(0);
        let left = sim.hv.sched.cpus[0].waiting.lock().vcpus().len();
        assert!((300..600).contains(&left), "{left} of 600 are left");
        assert_eq!(sim.running(), [keeps.then_some(0)]);
        sim.settle();
        sim.run(SECOND / 10);
        assert_eq!(sim.hv.sched.cpus[0].waiting.lock().vcpus().len(), 0);
    }
    assert_eq!(sim.hv.sched.clock.lock().rest(), (0, 0));
}

/// One choice drops no more of them where others of a capped domain wait between them.
#[test]
fn those_that_went_between_capped_ones() {
    let mut sim = Sim::with_domains(1, &[1, 1200], Policy::Share);
    sim.share(1, 256, 1);
    assert!(sim.hv.bring_up(&sim.vcpu(1)));
    sim.settle();
    sim.run(SECOND / 20);
    assert!(sim.hv.bring_up(&sim.vcpu(0)));
    sim.settle();
    sim.run(8 * STEP);
    (2..=1200).for_each(|n| assert!(sim.hv.bring_up(&sim.vcpu(n))));
    (2..=1200).filter(|n| n % 50 != 0).for_each(|n| sim.hv.take_down(sim.vcpu(n).vcpu()));
    let before = sim.hv.sched.cpus[0].waiting.lock().vcpus().len();
    sim.vcpus[0].vcpu().sched.add(Reasons::BLOCKED);
    sim.reschedule(0);
    let after = sim.hv.sched.cpus[0].waiting.lock().vcpus().len();
    assert!(before > 1000 && before - after < 200, "{before} wait before a choice, {after} after it");
}

/// A heavy domain that has a CPU for itself does not make those on others wait.
#[test]
fn naps_beside_a_heavy_one() {
    let mut sim = Sim::singles(2, 10);
    sim.share(0, 16_384, 0);
    sim.up_all();
    let mut habits = [COMPUTES; 10];
    habits[9] = (2, 58);
    live(&mut sim, &habits, SECOND / STEP);
    let before = sim.ran[9];
    live(&mut sim, &habits, 10 * SECOND / STEP);
    let got = (sim.ran[9] - before) as f64 / (10 * SECOND) as f64;
    assert!(got > 0.03, "{got} instead of a thirtieth");
}

/// What is preempted waits only after the choice that preempts it: other CPUs are told of it then, and do not find it when they look by
/// themselves at last.
#[test]
fn what_is_preempted_is_offered() {
    for cpus in [2, 4] {
        let mut sim = Sim::singles(cpus, cpus as usize + 1);
        sim.up_all();
        let mut habits = vec![COMPUTES; cpus as usize + 1];
        *habits.last_mut().unwrap() = (10, 10);
        live(&mut sim, &habits, SECOND / STEP);
        let before = sim.ran.clone();
        live(&mut sim, &habits, 5 * SECOND / STEP);
        let got = |n: usize| (sim.ran[n] - before[n]) as f64 / (5 * SECOND) as f64;
        let due = 1.0 - 0.5 / f64::from(cpus);
        let least = (0..cpus as usize).map(got).fold(1.0, f64::min);
        assert!(least > 0.9 * due, "{least} of {due} on {cpus} CPUs");
    }
}
