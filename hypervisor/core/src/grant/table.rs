//! The table itself: its frames, its size, its version.
//!
//! Frames are the hypervisor's, shared with the domain for as long as it lives. A domain has one frame from its first use
//! of grants on; it asks for more up to its limit. Version 2 adds frames of status words.

use super::entry::{Active, Shared, StatusWord};
use super::{DomainGrants, GrantError, VersionError};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::event::Progress;
use crate::ids::{DomId, GrantRef, Mfn, PAGE_SIZE};
use crate::mem::{Taker, frames_for};
use crate::platform::{GuestFrame, Platform};
use crate::sync::FairMutexGuard;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;
use xen_abi::errno::Errno;
use xen_abi::grant_table::*;

const V1_PER_FRAME: u32 = (PAGE_SIZE / 8) as u32;
pub(super) const V2_PER_FRAME: u32 = (PAGE_SIZE / 16) as u32;
pub(super) const STATUS_PER_FRAME: u32 = (PAGE_SIZE / 2) as u32;
const RESERVED: u32 = GNTTAB_NR_RESERVED_ENTRIES;
/// Frames of entries that a change of version clears with the table locked: the domain's back ends wait for that lock.
const CLEARED_AT_ONCE: usize = 2;
/// Frames given back in teardown between two looks for other work.
const FREED_AT_ONCE: u32 = 8;

/// A domain's grant table.
pub(super) struct Table {
    version: u32,
    frames: Vec<Mfn>,
    status: Vec<Mfn>,
    /// As many as version 1 has entries, the larger number, in a piece for each frame: a list in one piece would be copied, however
    /// long, when it grows.
    active: Vec<Vec<Active>>,
    /// References beyond the reserved ones that have pins.
    used: u32,
    /// Frames from this one on were cleared for the change of version that is being made; `usize::MAX`: none is. From its first step on only
    /// the reserved entries can be used, as if the others were cleared at once.
    cleared_from: usize,
    max_frames: u32,
    /// The domain is gone: the table has no frames and gets none.
    closed: bool,
}

/// The answer of `GNTTABOP_query_size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSize {
    /// Frames that the table has.
    pub frames: u32,
    /// Frames that it may grow to.
    pub max_frames: u32,
}

impl Table {
    pub const fn new(max_frames: u32) -> Self {
        Self {
            version: 1,
            frames: Vec::new(),
            status: Vec::new(),
            active: Vec::new(),
            used: 0,
            cleared_from: usize::MAX,
            max_frames,
            closed: false,
        }
    }

    /// Number of references there are.
    pub fn entries(&self) -> u32 {
        let frames = count(&self.frames);
        if self.version == 1 { frames * V1_PER_FRAME } else { frames * V2_PER_FRAME }
    }

    pub fn version(&self) -> u32 {
        self.version
    }

    pub const fn max_frames(&self) -> u32 {
        self.max_frames
    }

    /// The frames of status words, or else those of entries.
    pub fn part(&self, status: bool) -> &[Mfn] {
        if status { &self.status } else { &self.frames }
    }

    /// What the hypervisor keeps of a grant.
    pub fn active(&mut self, reference: GrantRef) -> Option<&mut Active> {
        if reference.0 >= self.entries() {
            return None;
        }
        let piece = self.active.get_mut((reference.0 / V1_PER_FRAME) as usize)?;
        piece.get_mut((reference.0 % V1_PER_FRAME) as usize)
    }

    /// A grant that had no pins has some.
    #[inline(always)]
    pub fn is_used(&mut self, reference: GrantRef) {
        // There are as many as references at most.
        self.used += u32::from(reference.0 >= RESERVED);
    }

    /// A grant that had pins has none.
    #[inline(always)]
    pub fn is_unused(&mut self, reference: GrantRef) {
        self.used = self.used.saturating_sub(u32::from(reference.0 >= RESERVED));
    }

