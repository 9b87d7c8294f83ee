//! The page tables of an address space: made, walked, taken apart.

use core::mem::ManuallyDrop;

use super::{MapError, Space, USER_END, check};
use crate::Errno;
use crate::memory::{OutOfMemory, Page, Pages, there};
use crate::mmu::edge::{self, Forget};
use crate::mmu::frame::fill_kernel_half;
use crate::mmu::teardown::{KERNEL_HALF, dissolve, page_of, read};
use crate::mmu::{Level, Mfn, PAGE_SIZE, Pfn, Pte, index};

/// The two tables of level 4.
#[derive(Debug)]
pub struct Roots {
    /// Both halves.
    pub kernel: Mfn,
    /// The lower half only.
    pub user: Mfn,
}

impl Roots {
    /// Two roots with an empty lower half, pinned.
    pub fn new() -> Result<Self, MapError> {
        let memory = there_or_error()?;
        let (mut kernel, user) = (Pages::new(1)?, Pages::new(1)?);
        fill_kernel_half(&mut kernel);
        let frames = [kernel.pfn(0), user.pfn(0)];
        let read_only = frames.map(|frame| memory.as_table(frame));
        let [Some(first), Some(second)] = read_only else { return Err(MapError::Refused(Errno::EFAULT)) };
        let roots = [kernel.mfn(0), user.mfn(0)];
        // From here on the frames belong to the tables; where this fails they stay out of use.
        let _ = (kernel.into_raw(), user.into_raw());
        // SAFETY: the pages are nobody else's, and nobody refers to them: they become roots, which have the kernel's half and
        // an empty user half.
        unsafe {
            edge::apply(&[first, second])?;
            roots.iter().try_for_each(|&root| edge::pin(Level::L4, root))?;
        }
        Ok(Self { kernel: roots[0], user: roots[1] })
    }

    /// Gives back all tables and pages of the lower half, and the roots.
    ///
    /// # Safety
    ///
    /// No CPU runs in them, and they are not used again.
    pub unsafe fn dissolve(&self) -> Result<(), Errno> {
        // SAFETY: pinned by `new`, and no CPU runs in them by the caller's promise. Nothing points to a root; the user's has
        // the same entries as the kernel's, which owns them.
        unsafe {
            edge::unpin(&[self.user, self.kernel])?;
            dissolve(self.kernel, Level::L4, Some(self.user))
        }
    }
}

fn there_or_error() -> Result<&'static crate::memory::Memory, OutOfMemory> {
    crate::memory::get().ok_or(OutOfMemory)
}

impl Space {
    /// What the entry at machine address `at` holds, or will.
    pub(super) fn entry(&self, at: u64) -> Pte {
        self.batch.pending(at).unwrap_or_else(|| read(Mfn(at >> 12), (at % PAGE_SIZE as u64 / 8) as usize))
    }

    /// Machine address of the level-1 entry for `at`, where its tables exist.
    pub(super) fn slot(&self, at: u64) -> Option<u64> {
        let slot_in = |table: Mfn| table.address() + 8 * index(at, Level::L1) as u64;
        if let Some((place, table)) = self.last
            && place == at >> 21
        {
            return Some(slot_in(table));
        }
        let mut table = self.roots.kernel;
        for level in [Level::L4, Level::L3, Level::L2] {
            table = self.entry(table.address() + 8 * index(at, level) as u64).frame()?;
        }
        Some(slot_in(table))
    }

    /// Up to where the same table, or the lack of one, decides over `at`; and whether there is a level-1 table.
    pub(super) fn extent(&self, at: u64) -> (u64, bool) {
        let mut table = self.roots.kernel;
        for (level, shift) in [(Level::L4, 39), (Level::L3, 30), (Level::L2, 21)] {
            let end = ((at >> shift) + 1) << shift;
            match self.entry(table.address() + 8 * index(at, level) as u64).frame() {
                None => return (end, false),
                Some(_) if level == Level::L2 => return (end, true),
                Some(next) => table = next,
            }
        }
        (at, false)
    }

    /// The level-1 entry for `at`, where one is present.
    pub(super) fn leaf(&self, at: u64) -> Option<Pte> {
        check(at).ok()?;
        let entry = self.entry(self.slot(at)?);
        entry.frame().map(|_| entry)
    }

