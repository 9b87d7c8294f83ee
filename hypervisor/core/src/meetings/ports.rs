//! What can be done to a port of domain 1 that waits for domain 2, or is bound to a port of it.

use super::frames::{answer, fifo_control, fifo_words};
use super::world::{PORT, Who, World};
use super::{Op, meet, op};
use crate::event::tests::whole::take_events;
use crate::hypercall::event::EVTCHNOP_RESET_CONT;
use crate::ids::Port;
use crate::platform::Platform;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use xen_abi::event_channel::*;
use xen_abi::hypercall::nr;
use xen_abi::sched::{SCHEDOP_BLOCK, SCHEDOP_POLL, SchedPoll};
use xen_abi::xen::{DOMID_SELF, VIRQ_DEBUG};
use zerocopy::{Immutable, IntoBytes};

const OPS: &[Op] = &[
    op(2, "bind to it", |w, who| {
        let arg = EvtchnBindInterdomain { remote_dom: 1, remote_port: PORT.0, ..Default::default() };
        let at = event(w, who, EVTCHNOP_BIND_INTERDOMAIN, arg);
        at.inspect(|at| w.far.store(answer::<EvtchnBindInterdomain>(w, *at).local_port, Relaxed)).is_some()
    }),
    op(1, "offer", |w, who| {
        let arg = EvtchnAllocUnbound { dom: DOMID_SELF, remote_dom: 2, port: 0 };
        event(w, who, EVTCHNOP_ALLOC_UNBOUND, arg).is_some()
    }),
    op(1, "close", |w, who| event(w, who, EVTCHNOP_CLOSE, EvtchnClose { port: PORT.0 }).is_some()),
    op(2, "close the other end", |w, who| {
        event(w, who, EVTCHNOP_CLOSE, EvtchnClose { port: w.far.load(Relaxed) }).is_some()
    })
    .after(&["bind to it"]),
    op(1, "send", |w, who| event(w, who, EVTCHNOP_SEND, EvtchnSend { port: PORT.0 }).is_some())
        .after(&["bind to it"]),
    op(2, "send from the other end", |w, who| {
        event(w, who, EVTCHNOP_SEND, EvtchnSend { port: w.far.load(Relaxed) }).is_some()
    })
    .after(&["bind to it"]),
    op(1, "unmask", |w, who| event(w, who, EVTCHNOP_UNMASK, EvtchnUnmask { port: PORT.0 }).is_some())
        .after(&["mask", "bind to it", "send from the other end"]),
    op(1, "mask", |w, who| {
        let mask = &w.hv.platform.frame_words(w.domains[1].shared_info)[320];
        mask.fetch_or(1 << PORT.0, SeqCst);
        w.may_run(who)
    }),
    op(1, "take events", |w, who| take_events(&w.hv, &w.domains[1], who.cpu))
        .after(&["bind to it", "send from the other end"]),
    op(1, "move to vCPU 0", |w, who| {
        event(w, who, EVTCHNOP_BIND_VCPU, EvtchnBindVcpu { port: PORT.0, vcpu: 0 }).is_some()
    })
    .after(&["bind to it"]),
    op(1, "move to vCPU 1", |w, who| {
        event(w, who, EVTCHNOP_BIND_VCPU, EvtchnBindVcpu { port: PORT.0, vcpu: 1 }).is_some()
    })
    .after(&["bind to it"]),
    op(1, "FIFO control block", |w, who| fifo_control(w, who, if who.cpu == 0 { w.page } else { w.other })),
    op(1, "FIFO words", |w, who| fifo_words(w, who, w.spare_table)).after(&["FIFO control block"]),
    op(1, "priority", |w, who| {
        event(w, who, EVTCHNOP_SET_PRIORITY, EvtchnSetPriority { port: PORT.0, priority: 3 }).is_some()
    })
    .after(&["FIFO control block"]),
    op(1, "reset", |w, who| event(w, who, EVTCHNOP_RESET, EvtchnReset { dom: DOMID_SELF }).is_some())
        .after(&["bind to it"]),
    op(1, "go on with a reset, or begin one", |w, who| {
        let reset = |command| event(w, who, command, EvtchnReset { dom: DOMID_SELF }).is_some();
        reset(EVTCHNOP_RESET_CONT) || reset(EVTCHNOP_RESET)
    })
    .after(&["bind to it", "FIFO control block", "FIFO words"]),
    op(2, "reset the other end", |w, who| {
        event(w, who, EVTCHNOP_RESET, EvtchnReset { dom: DOMID_SELF }).is_some()
    })
    .after(&["bind to it"]),
    op(1, "virq", |w, who| {
        let arg = EvtchnBindVirq { virq: VIRQ_DEBUG, vcpu: 0, port: 0 };
        event(w, who, EVTCHNOP_BIND_VIRQ, arg).is_some()
    }),
    op(1, "IPI", |w, who| {
        event(w, who, EVTCHNOP_BIND_IPI, EvtchnBindIpi { vcpu: who.cpu as u32, port: 0 }).is_some()
    }),
    op(1, "status", |w, who| {
        let arg = EvtchnStatus { dom: DOMID_SELF, port: PORT.0, ..Default::default() };
        event(w, who, EVTCHNOP_STATUS, arg).is_some()
    }),
    op(1, "poll", |w, who| {
        let ports = w.put(who, 0x100, &[PORT.0]);
        let at = w.put(who, 0, &[SchedPoll { ports: ports.into(), nr_ports: 1, ..Default::default() }]);
        w.did(who, nr::SCHED_OP, &[SCHEDOP_POLL.into(), at])
    })
    .after(&["bind to it"]),
    op(1, "block", |w, who| w.did(who, nr::SCHED_OP, &[SCHEDOP_BLOCK.into(), 0])).after(&["bind to it"]),
    op(0, "virq of the hypervisor", |w, _| {
        w.hv.send_virq(&w.domains[1], w.domains[1].vcpus[0].id, VIRQ_DEBUG);
        true
    })
    .after(&["virq"]),
    super::domains::DESTROY,
    super::domains::DESTROY_NEIGHBOUR,
];

/// `event_channel_op`; answers where its argument is if it was done.
fn event<T: IntoBytes + Immutable>(w: &World, who: Who, cmd: u32, arg: T) -> Option<u64> {
    let at = w.put(who, 0, &[arg]);
    w.did(who, nr::EVENT_CHANNEL_OP, &[cmd.into(), at]).then_some(at)
}

#[test]
fn on_a_port() {
    assert_eq!(PORT, Port(1));
    meet(OPS);
}
