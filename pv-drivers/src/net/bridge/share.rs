//! How the senders of packets share what one port has for them: the room of a wire, the pages that a receiver offers.
//!
//! What each sender took is counted in units (frames or pages), the older the less: the counts are halved when [`LATELY`] units were
//! taken. Once in a round what is there is divided among those that want it: those that took least come first, each gets what it
//! wants, until all have taken the same ([`Shares::divide`]). The first packet that waits has all that it needs before the rest is
//! divided. What a sender is given in this way is kept for it. The others see only the rest, in whatever order they ask.
//!
//! What a sender wants:
//!
//! - One whose packets can wait: what waits, and as much as it took in the last round. If most of it
//!   was kept for it in vain, while another one came short, it is charged for that.
//! - A wire, whose packets cannot wait: as much as came from there lately, taken or not ([`PERIOD`]).
//!
//! A packet that needs several units has a *claim* when there are too few for it. Nothing that the same sender sends otherwise makes
//! it wait longer: it sees the room without the claim, too. The callers see to it that no claim is for more than there can ever be.
//! After [`HOLD`] from the first refusal the sender is charged for the claim as if the packet had gone, and nothing is kept for it.
//!
//! A sender that did not ask lately has no advantage from that time: its count is at least that of the first of those that wait.

use alloc::vec::Vec;
use core::time::Duration;

/// For so long room is kept for one packet: as long as a packet waits.
const HOLD: Duration = Duration::from_millis(100);
/// Rounds in which a sender did not ask, after which it does not wait any more.
const LAPSE: u64 = 16;
/// Units that are taken until the counts are halved.
const LATELY: u64 = 4096;
/// In this time half of what came from a wire is forgotten.
const PERIOD: Duration = Duration::from_millis(40);

/// A packet that needs some of the units.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The number of the sender's port.
    pub from: usize,
    /// Of the packets of a sender with the same key, only the oldest one asks.
    pub key: (usize, usize),
    /// Units that it needs.
    pub size: usize,
    /// Packets that wait with it, itself included.
    pub count: usize,
    /// Whether it can wait.
    pub patient: bool,
}

/// A packet that there was too little for.
#[derive(Clone, Copy, Debug)]
struct Claim {
    key: (usize, usize),
    size: usize,
    /// When it was refused first.
    since: Duration,
}

/// One sender.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// Units that it took lately.
    taken: u64,
    /// The last round in which it asked; 0: it never did.
    round: u64,
    /// Units that it took in that round, and that those of its packets need that were left.
    took: usize,
    left: usize,
    /// Units that came from it lately, where its packets cannot wait.
    asked: usize,
    /// Whether it takes part in the division of this round, and what it wants.
    wants: usize,
    /// What of that is kept for its claim before anything is divided.
    claimed: usize,
    /// What is kept for it in this round.
    kept: usize,
    claim: Option<Claim>,
}

/// The accounts of what one port has.
#[derive(Debug)]
pub struct Shares {
    /// By the number of the sender's port.
    accounts: Vec<Account>,
    round: u64,
    /// The last round in which what there was was divided.
    divided: u64,
    /// What there is was divided in this round.
    is_divided: bool,
    /// A sender came short since the last division.
    is_short: bool,
    /// What is kept for all senders.
    kept: usize,
    /// With what count a sender begins that did not ask lately.
    floor: u64,
    /// The largest count with which a sender took something.
    clock: u64,
    /// Units that were taken since the counts were halved.
    given: u64,
    /// No claim is older.
    oldest: Option<Duration>,
    /// When what came from wires is halved.
    fade: Duration,
}

impl Shares {
    pub const fn new() -> Self {
        Self {
            accounts: Vec::new(),
            // No account says that it asked lately.
            round: LAPSE + 1,
            divided: 0,
            is_divided: false,
            is_short: false,
            kept: 0,
            floor: 0,
            clock: 0,
            given: 0,
            oldest: None,
            fade: Duration::ZERO,
        }
    }

    /// A round is over.
    pub fn end_round(&mut self) {
        self.round += 1;
        self.is_divided = false;
    }

    /// What was at that port is gone.
    pub fn forget(&mut self, port: usize) {
        if let Some(account) = self.accounts.get_mut(port) {
            self.kept -= account.kept;
            *account = Account::default();
        }
    }

