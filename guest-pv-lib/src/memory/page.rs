//! A page with several owners: what address spaces map.

use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use core::{fmt, ptr, slice};

use super::{OutOfMemory, Pages, there};
use crate::mmu::{Mfn, PAGE_SIZE, Pfn};
use crate::words;

/// One page of memory that has as many owners as there are clones of this value; user mode programs may be among
/// those who write it, so it is words that change by atomic operations only. The last owner gives it back.
///
/// ```
/// use guest_pv_lib::memory::Page;
///
/// let page = Page::new().unwrap();
/// let same = page.clone();
/// page.write(4090, b"hello");
/// let mut bytes = [0; 5];
/// same.read(4090, &mut bytes);
/// assert_eq!(&bytes, b"hello");
/// assert!(page.is_shared());
/// ```
///
/// A table of page tables is never such a page, so no address space can be made to map one for writing.
pub struct Page {
    frame: Pfn,
}

impl Page {
    /// A zeroed page.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn new() -> Result<Self, OutOfMemory> {
        Pages::new(1).map(Self::of)
    }

    /// A page with the same contents, of which this is the only owner.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn duplicate(&self) -> Result<Self, OutOfMemory> {
        let mut copy = Pages::stale(1, 1)?;
        words::copy_out(self, 0, copy.as_mut());
        Ok(Self::of(copy))
    }

    /// The only page of `pages`.
    pub(crate) fn of(pages: Pages) -> Self {
        let (frame, count) = pages.into_raw();
        debug_assert_eq!(count, 1);
        let page = Self { frame };
        page.owners().store(1, Relaxed);
        page
    }

    /// Whether there are other owners.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        // Acquire: what owners did before they went has happened.
        self.owners().load(Acquire) > 1
    }

    /// The pseudo-physical frame.
    #[must_use]
    pub const fn pfn(&self) -> Pfn {
        self.frame
    }

    /// The machine frame.
    #[must_use]
    pub fn mfn(&self) -> Mfn {
        there().mfn(self.frame)
    }

    /// Copies bytes from `offset` on out of the page.
    ///
    /// # Panics
    ///
    /// Where they do not lie within the page.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        words::copy_out(self, offset, bytes);
    }

    /// Copies `bytes` into the page from `offset` on.
    ///
    /// # Panics
    ///
    /// Where they do not lie within the page.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        words::copy_in(self, offset, bytes);
    }

    /// The frame, whose share of the page now belongs to whoever keeps the number.
    pub(crate) fn into_raw(self) -> Pfn {
        ManuallyDrop::new(self).frame
    }

    /// Undoes [`into_raw`](Self::into_raw).
    ///
    /// # Safety
    ///
    /// `frame` came from there, once for each call.
    pub(crate) const unsafe fn from_raw(frame: Pfn) -> Self {
        Self { frame }
    }

    fn owners(&self) -> &'static AtomicU32 {
        &there().owners[self.frame.0 as usize]
    }
}

impl Clone for Page {
    fn clone(&self) -> Self {
        let before = self.owners().fetch_add(1, Relaxed);
        assert!(before < u32::MAX / 2, "a page has too many owners");
        Self { frame: self.frame }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // Like a reference count: the last one sees all that the others did.
        if self.owners().fetch_sub(1, AcqRel) == 1 {
            // SAFETY: the frame came from a `Pages`, and nobody else has it any more.
            drop(unsafe { Pages::from_raw(self.frame, 1) });
        }
    }
}

impl Deref for Page {
    type Target = [AtomicU32];

    fn deref(&self) -> &[AtomicU32] {
        let first = ptr::with_exposed_provenance::<AtomicU32>(there().address(self.frame) as usize);
        // SAFETY: the direct map shows the frame for as long as it has an owner, and all owners use atomics of
        // this size.
        unsafe { slice::from_raw_parts(first, PAGE_SIZE / size_of::<AtomicU32>()) }
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {:?}", self.frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_owner_gives_it_back() {
        let page = Page::new().unwrap();
        let owners = page.owners();
        let other = page.clone();
        assert!(page.is_shared());
        drop(page);
        assert!(!other.is_shared());
        assert_eq!(owners.load(Relaxed), 1);
        let copy = other.duplicate().unwrap();
        other.write(0, &[7]);
        assert_eq!((copy[0].load(Relaxed), other[0].load(Relaxed)), (0, 7));
    }
}
