//! `XENMEM_acquire_resource`: frames that the hypervisor made for a domain, for whoever serves or builds it.
//!
//! PV domains have one such resource, the grant table. The caller gets the numbers of the frames and maps them as the other
//! domain's.

use super::{read, remote};
use crate::domain::Domain;
use crate::guest_ptr::GuestPtr;
use crate::hypercall::{Cx, Outcome};
use crate::platform::Platform;
use core::mem::offset_of;
use xen_abi::errno::Errno;
use xen_abi::memory::*;

/// More frames than this cannot be counted in a continuation.
const MAX_FRAMES: u32 = u32::MAX >> MEMOP_EXTENT_SHIFT;
/// Frames acquired at a time.
const CHUNK: usize = 32;

/// Serves the command from frame `start` of the request on.
pub(super) fn acquire<P: Platform>(cx: Cx<'_, P>, start: u64, arg: u64) -> Outcome {
    match prepare(cx, start, arg) {
        Ok(Some(job)) => job.run(cx, arg),
        Ok(None) => Outcome::Done(0),
        Err(errno) => errno.into(),
    }
}

struct Job<P: Platform> {
    domain: alloc::sync::Arc<Domain<P>>,
    request: XenMemAcquireResource,
    /// Frames of the request that are done.
    done: u32,
}

/// Judges a request; `None`: it was only about the size, and is answered.
fn prepare<P: Platform>(cx: Cx<'_, P>, start: u64, arg: u64) -> Result<Option<Job<P>>, Errno> {
    let request: XenMemAcquireResource = read(cx, arg)?;
    let end = request.frame.saturating_add(u64::from(request.nr_frames));
    if request.pad != 0 || request.frame >> 32 != 0 || end >> 32 != 0 {
        return Err(Errno::EINVAL);
    }
    let domain = remote(cx, request.domid)?;
    if !cx.domain.privileged {
        return Err(Errno::EPERM);
    }
    let size = match request.type_ {
        XENMEM_RESOURCE_GRANT_TABLE => cx.hv.grant_resource_size(&domain, request.id),
        // Those of domains with hardware virtualization: none.
        XENMEM_RESOURCE_IOREQ_SERVER | XENMEM_RESOURCE_VMTRACE_BUF => 0,
        _ => return unknown_resource(cx, start, arg, &request),
    };
    if size == 0 {
        return Err(Errno::EINVAL);
    }
    if request.frame_list.is_null() {
        return report_size(cx, start, arg, &request, size);
    }
    let done = u32::try_from(start).map_err(|_| Errno::EINVAL)?;
    if done >= request.nr_frames || request.nr_frames > MAX_FRAMES {
        return Err(Errno::EINVAL);
    }
    Ok(Some(Job { domain, request, done }))
}

fn report_size<P: Platform, T>(
    cx: Cx<'_, P>,
    start: u64,
    arg: u64,
    request: &XenMemAcquireResource,
    size: u32,
) -> Result<Option<T>, Errno> {
    if request.nr_frames != 0 || start != 0 {
        return Err(Errno::EINVAL);
    }
    let field = GuestPtr::<XenMemAcquireResource>::new(arg)
        .field::<u32>(offset_of!(XenMemAcquireResource, nr_frames))?;
    field.write(cx.hv, &size)?;
    Ok(None)
}

/// A resource that no domain has. Xen answers as if its size were the error's number.
fn unknown_resource<P: Platform, T>(
    cx: Cx<'_, P>,
    start: u64,
    arg: u64,
    request: &XenMemAcquireResource,
) -> Result<Option<T>, Errno> {
    if request.frame_list.is_null() {
        return report_size(cx, start, arg, request, Errno::EOPNOTSUPP.to_ret() as u32);
    }
    if start >= u64::from(request.nr_frames) || request.nr_frames > MAX_FRAMES {
        return Err(Errno::EINVAL);
    }
    Err(Errno::EOPNOTSUPP)
}

impl<P: Platform> Job<P> {
    fn run(mut self, cx: Cx<'_, P>, arg: u64) -> Outcome {
        let list: GuestPtr<u64> = self.request.frame_list.into();
        let mut chunk = [0; CHUNK];
        loop {
            let left = (self.request.nr_frames - self.done) as usize;
            let chunk = &mut chunk[..CHUNK.min(left)];
            // Checked to end within 32 bits.
            let first = (self.request.frame + u64::from(self.done)) as u32;
            let frames = cx.hv.grant_resource(&self.domain, self.request.id, first, chunk);
            if let Ok(frames) = frames {
                let told =
                    frames.and_then(|()| Ok(list.at(u64::from(self.done))?.write_slice(cx.hv, chunk)?));
                if let Err(errno) = told {
                    return errno.into();
                }
                self.done += chunk.len() as u32;
                if self.done == self.request.nr_frames {
                    return Outcome::Done(0);
                }
            }
            if frames.is_err() || cx.hv.platform.work_pending() {
                let command = u64::from(XENMEM_ACQUIRE_RESOURCE) | u64::from(self.done) << MEMOP_EXTENT_SHIFT;
                return Outcome::Again([command, arg, 0, 0, 0, 0]);
            }
        }
    }
}