    /// Whether a packet may have what it needs, of `room` units that are there. None: there is enough, but it is kept for others.
    pub fn allows(&mut self, ask: &Ask, room: usize, now: Duration) -> Option<bool> {
        if !self.is_divided {
            self.divide(room, now);
        }
        if self.oldest.is_some_and(|since| now > since + HOLD) {
            self.expire(now);
        }
        if self.accounts.len() <= ask.from {
            let more = ask.from + 1 - self.accounts.len();
            if self.accounts.try_reserve(more).is_err() {
                return Some(false);
            }
            self.accounts.resize(ask.from + 1, Account::default());
        }
        let round = self.round;
        let own = &mut self.accounts[ask.from];
        if own.round != round {
            if round - own.round > LAPSE {
                own.taken = own.taken.max(self.floor);
            }
            (own.round, own.took, own.left) = (round, 0, 0);
        }
        let claim = own.claim.filter(|claim| claim.key != ask.key).map_or(0, |claim| claim.size);
        let others = self.kept - own.kept;
        let fits = ask.size.saturating_add(others).saturating_add(claim) <= room;
        if fits || ask.size > room { Some(fits) } else { None }
    }

    /// Units that are kept for others than `from`.
    pub fn kept_from(&self, from: usize) -> usize {
        self.kept - self.accounts.get(from).map_or(0, |own| own.kept)
    }

    /// A packet that was not [allowed](Self::allows) waits, or is lost.
    pub fn came_short(&mut self, ask: &Ask, room: usize, now: Duration) {
        self.is_short = true;
        let Some(own) = self.accounts.get_mut(ask.from) else { return };
        if !ask.patient {
            own.asked = own.asked.saturating_add(ask.size);
            return;
        }
        own.left = own.left.saturating_add(ask.size.saturating_mul(ask.count));
        if own.claim.is_none_or(|claim| claim.key == ask.key) {
            let since = own.claim.map_or(now, |claim| claim.since);
            own.claim = Some(Claim { key: ask.key, size: ask.size, since });
            self.oldest = Some(self.oldest.map_or(since, |oldest| oldest.min(since)));
        }
        // Those that ask later in this round do not pass it, unless they took less.
        if own.taken <= self.floor {
            let more = room.saturating_sub(self.kept).min(own.left.saturating_sub(own.kept));
            own.kept += more;
            self.kept += more;
        }
    }

    /// A packet that was [allowed](Self::allows) goes.
    pub fn take(&mut self, ask: &Ask) {
        let Some(own) = self.accounts.get_mut(ask.from) else { return };
        self.clock = self.clock.max(own.taken);
        own.taken += ask.size as u64;
        self.given += ask.size as u64;
        let used = own.kept.min(ask.size);
        own.kept -= used;
        self.kept -= used;
        if ask.patient {
            own.took += ask.size;
            // The last one of them tells what is left behind it.
            own.left = ask.size.saturating_mul(ask.count.saturating_sub(1));
        } else {
            own.asked = own.asked.saturating_add(ask.size);
        }
        if own.claim.is_some_and(|claim| claim.key == ask.key) {
            own.claim = None;
        }
    }

    /// Divides `room` units.
    fn divide(&mut self, room: usize, now: Duration) {
        self.is_divided = true;
        let last = core::mem::replace(&mut self.divided, self.round);
        let was_short = core::mem::take(&mut self.is_short);
        let older = self.given >= LATELY;
        if older {
            (self.given, self.clock) = (0, self.clock / 2);
        }
        let fades = now >= self.fade;
        if fades {
            self.fade = now + PERIOD;
        }
        let (mut all, mut floor, mut most) = (0usize, u64::MAX, 0);
        for account in self.accounts.iter_mut().filter(|account| account.round > 0) {
            let age = self.round - account.round;
            let took = if account.round >= last { account.took } else { 0 };
            let in_vain = account.kept.saturating_sub(account.left);
            if age > LAPSE {
                (account.left, account.claim) = (0, None);
            }
            if was_short && account.asked == 0 && in_vain > took {
                account.taken += in_vain as u64;
            }
            if older {
                account.taken /= 2;
            }
            if fades {
                account.asked /= 2;
            }
            let waits = account.claim.map_or(0, |claim| claim.size).max(account.left);
            let again = if age <= 1 { account.took } else { 0 };
            account.wants = account.asked.saturating_add(waits).saturating_add(again);
            account.kept = account.wants;
            if account.wants > 0 {
                all = all.saturating_add(account.wants);
                (floor, most) = (floor.min(account.taken), most.max(account.taken));
            }
        }
        self.floor = if floor == u64::MAX { self.clock } else { floor };
        self.kept = all;
        if all <= room {
            return;
        }
        // The claim of the first one is met at once: it may need all that there is, while others took as little. Only those that
        // took less come before it.
        let claims = self.accounts.iter().enumerate().filter(|(_, account)| account.claim.is_some());
        let first = claims.min_by_key(|(number, account)| (account.taken, *number)).map(|(number, _)| number);
        let before = first.map_or(0, |first| self.up_to(self.accounts[first].taken)).min(room);
        let first = first.and_then(|first| self.accounts.get_mut(first));
        let claimed = first.map_or(0, |first| {
            first.claimed = first.claim.map_or(0, |claim| claim.size.min(room - before));
            first.taken += first.claimed as u64;
            first.wants -= first.claimed;
            first.claimed
        });
        let room = room - claimed;
        // The largest count up to which all can take.
        let (mut low, mut high) = (floor, most + (room + claimed) as u64 + 1);
        while high - low > 1 {
            let level = low + (high - low) / 2;
            if self.up_to(level) <= room {
                low = level;
            } else {
                high = level;
            }
        }
        self.kept = 0;
        for account in &mut self.accounts {
            let claimed = core::mem::take(&mut account.claimed);
            account.kept = account.up_to(low) + claimed;
            account.taken -= claimed as u64;
            self.kept += account.kept;
        }
    }

