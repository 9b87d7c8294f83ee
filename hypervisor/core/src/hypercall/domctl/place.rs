//! Where vCPUs run, and with which weight.

use super::{Answer, Reply, Request, vcpu_of};
use crate::Hypervisor;
use crate::cpumask::{CpuMask, MAX_CPUS};
use crate::domain::Domain;
use crate::hypercall::bitmap;
use crate::ids::CpuId;
use crate::platform::Platform;
use crate::sched::Policy;
use alloc::sync::Arc;
use xen_abi::domctl::*;
use xen_abi::errno::Errno;
use xen_abi::xen::XenctlBitmap;
use zerocopy::FromBytes;

/// The scheduler that toolstacks are told: weights and caps mean what they mean in credit2.
pub(crate) fn scheduler_id<P: Platform>(hv: &Hypervisor<P>) -> u32 {
    match hv.sched.policy() {
        Policy::Share => XEN_SCHEDULER_CREDIT2,
        Policy::Null => XEN_SCHEDULER_NULL,
    }
}
/// NUMA nodes of a bitmap: Xen's number.
const NODES: usize = 64;

/// `XEN_DOMCTL_setvcpuaffinity` and `XEN_DOMCTL_getvcpuaffinity`. What was set is told as it counts: the CPUs that are up, and of
/// those to be preferred the ones among them that are allowed. Where the second set is refused, the first is undone.
///
/// # Errors
/// `EINVAL` for an unknown vCPU, no flag at all, a set without a buffer, and a set without a CPU that is up; `EFAULT`.
pub(super) fn affinity<P: Platform>(request: &mut Request<'_, P>, domain: &Arc<Domain<P>>) -> Answer {
    let payload = request.payload::<XenDomctlVcpuaffinity>()?;
    let target = vcpu_of(domain, payload.vcpu, Errno::EINVAL)?;
    let (hard, soft) =
        (payload.flags & XEN_VCPUAFFINITY_HARD != 0, payload.flags & XEN_VCPUAFFINITY_SOFT != 0);
    let no_buffer =
        hard && payload.cpumap_hard.bitmap.is_null() || soft && payload.cpumap_soft.bitmap.is_null();
    if payload.flags == 0 || no_buffer {
        return Err(Errno::EINVAL);
    }
    let hv = request.cx.hv;
    let sched = &target.vcpu().sched;
    let sets = request.op.cmd == XEN_DOMCTL_SETVCPUAFFINITY;
    let online = hv.platform.online_cpus();
    let before = sched.affinity();
    if sets && payload.flags & XEN_VCPUAFFINITY_FORCE != 0 {
        // Where nothing overrides there is nothing to undo.
        let _ = hv.pin_override(&target, None);
    }
    let tell = |map: &XenctlBitmap, mask: &CpuMask| {
        bitmap::write(hv, map, &bitmap::of(mask.iter().map(|cpu| cpu.0 as usize), MAX_CPUS))
    };
    // Each set is told as soon as it is in force; whether that failed only the last one says.
    let mut told = Ok(());
    if hard && sets {
        hv.set_affinity(&target, &mask_of(&bitmap::read(hv, &payload.cpumap_hard, MAX_CPUS)?))?;
        told = tell(&payload.cpumap_hard, &sched.affinity().intersect(&online));
    } else if hard {
        told = tell(&payload.cpumap_hard, &before);
    }
    if soft && sets {
        let wanted = bitmap::read(hv, &payload.cpumap_soft, MAX_CPUS).map(|bytes| mask_of(&bytes));
        let set = wanted.map_err(Errno::from).and_then(|wanted| hv.set_soft_affinity(&target, &wanted));
        if let Err(errno) = set {
            if hard {
                // It was in force a moment ago, and is again unless its CPUs have gone.
                let _ = hv.set_affinity(&target, &before);
            }
            return Err(errno);
        }
        told = tell(
            &payload.cpumap_soft,
            &sched.soft_affinity().intersect(&sched.affinity().intersect(&online)),
        );
    } else if soft {
        told = tell(&payload.cpumap_soft, &sched.soft_affinity());
    }
    Ok(told.map(|()| Reply::Done)?)
}

fn mask_of(bytes: &[u8]) -> CpuMask {
    let mut mask = CpuMask::EMPTY;
    bitmap::members(bytes).filter_map(|cpu| u32::try_from(cpu).ok()).for_each(|cpu| mask.insert(CpuId(cpu)));
    mask
}

/// `XEN_DOMCTL_setnodeaffinity` and `XEN_DOMCTL_getnodeaffinity`: there is one node.
pub(super) fn nodes<P: Platform>(request: &Request<'_, P>) -> Answer {
    let map = request.payload::<XenDomctlNodeaffinity>()?.nodemap;
    let hv = request.cx.hv;
    if request.op.cmd == XEN_DOMCTL_GETNODEAFFINITY {
        return Ok(bitmap::write(hv, &map, &bitmap::of([0], NODES)).map(|()| Reply::Done)?);
    }
    let wanted = bitmap::read(hv, &map, NODES)?;
    if wanted.first().is_some_and(|byte| byte & 1 != 0) { Ok(Reply::Done) } else { Err(Errno::EINVAL) }
}

/// `XEN_DOMCTL_scheduler_op`: the structure goes back even where the command is refused.
pub(super) fn scheduler<P: Platform>(request: &mut Request<'_, P>, domain: &Arc<Domain<P>>) -> Answer {
    let result = adjust(request, domain);
    request.at.write(request.cx.hv, &request.op)?;
    result.map(|()| Reply::Done)
}

fn adjust<P: Platform>(request: &mut Request<'_, P>, domain: &Arc<Domain<P>>) -> Result<(), Errno> {
    let mut payload = request.payload::<XenDomctlSchedulerOp>()?;
    let id = scheduler_id(request.cx.hv);
    if payload.sched_id != id || payload.cmd > XEN_DOMCTL_SCHEDOP_GETVCPUINFO {
        return Err(Errno::EINVAL);
    }
    // Where each vCPU has a CPU there is nothing to set.
    if id == XEN_SCHEDULER_NULL {
        return Ok(());
    }
    let (wanted, _) = XenDomctlSchedCredit2::read_from_prefix(&payload.u).map_err(|_| Errno::EINVAL)?;
    match payload.cmd {
        XEN_DOMCTL_SCHEDOP_PUTINFO => {
            let most = domain.vcpus.len().saturating_mul(100);
            if usize::from(wanted.cap) > most {
                return Err(Errno::EINVAL);
            }
            let weight = if wanted.weight == 0 { domain.sched.weight() } else { wanted.weight.into() };
            request.cx.hv.set_domain_sched(domain, weight, wanted.cap.into())
        }
        XEN_DOMCTL_SCHEDOP_GETINFO => {
            let (weight, cap) = request.cx.hv.domain_sched(domain);
            let words = [weight, cap].map(|value| u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes());
            payload.u[..4].copy_from_slice(words.as_flattened());
            request.set(&payload);
            Ok(())
        }
        _ => Err(Errno::EINVAL),
    }
}
