//! Large blocks of memory, piece by piece: what a hypercall gives to a domain or takes from it may be a GiB.
//!
//! A block is taken from the allocator in one step. Then its frames are cleared, where another domain left its data in them, and
//! become the domain's, a few at a time. When the CPU has other work in between, what there is so far stays with the domain
//! ([`Growing`], [`Trade`]) until the hypercall, made again, goes on with it. A guest that never makes it again keeps the frames that
//! are its own already; the others go back when it makes too many such calls, or ends.
//!
//! While an exchange is made, its domain has both the old frames and the new ones. For one exchange at a time that is beyond its
//! account: a domain that has all the memory that it may have can exchange. Further ones at the same time are booked.

use super::{MAX_ORDER, Reservation, Taker, frames_for};
use crate::Hypervisor;
use crate::domain::{Domain, Restart};
use crate::ids::Mfn;
use crate::platform::{GuestFrame, Platform};
use alloc::vec::Vec;
use core::sync::atomic::Ordering::SeqCst;
use xen_abi::errno::Errno;

/// log2 of the frames between two looks for other work.
const PIECE: u32 = 4;

/// Exchanges of a domain that wait to be gone on with.
const MOST_TRADES: usize = 8;

/// A block on its way to a domain, which booked all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Growing {
    /// What was asked for: a request like it goes on with this block.
    wanted: Wanted,
    first: Mfn,
    /// The first so many frames are the domain's.
    done: u64,
}

/// Memory that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// log2 of the frames.
    pub order: u32,
    /// `XENMEMF_*`, of which the address bits count.
    pub flags: u32,
    /// The first one's number in the machine-to-physical table; `None`: they get none.
    pub pfn: Option<u64>,
}

/// An exchange of frames of which not all steps are done.
#[derive(Debug, Default)]
pub(crate) struct Trade {
    /// What tells it from others: where the request is, and which part of it this is.
    pub key: (u64, u64),
    /// log2 of the frames of an old extent. With `order` it says how many frames are exchanged: a request that the guest changed meanwhile
    /// is another one.
    pub old_order: u32,
    /// Frames that were taken from the domain.
    pub old: Vec<Mfn>,
    /// Blocks of `order` that the domain gets for them.
    pub new: Vec<Mfn>,
    pub order: u32,
    /// Frames of the last block that were cleared.
    pub cleared: u64,
    /// Frames that the domain got.
    pub given: u64,
    pub phase: Phase,
    /// Why it is undone, or what went wrong where nothing could be undone any more.
    pub refused: Option<Errno>,
    /// Frames by which the domain's account is charged for it; 0 for the one exchange that is not.
    pub booked: u64,
}

/// What is done next of a [`Trade`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Getting new blocks and clearing them.
    #[default]
    Take,
    /// Taking the old frames away from the domain.
    Steal,
    /// Giving the new ones to it and freeing the old ones: nothing can fail any more.
    Give,
    /// Undoing the first two.
    Undo,
}

impl<P: Platform> Hypervisor<P> {
    /// As [`Hypervisor::alloc_in_pieces`]; a small block is one piece.
    pub(crate) fn alloc_wanted(&self, domain: &Domain<P>, wanted: Wanted) -> Result<Option<Mfn>, Restart> {
        if wanted.order > PIECE {
            return self.alloc_in_pieces(domain, wanted);
        }
        let Some(Growing { first, .. }) = self.begin_growing(domain, wanted) else { return Ok(None) };
        self.grow_piece(domain, wanted, first, 0);
        Ok(Some(first))
    }

    /// As [`Hypervisor::alloc_domain_pages`], for blocks of any size. `None`: there are none, or the domain may not have more.
    ///
    /// # Errors
    /// [`Restart`] when this CPU has other work first: ask for the same again.
    pub(crate) fn alloc_in_pieces(&self, domain: &Domain<P>, wanted: Wanted) -> Result<Option<Mfn>, Restart> {
        let known = {
            let mut all = domain.pages.growing.lock();
            all.iter().position(|growing| growing.wanted == wanted).map(|n| all.swap_remove(n))
        };
        let Some(mut growing) = known.or_else(|| self.begin_growing(domain, wanted)) else { return Ok(None) };
        let end = 1 << wanted.order;
        loop {
            growing.done += self.grow_piece(domain, wanted, growing.first, growing.done);
            if growing.done >= end {
                return Ok(Some(growing.first));
            }
            if self.platform.work_pending() {
                self.keep_growing(domain, growing);
                return Err(Restart);
            }
        }
    }

