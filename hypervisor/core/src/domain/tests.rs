//! Making and ending domains: whatever a domain had, in whatever state, all of it is back when it is gone.

use super::making::Making;
use super::*;
use crate::Hypervisor;
use crate::grant::MapRequest;
use crate::hypercall::Cx;
use crate::ids::{CpuId, GrantRef, Nanos};
use crate::mock::{self, MockPlatform};
use crate::page::{PageType, pte};
use crate::platform::{GuestFrame, Work};
use crate::sched::{Reasons, Scheduler};
use core::sync::atomic::Ordering::SeqCst;
use std::boxed::Box;
use std::sync::Barrier;
use xen_abi::grant_table::*;
use xen_abi::sched::{SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT, SHUTDOWN_SUSPEND};
use xen_abi::xen::{DOMID_SELF, VIRQ_DOM_EXC, VIRQ_TIMER};

type Mock = Hypervisor<MockPlatform>;
type MockDomain = Arc<Domain<MockPlatform>>;

const SELF: DomId = DomId(DOMID_SELF);

/// Two CPUs and a control domain.
fn machine() -> (Mock, MockDomain) {
    let mut hv = mock::hypervisor(2000);
    hv.sched = Scheduler::new(2);
    hv.timers = crate::time::TimerQueues::new(2);
    hv.platform.cpus.store(2, SeqCst);
    let dom0 = mock::domain(&hv, 0, 1, 600);
    // Its grant table has a frame from its first use on.
    hv.setup_grant_table(&dom0, SELF, 1).expect("a table");
    (hv, dom0)
}

fn config(id: u16) -> DomainConfig {
    DomainConfig { max_vcpus: 2, max_pages: 400, ..DomainConfig::new(DomId(id)) }
}

fn destroy(hv: &Mock, domain: &MockDomain) -> u32 {
    for rounds in 0..10_000 {
        if hv.destroy_domain(domain).is_ok() {
            return rounds;
        }
    }
    panic!("the teardown never ends");
}

fn page(hv: &Mock, domain: &MockDomain) -> Mfn {
    let mfn = hv.alloc_domain_page(domain, 0).expect("a page");
    hv.platform.frame_words(mfn).iter().for_each(|word| word.store(0, SeqCst));
    mfn
}

/// A chain of four tables that map `page` writable at 0; pinned, and the base of vCPU 0.
fn tables(hv: &Mock, domain: &MockDomain, page_: Mfn) -> [Mfn; 4] {
    let tables: [Mfn; 4] = core::array::from_fn(|_| page(hv, domain));
    for (i, next) in [tables[1], tables[2], tables[3], page_].into_iter().enumerate() {
        hv.platform.frame_words(tables[i])[0].store(next.addr().0 | pte::PRESENT | pte::RW, SeqCst);
    }
    hv.set_first_baseptr(domain, &domain.vcpus[0], tables[0]).expect("tables");
    hv.pin_table(domain, tables[0], PageType::L4).expect("a pin");
    tables
}

/// A reference in a version 1 grant table of `domain`.
fn grant(hv: &Mock, domain: &MockDomain, to: DomId, mfn: Mfn) -> GrantRef {
    let table = hv.setup_grant_table(domain, SELF, 1).expect("a grant table")[0];
    let word = u64::from(GTF_PERMIT_ACCESS) | u64::from(to.0) << 16 | mfn.0 << 32;
    hv.platform.frame_words(table)[9].store(word, SeqCst);
    GrantRef(9)
}

/// A domain with some of everything.
fn busy_domain(hv: &Mock, dom0: &MockDomain, id: u16) -> MockDomain {
    let domain = hv.create_domain(&config(id)).expect("a domain");
    let data = page(hv, &domain);
    tables(hv, &domain, data);
    // A table that is partly checked, another vCPU's vcpu_info, a descriptor page.
    let info = page(hv, &domain);
    hv.get_page_and_type(&domain, info, PageType::Writable).expect("a page");
    domain.vcpus[1].pv.vcpu_info.store(info.addr().0 + 64, SeqCst);
    hv.set_gdt(&domain, &domain.vcpus[1], &[page(hv, &domain)], 8).expect("a descriptor table");
    let vcpu = VcpuRef { domain: domain.clone(), id: VcpuId(0) };
    let cx = Cx { hv, domain: &domain, vcpu: vcpu.vcpu() };
    hv.arm_singleshot(cx, Nanos(u64::MAX - 1));
    hv.watchdog(&domain, 0, 30).expect("a watchdog");
    hv.bind_virq(&domain, VcpuId(0), VIRQ_TIMER).expect("a port");
    let far = hv.alloc_unbound(dom0, SELF, domain.id).expect("a port");
    hv.bind_interdomain(&domain, DomId(0), far).expect("a channel");
    let reference = grant(hv, dom0, domain.id, page(hv, dom0));
    let map = MapRequest { host_addr: 0, flags: GNTMAP_DEVICE_MAP, granter: DomId(0), reference };
    hv.map_grant(&domain, vcpu.vcpu(), &map).expect("a mapping");
    hv.setup_grant_table(&domain, SELF, 3).expect("frames");
    hv.bring_up(&vcpu);
    hv.unpause_domain(&domain).expect("a pause");
    domain
}

