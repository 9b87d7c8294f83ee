//! The page tables that a domain starts on.
//!
//! They are written as the guest would have to write them to pass the checks of [`crate::page`]: those then count every
//! reference. So nothing here needs to be trusted, except that a table never maps itself writable.

use super::BuildError;
use super::layout::Layout;
use super::memory::Memory;
use crate::ids::Mfn;
use crate::page::pte;
use crate::platform::Platform;
use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;

const PAGE: u64 = 4096;
/// What an L1 table maps.
const L1_SPAN: u64 = 512 * PAGE;
/// Bits of entries that name tables.
const UPPER: u64 = pte::PRESENT | pte::RW | pte::USER | pte::ACCESSED;
/// Bits of entries for read-only pages: the kernel's own, already accessed so that the CPU need not note it.
const READ_ONLY: u64 = pte::PRESENT | pte::USER | pte::GUEST_KERNEL | pte::ACCESSED;
/// Bits of entries for other pages.
const READ_WRITE: u64 = READ_ONLY | pte::RW | pte::DIRTY;

/// Writes all tables; answers the frame of the L4. Their pages need not be clear.
pub(super) fn build<P: Platform>(memory: &Memory<'_, P>, layout: &Layout) -> Result<Mfn, BuildError> {
    memory.clear_pages(layout.tables.clone());
    memory.clear_pages(layout.p2m_tables.clone());
    let mut tables = Tables::new(memory, layout);
    while tables.step(memory, layout)? {}
    Ok(tables.root)
}

/// How far the tables are written.
pub(super) struct Tables {
    root: Mfn,
    /// Which of the parts of the address space.
    part: usize,
    /// The next page of it.
    page: u64,
    /// Cleared pages for further tables.
    unused: Range<u64>,
}

impl Tables {
    /// No entry is written yet; the pages of the tables are clear.
    pub(super) fn new<P: Platform>(memory: &Memory<'_, P>, layout: &Layout) -> Self {
        let Range { start, end } = layout.tables;
        Self { root: memory.frame(start), part: 0, page: 0, unused: start + 1..end }
    }

    /// The frame of the L4 table.
    pub(super) fn root(&self) -> Mfn {
        self.root
    }

    /// Writes at most one L1 table's entries. Answers whether there is more.
    pub(super) fn step<P: Platform>(
        &mut self,
        memory: &Memory<'_, P>,
        layout: &Layout,
    ) -> Result<bool, BuildError> {
        let Some((pages, base, bits)) = part(layout, self.part) else { return Ok(false) };
        let page = self.page.max(pages.start);
        if page >= pages.end {
            self.part += 1;
            if let Some((next, ..)) = part(layout, self.part) {
                self.page = next.start;
            }
            if self.part == LIST {
                self.unused = layout.p2m_tables.clone();
            }
            return Ok(true);
        }
        // The last page of all may be the last of the address space.
        let address = base.wrapping_add((page - pages.start) * PAGE);
        let table = self.l1_table(memory, address)?;
        let first = pte::index(address, 1);
        let count = (pages.end - page).min((L1_SPAN - address % L1_SPAN) / PAGE);
        let written = memory.with(table, |table| {
            let mut entries = &table[first..first + count as usize];
            for extent in memory.extents(page..page + count) {
                let (now, later) = entries.split_at(extent.count as usize);
                let frames = (extent.frame.addr().0 | bits..).step_by(PAGE as usize);
                now.iter().zip(frames).for_each(|(entry, value)| entry.store(value, Relaxed));
                entries = later;
            }
        });
        written.ok_or(BuildError::FramesTaken)?;
        self.page = page + count;
        Ok(true)
    }

    /// The L1 table for an address, made where it is missing.
    fn l1_table<P: Platform>(&mut self, memory: &Memory<'_, P>, address: u64) -> Result<Mfn, BuildError> {
        let mut table = self.root;
        for level in [4, 3, 2] {
            let next = memory.with(table, |words| {
                let entry = &words[pte::index(address, level)];
                Ok(match entry.load(Relaxed) {
                    0 => {
                        let frame = memory.frame(self.unused.next().ok_or(BuildError::LayoutTooLarge)?);
                        entry.store(frame.addr().0 | UPPER, Relaxed);
                        frame
                    }
                    old => pte::frame_of(old),
                })
            });
            table = next.unwrap_or(Err(BuildError::FramesTaken))?;
        }
        Ok(table)
    }
}

/// The part of the address space that maps the list of frames, where that is not in the region.
const LIST: usize = 3;

/// A part of the address space: which pages, mapped from which address on, and how.
fn part(layout: &Layout, number: usize) -> Option<(Range<u64>, u64, u64)> {
    let region = |pages: Range<u64>, bits| {
        let address = layout.address(pages.start);
        Some((pages, address, bits))
    };
    match number {
        0 => region(0..layout.tables.start, READ_WRITE),
        1 => region(layout.tables.clone(), READ_ONLY),
        2 => region(layout.tables.end..layout.region_pages, READ_WRITE),
        LIST if !layout.p2m_tables.is_empty() => Some((layout.p2m.clone(), layout.p2m_address, READ_WRITE)),
        _ => None,
    }
}
