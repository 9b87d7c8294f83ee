//! The end that uses the disk.
//!
//! [`Front::submit`] puts a request into a ring, [`Front::poll`] shows what was put there to the back end, all at once, and
//! collects answers, which [`Front::completed`] hands out. Nothing is copied: a request carries its pages, which
//! are the back end's to touch until the answer is there, and come back with it.
//!
//! What the back end says is believed as far as this: an answer to a request that nobody made, and an index that cannot
//! be, close the device. What it writes into the pages of a read is the disk's contents, true or not.

mod queue;

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use xen_abi::io::blkif::{BLKIF_MAX_SEGMENTS_PER_REQUEST, VDISK_READONLY, keys};
use xen_abi::io::protocols::XEN_IO_PROTO_ABI_X86_64;

use self::queue::Queue;
use super::{Geometry, Operation, SECTOR};
use crate::transport::{self, Access, PAGE_SIZE, Transport};
use crate::xenbus::{Device, End, Error, Nodes, Role};

/// What a front end uses, where the back end has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// log2 of the pages of a ring.
    pub ring_page_order: u32,
    /// The most rings.
    pub queues: u16,
    /// The most segments of a request, at most 512.
    pub max_segments: usize,
    /// Whether grants are kept for good (`feature-persistent`): a back end that maps pages saves mapping them again. Every
    /// request's data must be [`Data::Granted`] then.
    pub persistent: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { ring_page_order: 0, queues: 1, max_segments: 32, persistent: false }
    }
}

/// The memory of a request.
pub enum Data<T: Transport> {
    /// None: of a flush or a discard.
    None,
    /// Pages that are the back end's for the time of the request, all of them, and plain memory again afterwards.
    Buffer(T::Buffer),
    /// Pages that the back end may touch at any time: [`Front::lend`] makes them. They cost nothing for each request.
    Granted(T::Granted),
}

impl<T: Transport> fmt::Debug for Data<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::None => "None",
            Self::Buffer(_) => "Buffer",
            Self::Granted(_) => "Granted",
        };
        write!(f, "{kind}({} bytes)", self.len())
    }
}

impl<T: Transport> Data<T> {
    /// Bytes.
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Buffer(buffer) => buffer.as_ref().len(),
            Self::Granted(granted) => granted.len() * 4,
        }
    }
}

/// What the disk shall do.
#[derive(Debug)]
pub struct Request<T: Transport> {
    /// Comes back with the answer; means nothing here.
    pub tag: u64,
    /// What to do.
    pub operation: Operation,
    /// The first sector.
    pub sector: u64,
    /// How many sectors.
    pub sectors: u64,
    /// From where or to where.
    pub data: Data<T>,
    /// The first byte of the data within it, a multiple of [`SECTOR`].
    pub offset: usize,
}

/// A request that is over.
#[derive(Debug)]
pub struct Completion<T: Transport> {
    /// The request's.
    pub tag: u64,
    /// The request's.
    pub operation: Operation,
    /// Whether it was done.
    pub result: Result<(), Failure>,
    /// The request's memory; [`Data::None`] where the back end does not let go of it ([`Failure::Held`]).
    pub data: Data<T>,
}

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The disk failed, or the back end refused.
    Failed,
    /// The back end does not know the operation.
    Unsupported,
    /// The connection ended before an answer came. Whether it was done is not known.
    Disconnected,
    /// The back end answered, and still uses the pages. The connection ends with that.
    Held,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// There is no connection.
    NotConnected,
    /// Every slot of the rings is in use: try again after an answer.
    Full,
    /// The disk does not do this.
    Unsupported,
    /// The sectors are not all on the disk or not whole blocks of it, or the data does not hold them.
    OutOfRange,
    /// More sectors than [`Front::max_sectors`].
    TooLong,
    /// With [`Options::persistent`] only [`Data::Granted`] can be used.
    NotGranted,
    /// The own domain cannot lend the pages.
    Transport(transport::Error),
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotConnected => "the disk is not connected",
            Self::Full => "the disk's rings are full",
            Self::Unsupported => "the disk does not know the operation",
            Self::OutOfRange => "the sectors do not lie on the disk, or not in the memory",
            Self::TooLong => "the request is too long",
            Self::NotGranted => "the pages are not granted for good",
            Self::Transport(error) => return error.fmt(f),
        })
    }
}

impl core::error::Error for SubmitError {}

/// A front end.
pub struct Front<T: Transport> {
    device: Device<T, Driver<T>>,
}

impl<T: Transport> Front<T> {
    /// A front end of the disk that `end` describes.
    #[must_use]
    pub fn new(end: End<T>, options: Options) -> Self {
        let driver = Driver {
            options,
            queues: Vec::new(),
            next: 0,
            geometry: None,
            max_segments: BLKIF_MAX_SEGMENTS_PER_REQUEST,
            is_persistent: false,
            completed: VecDeque::new(),
        };
        Self { device: Device::new(end, driver) }
    }

