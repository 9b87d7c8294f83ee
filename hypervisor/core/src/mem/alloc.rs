//! Frames for domains and for the hypervisor.
//!
//! Every frame that leaves the free lists comes through [`Hypervisor::leave_free_lists`], which first has all CPUs flushed that may
//! still translate to it.

use super::{MAX_ORDER, Taker};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::Mfn;
use crate::page::{Count, FrameInfo};
use crate::platform::{GuestFrame, Platform};
use core::sync::atomic::Ordering::{AcqRel, Relaxed, Release};
use xen_abi::errno::Errno;
use xen_abi::memory::xenmemf_get_address_bits;

impl<P: Platform> Hypervisor<P> {
    /// `2^order` frames for `domain`, aligned to their size, each with the domain's own reference. `flags` are `XENMEMF_*`:
    /// the address bits are obeyed. The contents are left over from whoever had them last, as far as that is not secret.
    ///
    /// # Errors
    /// `ENOMEM` when there are none, or the domain may not have more.
    pub fn alloc_domain_pages(&self, domain: &Domain<P>, order: u32, flags: u32) -> Result<Mfn, Errno> {
        if order > MAX_ORDER || !domain.pages.try_grow(1 << order) {
            return Err(Errno::ENOMEM);
        }
        match self.take_frames(Taker::Memory(&domain.pages.claim), order, flags) {
            Some(first) => {
                self.assign_frames(domain, first, order);
                Ok(first)
            }
            None => {
                domain.pages.shrink(1 << order);
                Err(Errno::ENOMEM)
            }
        }
    }

    /// Enters `pfn` and the following for frames of [`Hypervisor::take_frames`] into the machine-to-physical table.
    pub(crate) fn name_frames(&self, first: Mfn, order: u32, pfn: u64) {
        let m2p = self.platform.m2p();
        for n in 0..1 << order {
            m2p[(first.0 + n) as usize].store(pfn.wrapping_add(n), Relaxed);
        }
    }

    /// `2^order` frames for a domain that does not run yet and whose builder clears all of them. Their count words say which are dirty,
    /// until the builder [cleared](Hypervisor::clear_domain_page) them: whatever takes them away from the domain before that gives them
    /// back dirty.
    pub(crate) fn alloc_uncleared(&self, domain: &Domain<P>, order: u32) -> Option<Mfn> {
        if order > MAX_ORDER || !domain.pages.try_grow(1 << order) {
            return None;
        }
        let Some(first) = self.take_uncleared(Taker::Memory(&domain.pages.claim), order, 0) else {
            domain.pages.shrink(1 << order);
            return None;
        };
        self.frames.note_taken(first, order);
        self.assign(domain, first, order, |info| info.count().0 & Count::DIRTY);
        Some(first)
    }

    /// Clears a frame of a domain's, to which the caller holds a reference.
    pub(crate) fn clear_domain_page(&self, mfn: Mfn) {
        self.platform.clear_frame(GuestFrame::held(mfn));
        let info = self.known_frame(mfn);
        if info.count().is_dirty() {
            info.count.fetch_and(!Count::DIRTY, AcqRel);
        }
    }

    /// One frame for `domain`.
    ///
    /// # Errors
    /// As [`Hypervisor::alloc_domain_pages`].
    pub fn alloc_domain_page(&self, domain: &Domain<P>, flags: u32) -> Result<Mfn, Errno> {
        self.alloc_domain_pages(domain, 0, flags)
    }

    /// Shares a frame of the hypervisor's own with `domain`, which may map it writable and never owns it for good.
    /// The frame is given back by [`Hypervisor::unshare_xen_page`].
    pub fn share_xen_page(&self, domain: &Domain<P>, mfn: Mfn) {
        self.known_frame(mfn).share(domain.id);
    }

    /// Ends [`Hypervisor::share_xen_page`] if nothing refers to the frame any more; answers whether it is the hypervisor's
    /// alone again. A mapping that another CPU makes meanwhile fails, or this does.
    pub fn unshare_xen_page(&self, mfn: Mfn) -> bool {
        self.known_frame(mfn).try_unshare()
    }

