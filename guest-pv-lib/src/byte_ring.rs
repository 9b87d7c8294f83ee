//! One direction of a byte ring in shared memory: what consoles and xenstore connections are made of.
//!
//! The producer owns the produced index, the consumer the consumed one; both run freely and are taken modulo the size, a
//! power of two. Bytes flow only from producer to consumer. Memory is reached by whole words: a word that holds bytes of
//! two writes is read, changed and stored by its only writer, the producer.
//!
//! The other end is not trusted: indices that no honest end can produce are an error, and none of them makes this end
//! leave the ring's memory.

use core::fmt;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// The indices are further apart than the ring is long: the other end is broken or lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt;

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the indices of a ring are further apart than it is long")
    }
}

impl core::error::Error for Corrupt {}

/// A view of one direction. Cheap to make where it is needed; has no state of its own.
///
/// Two producers (or two consumers) at once mix their bytes up: the owner of the ring locks.
#[derive(Clone, Copy, Debug)]
pub struct ByteRing<'a> {
    data: &'a [AtomicU32],
    produced: &'a AtomicU32,
    consumed: &'a AtomicU32,
}

impl<'a> ByteRing<'a> {
    /// The ring of the bytes in `data` with these indices.
    ///
    /// # Panics
    ///
    /// Where the number of words is not a power of two, or is more than indices can count.
    #[must_use]
    pub const fn new(data: &'a [AtomicU32], produced: &'a AtomicU32, consumed: &'a AtomicU32) -> Self {
        assert!(data.len().is_power_of_two() && data.len() <= 1 << 28, "a ring's size is a power of two");
        Self { data, produced, consumed }
    }

    /// Bytes that fit into the ring.
    #[must_use]
    pub const fn size(&self) -> u32 {
        // `new` bounds it.
        self.data.len() as u32 * 4
    }

    /// Bytes that the consumer may take.
    ///
    /// # Errors
    ///
    /// [`Corrupt`].
    pub fn readable(&self) -> Result<u32, Corrupt> {
        let there = self.produced.load(Acquire).wrapping_sub(self.consumed.load(Acquire));
        if there > self.size() { Err(Corrupt) } else { Ok(there) }
    }

    /// Bytes that the producer may add.
    ///
    /// # Errors
    ///
    /// [`Corrupt`].
    pub fn room(&self) -> Result<u32, Corrupt> {
        self.readable().map(|there| self.size() - there)
    }

    /// The producer: adds as many of `bytes` as there is room for, and returns how many that was.
    ///
    /// # Errors
    ///
    /// [`Corrupt`]; nothing was added.
    pub fn push(&self, bytes: &[u8]) -> Result<usize, Corrupt> {
        let bytes = &bytes[..bytes.len().min(self.room()? as usize)];
        let start = self.produced.load(Relaxed);
        let mut at = start;
        let mut rest = bytes;
        while !rest.is_empty() {
            let within = (at % 4) as usize;
            let (now, later) = rest.split_at(rest.len().min(4 - within));
            let word = self.word(at);
            let mut whole = if now.len() == 4 { [0; 4] } else { word.load(Relaxed).to_ne_bytes() };
            whole[within..within + now.len()].copy_from_slice(now);
            word.store(u32::from_ne_bytes(whole), Relaxed);
            at = at.wrapping_add(now.len() as u32);
            rest = later;
        }
        self.produced.store(at, Release);
        Ok(bytes.len())
    }

    /// The consumer: takes as many bytes as there are and `into` has room for, and returns how many that was.
    ///
    /// # Errors
    ///
    /// [`Corrupt`]; nothing was taken.
    pub fn pop(&self, into: &mut [u8]) -> Result<usize, Corrupt> {
        let len = into.len().min(self.readable()? as usize);
        let mut at = self.consumed.load(Relaxed);
        let mut rest = &mut into[..len];
        while !rest.is_empty() {
            let within = (at % 4) as usize;
            let (now, later) = rest.split_at_mut(rest.len().min(4 - within));
            now.copy_from_slice(&self.word(at).load(Relaxed).to_ne_bytes()[within..within + now.len()]);
            at = at.wrapping_add(now.len() as u32);
            rest = later;
        }
        self.consumed.store(at, Release);
        Ok(len)
    }

    fn word(&self, at: u32) -> &AtomicU32 {
        &self.data[at as usize / 4 % self.data.len()]
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    struct Memory {
        data: [AtomicU32; 4],
        produced: AtomicU32,
        consumed: AtomicU32,
    }

    impl Memory {
        fn at(index: u32) -> Self {
            Self {
                data: [const { AtomicU32::new(0x5555_5555) }; 4],
                produced: AtomicU32::new(index),
                consumed: AtomicU32::new(index),
            }
        }

        fn ring(&self) -> ByteRing<'_> {
            ByteRing::new(&self.data, &self.produced, &self.consumed)
        }
    }

    #[test]
    fn bytes_come_out_as_they_went_in_from_any_index() {
        for start in (0..40).chain(u32::MAX - 20..=u32::MAX) {
            let memory = Memory::at(start);
            let (mut sent, mut got, mut next) = (Vec::<u8>::new(), Vec::<u8>::new(), 0u8);
            for round in 0..50 {
                let piece: Vec<u8> = (0..round % 9)
                    .map(|_| {
                        next = next.wrapping_add(1);
                        next
                    })
                    .collect();
                let len = memory.ring().push(&piece).unwrap();
                sent.extend(&piece[..len]);
                let mut buffer = [0; 16];
                let len = memory.ring().pop(&mut buffer[..round * 7 % 11]).unwrap();
                got.extend(&buffer[..len]);
            }
            let mut buffer = [0; 16];
            let len = memory.ring().pop(&mut buffer).unwrap();
            got.extend(&buffer[..len]);
            assert_eq!(sent, got, "from index {start}");
            assert!(sent.len() > 100);
        }
    }

    #[test]
    fn a_full_ring_takes_no_more() {
        let memory = Memory::at(u32::MAX - 2);
        assert_eq!(memory.ring().push(&[1; 20]), Ok(16));
        assert_eq!(memory.ring().push(&[2; 1]), Ok(0));
        assert_eq!(memory.ring().room(), Ok(0));
        let mut buffer = [0; 20];
        assert_eq!(memory.ring().pop(&mut buffer), Ok(16));
        assert_eq!(buffer[..16], [1; 16]);
    }

    #[test]
    fn a_lying_other_end_is_found_out() {
        let memory = Memory::at(0);
        memory.consumed.store(1, Relaxed);
        assert_eq!(memory.ring().push(&[1]), Err(Corrupt));
        memory.produced.store(18, Relaxed);
        assert_eq!(memory.ring().pop(&mut [0; 32]), Err(Corrupt));
        assert_eq!(memory.ring().room(), Err(Corrupt));
        memory.produced.store(17, Relaxed);
        assert_eq!(memory.ring().readable(), Ok(16));
    }
}
