//! Weights of domains, caps, soft affinity, the null policy, and CPUs that come and go.

use super::*;

const SECOND: u64 = 1_000_000_000;

/// A domain's share does not depend on how many vCPUs it has.
#[test]
fn weights_belong_to_domains() {
    let mut sim = Sim::with_domains(1, &[4, 1, 2], Policy::Share);
    sim.share(4, 512, 0);
    sim.up_all();
    sim.run(8 * SECOND);
    let first: u64 = sim.ran[..4].iter().sum();
    let third: u64 = sim.ran[5..].iter().sum();
    for (got, want) in [(first, 2), (sim.ran[4], 4), (third, 2)] {
        assert!(got.abs_diff(want * SECOND) < SECOND / 10, "{:?}", sim.ran);
    }
    let equal = sim.ran[..4].iter().all(|ran| ran.abs_diff(SECOND / 2) < SECOND / 20);
    assert!(equal, "{:?}", sim.ran);
}

/// A vCPU that sleeps leaves its part to its domain's others.
#[test]
fn sleepers_leave_their_part_to_their_domain() {
    let mut sim = Sim::with_domains(1, &[3, 1], Policy::Share);
    sim.up_all();
    for n in [0, 1] {
        sim.hv.take_down(sim.vcpu(n).vcpu());
    }
    sim.settle();
    let before = sim.ran.clone();
    sim.run(4 * SECOND);
    let ran: Vec<u64> = sim.ran.iter().zip(before).map(|(now, before)| now - before).collect();
    assert_eq!(ran[..2], [0, 0]);
    assert!(ran[2].abs_diff(2 * SECOND) < SECOND / 10, "{ran:?}");
}

/// A cap holds where nothing else limits the domain, exactly, over any number of vCPUs.
#[test]
fn caps_are_exact() {
    for (vcpus, cap) in [(1, 30), (1, 1), (3, 45), (4, 250)] {
        let mut sim = Sim::with_domains(4, &[vcpus], Policy::Share);
        sim.share(0, 256, cap);
        sim.up_all();
        sim.run(10 * SECOND);
        let ran: u64 = sim.ran.iter().sum();
        let want = 10 * SECOND / 100 * u64::from(cap);
        // One budget at the beginning, and what the steps of the simulation are too long.
        let bound = share_of_period(cap) + 4 * STEP;
        assert!(ran.abs_diff(want) <= bound, "{vcpus} vCPUs, {cap} %: {ran} instead of {want}");
    }
}

fn share_of_period(cap: u32) -> u64 {
    CAP_PERIOD / 100 * u64::from(cap)
}

/// Within each tenth of a second a capped domain gets what it may, and the others the rest.
#[test]
fn caps_hold_in_every_window() {
    let mut sim = Sim::with_domains(1, &[2, 1], Policy::Share);
    sim.share(0, 1024, 20);
    sim.up_all();
    sim.run(SECOND / 10);
    for _ in 0..20 {
        let before = sim.ran.clone();
        sim.run(SECOND / 10);
        let capped = sim.ran[0] + sim.ran[1] - before[0] - before[1];
        assert!(capped.abs_diff(SECOND / 50) <= share_of_period(20) + STEP, "{capped}");
        assert_eq!(capped + sim.ran[2] - before[2], SECOND / 10);
    }
}

/// The vCPUs of a capped domain share what there is: none takes it all because it comes first.
#[test]
fn caps_are_for_all_vcpus() {
    for (vcpus, weight, cap) in [(3, 128, 10), (5, 256, 20), (2, 1024, 5)] {
        let mut sim = Sim::with_domains(1, &[vcpus], Policy::Share);
        sim.share(0, weight, cap);
        sim.up_all();
        sim.run(4 * SECOND);
        let want = 4 * SECOND / 100 * u64::from(cap) / u64::from(vcpus);
        assert!(sim.ran.iter().all(|ran| ran.abs_diff(want) < want / 2), "{:?} instead of {want}", sim.ran);
    }
}

