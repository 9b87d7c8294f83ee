//! The first domain's memory: how much, which frames, and writing to them before the domain runs.
//!
//! Frames come in as large blocks as there are, and everything that is done to each of them is done in one loop per
//! block. They are not cleared: at boot no frame ever held anything of another domain. What the domain's builder writes to it
//! owns exclusively, so relaxed stores are enough; the scheduler's lock publishes them to the CPU that runs the domain.

use super::BuildError;
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::Mfn;
use crate::mem::MAX_ORDER;
use crate::options::Dom0Memory;
use crate::platform::{FrameWords, GuestFrame, Platform, WORDS_PER_FRAME};
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

const PAGE: u64 = 4096;
/// Without `dom0_mem=` a sixteenth of the free memory stays with the hypervisor, but no more than this.
const MOST_RESERVED: u64 = (128 << 20) / PAGE;
/// Whatever `dom0_mem=` says, the hypervisor keeps this for its own tables, or a sixteenth where that is less.
const LEAST_RESERVED: u64 = (8 << 20) / PAGE;

/// How many pages the first domain gets of `free` ones.
pub(super) fn dom0_pages(option: &Dom0Memory, free: u64) -> u64 {
    let default = free - (free / 16).min(MOST_RESERVED);
    let mut pages = option.size.map_or(default, |amount| amount.pages(free));
    if let Some(min) = option.min {
        pages = pages.max(min.pages(free));
    }
    if let Some(max) = option.max {
        pages = pages.min(max.pages(free));
    }
    pages.min(free - (free / 16).min(LEAST_RESERVED))
}

/// Consecutive pages of the domain in consecutive frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// First page.
    pub(super) page: u64,
    /// Its frame.
    pub(super) frame: Mfn,
    /// How many.
    pub(super) count: u64,
}

/// The memory of a domain that does not run yet, by its own page numbers.
pub(super) struct Memory<'a, P: Platform> {
    hv: &'a Hypervisor<P>,
    extents: Vec<Extent>,
}

impl<'a, P: Platform> Memory<'a, P> {
    /// No memory yet.
    pub(super) fn new(hv: &'a Hypervisor<P>) -> Self {
        Self { hv, extents: Vec::new() }
    }

    /// The memory that [`Memory::into_extents`] left.
    pub(super) fn resume(hv: &'a Hypervisor<P>, extents: Vec<Extent>) -> Self {
        Self { hv, extents }
    }

    /// What there is of it, to go on later.
    pub(super) fn into_extents(self) -> Vec<Extent> {
        self.extents
    }

    /// Gives pages to the domain until it has `pages`.
    pub(super) fn grow(&mut self, domain: &Domain<P>, pages: u64) -> Result<(), BuildError> {
        let mut order = MAX_ORDER;
        while self.pages() < pages {
            let page = self.pages();
            order = order.min((pages - page).ilog2());
            match self.hv.alloc_domain_pages(domain, order, 0) {
                Ok(frame) => self.add(frame, 1 << order),
                Err(_) if order == 0 => {
                    return Err(BuildError::TooLittleMemory { needed: pages, available: page });
                }
                Err(_) => order -= 1,
            }
        }
        Ok(())
    }

    /// Gives the domain, which has less than `pages` pages, a block of at most `order`, or finds that it takes a smaller order. What
    /// others left in it is still there.
    pub(super) fn grow_once(
        &mut self,
        domain: &Domain<P>,
        pages: u64,
        order: &mut u32,
    ) -> Result<(), BuildError> {
        let page = self.pages();
        *order = (*order).min((pages - page).ilog2());
        match self.hv.alloc_uncleared(domain, *order) {
            Some(frame) => self.add(frame, 1 << *order),
            None if *order == 0 => {
                return Err(BuildError::TooLittleMemory { needed: pages, available: page });
            }
            None => *order -= 1,
        }
        Ok(())
    }

    fn add(&mut self, frame: Mfn, count: u64) {
        let page = self.pages();
        match self.extents.last_mut() {
            Some(last) if last.frame.add(last.count) == frame => last.count += count,
            _ => self.extents.push(Extent { page, frame, count }),
        }
    }

    /// How many pages there are.
    pub(super) fn pages(&self) -> u64 {
        self.extents.last().map_or(0, |last| last.page + last.count)
    }

