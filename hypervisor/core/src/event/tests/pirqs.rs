//! Physical interrupts: lines, messages, acknowledgements.

use super::*;
use crate::event::{Progress, WantedPirq};
use crate::ids::{CpuId, DomId, Pirq};
use crate::mock::GSI_COUNT;
use crate::platform::{Line, MsiRequest, PciAddress};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use xen_abi::errno::Errno;
use xen_abi::xen::DOMID_SELF;

const SELF: DomId = DomId(DOMID_SELF);
const LEVEL: Line = Line { level: true, active_low: true };

/// Domain 0 may use all interrupts.
fn machine_with_irqs() -> (Mock, [MockDomain; 2]) {
    let (hv, domains) = machine(2);
    *domains[0].permissions.write() = crate::permissions::Permissions::all();
    (hv, domains)
}

fn is_masked(hv: &Mock, irq: u32) -> bool {
    hv.platform.record.lock().unwrap().masked.contains(&Pirq(irq))
}

fn arrive(hv: &Mock, irq: u32) {
    hv.platform.irqs.lock().unwrap().push_back(Pirq(irq));
    if hv.platform.irq_needs_eoi(Pirq(irq)) {
        hv.platform.irq_mask(Pirq(irq));
    }
    hv.deliver_pirqs();
}

fn msi(count: u32) -> MsiRequest {
    MsiRequest { device: PciAddress { segment: 0, bus: 0, devfn: 8 }, entry: 0, count, table_base: 0 }
}

#[test]
fn a_level_line_waits_for_the_acknowledgement() {
    let (hv, [d0, _]) = machine_with_irqs();
    hv.setup_gsi(&d0, 19, LEVEL).unwrap();
    assert_eq!(hv.map_gsi(&d0, SELF, 19, WantedPirq::Exactly(19)), Ok(19));
    let port = hv.bind_pirq(&d0, 19, true).unwrap();
    assert!(!is_masked(&hv, 19));
    let guest = guest(&hv, &d0);
    arrive(&hv, 19);
    assert!(guest.pending(port) && guest.upcall_pending(0) && is_masked(&hv, 19));
    guest.clear_pending(port);
    hv.acknowledge_pirq(&d0, 19).unwrap();
    assert!(!is_masked(&hv, 19));
    d0.vcpu(VcpuId(1)).unwrap().cpu.store(3, Ordering::Relaxed);
    hv.bind_vcpu(&d0, port, VcpuId(1)).unwrap();
    assert_eq!(hv.platform.record.lock().unwrap().irq_cpus[&Pirq(19)], CpuId(3), "the line follows");
    arrive(&hv, 19);
    assert!(guest.upcall_pending(1));
    hv.close_event(&d0, port).unwrap();
    assert!(is_masked(&hv, 19), "nobody listens");
    assert_eq!(hv.bind_pirq(&d0, 19, true), Ok(port));
    assert!(!is_masked(&hv, 19), "a new binding owes nothing");
    assert_eq!(hv.setup_gsi(&d0, 19, LEVEL), Err(Errno::EEXIST));
}

#[test]
fn an_isa_line_needs_no_setup_and_no_acknowledgement() {
    let (hv, [d0, _]) = machine_with_irqs();
    assert_eq!(hv.map_gsi(&d0, SELF, 1, WantedPirq::Exactly(1)), Ok(1));
    let port = hv.bind_pirq(&d0, 1, false).unwrap();
    assert_eq!(hv.platform.record.lock().unwrap().routes[&1], Line { level: false, active_low: false });
    arrive(&hv, 1);
    assert!(guest(&hv, &d0).pending(port) && !is_masked(&hv, 1));
    assert_eq!(hv.acknowledge_pirq(&d0, 1), Ok(()));
    assert_eq!(hv.acknowledge_pirq(&d0, 2), Err(Errno::EINVAL), "not mapped");
}

