//! Copying between pages: granted ones, or the caller's own.
//!
//! Each end is *claimed* (pinned if it is a grant, with a reference to the frame, typed writable for the destination),
//! copied, and released. A transitive grant is claimed together with the one it passes on; there is one level of that.

use super::entry::{PinKinds, Target};
use super::map::Held;
use super::{GrantError, User};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{DomId, GrantRef, Mfn, PAGE_SIZE};
use crate::page::{PageError, PageType};
use crate::platform::{FrameWords, GuestFrame, Platform};
use alloc::sync::Arc;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering};
use xen_abi::xen::DOMID_SELF;

/// Attempts at a transitive grant whose use by others changes at the same time.
const TRIES: u32 = 4;

/// What a copy reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyEnd {
    /// A domain's grant.
    Grant(DomId, GrantRef),
    /// A frame of the caller's own, which must be named by `DOMID_SELF`.
    Frame(DomId, Mfn),
}

/// Bytes to copy (`gnttab_copy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyRequest {
    /// From there, and from which byte on.
    pub source: (CopyEnd, u16),
    /// To there.
    pub dest: (CopyEnd, u16),
    /// How many bytes.
    pub len: u16,
}

/// A grant that is pinned: the domain that granted, its reference, the domain that uses it.
type Pinned<P> = (Arc<Domain<P>>, GrantRef, DomId);

/// An end of a copy, held.
struct Claim<P: Platform> {
    mfn: Mfn,
    start: usize,
    length: usize,
    /// What is held of the frame: a reference of type `Writable`, or an ordinary one.
    writable: bool,
    /// Whether the pins are for reading.
    readonly: bool,
    /// Grants that are pinned.
    pins: [Option<Pinned<P>>; 2],
}

impl<P: Platform> Hypervisor<P> {
    /// Copies bytes (`GNTTABOP_copy`).
    ///
    /// # Errors
    /// [`GrantError::PermissionDenied`] for a frame of another domain, [`GrantError::BadDomain`],
    /// [`GrantError::BadReference`], [`GrantError::BadPage`]; [`GrantError::General`] when a grant does not admit this
    /// use; [`GrantError::BadCopyArgument`] for bytes beyond a page; [`GrantError::Again`]; [`GrantError::Restart`] while a frame
    /// of the caller's own is being given up as a table.
    pub fn copy_granted(&self, caller: &Arc<Domain<P>>, request: &CopyRequest) -> Result<(), GrantError> {
        loop {
            match self.try_copy(caller, request) {
                Err(GrantError::Restart) => {
                    // With nothing of the granter's locked.
                    self.work_off_doomed(caller)?;
                    if self.platform.work_pending() {
                        return Err(GrantError::Restart);
                    }
                    spin_loop();
                }
                answer => return answer,
            }
        }
    }

    fn try_copy(&self, caller: &Arc<Domain<P>>, request: &CopyRequest) -> Result<(), GrantError> {
        if let Some(copied) = self.copy_by_plain_grant(caller, request) {
            return copied;
        }
        let source_domain = self.copy_domain(caller, request.source.0)?;
        let dest_domain = self.copy_domain(caller, request.dest.0)?;
        let source = self.claim_end(caller, &source_domain, request.source.0, true)?;
        let copied = self.claim_end(caller, &dest_domain, request.dest.0, false).and_then(|dest| {
            let copied = self.copy_claimed(request, &source, &dest);
            self.release_claim(dest);
            copied
        });
        self.release_claim(source);
        copied
    }

