//! The FIFO ABI, with a guest that takes events from its queues as Linux does.

use super::*;
use crate::event::Progress;
use crate::event::bind::SEARCH_STEP;
use crate::event::slot::Binding;
use crate::ids::{DomId, Mfn};
use crate::page::PageType;
use core::sync::atomic::AtomicBool;
use proptest::prelude::*;
use std::boxed::Box;
use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;
use xen_abi::xen::{DOMID_SELF, VIRQ_TIMER};

const SELF: DomId = DomId(DOMID_SELF);
const PENDING: u64 = 1 << 31;
const MASKED: u64 = 1 << 30;
const LINKED: u64 = 1 << 29;
const LINK: u64 = (1 << 17) - 1;

/// The guest's side of the FIFO ABI.
pub(super) struct FifoGuest<'a> {
    hv: &'a Mock,
    domain: &'a MockDomain,
    pages: Vec<Mfn>,
    /// One page for the control blocks of all vCPUs.
    control: Mfn,
    heads: Vec<[u64; 16]>,
}

impl<'a> FifoGuest<'a> {
    /// Switches the domain over, with one page of words.
    fn new(hv: &'a Mock, domain: &'a MockDomain) -> Self {
        let mut guest = Self::without_words(hv, domain);
        guest.expand();
        guest
    }

    /// Switches the domain over.
    pub fn without_words(hv: &'a Mock, domain: &'a MockDomain) -> Self {
        let control = hv.alloc_domain_page(domain, 0).unwrap();
        hv.platform.frame_words(control).iter().for_each(|w| w.store(0, Ordering::Relaxed));
        for vcpu in &domain.vcpus {
            hv.fifo_init_control(domain, vcpu.id, control, 128 * vcpu.id.0).unwrap();
        }
        let heads = vec![[0; 16]; domain.vcpus.len()];
        Self { hv, domain, pages: Vec::new(), control, heads }
    }

    pub fn expand(&mut self) {
        let page = self.hv.alloc_domain_page(self.domain, 0).unwrap();
        self.hv.platform.frame_words(page).iter().for_each(|w| w.store(0, Ordering::Relaxed));
        self.hv.fifo_expand_array(self.domain, page).unwrap();
        self.pages.push(page);
    }

    /// The 64-bit word that holds a port's event word, and the shift to it.
    fn at(&self, port: u64) -> (&AtomicU64, u64) {
        let words = self.hv.platform.frame_words(self.pages[port as usize / 1024]);
        (&words[port as usize % 1024 / 2], 32 * (port % 2))
    }

    fn event(&self, port: u64) -> u64 {
        let (word, shift) = self.at(port);
        word.load(Ordering::SeqCst) >> shift & 0xffff_ffff
    }

    fn clear(&self, port: u64, bits: u64) -> u64 {
        let (word, shift) = self.at(port);
        word.fetch_and(!(bits << shift), Ordering::SeqCst) >> shift & 0xffff_ffff
    }

    pub fn mask(&self, port: u64) {
        let (word, shift) = self.at(port);
        word.fetch_or(MASKED << shift, Ordering::SeqCst);
    }

    /// As Linux: clears the bit itself, and asks the hypervisor when an event waits.
    pub fn unmask(&self, port: u64) {
        self.clear(port, MASKED);
        if self.event(port) & PENDING != 0 {
            self.hv.unmask_event(self.domain, Port(port as u32)).unwrap();
        }
    }

    fn control(&self, vcpu: usize, word: usize) -> &AtomicU64 {
        &self.hv.platform.frame_words(self.control)[16 * vcpu + word]
    }

