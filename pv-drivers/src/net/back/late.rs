//! Frames that were completed for a front end and wait for its pages.
//!
//! Each front end has a list of its own: one that offers no pages keeps only its own frames waiting. Bytes are counted, not
//! frames: a frame can be 64 KiB long.
//!
//! In it each sender's port has an account, for one packet can become hundreds of frames. The senders take turns, in the order in
//! which they were served last, and what is kept is divided by their number: a new one always has room, if need be that of the
//! newest frames of the one that has most.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Bytes that wait, or will at the end of a round, before no more packets are fetched to be completed. It is divided by the number
/// of senders.
const ENOUGH: usize = 128 << 10;
/// Bytes that wait at most: room for what the last packet that was fetched grows by when it is cut into pieces of ordinary
/// size.
const MOST: usize = 256 << 10;
/// The least that a frame counts as: with [`MOST`], a limit of the number of frames.
const LEAST: usize = 256;

/// What a frame counts as.
fn cost(length: usize) -> usize {
    length.max(LEAST)
}

/// What one port sent.
#[derive(Debug)]
struct Sender {
    port: usize,
    frames: VecDeque<Vec<u8>>,
    /// What they count as.
    waiting: usize,
    /// What the packets count as that are fetched in this round.
    fetched: usize,
    /// Its first frame found no room in this round.
    blocked: bool,
}

/// The frames of one front end.
#[derive(Debug, Default)]
pub struct Late {
    /// Those with frames, or with a packet that is being fetched. The one whose turn it is comes first.
    senders: VecDeque<Sender>,
    /// Where the sender was that [`pop`](Self::pop) moved to the end.
    popped: usize,
    /// What all frames count as.
    waiting: usize,
    /// Frames that were dropped in this round for those of another sender.
    dropped: u64,
}

impl Late {
    fn of(&mut self, from: usize) -> Option<&mut Sender> {
        let place = match self.senders.iter().position(|sender| sender.port == from) {
            Some(place) => place,
            None => {
                self.senders.try_reserve(1).ok()?;
                let (frames, waiting, fetched, blocked) = (VecDeque::new(), 0, 0, false);
                self.senders.push_back(Sender { port: from, frames, waiting, fetched, blocked });
                self.senders.len() - 1
            }
        };
        self.senders.get_mut(place)
    }

    /// Whether no more packets of the port `from` are to be fetched for this front end in this round.
    pub fn is_full(&self, from: usize) -> bool {
        let share = ENOUGH / self.senders.len().max(1);
        let mut senders = self.senders.iter();
        senders.any(|sender| sender.port == from && sender.waiting + sender.fetched >= share)
    }

    /// A packet of the port `from` is being fetched: `length` bytes, which become `frames` frames.
    pub fn fetch(&mut self, from: usize, length: usize, frames: usize) {
        if let Some(sender) = self.of(from) {
            sender.fetched += length.max(frames * LEAST);
        }
    }

    /// The round is over: what was fetched in it is among the frames, or lost. The number of frames that were dropped for others.
    pub fn end_round(&mut self) -> u64 {
        self.senders.retain_mut(|sender| {
            (sender.fetched, sender.blocked) = (0, false);
            !sender.frames.is_empty()
        });
        core::mem::take(&mut self.dropped)
    }

    /// Keeps a frame of the port `from`. False: there is no room, or no memory.
    pub fn push(&mut self, from: usize, frame: &[u8]) -> bool {
        let cost = cost(frame.len());
        let mut copy = Vec::new();
        let Some(sender) = self.of(from) else { return false };
        let own = sender.waiting + cost;
        if sender.frames.try_reserve(1).is_err() || copy.try_reserve_exact(frame.len()).is_err() {
            return false;
        }
        while self.waiting + cost > MOST {
            if !self.drop_newest(own) {
                return false;
            }
        }
        copy.extend_from_slice(frame);
        let Some(sender) = self.of(from) else { return false };
        sender.frames.push_back(copy);
        sender.waiting = own;
        self.waiting += cost;
        true
    }