    /// The most frequent copy: from a grant to a frame of the caller's own. The granter's table stays locked meanwhile, so
    /// that the grant needs no pins. `None`: it is another copy, or the grant a transitive one.
    fn copy_by_plain_grant(
        &self,
        caller: &Arc<Domain<P>>,
        request: &CopyRequest,
    ) -> Option<Result<(), GrantError>> {
        let (CopyEnd::Grant(granter, reference), CopyEnd::Frame(own, dest)) =
            (request.source.0, request.dest.0)
        else {
            return None;
        };
        if own.0 != DOMID_SELF {
            return None;
        }
        let other;
        let granter = if granter == caller.id {
            caller
        } else {
            other = self.named_domain(caller, granter)?;
            &other
        };
        let user = User { domain: caller.id, readonly: true };
        let mut table = granter.grants.lock(self, granter);
        let shared = table.shared(&self.platform, reference).ok()?;
        let active = table.active(reference)?;
        if shared.is_transitive() {
            return None;
        }
        let pinned = active.pins.any();
        if pinned && active.user != user.domain {
            return Some(Err(GrantError::General));
        }
        let marks = active.needs_status(user);
        if marks && let Err(error) = shared.set_in_use(user, pinned, false) {
            return Some(Err(error));
        }
        let target = if pinned { active.target } else { shared.target() };
        let copied = self.copy_from(granter, &target, caller, dest, request);
        if marks {
            shared.clear_unused(&active.pins, user.readonly);
        }
        Some(copied)
    }

    /// Copies from what a grant gives access to, to the caller's frame `dest`.
    fn copy_from(
        &self,
        owner: &Domain<P>,
        target: &Target,
        caller: &Domain<P>,
        dest: Mfn,
        request: &CopyRequest,
    ) -> Result<(), GrantError> {
        self.get_page(owner.id, target.mfn).map_err(|_| GrantError::BadPage)?;
        let copied = match self.get_typed(caller, dest, PageType::Writable) {
            Ok(()) => {
                let covered = (usize::from(target.start), usize::from(target.length));
                let copied = self.copy_within(request, (target.mfn, covered), (dest, (0, PAGE_SIZE)));
                self.put_page_and_type(dest);
                copied
            }
            Err(PageError::Restart) => Err(GrantError::Restart),
            // The caller's frame in another use, or none of its frames.
            Err(_) if self.get_page(caller.id, dest).is_ok() => {
                self.put_page(dest);
                Err(GrantError::General)
            }
            Err(_) => Err(GrantError::BadPage),
        };
        self.put_page(target.mfn);
        copied
    }

    fn copy_domain(&self, caller: &Arc<Domain<P>>, end: CopyEnd) -> Result<Arc<Domain<P>>, GrantError> {
        match end {
            // Whether there is such a domain is not asked.
            CopyEnd::Frame(id, _) if id.0 != DOMID_SELF => Err(GrantError::PermissionDenied),
            CopyEnd::Frame(id, _) | CopyEnd::Grant(id, _) => {
                self.named_domain(caller, id).ok_or(GrantError::BadDomain)
            }
        }
    }

    fn claim_end(
        &self,
        caller: &Arc<Domain<P>>,
        domain: &Arc<Domain<P>>,
        end: CopyEnd,
        readonly: bool,
    ) -> Result<Claim<P>, GrantError> {
        match end {
            CopyEnd::Frame(_, mfn) => {
                self.get_page(domain.id, mfn).map_err(|_| GrantError::BadPage)?;
                let claim =
                    Claim { mfn, start: 0, length: PAGE_SIZE, writable: false, readonly, pins: [None, None] };
                self.make_writable(claim, domain)
            }
            CopyEnd::Grant(_, reference) => {
                for _ in 0..TRIES {
                    match self.claim_grant(domain, reference, caller.id, readonly, true) {
                        Err(GrantError::Again) => {}
                        answer => return answer,
                    }
                }
                Err(GrantError::Again)
            }
        }
    }

    /// Turns the claim's reference into one that allows writing, if it is not for reading. `owner` owns the frame.
    fn make_writable(&self, mut claim: Claim<P>, owner: &Domain<P>) -> Result<Claim<P>, GrantError> {
        if claim.readonly {
            return Ok(claim);
        }
        match self.get_typed(owner, claim.mfn, PageType::Writable) {
            Ok(()) => {
                self.put_page(claim.mfn);
                claim.writable = true;
                Ok(claim)
            }
            Err(error) => {
                // A granter's tables are the granter's to give up: its frame is still in another use.
                let own = claim.pins[0].is_none();
                self.release_claim(claim);
                Err(if own { error.into() } else { GrantError::General })
            }
        }
    }

