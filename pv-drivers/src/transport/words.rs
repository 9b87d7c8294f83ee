//! Bytes in memory that another domain may write at the same time.
//!
//! Such memory is a slice of atomic 32-bit words. These functions move bytes between it and ordinary memory, at any
//! offset, by the processor's string instructions ([`guest_pv_lib::words`]). Bytes that were not asked for are left as
//! they are, even while somebody else changes them. The order of accesses is not defined: an index that is published
//! afterwards, with release, orders them.
//!
//! Ranges that do not lie within the memory are the caller's mistake and panic, like an index of a slice: what a peer
//! says is checked before.

use core::sync::atomic::AtomicU32;

use guest_pv_lib::words;

/// Copies `target.len()` bytes out, from byte `offset` on.
pub fn load(words: &[AtomicU32], offset: usize, target: &mut [u8]) {
    words::copy_out(words, offset, target);
}

/// Copies `source` in, from byte `offset` on.
pub fn store(words: &[AtomicU32], offset: usize, source: &[u8]) {
    words::copy_in(words, offset, source);
}

/// Copies `length` bytes from one such memory to another.
pub fn transfer(source: &[AtomicU32], from: usize, target: &[AtomicU32], to: usize, length: usize) {
    words::copy(target, to, source, from, length);
}

/// Writes zeros to `length` bytes from byte `offset` on.
pub fn clear(words: &[AtomicU32], offset: usize, length: usize) {
    words::clear(words, offset, length);
}

#[cfg(test)]
mod tests {
    extern crate std;
    use core::sync::atomic::Ordering::Relaxed;
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