    /// Drops the newest frame of the sender that has most. False: none has more than `own`.
    fn drop_newest(&mut self, own: usize) -> bool {
        let Some(sender) = self.senders.iter_mut().max_by_key(|sender| sender.waiting) else { return false };
        if sender.waiting <= own {
            return false;
        }
        let Some(frame) = sender.frames.pop_back() else { return false };
        sender.waiting -= cost(frame.len());
        self.waiting -= cost(frame.len());
        self.dropped += 1;
        true
    }

    /// What the frames count as, in bytes.
    pub const fn bytes(&self) -> usize {
        self.waiting
    }

    /// Takes the oldest frame of the sender whose turn it is.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        let is_next = |sender: &Sender| !sender.blocked && !sender.frames.is_empty();
        let place = self.senders.iter().position(is_next)?;
        let mut sender = self.senders.remove(place)?;
        let frame = sender.frames.pop_front()?;
        sender.waiting -= cost(frame.len());
        self.waiting -= cost(frame.len());
        self.senders.push_back(sender);
        self.popped = place;
        Some(frame)
    }

    /// The port that sent the frame that [`pop`](Self::pop) gave last, and how many of its frames wait, with that one.
    pub fn popped(&self) -> (usize, usize) {
        self.senders.back().map_or((0, 1), |sender| (sender.port, 1 + sender.frames.len()))
    }

    /// Gives the frame back that [`pop`](Self::pop) gave last. Its sender keeps its turn, for the next round.
    pub fn put_back(&mut self, frame: Vec<u8>) {
        let Some(mut sender) = self.senders.pop_back() else { return };
        sender.waiting += cost(frame.len());
        self.waiting += cost(frame.len());
        sender.frames.push_front(frame);
        sender.blocked = true;
        self.senders.insert(self.popped, sender);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec;

    use super::*;

    #[test]
    fn frames_are_counted_by_their_bytes() {
        let mut late = Late::default();
        let large = [7; 65_535];
        let kept = (0..100).filter(|_| late.push(1, &large)).count();
        assert_eq!(kept, 4);
        assert!(late.senders[0].frames.iter().map(Vec::capacity).sum::<usize>() <= MOST);
        assert!(late.is_full(1));
        let frame = late.pop().unwrap();
        late.put_back(frame);
        assert_eq!(late.end_round(), 0);
        assert_eq!(core::iter::from_fn(|| late.pop()).count(), 4);
        assert_eq!(late.waiting, 0);
        assert_eq!(
            (0..5000).filter(|_| late.push(1, &[1; 60])).count(),
            1024,
            "small ones have a cost as well"
        );
    }

    #[test]
    fn what_a_round_fetches_counts_until_its_end() {
        let mut late = Late::default();
        late.fetch(1, 65_535, 1);
        assert!(!late.is_full(1));
        late.fetch(1, 65_537, 1);
        assert!(late.is_full(1) && !late.is_full(2));
        late.end_round();
        assert!(!late.is_full(1));
        late.fetch(1, 8192, 512);
        assert!(late.is_full(1), "what it becomes counts");
    }

    #[test]
    fn a_sender_has_room_where_another_has_filled_it() {
        let mut late = Late::default();
        assert_eq!((0..2000).filter(|_| late.push(1, &[1; 60])).count(), 1024);
        assert!(!late.is_full(2));
        assert_eq!((0..2000).filter(|_| late.push(2, &[2; 60])).count(), 512);
        assert_eq!((0..2000).filter(|_| late.push(1, &[1; 60])).count(), 0);
        assert!(late.is_full(1) && late.is_full(2));
        assert_eq!((late.bytes(), late.end_round(), late.end_round()), (MOST, 512, 0));
    }

    #[test]
    fn senders_take_turns_and_one_that_is_blocked_keeps_its_turn() {
        let mut late = Late::default();
        for number in 0..9 {
            assert!(late.push(number % 3, &[number as u8]));
        }
        assert_eq!([(); 4].map(|()| late.pop().unwrap()[0]), [0, 1, 2, 3]);
        for expected in [4, 5, 6] {
            let frame = late.pop().unwrap();
            assert_eq!(frame[0], expected);
            late.put_back(frame);
        }
        assert_eq!(late.pop(), None, "all are blocked");
        late.end_round();
        assert_eq!([(); 5].map(|()| late.pop().unwrap()), [4, 5, 6, 7, 8].map(|number| vec![number]));
        assert_eq!((late.pop(), late.bytes()), (None, 0));
    }
}
