//! Binding and closing event channels: who may bind what, which port it gets, what is left behind.

use guest_pv_lib::Errno;
use guest_pv_lib::events::{self, Port};
use xen_abi::event_channel::*;
use xen_abi::vcpu::{VCPUOP_SET_SINGLESHOT_TIMER, VcpuSetSingleshotTimer};
use xen_abi::xen::*;

use super::event::*;
use crate::call::{NO_DOMAIN, vcpu};
use crate::harness::{Verdict, check, need, same};

/// Virtual interrupts that belong to one CPU; all others are the domain's.
const PER_CPU: [u32; 4] = [VIRQ_TIMER, VIRQ_DEBUG, VIRQ_XENOPROF, VIRQ_XENPMU];
/// A CPU that no domain has.
const NO_CPU: u32 = 4000;

fn rebind(port: u32, vcpu: u32) -> Result<u64, Errno> {
    event(EVTCHNOP_BIND_VCPU, &mut EvtchnBindVcpu { port, vcpu })
}

fn reset(dom: u16) -> Result<u64, Errno> {
    event(EVTCHNOP_RESET, &mut EvtchnReset { dom })
}

returns! {
    /// A pseudo domain has no ports.
    alloc_for_pseudo_domain(env): [DOMID_IO, DOMID_XEN, DOMID_INVALID].map(|dom| alloc_unbound(dom, DOMID_SELF))
        => [Err(Errno::ESRCH); 3];
    /// A pseudo domain has no ports to connect to.
    bind_to_pseudo_domain(env): [DOMID_IO, DOMID_XEN].map(|dom| bind_interdomain(dom, 1)) => [Err(Errno::ESRCH); 2];
    /// Port 0 is never offered.
    bind_to_port_zero(env): bind_interdomain(DOMID_SELF, 0) => Err(Errno::EINVAL);
    /// Port 0 is valid and never bound: it cannot be sent to.
    send_port_zero(env): send(0) => Err(Errno::EINVAL);
    /// Port 0 counts as closed.
    status_port_zero(env): status(0).map(|is| is.status) => Ok(EVTCHNSTAT_CLOSED);
    /// Port 0 cannot be moved.
    rebind_port_zero(env): rebind(0, 0) => Err(Errno::EINVAL);
    /// A domain that does not exist has no status.
    status_of_nobody(env): event(EVTCHNOP_STATUS, &mut EvtchnStatus { dom: NO_DOMAIN, port: 1, ..EvtchnStatus::default() })
        => Err(Errno::ESRCH);
    /// A domain that does not exist cannot be reset.
    reset_of_nobody(env): reset(NO_DOMAIN) => Err(Errno::ESRCH);
    /// The second half of an interrupted reset, without a first.
    reset_goes_on_from_nothing(env): event(14, &mut EvtchnReset { dom: DOMID_SELF }) => Err(Errno::EBUSY);
    /// The two-level layout has no priorities.
    priority_without_fifo(env): {
        bind_ipi(0).and_then(|port| {
            let answer = event(EVTCHNOP_SET_PRIORITY, &mut EvtchnSetPriority { port, priority: 0 });
            close(port).and(answer)
        })
    } => Err(Errno::ENOSYS);
    /// The port is looked at before the layout.
    priority_of_no_port(env): event(EVTCHNOP_SET_PRIORITY, &mut EvtchnSetPriority { port: NO_PORT, priority: 0 })
        => Err(Errno::EINVAL);
}

case! {
    /// Which virtual interrupts belong to one CPU and which to the domain: a CPU other than 0 is an invalid argument for
    /// the latter, before it is looked for.
    fn virq_kinds(env) {
        let _ = env;
        for virq in 0..NR_VIRQS {
            let want = if PER_CPU.contains(&virq) { Errno::ENOENT } else { Errno::EINVAL };
            same("bound to no CPU", bind_virq(virq, NO_CPU), Err(want))?;
        }
        Ok(())
    }
}

