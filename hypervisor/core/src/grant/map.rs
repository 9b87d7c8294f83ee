//! Mapping granted pages into an address space, and undoing it.
//!
//! A mapping is made in steps that can each be undone: a handle, pins in the granter's table, references to the frame, the
//! page-table entry. Undoing goes the other way, with one step more: between clearing the entry and giving the
//! references back all TLBs of the domain forget it. That flush is shared by a batch.

use super::entry::PinKinds;
use super::maptrack::Mapping;
use super::{GrantError, User};
use crate::Hypervisor;
use crate::domain::{Domain, Vcpu};
use crate::event::Progress;
use crate::ids::{DomId, GrantRef, GuestVirt, MachineAddr, Mfn};
use crate::page::{EntryPlace, PageType, pte};
use crate::platform::Platform;
use alloc::sync::Arc;
use xen_abi::grant_table::*;

/// A page to map (`gnttab_map_grant_ref`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRequest {
    /// Where: a virtual address, or the machine address of an entry with `GNTMAP_contains_pte`.
    pub host_addr: u64,
    /// `GNTMAP_*`.
    pub flags: u32,
    /// The domain that grants.
    pub granter: DomId,
    /// Its reference.
    pub reference: GrantRef,
}

/// A mapping that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Its name from now on.
    pub handle: u32,
    /// Machine address of the page.
    pub address: MachineAddr,
}

/// A mapping to undo (`gnttab_unmap_grant_ref`, `gnttab_unmap_and_replace`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnmapRequest {
    /// Where the host mapping is; 0: it stays.
    pub host_addr: u64,
    /// The machine address of a device mapping; 0: it stays.
    pub device_addr: u64,
    /// Virtual address of the mapping to move to `host_addr`; 0: none.
    pub new_addr: u64,
    /// The mapping.
    pub handle: u32,
}

/// Mappings of a batch between the clearing of their entries and the end of their references.
#[derive(Default)]
pub struct UnmapBatch {
    undone: [Option<Undone>; UnmapBatch::SIZE],
    count: usize,
}

/// Half of a mapping, or all of it, that stands no more.
#[derive(Clone, Copy)]
pub struct Undone {
    mapping: Mapping,
    kinds: PinKinds,
}

impl UnmapBatch {
    /// Most mappings in a batch.
    pub const SIZE: usize = 32;
}

/// What a mapping or a copy holds of a granted frame.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub references: u32,
    /// They are of type `Writable`.
    pub writable: bool,
}

impl Held {
    /// Nothing.
    pub const NOTHING: Self = Self { references: 0, writable: false };
    /// An ordinary reference.
    pub const READ: Self = Self { references: 1, writable: false };
}

/// Handles between two looks for other work.
const PREEMPTION_STEP: u32 = 64;

impl PinKinds {
    pub(super) fn of_flags(flags: u32) -> Self {
        Self {
            host: flags & GNTMAP_HOST_MAP != 0,
            device: flags & GNTMAP_DEVICE_MAP != 0,
            readonly: flags & GNTMAP_READONLY != 0,
        }
    }
}

fn place_of(address: u64, flags: u32) -> EntryPlace {
    if flags & GNTMAP_CONTAINS_PTE != 0 {
        EntryPlace::Machine(MachineAddr(address))
    } else {
        EntryPlace::Linear(GuestVirt(address))
    }
}

fn entry_of(mfn: Mfn, flags: u32) -> u64 {
    let user = if flags & GNTMAP_APPLICATION_MAP != 0 { pte::USER } else { 0 };
    let writable = if flags & GNTMAP_READONLY == 0 { pte::RW } else { 0 };
    let available = u64::from(flags >> GUEST_AVAIL_SHIFT) << 9 & pte::AVAIL;
    mfn.addr().0 | pte::PRESENT | pte::ACCESSED | pte::DIRTY | pte::NX | user | writable | available
}

/// Place of the bits of `GNTMAP_guest_avail_mask`.
const GUEST_AVAIL_SHIFT: u32 = GNTMAP_GUEST_AVAIL_MASK.trailing_zeros();

