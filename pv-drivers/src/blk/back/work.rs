//! One round: what the disk ended and what the rings hold, in one batch of copies.
//!
//! ```text
//! pop ─ indirect? copy the descriptors ─┬─ disk is memory: copy from or to it ────────────────────────┬─ answer
//!                                       ├─ read:  disk fills staging memory ─(now or later)─ copy ────┤
//!                                       └─ write: copy to staging memory ─ disk takes it ─(...)───────┘
//! ```
//!
//! Nothing is allocated for a request: slots, segments and pieces live in vectors that have room for all that may be under way
//! before the first request is taken. A back end without memory for that does not connect, and one that is connected does not end
//! for want of memory.
//!
//! A round is bounded: by the slots, each of which moves at most [`staging_bytes`], and for discards, which name any number
//! of sectors, by [`DISCARDED`]. A long discard goes on in the rounds that follow.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use xen_abi::io::blkif::{BLKIF_RSP_ERROR, BLKIF_RSP_OKAY, BlkifRequest, BlkifRequestSegment, BlkifResponse};
use zerocopy::{FromZeros, IntoBytes};

use super::kept::Kept;
use super::pool::{Batch, Pool, Slot};
use super::request::{DESCRIPTORS, Limits, Segment, answered_operation, parse, within};
use super::{Queue, staging_bytes};
use crate::blk::{BlockDevice, Failed, Job, Operation, Progress, SECTOR};
use crate::ring;
use crate::transport::{Copy, CopyEnd, DomId, Error, GrantRef, PAGE_SIZE, Port, Transport, words};

/// Sectors that are discarded in a round: 256 KiB, a multiple of every block size in use.
pub(super) const DISCARDED: u64 = 512;

/// A disk, and the requests to it.
pub struct Work<T: Transport, D> {
    disk: D,
    limits: Limits,
    requests: u16,
    queues: Vec<Queue<T>>,
    /// The ring that is looked at first in the next round.
    first: usize,
    pool: Pool,
    memory: Option<Memory<T>>,
    kept: Kept<T>,
    batch: Batch,
    /// Slots popped in this round.
    fresh: Vec<u16>,
    /// Slots whose writes go to the disk once they are copied.
    written: Vec<u16>,
    /// Slots whose discards are not done. Their `sector` and `sectors` are what is left.
    discards: VecDeque<u16>,
    /// Slots to be answered in this round.
    ready: Vec<u16>,
    /// What the disk ended.
    ended: Vec<(u16, Result<(), Failed>)>,
    answered: u64,
}

/// The own memory of a back end. It is made once, and stays: a disk may work on it after a front end has left.
struct Memory<T: Transport> {
    /// A page of descriptors for each slot; the only page, where there are no indirect requests.
    descriptors: T::Memory,
    /// The data of each slot; none where the disk is memory.
    staging: Option<T::Memory>,
}

impl<T: Transport> Memory<T> {
    /// What a disk works on. One that is memory is given no data.
    fn for_disk(&self) -> &T::Memory {
        self.staging.as_ref().unwrap_or(&self.descriptors)
    }
}

