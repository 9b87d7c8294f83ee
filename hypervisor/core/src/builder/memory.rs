//! The first domain's memory: how much, which frames, and writing to them before the domain runs.
//!
//! Frames come in as large blocks as there are, and everything that is done to each of them is done in one loop per
//! block. They are not cleared: at boot no frame ever held anything of another domain. At boot the builder owns exclusively what it
//! writes to, so relaxed stores are enough; the scheduler's lock publishes them to the CPU that runs the domain.
//!
//! A domain that is built again has neighbours that run, and a toolstack may take frames away from it, or use them as tables, at any
//! moment. So a frame is written to with a reference to it as writable memory of the domain; where there is none to be had, nothing is
//! written, and the domain is not built ([`Memory::is_whole`]).

use super::BuildError;
use super::extents::{Extent, Extents, judged};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::Mfn;
use crate::mem::MAX_ORDER;
use crate::options::Dom0Memory;
use crate::page::PageType;
use crate::platform::{FrameWords, Platform, WORDS_PER_FRAME};
use core::cell::Cell;
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

/// Entries of the list of frames that is in these pages.
pub(super) fn list_entries(list: &Range<u64>) -> u64 {
    (list.end - list.start) * WORDS_PER_FRAME as u64
}

/// The memory of a domain that does not run yet, by its own page numbers.
pub(super) struct Memory<'a, P: Platform> {
    hv: &'a Hypervisor<P>,
    extents: Extents,
    /// The domain, where others may take its frames away meanwhile.
    owner: Option<&'a Domain<P>>,
    /// Some of them were taken away.
    lost: Cell<bool>,
}

impl<'a, P: Platform> Memory<'a, P> {
    /// No memory yet, of a domain that is alone in the machine.
    pub(super) fn new(hv: &'a Hypervisor<P>) -> Self {
        Self { hv, extents: Extents::default(), owner: None, lost: Cell::new(false) }
    }

    /// The memory that [`Memory::into_extents`] left, of a domain that others know.
    pub(super) fn resume(hv: &'a Hypervisor<P>, owner: &'a Domain<P>, extents: Extents) -> Self {
        Self { hv, extents, owner: Some(owner), lost: Cell::new(false) }
    }

    /// Whether everything that was to be written was written.
    pub(super) fn is_whole(&self) -> bool {
        !self.lost.get()
    }

    /// What there is of it, to go on later.
    pub(super) fn into_extents(self) -> Extents {
        self.extents
    }

    /// Gives pages to the domain until it has `pages`.
    pub(super) fn grow(&mut self, domain: &Domain<P>, pages: u64) -> Result<(), BuildError> {
        let mut order = MAX_ORDER;
        while self.pages() < pages {
            let page = self.pages();
            order = order.min((pages - page).ilog2());
            match self.hv.alloc_domain_pages(domain, order, 0) {
                Ok(frame) => self.add(frame, 1 << order, pages)?,
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
            Some(frame) => self.add(frame, 1 << *order, pages)?,
            None if *order == 0 => {
                return Err(BuildError::TooLittleMemory { needed: pages, available: page });
            }
            None => *order -= 1,
        }
        Ok(())
    }

    /// `count` frames more are the domain's, which is to have `pages`.
    fn add(&mut self, frame: Mfn, count: u64, pages: u64) -> Result<(), BuildError> {
        let page = self.pages();
        let added = match self.owner {
            Some(owner) => self.extents.add(frame, count, judged(&self.hv.frames, &owner.pages.claim)),
            // Nothing else takes memory while it is built.
            None => self.extents.add(frame, count, |_| true),
        };
        added.ok_or(BuildError::TooLittleMemory { needed: pages, available: page })
    }

    /// How many pages there are.
    pub(super) fn pages(&self) -> u64 {
        self.extents.pages()
    }

    /// The blocks that make up these pages.
    pub(super) fn extents(&self, pages: Range<u64>) -> impl Iterator<Item = Extent> + '_ {
        (self.extents.find(pages.start)..).map_while(move |n| {
            let e = self.extents.get(n)?;
            let page = e.page.max(pages.start);
            let end = (e.page + e.count).min(pages.end);
            (page < end).then(|| Extent { page, frame: e.frame.add(page - e.page), count: end - page })
        })
    }

    /// The frame of a page. The page is one of the domain's.
    pub(super) fn frame(&self, page: u64) -> Mfn {
        let extent = self.extents.get(self.extents.find(page)).expect("a page of the domain's");
        extent.frame.add(page - extent.page)
    }