#[test]
fn numbers_and_rights_are_checked() {
    let (hv, [d0, d1]) = machine_with_irqs();
    assert_eq!(hv.map_gsi(&d0, SELF, 24, WantedPirq::Any), Err(EventError::Invalid));
    assert_eq!(hv.map_gsi(&d0, SELF, -1, WantedPirq::Any), Err(EventError::Invalid));
    assert_eq!(hv.map_gsi(&d0, SELF, 0, WantedPirq::Exactly(0)), Err(EventError::NotPermitted));
    assert_eq!(hv.map_gsi(&d0, SELF, 5, WantedPirq::Exactly(u32::MAX)), Err(EventError::Invalid));
    assert_eq!(hv.map_gsi(&d1, SELF, 5, WantedPirq::Any), Err(EventError::NotPermitted));
    assert_eq!(hv.map_gsi(&d0, DomId(9), 5, WantedPirq::Any), Err(EventError::NoSuchDomain));
    assert_eq!(hv.bind_pirq(&d0, 5, false), Err(EventError::NotPermitted), "not mapped");
    assert_eq!(hv.bind_pirq(&d0, u32::MAX, false), Err(EventError::Invalid));
    assert_eq!(hv.map_gsi(&d0, SELF, 5, WantedPirq::Any), Ok(16), "the lowest number beyond the ISA lines");
    assert_eq!(hv.map_gsi(&d0, SELF, 5, WantedPirq::Exactly(5)), Err(EventError::AlreadyBound));
    assert_eq!(hv.map_gsi(&d0, SELF, 5, WantedPirq::Any), Ok(16));
    hv.bind_pirq(&d0, 16, false).unwrap();
    assert_eq!(hv.bind_pirq(&d0, 16, false), Err(EventError::AlreadyBound));
    assert_eq!(hv.setup_gsi(&d1, 5, LEVEL), Err(Errno::EPERM));
    assert_eq!(hv.setup_gsi(&d0, 24, LEVEL), Err(Errno::EINVAL));
}

#[test]
fn a_shared_line_waits_for_everybody() {
    let (hv, [d0, d1]) = machine_with_irqs();
    hv.setup_gsi(&d0, 20, LEVEL).unwrap();
    hv.map_gsi(&d0, SELF, 20, WantedPirq::Exactly(20)).unwrap();
    hv.map_gsi(&d0, DomId(1), 20, WantedPirq::Exactly(40)).unwrap();
    let a = hv.bind_pirq(&d0, 20, true).unwrap();
    assert_eq!(hv.bind_pirq(&d1, 40, false), Err(EventError::Busy));
    let b = hv.bind_pirq(&d1, 40, true).unwrap();
    assert!(hv.pirq_is_shared(&d0, 20) && hv.pirq_is_shared(&d1, 40));
    arrive(&hv, 20);
    assert!(guest(&hv, &d0).pending(a) && guest(&hv, &d1).pending(b));
    hv.acknowledge_pirq(&d0, 20).unwrap();
    hv.acknowledge_pirq(&d0, 20).unwrap();
    assert!(is_masked(&hv, 20), "one of two");
    hv.acknowledge_pirq(&d1, 40).unwrap();
    assert!(!is_masked(&hv, 20));
    arrive(&hv, 20);
    hv.acknowledge_pirq(&d0, 20).unwrap();
    assert_eq!(hv.destroy_events(&d1), Progress::Finished);
    assert!(!is_masked(&hv, 20), "who is gone owes nothing");
    hv.close_event(&d0, a).unwrap();
    hv.bind_pirq(&d0, 20, false).unwrap();
    assert!(!hv.pirq_is_shared(&d0, 20));
}

#[test]
fn messages_have_numbers_of_their_own() {
    let (hv, [d0, d1]) = machine_with_irqs();
    let one = hv.map_msi(&d0, SELF, &msi(1), WantedPirq::Any).unwrap();
    assert!(one >= 24);
    let port = hv.bind_pirq(&d0, one, false).unwrap();
    arrive(&hv, one);
    assert!(guest(&hv, &d0).pending(port) && !is_masked(&hv, one));
    let reserved = hv.reserve_pirq(&d0, false).unwrap();
    assert_ne!(reserved, one);
    let two = hv.map_msi(&d0, SELF, &msi(1), WantedPirq::Exactly(reserved)).unwrap();
    assert_eq!(two, reserved);
    assert_eq!(hv.map_msi(&d0, SELF, &msi(1), WantedPirq::Exactly(reserved)), Err(EventError::Invalid));
    assert_eq!(hv.platform.record.lock().unwrap().msis.len(), 2, "a failure leaves nothing behind");
    assert_eq!(hv.map_msi(&d1, SELF, &msi(1), WantedPirq::Any), Err(EventError::NotPermitted));
    for count in [0, 33, u32::MAX] {
        let answer = hv.map_msi(&d0, SELF, &msi(count), WantedPirq::Any);
        assert_eq!(answer, Err(EventError::Platform(Errno::EDOM)));
    }
    hv.unmap_pirq(&d0, SELF, one as i32).unwrap();
    assert_eq!(hv.unmap_pirq(&d0, SELF, one as i32), Err(EventError::Invalid));
    assert_eq!(hv.platform.record.lock().unwrap().msis.len(), 1);
    assert_eq!(hv.close_event(&d0, port), Ok(()), "the port of an interrupt that is gone");
}

