//! Single properties of channels and virtual interrupts.

use super::*;
use crate::event::Progress;
use crate::event::slot::Binding;
use crate::ids::DomId;
use core::sync::atomic::AtomicBool;
use xen_abi::xen::{DOMID_SELF, VIRQ_CONSOLE, VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENPMU};

const SELF: DomId = DomId(DOMID_SELF);

#[test]
fn a_channel_carries_events_both_ways_and_waits_again_when_one_end_closes() {
    let (hv, [d0, d1]) = machine(1);
    let far = hv.alloc_unbound(&d1, SELF, DomId(0)).unwrap();
    assert_eq!(hv.bind_interdomain(&d1, DomId(1), far), Err(EventError::Invalid), "it waits for domain 0");
    let near = hv.bind_interdomain(&d0, DomId(1), far).unwrap();
    assert!(guest(&hv, &d0).pending(near), "events lost before the binding are made up for");
    guest(&hv, &d0).clear_pending(near);
    hv.send_event(&d0, near).unwrap();
    assert!(guest(&hv, &d1).pending(far) && guest(&hv, &d1).upcall_pending(0));
    assert!(!guest(&hv, &d0).pending(near));
    hv.send_event(&d1, far).unwrap();
    assert!(guest(&hv, &d0).pending(near));

    hv.close_event(&d0, near).unwrap();
    assert!(!guest(&hv, &d0).pending(near), "a freed port has no event left over");
    assert_eq!(d1.events.binding(far), Some(Binding::Unbound(DomId(0))));
    assert_eq!(hv.send_event(&d0, near), Err(EventError::Invalid));
    assert_eq!(hv.send_event(&d1, far), Ok(()), "an event to nobody is dropped");
    assert_eq!(hv.close_event(&d0, near), Err(EventError::Invalid));
    assert_eq!(hv.bind_interdomain(&d0, DomId(1), far), Ok(near));
}

#[test]
fn a_domain_may_talk_to_itself() {
    let (hv, [_, d1]) = machine(1);
    let a = hv.alloc_unbound(&d1, SELF, SELF).unwrap();
    let b = hv.bind_interdomain(&d1, SELF, a).unwrap();
    guest(&hv, &d1).clear_pending(b);
    hv.send_event(&d1, b).unwrap();
    assert!(guest(&hv, &d1).pending(a) && !guest(&hv, &d1).pending(b));
    hv.close_event(&d1, a).unwrap();
    assert_eq!(d1.events.binding(b), Some(Binding::Unbound(DomId(1))));
    assert_eq!(d1.events.active_ports(), 1);
}

#[test]
fn only_a_privileged_domain_manages_the_ports_of_others() {
    let (hv, [d0, d1]) = machine(1);
    let port = hv.alloc_unbound(&d0, DomId(1), SELF).unwrap();
    assert_eq!(d1.events.binding(port), Some(Binding::Unbound(DomId(0))), "DOMID_SELF is the caller");
    assert_eq!(hv.alloc_unbound(&d1, DomId(0), SELF), Err(EventError::NotPermitted));
    assert_eq!(hv.event_status(&d1, DomId(0), Port(1)), Err(EventError::NotPermitted));
    assert_eq!(hv.alloc_unbound(&d1, DomId(7), SELF), Err(EventError::NoSuchDomain));
    assert_eq!(hv.reset_events(&d1, DomId(0), false), Err(EventError::NotPermitted));
    assert_eq!(hv.event_status(&d0, DomId(1), port).unwrap().binding, Binding::Unbound(DomId(0)));
}

#[test]
fn ports_are_the_lowest_free_ones_up_to_the_limit() {
    let (hv, [d0, _]) = machine(1);
    for n in 1..4096 {
        assert_eq!(hv.bind_ipi(&d0, VcpuId(0)), Ok(Port(n)));
    }
    assert_eq!(hv.bind_ipi(&d0, VcpuId(0)), Err(EventError::NoPort), "two levels have 4096 ports");
    for n in [7, 3000, 5] {
        hv.close_event(&d0, Port(n)).unwrap();
    }
    for n in [5, 7, 3000] {
        assert_eq!(hv.bind_ipi(&d0, VcpuId(0)), Ok(Port(n)));
    }
    let (hv, [d0, _]) = machine(1);
    d0.events.set_max_port(Port(2));
    assert_eq!(hv.bind_ipi(&d0, VcpuId(0)), Ok(Port(1)));
    assert_eq!(hv.bind_ipi(&d0, VcpuId(0)), Ok(Port(2)));
    assert_eq!(hv.bind_ipi(&d0, VcpuId(0)), Err(EventError::NoPort));
}

