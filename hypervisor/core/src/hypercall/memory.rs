//! `memory_op(cmd, arg)`: how much memory a domain has, and what is where.
//!
//! | file | subject |
//! |---|---|
//! | `extents.rs` | increase, decrease, populate |
//! | `exchange.rs` | exchange |
//! | `maps.rs` | memory maps and the machine-to-physical table |
//! | `placement.rs` | where memory is to be, by the flags of a request |
//! | `resource.rs` | frames of a domain's resources |

mod exchange;
mod extents;
mod maps;
mod placement;
mod resource;

use super::{Cx, Outcome};
use crate::domain::Domain;
use crate::guest_ptr::GuestPtr;
use crate::ids::DomId;
use crate::platform::Platform;
use crate::regs::Regs;
use alloc::sync::Arc;
use core::ops::Deref;
use xen_abi::errno::Errno;
use xen_abi::memory::*;
use xen_abi::xen::DOMID_SELF;
use zerocopy::{FromBytes, IntoBytes};

/// Largest order that an ordinary domain may ask for.
const MAX_ORDER_GUEST: u32 = 9;
/// The same for a privileged one.
const MAX_ORDER_PRIVILEGED: u32 = 18;

/// `memory_op(cmd, arg)`.
pub fn memory_op<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    let [cmd, arg, ..] = *args;
    if cx.hv.work_off_doomed(cx.domain).is_err() {
        return Outcome::Again(*args);
    }
    // The command has 6 bits, a continuation's progress is above them.
    let (op, start) = ((cmd & MEMOP_CMD_MASK) as u32, cmd >> MEMOP_EXTENT_SHIFT);
    match op {
        XENMEM_INCREASE_RESERVATION | XENMEM_DECREASE_RESERVATION | XENMEM_POPULATE_PHYSMAP => {
            extents::change(cx, op, start, arg)
        }
        // These keep their progress in `cmd`, too, and nothing else does.
        XENMEM_ADD_TO_PHYSMAP => add_to_physmap(cx, start, arg).into(),
        XENMEM_ADD_TO_PHYSMAP_BATCH => add_to_physmap_batch(cx, start, arg).into(),
        XENMEM_ACQUIRE_RESOURCE => resource::acquire(cx, start, arg),
        _ if start != 0 => if has_no_progress(op) { Errno::EINVAL } else { Errno::ENOSYS }.into(),
        XENMEM_EXCHANGE => exchange::exchange(cx, arg),
        _ => query(cx, op, arg).into(),
    }
}

/// The commands that say so when there is progress in `cmd` nevertheless; the others do not exist then.
fn has_no_progress(op: u32) -> bool {
    matches!(
        op,
        XENMEM_EXCHANGE
            | XENMEM_MAXIMUM_RAM_PAGE
            | XENMEM_CURRENT_RESERVATION
            | XENMEM_MAXIMUM_RESERVATION
            | XENMEM_MAXIMUM_GPFN
            | XENMEM_REMOVE_FROM_PHYSMAP
            | XENMEM_CLAIM_PAGES
            | XENMEM_GET_VNUMAINFO
            | XENMEM_RESERVED_DEVICE_MEMORY_MAP
    )
}

/// The commands that are done in one go.
fn query<P: Platform>(cx: Cx<'_, P>, op: u32, arg: u64) -> Result<i64, Errno> {
    match op {
        XENMEM_MAXIMUM_RAM_PAGE => Ok(cx.hv.platform.frame_table().len() as i64),
        XENMEM_CURRENT_RESERVATION | XENMEM_MAXIMUM_RESERVATION | XENMEM_MAXIMUM_GPFN => {
            let domain: XenMemoryDomain = read(cx, arg)?;
            let who = Who::find(cx, domain.domid)?;
            who.controlled_by(cx)?;
            Ok(match op {
                XENMEM_CURRENT_RESERVATION => who.pages.current().cast_signed(),
                XENMEM_MAXIMUM_RESERVATION => who.pages.max().cast_signed(),
                _ => maps::maximum_pfn(cx, &who),
            })
        }
        XENMEM_MACHPHYS_MFN_LIST => maps::m2p_frames(cx, arg),
        XENMEM_MACHPHYS_COMPAT_MFN_LIST => Err(Errno::EOPNOTSUPP),
        XENMEM_MEMORY_MAP => maps::memory_map(cx, arg),
        XENMEM_MACHINE_MEMORY_MAP => maps::machine_memory_map(cx, arg),
        XENMEM_MACHPHYS_MAPPING => maps::m2p_mapping(cx, arg),
        XENMEM_SET_MEMORY_MAP => maps::set_memory_map(cx, arg),
        XENMEM_REMOVE_FROM_PHYSMAP => {
            let request: XenRemoveFromPhysmap = read(cx, arg)?;
            Who::find(cx, request.domid)?;
            Err(Errno::EACCES)
        }
        XENMEM_SET_POD_TARGET | XENMEM_GET_POD_TARGET => {
            let request: XenPodTarget = read(cx, arg)?;
            Who::find(cx, request.domid)?;
            Err(Errno::EINVAL)
        }
        XENMEM_GET_SHARING_FREED_PAGES | XENMEM_GET_SHARING_SHARED_PAGES => Ok(0),
        XENMEM_CLAIM_PAGES => claim_pages(cx, arg),
        XENMEM_GET_VNUMAINFO => {
            let request: XenVnumaTopologyInfo = read(cx, arg)?;
            if request.pad != 0 {
                return Err(Errno::EINVAL);
            }
            Who::find(cx, request.domid)?.controlled_by(cx)?;
            Err(Errno::EOPNOTSUPP)
        }
        XENMEM_RESERVED_DEVICE_MEMORY_MAP => maps::reserved_device_memory(cx, arg),
        XENMEM_ACCESS_OP => {
            // Only domains with a physmap of their own have access rights beside it.
            let request: XenMemAccessOp = read(cx, arg)?;
            remote(cx, request.domid)?;
            Err(Errno::EINVAL)
        }
        _ => Err(Errno::ENOSYS),
    }
}

