//! `grant_table_op` (grant_table.h), version 1 tables.

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::{Mfn, Pte};
use xen_abi::GuestHandle;
use xen_abi::grant_table::*;
use xen_abi::hypercall::nr;
use xen_abi::xen::DOMID_SELF;

use crate::call::{BAD_POINTERS, NO_DOMAIN, Ret, grant, hc3};
use crate::harness::pool::Page;
use crate::harness::{Env, Verdict, check, need, same};

/// A reference behind the reserved ones.
pub(super) const REF: u32 = 9;

pub(super) fn setup(dom: u16, nr_frames: u32, frames: &mut [u64]) -> (Ret, i16) {
    let mut arg = [GnttabSetupTable {
        dom,
        nr_frames,
        frame_list: GuestHandle::from(frames.as_mut_ptr() as u64),
        ..GnttabSetupTable::default()
    }];
    (grant(GNTTABOP_SETUP_TABLE, &mut arg), arg[0].status)
}

/// Page 11 with the domain's grant table mapped at its place.
pub(super) fn table(env: &Env) -> Result<Page<'_>, Verdict> {
    let mut frames = [0u64; 1];
    let (ret, status) = setup(DOMID_SELF, 1, &mut frames);
    need("setup_table", ret)?;
    if status != GNTST_OKAY {
        return Err(Verdict::Error("setup_table"));
    }
    let page = env.page(11);
    need("map", page.map(Pte::data(Mfn(frames[0]))))?;
    Ok(page)
}

/// Grants `frame` to this very domain as reference [`REF`].
pub(super) fn grant_self(table: Page<'_>, frame: Mfn, flags: u16) {
    // Entry: flags 16 bits, domain 16 bits, frame 32 bits.
    table.set(REF as usize, frame.0 << 32 | u64::from(flags));
}

pub(super) fn copy(source: GnttabCopyPtr, dest: GnttabCopyPtr, len: u16, flags: u16) -> (Ret, i16) {
    let mut arg = [GnttabCopy { source, dest, len, flags, ..GnttabCopy::default() }];
    (grant(GNTTABOP_COPY, &mut arg), arg[0].status)
}

pub(super) fn end(u: u64, offset: u16) -> GnttabCopyPtr {
    GnttabCopyPtr { u, domid: DOMID_SELF, offset, ..GnttabCopyPtr::default() }
}

/// `GNTTABOP_map_grant_ref` of one reference of this very domain: status, handle and bus address.
pub(super) fn map(reference: u32, host_addr: u64, flags: u32) -> (i16, u32, u64) {
    let mut arg = [GnttabMapGrantRef { host_addr, flags, ref_: reference, ..GnttabMapGrantRef::default() }];
    match grant(GNTTABOP_MAP_GRANT_REF, &mut arg) {
        Ok(_) => (arg[0].status, arg[0].handle, arg[0].dev_bus_addr),
        Err(_) => (i16::MAX, 0, 0),
    }
}

/// A mapping that a case needs: its handle.
pub(super) fn mapped(reference: u32, host_addr: u64, flags: u32) -> Result<u32, Verdict> {
    match map(reference, host_addr, flags) {
        (GNTST_OKAY, handle, _) => Ok(handle),
        (status, ..) => need("map_grant_ref", Err(status)),
    }
}

/// The status of `GNTTABOP_unmap_grant_ref`.
pub(super) fn unmap(handle: u32, host_addr: u64, dev_bus_addr: u64) -> i16 {
    let mut arg = [GnttabUnmapGrantRef { host_addr, dev_bus_addr, handle, ..GnttabUnmapGrantRef::default() }];
    grant(GNTTABOP_UNMAP_GRANT_REF, &mut arg).map_or(i16::MAX, |_| arg[0].status)
}

/// Flags of an entry that say how it is used.
pub(super) fn in_use(table: Page<'_>, reference: u32) -> u16 {
    let [low, high, ..] = table.get(reference as usize).to_le_bytes();
    u16::from_le_bytes([low, high]) & (GTF_READING | GTF_WRITING)
}

returns! {
    /// A command that does not exist.
    unknown_command(env): grant(99, &mut [0u64; 4]) => Err(Errno::ENOSYS);
    /// Nothing to do.
    nothing(env): grant::<GnttabCopy>(GNTTABOP_COPY, &mut []) => Ok(0);
    /// Queries are made one at a time.
    query_size_twice(env): grant(GNTTABOP_QUERY_SIZE, &mut [GnttabQuerySize::default(); 2]) => Err(Errno::EINVAL);
    /// Bad pointers.
    fault(env): BAD_POINTERS.map(|at| hc3(nr::GRANT_TABLE_OP, u64::from(GNTTABOP_QUERY_SIZE), at, 1))
        => [Err(Errno::EFAULT); 4];
    /// A domain that does not exist has no table.
    setup_of_nobody(env): setup(NO_DOMAIN, 1, &mut [0; 1]).1 => GNTST_BAD_DOMAIN;
    /// More frames than the domain may have.
    setup_too_large(env): setup(DOMID_SELF, 1 << 20, &mut [0; 1]).1 => GNTST_GENERAL_ERROR;
    /// A version that does not exist.
    version_unknown(env): grant(GNTTABOP_SET_VERSION, &mut [GnttabSetVersion { version: 3 }]) => Err(Errno::EINVAL);
    /// Unmapping what was never mapped.
    unmap_bad_handle(env): {
        let mut arg = [GnttabUnmapGrantRef { handle: 12345, ..GnttabUnmapGrantRef::default() }];
        grant(GNTTABOP_UNMAP_GRANT_REF, &mut arg).map(|_| arg[0].status)
    } => Ok(GNTST_BAD_HANDLE);
    /// Mapping a grant of a domain that does not exist.
    map_of_nobody(env): {
        let mut arg = [GnttabMapGrantRef {
            dom: NO_DOMAIN, flags: GNTMAP_HOST_MAP, host_addr: env.page(0).virt(), ..GnttabMapGrantRef::default()
        }];
        grant(GNTTABOP_MAP_GRANT_REF, &mut arg).map(|_| arg[0].status)
    } => Ok(GNTST_BAD_DOMAIN);
}

