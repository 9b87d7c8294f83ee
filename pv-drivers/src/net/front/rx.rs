//! Receiving: the front end of a receive ring.
//!
//! Pages are lent to the back end in the order of the ring and come back in the same order, each filled with a part
//! of a packet or not used. A page is taken back before it is read: what a [`Received`] holds cannot change any more.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use xen_abi::io::netif::{
    NETRXF_CSUM_BLANK, NETRXF_DATA_VALIDATED, NETRXF_EXTRA_INFO, NETRXF_MORE_DATA, NetifExtraInfo,
    NetifRxRequest, NetifRxResponse, NetifRxRing, XEN_NETIF_EXTRA_FLAG_MORE, XEN_NETIF_EXTRA_TYPE_GSO,
};
use zerocopy::transmute;

use super::super::chain::{checksum_of, gso};
use super::super::{Broken, Counters, ETHERNET_HEADER, MAX_FRAGMENTS, MAX_PACKET, Offload};
use crate::ring::Front;
use crate::transport::{Access, DomId, Granted, PAGE_SIZE, Port, Transport};

/// Pages that are lent to the back end again once that many are at hand: one hypercall's worth of work for it.
const REFILL: usize = 16;

/// A part of a received packet.
struct Piece<B> {
    page: B,
    offset: usize,
    length: usize,
}

/// A packet that came.
pub struct Received<T: Transport> {
    first: Piece<T::Buffer>,
    /// Empty, and without an allocation, for a packet of one page.
    rest: Vec<Piece<T::Buffer>>,
    /// What the sender left to do.
    pub offload: Offload,
}

impl<T: Transport> Received<T> {
    /// Its bytes, where they lie in one page.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        self.rest.is_empty().then(|| part(&self.first))
    }

    /// The same, to change them.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        let Piece { page, offset, length } = &mut self.first;
        self.rest.is_empty().then(|| &mut page.as_mut()[*offset..*offset + *length])
    }

    /// Its parts in order.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        core::iter::once(&self.first).chain(&self.rest).map(part)
    }

    /// Bytes of the packet.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a packet has an Ethernet header at least")]
    pub fn len(&self) -> usize {
        self.parts().map(<[u8]>::len).sum()
    }
}

fn part<B: AsRef<[u8]>>(piece: &Piece<B>) -> &[u8] {
    &piece.page.as_ref()[piece.offset..piece.offset + piece.length]
}

impl<T: Transport> core::fmt::Debug for Received<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Received").field("length", &self.len()).field("offload", &self.offload).finish()
    }
}

/// The receive half of a queue.
pub struct Rx<T: Transport> {
    transport: T,
    peer: DomId,
    port: Arc<T::Port>,
    pub(super) ring: Front<NetifRxRing, T::Granted>,
    /// Pages that the back end has, in the order of the ring.
    lent: VecDeque<(u16, T::Granted)>,
    /// Pages to lend next.
    spare: Vec<T::Buffer>,
    /// Pages that the back end did not let go.
    lost: usize,
    /// The number of the next request.
    next: u16,
    /// Answers that were taken, modulo 2^32.
    answers: u32,
    counters: Counters,
}

impl<T: Transport> Rx<T> {
    /// Fills the ring with pages.
    pub(super) fn new(
        transport: T,
        peer: DomId,
        port: Arc<T::Port>,
        ring: Front<NetifRxRing, T::Granted>,
    ) -> Result<Self, crate::transport::Error> {
        let slots = ring.slots() as usize;
        let spare = (0..slots).map(|_| transport.buffer(1)).collect::<Result<_, _>>()?;
        let lent = VecDeque::with_capacity(slots);
        let counters = Counters::default();
        let mut rx =
            Self { transport, peer, port, ring, lent, spare, lost: 0, next: 0, answers: 0, counters };
        rx.refill();
        Ok(rx)
    }

    /// What was received.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Lends the spare pages to the back end, and wakes it where it waits for them.
    pub(super) fn refill(&mut self) {
        while self.ring.free() > 0 {
            let Some(page) = self.spare.pop() else { break };
            match self.transport.lend(page, self.peer, Access::ReadWrite) {
                Ok(page) => self.post(page),
                Err((_, page)) => {
                    self.spare.push(page);
                    break;
                }
            }
        }
        if self.ring.publish() {
            self.port.notify();
        }
    }

    /// Puts a page on the ring. There is room for it.
    fn post(&mut self, page: T::Granted) {
        let id = self.next % 256;
        self.next = self.next.wrapping_add(1);
        let pushed = self.ring.push(&NetifRxRequest { id, pad: 0, gref: page.refs()[0].0 });
        debug_assert!(pushed.is_ok(), "the room was checked");
        self.lent.push_back((id, page));
    }

    /// The next packet; none where there is none, or after a ring's worth of answers with errors: the pages that come back are
    /// offered again at once, so that a back end can answer all the time. [`sleep`](Self::sleep) tells the two apart.
    ///
    /// # Errors
    ///
    /// [`Broken`]: the back end's answers make no sense.
    pub fn receive(&mut self) -> Result<Option<Received<T>>, Broken> {
        let mut left = self.ring.slots();
        self.receive_counted(&mut left)
    }

