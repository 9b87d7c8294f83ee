//! The grant table itself: size, growth, exchange of entries, caches.

use guest_pv_lib::Errno;
use xen_abi::GuestHandle;
use xen_abi::grant_table::*;
use xen_abi::xen::{DOMID_IO, DOMID_SELF};

use super::grant::*;
use super::grant_map::with_grant;
use crate::call::{NO_DOMAIN, NO_FRAME, Ret, UNMAPPED, grant};
use crate::harness::{check, need, same};

pub(super) fn swap(ref_a: u32, ref_b: u32) -> i16 {
    let mut arg = [GnttabSwapGrantRef { ref_a, ref_b, status: 99, ..GnttabSwapGrantRef::default() }];
    grant(GNTTABOP_SWAP_GRANT_REF, &mut arg).map_or(i16::MAX, |_| arg[0].status)
}

pub(super) fn flush(a: u64, offset: u16, length: u16, op: u32) -> Ret {
    grant(GNTTABOP_CACHE_FLUSH, &mut [GnttabCacheFlush { a, offset, length, op }])
}

fn size(dom: u16) -> (i16, u32, u32) {
    let mut arg = [GnttabQuerySize { dom, status: 99, ..GnttabQuerySize::default() }];
    match grant(GNTTABOP_QUERY_SIZE, &mut arg) {
        Ok(_) => (arg[0].status, arg[0].nr_frames, arg[0].max_nr_frames),
        Err(_) => (i16::MAX, 0, 0),
    }
}

returns! {
    /// The size of a table of nobody.
    size_of_nobody(env): [size(NO_DOMAIN).0, size(DOMID_IO).0] => [GNTST_BAD_DOMAIN; 2];
    /// The table of a pseudo domain.
    setup_of_pseudo_domain(env): setup(DOMID_IO, 1, &mut [0; 1]).1 => GNTST_BAD_DOMAIN;
    /// Tables are set up one at a time.
    setup_twice(env): grant(GNTTABOP_SETUP_TABLE, &mut [GnttabSetupTable::default(); 2]) => Err(Errno::EINVAL);
    /// Status frames are asked for one table at a time.
    status_twice(env): grant(GNTTABOP_GET_STATUS_FRAMES, &mut [GnttabGetStatusFrames::default(); 2])
        => Err(Errno::EINVAL);
}

case! {
    /// The limit is 64 frames unless somebody set another one.
    fn limit(env) {
        let _ = table(env)?;
        let (status, frames, max) = size(DOMID_SELF);
        same("status", status, GNTST_OKAY)?;
        same("maximum", max, 64)?;
        check("size", (1..=max).contains(&frames))?;
        same("by number", size(0), size(DOMID_SELF))
    }
}

case! {
    /// Asking for no frame, for fewer than there are, and for a list in no memory.
    fn setup_lists(env) {
        table(env)?;
        let mut list = [0u64; 2];
        same("none", setup(DOMID_SELF, 0, &mut list), (Ok(0), GNTST_OKAY))?;
        same("nothing written", list, [0; 2])?;
        let mut arg = [GnttabSetupTable {
            dom: DOMID_SELF, nr_frames: 1, frame_list: GuestHandle::from(UNMAPPED), ..GnttabSetupTable::default()
        }];
        need("setup_table", grant(GNTTABOP_SETUP_TABLE, &mut arg))?;
        same("a list in no memory", arg[0].status, GNTST_BAD_VIRT_ADDR)?;
        Ok(())
    }
}

