//! `event_channel_op` and its predecessor: arguments in, ports out.

use super::{Cx, Failure, Outcome, done_or_again};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::event::slot::Binding;
use crate::event::{EventError, PortStatus, Progress};
use crate::guest_ptr::GuestPtr;
use crate::ids::{DomId, Mfn, Port, VcpuId};
use crate::platform::Platform;
use crate::regs::Regs;
use alloc::sync::Arc;
use core::mem::offset_of;
use xen_abi::errno::Errno;
use xen_abi::event_channel::*;
use xen_abi::xen::DOMID_XEN;
use zerocopy::IntoBytes;

/// Goes on with an interrupted `EVTCHNOP_reset`; not in the public header for guests.
pub(crate) const EVTCHNOP_RESET_CONT: u32 = 14;

/// The command of a hypercall: an `int` of the ABI, so the upper half of the register is not part of it.
pub fn command(arg: u64) -> u32 {
    (arg & u64::from(u32::MAX)) as u32
}

/// `event_channel_op(cmd, arg)`.
pub fn event_channel_op<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    let cmd = command(args[0]);
    // The one that matters for speed comes first.
    if cmd == EVTCHNOP_SEND {
        return sent(send(cx.hv, cx.domain, args[1]), args);
    }
    match cmd {
        EVTCHNOP_RESET | EVTCHNOP_RESET_CONT => {
            match reset(cx, GuestPtr::new(args[1]), cmd == EVTCHNOP_RESET_CONT) {
                Ok(Progress::Finished) => Outcome::Done(0),
                Ok(Progress::Preempted) => {
                    Outcome::Again([u64::from(EVTCHNOP_RESET_CONT), args[1], 0, 0, 0, 0])
                }
                Err(error) => error.into(),
            }
        }
        _ => done_or_again(run(cx, cmd, args[1]).map(|()| 0), args),
    }
}

/// `event_channel_op_compat(op)`: the command stands in front of its argument, and there are fewer of them.
pub fn event_channel_op_compat<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    let op = GuestPtr::<EvtchnOp>::new(args[0]);
    let command = || -> Result<(u32, u64), Errno> {
        let op_in = op.read(cx.hv)?;
        Ok((op_in.cmd, op.field::<u8>(offset_of!(EvtchnOp, u))?.address().0))
    };
    match command() {
        Ok((EVTCHNOP_SEND, arg)) => sent(send(cx.hv, cx.domain, arg), args),
        Ok((cmd @ EVTCHNOP_BIND_INTERDOMAIN..=EVTCHNOP_UNMASK, arg)) => {
            done_or_again(run(cx, cmd, arg).map(|()| 0), args)
        }
        Ok(_) => Errno::ENOSYS.into(),
        Err(error) => error.into(),
    }
}

/// What became of an event that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// All is done.
    Whole,
    /// The domain's console has more to write: the event is to be sent again.
    InPart,
}

/// `EVTCHNOP_send` with its argument at `arg`.
///
/// # Errors
/// `EFAULT`, `EINVAL` for a port that cannot send.
#[inline(always)]
pub fn send<P: Platform>(hv: &Hypervisor<P>, domain: &Arc<Domain<P>>, arg: u64) -> Result<Sent, Errno> {
    let send = GuestPtr::<EvtchnSend>::new(arg).read(hv)?;
    match hv.send_event(domain, Port(send.port)) {
        Ok(()) => Ok(Sent::Whole),
        Err(EventError::Unfinished) => Ok(Sent::InPart),
        Err(error) => Err(error.into()),
    }
}

fn sent(result: Result<Sent, Errno>, args: &[u64; 6]) -> Outcome {
    match result {
        Ok(Sent::Whole) => Outcome::Done(0),
        Ok(Sent::InPart) => Outcome::Again(*args),
        Err(error) => error.into(),
    }
}

fn reset<P: Platform>(cx: Cx<'_, P>, arg: GuestPtr<EvtchnReset>, resuming: bool) -> Result<Progress, Errno> {
    let reset = arg.read(cx.hv)?;
    Ok(cx.hv.reset_events(cx.domain, DomId(reset.dom), resuming)?)
}

