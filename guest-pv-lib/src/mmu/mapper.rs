//! Page tables by the traits of the crate `x86_64`, so that a kernel that has its `OffsetPageTable` keeps its code.
//!
//! A `PhysFrame` is a *pseudo-physical* frame: what the kernel's allocator hands out. The machine frame behind is looked up
//! here, and back. The hypervisor forgets old translations in the same call, on every CPU: say `.ignore()` to what these
//! functions return, because `.flush()` is an instruction of ring 0.
//!
//! ```no_run
//! use guest_pv_lib::mmu::Tables;
//! use x86_64::structures::paging::{Mapper, Page, PageTableFlags, PhysFrame, Size4KiB};
//! use guest_pv_lib::memory::Frames;
//!
//! unsafe fn map_there(page: Page<Size4KiB>, frame: PhysFrame<Size4KiB>) {
//!     let flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE | PageTableFlags::NO_EXECUTE;
//!     unsafe { Tables::kernel().map_to(page, frame, flags, &mut Frames) }.unwrap().ignore();
//! }
//! ```
//!
//! Large pages do not exist in a PV domain: the traits are there for all three sizes, and refuse the two.

use x86_64::structures::paging::mapper::{
    FlagUpdateError, MapToError, MappedFrame, Mapper, MapperFlush, MapperFlushAll, Translate, TranslateError,
    TranslateResult, UnmapError,
};
use x86_64::structures::paging::page_table::PageTableFlags;
use x86_64::structures::paging::{FrameAllocator, Page, PageSize, PhysFrame, Size1GiB, Size2MiB, Size4KiB};
use x86_64::{PhysAddr, VirtAddr};

use super::edge::{self, Forget};
use super::{Level, Mfn, Pfn, Pte};
use crate::Errno;
use crate::memory::{Walk, request, there};

/// The page tables below one root.
#[derive(Debug)]
pub struct Tables {
    root: Mfn,
    refused: Option<Errno>,
}

impl Tables {
    /// Those below `root`, a root of this domain.
    ///
    /// # Safety
    ///
    /// Nothing else changes them meanwhile. Pages that are unmapped, which the traits let safe code do, are not used
    /// any more. What a [`Space`](super::Space) or a [`Frame`](super::Frame) maps is left alone, and nothing else is mapped
    /// below their roots: in such entries the flags `BIT_9` to `BIT_11` are theirs. No reference to memory that the lower half
    /// maps lives on when the CPU changes its root, which safe code does by a [`Space`](super::Space).
    ///
    /// # Panics
    ///
    /// Before the domain's memory is there ([`memory::init`](crate::memory::init)).
    #[must_use]
    pub unsafe fn new(root: Mfn) -> Self {
        Self { root, refused: None }
    }

    /// Those that the domain was started with. Their upper half is part of every address space, as far as its entries of
    /// level 4 were there when these were made.
    ///
    /// # Safety
    ///
    /// As for [`new`](Self::new).
    #[must_use]
    pub unsafe fn kernel() -> Self {
        Self { root: there().root(), refused: None }
    }

    /// What the hypervisor last refused: the traits' errors have no word for that, and say that there was no memory, or that
    /// the page is not mapped.
    #[must_use]
    pub const fn refused(&self) -> Option<Errno> {
        self.refused
    }

    fn leaf(&self, page: Page<Size4KiB>) -> Option<Walk> {
        // SAFETY: a root of the domain (see `new`).
        let found = unsafe { there().walk(self.root, page.start_address().as_u64()) }?;
        (found.level == Level::L1 && found.entry.frame().is_some()).then_some(found)
    }

    /// Sets an entry, and has the translation of `page` forgotten.
    fn set(&mut self, at: u64, entry: Pte, page: Page<Size4KiB>) -> Result<(), Errno> {
        let forget = Forget::Page(page.start_address().as_u64());
        // SAFETY: an entry of tables below the root, which nothing else changes. What it maps is what the callers of the
        // traits' unsafe functions vouch for; what it no longer maps is not used any more (see `new`).
        let done = unsafe { edge::apply_and_forget(&[request(at, entry)], forget) };
        done.inspect_err(|&error| self.refused = Some(error))
    }