    /// Makes frames of a block the domain's, from the `done`-th on; answers how many.
    fn grow_piece(&self, domain: &Domain<P>, wanted: Wanted, first: Mfn, done: u64) -> u64 {
        let (piece, order) = (first.add(done), wanted.order.min(PIECE));
        self.clear_piece(piece, order);
        // Before they are the domain's, which may give them up at once.
        if let Some(pfn) = wanted.pfn {
            self.name_frames(piece, order, pfn.wrapping_add(done));
        }
        self.assign_frames(domain, piece, order);
        1 << order
    }

    fn begin_growing(&self, domain: &Domain<P>, wanted: Wanted) -> Option<Growing> {
        if wanted.order > MAX_ORDER || !domain.pages.try_grow(1 << wanted.order) {
            return None;
        }
        match self.take_uncleared(Taker::Memory(&domain.pages.claim), wanted.order, wanted.flags) {
            Some(first) => Some(Growing { wanted, first, done: 0 }),
            None => {
                domain.pages.shrink(1 << wanted.order);
                None
            }
        }
    }

    /// Leaves a block for the hypercall that goes on with it. Each vCPU can make one at a time; more are of guests that do not go on.
    fn keep_growing(&self, domain: &Domain<P>, growing: Growing) {
        let oldest = {
            let mut all = domain.pages.growing.lock();
            if all.len() < domain.vcpus.len() && all.try_reserve(1).is_err() {
                // It is begun anew.
                Some(growing)
            } else {
                let oldest = (all.len() >= domain.vcpus.len()).then(|| all.remove(0));
                all.push(growing);
                oldest
            }
        };
        if let Some(oldest) = oldest {
            self.stop_growing(domain, &oldest);
        }
    }

    /// Puts back what of a block is not the domain's yet.
    fn stop_growing(&self, domain: &Domain<P>, growing: &Growing) {
        let end = 1 << growing.wanted.order;
        domain.pages.shrink(end - growing.done);
        self.frames.give_rest(growing.first.0 + growing.done..growing.first.0 + end);
    }

    /// Clears what others left in frames that were taken.
    pub(crate) fn clear_piece(&self, first: Mfn, order: u32) {
        if self.frames.any_dirty() {
            self.frames.clear_taken(first, order, |mfn| self.platform.clear_frame(GuestFrame::held(mfn)));
        }
    }

    // ---- exchanges ---------------------------------------------------------------------------------------------

    /// Gets the new blocks of an exchange, all of them clear.
    ///
    /// # Errors
    /// `Ok(Err(ENOMEM))` when there are not enough; [`Restart`] as everywhere here.
    pub(crate) fn take_for_trade(
        &self,
        domain: &Domain<P>,
        trade: &mut Trade,
        blocks: usize,
        flags: u32,
    ) -> Result<Result<(), Errno>, Restart> {
        let (piece, end) = (trade.order.min(PIECE), 1 << trade.order);
        if trade.new.capacity() == 0 {
            // The lists of new and of old frames last as long as the guest wants.
            let lists = frames_for((blocks + (blocks << trade.order)) * size_of::<Mfn>());
            if !self.frames.has_room(&domain.pages.claim, lists)
                || trade.new.try_reserve_exact(blocks).is_err()
            {
                return Ok(Err(Errno::ENOMEM));
            }
        }
        loop {
            match trade.new.last() {
                Some(last) if trade.cleared < end => {
                    self.clear_piece(last.add(trade.cleared), piece);
                    trade.cleared += 1 << piece;
                }
                _ if trade.new.len() >= blocks => return Ok(Ok(())),
                // These frames count for no domain until they are given.
                _ => match self.take_uncleared(Taker::Loan, trade.order, flags) {
                    Some(first) => {
                        trade.new.push(first);
                        trade.cleared = 0;
                    }
                    None => return Ok(Err(Errno::ENOMEM)),
                },
            }
            if self.platform.work_pending() {
                return Err(Restart);
            }
        }
    }

    /// Gives a piece of the new frames of an exchange to the domain, under the numbers from `pfn` on; answers whether there are more.
    pub(crate) fn give_piece_of_trade(
        &self,
        domain: &Domain<P>,
        trade: &mut Trade,
        pfn: Option<u64>,
    ) -> bool {
        let (piece, at) = (trade.order.min(PIECE), trade.given & ((1 << trade.order) - 1));
        let Some(block) = trade.new.get((trade.given >> trade.order) as usize) else { return false };
        let first = block.add(at);
        if let Some(pfn) = pfn {
            self.name_frames(first, piece, pfn.wrapping_add(at));
        }
        self.assign_frames(domain, first, piece);
        trade.given += 1 << piece;
        true
    }

    /// Brings an exchange that is not gone on with to an end: what was agreed is done, but the guest is not told; else nothing.
    ///
    /// # Errors
    /// [`Restart`] as everywhere here.
    pub(crate) fn settle_trade(&self, domain: &Domain<P>, trade: &mut Trade) -> Result<(), Restart> {
        if trade.phase == Phase::Give {
            while self.give_piece_of_trade(domain, trade, None) {
                if self.platform.work_pending() {
                    return Err(Restart);
                }
            }
            return self.free_old(trade);
        }
        trade.phase = Phase::Undo;
        self.undo_trade(domain, trade)
    }