case! {
    /// A domain starts with version 1.
    fn version(env) {
        let _ = env;
        let mut arg = [GnttabGetVersion { dom: DOMID_SELF, ..GnttabGetVersion::default() }];
        need("get_version", grant(GNTTABOP_GET_VERSION, &mut arg))?;
        same("version", arg[0].version, 1)
    }
}

case! {
    /// The size is what was set up, within the maximum.
    fn query_size(env) {
        let _ = table(env)?;
        let mut arg = [GnttabQuerySize { dom: DOMID_SELF, ..GnttabQuerySize::default() }];
        need("query_size", grant(GNTTABOP_QUERY_SIZE, &mut arg))?;
        same("status", arg[0].status, GNTST_OKAY)?;
        check("within the maximum", (1..=arg[0].max_nr_frames).contains(&arg[0].nr_frames))
    }
}

case! {
    /// Copying between two own frames needs no grant.
    fn copy_own_frames(env) {
        let (from, to) = (env.page(0), env.page(1));
        from.set(4, 0x1122_3344_5566_7788);
        same("copy", copy(end(from.mfn().0, 32), end(to.mfn().0, 64), 8, 0), (Ok(0), GNTST_OKAY))?;
        same("value", to.get(8), 0x1122_3344_5566_7788)
    }
}

case! {
    /// Copying from a granted frame: by the reference, within the page.
    fn copy_from_grant(env) {
        let (table, from, to) = (table(env)?, env.page(0), env.page(1));
        from.set(0, 0xabcd);
        grant_self(table, from.mfn(), GTF_PERMIT_ACCESS | GTF_READONLY);
        let source = GnttabCopyPtr { domid: 0, ..end(u64::from(REF), 0) };
        let result = copy(source, end(to.mfn().0, 0), 4096, GNTCOPY_SOURCE_GREF);
        let past = copy(GnttabCopyPtr { offset: 4000, ..source }, end(to.mfn().0, 0), 100, GNTCOPY_SOURCE_GREF);
        let wrong = copy(GnttabCopyPtr { domid: 0, ..end(7000, 0) }, end(to.mfn().0, 0), 8, GNTCOPY_SOURCE_GREF);
        let write = copy(end(to.mfn().0, 0), source, 8, GNTCOPY_DEST_GREF);
        table.set(REF as usize, 0);
        same("copy", result, (Ok(0), GNTST_OKAY))?;
        same("value", to.get(0), 0xabcd)?;
        same("past the page", past, (Ok(0), GNTST_BAD_COPY_ARG))?;
        same("a reference beyond the table", wrong, (Ok(0), GNTST_BAD_GNTREF))?;
        same("a write to a read-only grant", write, (Ok(0), GNTST_GENERAL_ERROR))
    }
}

case! {
    /// A granted frame is mapped at an address of its own, used there, and unmapped by the handle.
    fn map_and_unmap(env) {
        let (table, data, place) = (table(env)?, env.page(0), env.page(1));
        data.set(3, 33);
        need("unmap", place.map(Pte::EMPTY))?;
        grant_self(table, data.mfn(), GTF_PERMIT_ACCESS);
        let mut map = [GnttabMapGrantRef {
            host_addr: place.virt(), flags: GNTMAP_HOST_MAP, ref_: REF, ..GnttabMapGrantRef::default()
        }];
        need("map_grant_ref", grant(GNTTABOP_MAP_GRANT_REF, &mut map))?;
        same("status", map[0].status, GNTST_OKAY)?;
        let seen = place.get(3);
        let in_use = table.get(REF as usize) as u16;
        let mut unmap = [GnttabUnmapGrantRef {
            host_addr: place.virt(), handle: map[0].handle, ..GnttabUnmapGrantRef::default()
        }];
        need("unmap_grant_ref", grant(GNTTABOP_UNMAP_GRANT_REF, &mut unmap))?;
        let after = table.get(REF as usize) as u16;
        table.set(REF as usize, 0);
        same("seen through the mapping", seen, 33)?;
        same("marked as in use", in_use & (GTF_READING | GTF_WRITING), GTF_READING | GTF_WRITING)?;
        same("status", unmap[0].status, GNTST_OKAY)?;
        same("no longer marked", after & (GTF_READING | GTF_WRITING), 0)
    }
}

case! {
    /// An entry that grants nothing cannot be mapped.
    fn map_invalid_entry(env) {
        let table = table(env)?;
        table.set(REF as usize, 0);
        let mut map = [GnttabMapGrantRef {
            host_addr: env.page(1).virt(), flags: GNTMAP_HOST_MAP, ref_: REF, ..GnttabMapGrantRef::default()
        }];
        need("map_grant_ref", grant(GNTTABOP_MAP_GRANT_REF, &mut map))?;
        same("status", map[0].status, GNTST_GENERAL_ERROR)
    }
}
