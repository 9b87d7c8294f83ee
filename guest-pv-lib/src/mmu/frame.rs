//! Frames whose state is their type: ordinary memory, a page table, a page table that is pinned.
//!
//! | state | its bytes | its entries | becomes |
//! |---|---|---|---|
//! | [`Plain`] | read and written | - | [`Page`], [`Table`] |
//! | [`Table`]`<L>` | mapped read-only | [`set`](Frame::set) | `Plain`, `Pinned`, an entry of the next level |
//! | [`Pinned`]`<L>` | mapped read-only | [`set`](Frame::set), checked by the hypervisor | `Table` |
//!
//! What an entry points to belongs to it: a share of a [`Page`], or the table below. So a table cannot be freed, or
//! become memory again, while a page table names it; and there is no way to say "a writable mapping of a table":
//!
//! ```
//! use guest_pv_lib::memory::Page;
//! use guest_pv_lib::mmu::{Access, Entry, Frame, L1, L2, Table};
//!
//! let page = Page::new().unwrap();
//! let mut level1: Frame<Table<L1>> = Frame::new().unwrap().into_table().unwrap();
//! level1.set(5, Entry::page(page, Access::READ_WRITE)).unwrap();
//! let mut level2: Frame<Table<L2>> = Frame::new().unwrap().into_table().unwrap();
//! level2.set(0, Entry::table(level1)).unwrap();
//! let pinned = level2.pin().unwrap();
//! # drop(pinned);
//! ```
//!
//! A table is no page that can be mapped:
//!
//! ```compile_fail,E0308
//! # use guest_pv_lib::mmu::{Access, Entry, Frame, L1, Table};
//! let table: Frame<Table<L1>> = Frame::new().unwrap().into_table().unwrap();
//! let entry: Entry<L1> = Entry::page(table, Access::READ_WRITE);
//! ```
//!
//! and has no bytes to write:
//!
//! ```compile_fail,E0599
//! # use guest_pv_lib::mmu::{Frame, L1, Table};
//! let mut table: Frame<Table<L1>> = Frame::new().unwrap().into_table().unwrap();
//! table.as_mut()[0] = 1;
//! ```
//!
//! A pinned table is no memory before it is unpinned:
//!
//! ```compile_fail,E0599
//! # use guest_pv_lib::mmu::{Frame, L1, Pinned};
//! fn reuse(frame: Frame<Pinned<L1>>) {
//!     frame.into_plain();
//! }
//! ```
//!
//! and a table has the level that its parent wants:
//!
//! ```compile_fail,E0308
//! # use guest_pv_lib::mmu::{Entry, Frame, L1, L3, Table};
//! let table: Frame<Table<L1>> = Frame::new().unwrap().into_table().unwrap();
//! let entry: Entry<L3> = Entry::table(table);
//! ```

use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;

use super::edge::{self, Forget};
use super::teardown::{KERNEL_HALF, dissolve, page_of, read};
use super::{Access, Level, Mfn, Pfn, Pte};
use crate::Errno;
use crate::memory::{OutOfMemory, Page, Pages, request, there};

mod sealed {
    pub trait Sealed {}
}

/// What a frame is. The three states implement it.
pub trait State: sealed::Sealed {
    /// The level, where it is a page table.
    #[doc(hidden)]
    const LEVEL: Option<Level>;
    /// Whether it is pinned.
    #[doc(hidden)]
    const PINNED: bool;
}

/// The level of a page table: [`L1`] to [`L4`].
pub trait TableLevel: sealed::Sealed {
    /// As a value.
    const LEVEL: Level;
}

/// A level whose entries point to tables.
pub trait Upper: TableLevel {
    /// The level of these.
    type Lower: TableLevel;
}