    /// Frees the frames that the domain gave.
    ///
    /// # Errors
    /// [`Restart`] as everywhere here.
    pub(crate) fn free_old(&self, trade: &mut Trade) -> Result<(), Restart> {
        while let Some(mfn) = trade.old.pop() {
            self.free_stolen_page(mfn);
            if trade.old.len().is_multiple_of(1 << PIECE) && self.platform.work_pending() {
                return Err(Restart);
            }
        }
        Ok(())
    }

    /// Gives everything back to whom it was taken from.
    ///
    /// # Errors
    /// [`Restart`] as everywhere here.
    pub(crate) fn undo_trade(&self, domain: &Domain<P>, trade: &mut Trade) -> Result<(), Restart> {
        while let Some(first) = trade.new.pop() {
            self.give_back_taken(first, trade.order);
            if trade.new.len().is_multiple_of(1 << PIECE) && self.platform.work_pending() {
                return Err(Restart);
            }
        }
        while let Some(mfn) = trade.old.pop() {
            self.return_stolen_page(domain, mfn);
            if trade.old.len().is_multiple_of(1 << PIECE) && self.platform.work_pending() {
                return Err(Restart);
            }
        }
        Ok(())
    }

    /// The exchange with this key, of this shape and so many frames, that the domain has, or a new one.
    ///
    /// # Errors
    /// [`Restart`] while there are other exchanges of the domain, and no more can be made at a time: those that are not gone on with
    /// are brought to an end.
    pub(crate) fn find_trade(
        &self,
        domain: &Domain<P>,
        key: (u64, u64),
        (old_order, order): (u32, u32),
        frames: u64,
    ) -> Result<Trade, Restart> {
        let (known, oldest, booked) = {
            let mut all = domain.pages.trades.lock();
            let known = all
                .iter()
                .position(|trade| trade.key == key && (trade.old_order, trade.order) == (old_order, order));
            let known = known.map(|n| all.swap_remove(n));
            // Each vCPU can make one at a time; more are of guests that do not go on. What they hold of free memory is bounded.
            let full = known.is_none() && all.len() >= domain.vcpus.len().min(MOST_TRADES);
            let booked = if known.is_some() || full { None } else { book_trade(&domain.pages, frames) };
            let over = known.is_none() && booked.is_none() && !all.is_empty();
            // One that changed nothing yet is merely begun anew.
            let undone = all.iter().position(|trade| trade.phase != Phase::Give).unwrap_or(0);
            (known, over.then(|| all.remove(undone)), booked)
        };
        if let Some(mut oldest) = oldest {
            if self.settle_trade(domain, &mut oldest).is_err() {
                domain.pages.trades.lock().insert(0, oldest);
                return Err(Restart);
            }
            self.end_trade(domain, &oldest);
        }
        if let Some(known) = known {
            return Ok(known);
        }
        // Where it fails other vCPUs are making theirs at this moment.
        let booked = booked.or_else(|| book_trade(&domain.pages, frames)).ok_or(Restart)?;
        Ok(Trade { key, old_order, order, booked, ..Trade::default() })
    }

    /// An exchange is over: all of its frames are the domain's, or free.
    pub(crate) fn end_trade(&self, domain: &Domain<P>, trade: &Trade) {
        match trade.booked {
            0 => domain.pages.trades_beyond.store(false, SeqCst),
            booked => domain.pages.shrink(booked),
        }
    }

    /// In teardown: ends everything that was begun here for a domain.
    ///
    /// # Errors
    /// [`Restart`] as everywhere here.
    pub(crate) fn settle_pieces(&self, domain: &Domain<P>) -> Result<(), Restart> {
        loop {
            let growing = domain.pages.growing.lock().pop();
            let Some(growing) = growing else { break };
            self.stop_growing(domain, &growing);
            if self.platform.work_pending() {
                return Err(Restart);
            }
        }
        loop {
            let trade = domain.pages.trades.lock().pop();
            let Some(mut trade) = trade else { return Ok(()) };
            if self.settle_trade(domain, &mut trade).is_err() {
                domain.pages.trades.lock().push(trade);
                return Err(Restart);
            }
            self.end_trade(domain, &trade);
        }
    }
}

/// Charges a domain's account for the new frames of an exchange: 0 frames for the only one. `None`: it may not have so many more.
fn book_trade(pages: &Reservation, frames: u64) -> Option<u64> {
    if !pages.trades_beyond.swap(true, SeqCst) {
        return Some(0);
    }
    pages.try_grow(frames).then_some(frames)
}
