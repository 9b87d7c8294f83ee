//! Arbitrary sequences of operations against a naive model of ports, in which everything is a map.

use super::*;
use crate::event::PortStatus;
use crate::event::slot::Binding;
use crate::ids::DomId;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

const VCPUS: u32 = 2;

/// One operation, by a domain (0 or 1) on small numbers.
#[derive(Clone, Copy, Debug)]
enum Op {
    AllocUnbound { remote: usize },
    BindInterdomain { remote: usize, port: u32 },
    BindVirq { vcpu: u32, virq: u32 },
    BindIpi { vcpu: u32 },
    BindVcpu { port: u32, vcpu: u32 },
    Close { port: u32 },
    Send { port: u32 },
    RaiseVirq { vcpu: u32, virq: u32 },
    Mask { port: u32 },
    Unmask { port: u32 },
    Consume { vcpu: u32 },
}

fn op() -> impl Strategy<Value = (usize, Op)> {
    let (port, vcpu, virq) = (0u32..9, 0u32..3, prop_oneof![Just(0u32), Just(1), Just(2), Just(99)]);
    let any = prop_oneof![
        (0usize..2).prop_map(|remote| Op::AllocUnbound { remote }),
        (0usize..2, port.clone()).prop_map(|(remote, port)| Op::BindInterdomain { remote, port }),
        (vcpu.clone(), virq.clone()).prop_map(|(vcpu, virq)| Op::BindVirq { vcpu, virq }),
        vcpu.clone().prop_map(|vcpu| Op::BindIpi { vcpu }),
        (port.clone(), vcpu.clone()).prop_map(|(port, vcpu)| Op::BindVcpu { port, vcpu }),
        port.clone().prop_map(|port| Op::Close { port }),
        port.clone().prop_map(|port| Op::Send { port }),
        (0u32..2, virq).prop_map(|(vcpu, virq)| Op::RaiseVirq { vcpu, virq }),
        port.clone().prop_map(|port| Op::Mask { port }),
        port.prop_map(|port| Op::Unmask { port }),
        (0u32..2).prop_map(|vcpu| Op::Consume { vcpu }),
    ];
    (0usize..2, any)
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct ModelPort {
    binding: Binding,
    vcpu: u32,
}

/// A domain in the model.
#[derive(Clone, Debug, Default)]
struct ModelDomain {
    ports: BTreeMap<u32, ModelPort>,
    pending: BTreeMap<u32, ()>,
    masked: BTreeMap<u32, ()>,
    upcall: [bool; VCPUS as usize],
    selector: [bool; VCPUS as usize],
}

impl ModelDomain {
    fn add(&mut self, binding: Binding, vcpu: u32) -> Port {
        let port = (1..).find(|n| !self.ports.contains_key(n)).unwrap();
        self.ports.insert(port, ModelPort { binding, vcpu });
        Port(port)
    }

    fn raise(&mut self, port: u32) {
        if self.pending.insert(port, ()).is_none() && !self.masked.contains_key(&port) {
            self.tell(port);
        }
    }

    fn tell(&mut self, port: u32) {
        let vcpu = self.ports.get(&port).map_or(0, |p| p.vcpu) as usize;
        if !core::mem::replace(&mut self.selector[vcpu], true) {
            self.upcall[vcpu] = true;
        }
    }

    fn virq(&self, vcpu: u32, virq: u32) -> Option<u32> {
        let bound = |p: &ModelPort| p.binding == Binding::Virq(virq) && (virq == 2 || p.vcpu == vcpu);
        self.ports.iter().find(|(_, p)| bound(p)).map(|(n, _)| *n)
    }
}

/// What the model says about an operation of domain `me`, and the change it makes.
fn apply(model: &mut [ModelDomain; 2], me: usize, op: Op) -> Result<Option<Port>, EventError> {
    let valid = |port: u32, model: &[ModelDomain; 2]| model[me].ports.get(&port).copied();
    match op {
        Op::AllocUnbound { remote } => Ok(Some(model[me].add(Binding::Unbound(DomId(remote as u16)), 0))),
        Op::BindInterdomain { remote, port } => {
            let waits = Binding::Unbound(DomId(me as u16));
            if model[remote].ports.get(&port).is_none_or(|p| p.binding != waits) {
                return Err(EventError::Invalid);
            }
            let near = model[me].add(Binding::Interdomain(DomId(remote as u16), Port(port)), 0);
            model[remote].ports.get_mut(&port).unwrap().binding =
                Binding::Interdomain(DomId(me as u16), near);
            model[me].raise(near.0);
            Ok(Some(near))
        }
        Op::BindVirq { vcpu, virq } => {
            if virq == 99 || virq == 2 && vcpu != 0 {
                return Err(EventError::Invalid);
            }
            if vcpu >= VCPUS {
                return Err(EventError::NoSuchVcpu);
            }
            if model[me].virq(vcpu, virq).is_some() {
                return Err(EventError::AlreadyBound);
            }
            Ok(Some(model[me].add(Binding::Virq(virq), vcpu)))
        }
        Op::BindIpi { vcpu } if vcpu >= VCPUS => Err(EventError::NoSuchVcpu),
        Op::BindIpi { vcpu } => Ok(Some(model[me].add(Binding::Ipi, vcpu))),
        Op::BindVcpu { vcpu, .. } if vcpu >= VCPUS => Err(EventError::NoSuchVcpu),
        Op::BindVcpu { port, vcpu } => match valid(port, model).map(|p| p.binding) {
            Some(Binding::Unbound(_) | Binding::Interdomain(..) | Binding::Virq(2)) => {
                model[me].ports.get_mut(&port).unwrap().vcpu = vcpu;
                Ok(None)
            }
            _ => Err(EventError::Invalid),
        },
        Op::Close { port } => {
            let old = valid(port, model).ok_or(EventError::Invalid)?;
            if let Binding::Interdomain(far, far_port) = old.binding {
                let far = &mut model[far.0 as usize];
                far.ports.get_mut(&far_port.0).unwrap().binding = Binding::Unbound(DomId(me as u16));
            }
            model[me].ports.remove(&port);
            model[me].pending.remove(&port);
            Ok(None)
        }
        Op::Send { port } => match valid(port, model).map(|p| p.binding) {
            Some(Binding::Interdomain(far, far_port)) => {
                model[far.0 as usize].raise(far_port.0);
                Ok(None)
            }
            Some(Binding::Ipi) => {
                model[me].raise(port);
                Ok(None)
            }
            Some(Binding::Unbound(_)) => Ok(None),
            _ => Err(EventError::Invalid),
        },
        Op::RaiseVirq { vcpu, virq } => {
            if let Some(port) = model[me].virq(vcpu, virq) {
                model[me].raise(port);
            }
            Ok(None)
        }
        Op::Mask { port } => {
            model[me].masked.insert(port, ());
            Ok(None)
        }
        Op::Unmask { port } => {
            let bound = model[me].ports.contains_key(&port);
            let was = bound && model[me].masked.remove(&port).is_some();
            if was && model[me].pending.contains_key(&port) {
                model[me].tell(port);
            }
            Ok(None)
        }
        Op::Consume { vcpu } => {
            let model = &mut model[me];
            if core::mem::take(&mut model.upcall[vcpu as usize]) {
                model.selector[vcpu as usize] = false;
                let ModelDomain { pending, masked, .. } = model;
                pending.retain(|port, ()| masked.contains_key(port));
            }
            Ok(None)
        }
    }
}

/// The same operation on the real thing, with a naive two-level guest.
fn run(hv: &Mock, domains: &[MockDomain; 2], me: usize, op: Op) -> Result<Option<Port>, EventError> {
    let (d, id) = (&domains[me], |n: usize| DomId(n as u16));
    let guest = guest(hv, d);
    match op {
        Op::AllocUnbound { remote } => hv.alloc_unbound(d, id(me), id(remote)).map(Some),
        Op::BindInterdomain { remote, port } => hv.bind_interdomain(d, id(remote), Port(port)).map(Some),
        Op::BindVirq { vcpu, virq } => hv.bind_virq(d, VcpuId(vcpu), virq).map(Some),
        Op::BindIpi { vcpu } => hv.bind_ipi(d, VcpuId(vcpu)).map(Some),
        Op::BindVcpu { port, vcpu } => hv.bind_vcpu(d, Port(port), VcpuId(vcpu)).map(|()| None),
        Op::Close { port } => hv.close_event(d, Port(port)).map(|()| None),
        Op::Send { port } => hv.send_event(d, Port(port)).map(|()| None),
        Op::RaiseVirq { vcpu, virq } => {
            hv.send_virq(d, VcpuId(vcpu), virq);
            Ok(None)
        }
        Op::Mask { port } => {
            guest.mask(Port(port));
            Ok(None)
        }
        Op::Unmask { port } => hv.unmask_event(d, Port(port)).map(|()| None),
        Op::Consume { vcpu } => {
            if guest.take_upcall(vcpu).is_some_and(|selector| selector & 1 != 0) {
                (0..64).map(Port).filter(|p| !guest.masked(*p)).for_each(|p| guest.clear_pending(p));
            }
            Ok(None)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn two_levels_behave_like_the_model(ops in prop::collection::vec(op(), 1..80)) {
        let (hv, domains) = machine(VCPUS);
        let mut model = [ModelDomain::default(), ModelDomain::default()];
        for (me, op) in ops {
            prop_assert_eq!(run(&hv, &domains, me, op), apply(&mut model, me, op), "{:?} by d{}", op, me);
            for (domain, model) in domains.iter().zip(&model) {
                let guest = guest(&hv, domain);
                let pending: Vec<u32> = (0..64).filter(|p| guest.pending(Port(*p))).collect();
                prop_assert_eq!(&pending, &model.pending.keys().copied().collect::<Vec<_>>(), "after {:?}", op);
                for vcpu in 0..VCPUS {
                    prop_assert_eq!(guest.upcall_pending(vcpu), model.upcall[vcpu as usize], "upcall after {:?}", op);
                }
                prop_assert_eq!(domain.events.active_ports() as usize, model.ports.len());
                for port in 1..16 {
                    let status = hv.event_status(domain, domain.id, Port(port)).unwrap();
                    let expected = model.ports.get(&port).map_or(
                        PortStatus { binding: Binding::Free, vcpu: VcpuId(0) },
                        |p| PortStatus { binding: p.binding, vcpu: VcpuId(p.vcpu) },
                    );
                    prop_assert_eq!(status, expected);
                }
            }
        }
    }
}