#[test]
fn ports_that_never_were_are_not_valid() {
    let (hv, [d0, _]) = machine(1);
    assert_eq!(hv.event_status(&d0, SELF, Port(0)).unwrap().binding, Binding::Free);
    assert_eq!(hv.event_status(&d0, SELF, Port(63)).unwrap().binding, Binding::Free);
    assert_eq!(hv.event_status(&d0, SELF, Port(64)), Err(EventError::Invalid));
    for port in [Port(0), Port(64), Port(4096), Port(u32::MAX)] {
        assert_eq!(hv.send_event(&d0, port), Err(EventError::Invalid));
        assert_eq!(hv.close_event(&d0, port), Err(EventError::Invalid));
        assert_eq!(hv.bind_vcpu(&d0, port, VcpuId(0)), Err(EventError::Invalid));
    }
    assert_eq!(hv.unmask_event(&d0, Port(64)), Err(EventError::Invalid));
    assert_eq!(hv.bind_interdomain(&d0, SELF, Port(u32::MAX)), Err(EventError::Invalid));
}

#[test]
fn a_virq_is_bound_once_and_again_after_closing() {
    let (hv, [d0, _]) = machine(2);
    let timer = hv.bind_virq(&d0, VcpuId(1), VIRQ_TIMER).unwrap();
    assert_eq!(hv.bind_virq(&d0, VcpuId(1), VIRQ_TIMER), Err(EventError::AlreadyBound));
    let other = hv.bind_virq(&d0, VcpuId(0), VIRQ_TIMER).unwrap();
    hv.send_virq(&d0, VcpuId(1), VIRQ_TIMER);
    assert!(guest(&hv, &d0).pending(timer) && !guest(&hv, &d0).pending(other));
    assert!(guest(&hv, &d0).upcall_pending(1) && !guest(&hv, &d0).upcall_pending(0));
    assert_eq!(hv.bind_vcpu(&d0, timer, VcpuId(0)), Err(EventError::Invalid), "it belongs to its vCPU");
    hv.close_event(&d0, timer).unwrap();
    hv.send_virq(&d0, VcpuId(1), VIRQ_TIMER);
    assert!(!guest(&hv, &d0).pending(timer));
    assert_eq!(hv.bind_virq(&d0, VcpuId(1), VIRQ_TIMER), Ok(timer));
    for (vcpu, virq, error) in [
        (2, VIRQ_TIMER, EventError::NoSuchVcpu),
        (0, 24, EventError::Invalid),
        (0, u32::MAX, EventError::Invalid),
        (1, VIRQ_CONSOLE, EventError::Invalid),
    ] {
        assert_eq!(hv.bind_virq(&d0, VcpuId(vcpu), virq), Err(error));
    }
    for virq in [VIRQ_DEBUG, VIRQ_XENPMU] {
        hv.bind_virq(&d0, VcpuId(1), virq).unwrap();
    }
}

#[test]
fn a_global_virq_follows_its_port_to_another_vcpu() {
    let (hv, [d0, _]) = machine(2);
    let port = hv.bind_virq(&d0, VcpuId(0), VIRQ_CONSOLE).unwrap();
    hv.bind_vcpu(&d0, port, VcpuId(1)).unwrap();
    hv.send_virq(&d0, VcpuId(0), VIRQ_CONSOLE);
    assert!(guest(&hv, &d0).upcall_pending(1) && !guest(&hv, &d0).upcall_pending(0));
    assert_eq!(hv.event_status(&d0, SELF, port).unwrap().vcpu, VcpuId(1));
    hv.close_event(&d0, port).unwrap();
    assert_eq!(hv.bind_virq(&d0, VcpuId(0), VIRQ_CONSOLE), Ok(port));
    assert_eq!(hv.event_status(&d0, SELF, port).unwrap().vcpu, VcpuId(0), "a freed port forgets its vCPU");
}

#[test]
fn masked_events_wait_for_the_unmasking() {
    let (hv, [d0, _]) = machine(1);
    let port = hv.bind_ipi(&d0, VcpuId(0)).unwrap();
    let guest = guest(&hv, &d0);
    guest.mask(port);
    hv.send_event(&d0, port).unwrap();
    assert!(guest.pending(port) && !guest.upcall_pending(0));
    assert_eq!(hv.event_is_pending(&d0, port), Ok(true));
    hv.unmask_event(&d0, port).unwrap();
    assert!(!guest.masked(port));
    assert_eq!(guest.take_upcall(0), Some(1));
    hv.unmask_event(&d0, port).unwrap();
    assert!(!guest.upcall_pending(0), "unmasking what is not masked delivers nothing");
    hv.send_event(&d0, port).unwrap();
    assert!(!guest.upcall_pending(0), "an event that is pending is not delivered again");
}

