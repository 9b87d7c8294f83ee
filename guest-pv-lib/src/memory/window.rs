//! Windows: addresses of the kernel's half for what is not the domain's own memory.

use core::fmt;

use super::{Memory, OutOfMemory, get, there};
use crate::mmu::PAGE_SIZE;

/// Reserved virtual addresses, with nothing mapped at them, whose level-1 tables exist: a place for grant mappings and
/// device registers.
///
/// Whoever maps something there takes it away again. Addresses at which something is left when the window is dropped
/// are never used again.
pub struct Window {
    first: usize,
    count: usize,
}

impl Window {
    /// Reserves `pages` pages.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] where no addresses are left, or no memory for their tables.
    pub fn new(pages: usize) -> Result<Self, OutOfMemory> {
        let memory = get().ok_or(OutOfMemory)?;
        if pages == 0 {
            return Ok(Self { first: 0, count: 0 });
        }
        memory.windows.with(|windows| {
            let first = windows.take(pages, 1).ok_or(OutOfMemory)?;
            if let Err(error) = make_tables(memory, first, pages) {
                windows.give(first, pages);
                return Err(error);
            }
            Ok(Self { first, count: pages })
        })
    }

    /// How many pages.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// The virtual address of page `index`.
    ///
    /// # Panics
    ///
    /// Where there is no such page.
    #[must_use]
    pub fn address(&self, index: usize) -> u64 {
        assert!(index < self.count, "page {index} of {}", self.count);
        there().window_address(self.first + index)
    }

    /// The machine address of the level-1 entry that maps page `index`, as `GNTMAP_contains_pte` and
    /// [`mmu_update`](crate::mmu::mmu_update) take it. On a host it is a made-up number.
    ///
    /// # Panics
    ///
    /// Where there is no such page.
    #[must_use]
    pub fn entry_machine_address(&self, index: usize) -> u64 {
        let address = self.address(index);
        #[cfg(target_os = "none")]
        {
            there().leaf(address).expect("the tables were made with the window and stay").at
        }
        #[cfg(not(target_os = "none"))]
        {
            address / PAGE_SIZE as u64 * 8
        }
    }
}

#[cfg(target_os = "none")]
fn make_tables(memory: &Memory, first: usize, count: usize) -> Result<(), OutOfMemory> {
    // One level-1 table serves 512 pages.
    (first / 512..(first + count).div_ceil(512))
        .try_for_each(|table| memory.make_tables(memory.window_address(table * 512)))
}

#[cfg(not(target_os = "none"))]
fn make_tables(_: &Memory, _: usize, _: usize) -> Result<(), OutOfMemory> {
    Ok(())
}

impl Memory {
    const fn window_address(&self, page: usize) -> u64 {
        self.window_base + (page * PAGE_SIZE) as u64
    }

    /// Whether nothing is mapped at page `page` of the window area.
    #[cfg(target_os = "none")]
    fn is_vacant(&self, page: usize) -> bool {
        self.leaf(self.window_address(page)).is_some_and(|found| found.entry == crate::mmu::Pte::EMPTY)
    }

    /// On a host there are no mappings.
    #[cfg(not(target_os = "none"))]
    const fn is_vacant(&self, _: usize) -> bool {
        true
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let memory = there();
        for page in (self.first..self.first + self.count).filter(|&page| memory.is_vacant(page)) {
            memory.windows.with(|windows| windows.give(page, 1));
        }
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "window of {} pages, number {}", self.count, self.first)
    }
}
