//! Pages of a peer, mapped at addresses of this domain.

use core::ops::Deref;
use core::sync::atomic::AtomicU32;

use smallvec::SmallVec;
use xen_abi::grant_table::{
    GNTMAP_HOST_MAP, GNTMAP_READONLY, GNTST_EAGAIN, GNTST_OKAY, GNTTABOP_MAP_GRANT_REF,
    GNTTABOP_UNMAP_GRANT_REF, GnttabMapGrantRef, GnttabUnmapGrantRef,
};

use super::{Access, Error, GrantRef, NOT_DONE, operate};
use crate::memory::Window;
use crate::mmu::PAGE_SIZE;
use crate::sched;
use crate::words::ReadWord;

/// Pages that one hypercall maps or unmaps: bounds the stack that their operations take.
const BATCH: usize = 32;
/// Handles of so many pages are kept without an allocation of their own.
const INLINE: usize = 4;
/// How often a mapping is tried again that the hypervisor cannot make just now.
const TRIES: u32 = 100;

/// Pages that a peer granted for reading and writing, one behind the other. Dropping it unmaps them.
///
/// They are the peer's: what is read may change while it is read.
#[derive(Debug)]
pub struct Mapped(Mapping);

impl Mapped {
    /// Maps the pages that `peer` granted by `refs`.
    ///
    /// # Errors
    ///
    /// [`Error::BadGrant`] where one of them cannot be mapped, or may only be read; [`Error::NoRoom`] and
    /// [`Error::OutOfMemory`] where there is no place for them. Nothing is mapped then.
    #[doc(alias = "GNTTABOP_map_grant_ref")]
    pub fn new(peer: u16, refs: &[GrantRef]) -> Result<Self, Error> {
        Mapping::new(peer, refs, Access::ReadWrite).map(Self)
    }

    /// How many pages.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.count()
    }
}

impl Deref for Mapped {
    type Target = [AtomicU32];

    fn deref(&self) -> &[AtomicU32] {
        // SAFETY: mapped for writing; whatever the peer does to its pages, they stay memory, and this domain reaches them by
        // these atomics only.
        unsafe { self.0.words() }
    }
}

/// Pages that a peer granted, mapped for reading only. Dropping it unmaps them.
///
/// They are the peer's: what is read may change while it is read. Nothing can be written, which would fault:
///
/// ```compile_fail,E0599
/// # use core::sync::atomic::Ordering::Relaxed;
/// # use guest_pv_lib::grant::{GrantRef, MappedReadOnly};
/// let mapped = MappedReadOnly::new(1, &[GrantRef(8)]).unwrap();
/// mapped[0].store(1, Relaxed);
/// ```
#[derive(Debug)]
pub struct MappedReadOnly(Mapping);

impl MappedReadOnly {
    /// Maps the pages that `peer` granted by `refs`, for reading or for more.
    ///
    /// # Errors
    ///
    /// As for [`Mapped::new`].
    #[doc(alias("GNTTABOP_map_grant_ref", "GNTMAP_readonly"))]
    pub fn new(peer: u16, refs: &[GrantRef]) -> Result<Self, Error> {
        Mapping::new(peer, refs, Access::ReadOnly).map(Self)
    }

    /// How many pages.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.count()
    }
}

impl Deref for MappedReadOnly {
    type Target = [ReadWord];

    fn deref(&self) -> &[ReadWord] {
        // SAFETY: as for `Mapped`, and these words are only read.
        unsafe { self.0.words() }
    }
}

/// Pages of a peer at addresses of this domain.
#[derive(Debug)]
struct Mapping {
    /// Of which the first `handles.len()` pages are mapped.
    window: Window,
    handles: SmallVec<[u32; INLINE]>,
}

impl Mapping {
    fn new(peer: u16, refs: &[GrantRef], access: Access) -> Result<Self, Error> {
        let mut mapping = Self { window: Window::new(refs.len())?, handles: SmallVec::new() };
        // Before anything is mapped: a peer's long list is no reason to end for want of memory.
        mapping.handles.try_reserve(refs.len()).map_err(|_| Error::OutOfMemory)?;
        for part in refs.chunks(BATCH) {
            mapping.map(peer, part, access)?;
        }
        Ok(mapping)
    }