impl<P: Platform> Hypervisor<P> {
    /// Maps a granted page for the calling vCPU's domain (`GNTTABOP_map_grant_ref`).
    ///
    /// # Errors
    /// [`GrantError::BadReference`] for flags that ask for nothing, or a reference beyond the table;
    /// [`GrantError::BadDomain`], [`GrantError::NoSpace`], [`GrantError::BadPage`]; [`GrantError::General`] when the entry
    /// does not admit this use, the page cannot be had, or there is no page-table entry at the address.
    pub fn map_grant(
        &self,
        caller: &Arc<Domain<P>>,
        vcpu: &Vcpu<P>,
        request: &MapRequest,
    ) -> Result<Mapped, GrantError> {
        let kinds = PinKinds::of_flags(request.flags);
        if !kinds.host && !kinds.device {
            return Err(GrantError::BadReference);
        }
        let found;
        let granter = if request.granter == caller.id {
            caller
        } else {
            found = self.domains.get(request.granter).ok_or(GrantError::BadDomain)?;
            &found
        };
        let room = |frames| self.frames.has_room(&caller.pages.claim, frames);
        let handle = caller.grants.maptrack.lock().allocate(room)?;
        match self.pin_and_map(caller, vcpu, granter, request, kinds) {
            Ok(mfn) => {
                let flags = request.flags;
                let mapping = Mapping { granter: granter.id, reference: request.reference, mfn, flags };
                caller.grants.maptrack.lock().set(handle, mapping);
                Ok(Mapped { handle, address: mfn.addr() })
            }
            Err(error) => {
                caller.grants.maptrack.lock().free(handle);
                Err(error)
            }
        }
    }

    fn pin_and_map(
        &self,
        caller: &Arc<Domain<P>>,
        vcpu: &Vcpu<P>,
        granter: &Arc<Domain<P>>,
        request: &MapRequest,
        kinds: PinKinds,
    ) -> Result<Mfn, GrantError> {
        let mfn = self.pin_for_map(caller.id, granter, request.reference, kinds)?;
        if let Err(error) = self.make_mapping(caller, vcpu, granter, mfn, request, kinds) {
            self.unpin(granter, request.reference, caller.id, mfn, kinds, Held::READ);
            return Err(error);
        }
        self.put_page(mfn);
        Ok(mfn)
    }

    /// Pins a grant for a mapping; answers its frame, with a reference to it.
    fn pin_for_map(
        &self,
        user: DomId,
        granter: &Domain<P>,
        reference: GrantRef,
        kinds: PinKinds,
    ) -> Result<Mfn, GrantError> {
        let mut table = granter.grants.lock(self, granter);
        let shared = table.shared(&self.platform, reference)?;
        let active = table.active(reference).ok_or(GrantError::BadReference)?;
        let pinned = active.pins.any();
        if pinned && (active.user != user || active.target.copy_only) {
            return Err(GrantError::General);
        }
        let pins = active.pins.plus(kinds).ok_or(GrantError::General)?;
        let user = User { domain: user, readonly: kinds.readonly };
        if active.needs_status(user) {
            shared.set_in_use(user, pinned, true)?;
        }
        let target = if pinned { active.target } else { shared.target() };
        if self.get_page(granter.id, target.mfn).is_err() {
            shared.clear_unused(&active.pins, kinds.readonly);
            return Err(GrantError::BadPage);
        }
        active.pins = pins;
        active.user = user.domain;
        active.target = target;
        if !pinned {
            table.is_used(reference);
        }
        Ok(target.mfn)
    }

    /// Takes the references of a mapping and writes its page-table entry.
    fn make_mapping(
        &self,
        caller: &Domain<P>,
        vcpu: &Vcpu<P>,
        granter: &Domain<P>,
        mfn: Mfn,
        request: &MapRequest,
        kinds: PinKinds,
    ) -> Result<(), GrantError> {
        if kinds.device {
            self.get_granted(granter, mfn, kinds.readonly)?;
        }
        if !kinds.host {
            return Ok(());
        }
        let host = self.get_granted(granter, mfn, kinds.readonly).and_then(|()| {
            let place = place_of(request.host_addr, request.flags);
            let entry = entry_of(mfn, request.flags);
            self.put_foreign_entry(caller, vcpu, place, entry).map_err(|error| {
                self.put_granted(mfn, kinds.readonly);
                GrantError::from(error)
            })
        });
        if host.is_err() && kinds.device {
            self.put_granted(mfn, kinds.readonly);
        }
        host
    }