/// A vCPU that is capped goes on when the cap is lifted, and sleeps and wakes as any other.
#[test]
fn caps_come_and_go() {
    let mut sim = Sim::with_domains(1, &[1], Policy::Share);
    sim.share(0, 256, 10);
    sim.up_all();
    sim.run(5 * STEP);
    assert_eq!(sim.running(), [None]);
    assert!(sim.vcpus[0].vcpu().sched.has(Reasons::CAPPED));
    // An event does not lift it.
    sim.vcpus[0].vcpu().sched.add(Reasons::BLOCKED);
    sim.hv.kick(&sim.vcpu(0));
    sim.settle();
    assert_eq!(sim.running(), [None]);
    sim.share(0, 256, 0);
    sim.settle();
    assert_eq!(sim.running(), [Some(0)]);
    assert_eq!(sim.hv.domain_sched(&sim.domain), (256, 0));
    sim.run(SECOND / 10);
    assert_eq!(sim.running(), [Some(0)]);
    // What it ran without a cap is not held against it later.
    sim.share(0, 256, 50);
    let before = sim.ran[0];
    sim.run(SECOND);
    assert!((sim.ran[0] - before).abs_diff(SECOND / 2) <= share_of_period(50) + STEP);
    assert_eq!(sim.hv.set_domain_sched(&sim.domain, 0, 0), Err(Errno::EINVAL));
    assert_eq!(sim.hv.set_domain_sched(&sim.domain, MAX_WEIGHT + 1, 0), Err(Errno::EINVAL));
    assert_eq!(sim.hv.set_domain_sched(&sim.domain, 256, 65_536), Err(Errno::EINVAL));
}

/// Soft affinity decides where there is a choice, and leaves no CPU idle for it.
#[test]
fn soft_affinity_is_a_wish() {
    let mut sim = Sim::singles(2, 2);
    let mask = CpuMask::of(CpuId(1));
    sim.hv.set_soft_affinity(&sim.vcpu(0), &mask).unwrap();
    assert!(sim.hv.bring_up(&sim.vcpu(0)));
    sim.settle();
    assert_eq!(sim.running(), [None, Some(0)]);
    sim.hv.set_soft_affinity(&sim.vcpu(1), &mask).unwrap();
    assert!(sim.hv.bring_up(&sim.vcpu(1)));
    sim.settle();
    assert_eq!(sim.running(), [Some(1), Some(0)]);
    assert_eq!(sim.hv.set_soft_affinity(&sim.vcpu(0), &CpuMask::EMPTY), Err(Errno::EINVAL));
}

/// Shares hold although everybody wants the same CPU.
#[test]
fn soft_affinity_does_not_spoil_shares() {
    let mut sim = Sim::singles(2, 3);
    for n in 0..3 {
        sim.hv.set_soft_affinity(&sim.vcpu(n), &CpuMask::of(CpuId(0))).unwrap();
    }
    sim.up_all();
    sim.run(6 * SECOND);
    assert!(sim.ran.iter().all(|ran| ran.abs_diff(4 * SECOND) < SECOND / 4), "{:?}", sim.ran);
}

/// One vCPU for each CPU; the third waits until one goes for good, not while one sleeps.
#[test]
fn null_gives_each_its_cpu() {
    let mut sim = Sim::with_domains(2, &[1, 1, 1], Policy::Null);
    sim.up_all();
    assert_eq!(sim.running(), [Some(0), Some(1)]);
    sim.run(SECOND);
    assert_eq!(sim.ran, [SECOND, SECOND, 0]);
    assert_eq!(sim.hv.sched.slice_end(CpuId(0)), None);
    sim.vcpus[0].vcpu().sched.add(Reasons::BLOCKED);
    sim.reschedule(0);
    sim.settle();
    assert_eq!(sim.running(), [None, Some(1)]);
    sim.hv.kick(&sim.vcpu(0));
    sim.settle();
    assert_eq!(sim.running(), [Some(0), Some(1)]);
    sim.hv.take_down(sim.vcpu(0).vcpu());
    sim.settle();
    assert_eq!(sim.running(), [Some(2), Some(1)]);
    // Back, but too late.
    sim.hv.bring_up(&sim.vcpu(0));
    sim.settle();
    assert_eq!(sim.running(), [Some(2), Some(1)]);
    // The end of a domain frees its CPU, also while it sleeps.
    sim.vcpus[1].vcpu().sched.add(Reasons::BLOCKED);
    sim.reschedule(1);
    sim.settle();
    sim.hv.crash_domain(&sim.vcpu(1).domain, "test");
    sim.settle();
    assert_eq!(sim.running(), [Some(2), Some(0)]);
}

