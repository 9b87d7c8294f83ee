//! What of the machine's memory is set aside for domains that are started again.

use super::*;

/// A domain takes all the memory that it can get.
fn take_all(hv: &Mock, domain: &Domain<MockPlatform>) -> Vec<Mfn> {
    domain.pages.set_max(u64::from(u32::MAX));
    let blocks = |order| core::iter::from_fn(move || hv.alloc_domain_pages(domain, order, 0).ok());
    let all = (0..=9).rev().flat_map(|order| blocks(order).map(move |first| (first, order)));
    all.flat_map(|(first, order)| (0..1 << order).map(move |n| first.add(n))).collect()
}

/// The frames of a domain that was to be started again were free for all until it was, and one with room to grow kept it from ever
/// starting.
#[test]
fn no_other_domain_gets_what_a_restart_needs() {
    for held in [false, true] {
        // The hook lives as long as the machine.
        let hv: &'static Mock =
            Box::leak(Box::new(started(&TWO.replace("restart_limit = 1", "restart_limit = 3"))));
        let greedy: &'static _ = Box::leak(Box::new(domain(hv, 5)));
        for life in 0..3 {
            take_all(hv, greedy);
            let a = domain(hv, 1);
            // Another domain may keep a frame for a while.
            let frame = hv
                .platform
                .frame_table()
                .iter()
                .position(|info| info.count().is_allocated() && info.owner() == Some(a.id));
            let frame = Mfn(frame.expect("a frame") as u64);
            if held {
                hv.get_page(a.id, frame).expect("its frame");
            }
            hv.shutdown_domain(&a, SHUTDOWN_REBOOT);
            drop(a);
            *hv.platform.at_question.lock().unwrap() = Some(Box::new(|| drop(take_all(hv, greedy))));
            let pass = |ms| {
                take_all(hv, greedy);
                pass(hv, ms);
                take_all(hv, greedy);
            };
            hv.platform.preempt_every.store(3, SeqCst);
            let runs = || hv.domains.get(DomId(1)).is_some_and(|a| a.vcpus[0].sched.runnable());
            (0..100).for_each(|_| pass(11));
            if held {
                assert!(!runs());
                hv.put_page(frame);
            }
            assert!(
                (0..2000).any(|_| {
                    pass(11);
                    runs()
                }),
                "it starts again (life {life}, held: {held})"
            );
            hv.platform.preempt_every.store(0, SeqCst);
            *hv.platform.at_question.lock().unwrap() = None;
            assert_eq!((domain(hv, 1).pages.current(), hv.frames.claimed()), (2048, 0));
            assert!(hv.frames.free_count() >= hv.frames.floor());
        }
        // With the last life the claim ends.
        hv.shutdown_domain(&domain(hv, 1), SHUTDOWN_POWEROFF);
        (0..4).for_each(|_| pass(hv, 11));
        assert!(take_all(hv, greedy).len() >= 2048);
        assert_eq!(hv.frames.free_count(), hv.frames.floor());
    }
}

/// A domain that cannot be built again because the hypervisor needed what was set aside for it is built later; what it gets meanwhile
/// is never what is the hypervisor's alone.
#[test]
fn a_restart_waits_for_memory() {
    for begun in [false, true] {
        let hv = started(TWO);
        let greedy = domain(&hv, 5);
        take_all(&hv, &greedy);
        let a = domain(&hv, 1);
        hv.shutdown_domain(&a, SHUTDOWN_REBOOT);
        drop(a);
        pass(&hv, 0);
        let pages = || hv.domains.get(DomId(1)).map_or(0, |a| a.pages.current());
        if begun {
            hv.platform.preempt_every.store(1, SeqCst);
            (0..1000).take_while(|_| pages() < 100).for_each(|_| pass(&hv, 11));
        }
        let own: Vec<Mfn> = core::iter::from_fn(|| hv.alloc_frames(0)).collect();
        assert!(own.len() as u64 > hv.frames.floor(), "the floor, and what was promised");
        hv.platform.preempt_every.store(0, SeqCst);
        let runs = || hv.domains.get(DomId(1)).is_some_and(|a| a.vcpus[0].sched.runnable());
        for _ in 0..50 {
            let had = hv.frames.free_count() + pages();
            pass(&hv, 400);
            assert!(!runs(), "begun: {begun}");
            assert!(hv.frames.free_count() + pages() + 3 > had, "a shared_info or so");
            assert!(take_all(&hv, &greedy).is_empty());
        }
        let said = String::from_utf8_lossy(&hv.platform.record.lock().unwrap().console).into_owned();
        assert_eq!(said.matches("starts again when there is memory").count(), 1, "begun: {begun}");
        assert!(!said.contains("left out"));
        own.iter().for_each(|mfn| hv.frames.free(*mfn, 0));
        (0..50).for_each(|_| pass(&hv, 400));
        assert!(runs());
        assert_eq!((domain(&hv, 1).pages.current(), hv.frames.claimed()), (2048, 0));
    }
}

