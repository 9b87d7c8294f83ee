//! What a domain, a vCPU, a frame is.

use super::{Answer, Reply, Request, is_ordinary, vcpu_of};
use crate::Hypervisor;
use crate::domain::{Domain, Lifecycle};
use crate::guest_ptr::GuestPtr;
use crate::ids::{DomId, Mfn};
use crate::page::PageType;
use crate::platform::Platform;
use crate::sched::Reasons;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use xen_abi::arch_x86::XenArchDomainconfig;
use xen_abi::domctl::*;
use xen_abi::errno::Errno;
use xen_abi::vcpu::RUNSTATE_RUNNING;

/// The reason of a shutdown that has not been.
const NO_REASON: u32 = u32::MAX;
/// Most frames that one `getpageframeinfo3` may ask about.
const MAX_FRAMES: u64 = 1024;
/// Frames whose numbers are copied at a time.
const FRAMES_AT_ONCE: usize = 64;
/// Bits of an address in the pseudo-physical space that hardware guests could have.
const GPADDR_BITS: u8 = 48;
/// `tsc_mode`: as the hypervisor likes it, and never emulated: here they are the same.
const TSC_MODE_DEFAULT: u32 = 0;
const TSC_MODE_ALWAYS_EMULATE: u32 = 1;
const TSC_MODE_NEVER_EMULATE: u32 = 2;

/// `XEN_DOMCTL_getdomaininfo`: of the first domain with this identifier or a higher one.
pub(super) fn domain<P: Platform>(request: &mut Request<'_, P>) -> Answer {
    request.check_privilege()?;
    let (hv, id) = (request.cx.hv, request.op.domain);
    if !is_ordinary(id) {
        return Err(Errno::EINVAL);
    }
    let found = hv.domains.first_from(DomId(id)).ok_or(Errno::ESRCH)?;
    request.op.domain = found.id.0;
    request.answer(&describe(hv, &found))
}

/// A domain as the ABI describes it.
pub(crate) fn describe<P: Platform>(hv: &Hypervisor<P>, domain: &Domain<P>) -> XenDomctlGetdomaininfo {
    let now = hv.platform.now();
    let (mut online, mut cpu_time) = (0, 0u64);
    let (mut all_blocked, mut any_running) = (true, false);
    for vcpu in &domain.vcpus {
        let spent = vcpu.time.runstate_at(now).time[RUNSTATE_RUNNING as usize];
        cpu_time = cpu_time.saturating_add(spent);
        if vcpu.sched.is_up() {
            online += 1;
            all_blocked &= vcpu.sched.has(Reasons::BLOCKED);
            any_running |= hv.sched.is_on_cpu(vcpu);
        }
    }
    let (shut_down, dead, reason) = match *domain.lifecycle.lock() {
        // Until all its vCPUs have stopped it is shutting down, as in Xen.
        Lifecycle::Shutdown(reason) if hv.is_settled(domain) => (true, false, reason),
        Lifecycle::Dead => (false, true, NO_REASON),
        _ => (false, false, NO_REASON),
    };
    let flags = [
        (online != 0 && all_blocked, XEN_DOMINF_BLOCKED),
        (online != 0 && any_running, XEN_DOMINF_RUNNING),
        (dead, XEN_DOMINF_DYING),
        (shut_down, XEN_DOMINF_SHUTDOWN),
        (domain.is_paused(), XEN_DOMINF_PAUSED),
    ];
    let flags = flags.iter().filter(|(holds, _)| *holds).fold(0, |all, (_, flag)| all | flag);
    XenDomctlGetdomaininfo {
        domain: domain.id.0,
        flags: flags | reason << XEN_DOMINF_SHUTDOWNSHIFT,
        tot_pages: domain.pages.current(),
        max_pages: domain.pages.max(),
        shared_info_frame: domain.shared_info.0,
        cpu_time,
        nr_online_vcpus: online,
        max_vcpu_id: domain.vcpus.last().map_or(XEN_INVALID_MAX_VCPU_ID, |vcpu| vcpu.id.0),
        handle: *domain.handle.lock(),
        gpaddr_bits: GPADDR_BITS,
        arch_config: XenArchDomainconfig::default(),
        ..XenDomctlGetdomaininfo::default()
    }
}

