//! Grants: pages that one domain lets another use, without anybody trusting anybody.
//!
//! - [`Granted`] owns pages of this domain that a peer may touch, with their references. [`end`](Granted::end) makes
//!   them private again once the peer has let go.
//! - [`Mapped`] is pages of a peer, at addresses of this domain; [`MappedReadOnly`] those that are only read.
//! - [`copy`] moves bytes between pages of domains by hypercall, without mapping anything.
//!
//! The table of grants is memory that the hypervisor reads. Granting a page is: take a reference from the free list,
//! store its entry. Ending is: swap the entry for nothing unless the hypervisor marked it used, give the reference
//! back. Neither is a hypercall, neither allocates, and both are free of locks, so a handler of an event may do them.
//! The table grows when it is full.
//!
//! # Invariants
//!
//! - A page whose entry is valid, or that a peer has mapped, is reached through atomics only and never given to the
//!   allocator. Where its owner is dropped meanwhile, it is kept aside until the peer lets go.
//! - A reference is on the free list, or belongs to one owner. The link of the free list lies in the entry itself.
//! - What a peer names (references, domains, offsets) goes to the hypervisor, which checks it; nothing here is indexed by it.
//!
//! Memory must be there: [`memory::init`](crate::memory::init) runs before the first grant.

mod copy;
#[cfg(feature = "alloc")]
mod granted;
#[cfg(feature = "alloc")]
mod mapped;
mod setup;
mod table;

use core::fmt;

use xen_abi::grant_table as abi;

pub use copy::{Copy, Source, Target, copy};
#[cfg(feature = "alloc")]
pub use granted::{Granted, kept_aside, kept_aside_for, reap};
#[cfg(feature = "alloc")]
pub use mapped::{Mapped, MappedReadOnly};
#[cfg(all(target_os = "none", feature = "alloc"))]
pub(crate) use setup::{attach, detach};
pub use setup::{capacity, free_references, init, version};

use crate::hypercall::{Errno, check, raw};
use crate::mmu::Mfn;

/// An index into a domain's table of grants.
#[doc(alias = "grant_ref_t")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct GrantRef(pub u32);

/// What a peer may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    #[doc(alias = "GTF_readonly")]
    ReadOnly,
    /// Read and write it.
    ReadWrite,
}

/// The layout of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 8 bytes an entry: frames below 16 TiB.
    #[doc(alias = "grant_entry_v1")]
    One,
    /// 16 bytes an entry, any frame.
    #[doc(alias = "grant_entry_v2")]
    Two,
}

/// Why something about grants was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// No memory of the own domain, or no addresses, are left for it.
    OutOfMemory,
    /// No reference or mapping is left.
    NoRoom,
    /// The peer's grant does not exist, or does not allow it (any more).
    #[doc(alias("GNTST_bad_gntref", "GNTST_permission_denied", "GNTST_bad_domain"))]
    BadGrant,
    /// Offset and length do not lie within a page.
    OutOfRange,
    /// The hypervisor's answer is another one (`GNTST_*`).
    Status(i16),
    /// The hypercall itself failed.
    Refused(Errno),
}

impl Error {
    /// What the status of an operation says.
    const fn of_status(status: i16) -> Result<(), Self> {
        match status {
            abi::GNTST_OKAY => Ok(()),
            // The general error is what Xen says of an entry that grants nothing, or less.
            abi::GNTST_GENERAL_ERROR
            | abi::GNTST_BAD_DOMAIN
            | abi::GNTST_BAD_GNTREF
            | abi::GNTST_PERMISSION_DENIED
            | abi::GNTST_BAD_PAGE => Err(Self::BadGrant),
            abi::GNTST_NO_SPACE | abi::GNTST_NO_DEVICE_SPACE => Err(Self::NoRoom),
            abi::GNTST_BAD_COPY_ARG => Err(Self::OutOfRange),
            other => Err(Self::Status(other)),
        }
    }
}

impl From<crate::memory::OutOfMemory> for Error {
    fn from(_: crate::memory::OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::NoRoom => f.write_str("no grant reference or mapping is left"),
            Self::BadGrant => f.write_str("the other domain's grant does not allow it"),
            Self::OutOfRange => f.write_str("the range does not lie within a page"),
            Self::Status(status) => write!(f, "the hypervisor refused with status {status}"),
            Self::Refused(errno) => write!(f, "the hypervisor refused: {errno:?}"),
        }
    }
}

impl core::error::Error for Error {}

/// What the status of an operation is before the hypervisor says something.
const NOT_DONE: i16 = i16::MAX;

/// The peer has the page mapped, or copies it right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse;

/// Lets `peer` use `frame`, and returns the reference by which it does.
///
/// # Errors
///
/// [`Error::NoRoom`] where the table is full and cannot grow, [`Error::OutOfRange`] for a frame that its layout cannot
/// hold.
///
/// # Safety
///
/// Until [`end`] has succeeded, the frame's memory is only reached by atomics (or not at all) and not used for anything
/// else, whatever the peer writes to it; with [`Access::ReadOnly`] it may be used as it likes but not given to the
/// allocator.
#[doc(alias = "gnttab_grant_foreign_access")]
pub unsafe fn publish(peer: u16, frame: Mfn, access: Access) -> Result<GrantRef, Error> {
    // SAFETY: the caller's promise.
    unsafe { setup::table()?.publish(peer, frame, access, setup::grow) }.map(GrantRef)
}

/// Ends a grant and gives its reference back.
///
/// # Errors
///
/// [`InUse`]: the grant stays, and so does the reference; ask again later.
///
/// # Safety
///
/// The reference comes from [`publish`] and was not ended before.
#[doc(alias = "gnttab_end_foreign_access")]
pub unsafe fn end(reference: GrantRef) -> Result<(), InUse> {
    let Ok(table) = setup::table() else { return Ok(()) };
    if !table.revoke(reference.0) {
        return Err(InUse);
    }
    // SAFETY: the caller's own, and revoked.
    unsafe { table.give_back(reference.0) };
    Ok(())
}

/// Whether the peer has the page of a grant of this domain mapped, or copies it, right now.
#[must_use]
pub fn is_in_use(reference: GrantRef) -> bool {
    setup::table().is_ok_and(|table| table.has(reference.0) && table.is_in_use(reference.0))
}

/// `grant_table_op` with `count` structures of its command, each of which the hypervisor reads and writes.
///
/// # Safety
///
/// What the operations do to memory must be something that the caller may do; `T` is the structure of `command`.
unsafe fn operate<T>(command: u32, operations: &mut [T]) -> Result<(), Errno> {
    let count = u32::try_from(operations.len()).map_err(|_| Errno::E2BIG)?;
    // SAFETY: the slice is exclusively borrowed; the rest is the caller's promise.
    check(unsafe {
        raw::call3(
            xen_abi::hypercall::nr::GRANT_TABLE_OP,
            u64::from(command),
            operations.as_mut_ptr() as u64,
            u64::from(count),
        )
    })
    .map(drop)
}
