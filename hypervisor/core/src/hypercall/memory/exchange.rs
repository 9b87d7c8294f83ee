//! `XENMEM_exchange`: a domain trades frames for others, which may be contiguous or low where the old ones were not.
//!
//! It works chunk by chunk; a chunk is as many extents of the smaller kind as make one of the larger. Of each chunk the old
//! frames are taken first, so that nobody uses them; then the new ones are allocated; only then nothing can fail any more.

use super::placement::Placement;
use super::{Who, max_order};
use crate::guest_ptr::GuestPtr;
use crate::hypercall::{Cx, Outcome};
use crate::ids::Mfn;
use crate::platform::Platform;
use alloc::vec::Vec;
use core::mem::offset_of;
use xen_abi::errno::Errno;
use xen_abi::memory::*;

/// Serves the command.
pub(super) fn exchange<P: Platform>(cx: Cx<'_, P>, arg: u64) -> Outcome {
    let Ok(mut request) = GuestPtr::<XenMemoryExchange>::new(arg).read(cx.hv) else {
        return Errno::EFAULT.into();
    };
    let done = run(cx, arg, &mut request);
    let field =
        GuestPtr::<XenMemoryExchange>::new(arg).field::<u64>(offset_of!(XenMemoryExchange, nr_exchanged));
    if field.and_then(|field| field.write(cx.hv, &request.nr_exchanged)).is_err() {
        return Errno::EFAULT.into();
    }
    match done {
        Ok(outcome) => outcome,
        Err(errno) => errno.into(),
    }
}

fn run<P: Platform>(cx: Cx<'_, P>, arg: u64, request: &mut XenMemoryExchange) -> Result<Outcome, Errno> {
    let (from, to) = (request.in_, request.out);
    if from.extent_order.max(to.extent_order) > max_order(cx) {
        return Err(Errno::EPERM);
    }
    let frames = |r: &XenMemoryReservation| r.nr_extents.checked_mul(1 << r.extent_order);
    let amount = frames(&from).ok_or(Errno::EINVAL)?;
    if request.nr_exchanged > from.nr_extents || from.domid != to.domid || frames(&to) != Some(amount) {
        return Err(Errno::EINVAL);
    }
    if request.nr_exchanged == from.nr_extents {
        return Ok(Outcome::Done(0));
    }
    let in_order = to.extent_order.saturating_sub(from.extent_order);
    let out_order = from.extent_order.saturating_sub(to.extent_order);
    // Before anything is taken: where the lists go on must be the guest's. (XSA-29, XSA-212)
    let go_on = |list: GuestPtr<u64>, at: u64| list.at(at).is_ok_and(GuestPtr::is_plausible);
    let done = request.nr_exchanged;
    if !go_on(from.extent_start.into(), done) || !go_on(to.extent_start.into(), done >> in_order << out_order)
    {
        return Err(Errno::EFAULT);
    }
    let place = Placement::of_exchange(cx, to.mem_flags)?;
    let who = Who::find(cx, from.domid)?;
    who.controlled_by(cx)?;
    let chunks = Chunks { cx, who, from, to, place, in_order, out_order };
    let first = request.nr_exchanged >> chunks.in_order;
    for i in first..from.nr_extents >> chunks.in_order {
        request.nr_exchanged = i << chunks.in_order;
        if i != first && cx.hv.platform.work_pending() {
            return Ok(Outcome::Again([u64::from(XENMEM_EXCHANGE), arg, 0, 0, 0, 0]));
        }
        chunks.exchange(i)?;
    }
    request.nr_exchanged = from.nr_extents;
    Ok(Outcome::Done(0))
}

struct Chunks<'a, P: Platform> {
    cx: Cx<'a, P>,
    who: Who<'a, P>,
    from: XenMemoryReservation,
    to: XenMemoryReservation,
    place: Placement,
    /// log2 of the old extents of a chunk.
    in_order: u32,
    /// log2 of the new extents of a chunk; this or the other is 0.
    out_order: u32,
}

impl<P: Platform> Chunks<'_, P> {
    /// Exchanges chunk `i`. After an error before the point of no return everything is as it was.
    fn exchange(&self, i: u64) -> Result<(), Errno> {
        let hv = self.cx.hv;
        let (mut old, mut new) = (Vec::new(), Vec::new());
        let taken = self.take_old(i, &mut old).and_then(|()| self.take_new(&mut new));
        if let Err(errno) = taken {
            new.into_iter().for_each(|mfn| hv.give_back_taken(mfn, self.to.extent_order));
            old.into_iter().for_each(|mfn| hv.return_stolen_page(&self.who, mfn));
            return Err(errno);
        }
        old.into_iter().for_each(|mfn| hv.free_stolen_page(mfn));
        let list: GuestPtr<u64> = self.to.extent_start.into();
        let mut result = Ok(());
        for (j, mfn) in new.into_iter().enumerate() {
            let slot = (i << self.out_order) + j as u64;
            let pfn = list.read_at(hv, slot);
            // Once they are the domain's, it may have given them up already.
            if let Ok(pfn) = pfn {
                hv.name_frames(mfn, self.to.extent_order, pfn);
            }
            hv.assign_frames(&self.who, mfn, self.to.extent_order);
            result = result.and(pfn.and_then(|_| list.write_at(hv, slot, &mfn.0)));
        }
        Ok(result?)
    }

    fn take_old(&self, i: u64, old: &mut Vec<Mfn>) -> Result<(), Errno> {
        let list: GuestPtr<u64> = self.from.extent_start.into();
        for j in 0..1 << self.in_order {
            let first: u64 = list.read_at(self.cx.hv, (i << self.in_order) + j)?;
            for k in 0..1 << self.from.extent_order {
                old.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                let mfn = Mfn(first.checked_add(k).ok_or(Errno::EINVAL)?);
                self.cx.hv.steal_page(&self.who, mfn)?;
                old.push(mfn);
            }
        }
        Ok(())
    }

    fn take_new(&self, new: &mut Vec<Mfn>) -> Result<(), Errno> {
        for _ in 0..1 << self.out_order {
            new.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            if self.place.nowhere {
                return Err(Errno::ENOMEM);
            }
            let taken = self.cx.hv.take_frames(None, self.to.extent_order, self.place.flags);
            new.push(taken.ok_or(Errno::ENOMEM)?);
        }
        Ok(())
    }
}
