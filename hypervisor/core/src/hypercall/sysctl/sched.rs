//! The scheduler and the one CPU pool there is.

use super::Request;
use crate::cpumask::MAX_CPUS;
use crate::hypercall::bitmap;
use crate::hypercall::domctl::scheduler_id;
use crate::platform::Platform;
use xen_abi::errno::Errno;
use xen_abi::sysctl::*;

/// `XEN_SYSCTL_sched_id`.
pub(super) fn id<P: Platform>(request: &mut Request<'_, P>) -> Result<(), Errno> {
    let sched_id = scheduler_id(request.cx.hv);
    request.answer(&XenSysctlSchedId { sched_id })
}

/// `XEN_SYSCTL_scheduler_op`: there is no minimum time slice to set.
pub(super) fn parameters<P: Platform>(request: &mut Request<'_, P>) -> Result<(), Errno> {
    let mut payload = request.payload::<XenSysctlSchedulerOp>()?;
    match payload.cmd {
        XEN_SYSCTL_SCHEDOP_PUTINFO | XEN_SYSCTL_SCHEDOP_GETINFO => {}
        _ => return Err(Errno::EINVAL),
    }
    if payload.cpupool_id != 0 {
        return Err(Errno::ESRCH);
    }
    if payload.sched_id != scheduler_id(request.cx.hv) {
        return Err(Errno::EINVAL);
    }
    let ratelimit = u32::from_le_bytes([payload.u[0], payload.u[1], payload.u[2], payload.u[3]]);
    if payload.cmd == XEN_SYSCTL_SCHEDOP_PUTINFO {
        return if ratelimit == 0 { request.answer(&payload) } else { Err(Errno::EINVAL) };
    }
    payload.u[..4].copy_from_slice(&0u32.to_le_bytes());
    request.answer(&payload)
}

/// `XEN_SYSCTL_cpupool_op`: pool 0 has all CPUs, and nothing moves.
pub(super) fn pools<P: Platform>(request: &mut Request<'_, P>) -> Result<(), Errno> {
    let mut payload = request.payload::<XenSysctlCpupoolOp>()?;
    let hv = request.cx.hv;
    match payload.op {
        XEN_SYSCTL_CPUPOOL_OP_INFO => {
            if payload.cpupool_id != 0 {
                return Err(Errno::ENOENT);
            }
            let cpus = hv.platform.online_cpus();
            let bits = bitmap::of(cpus.iter().map(|cpu| cpu.0 as usize), MAX_CPUS);
            bitmap::write(hv, &payload.cpumap, &bits)?;
            payload.sched_id = scheduler_id(hv);
            payload.n_dom = u32::try_from(hv.domains.all().len()).unwrap_or(u32::MAX);
            request.answer(&payload)
        }
        XEN_SYSCTL_CPUPOOL_OP_FREEINFO => {
            bitmap::write(hv, &payload.cpumap, &bitmap::of([], MAX_CPUS))?;
            request.answer(&payload)
        }
        XEN_SYSCTL_CPUPOOL_OP_CREATE
        | XEN_SYSCTL_CPUPOOL_OP_DESTROY
        | XEN_SYSCTL_CPUPOOL_OP_ADDCPU
        | XEN_SYSCTL_CPUPOOL_OP_RMCPU
        | XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::ENOSYS),
    }
}
