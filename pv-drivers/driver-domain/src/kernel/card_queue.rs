//! The queues of a virtio network card (virtio 1.1, 5.1), without any offload: plain frames both ways.

use alloc::vec::Vec;

use driver_domain::card::Queue;
use driver_domain::disk::Refused;
use driver_domain::virtio::{VERSION_1, negotiate};
use guest_pv_lib::virtio::{Interrupt, PvHal};
use virtio_drivers::Error;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;
use virtio_drivers::transport::pci::PciTransport;

use super::registers::{Device, notify};

/// The numbers of the device's queues.
const RECEIVE: u16 = 0;
const SEND: u16 = 1;
/// Buffers that each holds: a descriptor for each.
const SIZE: usize = 64;
/// Bytes of a buffer that the card puts a frame into, with its header.
const BUFFER: usize = 2048;
/// Bytes of a packet's header (`struct virtio_net_hdr_v1`). Zero, it says that nothing is left to be done.
const HEADER: usize = 12;

/// A buffer that the card was told of. It does not grow: its place on the heap stays until the card is done with it.
type Buffer = Vec<u8>;

/// The queues of a virtio card.
pub struct CardQueue {
    transport: PciTransport,
    interrupt: Interrupt,
    receive: VirtQueue<PvHal, SIZE>,
    send: VirtQueue<PvHal, SIZE>,
    /// The buffers in each queue, by the number that the queue gave them.
    received: [Option<Buffer>; SIZE],
    sent: [Option<Buffer>; SIZE],
    /// Buffers that the card is to be given.
    spare: Vec<Buffer>,
}

impl CardQueue {
    /// Starts the card.
    ///
    /// # Errors
    ///
    /// What the card or its queues are not as they should be; [`Error::DmaError`] where there is no memory.
    pub fn new(mut transport: PciTransport, interrupt: Interrupt) -> Result<Self, Error> {
        negotiate(&mut Device(&mut transport), VERSION_1).map_err(|_| Error::Unsupported)?;
        let receive = VirtQueue::new(&mut transport, RECEIVE, false, false)?;
        let mut send = VirtQueue::new(&mut transport, SEND, false, false)?;
        // It is looked at what was sent whenever there is something to send.
        send.set_dev_notify(false);
        let mut spare = Vec::new();
        spare.try_reserve_exact(SIZE).map_err(|_| Error::DmaError)?;
        for _ in 0..SIZE {
            spare.push(buffer(BUFFER).ok_or(Error::DmaError)?);
        }
        transport.finish_init();
        let (received, sent) = ([const { None }; SIZE], [const { None }; SIZE]);
        let mut queue = Self { transport, interrupt, receive, send, received, sent, spare };
        queue.offer();
        Ok(queue)
    }

    /// Gives the card the buffers that it may fill, as far as there is memory.
    fn offer(&mut self) {
        while let Some(mut buffer) = self.spare.pop() {
            let is_ready = PvHal::prepare(&[BUFFER]).is_ok();
            // SAFETY: the buffer lives on the heap, and is kept in `received`, untouched, until the card is done with it. Where
            // this fails the card was not told of it.
            let added = is_ready.then(|| unsafe { self.receive.add(&[], &mut [&mut buffer]) });
            let Some(place) =
                added.and_then(Result::ok).and_then(|token| self.received.get_mut(usize::from(token)))
            else {
                self.spare.push(buffer);
                return;
            };
            *place = Some(buffer);
            notify(&mut self.transport, &self.receive, RECEIVE);
        }
    }
}

/// So many bytes of zeros, if there is memory.
fn buffer(bytes: usize) -> Option<Vec<u8>> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(bytes).ok()?;
    buffer.resize(bytes, 0);
    Some(buffer)
}

impl Queue for CardQueue {
    const HEADER: usize = HEADER;

    fn begin(&mut self, frame: Vec<u8>) -> Result<(), (Refused, Vec<u8>)> {
        if self.send.available_desc() == 0 || PvHal::prepare(&[frame.len()]).is_err() {
            // Memory comes back when a frame was sent.
            return Err((Refused::Full, frame));
        }
        // SAFETY: the frame lives on the heap, and is kept in `sent`, untouched, until the card is done with it.
        let added = unsafe { self.send.add(&[&frame], &mut []) };
        let Some(place) = added.ok().and_then(|token| self.sent.get_mut(usize::from(token))) else {
            return Err((Refused::Failed, frame));
        };
        *place = Some(frame);
        notify(&mut self.transport, &self.send, SEND);
        Ok(())
    }

    fn reap(&mut self) -> bool {
        let Some(token) = self.send.peek_used() else { return false };
        let Some(place) = self.sent.get_mut(usize::from(token)) else { return false };
        let Some(packet) = place.take() else { return false };
        // SAFETY: it is what `begin` gave the card under this token.
        unsafe { self.send.pop_used(token, &[&packet], &mut []) }.is_ok()
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> bool {
        self.offer();
        let Some(token) = self.receive.peek_used() else { return false };
        let Some(mut buffer) = self.received.get_mut(usize::from(token)).and_then(Option::take) else {
            return false;
        };
        // SAFETY: it is what `offer` gave the card under this token.
        let popped = unsafe { self.receive.pop_used(token, &[], &mut [&mut buffer]) };
        if let Ok(length) = popped
            && let Some(frame) = usize::try_from(length).ok().and_then(|length| buffer.get(HEADER..length))
        {
            take(frame);
        }
        self.spare.push(buffer);
        true
    }

    fn sleep(&mut self) -> bool {
        if self.interrupt.take() {
            let _ = self.transport.ack_interrupt();
            self.interrupt.done();
        }
        self.offer();
        self.receive.can_pop()
    }
}

impl Drop for CardQueue {
    fn drop(&mut self) {
        // The card must not use the queues' memory any more.
        self.transport.queue_unset(RECEIVE);
        self.transport.queue_unset(SEND);
    }
}
