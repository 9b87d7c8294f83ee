//! The mappings that a domain has: a handle names one until it is undone.

use super::GrantError;
use crate::ids::{DomId, GrantRef, Mfn};
use alloc::vec::Vec;

/// Handles per page of Xen's format, in which the limit is given.
const PER_FRAME: u32 = 512;

/// A mapping that a domain made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    /// The domain that granted the page.
    pub granter: DomId,
    /// Its reference.
    pub reference: GrantRef,
    /// The page.
    pub mfn: Mfn,
    /// `GNTMAP_*`: what of it still stands, and how it was made.
    pub flags: u32,
}

/// What a handle is.
#[derive(Clone, Copy, Debug)]
enum Slot {
    /// Free; the next free handle.
    Free(Option<u32>),
    /// Being mapped or unmapped by some CPU.
    Busy,
    /// A mapping.
    Used(Mapping),
}

/// All handles of a domain.
pub(super) struct Maptrack {
    slots: Vec<Slot>,
    first_free: Option<u32>,
    used: usize,
    limit: u32,
}

impl Maptrack {
    pub const fn new(max_frames: u32) -> Self {
        Self { slots: Vec::new(), first_free: None, used: 0, limit: max_frames.saturating_mul(PER_FRAME) }
    }

    /// Handles in use.
    pub fn len(&self) -> usize {
        self.used
    }

    /// One more than the highest handle there ever was.
    pub fn handles(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// Takes a free handle; it is busy until it is [set](Self::set) or [freed](Self::free). `has_room` says whether there is memory
    /// for more of them.
    #[inline(always)]
    pub fn allocate(&mut self, has_room: impl FnOnce() -> bool) -> Result<u32, GrantError> {
        let handle = match self.first_free {
            Some(handle) => handle,
            None => {
                let handle = u32::try_from(self.slots.len()).map_err(|_| GrantError::NoSpace)?;
                let full = self.slots.len() == self.slots.capacity();
                if handle >= self.limit || full && (!has_room() || self.slots.try_reserve(1).is_err()) {
                    return Err(GrantError::NoSpace);
                }
                self.slots.push(Slot::Free(None));
                handle
            }
        };
        let slot = &mut self.slots[handle as usize];
        if let Slot::Free(next) = *slot {
            self.first_free = next;
        }
        *slot = Slot::Busy;
        self.used += 1;
        Ok(handle)
    }

    /// Enters a mapping under a busy handle.
    pub fn set(&mut self, handle: u32, mapping: Mapping) {
        if let Some(slot) = self.slots.get_mut(handle as usize) {
            *slot = Slot::Used(mapping);
        }
    }

    /// Takes a mapping to undo it: nobody else can until the handle is set again or freed.
    pub fn take(&mut self, handle: u32) -> Result<Mapping, GrantError> {
        match self.slots.get_mut(handle as usize) {
            Some(slot) => match *slot {
                Slot::Used(mapping) => {
                    *slot = Slot::Busy;
                    Ok(mapping)
                }
                _ => Err(GrantError::BadHandle),
            },
            None => Err(GrantError::BadHandle),
        }
    }

    /// Gives a busy handle back.
    pub fn free(&mut self, handle: u32) {
        if let Some(slot) = self.slots.get_mut(handle as usize) {
            *slot = Slot::Free(self.first_free);
            self.first_free = Some(handle);
            self.used -= 1;
        }
    }
}