#[test]
fn several_vectors_come_and_go_together() {
    let (hv, [d0, _]) = machine_with_irqs();
    let first = hv.map_msi(&d0, SELF, &msi(3), WantedPirq::Any).unwrap();
    assert_eq!(hv.platform.record.lock().unwrap().msis.values().next().unwrap().count, 4);
    for n in 0..4 {
        hv.bind_pirq(&d0, first + n, false).unwrap();
    }
    assert_eq!(hv.unmap_pirq(&d0, SELF, first as i32 + 1), Err(EventError::Busy));
    hv.unmap_pirq(&d0, SELF, first as i32).unwrap();
    assert_eq!(hv.unmap_pirq(&d0, SELF, first as i32 + 3), Err(EventError::Invalid));
    assert!(hv.platform.record.lock().unwrap().msis.is_empty());
}

#[test]
fn the_page_of_bits_says_what_needs_an_acknowledgement() {
    let (hv, [d0, _]) = machine_with_irqs();
    let page = hv.alloc_domain_page(&d0, 0).unwrap();
    hv.platform.frame_words(page).iter().for_each(|w| w.store(!0, Ordering::Relaxed));
    hv.setup_gsi(&d0, 18, LEVEL).unwrap();
    hv.map_gsi(&d0, SELF, 18, WantedPirq::Exactly(18)).unwrap();
    hv.bind_pirq(&d0, 18, true).unwrap();
    hv.set_eoi_page(&d0, page, true).unwrap();
    assert_eq!(hv.set_eoi_page(&d0, page, true).map_err(Errno::from), Err(Errno::EBUSY));
    hv.map_gsi(&d0, SELF, 4, WantedPirq::Exactly(4)).unwrap();
    let edge = hv.bind_pirq(&d0, 4, false).unwrap();
    let bits = hv.platform.frame_words(page)[0].load(Ordering::Relaxed);
    assert_eq!((bits >> 18 & 1, bits >> 4 & 1), (1, 0));
    let guest = guest(&hv, &d0);
    guest.mask(edge);
    arrive(&hv, 4);
    assert!(!guest.upcall_pending(0));
    hv.acknowledge_pirq(&d0, 4).unwrap();
    assert!(!guest.masked(edge) && guest.upcall_pending(0), "version 1 unmasks the port as well");
}

#[test]
fn the_old_way_of_acknowledging_looks_at_the_mask() {
    let (hv, [d0, _]) = machine_with_irqs();
    hv.setup_gsi(&d0, 18, LEVEL).unwrap();
    hv.map_gsi(&d0, SELF, 18, WantedPirq::Exactly(18)).unwrap();
    let port = hv.bind_pirq(&d0, 18, true).unwrap();
    guest(&hv, &d0).mask(port);
    arrive(&hv, 18);
    hv.acknowledge_unmasked_pirqs(&d0);
    assert!(is_masked(&hv, 18));
    hv.unmask_event(&d0, port).unwrap();
    hv.acknowledge_unmasked_pirqs(&d0);
    assert!(!is_masked(&hv, 18));
}

/// As in Xen, an unprivileged domain has few numbers beyond those of the lines; the control domain has more.
#[test]
fn numbers_for_messages_are_few() {
    let (hv, [d0, d1]) = machine_with_irqs();
    for (domain, numbers) in [(&d0, 1024), (&d1, 32)] {
        let given: Vec<u32> = (0..5000).map_while(|_| hv.reserve_pirq(domain, false).ok()).collect();
        let highest = GSI_COUNT + numbers;
        assert!(given.iter().copied().eq((GSI_COUNT..highest).rev()), "{} numbers", given.len());
        assert_eq!(hv.reserve_pirq(domain, false), Err(EventError::NoPort));
        assert_eq!(hv.bind_pirq(domain, highest, false), Err(EventError::Invalid));
        assert_eq!(hv.bind_pirq(domain, highest - 1, false), Err(EventError::NotPermitted));
    }
    let lines: Vec<u32> = (0..99).map_while(|_| hv.reserve_pirq(&d1, true).ok()).collect();
    assert!(lines.iter().copied().eq(16..GSI_COUNT), "{lines:?}");
}