#[test]
fn everything_comes_back() {
    let (hv, dom0) = machine();
    for (every, grace) in [(0, 0), (1, 3), (2, 0)] {
        let kept = page(&hv, &dom0);
        let before = hv.accounts();
        let domain = busy_domain(&hv, &dom0, 7);
        assert_ne!(hv.accounts(), before);
        // What the domain's end leaves with others is not the domain's: its granted page and its peer's port.
        let (pages, ports) = (dom0.pages.current(), dom0.events.active_ports());
        hv.platform.preempt_every.store(every, SeqCst);
        hv.platform.grace_rounds.store(grace, SeqCst);
        destroy(&hv, &domain);
        hv.platform.preempt_every.store(0, SeqCst);
        assert_eq!((dom0.pages.current(), dom0.events.active_ports()), (pages, ports));
        assert_eq!(*domain.lifecycle.lock(), Lifecycle::Dead);
        let mut after = hv.accounts();
        assert_eq!(after.event_channels, before.event_channels + 1, "the peer's end waits");
        assert_eq!(after.domain_frames, before.domain_frames + 1, "the control domain's granted page");
        (after.event_channels, after.domain_frames) = (before.event_channels, before.domain_frames);
        after.free_frames += 1;
        assert_eq!(after, before);
        hv.keep_domains();
        assert_eq!(Arc::strong_count(&domain), 2, "nothing holds the shell but what takes it away");
        drop(domain);
        hv.keep_domains();
        assert_eq!(hv.gone_vcpus(), 0);
        assert!(hv.domains.get(DomId(7)).is_none());
        hv.remove_domain_page(&dom0, kept).expect("its own page");
    }
}

/// Until the memory of a domain that ended is given out again, it is cleared: by idle CPUs or by whoever takes it.
#[test]
fn nobody_gets_what_a_domain_left() {
    const SECRET: u64 = 0x005e_c2e7;
    let (hv, dom0) = machine();
    let domain = busy_domain(&hv, &dom0, 7);
    let pages: Vec<_> = (0..40).map(|_| page(&hv, &domain)).collect();
    for mfn in &pages {
        hv.platform.frame_words(*mfn).iter().for_each(|word| word.store(SECRET, SeqCst));
    }
    destroy(&hv, &domain);
    let left = || {
        let known =
            |mfn: &&Mfn| hv.platform.frame_words(**mfn).iter().any(|word| word.load(SeqCst) == SECRET);
        pages.iter().filter(known).count()
    };
    assert_eq!((left(), hv.frames.any_dirty()), (40, true), "the teardown does not take the time");
    hv.scrub_free_frames();
    assert!((1..40).contains(&left()), "an idle CPU clears some between two looks for work");
    while hv.frames.free_count() != hv.frames.floor() {
        dom0.pages.set_max(dom0.pages.current() + 1);
        hv.alloc_domain_page(&dom0, 0).expect("a page");
    }
    // The rest no domain gets.
    assert!(left() <= hv.frames.floor() as usize);
    (0..hv.frames.floor()).for_each(|_| {
        dom0.pages.set_max(dom0.pages.current() + 1);
        assert_eq!(hv.alloc_domain_page(&dom0, 0), Err(Errno::ENOMEM));
        let mfn = hv.alloc_frames(0).expect("a frame");
        hv.platform.clear_frame(GuestFrame::held(mfn));
    });
    assert_eq!((left(), hv.frames.any_dirty()), (0, false));
}