case! {
    #[alone]
    /// The table grows to its limit and no further; each frame is a new one, and the old ones stay.
    fn growth(env) {
        let _ = table(env)?;
        let mut before = [0u64; 1];
        need("setup_table", setup(DOMID_SELF, 1, &mut before).0)?;
        let mut frames = [0u64; 64];
        same("one too many", setup(DOMID_SELF, 65, &mut [0; 65]).1, GNTST_GENERAL_ERROR)?;
        same("all", setup(DOMID_SELF, 64, &mut frames), (Ok(0), GNTST_OKAY))?;
        same("size", size(DOMID_SELF), (GNTST_OKAY, 64, 64))?;
        same("the first", frames[0], before[0])?;
        for (at, frame) in frames.iter().enumerate() {
            check("a new frame", !frames[..at].contains(frame))?;
        }
        let last = 64 * 512 - 1;
        same("the last reference", map(last, env.page(1).virt(), GNTMAP_HOST_MAP).0, GNTST_GENERAL_ERROR)?;
        same("beyond", map(last + 1, env.page(1).virt(), GNTMAP_HOST_MAP).0, GNTST_BAD_GNTREF)?;
        same("fewer again", setup(DOMID_SELF, 1, &mut before), (Ok(0), GNTST_OKAY))?;
        same("size", size(DOMID_SELF), (GNTST_OKAY, 64, 64))
    }
}

case! {
    #[alone]
    /// Growth of a version 2 table brings status frames along.
    fn growth_of_status(env) {
        let _ = table(env)?;
        same("set_version", super::grant_v2::set_version(2), (Ok(0), 2))?;
        same("all", setup(DOMID_SELF, 64, &mut [0; 64]), (Ok(0), GNTST_OKAY))?;
        let mut status = [0u64; 8];
        same("status frames", super::grant_v2::status_frames(DOMID_SELF, 8, &mut status), (Ok(0), GNTST_OKAY))?;
        check("each is one", status.iter().all(|frame| *frame != 0))?;
        same("one too many", super::grant_v2::status_frames(DOMID_SELF, 9, &mut [0; 9]), (Ok(0), GNTST_GENERAL_ERROR))
    }
}

case! {
    /// Two entries change places; one that is in use does not.
    fn swapping(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let entry = setup.table.get(REF as usize);
            same("swap", swap(REF, REF + 1), GNTST_OKAY)?;
            same("moved", (setup.table.get(REF as usize), setup.table.get(REF as usize + 1)), (0, entry))?;
            same("back", swap(REF + 1, REF), GNTST_OKAY)?;
            same("moved", (setup.table.get(REF as usize), setup.table.get(REF as usize + 1)), (entry, 0))?;
            same("with itself", swap(REF, REF), GNTST_OKAY)?;
            let handle = mapped(REF, 0, GNTMAP_DEVICE_MAP)?;
            let refused = [swap(REF, REF + 1), swap(REF + 1, REF), swap(REF, REF)];
            same("unmap", unmap(handle, 0, setup.data.mfn().address()), GNTST_OKAY)?;
            same("in use", refused, [GNTST_EAGAIN, GNTST_EAGAIN, GNTST_OKAY])
        })
    }
}

case! {
    /// What a cache flush may be asked for: whole or part of a page of the domain's own.
    fn cache_flush(env) {
        let page = env.page(0).mfn().address();
        same("clean", flush(page, 0, 4096, GNTTAB_CACHE_CLEAN), Ok(0))?;
        same("both", flush(page, 64, 64, GNTTAB_CACHE_CLEAN | GNTTAB_CACHE_INVAL), Ok(0))?;
        same("nothing", flush(page, 0, 0, GNTTAB_CACHE_CLEAN), Ok(0))?;
        same("no operation", flush(page, 0, 64, 0), Ok(0))?;
        same("beyond the page", flush(page, 4000, 97, GNTTAB_CACHE_CLEAN), Err(Errno::EINVAL))?;
        same("offset of a page", flush(page, 4096, 0, GNTTAB_CACHE_CLEAN), Err(Errno::EINVAL))?;
        same("unknown operation", flush(page, 0, 64, 4), Err(Errno::EINVAL))?;
        same("no frame", flush(NO_FRAME << 12, 0, 64, GNTTAB_CACHE_CLEAN), Err(Errno::EINVAL))
    }
}

case! {
    /// Without writing back, contents cannot be thrown away by a PV domain.
    fn cache_invalidate(env) {
        same("invalidate", flush(env.page(0).mfn().address(), 0, 64, GNTTAB_CACHE_INVAL), Err(Errno::EOPNOTSUPP))
    }
}
