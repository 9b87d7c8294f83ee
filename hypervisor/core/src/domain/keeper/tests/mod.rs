//! Described domains from their start to their end, on the mock machine.

mod memory;

use super::*;
use crate::description::Descriptions;
use crate::event::slot::Binding;
use crate::ids::Mfn;
use crate::mock::{self, MockPlatform};
use crate::platform::GuestFrame;
use core::sync::atomic::Ordering::SeqCst;
use std::format;
use std::string::String;
use xen_abi::grant_table::GTF_PERMIT_ACCESS;
use xen_abi::xen::{DOMID_SELF, StartInfo};
use zerocopy::{FromBytes, IntoBytes};

type Mock = Hypervisor<MockPlatform>;

const TWO: &str = r#"
[[domain]]
name = "a"
kernel = "k"
memory = "8M"
cmdline = "quiet"
vcpus = 2
weight = 512
ioports = ["0x60-0x64"]
restart = "on-crash"
restart_limit = 1
restart_delay = 10

[[domain]]
name = "b"
id = 5
kernel = "k"
memory = "8M"
console_io = true

[[channel]]
domains = ["a", "b"]
"#;

/// A machine on which what `text` describes was started; all modules are the smallest kernel.
fn started(text: &str) -> Mock {
    started_on(8192, text)
}

/// The same with so many frames.
fn started_on(frames: usize, text: &str) -> Mock {
    let hv = mock::hypervisor(frames);
    let all = Descriptions::parse(text.as_bytes()).expect("a description");
    let image = crate::builder::tests::small_kernel();
    let plan = |description| Plan { description, image, initrd: None };
    let plans = all.domains.into_iter().map(plan).collect();
    let mut denied = Permissions::none();
    denied.ioports.insert(0x61, 0x61);
    hv.start_domains(plans, &all.channels, None, denied).expect("no first domain to fail");
    hv
}

fn domain(hv: &Mock, id: u16) -> Arc<Domain<MockPlatform>> {
    hv.domains.get(DomId(id)).expect("a domain")
}

/// What the kernel of a domain finds.
fn start_info(hv: &Mock, domain: &Domain<MockPlatform>) -> StartInfo {
    let magic = u64::from_le_bytes(*b"xen-3.0-");
    let frames = hv.platform.frame_table().iter().enumerate();
    let owned = frames.filter(|(_, info)| info.owner() == Some(domain.id)).map(|(mfn, _)| mfn as u64);
    let found =
        owned.map(|mfn| hv.platform.frame_words(crate::ids::Mfn(mfn))).find(|w| w[0].load(SeqCst) == magic);
    let words: Vec<u64> = found.expect("a start_info").iter().map(|word| word.load(SeqCst)).collect();
    StartInfo::read_from_prefix(words.as_bytes()).expect("a whole page").0
}

fn command_line_of(info: &StartInfo) -> String {
    String::from_utf8(info.cmd_line.iter().copied().take_while(|byte| *byte != 0).collect()).expect("text")
}

/// Time passes, and the keeper looks.
fn pass(hv: &Mock, ms: u64) {
    hv.platform.time.fetch_add(ms * 1_000_000, SeqCst);
    hv.run_timers();
}

#[test]
fn described_domains_are_what_they_should_be() {
    let hv = started(TWO);
    let (a, b) = (domain(&hv, 1), domain(&hv, 5));
    assert_eq!((a.name.as_str(), a.vcpus.len(), a.pages.current(), a.pages.max()), ("a", 2, 2048, 2048));
    assert!(!a.privileged && !a.uses_console_io() && b.uses_console_io());
    assert_eq!(a.sched.weight(), 512);
    let ports = a.permissions.read().ioports.clone();
    assert!(ports.contains(0x60, 0x60) && ports.contains(0x62, 0x64) && !ports.contains(0x61, 0x61));
    assert!(a.vcpus[0].sched.runnable() && !a.vcpus[1].sched.is_up());
    // Its console has port 1, the channel port 2 (made before the memory): whichever, the ends name each other.
    let info = start_info(&hv, &a);
    assert_eq!((info.flags, info.nr_pages, info.store_evtchn), (0, 2048, 0));
    assert_ne!(info.store_mfn, 0);
    let console = info.console_domu();
    assert!(a.events.binding(Port(console.evtchn)).is_some());
    let line = command_line_of(&info);
    let near: u32 =
        line.strip_prefix("quiet paravane.channel.b=").expect("the port").parse().expect("a number");
    let far: u32 =
        command_line_of(&start_info(&hv, &b)).strip_prefix("paravane.channel.a=").unwrap().parse().unwrap();
    assert_eq!(a.events.binding(Port(near)), Some(Binding::Interdomain(DomId(5), Port(far))));
}

