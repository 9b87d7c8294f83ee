//! Frames for domains.

use super::MAX_ORDER;
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::Mfn;
use crate::page::{Count, Type};
use crate::platform::Platform;
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
        match self.take_frames(Some(domain), order, flags) {
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
        let info = self.known_frame(mfn);
        info.set_type(Type::first(crate::page::PageType::Writable));
        info.count.store(Count::new(domain.id, Count::XENHEAP | Count::ALLOCATED, 1).0, Release);
    }

    /// Ends [`Hypervisor::share_xen_page`] if nothing refers to the frame any more; answers whether it is the hypervisor's
    /// alone again.
    pub fn unshare_xen_page(&self, mfn: Mfn) -> bool {
        let info = self.known_frame(mfn);
        let now = info.count();
        let alone = now.refs() == 1 && info.type_word().count() == 1;
        let xens = Count::new(crate::page::DOMID_XEN, Count::XENHEAP, 1).0;
        if !alone || info.count.compare_exchange(now.0, xens, Release, Relaxed).is_err() {
            return false;
        }
        info.set_type(Type(0));
        true
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

    /// Takes frames, after making sure that nobody still sees them through an old TLB entry. For a `domain` they may come out of
    /// what it claimed.
    pub(crate) fn take_frames(&self, domain: Option<&Domain<P>>, order: u32, flags: u32) -> Option<Mfn> {
        let bits = match xenmemf_get_address_bits(flags) {
            0 => 64,
            bits => bits,
        };
        let first = self.frames.take_claimed(order, bits, domain.map(|domain| &domain.pages.claim))?;
        if let Some(stamp) = self.frames.tlb().last_freed() {
            self.flush_freed(stamp);
        }
        if self.frames.any_dirty() {
            self.frames.clear_taken(first, order, |mfn| self.platform.clear_frame(mfn));
        }
        Some(first)
    }

    /// Clears some of the free frames that domains left their data in; for CPUs that have nothing else to do.
    pub fn scrub_free_frames(&self) {
        self.frames.scrub(|mfn| self.platform.clear_frame(mfn));
    }

    #[cold]
    fn flush_freed(&self, stamp: u32) {
        let stale = self.frames.tlb().stale(&self.platform.online_cpus(), stamp);
        if !stale.is_empty() {
            self.flush_tlb_all(&stale);
        }
    }

    /// Makes frames of [`Hypervisor::take_frames`] the domain's; the caller booked them.
    pub(crate) fn assign_frames(&self, domain: &Domain<P>, first: Mfn, order: u32) {
        domain.pages.note_frames(first, 1 << order);
        let word = Count::new(domain.id, Count::ALLOCATED, 1).0;
        let range = first.0 as usize..first.0 as usize + (1 << order);
        for info in &self.platform.frame_table()[range] {
            info.type_.store(0, Relaxed);
            info.count.store(word, Release);
        }
    }

    /// Puts frames of [`Hypervisor::take_frames`] back unused.
    pub(crate) fn give_back_taken(&self, first: Mfn, order: u32) {
        self.frames.give(first, order);
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
        let idle = Count::new(domain.id, Count::ALLOCATED, 1).0;
        let stolen = Count::new(crate::page::DOMID_XEN, Count::XENHEAP, 1).0;
        info.count.compare_exchange(idle, stolen, AcqRel, Relaxed).map_err(|_| Errno::EINVAL)?;
        Ok(())
    }

    /// Undoes [`Hypervisor::steal_page`].
    pub(crate) fn return_stolen_page(&self, domain: &Domain<P>, mfn: Mfn) {
        let word = Count::new(domain.id, Count::ALLOCATED, 1).0;
        self.known_frame(mfn).count.store(word, Release);
    }

    /// Frees a frame of [`Hypervisor::steal_page`].
    pub(crate) fn free_stolen_page(&self, mfn: Mfn) {
        self.release_frame_words(mfn, self.known_frame(mfn));
    }
}
