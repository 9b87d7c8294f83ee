//! TCP and UDP checksums in a frame: where they are, what is missing, and completing them.
//!
//! A sender may leave a checksum "blank": the field holds the sum of the pseudo header, and whoever lets the packet out
//! of the machine adds the rest. Frames come from anybody; a frame whose headers do not add up has no checksum that
//! this module would touch.

use super::sum::Checksum;

use super::ETHERNET_HEADER;

const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;
const TYPE_VLAN: [u16; 2] = [0x8100, 0x88a8];

const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
/// IPv6 headers that may stand before the transport header: hop-by-hop, routing, destination options.
const IPV6_OPTIONS: [u8; 3] = [0, 43, 60];

/// The IP header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    /// Its first byte.
    pub start: usize,
    /// 4 or 6.
    pub version: u8,
}

/// Where a frame's TCP or UDP header and data are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// The IP header.
    pub(super) network: Network,
    /// First byte of the TCP or UDP header.
    pub start: usize,
    /// Behind the last byte of its data.
    pub end: usize,
    /// First byte of the checksum field.
    pub field: usize,
    /// 6: TCP, 17: UDP.
    pub(super) protocol: u8,
}

/// Two bytes of `frame`, in network order.
pub(super) fn word(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?))
}

/// The IP header behind the Ethernet header and up to two VLAN tags.
pub(super) fn network(frame: &[u8]) -> Option<Network> {
    let mut at = ETHERNET_HEADER - 2;
    for _ in 0..3 {
        match word(frame, at)? {
            TYPE_IPV4 => return Some(Network { start: at + 2, version: 4 }),
            TYPE_IPV6 => return Some(Network { start: at + 2, version: 6 }),
            tag if TYPE_VLAN.contains(&tag) => at += 4,
            _ => return None,
        }
    }
    None
}

impl Transport {
    /// Finds it: none for what is neither TCP nor UDP, is a fragment, or does not lie within the frame. A header that
    /// says less than the frame holds is believed: short frames are padded.
    #[must_use]
    pub fn find(frame: &[u8]) -> Option<Self> {
        Self::locate(frame, false)
    }

    /// The same in a frame of which only the beginning is at hand: everything up to the checksum field must be there.
    #[must_use]
    pub(super) fn find_in_beginning(frame: &[u8]) -> Option<Self> {
        Self::locate(frame, true)
    }

    fn locate(frame: &[u8], beginning: bool) -> Option<Self> {
        let network = network(frame)?;
        let (start, end, protocol) = match network.version {
            4 => ipv4(frame, network.start)?,
            _ => ipv6(frame, network.start)?,
        };
        let (header, field) = match protocol {
            PROTOCOL_TCP => (20, 16),
            PROTOCOL_UDP => (8, 6),
            _ => return None,
        };
        let inside = start + header <= end && (beginning || end <= frame.len());
        let field = start + field;
        (inside && field + 2 <= frame.len()).then_some(Self { network, start, end, field, protocol })
    }

    /// Whether it is TCP.
    #[must_use]
    pub const fn is_tcp(&self) -> bool {
        self.protocol == PROTOCOL_TCP
    }

    /// The version of IP below: 4 or 6.
    #[must_use]
    pub const fn version(&self) -> u8 {
        self.network.version
    }

