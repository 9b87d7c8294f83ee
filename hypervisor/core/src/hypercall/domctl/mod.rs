//! `domctl(op)`: what a toolstack asks about domains.
//!
//! A command names a domain, and is refused in this order: structure unreadable (`EFAULT`), another interface version
//! (`EACCES`), no such domain (`ESRCH`, which anybody may learn), caller not privileged (`EPERM`). The commands that Xen
//! leaves to finer rights look at some of their arguments before they ask for the privilege; so do these
//! ([`before_rights`]). A domain whose teardown began is known to `destroydomain` and `getdomaininfo` only.
//!
//! | file | subject |
//! |---|---|
//! | `life.rs` | making, limiting, pausing, resuming, ending |
//! | `info.rs` | what a domain, a vCPU, a frame is |
//! | `context.rs` | registers of vCPUs |
//! | `place.rs` | where vCPUs run and with which weight |
//! | `rights.rs` | ports, interrupts, device memory |
//!
//! What is for hardware guests answers as Xen does for PV guests. What is not served answers as Xen where it is configured
//! out: log-dirty mode, virtual NUMA, passing devices through, monitoring, sharing, debugging, CPUID policies, saved
//! extended state.

mod context;
pub(crate) mod info;
mod life;
mod place;
mod rights;

pub(crate) use place::scheduler_id;

use super::{Cx, Outcome};
use crate::domain::{Domain, VcpuRef};
use crate::guest_ptr::GuestPtr;
use crate::ids::{DomId, VcpuId};
use crate::platform::Platform;
use crate::regs::Regs;
use alloc::sync::Arc;
use xen_abi::domctl::*;
use xen_abi::errno::Errno;
use xen_abi::xen::{DOMID_FIRST_RESERVED, DOMID_INVALID, DOMID_IO};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// `u.vm_event_op.op`: tells the version of the interface of VM events, to anybody.
const VM_EVENT_GET_VERSION: u32 = 4;
/// That version (vm_event.h).
const VM_EVENT_VERSION: u32 = 7;

/// The operation as it was copied in, and where it came from.
struct Request<'a, P: Platform> {
    cx: Cx<'a, P>,
    at: GuestPtr<XenDomctl>,
    op: XenDomctl,
}

/// How a command that was not refused ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    /// There is nothing to tell.
    Done,
    /// The structure goes back to the caller.
    Copy,
    /// Preempted: the caller makes the same hypercall again.
    Again,
}

/// What a command comes to.
type Answer = Result<Reply, Errno>;

impl<P: Platform> Request<'_, P> {
    /// The payload, as the command has it.
    fn payload<T: FromBytes + Immutable>(&self) -> Result<T, Errno> {
        T::read_from_prefix(&self.op.u).map(|(payload, _)| payload).map_err(|_| Errno::EINVAL)
    }

    /// Puts a changed payload into the structure.
    fn set<T: IntoBytes + Immutable>(&mut self, payload: &T) {
        let bytes = payload.as_bytes();
        self.op.u[..bytes.len()].copy_from_slice(bytes);
    }

    /// Answers this payload.
    fn answer<T: IntoBytes + Immutable>(&mut self, payload: &T) -> Answer {
        self.set(payload);
        Ok(Reply::Copy)
    }

    /// Whether the command is about the caller's own domain, which cannot be stopped to be worked on.
    fn is_self(&self, domain: &Domain<P>) -> bool {
        self.cx.domain.id == domain.id
    }

    /// Fails with `EPERM` for a caller that is not privileged.
    fn check_privilege(&self) -> Result<(), Errno> {
        if self.cx.domain.privileged { Ok(()) } else { Err(Errno::EPERM) }
    }
}

/// The vCPU with this number; `missing` where the domain has none.
fn vcpu_of<P: Platform>(domain: &Arc<Domain<P>>, number: u32, missing: Errno) -> Result<VcpuRef<P>, Errno> {
    let id = VcpuId(number);
    domain.vcpu(id).map(|_| VcpuRef { domain: domain.clone(), id }).ok_or(missing)
}

