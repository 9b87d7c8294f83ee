//! Address spaces: what a program sees in the lower half, below a kernel's half that all of them share.
//!
//! A [`Space`] owns its page tables and a share of every [`Page`] that these map. Its safe functions change the lower
//! half only, where no Rust reference ever points: the kernel reaches a program's memory by [`Space::read`] and
//! [`Space::write`], or by the pages themselves. What is mapped must be a [`Page`], so a page table cannot be.
//!
//! # How it works
//!
//! On a PV domain the kernel shares ring 3 with its programs; the hypervisor keeps them apart by two roots, one
//! for each mode. Both are pinned from the start and point to the same tables of level 3. The entry of a page
//! says in the bits that are free for the kernel whether it holds a share ([`OWNED`]), whether the program may write
//! ([`MAY_WRITE`]) and whether a write is to copy first ([`COPY`]); there is no other bookkeeping.
//!
//! Changes go through a [`Batch`]. Functions that return do so with all changes made, except inside
//! [`lazily`](Space::lazily), where mappings that appear may be late. Shares are given up only after the
//! hypervisor has forgotten the mapping, on every CPU.
//!
//! Tables of level 1 to 3 stay until the space is dropped. A space that is dropped while *another* CPU runs in it is
//! leaked: there is nothing safe to do with its memory.

mod cpus;
mod fork;
mod tables;
#[cfg(test)]
mod tests;

use core::fmt;

use super::batch::{Batch, Mode};
use super::edge::Forget;
use super::teardown::{OWNED, page_of};
use super::{Mfn, PAGE_SIZE, Pte};
use crate::Errno;
use crate::memory::{OutOfMemory, Page, there};
use crate::words;
use tables::Roots;

/// In a level-1 entry: not writable because the page has, or had, other owners since a fork; a write is to get a copy.
const COPY: u64 = 1 << 10;
/// In a level-1 entry: the program may write, at once or after a copy.
const MAY_WRITE: u64 = 1 << 11;
/// The end of what a program may use.
pub const USER_END: u64 = 1 << 47;

/// What a program may do with a page. It may always read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// It may write.
    pub write: bool,
    /// It may execute.
    pub execute: bool,
}

impl Access {
    /// Read.
    pub const READ: Self = Self { write: false, execute: false };
    /// Read and write.
    pub const READ_WRITE: Self = Self { write: true, execute: false };
    /// Read and execute.
    pub const READ_EXECUTE: Self = Self { write: false, execute: true };

    pub(super) const fn flags(self) -> u64 {
        let mut flags = Pte::PRESENT | Pte::USER | Pte::ACCESSED | OWNED;
        if self.write {
            flags |= Pte::WRITABLE | Pte::DIRTY | MAY_WRITE;
        }
        if !self.execute {
            flags |= Pte::NO_EXECUTE;
        }
        flags
    }

    const fn of(entry: Pte) -> Self {
        Self { write: entry.0 & MAY_WRITE != 0, execute: entry.0 & Pte::NO_EXECUTE == 0 }
    }
}

/// Why a mapping could not be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// No memory for the tables, or for a copy.
    OutOfMemory,
    /// The address is not the beginning of a page below [`USER_END`].
    BadAddress,
    /// Something is mapped there.
    Occupied,
    /// Nothing is mapped there, or nothing that allows it.
    NotMapped,
    /// The hypervisor refused.
    Refused(Errno),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::BadAddress => f.write_str("not the address of a page that a program may have"),
            Self::Occupied => f.write_str("something is mapped there"),
            Self::NotMapped => f.write_str("nothing is mapped there that allows it"),
            Self::Refused(errno) => write!(f, "the hypervisor refused: {errno:?}"),
        }
    }
}

impl core::error::Error for MapError {}

impl From<OutOfMemory> for MapError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl From<Errno> for MapError {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

/// An address space of a program.
///
/// ```
/// use guest_pv_lib::memory::Page;
/// use guest_pv_lib::mmu::{Access, Space};
///
/// let mut space = Space::new().unwrap();
/// space.map(0x40_0000, Page::new().unwrap(), Access::READ_WRITE).unwrap();
/// space.write(0x40_0ffe, b"hi").unwrap();
///
/// // A child shares the page until one of the two writes.
/// let mut child = space.fork().unwrap();
/// child.write(0x40_0ffe, b"ho").unwrap();
/// let mut bytes = [0; 2];
/// space.read(0x40_0ffe, &mut bytes).unwrap();
/// assert_eq!(&bytes, b"hi");
/// ```
///
/// A page table is no [`Page`], and nothing else can be mapped:
///
/// ```compile_fail,E0308
/// use guest_pv_lib::mmu::{Access, Frame, L1, Space, Table};
///
/// let table: Frame<Table<L1>> = Frame::new().unwrap().into_table().unwrap();
/// Space::new().unwrap().map(0x40_0000, table, Access::READ_WRITE);
/// ```
pub struct Space {
    roots: Roots,
    batch: Batch,
    /// Changes that may wait are collected.
    lazy: bool,
    /// The place of the 2 MiB whose level-1 table was used last, and that table.
    last: Option<(u64, Mfn)>,
}

impl Space {
    /// An empty one.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfMemory`].
    #[doc(alias = "MMUEXT_PIN_L4_TABLE")]
    pub fn new() -> Result<Self, MapError> {
        Ok(Self { roots: Roots::new()?, batch: Batch::new(Mode::Lazy), lazy: false, last: None })
    }

