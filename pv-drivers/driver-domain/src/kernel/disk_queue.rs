//! The queue of a virtio disk (virtio 1.1, 5.2), a flush being a request as any other: the device works on others meanwhile.

use alloc::boxed::Box;
use alloc::vec::Vec;

use driver_domain::disk::{Queue, Refused};
use driver_domain::virtio::negotiate;
use guest_pv_lib::virtio::PvHal;
use pv_drivers::blk::{Failed, Geometry, Operation};
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::{Error, PAGE_SIZE};

use super::registers::{Device, notify};

/// The number of the device's one queue.
const QUEUE: u16 = 0;
/// Requests that the queue holds; without lists of descriptors elsewhere, as many descriptors.
const SIZE: usize = 16;
/// Descriptors of a request.
const PARTS: usize = 3;

/// The disk is read-only (`VIRTIO_BLK_F_RO`).
const READ_ONLY: u64 = 1 << 5;
/// It has a cache, and can be told to write it back (`VIRTIO_BLK_F_FLUSH`).
const FLUSH: u64 = 1 << 9;
/// Descriptors may be in a list elsewhere (`VIRTIO_F_INDIRECT_DESC`).
const LISTS: u64 = 1 << 28;
/// Notifications are asked for by index (`VIRTIO_F_EVENT_IDX`).
const BY_INDEX: u64 = 1 << 29;

/// Bytes of a request's header (`struct virtio_blk_req`): kind, a reserved word, sector.
const HEADER: usize = 16;
/// `VIRTIO_BLK_S_OK`.
const DONE: u8 = 0;
/// What the status is before the device writes it.
const NOT_DONE: u8 = 0xff;

/// A request that the device works on, and what it was told of. The box stays where it is until the device is done.
struct Begun {
    operation: Operation,
    header: Box<[u8; HEADER]>,
    status: Box<[u8; 1]>,
    bytes: Vec<u8>,
}

/// The header of a request; none: this queue has no such request.
fn header(operation: Operation, sector: u64) -> Option<[u8; HEADER]> {
    let kind = match operation {
        Operation::Read => 0u32,
        Operation::Write => 1,
        Operation::Flush => 4,
        Operation::Discard => return None,
    };
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    Some(header)
}

/// The queue of a virtio disk.
pub struct DiskQueue {
    transport: PciTransport,
    queue: VirtQueue<PvHal, SIZE>,
    /// What both ends know.
    features: u64,
    sectors: u64,
    /// The requests in the queue, by the number that it gave them.
    begun: [Option<Begun>; SIZE],
}

impl DiskQueue {
    /// Starts the device.
    ///
    /// # Errors
    ///
    /// What the device or its queue is not as it should be.
    pub fn new(mut transport: PciTransport) -> Result<Self, Error> {
        let features = negotiate(&mut Device(&mut transport), READ_ONLY | FLUSH | LISTS | BY_INDEX)
            .map_err(|_| Error::Unsupported)?;
        transport.set_guest_page_size(PAGE_SIZE as u32);
        let sectors = transport.read_consistent(|| {
            let (low, high) =
                (transport.read_config_space::<u32>(0)?, transport.read_config_space::<u32>(4)?);
            Ok(u64::from(low) | u64::from(high) << 32)
        })?;
        let mut queue =
            VirtQueue::new(&mut transport, QUEUE, features & LISTS != 0, features & BY_INDEX != 0)?;
        // The disk is polled.
        queue.set_dev_notify(false);
        transport.finish_init();
        Ok(Self { transport, queue, features, sectors, begun: [const { None }; SIZE] })
    }

    /// Gives the device a request. The request's memory must stay what it is until the device is done: it is kept in `begun`.
    fn add(&mut self, begun: &mut Begun) -> Result<u16, Error> {
        let Begun { operation, header, status, bytes } = begun;
        let (header, status) = (&header[..], &mut status[..]);
        // SAFETY: all parts live on the heap, and the caller keeps them in `begun`, untouched, until the device is done with
        // this token.
        unsafe {
            match operation {
                Operation::Read => self.queue.add(&[header], &mut [bytes, status]),
                Operation::Flush => self.queue.add(&[header], &mut [status]),
                _ => self.queue.add(&[header, bytes], &mut [status]),
            }
        }
    }

    /// Takes a request back from the device, which is done with it.
    fn pop(&mut self, token: u16, begun: &mut Begun) -> Result<(), Error> {
        let Begun { operation, header, status, bytes } = begun;
        let (header, status) = (&header[..], &mut status[..]);
        // SAFETY: these are the parts that `add` gave the device under this token: they were kept in `begun`, where nothing
        // touched them, and neither the boxes nor the vector's memory moved.
        unsafe {
            match operation {
                Operation::Read => self.queue.pop_used(token, &[header], &mut [bytes, status]),
                Operation::Flush => self.queue.pop_used(token, &[header], &mut [status]),
                _ => self.queue.pop_used(token, &[header, bytes], &mut [status]),
            }
        }
        .map(drop)
    }
}

impl Drop for DiskQueue {
    fn drop(&mut self) {
        // The device must not use the queue's memory any more.
        self.transport.queue_unset(QUEUE);
    }
}

impl Queue for DiskQueue {
    fn geometry(&self) -> Geometry {
        let (read_only, flush) = (self.features & READ_ONLY != 0, self.features & FLUSH != 0);
        Geometry { read_only, flush, ..Geometry::new(self.sectors) }
    }

    fn is_full(&self) -> bool {
        self.queue.available_desc() < PARTS
    }

    fn begin(
        &mut self,
        operation: Operation,
        sector: u64,
        bytes: Vec<u8>,
    ) -> Result<u16, (Refused, Vec<u8>)> {
        let is_flush = operation == Operation::Flush;
        let fits = if is_flush { bytes.is_empty() && self.features & FLUSH != 0 } else { !bytes.is_empty() };
        let Some(header) = header(operation, sector).filter(|_| fits) else {
            return Err((Refused::Failed, bytes));
        };
        if self.is_full() {
            return Err((Refused::Full, bytes));
        }
        if PvHal::prepare(&[HEADER, bytes.len().max(1), 1, PvHal::LIST]).is_err() {
            // Memory comes back when a job ends, if there is one.
            let is_idle = self.begun.iter().all(Option::is_none);
            let refused = if is_idle { Refused::Failed } else { Refused::Full };
            return Err((refused, bytes));
        }
        let mut begun = Begun { operation, header: Box::new(header), status: Box::new([NOT_DONE]), bytes };
        match self.add(&mut begun) {
            Ok(token) => {
                // Numbers of descriptors are below the queue's size.
                self.begun[usize::from(token)] = Some(begun);
                notify(&mut self.transport, &self.queue, QUEUE);
                Ok(token)
            }
            Err(Error::QueueFull) => Err((Refused::Full, begun.bytes)),
            Err(_) => Err((Refused::Failed, begun.bytes)),
        }
    }

    fn ended(&mut self) -> Option<(u16, Vec<u8>, Result<(), Failed>)> {
        let token = self.queue.peek_used()?;
        let mut begun = self.begun.get_mut(usize::from(token))?.take()?;
        let popped = self.pop(token, &mut begun);
        let done = popped.is_ok() && begun.status[0] == DONE;
        Some((token, begun.bytes, if done { Ok(()) } else { Err(Failed) }))
    }
}
