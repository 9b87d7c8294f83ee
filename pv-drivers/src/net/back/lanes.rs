//! The packets of one transmit ring that were taken and are not passed on yet.
//!
//! They come into the first lane, in the order of the ring. One whose receiver has no room goes to a lane for that receiver, and
//! so do those to the same receiver behind it: packets to one receiver stay in order, and those to others do not wait for it.
//! As the slots of all are the ring's, all lanes together have no more packets than the ring has slots.
//!
//! A packet waits for [`LONGEST`] at most: a full ring does not show what else its sender has. Then what is for that receiver, or
//! with too many receivers in the first lane, does not wait for [`SPAN`].

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use super::super::chain::{Chain, Fragment};
use super::tx::HEADER;

/// Receivers that are waited for at once. The first packet to one more keeps those behind it waiting. A round looks at the first
/// packet of each lane.
const LANES: usize = 32;

/// How long a packet waits at most from the time at which it was taken off the ring, whatever is seen behind it.
const LONGEST: Duration = Duration::from_millis(100);
/// For so long no packet of a lane waits behind one that has waited for [`LONGEST`].
const SPAN: Duration = Duration::from_millis(200);

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

/// Packets in order.
#[derive(Default)]
pub struct Lane {
    /// The receiver's port.
    to: Option<usize>,
    pub(super) packets: VecDeque<Head>,
    /// Their fragments, in order.
    pub(super) fragments: VecDeque<Fragment>,
    /// No packet waits until then.
    hurry: Duration,
}

/// The lanes of a ring.
pub struct Lanes(Vec<Lane>);

impl Lanes {
    /// The number of the lane that packets come into.
    pub const FIRST: usize = 0;

    pub fn new() -> Self {
        Self(Vec::from([Lane::default()]))
    }

    /// The first one.
    pub fn entry(&mut self) -> &mut Lane {
        &mut self.0[Self::FIRST]
    }

    /// How many there are, in whose numerical order they are looked at: those of receivers, whose packets are older, before the
    /// first.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Forgets lanes that are not needed any more.
    pub fn tidy(&mut self, now: Duration) {
        self.0.retain(|lane| lane.to.is_none() || !lane.packets.is_empty() || now < lane.hurry);
    }

    /// The first packet of a lane.
    pub fn head(&self, lane: usize) -> Option<&Head> {
        self.0.get(lane)?.packets.front()
    }

    fn of(&self, to: usize) -> Option<usize> {
        self.0.iter().position(|lane| lane.to == Some(to))
    }

    /// Whether packets to that port wait in a lane of their own.
    pub fn has_waiting(&self, to: usize) -> bool {
        self.of(to).is_some_and(|lane| !self.0[lane].packets.is_empty())
    }

    /// The first packet of the first lane waits for that port from now on. False: there are as many lanes as there may be.
    pub fn hold(&mut self, to: usize) -> bool {
        let lane = match self.of(to) {
            Some(lane) => lane,
            None if self.0.len() > LANES => return false,
            None => {
                self.0.push(Lane { to: Some(to), ..Lane::default() });
                self.0.len() - 1
            }
        };
        let [first, others @ ..] = &mut self.0[..] else { return false };
        let Some(packet) = first.packets.pop_front() else { return false };
        let lane = &mut others[lane - 1];
        lane.fragments.extend(first.fragments.drain(..usize::from(packet.chain.fragments)));
        lane.packets.push_back(packet);
        true
    }

    /// Until when the first packet of a lane may wait, because the port `to` has no room at `now`; none: it must not.
    pub fn may_wait(&mut self, lane: usize, to: usize, now: Duration) -> Option<Duration> {
        let longest = self.head(lane)?.taken + LONGEST;
        let waits_in = self.of(to).unwrap_or(lane);
        let hurry = &mut self.0[waits_in].hurry;
        if now >= longest {
            *hurry = now + SPAN;
        }
        (now >= *hurry).then_some(longest)
    }

    /// The first packet of a lane is dealt with; its fragments go to the end of `done`.
    pub fn pass(&mut self, lane: usize, done: &mut Vec<Fragment>) {
        let Some(lane) = self.0.get_mut(lane) else { return };
        if let Some(packet) = lane.packets.pop_front() {
            done.extend(lane.fragments.drain(..usize::from(packet.chain.fragments)));
        }
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

    const fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Packet number `id`, of two fragments, taken at `taken`.
    fn add(lanes: &mut Lanes, id: u16, taken: u64) {
        let offload = Offload::default();
        let chain = Chain { fragments: 2, extras: 0, length: 60, offload, order: Order::Send };
        let bytes = [0; HEADER];
        let lane = lanes.entry();
        lane.packets.push_back(Head { chain, bytes, pieces: (0, 0), taken: at(taken), good: true });
        let fragment = |id| Fragment { id, reference: GrantRef(0), offset: 0, length: 30 };
        lane.fragments.extend([fragment(2 * id), fragment(2 * id + 1)]);
    }

    #[test]
    fn fragments_go_with_their_packets() {
        let mut lanes = Lanes::new();
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
        let mut lanes = Lanes::new();
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
    fn lanes_are_limited() {
        let mut lanes = Lanes::new();
        (0..40).for_each(|id| add(&mut lanes, id, 0));
        assert_eq!((0..40).filter(|to| lanes.hold(*to)).count(), LANES);
        assert!(lanes.hold(5), "it has a lane");
    }
}