#[test]
fn a_vcpu_without_vcpu_info_loses_nothing_but_the_upcall() {
    let (hv, [d0, _]) = machine(1);
    d0.vcpus[0].pv.vcpu_info.store(0, Ordering::Relaxed);
    let port = hv.bind_ipi(&d0, VcpuId(0)).unwrap();
    hv.send_event(&d0, port).unwrap();
    assert!(guest(&hv, &d0).pending(port));
}

#[test]
fn reset_closes_everything_and_is_preemptible() {
    let (hv, [d0, d1]) = machine(1);
    for _ in 0..300 {
        hv.bind_ipi(&d0, VcpuId(0)).unwrap();
    }
    let far = hv.alloc_unbound(&d1, SELF, DomId(0)).unwrap();
    hv.bind_interdomain(&d0, DomId(1), far).unwrap();
    hv.platform.preempt_every.store(2, Ordering::Relaxed);
    let mut answer = hv.reset_events(&d0, SELF, false);
    let mut rounds = 0;
    while answer == Ok(Progress::Preempted) {
        assert_eq!(hv.reset_events(&d0, SELF, false), Err(EventError::ResetInProgress));
        answer = hv.reset_events(&d0, SELF, true);
        rounds += 1;
    }
    assert_eq!(answer, Ok(Progress::Finished));
    assert!(rounds >= 2);
    assert_eq!(d0.events.active_ports(), 0);
    assert_eq!(d1.events.binding(far), Some(Binding::Unbound(DomId(0))));
    assert_eq!(hv.reset_events(&d0, SELF, true), Err(EventError::ResetInProgress), "nothing to go on with");
    assert_eq!(hv.reset_events(&d0, DomId(1), false), Err(EventError::Invalid), "a running domain");
    assert_eq!(hv.bind_ipi(&d0, VcpuId(0)), Ok(Port(1)));
}

#[test]
fn a_domain_in_teardown_lets_its_peers_go() {
    let (hv, [d0, d1]) = machine(1);
    let far = hv.alloc_unbound(&d1, SELF, DomId(0)).unwrap();
    let near = hv.bind_interdomain(&d0, DomId(1), far).unwrap();
    let far2 = hv.alloc_unbound(&d1, SELF, DomId(0)).unwrap();
    let near2 = hv.bind_interdomain(&d0, DomId(1), far2).unwrap();
    hv.domains.begin_dying(&d1);
    assert_eq!(hv.send_event(&d0, near), Ok(()));
    assert_eq!(hv.close_event(&d0, near2), Ok(()), "the far end dangles until the teardown gets there");
    assert_eq!(hv.destroy_events(&d1), Progress::Finished);
    assert_eq!(d0.events.binding(near), Some(Binding::Unbound(DomId(1))));
    assert_eq!(d0.events.binding(near2), Some(Binding::Free));
    assert_eq!(d1.events.active_ports(), 0);
    assert_eq!(hv.bind_ipi(&d1, VcpuId(0)), Err(EventError::Invalid), "no new ports");
}

/// A port that was closed must stay silent, however many senders are on their way to it.
#[test]
fn closing_races_with_sending() {
    let (hv, [d0, d1]) = machine(1);
    let done = AtomicBool::new(false);
    let near_now = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = hv.send_event(&d0, Port(near_now.load(Ordering::Relaxed) as u32));
            }
        });
        for _ in 0..2000 {
            let far = hv.alloc_unbound(&d1, SELF, DomId(0)).unwrap();
            let near = hv.bind_interdomain(&d0, DomId(1), far).unwrap();
            near_now.store(u64::from(near.0), Ordering::Relaxed);
            hv.close_event(&d1, far).unwrap();
            assert!(!guest(&hv, &d1).pending(far), "an event after the close");
            hv.close_event(&d0, near).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!((d0.events.active_ports(), d1.events.active_ports()), (0, 0));
}

/// Both ends close and bind at once: no deadlock, and the ends always agree in the end.
#[test]
fn both_ends_race() {
    let (hv, [d0, d1]) = machine(1);
    std::thread::scope(|scope| {
        for (own, other) in [(&d0, &d1), (&d1, &d0)] {
            let hv = &hv;
            scope.spawn(move || {
                for round in 0..3000u32 {
                    let port = Port(1 + round % 7);
                    match round % 3 {
                        0 => drop(hv.alloc_unbound(own, SELF, other.id)),
                        1 => drop(hv.bind_interdomain(own, other.id, port)),
                        _ => drop(hv.close_event(own, port)),
                    }
                    let _ = hv.send_event(own, port);
                }
            });
        }
    });
    for (own, other) in [(&d0, &d1), (&d1, &d0)] {
        for port in (1..64).map(Port) {
            if let Some(Binding::Interdomain(_, far)) = own.events.binding(port) {
                assert_eq!(other.events.binding(far), Some(Binding::Interdomain(own.id, port)));
            }
        }
    }
}
