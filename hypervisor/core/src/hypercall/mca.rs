//! `mca(op)`: machine checks, as the control domain asks for them.
//!
//! The hypervisor collects no telemetry: there is never a report to fetch, and none can be injected. The CPUs are told by number
//! and APIC identifier; what else a record has room for (vendor, cores, capabilities) is left zero, "not known".

use super::{Cx, Outcome};
use crate::guest_ptr::GuestPtr;
use crate::ids::CpuId;
use crate::platform::Platform;
use crate::regs::Regs;
use core::mem::offset_of;
use xen_abi::errno::Errno;
use xen_abi::mca::*;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// # Errors
/// `EPERM` for an unprivileged domain, `EFAULT`, `EACCES` for another interface version, `EINVAL` for an unknown command or a
/// bad request, `ENODEV` for injections.
pub fn mca<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    serve(cx, GuestPtr::new(args[0])).into()
}

fn serve<P: Platform>(cx: Cx<'_, P>, at: GuestPtr<XenMc>) -> Result<i64, Errno> {
    if !cx.domain.privileged {
        return Err(Errno::EPERM);
    }
    let op = at.read(cx.hv)?;
    if op.interface_version != XEN_MCA_INTERFACE_VERSION {
        return Err(Errno::EACCES);
    }
    match op.cmd {
        XEN_MC_FETCH => {
            let mut fetch = payload::<XenMcFetch>(&op)?;
            if no_report(&mut fetch)? { answer(cx, at, &fetch) } else { Ok(0) }
        }
        XEN_MC_PHYSCPUINFO => {
            let mut request = payload::<XenMcPhyscpuinfo>(&op)?;
            cpu_info(cx, &mut request)?;
            answer(cx, at, &request)
        }
        XEN_MC_MSRINJECT => inject(cx, payload::<XenMcMsrinject>(&op)?.mcinj_cpunr),
        XEN_MC_MCEINJECT => inject(cx, payload::<XenMcMceinject>(&op)?.mceinj_cpunr),
        XEN_MC_INJECT_V2 => match payload::<XenMcInjectV2>(&op)?.flags & XEN_MC_INJECT_TYPE_MASK {
            XEN_MC_INJECT_TYPE_MCE | XEN_MC_INJECT_TYPE_CMCI | XEN_MC_INJECT_TYPE_LMCE => Err(Errno::ENODEV),
            _ => Err(Errno::EINVAL),
        },
        _ => Err(Errno::EINVAL),
    }
}

fn payload<T: FromBytes + Immutable>(op: &XenMc) -> Result<T, Errno> {
    T::read_from_prefix(op.u.as_bytes()).map(|(payload, _)| payload).map_err(|_| Errno::EINVAL)
}

fn answer<P: Platform, T: IntoBytes + Immutable>(
    cx: Cx<'_, P>,
    at: GuestPtr<XenMc>,
    payload: &T,
) -> Result<i64, Errno> {
    at.field::<T>(offset_of!(XenMc, u))?.write(cx.hv, payload)?;
    Ok(0)
}

/// No machine check is made up, on CPUs that are there.
fn inject<P: Platform>(cx: Cx<'_, P>, cpu: u32) -> Result<i64, Errno> {
    let online = cx.hv.platform.online_cpus().contains(CpuId(cpu));
    Err(if online { Errno::ENODEV } else { Errno::EINVAL })
}

/// Answers whether there is something to tell: acknowledging what was never handed out changes nothing.
fn no_report(fetch: &mut XenMcFetch) -> Result<bool, Errno> {
    let urgency = fetch.flags & (XEN_MC_NONURGENT | XEN_MC_URGENT);
    if urgency != XEN_MC_NONURGENT && urgency != XEN_MC_URGENT {
        return Err(Errno::EINVAL);
    }
    if fetch.flags & XEN_MC_ACK != 0 {
        return Ok(false);
    }
    if fetch.data.is_null() {
        return Err(Errno::EINVAL);
    }
    fetch.flags = XEN_MC_OK | XEN_MC_NODATA;
    fetch.fetch_id = 0;
    Ok(true)
}

/// How many CPUs are up, and a record of each as far as there is room.
fn cpu_info<P: Platform>(cx: Cx<'_, P>, request: &mut XenMcPhyscpuinfo) -> Result<(), Errno> {
    let online = cx.hv.platform.online_cpus();
    let mut count = u32::try_from(online.iter().count()).unwrap_or(u32::MAX);
    if !request.info.is_null() {
        if request.ncpus.cast_signed() <= 0 {
            return Err(Errno::EINVAL);
        }
        count = count.min(request.ncpus);
        let records = GuestPtr::from(request.info);
        for (index, cpu) in (0..u64::from(count)).zip(online.iter()) {
            let mut record = McinfoLogicalCpu::new_zeroed();
            record.mc_cpunr = cpu.0;
            record.mc_apicid = cx.hv.machine.apic_ids.get(cpu.0 as usize).copied().unwrap_or(0);
            record.mc_ncores = 1;
            record.mc_ncores_active = 1;
            record.mc_nthreads = 1;
            records.write_at(cx.hv, index, &record)?;
        }
    }
    request.ncpus = count;
    Ok(())
}