    /// Takes part in the connection, shows what was submitted to the back end and collects answers; true where
    /// something happened. After false, there is nothing until an event or a watch tells.
    pub fn poll(&mut self) -> bool {
        let mut progress = self.device.poll();
        if !self.device.is_connected() {
            return progress;
        }
        let (driver, end) = self.device.parts();
        match driver.exchange(end.transport()) {
            Ok(more) => progress |= more,
            Err(error) => {
                self.device.fail(&error);
                progress = true;
            }
        }
        progress
    }

    /// Puts a request into a ring. The back end sees it after the next [`poll`](Self::poll).
    ///
    /// # Errors
    ///
    /// Why not, and the request.
    pub fn submit(&mut self, request: Request<T>) -> Result<(), (SubmitError, Request<T>)> {
        if !self.device.is_connected() {
            return Err((SubmitError::NotConnected, request));
        }
        let (driver, end) = self.device.parts();
        match driver.check(&request) {
            Ok(()) => driver.submit(end, request),
            Err(error) => Err((error, request)),
        }
    }

    /// The next request that is over.
    pub fn completed(&mut self) -> Option<Completion<T>> {
        self.device.driver_mut().completed.pop_front()
    }

    /// Lends pages to the back end for good, for requests with [`Data::Granted`].
    ///
    /// # Errors
    ///
    /// The transport's, with the buffer.
    pub fn lend(&self, buffer: T::Buffer) -> Result<T::Granted, (transport::Error, T::Buffer)> {
        let end = self.device.end();
        end.transport().lend(buffer, end.peer(), Access::ReadWrite)
    }

    /// What the disk is like; none before it was connected.
    #[must_use]
    pub fn geometry(&self) -> Option<Geometry> {
        self.device.driver().geometry
    }

    /// The most sectors of a request whose data begins at a page.
    #[must_use]
    pub fn max_sectors(&self) -> u64 {
        (self.device.driver().max_segments * PAGE_SIZE / SECTOR) as u64
    }

    /// Requests that can be submitted now.
    #[must_use]
    pub fn free(&self) -> usize {
        self.device.driver().queues.iter().map(Queue::free).sum()
    }

    /// Rings in use.
    #[must_use]
    pub fn queues(&self) -> usize {
        self.device.driver().queues.len()
    }

    /// Whether grants are kept for good: both ends agreed on it.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        self.device.driver().is_persistent
    }

    /// Whether the disk can be used.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.device.is_connected()
    }

    /// Whether it has closed and nothing is shared.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.device.is_closed()
    }

    /// The end, for its states.
    #[must_use]
    pub fn end(&self) -> &End<T> {
        self.device.end()
    }

    /// Ends the connection. Requests under way are over when the back end has left.
    pub fn close(&mut self) {
        self.device.close();
    }

    /// Connects again after [`close`](Self::close).
    pub fn reopen(&mut self) {
        self.device.reopen();
    }

    /// Begins anew after the domain was restored, as [`Device::resume`] does. Requests that were under way are over
    /// ([`Failure::Disconnected`]) and can be made again when the disk is connected; what was [lent](Self::lend) for good
    /// must be lent again.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn resume(&mut self) -> Result<(), Error> {
        self.device.resume()
    }
}

impl<T: Transport> fmt::Debug for Front<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front").field("end", self.device.end()).finish_non_exhaustive()
    }
}

/// What xenbus drives.
struct Driver<T: Transport> {
    options: Options,
    queues: Vec<Queue<T>>,
    /// The ring that the next request goes to, if it has room.
    next: usize,
    geometry: Option<Geometry>,
    max_segments: usize,
    is_persistent: bool,
    completed: VecDeque<Completion<T>>,
}

