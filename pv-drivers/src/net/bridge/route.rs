//! Where each packet goes, and the pieces in which it is copied there.

use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;

use super::super::Offload;
use super::super::back::{HEADER, Head, Lanes, Reserved, Room, Vif};
use super::super::chain::Fragment;
use super::super::checksum::Transport as Segment;
use super::forward::{BUDGET, Given, Round, Sent, Staged};
use super::packet::Packet;
use super::share::Ask;
use super::staging::{LARGEST, Place, Places, header_place};
use super::table::{Place as Found, Table};
use super::turn::{Part, Turn};
use super::{Port, vif_at};
use crate::transport::{Copy, CopyEnd, DomId, GrantRef, PAGE_SIZE, Transport, words};

/// Pieces in which the packets of one front end are copied in a round, to all of their receivers together, and those of its
/// last packet. What is behind them waits for the next round: a packet to all ports costs a piece for each fragment and port.
pub const PIECES: usize = 1024;
/// The same of all front ends together: where there are so many ports that a packet to all has hundreds of pieces, those that are
/// served last in a round have none, and are among the first in the next one.
pub const ALL_PIECES: usize = 16 * PIECES;

/// How long a packet waits for a wire's room, or for what is kept for others, before it is looked at again. No event tells of it.
const PAUSE: Duration = Duration::from_millis(1);

/// The place of stations that may be behind any wire, among the ports that packets wait for.
const WIRES: usize = usize::MAX;

/// How far the first packet of a lane got.
enum Step {
    /// It is on its way, or goes nowhere.
    Passed,
    /// It was lost at that port, which had no room, and may not wait.
    Lost,
    /// It waits for the room of that port, or behind another one that does.
    Waits(usize),
    /// What all share is short: the next round goes on with it.
    Stops,
}

/// What becomes of a packet at one port.
#[derive(Debug)]
pub enum Way {
    /// Into pages of the receiver's queue of that number.
    Direct(usize, Room),
    /// It must be completed first.
    Staged(Place),
    /// There is no room until then, perhaps.
    Wait(Duration),
    /// There is no room, and there was none for so long that it is not waited for.
    Full,
    /// The port does not get it.
    Drop,
}

/// Sets pages of a front end aside for a packet that begins with `header`. How many it needs is added to `ask`.
pub fn reserve<T: Transport>(
    vif: &mut Vif<T>,
    header: &[u8],
    length: usize,
    offload: &Offload,
    ask: Ask,
    now: Duration,
) -> Way {
    if vif.broken.is_some() {
        return Way::Drop;
    }
    let queue = queue_of(vif, header);
    let rx = &mut vif.queues[queue].rx;
    match rx.reserve(length, offload, ask, now) {
        Ok(Reserved::Room(room)) => return Way::Direct(queue, room),
        Ok(Reserved::Kept) => return Way::Wait(now + PAUSE),
        Ok(Reserved::Short) => {
            if let Some(until) = rx.patience(now) {
                return Way::Wait(until);
            }
            vif.received.dropped += 1;
            return Way::Full;
        }
        Err(broken) => vif.broken = Some(broken),
    }
    Way::Drop
}

/// The queue for a packet that begins with `header`: all packets of a connection go through one.
pub fn queue_of<T: Transport>(vif: &Vif<T>, header: &[u8]) -> usize {
    let count = vif.queues.len();
    if count > 1 { flow(header) as usize % count } else { 0 }
}

/// A number that all packets of a connection have in common.
fn flow(header: &[u8]) -> u32 {
    let mix = |sum: u32, byte: &u8| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let start = 0x811c_9dc5;
    let hash = match Segment::find_in_beginning(header) {
        Some(segment) => {
            let ports = &header[segment.start..segment.start + 4];
            segment.addresses(header).iter().chain(ports).fold(start, mix)
        }
        None => header.iter().take(12).fold(start, mix),
    };
    hash ^ (hash >> 16)
}

