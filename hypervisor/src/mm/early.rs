//! Frames before there is a frame table: cut from the free ranges of the memory map, highest first, never given back.
//!
//! What is left of the ranges goes to the frame allocator, once, by [`EarlyFrames::take_rest`].

use super::{clear_frame, tables};
use hypervisor_core::ids::Mfn;
use spin::Mutex;

/// Most separate ranges of RAM that are kept: those of the largest memory map, each cut once or twice.
pub const MAX_RANGES: usize = 512;

/// Free ranges of frames, `start..end`.
pub struct EarlyFrames {
    ranges: [(u64, u64); MAX_RANGES],
    count: usize,
}

/// The ranges of this machine.
pub static EARLY: Mutex<EarlyFrames> = Mutex::new(EarlyFrames { ranges: [(0, 0); MAX_RANGES], count: 0 });

impl EarlyFrames {
    /// Adds RAM. A range beyond the [`MAX_RANGES`]th is left unused.
    pub fn add(&mut self, start: u64, end: u64) {
        if start < end && self.count < MAX_RANGES {
            self.ranges[self.count] = (start, end);
            self.count += 1;
        }
    }

    /// Takes what is in use out of the free ranges.
    pub fn reserve(&mut self, start: u64, end: u64) {
        for n in 0..self.count {
            let (s, e) = self.ranges[n];
            if end <= s || e <= start {
                continue;
            }
            self.ranges[n] = (s, start.max(s));
            self.add(end.min(e), e);
        }
    }

    /// `count` frames in a row, the first a multiple of `align` (a power of two), below `limit`. Not cleared.
    pub fn alloc(&mut self, count: u64, align: u64, limit: u64) -> Option<Mfn> {
        let fit = |&(s, e): &(u64, u64)| {
            let start = e.min(limit).checked_sub(count)? & !(align - 1);
            (start >= s).then_some(start)
        };
        let (n, start) = (0..self.count)
            .filter_map(|n| fit(&self.ranges[n]).map(|start| (n, start)))
            .max_by_key(|&(_, start)| start)?;
        let end = core::mem::replace(&mut self.ranges[n].1, start).max(start + count);
        self.add(start + count, end);
        Some(Mfn(start))
    }

    /// Ends the early time: hands every free range to `each`.
    pub fn take_rest(&mut self, mut each: impl FnMut(Mfn, Mfn)) {
        for &(start, end) in &self.ranges[..self.count] {
            if start < end {
                each(Mfn(start), Mfn(end));
            }
        }
        self.count = 0;
    }
}

/// One cleared frame for a page table: from the early ranges while there are any, else from the frame allocator.
pub fn table_frame() -> Option<Mfn> {
    let limit = tables::direct_map_limit();
    // Without the lock: the frame allocator may wait for other CPUs.
    let early = EARLY.lock().alloc(1, 1, limit);
    let mfn = match early {
        Some(mfn) => mfn,
        None => crate::machine::try_hv()?.alloc_frames(0)?,
    };
    // SAFETY: just allocated, and below the limit of what is mapped.
    unsafe { clear_frame(mfn) };
    Some(mfn)
}
