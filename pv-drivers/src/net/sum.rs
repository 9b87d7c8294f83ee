//! The Internet's checksum (RFC 1071), a piece after the other.

/// A sum under way: the ones' complement sum of 16-bit words in network order.
#[derive(Clone, Debug, Default)]
pub(super) struct Checksum {
    sum: u64,
    /// The first half of a word whose other half has not come yet.
    odd: Option<u8>,
}

impl Checksum {
    /// Of nothing.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Adds bytes behind those before.
    pub(super) fn add_bytes(&mut self, mut bytes: &[u8]) {
        if let (Some(high), Some((low, rest))) = (self.odd, bytes.split_first()) {
            self.add(u32::from(u16::from_be_bytes([high, *low])));
            (self.odd, bytes) = (None, rest);
        }
        // Words of four bytes have the same sum as their halves.
        let (words, rest) = bytes.as_chunks::<4>();
        words.iter().for_each(|word| self.add(u32::from_be_bytes(*word)));
        let (halves, rest) = rest.as_chunks::<2>();
        halves.iter().for_each(|half| self.add(u32::from(u16::from_be_bytes(*half))));
        if let Some(byte) = rest.first() {
            self.odd = Some(*byte);
        }
    }

    fn add(&mut self, word: u32) {
        // 2^32 words of 32 bits fit: more than any packet has.
        self.sum = self.sum.wrapping_add(u64::from(word));
    }

    /// The complement of the sum, in network order.
    pub(super) fn checksum(&self) -> [u8; 2] {
        let mut sum = self.sum + self.odd.map_or(0, |high| u64::from(high) << 8);
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        // Folded to 16 bits.
        (!(sum as u16)).to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_the_rfc() {
        let mut sum = Checksum::new();
        sum.add_bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.checksum(), (!0xddf2u16).to_be_bytes());
    }

    proptest! {
        #[test]
        fn pieces_make_the_same_sum(bytes: alloc::vec::Vec<u8>, cut: prop::sample::Index) {
            let cut = if bytes.is_empty() { 0 } else { cut.index(bytes.len()) };
            let mut plain = 0u32;
            for pair in bytes.chunks(2) {
                plain += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
                plain = (plain & 0xffff) + (plain >> 16);
            }
            let mut sum = Checksum::new();
            sum.add_bytes(&bytes[..cut]);
            sum.add_bytes(&bytes[cut..]);
            prop_assert_eq!(sum.checksum(), (!(plain as u16)).to_be_bytes());
        }
    }
}
