//! Event channels between two domains (event_channel.h).

use core::mem::offset_of;
use core::sync::atomic::Ordering::Relaxed;

use guest_pv_lib::Errno;
use guest_pv_lib::events::{self, Port};
use guest_pv_lib::mmu::Mfn;
use xen_abi::domctl::{XEN_DOMCTL_SET_VIRQ_HANDLER, XenDomctlSetVirqHandler};
use xen_abi::event_channel::*;
use xen_abi::hypercall::nr;
use xen_abi::xen::{DOMID_SELF, SharedInfo, VIRQ_ARGO, VIRQ_CONSOLE, VIRQ_DEBUG, VIRQ_DOM_EXC, VIRQ_TIMER};

use crate::call::{Ret, op};
use crate::harness::{Outcome, Verdict, check, need, same};
use crate::peer::control::{Domain, domctl, info};
use crate::peer::{Peer, with_peer};

fn event<T>(command: u32, arg: &mut T) -> Ret {
    op(nr::EVENT_CHANNEL_OP, command, arg)
}

/// A port of the first domain that `remote` may connect to.
fn offer(remote: u16) -> Result<u32, Errno> {
    let mut arg = EvtchnAllocUnbound { dom: DOMID_SELF, remote_dom: remote, port: 0 };
    event(EVTCHNOP_ALLOC_UNBOUND, &mut arg).map(|_| {
        events::mask(Port(arg.port));
        arg.port
    })
}

fn close(port: u32) -> Ret {
    event(EVTCHNOP_CLOSE, &mut EvtchnClose { port })
}

fn send(port: u32) -> Ret {
    event(EVTCHNOP_SEND, &mut EvtchnSend { port })
}

fn status(dom: u16, port: u32) -> Result<u32, Errno> {
    let mut arg = EvtchnStatus { dom, port, ..EvtchnStatus::default() };
    event(EVTCHNOP_STATUS, &mut arg).map(|_| arg.status)
}

/// The peer connects to a port of `remote_dom`.
fn connect(peer: &Peer<'_>, remote_dom: u16, remote_port: u32) -> Result<u32, Errno> {
    let mut arg = EvtchnBindInterdomain { remote_dom, remote_port, ..EvtchnBindInterdomain::default() };
    peer.op(nr::EVENT_CHANNEL_OP, EVTCHNOP_BIND_INTERDOMAIN, &mut arg).map(|_| arg.local_port)
}

/// The peer binds a virtual interrupt.
fn virq(peer: &Peer<'_>, virq: u32) -> Result<u32, Errno> {
    let mut arg = EvtchnBindVirq { virq, vcpu: 0, port: 0 };
    peer.op(nr::EVENT_CHANNEL_OP, EVTCHNOP_BIND_VIRQ, &mut arg).map(|_| arg.port)
}

fn peer_send(peer: &Peer<'_>, port: u32) -> Ret {
    peer.op(nr::EVENT_CHANNEL_OP, EVTCHNOP_SEND, &mut EvtchnSend { port })
}

fn peer_close(peer: &Peer<'_>, port: u32) -> Ret {
    peer.op(nr::EVENT_CHANNEL_OP, EVTCHNOP_CLOSE, &mut EvtchnClose { port })
}

/// A port that the peer is connected to, closed afterwards.
fn with_channel(peer: &Peer<'_>, body: impl FnOnce(u32, u32) -> Outcome) -> Outcome {
    let local = need("alloc_unbound", offer(peer.id()))?;
    let outcome = need("the peer connects", connect(peer, 0, local)).and_then(|remote| body(local, remote));
    same("close", close(local), Ok(0))?;
    outcome
}

case! {
    /// A channel carries events both ways, each to the other end only.
    #[peer]
    fn both_ways(env) {
        with_peer(env, |peer| with_channel(peer, |local, remote| {
            same("status", status(DOMID_SELF, local), Ok(EVTCHNSTAT_INTERDOMAIN))?;
            check("connecting tells the one who connects, not the one who offered", !events::take(Port(local)))?;
            same("the peer sends", peer_send(peer, remote), Ok(0))?;
            check("it arrives", events::take(Port(local)))?;
            same("send", send(local), Ok(0))?;
            check("it does not come back", !events::take(Port(local)))
        }))
    }
}

