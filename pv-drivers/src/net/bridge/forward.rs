//! One round of the bridge.
//!
//! ```text
//! gather   take packets off the transmit rings; frames of wires and late ones into the staging memory
//! peek     copy the headers of the new packets                                   (one hypercall)
//! route    find each packet's receivers, set their pages aside, list the pieces
//! copy     move the data: sender to receiver, or by way of the staging memory    (one hypercall);
//!          the bytes that were judged are not read from the sender again
//! finish   answer senders and receivers; complete what was staged for a wire or as a late frame
//! ```
//!
//! A piece that fails fails its packet for both: the sender is told, and the receiver's pages are answered with an
//! error. Nobody else notices.

use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;

use super::super::back::{Room, Vif, status};
use super::super::chain::{Fragment, Order};
use super::super::segment::Segments;
use super::super::{
    Broken, Checksum, ETHERNET_HEADER, MAX_FRAGMENTS, MAX_PACKET, Offload, WIRE_FRAME, checksum,
};
use super::route::{ALL_PIECES, PIECES, Router, Way, queue_of, reserve};
use super::share::Ask;
use super::staging::{FRAMES, HEADERS, Place, header_places};
use super::turn::Part;
use super::{Bridge, Port, Progress, vif_at};
use crate::transport::{Copy, Error, PAGE_SIZE, Transport, words};

/// Packets that are taken off one queue's ring in a round, and as many are passed on.
pub const BUDGET: usize = 32;
/// Frames that a wire has in a round.
const WIRE_BUDGET: usize = 64;
/// Frames that large packets of one port become in a round, at most, on their way to wires: those of four of the largest packets
/// in pieces of 512 bytes. A card may make the bridge wait for each frame. What is behind them is lost.
pub const CUT_BUDGET: usize = 512;

/// Pieces in which a packet is copied to one receiver, at most: they end where a fragment, a page of the receiver or the bytes that
/// were judged end.
const PACKET_PIECES: usize = MAX_FRAGMENTS + MAX_PACKET.div_ceil(PAGE_SIZE) + 1;

/// What a round works on. Kept between rounds so that its lists need no new memory. They grow as far as there is memory: what they
/// have no room for is not routed in this round.
#[derive(Debug, Default)]
pub struct Round {
    /// The slots of the packets that were taken.
    pub fragments: Vec<Fragment>,
    pub sent: Vec<Sent>,
    pub given: Vec<Given>,
    pub staged: Vec<Staged>,
    pub arrived: Vec<Arrived>,
    pieces: Vec<Copy>,
    /// The ways of the packet that is being routed.
    pub ways: Vec<(usize, Way)>,
    /// A frame that is being completed, and a piece of it.
    frame: Vec<u8>,
    piece: Vec<u8>,
}

impl Round {
    /// With room for the pieces of a round, and for the largest frame that is completed.
    pub fn new() -> Result<Self, Error> {
        let mut round = Self::default();
        round.pieces.try_reserve_exact(ALL_PIECES + PIECES).map_err(|_| Error::NoMemory)?;
        round.arrived.try_reserve_exact(FRAMES).map_err(|_| Error::NoMemory)?;
        for buffer in [&mut round.frame, &mut round.piece] {
            buffer.try_reserve_exact(MAX_PACKET).map_err(|_| Error::NoMemory)?;
        }
        Ok(round)
    }

    /// Pieces that there is room for.
    #[cfg(test)]
    pub const fn pieces(&self) -> usize {
        self.pieces.capacity()
    }

    /// Makes room for one packet more to all of so many ports: in `pieces`, those of this round, too. False: there is no memory.
    pub fn has_room(&mut self, ports: usize, pieces: &mut Vec<Copy>) -> bool {
        let Self { fragments, sent, given, staged, ways, .. } = self;
        fragments.try_reserve(MAX_FRAGMENTS).is_ok()
            && sent.try_reserve(1).is_ok()
            && given.try_reserve(ports).is_ok()
            && staged.try_reserve(ports).is_ok()
            && ways.try_reserve(ports).is_ok()
            && pieces.try_reserve_exact(ports.saturating_mul(PACKET_PIECES)).is_ok()
    }
}

/// A packet that was taken from its sender.
#[derive(Debug)]
pub struct Sent {
    pub port: usize,
    pub queue: usize,
    pub fragments: Range<usize>,
    pub extras: u16,
    pub length: usize,
    pub pieces: Range<usize>,
    /// Whether its header could be read.
    pub good: bool,
}

