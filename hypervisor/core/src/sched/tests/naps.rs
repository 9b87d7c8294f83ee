//! vCPUs that sleep for a few microseconds, again and again, beside one that computes, on one CPU. Here, other than in the
//! rest of the simulation, interrupts and switches take time, which is no vCPU's useful time.

use super::*;
use crate::ids::Nanos;
use crate::platform::Platform;
use proptest::prelude::*;

/// What a switch and a timer's interrupt take, in nanoseconds.
const SWITCH: u64 = 1500;
const INTERRUPT: u64 = 700;
/// Least run of a vCPU, in nanoseconds.
const LEAST: u64 = LEAST_RUN_US as u64 * 1000;

fn now(sim: &Sim) -> u64 {
    sim.hv.platform.time.load(SeqCst)
}

fn pass(sim: &Sim, nanos: u64) {
    sim.hv.platform.time.fetch_add(nanos, SeqCst);
}

/// Lets vCPU 0 compute and each other one work for `work` and sleep for `nap` nanoseconds, for so long; answers the part of that
/// time in which vCPU 0 really ran.
fn nap(sim: &mut Sim, nap: u64, work: u64, total: u64) -> f64 {
    let begin = now(sim);
    let mut wake: Vec<Option<u64>> = vec![None; sim.vcpus.len()];
    let mut useful = 0;
    sim.on_cpu(0);
    while now(sim) < begin + total {
        let time = now(sim);
        let before = sim.current[0].as_ref().map(|vcpu| sim.number(vcpu));
        let next = wake.iter().flatten().min().copied().unwrap_or(u64::MAX);
        if next <= time {
            pass(sim, INTERRUPT);
            for (n, wake) in wake.iter_mut().enumerate() {
                if wake.take_if(|at| *at <= time).is_some() {
                    sim.hv.resume(&sim.vcpu(n), Reasons::BLOCKED);
                }
            }
        } else {
            match before {
                Some(0) => {
                    let slice = sim.hv.sched.slice_end(CpuId(0)).map_or(u64::MAX, |end| end.0);
                    let step = next.min(slice).min(time + 1_000_000).saturating_sub(time);
                    pass(sim, step);
                    useful += step;
                }
                Some(n) => {
                    pass(sim, work);
                    assert!(sim.vcpus[n].vcpu().sched.words.sleep(|| false));
                    wake[n] = Some(now(sim) + nap);
                    sim.hv.platform.raise_work(CpuId(0), Work::RESCHEDULE);
                }
                None => pass(sim, next - time),
            }
        }
        sim.hv.run_timers();
        let raised = core::mem::take(&mut sim.hv.platform.record.lock().unwrap().raised);
        if raised.iter().any(|(_, work)| work.contains(Work::RESCHEDULE)) {
            sim.reschedule(0);
            if sim.current[0].as_ref().map(|vcpu| sim.number(vcpu)) != before {
                pass(sim, SWITCH);
            }
        }
    }
    useful as f64 / total as f64
}

/// The wake-up and the switches must not fill the time: one that computes keeps nearly all of it beside one that hardly works.
#[test]
fn one_that_naps_takes_no_more_than_it_uses() {
    for (length, work) in
        [(1000, 1000), (1000, 500), (2000, 700), (4000, 1000), (10_000, 1000), (50_000, 1000)]
    {
        let mut sim = Sim::singles(1, 2);
        sim.up_all();
        sim.run(100_000_000);
        let got = nap(&mut sim, length, work, 200_000_000);
        assert!(got > 0.95, "naps of {length} ns, {work} ns of work: {got} is left");
    }
}

/// A vCPU that has computed for long beside a domain of so many that slept and wake up now.
fn many_awake(count: u32) -> Sim {
    let mut sim = Sim::with_domains(1, &[1, count], Policy::Share);
    sim.vcpus[1..].iter().for_each(|vcpu| vcpu.vcpu().sched.add(Reasons::BLOCKED));
    sim.up_all();
    sim.run(8_000_000_000);
    assert_eq!(sim.running(), [Some(0)]);
    (1..sim.vcpus.len()).for_each(|n| sim.hv.kick(&sim.vcpu(n)));
    sim
}

/// The interrupts of hundreds that wake up while another one runs are paid for by those that wake up.
#[test]
fn many_naps_are_paid_for() {
    let mut sim = many_awake(400);
    nap(&mut sim, 100_000, 1000, 400_000_000);
    let got = nap(&mut sim, 100_000, 1000, 400_000_000);
    assert!(got > 0.5, "{got} is left of a half");
}

