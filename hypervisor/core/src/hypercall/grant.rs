//! `grant_table_op`: batches of grant operations, continued where they were interrupted.
//!
//! Most commands take an array: each element is copied in, served, and its status copied out. Between elements the CPU's
//! other work is looked at; the hypercall then starts again behind the last element served.

use super::{Cx, Failure, Outcome, done_or_again};
use crate::domain::Domain;
use crate::grant::{
    CopyEnd, CopyRequest, GrantError, MapRequest, UnmapBatch, UnmapRequest, VersionError, status_of,
};
use crate::guest_ptr::GuestPtr;
use crate::ids::{DomId, GrantRef, Mfn};
use crate::platform::{GuestFrame, Platform};
use crate::regs::Regs;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::offset_of;
use xen_abi::errno::Errno;
use xen_abi::grant_table::*;
use zerocopy::{FromBytes, IntoBytes};

/// Bits of the command; above them is the progress of a cache flush, as Xen has it.
const COMMAND_BITS: u32 = 12;
const COMMAND: u32 = (1 << COMMAND_BITS) - 1;
/// Handles that are looked at between two looks for other work.
const HANDLES: u32 = 1024;

/// `grant_table_op(cmd, args, count)`.
pub fn grant_table_op<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    let (cmd, count) = (super::event::command(args[0]), super::event::command(args[2]));
    let (cmd, progress) = (cmd & COMMAND, cmd >> COMMAND_BITS);
    if i32::try_from(count).is_err() || progress != 0 && cmd != GNTTABOP_CACHE_FLUSH {
        return Errno::EINVAL.into();
    }
    let batch = Batch { cx, cmd, first: args[1], count };
    match cmd {
        GNTTABOP_MAP_GRANT_REF => batch.each(map),
        GNTTABOP_UNMAP_GRANT_REF => batch.unmap(unmap_request, offset_of!(GnttabUnmapGrantRef, status)),
        GNTTABOP_UNMAP_AND_REPLACE => batch.unmap(
            |op: &GnttabUnmapAndReplace| UnmapRequest {
                host_addr: op.host_addr,
                device_addr: 0,
                new_addr: op.new_addr,
                handle: op.handle,
            },
            offset_of!(GnttabUnmapAndReplace, status),
        ),
        GNTTABOP_COPY => batch.each(copy),
        GNTTABOP_TRANSFER => batch.each(transfer),
        GNTTABOP_SWAP_GRANT_REF => batch.each(swap),
        GNTTABOP_CACHE_FLUSH => batch.cache_flush(progress),
        GNTTABOP_SETUP_TABLE => batch.one(setup_table),
        GNTTABOP_QUERY_SIZE => batch.one(query_size),
        GNTTABOP_GET_STATUS_FRAMES => batch.one(get_status_frames),
        GNTTABOP_SET_VERSION => done_or_again(set_version(cx, GuestPtr::new(args[1])).map(|()| 0), args),
        GNTTABOP_GET_VERSION => get_version(cx, GuestPtr::new(args[1])).into(),
        _ => Errno::ENOSYS.into(),
    }
}

/// `grant_table_op` with a single mapping, unmapping or copy, which needs no batch. `None`: it is something else, or is to be made
/// again.
pub fn single<P: Platform>(cx: Cx<'_, P>, cmd: u64, at: u64, count: u64) -> Option<i64> {
    if super::event::command(count) != 1 {
        return None;
    }
    let result = match super::event::command(cmd) {
        GNTTABOP_MAP_GRANT_REF => map(cx, GuestPtr::new(at)),
        GNTTABOP_UNMAP_GRANT_REF => unmap_single(cx, GuestPtr::new(at)),
        GNTTABOP_COPY => copy(cx, GuestPtr::new(at)),
        _ => return None,
    };
    match result {
        Ok(()) => Some(0),
        Err(Failure::Errno(errno)) => Some(errno.to_ret()),
        Err(Failure::Restart) => None,
    }
}

fn unmap_single<P: Platform>(cx: Cx<'_, P>, ptr: GuestPtr<GnttabUnmapGrantRef>) -> Result<(), Failure> {
    let undone = cx.hv.begin_unmap(cx.domain, cx.vcpu, &unmap_request(&ptr.read(cx.hv)?));
    if let Err(GrantError::Restart) = undone {
        return Err(Failure::Restart);
    }
    if let Ok(undone) = &undone {
        cx.hv.finish_unmap(cx.domain, undone);
    }
    Ok(ptr.field::<i16>(offset_of!(GnttabUnmapGrantRef, status))?.write(cx.hv, &status_of(&undone))?)
}