/// A domain is built again where no two free frames are in a row, as others leave memory, and where there are none but its own.
#[test]
fn a_restart_fits_into_scattered_memory() {
    let hv = started(TWO);
    let (a, greedy) = (domain(&hv, 1), domain(&hv, 5));
    take_all(&hv, &greedy);
    // Every other frame that a domain may give away, of so many at most.
    let spare = |id: DomId, most: usize| -> Vec<Mfn> {
        let frames = hv.platform.frame_table().iter().enumerate().filter(|(_, info)| {
            let unused = info.type_word().count() == 0 && info.count().refs() == 1;
            info.count().is_allocated() && info.owner() == Some(id) && unused
        });
        frames.map(|(mfn, _)| Mfn(mfn as u64)).filter(|mfn| mfn.0 % 2 == 1).take(most).collect()
    };
    let given = spare(a.id, usize::MAX);
    let others = spare(greedy.id, given.len());
    assert!(given.len() >= 500 && given.len() == others.len());
    given.iter().for_each(|mfn| hv.remove_domain_page(&a, *mfn).unwrap());
    take_all(&hv, &greedy);
    others.iter().for_each(|mfn| hv.remove_domain_page(&greedy, *mfn).unwrap());
    while hv.alloc_domain_page(&a, 0).is_ok() {}
    assert_eq!(a.pages.current(), 2048);
    take_all(&hv, &greedy);
    hv.shutdown_domain(&a, SHUTDOWN_REBOOT);
    drop(a);
    hv.platform.preempt_every.store(3, SeqCst);
    let again = || hv.domains.get(DomId(1)).filter(|a| a.vcpus[0].sched.runnable());
    let restarted = (0..2000).any(|_| {
        take_all(&hv, &greedy);
        pass(&hv, 11);
        again().is_some()
    });
    assert!(restarted);
    assert_eq!((domain(&hv, 1).pages.current(), hv.frames.claimed()), (2048, 0));
    assert!(hv.frames.free_count() >= hv.frames.floor());
}

/// What a domain that is to be started again opens and grows while a neighbour has all other frames comes out of what is promised to it, and
/// stays in the heap at its end, where it was missed for ever.
#[test]
fn what_a_domain_grew_by_does_not_keep_it_from_starting_again() {
    let hv = started(&TWO.replace("restart_limit = 1", "restart_limit = 9"));
    let greedy = domain(&hv, 5);
    for life in 0..4 {
        take_all(&hv, &greedy);
        let a = domain(&hv, 1);
        let ports = (0..400).filter(|_| hv.alloc_unbound(&a, DomId(DOMID_SELF), DomId(5)).is_ok()).count();
        let grown =
            (2..=4).filter(|frames| hv.setup_grant_table(&a, DomId(DOMID_SELF), *frames).is_ok()).count();
        assert!(ports >= 127 && grown >= 1, "{ports} ports and {grown} grant frames (life {life})");
        take_all(&hv, &greedy);
        hv.shutdown_domain(&a, SHUTDOWN_REBOOT);
        drop(a);
        let runs = || hv.domains.get(DomId(1)).is_some_and(|a| a.vcpus[0].sched.runnable());
        let again = (0..20).any(|_| {
            take_all(&hv, &greedy);
            pass(&hv, 500);
            runs()
        });
        assert!(again, "it starts again (life {life})");
        assert!(hv.frames.free_count() >= hv.frames.floor() / 2);
    }
}

/// While one with many vCPUs was made again, a neighbour took what was promised for these, for the heap had it still. It was owed anew without
/// being there, and kept what was another one's own from that.
#[test]
fn a_restart_leaves_to_others_what_is_theirs() {
    let (hv, spare) = (6300..6400)
        .step_by(20)
        .find_map(|frames| {
            let text = TWO.replace("restart_limit = 1", "restart_limit = 9") + MANY_VCPUS;
            let hv = started_on(frames, &text);
            let spare = (0u64..).find(|n| !hv.frames.has_spare(n + 1))?;
            let all = [1, 5, 6]
                .iter()
                .all(|id| hv.domains.get(DomId(*id)).is_some_and(|a| a.vcpus[0].sched.runnable()));
            (all && spare >= 10).then_some((hv, spare))
        })
        .expect("a machine of that size");
    let greedy = domain(&hv, 5);
    let grow =
        || (1..=64).take_while(|n| hv.setup_grant_table(&greedy, DomId(DOMID_SELF), *n).is_ok()).count();
    assert!(grow() as u64 <= spare);
    let again = |id| {
        hv.shutdown_domain(&domain(&hv, id), SHUTDOWN_REBOOT);
        hv.platform.preempt_every.store(3, SeqCst);
        let runs = || hv.domains.get(DomId(id)).is_some_and(|a| a.vcpus[0].sched.runnable());
        let runs = (0..5000).any(|_| {
            pass(&hv, 2);
            grow();
            runs()
        });
        hv.platform.preempt_every.store(0, SeqCst);
        runs
    };
    assert!(again(6) && again(1) && again(6) && again(1));
}

/// A domain with many vCPUs beside those of [`TWO`].
const MANY_VCPUS: &str = r#"
[[domain]]
name = "c"
id = 6
kernel = "k"
memory = "4M"
vcpus = 64
restart = "on-crash"
restart_limit = 9
restart_delay = 0
"#;