/// A number that was given back is the next to be given out, one that has become something else is not.
#[test]
fn numbers_come_back() {
    let (hv, [d0, d1]) = machine_with_irqs();
    let [a, b, c] = [(); 3].map(|()| hv.reserve_pirq(&d0, false).unwrap());
    assert_eq!((b, c), (a - 1, a - 2));
    hv.map_msi(&d0, SELF, &msi(1), WantedPirq::Exactly(b)).unwrap();
    assert_eq!(hv.reserve_pirq(&d0, false), Ok(a - 3));
    hv.unmap_pirq(&d0, SELF, b as i32).unwrap();
    assert_eq!(hv.reserve_pirq(&d0, false), Ok(b));
    // Several in a row: the machine's own numbers if they are free, else the highest.
    assert_eq!(hv.map_msi(&d0, DomId(1), &msi(4), WantedPirq::Any), Ok(GSI_COUNT));
    assert_eq!(hv.map_msi(&d0, DomId(1), &msi(32), WantedPirq::Any), Err(EventError::NoPort));
    assert_eq!(hv.map_msi(&d0, DomId(1), &msi(16), WantedPirq::Any), Ok(GSI_COUNT + 16));
    assert_eq!(hv.reserve_pirq(&d1, false), Ok(GSI_COUNT + 15));
    assert_eq!(hv.map_msi(&d0, DomId(1), &msi(8), WantedPirq::Any), Ok(GSI_COUNT + 7));
    assert_eq!(hv.reserve_pirq(&d1, false), Ok(GSI_COUNT + 6));
    hv.unmap_pirq(&d0, DomId(1), GSI_COUNT as i32 + 7).unwrap();
    assert_eq!(hv.reserve_pirq(&d1, false), Ok(GSI_COUNT + 14));
}

/// A domain's numbers are taken away in steps, with looks for other work in between.
#[test]
fn numbers_are_taken_away_in_steps() {
    let (hv, [d0, _]) = machine_with_irqs();
    let first = hv.map_msi(&d0, SELF, &msi(32), WantedPirq::Any).unwrap();
    let port = hv.bind_pirq(&d0, first, false).unwrap();
    while hv.reserve_pirq(&d0, false).is_ok() {}
    hv.platform.preempt_every.store(1, Ordering::Relaxed);
    let steps = (0..1000).take_while(|_| hv.destroy_events(&d0) == Progress::Preempted).count();
    assert!(steps >= 1024 / 64, "{steps}");
    assert_eq!(d0.events.binding(port), Some(crate::event::slot::Binding::Free));
    assert!(hv.platform.record.lock().unwrap().msis.is_empty());
    assert_eq!(hv.reserve_pirq(&d0, false), Ok(GSI_COUNT + 1023), "nothing is left");
}