fn unmap_request(op: &GnttabUnmapGrantRef) -> UnmapRequest {
    UnmapRequest { host_addr: op.host_addr, device_addr: op.dev_bus_addr, new_addr: 0, handle: op.handle }
}

/// An array of operations.
struct Batch<'a, P: Platform> {
    cx: Cx<'a, P>,
    cmd: u32,
    first: u64,
    count: u32,
}

impl<P: Platform> Batch<'_, P> {
    /// A command that takes exactly one operation.
    fn one<T>(&self, op: fn(Cx<'_, P>, GuestPtr<T>) -> Result<(), Failure>) -> Outcome {
        if self.count != 1 {
            return Errno::EINVAL.into();
        }
        match op(self.cx, GuestPtr::new(self.first)) {
            Ok(()) => Outcome::Done(0),
            Err(Failure::Errno(errno)) => errno.into(),
            Err(Failure::Restart) => self.again::<T>(0),
        }
    }

    /// As [`Batch::each`], for operations that keep the progress of the element where they stopped in the command.
    fn cache_flush(&self, mut progress: u32) -> Outcome {
        if !GuestPtr::<GnttabCacheFlush>::new(self.first).is_plausible() {
            return Errno::EFAULT.into();
        }
        for index in 0..self.count {
            let served = GuestPtr::new(self.first).at(u64::from(index)).map_err(Failure::from);
            match served.and_then(|ptr| cache_flush(self.cx, ptr, &mut progress)) {
                Ok(()) => progress = 0,
                Err(Failure::Errno(errno)) => return errno.into(),
                Err(Failure::Restart) => return self.again_at::<GnttabCacheFlush>(index, progress),
            }
            if index + 1 < self.count && self.cx.hv.platform.work_pending() {
                return self.again::<GnttabCacheFlush>(index + 1);
            }
        }
        Outcome::Done(0)
    }

    /// Serves one operation after the other. The place of the array is judged even if there are none.
    fn each<T>(&self, op: fn(Cx<'_, P>, GuestPtr<T>) -> Result<(), Failure>) -> Outcome {
        if !GuestPtr::<T>::new(self.first).is_plausible() {
            return Errno::EFAULT.into();
        }
        for index in 0..self.count {
            if index != 0 && self.cx.hv.platform.work_pending() {
                return self.again::<T>(index);
            }
            let served = GuestPtr::<T>::new(self.first).at(u64::from(index)).map_err(Failure::from);
            match served.and_then(|ptr| op(self.cx, ptr)) {
                Ok(()) => {}
                Err(Failure::Errno(errno)) => return errno.into(),
                Err(Failure::Restart) => return self.again::<T>(index),
            }
        }
        Outcome::Done(0)
    }

    /// Undoes mappings, with one TLB flush for many.
    fn unmap<T: FromBytes + IntoBytes>(&self, request: fn(&T) -> UnmapRequest, status: usize) -> Outcome {
        if !GuestPtr::<T>::new(self.first).is_plausible() {
            return Errno::EFAULT.into();
        }
        let mut pending = UnmapBatch::default();
        for index in 0..self.count {
            // Those that are refused count as well: a batch may have nothing else.
            if index != 0 && (index as usize).is_multiple_of(UnmapBatch::SIZE) {
                self.cx.hv.finish_unmaps(self.cx.domain, &mut pending);
                if self.cx.hv.platform.work_pending() {
                    return self.again::<T>(index);
                }
            }
            match self.unmap_one(index, request, status, &mut pending) {
                Ok(()) => continue,
                Err(failure) => {
                    self.cx.hv.finish_unmaps(self.cx.domain, &mut pending);
                    return match failure {
                        Failure::Errno(errno) => errno.into(),
                        Failure::Restart => self.again::<T>(index),
                    };
                }
            }
        }
        self.cx.hv.finish_unmaps(self.cx.domain, &mut pending);
        Outcome::Done(0)
    }

    fn unmap_one<T: FromBytes + IntoBytes>(
        &self,
        index: u32,
        request: fn(&T) -> UnmapRequest,
        status: usize,
        pending: &mut UnmapBatch,
    ) -> Result<(), Failure> {
        let cx = self.cx;
        let ptr = GuestPtr::<T>::new(self.first).at(u64::from(index))?;
        let request = request(&ptr.read(cx.hv)?);
        let result = cx.hv.unmap_grant(cx.domain, cx.vcpu, &request, pending);
        if let Err(GrantError::Restart) = result {
            return Err(Failure::Restart);
        }
        Ok(ptr.field::<i16>(status)?.write(cx.hv, &status_of(&result))?)
    }

    /// The same hypercall, from element `done` on.
    fn again<T>(&self, done: u32) -> Outcome {
        self.again_at::<T>(done, 0)
    }

    /// The same, and that element with some progress.
    fn again_at<T>(&self, done: u32, progress: u32) -> Outcome {
        let next = self.first.wrapping_add(u64::from(done) * size_of::<T>() as u64);
        let cmd = self.cmd | progress << COMMAND_BITS;
        Outcome::Again([u64::from(cmd), next, u64::from(self.count - done), 0, 0, 0])
    }
}

fn map<P: Platform>(cx: Cx<'_, P>, ptr: GuestPtr<GnttabMapGrantRef>) -> Result<(), Failure> {
    let mut op = ptr.read(cx.hv)?;
    let request = MapRequest {
        host_addr: op.host_addr,
        flags: op.flags,
        granter: DomId(op.dom),
        reference: GrantRef(op.ref_),
    };
    let mapped = cx.hv.map_grant(cx.domain, cx.vcpu, &request);
    if let Err(GrantError::Restart) = mapped {
        return Err(Failure::Restart);
    }
    op.status = status_of(&mapped);
    if let Ok(mapped) = mapped {
        op.handle = mapped.handle;
        op.dev_bus_addr = mapped.address.0;
    }
    Ok(ptr.write(cx.hv, &op)?)
}

fn copy<P: Platform>(cx: Cx<'_, P>, ptr: GuestPtr<GnttabCopy>) -> Result<(), Failure> {
    let op = ptr.read(cx.hv)?;
    let end = |place: &GnttabCopyPtr, granted: u16| {
        let domain = DomId(place.domid);
        let end = if op.flags & granted != 0 {
            // The reference is the lower half of the union; what is above it means nothing.
            CopyEnd::Grant(domain, GrantRef(super::event::command(place.u)))
        } else {
            CopyEnd::Frame(domain, Mfn(place.u))
        };
        (end, place.offset)
    };
    let request = CopyRequest {
        source: end(&op.source, GNTCOPY_SOURCE_GREF),
        dest: end(&op.dest, GNTCOPY_DEST_GREF),
        len: op.len,
    };
    let copied = cx.hv.copy_granted(cx.domain, &request);
    if let Err(GrantError::Restart) = copied {
        return Err(Failure::Restart);
    }
    let status = status_of(&copied);
    Ok(ptr.field::<i16>(offset_of!(GnttabCopy, status))?.write(cx.hv, &status)?)
}

fn transfer<P: Platform>(cx: Cx<'_, P>, ptr: GuestPtr<GnttabTransfer>) -> Result<(), Failure> {
    let op = ptr.read(cx.hv)?;
    let given = cx.hv.transfer_page(cx.domain, Mfn(op.mfn), DomId(op.domid), GrantRef(op.ref_));
    Ok(ptr.field::<i16>(offset_of!(GnttabTransfer, status))?.write(cx.hv, &status_of(&given))?)
}

fn swap<P: Platform>(cx: Cx<'_, P>, ptr: GuestPtr<GnttabSwapGrantRef>) -> Result<(), Failure> {
    let op = ptr.read(cx.hv)?;
    let swapped = cx.hv.swap_grants(cx.domain, GrantRef(op.ref_a), GrantRef(op.ref_b));
    Ok(ptr.field::<i16>(offset_of!(GnttabSwapGrantRef, status))?.write(cx.hv, &status_of(&swapped))?)
}

/// Caches are coherent: only writing back is ever needed. `progress`: how many of the caller's handles were looked at.
fn cache_flush<P: Platform>(
    cx: Cx<'_, P>,
    ptr: GuestPtr<GnttabCacheFlush>,
    progress: &mut u32,
) -> Result<(), Failure> {
    let op = ptr.read(cx.hv)?;
    let end = u32::from(op.offset) + u32::from(op.length);
    if op.offset >= 4096 || end > 4096 || op.op & !(GNTTAB_CACHE_INVAL | GNTTAB_CACHE_CLEAN) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if op.length == 0 || op.op == 0 {
        return Ok(());
    }
    let mfn = Mfn(op.a >> 12);
    if !cx.hv.owns_to_flush(cx.domain, mfn)? {
        while !cx.hv.maps_grant_of(cx.domain, mfn, *progress..progress.saturating_add(HANDLES)) {
            *progress = progress.saturating_add(HANDLES);
            if *progress >= cx.hv.grant_handles(cx.domain) {
                // Xen calls it an invalid argument when no grant of this frame is in use.
                return Err(Errno::EINVAL.into());
            }
            if cx.hv.platform.work_pending() {
                return Err(Failure::Restart);
            }
        }
    }
    if op.op & GNTTAB_CACHE_CLEAN == 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    // No reference is held: where the frame has become the hypervisor's meanwhile, there is nothing to do.
    if let Some(frame) = GuestFrame::find(cx.hv.platform.frame_table(), mfn) {
        cx.hv.platform.flush_cache_lines(frame, usize::from(op.offset), usize::from(op.length));
    }
    Ok(())
}

fn setup_table<P: Platform>(cx: Cx<'_, P>, ptr: GuestPtr<GnttabSetupTable>) -> Result<(), Failure> {
    let op = ptr.read(cx.hv)?;
    let list = plausible(op.frame_list.into())?;
    let frames = cx.hv.setup_grant_table(cx.domain, DomId(op.dom), op.nr_frames);
    if let Err(GrantError::Restart) = frames {
        return Err(Failure::Restart);
    }
    let status = report_frames(cx, frames, list);
    Ok(ptr.field::<i16>(offset_of!(GnttabSetupTable, status))?.write(cx.hv, &status)?)
}

fn get_status_frames<P: Platform>(
    cx: Cx<'_, P>,
    ptr: GuestPtr<GnttabGetStatusFrames>,
) -> Result<(), Failure> {
    let op = ptr.read(cx.hv)?;
    let list = plausible(op.frame_list.into())?;
    let frames = cx.hv.grant_status_frames(cx.domain, DomId(op.dom), op.nr_frames);
    let status = report_frames(cx, frames, list);
    Ok(ptr.field::<i16>(offset_of!(GnttabGetStatusFrames, status))?.write(cx.hv, &status)?)
}

/// A list at an address that no guest has is refused before anything is done, and without a status.
fn plausible<T>(list: GuestPtr<T>) -> Result<GuestPtr<T>, Errno> {
    if list.is_plausible() { Ok(list) } else { Err(Errno::EFAULT) }
}

/// Writes the numbers of frames into the guest's list, those as well that follow one that cannot be written; answers the status.
pub(super) fn report_frames<P: Platform>(
    cx: Cx<'_, P>,
    frames: Result<Vec<Mfn>, GrantError>,
    list: GuestPtr<u64>,
) -> i16 {
    let told = frames.and_then(|frames| {
        let tell = |(index, mfn): (u64, &Mfn)| list.write_at(cx.hv, index, &mfn.0).is_ok();
        let written = (0..).zip(&frames).map(tell).filter(|told| *told).count();
        if written == frames.len() { Ok(()) } else { Err(GrantError::BadVirtualAddress) }
    });
    status_of(&told)
}

fn query_size<P: Platform>(cx: Cx<'_, P>, ptr: GuestPtr<GnttabQuerySize>) -> Result<(), Failure> {
    let mut op = ptr.read(cx.hv)?;
    let size = cx.hv.grant_table_size(cx.domain, DomId(op.dom));
    op.status = status_of(&size);
    if let Ok(size) = size {
        op.nr_frames = size.frames;
        op.max_nr_frames = size.max_frames;
    }
    Ok(ptr.write(cx.hv, &op)?)
}

fn set_version<P: Platform>(cx: Cx<'_, P>, ptr: GuestPtr<GnttabSetVersion>) -> Result<(), Failure> {
    let mut op = ptr.read(cx.hv)?;
    let set: Result<(), VersionError> = cx.hv.set_grant_table_version(cx.domain, op.version);
    if let Err(VersionError::Restart) = set {
        return Err(Failure::Restart);
    }
    op.version = cx.hv.grant_table_version(cx.domain);
    ptr.write(cx.hv, &op)?;
    Ok(set.map_err(Errno::from)?)
}

fn get_version<P: Platform>(cx: Cx<'_, P>, ptr: GuestPtr<GnttabGetVersion>) -> Result<(), Errno> {
    let op = ptr.read(cx.hv)?;
    let owner: Arc<Domain<P>> = cx.hv.table_owner(cx.domain, DomId(op.dom)).map_err(|error| match error {
        GrantError::BadDomain => Errno::ESRCH,
        _ => Errno::EPERM,
    })?;
    let version = cx.hv.grant_table_version(&owner);
    Ok(ptr.field::<u32>(offset_of!(GnttabGetVersion, version))?.write(cx.hv, &version)?)
}
