//! `event_channel_op` (event_channel.h).

use guest_pv_lib::Errno;
use guest_pv_lib::events::{self, Port};
use xen_abi::event_channel::*;
use xen_abi::hypercall::nr;
use xen_abi::xen::{DOMID_SELF, VIRQ_CONSOLE, VIRQ_DEBUG, VIRQ_DOM_EXC, VIRQ_TIMER};

use crate::call::{FAULTS, NO_DOMAIN, Ret, all_fault, hc2, op};
use crate::harness::{Outcome, check, need, same};

pub(super) fn event<T>(command: u32, arg: &mut T) -> Ret {
    op(nr::EVENT_CHANNEL_OP, command, arg)
}

pub(super) fn close(port: u32) -> Ret {
    event(EVTCHNOP_CLOSE, &mut EvtchnClose { port })
}

pub(super) fn send(port: u32) -> Ret {
    event(EVTCHNOP_SEND, &mut EvtchnSend { port })
}

pub(super) fn bind_virq(virq: u32, vcpu: u32) -> Result<u32, Errno> {
    let mut arg = EvtchnBindVirq { virq, vcpu, port: 0 };
    event(EVTCHNOP_BIND_VIRQ, &mut arg).map(|_| arg.port)
}

pub(super) fn bind_ipi(vcpu: u32) -> Result<u32, Errno> {
    let mut arg = EvtchnBindIpi { vcpu, port: 0 };
    event(EVTCHNOP_BIND_IPI, &mut arg).map(|_| arg.port)
}

pub(super) fn alloc_unbound(dom: u16, remote_dom: u16) -> Result<u32, Errno> {
    let mut arg = EvtchnAllocUnbound { dom, remote_dom, port: 0 };
    event(EVTCHNOP_ALLOC_UNBOUND, &mut arg).map(|_| arg.port)
}

pub(super) fn bind_interdomain(remote_dom: u16, remote_port: u32) -> Result<u32, Errno> {
    let mut arg = EvtchnBindInterdomain { remote_dom, remote_port, ..EvtchnBindInterdomain::default() };
    event(EVTCHNOP_BIND_INTERDOMAIN, &mut arg).map(|_| arg.local_port)
}

pub(super) fn status(port: u32) -> Result<EvtchnStatus, Errno> {
    let mut arg = EvtchnStatus { dom: DOMID_SELF, port, ..EvtchnStatus::default() };
    event(EVTCHNOP_STATUS, &mut arg).map(|_| arg)
}

fn at(command: u32) -> impl Fn(u64) -> Ret {
    move |address| hc2(nr::EVENT_CHANNEL_OP, u64::from(command), address)
}

/// No port of any layout has this number.
pub(super) const NO_PORT: u32 = 1 << 20;