case! {
    /// An end that the peer closes leaves the other unbound, to which the peer may connect anew.
    #[peer]
    fn closed_by_the_peer(env) {
        with_peer(env, |peer| with_channel(peer, |local, remote| {
            same("the peer closes", peer_close(peer, remote), Ok(0))?;
            same("status", status(DOMID_SELF, local), Ok(EVTCHNSTAT_UNBOUND))?;
            same("send to nobody", send(local), Ok(0))?;
            need("connect again", connect(peer, 0, local))?;
            same("connected", status(DOMID_SELF, local), Ok(EVTCHNSTAT_INTERDOMAIN))
        }))
    }
}

case! {
    /// A port is offered to one domain: nobody else connects to it, and nobody connects twice.
    #[peer]
    fn offered_to_one(env) {
        with_peer(env, |peer| {
            let own = need("alloc_unbound", offer(DOMID_SELF))?;
            let foreign = connect(peer, 0, own);
            same("close", close(own), Ok(0))?;
            same("a port for another domain", foreign, Err(Errno::EINVAL))?;
            with_channel(peer, |local, _| same("twice", connect(peer, 0, local), Err(Errno::EINVAL)))
        })
    }
}

case! {
    /// A domain that ends leaves the ends of its channels unbound.
    #[peer]
    fn left_by_the_dead(env) {
        let mut port = 0;
        with_peer(env, |peer| {
            port = need("alloc_unbound", offer(peer.id()))?;
            need("the peer connects", connect(peer, 0, port)).map(drop)
        })?;
        let left = status(DOMID_SELF, port);
        same("close", close(port), Ok(0))?;
        same("status", left, Ok(EVTCHNSTAT_UNBOUND))
    }
}

case! {
    /// The first domain sees the state of the peer's ports; the peer not that of the first domain's.
    #[peer]
    fn status_of_others(env) {
        with_peer(env, |peer| with_channel(peer, |local, remote| {
            same("the peer's", status(peer.id(), remote), Ok(EVTCHNSTAT_INTERDOMAIN))?;
            let mut arg = EvtchnStatus { dom: 0, port: local, ..EvtchnStatus::default() };
            let ret = peer.op(nr::EVENT_CHANNEL_OP, EVTCHNOP_STATUS, &mut arg);
            same("the first domain's, asked by the peer", ret, Err(Errno::EPERM))
        }))
    }
}

case! {
    /// An ordinary domain offers its own ports only.
    #[peer]
    fn offer_for_others(env) {
        with_peer(env, |peer| {
            let mut arg = EvtchnAllocUnbound { dom: 0, remote_dom: DOMID_SELF, port: 0 };
            same("of the first domain", peer.op(nr::EVENT_CHANNEL_OP, EVTCHNOP_ALLOC_UNBOUND, &mut arg), Err(Errno::EPERM))
        })
    }
}

case! {
    /// Anybody may bind any virtual interrupt, once; those of the machine are not raised for an ordinary domain.
    #[peer]
    fn virqs_of_the_peer(env) {
        with_peer(env, |peer| {
            need("timer", virq(peer, VIRQ_TIMER))?;
            need("debug", virq(peer, VIRQ_DEBUG))?;
            need("argo", virq(peer, VIRQ_ARGO))?;
            same("timer, again", virq(peer, VIRQ_TIMER), Err(Errno::EEXIST))?;
            need("console", virq(peer, VIRQ_CONSOLE))?;
            need("a domain's end", virq(peer, VIRQ_DOM_EXC))?;
            same("none such", virq(peer, 24), Err(Errno::EINVAL))
        })
    }
}

case! {
    /// A domain's last port is the one that its creation named.
    #[peer]
    fn no_port_beyond_the_limit(env) {
        with_peer(env, |peer| {
            let beyond = peer.op(nr::EVENT_CHANNEL_OP, EVTCHNOP_SEND, &mut EvtchnSend { port: 1024 });
            same("send", beyond, Err(Errno::EINVAL))
        })
    }
}

case! {
    /// The first domain is told of a domain's end.
    #[peer]
    fn end_of_a_domain(env) {
        let mut arg = EvtchnBindVirq { virq: VIRQ_DOM_EXC, vcpu: 0, port: 0 };
        need("bind_virq", event(EVTCHNOP_BIND_VIRQ, &mut arg))?;
        events::mask(Port(arg.port));
        let _ = events::take(Port(arg.port));
        let outcome = with_peer(env, |_| Ok(()));
        let told = events::take(Port(arg.port));
        same("close", close(arg.port), Ok(0))?;
        outcome?;
        check("told", told)
    }
}

