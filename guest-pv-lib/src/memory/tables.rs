//! The page tables as the library sees them: through the direct map, by machine frames.
#![cfg_attr(not(target_os = "none"), allow(dead_code))]

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use xen_abi::xen::{MMU_NORMAL_PT_UPDATE, MmuUpdate};

use super::{Memory, OutOfMemory, Pages};
#[cfg(target_os = "none")]
use crate::Errno;
use crate::mmu::{self, Level, Mfn, Pfn, Pte, edge};

/// From the root down.
const LEVELS: [Level; 4] = [Level::L4, Level::L3, Level::L2, Level::L1];

/// How far a walk came, and what it found there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The level of the entry.
    pub level: Level,
    /// Its machine address.
    pub at: u64,
    /// Its contents.
    pub entry: Pte,
}

/// An update of the entry at machine address `at`.
pub const fn request(at: u64, entry: Pte) -> MmuUpdate {
    MmuUpdate { ptr: at | MMU_NORMAL_PT_UPDATE, val: entry.0 }
}

impl Memory {
    /// The frame of the domain behind a machine frame that a page table or a p2m named.
    pub(crate) fn pfn(&self, frame: Mfn) -> Option<Pfn> {
        let pfn = mmu::m2p(frame)?;
        (self.p2m.mfn(pfn) == Some(frame)).then_some(pfn)
    }

    /// Entry `index` of the table `table`; none where that is not a frame of the domain that the direct map shows.
    ///
    /// # Safety
    ///
    /// `table` must be a page table, or have been one and be no other code's yet: while the result is used, its memory is only
    /// accessed as atomics of this size.
    pub(crate) unsafe fn table_entry(&self, table: Mfn, index: usize) -> Option<&AtomicU64> {
        let frame = self.pfn(table).filter(|frame| (frame.0 as usize) < self.owners.len())?;
        let address = self.address(frame) + 8 * (index % 512) as u64;
        let at = ptr::with_exposed_provenance::<AtomicU64>(address as usize);
        // SAFETY: the direct map shows as many frames of the domain as have owners; the rest is the caller's promise.
        Some(unsafe { &*at })
    }

    /// The entry at machine address `at`.
    ///
    /// # Safety
    ///
    /// As for [`table_entry`](Self::table_entry).
    #[cfg(not(target_os = "none"))]
    pub(crate) unsafe fn entry_at(&self, at: u64) -> Option<&AtomicU64> {
        // SAFETY: the caller's promise.
        unsafe { self.table_entry(Mfn(at >> 12), (at % 4096 / 8) as usize) }
    }

    /// The entry that maps `virt` below `root`, as far down as there are tables: the level says how far.
    ///
    /// # Safety
    ///
    /// `root` must be a root table of the domain, whose tables stay meanwhile.
    pub(crate) unsafe fn walk(&self, root: Mfn, virt: u64) -> Option<Walk> {
        let mut table = root;
        for level in LEVELS {
            let index = mmu::index(virt, level);
            let at = table.address() + 8 * index as u64;
            // SAFETY: the root by the caller's promise; what an entry above level 1 points to is a table.
            let entry = Pte(unsafe { self.table_entry(table, index) }?.load(Ordering::Relaxed));
            match entry.frame() {
                Some(next) if level != Level::L1 && entry.0 & Pte::LARGE == 0 => table = next,
                _ => return Some(Walk { level, at, entry }),
            }
        }
        None
    }

    /// The entry of `level` for `virt` below `root`, where the tables above it exist.
    ///
    /// # Safety
    ///
    /// As for [`walk`](Self::walk).
    #[cfg(feature = "x86_64")]
    pub(crate) unsafe fn entry_of(&self, root: Mfn, virt: u64, level: Level) -> Option<Walk> {
        let mut table = root;
        for at in LEVELS {
            let index = mmu::index(virt, at);
            // SAFETY: as in `walk`.
            let entry = Pte(unsafe { self.table_entry(table, index) }?.load(Ordering::Relaxed));
            if at == level {
                return Some(Walk { level, at: table.address() + 8 * index as u64, entry });
            }
            table = entry.frame().filter(|_| entry.0 & Pte::LARGE == 0)?;
        }
        None
    }

    /// The machine frame behind `frame`, where the domain has memory there.
    #[cfg(feature = "x86_64")]
    pub(crate) fn p2m_entry(&self, frame: Pfn) -> Option<Mfn> {
        self.p2m.mfn(frame)
    }