    /// Puts the table `frame` into the entry at `at`.
    fn hook(&mut self, at: u64, frame: PhysFrame, flags: PageTableFlags) -> Result<(), Errno> {
        let memory = there();
        let pfn = pfn_of(frame);
        let mfn = memory.p2m_entry(pfn).ok_or(Errno::EINVAL)?;
        let read_only = memory.as_table(pfn).ok_or(Errno::EINVAL)?;
        let entry = Pte(Pte::table(mfn).0 | table_flags(flags));
        // SAFETY: a frame that an allocator gave (`FrameAllocator` is an unsafe trait) is nobody else's; it becomes an empty
        // table. The parent's entry is empty.
        let done = unsafe {
            memory.clear(pfn);
            edge::apply(&[read_only, request(at, entry)])
        };
        done.inspect_err(|&error| self.refused = Some(error))
    }

    /// Changes the flags of the entry of `level` above `page`.
    fn upper_flags(
        &mut self,
        page: Page<Size4KiB>,
        level: Level,
        flags: PageTableFlags,
    ) -> Result<MapperFlushAll, FlagUpdateError> {
        let virt = page.start_address().as_u64();
        // SAFETY: a root of the domain (see `new`).
        let found = unsafe { there().entry_of(self.root, virt, level) };
        let found = found.ok_or(FlagUpdateError::PageNotMapped)?;
        let frame = found.entry.frame().ok_or(FlagUpdateError::PageNotMapped)?;
        let entry = Pte::new(frame, table_flags(flags));
        // SAFETY: the same table with other flags, which the callers of the traits' unsafe functions vouch for.
        let done = unsafe { edge::apply_and_forget(&[request(found.at, entry)], Forget::Everywhere) };
        done.map_err(|error| {
            self.refused = Some(error);
            FlagUpdateError::PageNotMapped
        })?;
        Ok(MapperFlushAll::new())
    }
}

const fn pfn_of(frame: PhysFrame) -> Pfn {
    Pfn(frame.start_address().as_u64() >> 12)
}

/// The flags of an entry of level 1 that mean something: neither global nor large.
fn leaf_flags(flags: PageTableFlags) -> u64 {
    (flags - PageTableFlags::GLOBAL - PageTableFlags::HUGE_PAGE).bits()
}

/// The flags of an entry that points to a table.
fn table_flags(flags: PageTableFlags) -> u64 {
    leaf_flags(flags - PageTableFlags::NO_CACHE - PageTableFlags::WRITE_THROUGH)
}

/// The frame behind a present entry, or its machine address where it is not the domain's own memory.
fn frame_of(entry: Pte) -> Result<PhysFrame, PhysAddr> {
    let mfn = entry.frame().unwrap_or(Mfn(0));
    match there().pfn(mfn) {
        Some(pfn) => Ok(PhysFrame::containing_address(PhysAddr::new_truncate(pfn.0 << 12))),
        None => Err(PhysAddr::new_truncate(mfn.address())),
    }
}

impl Translate for Tables {
    fn translate(&self, addr: VirtAddr) -> TranslateResult {
        let Some(found) = self.leaf(Page::containing_address(addr)) else {
            return TranslateResult::NotMapped;
        };
        match frame_of(found.entry) {
            Ok(frame) => TranslateResult::Mapped {
                frame: MappedFrame::Size4KiB(frame),
                offset: addr.as_u64() % Size4KiB::SIZE,
                flags: PageTableFlags::from_bits_truncate(found.entry.0),
            },
            Err(address) => TranslateResult::InvalidFrameAddress(address),
        }
    }
}

impl Mapper<Size4KiB> for Tables {
    unsafe fn map_to_with_table_flags<A>(
        &mut self,
        page: Page<Size4KiB>,
        frame: PhysFrame<Size4KiB>,
        flags: PageTableFlags,
        parent_table_flags: PageTableFlags,
        frame_allocator: &mut A,
    ) -> Result<MapperFlush<Size4KiB>, MapToError<Size4KiB>>
    where
        A: FrameAllocator<Size4KiB> + ?Sized,
    {
        let no_memory = MapToError::FrameAllocationFailed;
        let mfn = there().p2m_entry(pfn_of(frame)).ok_or(MapToError::FrameAllocationFailed)?;
        loop {
            // SAFETY: a root of the domain (see `new`).
            let Some(found) = (unsafe { there().walk(self.root, page.start_address().as_u64()) }) else {
                return Err(no_memory);
            };
            if found.level == Level::L1 {
                if found.entry.frame().is_some() {
                    let old = frame_of(found.entry);
                    return Err(MapToError::PageAlreadyMapped(old.unwrap_or(frame)));
                }
                let entry = Pte::new(mfn, leaf_flags(flags));
                self.set(found.at, entry, page).map_err(|_| MapToError::FrameAllocationFailed)?;
                return Ok(MapperFlush::new(page));
            }
            let table = frame_allocator.allocate_frame().ok_or(MapToError::FrameAllocationFailed)?;
            self.hook(found.at, table, parent_table_flags).map_err(|_| MapToError::FrameAllocationFailed)?;
        }
    }