    /// Takes a reference for a mapping. A frame that the granter has not given up yet as a table is refused, as one that is still
    /// a table: the work is the granter's, who may never do it.
    fn get_granted(&self, granter: &Domain<P>, mfn: Mfn, readonly: bool) -> Result<(), GrantError> {
        let taken = match readonly {
            true => self.get_page(granter.id, mfn),
            false => self.get_typed(granter, mfn, PageType::Writable),
        };
        taken.map_err(|_| GrantError::General)
    }

    fn put_granted(&self, mfn: Mfn, readonly: bool) {
        if readonly { self.put_page(mfn) } else { self.put_page_and_type(mfn) }
    }

    /// Takes pins away and tells the granter what is no longer in use. What the user `held` of the frame is given back with the
    /// table locked: as long as there are pins, others may be added without a look at the entry, so there must be a reference to
    /// the frame; and when the granter sees that the grant is not in use, the frame must be its own again.
    pub(super) fn unpin(
        &self,
        granter: &Domain<P>,
        reference: GrantRef,
        user: DomId,
        mfn: Mfn,
        kinds: PinKinds,
        held: Held,
    ) {
        let mut table = granter.grants.lock(self, granter);
        self.put_held(mfn, held);
        let Ok(shared) = table.shared(&self.platform, reference) else { return };
        let Some(active) = table.active(reference) else { return };
        // Another domain may have got a dead granter's identifier: its pins are none of ours.
        if active.user == user && active.target.mfn == mfn {
            let pins = active.pins.minus(kinds);
            let before = core::mem::replace(&mut active.pins, pins);
            shared.clear_unused(&pins, kinds.readonly);
            if !pins.any() && before.any() {
                table.is_unused(reference);
            }
        }
    }

    /// Undoes a mapping, or half of it, up to the point where TLBs must forget it (`GNTTABOP_unmap_grant_ref`,
    /// `GNTTABOP_unmap_and_replace`). The caller finishes the batch, and never leaves a full one unfinished.
    ///
    /// # Errors
    /// [`GrantError::BadHandle`], [`GrantError::BadDeviceAddress`]; [`GrantError::General`] when the page-table entry is
    /// not that of the mapping.
    pub fn unmap_grant(
        &self,
        caller: &Domain<P>,
        vcpu: &Vcpu<P>,
        request: &UnmapRequest,
        batch: &mut UnmapBatch,
    ) -> Result<(), GrantError> {
        let Some(slot) = batch.undone.get_mut(batch.count) else { return Err(GrantError::General) };
        *slot = Some(self.begin_unmap(caller, vcpu, request)?);
        batch.count += 1;
        Ok(())
    }

    /// [`Hypervisor::unmap_grant`] of one without a batch: the caller [finishes](Hypervisor::finish_unmap) it.
    ///
    /// # Errors
    /// As there.
    pub fn begin_unmap(
        &self,
        caller: &Domain<P>,
        vcpu: &Vcpu<P>,
        request: &UnmapRequest,
    ) -> Result<Undone, GrantError> {
        let mut mapping = caller.grants.maptrack.lock().take(request.handle)?;
        let undone =
            self.clear_mapping(caller, vcpu, request, &mapping).map(|kinds| Undone { mapping, kinds });
        if let Ok(Undone { kinds, .. }) = undone {
            let host = if kinds.host { GNTMAP_HOST_MAP } else { 0 };
            let device = if kinds.device { GNTMAP_DEVICE_MAP } else { 0 };
            mapping.flags &= !(host | device);
        }
        let mut maptrack = caller.grants.maptrack.lock();
        if mapping.flags & (GNTMAP_HOST_MAP | GNTMAP_DEVICE_MAP) == 0 {
            maptrack.free(request.handle);
        } else {
            maptrack.set(request.handle, mapping);
        }
        undone
    }