/// # Errors
/// See the head of the module.
pub fn domctl<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    let at = GuestPtr::new(args[0]);
    let op = match at.read(cx.hv) {
        Ok(op) => op,
        Err(fault) => return Errno::from(fault).into(),
    };
    let mut request = Request { cx, at, op };
    match serve(&mut request) {
        Ok(Reply::Done) => Outcome::Done(0),
        Ok(Reply::Copy) => request.at.write(cx.hv, &request.op).map(|()| 0).into(),
        Ok(Reply::Again) => Outcome::Again(*args),
        Err(errno) => errno.into(),
    }
}

fn serve<P: Platform>(request: &mut Request<'_, P>) -> Answer {
    if request.op.interface_version != XEN_DOMCTL_INTERFACE_VERSION {
        return Err(Errno::EACCES);
    }
    match (request.op.cmd, request.op.domain) {
        (XEN_DOMCTL_CREATEDOMAIN, _) => {
            request.check_privilege()?;
            return life::create(request);
        }
        (XEN_DOMCTL_GETDOMAININFO, _) => return info::domain(request),
        (XEN_DOMCTL_DESTROYDOMAIN, id) => {
            let domain = known(request.cx, id).ok_or(Errno::ESRCH)?;
            request.check_privilege()?;
            return life::destroy(request, &domain);
        }
        (XEN_DOMCTL_VM_EVENT_OP, DOMID_INVALID) => return vm_event(request).unwrap_or(Err(Errno::ESRCH)),
        (XEN_DOMCTL_ASSIGN_DEVICE | XEN_DOMCTL_DEASSIGN_DEVICE, DOMID_IO)
        | (XEN_DOMCTL_TEST_ASSIGN_DEVICE, DOMID_INVALID) => {
            request.check_privilege()?;
            return Err(Errno::EOPNOTSUPP);
        }
        _ => {}
    }
    let domain = request.cx.hv.domains.get(DomId(request.op.domain)).ok_or(Errno::ESRCH)?;
    if let Some(answer) = before_rights(request, &domain) {
        return answer;
    }
    request.check_privilege()?;
    command(request, &domain)
}

/// The domain with this identifier, whether it lives or is being ended.
fn known<P: Platform>(cx: Cx<'_, P>, id: u16) -> Option<Arc<Domain<P>>> {
    cx.hv.domains.get(DomId(id)).or_else(|| cx.hv.domains.get_dying(DomId(id)))
}

/// The commands that look at their arguments before they ask for the privilege.
fn before_rights<P: Platform>(request: &mut Request<'_, P>, domain: &Arc<Domain<P>>) -> Option<Answer> {
    Some(match request.op.cmd {
        XEN_DOMCTL_IOMEM_PERMISSION => rights::iomem(request, domain),
        XEN_DOMCTL_IOPORT_PERMISSION => rights::ioport(request, domain),
        XEN_DOMCTL_IRQ_PERMISSION => rights::irq(request, domain),
        XEN_DOMCTL_MEMORY_MAPPING => rights::memory_mapping(request),
        XEN_DOMCTL_SET_TARGET => set_target(request, domain),
        XEN_DOMCTL_VM_EVENT_OP => return vm_event(request),
        // There is no IOMMU, and PV guests have no ports of their own.
        XEN_DOMCTL_GET_DEVICE_GROUP | XEN_DOMCTL_IOPORT_MAPPING => Err(Errno::EOPNOTSUPP),
        XEN_DOMCTL_BIND_PT_IRQ | XEN_DOMCTL_UNBIND_PT_IRQ => Err(Errno::EINVAL),
        _ => return None,
    })
}