impl<T: Transport> Driver<T> {
    /// Whether the disk can do it at all.
    fn check(&self, request: &Request<T>) -> Result<(), SubmitError> {
        let Some(geometry) = self.geometry else { return Err(SubmitError::NotConnected) };
        let known = match request.operation {
            Operation::Read => true,
            Operation::Write => !geometry.read_only,
            Operation::Flush => geometry.flush,
            Operation::Discard => geometry.discard,
        };
        if !known {
            return Err(SubmitError::Unsupported);
        }
        if request.operation == Operation::Flush {
            return Ok(());
        }
        let blocks = u64::from(geometry.block_size) / SECTOR as u64;
        let end = request.sector.checked_add(request.sectors).filter(|end| *end <= geometry.sectors);
        let is_whole = request.sector.is_multiple_of(blocks) && request.sectors.is_multiple_of(blocks);
        if end.is_none() || !is_whole || request.sectors == 0 {
            return Err(SubmitError::OutOfRange);
        }
        if request.operation == Operation::Discard {
            return Ok(());
        }
        if matches!((&request.data, self.is_persistent), (Data::Buffer(_), true)) {
            return Err(SubmitError::NotGranted);
        }
        // A request that long is refused below, whatever its data.
        let bytes = usize::try_from(request.sectors).unwrap_or(usize::MAX).saturating_mul(SECTOR);
        if bytes > self.max_segments * PAGE_SIZE {
            return Err(SubmitError::TooLong);
        }
        let fits = request.offset.checked_add(bytes).is_some_and(|end| end <= request.data.len());
        if !fits || !request.offset.is_multiple_of(SECTOR) {
            return Err(SubmitError::OutOfRange);
        }
        let pages = (request.offset % PAGE_SIZE + bytes).div_ceil(PAGE_SIZE);
        if pages > self.max_segments { Err(SubmitError::TooLong) } else { Ok(()) }
    }

    fn submit(&mut self, end: &End<T>, request: Request<T>) -> Result<(), (SubmitError, Request<T>)> {
        let count = self.queues.len();
        for at in 0..count {
            let index = (self.next + at) % count;
            if self.queues[index].free() > 0 {
                self.next = if index + 1 < count { index + 1 } else { 0 };
                return self.queues[index].submit(end, request);
            }
        }
        Err((SubmitError::Full, request))
    }

    fn exchange(&mut self, transport: &T) -> Result<bool, Error> {
        let mut progress = false;
        for queue in &mut self.queues {
            progress |= queue.exchange(transport, &mut self.completed)?;
        }
        Ok(progress)
    }
}

impl<T: Transport> crate::xenbus::Driver<T> for Driver<T> {
    const ROLE: Role = Role::Front;

    fn publish(&mut self, end: &End<T>) -> Result<Nodes, Error> {
        let offered = |name, default| end.peers::<u32>(name).unwrap_or(default);
        let order = self.options.ring_page_order.min(offered(keys::MAX_RING_PAGE_ORDER, 0));
        let count = u32::from(self.options.queues).min(offered(keys::MULTI_QUEUE_MAX_QUEUES, 1)).max(1);
        let mut nodes = Nodes::new();
        nodes.set(keys::PROTOCOL, XEN_IO_PROTO_ABI_X86_64);
        nodes.set(keys::FEATURE_PERSISTENT, u8::from(self.options.persistent));
        if order > 0 {
            nodes.set(keys::RING_PAGE_ORDER, order);
        }
        if count > 1 {
            nodes.set(keys::MULTI_QUEUE_NUM_QUEUES, count);
        }
        self.queues.clear();
        for index in 0..count {
            let prefix = if count == 1 { String::new() } else { format!("queue-{index}/") };
            self.queues.push(Queue::new(end, order, &prefix, &mut nodes)?);
        }
        Ok(nodes)
    }

    fn connect(&mut self, end: &End<T>) -> Result<Nodes, Error> {
        let sectors = end.peers(keys::SECTORS).ok_or(Error::Peer("the size of the disk is missing"))?;
        let block_size: u32 = end.peers(keys::SECTOR_SIZE).unwrap_or(SECTOR as u32);
        let physical: Option<u32> = end.peers(keys::PHYSICAL_SECTOR_SIZE);
        let physical = physical.filter(|size| size.is_power_of_two() && *size >= block_size);
        if !block_size.is_power_of_two() || block_size < SECTOR as u32 {
            return Err(Error::Peer("the disk's sector size is none"));
        }
        self.geometry = Some(Geometry {
            sectors,
            block_size,
            physical_block_size: physical.unwrap_or(block_size),
            read_only: end.peers(keys::INFO).unwrap_or(0) & VDISK_READONLY != 0,
            flush: end.peer_has(keys::FEATURE_FLUSH_CACHE),
            discard: end.peer_has(keys::FEATURE_DISCARD),
        });
        let indirect = end.peers(keys::FEATURE_MAX_INDIRECT_SEGMENTS).unwrap_or(0usize);
        let wanted = self.options.max_segments.min(indirect);
        self.max_segments = wanted.clamp(BLKIF_MAX_SEGMENTS_PER_REQUEST, queue::DESCRIPTORS);
        self.is_persistent = self.options.persistent && end.peer_has(keys::FEATURE_PERSISTENT);
        Ok(Nodes::new())
    }

    fn disconnect(&mut self, end: &End<T>) {
        for queue in &mut self.queues {
            queue.abandon(end.transport(), &mut self.completed);
        }
        self.queues.clear();
    }
}
