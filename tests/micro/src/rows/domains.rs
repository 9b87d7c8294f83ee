//! Another domain, by the control interface: made with a vCPU and some memory, and destroyed before it ever runs.

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use guest_pv_lib::{Errno, println};
use xen_abi::GuestHandle;
use xen_abi::domctl::*;
use xen_abi::hypercall::nr;
use xen_abi::memory::{XENMEM_POPULATE_PHYSMAP, XenMemoryReservation};
use xen_abi::sysctl::{XEN_SYSCTL_DEBUG_KEYS, XEN_SYSCTL_INTERFACE_VERSION, XenSysctl, XenSysctlDebugKeys};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Row, need};
use crate::Missing;
use crate::call::{hc1, op};
use crate::measure::ticks_of_pair;

/// The rows of this file.
pub const ROWS: &[Row] = &[
    ("domain_create", |_| create_and_destroy().map(|(create, _)| create)),
    ("domain_destroy", |_| create_and_destroy().map(|(_, destroy)| destroy)),
];

/// Pages of the domain: 4 MiB.
const PAGES: usize = 1024;

/// Their guest frame numbers, and what the hypervisor writes over them.
static FRAMES: [AtomicU64; PAGES] = [const { AtomicU64::new(0) }; PAGES];

/// `domctl`: the payload goes in, and what the hypervisor left in its place comes out; answers the domain's identifier.
pub(super) fn domctl<T: IntoBytes + FromBytes + Immutable>(
    cmd: u32,
    domain: u16,
    payload: &mut T,
) -> Result<u16, Errno> {
    let mut whole =
        XenDomctl { cmd, interface_version: XEN_DOMCTL_INTERFACE_VERSION, domain, ..XenDomctl::default() };
    let bytes = payload.as_mut_bytes();
    whole.u[..bytes.len()].copy_from_slice(bytes);
    hc1(nr::DOMCTL, &raw mut whole as u64)?;
    bytes.copy_from_slice(&whole.u[..bytes.len()]);
    Ok(whole.domain)
}

fn create() -> Result<u16, Errno> {
    let mut config = XenDomctlCreatedomain {
        handle: *b"micro benchmarks",
        max_vcpus: 1,
        max_evtchn_port: 1023,
        max_grant_frames: 4,
        max_maptrack_frames: 4,
        grant_opts: 2,
        ..XenDomctlCreatedomain::default()
    };
    let id = domctl(XEN_DOMCTL_CREATEDOMAIN, 0, &mut config)?;
    domctl(XEN_DOMCTL_MAX_VCPUS, id, &mut XenDomctlMaxVcpus { max: 1 })?;
    domctl(XEN_DOMCTL_MAX_MEM, id, &mut XenDomctlMaxMem { max_memkb: 4 * (PAGES as u64 + 8) })?;
    for (page, frame) in (0..).zip(&FRAMES) {
        frame.store(page, Relaxed);
    }
    let mut arg = XenMemoryReservation {
        extent_start: GuestHandle::from(&raw const FRAMES as u64),
        nr_extents: PAGES as u64,
        domid: id,
        ..XenMemoryReservation::default()
    };
    op(nr::MEMORY_OP, XENMEM_POPULATE_PHYSMAP, &mut arg)?;
    Ok(id)
}

/// `XEN_SYSCTL_debug_keys` with one key.
pub fn debug_key(key: u8) {
    let keys = XenSysctlDebugKeys {
        keys: (&raw const key as u64).into(),
        nr_keys: 1,
        ..XenSysctlDebugKeys::default()
    };
    let mut whole = XenSysctl {
        cmd: XEN_SYSCTL_DEBUG_KEYS,
        interface_version: XEN_SYSCTL_INTERFACE_VERSION,
        ..XenSysctl::default()
    };
    let bytes = keys.as_bytes();
    whole.u[..bytes.len()].copy_from_slice(bytes);
    if let Err(error) = hc1(nr::SYSCTL, &raw mut whole as u64) {
        println!("debug_keys: {error:?}");
    }
}

/// `destroydomain`, again as long as the hypervisor says so.
fn destroy(id: u16) -> Result<(), Errno> {
    loop {
        match domctl(XEN_DOMCTL_DESTROYDOMAIN, id, &mut [0u8; 0]) {
            Ok(_) => return Ok(()),
            Err(Errno::EAGAIN) => {}
            Err(error) => return Err(error),
        }
    }
}

fn create_and_destroy() -> Result<(u64, u64), Missing> {
    let first = need("createdomain", create())?;
    need("destroydomain", destroy(first))?;
    let domain = Cell::new(Ok(0));
    let counts = ticks_of_pair(
        || domain.set(create()),
        || domain.set(domain.get().and_then(|id| destroy(id).map(|()| id))),
    );
    need("create and destroy", domain.get())?;
    Ok(counts)
}
