//! Commands that only tools of the control domain ask for, seldom (domctl.h, sysctl.h, platform.h, xen-mca.h).

use guest_pv_lib::Errno;
use xen_abi::GuestHandle;
use xen_abi::domctl::*;
use xen_abi::hypercall::nr;
use xen_abi::mca::*;
use xen_abi::platform::*;
use xen_abi::sysctl::*;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::platform::platform;
use crate::call::{FAULTS, NO_DOMAIN, Ret, all_fault, hc1};
use crate::harness::{check, need, same};
use crate::peer::control::{domctl, plain, sysctl};
use crate::peer::with_peer;

fn mca<T: IntoBytes + FromBytes + Immutable>(cmd: u32, payload: &mut T) -> Ret {
    let mut whole = XenMc { cmd, interface_version: XEN_MCA_INTERFACE_VERSION, ..XenMc::default() };
    let bytes = payload.as_mut_bytes();
    whole.u.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
    let ret = hc1(nr::MCA, &raw mut whole as u64);
    bytes.copy_from_slice(&whole.u.as_bytes()[..bytes.len()]);
    ret
}

fn hotplug(cpu: u32, op: u32) -> Ret {
    sysctl(XEN_SYSCTL_CPU_HOTPLUG, &mut XenSysctlCpuHotplug { cpu, op })
}

fn parking(type_: u32) -> Ret {
    platform(XENPF_CORE_PARKING, &mut XenpfCoreParking { type_, idle_nums: 0 })
}

returns! {
    /// Machine checks: bad pointers.
    mca_fault(env): all_fault(|at| hc1(nr::MCA, at)) => FAULTS;
    /// Another interface version of machine checks.
    mca_version(env): {
        let mut whole = XenMc { cmd: XEN_MC_PHYSCPUINFO, ..XenMc::default() };
        hc1(nr::MCA, &raw mut whole as u64)
    } => Err(Errno::EACCES);
    /// A command on machine checks that does not exist, and one that only the hypervisor used.
    mca_unknown(env): [mca(99, &mut 0u64), mca(XEN_MC_NOTIFYDOMAIN, &mut XenMcNotifydomain::default())]
        => [Err(Errno::EINVAL); 2];
    /// Into a CPU that does not exist.
    mca_inject_nowhere(env): [
        mca(XEN_MC_MSRINJECT, &mut XenMcMsrinject { mcinj_cpunr: 5000, ..XenMcMsrinject::default() }),
        mca(XEN_MC_MCEINJECT, &mut XenMcMceinject { mceinj_cpunr: 5000 }),
    ] => [Err(Errno::EINVAL); 2];
    /// A kind of injection that there is not.
    mca_inject_unknown(env): mca(XEN_MC_INJECT_V2, &mut XenMcInjectV2 { flags: 7, ..XenMcInjectV2::default() })
        => Err(Errno::EINVAL);
    /// CPU 0 stays; a CPU or a command that does not exist.
    cpu_hotplug(env): [hotplug(0, XEN_SYSCTL_CPU_HOTPLUG_OFFLINE), hotplug(5000, XEN_SYSCTL_CPU_HOTPLUG_ONLINE), hotplug(0, 99)]
        => [Err(Errno::EINVAL), Err(Errno::EINVAL), Err(Errno::EOPNOTSUPP)];
    /// A part of caches cannot be set aside on a CPU that lacks it.
    cache_allocation(env): sysctl(XEN_SYSCTL_PSR_ALLOC, &mut XenSysctlPsrAlloc { cmd: XEN_SYSCTL_PSR_GET_L3_INFO, ..XenSysctlPsrAlloc::default() })
        => Err(Errno::ENODEV);
    /// A pool of CPUs that does not exist; a scheduler that the pool does not use.
    scheduler_of_nobody(env): [
        sysctl(XEN_SYSCTL_SCHEDULER_OP, &mut XenSysctlSchedulerOp { cpupool_id: 77, sched_id: XEN_SCHEDULER_CREDIT2, cmd: XEN_SYSCTL_SCHEDOP_GETINFO, ..XenSysctlSchedulerOp::default() }),
        sysctl(XEN_SYSCTL_SCHEDULER_OP, &mut XenSysctlSchedulerOp { sched_id: XEN_SCHEDULER_RTDS, cmd: XEN_SYSCTL_SCHEDOP_GETINFO, ..XenSysctlSchedulerOp::default() }),
        sysctl(XEN_SYSCTL_SCHEDULER_OP, &mut XenSysctlSchedulerOp { sched_id: XEN_SCHEDULER_CREDIT2, cmd: 7, ..XenSysctlSchedulerOp::default() }),
    ] => [Err(Errno::ESRCH), Err(Errno::EINVAL), Err(Errno::EINVAL)];
    /// No core is parked; parking that there is not.
    core_parking(env): [parking(XEN_CORE_PARKING_GET), parking(7)] => [Ok(0), Err(Errno::EINVAL)];
    /// What the hypervisor uses for itself.
    soft_reset_continued(env): plain(XEN_DOMCTL_SOFT_RESET_CONT, 0) => Err(Errno::EINVAL);
    /// The time of a domain that does not exist.
    time_of_nobody(env): [
        domctl(XEN_DOMCTL_SETTIMEOFFSET, NO_DOMAIN, &mut XenDomctlSettimeoffset::default()),
        domctl(XEN_DOMCTL_GETTSCINFO, NO_DOMAIN, &mut XenDomctlTscInfo::default()),
    ] => [Err(Errno::ESRCH); 2];
    /// The caller's own time stamp counter stays as it is.
    own_tsc(env): [
        domctl(XEN_DOMCTL_GETTSCINFO, 0, &mut XenDomctlTscInfo::default()),
        domctl(XEN_DOMCTL_SETTSCINFO, 0, &mut XenDomctlTscInfo::default()),
    ] => [Err(Errno::EINVAL); 2];
    /// An interrupt that was never bound, of a domain without devices.
    unbind_nothing(env): domctl(XEN_DOMCTL_UNBIND_PT_IRQ, 0, &mut XenDomctlBindPtIrq { machine_irq: 9, ..XenDomctlBindPtIrq::default() })
        => Err(Errno::EINVAL);
    /// Cache monitoring of a domain, on a machine without it.
    monitoring(env): domctl(XEN_DOMCTL_PSR_CMT_OP, 0, &mut XenDomctlPsrCmtOp::default()) => Err(Errno::ENODEV);
}

