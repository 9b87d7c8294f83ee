//! `XENMEM_increase_reservation`, `XENMEM_decrease_reservation`, `XENMEM_populate_physmap`.
//!
//! They answer how many extents were done; what stopped them the guest has to guess.

use super::placement::Placement;
use super::{Who, max_order};
use crate::guest_ptr::GuestPtr;
use crate::hypercall::{Cx, Outcome};
use crate::ids::Mfn;
use crate::platform::Platform;
use xen_abi::memory::*;

/// More extents than this cannot be counted in a continuation.
const MAX_EXTENTS: u64 = (u32::MAX >> MEMOP_EXTENT_SHIFT) as u64;

/// Serves one of the three commands from extent `start` on.
pub(super) fn change<P: Platform>(cx: Cx<'_, P>, op: u32, start: u64, arg: u64) -> Outcome {
    let nothing = Outcome::Done(start.cast_signed());
    let Ok(request) = GuestPtr::<XenMemoryReservation>::new(arg).read(cx.hv) else { return nothing };
    if request.nr_extents > MAX_EXTENTS || start >= request.nr_extents {
        return nothing;
    }
    let Ok(who) = Who::find(cx, request.domid) else { return nothing };
    let Ok(place) = Placement::of_extents(cx, request.mem_flags) else { return nothing };
    if who.controlled_by(cx).is_err() || request.extent_order > max_order(cx) {
        return nothing;
    }
    let list = GuestPtr::<u64>::from(request.extent_start).at(start);
    let optional = op == XENMEM_INCREASE_RESERVATION && request.extent_start.is_null();
    if !optional && !list.is_ok_and(GuestPtr::is_plausible) {
        return nothing;
    }
    let extents = Extents { cx, who, request, place };
    for i in start..request.nr_extents {
        if i != start && cx.hv.platform.work_pending() {
            return Outcome::Again([u64::from(op) | i << MEMOP_EXTENT_SHIFT, arg, 0, 0, 0, 0]);
        }
        let done = match op {
            XENMEM_INCREASE_RESERVATION => extents.increase(i),
            XENMEM_DECREASE_RESERVATION => extents.decrease(i),
            _ => extents.populate(i),
        };
        if done.is_none() {
            return Outcome::Done(i.cast_signed());
        }
    }
    Outcome::Done(request.nr_extents.cast_signed())
}

struct Extents<'a, P: Platform> {
    cx: Cx<'a, P>,
    who: Who<'a, P>,
    request: XenMemoryReservation,
    place: Placement,
}

impl<P: Platform> Extents<'_, P> {
    fn list(&self) -> GuestPtr<u64> {
        self.request.extent_start.into()
    }

    fn frames(&self) -> u64 {
        1 << self.request.extent_order
    }

    /// `None`: stop before this extent.
    fn increase(&self, i: u64) -> Option<()> {
        if self.place.nowhere {
            return None;
        }
        let (order, flags) = (self.request.extent_order, self.place.flags);
        let mfn = self.cx.hv.alloc_domain_pages(&self.who, order, flags).ok()?;
        if self.list().is_null() {
            return Some(());
        }
        self.list().write_at(self.cx.hv, i, &mfn.0).ok()
    }

    fn decrease(&self, i: u64) -> Option<()> {
        let first = self.list().read_at(self.cx.hv, i).ok()?;
        (0..self.frames())
            .try_for_each(|n| self.cx.hv.remove_domain_page(&self.who, Mfn(first.checked_add(n)?)).ok())
    }

    fn populate(&self, i: u64) -> Option<()> {
        let hv = self.cx.hv;
        let pfn: u64 = self.list().read_at(hv, i).ok()?;
        if self.request.mem_flags & XENMEMF_POPULATE_ON_DEMAND != 0 {
            return if matches!(self.who, Who::Caller(_)) { None } else { Some(()) };
        }
        if self.place.nowhere {
            return None;
        }
        let (order, flags) = (self.request.extent_order, self.place.flags);
        let mfn = hv.alloc_domain_pages_at(&self.who, order, flags, pfn).ok()?;
        self.list().write_at(hv, i, &mfn.0).ok()
    }
}