#[test]
fn the_teardown_waits_for_vcpus_and_for_the_grace_period() {
    let (hv, dom0) = machine();
    let domain = busy_domain(&hv, &dom0, 3);
    let running = hv.schedule(None).expect("a vCPU to run");
    hv.vcpu_switched(None, Some(&running));
    hv.platform.record.lock().unwrap().raised.clear();
    hv.platform.grace_rounds.store(2, SeqCst);
    assert_eq!(hv.destroy_domain(&domain), Err(Restart));
    assert!(domain.is_dying() && hv.domains.get(DomId(3)).is_none(), "nobody finds it any more");
    assert_eq!(hv.alloc_domain_page(&domain, 0), Err(Errno::ENOMEM));
    let raised = hv.platform.record.lock().unwrap().raised.clone();
    assert!(raised.contains(&(CpuId(0), Work::RESCHEDULE)), "its CPU is told");
    let pages = domain.pages.current();
    assert_eq!(hv.destroy_domain(&domain), Err(Restart));
    assert_eq!(domain.pages.current(), pages, "nothing is taken away from under a running vCPU");
    assert!(hv.schedule(Some(&running)).is_none(), "it is not chosen again");
    hv.vcpu_switched(Some(&running), None);
    drop(running);
    assert_eq!(hv.destroy_domain(&domain), Err(Restart), "the grace period");
    assert_eq!(domain.pages.current(), pages);
    destroy(&hv, &domain);
    assert_eq!(domain.pages.current(), 0);
    assert_eq!(hv.schedule(None).map(|v| v.domain.id), None);
}

#[test]
fn frames_that_others_map_keep_the_identifier() {
    let (hv, dom0) = machine();
    let domain = hv.create_domain(&config(5)).expect("a domain");
    let (granted, own) = (page(&hv, &domain), page(&hv, &domain));
    hv.platform.frame_words(granted)[1].store(42, SeqCst);
    hv.platform.frame_words(own)[1].store(42, SeqCst);
    let reference = grant(&hv, &domain, DomId(0), granted);
    let map = MapRequest { host_addr: 0, flags: GNTMAP_DEVICE_MAP, granter: domain.id, reference };
    let mapped = hv.map_grant(&dom0, &dom0.vcpus[0], &map).expect("a mapping");
    // A frame of its grant table as well.
    let table = hv.setup_grant_table(&domain, SELF, 1).expect("a table")[0];
    hv.get_page(domain.id, table).expect("a frame");
    destroy(&hv, &domain);
    assert_eq!(hv.accounts().dying_domains, 1);
    assert_eq!(domain.pages.current(), 2);
    while hv.frames.any_dirty() {
        hv.scrub_free_frames();
    }
    assert_eq!(hv.platform.frame_words(own)[1].load(SeqCst), 0, "what it left is nobody's business");
    assert_eq!(hv.create_domain(&config(5)).err(), Some(Errno::EEXIST));
    assert_ne!(hv.free_domid(), Some(DomId(5)));
    let mut batch = crate::grant::UnmapBatch::default();
    let request = crate::grant::UnmapRequest {
        host_addr: 0,
        device_addr: granted.addr().0,
        new_addr: 0,
        handle: mapped.handle,
    };
    hv.unmap_grant(&dom0, &dom0.vcpus[0], &request, &mut batch).expect("its mapping");
    hv.finish_unmaps(&dom0, &mut batch);
    assert_eq!((domain.pages.current(), hv.accounts().dying_domains), (1, 1));
    hv.put_page(table);
    assert_eq!((domain.pages.current(), hv.accounts().dying_domains), (0, 0));
    assert!(hv.create_domain(&config(5)).is_ok());
}

#[test]
fn the_control_domain_hears_of_an_end() {
    let (hv, dom0) = machine();
    let port = hv.bind_virq(&dom0, VcpuId(0), VIRQ_DOM_EXC).expect("a port");
    let domain = hv.create_domain(&config(1)).expect("a domain");
    destroy(&hv, &domain);
    assert_eq!(hv.event_is_pending(&dom0, port), Ok(true));
    assert_eq!(hv.destroy_domain(&domain), Ok(()), "once more is no mistake");
}