macro_rules! levels {
    ($($(#[$doc:meta])* $name:ident $(above $lower:ident)?;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $name {}
        impl sealed::Sealed for $name {}
        impl TableLevel for $name {
            const LEVEL: Level = Level::$name;
        }
        $(impl Upper for $name {
            type Lower = $lower;
        })?
    )*};
}

levels! {
    /// Level 1: entries map pages.
    L1;
    /// Level 2.
    L2 above L1;
    /// Level 3.
    L3 above L2;
    /// Level 4: the root.
    L4 above L3;
}

/// Ordinary memory.
#[derive(Debug)]
pub enum Plain {}
/// A page table of level `L`, which need not be in use.
#[derive(Debug)]
pub struct Table<L>(PhantomData<L>);
/// A page table of level `L` that the hypervisor has checked and keeps as such.
#[derive(Debug)]
pub struct Pinned<L>(PhantomData<L>);

impl sealed::Sealed for Plain {}
impl State for Plain {
    const LEVEL: Option<Level> = None;
    const PINNED: bool = false;
}
impl<L> sealed::Sealed for Table<L> {}
impl<L: TableLevel> State for Table<L> {
    const LEVEL: Option<Level> = Some(L::LEVEL);
    const PINNED: bool = false;
}
impl<L> sealed::Sealed for Pinned<L> {}
impl<L: TableLevel> State for Pinned<L> {
    const LEVEL: Option<Level> = Some(L::LEVEL);
    const PINNED: bool = true;
}

/// A state of a page table.
pub trait Tabular: State {
    /// The table's level.
    type Level: TableLevel;
}
impl<L: TableLevel> Tabular for Table<L> {
    type Level = L;
}
impl<L: TableLevel> Tabular for Pinned<L> {
    type Level = L;
}

/// What an entry of a table of level `L` is to hold, and own.
#[derive(Debug)]
pub struct Entry<L> {
    entry: Pte,
    /// What the entry owns while it is in no table: dropped with it.
    owned: Option<Owned>,
    level: PhantomData<L>,
}

#[derive(Debug)]
enum Owned {
    Page(#[expect(dead_code, reason = "it is held to be dropped")] Page),
    Table(Mfn, Level),
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Self::Table(table, level) = *self {
            // SAFETY: a table that was given to an entry, which was never put into a table or is out of it. A refusal
            // leaks the frames.
            let _ = unsafe { dissolve(table, level, None) };
        }
    }
}

impl<L: TableLevel> Entry<L> {
    /// Nothing.
    #[must_use]
    pub const fn empty() -> Self {
        Self { entry: Pte::EMPTY, owned: None, level: PhantomData }
    }
}

impl Entry<L1> {
    /// A page of memory, which user mode may use as `access` says.
    #[must_use]
    pub fn page(page: Page, access: Access) -> Self {
        let entry = Pte::new(page.mfn(), access.flags());
        Self { entry, owned: Some(Owned::Page(page)), level: PhantomData }
    }
}

impl<L: Upper> Entry<L> {
    /// A table of the next level.
    #[must_use]
    pub fn table(table: Frame<Table<L::Lower>>) -> Self {
        let mfn = table.mfn();
        // The frame is the entry's now.
        let _ = table.into_raw().into_raw();
        let owned = Some(Owned::Table(mfn, L::Lower::LEVEL));
        Self { entry: Pte::table(mfn), owned, level: PhantomData }
    }
}

/// One frame of the domain, in state `S`.
#[doc(alias("pin", "PGT_l1_page_table"))]
pub struct Frame<S: State> {
    pages: ManuallyDrop<Pages>,
    state: PhantomData<S>,
}

impl<S: State> Frame<S> {
    fn of(pages: Pages) -> Self {
        Self { pages: ManuallyDrop::new(pages), state: PhantomData }
    }

    /// The pages, which are the caller's now, in whatever state.
    fn into_raw(self) -> Pages {
        let mut frame = ManuallyDrop::new(self);
        // SAFETY: the frame is not dropped, and not used again.
        unsafe { ManuallyDrop::take(&mut frame.pages) }
    }

    /// The pseudo-physical frame.
    #[must_use]
    pub fn pfn(&self) -> Pfn {
        self.pages.pfn(0)
    }

    /// The machine frame.
    #[must_use]
    pub fn mfn(&self) -> Mfn {
        self.pages.mfn(0)
    }

    /// What the direct map shows of the frame becomes what `update` says, one of the two for this frame that there are.
    fn show(self, update: Option<xen_abi::xen::MmuUpdate>, forget: Forget) -> Result<Pages, (Errno, Self)> {
        let done = update.ok_or(Errno::EFAULT).and_then(|update| {
            // SAFETY: the frame is owned here, and nobody has a reference to its memory while this takes `self`.
            unsafe { edge::apply_and_forget(&[update], forget) }
        });
        match done {
            Ok(()) => Ok(self.into_raw()),
            Err(error) => Err((error, self)),
        }
    }
}

impl Frame<Plain> {
    /// A zeroed frame.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn new() -> Result<Self, OutOfMemory> {
        Pages::new(1).map(Self::of)
    }

    /// The frame as an empty page table; a root gets the kernel's half, which all roots share.
    ///
    /// # Errors
    ///
    /// What the hypervisor refused, and the frame.
    pub fn into_table<L: TableLevel>(mut self) -> Result<Frame<Table<L>>, (Errno, Self)> {
        self.pages.as_mut().fill(0);
        if L::LEVEL == Level::L4 {
            fill_kernel_half(&mut self.pages);
        }
        let update = there().as_table(self.pfn());
        self.show(update, Forget::Nothing).map(Frame::of)
    }
}