/// `XEN_DOMCTL_getvcpuinfo`.
pub(super) fn vcpu<P: Platform>(request: &mut Request<'_, P>, domain: &Arc<Domain<P>>) -> Answer {
    let mut info = request.payload::<XenDomctlGetvcpuinfo>()?;
    let target = vcpu_of(domain, info.vcpu, Errno::EINVAL)?;
    let (hv, vcpu) = (request.cx.hv, target.vcpu());
    info.online = vcpu.sched.is_up().into();
    info.blocked = vcpu.sched.has(Reasons::BLOCKED).into();
    info.running = hv.sched.is_on_cpu(vcpu).into();
    info.cpu_time = vcpu.time.runstate_at(hv.platform.now()).time[RUNSTATE_RUNNING as usize];
    info.cpu = vcpu.cpu.load(Ordering::Relaxed);
    request.answer(&info)
}

/// `XEN_DOMCTL_getpageframeinfo3`: replaces each frame of an array by what it is used as.
///
/// # Errors
/// `E2BIG` for more than 1024, `EFAULT`.
pub(super) fn frames<P: Platform>(request: &Request<'_, P>, domain: &Domain<P>) -> Answer {
    let list = request.payload::<XenDomctlGetpageframeinfo3>()?;
    if list.num > MAX_FRAMES {
        return Err(Errno::E2BIG);
    }
    let (hv, array) = (request.cx.hv, GuestPtr::<u64>::from(list.array));
    let mut buffer = [0; FRAMES_AT_ONCE];
    for first in (0..list.num).step_by(FRAMES_AT_ONCE) {
        // The answers take the place of the questions: there is no point to come back to, so each frame costs little.
        let frames = &mut buffer[..(list.num - first).min(FRAMES_AT_ONCE as u64) as usize];
        let part = array.at(first)?;
        part.read_slice(hv, frames)?;
        frames.iter_mut().for_each(|frame| *frame = frame_type(hv, domain, Mfn(*frame)).into());
        part.write_slice(hv, frames)?;
    }
    Ok(Reply::Done)
}

/// What a frame is at this moment. No reference is taken: it may be something else at once anyway.
fn frame_type<P: Platform>(hv: &Hypervisor<P>, domain: &Domain<P>, mfn: Mfn) -> u32 {
    let Some(info) = hv.frame(mfn) else { return XEN_DOMCTL_PFINFO_XTAB };
    let (is_shared, word) = (info.count().is_xenheap(), info.type_word());
    if info.judge(domain.id).is_err() {
        return XEN_DOMCTL_PFINFO_XTAB;
    }
    let pinned = if word.is_pinned() { XEN_DOMCTL_PFINFO_LPINTAB } else { 0 };
    match word.live() {
        _ if is_shared => XEN_DOMCTL_PFINFO_XTAB,
        Some(PageType::L1) => XEN_DOMCTL_PFINFO_L1TAB | pinned,
        Some(PageType::L2) => XEN_DOMCTL_PFINFO_L2TAB | pinned,
        Some(PageType::L3) => XEN_DOMCTL_PFINFO_L3TAB | pinned,
        Some(PageType::L4) => XEN_DOMCTL_PFINFO_L4TAB | pinned,
        _ => XEN_DOMCTL_PFINFO_NOTAB,
    }
}

/// `XEN_DOMCTL_gettscinfo`: the processor's own.
pub(super) fn tsc<P: Platform>(request: &mut Request<'_, P>, domain: &Domain<P>) -> Answer {
    if request.is_self(domain) {
        return Err(Errno::EINVAL);
    }
    let hv = request.cx.hv;
    request.answer(&XenDomctlTscInfo {
        tsc_mode: TSC_MODE_DEFAULT,
        gtsc_khz: u32::try_from(hv.machine.tsc_khz).unwrap_or(u32::MAX),
        elapsed_nsec: hv.platform.now().0,
        ..XenDomctlTscInfo::default()
    })
}

/// `XEN_DOMCTL_settscinfo`: it is never emulated.
pub(super) fn set_tsc<P: Platform>(request: &Request<'_, P>, domain: &Domain<P>) -> Answer {
    if request.is_self(domain) {
        return Err(Errno::EINVAL);
    }
    match request.payload::<XenDomctlTscInfo>()?.tsc_mode {
        TSC_MODE_DEFAULT | TSC_MODE_NEVER_EMULATE => Ok(Reply::Done),
        TSC_MODE_ALWAYS_EMULATE => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EINVAL),
    }
}