    /// The bytes of both addresses.
    pub(super) fn addresses<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        let (first, last) = if self.network.version == 4 { (12, 20) } else { (8, 40) };
        &frame[self.network.start + first..self.network.start + last]
    }

    /// The sum that covers the pseudo header.
    fn pseudo(&self, frame: &[u8]) -> Checksum {
        let mut sum = Checksum::new();
        sum.add_bytes(self.addresses(frame));
        // A length beyond 16 bits cannot be: an IP packet is not longer.
        let length = u16::try_from(self.end - self.start).unwrap_or(u16::MAX);
        sum.add_bytes(&length.to_be_bytes());
        sum.add_bytes(&[0, self.protocol]);
        sum
    }

    /// Writes what a blank field holds: the sum of the pseudo header.
    pub fn blank(&self, frame: &mut [u8]) {
        let [high, low] = self.pseudo(frame).checksum();
        frame[self.field..self.field + 2].copy_from_slice(&[!high, !low]);
    }

    /// Completes the checksum of a whole frame.
    pub fn fill(&self, frame: &mut [u8]) {
        frame[self.field..self.field + 2].fill(0);
        let mut sum = self.pseudo(frame);
        sum.add_bytes(&frame[self.start..self.end]);
        let mut value = sum.checksum();
        // UDP over IPv4: 0 says that there is none (RFC 768).
        if value == [0, 0] && !self.is_tcp() {
            value = [0xff, 0xff];
        }
        frame[self.field..self.field + 2].copy_from_slice(&value);
    }

    /// Whether the checksum is right. A UDP packet over IPv4 may come without one.
    #[must_use]
    pub fn is_right(&self, frame: &[u8]) -> bool {
        if !self.is_tcp() && self.network.version == 4 && frame[self.field..self.field + 2] == [0, 0] {
            return true;
        }
        let mut sum = self.pseudo(frame);
        sum.add_bytes(&frame[self.start..self.end]);
        sum.checksum() == [0, 0]
    }
}

/// Start and end of an IPv4 packet's payload, and its protocol.
fn ipv4(frame: &[u8], at: usize) -> Option<(usize, usize, u8)> {
    let header = frame.get(at..at + 20)?;
    let length = usize::from(header[0] & 0xf) * 4;
    let total = usize::from(word(header, 2)?);
    // More fragments, or not the first: the checksum covers what is not here.
    let fragment = word(header, 6)? & 0x3fff != 0;
    let fits = header[0] >> 4 == 4 && length >= 20 && total >= length;
    (fits && !fragment).then_some((at + length, at + total, header[9]))
}

/// Start and end of an IPv6 packet's payload behind its options, and its protocol.
fn ipv6(frame: &[u8], at: usize) -> Option<(usize, usize, u8)> {
    let header = frame.get(at..at + 40)?;
    let end = at + 40 + usize::from(word(header, 4)?);
    let (mut start, mut protocol) = (at + 40, header[6]);
    while IPV6_OPTIONS.contains(&protocol) {
        let &[next, length] = frame.get(start..)?.first_chunk()?;
        protocol = next;
        start += 8 + usize::from(length) * 8;
    }
    (header[0] >> 4 == 6).then_some((start, end, protocol))
}

/// The version of IP of a TCP packet, and how long its headers are at least. It needs not more than the beginning of the frame.
pub(super) fn least_headers(frame: &[u8]) -> Option<(u8, usize)> {
    let Network { start, version } = network(frame)?;
    let header = frame.get(start..)?;
    let (length, protocol) = if version == 4 {
        let is_fragment = word(header, 6)? & 0x3fff != 0;
        (usize::from(header[0] & 0xf) * 4, Some(*header.get(9)?).filter(|_| !is_fragment)?)
    } else {
        (40, *header.get(6)?)
    };
    let has_options = version == 6 && IPV6_OPTIONS.contains(&protocol);
    (protocol == PROTOCOL_TCP || has_options).then_some((version, start + length.max(20) + 20))
}

/// Completes a frame's checksum, where it has one to complete.
pub fn fill(frame: &mut [u8]) {
    if let Some(transport) = Transport::find(frame) {
        transport.fill(frame);
    }
}

