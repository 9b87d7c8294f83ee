//! Cutting a large TCP packet into those that a wire takes, for a receiver that cannot.

use alloc::vec::Vec;

use super::checksum::{self, Transport, fill_ipv4_header};
use super::{Gso, GsoKind};

const TCP_FIN: u8 = 0x01;
const TCP_PUSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

/// The longest headers of a packet that is cut up. Each piece has a copy of them, and IPv6 options have no end.
const MAX_HEADERS: usize = 256;
/// The least payload of a piece: what 40 bytes of TCP's options leave of the smallest segment that Linux sends
/// (`TCP_MIN_SND_MSS`). A packet of smaller ones is there to be many packets.
const MIN_SIZE: u16 = 8;

/// The pieces of one large packet, with complete checksums.
#[derive(Debug)]
pub struct Segments<'a> {
    frame: &'a [u8],
    transport: Transport,
    /// Behind the TCP header.
    data: usize,
    /// Payload of each piece.
    size: usize,
    /// Where the next piece's payload begins.
    at: usize,
    /// Number of the next piece.
    count: u16,
}

/// Whether a packet of `length` bytes can be cut into frames of at most `most` bytes, as far as its beginning tells: false where
/// [`Segments`] will not be made of it, or be longer.
#[must_use]
pub fn can_be_cut(beginning: &[u8], length: usize, gso: Gso, most: usize) -> bool {
    let Some((kind, headers)) = checksum::least_headers(beginning) else { return false };
    let version = match kind {
        4 => GsoKind::Tcp4,
        _ => GsoKind::Tcp6,
    };
    version == gso.kind && gso.size >= MIN_SIZE && length.min(headers + usize::from(gso.size)) <= most
}

impl<'a> Segments<'a> {
    /// Looks at `frame`: none where it is not what `gso` says.
    #[must_use]
    pub fn of(frame: &'a [u8], gso: Gso) -> Option<Self> {
        let transport = Transport::find(frame)?;
        let version = match gso.kind {
            GsoKind::Tcp4 => 4,
            GsoKind::Tcp6 => 6,
        };
        let header = usize::from(frame.get(transport.start + 12)? >> 4) * 4;
        let data = transport.start + header;
        let fits = transport.is_tcp()
            && transport.network.version == version
            && header >= 20
            && data <= transport.end
            && data <= MAX_HEADERS
            && gso.size >= MIN_SIZE;
        fits.then_some(Self { frame, transport, data, size: gso.size.into(), at: data, count: 0 })
    }

    /// Writes the next piece into `piece`; false: there was none left.
    pub fn next_into(&mut self, piece: &mut Vec<u8>) -> bool {
        let end = self.transport.end;
        if self.at >= end && self.count > 0 {
            return false;
        }
        let length = self.size.min(end - self.at);
        piece.clear();
        piece.extend_from_slice(&self.frame[..self.data]);
        piece.extend_from_slice(&self.frame[self.at..self.at + length]);
        self.number(piece, self.at + length == end);
        let transport = Transport { end: piece.len(), ..self.transport };
        transport.fill(piece);
        self.at += length;
        self.count = self.count.wrapping_add(1);
        true
    }

    /// Length and identification in the IP header, sequence number and flags in TCP's.
    fn number(&self, piece: &mut [u8], last: bool) {
        let ip = self.transport.network.start;
        // Both fit: a piece is not longer than the packet, which has a 16-bit length.
        let length =
            |from: usize, piece: &[u8]| u16::try_from(piece.len() - from).unwrap_or(u16::MAX).to_be_bytes();
        if self.transport.network.version == 4 {
            let total = length(ip, piece);
            piece[ip + 2..ip + 4].copy_from_slice(&total);
            add(piece, ip + 4, self.count);
            fill_ipv4_header(piece, ip);
        } else {
            let payload = length(ip + 40, piece);
            piece[ip + 4..ip + 6].copy_from_slice(&payload);
        }
        let tcp = self.transport.start;
        let passed = u32::try_from(self.at - self.data).unwrap_or(0);
        if let Some(bytes) = piece[tcp + 4..].first_chunk_mut() {
            *bytes = u32::from_be_bytes(*bytes).wrapping_add(passed).to_be_bytes();
        }
        let flags = &mut piece[tcp + 13];
        if !last {
            *flags &= !(TCP_FIN | TCP_PUSH);
        }
        if self.count > 0 {
            *flags &= !TCP_CWR;
        }
    }
}