    /// Does something to a frame's words while the frame is the domain's; `None` where it is not any more, or no memory to write to.
    pub(super) fn with<R>(&self, frame: Mfn, work: impl FnOnce(&FrameWords) -> R) -> Option<R> {
        if !self.hold(frame) {
            return None;
        }
        let answer = work(self.hv.platform.frame_words(frame));
        self.release(frame);
        Some(answer)
    }

    #[inline(never)]
    fn hold(&self, frame: Mfn) -> bool {
        let Some(owner) = self.owner else { return true };
        let held = self.hv.get_page_and_type(owner, frame, PageType::Writable).is_ok();
        self.lost.set(self.lost.get() || !held);
        held
    }

    #[inline(never)]
    fn release(&self, frame: Mfn) {
        if self.owner.is_some() {
            self.hv.put_page_and_type(frame);
        }
    }

    /// Clears whole pages.
    pub(super) fn clear_pages(&self, pages: Range<u64>) {
        for extent in self.extents(pages) {
            for frame in (0..extent.count).map(|n| extent.frame.add(n)) {
                self.with(frame, |_| self.hv.clear_domain_page(frame));
            }
        }
    }

    /// Copies bytes to `at` (counted from the domain's first byte) on.
    pub(super) fn copy(&self, at: u64, mut data: &[u8]) {
        for (frame, bytes) in self.pieces(at, data.len() as u64) {
            let (now, later) = data.split_at(bytes.len());
            data = later;
            self.with(frame, |words| {
                if bytes.len() == WORDS_PER_FRAME * 8 {
                    copy_words(words, now);
                } else {
                    copy_bytes(words, bytes.start, now);
                }
            });
        }
    }

    /// Clears `size` bytes at `at`.
    pub(super) fn clear(&self, at: u64, size: u64) {
        const ZEROES: [u8; 4096] = [0; 4096];
        for (frame, bytes) in self.pieces(at, size) {
            self.with(frame, |words| {
                if bytes.len() == WORDS_PER_FRAME * 8 {
                    fill(words, 0);
                } else {
                    copy_bytes(words, bytes.start, &ZEROES[..bytes.len()]);
                }
            });
        }
    }

    /// Cuts a range of bytes at the borders of pages: each page's frame and which of its bytes.
    fn pieces(&self, at: u64, size: u64) -> impl Iterator<Item = (Mfn, Range<usize>)> + '_ {
        let end = at + size;
        self.extents(at / PAGE..end.div_ceil(PAGE)).flat_map(move |extent| {
            (0..extent.count).map(move |n| {
                let first = (extent.page + n) * PAGE;
                let bytes = (at.max(first) - first) as usize..(end.min(first + PAGE) - first) as usize;
                (extent.frame.add(n), bytes)
            })
        })
    }

    /// Writes the frame of each of the domain's pages to the list of frames, which is in the pages `list`, and its page to the M2P
    /// table: as far as the entries `part` of the list tell of them.
    pub(super) fn write_p2m(&self, list: &Range<u64>, part: Range<u64>) {
        let per_page = WORDS_PER_FRAME as u64;
        let mut first = part.start;
        while first < part.end {
            let (page, index) = (first / per_page, (first % per_page) as usize);
            let end = part.end.min((page + 1) * per_page);
            let entries = index..index + (end - first) as usize;
            self.with(self.frame(list.start + page), |words| self.list_frames(&words[entries], first));
            first = end;
        }
    }

    /// Does that for the pages from `first` on.
    fn list_frames(&self, entries: &[AtomicU64], first: u64) {
        let mut filled = 0;
        for extent in self.extents(first..first + entries.len() as u64) {
            let (frame, count) = (extent.frame.0, extent.count as usize);
            self.name_frames(&extent);
            let part = &entries[filled..filled + count];
            part.iter().zip(frame..).for_each(|(w, frame)| w.store(frame, Ordering::Relaxed));
            filled += count;
        }
        // Behind the last page: no frame.
        fill(&entries[filled..], Mfn::INVALID.0);
    }

    /// Writes the pages of frames to the M2P table, as far as these are the domain's.
    fn name_frames(&self, extent: &Extent) {
        let first = extent.frame.0 as usize;
        let entries = &self.hv.platform.m2p()[first..first + extent.count as usize];
        for ((entry, page), frame) in entries.iter().zip(extent.page..).zip(extent.frame.0..) {
            match self.owner {
                None => entry.store(page, Ordering::Relaxed),
                Some(owner) => self.name_frame(owner, Mfn(frame), entry, page),
            }
        }
    }

    #[inline(never)]
    fn name_frame(&self, owner: &Domain<P>, frame: Mfn, entry: &AtomicU64, page: u64) {
        if self.hv.get_page(owner.id, frame).is_err() {
            return self.lost.set(true);
        }
        entry.store(page, Ordering::Relaxed);
        self.hv.put_page(frame);
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
