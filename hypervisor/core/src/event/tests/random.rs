//! Two domains, each of which goes over to the FIFO ABI and back by a reset whenever it likes, against a naive model: a set of ports,
//! one of pending events, one of masked ports. Whatever happens in between, each event is handled once, and none is left behind.

use super::fifo::FifoGuest;
use super::*;
use crate::event::Progress;
use crate::event::slot::Binding;
use crate::ids::DomId;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::vec;
use std::vec::Vec;
use xen_abi::xen::{DOMID_SELF, VIRQ_TIMER};

const SELF: DomId = DomId(DOMID_SELF);
const VCPUS: u32 = 2;

/// One step, by a domain. Ports are counted among those that are bound.
#[derive(Clone, Copy, Debug)]
enum Op {
    AllocUnbound { remote: usize },
    BindInterdomain { remote: usize, nth: usize },
    BindVirq { vcpu: u32 },
    BindIpi { vcpu: u32 },
    Move { nth: usize, vcpu: u32 },
    Prioritise { nth: usize, priority: u32 },
    Close { nth: usize },
    Send { nth: usize },
    RaiseVirq { vcpu: u32 },
    Mask { nth: usize },
    Unmask { nth: usize },
    Serve { vcpu: u32 },
    Init,
    Expand,
    Reset,
}

fn op() -> impl Strategy<Value = (usize, Op)> {
    let (nth, vcpu) = (0usize..8, 0..VCPUS);
    let any = prop_oneof![
        3 => (0usize..2).prop_map(|remote| Op::AllocUnbound { remote }),
        4 => (0usize..2, nth.clone()).prop_map(|(remote, nth)| Op::BindInterdomain { remote, nth }),
        1 => vcpu.clone().prop_map(|vcpu| Op::BindVirq { vcpu }),
        1 => vcpu.clone().prop_map(|vcpu| Op::BindIpi { vcpu }),
        2 => (nth.clone(), vcpu.clone()).prop_map(|(nth, vcpu)| Op::Move { nth, vcpu }),
        1 => (nth.clone(), 0u32..16).prop_map(|(nth, priority)| Op::Prioritise { nth, priority }),
        2 => nth.clone().prop_map(|nth| Op::Close { nth }),
        12 => nth.clone().prop_map(|nth| Op::Send { nth }),
        2 => vcpu.clone().prop_map(|vcpu| Op::RaiseVirq { vcpu }),
        3 => nth.clone().prop_map(|nth| Op::Mask { nth }),
        3 => nth.prop_map(|nth| Op::Unmask { nth }),
        6 => vcpu.prop_map(|vcpu| Op::Serve { vcpu }),
        1 => Just(Op::Init),
        2 => Just(Op::Expand),
        1 => Just(Op::Reset),
    ];
    (0usize..2, any)
}

/// A domain in the model.
#[derive(Default)]
struct Model {
    ports: BTreeMap<u32, (Binding, u32)>,
    pending: BTreeSet<u32>,
    masked: BTreeSet<u32>,
    /// The domain went over to the FIFO ABI; its ports have words.
    fifo: bool,
    words: bool,
}

impl Model {
    fn nth(&self, nth: usize) -> Option<u32> {
        self.ports.keys().copied().nth(nth)
    }

    fn raise(&mut self, port: u32) {
        self.pending.insert(port);
    }
}

/// A domain with the guest's side of its events.
struct Side<'a> {
    hv: &'a Mock,
    domain: &'a MockDomain,
    fifo: Option<FifoGuest<'a>>,
}

impl Side<'_> {
    /// Serves what a vCPU was told of.
    fn serve(&mut self, vcpu: u32) -> Vec<u32> {
        if let Some(fifo) = &mut self.fifo {
            return fifo.drain(vcpu as usize).into_iter().map(|port| port as u32).collect();
        }
        let guest = guest(self.hv, self.domain);
        let told = guest.take_upcall(vcpu).is_some_and(|selector| selector & 1 != 0);
        let due = |port: &u32| told && guest.pending(Port(*port)) && !guest.masked(Port(*port));
        let ports: Vec<u32> = (0..64).filter(due).collect();
        ports.iter().for_each(|port| guest.clear_pending(Port(*port)));
        ports
    }

    /// As a guest that starts anew: what earlier events left in its pages is gone.
    fn forget(&mut self) {
        self.fifo = None;
        let guest = guest(self.hv, self.domain);
        for word in [two_level::PENDING, two_level::MASK] {
            guest.word(word).store(0, Ordering::SeqCst);
        }
        for vcpu in 0..VCPUS {
            guest.info(vcpu).iter().for_each(|word| word.store(0, Ordering::SeqCst));
        }
    }

    fn is_pending(&self, port: u32) -> bool {
        self.hv.event_is_pending(self.domain, Port(port)).expect("a bound port")
    }
}