    /// Handles everything that is in a vCPU's queues; answers the ports in the order they came.
    pub fn drain(&mut self, vcpu: usize) -> Vec<u64> {
        let mut ready = self.control(vcpu, 0).fetch_and(!0xffff_ffff, Ordering::SeqCst) & 0xffff_ffff;
        let mut handled = Vec::new();
        while ready != 0 {
            let priority = ready.trailing_zeros() as usize;
            let mut head = self.heads[vcpu][priority];
            if head == 0 {
                let word = self.control(vcpu, 1 + priority / 2).load(Ordering::SeqCst);
                head = word >> (32 * (priority % 2)) & 0xffff_ffff;
            }
            assert_ne!(head, 0, "a queue that is ready has a head");
            let link = self.clear(head, LINKED | LINK) & LINK;
            if link == 0 {
                ready &= !(1 << priority);
            }
            if self.event(head) & (PENDING | MASKED) == PENDING {
                self.clear(head, PENDING);
                handled.push(head);
            }
            self.heads[vcpu][priority] = link;
            ready |= self.control(vcpu, 0).fetch_and(!0xffff_ffff, Ordering::SeqCst) & 0xffff_ffff;
        }
        handled
    }
}

#[test]
fn a_control_block_must_be_the_domains_and_aligned() {
    let (hv, [d0, d1]) = machine(2);
    let page = hv.alloc_domain_page(&d0, 0).unwrap();
    let foreign = hv.alloc_domain_page(&d1, 0).unwrap();
    assert_eq!(hv.fifo_expand_array(&d0, page), Err(EventError::NotFifo));
    assert_eq!(hv.set_event_priority(&d0, Port(1), 3), Err(EventError::NotBound));
    let port = hv.bind_ipi(&d0, VcpuId(0)).unwrap();
    assert_eq!(hv.set_event_priority(&d0, port, 3), Err(EventError::NoPriorities));
    for (vcpu, frame, offset, error) in [
        (2, page, 0, EventError::NoSuchVcpu),
        (0, page, 4, EventError::Invalid),
        (0, page, 4096 - 64, EventError::Invalid),
        (0, page, u32::MAX, EventError::Invalid),
        (0, foreign, 0, EventError::Invalid),
        (0, Mfn(u64::MAX), 0, EventError::Invalid),
    ] {
        assert_eq!(hv.fifo_init_control(&d0, VcpuId(vcpu), frame, offset), Err(error));
    }
    assert!(d0.events.fifo().is_none(), "a failure does not switch");
    hv.fifo_init_control(&d0, VcpuId(0), page, 4096 - 72).unwrap();
    assert_eq!(hv.fifo_init_control(&d0, VcpuId(0), page, 0), Err(EventError::Invalid), "it has one");
    assert_eq!(hv.fifo_expand_array(&d0, foreign), Err(EventError::Invalid));
    assert!(hv.get_page_and_type(&d0, page, PageType::L1).is_err(), "the page stays writable");
}

#[test]
fn without_free_frames_nothing_grows() {
    let hv = mock::hypervisor(1000);
    let domain = mock::domain(&hv, 0, 1, 1000);
    let _guest = FifoGuest::without_words(&hv, &domain);
    let page = hv.alloc_domain_page(&domain, 0).unwrap();
    let others: Vec<_> = core::iter::from_fn(|| hv.alloc_domain_page(&domain, 0).ok()).collect();
    let ports = (0..100).map_while(|_| hv.bind_ipi(&domain, VcpuId(0)).ok()).count();
    assert_eq!(ports, 63, "there was room for these");
    assert_eq!(hv.bind_ipi(&domain, VcpuId(0)), Err(EventError::NoMemory));
    assert_eq!(hv.fifo_expand_array(&domain, page), Err(EventError::NoMemory));
    others[..20].iter().for_each(|mfn| hv.remove_domain_page(&domain, *mfn).unwrap());
    assert_eq!(hv.bind_ipi(&domain, VcpuId(0)), Ok(Port(64)));
    assert_eq!(hv.fifo_expand_array(&domain, page), Ok(()));
}

#[test]
fn events_come_in_order_and_by_priority() {
    let (hv, [d0, _]) = machine(1);
    let mut guest = FifoGuest::new(&hv, &d0);
    let ports: Vec<_> = (0..5).map(|_| hv.bind_ipi(&d0, VcpuId(0)).unwrap()).collect();
    hv.set_event_priority(&d0, ports[3], 0).unwrap();
    hv.set_event_priority(&d0, ports[0], 15).unwrap();
    assert_eq!(hv.set_event_priority(&d0, ports[0], 16), Err(EventError::Invalid));
    for port in [0, 2, 1, 2, 4, 3] {
        hv.send_event(&d0, ports[port]).unwrap();
    }
    assert!(super::guest(&hv, &d0).upcall_pending(0));
    let expected: Vec<_> = [3, 2, 1, 4, 0].iter().map(|n| u64::from(ports[*n].0)).collect();
    assert_eq!(guest.drain(0), expected);
    assert_eq!(guest.drain(0), []);
}