    /// Maps `page` at `at`.
    ///
    /// # Errors
    ///
    /// [`MapError`]; the share of the page is given up then.
    pub fn map(&mut self, at: u64, page: Page, access: Access) -> Result<(), MapError> {
        let slot = self.slot_or_make(at)?;
        if self.entry(slot) != Pte::EMPTY {
            return Err(MapError::Occupied);
        }
        // SAFETY: nothing was mapped there, and no reference points into a user half. The page stays: its share is the
        // entry's from here on.
        unsafe { self.batch.set(slot, Pte::new(page.mfn(), access.flags())) }?;
        let _ = page.into_raw();
        self.settle(Forget::Nothing)
    }

    /// Unmaps what is at `at`, and returns it.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub fn unmap(&mut self, at: u64) -> Result<Page, MapError> {
        let (slot, entry) = self.mapped(at)?;
        self.replace(at, slot, Pte::EMPTY)?;
        // SAFETY: the entry held a share, and is gone on every CPU.
        Ok(unsafe { page_of(entry) }.expect("a mapped entry has a page"))
    }

    /// Unmaps all that is mapped in `range`, whose ends are multiples of the page size.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub fn unmap_range(&mut self, range: core::ops::Range<u64>) -> Result<(), MapError> {
        check(range.start)?;
        let mut at = range.start;
        while at < range.end.min(USER_END) {
            let end = match self.extent(at) {
                (end, true) => self.unmap_in_table(at, end.min(range.end)).map(|()| end)?,
                (end, false) => end,
            };
            at = end;
        }
        Ok(())
    }

    /// What `at` is mapped to: a share of the page, and what a program may do with it. A page that a write copies first
    /// counts as writable.
    #[must_use]
    pub fn lookup(&self, at: u64) -> Option<(Page, Access)> {
        let entry = self.leaf(at & !(PAGE_SIZE as u64 - 1))?;
        // SAFETY: the entry holds a share and cannot lose it while this is borrowed. It keeps its own: the clone is
        // what is returned.
        let page = core::mem::ManuallyDrop::new(unsafe { page_of(entry) }?);
        Some(((*page).clone(), Access::of(entry)))
    }

    /// Changes what a program may do with the page at `at`. To a shared page that is to be copied the right to
    /// write comes with the copy.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub fn protect(&mut self, at: u64, access: Access) -> Result<(), MapError> {
        let (slot, entry) = self.mapped(at)?;
        let frame = entry.frame().ok_or(MapError::NotMapped)?;
        let mut flags = access.flags();
        if entry.0 & COPY != 0 {
            flags = flags & !(Pte::WRITABLE | Pte::DIRTY) | COPY;
        }
        self.replace(at, slot, Pte::new(frame, flags))
    }

    /// Makes the page at `at` writable where a write has to copy it first: what a page fault of a program asks for.
    /// False where the program may not write there at all; true also where it could already.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfMemory`] for the copy, and what the hypervisor refuses.
    pub fn copy_for_write(&mut self, at: u64) -> Result<bool, MapError> {
        let at = at & !(PAGE_SIZE as u64 - 1);
        let Ok((slot, entry)) = self.mapped(at) else { return Ok(false) };
        let access = Access::of(entry);
        if !access.write || entry.0 & COPY == 0 {
            return Ok(access.write);
        }
        // SAFETY: the entry holds a share; whether it goes on to do so is decided below, and nothing between drops it.
        let shared = core::mem::ManuallyDrop::new(unsafe { page_of(entry) }.ok_or(MapError::NotMapped)?);
        if !shared.is_shared() {
            self.replace(at, slot, Pte::new(shared.mfn(), access.flags()))?;
            return Ok(true);
        }
        let copy = shared.duplicate()?;
        // Where this fails the entry is as before, and the copy goes.
        self.replace(at, slot, Pte::new(copy.mfn(), access.flags()))?;
        let _ = copy.into_raw();
        // The entry's share of the old page ends with the entry.
        drop(core::mem::ManuallyDrop::into_inner(shared));
        Ok(true)
    }

    /// Copies bytes of the program's memory from `at` on.
    ///
    /// # Errors
    ///
    /// [`MapError::NotMapped`] where some are not mapped; those before have been copied.
    pub fn read(&self, at: u64, bytes: &mut [u8]) -> Result<(), MapError> {
        let mut at = at;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (page, _) = self.lookup(at).ok_or(MapError::NotMapped)?;
            let offset = (at % PAGE_SIZE as u64) as usize;
            let (now, later) = rest.split_at_mut(rest.len().min(PAGE_SIZE - offset));
            words::copy_out(&page, offset, now);
            at = at.wrapping_add(now.len() as u64);
            rest = later;
        }
        Ok(())
    }

    /// Copies bytes into the program's memory from `at` on, as if the program itself wrote them: shared pages are copied
    /// first.
    ///
    /// # Errors
    ///
    /// [`MapError::NotMapped`] where the program could not write; what lies before has been written.
    pub fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), MapError> {
        let mut at = at;
        let mut rest = bytes;
        while !rest.is_empty() {
            if !self.copy_for_write(at)? {
                return Err(MapError::NotMapped);
            }
            let (page, _) = self.lookup(at).ok_or(MapError::NotMapped)?;
            let offset = (at % PAGE_SIZE as u64) as usize;
            let (now, later) = rest.split_at(rest.len().min(PAGE_SIZE - offset));
            words::copy_in(&page, offset, now);
            at = at.wrapping_add(now.len() as u64);
            rest = later;
        }
        Ok(())
    }

    /// Runs `work` on the space while mappings that appear are collected and made in batches; all are there when this
    /// returns.
    ///
    /// # Errors
    ///
    /// What the hypervisor refused, at last.
    pub fn lazily<R>(&mut self, work: impl FnOnce(&mut Self) -> R) -> Result<R, MapError> {
        let before = core::mem::replace(&mut self.lazy, true);
        let result = work(self);
        self.lazy = before;
        self.settle(Forget::Nothing)?;
        Ok(result)
    }

    /// Makes this the address space of the calling CPU.
    ///
    /// # Panics
    ///
    /// Where the hypervisor refuses, which would be a mistake of this library.
    #[doc(alias("MMUEXT_NEW_BASEPTR", "MMUEXT_NEW_USER_BASEPTR"))]
    pub fn activate(&self) {
        // SAFETY: roots of a space, which has the kernel's half. It is dissolved only when no CPU has it, which `cpus` knows.
        let entered = unsafe { cpus::enter(self.roots.kernel, self.roots.user) };
        assert_eq!(entered, Ok(()), "switching to an address space");
    }

    /// Whether it is the address space of the calling CPU.
    #[must_use]
    pub fn is_active(&self) -> bool {
        cpus::here(self.roots.kernel)
    }

    /// The machine frames of the root for the kernel and of the one for user mode.
    #[must_use]
    pub const fn roots(&self) -> (Mfn, Mfn) {
        (self.roots.kernel, self.roots.user)
    }

    /// Replaces an entry, at once and on every CPU.
    fn replace(&mut self, at: u64, slot: u64, entry: Pte) -> Result<(), MapError> {
        // SAFETY: an entry of the user half, into which no reference points, in a table of this space. What it maps is
        // nothing, or a page that it has a share of; the old translation is forgotten with the change.
        unsafe { self.batch.set(slot, entry) }?;
        let forget = if cpus::anywhere(self.roots.kernel) { Forget::Page(at) } else { Forget::Nothing };
        self.batch.commit(forget).map_err(MapError::from)
    }

    /// Commits, unless changes may wait.
    fn settle(&mut self, forget: Forget) -> Result<(), MapError> {
        if self.lazy { Ok(()) } else { self.batch.commit(forget).map_err(MapError::from) }
    }
}

/// Makes the tables that the domain was started with those of the calling CPU: no program's.
///
/// # Panics
///
/// Where the hypervisor refuses, which would be a mistake of this library.
pub fn leave_space() {
    // SAFETY: the root that the domain was started with, which stays.
    let left = unsafe { cpus::enter(there().root(), Mfn(0)) };
    assert_eq!(left, Ok(()), "switching to the kernel's address space");
}

/// An error where `at` is not the beginning of a page that a program may have.
fn check(at: u64) -> Result<(), MapError> {
    if at.is_multiple_of(PAGE_SIZE as u64) && at < USER_END { Ok(()) } else { Err(MapError::BadAddress) }
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "space with root {:?}", self.roots.kernel)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if self.is_active() {
            leave_space();
        }
        // What the batch could not do is a leak, too: the entries may or may not be there.
        if cpus::anywhere(self.roots.kernel) || self.batch.commit(Forget::Nothing).is_err() {
            return;
        }
        // SAFETY: no CPU runs in it, and this is its end. What the hypervisor refuses is leaked.
        let _ = unsafe { self.roots.dissolve() };
    }
}