returns! {
    /// A command that does not exist.
    unknown_command(env): event(99, &mut 0u64) => Err(Errno::ENOSYS);
    /// Bad pointers, bind_virq.
    bind_virq_fault(env): all_fault(at(EVTCHNOP_BIND_VIRQ)) => FAULTS;
    /// Bad pointers, bind_ipi.
    bind_ipi_fault(env): all_fault(at(EVTCHNOP_BIND_IPI)) => FAULTS;
    /// Bad pointers, send.
    send_fault(env): all_fault(at(EVTCHNOP_SEND)) => FAULTS;
    /// Bad pointers, close.
    close_fault(env): all_fault(at(EVTCHNOP_CLOSE)) => FAULTS;
    /// Bad pointers, status.
    status_fault(env): all_fault(at(EVTCHNOP_STATUS)) => FAULTS;
    /// Bad pointers, alloc_unbound.
    alloc_unbound_fault(env): all_fault(at(EVTCHNOP_ALLOC_UNBOUND)) => FAULTS;
    /// A virtual interrupt that does not exist.
    virq_unknown(env): bind_virq(24, 0) => Err(Errno::EINVAL);
    /// The number is checked before it is used as an index.
    virq_huge(env): bind_virq(u32::MAX, 0) => Err(Errno::EINVAL);
    /// A per-CPU interrupt of a CPU that does not exist.
    virq_unknown_cpu(env): bind_virq(VIRQ_DEBUG, 4000) => Err(Errno::ENOENT);
    /// A global interrupt is first bound to CPU 0.
    virq_global_elsewhere(env): bind_virq(VIRQ_DOM_EXC, 1) => Err(Errno::EINVAL);
    /// An IPI to a CPU that does not exist.
    ipi_unknown_cpu(env): bind_ipi(4000) => Err(Errno::ENOENT);
    /// A port that was never opened cannot be closed.
    close_free_port(env): close(4000) => Err(Errno::EINVAL);
    /// Port 0 is never valid.
    close_port_zero(env): close(0) => Err(Errno::EINVAL);
    /// A number beyond the layout.
    close_beyond(env): close(NO_PORT) => Err(Errno::EINVAL);
    /// A number beyond the layout.
    send_beyond(env): send(NO_PORT) => Err(Errno::EINVAL);
    /// A port that was never opened.
    send_free_port(env): send(4000) => Err(Errno::EINVAL);
    /// A number beyond the layout.
    status_beyond(env): status(NO_PORT).map(|_| ()) => Err(Errno::EINVAL);
    /// A domain that does not exist cannot be offered a port of.
    alloc_for_nobody(env): alloc_unbound(NO_DOMAIN, DOMID_SELF) => Err(Errno::ESRCH);
    /// A domain that does not exist has no ports to connect to.
    bind_to_nobody(env): bind_interdomain(NO_DOMAIN, 1) => Err(Errno::ESRCH);
    /// A port that is not offered.
    bind_to_free_port(env): bind_interdomain(DOMID_SELF, 4000) => Err(Errno::EINVAL);
    /// A number beyond the layout.
    bind_to_beyond(env): bind_interdomain(DOMID_SELF, NO_PORT) => Err(Errno::EINVAL);
    /// A physical interrupt that does not exist.
    pirq_unknown(env): event(EVTCHNOP_BIND_PIRQ, &mut EvtchnBindPirq { pirq: 1 << 20, ..EvtchnBindPirq::default() })
        => Err(Errno::EINVAL);
    /// Rebinding a port that is not open.
    bind_vcpu_free_port(env): event(EVTCHNOP_BIND_VCPU, &mut EvtchnBindVcpu { port: 4000, vcpu: 0 })
        => Err(Errno::EINVAL);
    /// Rebinding to a CPU that does not exist.
    bind_vcpu_unknown_cpu(env): event(EVTCHNOP_BIND_VCPU, &mut EvtchnBindVcpu { port: 1, vcpu: 4000 })
        => Err(Errno::ENOENT);
    /// A number beyond the layout.
    unmask_beyond(env): event(EVTCHNOP_UNMASK, &mut EvtchnUnmask { port: NO_PORT }) => Err(Errno::EINVAL);
    /// Growing the array of a layout that is not in use.
    expand_without_fifo(env): event(EVTCHNOP_EXPAND_ARRAY, &mut EvtchnExpandArray { array_gfn: env.page(0).mfn().0 })
        => Err(Errno::EOPNOTSUPP);
    /// The control block of another layout must lie inside a page.
    init_control_across_pages(env): event(EVTCHNOP_INIT_CONTROL, &mut EvtchnInitControl {
        control_gfn: env.page(0).mfn().0, offset: 4090, ..EvtchnInitControl::default()
    }) => Err(Errno::EINVAL);
}

/// Runs `body` with a port and closes it, whatever the body found.
pub(super) fn with_port(port: Result<u32, Errno>, body: impl FnOnce(u32) -> Outcome) -> Outcome {
    let port = need("opening a port", port)?;
    events::mask(Port(port));
    let outcome = body(port);
    same("close", close(port), Ok(0))?;
    outcome
}

case! {
    /// A per-CPU interrupt is bound once.
    fn virq_twice(env) {
        let _ = env;
        with_port(bind_virq(VIRQ_TIMER, 0), |_| same("again", bind_virq(VIRQ_TIMER, 0), Err(Errno::EEXIST)))
    }
}

case! {
    /// A closed virtual interrupt can be bound again.
    fn virq_after_close(env) {
        let _ = env;
        with_port(bind_virq(VIRQ_DEBUG, 0), |_| Ok(()))?;
        with_port(bind_virq(VIRQ_DEBUG, 0), |_| Ok(()))
    }
}