/// Writes the sum of the IPv4 header at `at`.
pub(super) fn fill_ipv4_header(frame: &mut [u8], at: usize) {
    let length = usize::from(frame[at] & 0xf) * 4;
    frame[at + 10..at + 12].fill(0);
    let mut sum = Checksum::new();
    sum.add_bytes(&frame[at..at + length]);
    let value = sum.checksum();
    frame[at + 10..at + 12].copy_from_slice(&value);
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::super::tests::frames;
    use super::*;

    #[test]
    fn a_known_packet_has_its_known_checksum() {
        // A DNS query as a resolver sent it, with the checksums that the sender computed.
        let mut frame: Vec<u8> = [
            &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0][..],
            &[0x45, 0, 0, 0x38, 0x1c, 0x46, 0x40, 0, 0x40, 0x11, 0xf3, 0xd8, 127, 0, 0, 1, 192, 168, 1, 1],
            &[0x82, 0x35, 0, 0x35, 0, 0x24, 0, 0],
            &[0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 7],
            b"example\0",
            &[0, 1, 0, 1, 9],
        ]
        .concat();
        let transport = Transport::find(&frame).expect("UDP over IPv4");
        transport.fill(&mut frame);
        // Summed by hand, word by word, in another way than the library's.
        let end = transport.end;
        let mut sum: u32 = 0x11 + u32::try_from(end - 34).unwrap();
        for pair in frame[26..end].chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        assert_eq!(sum, 0xffff);
        assert!(transport.is_right(&frame));
        frame[45] ^= 1;
        assert!(!transport.is_right(&frame));
    }

    #[test]
    fn udp_without_a_checksum_is_accepted_over_ipv4_only() {
        for version in [4, 6] {
            let mut frame = frames::udp(version, b"hello");
            let transport = Transport::find(&frame).unwrap();
            frame[transport.field..transport.field + 2].fill(0);
            assert_eq!(transport.is_right(&frame), version == 4);
        }
    }

    #[test]
    fn fragments_other_protocols_and_cut_frames_are_left_alone() {
        let good = frames::tcp(4, 1, b"data");
        let mut fragment = good.clone();
        fragment[20] |= 0x20;
        let mut later = good.clone();
        later[21] = 1;
        let mut icmp = good.clone();
        icmp[23] = 1;
        for bad in [&fragment[..], &later, &icmp, &good[..good.len() - 1], &good[..30], &[]] {
            assert_eq!(Transport::find(bad), None);
        }
        let mut arp = good;
        arp[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(Transport::find(&arp), None);
    }

    proptest! {
        #[test]
        fn blank_then_filled_is_right(version in prop_oneof![Just(4u8), Just(6)], tags in 0..3usize,
                                      tcp: bool, data in prop::collection::vec(any::<u8>(), 0..300), pad in 0..20usize) {
            let plain = if tcp { frames::tcp(version, 7, &data) } else { frames::udp(version, &data) };
            let mut frame = frames::tagged(&plain, tags);
            frame.extend(core::iter::repeat_n(0xee, pad));
            let transport = Transport::find(&frame).unwrap();
            transport.blank(&mut frame);
            // What is blank plus the data is what is right: the receiver's way to complete it.
            let mut sum = Checksum::new();
            sum.add_bytes(&frame[transport.start..transport.end]);
            let completed = sum.checksum();
            transport.fill(&mut frame);
            prop_assert!(transport.is_right(&frame));
            if frame[transport.field..transport.field + 2] != [0xff, 0xff] {
                prop_assert_eq!(&frame[transport.field..transport.field + 2], &completed);
            }
        }

        #[test]
        fn any_bytes_are_survived(mut frame in prop::collection::vec(any::<u8>(), 0..200), version in 0..3u8, cut: bool) {
            if frame.len() > 15 && version > 0 {
                let (kind, first) = [([8, 0], 0x45), ([0x86, 0xdd], 0x60)][usize::from(version - 1)];
                frame[12..14].copy_from_slice(&kind);
                frame[14] = first;
            }
            if cut && let Some(transport) = Transport::find_in_beginning(&frame) {
                transport.blank(&mut frame);
            }
            fill(&mut frame);
        }
    }
}
