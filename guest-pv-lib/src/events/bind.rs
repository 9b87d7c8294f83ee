//! `event_channel_op`: ports and their sources.

use xen_abi::event_channel::{
    BIND_PIRQ_WILL_SHARE, EVTCHNOP_ALLOC_UNBOUND, EVTCHNOP_BIND_INTERDOMAIN, EVTCHNOP_BIND_IPI,
    EVTCHNOP_BIND_PIRQ, EVTCHNOP_BIND_VCPU, EVTCHNOP_BIND_VIRQ, EVTCHNOP_CLOSE, EVTCHNOP_SEND,
    EVTCHNOP_SET_PRIORITY, EVTCHNOP_STATUS, EVTCHNOP_UNMASK, EVTCHNSTAT_INTERDOMAIN, EvtchnAllocUnbound,
    EvtchnBindInterdomain, EvtchnBindIpi, EvtchnBindPirq, EvtchnBindVcpu, EvtchnBindVirq, EvtchnClose,
    EvtchnSend, EvtchnSetPriority, EvtchnStatus, EvtchnUnmask,
};
#[cfg(feature = "alloc")]
use xen_abi::event_channel::{EVTCHNSTAT_CLOSED, EVTCHNSTAT_IPI, EVTCHNSTAT_VIRQ};
use xen_abi::hypercall::nr;
use xen_abi::xen::{self, DOMID_SELF};

use super::{Port, Sharing, is_masked, mask, two_level};
use crate::hypercall::{Errno, check, raw};
use crate::smp::this_cpu;

/// A virtual interrupt. The per-CPU ones can be bound once on each CPU, the others once in the domain.
#[doc(alias = "enum virq")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Virq(pub u32);

impl Virq {
    /// Per CPU: a timer of [`time`](crate::time) expired.
    #[doc(alias = "VIRQ_TIMER")]
    pub const TIMER: Self = Self(xen::VIRQ_TIMER);
    /// Per CPU: somebody asks the domain to dump its state.
    #[doc(alias = "VIRQ_DEBUG")]
    pub const DEBUG: Self = Self(xen::VIRQ_DEBUG);
    /// First domain only: bytes came in on the machine's console.
    #[doc(alias = "VIRQ_CONSOLE")]
    pub const CONSOLE: Self = Self(xen::VIRQ_CONSOLE);
}

impl Virq {
    /// Whether each CPU has one of its own.
    #[must_use]
    pub const fn is_per_cpu(self) -> bool {
        matches!(self.0, xen::VIRQ_TIMER | xen::VIRQ_DEBUG | xen::VIRQ_XENOPROF | xen::VIRQ_XENPMU)
    }
}

/// One `event_channel_op` with the argument structure `arg`, which the hypervisor may write to.
pub(super) fn op<T>(command: u32, arg: &mut T) -> Result<(), Errno> {
    // SAFETY: `arg` is the structure of the command (this module's functions see to that) and is exclusively
    // borrowed. Binding, sending and closing do nothing to the kernel's memory but set bits in the shared page.
    check(unsafe { raw::call2(nr::EVENT_CHANNEL_OP, u64::from(command), arg as *mut T as u64) }).map(drop)
}

/// A port that was opened just now and notifies CPU `vcpu`: masked.
fn fresh(port: u32, vcpu: u32) -> Port {
    let port = Port(port);
    mask(port);
    two_level::set_owner(port, vcpu);
    port
}

/// Binds a virtual interrupt to this CPU. The port starts masked.
///
/// # Errors
///
/// `EEXIST` where it is bound already, `EINVAL` for an unknown one, `ENOSPC` where no port is free.
#[doc(alias = "EVTCHNOP_bind_virq")]
pub fn bind_virq(virq: Virq) -> Result<Port, Errno> {
    // Those of the whole domain are bound on CPU 0, whoever asks.
    let vcpu = if virq.is_per_cpu() { this_cpu().number() } else { 0 };
    let mut arg = EvtchnBindVirq { virq: virq.0, vcpu, ..EvtchnBindVirq::default() };
    op(EVTCHNOP_BIND_VIRQ, &mut arg)?;
    Ok(fresh(arg.port, vcpu))
}

/// Makes a port by which CPUs of this domain interrupt CPU `vcpu`. The port starts masked.
///
/// # Errors
///
/// `ENOENT` where there is no such CPU, `ENOSPC` where no port is free.
#[doc(alias = "EVTCHNOP_bind_ipi")]
pub fn bind_ipi(vcpu: u32) -> Result<Port, Errno> {
    let mut arg = EvtchnBindIpi { vcpu, ..EvtchnBindIpi::default() };
    op(EVTCHNOP_BIND_IPI, &mut arg)?;
    Ok(fresh(arg.port, vcpu))
}

/// Connects to `port` of domain `domain`, which that domain offered. The local port starts masked.
///
/// # Errors
///
/// `EINVAL` where the port does not offer itself to this domain, `ESRCH` where there is no such domain.
#[doc(alias = "EVTCHNOP_bind_interdomain")]
pub fn bind_interdomain(domain: u16, port: Port) -> Result<Port, Errno> {
    let mut arg =
        EvtchnBindInterdomain { remote_dom: domain, remote_port: port.0, ..EvtchnBindInterdomain::default() };
    op(EVTCHNOP_BIND_INTERDOMAIN, &mut arg)?;
    // The hypervisor makes a new interdomain port pending at once; masked, that event waits for the handler.
    Ok(fresh(arg.local_port, 0))
}