/// A packet that is being written to a receiver's pages.
#[derive(Debug)]
pub struct Given {
    pub port: usize,
    pub queue: usize,
    pub room: Room,
    pub length: usize,
    pub pieces: Range<usize>,
}

/// A packet that is being fetched, to be completed for port `to`.
#[derive(Debug)]
pub struct Staged {
    pub from: usize,
    pub to: usize,
    pub place: Place,
    pub offload: Offload,
    pub pieces: Range<usize>,
    /// Frames that it may become on a wire.
    pub frames: usize,
}

/// A frame in the staging memory.
#[derive(Debug)]
pub struct Arrived {
    pub from: usize,
    pub place: Place,
    /// For whom it was completed, and the pages set aside; otherwise its header tells.
    pub to: Option<(usize, usize, Room)>,
}

impl<T: Transport> Bridge<T> {
    /// Moves a batch of packets.
    pub fn poll(&mut self) -> Progress {
        let now = self.transport.now();
        self.turn.begin(self.ports.len());
        let (mut moved, late_until) = self.gather(now);
        self.peek();
        let (routed, until) = self.route(now);
        moved |= routed;
        moved |= self.finish();
        self.turn.end();
        let until = [late_until, until].into_iter().flatten().min();
        Progress { moved, until }
    }

    /// Takes what the ports have.
    fn gather(&mut self, now: Duration) -> (bool, Option<Duration>) {
        self.staging.clear();
        let (mut moved, until) = self.gather_late(now);
        let vifs = self.ports.iter_mut().flatten().filter_map(Port::vif_mut);
        let ready: usize = vifs.map(|vif| usize::from(has_new(vif))).sum();
        let part = (HEADERS / ready.max(1)).max(1);
        let (mut headers, mut are_left) = (HEADERS, false);
        for number in self.turn.order() {
            match &mut self.ports[number] {
                Some(Port::Vif(vif)) if vif.broken.is_none() => {
                    let mut own = part.min(headers);
                    headers -= own;
                    moved |= take(vif, self.turn.queues(vif.queues.len()), &mut own, now);
                    are_left |= own == 0;
                    headers += own;
                }
                Some(Port::Wire { .. }) => moved |= self.gather_wire(number),
                _ => {}
            }
        }
        // What those that have less than their part leave is for the others.
        for number in self.turn.order().take_while(|_| are_left) {
            let Some(vif) = vif_at(&mut self.ports, number).filter(|vif| vif.broken.is_none()) else {
                continue;
            };
            if !has_new(vif) {
                continue;
            }
            moved |= take(vif, self.turn.queues(vif.queues.len()), &mut headers, now);
            if headers == 0 && has_new(vif) {
                self.turn.came_short(number);
            }
        }
        (moved, until)
    }

    /// Sets pages aside for frames that were completed before, of each receiver as far as their share of its pages goes.
    fn gather_late(&mut self, now: Duration) -> (bool, Option<Duration>) {
        let (mut moved, mut until) = (false, None::<Duration>);
        for number in self.turn.order() {
            let Some(vif) = vif_at(&mut self.ports, number) else { continue };
            if vif.late.bytes() > 0
                && vif.broken.is_none()
                && let Err(broken) = vif.queues.iter_mut().try_for_each(|queue| queue.rx.share())
            {
                vif.broken = Some(broken);
            }
            loop {
                if !self.staging.has_room_for_late() {
                    // Each of them, not only the one that took the last of it: all are first in turn.
                    if vif.late.bytes() > 0 {
                        self.turn.came_short(number);
                        moved = true;
                    }
                    break;
                }
                let Some(frame) = vif.late.pop() else { break };
                let (from, count) = vif.late.popped();
                let ask = Ask { from, key: LATE, size: 0, count, patient: true };
                let rx = &vif.queues[queue_of(vif, &frame)].rx;
                let way = if rx.has_had_share() {
                    Way::Wait(now)
                } else {
                    reserve(vif, &frame, frame.len(), &GOOD, ask, now)
                };
                match way {
                    Way::Wait(at) => {
                        vif.late.put_back(frame);
                        until = Some(until.map_or(at, |other| other.min(at)));
                        continue;
                    }
                    Way::Direct(queue, room) => {
                        vif.queues[queue].rx.charge(&room);
                        if let Some(place) = self.staging.put(&frame) {
                            let to = Some((number, queue, room));
                            self.round.arrived.push(Arrived { from: number, place, to });
                        }
                    }
                    Way::Staged(_) | Way::Full | Way::Drop => {}
                }
                moved = true;
            }
        }
        (moved, until)
    }

