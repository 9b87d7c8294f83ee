//! Who is served first in a round.
//!
//! Ports are served in a circle. Where something that they share is short (headers, staging memory, a receiver's pages), those
//! that are served first have it. So the next round begins with the first port, behind the one that this round began with, that
//! came short: each port that wants more than there is is first once in as many rounds as there are such ports, wherever the others
//! are in the circle.

use core::ops::Range;

/// Whose turn it is.
#[derive(Debug, Default)]
pub struct Turn {
    /// The port that is served first.
    first: usize,
    /// Ports in the circle.
    count: usize,
    /// The nearest port behind the first that came short: how far it is.
    short: Option<usize>,
    /// Rounds until now.
    rounds: usize,
}

impl Turn {
    /// A round of `count` ports begins.
    pub fn begin(&mut self, count: usize) {
        (self.count, self.short) = (count, None);
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
        // Both are less than the count.
        let distance = (port + self.count - self.first) % self.count.max(1);
        if distance > 0 {
            self.short = Some(self.short.map_or(distance, |other| other.min(distance)));
        }
    }

    /// The round is over.
    pub fn end(&mut self) {
        self.rounds = self.rounds.wrapping_add(1);
        self.first = (self.first + self.short.unwrap_or(1)) % self.count.max(1);
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
}
