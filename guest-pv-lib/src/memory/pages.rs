//! Owned runs of pages: private ones and shared ones.

use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::sync::atomic::AtomicU32;
use core::{fmt, ptr, slice};

use super::{OutOfMemory, get, there};
use crate::mmu::{Mfn, PAGE_SIZE, Pfn};

/// Whole pages, zeroed when they were handed out, one behind the other as pseudo-physical frames and at
/// virtual addresses. Their machine frames are in no order. Dropping it gives them back.
///
/// ```
/// use guest_pv_lib::memory::Pages;
///
/// let mut pages = Pages::new(2).unwrap();
/// pages.as_mut()[4096] = 7;
/// assert_eq!(pages.as_ref().len(), 8192);
/// assert_eq!(pages.pfn(1).0, pages.pfn(0).0 + 1);
/// ```
pub struct Pages {
    first: Pfn,
    count: usize,
}

impl Pages {
    /// `count` pages.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] where no run of `count` frames is free.
    pub fn new(count: usize) -> Result<Self, OutOfMemory> {
        Self::aligned(count, 1)
    }

    /// `count` pages, the first pseudo-physical frame a multiple of `align`, which is a power of two.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] where no such run is free.
    ///
    /// # Panics
    ///
    /// Where `align` is not a power of two.
    pub fn aligned(count: usize, align: usize) -> Result<Self, OutOfMemory> {
        let mut pages = Self::stale(count, align)?;
        pages.as_mut().fill(0);
        Ok(pages)
    }

    /// The same with whatever the frames held before: it was the domain's own, so it is no secret.
    pub(super) fn stale(count: usize, align: usize) -> Result<Self, OutOfMemory> {
        assert!(align.is_power_of_two());
        if count == 0 {
            return Ok(Self { first: Pfn(0), count });
        }
        let memory = get().ok_or(OutOfMemory)?;
        let first = memory.free.with(|free| free.take(count, align)).ok_or(OutOfMemory)?;
        Ok(Self { first: Pfn(first as u64), count })
    }

    /// How many pages.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// The virtual address of the first byte.
    #[must_use]
    pub fn address(&self) -> u64 {
        there().address(self.first)
    }

    /// The pseudo-physical frame of page `index`.
    ///
    /// # Panics
    ///
    /// Where there is no such page.
    #[must_use]
    pub fn pfn(&self, index: usize) -> Pfn {
        assert!(index < self.count, "page {index} of {}", self.count);
        Pfn(self.first.0 + index as u64)
    }

    /// The machine frame of page `index`.
    ///
    /// # Panics
    ///
    /// Where there is no such page.
    #[must_use]
    pub fn mfn(&self, index: usize) -> Mfn {
        there().mfn(self.pfn(index))
    }

    /// Gives up the ownership: the bytes stay for good.
    #[must_use]
    pub fn leak(self) -> &'static mut [u8] {
        let mut pages = ManuallyDrop::new(self);
        let bytes = ptr::from_mut(pages.as_mut());
        // SAFETY: the frames are never given back, so the only reference to them may live as long as the program.
        unsafe { &mut *bytes }
    }

    /// Keeps the first `count` pages; the others are given back.
    ///
    /// # Panics
    ///
    /// Where there are fewer.
    pub fn truncate(&mut self, count: usize) {
        assert!(count <= self.count);
        drop(Self { first: Pfn(self.first.0 + count as u64), count: self.count - count });
        self.count = count;
    }

    /// The frame and the number of frames, whose owner is now the caller.
    pub(crate) fn into_raw(self) -> (Pfn, usize) {
        let pages = ManuallyDrop::new(self);
        (pages.first, pages.count)
    }

    /// Undoes [`into_raw`](Self::into_raw).
    ///
    /// # Safety
    ///
    /// The caller owns these frames, and the direct map maps them for writing.
    pub(crate) unsafe fn from_raw(first: Pfn, count: usize) -> Self {
        Self { first, count }
    }

    fn pointer(&self) -> *mut u8 {
        if self.count == 0 {
            return ptr::NonNull::dangling().as_ptr();
        }
        ptr::with_exposed_provenance_mut(self.address() as usize)
    }
}

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the frames are mapped there for as long as they are owned, and the allocator hands out a frame to one
        // owner only. They hold initialised memory of the domain.
        unsafe { slice::from_raw_parts(self.pointer(), self.count * PAGE_SIZE) }
    }
}

