//! Regressions behind published advisories on event channels and device interrupts.
//!
//! Advisories of this field that a lone guest cannot check, because they need another CPU at the right moment: 36, 340, 343
//! (races of binding, closing and reset), 358, 359 (ordering of accesses to FIFO control blocks). 285, 302 and 237's other half are about
//! devices handed to other domains.

use guest_pv_lib::Errno;
use guest_pv_lib::events::{self, Port};
use xen_abi::GuestHandle;
use xen_abi::event_channel::*;
use xen_abi::hypercall::nr;
use xen_abi::physdev::*;
use xen_abi::sched::{SCHEDOP_POLL, SchedPoll};
use xen_abi::xen::{DOMID_SELF, VIRQ_DEBUG};

use super::event::*;
use super::event_fifo::{self, with_fifo};
use super::physdev::{map_line, map_message};
use crate::call::{Ret, op};
use crate::harness::{check, need, same};

fn poll(port: u32) -> Ret {
    let mut port = port;
    // A time in the past: the poll ends at once where the port is not pending.
    op(
        nr::SCHED_OP,
        SCHEDOP_POLL,
        &mut SchedPoll {
            ports: GuestHandle::from(&raw mut port as u64),
            nr_ports: 1,
            timeout: 1,
            ..SchedPoll::default()
        },
    )
}

case! {
    #[alone]
    /// XSA-13: when no number is left, asking for a free one fails, and harms nothing.
    fn xsa_013_free_pirqs_end(env) {
        let _ = env;
        let get = || {
            let mut arg = PhysdevGetFreePirq { type_: MAP_PIRQ_TYPE_MSI, ..PhysdevGetFreePirq::default() };
            op(nr::PHYSDEV_OP, PHYSDEVOP_GET_FREE_PIRQ, &mut arg).map(|_| arg.pirq)
        };
        let end = (0..1 << 16).map(|_| get()).find(Result::is_err);
        same("the end", end, Some(Err(Errno::ENOSPC)))?;
        same("again", get(), Err(Errno::ENOSPC))
    }
}

returns! {
    /// XSA-16: the number of a line is checked before it is used as an index.
    xsa_016_line_numbers(env): [-1, i32::MIN, 1 << 16, i32::MAX].map(|line| map_line(DOMID_SELF, line, -1))
        => [Err(Errno::EINVAL); 4];
    /// XSA-21: so is a pirq.
    xsa_021_pirq_numbers(env): [u32::MAX, 1 << 31, 1 << 20].map(|irq| {
        op(nr::PHYSDEV_OP, PHYSDEVOP_EOI, &mut PhysdevEoi { irq })
    }) => [Err(Errno::EINVAL); 3];
    /// XSA-237: a request for several messages names a device, and a number of them that MSI has.
    xsa_237_several_messages(env): [i32::MIN, -1, 0, 33, i32::MAX].map(|count| map_message(MAP_PIRQ_TYPE_MULTI_MSI, 0, count, 0))
        => [Err(Errno::EDOM); 5];
}

case! {
    #[alone]
    #[vcpus(2)]
    /// XSA-107: an event for a CPU that has no control block is dropped.
    fn xsa_107_no_control_block(env) {
        with_fifo(env, |fifo| {
            let port = need("bind_ipi", bind_ipi(1))?;
            same("send", send(port), Ok(0))?;
            same("word", fifo.word(port), 0)?;
            same("control block", event_fifo::init_control(env.page(2), 1, 0), Ok(17))?;
            same("send", send(port), Ok(0))?;
            same("word", fifo.word(port), event_fifo::PENDING | event_fifo::LINKED)
        })
    }
}

