//! A ring, and the requests that are in it.
//!
//! A request's `id` is the number of its slot here: an answer is looked up, not searched for.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec::Vec;
use core::mem;

use xen_abi::io::blkif::{
    BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_OP_DISCARD, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_INDIRECT,
    BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_OKAY, BlkifRequest, BlkifRequestDiscard,
    BlkifRequestIndirect, BlkifRequestSegment, BlkifResponse, BlkifRing, keys,
};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::{Completion, Data, Failure, Request, SubmitError};
use crate::blk::{Operation, SECTOR};
use crate::ring;
use crate::transport::{self, Access, Granted, PAGE_SIZE, Port, Transport, words};
use crate::xenbus::{End, Error, Nodes};

/// Descriptors of segments in a page.
pub const DESCRIPTORS: usize = PAGE_SIZE / size_of::<BlkifRequestSegment>();

/// What is kept of a request while it is under way.
struct Slot<T: Transport> {
    /// None: the slot is free.
    operation: Option<Operation>,
    tag: u64,
    held: Held<T>,
    /// A page for the descriptors of an indirect request; made for the first one, and kept.
    descriptors: Option<T::Granted>,
}

/// The memory of a request under way.
enum Held<T: Transport> {
    None,
    /// Lent for this request.
    Lent(T::Granted),
    /// Granted for good.
    Granted(T::Granted),
}

impl<T: Transport> Held<T> {
    fn granted(&self) -> Option<&T::Granted> {
        match self {
            Self::None => None,
            Self::Lent(granted) | Self::Granted(granted) => Some(granted),
        }
    }

    /// The memory as the caller gave it; none where the back end uses it still.
    fn give_back(self, transport: &T) -> Option<Data<T>> {
        Some(match self {
            Self::None => Data::None,
            Self::Granted(granted) => Data::Granted(granted),
            Self::Lent(granted) => Data::Buffer(transport.take_back(granted).ok()?),
        })
    }
}

/// A ring.
pub struct Queue<T: Transport> {
    ring: ring::Front<BlkifRing, T::Granted>,
    port: T::Port,
    slots: Vec<Slot<T>>,
    free: Vec<u16>,
    /// Whether there are requests that the back end was not shown.
    is_dirty: bool,
}

impl<T: Transport> Queue<T> {
    /// Makes a ring of `2^order` pages, and says in `nodes` where it is.
    pub fn new(end: &End<T>, order: u32, prefix: &str, nodes: &mut Nodes) -> Result<Self, Error> {
        let transport = end.transport();
        let buffer = transport.buffer(1 << order)?;
        let memory = transport.lend(buffer, end.peer(), Access::ReadWrite).map_err(|(error, _)| error)?;
        for (page, reference) in memory.refs().iter().enumerate() {
            let name =
                if order == 0 { format!("{prefix}ring-ref") } else { format!("{prefix}ring-ref{page}") };
            nodes.set(name, reference.0);
        }
        let port = transport.listen(end.peer())?;
        nodes.set(format!("{prefix}{}", keys::EVENT_CHANNEL), port.number());
        let ring = ring::Front::new(memory).map_err(|_| Error::Transport(transport::Error::OutOfRange))?;
        let count = u16::try_from(ring.slots()).unwrap_or(u16::MAX);
        let slot = || Slot { operation: None, tag: 0, held: Held::None, descriptors: None };
        let slots = (0..count).map(|_| slot()).collect();
        Ok(Self { ring, port, slots, free: (0..count).rev().collect(), is_dirty: false })
    }