#[test]
fn a_crash_is_followed_by_a_restart_with_the_same_peers() {
    let hv = started(TWO);
    let accounts = hv.accounts();
    let (a, b) = (domain(&hv, 1), domain(&hv, 5));
    let end = command_line_of(&start_info(&hv, &b));
    hv.shutdown_domain(&a, SHUTDOWN_CRASH);
    drop(a);
    pass(&hv, 0);
    assert!(hv.domains.get(DomId(1)).is_none(), "it is gone");
    let gone = hv.accounts();
    assert_eq!((gone.domains, gone.dying_domains, gone.domain_frames), (1, 0, 2048));
    assert_eq!(gone.free_frames, accounts.free_frames + 2049, "its pages, and shared_info");
    pass(&hv, 5);
    assert!(hv.domains.get(DomId(1)).is_none(), "not yet");
    pass(&hv, 6);
    let again = domain(&hv, 1);
    assert_eq!(hv.accounts(), accounts);
    let near = command_line_of(&start_info(&hv, &again));
    let near: u32 = near.rsplit('=').next().unwrap().parse().unwrap();
    let far: u32 = end.rsplit('=').next().unwrap().parse().unwrap();
    assert_eq!(again.events.binding(Port(near)), Some(Binding::Interdomain(DomId(5), Port(far))));
    // Once more is too often.
    hv.shutdown_domain(&again, SHUTDOWN_CRASH);
    drop(again);
    (0..100).for_each(|_| pass(&hv, 10));
    assert!(hv.domains.get(DomId(1)).is_none());
}

#[test]
fn timers_interrupt_a_teardown() {
    // The hook lives as long as the machine.
    let hv: &'static Mock = Box::leak(Box::new(started(TWO)));
    let armed: &'static std::sync::Mutex<Vec<Option<Nanos>>> = Box::leak(Box::default());
    hv.shutdown_domain(&domain(hv, 1), SHUTDOWN_CRASH);
    // As it is while an interrupt of the timer is served.
    hv.platform.record.lock().unwrap().timer = None;
    *hv.platform.at_question.lock().unwrap() =
        Some(Box::new(|| armed.lock().unwrap().push(hv.platform.record.lock().unwrap().timer)));
    pass(hv, 0);
    *hv.platform.at_question.lock().unwrap() = None;
    let (armed, latest) = (armed.lock().unwrap(), hv.platform.now().0 + TURN);
    assert!(armed.len() > 10, "the teardown looks for other work");
    assert!(armed.iter().all(|timer| timer.is_some_and(|at| at.0 <= latest)), "{armed:?}");
}

#[test]
fn policies() {
    for (when, end, again) in [
        (When::Never, End::Shutdown(SHUTDOWN_CRASH), false),
        (When::Never, End::Shutdown(SHUTDOWN_REBOOT), false),
        (When::OnCrash, End::Shutdown(SHUTDOWN_CRASH), true),
        (When::OnCrash, End::Shutdown(SHUTDOWN_WATCHDOG), true),
        (When::OnCrash, End::Shutdown(SHUTDOWN_REBOOT), true),
        (When::OnCrash, End::Shutdown(SHUTDOWN_POWEROFF), false),
        (When::OnCrash, End::Killed, false),
        (When::Always, End::Shutdown(SHUTDOWN_POWEROFF), true),
        (When::Always, End::Killed, true),
        (When::Always, End::Destroyed, true),
    ] {
        assert_eq!(wants_restart(when, end), again, "{when:?} {end:?}");
    }
}