/// A guest that shares a line and does not acknowledge keeps it from the others for a millisecond.
#[test]
fn a_shared_line_waits_for_a_millisecond() {
    let (mut hv, [d0, d1]) = machine_with_irqs();
    hv.timers = crate::time::TimerQueues::new(2);
    hv.setup_gsi(&d0, 20, LEVEL).unwrap();
    hv.map_gsi(&d0, SELF, 20, WantedPirq::Exactly(20)).unwrap();
    hv.map_gsi(&d0, DomId(1), 20, WantedPirq::Exactly(40)).unwrap();
    let a = hv.bind_pirq(&d0, 20, true).unwrap();
    hv.bind_pirq(&d1, 40, true).unwrap();
    let armed = || hv.platform.record.lock().unwrap().timer.map(|at| at.0);
    let at = |time: u64| {
        hv.platform.time.store(time, Ordering::Relaxed);
        hv.run_timers();
    };
    let arrived_at = hv.platform.now().0;
    arrive(&hv, 20);
    hv.acknowledge_pirq(&d0, 20).unwrap();
    assert_eq!(armed(), Some(arrived_at + 1_000_000));
    at(arrived_at + 999_999);
    assert!(is_masked(&hv, 20), "one of two");
    // Only the CPU that took the interrupt looks.
    hv.platform.cpu.store(1, Ordering::Relaxed);
    at(arrived_at + 1_000_000);
    assert!(is_masked(&hv, 20));
    hv.platform.cpu.store(0, Ordering::Relaxed);
    hv.run_timers();
    assert!(!is_masked(&hv, 20), "the other one had its time");
    assert_eq!(armed(), None);
    // What comes late acknowledges nothing.
    guest(&hv, &d0).clear_pending(a);
    arrive(&hv, 20);
    assert!(guest(&hv, &d0).pending(a));
    hv.acknowledge_pirq(&d1, 40).unwrap();
    hv.acknowledge_pirq(&d1, 40).unwrap();
    assert!(is_masked(&hv, 20), "the first owes now");
    hv.acknowledge_pirq(&d0, 20).unwrap();
    assert!(!is_masked(&hv, 20));
    // A line that waits for nothing any more is left alone, and the next interrupt has its own time.
    let again_at = hv.platform.now().0 + 600_000;
    hv.platform.time.store(again_at, Ordering::Relaxed);
    arrive(&hv, 20);
    at(again_at + 400_000);
    assert!(is_masked(&hv, 20));
    assert_eq!(armed(), Some(again_at + 1_000_000));
    // The CPU goes: another one sees to it.
    hv.timers.adopt(CpuId(0), CpuId(1));
    hv.platform.cpu.store(1, Ordering::Relaxed);
    at(again_at + 1_000_000);
    assert!(!is_masked(&hv, 20));
}

/// The right to another domain's ports is judged before anything of that domain is looked at.
#[test]
fn rights_come_first() {
    let (hv, [d0, d1]) = machine_with_irqs();
    d0.events.set_max_port(Port(0));
    assert_eq!(hv.alloc_unbound(&d1, DomId(0), DomId(1)), Err(EventError::NotPermitted));
    assert_eq!(hv.alloc_unbound(&d1, DomId(9), DomId(1)), Err(EventError::NoSuchDomain));
    assert_eq!(hv.alloc_unbound(&d0, SELF, DomId(1)), Err(EventError::NoPort));
}

/// A guest acknowledges a level-triggered line again and again, and its device never falls silent.
#[test]
fn a_line_that_nothing_silences_comes_a_limited_number_of_times() {
    const MILLISECOND: u64 = 1_000_000;
    let (hv, [d0, _]) = machine_with_irqs();
    hv.setup_gsi(&d0, 19, LEVEL).unwrap();
    hv.map_gsi(&d0, SELF, 19, WantedPirq::Exactly(19)).unwrap();
    let port = hv.bind_pirq(&d0, 19, true).unwrap();
    let storm = || {
        let comes = |_: &u32| {
            let comes = !is_masked(&hv, 19);
            if comes {
                hv.platform.time.fetch_add(10, Ordering::Relaxed);
                arrive(&hv, 19);
                hv.acknowledge_pirq(&d0, 19).unwrap();
            }
            comes
        };
        (0..1000).take_while(comes).count()
    };
    for _ in 0..3 {
        let begin = hv.platform.now().0 + 10;
        assert_eq!(storm(), 64);
        assert_eq!(hv.platform.record.lock().unwrap().timer.map(|at| at.0), Some(begin + MILLISECOND));
        // Neither an acknowledgement nor a new binding ends the wait.
        hv.acknowledge_pirq(&d0, 19).unwrap();
        hv.close_event(&d0, port).unwrap();
        assert_eq!(hv.bind_pirq(&d0, 19, true), Ok(port));
        assert!(is_masked(&hv, 19));
        hv.platform.time.store(begin + MILLISECOND - 1, Ordering::Relaxed);
        hv.run_timers();
        assert!(is_masked(&hv, 19));
        hv.platform.time.store(begin + MILLISECOND, Ordering::Relaxed);
        hv.run_timers();
        assert!(!is_masked(&hv, 19));
    }
    // A busy device is left alone.
    for _ in 0..1000 {
        hv.platform.time.fetch_add(MILLISECOND / 50, Ordering::Relaxed);
        arrive(&hv, 19);
        hv.acknowledge_pirq(&d0, 19).unwrap();
        assert!(!is_masked(&hv, 19));
    }
}