fn command<P: Platform>(request: &mut Request<'_, P>, domain: &Arc<Domain<P>>) -> Answer {
    match request.op.cmd {
        XEN_DOMCTL_PAUSEDOMAIN => life::pause(request, domain),
        XEN_DOMCTL_UNPAUSEDOMAIN => life::unpause(request, domain),
        XEN_DOMCTL_RESUMEDOMAIN => life::resume(request, domain),
        XEN_DOMCTL_MAX_VCPUS => life::max_vcpus(request, domain),
        XEN_DOMCTL_MAX_MEM => life::max_mem(request, domain),
        XEN_DOMCTL_SETDOMAINHANDLE => life::set_handle(request, domain),
        XEN_DOMCTL_SETTIMEOFFSET => life::set_time_offset(request, domain),
        XEN_DOMCTL_HYPERCALL_INIT => life::hypercall_page(request, domain),
        XEN_DOMCTL_SENDTRIGGER => life::send_trigger(request, domain),
        // Only a hardware guest can be set back without its help.
        XEN_DOMCTL_SOFT_RESET | XEN_DOMCTL_SOFT_RESET_CONT => Err(Errno::EINVAL),
        XEN_DOMCTL_SET_VIRQ_HANDLER => {
            let virq = request.payload::<XenDomctlSetVirqHandler>()?.virq;
            Ok(request.cx.hv.set_virq_handler(domain, virq).map(|()| Reply::Done)?)
        }
        XEN_DOMCTL_SETVCPUCONTEXT => context::set(request, domain),
        XEN_DOMCTL_GETVCPUCONTEXT => context::get(request, domain),
        XEN_DOMCTL_SET_EXT_VCPUCONTEXT => context::set_entries(request, domain),
        XEN_DOMCTL_GET_EXT_VCPUCONTEXT => context::get_entries(request, domain),
        XEN_DOMCTL_GETVCPUINFO => info::vcpu(request, domain),
        XEN_DOMCTL_GETPAGEFRAMEINFO3 => info::frames(request, domain),
        XEN_DOMCTL_GETTSCINFO => info::tsc(request, domain),
        XEN_DOMCTL_SETTSCINFO => info::set_tsc(request, domain),
        XEN_DOMCTL_GET_ADDRESS_SIZE => request.answer(&XenDomctlAddressSize { size: 64 }),
        XEN_DOMCTL_SET_ADDRESS_SIZE => match request.payload::<XenDomctlAddressSize>()?.size {
            64 => Ok(Reply::Done),
            32 => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::EINVAL),
        },
        XEN_DOMCTL_SETVCPUAFFINITY | XEN_DOMCTL_GETVCPUAFFINITY => place::affinity(request, domain),
        XEN_DOMCTL_SETNODEAFFINITY | XEN_DOMCTL_GETNODEAFFINITY => place::nodes(request),
        XEN_DOMCTL_SCHEDULER_OP => place::scheduler(request, domain),
        other => absent(request, domain, other),
    }
}

/// What is not for PV guests, and what is not served.
fn absent<P: Platform>(request: &Request<'_, P>, domain: &Domain<P>, cmd: u32) -> Answer {
    Err(match cmd {
        XEN_DOMCTL_GETHVMCONTEXT
        | XEN_DOMCTL_GETHVMCONTEXT_PARTIAL
        | XEN_DOMCTL_SETHVMCONTEXT
        | XEN_DOMCTL_DEBUG_OP
        | XEN_DOMCTL_SET_BROKEN_PAGE_P2M => Errno::EINVAL,
        XEN_DOMCTL_SHADOW_OP if request.is_self(domain) => Errno::EINVAL,
        XEN_DOMCTL_SHADOW_OP
        | XEN_DOMCTL_ASSIGN_DEVICE
        | XEN_DOMCTL_DEASSIGN_DEVICE
        | XEN_DOMCTL_TEST_ASSIGN_DEVICE
        | XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE
        | XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE => Errno::EOPNOTSUPP,
        XEN_DOMCTL_PSR_CMT_OP => Errno::ENODEV,
        _ => Errno::ENOSYS,
    })
}

/// A device model's domain serves hardware guests, of which there are none.
fn set_target<P: Platform>(request: &Request<'_, P>, domain: &Domain<P>) -> Answer {
    let target = request.payload::<XenDomctlSetTarget>()?.target;
    known(request.cx, target).ok_or(Errno::ESRCH)?;
    Err(if target == domain.id.0 { Errno::EINVAL } else { Errno::EOPNOTSUPP })
}

/// Tells the version; `None` for other operations, which go the common way.
fn vm_event<P: Platform>(request: &mut Request<'_, P>) -> Option<Answer> {
    let mut payload = request.payload::<XenDomctlVmEventOp>().ok()?;
    if payload.op != VM_EVENT_GET_VERSION {
        return None;
    }
    payload.u = VM_EVENT_VERSION;
    Some(request.answer(&payload))
}

/// Whether this is an identifier that a domain can have.
fn is_ordinary(id: u16) -> bool {
    id < DOMID_FIRST_RESERVED
}