/// Copies the entries of the kernel's half into a root that is none yet.
pub fn fill_kernel_half(root: &mut Pages) {
    // The hypervisor fills in its own part.
    const HYPERVISOR: core::ops::Range<usize> = 256..272;
    let entries = root.as_mut().as_chunks_mut::<8>().0;
    for (slot, bytes) in entries.iter_mut().enumerate().skip(KERNEL_HALF) {
        if !HYPERVISOR.contains(&slot) {
            *bytes = read(there().root(), slot).0.to_ne_bytes();
        }
    }
}

impl AsRef<[u8]> for Frame<Plain> {
    fn as_ref(&self) -> &[u8] {
        (*self.pages).as_ref()
    }
}

impl AsMut<[u8]> for Frame<Plain> {
    fn as_mut(&mut self) -> &mut [u8] {
        (*self.pages).as_mut()
    }
}

impl From<Frame<Plain>> for Page {
    fn from(frame: Frame<Plain>) -> Self {
        Self::of(frame.into_raw())
    }
}

impl<S: Tabular> Frame<S> {
    /// What entry `index` holds.
    ///
    /// # Panics
    ///
    /// Where `index` is not below 512.
    #[must_use]
    pub fn entry(&self, index: usize) -> Pte {
        assert!(index < 512, "entry {index} of a table");
        read(self.mfn(), index)
    }

    /// Puts `entry` at `index`; what was there goes, with all that it owned.
    ///
    /// # Errors
    ///
    /// What the hypervisor refused; nothing has changed then, but `entry` is gone.
    ///
    /// # Panics
    ///
    /// Where `index` is not below 512, or below 256 for a root: the other half is the kernel's.
    #[doc(alias = "HYPERVISOR_mmu_update")]
    pub fn set(&mut self, index: usize, mut entry: Entry<S::Level>) -> Result<(), Errno> {
        let end = if S::Level::LEVEL == Level::L4 { KERNEL_HALF } else { 512 };
        assert!(index < end, "entry {index} of a table");
        let old = read(self.mfn(), index);
        let at = self.mfn().address() + 8 * index as u64;
        // SAFETY: an entry of a table that is owned here; of a root, one of the user half. No reference points to what a table
        // of this kind maps, and the new entry owns what it names.
        unsafe { edge::apply_and_forget(&[request(at, entry.entry)], Forget::Everywhere) }?;
        // The table owns it now.
        core::mem::forget(entry.owned.take());
        drop(owned_by::<S::Level>(old));
        Ok(())
    }
}

/// What an entry owned that has just been taken out of its table.
fn owned_by<L: TableLevel>(entry: Pte) -> Option<Owned> {
    match L::LEVEL {
        // SAFETY: the entry is gone, so its share is the caller's.
        Level::L1 => unsafe { page_of(entry) }.map(Owned::Page),
        Level::L2 => entry.frame().map(|table| Owned::Table(table, Level::L1)),
        Level::L3 => entry.frame().map(|table| Owned::Table(table, Level::L2)),
        Level::L4 => entry.frame().map(|table| Owned::Table(table, Level::L3)),
    }
}

impl<L: TableLevel> Frame<Table<L>> {
    /// Has the hypervisor check the table, and all below it, and keep it a table.
    ///
    /// # Errors
    ///
    /// What it refused, and the table.
    #[doc(alias("MMUEXT_PIN_L1_TABLE", "MMUEXT_PIN_L2_TABLE", "MMUEXT_PIN_L3_TABLE", "MMUEXT_PIN_L4_TABLE"))]
    pub fn pin(self) -> Result<Frame<Pinned<L>>, (Errno, Self)> {
        // SAFETY: a table of that level, owned here.
        match unsafe { edge::pin(L::LEVEL, self.mfn()) } {
            Ok(()) => Ok(Frame::of(self.into_raw())),
            Err(error) => Err((error, self)),
        }
    }

    /// Ordinary memory again, zeroed; what the entries owned goes.
    ///
    /// # Errors
    ///
    /// What the hypervisor refused, and the table.
    pub fn into_plain(mut self) -> Result<Frame<Plain>, (Errno, Self)> {
        let end = if L::LEVEL == Level::L4 { KERNEL_HALF } else { 512 };
        for index in 0..end {
            if read(self.mfn(), index) == Pte::EMPTY {
                continue;
            }
            if let Err(error) = self.set(index, Entry::empty()) {
                return Err((error, self));
            }
        }
        let update = there().as_memory(self.pfn());
        let mut pages = self.show(update, Forget::Everywhere)?;
        pages.as_mut().fill(0);
        Ok(Frame::of(pages))
    }
}

