//! Bytes in memory that another domain may write at the same time.
//!
//! Such memory is a slice of atomic 32-bit words. These functions move bytes between it and ordinary memory, at any
//! offset. Bytes of a word that were not asked for are left as they are, even while somebody else changes them.
//! The order of accesses is not defined: an index that is published afterwards, with release, orders them.
//!
//! Ranges that do not lie within the memory are the caller's mistake and panic, like an index of a slice: what a peer
//! says is checked before.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

/// Bytes in a word.
const WORD: usize = size_of::<u32>();

/// Copies `target.len()` bytes out, from byte `offset` on.
pub fn load(words: &[AtomicU32], offset: usize, target: &mut [u8]) {
    let words = &words[offset / WORD..(offset + target.len()).div_ceil(WORD)];
    let (head, rest) = target.split_at_mut(lead(offset, target.len()));
    if !head.is_empty() {
        let bytes = words[0].load(Relaxed).to_le_bytes();
        head.copy_from_slice(&bytes[offset % WORD..][..head.len()]);
    }
    let words = &words[usize::from(!head.is_empty())..];
    let (whole, tail) = rest.as_chunks_mut::<WORD>();
    for (bytes, word) in whole.iter_mut().zip(words) {
        *bytes = word.load(Relaxed).to_le_bytes();
    }
    if !tail.is_empty() {
        let bytes = words[whole.len()].load(Relaxed).to_le_bytes();
        tail.copy_from_slice(&bytes[..tail.len()]);
    }
}

/// Copies `source` in, from byte `offset` on.
pub fn store(words: &[AtomicU32], offset: usize, source: &[u8]) {
    let words = &words[offset / WORD..(offset + source.len()).div_ceil(WORD)];
    let (head, rest) = source.split_at(lead(offset, source.len()));
    if !head.is_empty() {
        patch(&words[0], offset % WORD, head);
    }
    let words = &words[usize::from(!head.is_empty())..];
    let (whole, tail) = rest.as_chunks::<WORD>();
    for (bytes, word) in whole.iter().zip(words) {
        word.store(u32::from_le_bytes(*bytes), Relaxed);
    }
    if !tail.is_empty() {
        patch(&words[whole.len()], 0, tail);
    }
}

/// Copies `length` bytes from one such memory to another.
pub fn transfer(source: &[AtomicU32], from: usize, target: &[AtomicU32], to: usize, length: usize) {
    if (from | to | length).is_multiple_of(WORD) {
        let source = &source[from / WORD..(from + length) / WORD];
        let target = &target[to / WORD..(to + length) / WORD];
        for (source, target) in source.iter().zip(target) {
            target.store(source.load(Relaxed), Relaxed);
        }
        return;
    }
    let mut piece = [0; 64];
    for start in (0..length).step_by(piece.len()) {
        let piece = &mut piece[..(length - start).min(64)];
        load(source, from + start, piece);
        store(target, to + start, piece);
    }
}

/// Writes zeros to `length` bytes from byte `offset` on.
pub fn clear(words: &[AtomicU32], offset: usize, length: usize) {
    for start in (0..length).step_by(64) {
        store(words, offset + start, &[0; 64][..(length - start).min(64)]);
    }
}

/// How many of `length` bytes from `offset` on lie in front of the next whole word.
fn lead(offset: usize, length: usize) -> usize {
    match offset % WORD {
        0 => 0,
        within => (WORD - within).min(length),
    }
}

/// Changes some bytes of a word and leaves the others to whoever changes them.
fn patch(word: &AtomicU32, at: usize, bytes: &[u8]) {
    let mut old = word.load(Relaxed);
    loop {
        let mut new = old.to_le_bytes();
        new[at..at + bytes.len()].copy_from_slice(bytes);
        match word.compare_exchange_weak(old, u32::from_le_bytes(new), Relaxed, Relaxed) {
            Ok(_) => return,
            Err(now) => old = now,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const SIZE: usize = 200;

    fn memory(bytes: &[u8]) -> Vec<AtomicU32> {
        bytes.as_chunks().0.iter().map(|word| AtomicU32::new(u32::from_le_bytes(*word))).collect()
    }

    fn bytes(words: &[AtomicU32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.load(Relaxed).to_le_bytes()).collect()
    }

    proptest! {
        /// The same as on plain bytes, wherever the range begins and ends.
        #[test]
        fn as_on_plain_bytes(
            old in prop::collection::vec(any::<u8>(), SIZE), new in prop::collection::vec(any::<u8>(), SIZE),
            from in 0..SIZE, to in 0..SIZE, length in 0..SIZE
        ) {
            let length = length.min(SIZE - from).min(SIZE - to);
            let mut read = vec![0; length];
            load(&memory(&old), from, &mut read);
            prop_assert_eq!(&read, &old[from..from + length]);

            let mut expected = old.clone();
            expected[to..to + length].copy_from_slice(&new[from..from + length]);
            let target = memory(&old);
            store(&target, to, &new[from..from + length]);
            prop_assert_eq!(bytes(&target), expected.clone());
            let target = memory(&old);
            transfer(&memory(&new), from, &target, to, length);
            prop_assert_eq!(bytes(&target), expected.clone());

            clear(&target, to, length);
            expected[to..to + length].fill(0);
            prop_assert_eq!(bytes(&target), expected);
        }
    }
}
