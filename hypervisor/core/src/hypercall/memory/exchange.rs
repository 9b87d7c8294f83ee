//! `XENMEM_exchange`: a domain trades frames for others, which may be contiguous or low where the old ones were not.
//!
//! It works chunk by chunk; a chunk is as many extents of the smaller kind as make one of the larger. Of each chunk the new
//! frames are got first, and cleared; then the old ones are taken, so that nothing uses them; only then nothing can fail any more.
//! A chunk may be 512 frames, and more for a privileged domain, so it stops for other work between its steps as well: what there is
//! of it stays with the domain (`mem::pieces`).

use super::placement::Placement;
use super::{Who, max_order};
use crate::guest_ptr::GuestPtr;
use crate::hypercall::{Cx, Failure, Outcome};
use crate::ids::Mfn;
use crate::mem::{Phase, Trade};
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
    if let Ok(None) = done {
        return Outcome::Done(0);
    }
    let field =
        GuestPtr::<XenMemoryExchange>::new(arg).field::<u64>(offset_of!(XenMemoryExchange, nr_exchanged));
    if field.and_then(|field| field.write(cx.hv, &request.nr_exchanged)).is_err() {
        return Errno::EFAULT.into();
    }
    match done {
        Ok(outcome) => outcome.unwrap_or(Outcome::Done(0)),
        Err(errno) => errno.into(),
    }
}

/// `None`: all was done before, and the caller is told nothing.
fn run<P: Platform>(
    cx: Cx<'_, P>,
    arg: u64,
    request: &mut XenMemoryExchange,
) -> Result<Option<Outcome>, Errno> {
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
        return Ok(None);
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
            return Ok(Some(Outcome::Again([u64::from(XENMEM_EXCHANGE), arg, 0, 0, 0, 0])));
        }
        match chunks.exchange(i, arg) {
            Ok(()) => {}
            Err(Failure::Errno(errno)) => return Err(errno),
            Err(Failure::Restart) => {
                return Ok(Some(Outcome::Again([u64::from(XENMEM_EXCHANGE), arg, 0, 0, 0, 0])));
            }
        }
    }
    request.nr_exchanged = from.nr_extents;
    Ok(Some(Outcome::Done(0)))
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

/// Old frames that are taken between two looks for other work.
const PIECE: usize = 16;

impl<P: Platform> Chunks<'_, P> {
    /// Exchanges chunk `i` of the request at `arg`. After an error before the point of no return everything is as it was.
    fn exchange(&self, i: u64, arg: u64) -> Result<(), Failure> {
        let (hv, pages) = (self.cx.hv, &self.who.pages);
        let orders = (self.from.extent_order, self.to.extent_order);
        let frames = 1 << (self.in_order + self.from.extent_order);
        let mut trade = hv.find_trade(&self.who, (arg, i), orders, frames)?;
        let answer = self.go_on(i, &mut trade);
        if answer == Err(Failure::Restart) {
            pages.trades.lock().push(trade);
        } else {
            hv.end_trade(&self.who, &trade);
        }
        answer
    }

    fn go_on(&self, i: u64, trade: &mut Trade) -> Result<(), Failure> {
        let hv = self.cx.hv;
        if trade.phase == Phase::Take {
            let blocks = 1 << self.out_order;
            let taken = if self.place.nowhere {
                Err(Errno::ENOMEM)
            } else {
                hv.take_for_trade(&self.who, trade, blocks, self.place.flags)?
            };
            agree(trade, taken, Phase::Steal);
        }
        if trade.phase == Phase::Steal {
            let taken = self.take_old(i, &mut trade.old)?;
            agree(trade, taken, Phase::Give);
        }
        if trade.phase == Phase::Undo {
            hv.undo_trade(&self.who, trade)?;
            return Err(trade.refused.unwrap_or(Errno::EINVAL).into());
        }
        self.give(i, trade)?;
        hv.free_old(trade)?;
        match trade.refused {
            None => Ok(()),
            Some(errno) => Err(errno.into()),
        }
    }

    /// Gives the new frames to the domain and tells it their numbers.
    fn give(&self, i: u64, trade: &mut Trade) -> Result<(), Failure> {
        let hv = self.cx.hv;
        let list: GuestPtr<u64> = self.to.extent_start.into();
        let frames = 1 << self.to.extent_order;
        while let Some(first) = trade.new.get((trade.given / frames) as usize).copied() {
            let slot = (i << self.out_order) + trade.given / frames;
            let pfn = list.read_at(hv, slot);
            hv.give_piece_of_trade(&self.who, trade, pfn.ok());
            if trade.given.is_multiple_of(frames)
                && pfn.and_then(|_| list.write_at(hv, slot, &first.0)).is_err()
            {
                trade.refused = Some(Errno::EFAULT);
            }
            if hv.platform.work_pending() {
                return Err(Failure::Restart);
            }
        }
        Ok(())
    }

    /// Takes what is missing of the old frames.
    fn take_old(&self, i: u64, old: &mut Vec<Mfn>) -> Result<Result<(), Errno>, Failure> {
        let hv = self.cx.hv;
        let list: GuestPtr<u64> = self.from.extent_start.into();
        let (order, all) = (self.from.extent_order, 1usize << (self.in_order + self.from.extent_order));
        if old.try_reserve_exact(all.saturating_sub(old.len())).is_err() {
            return Ok(Err(Errno::ENOMEM));
        }
        while old.len() < all {
            let n = old.len() as u64;
            let extent = list.read_at(hv, (i << self.in_order) + (n >> order)).map_err(Errno::from);
            let mfn = extent.and_then(|first| first.checked_add(n & ((1 << order) - 1)).ok_or(Errno::EINVAL));
            match mfn.and_then(|mfn| hv.steal_page(&self.who, Mfn(mfn)).map(|()| Mfn(mfn))) {
                Ok(mfn) => old.push(mfn),
                Err(errno) => return Ok(Err(errno)),
            }
            if old.len().is_multiple_of(PIECE) && hv.platform.work_pending() {
                return Err(Failure::Restart);
            }
        }
        Ok(Ok(()))
    }
}

/// What comes after a phase that ended like this.
fn agree(trade: &mut Trade, ended: Result<(), Errno>, next: Phase) {
    trade.phase = match ended {
        Ok(()) => next,
        Err(errno) => {
            trade.refused = Some(errno);
            Phase::Undo
        }
    };
}