impl<L: TableLevel> Frame<Pinned<L>> {
    /// Ends the pin.
    ///
    /// # Errors
    ///
    /// What the hypervisor refused, and the table.
    #[doc(alias = "MMUEXT_UNPIN_TABLE")]
    pub fn unpin(self) -> Result<Frame<Table<L>>, (Errno, Self)> {
        // SAFETY: pinned by `pin`, and owned here.
        match unsafe { edge::unpin(&[self.mfn()]) } {
            Ok(()) => Ok(Frame::of(self.into_raw())),
            Err(error) => Err((error, self)),
        }
    }
}

impl<S: State> Drop for Frame<S> {
    fn drop(&mut self) {
        let Some(level) = S::LEVEL else {
            // SAFETY: dropped once, and plain memory is what the allocator takes back.
            unsafe { ManuallyDrop::drop(&mut self.pages) };
            return;
        };
        // What the hypervisor refuses to let go is leaked.
        // SAFETY: pinned by `pin`, and owned here. An owned table is in no entry; that no CPU has a root loaded is what whoever
        // loads one by other means than a `Space` must see to. It is not pinned any more when it is taken apart.
        unsafe {
            if !S::PINNED || edge::unpin(&[self.mfn()]).is_ok() {
                let _ = dissolve(self.mfn(), level, None);
            }
        }
    }
}

impl<S: State> fmt::Debug for Frame<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, level {:?}, pinned: {}", self.pfn(), S::LEVEL, S::PINNED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table<L: TableLevel>() -> Frame<Table<L>> {
        Frame::new().unwrap().into_table().unwrap()
    }

    #[test]
    fn an_entry_has_a_share_of_its_page() {
        let page = Page::new().unwrap();
        let mut level1 = table::<L1>();
        level1.set(3, Entry::page(page.clone(), Access::READ)).unwrap();
        assert_eq!(level1.entry(3).frame(), Some(page.mfn()));
        level1.set(4, Entry::page(page.clone(), Access::READ_WRITE)).unwrap();
        level1.set(3, Entry::empty()).unwrap();
        assert!(page.is_shared() && level1.entry(3) == Pte::EMPTY);
        drop(level1);
        assert!(!page.is_shared());
    }

    #[test]
    fn a_hierarchy_goes_with_its_top() {
        let page = Page::new().unwrap();
        let mut level1 = table::<L1>();
        level1.set(511, Entry::page(page.clone(), Access::READ)).unwrap();
        let mut level2 = table::<L2>();
        level2.set(0, Entry::table(level1)).unwrap();
        let mut level3 = table::<L3>();
        level3.set(1, Entry::table(level2)).unwrap();
        let mut root = table::<L4>();
        root.set(255, Entry::table(level3)).unwrap();
        let pinned = root.pin().unwrap();
        assert!(page.is_shared());
        drop(pinned.unpin().unwrap().into_plain().unwrap());
        assert!(!page.is_shared());
    }

    #[test]
    fn an_entry_that_is_never_used_keeps_nothing() {
        let page = Page::new().unwrap();
        let mut level1 = table::<L1>();
        level1.set(0, Entry::page(page.clone(), Access::READ)).unwrap();
        drop(Entry::<L2>::table(level1));
        drop(Entry::page(page.clone(), Access::READ));
        assert!(!page.is_shared());
    }

    /// A CPU may have translations by a table that the hypervisor does not let go.
    #[test]
    fn a_table_that_stays_keeps_its_pages() {
        let page = Page::new().unwrap();
        let mut level1 = table::<L1>();
        level1.set(7, Entry::page(page.clone(), Access::READ)).unwrap();
        edge::testing::REFUSE.set(true);
        drop(level1);
        edge::testing::REFUSE.set(false);
        assert!(page.is_shared());
    }

    #[test]
    #[should_panic(expected = "entry 256 of a table")]
    fn the_kernels_half_of_a_root_stays() {
        let _ = table::<L4>().set(256, Entry::empty());
    }

    #[test]
    fn memory_that_was_a_table_is_zeroed() {
        let mut level1 = table::<L1>();
        level1.set(9, Entry::page(Page::new().unwrap(), Access::READ)).unwrap();
        let plain = level1.into_plain().unwrap();
        assert!(plain.as_ref().iter().all(|&byte| byte == 0));
        assert!(Page::from(plain)[0].load(core::sync::atomic::Ordering::Relaxed) == 0);
    }
}
