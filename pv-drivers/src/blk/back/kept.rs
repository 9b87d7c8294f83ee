//! Pages of the front end that stay mapped (`feature-persistent`).
//!
//! A front end that keeps its grants for good uses the same pages again and again. The first request that names one has
//! it mapped, and data moves between it and the own memory without the hypervisor from then on. What cannot be mapped,
//! and what there is no room for, the hypervisor copies as if nothing had been agreed on: the front end sees that such a page is not
//! in use once its request is answered, as it may be.
//!
//! A page stays mapped until the connection ends. The front end may write to it at any time, as to the rings.

use alloc::vec::Vec;

use super::pool::Batch;
use crate::transport::{Access, Copy, CopyEnd, Transport, words};

/// The mapped pages.
pub struct Kept<T: Transport> {
    /// Sorted by reference; there is room for as many as there may be.
    pages: Vec<(u32, T::Mapped)>,
    /// The most of them.
    room: usize,
}

impl<T: Transport> Kept<T> {
    /// None yet, and never more than `room`; none at all where there is no memory to note them.
    pub fn new(room: usize) -> Self {
        let mut pages = Vec::new();
        let room = if pages.try_reserve_exact(room).is_ok() { room } else { 0 };
        Self { pages, room }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Takes those pieces out of the batch whose page is mapped or can be, after their bytes were moved.
    pub fn copy(&mut self, transport: &T, own: &T::Memory, batch: &mut Batch) {
        let mut left = 0;
        for at in 0..batch.pieces.len() {
            if self.moved(transport, own, &batch.pieces[at]) {
                continue;
            }
            batch.pieces.swap(left, at);
            batch.slots.swap(left, at);
            left += 1;
        }
        batch.pieces.truncate(left);
        batch.slots.truncate(left);
    }

    /// Whether the piece is done.
    fn moved(&mut self, transport: &T, own: &T::Memory, piece: &Copy) -> bool {
        let (CopyEnd::Peer { domain, reference, offset }, CopyEnd::Own { offset: ours }, to_peer) =
            (match (piece.source, piece.target) {
                (peer, own @ CopyEnd::Own { .. }) => (peer, own, false),
                (own, peer) => (peer, own, true),
            })
        else {
            return false;
        };
        let at = match self.pages.binary_search_by_key(&reference.0, |(known, _)| *known) {
            Ok(at) => at,
            Err(_) if self.pages.len() >= self.room => return false,
            Err(at) => {
                let Ok(page) = transport.map(domain, &[reference], Access::ReadWrite) else { return false };
                self.pages.insert(at, (reference.0, page));
                at
            }
        };
        let page = &self.pages[at].1;
        let (theirs, length) = (usize::from(offset), usize::from(piece.length));
        if to_peer {
            words::transfer(own, ours, page, theirs, length);
        } else {
            words::transfer(page, theirs, own, ours, length);
        }
        true
    }
}