/// Cuts a packet where a page of its source or of its target ends; the target begins at `base`.
fn cut<S: core::marker::Copy>(
    sources: impl Iterator<Item = (S, usize, usize)>,
    base: usize,
    mut piece: impl FnMut(S, usize, usize, u16),
) {
    let mut at = base;
    for (source, mut offset, mut rest) in sources {
        while rest > 0 {
            let length = rest.min(PAGE_SIZE - at % PAGE_SIZE);
            // At most a page.
            piece(source, offset, at, u16::try_from(length).unwrap_or(0));
            (offset, at, rest) = (offset + length, at + length, rest - length);
        }
    }
}

/// The parts of a place in the staging memory that lie in one page each.
fn pages(place: Place) -> impl Iterator<Item = ((), usize, usize)> {
    let end = place.offset + place.length;
    let mut at = place.offset;
    core::iter::from_fn(move || {
        let length = (end - at).min(PAGE_SIZE - at % PAGE_SIZE);
        let part = (length > 0).then_some(((), at, length));
        at += length;
        part
    })
}

/// Decides where packets go.
pub struct Router<'r, T: Transport> {
    pub ports: &'r mut [Option<Port<T>>],
    pub table: &'r mut Table,
    pub round: &'r mut Round,
    pub memory: &'r T::Memory,
    pub places: Places<'r>,
    pub pieces: &'r mut Vec<Copy>,
    /// With so many pieces, nothing of front ends is routed any more.
    pub most: usize,
    /// Numbers of the places for the headers of packets that are passed on.
    pub heads: Range<usize>,
    /// What the port that is served has of what all share.
    pub part: Part,
    pub now: Duration,
    pub until: Option<Duration>,
    pub turn: &'r mut Turn,
}

/// Where a packet's bytes are.
enum Source {
    /// In fragments of this round, granted by a domain; but the first ones, which were judged, in own memory: whose they are may
    /// change those that it granted at any time.
    Peer(DomId, Range<usize>, Place),
    /// In the staging memory.
    Own(Place),
}