    /// The same after at most `left` answers, which it counts down, and those of the packet that it is at.
    pub(super) fn receive_counted(&mut self, left: &mut u32) -> Result<Option<Received<T>>, Broken> {
        while *left > 0 {
            let Some(first) = self.ring.pop()? else { break };
            let before = self.answers;
            let received = self.assemble(first)?;
            *left = left.saturating_sub(self.answers.wrapping_sub(before));
            if let Some(received) = received {
                self.counters.passed(received.len());
                return Ok(Some(received));
            }
            self.counters.errors += 1;
        }
        Ok(None)
    }

    /// Takes a packet's slots; none where a part of it is not good.
    fn assemble(&mut self, first: NetifRxResponse) -> Result<Option<Received<T>>, Broken> {
        let mut offload = Offload {
            checksum: checksum_of(first.flags, NETRXF_CSUM_BLANK, NETRXF_DATA_VALIDATED),
            gso: None,
        };
        let mut good = self.piece(&first)?;
        if first.flags & NETRXF_EXTRA_INFO != 0 {
            self.extras(&mut offload)?;
        }
        let (mut rest, mut complete) = (Vec::new(), good.is_some());
        let mut length = good.as_ref().map_or(0, |piece| piece.length);
        let mut more = first.flags & NETRXF_MORE_DATA != 0;
        while more {
            let next = self.ring.pop()?.ok_or(Broken::Chain)?;
            more = next.flags & NETRXF_MORE_DATA != 0;
            match self.piece(&next)? {
                Some(piece) if rest.len() < MAX_FRAGMENTS => {
                    length += piece.length;
                    rest.push(piece);
                }
                Some(piece) => {
                    self.spare.push(piece.page);
                    complete = false;
                }
                None => complete = false,
            }
        }
        complete &= (ETHERNET_HEADER..=MAX_PACKET).contains(&length);
        if complete && let Some(first) = good.take() {
            return Ok(Some(Received { first, rest, offload }));
        }
        self.spare.extend(good.into_iter().chain(rest).map(|piece| piece.page));
        self.refill_many();
        Ok(None)
    }

    /// The page of a slot with what the back end says of it; none where that is an error.
    fn piece(&mut self, response: &NetifRxResponse) -> Result<Option<Piece<T::Buffer>>, Broken> {
        let Some(page) = self.take_back(Some(response.id))? else { return Ok(None) };
        let (offset, length) = (usize::from(response.offset), usize::try_from(response.status).unwrap_or(0));
        if length == 0 || offset + length > PAGE_SIZE {
            self.spare.push(page);
            return Ok(None);
        }
        Ok(Some(Piece { page, offset, length }))
    }

    /// Takes the oldest page back, which is that of the slot at hand. None where the back end still has it.
    fn take_back(&mut self, id: Option<u16>) -> Result<Option<T::Buffer>, Broken> {
        let (posted, page) = self.lent.pop_front().ok_or(Broken::Id)?;
        self.answers = self.answers.wrapping_add(1);
        if id.is_some_and(|id| id != posted) {
            return Err(Broken::Id);
        }
        match self.transport.take_back(page) {
            Ok(page) => Ok(Some(page)),
            // Still mapped there: the transport keeps it until that ends, another one takes its place.
            Err(_) => {
                self.lost += 1;
                if self.lost > super::MOST_LOST {
                    return Err(Broken::Memory);
                }
                self.spare.extend(self.transport.buffer(1).ok());
                Ok(None)
            }
        }
    }

    /// Takes the extra-info slots behind a first slot.
    fn extras(&mut self, offload: &mut Offload) -> Result<(), Broken> {
        loop {
            let slot = self.ring.pop()?.ok_or(Broken::Chain)?;
            let page = self.take_back(None)?;
            self.spare.extend(page);
            let extra: NetifExtraInfo = transmute!(slot);
            if extra.type_ == XEN_NETIF_EXTRA_TYPE_GSO {
                offload.gso = Some(gso(&extra).ok_or(Broken::Chain)?);
            }
            if extra.flags & XEN_NETIF_EXTRA_FLAG_MORE == 0 {
                return Ok(());
            }
        }
    }

    /// Gives the pages of a packet that was read back to the ring.
    pub fn recycle(&mut self, received: Received<T>) {
        self.spare.push(received.first.page);
        self.spare.extend(received.rest.into_iter().map(|piece| piece.page));
        self.refill_many();
    }

    fn refill_many(&mut self) {
        if self.spare.len() >= REFILL {
            self.refill();
        }
    }

    /// Before sleeping: lends all pages and asks for an event with the next packet. True: one is there already.
    ///
    /// # Errors
    ///
    /// [`Broken`].
    #[must_use = "true means: do not sleep"]
    pub fn sleep(&mut self) -> Result<bool, Broken> {
        self.refill();
        Ok(self.ring.finish()?)
    }
}

impl<T: Transport> core::fmt::Debug for Rx<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Rx")
            .field("lent", &self.lent.len())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}