/// Adds to a 16-bit field.
fn add(bytes: &mut [u8], at: usize, by: u16) {
    if let Some(field) = bytes[at..].first_chunk_mut() {
        *field = u16::from_be_bytes(*field).wrapping_add(by).to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::super::tests::frames;
    use super::*;

    fn cut(frame: &[u8], gso: Gso) -> Vec<Vec<u8>> {
        let mut segments = Segments::of(frame, gso).expect("a TCP packet");
        let (mut all, mut piece) = (Vec::new(), Vec::new());
        while segments.next_into(&mut piece) {
            all.push(piece.clone());
        }
        all
    }

    proptest! {
        #[test]
        fn pieces_put_together_are_the_packet(
            v6: bool, size in MIN_SIZE..2000, data in prop::collection::vec(any::<u8>(), 0..9000), seq: u32,
        ) {
            let (version, kind) = if v6 { (6, GsoKind::Tcp6) } else { (4, GsoKind::Tcp4) };
            let mut frame = frames::tcp(version, seq, &data);
            let start = Transport::find(&frame).unwrap().start;
            frame[start + 13] |= TCP_FIN | TCP_PUSH | TCP_CWR;
            let pieces = cut(&frame, Gso { size, kind });
            prop_assert_eq!(pieces.len(), data.len().div_ceil(size.into()).max(1));
            let (mut together, last) = (Vec::new(), pieces.len() - 1);
            for (index, piece) in pieces.iter().enumerate() {
                let transport = Transport::find(piece).expect("still TCP");
                prop_assert_eq!(transport.end, piece.len());
                prop_assert!(transport.is_right(piece));
                let sequence = u32::from_be_bytes(*piece[start + 4..].first_chunk().unwrap());
                prop_assert_eq!(sequence, seq.wrapping_add(u32::try_from(together.len()).unwrap()));
                prop_assert_eq!(piece[start + 13] & (TCP_FIN | TCP_PUSH) != 0, index == last);
                prop_assert_eq!(piece[start + 13] & TCP_CWR != 0, index == 0);
                together.extend_from_slice(&piece[start + 20..]);
            }
            prop_assert_eq!(together, data);
        }

        #[test]
        fn any_bytes_are_survived(frame in prop::collection::vec(any::<u8>(), 0..200), size: u16, good in 14..80usize) {
            let mut mixed = frames::tcp(4, 1, &[0; 100]);
            let until = good.min(frame.len());
            mixed[14..].iter_mut().zip(&frame[..until]).skip(good / 2).for_each(|(to, from)| *to = *from);
            for bytes in [&frame, &mixed] {
                if let Some(mut segments) = Segments::of(bytes, Gso { size, kind: GsoKind::Tcp4 }) {
                    let mut piece = Vec::new();
                    while segments.next_into(&mut piece) {}
                }
            }
        }
    }

    #[test]
    fn what_is_not_tcp_is_not_cut() {
        let gso = Gso { size: 1000, kind: GsoKind::Tcp4 };
        assert!(Segments::of(&frames::udp(4, &[0; 3000]), gso).is_none());
        assert!(Segments::of(&frames::tcp(6, 0, &[0; 3000]), gso).is_none());
        assert!(Segments::of(&frames::tcp(4, 0, &[0; 3000]), Gso { size: 0, ..gso }).is_none());
    }

    #[test]
    fn a_packet_that_would_grow_beyond_measure_is_not_cut() {
        let mut frame = frames::tcp(6, 0, &[0; 3000]);
        let gso = Gso { size: MIN_SIZE, kind: GsoKind::Tcp6 };
        assert!(Segments::of(&frame, gso).is_some());
        assert!(Segments::of(&frame, Gso { size: MIN_SIZE - 1, ..gso }).is_none());
        // Destination options of 256 bytes between the headers.
        let options = [&[6, 31][..], &[0; 254]].concat();
        frame.splice(54..54, options);
        frame[20] = 60;
        let payload = u16::try_from(frame.len() - 54).unwrap();
        frame[18..20].copy_from_slice(&payload.to_be_bytes());
        assert!(Transport::find(&frame).is_some_and(|transport| transport.is_tcp()));
        assert!(Segments::of(&frame, gso).is_none());
    }
}
