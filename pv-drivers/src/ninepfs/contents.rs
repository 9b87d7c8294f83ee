//! The bytes of a file.
//!
//! They lie in blocks of `BLOCK` bytes, each as long as what was written to it: what is cut off is given back, what
//! was never written holds nothing and reads as zeros, and no step allocates or moves more than a block. So a file never
//! holds more than its length, by which it is charged, and what its node costs.

use alloc::vec::Vec;

use super::message::Code;

/// Bytes of a block.
const BLOCK: usize = 16 << 10;

/// A file's bytes.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    length: u64,
    /// Blocks from the start on. One that is missing or short ends with zeros.
    blocks: Vec<Vec<u8>>,
}

impl Contents {
    /// Contents that are these bytes.
    ///
    /// # Errors
    ///
    /// [`Code::ENOSPC`]: no memory is left.
    pub fn new(bytes: &[u8]) -> Result<Self, Code> {
        let mut contents = Self::default();
        contents.resize(bytes.len() as u64)?;
        contents.write(0, bytes)?;
        Ok(contents)
    }

    /// The length in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.length
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes of memory that the blocks take.
    #[must_use]
    pub fn held(&self) -> usize {
        let blocks: usize = self.blocks.iter().map(Vec::capacity).sum();
        blocks + self.blocks.capacity() * size_of::<Vec<u8>>()
    }

    /// Makes it that long. What is new reads as zeros; what is cut off is given back.
    ///
    /// # Errors
    ///
    /// [`Code::EFBIG`]: this machine cannot count so far.
    pub fn resize(&mut self, length: u64) -> Result<(), Code> {
        let bytes = usize::try_from(length).map_err(|_| Code::EFBIG)?;
        if length < self.length {
            self.blocks.truncate(bytes.div_ceil(BLOCK));
            self.blocks.shrink_to_fit();
            if let Some(last) = self.blocks.get_mut(bytes / BLOCK) {
                last.truncate(bytes % BLOCK);
                last.shrink_to_fit();
            }
        }
        self.length = length;
        Ok(())
    }

    /// Writes `bytes` at `offset`. The range lies within the length.
    ///
    /// # Errors
    ///
    /// [`Code::ENOSPC`]: no memory is left, and only a part was written.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Code> {
        let mut at = usize::try_from(offset).map_err(|_| Code::EFBIG)?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (index, within) = (at / BLOCK, at % BLOCK);
            let (piece, behind) = rest.split_at(rest.len().min(BLOCK - within));
            if index >= self.blocks.len() {
                let more = index + 1 - self.blocks.len();
                self.blocks.try_reserve_exact(more).map_err(|_| Code::ENOSPC)?;
                self.blocks.resize_with(index + 1, Vec::new);
            }
            let block = &mut self.blocks[index];
            let end = within + piece.len();
            if block.len() < end {
                block.try_reserve_exact(end - block.len()).map_err(|_| Code::ENOSPC)?;
                block.resize(end, 0);
            }
            block[within..end].copy_from_slice(piece);
            (at, rest) = (at + piece.len(), behind);
        }
        Ok(())
    }

    /// How many of `count` bytes there are from `offset` on.
    #[must_use]
    pub fn readable(&self, offset: u64, count: usize) -> usize {
        usize::try_from(self.length.saturating_sub(offset)).map_or(count, |rest| rest.min(count))
    }

    /// Reads from `offset` on. The range lies within the length.
    pub fn read(&self, offset: u64, into: &mut [u8]) {
        into.fill(0);
        let mut at = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut done = 0;
        while done < into.len() {
            let (index, within) = (at / BLOCK, at % BLOCK);
            let count = (into.len() - done).min(BLOCK - within);
            let there = self.blocks.get(index).and_then(|block| block.get(within..)).unwrap_or_default();
            let there = &there[..there.len().min(count)];
            into[done..done + there.len()].copy_from_slice(there);
            (at, done) = (at + count, done + count);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As an ordinary vector, and never more memory than its length and a list of blocks.
        #[test]
        fn as_plain_bytes(steps in prop::collection::vec((any::<bool>(), 0..200_000usize, 0..40_000usize), 1..30)) {
            let (mut contents, mut model) = (Contents::default(), Vec::new());
            for (seed, (resize, at, length)) in (1..).zip(steps) {
                if resize {
                    contents.resize(at as u64).unwrap();
                    model.resize(at, 0);
                } else {
                    if at + length > model.len() {
                        contents.resize((at + length) as u64).unwrap();
                        model.resize(at + length, 0);
                    }
                    contents.write(at as u64, &vec![seed; length]).unwrap();
                    model[at..at + length].fill(seed);
                }
                prop_assert_eq!(contents.len(), model.len() as u64);
                let count = contents.readable(7, 100_000);
                prop_assert_eq!(count, model.len().saturating_sub(7).min(100_000));
                let mut read = vec![9; count];
                contents.read(7, &mut read);
                prop_assert!(read == model[model.len().min(7)..][..count]);
                let list = model.len().div_ceil(BLOCK) * size_of::<Vec<u8>>();
                prop_assert!(contents.held() <= model.len() + list, "{} bytes", contents.held());
            }
        }
    }
}
