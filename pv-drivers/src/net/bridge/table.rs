//! Which address is behind which port.
//!
//! The configured address of a domain's device is *static*: it is at that device's port, or nowhere while the device has
//! none, and a packet that names it as its sender at any other port is refused.
//!
//! Other addresses are learned from the packets that come in and forgotten when none came for a while. A packet from a
//! domain moves no address that was learned at a wire, so that a domain cannot take over a station of the network there, however
//! long that was silent: it stays at the wires until there is no room for more of them, and of those that were silent for a while only.
//! Each port has a share of its own: a domain that makes up addresses pushes out its own, not those of others.

use alloc::collections::BTreeMap;
use core::time::Duration;

use super::super::Mac;

/// How long an address is remembered (what IEEE 802.1Q recommends).
pub const AGE: Duration = Duration::from_secs(300);
/// Addresses that are remembered for one port of a domain.
pub const SHARE: usize = 256;
/// The same for a wire, behind which a whole network is.
const WIRE_SHARE: usize = 4096;

/// What is known of an address.
#[derive(Clone, Copy, Debug)]
struct Entry {
    port: usize,
    /// Whether a wire is there.
    is_wire: bool,
    seen: Duration,
}

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At that port.
    Port(usize),
    /// At no port: its device is not connected.
    Away,
    /// At a wire. It was silent for so long that it may be at another wire than before.
    Wires,
    /// Not known, or everywhere: of a group.
    Unknown,
}

/// The learned addresses of one port.
#[derive(Debug, Default)]
struct Share {
    count: usize,
    /// None of them is too old before that.
    fresh_until: Duration,
}

/// The addresses of a bridge.
#[derive(Debug, Default)]
pub struct Table {
    /// Claimed addresses, and the ports of their devices where these are connected.
    fixed: BTreeMap<Mac, Option<usize>>,
    entries: BTreeMap<Mac, Entry>,
    /// The entries of each port.
    shares: BTreeMap<usize, Share>,
    /// How often all entries were looked through.
    #[cfg(test)]
    scans: usize,
}

impl Table {
    /// `mac` is the configured address of a device, which has no port yet, until it is [released](Self::release). False: it
    /// is another device's, or a group's.
    pub fn claim(&mut self, mac: Mac) -> bool {
        if mac.is_group() || self.fixed.contains_key(&mac) {
            return false;
        }
        self.fixed.insert(mac, None);
        self.forget(mac);
        true
    }

    /// No device has the address any more.
    pub fn release(&mut self, mac: Mac) {
        self.fixed.remove(&mac);
    }

    /// The device whose claimed address `mac` is is at `port`, until that is gone.
    pub fn fix(&mut self, mac: Mac, port: usize) {
        if let Some(place) = self.fixed.get_mut(&mac) {
            *place = Some(port);
        }
    }

    /// Judges the sender of a packet that came in at `port`, and learns it. False: the address is another port's, and the
    /// packet must not pass.
    pub fn accept(&mut self, mac: Mac, port: usize, is_wire: bool, now: Duration) -> bool {
        if let Some(owner) = self.fixed.get(&mac) {
            return *owner == Some(port);
        }
        let known = self.entries.get(&mac);
        if known.is_some_and(|entry| entry.is_wire && !is_wire && entry.port != port) {
            return false;
        }
        self.learn(mac, port, is_wire, now);
        true
    }

    /// A packet from `mac` came in at `port`.
    fn learn(&mut self, mac: Mac, port: usize, is_wire: bool, now: Duration) {
        if mac.is_group() {
            return;
        }
        match self.entries.get_mut(&mac) {
            Some(entry) if entry.port == port => entry.seen = now,
            known => {
                let moved = known.is_some();
                let most = if is_wire { WIRE_SHARE } else { SHARE };
                let has_room = self.count(port) < most || self.make_room(port, now);
                // A station that was seen at a wire is not at a domain, even where there is no room for it.
                if moved && (has_room || is_wire) {
                    self.forget(mac);
                }
                if !has_room {
                    return;
                }
                self.entries.insert(mac, Entry { port, is_wire, seen: now });
                self.shares.entry(port).or_default().count += 1;
            }
        }
    }