#[test]
fn a_controller_pauses_and_unpauses() {
    let (hv, _dom0) = machine();
    let domain = hv.create_domain(&config(1)).expect("a domain");
    let vcpu = VcpuRef { domain: domain.clone(), id: VcpuId(0) };
    assert_eq!(*domain.lifecycle.lock(), Lifecycle::Building);
    hv.bring_up(&vcpu);
    assert!(!vcpu.vcpu().sched.runnable(), "paused since its making");
    assert_eq!(hv.pause_domain(&domain), Ok(()));
    assert_eq!(hv.unpause_domain(&domain), Ok(()));
    assert!(!vcpu.vcpu().sched.runnable());
    assert_eq!(hv.unpause_domain(&domain), Ok(()));
    assert!(vcpu.vcpu().sched.runnable() && *domain.lifecycle.lock() == Lifecycle::Running);
    assert_eq!(hv.unpause_domain(&domain), Err(Errno::EINVAL));
    (0..255).for_each(|_| assert_eq!(hv.pause_domain(&domain), Ok(())));
    assert_eq!(hv.pause_domain(&domain), Err(Errno::EOVERFLOW));
}

/// A domain with many vCPUs that are up, shut down for a suspend.
fn suspended(hv: &Mock, id: u16) -> MockDomain {
    let config = DomainConfig { max_vcpus: 64, ..config(id) };
    let domain = hv.create_domain(&config).expect("a domain");
    domain.vcpu_refs().for_each(|vcpu| assert!(hv.bring_up(&vcpu)));
    hv.unpause_domain(&domain).expect("a paused domain");
    hv.shutdown_domain(&domain, SHUTDOWN_SUSPEND);
    domain
}

/// Runs both at the same time.
fn together(one: impl FnOnce() + Send, other: impl FnOnce() + Send) {
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            barrier.wait();
            one();
        });
        barrier.wait();
        other();
    });
}

/// A domain is resumed by one CPU while another one begins its teardown: whoever is first, no vCPU can run when the grace
/// period, which waits for the first CPU, is over.
#[test]
fn a_resumed_domain_does_not_outrun_its_teardown() {
    let (hv, _dom0) = machine();
    for _ in 0..100 {
        let domain = suspended(&hv, 9);
        hv.platform.grace_rounds.store(1, SeqCst);
        together(
            || hv.resume_domain(&domain),
            || assert_eq!(hv.destroy_domain(&domain), Err(Restart), "the grace period"),
        );
        assert_eq!(*domain.lifecycle.lock(), Lifecycle::Dying);
        assert!(domain.stopped.load(SeqCst));
        assert!(domain.vcpus.iter().all(|vcpu| vcpu.sched.has(Reasons::STOPPED)), "a vCPU goes on");
        assert!(hv.schedule(None).is_none());
        destroy(&hv, &domain);
        hv.keep_domains();
    }
}

/// A domain is resumed while it ends once more: it either runs or is stopped, as a whole, and can be resumed again.
#[test]
fn a_domain_is_stopped_as_a_whole() {
    let (hv, _dom0) = machine();
    let domain = suspended(&hv, 9);
    for _ in 0..1000 {
        together(|| hv.resume_domain(&domain), || hv.shutdown_domain(&domain, SHUTDOWN_SUSPEND));
        let stopped = domain.vcpus.iter().filter(|vcpu| vcpu.sched.has(Reasons::STOPPED)).count();
        let running = *domain.lifecycle.lock() == Lifecycle::Running;
        assert_eq!((stopped, domain.stopped.load(SeqCst)), if running { (0, false) } else { (64, true) });
        hv.shutdown_domain(&domain, SHUTDOWN_SUSPEND);
    }
}

/// The reason of an end does not outlive the resumption after it.
#[test]
fn each_end_has_its_reason() {
    let (hv, _dom0) = machine();
    let domain = suspended(&hv, 9);
    assert_eq!(*domain.lifecycle.lock(), Lifecycle::Shutdown(SHUTDOWN_SUSPEND));
    hv.resume_domain(&domain);
    hv.announce_shutdown(&domain, SHUTDOWN_REBOOT);
    hv.shutdown_domain(&domain, SHUTDOWN_POWEROFF);
    assert_eq!(*domain.lifecycle.lock(), Lifecycle::Shutdown(SHUTDOWN_REBOOT));
}

