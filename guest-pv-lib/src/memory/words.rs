//! Bytes in and out of memory that others change: by whole words, because atomics of several sizes must not meet.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

/// Copies the bytes from `offset` on out of `words`, which must be that long.
pub fn read(words: &[AtomicU32], mut offset: usize, mut bytes: &mut [u8]) {
    while !bytes.is_empty() {
        let word = words[offset / 4].load(Relaxed).to_ne_bytes();
        let start = offset % 4;
        let count = bytes.len().min(4 - start);
        let (now, rest) = bytes.split_at_mut(count);
        now.copy_from_slice(&word[start..start + count]);
        (bytes, offset) = (rest, offset + count);
    }
}

/// Copies `bytes` into `words` from byte `offset` on; `words` must be that long. Bytes beside them keep what others
/// write to them meanwhile.
pub fn write(words: &[AtomicU32], mut offset: usize, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let start = offset % 4;
        let (now, rest) = bytes.split_at(bytes.len().min(4 - start));
        let word = &words[offset / 4];
        if let Ok(whole) = now.try_into() {
            word.store(u32::from_ne_bytes(whole), Relaxed);
        } else {
            merge(word, start, now);
        }
        (bytes, offset) = (rest, offset + now.len());
    }
}

/// Replaces the bytes of `word` from `start` on, leaving the others to whoever changes them.
fn merge(word: &AtomicU32, start: usize, bytes: &[u8]) {
    let merged = |old: u32| {
        let mut whole = old.to_ne_bytes();
        whole[start..start + bytes.len()].copy_from_slice(bytes);
        u32::from_ne_bytes(whole)
    };
    let mut old = word.load(Relaxed);
    while let Err(now) = word.compare_exchange_weak(old, merged(old), Relaxed, Relaxed) {
        old = now;
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behave_like_bytes(
            start in prop::collection::vec(any::<u32>(), 16),
            pieces in prop::collection::vec((0usize..64, prop::collection::vec(any::<u8>(), 0..20)), 0..20),
        ) {
            let words: Vec<AtomicU32> = start.iter().copied().map(AtomicU32::new).collect();
            let mut model: Vec<u8> = start.iter().flat_map(|word| word.to_ne_bytes()).collect();
            for (offset, bytes) in pieces {
                let bytes = &bytes[..bytes.len().min(64 - offset)];
                write(&words, offset, bytes);
                model[offset..offset + bytes.len()].copy_from_slice(bytes);
                let mut out = Vec::from(bytes);
                out.fill(0);
                read(&words, offset, &mut out);
                prop_assert_eq!(&out[..], bytes);
            }
            let mut all = [0; 64];
            read(&words, 0, &mut all);
            prop_assert_eq!(&all[..], &model[..]);
        }
    }
}