impl<T: Transport> Router<'_, T> {
    /// Frames in the staging memory.
    pub fn arrived(&mut self) {
        let arrived = core::mem::take(&mut self.round.arrived);
        for frame in &arrived {
            let source = Source::Own(frame.place);
            let has_room = self.round.has_room(self.ports.len(), self.pieces);
            if let Some((to, queue, room)) = frame.to {
                if has_room {
                    self.give(to, queue, room, &source, frame.place.length);
                } else if let Some(vif) = vif_at(self.ports, to) {
                    vif.received.errors += 1;
                    vif.queues[queue].rx.fail(&room);
                }
                continue;
            }
            let mut header = [0; HEADER];
            let header = &mut header[..HEADER.min(frame.place.length)];
            words::load(self.memory, frame.place.offset, header);
            let (length, offload, own) = (frame.place.length, Offload::default(), Some(frame.place));
            // It cannot wait.
            let ask = Ask { from: frame.from, key: (0, 0), size: 0, count: 1, patient: false };
            let packet = Packet { from: frame.from, header, length, offload, own, ask };
            if !self.accept(&packet) || !has_room {
                continue;
            }
            let mut ways = core::mem::take(&mut self.round.ways);
            // Without patience, it never waits.
            let _ = self.ways(&packet, false, &mut ways);
            for (to, way) in ways.drain(..) {
                self.go(to, way, &packet, &source);
            }
            self.round.ways = ways;
        }
        self.round.arrived = arrived;
    }

    /// The packets that wait in all front ends' queues. Each front end that has some has the same part of the places for headers and
    /// of the staging memory; then what is left goes to those that want more, in turn. The first one in turn has room for the
    /// largest packet in any case, so that such packets pass where the parts are small.
    pub fn vifs(&mut self) -> bool {
        let mut ready = 0;
        for vif in self.ports.iter_mut().flatten().filter_map(Port::vif_mut) {
            vif.queues.iter_mut().for_each(|queue| queue.tx.passed = 0);
            ready += usize::from(vif.queues.iter().any(|queue| queue.tx.lanes.has_packets()));
        }
        let part = |all: usize| (all / ready.max(1)).max(1);
        let part = Part { heads: part(self.heads.len()), bytes: part(self.places.rest()) };
        let (mut moved, mut is_first, mut are_left) = (false, true, false);
        for number in self.turn.order() {
            self.part = Part { bytes: if is_first { part.bytes.max(LARGEST) } else { part.bytes }, ..part };
            is_first = false;
            moved |= self.vif(number, true);
            are_left |= self.part.is_used_up();
            if let Some(vif) = vif_at(self.ports, number) {
                vif.wants_more = self.part.is_used_up();
            }
        }
        for number in self.turn.order().take_while(|_| are_left) {
            self.part = Part::ALL;
            if vif_at(self.ports, number).is_some_and(|vif| vif.wants_more) {
                moved |= self.vif(number, false);
            }
        }
        moved
    }

    /// The packets that wait in one front end's queues. Where its part is used up, it comes short only if it is not `served_again`.
    fn vif(&mut self, number: usize, served_again: bool) -> bool {
        let count =
            vif_at(self.ports, number).filter(|vif| vif.broken.is_none()).map_or(0, |vif| vif.queues.len());
        let (mut moved, mut is_short) = (false, false);
        let most = self.most.min(self.pieces.len() + PIECES);
        for queue in self.turn.queues(count) {
            let lanes = vif_at(self.ports, number).map_or(0, |vif| vif.queues[queue].tx.lanes.count());
            // Those that wait for their receivers first: they are older.
            for lane in (1..lanes).chain([Lanes::FIRST]) {
                while let Some(vif) = vif_at(self.ports, number)
                    && vif.queues[queue].tx.passed < BUDGET
                    && let Some(head) = vif.queues[queue].tx.lanes.head(lane).copied()
                {
                    if self.part.is_used_up() || self.pieces.len() >= most {
                        is_short |= !(served_again && self.part.is_used_up());
                        break;
                    }
                    // A round without them leaves what lists have.
                    if !self.round.has_room(self.ports.len(), self.pieces) {
                        (is_short, self.until) = (true, Some(self.now));
                        break;
                    }
                    let mut ways = core::mem::take(&mut self.round.ways);
                    let step = self.first(number, queue, lane, &head, &mut ways);
                    self.round.ways = ways;
                    let goes_on = served_again && self.part.is_used_up();
                    is_short |= !goes_on && !matches!(step, Step::Passed);
                    match step {
                        Step::Passed | Step::Lost => {
                            moved = true;
                            self.part.heads = self.part.heads.saturating_sub(1);
                            if let Some(vif) = vif_at(self.ports, number) {
                                vif.queues[queue].tx.passed += 1;
                            }
                        }
                        // Those behind it may be to others. Each is held once.
                        Step::Waits(to) if lane == Lanes::FIRST && self.hold(number, queue, to) => {}
                        Step::Waits(_) | Step::Stops => break,
                    }
                }
            }
        }
        if is_short {
            self.turn.came_short(number);
        }
        moved
    }

    /// The first packet of a queue waits for a port, and those behind it that are to others do not.
    fn hold(&mut self, number: usize, queue: usize, to: usize) -> bool {
        vif_at(self.ports, number).is_some_and(|vif| vif.queues[queue].tx.lanes.hold(to))
    }

    /// The port whose room a packet may wait for.
    fn waits_for(&self, packet: &Packet<'_>) -> Option<usize> {
        match self.table.find(packet.receiver(), self.now) {
            Found::Port(to) => Some(to),
            Found::Wires => Some(WIRES),
            // It waits for wires only.
            Found::Unknown => self.ports.iter().any(is_wire).then_some(WIRES),
            Found::Away => None,
        }
    }

    /// The first packet of a lane.
    fn first(
        &mut self,
        from: usize,
        queue: usize,
        lane: usize,
        head: &Head,
        ways: &mut Vec<(usize, Way)>,
    ) -> Step {
        let header = head.bytes();
        let (length, offload) = (usize::from(head.chain.length), head.chain.offload);
        let ask = Ask { from, key: (queue, 0), size: 0, count: 1, patient: true };
        let mut packet = Packet { from, header, length, offload, own: None, ask };
        let to = self.waits_for(&packet);
        let Some(vif) = vif_at(self.ports, from) else { return Step::Stops };
        packet.ask.key.1 = to.unwrap_or(WIRES);
        packet.ask.count = vif.queues[queue].tx.lanes.waiting(lane);
        if let Some(to) = to
            && head.good
            && lane == Lanes::FIRST
            && vif.queues[queue].tx.lanes.has_waiting(to)
        {
            return Step::Waits(to);
        }
        // Before pages are set aside, which are filled or given back in this round.
        if self.heads.is_empty() {
            // The next round has places.
            self.until = Some(self.now);
            return Step::Stops;
        }
        let good = head.good && self.accept(&packet);
        let mut is_lost = false;
        if good && let Err(until) = self.ways(&packet, true, ways) {
            // Room in the staging memory is not the receiver's to offer.
            let is_staging = until == self.now;
            let may_stop = |vif: &mut Vif<T>| vif.queues[queue].tx.lanes.may_stop(lane, self.now);
            if is_staging && vif_at(self.ports, from).is_some_and(may_stop) {
                self.until = Some(until);
                return Step::Stops;
            }
            // Only what is to one place waits.
            let to = to.unwrap_or(WIRES);
            let may_wait = |vif: &mut Vif<T>| vif.queues[queue].tx.lanes.may_wait(lane, to, self.now);
            if !is_staging && let Some(most) = vif_at(self.ports, from).and_then(may_wait) {
                let until = most.min(until);
                self.until = Some(self.until.map_or(until, |other| other.min(until)));
                return Step::Waits(to);
            }
            // Without patience it is lost, and never waits.
            let _ = self.ways(&packet, false, ways);
            is_lost = true;
        }
        is_lost |= ways.iter().any(|(_, way)| matches!(way, Way::Full | Way::Wait(_)));
        let Some(offset) = self.heads.next().map(header_place) else { return Step::Stops };
        words::store(self.memory, offset, header);
        let judged = Place { offset, length: header.len() };
        let Some(vif) = vif_at(self.ports, from) else { return Step::Stops };
        let start = self.round.fragments.len();
        vif.queues[queue].tx.lanes.pass(lane, &mut self.round.fragments);
        let fragments = start..self.round.fragments.len();
        let source = Source::Peer(vif.domain, fragments.clone(), judged);
        let first = self.pieces.len();
        for (to, way) in ways.drain(..) {
            self.go(to, way, &packet, &source);
        }
        let (extras, pieces) = (head.chain.extras, first..self.pieces.len());
        self.round.sent.push(Sent { port: from, queue, fragments, extras, length, pieces, good });
        if is_lost { Step::Lost } else { Step::Passed }
    }

    /// Judges and learns a packet's sender. False: it names another port's address, and goes nowhere. The packet of a front
    /// end is counted when it is answered.
    fn accept(&mut self, packet: &Packet<'_>) -> bool {
        let wire = match self.ports.get_mut(packet.from).and_then(Option::as_mut) {
            Some(Port::Wire { sent, .. }) => Some(sent),
            _ => None,
        };
        let accepted = self.table.accept(packet.sender(), packet.from, wire.is_some(), self.now);
        if let Some(sent) = wire.filter(|_| !accepted) {
            sent.errors += 1;
        }
        accepted
    }

    /// Finds the ports that a packet goes to, and what becomes of it there.
    ///
    /// # Errors
    ///
    /// Where it is `patient`: until when it must wait.
    fn ways(
        &mut self,
        packet: &Packet<'_>,
        patient: bool,
        ways: &mut Vec<(usize, Way)>,
    ) -> Result<(), Duration> {
        let receiver = packet.receiver();
        if receiver.is_link_local() {
            return Ok(());
        }
        match self.table.find(receiver, self.now) {
            Found::Away => {}
            Found::Port(to) if to == packet.from => {}
            Found::Port(to) => match self.way(to, packet) {
                Way::Wait(until) if patient => return Err(until),
                way => ways.push((to, way)),
            },
            found @ (Found::Unknown | Found::Wires) => {
                let all = (0..self.ports.len()).filter(|to| *to != packet.from);
                // Before it takes anything anywhere: it goes to all of them at once, or waits.
                for to in all.clone() {
                    if patient && !self.has_wire_room(to, packet) {
                        return Err(self.now + PAUSE);
                    }
                }
                for wires in [true, false] {
                    for to in all.clone().filter(|_| wires || found == Found::Unknown) {
                        if is_wire(&self.ports[to]) != wires {
                            continue;
                        }
                        match self.way(to, packet) {
                            Way::Wait(until) if patient && wires && ways.is_empty() => return Err(until),
                            way => ways.push((to, way)),
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a port is no wire that has no room for a packet now.
    fn has_wire_room(&mut self, to: usize, packet: &Packet<'_>) -> bool {
        let Some(Port::Wire { wire, planned, shares, .. }) = self.ports.get_mut(to).and_then(Option::as_mut)
        else {
            return true;
        };
        // What it does not take does not wait for it.
        if !packet.fits_wire() {
            return true;
        }
        let ask = packet.claim(&**wire);
        let room = wire.room().saturating_sub(*planned);
        let has_room = match shares.allows(&ask, room, self.now) {
            Some(false) => *planned == 0 && shares.kept_from(packet.from) == 0 && wire.is_idle(),
            allowed => allowed == Some(true),
        };
        if !has_room {
            shares.came_short(&ask, room, self.now);
        }
        has_room
    }

    /// What becomes of a packet at a port.
    fn way(&mut self, to: usize, packet: &Packet<'_>) -> Way {
        if !self.has_wire_room(to, packet) {
            return Way::Wait(self.now + PAUSE);
        }
        match self.ports.get_mut(to).and_then(Option::as_mut) {
            None => return Way::Drop,
            Some(Port::Wire { received, .. }) => {
                if !packet.fits_wire() {
                    received.errors += 1;
                    return Way::Drop;
                }
            }
            Some(Port::Vif(vif)) => {
                if !vif.wants(packet.receiver()) {
                    return Way::Drop;
                }
                if vif.accepts.takes(&packet.offload, packet.length, packet.version()) {
                    return reserve(vif, packet.header, packet.length, &packet.offload, packet.ask, self.now);
                }
                if vif.late.is_full(packet.from) {
                    return Way::Wait(self.now + Duration::from_millis(1));
                }
            }
        }
        // Without room in the staging memory: the next round has some.
        let place = packet.own.or_else(|| self.place(packet.length));
        let Some(place) = place else { return Way::Wait(self.now) };
        match self.ports.get_mut(to).and_then(Option::as_mut) {
            Some(Port::Vif(vif)) => vif.late.fetch(packet.from, packet.length, packet.frames()),
            Some(Port::Wire { wire, planned, shares, .. }) => {
                let ask = packet.claim(&**wire);
                *planned += ask.size;
                shares.take(&ask);
            }
            None => {}
        }
        Way::Staged(place)
    }

    /// A place in the staging memory; none: there is none, or the port has had its part.
    fn place(&mut self, length: usize) -> Option<Place> {
        let Some(rest) = self.part.bytes.checked_sub(length) else {
            self.part.bytes = 0;
            return None;
        };
        let place = self.places.take(length)?;
        self.part.bytes = rest;
        Some(place)
    }

    /// Lists the pieces of a packet on its way to a port.
    fn go(&mut self, to: usize, way: Way, packet: &Packet<'_>, source: &Source) {
        match way {
            Way::Direct(queue, room) => self.give(to, queue, room, source, packet.length),
            Way::Staged(place) => {
                let (place, pieces) = self.fetch(place, source);
                let (from, offload) = (packet.from, packet.offload);
                let frames = match &self.ports[to] {
                    Some(Port::Wire { wire, .. }) => packet.claim(&**wire).size,
                    _ => usize::MAX,
                };
                self.round.staged.push(Staged { from, to, place, offload, pieces, frames });
            }
            Way::Wait(_) => match &mut self.ports[to] {
                Some(Port::Vif(vif)) => vif.received.dropped += 1,
                Some(Port::Wire { received, .. }) => received.dropped += 1,
                None => {}
            },
            Way::Full | Way::Drop => {}
        }
    }

    /// Into the receiver's pages.
    fn give(&mut self, to: usize, queue: usize, room: Room, source: &Source, length: usize) {
        let Some(vif) = vif_at(self.ports, to) else { return };
        let (domain, rx) = (vif.domain, &vif.queues[queue].rx);
        let first = self.pieces.len();
        let pieces = &mut *self.pieces;
        let mut push = |from: CopyEnd, at: usize, length| {
            // Within a page.
            let offset = u16::try_from(at % PAGE_SIZE).unwrap_or(0);
            let target = CopyEnd::Peer { domain, reference: rx.page(&room, at / PAGE_SIZE), offset };
            pieces.push(Copy { source: from, target, length, result: Ok(()) });
        };
        match source {
            Source::Peer(sender, fragments, judged) => {
                cut(pages(*judged), 0, |(), offset, at, length| push(CopyEnd::Own { offset }, at, length));
                let rest = parts(&self.round.fragments[fragments.clone()], judged.length);
                cut(rest, judged.length, |reference, offset, at, length| {
                    push(peer(*sender, reference, offset), at, length);
                });
            }
            Source::Own(place) => cut(pages(*place), 0, |(), offset, at, length| {
                push(CopyEnd::Own { offset }, at, length);
            }),
        }
        let pieces = first..self.pieces.len();
        self.round.given.push(Given { port: to, queue, room, length, pieces });
    }

    /// Into the staging memory, where it is not there.
    fn fetch(&mut self, place: Place, source: &Source) -> (Place, Range<usize>) {
        let first = self.pieces.len();
        let (sender, fragments, judged) = match source {
            Source::Peer(sender, fragments, judged) => (*sender, fragments.clone(), *judged),
            Source::Own(there) => return (*there, first..first),
        };
        let mut header = [0; HEADER];
        let header = &mut header[..judged.length];
        words::load(self.memory, judged.offset, header);
        words::store(self.memory, place.offset, header);
        let pieces = &mut *self.pieces;
        let rest = parts(&self.round.fragments[fragments], judged.length);
        cut(rest, place.offset + judged.length, |reference, offset, at, length| {
            let target = CopyEnd::Own { offset: at };
            pieces.push(Copy { source: peer(sender, reference, offset), target, length, result: Ok(()) });
        });
        (place, first..self.pieces.len())
    }
}

fn is_wire<T: Transport>(port: &Option<Port<T>>) -> bool {
    matches!(port, Some(Port::Wire { .. }))
}

/// One end of a copy: a domain's page. The offset lies within it: fragments were checked.
fn peer(domain: DomId, reference: GrantRef, offset: usize) -> CopyEnd {
    CopyEnd::Peer { domain, reference, offset: u16::try_from(offset).unwrap_or(0) }
}

/// Fragments as sources of [`cut`], without so many bytes at their beginning.
fn parts(fragments: &[Fragment], mut without: usize) -> impl Iterator<Item = (GrantRef, usize, usize)> {
    fragments.iter().map(move |part| {
        let skipped = without.min(part.length.into());
        without -= skipped;
        (part.reference, usize::from(part.offset) + skipped, usize::from(part.length) - skipped)
    })
}