impl AsMut<[u8]> for Pages {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `as_ref`; the direct map shows frames that the allocator has for writing.
        unsafe { slice::from_raw_parts_mut(self.pointer(), self.count * PAGE_SIZE) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.count != 0 {
            there().free.with(|free| free.give(self.first.0 as usize, self.count));
        }
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages from {:?}", self.count, self.first)
    }
}

/// Pages that somebody else may read or write at any time: another domain, the hypervisor, a device.
///
/// They are words that change by atomic operations only. Dropping it gives them back, so whoever lets others at
/// them must own it for as long as these can reach them.
///
/// ```
/// use core::sync::atomic::Ordering::Relaxed;
/// use guest_pv_lib::memory::{Pages, SharedPages};
///
/// let shared = SharedPages::from(Pages::new(1).unwrap());
/// shared[1023].store(5, Relaxed);
/// assert_eq!(shared.len(), 1024);
/// ```
pub struct SharedPages(Pages);

impl SharedPages {
    /// How many pages.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.0.count()
    }

    /// The virtual address of the first byte.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.0.address()
    }

    /// The pseudo-physical frame of page `index`.
    ///
    /// # Panics
    ///
    /// Where there is no such page.
    #[must_use]
    pub fn pfn(&self, index: usize) -> Pfn {
        self.0.pfn(index)
    }

    /// The machine frame of page `index`.
    ///
    /// # Panics
    ///
    /// Where there is no such page.
    #[must_use]
    pub fn mfn(&self, index: usize) -> Mfn {
        self.0.mfn(index)
    }

    /// The pages as plain bytes again, with their contents.
    ///
    /// # Safety
    ///
    /// Nobody else can touch them any more.
    #[must_use]
    pub unsafe fn into_pages(self) -> Pages {
        self.0
    }
}

impl From<Pages> for SharedPages {
    fn from(pages: Pages) -> Self {
        Self(pages)
    }
}

impl Deref for SharedPages {
    type Target = [AtomicU32];

    fn deref(&self) -> &[AtomicU32] {
        let words = self.0.count() * PAGE_SIZE / size_of::<AtomicU32>();
        if words == 0 {
            return &[];
        }
        // SAFETY: mapped for writing and owned, as for `Pages`; page-aligned; and every access of this domain goes
        // through these atomics while the value exists.
        unsafe { slice::from_raw_parts(self.0.pointer().cast::<AtomicU32>(), words) }
    }
}

impl fmt::Debug for SharedPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shared {:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn pages_are_zeroed_and_apart() {
        let mut first = Pages::new(3).unwrap();
        let second = Pages::new(1).unwrap();
        first.as_mut().fill(0xff);
        assert!(second.as_ref().iter().all(|&byte| byte == 0));
        let pfn = first.pfn(0);
        drop(first);
        // Whoever gets those frames next finds them zeroed.
        let again: std::vec::Vec<_> = core::iter::from_fn(|| Pages::new(1).ok())
            .take(64)
            .inspect(|page| assert!(page.as_ref().iter().all(|&byte| byte == 0)))
            .collect();
        assert!(again.iter().all(|page| page.mfn(0).0 != page.pfn(0).0), "the two kinds of frames differ");
        assert!(pfn.0 < 1 << 20);
    }

    #[test]
    fn alignment_and_truncation_hold() {
        let mut run = Pages::aligned(9, 16).unwrap();
        assert!(run.pfn(0).0.is_multiple_of(16) && run.address().is_multiple_of(4096));
        run.truncate(2);
        assert_eq!((run.count(), run.as_ref().len()), (2, 8192));
        assert_eq!(Pages::new(0).unwrap().as_ref(), &[]);
        assert_eq!(Pages::new(1 << 30).err(), Some(OutOfMemory));
    }

    #[test]
    fn shared_words_are_the_bytes_of_the_pages() {
        let shared = SharedPages::from(Pages::new(2).unwrap());
        shared[1024].store(0x0403_0201, Relaxed);
        assert_eq!(shared.len(), 2048);
        // SAFETY: nobody else was told of them.
        let pages = unsafe { shared.into_pages() };
        assert_eq!(pages.as_ref()[4096..4100], [1, 2, 3, 4]);
    }
}
