//! `XENMEM_increase_reservation`, `XENMEM_decrease_reservation`, `XENMEM_populate_physmap`.
//!
//! They answer how many extents were done; what stopped them the guest has to guess.

use super::placement::Placement;
use super::{Who, max_order};
use crate::domain::Restart;
use crate::guest_ptr::GuestPtr;
use crate::hypercall::{Cx, Outcome};
use crate::ids::Mfn;
use crate::mem::{MAX_ORDER, Wanted};
use crate::platform::Platform;
use xen_abi::memory::*;

/// More extents than this cannot be counted in a continuation.
const MAX_EXTENTS: u64 = (u32::MAX >> MEMOP_EXTENT_SHIFT) as u64;

/// Where the continuation of a decrease says which frame of its extent is next. Xen's `cmd` has 32 bits.
const PART_SHIFT: u32 = 32;
/// Frames that are given up between two looks for other work.
const PIECE: u64 = 16;

/// Serves one of the three commands from extent `start` on.
pub(super) fn change<P: Platform>(cx: Cx<'_, P>, op: u32, mut start: u64, arg: u64) -> Outcome {
    let mut nothing = Outcome::Done(start.cast_signed());
    let Ok(request) = GuestPtr::<XenMemoryReservation>::new(arg).read(cx.hv) else { return nothing };
    // A progress that no continuation has is that of Xen's: an extent's number, beyond all there are.
    let mut part = start >> (PART_SHIFT - MEMOP_EXTENT_SHIFT);
    if op == XENMEM_DECREASE_RESERVATION && part < 1 << request.extent_order.min(MAX_ORDER) {
        start &= MAX_EXTENTS;
        nothing = Outcome::Done(start.cast_signed());
    } else {
        part = 0;
    }
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
        let again = |part: u64| {
            Outcome::Again([u64::from(op) | i << MEMOP_EXTENT_SHIFT | part << PART_SHIFT, arg, 0, 0, 0, 0])
        };
        if i != start && cx.hv.platform.work_pending() {
            return again(0);
        }
        let done = match op {
            XENMEM_INCREASE_RESERVATION => extents.increase(i),
            XENMEM_DECREASE_RESERVATION => {
                let first = if i == start { part } else { 0 };
                match extents.decrease(i, first) {
                    Err(part) => return again(part),
                    Ok(done) => Ok(done),
                }
            }
            _ => extents.populate(i),
        };
        match done {
            Ok(Some(())) => {}
            Ok(None) => return Outcome::Done(i.cast_signed()),
            Err(Restart) => return again(0),
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

/// What became of an extent; `None`: stop before it.
type Served = Result<Option<()>, Restart>;

impl<P: Platform> Extents<'_, P> {
    fn list(&self) -> GuestPtr<u64> {
        self.request.extent_start.into()
    }

    fn frames(&self) -> u64 {
        1 << self.request.extent_order
    }

    /// An extent, whose frames get the numbers from `pfn` on in the machine-to-physical table.
    fn alloc(&self, pfn: Option<u64>) -> Result<Option<Mfn>, Restart> {
        if self.place.nowhere {
            return Ok(None);
        }
        let wanted = Wanted { order: self.request.extent_order, flags: self.place.flags, pfn };
        self.cx.hv.alloc_wanted(&self.who, wanted)
    }

    fn increase(&self, i: u64) -> Served {
        let Some(mfn) = self.alloc(None)? else { return Ok(None) };
        if self.list().is_null() {
            return Ok(Some(()));
        }
        Ok(self.list().write_at(self.cx.hv, i, &mfn.0).ok())
    }

    /// Gives up the frames of an extent from its `part`-th on. `Err`: the part where it stopped for other work.
    fn decrease(&self, i: u64, part: u64) -> Result<Option<()>, u64> {
        let hv = self.cx.hv;
        let Ok(first) = self.list().read_at(hv, i) else { return Ok(None) };
        for n in part..self.frames() {
            if n != part && n.is_multiple_of(PIECE) && hv.platform.work_pending() {
                return Err(n);
            }
            let removed = first.checked_add(n).map(|mfn| hv.remove_domain_page(&self.who, Mfn(mfn)));
            if removed.is_none_or(|removed| removed.is_err()) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }

    fn populate(&self, i: u64) -> Served {
        let hv = self.cx.hv;
        let Ok(pfn) = self.list().read_at(hv, i) else { return Ok(None) };
        if self.request.mem_flags & XENMEMF_POPULATE_ON_DEMAND != 0 {
            return Ok(if matches!(self.who, Who::Caller(_)) { None } else { Some(()) });
        }
        let Some(mfn) = self.alloc(Some(pfn))? else { return Ok(None) };
        Ok(self.list().write_at(hv, i, &mfn.0).ok())
    }
}