    /// The level-1 entry for `at`, which must be present: its machine address and contents.
    pub(super) fn mapped(&self, at: u64) -> Result<(u64, Pte), MapError> {
        check(at)?;
        let slot = self.slot(at).ok_or(MapError::NotMapped)?;
        match self.entry(slot) {
            entry if entry.frame().is_some() => Ok((slot, entry)),
            _ => Err(MapError::NotMapped),
        }
    }

    /// Machine address of the level-1 entry for `at`; its tables are made where they are missing.
    pub(super) fn slot_or_make(&mut self, at: u64) -> Result<u64, MapError> {
        check(at)?;
        let place = index(at, Level::L1) as u64 * 8;
        if let Some((last, table)) = self.last
            && last == at >> 21
        {
            return Ok(table.address() + place);
        }
        let level2 = self.level2_table(at)?;
        let parent = level2.address() + 8 * index(at, Level::L2) as u64;
        let table = self.child(parent, None)?;
        self.last = Some((at >> 21, table));
        Ok(table.address() + place)
    }

    /// The table of level 2 for `at`, made where it is missing.
    pub(super) fn level2_table(&mut self, at: u64) -> Result<Mfn, MapError> {
        let root = 8 * index(at, Level::L4) as u64;
        let level3 =
            self.child(self.roots.kernel.address() + root, Some(self.roots.user.address() + root))?;
        self.child(level3.address() + 8 * index(at, Level::L3) as u64, None)
    }

    /// The table that the entry at machine address `parent` points to; a new one, also in the entry `second`, where
    /// there is none.
    fn child(&mut self, parent: u64, second: Option<u64>) -> Result<Mfn, MapError> {
        if let Some(table) = self.entry(parent).frame() {
            return Ok(table);
        }
        self.hook(Pages::new(1)?, parent, second)
    }

    /// Makes `table`, filled in already, a page table below the entry `parent`, and `second`.
    pub(super) fn hook(&mut self, table: Pages, parent: u64, second: Option<u64>) -> Result<Mfn, MapError> {
        let update = there().as_table(table.pfn(0)).ok_or(Errno::EFAULT)?;
        let mfn = table.mfn(0);
        // From here on it belongs to the tables; where this fails it stays out of use.
        let _: (Pfn, usize) = table.into_raw();
        // SAFETY: the page was the caller's alone, and is not looked at again but as a table. The parents' entries are those
        // of tables of this space, and empty; what the new table maps has its shares.
        unsafe {
            self.batch.push(update)?;
            self.batch.set(parent, Pte::table(mfn))?;
            second.map_or(Ok(()), |second| self.batch.set(second, Pte::table(mfn)))?;
        }
        Ok(mfn)
    }

    /// Unmaps what is mapped in `at..end`, which one level-1 table serves.
    pub(super) fn unmap_in_table(&mut self, at: u64, end: u64) -> Result<(), MapError> {
        const AT_ONCE: usize = 32;
        let mut at = at;
        while at < end {
            // The shares go once the batch is through.
            let mut gone: [Option<ManuallyDrop<Page>>; AT_ONCE] = [const { None }; AT_ONCE];
            let mut count = 0;
            while at < end && count < AT_ONCE {
                if let Ok((slot, entry)) = self.mapped(at) {
                    // SAFETY: an entry of the user half, into which no reference points; its page stays until the old
                    // translation is forgotten.
                    unsafe { self.batch.set(slot, Pte::EMPTY) }?;
                    // SAFETY: dropped only after the entry is gone.
                    gone[count] = unsafe { page_of(entry) }.map(ManuallyDrop::new);
                    count += 1;
                }
                at += PAGE_SIZE as u64;
            }
            let anywhere = super::cpus::anywhere(self.roots.kernel);
            self.batch.commit(if anywhere { Forget::Everywhere } else { Forget::Nothing })?;
            gone.into_iter().flatten().for_each(|page| drop(ManuallyDrop::into_inner(page)));
        }
        Ok(())
    }
}

const _: () = assert!(USER_END >> 39 == KERNEL_HALF as u64);