    /// Slots that are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Puts a request into the ring, which has room for it and whose back end can do it.
    pub fn submit(&mut self, end: &End<T>, request: Request<T>) -> Result<(), (SubmitError, Request<T>)> {
        let Some(index) = self.free.pop() else { return Err((SubmitError::Full, request)) };
        let Request { tag, operation, sector, sectors, data, offset } = request;
        let refuse = |error, data| (error, Request { tag, operation, sector, sectors, data, offset });
        let access = if operation == Operation::Read { Access::ReadWrite } else { Access::ReadOnly };
        let held = match data {
            Data::None => Held::None,
            Data::Granted(granted) => Held::Granted(granted),
            Data::Buffer(buffer) => match end.transport().lend(buffer, end.peer(), access) {
                Ok(granted) => Held::Lent(granted),
                Err((error, buffer)) => {
                    self.free.push(index);
                    return Err(refuse(SubmitError::Transport(error), Data::Buffer(buffer)));
                }
            },
        };
        let slot = &mut self.slots[usize::from(index)];
        (slot.operation, slot.tag, slot.held) = (Some(operation), tag, held);
        let pushed = match operation {
            Operation::Read | Operation::Write => self.transfer(end, index, sector, sectors, offset),
            Operation::Flush => self.flush(index),
            Operation::Discard => self.discard(index, sector, sectors),
        };
        let Err(error) = pushed else {
            self.is_dirty = true;
            return Ok(());
        };
        let slot = &mut self.slots[usize::from(index)];
        slot.operation = None;
        let held = mem::replace(&mut slot.held, Held::None);
        self.free.push(index);
        // The back end was not told of the pages, yet references can be guessed: then they are lost.
        let data = held.give_back(end.transport()).unwrap_or(Data::None);
        Err(refuse(error, data))
    }

    fn push(&mut self, request: &BlkifRequest) -> Result<(), SubmitError> {
        self.ring.push(request).map_err(|_| SubmitError::Full)
    }

    /// A form of the request that is shorter than the slot.
    fn push_form(&mut self, form: &(impl IntoBytes + Immutable)) -> Result<(), SubmitError> {
        let mut request = BlkifRequest::new_zeroed();
        let bytes = form.as_bytes();
        request.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
        self.push(&request)
    }

    fn flush(&mut self, index: u16) -> Result<(), SubmitError> {
        let mut request = BlkifRequest::new_zeroed();
        (request.operation, request.id) = (BLKIF_OP_FLUSH_DISKCACHE, u64::from(index));
        self.push(&request)
    }

    fn discard(&mut self, index: u16, sector: u64, sectors: u64) -> Result<(), SubmitError> {
        let mut request = BlkifRequestDiscard::new_zeroed();
        (request.operation, request.id) = (BLKIF_OP_DISCARD, u64::from(index));
        (request.sector_number, request.nr_sectors) = (sector, sectors);
        self.push_form(&request)
    }

    /// A read or a write.
    fn transfer(
        &mut self,
        end: &End<T>,
        index: u16,
        sector: u64,
        sectors: u64,
        offset: usize,
    ) -> Result<(), SubmitError> {
        let slot = &mut self.slots[usize::from(index)];
        let operation = if slot.operation == Some(Operation::Read) { BLKIF_OP_READ } else { BLKIF_OP_WRITE };
        let Some(granted) = slot.held.granted() else { return Err(SubmitError::OutOfRange) };
        // Checked by the caller to lie in the memory.
        let segments = Segments { refs: granted.refs(), offset, left: sectors as usize * SECTOR };
        let count = (offset % PAGE_SIZE + segments.left).div_ceil(PAGE_SIZE);
        if count <= BLKIF_MAX_SEGMENTS_PER_REQUEST {
            let mut request = BlkifRequest::new_zeroed();
            // At most 11.
            (request.operation, request.nr_segments) = (operation, count as u8);
            (request.id, request.sector_number) = (u64::from(index), sector);
            for (wire, segment) in request.seg.iter_mut().zip(segments) {
                *wire = segment;
            }
            return self.push(&request);
        }
        if slot.descriptors.is_none() {
            let lend = |buffer| end.transport().lend(buffer, end.peer(), Access::ReadOnly);
            let page = end.transport().buffer(1).and_then(|buffer| lend(buffer).map_err(|(error, _)| error));
            slot.descriptors = Some(page.map_err(SubmitError::Transport)?);
        }
        let Some(page) = &slot.descriptors else { return Err(SubmitError::Full) };
        for (at, segment) in segments.enumerate() {
            words::store(page, at * size_of::<BlkifRequestSegment>(), segment.as_bytes());
        }
        let mut request = BlkifRequestIndirect::new_zeroed();
        (request.operation, request.indirect_op) = (BLKIF_OP_INDIRECT, operation);
        // At most `DESCRIPTORS`.
        (request.nr_segments, request.id, request.sector_number) = (count as u16, u64::from(index), sector);
        request.indirect_grefs[0] = page.refs().first().map_or(0, |reference| reference.0);
        self.push_form(&request)
    }

