//! The frames of a table as a resource: a toolstack maps them without asking for each (`XENMEM_acquire_resource`).

use super::table::{STATUS_PER_FRAME, V2_PER_FRAME, count, status_frames};
use crate::Hypervisor;
use crate::domain::{Domain, Restart};
use crate::platform::Platform;
use xen_abi::errno::Errno;
use xen_abi::memory::{XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED, XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS};

impl<P: Platform> Hypervisor<P> {
    /// Most frames that the part `id` (`XENMEM_RESOURCE_GRANT_TABLE_ID_*`) of a domain's table can have; 0 for no such part.
    pub(crate) fn grant_resource_size(&self, domain: &Domain<P>, id: u32) -> u32 {
        let max = domain.grants.table.lock().max_frames();
        match id {
            XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED => max,
            XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS => status_frames(max),
            _ => 0,
        }
    }

    /// The frames of part `id` from `first` on, as many as `list` takes; the table grows to have them.
    ///
    /// # Errors
    /// `EINVAL` beyond the table's limit, for status frames of a table of version 1, or without memory; [`Restart`] when this CPU has
    /// other work first.
    pub(crate) fn grant_resource(
        &self,
        domain: &Domain<P>,
        id: u32,
        first: u32,
        list: &mut [u64],
    ) -> Result<Result<(), Errno>, Restart> {
        loop {
            match self.grow_for_resource(domain, id, first, list) {
                Ok(true) => return Ok(Ok(())),
                Ok(false) if self.platform.work_pending() => return Err(Restart),
                Ok(false) => {}
                Err(errno) => return Ok(Err(errno)),
            }
        }
    }

    /// Does that if the table is large enough, and lets it grow by a frame if it is not; answers whether it is done.
    fn grow_for_resource(
        &self,
        domain: &Domain<P>,
        id: u32,
        first: u32,
        list: &mut [u64],
    ) -> Result<bool, Errno> {
        let wanted =
            u32::try_from(list.len()).ok().and_then(|n| first.checked_add(n)).ok_or(Errno::EINVAL)?;
        let mut table = domain.grants.lock(self, domain);
        let (status, version) = (id == XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS, table.version());
        if status && version != 2 {
            return Err(Errno::EINVAL);
        }
        let frames = if status {
            let entries = u64::from(wanted) * u64::from(STATUS_PER_FRAME);
            u32::try_from(entries.div_ceil(u64::from(V2_PER_FRAME))).map_err(|_| Errno::EINVAL)?
        } else {
            wanted
        };
        if wanted > count(table.part(status)) && frames > table.max_frames() {
            return Err(Errno::EINVAL);
        }
        let enough = frames.min(table.max_frames());
        if table.grow_once(self, domain, enough, version).map_err(|_| Errno::EINVAL)? {
            return Ok(false);
        }
        let part = table.part(status).get(first as usize..wanted as usize).ok_or(Errno::EINVAL)?;
        list.iter_mut().zip(part).for_each(|(slot, mfn)| *slot = mfn.0);
        Ok(true)
    }
}
