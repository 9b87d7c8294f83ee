//! Why a page could not be had.

use xen_abi::errno::Errno;

/// A refusal of the page accounting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageError {
    /// No such frame, or nobody owns it: `EINVAL`.
    BadFrame,
    /// The frame belongs to somebody else: `EINVAL`, as Xen answers.
    NotOwner,
    /// The frame is in use as something that excludes this use: `EBUSY`.
    InUse,
    /// An entry has flags that a guest must not set, or is of no use where it stands: `EINVAL`.
    BadEntry,
    /// The domain lacks permission for this machine frame, or for this operation: `EPERM`.
    Denied,
    /// The domain may not own that many pages, or there are none: `ENOMEM`.
    NoMemory,
    /// Too many references to count: `EINVAL`.
    TooMany,
    /// Not an error: work is waiting, do the rest of the operation later.
    Restart,
}

impl PageError {
    /// The errno of a refusal. [`PageError::Restart`] never reaches a guest: adapters turn it into a continuation; it
    /// is `ERESTART` (85) here for completeness.
    pub const fn errno(self) -> Errno {
        match self {
            PageError::BadFrame | PageError::NotOwner | PageError::BadEntry | PageError::TooMany => {
                Errno::EINVAL
            }
            PageError::InUse => Errno::EBUSY,
            PageError::Denied => Errno::EPERM,
            PageError::NoMemory => Errno::ENOMEM,
            PageError::Restart => Errno(85),
        }
    }
}

impl From<PageError> for Errno {
    fn from(error: PageError) -> Errno {
        error.errno()
    }
}