case! {
    /// There is no report to fetch.
    fn mca_nothing_to_fetch(env) {
        let _ = env;
        let mut report = McInfo::new_zeroed();
        let mut fetch = XenMcFetch {
            flags: XEN_MC_NONURGENT, data: GuestHandle::from(&raw mut report as u64), ..XenMcFetch::default()
        };
        same("fetch", mca(XEN_MC_FETCH, &mut fetch), Ok(0))?;
        same("flags", fetch.flags, XEN_MC_NODATA)
    }
}

case! {
    /// The number of CPUs is told where no room is given, and then as many as fit are described.
    fn mca_cpus(env) {
        let _ = env;
        let mut ask = XenMcPhyscpuinfo::default();
        same("number", mca(XEN_MC_PHYSCPUINFO, &mut ask), Ok(0))?;
        check("some", ask.ncpus >= 1)?;
        let mut cpus = [McinfoLogicalCpu::default(); 1];
        let mut one = XenMcPhyscpuinfo { ncpus: 1, info: GuestHandle::from(cpus.as_mut_ptr() as u64), ..ask };
        same("one", mca(XEN_MC_PHYSCPUINFO, &mut one), Ok(0))?;
        same("number again", one.ncpus, 1)?;
        same("number of the first", cpus[0].mc_cpunr, 0)
    }
}

case! {
    /// The pool's scheduler has parameters to read and to set again.
    fn scheduler_parameters(env) {
        let _ = env;
        let whole = |cmd, u| XenSysctlSchedulerOp { sched_id: XEN_SCHEDULER_CREDIT2, cmd, u, ..XenSysctlSchedulerOp::default() };
        let mut found = whole(XEN_SYSCTL_SCHEDOP_GETINFO, [0xff; 16]);
        same("get", sysctl(XEN_SYSCTL_SCHEDULER_OP, &mut found), Ok(0))?;
        let limit = u32::from_le_bytes([found.u[0], found.u[1], found.u[2], found.u[3]]);
        check("a limit below half a second", limit <= 500_000)?;
        let mut set = whole(XEN_SYSCTL_SCHEDOP_PUTINFO, found.u);
        same("put", sysctl(XEN_SYSCTL_SCHEDULER_OP, &mut set), Ok(0))?;
        let mut wrong = found.u;
        wrong[..4].copy_from_slice(&600_000u32.to_le_bytes());
        same("too long", sysctl(XEN_SYSCTL_SCHEDULER_OP, &mut whole(XEN_SYSCTL_SCHEDOP_PUTINFO, wrong)), Err(Errno::EINVAL))
    }
}