/// Affinity moves a vCPU to another CPU if that is free, and else makes it wait for it.
#[test]
fn null_and_affinity() {
    let mut sim = Sim::with_domains(3, &[1, 1, 1], Policy::Null);
    sim.pin(2, &[0]);
    sim.up_all();
    assert_eq!(sim.running(), [Some(0), Some(1), None]);
    sim.pin(0, &[2]);
    sim.settle();
    assert_eq!(sim.running(), [Some(2), Some(1), Some(0)]);
    sim.pin(1, &[0]);
    sim.settle();
    assert_eq!(sim.running(), [Some(2), None, Some(0)]);
    sim.pin(1, &[0, 1]);
    sim.settle();
    assert_eq!(sim.running(), [Some(2), Some(1), Some(0)]);
}

/// A vCPU that found a CPU waits for none any more: the next CPU goes to one that has none. The end of a domain takes all of its
/// vCPUs out of the line.
#[test]
fn null_line() {
    let mut sim = Sim::with_domains(2, &[1, 1, 1, 20], Policy::Null);
    for n in 0..23 {
        sim.pin(n, &[0]);
        sim.hv.bring_up(&sim.vcpu(n));
    }
    sim.settle();
    assert_eq!(sim.running(), [Some(0), None]);
    sim.pin(1, &[0, 1]);
    sim.settle();
    assert_eq!(sim.running(), [Some(0), Some(1)]);
    sim.hv.take_down(sim.vcpu(0).vcpu());
    sim.settle();
    assert_eq!(sim.running(), [Some(2), Some(1)]);
    let in_line = |sim: &Sim| sim.vcpus.iter().filter(|vcpu| vcpu.vcpu().sched.in_line.load(SeqCst)).count();
    assert_eq!(in_line(&sim), 20);
    let last = sim.vcpu(3).domain;
    let held = Arc::strong_count(&last);
    sim.hv.crash_domain(&last, "test");
    assert_eq!(in_line(&sim), 0);
    assert!(Arc::strong_count(&last) < held - 15, "the line still holds its vCPUs");
    sim.settle();
    assert_eq!(sim.running(), [Some(2), Some(1)]);
}

/// A CPU that goes leaves nothing behind: not what ran, not what waited, no timer, no budget to be filled.
#[test]
fn cpus_come_and_go() {
    for policy in [Policy::Share, Policy::Null] {
        let mut sim = Sim::with_domains(2, &[1, 1], policy);
        sim.pin(1, &[1]);
        sim.up_all();
        assert_eq!(sim.running(), [Some(0), Some(1)]);
        sim.hv.take_down(sim.vcpu(0).vcpu());
        sim.settle();
        sim.hv.platform.offline.insert(CpuId(1));
        sim.on_cpu(0);
        sim.hv.cpu_left(CpuId(1));
        sim.settle();
        assert_eq!(sim.running(), [Some(1), None], "{policy:?}");
        assert_eq!(sim.vcpus[1].vcpu().sched.affinity(), CpuMask::ALL);
        sim.hv.platform.offline.remove(CpuId(1));
        sim.hv.cpu_joined(CpuId(1));
        sim.hv.bring_up(&sim.vcpu(0));
        sim.settle();
        assert_eq!(sim.running(), [Some(1), Some(0)], "{policy:?}");
    }
}

/// Timers that were armed on a CPU that goes fire on another one.
#[test]
fn timers_outlive_their_cpu() {
    let mut sim = Sim::with_domains(2, &[1, 1], Policy::Share);
    sim.up_all();
    let vcpu = sim.vcpu(1);
    let deadline = crate::ids::Nanos(sim.hv.platform.time.load(SeqCst) + 5 * STEP);
    let port = sim.hv.bind_virq(&vcpu.domain, VcpuId(0), xen_abi::xen::VIRQ_TIMER).unwrap();
    sim.on_cpu(1);
    sim.hv.arm_singleshot(Cx { hv: &sim.hv, domain: &vcpu.domain, vcpu: vcpu.vcpu() }, deadline);
    sim.hv.platform.offline.insert(CpuId(1));
    sim.on_cpu(0);
    sim.hv.cpu_left(CpuId(1));
    sim.settle();
    sim.run(4 * STEP);
    assert!(!sim.hv.event_is_pending(&vcpu.domain, port).unwrap());
    sim.run(2 * STEP);
    assert!(sim.hv.event_is_pending(&vcpu.domain, port).unwrap());
}