    /// Shows the back end what is new and takes its answers; whether there was one, or may be one already.
    pub fn exchange(
        &mut self,
        transport: &T,
        completed: &mut VecDeque<Completion<T>>,
    ) -> Result<bool, Error> {
        let corrupt = |_| Error::Peer("the ring holds an index that cannot be");
        if mem::take(&mut self.is_dirty) && self.ring.publish() {
            self.port.notify();
        }
        let _ = self.port.take();
        let mut any = false;
        while let Some(response) = self.ring.pop().map_err(corrupt)? {
            self.complete(transport, &response, completed)?;
            any = true;
        }
        Ok(any || self.ring.finish().map_err(corrupt)?)
    }

    fn complete(
        &mut self,
        transport: &T,
        response: &BlkifResponse,
        completed: &mut VecDeque<Completion<T>>,
    ) -> Result<(), Error> {
        let unasked = Error::Peer("the back end answered what nobody asked");
        let index = u16::try_from(response.id).map_err(|_| unasked)?;
        let slot = self.slots.get_mut(usize::from(index)).ok_or(unasked)?;
        let operation = slot.operation.take().ok_or(unasked)?;
        let result = match response.status {
            BLKIF_RSP_OKAY => Ok(()),
            BLKIF_RSP_EOPNOTSUPP => Err(Failure::Unsupported),
            _ => Err(Failure::Failed),
        };
        self.free.push(index);
        let held = mem::replace(&mut slot.held, Held::None);
        let done = completion(transport, slot.tag, operation, held, result);
        let is_held = done.result == Err(Failure::Held);
        completed.push_back(done);
        // One that goes on like this has all of this domain's memory in the end.
        if is_held { Err(Error::Peer("the back end keeps pages that it was done with")) } else { Ok(()) }
    }

    /// Ends what is under way without an answer.
    pub fn abandon(&mut self, transport: &T, completed: &mut VecDeque<Completion<T>>) {
        for slot in &mut self.slots {
            let Some(operation) = slot.operation.take() else { continue };
            let held = mem::replace(&mut slot.held, Held::None);
            completed.push_back(completion(transport, slot.tag, operation, held, Err(Failure::Disconnected)));
        }
    }
}

fn completion<T: Transport>(
    transport: &T,
    tag: u64,
    operation: Operation,
    held: Held<T>,
    result: Result<(), Failure>,
) -> Completion<T> {
    match held.give_back(transport) {
        Some(data) => Completion { tag, operation, result, data },
        None => Completion { tag, operation, result: Err(Failure::Held), data: Data::None },
    }
}

/// The descriptors of a piece of granted memory, page by page.
struct Segments<'a> {
    refs: &'a [transport::GrantRef],
    offset: usize,
    left: usize,
}

impl Iterator for Segments<'_> {
    type Item = BlkifRequestSegment;

    fn next(&mut self) -> Option<BlkifRequestSegment> {
        if self.left == 0 {
            return None;
        }
        let start = self.offset % PAGE_SIZE;
        let length = self.left.min(PAGE_SIZE - start);
        let mut segment = BlkifRequestSegment::new_zeroed();
        segment.gref = self.refs.get(self.offset / PAGE_SIZE)?.0;
        // Both are sectors within a page.
        segment.first_sect = (start / SECTOR) as u8;
        segment.last_sect = ((start + length) / SECTOR - 1) as u8;
        self.offset += length;
        self.left -= length;
        Some(segment)
    }
}