/// What is killed stays so until it is taken apart, and what is being taken apart gets no memory.
#[test]
fn no_command_brings_an_ended_domain_back() {
    let (hv, _dom0) = machine();
    let domain = suspended(&hv, 9);
    hv.kill_domain(domain.id).expect("a domain");
    hv.resume_domain(&domain);
    assert!(domain.vcpus.iter().all(|vcpu| vcpu.sched.has(Reasons::STOPPED)));
    hv.shutdown_domain(&domain, SHUTDOWN_SUSPEND);
    hv.resume_domain(&domain);
    assert_eq!(*domain.lifecycle.lock(), Lifecycle::Condemned);
    hv.limit_domain(&domain, 7);
    assert_eq!(domain.pages.max(), 7);
    hv.platform.grace_rounds.store(1, SeqCst);
    assert_eq!(hv.destroy_domain(&domain), Err(Restart));
    hv.limit_domain(&domain, 7);
    assert_eq!(domain.pages.max(), 0);
}

#[test]
fn what_no_domain_can_be_is_refused() {
    let (hv, _dom0) = machine();
    let free = hv.accounts();
    assert_eq!(hv.create_domain(&config(0x7ff0)).err(), Some(Errno::EINVAL));
    assert_eq!(hv.create_domain(&config(0)).err(), Some(Errno::EEXIST));
    for vcpus in [0, MAX_VCPUS + 1] {
        let wrong = DomainConfig { max_vcpus: vcpus, ..config(1) };
        assert_eq!(hv.create_domain(&wrong).err(), Some(Errno::EINVAL));
    }
    assert_eq!(hv.accounts(), free);
    assert_eq!(hv.free_domid(), Some(DomId(1)));
}

/// The descriptor tables and `vcpu_info` pages of all vCPUs were given up in one go.
#[test]
fn a_domain_of_many_vcpus_ends_in_steps() {
    let hv = mock::hypervisor(600);
    const VCPUS: u32 = 512;
    let domain = mock::domain(&hv, 3, VCPUS, 64);
    let (gdt, info) = (page(&hv, &domain), page(&hv, &domain));
    for vcpu in &domain.vcpus {
        hv.set_gdt(&domain, vcpu, &[gdt; 14], 14 * 512).expect("an empty frame");
        hv.get_page_and_type(&domain, info, PageType::Writable).expect("a page");
        vcpu.pv.vcpu_info.store(info.addr().0, SeqCst);
    }
    hv.platform.longest_stretch();
    hv.platform.preempt_every.store(1, SeqCst);
    let rounds = destroy(&hv, &domain);
    let longest = hv.platform.longest_stretch();
    assert!(rounds > VCPUS && longest < 400, "{rounds} rounds, {longest} in one of them");
    assert_eq!(domain.pages.current(), 0);
}

/// The teardown of a domain that mapped a foreign page flushes the CPUs that may remember the domain's entries, and no others.
#[test]
fn the_end_of_a_foreign_mapping_flushes_few_cpus() {
    let (hv, owner) = machine();
    let mapper = mock::domain(&hv, 1, 1, 64);
    let mfn = page(&hv, &owner);
    hv.platform.cpus.store(8, SeqCst);
    mapper.dirty_cpus.insert(CpuId(3));
    for dying in [false, true] {
        hv.get_page_and_type(&owner, mfn, PageType::Writable).expect("a page");
        if dying {
            hv.domains.begin_dying(&mapper);
        }
        hv.platform.record.lock().unwrap().flushes.clear();
        hv.put_l1_entry(mapper.id, mfn.addr().0 | pte::PRESENT | pte::RW);
        let flushes = core::mem::take(&mut hv.platform.record.lock().unwrap().flushes);
        let flushed = |cpu| flushes.iter().any(|(cpus, _)| cpus.contains(CpuId(cpu)));
        // CPU 0 is the one that does it.
        assert_eq!((1..8).filter(|cpu| flushed(*cpu)).collect::<Vec<_>>(), [3], "dying: {dying}");
    }
}

/// The vCPUs of a domain that is gone went in one go, on whatever CPU dropped it last.
#[test]
fn vcpus_that_are_gone_go_in_steps() {
    const VCPUS: u32 = 512;
    let hv = mock::hypervisor(600);
    let held = mock::domain(&hv, 3, VCPUS, 64);
    destroy(&hv, &held);
    hv.platform.preempt_every.store(1, SeqCst);
    hv.keep_domains();
    assert_eq!(hv.gone_vcpus(), VCPUS as usize, "a reference is held");
    drop(held);
    let mut left = hv.gone_vcpus();
    for _ in 0..VCPUS {
        hv.keep_domains();
        let now = hv.gone_vcpus();
        assert!(left - now <= 16, "{left}, {now} between two looks");
        left = now;
    }
    assert_eq!(left, 0);
}