#[test]
fn the_last_end_is_the_machines() {
    let hv = started(TWO);
    assert_eq!(hv.kill_domain(DomId(0)), Err(Errno::EINVAL));
    assert_eq!(hv.kill_domain(DomId(9)), Err(Errno::ESRCH));
    for id in [1, 5] {
        assert_eq!(hv.kill_domain(DomId(id)), Ok(()));
        assert!(!domain(&hv, id).vcpus[0].sched.runnable(), "it stops at once");
    }
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pass(&hv, 1)));
    let message = ended.expect_err("the machine ends");
    assert_eq!(message.downcast_ref::<String>().map(String::as_str), Some("the machine ended: PowerOff"));
    assert_eq!(hv.accounts().domains, 0);
}

#[test]
fn one_that_cannot_be_built_is_left_out() {
    let text = TWO.replace("memory = \"8M\"\ncmdline", "memory = \"1G\"\ncmdline");
    let hv = started(&text);
    pass(&hv, 1);
    assert!(hv.domains.get(DomId(1)).is_none());
    assert_eq!(domain(&hv, 5).pages.current(), 2048);
    (0..100).for_each(|_| pass(&hv, 100));
    assert!(hv.domains.get(DomId(1)).is_none(), "and not tried again");
    assert_eq!(hv.accounts().dying_domains, 0);
}

const SERVED: &str = r#"
[[domain]]
name = "a"
kernel = "k"
memory = "8M"
served_by = "drivers"
restart = "on-crash"
restart_limit = 1
restart_delay = 10

[[domain]]
name = "drivers"
kernel = "k"
memory = "8M"

[[domain]]
name = "b"
kernel = "k"
memory = "8M"
served_by = "drivers"
console = "driver-domain"
"#;

/// What a server is told of the domain `name`: its identifier and the ports of xenstore and console.
fn told(hv: &Mock, server: &Domain<MockPlatform>, name: &str) -> [u32; 3] {
    let line = command_line_of(&start_info(hv, server));
    let start = format!("paravane.serve={name}:");
    let word = line.split(' ').find_map(|word| word.strip_prefix(&start)).expect("it is named");
    let numbers: Vec<u32> = word.split(':').map(|number| number.parse().expect("a number")).collect();
    numbers.try_into().expect("three of them")
}

#[test]
fn rings_are_offered_to_the_domain_that_serves_them() {
    let hv = started(SERVED);
    let (a, server, b) = (domain(&hv, 1), domain(&hv, 2), domain(&hv, 3));
    let waits = Some(Binding::Unbound(DomId(2)));
    let [id, store, console] = told(&hv, &server, "a");
    assert_eq!((id, console, a.events.binding(Port(store))), (1, 0, waits));
    let info = start_info(&hv, &a);
    assert_eq!(info.store_evtchn, store);
    assert_eq!(a.events.binding(Port(info.console_domu().evtchn)), Some(Binding::Console));
    let [id, store, console] = told(&hv, &server, "b");
    let info = start_info(&hv, &b);
    assert_eq!((id, info.store_evtchn, info.console_domu().evtchn), (3, store, console));
    assert_eq!((b.events.binding(Port(store)), b.events.binding(Port(console))), (waits, waits));
    // References 0 and 1 are the console's and xenstore's.
    let table = hv.setup_grant_table(&b, DomId(DOMID_SELF), 1).expect("a table");
    let entry = |n: usize| hv.platform.frame_words(table[0])[n].load(SeqCst);
    let granted = |mfn: u64| u64::from(GTF_PERMIT_ACCESS) | 2 << 16 | mfn << 32;
    assert_eq!([entry(0), entry(1)], [granted(info.console_domu().mfn), granted(info.store_mfn)]);
    let table = hv.setup_grant_table(&a, DomId(DOMID_SELF), 1).expect("a table");
    assert_eq!(hv.platform.frame_words(table[0])[0].load(SeqCst), 0, "its console is the hypervisor's");
    // After a restart the ports that the server was told of wait for it again.
    let before = told(&hv, &server, "a");
    hv.bind_interdomain(&server, DomId(1), Port(before[1])).expect("it waits");
    hv.shutdown_domain(&a, SHUTDOWN_CRASH);
    drop(a);
    pass(&hv, 0);
    pass(&hv, 11);
    assert_eq!(domain(&hv, 1).events.binding(Port(before[1])), waits);
    assert_eq!(start_info(&hv, &domain(&hv, 1)).store_evtchn, before[1]);
}

