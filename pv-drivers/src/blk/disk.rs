//! Disks that need no hardware.

use alloc::sync::Arc;
use core::fmt;

use super::{BlockDevice, Failed, Geometry, Job, Operation, Progress, SECTOR};
use crate::transport::{Error, PAGE_SIZE, Transport, words};

/// A disk in memory, empty at first. It knows flush and discard. Clones are the same disk, whose contents live as long as
/// one of them.
pub struct RamDisk<T: Transport> {
    memory: Arc<T::Memory>,
    geometry: Geometry,
}

impl<T: Transport> RamDisk<T> {
    /// A disk of `sectors` zeros.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(transport: &T, sectors: u64) -> Result<Self, Error> {
        let bytes = usize::try_from(sectors).ok().and_then(|sectors| sectors.checked_mul(SECTOR));
        let memory = transport.memory(bytes.ok_or(Error::NoMemory)?.div_ceil(PAGE_SIZE).max(1))?;
        Ok(Self::from_memory(memory, sectors))
    }

    /// A disk whose contents are `memory`. It has as many of `sectors` as lie in it.
    #[must_use]
    pub fn from_memory(memory: T::Memory, sectors: u64) -> Self {
        let sectors = sectors.min((memory.len() * 4 / SECTOR) as u64);
        let geometry = Geometry {
            physical_block_size: PAGE_SIZE as u32,
            flush: true,
            discard: true,
            ..Geometry::new(sectors)
        };
        Self { memory: Arc::new(memory), geometry }
    }

    /// The same disk, to be read only.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.geometry = Geometry { read_only: true, discard: false, ..self.geometry };
        self
    }

    /// Copies `bytes` to the disk, from `sector` on; what does not fit is left out.
    pub fn fill(&mut self, sector: u64, bytes: &[u8]) {
        let size = self.geometry.sectors as usize * SECTOR;
        let start = usize::try_from(sector).map_or(size, |sector| sector.saturating_mul(SECTOR).min(size));
        words::store(&self.memory, start, &bytes[..bytes.len().min(size - start)]);
    }
}

impl<T: Transport> Clone for RamDisk<T> {
    fn clone(&self) -> Self {
        Self { memory: self.memory.clone(), geometry: self.geometry }
    }
}

impl<T: Transport> BlockDevice<T> for RamDisk<T> {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn memory(&self) -> Option<&T::Memory> {
        Some(&self.memory)
    }

    fn submit(&mut self, job: Job, _staging: &T::Memory) -> Result<Progress, Failed> {
        match job.operation {
            // What was written is in the only memory there is.
            Operation::Flush => {}
            Operation::Discard => {
                let (first, count) = range(job, self.geometry)?;
                words::clear(&self.memory, first * SECTOR, count * SECTOR);
            }
            Operation::Read | Operation::Write => return Err(Failed),
        }
        Ok(Progress::Done)
    }
}

impl<T: Transport> fmt::Debug for RamDisk<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RamDisk").field(&self.geometry).finish()
    }
}

/// A read-only disk whose contents are bytes that are there already, e.g. a file of the boot archive. Its last
/// sector is filled up with zeros.
pub struct ImageDisk<B> {
    bytes: B,
}

impl<B: AsRef<[u8]>> ImageDisk<B> {
    /// The disk with these contents.
    pub const fn new(bytes: B) -> Self {
        Self { bytes }
    }
}

impl<T: Transport, B: AsRef<[u8]> + Send> BlockDevice<T> for ImageDisk<B> {
    fn geometry(&self) -> Geometry {
        let sectors = self.bytes.as_ref().len().div_ceil(SECTOR) as u64;
        Geometry { read_only: true, ..Geometry::new(sectors) }
    }

    fn submit(&mut self, job: Job, staging: &T::Memory) -> Result<Progress, Failed> {
        if job.operation != Operation::Read {
            return Err(Failed);
        }
        let (first, count) = range(job, BlockDevice::<T>::geometry(self))?;
        let (start, length) = (first * SECTOR, count * SECTOR);
        let bytes = &self.bytes.as_ref()[start..];
        let there = bytes.len().min(length);
        words::store(staging, job.offset, &bytes[..there]);
        words::clear(staging, job.offset + there, length - there);
        Ok(Progress::Done)
    }
}

impl<B: AsRef<[u8]>> fmt::Debug for ImageDisk<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageDisk({} bytes)", self.bytes.as_ref().len())
    }
}

/// The sectors of a job, if they lie within the disk.
fn range(job: Job, geometry: Geometry) -> Result<(usize, usize), Failed> {
    let end = job.sector.checked_add(job.sectors).filter(|end| *end <= geometry.sectors).ok_or(Failed)?;
    let last = usize::try_from(end).map_err(|_| Failed)?;
    // Both are at most `last`.
    Ok((last - job.sectors as usize, job.sectors as usize))
}
