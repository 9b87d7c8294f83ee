//! A network card of the machine as the bridge takes it: frames are given to the card's queue, and no loop waits for the medium.
//!
//! # Memory
//!
//! [`FRAMES`] frames wait or are the card's at most, with about two pages of memory each. The bridge asks how many more there is
//! room for, and lets packets of domains wait on their rings meanwhile; what comes nevertheless is lost and counted.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

use pv_drivers::net::bridge::Wire;

use crate::disk::Refused;

/// Frames that are to be sent, at most: those of four of the largest packets in pieces of ordinary size.
pub const FRAMES: usize = 192;

/// The queues of a card.
pub trait Queue: Send {
    /// Bytes in front of a frame, all zero.
    const HEADER: usize;

    /// Begins to send a frame behind its header. The bytes are the queue's until it is [done](Self::reap).
    ///
    /// # Errors
    ///
    /// [`Refused`], with the bytes.
    fn begin(&mut self, frame: Vec<u8>) -> Result<(), (Refused, Vec<u8>)>;

    /// Takes back one frame that was sent; whether there was one.
    fn reap(&mut self) -> bool;

    /// Hands the next frame that came in to `take`. False: there is none.
    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> bool;

    /// Before sleeping: sees to it that the next frame causes an event. True: one is there.
    fn sleep(&mut self) -> bool;
}

/// A card.
pub struct Card<Q> {
    queue: Q,
    /// Frames for which the queue had no room yet.
    waiting: VecDeque<Vec<u8>>,
    /// Frames in the queue.
    begun: usize,
}

impl<Q: Queue> Card<Q> {
    /// The card with these queues.
    pub const fn new(queue: Q) -> Self {
        Self { queue, waiting: VecDeque::new(), begun: 0 }
    }

    /// Takes back what was sent, and gives the queue what waits.
    fn work(&mut self) {
        while self.begun > 0 && self.queue.reap() {
            self.begun -= 1;
        }
        while let Some(frame) = self.waiting.pop_front() {
            match self.queue.begin(frame) {
                Ok(()) => self.begun += 1,
                // Nothing that is under way will make room for it.
                Err((Refused::Full, _)) if self.begun == 0 => {}
                Err((Refused::Full, frame)) => {
                    self.waiting.push_front(frame);
                    return;
                }
                Err((Refused::Failed, _)) => {}
            }
        }
    }

    fn count(&self) -> usize {
        self.begun + self.waiting.len()
    }
}

impl<Q: Queue> Wire for Card<Q> {
    fn transmit(&mut self, frame: &[u8]) -> bool {
        let mut copy = Vec::new();
        if self.count() >= FRAMES
            || self.waiting.try_reserve(1).is_err()
            || copy.try_reserve_exact(Q::HEADER + frame.len()).is_err()
        {
            return false;
        }
        copy.resize(Q::HEADER, 0);
        copy.extend_from_slice(frame);
        self.waiting.push_back(copy);
        self.work();
        true
    }

    fn room(&mut self) -> usize {
        self.work();
        FRAMES - self.count()
    }

    fn capacity(&self) -> usize {
        FRAMES
    }

    fn is_idle(&self) -> bool {
        self.count() == 0
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> bool {
        self.queue.receive(take)
    }

    fn sleep(&mut self) -> bool {
        self.work();
        // No event tells when the queue has room.
        self.queue.sleep() | !self.waiting.is_empty()
    }
}

impl<Q> fmt::Debug for Card<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Card").field("waiting", &self.waiting.len()).field("begun", &self.begun).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    /// A card that sends when it is told to.
    #[derive(Default)]
    struct Slow {
        begun: VecDeque<Vec<u8>>,
        sent: Vec<Vec<u8>>,
        may_send: usize,
        is_out_of_memory: bool,
    }

    impl Queue for Slow {
        const HEADER: usize = 2;

        fn begin(&mut self, frame: Vec<u8>) -> Result<(), (Refused, Vec<u8>)> {
            if self.begun.len() == 64 || self.is_out_of_memory {
                return Err((Refused::Full, frame));
            }
            if frame.len() == Self::HEADER {
                return Err((Refused::Failed, frame));
            }
            self.begun.push_back(frame);
            Ok(())
        }

        fn reap(&mut self) -> bool {
            let frame = if self.may_send > 0 { self.begun.pop_front() } else { None };
            self.may_send -= usize::from(frame.is_some());
            frame.map(|frame| self.sent.push(frame)).is_some()
        }

        fn receive(&mut self, _: &mut dyn FnMut(&[u8])) -> bool {
            false
        }

        fn sleep(&mut self) -> bool {
            false
        }
    }

    #[test]
    fn frames_are_sent_in_order_and_nobody_waits() {
        let mut card = Card::new(Slow::default());
        assert!(card.is_idle() && card.room() == FRAMES);
        let frame = |number: usize| vec![number as u8; 60];
        let with_header = |number| [vec![0; 2], frame(number)].concat();
        // The card does nothing at all.
        let taken = (0..FRAMES + 50).filter(|number| card.transmit(&frame(*number))).count();
        assert_eq!((taken, card.room(), card.is_idle()), (FRAMES, 0, false));
        assert_eq!((card.queue.begun.len(), card.waiting.len()), (64, FRAMES - 64));
        assert!(card.sleep(), "what waits is to be looked after");
        card.queue.may_send = 70;
        assert_eq!(card.room(), 64, "at most what is in the queue");
        assert_eq!(card.room(), 70);
        card.queue.may_send = usize::MAX;
        while card.sleep() {}
        card.work();
        assert!(card.is_idle() && card.room() == FRAMES);
        assert!(card.queue.sent.iter().cloned().eq((0..FRAMES).map(with_header)));
    }

    #[test]
    fn a_frame_that_cannot_be_sent_keeps_none_waiting() {
        let mut card = Card::new(Slow::default());
        assert!(card.transmit(&[]) && card.transmit(&[7]));
        assert_eq!((card.queue.begun.len(), card.waiting.len()), (1, 0));
        // Memory comes back when a frame was sent, and not without.
        card.queue.is_out_of_memory = true;
        assert!(card.transmit(&[8]) && card.sleep());
        card.queue.may_send = 1;
        assert!(!card.sleep() && card.is_idle(), "{card:?}");
    }
}