/// PV domains have no physmap that the hypervisor could change.
fn add_to_physmap<P: Platform>(cx: Cx<'_, P>, start: u64, arg: u64) -> Result<i64, Errno> {
    if start > u64::from(u16::MAX) {
        return Err(Errno::EDOM);
    }
    let request: XenAddToPhysmap = read(cx, arg)?;
    if request.space == XENMAPSPACE_GMFN_FOREIGN {
        return Err(Errno::ENOSYS);
    }
    Who::find(cx, request.domid)?;
    Err(Errno::EACCES)
}

fn add_to_physmap_batch<P: Platform>(cx: Cx<'_, P>, start: u64, arg: u64) -> Result<i64, Errno> {
    if start > u64::from(u16::MAX) {
        return Err(Errno::EDOM);
    }
    let request: XenAddToPhysmapBatch = read(cx, arg)?;
    if u32::from(request.space) == XENMAPSPACE_GMFN_RANGE {
        return Err(Errno::EOPNOTSUPP);
    }
    Who::find(cx, request.domid)?;
    Err(Errno::EACCES)
}

/// Sets frames aside for a domain that a toolstack builds, so that nobody else gets them meanwhile.
fn claim_pages<P: Platform>(cx: Cx<'_, P>, arg: u64) -> Result<i64, Errno> {
    let request: XenMemoryReservation = read(cx, arg)?;
    if !request.extent_start.is_null() || request.extent_order != 0 || request.mem_flags != 0 {
        return Err(Errno::EINVAL);
    }
    let domain = cx.hv.domains.get(DomId(request.domid)).ok_or(Errno::EINVAL)?;
    if !cx.domain.privileged {
        return Err(Errno::EPERM);
    }
    cx.hv.claim_pages(&domain, request.nr_extents)?;
    Ok(0)
}

/// Another domain than the caller's.
fn remote<P: Platform>(cx: Cx<'_, P>, id: u16) -> Result<Arc<Domain<P>>, Errno> {
    let domain = cx.hv.domains.get(DomId(id)).ok_or(Errno::ESRCH)?;
    if domain.id == cx.domain.id { Err(Errno::EPERM) } else { Ok(domain) }
}

/// The domain that a command is about.
enum Who<'a, P: Platform> {
    Caller(&'a Domain<P>),
    Other(Arc<Domain<P>>),
}

impl<'a, P: Platform> Who<'a, P> {
    /// The domain with this number; `DOMID_SELF` and the caller's own number are the caller.
    fn find(cx: Cx<'a, P>, id: u16) -> Result<Self, Errno> {
        if id == DOMID_SELF || id == cx.domain.id.0 {
            return Ok(Who::Caller(cx.domain));
        }
        cx.hv.domains.get(DomId(id)).map(Who::Other).ok_or(Errno::ESRCH)
    }

    /// Fails with `EPERM` unless the caller may act on the domain.
    fn controlled_by(&self, cx: Cx<'_, P>) -> Result<(), Errno> {
        match self {
            Who::Other(_) if !cx.domain.privileged => Err(Errno::EPERM),
            _ => Ok(()),
        }
    }
}

impl<P: Platform> Deref for Who<'_, P> {
    type Target = Domain<P>;

    fn deref(&self) -> &Domain<P> {
        match self {
            Who::Caller(domain) => domain,
            Who::Other(domain) => domain,
        }
    }
}

/// The largest order that the caller may ask for.
fn max_order<P: Platform>(cx: Cx<'_, P>) -> u32 {
    if cx.domain.privileged { MAX_ORDER_PRIVILEGED } else { MAX_ORDER_GUEST }
}

/// Copies a command's argument in.
fn read<P: Platform, T: FromBytes + IntoBytes>(cx: Cx<'_, P>, arg: u64) -> Result<T, Errno> {
    Ok(GuestPtr::<T>::new(arg).read(cx.hv)?)
}
