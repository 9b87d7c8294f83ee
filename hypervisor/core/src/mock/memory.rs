//! What lies in RAM behind the caches of the mock machine.
//!
//! A write by a mapping that is not write-back changes memory only; the caches go on showing what they had, clean, until they lose
//! the line, on purpose or whenever they like ([`MockPlatform::evict`]). What was written to a cache meanwhile is
//! dirty, and goes to memory when it is lost. Real processors with self-snooping do better.

use super::MockPlatform;
use crate::ids::{Mfn, PAGE_SIZE};
use crate::platform::{FrameWords, Platform};
use core::ops::Range;
use core::sync::atomic::Ordering;
use std::collections::BTreeMap;

/// A word of memory that differs from what the caches show.
struct Behind {
    /// What memory holds.
    memory: u64,
    /// What the caches showed when it was written.
    shown: u64,
}

/// Those words, by frame and index.
#[derive(Default)]
pub(super) struct Memory {
    words: BTreeMap<(Mfn, usize), Behind>,
}

impl Memory {
    /// Whether the caches show something clean in this frame that memory does not hold.
    fn differs(&self, frames: &[FrameWords], mfn: Mfn) -> bool {
        self.words.range((mfn, 0)..(mfn, usize::MAX)).any(|((_, index), word)| {
            word.memory != word.shown && frames[mfn.0 as usize][*index].load(Ordering::Relaxed) == word.shown
        })
    }

    /// Reads past the caches.
    fn read(&self, frames: &[FrameWords], mfn: Mfn, index: usize) -> u64 {
        let shown = || frames[mfn.0 as usize][index].load(Ordering::Relaxed);
        self.words.get(&(mfn, index)).map_or_else(shown, |word| word.memory)
    }

    /// Writes past the caches.
    fn write(&mut self, frames: &[FrameWords], mfn: Mfn, index: usize, value: u64) {
        let shown = frames[mfn.0 as usize][index].load(Ordering::Relaxed);
        self.words.insert((mfn, index), Behind { memory: value, shown });
    }

    /// The caches lose the words of some bytes of a frame.
    fn drop_lines(&mut self, frames: &[FrameWords], mfn: Mfn, bytes: Range<usize>) {
        for index in bytes.start / 8..bytes.end.div_ceil(8) {
            if let Some(word) = self.words.remove(&(mfn, index)) {
                word.show(&frames[mfn.0 as usize], index);
            }
        }
    }

    /// The caches lose everything.
    fn drop_all(&mut self, frames: &[FrameWords]) {
        for ((mfn, index), word) in core::mem::take(&mut self.words) {
            word.show(&frames[mfn.0 as usize], index);
        }
    }
}

impl Behind {
    fn show(&self, words: &FrameWords, index: usize) {
        // What is dirty stays, and replaces what memory held.
        let _ = words[index].compare_exchange(self.shown, self.memory, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl MockPlatform {
    /// One byte of guest memory.
    pub(super) fn byte(&self, mfn: Mfn, offset: usize) -> u8 {
        self.frames[mfn.0 as usize][offset / 8].load(Ordering::Relaxed).to_le_bytes()[offset % 8]
    }

    pub(super) fn set_byte(&self, mfn: Mfn, offset: usize, value: u8) {
        let word = &self.frames[mfn.0 as usize][offset / 8];
        let mut bytes = word.load(Ordering::Relaxed).to_le_bytes();
        bytes[offset % 8] = value;
        word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
    }

    /// Translates as this CPU does; the hypervisor's own accesses are write-back, whatever the guest's memory type.
    pub(super) fn translate(&self, va: u64, write: bool) -> Option<(Mfn, usize)> {
        self.find(va, write).map(|(frame, offset, _)| (frame, offset))
    }

    fn find(&self, va: u64, write: bool) -> Option<(Mfn, usize, bool)> {
        let mut tlbs = self.tlbs.lock().unwrap();
        let (frame, cached) = tlbs.get_mut(&self.this_cpu())?.translate(&self.frames, va, write)?;
        Some((frame, (va & 0xfff) as usize, cached))
    }

    /// The guest that runs on this CPU reads the word at `va`, or writes it. Answers the frame that was reached and what the word
    /// was before; `None`: a fault.
    pub fn access(&self, va: u64, write: Option<u64>) -> Option<(Mfn, u64)> {
        let (frame, offset, cached) = self.find(va, write.is_some())?;
        let word = &self.frames[frame.0 as usize][offset / 8];
        let mut memory = self.memory.lock().unwrap();
        let before = match cached {
            true => word.load(Ordering::Relaxed),
            false => memory.read(&self.frames, frame, offset / 8),
        };
        match write {
            Some(value) if cached => word.store(value, Ordering::Relaxed),
            Some(value) => memory.write(&self.frames, frame, offset / 8, value),
            None => {}
        }
        Some((frame, before))
    }

    /// Bytes of a frame are written back and lost.
    pub(super) fn write_lines_back(&self, mfn: Mfn, bytes: Range<usize>) {
        assert!(bytes.end <= PAGE_SIZE, "bytes within a frame");
        bytes.clone().step_by(64).for_each(|_| self.step());
        self.memory.lock().unwrap().drop_lines(&self.frames, mfn, bytes);
    }

    /// All caches lose all their lines, as they may at any time: what is clean in them is dropped, and memory shows.
    pub fn evict(&self) {
        self.memory.lock().unwrap().drop_all(&self.frames);
    }

    /// Whether the caches show something in this frame that memory does not hold, and that they may lose.
    pub fn is_behind(&self, mfn: Mfn) -> bool {
        self.memory.lock().unwrap().differs(&self.frames, mfn)
    }
}
