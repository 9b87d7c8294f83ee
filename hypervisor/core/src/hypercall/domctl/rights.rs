//! Which ports, interrupts and frames of devices a domain may use. A caller gives and takes what it has itself.

use super::{Answer, Reply, Request};
use crate::domain::Domain;
use crate::event::PirqTable;
use crate::permissions::{Permissions, RangeSet};
use crate::platform::Platform;
use xen_abi::domctl::*;
use xen_abi::errno::Errno;

/// Number of I/O ports.
const PORTS: u64 = 1 << 16;
/// First frame number that no machine address has.
const END_OF_FRAMES: u64 = 1 << (52 - 12);

/// Which of a domain's sets a command changes.
type Pick = fn(&mut Permissions) -> &mut RangeSet;

/// Gives or takes `first..=last`, if the caller has it.
fn change<P: Platform>(
    request: &Request<'_, P>,
    domain: &Domain<P>,
    pick: Pick,
    (first, last): (u64, u64),
    allow: bool,
) -> Answer {
    request.check_privilege()?;
    let caller = &**request.cx.domain;
    let apply = |set: &mut RangeSet| if allow { set.insert(first, last) } else { set.remove(first, last) };
    // The caller's right is judged and given on under both locks: it may be taken away at the same time.
    if request.is_self(domain) {
        let mut own = domain.permissions.write();
        let set = pick(&mut own);
        return set.contains(first, last).then(|| apply(set)).map(|()| Reply::Done).ok_or(Errno::EPERM);
    }
    let (mut own, mut theirs);
    if caller.id < domain.id {
        own = caller.permissions.write();
        theirs = domain.permissions.write();
    } else {
        theirs = domain.permissions.write();
        own = caller.permissions.write();
    }
    if !pick(&mut own).contains(first, last) {
        return Err(Errno::EPERM);
    }
    apply(pick(&mut theirs));
    Ok(Reply::Done)
}

/// The range of `count` numbers from `first` on; none where it is empty or wraps.
fn range(first: u64, count: u64) -> Option<(u64, u64)> {
    let last = first.checked_add(count.checked_sub(1)?)?;
    Some((first, last))
}

/// `XEN_DOMCTL_iomem_permission`.
pub(super) fn iomem<P: Platform>(request: &Request<'_, P>, domain: &Domain<P>) -> Answer {
    let wanted = request.payload::<XenDomctlIomemPermission>()?;
    let range = range(wanted.first_mfn, wanted.nr_mfns).ok_or(Errno::EINVAL)?;
    change(request, domain, |all| &mut all.iomem, range, wanted.allow_access != 0)
}

/// `XEN_DOMCTL_ioport_permission`.
pub(super) fn ioport<P: Platform>(request: &Request<'_, P>, domain: &Domain<P>) -> Answer {
    let wanted = request.payload::<XenDomctlIoportPermission>()?;
    let range = range(wanted.first_port.into(), wanted.nr_ports.into());
    let range = range.filter(|(_, last)| *last < PORTS).ok_or(Errno::EINVAL)?;
    change(request, domain, |all| &mut all.ioports, range, wanted.allow_access != 0)
}

/// `XEN_DOMCTL_irq_permission`: the interrupt is one that the caller has mapped.
pub(super) fn irq<P: Platform>(request: &Request<'_, P>, domain: &Domain<P>) -> Answer {
    let wanted = request.payload::<XenDomctlIrqPermission>()?;
    let hv = request.cx.hv;
    if wanted.pirq >= PirqTable::limit(&hv.platform, request.cx.domain) {
        return Err(Errno::EINVAL);
    }
    let irq = hv.pirqs.irq_of(request.cx.domain.id, wanted.pirq).ok_or(Errno::EPERM)?;
    let number = u64::from(irq.0);
    change(request, domain, |all| &mut all.irqs, (number, number), wanted.allow_access != 0)
}

/// `XEN_DOMCTL_memory_mapping`: a PV guest maps device memory by itself, where it may.
pub(super) fn memory_mapping<P: Platform>(request: &Request<'_, P>) -> Answer {
    let wanted = request.payload::<XenDomctlMemoryMapping>()?;
    let frames = range(wanted.first_mfn, wanted.nr_mfns).filter(|(_, last)| *last < END_OF_FRAMES);
    if frames.is_none() || range(wanted.first_gfn, wanted.nr_mfns).is_none() {
        return Err(Errno::EINVAL);
    }
    request.check_privilege().map(|()| Reply::Done)
}
