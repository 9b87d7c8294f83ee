//! The packets of one transmit ring that were taken and are not passed on yet.
//!
//! They come into the first lane, in the order of the ring. One whose receiver has no room goes to a lane for that receiver, and
//! so do those to the same receiver behind it: packets to one receiver stay in order, and those to others do not wait for it.
//! As the slots of all are the ring's, all lanes together have no more packets, and no more fragments, than the ring has slots. Memory
//! for so many is reserved when the front end connects, and lanes are [lists](super::list) in it: nothing that the front end sends
//! later takes more.
//!
//! A packet waits for [`LONGEST`] at most: a full ring does not show what else its sender has. Then what is for that receiver, or
//! with too many receivers in the first lane, does not wait for [`SPAN`].

use alloc::vec::Vec;
use core::time::Duration;

use super::super::chain::{Chain, Fragment};
use super::list::{Iter, List, Store};
use super::tx::HEADER;
use crate::transport::Error;

/// Receivers that are waited for at once. The first packet to one more keeps those behind it waiting. A round looks at the first
/// packet of each lane.
const LANES: usize = 32;

/// How long a packet waits at most from the time at which it was taken off the ring, whatever is seen behind it.
const LONGEST: Duration = Duration::from_millis(100);
/// For so long no packet of a lane waits behind one that has waited for [`LONGEST`].
const SPAN: Duration = Duration::from_millis(200);
/// Rounds in which nothing of a lane passes, because what all ports share is short, before [`LONGEST`] counts: a round may take
/// long, and the lane's turn comes earlier as a rule.
const ROUNDS: u32 = 64;

/// A packet that waits.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// Its slots.
    pub chain: Chain,
    /// Its first bytes.
    pub(super) bytes: [u8; HEADER],
    /// The pieces that copy them, by number.
    pub(super) pieces: (usize, usize),
    /// When it was taken off the ring.
    pub(super) taken: Duration,
    /// Whether they are there: not where the front end's grant does not allow it.
    pub good: bool,
}

impl Head {
    /// Its first bytes: [`HEADER`] of them, or all.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..HEADER.min(self.chain.length.into())]
    }
}

/// A packet with its fragments, in order.
#[derive(Clone, Copy)]
struct Packet {
    head: Head,
    fragments: List,
}

/// Packets in order.
struct Lane {
    /// The receiver's port.
    to: Option<usize>,
    packets: List,
    /// How many packets wait in the lane of a receiver.
    count: usize,
    /// No packet waits until then.
    hurry: Duration,
    /// Since when nothing of it passed, and for how many rounds, because what all ports share was short.
    stopped: Option<(Duration, u32)>,
}

impl Lane {
    const fn new(to: Option<usize>) -> Self {
        Self { to, packets: List::EMPTY, count: 0, hurry: Duration::ZERO, stopped: None }
    }
}

/// The lanes of a ring.
pub struct Lanes {
    /// The first one, and those of receivers.
    lanes: Vec<Lane>,
    /// Packets behind those of the first lane whose first bytes are not here yet.
    new: List,
    packets: Store<Packet>,
    fragments: Store<Fragment>,
}

impl Lanes {
    /// The number of the lane that packets come into.
    pub const FIRST: usize = 0;