case! {
    #[alone]
    #[vcpus(2)]
    /// XSA-188: a control block that cannot be had leaves nothing behind: the first one's failure the old layout, another CPU's
    /// failure the new one.
    fn xsa_188_failed_set_up(env) {
        let root = EvtchnInitControl { control_gfn: env.boot.root_table().0, ..EvtchnInitControl::default() };
        for vcpu in [0, 1, 0] {
            let mut arg = EvtchnInitControl { vcpu, ..root };
            same("a table as block", event(EVTCHNOP_INIT_CONTROL, &mut arg), Err(Errno::EINVAL))?;
            with_port(bind_ipi(0), |port| {
                same("send", send(port), Ok(0))?;
                check("pending by the old layout", events::take(Port(port)))
            })?;
        }
        with_fifo(env, |fifo| {
            let port = need("bind_ipi", bind_ipi(0))?;
            let mut arg = EvtchnInitControl { vcpu: 1, ..root };
            same("a table as block", event(EVTCHNOP_INIT_CONTROL, &mut arg), Err(Errno::EINVAL))?;
            same("send", send(port), Ok(0))?;
            same("word", fifo.word(port), event_fifo::PENDING | event_fifo::LINKED)
        })
    }
}

case! {
    /// XSA-221: polling a port that was never bound, or has no memory yet, is an error and nothing worse.
    fn xsa_221_poll_never_bound(env) {
        let _ = env;
        same("two levels", [poll(0), poll(4095), poll(1000)], [Err(Errno::EINVAL); 3])?;
        same("beyond", [poll(4096), poll(u32::MAX)], [Err(Errno::EINVAL); 2])?;
        with_fifo(env, |_| {
            let port = need("bind_ipi", bind_ipi(0))?;
            same("bound", poll(port), Ok(0))?;
            same("never bound", [poll(1 << 16), poll(1 << 17), poll(u32::MAX)], [Err(Errno::EINVAL); 3])
        })
    }
}

case! {
    /// XSA-317: where no port is left, every kind of binding says so.
    fn xsa_317_no_port_left(env) {
        let _ = env;
        while bind_ipi(0).is_ok() {}
        let answers = [
            alloc_unbound(DOMID_SELF, DOMID_SELF), bind_virq(VIRQ_DEBUG, 0), bind_ipi(0), bind_interdomain(DOMID_SELF, 1),
        ];
        let reset = event(EVTCHNOP_RESET, &mut EvtchnReset { dom: DOMID_SELF });
        same("reset", reset, Ok(0))?;
        same("answers", answers, [Err(Errno::ENOSPC); 4])?;
        with_port(bind_virq(VIRQ_DEBUG, 0), |_| Ok(()))
    }
}

case! {
    /// XSA-338: a port that was valid once stays so, also beyond the limit of the layout that a reset goes back to.
    fn xsa_338_valid_ports_stay(env) {
        let mut last = 0;
        with_fifo(env, |_| {
            while last <= EVTCHN_2L_NR_CHANNELS {
                last = need("bind_ipi", bind_ipi(0))?;
            }
            Ok(())
        })?;
        same("status", status(last).map(|is| is.status), Ok(EVTCHNSTAT_CLOSED))?;
        same("send", send(last), Err(Errno::EINVAL))?;
        same("close", close(last), Err(Errno::EINVAL))?;
        same("unmask", event(EVTCHNOP_UNMASK, &mut EvtchnUnmask { port: last }), Ok(0))?;
        same("poll", poll(last), Err(Errno::EINVAL))
    }
}

case! {
    /// XSA-343: a reset while channels are looped back closes both ends, whichever comes first.
    fn xsa_343_reset_of_loops(env) {
        let _ = env;
        let mut ends = [(0, 0); 16];
        for end in &mut ends {
            let far = need("alloc_unbound", alloc_unbound(DOMID_SELF, DOMID_SELF))?;
            let near = need("bind_interdomain", bind_interdomain(DOMID_SELF, far))?;
            *end = (far, near);
        }
        same("reset", event(EVTCHNOP_RESET, &mut EvtchnReset { dom: DOMID_SELF }), Ok(0))?;
        for port in ends.iter().flat_map(|(far, near)| [*far, *near]) {
            same("closed", status(port).map(|is| is.status), Ok(EVTCHNSTAT_CLOSED))?;
            check("not pending", !events::take(Port(port)))?;
        }
        Ok(())
    }
}

case! {
    /// XSA-344: closing very many ports at once comes to an end.
    fn xsa_344_reset_of_many(env) {
        with_fifo(env, |_| {
            (0..6000).try_for_each(|_| need("bind_ipi", bind_ipi(0)).map(drop))
        })?;
        same("closed", status(6000).map(|is| is.status), Ok(EVTCHNSTAT_CLOSED))
    }
}