/// Makes a port that domain `peer` may connect to. The port starts masked.
pub(super) fn alloc_unbound(peer: u16) -> Result<Port, Errno> {
    let mut arg = EvtchnAllocUnbound { dom: DOMID_SELF, remote_dom: peer, ..EvtchnAllocUnbound::default() };
    op(EVTCHNOP_ALLOC_UNBOUND, &mut arg)?;
    Ok(fresh(arg.port, 0))
}

/// Binds a physical interrupt. The port starts masked.
pub(super) fn bind_pirq(pirq: u32, sharing: Sharing) -> Result<Port, Errno> {
    let flags = if sharing == Sharing::Shared { BIND_PIRQ_WILL_SHARE } else { 0 };
    let mut arg = EvtchnBindPirq { pirq, flags, ..EvtchnBindPirq::default() };
    op(EVTCHNOP_BIND_PIRQ, &mut arg)?;
    Ok(fresh(arg.port, 0))
}

/// Delivers the port's events to CPU `vcpu`.
pub(crate) fn bind_vcpu(port: Port, vcpu: u32) -> Result<(), Errno> {
    // An event in between would go to a CPU that thinks it is the other's: it waits, masked, until both know.
    let was_masked = is_masked(port);
    mask(port);
    let result = op(EVTCHNOP_BIND_VCPU, &mut EvtchnBindVcpu { port: port.0, vcpu });
    if result.is_ok() {
        two_level::set_owner(port, vcpu);
    }
    if !was_masked {
        super::unmask(port);
    }
    result
}

/// Sets the priority of a port's events.
pub(super) fn set_priority(port: Port, priority: u32) -> Result<(), Errno> {
    op(EVTCHNOP_SET_PRIORITY, &mut EvtchnSetPriority { port: port.0, priority })
}

/// Unmasks a port, and delivers its event where one is pending.
pub(super) fn unmask(port: Port) -> Result<(), Errno> {
    op(EVTCHNOP_UNMASK, &mut EvtchnUnmask { port: port.0 })
}

/// Fires an interdomain or IPI port.
///
/// # Errors
///
/// `EINVAL` where the port is of another kind or free.
#[doc(alias = "EVTCHNOP_send")]
pub fn notify(port: Port) -> Result<(), Errno> {
    op(EVTCHNOP_SEND, &mut EvtchnSend { port: port.0 })
}

/// Whether a port is connected to one of another domain, which is gone otherwise, or has closed its end.
#[doc(alias = "EVTCHNOP_status")]
#[must_use]
pub fn is_connected(port: Port) -> bool {
    let mut arg = EvtchnStatus { dom: DOMID_SELF, port: port.0, ..EvtchnStatus::default() };
    op(EVTCHNOP_STATUS, &mut arg).is_ok() && arg.status == EVTCHNSTAT_INTERDOMAIN
}

/// What a port that is open is bound to.
#[cfg(feature = "alloc")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A virtual interrupt.
    Virq(Virq),
    /// A CPU of the domain.
    Ipi,
    /// Another domain, or something else that only somebody else can bring back.
    Other,
}

/// What `port` is bound to, and the CPU that it notifies; none where it is not open.
///
/// # Errors
///
/// `EINVAL` for a number that the domain never used, and then for all behind it.
#[cfg(feature = "alloc")]
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
pub(crate) fn status(port: Port) -> Result<Option<(Source, u32)>, Errno> {
    let mut arg = EvtchnStatus { dom: DOMID_SELF, port: port.0, ..EvtchnStatus::default() };
    op(EVTCHNOP_STATUS, &mut arg)?;
    let [a, b, c, d, ..] = arg.u;
    let source = match arg.status {
        EVTCHNSTAT_CLOSED => return Ok(None),
        EVTCHNSTAT_VIRQ => Source::Virq(Virq(u32::from_le_bytes([a, b, c, d]))),
        EVTCHNSTAT_IPI => Source::Ipi,
        _ => Source::Other,
    };
    Ok(Some((source, arg.vcpu)))
}

/// Opens a port anew for CPU `vcpu`, masked. `Other` becomes a port that nobody is at the other end of.
#[cfg(all(target_os = "none", feature = "alloc"))]
pub(crate) fn open(source: Source, vcpu: u32) -> Result<Port, Errno> {
    match source {
        Source::Ipi => bind_ipi(vcpu),
        Source::Other => alloc_unbound(DOMID_SELF),
        Source::Virq(virq) => {
            let at = if virq.is_per_cpu() { vcpu } else { 0 };
            let mut arg = EvtchnBindVirq { virq: virq.0, vcpu: at, ..EvtchnBindVirq::default() };
            op(EVTCHNOP_BIND_VIRQ, &mut arg)?;
            Ok(fresh(arg.port, at))
        }
    }
}

/// Gives the port back.
///
/// # Errors
///
/// `EINVAL` where it is not open.
#[doc(alias = "EVTCHNOP_close")]
pub fn close(port: Port) -> Result<(), Errno> {
    mask(port);
    op(EVTCHNOP_CLOSE, &mut EvtchnClose { port: port.0 })
}
