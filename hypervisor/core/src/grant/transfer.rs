//! Giving a page away: `GNTTABOP_transfer`.

use super::GrantError;
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{DomId, GrantRef, Mfn};
use crate::platform::Platform;
use core::sync::atomic::Ordering;

impl<P: Platform> Hypervisor<P> {
    /// Gives a page of the caller's, which nothing refers to, to a domain that offered `reference` for it
    /// (`GNTTABOP_transfer`). As in Xen, the page is lost to the caller even if the receiver does not take it.
    ///
    /// # Errors
    /// [`GrantError::BadPage`] when the page is not the caller's or is in use (then it stays), [`GrantError::BadDomain`];
    /// [`GrantError::AddressTooBig`] when its number does not fit the receiver's entry; [`GrantError::General`] when the
    /// receiver may not have more pages or the entry does not accept this transfer.
    pub fn transfer_page(
        &self,
        caller: &Domain<P>,
        mfn: Mfn,
        receiver: DomId,
        reference: GrantRef,
    ) -> Result<(), GrantError> {
        self.take_page_away(caller, mfn)?;
        let given = self.give_page(caller, mfn, receiver, reference);
        if given.is_err() {
            self.frames.free(mfn, 0);
        }
        given
    }

    /// Makes a page the hypervisor's, if its owner's own reference is the only one.
    fn take_page_away(&self, owner: &Domain<P>, mfn: Mfn) -> Result<(), GrantError> {
        let info = self.frame(mfn).ok_or(GrantError::BadPage)?;
        if !info.try_steal(owner.id) {
            return Err(GrantError::BadPage);
        }
        owner.pages.shrink(1);
        // Not only the owner's CPUs: a domain that had the page mapped by a grant, for reading, need not have flushed since.
        self.flush_since(self.frames.tlb().now());
        if info.is_incoherent() {
            self.write_back(mfn);
        }
        Ok(())
    }

    fn give_page(
        &self,
        caller: &Domain<P>,
        mfn: Mfn,
        receiver: DomId,
        reference: GrantRef,
    ) -> Result<(), GrantError> {
        let receiver = self.domains.get(receiver).ok_or(GrantError::BadDomain)?;
        let mut table = receiver.grants.lock(self, &receiver);
        if table.version() == 1 && mfn.0 > u64::from(u32::MAX) {
            return Err(GrantError::AddressTooBig);
        }
        let shared = table.shared(&self.platform, reference).map_err(|_| GrantError::General)?;
        if table.active(reference).is_none_or(|active| active.pins.any()) || !receiver.pages.try_grow(1) {
            return Err(GrantError::General);
        }
        if let Err(error) = shared.commit_transfer(caller.id) {
            receiver.pages.shrink(1);
            return Err(error);
        }
        if let Some(entry) = self.platform.m2p().get(mfn.0 as usize) {
            // The receiver says in its entry which of its pseudo-physical frames this will be.
            entry.store(shared.target().mfn.0, Ordering::Relaxed);
        }
        self.assign_frames(&receiver, mfn, 0);
        shared.complete_transfer(mfn);
        Ok(())
    }
}