#[test]
fn nothing_is_lost_on_the_way_from_two_levels() {
    let (hv, [d0, _]) = machine(1);
    let early = hv.bind_ipi(&d0, VcpuId(0)).unwrap();
    let timer = hv.bind_virq(&d0, VcpuId(0), VIRQ_TIMER).unwrap();
    hv.send_event(&d0, early).unwrap();
    let control = hv.alloc_domain_page(&d0, 0).unwrap();
    hv.fifo_init_control(&d0, VcpuId(0), control, 0).unwrap();
    hv.send_virq(&d0, VcpuId(0), VIRQ_TIMER);
    assert_eq!(hv.event_is_pending(&d0, timer), Ok(false), "it has no word yet");
    let page = hv.alloc_domain_page(&d0, 0).unwrap();
    hv.fifo_expand_array(&d0, page).unwrap();
    assert_eq!(hv.event_is_pending(&d0, timer), Ok(true));
    let heads = vec![[0; 16]];
    let mut guest = FifoGuest { hv: &hv, domain: &d0, pages: vec![page], control, heads };
    let handled: BTreeSet<_> = guest.drain(0).into_iter().collect();
    assert_eq!(handled, BTreeSet::from([u64::from(early.0), u64::from(timer.0)]));
}

#[test]
fn there_are_more_ports_than_two_levels_have() {
    let (hv, [d0, _]) = machine(1);
    let mut guest = FifoGuest::new(&hv, &d0);
    let mut last = Port(0);
    for _ in 0..5000 {
        last = hv.bind_ipi(&d0, VcpuId(0)).unwrap();
    }
    assert_eq!(last, Port(5000));
    hv.send_event(&d0, last).unwrap();
    assert_eq!(guest.drain(0), [], "no word yet");
    for _ in 0..4 {
        guest.expand();
    }
    assert_eq!(guest.drain(0), [5000]);
}

#[test]
fn a_linked_port_is_not_used_anew() {
    let (hv, [d0, _]) = machine(1);
    let mut guest = FifoGuest::new(&hv, &d0);
    let port = hv.bind_ipi(&d0, VcpuId(0)).unwrap();
    hv.send_event(&d0, port).unwrap();
    hv.close_event(&d0, port).unwrap();
    assert_eq!(hv.bind_ipi(&d0, VcpuId(0)), Ok(Port(port.0 + 1)));
    assert_eq!(guest.drain(0), [], "the closed port's event was taken back");
    assert_eq!(hv.bind_ipi(&d0, VcpuId(0)), Ok(port));
}

#[test]
fn reset_gives_the_pages_back() {
    let (hv, [d0, _]) = machine(2);
    let mut guest = FifoGuest::new(&hv, &d0);
    let port = hv.bind_ipi(&d0, VcpuId(1)).unwrap();
    hv.send_event(&d0, port).unwrap();
    assert_eq!(guest.drain(1), [u64::from(port.0)]);
    let frames = [guest.control, guest.pages[0]];
    for frame in frames {
        assert_ne!(hv.frame(frame).unwrap().type_word().count(), 0);
    }
    assert_eq!(hv.reset_events(&d0, SELF, false), Ok(Progress::Finished));
    for frame in frames {
        assert_eq!(hv.frame(frame).unwrap().type_word().count(), 0);
        assert_eq!(hv.frame(frame).unwrap().count().refs(), 1);
    }
    let port = hv.bind_ipi(&d0, VcpuId(0)).unwrap();
    hv.send_event(&d0, port).unwrap();
    assert!(super::guest(&hv, &d0).pending(port), "two levels again");
    let mut guest = FifoGuest::new(&hv, &d0);
    assert_eq!(guest.drain(0), [u64::from(port.0)], "and over once more");
}

