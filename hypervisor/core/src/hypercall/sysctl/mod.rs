//! `sysctl(op)`: what a toolstack asks about the machine.
//!
//! Refused in this order: structure unreadable (`EFAULT`), another interface version (`EACCES`), caller not privileged
//! (`EPERM`), unknown command (`ENOSYS`).
//!
//! | file | subject |
//! |---|---|
//! | `machine.rs` | memory, CPUs, nodes |
//! | `sched.rs` | scheduler and CPU pools |
//!
//! Trace buffers, performance counters, lock profiles, power management, live patches and taking pages offline answer as Xen
//! does where they are configured out; so do CPUID policies and where PCI devices are.

mod machine;
mod sched;

use super::domctl::info;
use super::{Cx, Outcome};
use crate::guest_ptr::GuestPtr;
use crate::ids::DomId;
use crate::platform::Platform;
use crate::regs::Regs;
use xen_abi::domctl::XenDomctlGetdomaininfo;
use xen_abi::errno::Errno;
use xen_abi::sysctl::*;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Bytes of the log that are copied at a time.
const LOG_CHUNK: usize = 16 << 10;
/// Most debug keys of one call: each may print a lot.
const MAX_KEYS: u32 = 64;

/// The operation as it was copied in, and where it came from.
struct Request<'a, P: Platform> {
    cx: Cx<'a, P>,
    at: GuestPtr<XenSysctl>,
    op: XenSysctl,
}

impl<P: Platform> Request<'_, P> {
    /// The payload, as the command has it.
    fn payload<T: FromBytes + Immutable>(&self) -> Result<T, Errno> {
        T::read_from_prefix(&self.op.u).map(|(payload, _)| payload).map_err(|_| Errno::EINVAL)
    }

    /// Copies the structure out with this payload.
    fn answer<T: IntoBytes + Immutable>(&mut self, payload: &T) -> Result<(), Errno> {
        let bytes = payload.as_bytes();
        self.op.u[..bytes.len()].copy_from_slice(bytes);
        Ok(self.at.write(self.cx.hv, &self.op)?)
    }
}

/// # Errors
/// See the head of the module.
pub fn sysctl<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    let at = GuestPtr::new(args[0]);
    match at.read(cx.hv) {
        Ok(op) => serve(&mut Request { cx, at, op }).into(),
        Err(fault) => Errno::from(fault).into(),
    }
}

fn serve<P: Platform>(request: &mut Request<'_, P>) -> Result<(), Errno> {
    if request.op.interface_version != XEN_SYSCTL_INTERFACE_VERSION {
        return Err(Errno::EACCES);
    }
    if !request.cx.domain.privileged {
        return Err(Errno::EPERM);
    }
    match request.op.cmd {
        XEN_SYSCTL_READCONSOLE => read_console(request),
        XEN_SYSCTL_DEBUG_KEYS => debug_keys(request),
        XEN_SYSCTL_GETDOMAININFOLIST => domains(request),
        XEN_SYSCTL_PHYSINFO => machine::describe(request),
        XEN_SYSCTL_AVAILHEAP => machine::free_memory(request),
        XEN_SYSCTL_GETCPUINFO => machine::idle_times(request),
        XEN_SYSCTL_CPUTOPOINFO => machine::cpus(request),
        XEN_SYSCTL_NUMAINFO => machine::nodes(request),
        XEN_SYSCTL_CPU_HOTPLUG => machine::hotplug(request),
        // CPUID is not masked by the processor for guests.
        XEN_SYSCTL_GET_CPU_LEVELLING_CAPS => request.answer(&XenSysctlCpuLevellingCaps { caps: 0 }),
        XEN_SYSCTL_SCHED_ID => sched::id(request),
        XEN_SYSCTL_SCHEDULER_OP => sched::parameters(request),
        XEN_SYSCTL_CPUPOOL_OP => sched::pools(request),
        XEN_SYSCTL_PSR_CMT_OP | XEN_SYSCTL_PSR_ALLOC => Err(Errno::ENODEV),
        XEN_SYSCTL_COVERAGE_OP => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::ENOSYS),
    }
}

/// `XEN_SYSCTL_readconsole`: the log from its beginning, or from a byte on. Where what was read ends is told even
/// to a caller without room. `clear` forgets what was read, and what comes before it; the rest of the log stays for the next call.
fn read_console<P: Platform>(request: &mut Request<'_, P>) -> Result<(), Errno> {
    let mut payload = request.payload::<XenSysctlReadconsole>()?;
    let hv = request.cx.hv;
    let room = payload.count as usize;
    let mut from = (payload.incremental != 0).then_some(payload.index);
    let mut copied = 0;
    loop {
        let part = hv.console.log_part(from, (room - copied).min(LOG_CHUNK));
        let length = part.text.len();
        payload.index = part.start.wrapping_add(u32::try_from(length).unwrap_or(0));
        if length == 0 {
            break;
        }
        GuestPtr::<u8>::from(payload.buffer).at(copied as u64)?.write_slice(hv, &part.text)?;
        (copied, from) = (copied + length, Some(payload.index));
    }
    if payload.clear != 0 {
        hv.console.clear_log(payload.index);
    }
    payload.count = u32::try_from(copied).unwrap_or(u32::MAX);
    request.answer(&payload)
}

/// `XEN_SYSCTL_debug_keys`. Nothing is copied back.
fn debug_keys<P: Platform>(request: &Request<'_, P>) -> Result<(), Errno> {
    let payload = request.payload::<XenSysctlDebugKeys>()?;
    let (hv, keys) = (request.cx.hv, GuestPtr::<u8>::from(payload.keys));
    for index in 0..payload.nr_keys.min(MAX_KEYS) {
        hv.console_key(keys.read_at(hv, index.into())?);
    }
    Ok(())
}

/// `XEN_SYSCTL_getdomaininfolist`.
fn domains<P: Platform>(request: &mut Request<'_, P>) -> Result<(), Errno> {
    let mut payload = request.payload::<XenSysctlGetdomaininfolist>()?;
    let hv = request.cx.hv;
    let buffer = GuestPtr::<XenDomctlGetdomaininfo>::from(payload.buffer);
    let (mut count, mut next) = (0, Some(DomId(payload.first_domain)));
    while count < payload.max_domains
        && let Some(domain) = next.and_then(|id| hv.domains.first_from(id))
    {
        buffer.write_at(hv, count.into(), &info::describe(hv, &domain))?;
        (count, next) = (count + 1, domain.id.0.checked_add(1).map(DomId));
    }
    payload.num_domains = count;
    request.answer(&payload)
}
