//! Which address is behind which port.
//!
//! Addresses are learned from the packets that come in and forgotten when none came for a while. Each port has a
//! share of its own: a domain that makes up addresses pushes out its own, not those of others.

use alloc::collections::BTreeMap;
use core::time::Duration;

use super::super::Mac;

/// How long an address is remembered (what IEEE 802.1Q recommends).
pub const AGE: Duration = Duration::from_secs(300);
/// Addresses that are remembered for one port.
pub const SHARE: usize = 256;

/// What is known of an address.
#[derive(Clone, Copy, Debug)]
struct Entry {
    port: usize,
    seen: Duration,
}

/// The addresses of a bridge.
#[derive(Debug, Default)]
pub struct Table {
    entries: BTreeMap<Mac, Entry>,
    /// How many of them are behind each port.
    counts: BTreeMap<usize, usize>,
}

impl Table {
    /// A packet from `mac` came in at `port`.
    pub fn learn(&mut self, mac: Mac, port: usize, now: Duration) {
        if mac.is_group() {
            return;
        }
        match self.entries.get_mut(&mac) {
            Some(entry) if entry.port == port => entry.seen = now,
            known => {
                let moved = known.is_some();
                if self.count(port) >= SHARE && !self.make_room(port, now) {
                    return;
                }
                if moved {
                    self.forget(mac);
                }
                self.entries.insert(mac, Entry { port, seen: now });
                *self.counts.entry(port).or_default() += 1;
            }
        }
    }

    /// The port that `mac` was last seen at.
    pub fn find(&self, mac: Mac, now: Duration) -> Option<usize> {
        let entry = self.entries.get(&mac)?;
        (now.saturating_sub(entry.seen) < AGE).then_some(entry.port)
    }

    /// Forgets what is behind `port`, which is gone.
    pub fn forget_port(&mut self, port: usize) {
        self.entries.retain(|_, entry| entry.port != port);
        self.counts.remove(&port);
    }

    fn count(&self, port: usize) -> usize {
        self.counts.get(&port).copied().unwrap_or(0)
    }

    /// Forgets a port's addresses that are too old; false: it has none.
    fn make_room(&mut self, port: usize, now: Duration) -> bool {
        let before = self.entries.len();
        self.entries.retain(|_, entry| entry.port != port || now.saturating_sub(entry.seen) < AGE);
        let gone = before - self.entries.len();
        if let Some(count) = self.counts.get_mut(&port) {
            *count -= gone;
        }
        gone > 0
    }

    fn forget(&mut self, mac: Mac) {
        let Some(entry) = self.entries.remove(&mac) else { return };
        if let Some(count) = self.counts.get_mut(&entry.port) {
            *count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn mac(number: u16) -> Mac {
        let [high, low] = number.to_be_bytes();
        Mac([2, 0, 0, 0, high, low])
    }

    const NOW: Duration = Duration::from_secs(1000);

    #[test]
    fn addresses_are_found_where_they_were_last_seen_until_they_are_old() {
        let mut table = Table::default();
        table.learn(mac(1), 3, NOW);
        assert_eq!(table.find(mac(1), NOW), Some(3));
        assert_eq!(table.find(mac(2), NOW), None);
        table.learn(mac(1), 4, NOW);
        assert_eq!(table.find(mac(1), NOW + AGE - Duration::from_millis(1)), Some(4));
        assert_eq!(table.find(mac(1), NOW + AGE), None);
        table.learn(mac(1), 4, NOW + AGE);
        assert_eq!(table.find(mac(1), NOW + AGE), Some(4), "seen again");
    }

    #[test]
    fn groups_are_nobodys_address() {
        let mut table = Table::default();
        table.learn(Mac::BROADCAST, 1, NOW);
        table.learn(Mac([1, 0, 0x5e, 0, 0, 1]), 1, NOW);
        assert_eq!(table.find(Mac::BROADCAST, NOW), None);
        assert_eq!(table.find(Mac([1, 0, 0x5e, 0, 0, 1]), NOW), None);
    }

    #[test]
    fn a_flood_of_addresses_neither_grows_the_table_nor_pushes_others_out() {
        let mut table = Table::default();
        table.learn(mac(0), 1, NOW);
        for number in 1..5000 {
            table.learn(mac(number), 2, NOW);
        }
        assert_eq!(table.entries.len(), SHARE + 1);
        assert_eq!(table.find(mac(0), NOW), Some(1));
        // Nor can it take an address over once its share is used up.
        table.learn(mac(0), 2, NOW);
        assert_eq!(table.find(mac(0), NOW), Some(1));
        // When its own are old, they make room.
        table.learn(mac(6000), 2, NOW + AGE);
        assert_eq!(table.find(mac(6000), NOW + AGE), Some(2));
        assert_eq!((table.count(1), table.count(2)), (1, 1));
    }

    #[test]
    fn a_port_that_is_gone_is_forgotten() {
        let mut table = Table::default();
        table.learn(mac(1), 1, NOW);
        table.learn(mac(2), 2, NOW);
        table.forget_port(1);
        assert_eq!((table.find(mac(1), NOW), table.find(mac(2), NOW)), (None, Some(2)));
        assert_eq!((table.count(1), table.count(2)), (0, 1));
    }
}
