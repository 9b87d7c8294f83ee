//! How the senders of packets share the room of a wire that has too little.
//!
//! What each sender took is counted in frames. Of those that came short, the one that took least is the first: the others see
//! the room without what its packet needs, until it has gone. So a large packet beside many small ones finds its room, and the one
//! that sends large packets has no more of the wire than the others.
//!
//! A sender that did not come short lately has no claim from that time: its count begins with that of the first. A packet has room
//! kept for [`HOLD`] at most, then its sender is charged for it as if it had gone.

use alloc::vec::Vec;
use core::time::Duration;

/// For so long room is kept for the packet of one sender: as long as a packet waits.
const HOLD: Duration = Duration::from_millis(100);
/// Rounds in which a sender that came short did not ask again, after which it does not wait any more.
const LAPSE: u64 = 16;

/// One sender.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// Frames that it took.
    taken: u64,
    /// Frames of the packet that there was no room for; 0: none.
    wants: usize,
    /// The last round in which there was no room for one; 0: there was none.
    short: u64,
}

/// The accounts of one wire.
#[derive(Debug)]
pub struct Shares {
    /// By the number of the sender's port.
    accounts: Vec<Account>,
    round: u64,
    /// The last round in which a sender came short.
    short: u64,
    /// With what count a sender begins while no sender waits.
    clock: u64,
    /// For whom room is kept, and since when.
    first: Option<(usize, Duration)>,
}

impl Shares {
    pub const fn new() -> Self {
        // No account says that it came short lately.
        Self { accounts: Vec::new(), round: LAPSE + 1, short: 0, clock: 0, first: None }
    }

    /// A round is over.
    pub fn end_round(&mut self) {
        self.round += 1;
    }

    /// What was at that port is gone.
    pub fn forget(&mut self, port: usize) {
        if let Some(account) = self.accounts.get_mut(port) {
            *account = Account::default();
        }
    }

    /// Frames that are kept for another sender than `from`, which asks for room.
    pub fn kept_from(&mut self, from: usize, now: Duration) -> usize {
        if self.accounts.len() <= from {
            self.accounts.resize(from + 1, Account::default());
        }
        let first = if self.is_lately(self.short) { self.first(now) } else { None };
        let least = first.map_or(self.clock, |first| self.accounts[first].taken);
        let is_back = !self.is_lately(self.accounts[from].short);
        let own = &mut self.accounts[from];
        if is_back {
            own.taken = own.taken.max(least);
        }
        let own = (own.taken, from);
        first.filter(|first| (least, *first) < own).map_or(0, |first| self.accounts[first].wants)
    }

    /// There was no room for a packet of a sender that [asked](Self::kept_from).
    pub fn came_short(&mut self, from: usize, frames: usize) {
        let Some(account) = self.accounts.get_mut(from) else { return };
        (account.wants, account.short, self.short) = (frames, self.round, self.round);
    }

    /// A packet of a sender that [asked](Self::kept_from) goes.
    pub fn take(&mut self, from: usize, frames: usize) {
        let Some(account) = self.accounts.get_mut(from) else { return };
        self.clock = self.clock.max(account.taken);
        account.taken += frames as u64;
        account.wants = 0;
        self.first = self.first.filter(|(first, _)| *first != from);
    }

    fn is_lately(&self, round: u64) -> bool {
        self.round - round <= LAPSE
    }

    /// The sender that room is kept for.
    fn first(&mut self, now: Duration) -> Option<usize> {
        loop {
            let waiting =
                |(_, account): &(usize, &Account)| account.wants > 0 && self.is_lately(account.short);
            let all = self.accounts.iter().enumerate().filter(waiting);
            let first = all.min_by_key(|(number, account)| (account.taken, *number))?.0;
            match self.first {
                Some((same, since)) if same == first && now >= since + HOLD => {
                    let frames = self.accounts[first].wants;
                    self.take(first, frames);
                }
                Some((same, _)) if same == first => return Some(first),
                _ => {
                    self.first = Some((first, now));
                    return Some(first);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    const fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A packet of `from` asks for room.
    fn ask(shares: &mut Shares, from: usize, frames: usize, room: &mut usize, now: Duration) -> bool {
        let fits = frames + shares.kept_from(from, now) <= *room;
        if fits {
            *room -= frames;
            shares.take(from, frames);
        } else {
            shares.came_short(from, frames);
        }
        fits
    }

    #[test]
    fn senders_of_large_and_of_small_packets_have_as_much() {
        let mut shares = Shares::new();
        let (mut room, mut took) = (0, [0; 3]);
        for round in 0..9000 {
            room += 3;
            // In whatever order, each for as long as there is room.
            for step in 0..3 {
                let from = (round + step) % 3;
                let frames = [1, 45, 7][from];
                while ask(&mut shares, from, frames, &mut room, at(0)) {
                    took[from] += frames;
                }
            }
            shares.end_round();
        }
        assert!(took.iter().all(|frames| (8900..9100).contains(frames)), "{took:?}");
    }

    #[test]
    fn one_that_comes_later_has_no_claim_from_before() {
        let mut shares = Shares::new();
        let mut count = [0; 2];
        for round in 0..2000 {
            let mut room = 3;
            for from in [1 - round % 2, round % 2] {
                while (from == 0 || round >= 1000) && ask(&mut shares, from, 1, &mut room, at(0)) {
                    count[from] += 1;
                }
            }
            shares.end_round();
        }
        assert!((1450..1550).contains(&count[1]), "{count:?}");
    }

    #[test]
    fn room_is_not_kept_for_ever() {
        let mut shares = Shares::new();
        let mut room = 10;
        assert!(!ask(&mut shares, 1, 500, &mut room, at(0)));
        assert!(!ask(&mut shares, 2, 1, &mut room, at(1)), "kept for the other one");
        assert!(!ask(&mut shares, 2, 1, &mut room, at(100)));
        assert!(ask(&mut shares, 2, 1, &mut room, at(101)));
        // It asks again, and was charged.
        assert!(!ask(&mut shares, 1, 500, &mut room, at(101)));
        assert!(ask(&mut shares, 2, 1, &mut room, at(101)));
        // One that does not ask any more, or is gone, does not wait.
        let mut shares = Shares::new();
        assert!(!ask(&mut shares, 1, 500, &mut room, at(0)));
        assert!(!ask(&mut shares, 2, 1, &mut room, at(0)));
        (0..=LAPSE).for_each(|_| shares.end_round());
        assert!(ask(&mut shares, 2, 1, &mut room, at(0)));
        assert!(!ask(&mut shares, 1, 500, &mut room, at(0)));
        assert!(!ask(&mut shares, 3, 1, &mut room, at(0)));
        shares.forget(1);
        assert!(ask(&mut shares, 3, 1, &mut room, at(0)));
    }
}
