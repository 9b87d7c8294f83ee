//! Domains whose vCPUs run one after the other: what they gain by that.

use super::*;

/// Time that a vCPU works in its turn, in nanoseconds.
const TURN: u64 = 10_000_000;

/// Lets vCPU 0 compute beside a domain of `count` vCPUs that take turns, so that one of them wants to run at any time. `early`: the next
/// one is woken before the one whose turn is over sleeps. `heavy`: on another CPU computes what has nearly all weight of the machine. Answers
/// what part of the time vCPU 0 gets.
fn beside_turns(count: usize, early: bool, heavy: bool) -> f64 {
    let cpus = if heavy { 2 } else { 1 };
    let mut sim = Sim::with_domains(cpus, &[1, count as u32, 1], Policy::Share);
    if heavy {
        (0..=count).for_each(|n| sim.pin(n, &[0]));
        sim.pin(count + 1, &[1]);
        sim.share(count + 1, 4096, 0);
    } else {
        sim.vcpus.pop();
        sim.ran.pop();
    }
    sim.vcpus[2..=count].iter().for_each(|vcpu| vcpu.vcpu().sched.add(Reasons::BLOCKED));
    sim.up_all();
    sim.run(200_000_000);
    let (before, mut turn, mut began) = (sim.ran.clone(), 1, sim.ran[1]);
    for _ in 0..10_000 {
        sim.run(STEP);
        if sim.ran[turn] - began < TURN || sim.running()[0] != Some(turn as u32) {
            continue;
        }
        let next = turn % count + 1;
        if early {
            sim.hv.kick(&sim.vcpu(next));
        }
        sim.vcpus[turn].vcpu().sched.add(Reasons::BLOCKED);
        sim.reschedule(0);
        sim.hv.kick(&sim.vcpu(next));
        sim.settle();
        (turn, began) = (next, sim.ran[next]);
    }
    let ran: Vec<u64> = sim.ran.iter().zip(&before).map(|(now, before)| now - before).collect();
    ran[0] as f64 / ran[..=count].iter().sum::<u64>() as f64
}

/// A domain has its weight once, whether its vCPUs run at the same time or one after the other.
#[test]
fn taking_turns_gains_nothing() {
    let cases = [(1, false), (2, false), (4, true), (16, false), (64, false)];
    for heavy in [false, true] {
        let left = cases.map(|(count, early)| beside_turns(count, early, heavy));
        assert!(left.iter().all(|part| *part > 0.4), "{left:?} instead of halves beside {cases:?}, {heavy}");
    }
}