/// Memory for a domain's vCPUs was judged when it was begun: two callers at a time found the same frames free, and what the domain needed
/// went to guests meanwhile.
#[test]
fn memory_is_set_aside_for_a_domain_that_is_begun() {
    let hv = mock::hypervisor(1000);
    let dom0 = mock::domain(&hv, 0, 2, 1000);
    hv.platform.preempt_every.store(1, SeqCst);
    let config = |id| DomainConfig { max_vcpus: 40, ..config(id) };
    let make = |vcpu, id| hv.create_domain_for((DomId(0), VcpuId(vcpu)), config(id));
    assert!(matches!(make(0, 1), Ok(None)));
    assert_eq!(make(1, 2).err(), Some(Errno::ENOMEM));
    // What is not made yet has its frames set aside.
    let pages = || core::iter::from_fn(|| hv.alloc_domain_page(&dom0, 0).ok());
    let had: Vec<_> = pages().collect();
    assert!(
        !had.is_empty() && (24 * 16..30 * 16).contains(&hv.frames.free_count()),
        "{}",
        hv.frames.free_count()
    );
    let made = core::iter::repeat_with(|| make(0, 1).expect("it has room")).take(10).find_map(|made| made);
    assert_eq!(made.expect("a domain").vcpus.len(), 40);
    // All of it is to be had then, and when a domain is not gone on with.
    assert!(pages().count() >= 24 * 16 - 1);
    had.iter().for_each(|mfn| hv.remove_domain_page(&dom0, *mfn).expect("its own"));
    let free = hv.frames.free_count();
    if free >= 40 * 16 {
        assert!(matches!(make(1, 2), Ok(None)));
        hv.abandon_domains_of(DomId(0));
    }
    let (claim, left) = (crate::mem::Claim::default(), free - hv.frames.floor());
    assert!(hv.frames.promise(&claim, left) && !hv.frames.promise(&claim, 1));
}

/// Two callers make a domain of the same name: what the one had for it was a frame of the other's domain for a moment, which could map it.
#[test]
fn a_domain_that_is_not_to_be_shares_nothing() {
    struct World {
        hv: Mock,
        other: MockDomain,
        making: interleave::StdMutex<Option<Box<Making<MockPlatform>>>>,
        over: core::sync::atomic::AtomicBool,
    }
    let make = |_: &mut interleave::model::Chance| {
        let (hv, _) = mock::machine_with_domain(100);
        let mut making = hv.begin_domain(config(1), Arc::default()).expect("room");
        while !hv.make_some(&mut making).expect("memory") {}
        let other = mock::domain(&hv, 1, 1, 8);
        World { hv, other, making: interleave::StdMutex::new(Some(making)), over: false.into() }
    };
    let act = |world: &World, task: usize| {
        if task == 0 {
            let making = world.making.lock().unwrap().take().expect("it was begun");
            assert_eq!(world.hv.complete_domain(*making).err(), Some(Errno::EEXIST));
            return world.over.store(true, SeqCst);
        }
        let others = |mfn: &Mfn| *mfn != world.other.shared_info;
        while !world.over.load(SeqCst) {
            for mfn in (1..100).map(Mfn).filter(others) {
                assert!(world.hv.get_page(DomId(1), mfn).is_err(), "{mfn:?} is not its own");
            }
        }
    };
    for seed in 0..300 {
        interleave::model::explore(seed, 2, None, make, act, |_| {});
    }
}

/// vCPUs that run without a `vcpu_info` had one in common, through which guests heard of each other: CR2 for one is in it.
#[test]
fn vcpus_without_vcpu_info_share_nothing() {
    let (hv, _dom0) = mock::machine_with_domain(400);
    let config = |id| DomainConfig { max_vcpus: 40, ..config(id) };
    let domains = [1, 2].map(|id| hv.create_domain(&config(id)).expect("a domain"));
    let vcpus = domains.iter().flat_map(|domain| &domain.vcpus);
    for (n, vcpu) in vcpus.clone().enumerate() {
        assert!(vcpu.pv.without_info.iter().all(|word| word.swap(n as u64, SeqCst) == 1 << 8));
    }
    for (n, vcpu) in vcpus.enumerate() {
        assert!(vcpu.pv.without_info.iter().all(|word| word.load(SeqCst) == n as u64));
    }
}