    /// A grant's shared words.
    ///
    /// # Errors
    /// [`GrantError::BadReference`] beyond the table; [`GrantError::General`] for an entry that a change of version clears, as for one
    /// that is cleared.
    #[inline(always)]
    pub fn shared<'a, P: Platform>(
        &self,
        platform: &'a P,
        reference: GrantRef,
    ) -> Result<Shared<'a>, GrantError> {
        if self.cleared_from != usize::MAX && (RESERVED..self.entries()).contains(&reference.0) {
            return Err(GrantError::General);
        }
        self.words(platform, reference).ok_or(GrantError::BadReference)
    }

    #[inline(always)]
    fn words<'a, P: Platform>(&self, platform: &'a P, reference: GrantRef) -> Option<Shared<'a>> {
        if reference.0 >= self.entries() {
            return None;
        }
        if self.version == 1 {
            let frame = self.frames.get((reference.0 / V1_PER_FRAME) as usize)?;
            let word = platform.words(GuestFrame::held(*frame)).get((reference.0 % V1_PER_FRAME) as usize)?;
            return Some(Shared::V1(word));
        }
        let frame = self.frames.get((reference.0 / V2_PER_FRAME) as usize)?;
        let first = (reference.0 % V2_PER_FRAME) as usize * 2;
        let words = platform.words(GuestFrame::held(*frame));
        Some(Shared::V2 {
            words: [words.get(first)?, words.get(first + 1)?],
            status: self.status(platform, reference)?,
        })
    }

    fn status<'a, P: Platform>(&self, platform: &'a P, reference: GrantRef) -> Option<StatusWord<'a>> {
        let frame = self.status.get((reference.0 / STATUS_PER_FRAME) as usize)?;
        let index = reference.0 % STATUS_PER_FRAME;
        let word = platform.words(GuestFrame::held(*frame)).get((index / 4) as usize)?;
        Some(StatusWord { word, shift: 16 * (index % 4) })
    }

    /// Grows to at least `frames` frames and, in version `version`, the status frames that go with them.
    pub fn grow<P: Platform>(
        &mut self,
        hv: &Hypervisor<P>,
        domain: &Domain<P>,
        frames: u32,
        version: u32,
    ) -> Result<(), OutOfFrames> {
        while self.grow_once(hv, domain, frames, version)? {}
        Ok(())
    }

    /// Grows by one frame at most; answers whether one is still missing.
    pub(super) fn grow_once<P: Platform>(
        &mut self,
        hv: &Hypervisor<P>,
        domain: &Domain<P>,
        frames: u32,
        version: u32,
    ) -> Result<bool, OutOfFrames> {
        let frames = frames.max(1);
        if self.active.len() < frames as usize {
            self.active.try_reserve(1).map_err(|_| OutOfFrames)?;
            self.active.push(new_piece(hv, domain)?);
        }
        let status = if version == 2 { status_frames(count(&self.frames).max(frames)) } else { 0 };
        if count(&self.frames) < frames {
            add_frame(hv, domain, &mut self.frames)?;
        } else if count(&self.status) < status {
            add_frame(hv, domain, &mut self.status)?;
        }
        Ok(count(&self.frames) < frames || count(&self.status) < status)
    }
}

fn new_piece<P: Platform>(hv: &Hypervisor<P>, domain: &Domain<P>) -> Result<Vec<Active>, OutOfFrames> {
    let mut piece = Vec::new();
    if !hv.frames.has_room(&domain.pages.claim, frames_for(V1_PER_FRAME as usize * size_of::<Active>())) {
        return Err(OutOfFrames);
    }
    piece.try_reserve_exact(V1_PER_FRAME as usize).map_err(|_| OutOfFrames)?;
    piece.resize(V1_PER_FRAME as usize, Active::UNUSED);
    Ok(piece)
}

/// No frame is left for the table.
pub(super) struct OutOfFrames;

