//! Making, limiting, pausing, resuming and ending domains.

use super::{Answer, Reply, Request, is_ordinary, vcpu_of};
use crate::builder;
use crate::domain::{Domain, DomainConfig, MAX_VCPUS, Restart};
use crate::grant::{DEFAULT_MAX_FRAMES, DEFAULT_MAX_MAPTRACK_FRAMES};
use crate::ids::{DomId, Mfn};
use crate::page::{PageError, PageType};
use crate::platform::Platform;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use xen_abi::arch_x86::{XEN_X86_EMU_PIT, XEN_X86_MSR_RELAXED};
use xen_abi::domctl::*;
use xen_abi::errno::Errno;

/// Bytes of a page as bits of the number of KiB.
const KIB_TO_PAGES: u32 = 2;
/// Flags of `createdomain` that have a meaning for a PV guest here.
const CREATE_FLAGS: u32 = XEN_DOMCTL_CDF_XS_DOMAIN | XEN_DOMCTL_CDF_OOS_OFF;
/// Highest version of grant tables.
const GRANT_VERSIONS: u32 = 2;

/// `XEN_DOMCTL_createdomain`.
///
/// # Errors
/// `EINVAL` for what no PV guest can have, `EOPNOTSUPP` for emulated devices, `EEXIST`, `ENOMEM`.
pub(super) fn create<P: Platform>(request: &mut Request<'_, P>) -> Answer {
    let wanted = request.payload::<XenDomctlCreatedomain>()?;
    let hv = request.cx.hv;
    let id = match request.op.domain {
        id if id != 0 && is_ordinary(id) => DomId(id),
        _ => hv.free_domid().ok_or(Errno::ENOMEM)?,
    };
    if hv.domains.is_taken(id) {
        return Err(Errno::EEXIST);
    }
    check(&wanted)?;
    let caller = (request.cx.domain.id, request.cx.vcpu.id);
    let config = DomainConfig {
        max_vcpus: wanted.max_vcpus,
        handle: wanted.handle,
        max_evtchn_port: Some(wanted.max_evtchn_port),
        max_grant_frames: limit(wanted.max_grant_frames, 1, DEFAULT_MAX_FRAMES)?,
        max_maptrack_frames: limit(wanted.max_maptrack_frames, 0, DEFAULT_MAX_MAPTRACK_FRAMES)?,
        ..DomainConfig::new(id)
    };
    let Some(domain) = hv.create_domain_for(caller, config)? else { return Ok(Reply::Again) };
    request.op.domain = domain.id.0;
    Ok(Reply::Copy)
}