    /// Claims a grant of `granter` for `user`. `passing`: a transitive grant is allowed.
    fn claim_grant(
        &self,
        granter: &Arc<Domain<P>>,
        reference: GrantRef,
        user: DomId,
        readonly: bool,
        passing: bool,
    ) -> Result<Claim<P>, GrantError> {
        let user = User { domain: user, readonly };
        let transitive = {
            let mut table = granter.grants.lock(self, granter);
            let shared = table.shared(&self.platform, reference)?;
            let active = table.active(reference).ok_or(GrantError::BadReference)?;
            if active.pins.any() && active.user != user.domain {
                return Err(GrantError::General);
            }
            shared.is_transitive()
        };
        if !transitive {
            let target = self.pin_for_copy(granter, reference, user, None)?;
            return self.hold(granter, granter, reference, user, target);
        }
        self.claim_transitive(granter, reference, user, passing)
    }

    fn claim_transitive(
        &self,
        granter: &Arc<Domain<P>>,
        reference: GrantRef,
        user: User,
        passing: bool,
    ) -> Result<Claim<P>, GrantError> {
        let (far_id, far_reference) = {
            let table = granter.grants.lock(self, granter);
            let shared = table.shared(&self.platform, reference)?;
            shared.passes_on().ok_or(GrantError::Again)?
        };
        if !passing || far_id == granter.id {
            return Err(GrantError::General);
        }
        let far = self.domains.get(far_id).ok_or(GrantError::General)?;
        let mut claim = self.claim_grant(&far, far_reference, granter.id, user.readonly, false)?;
        let target = Target {
            mfn: claim.mfn,
            start: narrow(claim.start),
            length: narrow(claim.length),
            copy_only: true,
            via: Some((far_id, far_reference)),
        };
        match self.pin_for_copy(granter, reference, user, Some(target)) {
            Ok(_) => {
                claim.pins[1] = Some((granter.clone(), reference, user.domain));
                Ok(claim)
            }
            Err(error) => {
                self.release_claim(claim);
                Err(error)
            }
        }
    }

    /// Pins a grant for a copy. `passed_on`: what a transitive grant, claimed before, gives access to.
    fn pin_for_copy(
        &self,
        granter: &Domain<P>,
        reference: GrantRef,
        user: User,
        passed_on: Option<Target>,
    ) -> Result<Target, GrantError> {
        let mut table = granter.grants.lock(self, granter);
        let shared = table.shared(&self.platform, reference)?;
        let active = table.active(reference).ok_or(GrantError::BadReference)?;
        let pinned = active.pins.any();
        if pinned && active.user != user.domain {
            return Err(GrantError::General);
        }
        if shared.is_transitive() != passed_on.is_some() && !pinned {
            return Err(GrantError::Again);
        }
        let kinds = PinKinds { host: true, device: false, readonly: user.readonly };
        let pins = active.pins.plus(kinds).ok_or(GrantError::General)?;
        if active.needs_status(user) {
            shared.set_in_use(user, pinned, false)?;
        }
        let target = match (pinned, passed_on) {
            (true, Some(target)) if target != active.target => {
                shared.clear_unused(&active.pins, user.readonly);
                return Err(GrantError::Again);
            }
            (true, _) => active.target,
            (false, Some(target)) => target,
            (false, None) => shared.target(),
        };
        active.pins = pins;
        active.user = user.domain;
        active.target = target;
        if !pinned {
            table.is_used(reference);
        }
        Ok(target)
    }

    /// Takes the reference to the frame of a grant that was pinned.
    fn hold(
        &self,
        granter: &Arc<Domain<P>>,
        owner: &Domain<P>,
        reference: GrantRef,
        user: User,
        target: Target,
    ) -> Result<Claim<P>, GrantError> {
        if self.get_page(owner.id, target.mfn).is_err() {
            let kinds = PinKinds { host: true, device: false, readonly: user.readonly };
            self.unpin(granter, reference, user.domain, target.mfn, kinds, Held::NOTHING);
            return Err(GrantError::BadPage);
        }
        let claim = Claim {
            mfn: target.mfn,
            start: usize::from(target.start),
            length: usize::from(target.length),
            writable: false,
            readonly: user.readonly,
            pins: [Some((granter.clone(), reference, user.domain)), None],
        };
        self.make_writable(claim, owner)
    }

