//! Why a page could not be had.

use xen_abi::errno::Errno;

/// A refusal of the page accounting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageError {
    /// No such frame, or nobody owns it: `EINVAL`.
    BadFrame,
    /// The frame belongs to somebody else: `EINVAL`.
    NotOwner,
    /// The frame is in use as something that excludes this use: `EINVAL`.
    WrongType,
    /// The frame that an L1 entry names cannot be mapped like that: `EBUSY`.
    CannotMap,
    /// An entry has flags that a guest must not set, or has no place where it stands: `EINVAL`.
    BadEntry,
    /// The domain lacks permission for this machine frame: `EPERM`.
    Denied,
    /// Too many references to count: `EINVAL`.
    TooMany,
    /// Not an error: work is waiting, do the rest of the operation later. Adapters turn it into a continuation.
    Restart,
}

impl PageError {
    /// The errno of a refusal.
    pub const fn errno(self) -> Errno {
        match self {
            PageError::BadFrame
            | PageError::NotOwner
            | PageError::WrongType
            | PageError::BadEntry
            | PageError::TooMany => Errno::EINVAL,
            PageError::CannotMap => Errno::EBUSY,
            PageError::Denied => Errno::EPERM,
            PageError::Restart => Errno::EAGAIN,
        }
    }
}

impl From<PageError> for Errno {
    fn from(error: PageError) -> Errno {
        error.errno()
    }
}
