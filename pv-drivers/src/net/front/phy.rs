//! A queue as a device of smoltcp.
//!
//! smoltcp is told that somebody else computes TCP and UDP checksums. On the way out the driver leaves them to the
//! back end where it takes blank ones, and completes them where not; on the way in it looks at those that nobody has
//! looked at. Packets of several pages (large ones from a domain of the same machine) are put together first.

use alloc::vec::Vec;
use core::fmt;

use smoltcp::phy::{self, ChecksumCapabilities, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use super::super::checksum::Transport as Segment;
use super::super::{Broken, Checksum, Offload};
use super::{Part, Queue, Received, Rx, Tx};
use crate::transport::{PAGE_SIZE, Transport};

/// The largest frame that is sent: one of the usual 1,500 bytes with its Ethernet header.
const FRAME: usize = 1514;

/// What the device keeps between packets.
pub(super) struct State<T: Transport> {
    /// A packet of several pages, put together.
    whole: Vec<u8>,
    /// The page of a packet that is being sent.
    part: Vec<Part<T::Buffer>>,
}

impl<T: Transport> fmt::Debug for State<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl<T: Transport> fmt::Debug for TxToken<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxToken").finish_non_exhaustive()
    }
}

impl<T: Transport> Default for State<T> {
    fn default() -> Self {
        Self { whole: Vec::new(), part: Vec::new() }
    }
}

/// A packet that came.
#[derive(Debug)]
pub struct RxToken<'a, T: Transport> {
    rx: &'a mut Rx<T>,
    whole: &'a mut Vec<u8>,
    received: Option<Received<T>>,
}

/// The right to send a packet.
pub struct TxToken<'a, T: Transport> {
    tx: &'a mut Tx<T>,
    part: &'a mut Vec<Part<T::Buffer>>,
    page: Option<T::Buffer>,
}

impl<T: Transport> phy::Device for Queue<T> {
    type RxToken<'a> = RxToken<'a, T>;
    type TxToken<'a> = TxToken<'a, T>;

    fn receive(&mut self, _now: Instant) -> Option<(RxToken<'_, T>, TxToken<'_, T>)> {
        // Room for the answer first: a packet that was taken must be passed on.
        let page = self.page_to_send()?;
        let received = match next_good(&mut self.rx, &mut self.phy.whole) {
            Ok(Some(received)) => received,
            other => {
                self.tx.give_back(page);
                self.note(other.err());
                return None;
            }
        };
        let rx = RxToken { rx: &mut self.rx, whole: &mut self.phy.whole, received: Some(received) };
        Some((rx, TxToken { tx: &mut self.tx, part: &mut self.phy.part, page: Some(page) }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<TxToken<'_, T>> {
        let page = self.page_to_send()?;
        Some(TxToken { tx: &mut self.tx, part: &mut self.phy.part, page: Some(page) })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut checksum = ChecksumCapabilities::default();
        checksum.tcp = phy::Checksum::None;
        checksum.udp = phy::Checksum::None;
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities.checksum = checksum;
        capabilities
    }
}

impl<T: Transport> Queue<T> {
    /// A page, where there is room on the ring for it.
    fn page_to_send(&mut self) -> Option<T::Buffer> {
        if self.broken().is_some() {
            return None;
        }
        match self.tx.ready(1) {
            Ok(true) => self.tx.page(),
            other => {
                self.note(other.err());
                None
            }
        }
    }

    fn note(&mut self, broken: Option<Broken>) {
        if let Some(broken) = broken {
            self.set_broken(broken);
        }
    }
}

/// The next packet whose checksum is right, in one piece: in its page or in `whole`. None also after a
/// ring's worth of answers.
fn next_good<T: Transport>(rx: &mut Rx<T>, whole: &mut Vec<u8>) -> Result<Option<Received<T>>, Broken> {
    let mut left = rx.ring.slots();
    while let Some(received) = rx.receive_counted(&mut left)? {
        let bytes = match received.bytes() {
            Some(bytes) => bytes,
            None => {
                whole.clear();
                received.parts().for_each(|part| whole.extend_from_slice(part));
                &*whole
            }
        };
        let trusted = received.offload.checksum != Checksum::Unchecked || received.offload.is_blank();
        if trusted || Segment::find(bytes).is_none_or(|segment| segment.is_right(bytes)) {
            return Ok(Some(received));
        }
        rx.recycle(received);
    }
    Ok(None)
}

impl<T: Transport> phy::RxToken for RxToken<'_, T> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        match self.received.as_ref().and_then(Received::bytes) {
            Some(bytes) => f(bytes),
            None => f(self.whole),
        }
    }
}

impl<T: Transport> Drop for RxToken<'_, T> {
    fn drop(&mut self) {
        if let Some(received) = self.received.take() {
            self.rx.recycle(received);
        }
    }
}

impl<T: Transport> phy::TxToken for TxToken<'_, T> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, length: usize, f: F) -> R {
        let Some(mut page) = self.page.take().filter(|_| length <= PAGE_SIZE) else {
            // smoltcp keeps to the size that the device names; a longer packet is made and dropped.
            return f(&mut alloc::vec![0; length]);
        };
        let bytes = &mut page.as_mut()[..length];
        let result = f(bytes);
        let offload = prepare(bytes, self.tx);
        // At most a page.
        let length = u16::try_from(length).unwrap_or(0);
        self.part.push(Part { page, offset: 0, length });
        if self.tx.send(self.part, &offload).is_err() {
            self.part.drain(..).for_each(|part| self.tx.give_back(part.page));
        }
        result
    }
}

impl<T: Transport> Drop for TxToken<'_, T> {
    fn drop(&mut self) {
        if let Some(page) = self.page.take() {
            self.tx.give_back(page);
        }
    }
}

/// Leaves the checksum to the back end, or completes it.
fn prepare<T: Transport>(frame: &mut [u8], tx: &Tx<T>) -> Offload {
    let Some(segment) = Segment::find(frame) else { return Offload::default() };
    let blank = Offload { checksum: Checksum::Blank, gso: None };
    if tx.accepts().takes(&blank, frame.len(), segment.version()) {
        segment.blank(frame);
        return blank;
    }
    segment.fill(frame);
    Offload { checksum: Checksum::Good, gso: None }
}