case! {
    /// Every virtual interrupt can be bound on CPU 0, once, and each can be told by its status.
    fn virq_all(env) {
        let _ = env;
        for virq in 0..NR_VIRQS {
            with_port(bind_virq(virq, 0), |port| {
                let status = need("status", status(port))?;
                same("kind", status.status, EVTCHNSTAT_VIRQ)?;
                same("which", u32::from_le_bytes([status.u[0], status.u[1], status.u[2], status.u[3]]), virq)?;
                same("again", bind_virq(virq, 0), Err(Errno::EEXIST))
            })?;
        }
        Ok(())
    }
}

case! {
    /// The timer's interrupt becomes pending when the one-shot timer goes off.
    fn virq_timer(env) {
        let _ = env;
        with_port(bind_virq(VIRQ_TIMER, 0), |port| {
            let mut past = VcpuSetSingleshotTimer { timeout_abs_ns: 1, ..VcpuSetSingleshotTimer::default() };
            need("timer", vcpu(VCPUOP_SET_SINGLESHOT_TIMER, 0, &mut past))?;
            let pending = (0..1000).any(|_| {
                let _ = status(port);
                events::take(Port(port))
            });
            check("pending", pending)
        })
    }
}

case! {
    /// The lowest free port is bound first, and one that was closed comes again.
    fn lowest_port_first(env) {
        let _ = env;
        let ports = [bind_ipi(0), bind_ipi(0), bind_ipi(0)];
        let again = ports[1].and_then(|port| close(port).and(bind_ipi(0)));
        for port in [ports[0], again, ports[2]].into_iter().flatten() {
            need("close", close(port))?;
        }
        let [Ok(a), Ok(b), Ok(c)] = ports else { return Err(Verdict::Error("bind_ipi")) };
        same("in order", (b, c), (a + 1, a + 2))?;
        same("reused", again, Ok(b))
    }
}

case! {
    /// A closed port leaves no event behind for the next one with its number.
    fn close_takes_event_back(env) {
        let _ = env;
        let port = need("bind_ipi", bind_ipi(0))?;
        events::mask(Port(port));
        need("send", send(port))?;
        need("close", close(port))?;
        check("not pending", !events::take(Port(port)))?;
        same("close again", close(port), Err(Errno::EINVAL))
    }
}

case! {
    /// A port may be offered to a domain that does not exist (yet): who may bind is looked at when it does.
    fn offered_to_another(env) {
        let _ = env;
        with_port(alloc_unbound(DOMID_SELF, NO_DOMAIN), |port| {
            let is = need("status", status(port))?;
            same("offered to", (is.status, u16::from_le_bytes([is.u[0], is.u[1]])), (EVTCHNSTAT_UNBOUND, NO_DOMAIN))?;
            same("bound by us", bind_interdomain(DOMID_SELF, port), Err(Errno::EINVAL))
        })
    }
}

case! {
    /// `DOMID_SELF` in an offer stands for the domain's own number, which status tells.
    fn offered_to_self(env) {
        let _ = env;
        with_port(alloc_unbound(0, DOMID_SELF), |port| {
            let is = need("status", status(port))?;
            same("offered to", (is.status, u16::from_le_bytes([is.u[0], is.u[1]])), (EVTCHNSTAT_UNBOUND, 0))
        })
    }
}

case! {
    /// Only a port that waits can be connected to.
    fn bind_to_ipi(env) {
        let _ = env;
        with_port(bind_ipi(0), |port| same("bind", bind_interdomain(DOMID_SELF, port), Err(Errno::EINVAL)))
    }
}

case! {
    /// Both ends of a channel name each other, by domain number and port.
    fn status_of_channel(env) {
        let _ = env;
        with_port(alloc_unbound(DOMID_SELF, DOMID_SELF), |far| {
            with_port(bind_interdomain(DOMID_SELF, far), |near| {
                for (port, other) in [(near, far), (far, near)] {
                    let is = need("status", status(port))?;
                    let domain = u16::from_le_bytes([is.u[0], is.u[1]]);
                    let end = u32::from_le_bytes([is.u[4], is.u[5], is.u[6], is.u[7]]);
                    same("other end", (is.status, domain, end), (EVTCHNSTAT_INTERDOMAIN, 0, other))?;
                }
                Ok(())
            })
        })
    }
}