case! {
    /// What of CPUID can be hidden is told, and of nothing that does not exist.
    fn levelling(env) {
        let _ = env;
        let mut caps = XenSysctlCpuLevellingCaps { caps: u32::MAX };
        same("get", sysctl(XEN_SYSCTL_GET_CPU_LEVELLING_CAPS, &mut caps), Ok(0))?;
        check("known bits", caps.caps >> 10 == 0)
    }
}

case! {
    /// The hypervisor's symbols, one after the other, to the end.
    fn symbols(env) {
        let _ = env;
        let mut name = [0u8; 128];
        let mut ask = XenpfSymdata {
            namelen: 128, symnum: 0, name: GuestHandle::from(name.as_mut_ptr() as u64), ..XenpfSymdata::default()
        };
        same("first", platform(XENPF_GET_SYMBOL, &mut ask), Ok(0))?;
        check("not longer than the buffer", ask.namelen <= 128)?;
        let mut beyond = XenpfSymdata { symnum: u32::MAX, ..ask };
        same("beyond", platform(XENPF_GET_SYMBOL, &mut beyond), Err(Errno::ERANGE))
    }
}

case! {
    /// The wall clock is set by either form: what a domain reads follows.
    #[alone]
    fn set_time(env) {
        let _ = env;
        let mut arg = XenpfSettime32 { secs: 1_000_000_000, nsecs: 5, system_time: 0 };
        same("settime32", platform(XENPF_SETTIME32, &mut arg), Ok(0))?;
        same("wall clock", guest_pv_lib::time::wall_clock_at_zero(), (1_000_000_000, 5))
    }
}

case! {
    /// The memory types of the machine: what the first registers cover is told, one that does not exist is refused.
    fn memory_types(env) {
        let _ = env;
        let mut none = XenpfReadMemtype { reg: 5000, ..XenpfReadMemtype::default() };
        same("no such register", platform(XENPF_READ_MEMTYPE, &mut none), Err(Errno::EINVAL))?;
        let mut first = XenpfReadMemtype::default();
        let there = platform(XENPF_READ_MEMTYPE, &mut first);
        check("the first register", there == Ok(0))?;
        let mut odd = XenpfAddMemtype { mfn: 1, nr_mfns: 0, type_: 6, ..XenpfAddMemtype::default() };
        same("nothing", platform(XENPF_ADD_MEMTYPE, &mut odd), Err(Errno::EINVAL))?;
        let mut unknown = XenpfAddMemtype { mfn: 0x10_0000, nr_mfns: 0x100, type_: 9, ..XenpfAddMemtype::default() };
        same("no such type", platform(XENPF_ADD_MEMTYPE, &mut unknown), Err(Errno::EINVAL))?;
        let mut del = XenpfDelMemtype { handle: 0, reg: 5000 };
        same("no such register to free", platform(XENPF_DEL_MEMTYPE, &mut del), Err(Errno::EINVAL))
    }
}

case! {
    /// The wall clock and the time stamp counter of another domain.
    #[peer]
    fn time_of_peer(env) {
        with_peer(env, |peer| {
            let set = domctl(XEN_DOMCTL_SETTIMEOFFSET, peer.id(), &mut XenDomctlSettimeoffset { time_offset_seconds: 3600 });
            same("settimeoffset", set.map(|(ret, _)| ret), Ok(0))?;
            let mut info = XenDomctlTscInfo::default();
            need("gettscinfo", domctl(XEN_DOMCTL_GETTSCINFO, peer.id(), &mut info))?;
            check("a frequency", info.gtsc_khz > 1000)?;
            same("mode", info.tsc_mode, 0)?;
            let set = domctl(XEN_DOMCTL_SETTSCINFO, peer.id(), &mut info);
            same("settscinfo", set.map(|(ret, _)| ret), Ok(0))
        })
    }
}