    /// Sets frames aside for `domain`, so that it can have `pages` in all; 0 gives up what is set aside.
    ///
    /// # Errors
    /// `EINVAL` when there is a claim already, or for no more pages than the domain has, or for more than it may have; `ENOMEM`
    /// when there are not as many free.
    pub fn claim_pages(&self, domain: &Domain<P>, pages: u64) -> Result<(), Errno> {
        let claim = &domain.pages.claim;
        if pages == 0 {
            self.frames.drop_claim(claim);
            return Ok(());
        }
        let wanted = pages.saturating_sub(domain.pages.current());
        if domain.pages.claimed() != 0 || wanted == 0 || pages > domain.pages.max() {
            return Err(Errno::EINVAL);
        }
        if self.frames.claim(claim, wanted) { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Takes frames whose frame-table words the caller fills in; no TLB knows them.
    pub(crate) fn take_frames(&self, taker: Taker<'_>, order: u32, flags: u32) -> Option<Mfn> {
        let first = self.take_uncleared(taker, order, flags)?;
        if self.frames.any_dirty() {
            self.frames.clear_taken(first, order, |mfn| self.platform.clear_frame(GuestFrame::held(mfn)));
        }
        Some(first)
    }

    /// As [`Hypervisor::take_frames`], with what others left in them: the caller clears those whose count word says that they are
    /// dirty, piece by piece, before any guest sees them.
    pub(crate) fn take_uncleared(&self, taker: Taker<'_>, order: u32, flags: u32) -> Option<Mfn> {
        let bits = match xenmemf_get_address_bits(flags) {
            0 => 64,
            bits => bits,
        };
        self.leave_free_lists(order, bits, taker)
    }

    /// `2^order` frames aligned to their size for the hypervisor's own use, to be given back by [`FrameAllocator::free`]. What is in
    /// them is left over from their last owner. They may be the last ones: what a guest decides about is judged before
    /// ([`FrameAllocator::has_room`]). May wait for other CPUs to flush: the caller holds no lock that is ever taken with interrupts
    /// off.
    ///
    /// [`FrameAllocator::free`]: super::FrameAllocator::free
    /// [`FrameAllocator::has_room`]: super::FrameAllocator::has_room
    #[inline(never)]
    pub fn alloc_frames(&self, order: u32) -> Option<Mfn> {
        let first = self.leave_free_lists(order, 64, Taker::Hypervisor)?;
        self.frames.keep(first, order);
        Some(first)
    }

    /// The one way out of the free lists.
    #[inline(never)]
    fn leave_free_lists(&self, order: u32, bits: u32, taker: Taker<'_>) -> Option<Mfn> {
        let taken = self.frames.take(order, bits, taker)?;
        Some(taken.after(|freed| self.flush_since(freed)))
    }

    /// Clears some of the free frames that domains left their data in; for CPUs that have nothing else to do.
    pub fn scrub_free_frames(&self) {
        self.frames.scrub(|mfn| self.platform.clear_frame(GuestFrame::held(mfn)));
    }

    /// Makes frames of [`Hypervisor::take_frames`] the domain's; the caller booked them.
    pub(crate) fn assign_frames(&self, domain: &Domain<P>, first: Mfn, order: u32) {
        self.assign(domain, first, order, |_| 0);
    }

    /// [`Hypervisor::assign_frames`], with further bits of the count words.
    #[inline(always)]
    fn assign(&self, domain: &Domain<P>, first: Mfn, order: u32, bits: impl Fn(&FrameInfo) -> u64) {
        domain.pages.note_frames(first, 1 << order);
        let word = Count::idle_of(domain.id).0;
        let range = first.0 as usize..first.0 as usize + (1 << order);
        for info in &self.platform.frame_table()[range] {
            info.type_.store(0, Relaxed);
            info.count.store(word | bits(info), Release);
        }
    }

    /// Puts frames of [`Hypervisor::take_frames`] back unused: they were cleared, and no guest saw them.
    pub(crate) fn give_back_taken(&self, first: Mfn, order: u32) {
        self.frames.give_rest(first.0..first.0 + (1 << order));
    }

    /// Gives up the domain's own reference to a frame; when nothing else refers to it, it is free.
    ///
    /// # Errors
    /// `EINVAL` or `ENXIO` when it is not the domain's.
    pub fn remove_domain_page(&self, domain: &Domain<P>, mfn: Mfn) -> Result<(), Errno> {
        let info = self.frame(mfn).ok_or(Errno::EINVAL)?;
        self.get_page(domain.id, mfn).map_err(|_| Errno::ENXIO)?;
        // A frame of the hypervisor's, merely shared, is not the domain's to give up.
        let own = !info.count().is_xenheap();
        if own {
            // What was given up before and is still mapped is given up again: that changes nothing.
            self.clear_allocated(mfn, info);
        }
        self.put_page(mfn);
        if own { Ok(()) } else { Err(Errno::ENXIO) }
    }

    /// Takes a frame away from its domain, if nothing but the domain's own reference holds it.
    ///
    /// # Errors
    /// `EINVAL` when it is in use, or not the domain's.
    pub(crate) fn steal_page(&self, domain: &Domain<P>, mfn: Mfn) -> Result<(), Errno> {
        let info = self.frame(mfn).ok_or(Errno::EINVAL)?;
        if info.try_steal(domain.id) { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// Undoes [`Hypervisor::steal_page`].
    pub(crate) fn return_stolen_page(&self, domain: &Domain<P>, mfn: Mfn) {
        self.known_frame(mfn).count.store(Count::idle_of(domain.id).0, Release);
    }

    /// Frees a frame of [`Hypervisor::steal_page`].
    pub(crate) fn free_stolen_page(&self, mfn: Mfn) {
        self.release_frame_words(mfn, self.known_frame(mfn));
    }
}