/// Hundreds of vCPUs of one domain that slept for long and wake up at the same time do not keep the others out for seconds.
#[test]
fn many_wake_ups_do_not_stall_the_others() {
    let mut sim = many_awake(400);
    sim.settle();
    let before = sim.ran[0];
    sim.run(3_000_000_000);
    let got = sim.ran[0] - before;
    assert!(got > 900_000_000, "{got} ns of three seconds");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// However many nap, in domains of any weight, however short and long their naps and their work: the one that computes gets what its
    /// domain's weight is worth, less the few switches.
    #[test]
    fn naps_leave_the_others_their_share(
        weights in proptest::collection::vec(1u32..5, 2..6),
        length in prop_oneof![Just(1000u64), Just(4000), Just(10_000), Just(50_000)],
        work in 200u64..3000,
    ) {
        let mut sim = Sim::singles(1, weights.len());
        for (n, weight) in weights.iter().enumerate() {
            sim.share(n, weight * 128, 0);
        }
        sim.up_all();
        sim.run(200_000_000);
        nap(&mut sim, length, work, 200_000_000);
        let got = nap(&mut sim, length, work, 200_000_000);
        let share = f64::from(weights[0]) / f64::from(weights.iter().sum::<u32>());
        prop_assert!(got > share * 0.97 - 0.02, "{} instead of {} beside {:?}", got, share, weights);
    }
}

/// vCPU 1, which is far behind, sleeps, and wakes up when vCPU 0 has run for so long. Answers when that one began.
fn woken_after(sim: &mut Sim, ran: u64) -> u64 {
    while sim.running()[0] != Some(1) {
        sim.run(STEP);
    }
    sim.vcpus[1].vcpu().sched.add(Reasons::BLOCKED);
    sim.reschedule(0);
    assert_eq!(sim.running(), [Some(0)]);
    let began = now(sim);
    pass(sim, ran);
    sim.hv.kick(&sim.vcpu(1));
    sim.settle();
    began
}

/// What begins to run keeps its CPU for the least run and not a nanosecond longer, unless it yields; what ran longer gives way at once.
#[test]
fn the_least_run() {
    for (least, ran, at_once) in [
        (1000, 10_000, false),
        (1000, LEAST - 1, false),
        (1000, LEAST, true),
        (100, 100_000, true),
        (0, 0, true),
    ] {
        let mut sim = Sim::singles(1, 2);
        sim.hv.sched.set_least_run_us(least).unwrap();
        sim.up_all();
        sim.vcpus[1].vcpu().sched.add(Reasons::BLOCKED);
        sim.reschedule(0);
        sim.run(50_000_000);
        sim.hv.kick(&sim.vcpu(1));
        let began = woken_after(&mut sim, ran);
        assert_eq!(sim.running(), [Some(at_once.into())], "least {least} us, ran {ran} ns");
        if at_once {
            continue;
        }
        let end = began + LEAST;
        assert_eq!(sim.hv.sched.slice_end(CpuId(0)), Some(Nanos(end)));
        // More looks change nothing.
        sim.reschedule(0);
        sim.settle();
        assert_eq!(sim.running(), [Some(0)]);
        sim.hv.platform.time.store(end, SeqCst);
        sim.hv.run_timers();
        sim.settle();
        assert_eq!(sim.running(), [Some(1)], "the least run is over");
        // Who yields wants no more of it.
        woken_after(&mut sim, 5000);
        assert_eq!(sim.running(), [Some(0)]);
        sim.hv.yield_cpu(sim.vcpu(0).vcpu());
        sim.settle();
        assert_eq!(sim.running(), [Some(1)]);
    }
}

/// When the platform's timer expires.
fn armed(sim: &Sim) -> u64 {
    sim.hv.platform.record.lock().unwrap().timer.map_or(u64::MAX, |at| at.0)
}

