//! Which address is behind which port.
//!
//! The configured address of a domain's device is *static*: it is at that device's port, and a packet that names it as its
//! sender at any other port is refused.
//!
//! Other addresses are learned from the packets that come in and forgotten when none came for a while. A packet from a
//! domain moves no address that was learned at a wire, so that a domain cannot take over a station of the network there.
//! Each port has a share of its own: a domain that makes up addresses pushes out its own, not those of others.

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
    /// Whether a wire is there.
    is_wire: bool,
    seen: Duration,
}

/// The addresses of a bridge.
#[derive(Debug, Default)]
pub struct Table {
    /// Configured addresses and their ports.
    fixed: BTreeMap<Mac, usize>,
    entries: BTreeMap<Mac, Entry>,
    /// How many of them are behind each port.
    counts: BTreeMap<usize, usize>,
}

impl Table {
    /// `mac` is the configured address at `port`, until the port is gone. An address that another port has already stays
    /// there.
    pub fn fix(&mut self, mac: Mac, port: usize) {
        if !mac.is_group() {
            self.fixed.entry(mac).or_insert(port);
        }
    }

    /// Judges the sender of a packet that came in at `port`, and learns it. False: the address is another port's, and the
    /// packet must not pass.
    pub fn accept(&mut self, mac: Mac, port: usize, is_wire: bool, now: Duration) -> bool {
        if let Some(owner) = self.fixed.get(&mac) {
            return *owner == port;
        }
        let known = self.entries.get(&mac).filter(|entry| now.saturating_sub(entry.seen) < AGE);
        if known.is_some_and(|entry| entry.is_wire && !is_wire && entry.port != port) {
            return false;
        }
        self.learn(mac, port, now);
        if let Some(entry) = self.entries.get_mut(&mac).filter(|entry| entry.port == port) {
            entry.is_wire = is_wire;
        }
        true
    }

    /// A packet from `mac` came in at `port`.
    fn learn(&mut self, mac: Mac, port: usize, now: Duration) {
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
                self.entries.insert(mac, Entry { port, is_wire: false, seen: now });
                *self.counts.entry(port).or_default() += 1;
            }
        }
    }

    /// The port that `mac` is configured for, or was last seen at.
    pub fn find(&self, mac: Mac, now: Duration) -> Option<usize> {
        if let Some(port) = self.fixed.get(&mac) {
            return Some(*port);
        }
        let entry = self.entries.get(&mac)?;
        (now.saturating_sub(entry.seen) < AGE).then_some(entry.port)
    }

    /// Forgets what is behind `port`, which is gone.
    pub fn forget_port(&mut self, port: usize) {
        self.fixed.retain(|_, fixed| *fixed != port);
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
    fn a_configured_address_stays_at_its_port() {
        let mut table = Table::default();
        assert!(table.accept(mac(1), 4, false, NOW), "not configured yet");
        table.fix(mac(1), 3);
        table.fix(mac(1), 5);
        for is_wire in [false, true] {
            assert!(!table.accept(mac(1), 4, is_wire, NOW));
        }
        assert!(table.accept(mac(1), 3, false, NOW));
        assert_eq!(table.find(mac(1), NOW + AGE * 2), Some(3), "it does not grow old");
        table.forget_port(3);
        assert!(table.accept(mac(1), 5, false, NOW + AGE * 2));
        assert_eq!(table.find(mac(1), NOW + AGE * 2), Some(5));
    }

    #[test]
    fn only_a_wire_moves_an_address_that_was_learned_at_one() {
        let mut table = Table::default();
        assert!(table.accept(mac(1), 3, true, NOW));
        assert!(!table.accept(mac(1), 4, false, NOW));
        assert_eq!(table.find(mac(1), NOW), Some(3));
        assert!(table.accept(mac(1), 4, false, NOW + AGE), "forgotten by then");
        assert!(table.accept(mac(1), 3, true, NOW + AGE));
        assert_eq!(table.find(mac(1), NOW + AGE), Some(3));
        assert!(table.accept(mac(2), 4, false, NOW) && table.accept(mac(2), 5, false, NOW));
        assert_eq!(table.find(mac(2), NOW), Some(5), "between domains, what is not configured moves");
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
