//! What a front end sends: packets in the order of its ring, with their first bytes once the hypervisor copied them.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use xen_abi::io::netif::{NETIF_RSP_NULL, NETIF_RSP_OKAY, NetifTxResponse, NetifTxRing};

use super::super::Broken;
use super::super::chain::{self, Chain, Fragment, Order};
use crate::ring::Back;
use crate::transport::{Copy, CopyEnd, DomId, Transport, words};

/// Bytes of a packet that are looked at: the headers of Ethernet, IP and TCP or UDP with the ports.
pub const HEADER: usize = 64;

/// Packets wait so long behind one to another receiver, which has no room, in each [`SPAN`].
const HOLD: Duration = Duration::from_millis(20);
/// See [`HOLD`]. For as long no packet waits behind one that has waited for [`LONGEST`].
const SPAN: Duration = Duration::from_millis(200);
/// How long a packet waits at most from the time at which it was taken off the ring, whatever is seen behind it. A sender whose ring
/// is full may have packets to others that the ring has no room for.
const LONGEST: Duration = Duration::from_millis(100);

/// A packet that waits.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// Its slots.
    pub chain: Chain,
    /// Its first bytes.
    bytes: [u8; HEADER],
    /// The pieces that copy them, by number.
    pieces: (usize, usize),
    /// When it was taken off the ring.
    taken: Duration,
    /// Whether they are there: not where the front end's grant does not allow it.
    pub good: bool,
}

impl Head {
    /// Its first bytes: [`HEADER`] of them, or all.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..HEADER.min(self.chain.length.into())]
    }

    /// The bytes that name its receiver.
    fn receiver(&self) -> &[u8] {
        &self.bytes[..6]
    }
}

/// The back end of a transmit ring. All that a ring holds may wait here: so each packet's receiver is seen, however many are before it.
pub struct Tx<T: Transport> {
    ring: Back<NetifTxRing, T::Mapped>,
    waiting: VecDeque<Head>,
    /// The fragments of those that wait, in order.
    fragments: VecDeque<Fragment>,
    /// Packets at the end of `waiting` whose header is not here yet.
    unseen: usize,
    /// Answers were written that the front end was not shown.
    answered: bool,
    held: Held,
}

/// How long the first packet has held up those to other receivers.
#[derive(Default)]
struct Held {
    /// Since when it does.
    since: Option<Duration>,
    /// How long others have been held up since `span` began.
    spent: Duration,
    span: Duration,
    /// No packet waits until then.
    hurry: Duration,
}

impl<T: Transport> Tx<T> {
    pub fn new(ring: Back<NetifTxRing, T::Mapped>) -> Self {
        let (waiting, fragments, held) = (VecDeque::new(), VecDeque::new(), Held::default());
        Self { ring, waiting, fragments, unseen: 0, answered: false, held }
    }

    /// Takes packets off the ring at `now`: `budget` of them at most, and no more than `headers`, which it counts down.
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
        let (mut slots, most, end) = (0, self.ring.slots(), self.unseen + budget);
        while self.unseen < end && *headers > 0 && slots < most {
            let Some(chain) = chain::take(&mut self.ring, &mut self.fragments)? else { break };
            slots += u32::from(chain.fragments) + u32::from(chain.extras);
            if chain.order == Order::Send {
                let (bytes, pieces) = ([0; HEADER], (0, 0));
                self.waiting.push_back(Head { chain, bytes, pieces, taken: now, good: false });
                self.unseen += 1;
                *headers -= 1;
            } else {
                let good = order(chain.order);
                let from = self.fragments.len() - usize::from(chain.fragments);
                let ids: Vec<u16> = self.fragments.drain(from..).map(|fragment| fragment.id).collect();
                self.answer(ids, chain.extras, status(good))?;
            }
        }
        Ok(slots > 0)
    }

    /// Adds the pieces that copy the headers of new packets into own memory, each to a place that `place` gives.
    pub fn peek(&mut self, domain: DomId, mut place: impl FnMut() -> usize, pieces: &mut Vec<Copy>) {
        let seen = self.waiting.len() - self.unseen;
        let new: usize = self.waiting.range(seen..).map(|packet| usize::from(packet.chain.fragments)).sum();
        let mut fragments = self.fragments.range(self.fragments.len() - new..);
        for packet in self.waiting.range_mut(seen..) {
            let mut offset = place();
            let (first, end) = (pieces.len(), offset + packet.bytes().len());
            for fragment in fragments.by_ref().take(packet.chain.fragments.into()) {
                let length = fragment.length.min(u16::try_from(end - offset).unwrap_or(0));
                if length > 0 {
                    let source =
                        CopyEnd::Peer { domain, reference: fragment.reference, offset: fragment.offset };
                    pieces.push(Copy { source, target: CopyEnd::Own { offset }, length, result: Ok(()) });
                }
                offset += usize::from(length);
            }
            packet.pieces = (first, pieces.len());
        }
    }

    /// Takes the headers from where they were copied to.
    pub fn peeked(&mut self, memory: &T::Memory, mut place: impl FnMut() -> usize, pieces: &[Copy]) {
        let seen = self.waiting.len() - core::mem::take(&mut self.unseen);
        for packet in self.waiting.range_mut(seen..) {
            let (first, end) = packet.pieces;
            packet.good = pieces[first..end].iter().all(|piece| piece.result.is_ok());
            words::load(memory, place(), &mut packet.bytes);
        }
    }

    /// The first packet that waits.
    pub fn head(&self) -> Option<&Head> {
        self.waiting.front()
    }

    /// Until when the first packet may wait, because its receiver has no room at `now`; none: it must not. Where packets to other
    /// receivers are held up by that, it may for [`HOLD`] in all, and for [`LONGEST`] in any case: a receiver that offers a page now
    /// and then must not set the pace of all that its senders send.
    pub fn may_wait(&mut self, now: Duration) -> Option<Duration> {
        self.count_held(now);
        let mut packets = self.waiting.iter();
        let first = packets.next()?;
        let longest = first.taken + LONGEST;
        if now >= longest {
            self.held.hurry = now + SPAN;
        }
        if now < self.held.hurry {
            return None;
        }
        if packets.all(|other| other.receiver() == first.receiver()) {
            return Some(longest);
        }
        let left = HOLD.checked_sub(self.held.spent).filter(|left| !left.is_zero())?;
        self.held.since = Some(now);
        Some(longest.min(now + left))
    }

    fn count_held(&mut self, now: Duration) {
        let held = &mut self.held;
        if now.saturating_sub(held.span) >= SPAN {
            (held.span, held.spent) = (now, Duration::ZERO);
        }
        if let Some(since) = held.since.take() {
            held.spent += now.saturating_sub(since);
        }
    }

    /// The first packet is dealt with at `now`; its fragments go to the end of `done` and want an answer.
    pub fn pass(&mut self, now: Duration, done: &mut Vec<Fragment>) {
        self.count_held(now);
        if let Some(packet) = self.waiting.pop_front() {
            done.extend(self.fragments.drain(..usize::from(packet.chain.fragments)));
        }
    }

    /// Whether packets wait.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
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
