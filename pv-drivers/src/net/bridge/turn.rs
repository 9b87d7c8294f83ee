//! Who is served first in a round, and how much each has of what all ports share in it.
//!
//! Each port that has something has the same part of the places for headers and of the staging memory ([`Part`]). Then those
//! that want more take what is left, in the order of the round. A port that has nothing is not counted, and does not come short.
//!
//! Ports are served in a circle. Where something that they share is short (headers, staging memory, a receiver's pages), those
//! that are served first have it. So the next round begins with the first port, behind the one that this round began with, that
//! came short since it was first itself: each port that wants more than there is is first once in as many rounds as there are such
//! ports, wherever the others are in the circle, and whether it comes short in each round or now and then.

use alloc::vec::Vec;
use core::ops::Range;

/// Whose turn it is.
#[derive(Debug, Default)]
pub struct Turn {
    /// The port that is served first.
    first: usize,
    /// Ports in the circle.
    count: usize,
    /// Of each port, whether it came short since it was first.
    short: Vec<bool>,
    /// Rounds until now.
    rounds: usize,
}

impl Turn {
    /// A round of `count` ports begins.
    pub fn begin(&mut self, count: usize) {
        self.count = count;
        self.short.resize(count, false);
        if self.first >= count {
            self.first = 0;
        }
    }

    /// The ports in the order of this round.
    pub fn order(&self) -> impl Iterator<Item = usize> + use<> {
        circle(0..self.count, self.first)
    }

    /// The queues of a port, the first one another in each round.
    pub fn queues(&self, count: usize) -> impl Iterator<Item = usize> + use<> {
        circle(0..count, self.rounds)
    }

    /// That port would have taken more in this round.
    pub fn came_short(&mut self, port: usize) {
        if port != self.first
            && let Some(short) = self.short.get_mut(port)
        {
            *short = true;
        }
    }

    /// The round is over.
    pub fn end(&mut self) {
        self.rounds = self.rounds.wrapping_add(1);
        let behind = || circle(0..self.count, self.first + 1);
        self.first = behind().find(|port| self.short[*port]).or(behind().next()).unwrap_or(0);
        if let Some(short) = self.short.get_mut(self.first) {
            *short = false;
        }
    }
}

/// What one port may take of what all ports share in a round.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Packets.
    pub heads: usize,
    /// Bytes of the staging memory.
    pub bytes: usize,
}

impl Part {
    /// All that is there.
    pub const ALL: Self = Self { heads: usize::MAX, bytes: usize::MAX };

    /// Whether it must not take more.
    pub const fn is_used_up(&self) -> bool {
        self.heads == 0 || self.bytes == 0
    }
}

/// The numbers of a range that begins with 0, from `start` on.
fn circle(all: Range<usize>, start: usize) -> impl Iterator<Item = usize> {
    let count = all.len().max(1);
    let start = start % count;
    all.map(move |step| (start + step) % count)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn all_are_first_in_turn_and_each_queue_too() {
        let mut turn = Turn::default();
        let mut firsts = Vec::new();
        for _ in 0..6 {
            turn.begin(4);
            firsts.extend(turn.order().next().zip(turn.queues(3).next()));
            assert_eq!(turn.order().count(), 4);
            turn.end();
        }
        assert_eq!(firsts, [(0, 0), (1, 1), (2, 2), (3, 0), (0, 1), (1, 2)]);
        turn.begin(1);
        assert_eq!(turn.order().collect::<Vec<_>>(), [0], "the others are gone");
        turn.begin(0);
        assert_eq!((turn.order().count(), turn.queues(0).count()), (0, 0));
        turn.end();
    }

    #[test]
    fn those_that_come_short_are_first_in_turn() {
        let mut turn = Turn::default();
        let mut firsts = [0; 20];
        // Three ports want all that there is: those behind the first of them have nothing.
        let greedy = [2, 3, 11];
        for _ in 0..300 {
            turn.begin(20);
            firsts[turn.order().next().unwrap()] += 1;
            let wanting: Vec<_> = turn.order().filter(|port| greedy.contains(port)).collect();
            wanting.iter().for_each(|port| turn.came_short(*port));
            turn.end();
        }
        assert!(greedy.iter().all(|port| firsts[*port] >= 99), "{firsts:?}");
    }

    #[test]
    fn one_that_comes_short_now_and_then_is_first_in_turn() {
        let mut turn = Turn::default();
        let mut firsts = [0; 8];
        for _ in 0..300 {
            turn.begin(8);
            let first = turn.order().next().unwrap();
            firsts[first] += 1;
            [0, 1].into_iter().for_each(|port| turn.came_short(port));
            // Only while another one is before it in the circle.
            if first == 0 {
                turn.came_short(5);
            }
            turn.end();
        }
        assert!([0, 1, 5].iter().all(|port| firsts[*port] >= 99), "{firsts:?}");
    }
}