    /// Gives a claim back: the pin of a transitive grant, then the frame together with the pin of the grant that names it.
    fn release_claim(&self, claim: Claim<P>) {
        let kinds = PinKinds { host: true, device: false, readonly: claim.readonly };
        if let Some((granter, reference, user)) = &claim.pins[1] {
            self.unpin(granter, *reference, *user, claim.mfn, kinds, Held::NOTHING);
        }
        let held = Held { references: 1, writable: claim.writable };
        match &claim.pins[0] {
            Some((granter, reference, user)) => {
                self.unpin(granter, *reference, *user, claim.mfn, kinds, held)
            }
            None => self.put_held(claim.mfn, held),
        }
    }

    fn copy_claimed(
        &self,
        request: &CopyRequest,
        source: &Claim<P>,
        dest: &Claim<P>,
    ) -> Result<(), GrantError> {
        let covered = |claim: &Claim<P>| (claim.mfn, (claim.start, claim.length));
        self.copy_within(request, covered(source), covered(dest))
    }

    /// Copies between two frames, of each of which a part (first byte, length) may be used.
    #[inline]
    fn copy_within(
        &self,
        request: &CopyRequest,
        (source, readable): (Mfn, (usize, usize)),
        (dest, writable): (Mfn, (usize, usize)),
    ) -> Result<(), GrantError> {
        let len = usize::from(request.len);
        let (from, to) = (usize::from(request.source.1), usize::from(request.dest.1));
        if from + len > PAGE_SIZE || to + len > PAGE_SIZE {
            return Err(GrantError::BadCopyArgument);
        }
        let covers = |(start, length): (usize, usize), at| at >= start && at + len <= start + length;
        if !covers(readable, from) || !covers(writable, to) {
            return Err(GrantError::General);
        }
        let words = |mfn| self.platform.words(GuestFrame::held(mfn));
        self.platform.copy_bytes(words(dest), to, words(source), from, len);
        Ok(())
    }
}

/// An offset or length within a page.
fn narrow(value: usize) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

/// [`Platform::copy_bytes`] by atomic operations on words.
pub fn copy_bytes(dest: &FrameWords, to: usize, source: &FrameWords, from: usize, len: usize) {
    let mut done = 0;
    while done < len {
        let at = to + done;
        let count = (8 - at % 8).min(len - done);
        let value = load_bytes(source, from + done, count);
        store_bytes(&dest[at / 8], at % 8, count, value);
        done += count;
    }
}

/// Up to 8 bytes from any offset, in the low bytes of the answer.
fn load_bytes(source: &FrameWords, from: usize, count: usize) -> u64 {
    let shift = from % 8 * 8;
    let low = source[from / 8].load(Ordering::Relaxed) >> shift;
    if from % 8 + count <= 8 {
        return low;
    }
    // Two words, so `shift` is not 0.
    low | source[from / 8 + 1].load(Ordering::Relaxed) << (64 - shift)
}

/// Writes `count` bytes at byte `offset` of a word.
fn store_bytes(word: &AtomicU64, offset: usize, count: usize, value: u64) {
    if count == 8 {
        return word.store(value, Ordering::Relaxed);
    }
    let mask = ((1 << (count * 8)) - 1) << (offset * 8);
    let flips = (word.load(Ordering::Relaxed) ^ value << (offset * 8)) & mask;
    word.fetch_xor(flips, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn bytes(frame: &FrameWords) -> Vec<u8> {
        frame.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect()
    }

    proptest! {
        #[test]
        fn copies_exactly_the_bytes_that_were_asked_for(from in 0usize..4096, to in 0usize..4096, len in 0usize..=4096) {
            let len = len.min(4096 - from).min(4096 - to);
            let frame = |seed: u64| -> FrameWords {
                core::array::from_fn(|i| AtomicU64::new((i as u64 + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
            };
            let (source, dest) = (frame(1), frame(1000));
            let mut expected = bytes(&dest);
            expected[to..to + len].copy_from_slice(&bytes(&source)[from..from + len]);
            copy_bytes(&dest, to, &source, from, len);
            prop_assert_eq!(bytes(&dest), expected);
        }
    }
}