case! {
    /// Status tells the kind of a port, its CPU and its source.
    fn status_of_kinds(env) {
        let _ = env;
        with_port(bind_virq(VIRQ_DEBUG, 0), |port| {
            let status = need("status", status(port))?;
            same("virq", (status.status, status.vcpu), (EVTCHNSTAT_VIRQ, 0))?;
            let [a, b, c, d, ..] = status.u;
            same("which", u32::from_le_bytes([a, b, c, d]), VIRQ_DEBUG)
        })?;
        with_port(bind_ipi(0), |port| same("ipi", status(port).map(|is| is.status), Ok(EVTCHNSTAT_IPI)))?;
        with_port(alloc_unbound(DOMID_SELF, DOMID_SELF), |port| {
            same("unbound", status(port).map(|is| is.status), Ok(EVTCHNSTAT_UNBOUND))
        })?;
        let port = need("opening a port", bind_ipi(0))?;
        need("close", close(port))?;
        same("closed", status(port).map(|is| is.status), Ok(EVTCHNSTAT_CLOSED))
    }
}

case! {
    /// A virtual interrupt's port cannot be sent to.
    fn send_to_virq(env) {
        let _ = env;
        with_port(bind_virq(VIRQ_DEBUG, 0), |port| same("send", send(port), Err(Errno::EINVAL)))
    }
}

case! {
    /// Sending to a port that nobody has connected to is no error, and does nothing.
    fn send_to_unbound(env) {
        let _ = env;
        with_port(alloc_unbound(DOMID_SELF, DOMID_SELF), |port| {
            same("send", send(port), Ok(0))?;
            check("not pending", !events::take(Port(port)))
        })
    }
}

case! {
    /// An IPI port becomes pending when it is sent to.
    fn send_to_ipi(env) {
        let _ = env;
        with_port(bind_ipi(0), |port| {
            same("send", send(port), Ok(0))?;
            check("pending", events::take(Port(port)))?;
            check("once", !events::take(Port(port)))
        })
    }
}

case! {
    /// Two ports of one domain connected to each other: an event sent on one arrives on the other, and closing one
    /// leaves the other unbound.
    fn loopback(env) {
        let _ = env;
        with_port(alloc_unbound(DOMID_SELF, DOMID_SELF), |offered| {
            let local = need("bind_interdomain", bind_interdomain(DOMID_SELF, offered))?;
            events::mask(Port(local));
            check("a new connection is pending", events::take(Port(local)))?;
            same("kind", status(local).map(|is| is.status), Ok(EVTCHNSTAT_INTERDOMAIN))?;
            same("send", send(local), Ok(0))?;
            check("arrives at the other end", events::take(Port(offered)))?;
            check("and only there", !events::take(Port(local)))?;
            same("connect twice", bind_interdomain(DOMID_SELF, offered), Err(Errno::EINVAL))?;
            same("close", close(local), Ok(0))?;
            same("the other end", status(offered).map(|is| is.status), Ok(EVTCHNSTAT_UNBOUND))
        })
    }
}

case! {
    /// The port of a per-CPU interrupt stays with its CPU; others may move.
    fn rebinding(env) {
        let _ = env;
        let rebind = |port| event(EVTCHNOP_BIND_VCPU, &mut EvtchnBindVcpu { port, vcpu: 0 });
        with_port(bind_virq(VIRQ_DEBUG, 0), |port| same("per CPU", rebind(port), Err(Errno::EINVAL)))?;
        with_port(bind_ipi(0), |port| same("ipi", rebind(port), Err(Errno::EINVAL)))?;
        with_port(bind_virq(VIRQ_CONSOLE, 0), |port| same("global", rebind(port), Ok(0)))
    }
}

case! {
    /// A pending port that is unmasked by hypercall raises the CPU's flag.
    fn unmask_raises(env) {
        let _ = env;
        with_port(bind_ipi(0), |port| {
            same("send", send(port), Ok(0))?;
            same("unmask", event(EVTCHNOP_UNMASK, &mut EvtchnUnmask { port }), Ok(0))?;
            events::mask(Port(port));
            check("still pending", events::take(Port(port)))
        })
    }
}