    /// The lanes of a ring that has so many slots.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(slots: usize) -> Result<Self, Error> {
        let mut lanes = Vec::new();
        lanes.try_reserve_exact(1 + LANES).map_err(|_| Error::NoMemory)?;
        lanes.push(Lane::new(None));
        Ok(Self { lanes, new: List::EMPTY, packets: Store::new(slots)?, fragments: Store::new(slots)? })
    }

    /// Adds a packet that was taken off the ring. It is in the first lane after [`seen`](Self::seen). False: there is no room, as
    /// more slots are in use than the ring has.
    pub fn add(&mut self, head: Head, parts: &[Fragment]) -> bool {
        let mut fragments = List::EMPTY;
        parts.iter().all(|part| self.fragments.push(&mut fragments, *part))
            && self.packets.push(&mut self.new, Packet { head, fragments })
    }

    /// Shows the new packets and their fragments to `look`.
    pub fn each_new(&mut self, mut look: impl FnMut(&mut Head, Iter<'_, Fragment>)) {
        let Self { packets, fragments, new, .. } = self;
        packets.each(new, |packet| look(&mut packet.head, fragments.iter(&packet.fragments)));
    }

    /// The first bytes of the new packets are here.
    pub fn seen(&mut self) {
        self.packets.append(&mut self.lanes[Self::FIRST].packets, &mut self.new);
    }

    /// How many there are, in whose numerical order they are looked at: those of receivers, whose packets are older, before the
    /// first.
    pub fn count(&self) -> usize {
        self.lanes.len()
    }

    /// Forgets lanes that are not needed any more.
    pub fn tidy(&mut self, now: Duration) {
        self.lanes.retain(|lane| lane.to.is_none() || !lane.packets.is_empty() || now < lane.hurry);
    }

    /// The first packet of a lane.
    pub fn head(&self, lane: usize) -> Option<&Head> {
        Some(&self.packets.first(&self.lanes.get(lane)?.packets)?.head)
    }

    /// How many packets wait for a lane's receiver, as far as they are known: the first one of the first lane alone.
    pub fn waiting(&self, lane: usize) -> usize {
        self.lanes.get(lane).map_or(1, |lane| lane.count.max(1))
    }

    /// Whether there are packets that were [seen](Self::seen).
    pub fn has_packets(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.packets.is_empty())
    }

    fn of(&self, to: usize) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.to == Some(to))
    }

    /// Whether packets to that port wait in a lane of their own.
    pub fn has_waiting(&self, to: usize) -> bool {
        self.of(to).is_some_and(|lane| !self.lanes[lane].packets.is_empty())
    }

    /// The first packet of the first lane waits for that port from now on. False: there are as many lanes as there may be.
    pub fn hold(&mut self, to: usize) -> bool {
        let lane = match self.of(to) {
            Some(lane) => lane,
            None if self.lanes.len() > LANES => return false,
            None => {
                self.lanes.push(Lane::new(Some(to)));
                self.lanes.len() - 1
            }
        };
        let [first, others @ ..] = &mut self.lanes[..] else { return false };
        let lane = &mut others[lane - 1];
        lane.count += 1;
        self.packets.shift(&mut first.packets, &mut lane.packets)
    }

    /// Until when the first packet of a lane may wait, because the port `to` has no room at `now`; none: it must not.
    pub fn may_wait(&mut self, lane: usize, to: usize, now: Duration) -> Option<Duration> {
        let longest = self.head(lane)?.taken + LONGEST;
        let waits_in = self.of(to).unwrap_or(lane);
        let hurry = &mut self.lanes[waits_in].hurry;
        if now >= longest {
            *hurry = now + SPAN;
        }
        (now >= *hurry).then_some(longest)
    }

    /// Whether the first packet of a lane may wait for what all ports share, which is short in the round at `now`.
    pub fn may_stop(&mut self, lane: usize, now: Duration) -> bool {
        let Some(lane) = self.lanes.get_mut(lane) else { return false };
        let (since, rounds) = lane.stopped.get_or_insert((now, 0));
        *rounds += 1;
        *rounds <= ROUNDS || now < *since + LONGEST
    }

    /// The first packet of a lane is dealt with; its fragments go to the end of `done`.
    pub fn pass(&mut self, lane: usize, done: &mut Vec<Fragment>) {
        let Some(lane) = self.lanes.get_mut(lane) else { return };
        let Some(mut packet) = self.packets.pop(&mut lane.packets) else { return };
        lane.stopped = None;
        lane.count = lane.count.saturating_sub(1);
        while let Some(fragment) = self.fragments.pop(&mut packet.fragments) {
            done.push(fragment);
        }
    }

    /// Bytes that the lanes hold, used or not.
    #[cfg(test)]
    fn held(&self) -> usize {
        self.lanes.capacity() * size_of::<Lane>() + self.packets.bytes() + self.fragments.bytes()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec;

    use super::super::super::Offload;
    use super::super::super::chain::Order;
    use super::*;
    use crate::transport::GrantRef;

    /// Fragments of two for each packet.
    const SLOTS: usize = 512;

    const fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Packet number `id`, of two fragments, taken at `taken`.
    fn add(lanes: &mut Lanes, id: u16, taken: u64) {
        let offload = Offload::default();
        let chain = Chain { fragments: 2, extras: 0, length: 60, offload, order: Order::Send };
        let head = Head { chain, bytes: [0; HEADER], pieces: (0, 0), taken: at(taken), good: true };
        let fragment = |id| Fragment { id, reference: GrantRef(0), offset: 0, length: 30 };
        assert!(lanes.add(head, &[fragment(2 * id), fragment(2 * id + 1)]));
        lanes.seen();
    }

    #[test]
    fn fragments_go_with_their_packets() {
        let mut lanes = Lanes::new(SLOTS).unwrap();
        (0..4).for_each(|id| add(&mut lanes, id, 0));
        assert!(lanes.hold(7) && !lanes.has_waiting(6) && lanes.has_waiting(7));
        let mut done = vec![];
        lanes.pass(Lanes::FIRST, &mut done);
        assert!(lanes.hold(7));
        for lane in [1, 0, 1, 0] {
            lanes.pass(lane, &mut done);
        }
        assert_eq!(done.iter().map(|part| part.id).collect::<Vec<_>>(), [2, 3, 0, 1, 6, 7, 4, 5]);
        assert!(!lanes.has_waiting(7) && lanes.head(0).is_none());
        lanes.tidy(at(0));
        assert_eq!(lanes.count(), 1);
    }

    #[test]
    fn one_receiver_is_waited_for_no_longer_and_others_are() {
        let mut lanes = Lanes::new(SLOTS).unwrap();
        (0..4).for_each(|id| add(&mut lanes, id, 10));
        assert!(lanes.hold(7) && lanes.hold(7) && lanes.hold(8));
        assert_eq!(lanes.may_wait(1, 7, at(109)), Some(at(110)));
        assert_eq!(lanes.may_wait(1, 7, at(110)), None);
        lanes.pass(1, &mut vec![]);
        lanes.pass(1, &mut vec![]);
        lanes.tidy(at(309));
        add(&mut lanes, 4, 300);
        lanes.pass(Lanes::FIRST, &mut vec![]);
        assert_eq!(lanes.may_wait(Lanes::FIRST, 7, at(309)), None, "still in a hurry");
        assert_eq!(lanes.may_wait(Lanes::FIRST, 9, at(309)), Some(at(400)));
        assert_eq!(lanes.may_wait(Lanes::FIRST, 7, at(310)), Some(at(400)));
        lanes.tidy(at(310));
        assert_eq!(lanes.count(), 2, "that of port 8");
    }

    #[test]
    fn what_lanes_hold_is_bounded_by_the_slots() {
        let mut lanes = Lanes::new(SLOTS).unwrap();
        let (mut done, reserved) = (vec![], lanes.held());
        for to in 1..=LANES {
            // Never more than 160 packets at once; each lane once held 129, and keeps one.
            (0..129).for_each(|id| add(&mut lanes, id, 0));
            assert!((0..129).all(|_| lanes.hold(to)));
            (0..128).for_each(|_| lanes.pass(to, &mut done));
            done.clear();
        }
        assert_eq!(lanes.count(), 1 + LANES);
        let held = lanes.held();
        assert!(held <= SLOTS * 192, "{held} bytes");
        assert_eq!(held, reserved, "nothing that comes takes more");
    }

    #[test]
    fn what_stops_for_rounds_and_for_long_does_not_any_more() {
        let mut lanes = Lanes::new(SLOTS).unwrap();
        (0..3).for_each(|id| add(&mut lanes, id, 0));
        // Many rounds that are short, and then long ones.
        assert!((500..599).all(|millis| lanes.may_stop(Lanes::FIRST, at(millis))));
        assert!(lanes.may_stop(Lanes::FIRST, at(599)) && !lanes.may_stop(Lanes::FIRST, at(600)));
        lanes.pass(Lanes::FIRST, &mut vec![]);
        assert!((0..ROUNDS.into()).all(|round| lanes.may_stop(Lanes::FIRST, at(700 + 50 * round))));
        assert!(!lanes.may_stop(Lanes::FIRST, at(10_000)));
    }

    #[test]
    fn lanes_are_limited() {
        let mut lanes = Lanes::new(SLOTS).unwrap();
        (0..40).for_each(|id| add(&mut lanes, id, 0));
        assert_eq!((0..40).filter(|to| lanes.hold(*to)).count(), LANES);
        assert!(lanes.hold(5), "it has a lane");
    }
}
