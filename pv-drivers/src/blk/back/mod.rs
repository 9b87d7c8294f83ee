//! The end that has the disk.
//!
//! [`Back`] is the device as a whole; [`Driver`] is what xenbus drives: features, rings. `work` is one round of requests,
//! `request` what they may say, `pool` where they are, `kept` the front end's pages that stay mapped.
//!
//! What the front end says is believed as far as this: a request that makes no sense, and one whose grants fail, is
//! answered with an error; an index of a ring that cannot be closes the device.

mod kept;
mod pool;
mod request;
mod work;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use xen_abi::io::blkif::{BLKIF_MAX_SEGMENTS_PER_REQUEST, BlkifRing, VDISK_READONLY, keys};
use xen_abi::io::protocols::XEN_IO_PROTO_ABI_X86_64;

use self::request::{DESCRIPTORS, Limits};
use self::work::Work;
use super::BlockDevice;
use crate::ring;
use crate::transport::{Access, GrantRef, PAGE_SIZE, Transport};
use crate::xenbus::{Device, End, Error, Nodes, Role};

/// What a back end offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// log2 of the most pages of a ring.
    pub max_ring_page_order: u32,
    /// The most rings.
    pub max_queues: u16,
    /// The most segments of an indirect request, at most 512; 0: indirect requests are not offered.
    pub max_indirect_segments: usize,
    /// How many requests are worked on at once, over all rings. With a disk that is not memory, each takes staging
    /// memory for the largest request.
    pub requests: u16,
    /// How many pages of a front end that grants for good stay mapped (`feature-persistent`), at most; 0: that is not offered.
    ///
    /// It costs such a front end a copy of all data, and saves a hypercall for each round of requests here: where
    /// domains are many and rounds small. Without it the hypervisor copies once, from page to page.
    pub persistent_grants: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_ring_page_order: 2,
            max_queues: 4,
            max_indirect_segments: 32,
            requests: 32,
            persistent_grants: 0,
        }
    }
}

/// A back end and its disk.
pub struct Back<T: Transport, D: BlockDevice<T>> {
    device: Device<T, Driver<T, D>>,
}

impl<T: Transport, D: BlockDevice<T>> Back<T, D> {
    /// A back end that offers `disk` to the other end of `end`. Where the directory does not say that `mode` is `w`, it
    /// is read-only.
    pub fn new(end: End<T>, disk: D, options: Options) -> Self {
        let mut geometry = disk.geometry();
        geometry.read_only |= !end.own::<String>("mode").is_some_and(|mode| mode.starts_with('w'));
        geometry.discard &= !geometry.read_only && end.own::<u32>(keys::DISCARD_ENABLE) != Some(0);
        let limits = Limits { geometry, indirect: options.max_indirect_segments.min(DESCRIPTORS) };
        let driver = Driver { options, work: Work::new(disk, limits, options.requests.max(1)) };
        Self { device: Device::new(end, driver) }
    }

    /// Takes part in the connection, and serves what was asked; true where there was something to do. After false,
    /// there is nothing until an event, a watch or the disk tells.
    pub fn poll(&mut self) -> bool {
        let mut progress = self.device.poll();
        let is_connected = self.device.is_connected();
        let (driver, end) = self.device.parts();
        if !is_connected {
            return driver.work.reap() || progress;
        }
        match driver.work.round(end.transport(), end.peer()) {
            Ok(more) => progress |= more,
            Err(_) => {
                self.device.fail(&Error::Peer("the ring holds an index that cannot be"));
                progress = true;
            }
        }
        progress
    }

    /// The end, for its states.
    #[must_use]
    pub fn end(&self) -> &End<T> {
        self.device.end()
    }

    /// Whether a front end uses the disk.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.device.is_connected()
    }

    /// Whether it has closed and nothing is shared.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.device.is_closed()
    }

    /// Requests that were answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.device.driver().work.answered()
    }

    /// How many pages of the front end are mapped, apart from rings.
    #[must_use]
    pub fn mapped_pages(&self) -> usize {
        self.device.driver().work.mapped_pages()
    }

    /// The disk.
    #[must_use]
    pub fn disk(&self) -> &D {
        self.device.driver().work.disk()
    }

    /// The disk.
    pub fn disk_mut(&mut self) -> &mut D {
        self.device.driver_mut().work.disk_mut()
    }

    /// See [`Work::capacities`].
    #[cfg(test)]
    pub(super) fn capacities(&self) -> [usize; 8] {
        self.device.driver().work.capacities()
    }

    /// Ends the connection.
    pub fn close(&mut self) {
        self.device.close();
    }
}

impl<T: Transport, D: BlockDevice<T>> fmt::Debug for Back<T, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Back").field("end", self.device.end()).finish_non_exhaustive()
    }
}

/// What xenbus drives.
struct Driver<T: Transport, D> {
    options: Options,
    work: Work<T, D>,
}

