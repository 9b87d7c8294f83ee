//! A second address space with the same contents, whose pages are copied when one of the two writes.

use super::{COPY, MapError, Space};
use crate::memory::Pages;
use crate::mmu::edge::Forget;
use crate::mmu::teardown::{OWNED, page_of, read};
use crate::mmu::{Level, Mfn, Pte, index};

/// The part of an address that an index of each level is.
const fn address(l4: usize, l3: usize, l2: usize) -> u64 {
    ((l4 as u64) << 39) | ((l3 as u64) << 30) | ((l2 as u64) << 21)
}

impl Space {
    /// A space that shows the same. Pages are shared until one of the two writes; see
    /// [`copy_for_write`](Self::copy_for_write).
    ///
    /// # Errors
    ///
    /// [`MapError`]; this space shows what it did in any case.
    pub fn fork(&mut self) -> Result<Self, MapError> {
        let mut child = Self::new()?;
        let copied = self.copy_tables(&mut child).and_then(|()| child.settle(Forget::Nothing));
        // Whatever became of it, this space's own changes are made before anyone relies on them.
        let forget =
            if super::cpus::anywhere(self.roots.kernel) { Forget::Everywhere } else { Forget::Nothing };
        self.batch.commit(forget)?;
        copied.map(|()| child)
    }

    fn copy_tables(&mut self, child: &mut Self) -> Result<(), MapError> {
        self.settle(Forget::Nothing)?;
        for l4 in 0..256 {
            let Some(level3) = read(self.roots.kernel, l4).frame() else { continue };
            for l3 in 0..512 {
                let Some(level2) = read(level3, l3).frame() else { continue };
                for l2 in 0..512 {
                    if let Some(level1) = read(level2, l2).frame() {
                        self.copy_leaf(child, level1, address(l4, l3, l2))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives `child` a level-1 table like `table`, for the 2 MiB from `at`.
    fn copy_leaf(&mut self, child: &mut Self, table: Mfn, at: u64) -> Result<(), MapError> {
        let level2 = child.level2_table(at)?;
        let mut copy = Pages::new(1)?;
        for (slot, bytes) in copy.as_mut().as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let Some(entry) = self.share(table, slot)? else { continue };
            *bytes = entry.0.to_ne_bytes();
        }
        child.hook(copy, level2.address() + 8 * index(at, Level::L2) as u64, None).map(drop)
    }

    /// An entry like that at `slot` of `table` with a share of its own; both become such that a write copies.
    fn share(&mut self, table: Mfn, slot: usize) -> Result<Option<Pte>, MapError> {
        let mut entry = read(table, slot);
        if entry.0 & OWNED != 0 && entry.0 & COPY == 0 {
            entry = Pte(entry.0 & !(Pte::WRITABLE | Pte::DIRTY) | COPY);
            // SAFETY: the same page with fewer rights, in a table of this space; `fork` has the old translation forgotten.
            unsafe { self.batch.set(table.address() + 8 * slot as u64, entry) }?;
        }
        // SAFETY: the entry keeps its share: what is taken here is never dropped.
        let Some(page) = (unsafe { page_of(entry) }).map(core::mem::ManuallyDrop::new) else {
            return Ok(None);
        };
        let _ = (*page).clone().into_raw();
        Ok(Some(entry))
    }
}