/// A vCPU that wakes up on the CPU that wakes it, during the least run of what runs there, costs that CPU no look: the slice ends with the
/// least run, and the timer is armed for that.
#[test]
fn a_wake_up_within_the_least_run_costs_no_look() {
    let mut sim = Sim::singles(1, 2);
    sim.up_all();
    sim.vcpus[1].vcpu().sched.add(Reasons::BLOCKED);
    sim.reschedule(0);
    sim.run(50_000_000);
    sim.hv.kick(&sim.vcpu(1));
    while sim.running()[0] != Some(1) {
        sim.run(STEP);
    }
    sim.vcpus[1].vcpu().sched.add(Reasons::BLOCKED);
    sim.reschedule(0);
    let end = now(&sim) + LEAST;
    pass(&sim, 5000);
    sim.hv.platform.record.lock().unwrap().raised.clear();
    sim.hv.kick(&sim.vcpu(1));
    assert!(sim.hv.platform.record.lock().unwrap().raised.is_empty());
    assert_eq!(sim.hv.sched.slice_end(CpuId(0)), Some(Nanos(end)));
    assert!(armed(&sim) <= end);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever sleeps, wakes up and yields, the timer never expires after the end of the slice.
    #[test]
    fn the_timer_expires_by_the_end_of_the_slice(
        steps in proptest::collection::vec((0u64..700_000, 0usize..3, any::<bool>()), 1..300),
    ) {
        let mut sim = Sim::singles(1, 3);
        sim.up_all();
        sim.on_cpu(0);
        for (time, n, yields) in steps {
            pass(&sim, time);
            if armed(&sim) <= now(&sim) {
                sim.hv.run_timers();
                sim.settle();
            }
            let vcpu = sim.vcpu(n);
            if sim.running()[0] != u32::try_from(n).ok() {
                sim.hv.kick(&vcpu);
            } else if yields {
                sim.hv.yield_cpu(vcpu.vcpu());
            } else {
                vcpu.vcpu().sched.add(Reasons::BLOCKED);
                sim.hv.platform.raise_work(CpuId(0), Work::RESCHEDULE);
            }
            sim.settle();
            let slice = sim.hv.sched.slice_end(CpuId(0)).map_or(u64::MAX, |end| end.0);
            prop_assert!(armed(&sim) <= slice, "armed for {}, the slice ends at {}", armed(&sim), slice);
        }
    }
}

/// Two CPUs both of whose vCPUs keep them do not call each other without end, and at the end of the least run the one that is behind
/// runs.
#[test]
fn the_least_run_on_two_cpus() {
    let mut sim = Sim::singles(2, 4);
    sim.up_all();
    for _ in 0..200 {
        sim.run(STEP);
        for n in 0..4 {
            if sim.hv.sched.is_on_cpu(sim.vcpus[n].vcpu()) {
                sim.vcpus[n].vcpu().sched.add(Reasons::BLOCKED);
                let cpu = sim.vcpus[n].vcpu().cpu.load(SeqCst) as usize;
                sim.reschedule(cpu);
                sim.hv.kick(&sim.vcpu(n));
                sim.settle();
            }
        }
    }
    let before = sim.ran.clone();
    sim.run(2_000_000_000);
    for (ran, before) in sim.ran.iter().zip(before) {
        assert!((ran - before).abs_diff(1_000_000_000) < 60_000_000, "{:?}", sim.ran);
    }
}

/// A vCPU that another one of its domain, on another CPU, takes down and brings up all the time makes the CPU where it would run look
/// again and again, and find nothing. Answers how often in a tenth of a second.
fn looks_in_vain(least: u32) -> usize {
    let mut sim = Sim::with_domains(2, &[1, 2], Policy::Share);
    sim.hv.sched.set_least_run_us(least).unwrap();
    for (n, cpu) in [(0, 1), (1, 0), (2, 1)] {
        sim.pin(n, &[cpu]);
    }
    assert!(sim.hv.bring_up(&sim.vcpu(0)) && sim.hv.bring_up(&sim.vcpu(1)));
    sim.settle();
    sim.run(100_000_000);
    assert_eq!(sim.running(), [Some(1), Some(0)]);
    let (end, victim) = (now(&sim) + 100_000_000, sim.vcpu(2));
    let mut looks = 0;
    while now(&sim) < end {
        pass(&sim, 3000);
        sim.on_cpu(1);
        sim.hv.run_timers();
        sim.on_cpu(0);
        sim.hv.bring_up(&victim);
        sim.hv.take_down(victim.vcpu());
        let raised = core::mem::take(&mut sim.hv.platform.record.lock().unwrap().raised);
        if raised.iter().any(|(cpu, work)| cpu.0 == 1 && work.contains(Work::RESCHEDULE)) {
            looks += 1;
            sim.reschedule(1);
        }
        assert_eq!(sim.running(), [Some(1), Some(0)]);
    }
    looks
}

/// So it looks no more than twice in the time of a least run.
#[test]
fn looks_in_vain_are_few() {
    let looks = looks_in_vain(LEAST_RUN_US);
    assert!(looks <= 220, "{looks} looks of one CPU in 100 ms");
}