fn run<P: Platform>(cx: Cx<'_, P>, cmd: u32, arg: u64) -> Result<(), Failure> {
    match cmd {
        EVTCHNOP_BIND_INTERDOMAIN => bind_interdomain(cx, GuestPtr::new(arg)),
        EVTCHNOP_BIND_VIRQ => bind_virq(cx, GuestPtr::new(arg)),
        EVTCHNOP_BIND_PIRQ => bind_pirq(cx, GuestPtr::new(arg)),
        EVTCHNOP_BIND_IPI => bind_ipi(cx, GuestPtr::new(arg)),
        EVTCHNOP_ALLOC_UNBOUND => alloc_unbound(cx, GuestPtr::new(arg)),
        EVTCHNOP_STATUS => status(cx, GuestPtr::new(arg)),
        EVTCHNOP_INIT_CONTROL => init_control(cx, GuestPtr::new(arg)),
        EVTCHNOP_CLOSE => {
            let close = GuestPtr::<EvtchnClose>::new(arg).read(cx.hv)?;
            Ok(cx.hv.close_event(cx.domain, Port(close.port))?)
        }
        EVTCHNOP_BIND_VCPU => {
            let bind = GuestPtr::<EvtchnBindVcpu>::new(arg).read(cx.hv)?;
            Ok(cx.hv.bind_vcpu(cx.domain, Port(bind.port), VcpuId(bind.vcpu))?)
        }
        EVTCHNOP_UNMASK => {
            let unmask = GuestPtr::<EvtchnUnmask>::new(arg).read(cx.hv)?;
            Ok(cx.hv.unmask_event(cx.domain, Port(unmask.port))?)
        }
        EVTCHNOP_EXPAND_ARRAY => {
            let expand = GuestPtr::<EvtchnExpandArray>::new(arg).read(cx.hv)?;
            Ok(cx.hv.fifo_expand_array(cx.domain, Mfn(expand.array_gfn))?)
        }
        EVTCHNOP_SET_PRIORITY => {
            let set = GuestPtr::<EvtchnSetPriority>::new(arg).read(cx.hv)?;
            Ok(cx.hv.set_event_priority(cx.domain, Port(set.port), set.priority)?)
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn alloc_unbound<P: Platform>(cx: Cx<'_, P>, arg: GuestPtr<EvtchnAllocUnbound>) -> Result<(), Failure> {
    let mut alloc = arg.read(cx.hv)?;
    alloc.port = cx.hv.alloc_unbound(cx.domain, DomId(alloc.dom), DomId(alloc.remote_dom))?.0;
    Ok(arg.write(cx.hv, &alloc)?)
}

fn bind_interdomain<P: Platform>(cx: Cx<'_, P>, arg: GuestPtr<EvtchnBindInterdomain>) -> Result<(), Failure> {
    let mut bind = arg.read(cx.hv)?;
    let port = cx.hv.bind_interdomain(cx.domain, DomId(bind.remote_dom), Port(bind.remote_port))?;
    bind.local_port = port.0;
    Ok(arg.write(cx.hv, &bind)?)
}

fn bind_virq<P: Platform>(cx: Cx<'_, P>, arg: GuestPtr<EvtchnBindVirq>) -> Result<(), Failure> {
    let mut bind = arg.read(cx.hv)?;
    bind.port = cx.hv.bind_virq(cx.domain, VcpuId(bind.vcpu), bind.virq)?.0;
    Ok(arg.write(cx.hv, &bind)?)
}

fn bind_pirq<P: Platform>(cx: Cx<'_, P>, arg: GuestPtr<EvtchnBindPirq>) -> Result<(), Failure> {
    let mut bind = arg.read(cx.hv)?;
    bind.port = cx.hv.bind_pirq(cx.domain, bind.pirq, bind.flags & BIND_PIRQ_WILL_SHARE != 0)?.0;
    Ok(arg.write(cx.hv, &bind)?)
}

fn bind_ipi<P: Platform>(cx: Cx<'_, P>, arg: GuestPtr<EvtchnBindIpi>) -> Result<(), Failure> {
    let mut bind = arg.read(cx.hv)?;
    bind.port = cx.hv.bind_ipi(cx.domain, VcpuId(bind.vcpu))?.0;
    Ok(arg.write(cx.hv, &bind)?)
}

fn status<P: Platform>(cx: Cx<'_, P>, arg: GuestPtr<EvtchnStatus>) -> Result<(), Failure> {
    let mut status = arg.read(cx.hv)?;
    let PortStatus { binding, vcpu } = cx.hv.event_status(cx.domain, DomId(status.dom), Port(status.port))?;
    status.vcpu = vcpu.0;
    status.status = match binding {
        Binding::Free => EVTCHNSTAT_CLOSED,
        Binding::Unbound(dom) => {
            status.u[..2].copy_from_slice(dom.0.as_bytes());
            EVTCHNSTAT_UNBOUND
        }
        Binding::Interdomain(dom, port) => {
            let end = EvtchnStatusInterdomain { dom: dom.0, port: port.0, ..Default::default() };
            status.u.copy_from_slice(end.as_bytes());
            EVTCHNSTAT_INTERDOMAIN
        }
        Binding::Pirq(pirq) => {
            status.u[..4].copy_from_slice(pirq.as_bytes());
            EVTCHNSTAT_PIRQ
        }
        Binding::Virq(virq) => {
            status.u[..4].copy_from_slice(virq.as_bytes());
            EVTCHNSTAT_VIRQ
        }
        Binding::Ipi => EVTCHNSTAT_IPI,
        // The other end has no port.
        Binding::Console => {
            let end = EvtchnStatusInterdomain { dom: DOMID_XEN, ..Default::default() };
            status.u.copy_from_slice(end.as_bytes());
            EVTCHNSTAT_INTERDOMAIN
        }
    };
    Ok(arg.write(cx.hv, &status)?)
}

fn init_control<P: Platform>(cx: Cx<'_, P>, arg: GuestPtr<EvtchnInitControl>) -> Result<(), Failure> {
    let mut init = arg.read(cx.hv)?;
    cx.hv.fifo_init_control(cx.domain, VcpuId(init.vcpu), Mfn(init.control_gfn), init.offset)?;
    init.link_bits = LINK_BITS;
    Ok(arg.write(cx.hv, &init)?)
}

/// Bits of a link in an event word.
const LINK_BITS: u8 = {
    assert!(EVTCHN_FIFO_LINK_BITS < 32);
    EVTCHN_FIFO_LINK_BITS as u8
};

impl From<EventError> for Outcome {
    fn from(error: EventError) -> Self {
        Errno::from(error).into()
    }
}