    /// The port that `mac` is configured for, or was last seen at.
    pub fn find(&self, mac: Mac, now: Duration) -> Place {
        if let Some(place) = self.fixed.get(&mac) {
            return place.map_or(Place::Away, Place::Port);
        }
        match self.entries.get(&mac) {
            Some(entry) if now.saturating_sub(entry.seen) < AGE => Place::Port(entry.port),
            Some(entry) if entry.is_wire => Place::Wires,
            _ => Place::Unknown,
        }
    }

    /// Forgets what was learned at `port`, which is gone. A configured address stays its device's.
    pub fn forget_port(&mut self, port: usize) {
        for place in self.fixed.values_mut().filter(|place| **place == Some(port)) {
            *place = None;
        }
        self.entries.retain(|_, entry| entry.port != port);
        self.shares.remove(&port);
    }

    fn count(&self, port: usize) -> usize {
        self.shares.get(&port).map_or(0, |share| share.count)
    }

    /// Forgets a port's addresses that are too old; false: it has none. The entries are only looked through when one may have
    /// become too old, so that a domain that makes up addresses costs a scan for each of its entries in [`AGE`] at most.
    fn make_room(&mut self, port: usize, now: Duration) -> bool {
        let Some(share) = self.shares.get_mut(&port) else { return true };
        if now < share.fresh_until {
            return false;
        }
        #[cfg(test)]
        {
            self.scans += 1;
        }
        let (before, mut oldest) = (self.entries.len(), now);
        self.entries.retain(|_, entry| {
            let stays = entry.port != port || now.saturating_sub(entry.seen) < AGE;
            if stays && entry.port == port {
                oldest = oldest.min(entry.seen);
            }
            stays
        });
        let gone = before - self.entries.len();
        share.count -= gone;
        share.fresh_until = oldest + AGE;
        gone > 0
    }