    fn gather_wire(&mut self, number: usize) -> bool {
        let Some(Some(Port::Wire { wire, sent, .. })) = self.ports.get_mut(number) else { return false };
        let (staging, arrived) = (&mut self.staging, &mut self.round.arrived);
        if !staging.has_room_for_wire() {
            self.turn.came_short(number);
        }
        let mut taken = 0;
        while taken < WIRE_BUDGET && staging.has_room_for_wire() {
            let more = wire.receive(&mut |frame| match staging.put(frame) {
                Some(place) if frame.len() >= ETHERNET_HEADER => {
                    sent.passed(frame.len());
                    arrived.push(Arrived { from: number, place, to: None });
                }
                _ => sent.errors += 1,
            });
            if !more {
                break;
            }
            taken += 1;
        }
        taken > 0
    }

    /// Copies the headers of packets that are new.
    fn peek(&mut self) {
        let mut pieces = core::mem::take(&mut self.round.pieces);
        let mut place = header_places();
        for vif in self.ports.iter_mut().flatten().filter_map(Port::vif_mut) {
            vif.queues.iter_mut().for_each(|queue| queue.tx.peek(vif.domain, &mut place, &mut pieces));
        }
        if !pieces.is_empty() {
            let memory = &self.staging.memory;
            self.transport.copy(memory, &mut pieces);
            let mut place = header_places();
            for vif in self.ports.iter_mut().flatten().filter_map(Port::vif_mut) {
                vif.queues.iter_mut().for_each(|queue| queue.tx.peeked(memory, &mut place, &pieces));
            }
        }
        pieces.clear();
        self.round.pieces = pieces;
    }

    /// Finds everybody's receivers and moves the data.
    fn route(&mut self, now: Duration) -> (bool, Option<Duration>) {
        let mut pieces = core::mem::take(&mut self.round.pieces);
        let (memory, places) = self.staging.split();
        let mut router = Router::<T> {
            ports: &mut self.ports,
            table: &mut self.table,
            round: &mut self.round,
            memory,
            places,
            pieces: &mut pieces,
            most: 0,
            heads: 0..HEADERS,
            part: Part::ALL,
            now,
            until: None,
            turn: &mut self.turn,
        };
        router.arrived();
        router.most = router.pieces.len() + ALL_PIECES;
        let moved = router.vifs();
        let until = router.until;
        if !pieces.is_empty() {
            self.transport.copy(&self.staging.memory, &mut pieces);
        }
        let good = |range: &Range<usize>| pieces[range.clone()].iter().all(|piece| piece.result.is_ok());
        settle(&mut self.ports, &self.round, good);
        self.round.staged.retain(|staged| good(&staged.pieces));
        pieces.clear();
        self.round.pieces = pieces;
        (moved, until)
    }

    /// Shows the answers, and completes what was fetched. True: a connection broke.
    fn finish(&mut self) -> bool {
        let mut round = core::mem::take(&mut self.round);
        for staged in round.staged.drain(..) {
            let mut left = vif_at(&mut self.ports, staged.from).map_or(CUT_BUDGET, |vif| vif.cut_left);
            let frame = &mut round.frame;
            frame.resize(staged.place.length, 0);
            words::load(&self.staging.memory, staged.place.offset, frame);
            if let Some(port) = self.ports.get_mut(staged.to).and_then(Option::as_mut) {
                let most = left.min(staged.frames);
                let mut rest = most;
                complete(port, staged.from, &staged.offload, frame, &mut round.piece, &mut rest);
                left -= most - rest;
            }
            if let Some(vif) = vif_at(&mut self.ports, staged.from) {
                vif.cut_left = left;
            }
        }
        round.fragments.clear();
        round.sent.clear();
        round.given.clear();
        round.arrived.clear();
        self.round = round;
        let mut broke = false;
        for port in self.ports.iter_mut().flatten() {
            let vif = match port {
                Port::Vif(vif) => vif,
                Port::Wire { planned, shares, .. } => {
                    *planned = 0;
                    shares.end_round();
                    continue;
                }
            };
            vif.cut_left = CUT_BUDGET;
            vif.received.dropped += vif.late.end_round();
            if vif.broken.is_none()
                && let Err(broken) = publish(vif)
            {
                vif.broken = Some(broken);
            }
            broke |= vif.broken.is_some() && !core::mem::replace(&mut vif.is_known_broken, true);
        }
        broke
    }
}

