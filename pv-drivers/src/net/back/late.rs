//! Frames that were completed for a front end and wait for its pages.
//!
//! Each front end has a list of its own: one that offers no pages keeps only its own frames waiting. Bytes are counted, not
//! frames: a frame can be 64 KiB long.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Bytes that wait, or will at the end of a round, before no more packets are fetched to be completed.
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

/// The frames of one front end.
#[derive(Debug, Default)]
pub struct Late {
    frames: VecDeque<Vec<u8>>,
    /// What they count as.
    waiting: usize,
    /// What the packets count as that are fetched in this round.
    fetched: usize,
}

impl Late {
    /// Whether no more packets are to be fetched for this front end in this round.
    pub fn is_full(&self) -> bool {
        self.waiting + self.fetched >= ENOUGH
    }

    /// A packet of `length` bytes is being fetched.
    pub fn fetch(&mut self, length: usize) {
        self.fetched += cost(length);
    }

    /// The round is over: what was fetched in it is among the frames, or lost.
    pub fn end_round(&mut self) {
        self.fetched = 0;
    }

    /// Keeps a frame. False: there is no room, or no memory.
    pub fn push(&mut self, frame: &[u8]) -> bool {
        let waiting = self.waiting + cost(frame.len());
        let mut copy = Vec::new();
        if waiting > MOST
            || self.frames.try_reserve(1).is_err()
            || copy.try_reserve_exact(frame.len()).is_err()
        {
            return false;
        }
        copy.extend_from_slice(frame);
        self.frames.push_back(copy);
        self.waiting = waiting;
        true
    }

    /// What the frames count as, in bytes.
    pub const fn bytes(&self) -> usize {
        self.waiting
    }

    /// Takes the oldest frame.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        let frame = self.frames.pop_front()?;
        self.waiting -= cost(frame.len());
        Some(frame)
    }

    /// Gives a frame back that [`pop`](Self::pop) gave.
    pub fn put_back(&mut self, frame: Vec<u8>) {
        self.waiting += cost(frame.len());
        self.frames.push_front(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_by_their_bytes() {
        let mut late = Late::default();
        let large = [7; 65_535];
        let kept = (0..100).filter(|_| late.push(&large)).count();
        assert_eq!(kept, 4);
        assert!(late.frames.iter().map(Vec::capacity).sum::<usize>() <= MOST);
        assert!(late.is_full());
        let frame = late.pop().unwrap();
        late.put_back(frame);
        assert_eq!(core::iter::from_fn(|| late.pop()).count(), 4);
        assert_eq!(late.waiting, 0);
        assert_eq!((0..5000).filter(|_| late.push(&[1; 60])).count(), 1024, "small ones have a cost as well");
    }

    #[test]
    fn what_a_round_fetches_counts_until_its_end() {
        let mut late = Late::default();
        late.fetch(65_535);
        assert!(!late.is_full());
        late.fetch(65_537);
        assert!(late.is_full());
        late.end_round();
        assert!(!late.is_full());
    }
}
