//! Grant tables: pages that one domain lets another one use.
//!
//! A domain publishes *entries* in frames that it shares with the hypervisor; a reference is an index into them. Another
//! domain may map a granted page into its address space, or have the hypervisor copy from or to it. While it does, the
//! entry is *pinned*: the hypervisor keeps what it read from the entry (see `entry::Active`) and sets the entry's
//! "in use" flags, so that the granter can tell.
//!
//! What each file owns: `entry` the words shared with the guest and the pins; `table` the frames, versions and sizes;
//! `maptrack` the mappings a domain has; `resource` a table's frames for toolstacks; `map` making and undoing mappings; `copy` copying; `transfer` giving a page away.
//!
//! # Invariants
//!
//! - An active entry with pins describes the frame, range and domain that all its users have; whatever the guest
//!   writes into its shared entry meanwhile changes nothing for them.
//! - Per direction and kind there are as many pins as mappings and running copies. The shared "reading" flag is set
//!   while there is any pin, "writing" while there is one for writing.
//! - A host mapping holds its references to the frame in the page-table entry itself, like any other mapping; a device
//!   mapping holds its own. A frame is never given back to its owner before the TLBs forgot the mapping.
//! - Lock order: a domain's table, then a domain's list of mappings. No two tables are locked at once. Neither is held
//!   while page tables or guest memory are accessed, except that frames are taken and given back with a table locked. Nothing that
//!   may take long is done with a table locked, and a domain never does work for another one to have a frame of it: a frame that its
//!   granter has not given up yet as a page table is refused.
//! - What a mapping or copy holds of a frame goes before its pin, and both go with the table locked.

mod copy;
mod entry;
mod map;
mod maptrack;
mod resource;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod transfer;

pub(crate) use copy::copy_bytes;
pub use copy::{CopyEnd, CopyRequest};
pub use map::{MapRequest, Mapped, Undone, UnmapBatch, UnmapRequest};
pub use table::TableSize;

use crate::ids::DomId;
use crate::page::PageError;
use crate::sync::FairMutex;
use maptrack::Maptrack;
use table::Table;
use xen_abi::errno::Errno;
use xen_abi::grant_table::*;

/// Most frames of a domain's grant table unless it was given another limit (Xen's `gnttab_max_frames`).
pub const DEFAULT_MAX_FRAMES: u32 = 64;
/// Most pages of handles of a domain unless it was given another limit (Xen's `gnttab_max_maptrack_frames`).
pub const DEFAULT_MAX_MAPTRACK_FRAMES: u32 = 1024;

/// Why a grant operation failed: the statuses of grant_table.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantError {
    /// Anything without a status of its own.
    General,
    /// No such domain.
    BadDomain,
    /// No such reference, or flags that ask for nothing.
    BadReference,
    /// No such mapping.
    BadHandle,
    /// The list to fill is not writable.
    BadVirtualAddress,
    /// The device address is not that of the mapping.
    BadDeviceAddress,
    /// The caller may not do that.
    PermissionDenied,
    /// The frame is not its owner's to give.
    BadPage,
    /// The bytes to copy do not lie within a page.
    BadCopyArgument,
    /// The frame's number does not fit the entry.
    AddressTooBig,
    /// The entry is in use: try again.
    Again,
    /// No handle is left.
    NoSpace,
    /// Not an error: this CPU has other work first, and nothing was changed. The operation is made again; no guest sees a
    /// status of it.
    Restart,
}

impl GrantError {
    /// The status that the guest sees.
    pub const fn status(self) -> i16 {
        match self {
            Self::General => GNTST_GENERAL_ERROR,
            Self::BadDomain => GNTST_BAD_DOMAIN,
            Self::BadReference => GNTST_BAD_GNTREF,
            Self::BadHandle => GNTST_BAD_HANDLE,
            Self::BadVirtualAddress => GNTST_BAD_VIRT_ADDR,
            Self::BadDeviceAddress => GNTST_BAD_DEV_ADDR,
            Self::PermissionDenied => GNTST_PERMISSION_DENIED,
            Self::BadPage => GNTST_BAD_PAGE,
            Self::BadCopyArgument => GNTST_BAD_COPY_ARG,
            Self::AddressTooBig => GNTST_ADDRESS_TOO_BIG,
            Self::Again | Self::Restart => GNTST_EAGAIN,
            Self::NoSpace => GNTST_NO_SPACE,
        }
    }
}

impl From<PageError> for GrantError {
    fn from(error: PageError) -> Self {
        match error {
            PageError::Restart => Self::Restart,
            _ => Self::General,
        }
    }
}

/// The status of an operation that has nothing to answer but its success.
pub fn status_of<T>(result: &Result<T, GrantError>) -> i16 {
    match result {
        Ok(_) => GNTST_OKAY,
        Err(error) => error.status(),
    }
}

/// Why a grant operation failed that answers with an errno instead of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionError {
    /// No such version.
    Unknown,
    /// References beyond the reserved ones, or status frames, are in use.
    InUse,
    /// A reserved entry has no form in the other version.
    NotRepresentable,
    /// No memory for the status frames.
    NoMemory,
    /// Not an error: this CPU has other work first. The operation is made again.
    Restart,
}

impl From<VersionError> for Errno {
    fn from(error: VersionError) -> Errno {
        match error {
            VersionError::Unknown => Errno::EINVAL,
            VersionError::InUse => Errno::EBUSY,
            VersionError::NotRepresentable => Errno::ERANGE,
            VersionError::NoMemory => Errno::ENOMEM,
            VersionError::Restart => Errno::EAGAIN,
        }
    }
}

/// A domain's grant table and the grants of others that it mapped.
pub struct DomainGrants {
    table: FairMutex<Table>,
    maptrack: FairMutex<Maptrack>,
}

impl DomainGrants {
    /// An empty table of version 1 with the default limits.
    pub fn new() -> Self {
        Self::with_limits(DEFAULT_MAX_FRAMES, DEFAULT_MAX_MAPTRACK_FRAMES)
    }

    /// An empty table of version 1 that may grow to `max_frames` frames, and room for as many mappings as handles fit
    /// into `max_maptrack_frames` pages of Xen's format.
    pub fn with_limits(max_frames: u32, max_maptrack_frames: u32) -> Self {
        Self {
            table: FairMutex::new(Table::new(max_frames)),
            maptrack: FairMutex::new(Maptrack::new(max_maptrack_frames)),
        }
    }

    /// Number of mappings that the domain has of other domains' (or its own) grants.
    pub fn mappings(&self) -> usize {
        self.maptrack.lock().len()
    }
}

impl Default for DomainGrants {
    fn default() -> Self {
        Self::new()
    }
}

/// Which domain uses a grant, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct User {
    domain: DomId,
    readonly: bool,
}