case! {
    /// A virtual interrupt of the machine goes to the domain that the control domain named, and to the control domain
    /// again when that domain ends.
    #[peer]
    fn virq_handler(env) {
        let mut arg = EvtchnBindVirq { virq: VIRQ_DOM_EXC, vcpu: 0, port: 0 };
        need("bind_virq", event(EVTCHNOP_BIND_VIRQ, &mut arg))?;
        let own = Port(arg.port);
        events::mask(own);
        let outcome = with_peer(env, |peer| {
            let set = |virq| {
                domctl(XEN_DOMCTL_SET_VIRQ_HANDLER, peer.id(), &mut XenDomctlSetVirqHandler { virq }).map(|_| ())
            };
            same("one that a vCPU has", set(VIRQ_TIMER), Err(Errno::EINVAL))?;
            same("none such", set(24), Err(Errno::EINVAL))?;
            let port = need("the peer binds it", virq(peer, VIRQ_DOM_EXC))?;
            need("set_virq_handler", set(VIRQ_DOM_EXC))?;
            let _ = events::take(own);
            need("a domain ends", Domain::create()?.destroy())?;
            check("the control domain is not told", !events::take(own))?;
            check("the peer is", pending(peer, port)?)
        });
        let told = events::take(own);
        same("close", close(own.0), Ok(0))?;
        outcome?;
        check("told of the handler's own end", told)
    }
}

/// Whether a port of the peer is pending.
fn pending(peer: &Peer<'_>, port: u32) -> Result<bool, Verdict> {
    let shared = need("getdomaininfo", info(peer.id()))?.shared_info_frame;
    let word = offset_of!(SharedInfo, evtchn_pending) / 8 + port as usize / 64;
    peer.look_at(Mfn(shared), |page| page.0[word].load(Relaxed) >> (port % 64) & 1 != 0)
}

case! {
    /// A masked port of the peer becomes pending all the same; the control domain sees it in the shared page.
    #[peer]
    fn pending_at_the_peer(env) {
        with_peer(env, |peer| with_channel(peer, |local, remote| {
            need("nothing yet", peer.call(nr::XEN_VERSION, &[0]))?;
            let shared = need("getdomaininfo", info(peer.id()))?.shared_info_frame;
            let word = offset_of!(SharedInfo, evtchn_pending) / 8;
            peer.look_at(Mfn(shared), |page| page.0[word].fetch_and(!(1 << remote), Relaxed))?;
            check("not pending", !pending(peer, remote)?)?;
            same("send", send(local), Ok(0))?;
            check("pending", pending(peer, remote)?)
        }))
    }
}

case! {
    /// A domain allocates ports up to its limit, and all of them are gone with it.
    #[peer]
    fn all_ports(env) {
        with_peer(env, |peer| {
            let mut count = 0;
            let refused = loop {
                let mut arg = EvtchnAllocUnbound { dom: DOMID_SELF, remote_dom: 0, port: 0 };
                match peer.op(nr::EVENT_CHANNEL_OP, EVTCHNOP_ALLOC_UNBOUND, &mut arg) {
                    Ok(_) => count += 1,
                    Err(error) => break error,
                }
            };
            same("the reason", refused, Errno::ENOSPC)?;
            // Port 0 is never given, one is the peer's own.
            same("ports", count, 1022)
        })
    }
}

case! {
    /// The control domain resets all ports of the peer; what they were connected to is unbound.
    #[peer]
    fn reset_by_the_control_domain(env) {
        let mut local = 0;
        let outcome = with_peer(env, |peer| {
            local = need("alloc_unbound", offer(peer.id()))?;
            need("the peer connects", connect(peer, 0, local))?;
            let mut none = EvtchnReset { dom: 0 };
            let ret = peer.op(nr::EVENT_CHANNEL_OP, EVTCHNOP_RESET, &mut none);
            same("the control domain's, by the peer", ret, Err(Errno::EPERM))?;
            let reset = || event(EVTCHNOP_RESET, &mut EvtchnReset { dom: peer.id() });
            same("while it runs", reset(), Err(Errno::EINVAL))?;
            need("pause", peer.domain().pause())?;
            same("reset", reset(), Ok(0))?;
            same("unbound", status(DOMID_SELF, local), Ok(EVTCHNSTAT_UNBOUND))
        });
        same("close", close(local), Ok(0))?;
        outcome
    }
}