impl<T: Transport, D: BlockDevice<T>> Work<T, D> {
    pub fn new(disk: D, limits: Limits, requests: u16) -> Self {
        Self {
            disk,
            limits,
            requests,
            queues: Vec::new(),
            first: 0,
            pool: Pool::default(),
            memory: None,
            kept: Kept::new(0),
            batch: Batch::default(),
            fresh: Vec::new(),
            written: Vec::new(),
            discards: VecDeque::new(),
            ready: Vec::new(),
            ended: Vec::new(),
            answered: 0,
        }
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    pub fn disk(&self) -> &D {
        &self.disk
    }

    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    pub fn answered(&self) -> u64 {
        self.answered
    }

    pub fn mapped_pages(&self) -> usize {
        self.kept.len()
    }

    /// Serves these rings from now on, whose front end keeps so many grants for good.
    pub fn connect(
        &mut self,
        transport: &T,
        queues: Vec<Queue<T>>,
        persistent_grants: usize,
    ) -> Result<(), Error> {
        if self.memory.is_none() {
            self.reserve()?;
            let slots = usize::from(self.requests);
            let staged = self.disk.memory().is_none();
            self.memory = Some(Memory {
                descriptors: transport.memory(if self.limits.indirect > 0 { slots } else { 1 })?,
                staging: match staged {
                    true => Some(transport.memory(slots * staging_bytes(&self.limits) / PAGE_SIZE)?),
                    false => None,
                },
            });
        }
        self.queues = queues;
        self.kept = Kept::new(persistent_grants);
        Ok(())
    }

    /// Makes room for all that may be noted of requests.
    fn reserve(&mut self) -> Result<(), Error> {
        let (slots, segments) = (usize::from(self.requests), staging_bytes(&self.limits) / PAGE_SIZE);
        self.pool.grow(self.requests, segments)?;
        for list in [&mut self.fresh, &mut self.written, &mut self.ready] {
            list.try_reserve(slots).map_err(|_| Error::NoMemory)?;
        }
        self.discards.try_reserve(slots).map_err(|_| Error::NoMemory)?;
        self.ended.try_reserve(slots).map_err(|_| Error::NoMemory)?;
        // A segment lies in two pages of the own memory at most; the descriptors of each slot are a piece, too.
        self.batch.reserve(slots * (2 * segments + 1))
    }

    /// What [`reserve`](Self::reserve) made room for.
    #[cfg(test)]
    pub fn capacities(&self) -> [usize; 8] {
        let Self { fresh, written, ready, discards, ended, batch, pool, .. } = self;
        [
            fresh.capacity(),
            written.capacity(),
            ready.capacity(),
            discards.capacity(),
            ended.capacity(),
            batch.pieces.capacity(),
            batch.slots.capacity(),
            pool.segments_room(),
        ]
    }

    /// Leaves the rings. What the disk works on it may end.
    pub fn disconnect(&mut self) {
        self.queues.clear();
        self.kept = Kept::new(0);
        // A round that found a broken ring was left in the middle.
        self.fresh.clear();
        self.written.clear();
        self.discards.clear();
        self.ready.clear();
        self.pool.abandon();
    }

    /// Whether the disk works on nothing that changes its contents. What it reads for a connection that ended is of no
    /// consequence: it goes to memory of this domain, and no further.
    pub fn is_at_rest(&self) -> bool {
        self.pool.pending().all(|operation| operation == Operation::Read)
    }

    /// Without a connection: takes what the disk ended; whether there was something.
    pub fn reap(&mut self) -> bool {
        self.batch.clear();
        let any = self.collect(0);
        self.ready.clear();
        any
    }

    /// One round; whether there was something to do.
    pub fn round(&mut self, transport: &T, peer: DomId) -> Result<bool, ring::Error> {
        self.batch.clear();
        let ended = self.collect(peer);
        if !self.pop()? && !ended && self.discards.is_empty() {
            return self.sleep();
        }
        self.fetch(transport, peer);
        self.start(peer);
        self.discard(peer);
        self.copy(transport);
        self.store();
        self.answer()?;
        Ok(true)
    }

    /// Takes what the disk ended. Reads are to be copied then.
    fn collect(&mut self, peer: DomId) -> bool {
        let Some(memory) = &self.memory else { return false };
        let ended = &mut self.ended;
        self.disk.poll(memory.for_disk(), &mut |tag, result| ended.push((tag, result)));
        for at in 0..self.ended.len() {
            let (index, result) = self.ended[at];
            let slot = self.pool.slot(index);
            if !core::mem::take(&mut slot.is_pending) {
                continue;
            }
            if slot.queue.is_none() {
                self.pool.put(index);
            } else {
                self.end(index, result, peer);
            }
        }
        let any = !self.ended.is_empty();
        self.ended.clear();
        any
    }

    /// The disk did what it should.
    fn end(&mut self, index: u16, result: Result<(), Failed>, peer: DomId) {
        let staging = self.staging(index);
        let slot = self.pool.slot(index);
        match result {
            Err(Failed) => slot.status = BLKIF_RSP_ERROR,
            Ok(()) if slot.operation == Some(Operation::Discard) && slot.sectors > 0 => {
                self.discards.push_back(index);
                return;
            }
            Ok(()) if slot.operation == Some(Operation::Read) => {
                add_all(&mut self.batch, index, slot, peer, staging);
            }
            Ok(()) => {}
        }
        self.ready.push(index);
    }

    /// Where a slot's data is in the staging memory.
    fn staging(&self, index: u16) -> usize {
        usize::from(index) * staging_bytes(&self.limits)
    }

    /// Takes requests out of the rings, as many as there are slots; whether there was one.
    fn pop(&mut self) -> Result<bool, ring::Error> {
        let count = self.queues.len();
        self.first = if self.first + 1 < count { self.first + 1 } else { 0 };
        for at in 0..count {
            let index = (self.first + at) % count;
            let queue = &mut self.queues[index];
            // What the event told of is seen below, or in the round after this one.
            let _ = queue.port.take();
            while self.pool.has_free() {
                let Some(request) = queue.ring.pop()? else { break };
                let Some(taken) = self.pool.take() else { break };
                // As many queues as a u16 holds were offered at most.
                fill(self.pool.slot(taken), index as u16, &request, self.limits);
                self.fresh.push(taken);
            }
        }
        Ok(!self.fresh.is_empty())
    }

    /// Copies the descriptors of indirect requests, and checks them.
    fn fetch(&mut self, transport: &T, domain: DomId) {
        let Some(memory) = &self.memory else { return };
        // The data of reads that the disk ended is in the batch already, and is copied later.
        let first = self.batch.pieces.len();
        for &index in &self.fresh {
            let Some(indirect) = self.pool.slot(index).indirect else { continue };
            // No more descriptors than a page holds were offered.
            let source = CopyEnd::Peer { domain, reference: GrantRef(indirect.pages[0]), offset: 0 };
            let target = CopyEnd::Own { offset: usize::from(index) * PAGE_SIZE };
            let length = (indirect.segments.min(DESCRIPTORS) * size_of::<BlkifRequestSegment>()) as u16;
            self.batch.pieces.push(Copy { source, target, length, result: Ok(()) });
            self.batch.slots.push(index);
        }
        if first == self.batch.pieces.len() {
            return;
        }
        transport.copy(&memory.descriptors, &mut self.batch.pieces[first..]);
        for at in first..self.batch.pieces.len() {
            let slot = self.pool.slot(self.batch.slots[at]);
            slot.status = match self.batch.pieces[at].result {
                Ok(()) => describe(
                    slot,
                    &memory.descriptors,
                    usize::from(self.batch.slots[at]) * PAGE_SIZE,
                    self.limits,
                ),
                Err(_) => BLKIF_RSP_ERROR,
            };
        }
        self.batch.pieces.truncate(first);
        self.batch.slots.truncate(first);
    }

    /// Begins what was popped.
    fn start(&mut self, peer: DomId) {
        let is_memory = self.disk.memory().is_some();
        for at in 0..self.fresh.len() {
            let index = self.fresh[at];
            let staging = self.staging(index);
            let slot = self.pool.slot(index);
            match slot.operation {
                _ if slot.status != BLKIF_RSP_OKAY => self.ready.push(index),
                Some(Operation::Read | Operation::Write) if is_memory => {
                    // The range was checked against the disk, which lies in memory as a whole.
                    let own = slot.sector as usize * SECTOR;
                    add_all(&mut self.batch, index, slot, peer, own);
                    self.ready.push(index);
                }
                Some(Operation::Write) => {
                    add_all(&mut self.batch, index, slot, peer, staging);
                    self.written.push(index);
                }
                Some(Operation::Discard) => self.discards.push_back(index),
                _ => self.submit(index, peer),
            }
        }
        self.fresh.clear();
    }

    /// Goes on with discards, as far as a round may.
    fn discard(&mut self, peer: DomId) {
        let mut left = DISCARDED;
        while left > 0
            && let Some(index) = self.discards.pop_front()
        {
            let slot = self.pool.slot(index);
            let (sector, count) = (slot.sector, slot.sectors.min(left));
            (slot.sector, slot.sectors) = (sector + count, slot.sectors - count);
            // One of no sectors is work, too.
            left -= count.max(1);
            self.begin(index, sector, count, peer);
        }
    }

    /// Gives a slot's job to the disk.
    fn submit(&mut self, index: u16, peer: DomId) {
        let slot = self.pool.slot(index);
        let (sector, sectors) = (slot.sector, slot.sectors);
        self.begin(index, sector, sectors, peer);
    }

    /// Gives a slot's job, or a part of it, to the disk.
    fn begin(&mut self, index: u16, sector: u64, sectors: u64, peer: DomId) {
        let offset = self.staging(index);
        let slot = self.pool.slot(index);
        let (Some(memory), Some(operation)) = (&self.memory, slot.operation) else { return };
        let job = Job { tag: index, operation, sector, sectors, offset };
        match self.disk.submit(job, memory.for_disk()) {
            Ok(Progress::Pending) => slot.is_pending = true,
            Ok(Progress::Done) => self.end(index, Ok(()), peer),
            Err(failed) => self.end(index, Err(failed), peer),
        }
    }

    /// Copies the data of this round.
    fn copy(&mut self, transport: &T) {
        let Some(memory) = &self.memory else { return };
        if self.batch.pieces.is_empty() {
            return;
        }
        let own = self.disk.memory().unwrap_or_else(|| memory.for_disk());
        self.kept.copy(transport, own, &mut self.batch);
        transport.copy(own, &mut self.batch.pieces);
        for (piece, &index) in self.batch.pieces.iter().zip(&self.batch.slots) {
            if piece.result.is_err() {
                self.pool.slot(index).status = BLKIF_RSP_ERROR;
            }
        }
    }

    /// Gives the disk what was copied for it.
    fn store(&mut self) {
        for at in 0..self.written.len() {
            let index = self.written[at];
            if self.pool.slot(index).status == BLKIF_RSP_OKAY {
                // A write adds no pieces, wherever it is from.
                self.submit(index, 0);
            } else {
                self.ready.push(index);
            }
        }
        self.written.clear();
    }

    /// Answers what is ready.
    fn answer(&mut self) -> Result<(), ring::Error> {
        for &index in &self.ready {
            let slot = self.pool.slot(index);
            let mut response = BlkifResponse::new_zeroed();
            (response.id, response.operation, response.status) = (slot.id, slot.wire_operation, slot.status);
            let queue = slot.queue.take();
            if let Some(queue) = queue.and_then(|queue| self.queues.get_mut(usize::from(queue))) {
                queue.ring.push(&response)?;
            }
            self.pool.put(index);
        }
        self.answered += self.ready.len() as u64;
        self.ready.clear();
        for queue in &mut self.queues {
            if queue.ring.publish() {
                queue.port.notify();
            }
        }
        Ok(())
    }

    /// Asks for an event; true where there is something to do already.
    fn sleep(&mut self) -> Result<bool, ring::Error> {
        // Without a free slot, the disk is what is waited for.
        if !self.pool.has_free() {
            return Ok(false);
        }
        let mut more = false;
        for queue in &mut self.queues {
            more |= queue.ring.finish()?;
        }
        Ok(more)
    }
}

/// Fills a slot with what a request says; where that is nothing, with the status to answer.
fn fill(slot: &mut Slot, queue: u16, request: &BlkifRequest, limits: Limits) {
    slot.queue = Some(queue);
    slot.id = request.id;
    slot.wire_operation = answered_operation(request);
    (slot.operation, slot.indirect, slot.status) = (None, None, BLKIF_RSP_OKAY);
    match parse(request, limits, &mut slot.segments) {
        Ok(parsed) => {
            slot.operation = Some(parsed.operation);
            slot.indirect = parsed.indirect;
            (slot.sector, slot.sectors) = (parsed.sector, parsed.sectors);
            if slot.indirect.is_none() && matches!(parsed.operation, Operation::Read | Operation::Write) {
                slot.status = measure(slot, limits);
            }
        }
        Err(status) => slot.status = status,
    }
}

/// Counts the sectors of a slot's segments and checks that the disk has them; the status.
fn measure(slot: &mut Slot, limits: Limits) -> i16 {
    slot.sectors = slot.segments.iter().map(|segment| u64::from(segment.length) / SECTOR as u64).sum();
    match slot.operation.map(|operation| within(slot.sector, slot.sectors, operation, limits)) {
        Some(Ok(())) => BLKIF_RSP_OKAY,
        _ => BLKIF_RSP_ERROR,
    }
}

/// Reads the descriptors of a slot's segments, which were copied to `offset`; the status.
fn describe(
    slot: &mut Slot,
    descriptors: &[core::sync::atomic::AtomicU32],
    offset: usize,
    limits: Limits,
) -> i16 {
    let count = slot.indirect.map_or(0, |indirect| indirect.segments.min(DESCRIPTORS));
    for at in 0..count {
        let mut wire = BlkifRequestSegment::new_zeroed();
        words::load(descriptors, offset + at * size_of::<BlkifRequestSegment>(), wire.as_mut_bytes());
        match Segment::new(&wire) {
            Ok(segment) => slot.segments.push(segment),
            Err(status) => return status,
        }
    }
    measure(slot, limits)
}

/// Adds the pieces of all segments of a slot, whose own side begins at `own`.
fn add_all(batch: &mut Batch, index: u16, slot: &Slot, peer: DomId, mut own: usize) {
    let to_peer = slot.operation == Some(Operation::Read);
    for &segment in &slot.segments {
        batch.add(index, peer, segment, own, to_peer);
        own += usize::from(segment.length);
    }
}
