//! Copies between domains by hypercall: nothing is mapped, and a grant that its owner took back is an error of one piece.

use core::marker::PhantomData;
use core::sync::atomic::AtomicU32;

use xen_abi::grant_table::{
    GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GNTTABOP_COPY, GnttabCopy, GnttabCopyPtr,
};
use xen_abi::xen::DOMID_SELF;

use super::{Error, GrantRef, NOT_DONE, operate};
use crate::memory::{Pages, SharedPages};
use crate::mmu::{Mfn, PAGE_SIZE};

/// From where bytes come.
#[doc(alias = "GNTCOPY_source_gref")]
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A page that `domain` granted to this one.
    Peer {
        /// Who granted it.
        domain: u16,
        /// Which of its grants.
        reference: GrantRef,
        /// First byte in the page.
        offset: u16,
    },
    /// This domain's memory, from the byte on.
    Shared(&'a SharedPages, usize),
    /// This domain's memory, from the byte on.
    Private(&'a Pages, usize),
}

/// Where bytes go.
#[doc(alias = "GNTCOPY_dest_gref")]
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A page that `domain` granted to this one for writing.
    Peer {
        /// Who granted it.
        domain: u16,
        /// Which of its grants.
        reference: GrantRef,
        /// First byte in the page.
        offset: u16,
    },
    /// This domain's memory, from the byte on. Others may look at it meanwhile: it is atomics.
    Shared(&'a SharedPages, usize),
}

/// One piece, in the form that the hypervisor takes.
#[doc(alias = "gnttab_copy")]
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Copy<'a> {
    operation: GnttabCopy,
    memory: PhantomData<&'a [AtomicU32]>,
}

impl<'a> Copy<'a> {
    /// `length` bytes from `source` to `target`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`] where the piece crosses the end of a page or leaves the memory.
    pub fn new(source: Source<'a>, target: Target<'a>, length: u16) -> Result<Self, Error> {
        let (source, from) = match source {
            Source::Peer { domain, reference, offset } => {
                (peer(domain, reference, offset, length)?, GNTCOPY_SOURCE_GREF)
            }
            Source::Shared(pages, at) => (own(at, length, pages.count(), |page| pages.mfn(page))?, 0),
            Source::Private(pages, at) => (own(at, length, pages.count(), |page| pages.mfn(page))?, 0),
        };
        let (dest, to) = match target {
            Target::Peer { domain, reference, offset } => {
                (peer(domain, reference, offset, length)?, GNTCOPY_DEST_GREF)
            }
            Target::Shared(pages, at) => (own(at, length, pages.count(), |page| pages.mfn(page))?, 0),
        };
        let operation = GnttabCopy {
            source,
            dest,
            len: length,
            flags: from | to,
            status: NOT_DONE,
            ..GnttabCopy::default()
        };
        Ok(Self { operation, memory: PhantomData })
    }

    /// What became of it: an error, too, before it was copied.
    ///
    /// # Errors
    ///
    /// [`Error::BadGrant`] where the peer's grant does not allow it.
    pub const fn result(&self) -> Result<(), Error> {
        Error::of_status(self.operation.status)
    }
}

fn within_page(offset: usize, length: u16) -> Result<u16, Error> {
    if offset + usize::from(length) > PAGE_SIZE {
        return Err(Error::OutOfRange);
    }
    // Below a page's size.
    Ok(offset as u16)
}

fn peer(domain: u16, reference: GrantRef, offset: u16, length: u16) -> Result<GnttabCopyPtr, Error> {
    let offset = within_page(usize::from(offset), length)?;
    Ok(GnttabCopyPtr { u: u64::from(reference.0), domid: domain, offset, ..GnttabCopyPtr::default() })
}

fn own(
    at: usize,
    length: u16,
    pages: usize,
    frame: impl FnOnce(usize) -> Mfn,
) -> Result<GnttabCopyPtr, Error> {
    let offset = within_page(at % PAGE_SIZE, length)?;
    let page = at / PAGE_SIZE;
    if page >= pages {
        return Err(Error::OutOfRange);
    }
    Ok(GnttabCopyPtr { u: frame(page).0, domid: DOMID_SELF, offset, ..GnttabCopyPtr::default() })
}

/// Copies the pieces in order with one hypercall. Each has its own [`result`](Copy::result).
#[doc(alias = "GNTTABOP_copy")]
pub fn copy(pieces: &mut [Copy<'_>]) {
    if pieces.is_empty() {
        return;
    }
    for piece in &mut *pieces {
        piece.operation.status = NOT_DONE;
    }
    // A hypercall that fails as a whole leaves the status of the pieces that were not reached.
    // SAFETY: a piece has the layout of its operation. It writes to memory of this domain only where that is shared
    // pages, borrowed for the piece's lifetime: atomics, whose contents may change. What it reads stays as it is.
    let _ = unsafe { operate(GNTTABOP_COPY, pieces) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_stay_within_their_pages() {
        let own = SharedPages::from(Pages::new(2).unwrap());
        let from = |offset| Source::Peer { domain: 3, reference: GrantRef(9), offset };
        let piece = Copy::new(from(4), Target::Shared(&own, 4096 + 96), 4000).unwrap();
        let operation = piece.operation;
        assert_eq!((operation.source.u, operation.source.domid, operation.source.offset), (9, 3, 4));
        assert_eq!(
            (operation.dest.u, operation.dest.domid, operation.dest.offset),
            (own.mfn(1).0, DOMID_SELF, 96)
        );
        assert_eq!((operation.len, operation.flags), (4000, GNTCOPY_SOURCE_GREF));
        assert!(piece.result().is_err(), "not copied yet");
        let refused = |source, target, length| {
            assert_eq!(Copy::new(source, target, length).err(), Some(Error::OutOfRange))
        };
        refused(from(4), Target::Shared(&own, 0), 4093);
        refused(from(u16::MAX), Target::Shared(&own, 0), u16::MAX);
        refused(from(0), Target::Shared(&own, 1), 4096);
        refused(from(0), Target::Shared(&own, 8192), 1);
        refused(from(0), Target::Shared(&own, usize::MAX), 1);
    }
}