#[test]
fn a_guest_that_breaks_the_rules_only_hurts_itself() {
    let (hv, [d0, _]) = machine(2);
    let guest = FifoGuest::new(&hv, &d0);
    let ports: Vec<_> = (0..4).map(|_| hv.bind_ipi(&d0, VcpuId(0)).unwrap()).collect();
    for round in 0..2000u64 {
        for (n, port) in ports.iter().enumerate() {
            let (word, _) = guest.at(u64::from(port.0));
            word.store((round + n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15), Ordering::SeqCst);
            guest.control(0, n).store(round.wrapping_mul(0xdead_beef_1234_5679), Ordering::SeqCst);
            hv.send_event(&d0, *port).unwrap();
            hv.unmask_event(&d0, *port).unwrap();
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Send(usize),
    Mask(usize),
    Unmask(usize),
    Move(usize, u32),
    Priority(usize, u32),
    Drain(usize),
}

const PORTS: usize = 6;

fn op() -> impl Strategy<Value = Op> {
    let port = 0..PORTS;
    prop_oneof![
        3 => port.clone().prop_map(Op::Send),
        1 => port.clone().prop_map(Op::Mask),
        1 => port.clone().prop_map(Op::Unmask),
        1 => (port.clone(), 0u32..3).prop_map(|(port, vcpu)| Op::Move(port, vcpu)),
        1 => (port, 0u32..16).prop_map(|(port, priority)| Op::Priority(port, priority)),
        2 => (0usize..3).prop_map(Op::Drain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// The model is a set of ports with a pending event and a set of masked ones. What a guest handles was pending and
    /// not masked; and after all queues were emptied nothing of that kind is left.
    #[test]
    fn every_event_is_handled_once(ops in prop::collection::vec(op(), 1..120)) {
        let (hv, [d0, _]) = machine(3);
        let mut guest = FifoGuest::new(&hv, &d0);
        // Pairs of ends within one domain: the far ends may be moved.
        let ends: Vec<_> = (0..PORTS).map(|_| {
            let far = hv.alloc_unbound(&d0, SELF, SELF).unwrap();
            (hv.bind_interdomain(&d0, SELF, far).unwrap(), far)
        }).collect();
        (0..3).for_each(|vcpu| drop(guest.drain(vcpu)));
        let (mut pending, mut masked) = (BTreeSet::new(), BTreeSet::new());
        for op in ops {
            match op {
                Op::Send(n) => {
                    hv.send_event(&d0, ends[n].0).unwrap();
                    pending.insert(u64::from(ends[n].1.0));
                }
                Op::Mask(n) => {
                    guest.mask(u64::from(ends[n].1.0));
                    masked.insert(u64::from(ends[n].1.0));
                }
                Op::Unmask(n) => {
                    guest.unmask(u64::from(ends[n].1.0));
                    masked.remove(&u64::from(ends[n].1.0));
                }
                Op::Move(n, vcpu) => hv.bind_vcpu(&d0, ends[n].1, VcpuId(vcpu)).unwrap(),
                Op::Priority(n, priority) => hv.set_event_priority(&d0, ends[n].1, priority).unwrap(),
                Op::Drain(vcpu) => {
                    for port in guest.drain(vcpu) {
                        prop_assert!(!masked.contains(&port));
                        prop_assert!(pending.remove(&port), "handled twice: {}", port);
                    }
                }
            }
            for (_, far) in &ends {
                let port = u64::from(far.0);
                prop_assert_eq!(guest.event(port) & PENDING != 0, pending.contains(&port));
            }
        }
        for port in (0..3).flat_map(|vcpu| guest.drain(vcpu)).collect::<Vec<_>>() {
            prop_assert!(pending.remove(&port));
        }
        prop_assert!(pending.is_subset(&masked), "left over: {:?}, masked {:?}", pending, masked);
    }
}

/// Senders on three CPUs, one guest thread per vCPU: at the end nothing is left behind.
#[test]
fn senders_and_guest_race() {
    let (hv, [d0, _]) = machine(2);
    let guest = FifoGuest::new(&hv, &d0);
    let ends: Vec<_> = (0..4)
        .map(|_| {
            let far = hv.alloc_unbound(&d0, SELF, SELF).unwrap();
            (hv.bind_interdomain(&d0, SELF, far).unwrap(), far)
        })
        .collect();
    let senders_left = AtomicU64::new(3);
    let moving = AtomicBool::new(true);
    std::thread::scope(|scope| {
        for seed in 0..3u64 {
            let (hv, d0, ends, senders_left) = (&hv, &d0, &ends, &senders_left);
            scope.spawn(move || {
                for round in 0..4000 {
                    hv.send_event(d0, ends[((round * 7 + seed) % 4) as usize].0).unwrap();
                }
                senders_left.fetch_sub(1, Ordering::SeqCst);
            });
        }
        scope.spawn(|| {
            for round in 0..2000u32 {
                hv.bind_vcpu(&d0, ends[(round % 4) as usize].1, VcpuId(round / 4 % 2)).unwrap();
            }
            moving.store(false, Ordering::SeqCst);
        });
        for vcpu in 0..2 {
            let mut own = FifoGuest { pages: guest.pages.clone(), heads: guest.heads.clone(), ..guest };
            let (senders_left, moving) = (&senders_left, &moving);
            scope.spawn(move || {
                while senders_left.load(Ordering::SeqCst) != 0 || moving.load(Ordering::SeqCst) {
                    own.drain(vcpu);
                }
                own.drain(vcpu);
            });
        }
    });
    for (_, far) in &ends {
        assert_eq!(guest.event(u64::from(far.0)) & (PENDING | LINKED), 0, "{far} was left behind");
    }
}

/// Ports that are looked at in one go, and a few steps besides.
const STRETCH: u64 = SEARCH_STEP as u64 + 80;

/// 131,072 words that stay linked made each `bind_interdomain` with any nonsense remote port 9.3 million instructions, with the ports
/// of both domains locked.
#[test]
fn a_search_for_a_port_stops_for_other_work_and_keeps_no_peer_waiting() {
    let hv = mock::hypervisor(1200);
    let (d0, d1) = (mock::domain(&hv, 0, 1, 200), mock::domain(&hv, 1, 1, 400));
    let mut guest = FifoGuest::without_words(&hv, &d1);
    (0..128).for_each(|_| guest.expand());
    let every = LINKED | LINKED << 32;
    for page in &guest.pages {
        hv.platform.frame_words(*page).iter().for_each(|word| word.store(every, Ordering::SeqCst));
    }
    let far = hv.alloc_unbound(&d0, SELF, DomId(1)).unwrap();
    // A remote port that waits for another domain, or none, is refused before any search.
    hv.platform.longest_stretch();
    for nonsense in [Port(far.0 + 1), Port(5000)] {
        assert_eq!(hv.bind_interdomain(&d1, DomId(0), nonsense), Err(EventError::Invalid));
    }
    assert!(hv.platform.longest_stretch() < STRETCH);
    // The search for a good one has nothing locked when it looks for other work.
    let locks = [d0.clone(), d1.clone()];
    *hv.platform.at_question.lock().unwrap() = Some(Box::new(move || {
        assert!(locks.iter().all(|domain| domain.events.changes.try_lock().is_some()));
    }));
    assert_eq!(hv.bind_interdomain(&d1, DomId(0), far), Err(EventError::NoPort));
    assert!(hv.platform.longest_stretch() < STRETCH);
    // It goes on where it stopped, and finds what there is.
    hv.platform.preempt_every.store(1, Ordering::Relaxed);
    guest.clear(100_000, LINKED);
    let rounds = (0..).take_while(|_| hv.bind_ipi(&d1, VcpuId(0)) == Err(EventError::Restart)).count();
    assert_eq!(rounds, 100_000 / SEARCH_STEP as usize);
    assert_eq!(d1.events.binding(Port(100_000)), Some(Binding::Ipi));
    // What is closed behind the search's back is found.
    guest.clear(700, LINKED);
    for _ in 0..700 / SEARCH_STEP {
        assert_eq!(hv.bind_ipi(&d1, VcpuId(0)), Err(EventError::Restart));
    }
    assert_eq!(hv.bind_ipi(&d1, VcpuId(0)), Ok(Port(700)));
    for _ in 0..10 {
        assert_eq!(hv.bind_ipi(&d1, VcpuId(0)), Err(EventError::Restart));
    }
    hv.close_event(&d1, Port(700)).unwrap();
    guest.clear(700, LINKED);
    hv.platform.preempt_every.store(0, Ordering::Relaxed);
    assert_eq!(hv.bind_interdomain(&d1, DomId(0), far), Ok(Port(700)));
    *hv.platform.at_question.lock().unwrap() = None;
}

/// A teardown goes on where it stopped, and stops whether or not the ports at its looks are bound.
#[test]
fn ports_of_a_dying_domain_are_closed_in_steps() {
    let hv = mock::hypervisor(600);
    let domain = mock::domain(&hv, 1, 1, 200);
    let mut guest = FifoGuest::without_words(&hv, &domain);
    (0..4).for_each(|_| guest.expand());
    while hv.bind_ipi(&domain, VcpuId(0)).unwrap() < Port(4000) {}
    (1..4000).for_each(|port| hv.close_event(&domain, Port(port)).unwrap());
    hv.platform.longest_stretch();
    hv.platform.preempt_every.store(1, Ordering::Relaxed);
    let rounds = (0..10_000).take_while(|_| hv.destroy_events(&domain) == Progress::Preempted).count();
    // Of all vCPUs and of as many pages of words as there may be, 32 are looked at in a step.
    assert_eq!(rounds, 4000 / 64 + (1 + 128) / 32);
    assert_eq!(domain.events.active_ports(), 0);
}

/// Events that were saved for want of words are raised a few at a time, and each once, when a page with their words comes.
#[test]
fn saved_events_are_raised_in_steps() {
    let hv = mock::hypervisor(600);
    let domain = mock::domain(&hv, 1, 1, 200);
    while hv.bind_ipi(&domain, VcpuId(0)).unwrap() < Port(1500) {}
    for port in (1..=1500).map(Port) {
        hv.send_event(&domain, port).unwrap();
    }
    let mut guest = FifoGuest::without_words(&hv, &domain);
    let page = hv.alloc_domain_page(&domain, 0).unwrap();
    hv.platform.frame_words(page).iter().for_each(|word| word.store(0, Ordering::Relaxed));
    hv.platform.preempt_every.store(1, Ordering::Relaxed);
    let locks = domain.clone();
    *hv.platform.at_question.lock().unwrap() =
        Some(Box::new(move || assert!(locks.events.changes.try_lock().is_some())));
    let rounds =
        (0..1000).take_while(|_| hv.fifo_expand_array(&domain, page) == Err(EventError::Restart)).count();
    assert_eq!(rounds, 1024 / 8 - 1);
    guest.pages.push(page);
    *hv.platform.at_question.lock().unwrap() = None;
    hv.platform.preempt_every.store(0, Ordering::Relaxed);
    assert_eq!(guest.drain(0), (1..1024).collect::<Vec<_>>());
    guest.expand();
    assert_eq!(guest.drain(0), (1024..=1500).collect::<Vec<_>>());
}

/// Ports that the guest unlinked behind a search that stopped for other work: a hypercall that it made afterwards went on with that
/// search and said that none was left.
#[test]
fn a_search_that_stopped_looks_at_lower_ports_again() {
    let hv = mock::hypervisor(1200);
    let domain = mock::domain(&hv, 1, 1, 400);
    let mut guest = FifoGuest::without_words(&hv, &domain);
    (0..128).for_each(|_| guest.expand());
    for page in &guest.pages {
        let words = hv.platform.frame_words(*page);
        words.iter().for_each(|word| word.store(LINKED | LINKED << 32, Ordering::SeqCst));
    }
    let steps = |n: u64| (1 << 17) / u64::from(SEARCH_STEP) * n;
    hv.platform.preempt_every.store(1, Ordering::Relaxed);
    for port in [5, 300, 700] {
        for _ in 0..1000 / SEARCH_STEP {
            assert_eq!(hv.bind_ipi(&domain, VcpuId(0)), Err(EventError::Restart));
        }
        guest.clear(port, LINKED);
        let found =
            (0..steps(2)).map(|_| hv.bind_ipi(&domain, VcpuId(0))).find(|a| *a != Err(EventError::Restart));
        assert_eq!(found, Some(Ok(Port(port as u32))));
    }
    // Twice, and then there is an end.
    let answers = core::iter::repeat_with(|| hv.bind_ipi(&domain, VcpuId(0)));
    let waits = answers.take_while(|answer| *answer == Err(EventError::Restart)).count() as u64;
    assert!((steps(2) - 2..=steps(2)).contains(&waits), "{waits} steps");
}

/// An L2 table with 32 full L1 tables below it, of which the last reference is gone.
fn doomed(hv: &Mock, domain: &MockDomain) -> Mfn {
    let page = || hv.alloc_domain_page(domain, 0).unwrap();
    let (l2, data) = (page(), page());
    for slot in 0..32 {
        let l1 = page();
        hv.platform.frame_words(l2)[slot].store(l1.addr().0 | 7, Ordering::Relaxed);
        let entries = hv.platform.frame_words(l1);
        entries.iter().for_each(|entry| entry.store(data.addr().0 | 7, Ordering::Relaxed));
    }
    hv.get_page_and_type(domain, l2, PageType::L2).unwrap();
    hv.put_page_and_type(l2);
    assert!(domain.pages.has_doomed());
    l2
}

/// A page that the guest names may be a table that is to be given up first: that is waited for with no ports locked. What is wrong
/// with the request otherwise is said before.
#[test]
fn pages_that_were_tables_are_taken_with_nothing_locked() {
    let (hv, [d0, _]) = machine(2);
    let control = doomed(&hv, &d0);
    let locks = d0.clone();
    *hv.platform.at_question.lock().unwrap() =
        Some(Box::new(move || assert!(locks.events.changes.try_lock().is_some(), "peers wait")));
    hv.platform.preempt_every.store(1, Ordering::Relaxed);
    let waits = |op: &dyn Fn() -> Result<(), EventError>| {
        (0..10_000).take_while(|_| op() == Err(EventError::Restart)).count()
    };
    let init = |frame| hv.fifo_init_control(&d0, VcpuId(0), frame, 0);
    assert_eq!(hv.fifo_expand_array(&d0, control), Err(EventError::NotFifo));
    let waited = waits(&|| init(control));
    assert!(waited >= 31, "{waited}");
    hv.platform.preempt_every.store(0, Ordering::Relaxed);
    let words = doomed(&hv, &d0);
    hv.platform.preempt_every.store(1, Ordering::Relaxed);
    assert_eq!(init(words), Err(EventError::Invalid), "it has one");
    let waited = waits(&|| hv.fifo_expand_array(&d0, words));
    assert!(waited >= 31, "{waited}");
    for used in [control, words] {
        assert_eq!(hv.frame(used).unwrap().type_word().count(), 1);
    }
    assert_eq!(hv.fifo_expand_array(&d0, Mfn(u64::MAX)), Err(EventError::Invalid));
    *hv.platform.at_question.lock().unwrap() = None;
}

/// Two vCPUs give the same vCPU a control block, and the page of one of them has to be waited for: it is the other one's, and the
/// page is given back.
#[test]
fn a_page_that_comes_too_late_is_given_back() {
    let hv = Arc::new(mock::hypervisor(600));
    let domain = mock::domain(&hv, 1, 1, 200);
    let (first, late) = (hv.alloc_domain_page(&domain, 0).unwrap(), doomed(&hv, &domain));
    let other = (hv.clone(), domain.clone(), AtomicBool::new(false));
    *hv.platform.at_question.lock().unwrap() = Some(Box::new(move || {
        let (hv, domain, done) = &other;
        if !done.swap(true, Ordering::Relaxed) {
            hv.fifo_init_control(domain, VcpuId(0), first, 64).unwrap();
        }
    }));
    assert_eq!(hv.fifo_init_control(&domain, VcpuId(0), late, 0), Err(EventError::Invalid));
    *hv.platform.at_question.lock().unwrap() = None;
    let uses = |mfn| hv.frame(mfn).unwrap().type_word().count();
    assert_eq!((uses(first), uses(late)), (1, 0));
    assert_eq!(hv.frame(late).unwrap().count().refs(), 1);
}