/// A ring of the device.
pub(super) struct Queue<T: Transport> {
    pub ring: ring::Back<BlkifRing, T::Mapped>,
    pub port: T::Port,
}

impl<T: Transport> Queue<T> {
    /// Maps the ring that the front end's directory describes, whose names start with `prefix`.
    fn new(end: &End<T>, prefix: &str, order: Option<u32>) -> Result<Self, Error> {
        let reference = |name: &str| {
            let name = format!("{prefix}{name}");
            end.peers(&name).map(GrantRef).ok_or(Error::Peer("a reference of the ring is missing"))
        };
        let refs = match order {
            None => Vec::from([reference(keys::RING_REF)?]),
            Some(order) => (0..1u32 << order)
                .map(|page| reference(&format!("{}{page}", keys::RING_REF)))
                .collect::<Result<_, _>>()?,
        };
        let port = end.peers(&format!("{prefix}{}", keys::EVENT_CHANNEL));
        let port = port.ok_or(Error::Peer("the event channel is missing"))?;
        let memory = end.transport().map(end.peer(), &refs, Access::ReadWrite)?;
        let ring = ring::Back::attach(memory).map_err(|_| Error::Peer("the ring is not one"))?;
        Ok(Self { ring, port: end.transport().connect(end.peer(), port)? })
    }
}

impl<T: Transport, D: BlockDevice<T>> crate::xenbus::Driver<T> for Driver<T, D> {
    const ROLE: Role = Role::Back;

    fn publish(&mut self, _end: &End<T>) -> Result<Nodes, Error> {
        let Limits { geometry, indirect } = self.work.limits();
        let mut nodes = Nodes::new();
        nodes.set(keys::SECTORS, geometry.sectors);
        nodes.set(keys::SECTOR_SIZE, geometry.block_size);
        nodes.set(keys::PHYSICAL_SECTOR_SIZE, geometry.physical_block_size);
        nodes.set(keys::INFO, if geometry.read_only { VDISK_READONLY } else { 0 });
        nodes.set(keys::FEATURE_FLUSH_CACHE, u8::from(geometry.flush));
        nodes.set(keys::FEATURE_BARRIER, 0);
        nodes.set(keys::FEATURE_DISCARD, u8::from(geometry.discard));
        if geometry.discard {
            nodes.set(keys::DISCARD_GRANULARITY, geometry.block_size);
            nodes.set(keys::DISCARD_ALIGNMENT, 0);
            nodes.set(keys::DISCARD_SECURE, 0);
        }
        nodes.set(keys::FEATURE_PERSISTENT, u8::from(self.options.persistent_grants > 0));
        if indirect > BLKIF_MAX_SEGMENTS_PER_REQUEST {
            nodes.set(keys::FEATURE_MAX_INDIRECT_SEGMENTS, indirect);
        }
        nodes.set(keys::MAX_RING_PAGE_ORDER, self.options.max_ring_page_order);
        nodes.set(keys::MULTI_QUEUE_MAX_QUEUES, self.options.max_queues.max(1));
        Ok(nodes)
    }

    fn connect(&mut self, end: &End<T>) -> Result<Nodes, Error> {
        let protocol = end.peers::<String>(keys::PROTOCOL);
        if protocol.is_some_and(|protocol| protocol != XEN_IO_PROTO_ABI_X86_64) {
            return Err(Error::Peer("the front end's protocol is not x86_64-abi"));
        }
        let count = end.peers(keys::MULTI_QUEUE_NUM_QUEUES).unwrap_or(1u16);
        if count == 0 || count > self.options.max_queues.max(1) {
            return Err(Error::Peer("more rings than were offered"));
        }
        let order = end.peers(keys::RING_PAGE_ORDER);
        if order.is_some_and(|order: u32| order > self.options.max_ring_page_order) {
            return Err(Error::Peer("a larger ring than was offered"));
        }
        let queues = (0..count)
            .map(|index| {
                let prefix = if count == 1 { String::new() } else { format!("queue-{index}/") };
                Queue::new(end, &prefix, order)
            })
            .collect::<Result<_, _>>()?;
        let keeps = end.peer_has(keys::FEATURE_PERSISTENT);
        let persistent_grants = if keeps { self.options.persistent_grants } else { 0 };
        self.work.connect(end.transport(), queues, persistent_grants)?;
        Ok(Nodes::new())
    }

    fn disconnect(&mut self, _end: &End<T>) {
        self.work.disconnect();
    }

    fn is_at_rest(&self) -> bool {
        self.work.is_at_rest()
    }
}

/// Bytes of staging memory for one request.
const fn staging_bytes(limits: &Limits) -> usize {
    let segments = if limits.indirect > BLKIF_MAX_SEGMENTS_PER_REQUEST {
        limits.indirect
    } else {
        BLKIF_MAX_SEGMENTS_PER_REQUEST
    };
    segments * PAGE_SIZE
}
