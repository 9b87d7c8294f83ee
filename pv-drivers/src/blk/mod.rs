//! The block device (`io/blkif.h`): a disk's sectors, read and written by another domain.
//!
//! - [`Front`] uses a disk. Data is not copied: the pages of a request are lent to the back end for as long as the request
//!   takes, or stay lent ([`Data`]).
//! - [`Back`] serves a [`BlockDevice`]. Unless told otherwise it maps no page of data: it has the hypervisor copy, all pieces
//!   of all requests of one round in one hypercall. A disk that is memory is copied from and to directly; any other through
//!   staging memory, on which the device works at its own pace.
//!
//! Both ends take part in multi-page rings, several rings for each device, indirect requests, flushes and discards,
//! each where the other end has it too. Both can keep grants for good (`feature-persistent`) and do so only when asked to, as it costs
//! the front end a copy of all data.
//!
//! A unit is a *sector* of 512 bytes everywhere here, whatever the disk's own blocks are.

mod back;
mod disk;
mod front;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use core::fmt;

pub use back::{Back, Options as BackOptions};
pub use disk::{ImageDisk, RamDisk};
pub use front::{Completion, Data, Failure, Front, Options as FrontOptions, Request, SubmitError};

use crate::transport::Transport;

/// Bytes of a sector.
pub const SECTOR: usize = 512;
/// Sectors of a page.
const PAGE_SECTORS: u8 = 8;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads sectors.
    #[doc(alias = "BLKIF_OP_READ")]
    Read,
    /// Writes sectors.
    #[doc(alias = "BLKIF_OP_WRITE")]
    Write,
    /// What was written, and answered, stays: a cache that forgets is written back.
    #[doc(alias = "BLKIF_OP_FLUSH_DISKCACHE")]
    Flush,
    /// What the sectors held is not needed any more.
    #[doc(alias = "BLKIF_OP_DISCARD")]
    Discard,
}

/// What a disk is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Its size in sectors of 512 bytes.
    pub sectors: u64,
    /// Bytes of the smallest unit that can be read or written: a power of two, at least 512.
    pub block_size: u32,
    /// Bytes of the unit that the medium itself has, for alignment: a power of two, at least `block_size`.
    pub physical_block_size: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether [`Operation::Flush`] is understood.
    pub flush: bool,
    /// Whether [`Operation::Discard`] is understood.
    pub discard: bool,
}

impl Geometry {
    /// A disk of this many sectors that can be read and written, and no more.
    #[must_use]
    pub fn new(sectors: u64) -> Self {
        Self {
            sectors,
            block_size: 512,
            physical_block_size: 512,
            read_only: false,
            flush: false,
            discard: false,
        }
    }
}

/// The disk could not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the disk failed")
    }
}

impl core::error::Error for Failed {}

/// How far a disk got with what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Done.
    Done,
    /// [`BlockDevice::poll`] will tell.
    Pending,
}

/// What a disk is asked to do. The range lies within the disk, and a write is not for a disk that is read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Names it in [`BlockDevice::poll`].
    pub tag: u16,
    /// What to do.
    pub operation: Operation,
    /// The first sector.
    pub sector: u64,
    /// How many sectors; none for a flush.
    pub sectors: u64,
    /// Where in the staging memory the data is or goes, in bytes; a multiple of a page.
    pub offset: usize,
}

/// What a back end serves.
pub trait BlockDevice<T: Transport>: Send {
    /// What it is like. It stays so.
    fn geometry(&self) -> Geometry;

    /// The disk's contents, where they are memory of this domain: at least as long as the disk. The back end
    /// has the hypervisor copy straight from and to it then, and gives no reads and writes to [`submit`](Self::submit).
    fn memory(&self) -> Option<&T::Memory> {
        None
    }

    /// Begins a job, on `staging`. The memory of a pending job is not touched, nor freed, until it is done.
    ///
    /// # Errors
    ///
    /// [`Failed`]: the job is over.
    fn submit(&mut self, job: Job, staging: &T::Memory) -> Result<Progress, Failed>;

    /// Calls `done` with tag and result of each job that ended since the last time.
    fn poll(&mut self, _staging: &T::Memory, _done: &mut dyn FnMut(u16, Result<(), Failed>)) {}
}

impl<T: Transport, D: BlockDevice<T> + ?Sized> BlockDevice<T> for Box<D> {
    fn geometry(&self) -> Geometry {
        (**self).geometry()
    }

    fn memory(&self) -> Option<&T::Memory> {
        (**self).memory()
    }

    fn submit(&mut self, job: Job, staging: &T::Memory) -> Result<Progress, Failed> {
        (**self).submit(job, staging)
    }

    fn poll(&mut self, staging: &T::Memory, done: &mut dyn FnMut(u16, Result<(), Failed>)) {
        (**self).poll(staging, done);
    }
}