    /// Fills a frame with zeros.
    ///
    /// # Safety
    ///
    /// The direct map must show the frame for writing, and nothing use it.
    #[cfg(feature = "x86_64")]
    pub(crate) unsafe fn clear(&self, frame: Pfn) {
        let first = ptr::with_exposed_provenance::<AtomicU64>(self.address(frame) as usize);
        // SAFETY: the caller's promise.
        let words = unsafe { core::slice::from_raw_parts(first, 512) };
        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// Makes the tables of the direct map for `count` frames from `first`, where the domain was started without memory
    /// there.
    #[cfg(target_os = "none")]
    pub(super) fn make_direct_tables(&self, first: Pfn, count: usize) -> Result<(), OutOfMemory> {
        let last = first.0 + count as u64;
        // Another CPU may be at the same 2 MiB.
        self.tables.with(|()| {
            (first.0 / 512..last.div_ceil(512))
                .try_for_each(|leaf| self.make_tables(self.address(Pfn(leaf * 512))))
        })
    }

    /// The level-1 entry that maps `virt` in the kernel's half, where its tables exist.
    pub(crate) fn leaf(&self, virt: u64) -> Option<Walk> {
        // SAFETY: the root of the domain's own tables, which are never taken away.
        unsafe { self.walk(self.root(), virt) }.filter(|found| found.level == Level::L1)
    }

    /// Makes the tables down to level 1 for `virt` in the kernel's half. One caller at a time, for each area.
    pub(crate) fn make_tables(&self, virt: u64) -> Result<(), OutOfMemory> {
        // SAFETY: as in `leaf`.
        while let Some(found) = unsafe { self.walk(self.root(), virt) }
            && found.level != Level::L1
        {
            let table = Pages::new(1)?;
            let (frame, mfn) = (table.pfn(0), table.mfn(0));
            let read_only = self.as_table(frame).ok_or(OutOfMemory)?;
            // It belongs to the page tables from now on, or is leaked where it is refused: it may be read-only then.
            let _ = table.into_raw();
            // SAFETY: the page was owned here, and nothing refers to it; it is zeroed, so it maps nothing. The entry that is
            // to point to it is empty.
            unsafe { edge::apply(&[read_only, request(found.at, Pte::table(mfn))]) }
                .map_err(|_| OutOfMemory)?;
        }
        Ok(())
    }

    /// The update that makes the direct map show `frame` read-only, as a page table must be.
    pub(crate) fn as_table(&self, frame: Pfn) -> Option<MmuUpdate> {
        self.direct_update(frame, Pte::read_only(self.mfn(frame)))
    }

    /// The update that makes `frame`, which is no page table any more, writable again.
    pub(crate) fn as_memory(&self, frame: Pfn) -> Option<MmuUpdate> {
        self.direct_update(frame, Pte::data(self.mfn(frame)))
    }

    /// On a host the direct map is not made of page tables: an update of frame 1, at which nobody looks.
    fn direct_update(&self, frame: Pfn, entry: Pte) -> Option<MmuUpdate> {
        #[cfg(target_os = "none")]
        let at = self.leaf(self.address(frame))?.at;
        #[cfg(not(target_os = "none"))]
        let at = self.mfn(Pfn(1)).address() + frame.0 % 512 * 8;
        Some(request(at, entry))
    }

    /// Sets what the direct map shows at `count` frames from `first`, and forgets what it showed before.
    ///
    /// # Safety
    ///
    /// Nobody may refer to memory of these frames. What `entry` says of a frame is nothing, or memory of the domain that is
    /// behind it now.
    #[cfg(target_os = "none")]
    pub(super) unsafe fn remap(
        &self,
        first: Pfn,
        count: usize,
        entry: impl Fn(Pfn) -> Pte,
    ) -> Result<(), Errno> {
        let mut batch = [const { MmuUpdate { ptr: 0, val: 0 } }; 64];
        let mut done = 0;
        while done < count {
            let now = (count - done).min(batch.len());
            for (offset, update) in batch[..now].iter_mut().enumerate() {
                let frame = Pfn(first.0 + (done + offset) as u64);
                *update = self.direct_update(frame, entry(frame)).ok_or(Errno::EFAULT)?;
            }
            // SAFETY: the caller's promise.
            unsafe { edge::apply(&batch[..now]) }?;
            done += now;
        }
        edge::flush_all()
    }
}
