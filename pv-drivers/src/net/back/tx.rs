//! What a front end sends: packets in the order of its ring, with their first bytes once the hypervisor copied them.

use alloc::vec::Vec;
use core::time::Duration;

use xen_abi::io::netif::{NETIF_RSP_NULL, NETIF_RSP_OKAY, NetifTxResponse, NetifTxRing};

use super::super::Broken;
use super::super::chain::{self, Fragment, Order};
use super::lanes::{Head, Lanes};
use crate::ring::{self, Back};
use crate::transport::{Copy, CopyEnd, DomId, Error, Transport, words};

/// Bytes of a packet that are looked at: the headers of Ethernet, IP and TCP or UDP with the ports.
pub const HEADER: usize = 64;

/// The back end of a transmit ring. All that a ring holds may wait here: so each packet's receiver is seen, however many are before it.
pub struct Tx<T: Transport> {
    ring: Back<NetifTxRing, T::Mapped>,
    /// What waits.
    pub lanes: Lanes,
    /// Packets whose header is not here yet.
    unseen: usize,
    /// Packets that were passed on in this round.
    pub passed: usize,
    /// The slots of the chain that is being taken: as many as the ring has, at most.
    parts: Vec<Fragment>,
    /// Answers were written that the front end was not shown.
    answered: bool,
}

impl<T: Transport> Tx<T> {
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(ring: Back<NetifTxRing, T::Mapped>) -> Result<Self, Error> {
        let slots = ring.slots() as usize;
        let mut parts = Vec::new();
        parts.try_reserve_exact(slots).map_err(|_| Error::NoMemory)?;
        Ok(Self { ring, lanes: Lanes::new(slots)?, unseen: 0, passed: 0, parts, answered: false })
    }

    /// Whether the ring has slots, and fewer than `budget` packets were taken in this round. What is wrong with it is told by
    /// [`take`](Self::take).
    pub fn has_new(&mut self, budget: usize) -> bool {
        self.unseen < budget && self.ring.waiting().is_ok_and(|slots| slots > 0)
    }

    /// Takes packets off the ring at `now`: `budget` of them in a round at most, and no more than `headers`, which it counts down.
    /// What is no packet to forward is given to `order`, which says whether it is good, and answered. True: something
    /// was taken.
    ///
    /// No chain begins after as many slots as the ring has: a front end that adds chains while this runs, of packets or not,
    /// has them taken in the next round.
    pub fn take(
        &mut self,
        budget: usize,
        headers: &mut usize,
        now: Duration,
        mut order: impl FnMut(Order) -> bool,
    ) -> Result<bool, Broken> {
        self.lanes.tidy(now);
        let (mut slots, most) = (0, self.ring.slots());
        while self.unseen < budget && *headers > 0 && slots < most {
            self.parts.clear();
            let Some(chain) = chain::take(&mut self.ring, &mut self.parts)? else { break };
            slots += u32::from(chain.fragments) + u32::from(chain.extras);
            if chain.order == Order::Send {
                let head = Head { chain, bytes: [0; HEADER], pieces: (0, 0), taken: now, good: false };
                if !self.lanes.add(head, &self.parts) {
                    return Err(ring::Error::Corrupt.into());
                }
                self.unseen += 1;
                *headers -= 1;
            } else {
                let good = order(chain.order);
                let parts = core::mem::take(&mut self.parts);
                let answered = self.answer(parts.iter().map(|part| part.id), chain.extras, status(good));
                self.parts = parts;
                answered?;
            }
        }
        Ok(slots > 0)
    }

    /// Adds the pieces that copy the headers of new packets into own memory, each to a place that `place` gives.
    pub fn peek(&mut self, domain: DomId, mut place: impl FnMut() -> usize, pieces: &mut Vec<Copy>) {
        self.lanes.each_new(|packet, fragments| {
            let mut offset = place();
            let (first, end) = (pieces.len(), offset + packet.bytes().len());
            for fragment in fragments {
                let length = fragment.length.min(u16::try_from(end - offset).unwrap_or(0));
                if length > 0 {
                    let source =
                        CopyEnd::Peer { domain, reference: fragment.reference, offset: fragment.offset };
                    pieces.push(Copy { source, target: CopyEnd::Own { offset }, length, result: Ok(()) });
                }
                offset += usize::from(length);
            }
            packet.pieces = (first, pieces.len());
        });
    }

    /// Takes the headers from where they were copied to.
    pub fn peeked(&mut self, memory: &T::Memory, mut place: impl FnMut() -> usize, pieces: &[Copy]) {
        self.unseen = 0;
        self.lanes.each_new(|packet, _| {
            let (first, end) = packet.pieces;
            packet.good = pieces[first..end].iter().all(|piece| piece.result.is_ok());
            words::load(memory, place(), &mut packet.bytes);
        });
        self.lanes.seen();
    }

    /// Answers the slots of a packet.
    pub fn answer(
        &mut self,
        ids: impl IntoIterator<Item = u16>,
        extras: u16,
        status: i16,
    ) -> Result<(), Broken> {
        self.answered = true;
        for id in ids {
            self.ring.push(&NetifTxResponse { id, status })?;
        }
        for _ in 0..extras {
            self.ring.push(&NetifTxResponse { id: 0, status: NETIF_RSP_NULL })?;
        }
        Ok(())
    }

    /// Shows the answers; true: the front end sleeps and must be sent an event.
    pub fn publish(&mut self) -> bool {
        core::mem::take(&mut self.answered) && self.ring.publish()
    }

    /// Asks for an event with the next packet; true: one is there.
    pub fn sleep(&mut self) -> Result<bool, Broken> {
        Ok(self.ring.finish()?)
    }
}

/// The answer to a packet.
pub fn status(good: bool) -> i16 {
    if good { NETIF_RSP_OKAY } else { xen_abi::io::netif::NETIF_RSP_ERROR }
}