pub(super) fn count(frames: &[Mfn]) -> u32 {
    u32::try_from(frames.len()).unwrap_or(u32::MAX)
}

pub(super) const fn status_frames(frames: u32) -> u32 {
    (frames * V2_PER_FRAME).div_ceil(STATUS_PER_FRAME)
}

fn add_frame<P: Platform>(
    hv: &Hypervisor<P>,
    domain: &Domain<P>,
    list: &mut Vec<Mfn>,
) -> Result<(), OutOfFrames> {
    list.try_reserve(1).map_err(|_| OutOfFrames)?;
    let mfn = hv.take_frames(Taker::Growth(&domain.pages.claim), 0, 0).ok_or(OutOfFrames)?;
    hv.platform.clear_frame(GuestFrame::held(mfn));
    hv.share_xen_page(domain, mfn);
    list.push(mfn);
    Ok(())
}

/// A reserved entry while the table changes its version.
#[derive(Clone, Copy, Default)]
struct Reserved {
    flags: u16,
    domain: u16,
    frame: u32,
}

const IN_USE: u16 = GTF_READING | GTF_WRITING;

impl Table {
    /// The reserved entries, which survive a change of version.
    fn save_reserved<P: Platform>(
        &self,
        platform: &P,
    ) -> Result<[Reserved; RESERVED as usize], VersionError> {
        let mut saved = [Reserved::default(); RESERVED as usize];
        for (slot, reference) in saved.iter_mut().zip(0..) {
            match self.words(platform, GrantRef(reference)) {
                Some(Shared::V1(word)) => {
                    let word = word.load(Ordering::SeqCst);
                    *slot = Reserved {
                        flags: (word & 0xffff) as u16,
                        domain: (word >> 16 & 0xffff) as u16,
                        frame: (word >> 32) as u32,
                    };
                }
                Some(Shared::V2 { words: [first, second], status }) => {
                    let (header, frame) = (first.load(Ordering::SeqCst), second.load(Ordering::SeqCst));
                    let flags = (header & 0xffff) as u16;
                    match (flags & GTF_TYPE_MASK, u32::try_from(frame)) {
                        (GTF_PERMIT_ACCESS, Ok(frame)) => {
                            let domain = (header >> 16 & 0xffff) as u16;
                            *slot = Reserved { flags: flags | status.load() & IN_USE, domain, frame };
                        }
                        (GTF_PERMIT_ACCESS, Err(_)) | (GTF_TRANSITIVE, _) => {
                            return Err(VersionError::NotRepresentable);
                        }
                        _ => {}
                    }
                }
                None => {}
            }
        }
        Ok(saved)
    }

    fn restore_reserved<P: Platform>(&self, platform: &P, saved: &[Reserved]) {
        for (slot, reference) in saved.iter().zip(0..) {
            let header = |flags: u16| u64::from(flags) | u64::from(slot.domain) << 16;
            match self.words(platform, GrantRef(reference)) {
                Some(Shared::V1(word)) => {
                    word.store(header(slot.flags) | u64::from(slot.frame) << 32, Ordering::SeqCst);
                }
                Some(Shared::V2 { words: [first, second], status }) => {
                    status.store(slot.flags & IN_USE);
                    second.store(u64::from(slot.frame), Ordering::SeqCst);
                    first.store(header(slot.flags & !IN_USE), Ordering::SeqCst);
                }
                None => {}
            }
        }
    }

    fn set_version<P: Platform>(
        &mut self,
        hv: &Hypervisor<P>,
        domain: &Domain<P>,
        version: u32,
    ) -> Result<(), VersionError> {
        let cleared_from = self.cleared_from;
        if self.used != 0 {
            return Err(VersionError::InUse);
        }
        let saved = self.save_reserved(&hv.platform)?;
        if version == 2 {
            self.grow(hv, domain, count(&self.frames), 2).map_err(|_| VersionError::NoMemory)?;
        } else {
            give_back(hv, domain, &mut self.status).map_err(|InUse| VersionError::InUse)?;
        }
        for frame in self.frames.iter().take(cleared_from) {
            hv.platform.clear_frame(GuestFrame::held(*frame));
        }
        self.cleared_from = usize::MAX;
        self.version = version;
        self.restore_reserved(&hv.platform, &saved);
        Ok(())
    }