/// A guest that asks for a reboot had its domain built in one go on the keeping CPU: 0.34 million instructions a MiB.
#[test]
fn a_restart_is_built_in_steps() {
    /// Frames that are looked at between two looks for other work: what a step clears or writes, and the tables above it.
    const STRETCH: u64 = 600;
    let hv = started(TWO);
    let a = domain(&hv, 1);
    hv.shutdown_domain(&a, SHUTDOWN_REBOOT);
    drop(a);
    pass(&hv, 0);
    assert!(hv.domains.get(DomId(1)).is_none(), "it is gone");
    hv.platform.longest_stretch();
    hv.platform.preempt_every.store(1, SeqCst);
    let built = || hv.domains.get(DomId(1)).is_some_and(|a| a.vcpus[0].sched.runnable());
    let passes = (0..10_000).take_while(|_| !built()).map(|_| pass(&hv, 11)).count();
    let stretch = hv.platform.longest_stretch();
    // 2048 pages, 16 of them cleared in a step.
    assert!((128..2000).contains(&passes), "{passes} passes");
    assert!(stretch < STRETCH, "{stretch} steps");
    hv.platform.preempt_every.store(0, SeqCst);
    let again = domain(&hv, 1);
    assert_eq!((again.pages.current(), start_info(&hv, &again).nr_pages), (2048, 2048));
    // One that is ended while it is being built is taken apart like any other.
    hv.shutdown_domain(&again, SHUTDOWN_REBOOT);
    drop(again);
    let text = TWO.replace("restart_limit = 1", "restart_limit = 2");
    let hv = started(&text);
    let free = hv.accounts().free_frames;
    hv.shutdown_domain(&domain(&hv, 1), SHUTDOWN_REBOOT);
    pass(&hv, 0);
    hv.platform.preempt_every.store(1, SeqCst);
    (0..20).for_each(|_| pass(&hv, 11));
    let half = domain(&hv, 1);
    assert!(!half.vcpus[0].sched.runnable() && half.pages.current() > 0);
    drop(half);
    hv.kill_domain(DomId(1)).expect("it is there");
    hv.platform.preempt_every.store(0, SeqCst);
    (0..20).for_each(|_| pass(&hv, 11));
    assert!(hv.domains.get(DomId(1)).is_none(), "its description does not say \"always\"");
    assert_eq!(hv.accounts().free_frames, free + 2049);
}