    fn unmap(
        &mut self,
        page: Page<Size4KiB>,
    ) -> Result<(PhysFrame<Size4KiB>, MapperFlush<Size4KiB>), UnmapError> {
        let found = self.leaf(page).ok_or(UnmapError::PageNotMapped)?;
        let frame = frame_of(found.entry).map_err(UnmapError::InvalidFrameAddress)?;
        self.set(found.at, Pte::EMPTY, page).map_err(|_| UnmapError::PageNotMapped)?;
        Ok((frame, MapperFlush::new(page)))
    }

    unsafe fn update_flags(
        &mut self,
        page: Page<Size4KiB>,
        flags: PageTableFlags,
    ) -> Result<MapperFlush<Size4KiB>, FlagUpdateError> {
        let found = self.leaf(page).ok_or(FlagUpdateError::PageNotMapped)?;
        let frame = found.entry.frame().ok_or(FlagUpdateError::PageNotMapped)?;
        self.set(found.at, Pte::new(frame, leaf_flags(flags)), page)
            .map_err(|_| FlagUpdateError::PageNotMapped)?;
        Ok(MapperFlush::new(page))
    }

    unsafe fn set_flags_p4_entry(
        &mut self,
        page: Page<Size4KiB>,
        flags: PageTableFlags,
    ) -> Result<MapperFlushAll, FlagUpdateError> {
        self.upper_flags(page, Level::L4, flags)
    }

    unsafe fn set_flags_p3_entry(
        &mut self,
        page: Page<Size4KiB>,
        flags: PageTableFlags,
    ) -> Result<MapperFlushAll, FlagUpdateError> {
        self.upper_flags(page, Level::L3, flags)
    }

    unsafe fn set_flags_p2_entry(
        &mut self,
        page: Page<Size4KiB>,
        flags: PageTableFlags,
    ) -> Result<MapperFlushAll, FlagUpdateError> {
        self.upper_flags(page, Level::L2, flags)
    }

    fn translate_page(&self, page: Page<Size4KiB>) -> Result<PhysFrame<Size4KiB>, TranslateError> {
        let found = self.leaf(page).ok_or(TranslateError::PageNotMapped)?;
        frame_of(found.entry).map_err(TranslateError::InvalidFrameAddress)
    }
}

/// Large pages, which do not exist: nothing is mapped in them, and nothing can be.
macro_rules! no_large_pages {
    ($($size:ty)*) => {$(
        impl Mapper<$size> for Tables {
            unsafe fn map_to_with_table_flags<A>(
                &mut self,
                _: Page<$size>,
                _: PhysFrame<$size>,
                _: PageTableFlags,
                _: PageTableFlags,
                _: &mut A,
            ) -> Result<MapperFlush<$size>, MapToError<$size>>
            where
                A: FrameAllocator<Size4KiB> + ?Sized,
            {
                self.refused = Some(Errno::EINVAL);
                Err(MapToError::FrameAllocationFailed)
            }

            fn unmap(&mut self, _: Page<$size>) -> Result<(PhysFrame<$size>, MapperFlush<$size>), UnmapError> {
                Err(UnmapError::PageNotMapped)
            }

            unsafe fn update_flags(
                &mut self,
                _: Page<$size>,
                _: PageTableFlags,
            ) -> Result<MapperFlush<$size>, FlagUpdateError> {
                Err(FlagUpdateError::PageNotMapped)
            }

            unsafe fn set_flags_p4_entry(
                &mut self,
                page: Page<$size>,
                flags: PageTableFlags,
            ) -> Result<MapperFlushAll, FlagUpdateError> {
                self.upper_flags(Page::containing_address(page.start_address()), Level::L4, flags)
            }

            unsafe fn set_flags_p3_entry(
                &mut self,
                _: Page<$size>,
                _: PageTableFlags,
            ) -> Result<MapperFlushAll, FlagUpdateError> {
                Err(FlagUpdateError::PageNotMapped)
            }

            unsafe fn set_flags_p2_entry(
                &mut self,
                _: Page<$size>,
                _: PageTableFlags,
            ) -> Result<MapperFlushAll, FlagUpdateError> {
                Err(FlagUpdateError::PageNotMapped)
            }

            fn translate_page(&self, _: Page<$size>) -> Result<PhysFrame<$size>, TranslateError> {
                Err(TranslateError::PageNotMapped)
            }
        }
    )*};
}