    /// A step of a change of version. Answers whether another one follows.
    fn change_version<P: Platform>(
        &mut self,
        hv: &Hypervisor<P>,
        domain: &Domain<P>,
        version: u32,
    ) -> Result<bool, VersionError> {
        if self.version == version {
            return Ok(false);
        }
        let frames = count(&self.frames);
        // Status frames come one after the other. Those of a change that is given up are there for the next.
        let refused = self.used != 0 || version == 1;
        if !refused && self.grow_once(hv, domain, frames, version).map_err(|_| VersionError::NoMemory)?
            || self.clear_beyond(hv, version)?
        {
            return Ok(true);
        }
        self.set_version(hv, domain, version).map(|()| false)
    }

    /// Clears some entries for a change of version that nothing forbids so far. Answers whether it did. No grant is mapped meanwhile
    /// that would forbid it; where the domain itself does something that does, these entries are lost.
    fn clear_beyond<P: Platform>(&mut self, hv: &Hypervisor<P>, version: u32) -> Result<bool, VersionError> {
        let end = self.frames.len().min(self.cleared_from);
        if end <= CLEARED_AT_ONCE || self.used != 0 {
            return Ok(false);
        }
        if self.cleared_from == usize::MAX {
            let alone = |mfn: &Mfn| hv.known_frame(*mfn).count().refs() <= 1;
            self.save_reserved(&hv.platform)?;
            if version == 1 && !self.status.iter().all(alone) {
                return Err(VersionError::InUse);
            }
        }
        let first = end.saturating_sub(CLEARED_AT_ONCE).max(CLEARED_AT_ONCE);
        self.frames[first..end].iter().for_each(|mfn| hv.platform.clear_frame(GuestFrame::held(*mfn)));
        self.cleared_from = first;
        Ok(true)
    }
}

/// A frame is mapped.
struct InUse;

/// Gives frames back that nobody uses, all or none: as long as the guest maps one of them it could be surprised by its next
/// use.
fn give_back<P: Platform>(
    hv: &Hypervisor<P>,
    domain: &Domain<P>,
    frames: &mut Vec<Mfn>,
) -> Result<(), InUse> {
    let alone = frames.iter().take_while(|mfn| hv.unshare_xen_page(**mfn)).count();
    if alone != frames.len() {
        frames[..alone].iter().for_each(|mfn| hv.share_xen_page(domain, *mfn));
        return Err(InUse);
    }
    frames.drain(..).for_each(|mfn| hv.frames.free(mfn, 0));
    Ok(())
}

impl DomainGrants {
    /// The table, locked. It has a frame from its first use on, if there is memory.
    pub(super) fn lock<P: Platform>(
        &self,
        hv: &Hypervisor<P>,
        domain: &Domain<P>,
    ) -> FairMutexGuard<'_, Table> {
        let mut table = self.table.lock();
        if table.frames.is_empty() && !table.closed {
            // Without a frame there are no references, and every one is refused.
            let _ = table.grow(hv, domain, 1, 1);
        }
        table
    }
}

impl<P: Platform> Hypervisor<P> {
    /// The domain whose table a caller wants to see or change: its own, or any if it is privileged.
    pub(crate) fn table_owner(
        &self,
        caller: &Arc<Domain<P>>,
        dom: DomId,
    ) -> Result<Arc<Domain<P>>, GrantError> {
        let domain = self.named_domain(caller, dom).ok_or(GrantError::BadDomain)?;
        if Arc::ptr_eq(caller, &domain) || caller.privileged {
            Ok(domain)
        } else {
            Err(GrantError::PermissionDenied)
        }
    }