case! {
    /// The end that waited becomes free for a new connection when the other one closes, and events sent on it are
    /// dropped meanwhile.
    fn connect_again(env) {
        let _ = env;
        with_port(alloc_unbound(DOMID_SELF, DOMID_SELF), |far| {
            for _ in 0..2 {
                with_port(bind_interdomain(DOMID_SELF, far), |near| {
                    let _ = events::take(Port(near));
                    same("send", send(far), Ok(0))?;
                    check("arrives", events::take(Port(near)))
                })?;
                same("send to nobody", send(far), Ok(0))?;
            }
            Ok(())
        })
    }
}

case! {
    /// The end that offered closes: the one that connected waits, for the domain it was connected to.
    fn close_offering_end(env) {
        let _ = env;
        let far = need("alloc_unbound", alloc_unbound(DOMID_SELF, DOMID_SELF))?;
        events::mask(Port(far));
        with_port(bind_interdomain(DOMID_SELF, far), |near| {
            same("close", close(far), Ok(0))?;
            let is = need("status", status(near))?;
            same("waits", (is.status, u16::from_le_bytes([is.u[0], is.u[1]])), (EVTCHNSTAT_UNBOUND, 0))
        })
    }
}

case! {
    /// Ports that wait or are connected may be moved to any CPU of the domain.
    fn rebind_channel(env) {
        let _ = env;
        with_port(alloc_unbound(DOMID_SELF, DOMID_SELF), |far| {
            same("waiting", rebind(far, 0), Ok(0))?;
            same("to no CPU", rebind(far, NO_CPU), Err(Errno::ENOENT))?;
            with_port(bind_interdomain(DOMID_SELF, far), |near| same("connected", rebind(near, 0), Ok(0)))
        })
    }
}

case! {
    /// The two-level layout has 4096 ports, port 0 included; there are no more, and a reset closes them all.
    fn two_level_limit(env) {
        let _ = env;
        let mut last = Ok(0);
        let mut bound = 0;
        loop {
            let port = bind_ipi(0);
            if port.is_err() || bound == EVTCHN_2L_NR_CHANNELS {
                same("reset", reset(DOMID_SELF), Ok(0))?;
                same("refused", port, Err(Errno::ENOSPC))?;
                break;
            }
            bound += 1;
            last = port;
        }
        same("the last one", last, Ok(EVTCHN_2L_NR_CHANNELS - 1))?;
        same("closed", status(EVTCHN_2L_NR_CHANNELS - 1).map(|is| is.status), Ok(EVTCHNSTAT_CLOSED))?;
        with_port(bind_ipi(0), |_| Ok(()))
    }
}

case! {
    /// A reset closes ports of every kind, and gives virtual interrupts free again.
    fn reset_closes(env) {
        let _ = env;
        let far = need("alloc_unbound", alloc_unbound(DOMID_SELF, DOMID_SELF))?;
        let near = need("bind_interdomain", bind_interdomain(DOMID_SELF, far))?;
        let virq = need("bind_virq", bind_virq(VIRQ_DEBUG, 0))?;
        let ipi = need("bind_ipi", bind_ipi(0))?;
        need("send", send(ipi))?;
        same("reset", reset(DOMID_SELF), Ok(0))?;
        for port in [far, near, virq, ipi] {
            same("closed", status(port).map(|is| is.status), Ok(EVTCHNSTAT_CLOSED))?;
            let _ = events::take(Port(near));
        }
        check("not pending", !events::take(Port(ipi)))?;
        same("again", reset(0), Ok(0))?;
        with_port(bind_virq(VIRQ_DEBUG, 0), |_| Ok(()))
    }
}