    fn count(&self) -> usize {
        self.handles.len()
    }

    /// The pages as words of four bytes.
    ///
    /// # Safety
    ///
    /// `W` must be an atomic of that size, or one that is only read; one that can be written where the pages were mapped
    /// for that.
    unsafe fn words<W>(&self) -> &[W] {
        if self.handles.is_empty() {
            return &[];
        }
        let first = core::ptr::with_exposed_provenance::<W>(self.window.address(0) as usize);
        let words = self.handles.len() * PAGE_SIZE / size_of::<W>();
        // SAFETY: the window's first `handles.len()` pages are mapped until `self` is dropped; the rest is the caller's
        // promise.
        unsafe { core::slice::from_raw_parts(first, words) }
    }

    /// Maps further pages behind those that are mapped, all of them or up to the first that cannot be.
    fn map(&mut self, peer: u16, refs: &[GrantRef], access: Access) -> Result<(), Error> {
        let flags = match access {
            Access::ReadOnly => GNTMAP_HOST_MAP | GNTMAP_READONLY,
            Access::ReadWrite => GNTMAP_HOST_MAP,
        };
        let start = self.handles.len();
        let mut operations: [_; BATCH] = core::array::from_fn(|index| GnttabMapGrantRef {
            host_addr: if index < refs.len() { self.window.address(start + index) } else { 0 },
            flags,
            ref_: refs.get(index).map_or(0, |reference| reference.0),
            dom: peer,
            status: NOT_DONE,
            ..GnttabMapGrantRef::default()
        });
        let operations = &mut operations[..refs.len()];
        // A hypercall that fails as a whole leaves the status of those that were not reached.
        // SAFETY: the addresses are the window's, where nothing is mapped and nobody else maps anything.
        let _ = unsafe { operate(GNTTABOP_MAP_GRANT_REF, operations) };
        let mut result = Ok(());
        for (index, operation) in operations.iter_mut().enumerate() {
            retry(operation);
            match Error::of_status(operation.status) {
                Ok(()) if result.is_ok() => self.handles.push(operation.handle),
                // Behind one that failed: what is mapped must follow one another.
                Ok(()) => unmap(&[operation.handle], |_| self.window.address(start + index)),
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }
}

/// Tries a mapping again that could not be made just now.
fn retry(operation: &mut GnttabMapGrantRef) {
    for _ in 0..TRIES {
        if operation.status != GNTST_EAGAIN {
            return;
        }
        sched::yield_now();
        // SAFETY: as for the first time.
        let _ = unsafe { operate(GNTTABOP_MAP_GRANT_REF, core::slice::from_mut(operation)) };
    }
}

/// Unmaps the pages of `handles`, page `index` at `address(index)`.
fn unmap(handles: &[u32], address: impl Fn(usize) -> u64) {
    for (part, handles) in handles.chunks(BATCH).enumerate() {
        let mut operations: [_; BATCH] = core::array::from_fn(|index| GnttabUnmapGrantRef {
            host_addr: if index < handles.len() { address(part * BATCH + index) } else { 0 },
            handle: handles.get(index).copied().unwrap_or(0),
            ..GnttabUnmapGrantRef::default()
        });
        let operations = &mut operations[..handles.len()];
        // SAFETY: the owner of the mapping is being dropped, or never saw it: nobody has a reference to the memory.
        let done = unsafe { operate(GNTTABOP_UNMAP_GRANT_REF, operations) };
        // Handle and address are what the hypervisor gave and took. A page that it left there all the same is found by
        // the window, which never uses the address again.
        debug_assert!(done.is_ok() && operations.iter().all(|operation| operation.status == GNTST_OKAY));
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        unmap(&self.handles, |index| self.window.address(index));
    }
}