    fn forget(&mut self, mac: Mac) {
        let Some(entry) = self.entries.remove(&mac) else { return };
        if let Some(share) = self.shares.get_mut(&entry.port) {
            share.count -= 1;
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
        table.learn(mac(1), 3, false, NOW);
        assert_eq!(table.find(mac(1), NOW), Place::Port(3));
        assert_eq!(table.find(mac(2), NOW), Place::Unknown);
        table.learn(mac(1), 4, false, NOW);
        assert_eq!(table.find(mac(1), NOW + AGE - Duration::from_millis(1)), Place::Port(4));
        assert_eq!(table.find(mac(1), NOW + AGE), Place::Unknown);
        table.learn(mac(1), 4, false, NOW + AGE);
        assert_eq!(table.find(mac(1), NOW + AGE), Place::Port(4), "seen again");
    }

    #[test]
    fn a_configured_address_stays_at_its_port() {
        let mut table = Table::default();
        assert!(table.accept(mac(1), 4, false, NOW), "not configured yet");
        assert!(table.claim(mac(1)) && !table.claim(mac(1)));
        assert_eq!(table.count(4), 0);
        table.fix(mac(1), 3);
        for is_wire in [false, true] {
            assert!(!table.accept(mac(1), 4, is_wire, NOW));
        }
        assert!(table.accept(mac(1), 3, false, NOW));
        assert_eq!(table.find(mac(1), NOW + AGE * 2), Place::Port(3), "it does not grow old");
        table.forget_port(3);
        assert_eq!(table.find(mac(1), NOW + AGE * 2), Place::Away);
        assert!(!table.accept(mac(1), 5, false, NOW + AGE * 2), "its device may come back");
        table.release(mac(1));
        assert!(table.accept(mac(1), 5, false, NOW + AGE * 2));
        assert_eq!(table.find(mac(1), NOW + AGE * 2), Place::Port(5));
    }

    #[test]
    fn only_a_wire_moves_an_address_that_was_learned_at_one() {
        let mut table = Table::default();
        assert!(table.accept(mac(1), 3, true, NOW));
        assert!(!table.accept(mac(1), 4, false, NOW));
        assert_eq!(table.find(mac(1), NOW), Place::Port(3));
        assert!(!table.accept(mac(1), 4, false, NOW + AGE * 9), "it was only silent");
        assert_eq!(table.find(mac(1), NOW + AGE * 9), Place::Wires);
        assert!(table.accept(mac(1), 6, true, NOW + AGE * 9));
        assert_eq!(table.find(mac(1), NOW + AGE * 9), Place::Port(6));
        table.forget_port(6);
        assert!(table.accept(mac(1), 4, false, NOW + AGE * 9), "its wire is gone");
        assert!(table.accept(mac(1), 3, true, NOW + AGE * 9));
        assert_eq!(table.find(mac(1), NOW + AGE * 9), Place::Port(3));
        assert!(table.accept(mac(2), 4, false, NOW) && table.accept(mac(2), 5, false, NOW));
        assert_eq!(table.find(mac(2), NOW), Place::Port(5), "between domains, what is not configured moves");
    }

    #[test]
    fn a_domain_takes_no_station_over_where_a_wire_has_many() {
        let mut table = Table::default();
        for number in 0..5000 {
            assert!(table.accept(mac(number), 3, true, NOW));
        }
        assert!(table.accept(mac(6000), 4, false, NOW), "not seen at the wire yet");
        assert!(table.accept(mac(6000), 3, true, NOW));
        assert_ne!(table.find(mac(6000), NOW), Place::Port(4));
        assert!(!table.accept(mac(2000), 4, false, NOW), "the network has many stations");
        assert_eq!(table.find(mac(2000), NOW), Place::Port(3));
    }

    #[test]
    fn groups_are_nobodys_address() {
        let mut table = Table::default();
        table.learn(Mac::BROADCAST, 1, false, NOW);
        table.learn(Mac([1, 0, 0x5e, 0, 0, 1]), 1, false, NOW);
        assert_eq!(table.find(Mac::BROADCAST, NOW), Place::Unknown);
        assert_eq!(table.find(Mac([1, 0, 0x5e, 0, 0, 1]), NOW), Place::Unknown);
    }

    #[test]
    fn a_flood_of_addresses_neither_grows_the_table_nor_pushes_others_out() {
        let mut table = Table::default();
        table.learn(mac(0), 1, false, NOW);
        for number in 1..5000 {
            table.learn(mac(number), 2, false, NOW);
        }
        assert_eq!(table.entries.len(), SHARE + 1);
        assert_eq!(table.find(mac(0), NOW), Place::Port(1));
        // Nor can it take an address over once its share is used up.
        table.learn(mac(0), 2, false, NOW);
        assert_eq!(table.find(mac(0), NOW), Place::Port(1));
        // When its own are old, they make room.
        table.learn(mac(6000), 2, false, NOW + AGE);
        assert_eq!(table.find(mac(6000), NOW + AGE), Place::Port(2));
        assert_eq!((table.count(1), table.count(2)), (1, 1));
    }

    #[test]
    fn a_full_share_is_looked_through_once_for_each_of_its_addresses() {
        let mut table = Table::default();
        let at = |number: u16| NOW + Duration::from_millis(number.into());
        (0..256).for_each(|number| table.learn(mac(number), 1, false, at(number)));
        for number in 1000..5000 {
            table.learn(mac(number), 1, false, at(300));
        }
        assert_eq!((table.count(1), table.scans), (SHARE, 1));
        // The first one is seen again, the others grow old.
        table.learn(mac(0), 1, false, at(400));
        table.learn(mac(1000), 1, false, at(0) + AGE);
        assert_eq!((table.find(mac(1000), at(0) + AGE), table.scans), (Place::Unknown, 2));
        for number in 2000..3000 {
            table.learn(mac(number), 1, false, at(1) + AGE - Duration::from_micros(1));
        }
        assert_eq!(table.scans, 2);
        table.learn(mac(1000), 1, false, at(1) + AGE);
        assert_eq!((table.find(mac(1000), at(1) + AGE), table.scans), (Place::Port(1), 3));
    }

    #[test]
    fn a_port_that_is_gone_is_forgotten() {
        let mut table = Table::default();
        table.learn(mac(1), 1, false, NOW);
        table.learn(mac(2), 2, false, NOW);
        table.forget_port(1);
        assert_eq!((table.find(mac(1), NOW), table.find(mac(2), NOW)), (Place::Unknown, Place::Port(2)));
        assert_eq!((table.count(1), table.count(2)), (0, 1));
    }
}