no_large_pages!(Size2MiB Size1GiB);

#[cfg(test)]
mod tests {
    use x86_64::structures::paging::mapper::MapperAllSizes;

    use super::*;
    use crate::memory::Frames;
    use crate::mmu::{Frame, L4, Table};

    const FLAGS: PageTableFlags =
        PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE).union(PageTableFlags::NO_EXECUTE);

    fn page(at: u64) -> Page<Size4KiB> {
        Page::containing_address(VirtAddr::new(at))
    }

    /// Tables below a root of their own, which is never dropped.
    fn tables() -> Tables {
        let root: Frame<Table<L4>> = Frame::new().unwrap().into_table().unwrap();
        let mfn = root.mfn();
        core::mem::forget(root);
        // SAFETY: nobody else knows of that root.
        unsafe { Tables::new(mfn) }
    }

    #[test]
    fn what_is_mapped_translates_until_it_is_unmapped() {
        let mut tables = tables();
        let frame = Frames.allocate_frame().unwrap();
        let at = page(0xffff_a000_0123_4000);
        // SAFETY: no CPU uses these tables.
        unsafe { tables.map_to(at, frame, FLAGS, &mut Frames) }.unwrap().ignore();
        assert_eq!(tables.translate_addr(at.start_address() + 0x567), Some(frame.start_address() + 0x567));
        assert!(matches!(
            // SAFETY: as above.
            unsafe { tables.map_to(at, frame, FLAGS, &mut Frames) },
            Err(MapToError::PageAlreadyMapped(old)) if old == frame
        ));
        assert!(tables.translate_page(page(0xffff_a000_0123_5000)).is_err());
        // SAFETY: as above.
        unsafe { tables.update_flags(at, PageTableFlags::PRESENT) }.unwrap().ignore();
        assert!(matches!(
            tables.translate(at.start_address()),
            TranslateResult::Mapped { flags: PageTableFlags::PRESENT, .. }
        ));
        let (unmapped, flush) = tables.unmap(at).unwrap();
        flush.ignore();
        assert_eq!(unmapped, frame);
        assert!(matches!(tables.unmap(at), Err(UnmapError::PageNotMapped)));
    }

    #[test]
    fn flags_above_change_what_is_there() {
        let mut tables = tables();
        let at = page(0x40_0000);
        // SAFETY: no CPU uses these tables.
        assert!(unsafe { tables.set_flags_p3_entry(at, FLAGS) }.is_err());
        let frame = Frames.allocate_frame().unwrap();
        // SAFETY: as above.
        unsafe { tables.map_to(at, frame, FLAGS, &mut Frames) }.unwrap().ignore();
        // SAFETY: as above.
        unsafe { tables.set_flags_p2_entry(at, PageTableFlags::PRESENT) }.unwrap().ignore();
        // SAFETY: as above.
        let entry = unsafe { there().entry_of(tables.root, 0x40_0000, Level::L2) }.unwrap().entry;
        assert_eq!(entry.0 & 0xfff, 1);
        assert_eq!(tables.translate_page(at).unwrap(), frame);
    }

    #[test]
    fn large_pages_are_refused() {
        fn all_sizes(_: &impl MapperAllSizes) {}
        let mut tables = tables();
        all_sizes(&tables);
        let large = Page::<Size2MiB>::containing_address(VirtAddr::new(0x40_0000));
        let frame = PhysFrame::containing_address(PhysAddr::new(0));
        // SAFETY: nothing is mapped.
        assert!(unsafe { tables.map_to(large, frame, FLAGS, &mut Frames) }.is_err());
        assert_eq!(tables.refused(), Some(Errno::EINVAL));
    }
}
