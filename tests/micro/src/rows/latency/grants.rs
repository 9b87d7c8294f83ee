//! Thousands of grants of this domain to itself, mapped for devices, and caches flushed for frames beside them.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use guest_pv_lib::mmu::{Mfn, Pte};
use xen_abi::GuestHandle;
use xen_abi::domctl::{XEN_DOMCTL_GETDOMAININFO, XenDomctlGetdomaininfo};
use xen_abi::grant_table::*;
use xen_abi::hypercall::nr;
use xen_abi::xen::DOMID_SELF;

use super::super::domains::domctl;
use super::super::need;
use super::own;
use crate::call::hc3;
use crate::{Env, Missing};

/// Operations of one hypercall.
const BATCH: usize = 64;
/// Hypercalls: 8,192 handles.
const BATCHES: u32 = 128;
/// A reference behind the reserved ones.
const REF: u32 = 9;
/// Pages of the image: the one that shows the grant table, and the one that is granted.
const TABLE: usize = 0;
const GRANTED: usize = 1;

static HANDLES: AtomicU32 = AtomicU32::new(0);

fn batch<T>(cmd: u32, operations: &mut [T; BATCH]) -> Result<(), Missing> {
    need("grant_table_op", hc3(nr::GRANT_TABLE_OP, cmd.into(), operations.as_mut_ptr() as u64, BATCH as u64))
        .map(drop)
}

/// Maps one page as often as there is a handle.
pub fn map(env: &Env) -> Result<(), Missing> {
    let mut frames = [0u64; 1];
    let mut setup = GnttabSetupTable {
        dom: DOMID_SELF,
        nr_frames: 1,
        frame_list: GuestHandle::from(frames.as_mut_ptr() as u64),
        ..GnttabSetupTable::default()
    };
    need("setup_table", crate::call::grant(GNTTABOP_SETUP_TABLE, &mut setup))?;
    own::show(TABLE, Pte::data(Mfn(frames[0])))?;
    own::PAGES[TABLE].0[REF as usize]
        .store(own::frame(env, GRANTED).0 << 32 | u64::from(GTF_PERMIT_ACCESS), Relaxed);
    for _ in 0..BATCHES {
        let request =
            GnttabMapGrantRef { flags: GNTMAP_DEVICE_MAP, ref_: REF, ..GnttabMapGrantRef::default() };
        let mut requests = [request; BATCH];
        batch(GNTTABOP_MAP_GRANT_REF, &mut requests)?;
        let mapped = requests.iter().filter(|request| request.status == GNTST_OKAY).count();
        HANDLES.fetch_add(mapped as u32, Relaxed);
        if mapped < BATCH {
            break;
        }
    }
    if HANDLES.load(Relaxed) == 0 { Err("map_grant_ref") } else { Ok(()) }
}

/// Undoes it.
pub fn unmap(env: &Env) -> Result<(), Missing> {
    let frame = own::frame(env, GRANTED).address();
    for first in (0..HANDLES.load(Relaxed)).step_by(BATCH) {
        let mut requests: [GnttabUnmapGrantRef; BATCH] = core::array::from_fn(|n| GnttabUnmapGrantRef {
            dev_bus_addr: frame,
            handle: first + n as u32,
            ..GnttabUnmapGrantRef::default()
        });
        batch(GNTTABOP_UNMAP_GRANT_REF, &mut requests)?;
    }
    own::PAGES[TABLE].0[REF as usize].store(0, Relaxed);
    own::show(TABLE, Pte::data(own::frame(env, TABLE)))
}

fn flush(address: u64) -> GnttabCacheFlush {
    GnttabCacheFlush {
        a: address,
        length: 4096,
        op: GNTTAB_CACHE_CLEAN | GNTTAB_CACHE_INVAL,
        ..GnttabCacheFlush::default()
    }
}

/// Whole pages of its own.
pub fn flush_own(env: &Env) -> Result<(), Missing> {
    let mut requests = [flush(own::frame(env, GRANTED).address()); BATCH];
    batch(GNTTABOP_CACHE_FLUSH, &mut requests)
}

/// A page of another domain, which is none of those that are mapped.
pub fn flush_foreign(_: &Env) -> Result<(), Missing> {
    let mut info = XenDomctlGetdomaininfo::default();
    need("getdomaininfo", domctl(XEN_DOMCTL_GETDOMAININFO, 1, &mut info))?;
    let mut requests = [flush(info.shared_info_frame << 12); BATCH];
    match hc3(nr::GRANT_TABLE_OP, GNTTABOP_CACHE_FLUSH.into(), requests.as_mut_ptr() as u64, BATCH as u64) {
        Ok(_) => Err("a page of another domain was flushed"),
        Err(_) => Ok(()),
    }
}