    /// Grows a table to at least `frames` frames, and hands the numbers of the first `frames` ones to `report`
    /// (`GNTTABOP_setup_table`).
    ///
    /// # Errors
    /// [`GrantError::BadDomain`], [`GrantError::PermissionDenied`]; [`GrantError::General`] beyond the table's limit, or
    /// without memory; [`GrantError::Restart`].
    pub fn setup_grant_table(
        &self,
        caller: &Arc<Domain<P>>,
        dom: DomId,
        frames: u32,
    ) -> Result<Vec<Mfn>, GrantError> {
        let domain = self.table_owner(caller, dom)?;
        loop {
            let mut table = domain.grants.lock(self, &domain);
            if frames > table.max_frames {
                return Err(GrantError::General);
            }
            let version = table.version;
            let more = table.grow_once(self, &domain, frames, version).map_err(|_| GrantError::General)?;
            if !more {
                return copy_of(&table.frames, frames);
            }
            drop(table);
            if self.platform.work_pending() {
                return Err(GrantError::Restart);
            }
        }
    }

    /// The numbers of the first `frames` status frames of a table (`GNTTABOP_get_status_frames`).
    ///
    /// # Errors
    /// [`GrantError::BadDomain`], [`GrantError::PermissionDenied`]; [`GrantError::General`] for more than there are.
    pub fn grant_status_frames(
        &self,
        caller: &Arc<Domain<P>>,
        dom: DomId,
        frames: u32,
    ) -> Result<Vec<Mfn>, GrantError> {
        let domain = self.table_owner(caller, dom)?;
        let table = domain.grants.lock(self, &domain);
        copy_of(&table.status, frames)
    }

    /// How large a table is and may become (`GNTTABOP_query_size`).
    ///
    /// # Errors
    /// [`GrantError::BadDomain`], [`GrantError::PermissionDenied`].
    pub fn grant_table_size(&self, caller: &Arc<Domain<P>>, dom: DomId) -> Result<TableSize, GrantError> {
        let domain = self.table_owner(caller, dom)?;
        let table = domain.grants.lock(self, &domain);
        Ok(TableSize { frames: count(&table.frames), max_frames: table.max_frames })
    }

    /// A domain's grant table version, 1 or 2.
    pub fn grant_table_version(&self, domain: &Domain<P>) -> u32 {
        domain.grants.lock(self, domain).version()
    }

    /// Grants a page of a domain that does not run yet to another one, by one of the references that are reserved for
    /// it. As in Xen, the domain's kernel leaves these references alone.
    pub(crate) fn grant_reserved(
        &self,
        domain: &Domain<P>,
        reference: GrantRef,
        to: DomId,
        mfn: Mfn,
    ) -> bool {
        let table = domain.grants.lock(self, domain);
        match (table.shared(&self.platform, reference), u32::try_from(mfn.0)) {
            (Ok(Shared::V1(word)), Ok(frame)) if reference.0 < RESERVED => {
                let header = u64::from(GTF_PERMIT_ACCESS) | u64::from(to.0) << 16;
                word.store(header | u64::from(frame) << 32, Ordering::SeqCst);
                true
            }
            _ => false,
        }
    }

    /// Changes the version of the caller's table (`GNTTABOP_set_version`). All entries but the reserved ones are cleared.
    ///
    /// # Errors
    /// Any [`VersionError`].
    pub fn set_grant_table_version(&self, domain: &Domain<P>, version: u32) -> Result<(), VersionError> {
        if version != 1 && version != 2 {
            return Err(VersionError::Unknown);
        }
        loop {
            let mut table = domain.grants.lock(self, domain);
            let step = table.change_version(self, domain, version);
            if !matches!(step, Ok(true)) {
                // The change is made, or given up.
                table.cleared_from = usize::MAX;
                return step.map(|_| ());
            }
            drop(table);
            if self.platform.work_pending() {
                return Err(VersionError::Restart);
            }
        }
    }