    /// Clears what the request names of a mapping; answers what that was.
    fn clear_mapping(
        &self,
        caller: &Domain<P>,
        vcpu: &Vcpu<P>,
        request: &UnmapRequest,
        mapping: &Mapping,
    ) -> Result<PinKinds, GrantError> {
        let stands = PinKinds::of_flags(mapping.flags);
        let device = stands.device && request.device_addr != 0;
        if device && request.device_addr != mapping.mfn.addr().0 {
            return Err(GrantError::BadDeviceAddress);
        }
        let host = stands.host && request.host_addr != 0;
        if host {
            let place = place_of(request.host_addr, mapping.flags);
            let replacement = self.replacement(caller, vcpu, request.new_addr, mapping.flags)?;
            let expected = (mapping.mfn, !stands.readonly);
            if let Err(error) = self.take_foreign_entry(caller, vcpu, place, expected, replacement) {
                self.drop_entry(caller, replacement);
                return Err(error.into());
            }
        }
        Ok(PinKinds { host, device, readonly: stands.readonly })
    }

    /// The entry to put in a mapping's place: that of `new_addr`, which is cleared, or none.
    fn replacement(
        &self,
        caller: &Domain<P>,
        vcpu: &Vcpu<P>,
        new_addr: u64,
        flags: u32,
    ) -> Result<u64, GrantError> {
        if new_addr == 0 {
            return Ok(0);
        }
        if flags & GNTMAP_CONTAINS_PTE != 0 {
            return Err(GrantError::General);
        }
        let place = EntryPlace::Linear(GuestVirt(new_addr));
        Ok(self.steal_entry(caller, vcpu, place)?)
    }

    /// Lets the TLBs forget the mappings of a batch and gives their references and pins back.
    pub fn finish_unmaps(&self, caller: &Domain<P>, batch: &mut UnmapBatch) {
        if batch.count == 0 {
            return;
        }
        self.forget_mappings(caller);
        for undone in batch.undone[..batch.count].iter().flatten() {
            self.give_back(caller, undone);
        }
        batch.count = 0;
    }

    /// The same for one mapping.
    pub fn finish_unmap(&self, caller: &Domain<P>, undone: &Undone) {
        self.forget_mappings(caller);
        self.give_back(caller, undone);
    }

    fn forget_mappings(&self, caller: &Domain<P>) {
        let mut cpus = caller.dirty_cpus.load();
        cpus.insert(self.platform.this_cpu());
        self.flush_tlb_all(&cpus);
    }

    #[inline(always)]
    pub(super) fn put_held(&self, mfn: Mfn, held: Held) {
        for _ in 0..held.references {
            self.put_granted(mfn, !held.writable);
        }
    }

    fn give_back(&self, caller: &Domain<P>, Undone { mapping, kinds }: &Undone) {
        let references = u32::from(kinds.host) + u32::from(kinds.device);
        self.unpin_mapping(caller, mapping, *kinds, Held { references, writable: !kinds.readonly });
    }

    /// Takes the pins of a mapping away together with what it holds of the frame.
    #[inline(always)]
    fn unpin_mapping(&self, user: &Domain<P>, mapping: &Mapping, kinds: PinKinds, held: Held) {
        let Mapping { granter, reference, mfn, .. } = *mapping;
        if granter == user.id {
            return self.unpin(user, reference, user.id, mfn, kinds, held);
        }
        match self.domains.get(granter) {
            Some(granter) => self.unpin(&granter, reference, user.id, mfn, kinds, held),
            // A granter that is not found is being torn down, and does not look at its pins any more.
            None => self.put_held(mfn, held),
        }
    }

    /// Gives up all mappings of a domain in teardown. The references of its host mappings go with its page tables.
    pub fn release_grant_mappings(&self, domain: &Domain<P>) -> Progress {
        loop {
            let last = domain.grants.maptrack.lock().take_last();
            let Some((handle, mapping)) = last else { return Progress::Finished };
            if let Some(mapping) = mapping {
                let kinds = PinKinds::of_flags(mapping.flags);
                let held = Held { references: kinds.device.into(), writable: !kinds.readonly };
                self.unpin_mapping(domain, &mapping, kinds, held);
            }
            if handle % PREEMPTION_STEP == 0 && self.platform.work_pending() {
                return Progress::Preempted;
            }
        }
    }
}
