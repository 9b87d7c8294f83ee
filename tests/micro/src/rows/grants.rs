//! Grants of the domain to itself: page 1 of the pool is granted, page 2 the place or the destination, page 3 shows the
//! grant table.

use core::cell::Cell;

use guest_pv_lib::mmu::{Mfn, Pte};
use xen_abi::GuestHandle;
use xen_abi::grant_table::*;
use xen_abi::xen::DOMID_SELF;

use super::{Row, need};
use crate::call::grant;
use crate::measure::{ticks, ticks_of_pair};
use crate::{Env, Missing};

/// The rows of this file.
pub const ROWS: &[Row] = &[
    ("grant_map", |env| map_and_unmap(env).map(|(map, _)| map)),
    ("grant_unmap", |env| map_and_unmap(env).map(|(_, unmap)| unmap)),
    ("grant_copy_4k", copy),
];

/// A reference behind the reserved ones.
const REF: u32 = 9;

/// Grants page 1 by [`REF`] while `work` runs.
fn granted<R>(env: &Env, work: impl FnOnce() -> Result<R, Missing>) -> Result<R, Missing> {
    let mut frames = [0u64; 1];
    let mut setup = GnttabSetupTable {
        dom: DOMID_SELF,
        nr_frames: 1,
        frame_list: GuestHandle::from(frames.as_mut_ptr() as u64),
        ..GnttabSetupTable::default()
    };
    need("setup_table", grant(GNTTABOP_SETUP_TABLE, &mut setup))?;
    let table = env.page(3);
    need("map the grant table", table.map(Pte::data(Mfn(frames[0]))))?;
    // An entry of version 1: flags 16 bits, domain 16 bits (0, this one), frame 32 bits.
    table.set(REF as usize, env.page(1).mfn().0 << 32 | u64::from(GTF_PERMIT_ACCESS));
    let result = work();
    table.set(REF as usize, 0);
    need("writable", table.writable())?;
    result
}

fn map_and_unmap(env: &Env) -> Result<(u64, u64), Missing> {
    let place = env.page(2);
    need("unmap", place.map(Pte::EMPTY))?;
    let counts = granted(env, || {
        let mut map = GnttabMapGrantRef {
            host_addr: place.virt(),
            flags: GNTMAP_HOST_MAP,
            ref_: REF,
            ..GnttabMapGrantRef::default()
        };
        need("map_grant_ref", grant(GNTTABOP_MAP_GRANT_REF, &mut map))?;
        if map.status != GNTST_OKAY {
            return Err("map_grant_ref");
        }
        let handle = Cell::new(map.handle);
        let mut unmap = GnttabUnmapGrantRef { host_addr: place.virt(), ..GnttabUnmapGrantRef::default() };
        let mut undo = || {
            unmap.handle = handle.get();
            need("unmap_grant_ref", grant(GNTTABOP_UNMAP_GRANT_REF, &mut unmap))
        };
        undo()?;
        let counts = ticks_of_pair(
            || {
                let ret = grant(GNTTABOP_MAP_GRANT_REF, &mut map);
                handle.set(map.handle);
                ret
            },
            undo,
        );
        if unmap.status == GNTST_OKAY { Ok(counts) } else { Err("unmap_grant_ref") }
    });
    need("writable", place.writable())?;
    counts
}

/// A page from a granted frame to an own one.
fn copy(env: &Env) -> Result<u64, Missing> {
    granted(env, || {
        let end = |u, domid| GnttabCopyPtr { u, domid, ..GnttabCopyPtr::default() };
        let mut arg = GnttabCopy {
            source: end(u64::from(REF), 0),
            dest: end(env.page(2).mfn().0, DOMID_SELF),
            len: 4096,
            flags: GNTCOPY_SOURCE_GREF,
            ..GnttabCopy::default()
        };
        let count = ticks(|_| grant(GNTTABOP_COPY, &mut arg));
        if arg.status == GNTST_OKAY { Ok(count) } else { Err("grant copy") }
    })
}