struct World<'a> {
    sides: [Side<'a>; 2],
    model: [Model; 2],
}

impl World<'_> {
    fn add(&mut self, me: usize, port: Result<Port, EventError>, binding: Binding, vcpu: u32) {
        let port = port.expect("a port").0;
        assert!(self.model[me].ports.insert(port, (binding, vcpu)).is_none(), "port {port} is in use");
    }

    fn close(&mut self, me: usize, port: u32) {
        let Some((binding, _)) = self.model[me].ports.remove(&port) else { return };
        if let Binding::Interdomain(far, far_port) = binding
            && let Some(peer) = self.model[usize::from(far.0)].ports.get_mut(&far_port.0)
        {
            peer.0 = Binding::Unbound(DomId(me as u16));
        }
        self.model[me].pending.remove(&port);
    }

    fn bind_interdomain(&mut self, me: usize, remote: usize, port: u32) {
        let (hv, domain) = (self.sides[me].hv, self.sides[me].domain);
        let waits = self.model[remote].ports[&port].0 == Binding::Unbound(DomId(me as u16));
        let near = hv.bind_interdomain(domain, DomId(remote as u16), Port(port));
        assert_eq!(near.is_ok(), waits, "{near:?}");
        let Ok(bound) = near else { return };
        self.add(me, near, Binding::Interdomain(DomId(remote as u16), Port(port)), 0);
        let peer = self.model[remote].ports.get_mut(&port).expect("it was there");
        peer.0 = Binding::Interdomain(DomId(me as u16), bound);
        // So that events from before are not missed.
        self.model[me].raise(bound.0);
    }

    fn send(&mut self, me: usize, port: u32) {
        let answer = self.sides[me].hv.send_event(self.sides[me].domain, Port(port));
        match self.model[me].ports[&port].0 {
            Binding::Interdomain(far, far_port) => self.model[usize::from(far.0)].raise(far_port.0),
            Binding::Ipi => self.model[me].raise(port),
            Binding::Unbound(_) => {}
            _ => return assert_eq!(answer, Err(EventError::Invalid)),
        }
        assert_eq!(answer, Ok(()));
    }

    fn serve(&mut self, me: usize, vcpu: u32) {
        for port in self.sides[me].serve(vcpu) {
            let model = &mut self.model[me];
            assert!(!model.masked.contains(&port), "port {port} is masked");
            assert!(model.pending.remove(&port), "port {port} has no event");
        }
    }

    fn step(&mut self, me: usize, op: Op) {
        let (hv, domain) = (self.sides[me].hv, self.sides[me].domain);
        let nth = |world: &Self, nth| world.model[me].nth(nth);
        match op {
            Op::AllocUnbound { remote } => {
                let remote = DomId(remote as u16);
                self.add(me, hv.alloc_unbound(domain, SELF, remote), Binding::Unbound(remote), 0);
            }
            Op::BindInterdomain { remote, nth } => {
                if let Some(port) = self.model[remote].nth(nth) {
                    self.bind_interdomain(me, remote, port);
                }
            }
            Op::BindVirq { vcpu } => {
                let binding = Binding::Virq(VIRQ_TIMER);
                let bound = self.model[me].ports.values().any(|port| *port == (binding, vcpu));
                let port = hv.bind_virq(domain, VcpuId(vcpu), VIRQ_TIMER);
                assert_eq!(port.is_ok(), !bound);
                if !bound {
                    self.add(me, port, binding, vcpu);
                }
            }
            Op::BindIpi { vcpu } => self.add(me, hv.bind_ipi(domain, VcpuId(vcpu)), Binding::Ipi, vcpu),
            Op::Move { nth: n, vcpu } => {
                if let Some(port) = nth(self, n) {
                    let bound = self.model[me].ports.get_mut(&port).expect("bound");
                    let moves = matches!(bound.0, Binding::Unbound(_) | Binding::Interdomain(..));
                    assert_eq!(hv.bind_vcpu(domain, Port(port), VcpuId(vcpu)).is_ok(), moves);
                    bound.1 = if moves { vcpu } else { bound.1 };
                }
            }
            Op::Prioritise { nth: n, priority } => {
                if let Some(port) = nth(self, n) {
                    let answer = hv.set_event_priority(domain, Port(port), priority);
                    assert_eq!(answer.is_ok(), self.model[me].fifo);
                }
            }
            Op::Close { nth: n } => {
                if let Some(port) = nth(self, n) {
                    hv.close_event(domain, Port(port)).expect("a bound port");
                    self.close(me, port);
                }
            }
            Op::Send { nth: n } => {
                if let Some(port) = nth(self, n) {
                    self.send(me, port);
                }
            }
            Op::RaiseVirq { vcpu } => {
                hv.send_virq(domain, VcpuId(vcpu), VIRQ_TIMER);
                let bound = (Binding::Virq(VIRQ_TIMER), vcpu);
                let port = self.model[me].ports.iter().find(|(_, port)| **port == bound).map(|(n, _)| *n);
                port.into_iter().for_each(|port| self.model[me].raise(port));
            }
            Op::Mask { nth: n } => {
                if let Some(port) = nth(self, n).filter(|_| self.model[me].fifo == self.model[me].words) {
                    match &self.sides[me].fifo {
                        Some(fifo) => fifo.mask(port.into()),
                        None => guest(hv, domain).mask(Port(port)),
                    }
                    self.model[me].masked.insert(port);
                }
            }
            Op::Unmask { nth: n } => {
                if let Some(port) = nth(self, n).filter(|_| self.model[me].fifo == self.model[me].words) {
                    match &self.sides[me].fifo {
                        Some(fifo) => fifo.unmask(port.into()),
                        None => hv.unmask_event(domain, Port(port)).expect("a bound port"),
                    }
                    self.model[me].masked.remove(&port);
                }
            }
            Op::Serve { vcpu } => self.serve(me, vcpu),
            Op::Init if !self.model[me].fifo => {
                self.sides[me].fifo = Some(FifoGuest::without_words(hv, domain));
                (self.model[me].fifo, self.model[me].words) = (true, false);
                // Masks are in the words from now on, and the guest clears those.
                self.model[me].masked.clear();
            }
            Op::Expand if self.model[me].fifo && !self.model[me].words => {
                self.sides[me].fifo.as_mut().expect("a FIFO guest").expand();
                self.model[me].words = true;
            }
            Op::Init | Op::Expand => {}
            Op::Reset => {
                hv.platform.preempt_every.store(2, Ordering::Relaxed);
                let mut resuming = false;
                while hv.reset_events(domain, SELF, resuming).expect("a reset") == Progress::Preempted {
                    resuming = true;
                }
                hv.platform.preempt_every.store(0, Ordering::Relaxed);
                let ports: Vec<u32> = self.model[me].ports.keys().copied().collect();
                ports.into_iter().for_each(|port| self.close(me, port));
                self.model[me] = Model::default();
                self.sides[me].forget();
            }
        }
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        for (side, model) in self.sides.iter().zip(&self.model) {
            prop_assert_eq!(side.domain.events.active_ports() as usize, model.ports.len());
            for (port, (binding, vcpu)) in &model.ports {
                let status = side.hv.event_status(side.domain, side.domain.id, Port(*port)).expect("a port");
                prop_assert_eq!((status.binding, status.vcpu.0), (*binding, *vcpu), "port {}", port);
                let shown = model.fifo == model.words;
                prop_assert_eq!(
                    side.is_pending(*port),
                    shown && model.pending.contains(port),
                    "port {} of {:?}",
                    port,
                    side.domain.id
                );
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn events_survive_the_way_between_the_abis(ops in prop::collection::vec(op(), 1..150)) {
        let (hv, domains) = machine(VCPUS);
        let sides = [0, 1].map(|n| Side { hv: &hv, domain: &domains[n], fifo: None });
        let mut world = World { sides, model: Default::default() };
        for (me, op) in ops {
            world.step(me, op);
            world.compare()?;
        }
        for me in 0..2 {
            world.step(me, Op::Expand);
            (0..VCPUS).for_each(|vcpu| world.serve(me, vcpu));
            let Model { pending, masked, .. } = &world.model[me];
            prop_assert!(pending.is_subset(masked), "left behind: {:?}, masked: {:?}", pending, masked);
        }
    }
}