/// A toolstack takes frames away from a domain that is being built again: they were written to all the same, whatever they had become.
#[test]
fn frames_that_were_taken_are_not_written() {
    const OTHER: u64 = 0x5ec2_e75e_c2e7;
    let mut half_built = 0;
    // Its memory is taken, cleared, loaded, listed; the tables are written, and checked.
    for passes in [4, 12, 100, 138, 140, 144, 150, 158, 162, 165, 168, 171] {
        let hv = started(TWO);
        hv.shutdown_domain(&domain(&hv, 1), SHUTDOWN_REBOOT);
        pass(&hv, 0);
        hv.platform.preempt_every.store(1, SeqCst);
        (0..passes).for_each(|_| pass(&hv, 11));
        let half = domain(&hv, 1);
        if half.vcpus[0].sched.runnable() {
            continue;
        }
        half_built += 1;
        let owner = |mfn: &Mfn| hv.platform.frame_table()[mfn.0 as usize].owner();
        let owned: Vec<Mfn> = (0..8192).map(Mfn).filter(|mfn| owner(mfn) == Some(half.id)).collect();
        for mfn in &owned {
            let _ = hv.remove_domain_page(&half, *mfn);
        }
        let taken: Vec<Mfn> = owned.into_iter().filter(|mfn| owner(mfn).is_none()).collect();
        assert!(taken.len() > 100, "{passes}: {}", taken.len());
        while hv.alloc_frames(0).is_some() {}
        let m2p = |mfn: &Mfn| &hv.platform.m2p()[mfn.0 as usize];
        let words = |mfn: &Mfn| hv.platform.words(GuestFrame::held(*mfn));
        for mfn in &taken {
            m2p(mfn).store(OTHER, SeqCst);
            words(mfn).iter().for_each(|word| word.store(OTHER, SeqCst));
        }
        (0..200).for_each(|_| pass(&hv, 11));
        for mfn in &taken {
            assert_eq!(m2p(mfn).load(SeqCst), OTHER, "{mfn:?} after {passes} passes");
            assert!(
                words(mfn).iter().all(|word| word.load(SeqCst) == OTHER),
                "{mfn:?} after {passes} passes"
            );
        }
        assert!(hv.domains.get(DomId(1)).is_none(), "it cannot be built");
    }
    assert!(half_built > 8, "{half_built}");
}

/// The first step of a restart made all vCPUs: 1,500 instructions for each of up to 512.
#[test]
fn a_restart_makes_its_vcpus_in_steps() {
    let hv = started(&TWO.replace("vcpus = 2", "vcpus = 512\ncpus = \"0\""));
    hv.shutdown_domain(&domain(&hv, 1), SHUTDOWN_REBOOT);
    (0..3).for_each(|_| pass(&hv, 0));
    assert!(hv.domains.get(DomId(1)).is_none(), "it is gone");
    hv.platform.longest_stretch();
    hv.platform.preempt_every.store(1, SeqCst);
    let made = || hv.domains.get(DomId(1)).is_some();
    let passes = (0..1000).take_while(|_| !made()).map(|_| pass(&hv, 11)).count();
    let stretch = hv.platform.longest_stretch();
    assert!(passes > 512 / 20 && stretch < 100, "{passes} passes, {stretch} steps");
    let again = domain(&hv, 1);
    assert_eq!(again.vcpus.len(), 512);
    let pinned = crate::cpumask::CpuMask::of(CpuId(0));
    assert!(again.vcpus.iter().all(|vcpu| vcpu.sched.affinity() == pinned));
    drop(again);
    hv.platform.preempt_every.store(0, SeqCst);
    (0..3).for_each(|_| pass(&hv, 11));
    assert!(domain(&hv, 1).vcpus[0].sched.runnable());
}

/// Domains that end at the same moment are taken apart one after the other: between two of them the CPU does its other work.
#[test]
fn ends_at_the_same_moment_are_seen_to_one_by_one() {
    const ONE: &str = "[[domain]]\nname = \"NAME\"\nkernel = \"k\"\nmemory = \"4M\"\nrestart = \"always\"\n";
    let hv = started(&(0..5).map(|n| ONE.replace("NAME", &std::format!("d{n}"))).collect::<String>());
    (1..=5).for_each(|id| hv.shutdown_domain(&domain(&hv, id), SHUTDOWN_REBOOT));
    let lines = || hv.platform.record.lock().unwrap().console.iter().filter(|byte| **byte == b'\n').count();
    hv.platform.preempt_every.store(1, SeqCst);
    let (before, mut most) = (lines(), 0);
    for _ in 0..2000 {
        let so_far = lines();
        hv.platform.time.fetch_add(BREATH, SeqCst);
        hv.keep_domains();
        most = most.max(lines() - so_far);
    }
    // What is left of one is two lines, and that it starts again is the third.
    assert!(most <= 3, "{most} lines at a time");
    assert!(lines() - before >= 5 * 4);
    hv.platform.preempt_every.store(0, SeqCst);
    (0..50).for_each(|_| pass(&hv, 1000));
    assert!((1..=5).all(|id| domain(&hv, id).vcpus[0].sched.runnable()), "all run again");
}
