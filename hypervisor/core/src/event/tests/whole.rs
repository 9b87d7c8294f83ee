//! What must be true of all event channels whenever no CPU changes any.

use super::super::slot::Binding;
use super::super::two_level::{MASK, PENDING};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{MachineAddr, Mfn, Port, VcpuId};
use crate::mock::MockPlatform;
use crate::platform::Platform;
use crate::sched::Reasons;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;
use std::vec::Vec;

type MockDomain = Arc<Domain<MockPlatform>>;

/// Looks at all ports of `domain`, which is alive. No guest has taken an event.
pub(crate) fn check(hv: &Hypervisor<MockPlatform>, domain: &MockDomain) {
    let events = &domain.events;
    let mut bound = 0;
    for port in (1..events.slots.valid()).map(Port) {
        let word = events.slots.get(port).expect("a valid port").load();
        match word.binding() {
            Binding::Free => continue,
            Binding::Interdomain(id, far) => {
                if let Some(peer) = hv.domains.get(id) {
                    let back = peer.events.slots.get(far).map(|slot| slot.load().binding());
                    let here = Some(Binding::Interdomain(domain.id, port));
                    assert_eq!(back, here, "the other end of {port:?} of {:?}", domain.id);
                }
            }
            Binding::Virq(virq) => assert_eq!(events.virq_port(VcpuId(0), virq), Some(port)),
            _ => {}
        }
        bound += 1;
        let pending = hv.event_is_pending(domain, port).expect("a bound port");
        if pending && !hv.event_is_masked(domain, port) {
            let told = match events.fifo() {
                None => (0..domain.vcpus.len()).any(|vcpu| knows(hv, domain, vcpu, port)),
                Some(fifo) => fifo.is_linked(&hv.platform, port) && any_upcall(hv, domain),
            };
            assert!(told, "no vCPU was told of the event of {port:?} of {:?}", domain.id);
        }
    }
    assert_eq!(events.changes.lock().active, bound, "ports of {:?}", domain.id);
    for vcpu in &domain.vcpus {
        if vcpu.sched.has(Reasons::BLOCKED) {
            let info = MachineAddr(vcpu.pv.vcpu_info.load(SeqCst));
            let flags = hv.platform.frame_words(info.mfn())[info.page_offset() / 8].load(SeqCst);
            assert_ne!(flags & 0xffff, 1, "{:?} sleeps and has an upcall", vcpu.id);
        }
        if vcpu.sched.has(Reasons::POLLING) {
            let port = crate::meetings::PORT;
            let pending = hv.event_is_pending(domain, port) == Ok(true);
            assert!(!pending, "{:?} polls a port that has an event", vcpu.id);
        }
    }
}

/// Whether a vCPU was told that the word of this port has an event.
fn knows(hv: &Hypervisor<MockPlatform>, domain: &MockDomain, vcpu: usize, port: Port) -> bool {
    let info = MachineAddr(domain.vcpus[vcpu].pv.vcpu_info.load(SeqCst));
    if info.0 == 0 {
        return false;
    }
    let words = &hv.platform.frame_words(info.mfn())[info.page_offset() / 8..];
    words[0].load(SeqCst) & 1 != 0 && words[1].load(SeqCst) >> (port.0 / 64) & 1 != 0
}

fn any_upcall(hv: &Hypervisor<MockPlatform>, domain: &MockDomain) -> bool {
    domain.vcpus.iter().any(|vcpu| {
        let info = MachineAddr(vcpu.pv.vcpu_info.load(SeqCst));
        info.0 != 0 && hv.platform.frame_words(info.mfn())[info.page_offset() / 8].load(SeqCst) & 1 != 0
    })
}

/// A guest that looks: takes what is pending of the two-level ABI. Answers whether there was something.
pub(crate) fn take_events(hv: &Hypervisor<MockPlatform>, domain: &MockDomain, vcpu: usize) -> bool {
    let info = MachineAddr(domain.vcpus[vcpu].pv.vcpu_info.load(SeqCst));
    if info.0 == 0 || domain.events.fifo().is_some() {
        return false;
    }
    let words = &hv.platform.frame_words(info.mfn())[info.page_offset() / 8..];
    let shared = hv.platform.frame_words(domain.shared_info);
    words[0].fetch_and(!1, SeqCst);
    let mut selected = words[1].swap(0, SeqCst);
    let mut any = false;
    while selected != 0 {
        let word = selected.trailing_zeros() as usize;
        selected &= selected - 1;
        let open = shared[PENDING + word].load(SeqCst) & !shared[MASK + word].load(SeqCst);
        any |= shared[PENDING + word].fetch_and(!open, SeqCst) & open != 0;
    }
    any
}

/// The frames for which the events of a domain hold references.
pub(crate) fn frames(domain: &MockDomain) -> Vec<Mfn> {
    domain.events.fifo.get().map_or_else(Vec::new, |fifo| fifo.frames())
}
