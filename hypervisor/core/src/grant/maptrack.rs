//! The mappings that a domain has: a handle names one until it is undone.

use super::GrantError;
use crate::ids::{DomId, GrantRef, Mfn};
use crate::mem::frames_for;
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
    /// Handles that there are, [`PER_FRAME`] to a piece: a list in one piece would be copied, however long, when it grows.
    pieces: Vec<Vec<Slot>>,
    first_free: Option<u32>,
    used: usize,
    limit: u32,
}

impl Maptrack {
    pub const fn new(max_frames: u32) -> Self {
        Self { pieces: Vec::new(), first_free: None, used: 0, limit: max_frames.saturating_mul(PER_FRAME) }
    }

    /// Handles in use.
    pub fn len(&self) -> usize {
        self.used
    }

    /// One more than the highest handle there ever was.
    pub fn handles(&self) -> u32 {
        let last = self.pieces.last().map_or(0, |last| PER_FRAME as usize - last.len());
        u32::try_from(self.pieces.len() * PER_FRAME as usize - last).unwrap_or(u32::MAX)
    }

    #[inline(always)]
    fn slot(&mut self, handle: u32) -> Option<&mut Slot> {
        self.pieces.get_mut((handle / PER_FRAME) as usize)?.get_mut((handle % PER_FRAME) as usize)
    }

    /// A handle that there was not before.
    fn grow(&mut self, has_room: impl FnOnce(u64) -> bool) -> Option<u32> {
        let handle = self.handles();
        if handle >= self.limit {
            return None;
        }
        if handle.is_multiple_of(PER_FRAME) {
            let mut piece = Vec::new();
            if !has_room(frames_for(PER_FRAME as usize * size_of::<Slot>()))
                || self.pieces.try_reserve(1).is_err()
            {
                return None;
            }
            piece.try_reserve_exact(PER_FRAME as usize).ok()?;
            self.pieces.push(piece);
        }
        self.pieces.last_mut()?.push(Slot::Free(None));
        Some(handle)
    }

    /// Takes a free handle; it is busy until it is [set](Self::set) or [freed](Self::free). `has_room` says whether the heap
    /// may grow by so many frames.
    #[inline(always)]
    pub fn allocate(&mut self, has_room: impl FnOnce(u64) -> bool) -> Result<u32, GrantError> {
        let handle = match self.first_free {
            Some(handle) => handle,
            None => self.grow(has_room).ok_or(GrantError::NoSpace)?,
        };
        let slot = self.slot(handle).ok_or(GrantError::NoSpace)?;
        let next = match *slot {
            Slot::Free(next) => next,
            _ => None,
        };
        *slot = Slot::Busy;
        self.first_free = next;
        self.used += 1;
        Ok(handle)
    }

    /// Enters a mapping under a busy handle.
    #[inline(always)]
    pub fn set(&mut self, handle: u32, mapping: Mapping) {
        if let Some(slot) = self.slot(handle) {
            *slot = Slot::Used(mapping);
        }
    }

    /// Takes a mapping to undo it: nothing else can until the handle is set again or freed.
    #[inline(always)]
    pub fn take(&mut self, handle: u32) -> Result<Mapping, GrantError> {
        match self.slot(handle) {
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
    #[inline(always)]
    pub fn free(&mut self, handle: u32) {
        let first_free = self.first_free;
        if let Some(slot) = self.slot(handle) {
            *slot = Slot::Free(first_free);
            self.first_free = Some(handle);
            self.used -= 1;
        }
    }

    /// Whether one of the handles from `first` on and below `end` names a mapping of `mfn`.
    pub fn maps(&self, mfn: Mfn, first: u32, end: u32) -> bool {
        let (piece, from) = ((first / PER_FRAME) as usize, (first % PER_FRAME) as usize);
        let slots = self.pieces.iter().skip(piece).flatten().skip(from);
        slots
            .take((end - first) as usize)
            .any(|slot| matches!(slot, Slot::Used(mapping) if mapping.mfn == mfn))
    }

    /// All mappings.
    #[cfg(test)]
    pub fn mappings(&self) -> Vec<Mapping> {
        let used = |slot: &Slot| if let Slot::Used(mapping) = slot { Some(*mapping) } else { None };
        self.pieces.iter().flatten().filter_map(used).collect()
    }

    /// In teardown: takes the last handle out of the list, with its mapping if it has one. No handle is given out any more.
    pub fn take_last(&mut self) -> Option<(u32, Option<Mapping>)> {
        (self.first_free, self.limit) = (None, 0);
        while self.pieces.last().is_some_and(Vec::is_empty) {
            self.pieces.pop();
        }
        let slot = self.pieces.last_mut()?.pop()?;
        let mapping = match slot {
            Slot::Used(mapping) => Some(mapping),
            Slot::Free(_) | Slot::Busy => None,
        };
        self.used -= usize::from(mapping.is_some());
        Some((self.handles(), mapping))
    }
}
