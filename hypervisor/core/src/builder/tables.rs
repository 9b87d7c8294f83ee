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

/// Writes all tables; answers the frame of the L4.
pub(super) fn build<P: Platform>(memory: &Memory<'_, P>, layout: &Layout) -> Result<Mfn, BuildError> {
    memory.clear_pages(layout.tables.clone());
    memory.clear_pages(layout.p2m_tables.clone());
    let root = memory.frame(layout.tables.start);
    let mut builder = Builder { memory, root, unused: layout.tables.start + 1..layout.tables.end };
    let parts = [
        (0..layout.tables.start, READ_WRITE),
        (layout.tables.clone(), READ_ONLY),
        (layout.tables.end..layout.region_pages, READ_WRITE),
    ];
    for (pages, bits) in parts {
        builder.map(layout.address(pages.start), pages, bits)?;
    }
    if !layout.p2m_tables.is_empty() {
        builder.unused = layout.p2m_tables.clone();
        builder.map(layout.p2m_address, layout.p2m.clone(), READ_WRITE)?;
    }
    Ok(root)
}

struct Builder<'m, 'a, P: Platform> {
    memory: &'m Memory<'a, P>,
    root: Mfn,
    /// Cleared pages for further tables.
    unused: Range<u64>,
}

impl<P: Platform> Builder<'_, '_, P> {
    /// Maps pages one after the other from `address` on.
    fn map(&mut self, mut address: u64, pages: Range<u64>, bits: u64) -> Result<(), BuildError> {
        let mut page = pages.start;
        while page < pages.end {
            let table = self.memory.words_of(self.l1_table(address)?);
            let first = pte::index(address, 1);
            let count = (pages.end - page).min((L1_SPAN - address % L1_SPAN) / PAGE);
            let mut entries = &table[first..first + count as usize];
            for extent in self.memory.extents(page..page + count) {
                let (now, later) = entries.split_at(extent.count as usize);
                let frames = (extent.frame.addr().0 | bits..).step_by(PAGE as usize);
                now.iter().zip(frames).for_each(|(entry, value)| entry.store(value, Relaxed));
                entries = later;
            }
            page += count;
            // The last page of all may be the last of the address space.
            address = address.wrapping_add(count * PAGE);
        }
        Ok(())
    }

    /// The L1 table for an address, made where it is missing.
    fn l1_table(&mut self, address: u64) -> Result<Mfn, BuildError> {
        let mut table = self.root;
        for level in [4, 3, 2] {
            let entry = &self.memory.words_of(table)[pte::index(address, level)];
            table = match entry.load(Relaxed) {
                0 => {
                    let frame = self.memory.frame(self.unused.next().ok_or(BuildError::LayoutTooLarge)?);
                    entry.store(frame.addr().0 | UPPER, Relaxed);
                    frame
                }
                old => pte::frame_of(old),
            };
        }
        Ok(table)
    }
}