    /// What all together want until each has taken so much.
    fn up_to(&self, level: u64) -> usize {
        self.accounts.iter().fold(0, |sum: usize, account| sum.saturating_add(account.up_to(level)))
    }

    /// Charges for claims that were not met.
    fn expire(&mut self, now: Duration) {
        self.oldest = None;
        for account in &mut self.accounts {
            let Some(claim) = account.claim else { continue };
            if now > claim.since + HOLD {
                account.taken += claim.size as u64;
                self.kept -= core::mem::take(&mut account.kept);
                (account.claim, account.left) = (None, 0);
            } else {
                self.oldest = Some(self.oldest.map_or(claim.since, |oldest| oldest.min(claim.since)));
            }
        }
    }
}

impl Account {
    /// What it wants until it has taken so much.
    fn up_to(&self, level: u64) -> usize {
        self.wants.min(usize::try_from(level.saturating_sub(self.taken)).unwrap_or(usize::MAX))
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
        let ask = Ask { from, key: (0, 0), size: frames, count: 1, patient: true };
        let fits = shares.allows(&ask, *room, now) == Some(true);
        if fits {
            *room -= frames;
            shares.take(&ask);
        } else {
            shares.came_short(&ask, *room, now);
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

    #[test]
    fn a_claim_is_not_made_older_or_newer_by_what_else_its_sender_has() {
        let mut shares = Shares::new();
        let claim = Ask { from: 1, key: (0, 0), size: 100, count: 1, patient: true };
        let small = Ask { from: 1, key: (1, 0), size: 1, ..claim };
        for millis in 0..=100 {
            assert_eq!(shares.allows(&claim, 99, at(millis)), Some(false));
            shares.came_short(&claim, 99, at(millis));
            assert_eq!(shares.allows(&small, 100, at(millis)), None, "the claim is met first");
            shares.came_short(&small, 100, at(millis));
            assert_eq!(shares.allows(&small, 101, at(millis)), Some(true), "beside the claim");
            shares.take(&small);
            shares.end_round();
        }
        let other = Ask { from: 2, key: (0, 0), size: 1, ..claim };
        assert_eq!(shares.allows(&other, 99, at(101)), Some(true), "the time is over");
    }

    #[test]
    fn for_a_wire_that_sent_lately_a_part_is_kept() {
        let mut shares = Shares::new();
        let wire = Ask { from: 1, key: (0, 0), size: 1, count: 1, patient: false };
        let flood = Ask { from: 2, key: (0, 0), size: 1, count: 100, patient: true };
        let mut came = 0;
        for round in 0..2000 {
            let mut room = 100;
            for _ in 0..20 {
                while shares.allows(&flood, room, at(round)) == Some(true) {
                    shares.take(&flood);
                    room -= 1;
                }
                shares.came_short(&flood, room, at(round));
                // One in each of twenty rounds between two offers.
                if shares.allows(&wire, room, at(round)) == Some(true) {
                    shares.take(&wire);
                    room -= 1;
                    came += 1;
                } else {
                    shares.came_short(&wire, room, at(round));
                }
                shares.end_round();
            }
        }
        assert!(came > 2000 * 9, "{came}");
    }
}
