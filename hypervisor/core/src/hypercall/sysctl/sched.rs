//! The scheduler and the one CPU pool there is.

use super::Request;
use crate::cpumask::MAX_CPUS;
use crate::hypercall::bitmap;
use crate::hypercall::domctl::scheduler_id;
use crate::platform::Platform;
use crate::sched::Policy;
use xen_abi::errno::Errno;
use xen_abi::sysctl::*;

/// `XEN_SYSCTL_sched_id`.
pub(super) fn id<P: Platform>(request: &mut Request<'_, P>) -> Result<(), Errno> {
    let sched_id = scheduler_id(request.cx.hv);
    request.answer(&XenSysctlSchedId { sched_id })
}

/// `XEN_SYSCTL_scheduler_op`: the least time that a vCPU keeps its CPU. The null scheduler has no parameter, and answers what
/// it was given.
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
    let sched = &request.cx.hv.sched;
    if sched.policy() == Policy::Share {
        let [a, b, c, d, ..] = payload.u;
        if payload.cmd == XEN_SYSCTL_SCHEDOP_PUTINFO {
            sched.set_least_run_us(u32::from_le_bytes([a, b, c, d]))?;
        }
        payload.u[..4].copy_from_slice(&sched.least_run_us().to_le_bytes());
    }
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
            payload.n_dom = u32::try_from(hv.domains.all().count()).unwrap_or(u32::MAX);
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
