//! The requests that a back end works on, of all of its rings, and the memory that their data passes through.
//!
//! A slot is taken when a request is popped and free again when it was answered. While the disk works on it, it stays
//! taken even if the front end leaves: its part of the staging memory is the disk's.

use alloc::vec::Vec;

use super::request::{Indirect, Segment};
use crate::blk::Operation;
use crate::transport::{Copy, CopyEnd, DomId, Error, PAGE_SIZE};

/// A request under way.
#[derive(Debug, Default)]
pub struct Slot {
    /// The ring that it came from; none: nobody waits for it any more.
    pub queue: Option<u16>,
    pub id: u64,
    /// As the front end spelled it, for the answer.
    pub wire_operation: u8,
    pub operation: Option<Operation>,
    pub sector: u64,
    pub sectors: u64,
    pub segments: Vec<Segment>,
    pub indirect: Option<Indirect>,
    /// What to answer.
    pub status: i16,
    /// Whether the disk works on it.
    pub is_pending: bool,
}

/// All slots.
#[derive(Debug, Default)]
pub struct Pool {
    slots: Vec<Slot>,
    free: Vec<u16>,
}

impl Pool {
    /// Has at least `count` slots from now on, each with room for so many segments.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn grow(&mut self, count: u16, segments: usize) -> Result<(), Error> {
        self.free.try_reserve(count.into()).map_err(|_| Error::NoMemory)?;
        self.slots.try_reserve(count.into()).map_err(|_| Error::NoMemory)?;
        for index in self.slots.len() as u16..count {
            let mut slot = Slot::default();
            slot.segments.try_reserve_exact(segments).map_err(|_| Error::NoMemory)?;
            self.slots.push(slot);
            self.free.push(index);
        }
        Ok(())
    }

    /// Takes a slot.
    pub fn take(&mut self) -> Option<u16> {
        self.free.pop()
    }

    /// Gives a slot back.
    pub fn put(&mut self, slot: u16) {
        self.free.push(slot);
    }

    pub fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// Segments that all slots together have room for.
    #[cfg(test)]
    pub fn segments_room(&self) -> usize {
        self.slots.iter().map(|slot| slot.segments.capacity()).sum()
    }

    /// What the disk works on.
    pub fn pending(&self) -> impl Iterator<Item = Operation> {
        self.slots.iter().filter(|slot| slot.is_pending).filter_map(|slot| slot.operation)
    }

    pub fn slot(&mut self, index: u16) -> &mut Slot {
        &mut self.slots[usize::from(index)]
    }

    /// Nobody waits any more for what is under way. What the disk does not work on is free.
    pub fn abandon(&mut self) {
        self.free.clear();
        for (index, slot) in (0..).zip(&mut self.slots) {
            slot.queue = None;
            if !slot.is_pending {
                self.free.push(index);
            }
        }
    }
}

/// The pieces of one round's copies, and the slot that each is for.
#[derive(Debug, Default)]
pub struct Batch {
    pub pieces: Vec<Copy>,
    pub slots: Vec<u16>,
}

impl Batch {
    /// Has room for so many pieces.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn reserve(&mut self, pieces: usize) -> Result<(), Error> {
        self.pieces.try_reserve(pieces).map_err(|_| Error::NoMemory)?;
        self.slots.try_reserve(pieces).map_err(|_| Error::NoMemory)
    }

    pub fn clear(&mut self) {
        self.pieces.clear();
        self.slots.clear();
    }

    /// Adds what a segment and `own..` have in common, page by page of the own memory.
    pub fn add(&mut self, slot: u16, peer: DomId, segment: Segment, own: usize, to_peer: bool) {
        let (mut offset, mut own, mut left) = (segment.offset, own, segment.length);
        while left > 0 {
            // At most a page, which a u16 holds.
            let length = left.min((PAGE_SIZE - own % PAGE_SIZE) as u16);
            let theirs = CopyEnd::Peer { domain: peer, reference: segment.reference, offset };
            let ours = CopyEnd::Own { offset: own };
            let (source, target) = if to_peer { (ours, theirs) } else { (theirs, ours) };
            self.pieces.push(Copy { source, target, length, result: Ok(()) });
            self.slots.push(slot);
            offset += length;
            own += usize::from(length);
            left -= length;
        }
    }
}