    /// Exchanges two unused grants of a domain (`GNTTABOP_swap_grant_ref`).
    ///
    /// # Errors
    /// [`GrantError::BadReference`], [`GrantError::Again`] while one of them is in use.
    pub fn swap_grants(&self, domain: &Domain<P>, a: GrantRef, b: GrantRef) -> Result<(), GrantError> {
        let mut table = domain.grants.lock(self, domain);
        for reference in [a, b] {
            let active = table.active(reference).ok_or(GrantError::BadReference)?;
            if a != b && active.pins.any() {
                return Err(GrantError::Again);
            }
        }
        let shared = |reference| table.shared(&self.platform, reference);
        match (shared(a)?, shared(b)?) {
            (Shared::V1(a), Shared::V1(b)) => {
                b.store(a.swap(b.load(Ordering::SeqCst), Ordering::SeqCst), Ordering::SeqCst)
            }
            (Shared::V2 { words: a, status: status_a }, Shared::V2 { words: b, status: status_b }) => {
                for (a, b) in a.into_iter().zip(b) {
                    b.store(a.swap(b.load(Ordering::SeqCst), Ordering::SeqCst), Ordering::SeqCst);
                }
                let flags = (status_a.load(), status_b.load());
                status_a.store(flags.1);
                status_b.store(flags.0);
            }
            _ => return Err(GrantError::General),
        }
        Ok(())
    }

    /// Whether a frame whose cached lines a domain wants to write back is its own; `false` for one of another domain, which it may
    /// write back while it has a mapping of a grant of it.
    ///
    /// # Errors
    /// `EINVAL` for a frame that does not exist, `EPERM` for one that no domain owns.
    pub(crate) fn owns_to_flush(&self, domain: &Domain<P>, mfn: Mfn) -> Result<bool, Errno> {
        self.frame(mfn).ok_or(Errno::EINVAL)?;
        let owner = self.page_owner(mfn).ok_or(Errno::EPERM)?;
        if owner != domain.id && self.domains.get(owner).is_none() {
            return Err(Errno::EPERM);
        }
        Ok(owner == domain.id)
    }

    /// Whether one of these handles of a domain names a mapping of `mfn`. A frame that is mapped stays its granter's.
    pub(crate) fn maps_grant_of(&self, domain: &Domain<P>, mfn: Mfn, handles: Range<u32>) -> bool {
        domain.grants.maptrack.lock().maps(mfn, handles.start, handles.end)
    }

    /// One more than the highest handle that a domain ever had.
    pub(crate) fn grant_handles(&self, domain: &Domain<P>) -> u32 {
        domain.grants.maptrack.lock().handles()
    }

    /// Gives back the frames of a domain's table in teardown, after its page tables are gone. What others map of them goes when
    /// they let go.
    pub fn release_grant_frames(&self, domain: &Domain<P>) -> Progress {
        let mut freed = 0;
        loop {
            let (mfn, piece) = {
                let mut table = domain.grants.table.lock();
                table.closed = true;
                let last = table.frames.pop();
                (last.or_else(|| table.status.pop()), table.active.pop())
            };
            mfn.inspect(|mfn| self.surrender_xen_page(domain, *mfn));
            if mfn.is_none() && piece.is_none() {
                return Progress::Finished;
            }
            drop(piece);
            freed += 1;
            if freed % FREED_AT_ONCE == 0 && self.platform.work_pending() {
                return Progress::Preempted;
            }
        }
    }
}

fn copy_of(frames: &[Mfn], wanted: u32) -> Result<Vec<Mfn>, GrantError> {
    let first = frames.get(..wanted as usize).ok_or(GrantError::General)?;
    let mut copy = Vec::new();
    copy.try_reserve_exact(first.len()).map_err(|_| GrantError::General)?;
    copy.extend_from_slice(first);
    Ok(copy)
}