/// With which key completed frames ask for pages.
const LATE: (usize, usize) = (usize::MAX, 0);

/// What a completed frame's checksum is.
const GOOD: Offload = Offload { checksum: Checksum::Good, gso: None };

/// Whether a front end has slots on a ring of which more may be taken in this round.
fn has_new<T: Transport>(vif: &mut Vif<T>) -> bool {
    vif.broken.is_none() && vif.queues.iter_mut().any(|queue| queue.tx.has_new(BUDGET))
}

/// Takes packets off a front end's rings, as long as there is room for their headers.
fn take<T: Transport>(
    vif: &mut Vif<T>,
    order: impl Iterator<Item = usize>,
    headers: &mut usize,
    now: Duration,
) -> bool {
    let mut moved = false;
    let Vif { queues, groups, sent, broken, .. } = vif;
    for number in order {
        let Some(queue) = queues.get_mut(number) else { continue };
        let taken = queue.tx.take(BUDGET, headers, now, |order| match order {
            Order::Join(group) => groups.join(group),
            Order::Leave(group) => groups.leave(group),
            Order::Send | Order::Refuse => {
                sent.errors += 1;
                false
            }
        });
        match taken {
            Ok(taken) => moved |= taken,
            Err(why) => {
                *broken = Some(why);
                return moved;
            }
        }
    }
    moved
}

/// Answers everybody: `good` says whether a packet's pieces were copied.
fn settle<T: Transport>(ports: &mut [Option<Port<T>>], round: &Round, good: impl Fn(&Range<usize>) -> bool) {
    for sent in &round.sent {
        let Some(vif) = vif_at(ports, sent.port) else { continue };
        let good = sent.good && good(&sent.pieces);
        if good {
            vif.sent.passed(sent.length);
        } else {
            vif.sent.errors += 1;
        }
        let ids = round.fragments[sent.fragments.clone()].iter().map(|fragment| fragment.id);
        if let Err(broken) = vif.queues[sent.queue].tx.answer(ids, sent.extras, status(good)) {
            vif.broken = Some(broken);
        }
    }
    for given in &round.given {
        let Some(vif) = vif_at(ports, given.port) else { continue };
        if good(&given.pieces) {
            vif.received.passed(given.length);
        } else {
            vif.received.errors += 1;
            vif.queues[given.queue].rx.fail(&given.room);
        }
    }
}

/// Shows a back end's answers to its front end.
fn publish<T: Transport>(vif: &mut Vif<T>) -> Result<(), Broken> {
    for queue in &mut vif.queues {
        queue.rx.answer()?;
        queue.publish();
    }
    Ok(())
}

/// Makes plain frames of a packet of the port `from`: for a wire at once, for a front end to be sent with the next round. `left`
/// counts down the frames that large packets may become on their way to a wire.
fn complete<T: Transport>(
    port: &mut Port<T>,
    from: usize,
    offload: &Offload,
    frame: &mut [u8],
    piece: &mut Vec<u8>,
    left: &mut usize,
) {
    let Some(gso) = offload.gso else {
        if offload.is_blank() {
            checksum::fill(frame);
        }
        send_plain(port, from, frame);
        return;
    };
    match Segments::of(frame, gso) {
        Some(mut segments) => {
            while segments.next_into(piece) {
                if let Port::Wire { received, .. } = port {
                    let Some(fewer) = left.checked_sub(1) else {
                        received.dropped += 1;
                        return;
                    };
                    *left = fewer;
                }
                // A receiver without room for a piece has none for those behind it.
                if !send_plain(port, from, piece) {
                    return;
                }
            }
        }
        // Not what its sender said it is.
        None => match port {
            Port::Vif(vif) => vif.received.errors += 1,
            Port::Wire { received, .. } => received.errors += 1,
        },
    }
}

/// Passes a complete frame on; whether it could be.
fn send_plain<T: Transport>(port: &mut Port<T>, from: usize, frame: &[u8]) -> bool {
    match port {
        Port::Wire { received, .. } if frame.len() > WIRE_FRAME => received.errors += 1,
        Port::Wire { wire, received, .. } => {
            if wire.transmit(frame) {
                received.passed(frame.len());
                return true;
            }
            received.dropped += 1;
        }
        Port::Vif(vif) if !vif.accepts.takes(&GOOD, frame.len(), 0) => vif.received.errors += 1,
        Port::Vif(vif) => {
            if vif.late.push(from, frame) {
                return true;
            }
            vif.received.dropped += 1;
        }
    }
    false
}