    /// The blocks that make up these pages.
    pub(super) fn extents(&self, pages: Range<u64>) -> impl Iterator<Item = Extent> + '_ {
        let first = self.extents.partition_point(|e| e.page + e.count <= pages.start);
        self.extents[first..].iter().map_while(move |e| {
            let page = e.page.max(pages.start);
            let end = (e.page + e.count).min(pages.end);
            (page < end).then(|| Extent { page, frame: e.frame.add(page - e.page), count: end - page })
        })
    }

    /// The frame of a page. The page is one of the domain's.
    pub(super) fn frame(&self, page: u64) -> Mfn {
        let extent = &self.extents[self.extents.partition_point(|e| e.page + e.count <= page)];
        extent.frame.add(page - extent.page)
    }

    /// The words of a frame.
    pub(super) fn words_of(&self, frame: Mfn) -> &'a FrameWords {
        self.hv.platform.frame_words(frame)
    }

    /// Clears whole pages.
    pub(super) fn clear_pages(&self, pages: Range<u64>) {
        for extent in self.extents(pages) {
            for n in 0..extent.count {
                self.hv.platform.clear_frame(GuestFrame::held(extent.frame.add(n)));
            }
        }
    }

    /// Copies bytes to `at` (counted from the domain's first byte) on.
    pub(super) fn copy(&self, at: u64, mut data: &[u8]) {
        for (words, bytes) in self.pieces(at, data.len() as u64) {
            let (now, later) = data.split_at(bytes.len());
            data = later;
            if bytes.len() == WORDS_PER_FRAME * 8 {
                copy_words(words, now);
            } else {
                copy_bytes(words, bytes.start, now);
            }
        }
    }

    /// Clears `size` bytes at `at`.
    pub(super) fn clear(&self, at: u64, size: u64) {
        const ZEROES: [u8; 4096] = [0; 4096];
        for (words, bytes) in self.pieces(at, size) {
            if bytes.len() == WORDS_PER_FRAME * 8 {
                fill(words, 0);
            } else {
                copy_bytes(words, bytes.start, &ZEROES[..bytes.len()]);
            }
        }
    }

    /// Cuts a range of bytes at the borders of pages: each page's words and which of its bytes.
    fn pieces(&self, at: u64, size: u64) -> impl Iterator<Item = (&'a FrameWords, Range<usize>)> + '_ {
        let end = at + size;
        self.extents(at / PAGE..end.div_ceil(PAGE)).flat_map(move |extent| {
            (0..extent.count).map(move |n| {
                let first = (extent.page + n) * PAGE;
                let bytes = (at.max(first) - first) as usize..(end.min(first + PAGE) - first) as usize;
                (self.words_of(extent.frame.add(n)), bytes)
            })
        })
    }

    /// Writes the frame of each of the domain's pages to the list of frames, which is in the pages `list`, and its page to the M2P
    /// table: as far as the pages `part` of the list tell of them.
    pub(super) fn write_p2m(&self, list: &Range<u64>, part: Range<u64>) {
        let (m2p, per_page) = (self.hv.platform.m2p(), WORDS_PER_FRAME as u64);
        for target in self.extents(part) {
            for n in 0..target.count {
                let words = self.words_of(target.frame.add(n));
                let first = (target.page + n - list.start) * per_page;
                let mut filled = 0;
                for extent in self.extents(first..first + per_page) {
                    let (frame, count) = (extent.frame.0, extent.count as usize);
                    let entries = &m2p[frame as usize..frame as usize + count];
                    entries.iter().zip(extent.page..).for_each(|(m, page)| m.store(page, Ordering::Relaxed));
                    let part = &words[filled..filled + count];
                    part.iter().zip(frame..).for_each(|(w, frame)| w.store(frame, Ordering::Relaxed));
                    filled += count;
                }
                // Behind the last page: no frame.
                fill(&words[filled..], Mfn::INVALID.0);
            }
        }
    }
}

/// Fills words with a value.
fn fill(words: &[AtomicU64], value: u64) {
    words.iter().for_each(|word| word.store(value, Ordering::Relaxed));
}

/// Copies a whole page.
fn copy_words(words: &FrameWords, data: &[u8]) {
    /// Words per step: the loop's own instructions count.
    const STEP: usize = 8;
    let (sources, _) = data.as_chunks::<{ STEP * 8 }>();
    let (targets, _) = words.as_chunks::<STEP>();
    for (target, source) in targets.iter().zip(sources) {
        let (source, _) = source.as_chunks::<8>();
        target.iter().zip(source).for_each(|(t, s)| t.store(u64::from_le_bytes(*s), Ordering::Relaxed));
    }
}

/// Copies part of a page, byte by byte where it does not fill words.
fn copy_bytes(words: &FrameWords, start: usize, mut data: &[u8]) {
    let mut at = start;
    while !data.is_empty() {
        let (word, offset) = (&words[at / 8], at % 8);
        let (now, later) = data.split_at(data.len().min(8 - offset));
        let mut bytes = word.load(Ordering::Relaxed).to_le_bytes();
        bytes[offset..offset + now.len()].copy_from_slice(now);
        word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
        (at, data) = (at + now.len(), later);
    }
}