/// What can be told from the configuration alone.
fn check(wanted: &XenDomctlCreatedomain) -> Result<(), Errno> {
    let version = wanted.grant_opts;
    let fit = wanted.flags & !CREATE_FLAGS == 0
        && wanted.iommu_opts == 0
        && wanted.vmtrace_size == 0
        && (1..=MAX_VCPUS).contains(&wanted.max_vcpus)
        && wanted.arch.misc_flags & !XEN_X86_MSR_RELAXED == 0
        && wanted.cpupool_id == 0;
    if !fit {
        return Err(Errno::EINVAL);
    }
    if wanted.arch.emulation_flags & !XEN_X86_EMU_PIT != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if (1..=GRANT_VERSIONS).contains(&version) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// A limit between `least` and `most`, which a negative number stands for.
fn limit(wanted: i32, least: u32, most: u32) -> Result<u32, Errno> {
    match u32::try_from(wanted) {
        Err(_) => Ok(most),
        Ok(wanted) if (least..=most).contains(&wanted) => Ok(wanted),
        Ok(_) => Err(Errno::EINVAL),
    }
}

/// `XEN_DOMCTL_destroydomain`: done when all is given back, or when only others still hold frames.
pub(super) fn destroy<P: Platform>(request: &Request<'_, P>, domain: &Arc<Domain<P>>) -> Answer {
    if request.is_self(domain) {
        return Err(Errno::EINVAL);
    }
    match request.cx.hv.destroy_domain(domain) {
        Ok(()) => Ok(Reply::Done),
        Err(Restart) => Ok(Reply::Again),
    }
}

/// `XEN_DOMCTL_pausedomain`: when it answers, no vCPU of the domain runs any more.
pub(super) fn pause<P: Platform>(request: &Request<'_, P>, domain: &Arc<Domain<P>>) -> Answer {
    if request.is_self(domain) {
        return Err(Errno::EINVAL);
    }
    let caller = (request.cx.domain.id, request.cx.vcpu.id);
    let still = request.cx.hv.pause_domain_and_wait(domain, caller)?;
    Ok(if still { Reply::Done } else { Reply::Again })
}

/// `XEN_DOMCTL_unpausedomain`.
pub(super) fn unpause<P: Platform>(request: &Request<'_, P>, domain: &Arc<Domain<P>>) -> Answer {
    request.cx.hv.unpause_domain(domain).map(|()| Reply::Done)
}

/// `XEN_DOMCTL_resumedomain`: a domain that shut down goes on where it stopped; one that did not is left alone.
pub(super) fn resume<P: Platform>(request: &Request<'_, P>, domain: &Arc<Domain<P>>) -> Answer {
    if request.is_self(domain) {
        return Err(Errno::EINVAL);
    }
    request.cx.hv.resume_domain(domain);
    Ok(Reply::Done)
}

/// `XEN_DOMCTL_max_vcpus`: they were made with the domain; this only checks.
pub(super) fn max_vcpus<P: Platform>(request: &Request<'_, P>, domain: &Domain<P>) -> Answer {
    let max = request.payload::<XenDomctlMaxVcpus>()?.max;
    let same = u32::try_from(domain.vcpus.len()).is_ok_and(|count| count == max);
    if request.is_self(domain) || !same { Err(Errno::EINVAL) } else { Ok(Reply::Done) }
}

/// `XEN_DOMCTL_max_mem`.
pub(super) fn max_mem<P: Platform>(request: &Request<'_, P>, domain: &Domain<P>) -> Answer {
    let pages = request.payload::<XenDomctlMaxMem>()?.max_memkb >> KIB_TO_PAGES;
    request.cx.hv.limit_domain(domain, pages.min(u64::from(u32::MAX)));
    Ok(Reply::Done)
}

/// `XEN_DOMCTL_setdomainhandle`.
pub(super) fn set_handle<P: Platform>(request: &Request<'_, P>, domain: &Domain<P>) -> Answer {
    *domain.handle.lock() = request.payload::<XenDomctlSetdomainhandle>()?.handle;
    Ok(Reply::Done)
}

/// `XEN_DOMCTL_settimeoffset`: what the domain's wall clock is ahead of the machine's.
pub(super) fn set_time_offset<P: Platform>(request: &Request<'_, P>, domain: &Domain<P>) -> Answer {
    let offset = request.payload::<XenDomctlSettimeoffset>()?.time_offset_seconds;
    domain.time_offset.store(offset, Ordering::Relaxed);
    request.cx.hv.publish_wallclock(domain);
    Ok(Reply::Done)
}

/// `XEN_DOMCTL_hypercall_init`.
///
/// # Errors
/// `EINVAL` for a frame that is not the domain's, `EPERM` for one that is not writable memory.
pub(super) fn hypercall_page<P: Platform>(request: &Request<'_, P>, domain: &Domain<P>) -> Answer {
    let (hv, mfn) = (request.cx.hv, Mfn(request.payload::<XenDomctlHypercallInit>()?.gmfn));
    hv.get_page(domain.id, mfn).map_err(|_| Errno::EINVAL)?;
    let typed = hv.get_page_and_type(domain, mfn, PageType::Writable);
    hv.put_page(mfn);
    match typed {
        Ok(()) => {}
        Err(PageError::Restart) => return Ok(Reply::Again),
        Err(_) => return Err(Errno::EPERM),
    }
    let page = builder::hypercall_page();
    for (word, bytes) in hv.platform.frame_words(mfn).iter().zip(page.as_chunks().0) {
        word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
    }
    hv.put_page_and_type(mfn);
    Ok(Reply::Done)
}

/// `XEN_DOMCTL_sendtrigger`: buttons are for hardware guests.
pub(super) fn send_trigger<P: Platform>(request: &Request<'_, P>, domain: &Arc<Domain<P>>) -> Answer {
    let send = request.payload::<XenDomctlSendtrigger>()?;
    let target = vcpu_of(domain, send.vcpu, Errno::ESRCH)?;
    match send.trigger {
        XEN_DOMCTL_SENDTRIGGER_NMI => {
            request.cx.hv.raise_nmi(&target);
            Ok(Reply::Done)
        }
        XEN_DOMCTL_SENDTRIGGER_POWER | XEN_DOMCTL_SENDTRIGGER_SLEEP => Err(Errno::EINVAL),
        _ => Err(Errno::ENOSYS),
    }
}
