//! `memory_op`: what memory the domain has.

use xen_abi::GuestHandle;
use xen_abi::hypercall::nr;
use xen_abi::memory::{
    XENMEM_CURRENT_RESERVATION, XENMEM_MACHINE_MEMORY_MAP, XENMEM_MAXIMUM_RESERVATION, XENMEM_MEMORY_MAP,
    XenMemoryMap,
};
use xen_abi::xen::DOMID_SELF;

use crate::hypercall::{Errno, check, raw};

/// One range of the memory map, in the layout of a PC firmware's table (20 bytes, no padding).
#[doc(alias = "e820entry")]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::KnownLayout,
    zerocopy::Immutable,
)]
#[repr(C, packed(4))]
pub struct Region {
    /// First byte, a pseudo-physical address.
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
    /// What it is: see the constants.
    pub kind: u32,
}

impl Region {
    /// Memory to use.
    pub const RAM: u32 = 1;
    /// Not to be used.
    pub const RESERVED: u32 = 2;

    /// The byte behind the last one, or none where the range does not fit into the address space.
    #[must_use]
    pub const fn end(&self) -> Option<u64> {
        let (start, size) = (self.start, self.size);
        start.checked_add(size)
    }
}

/// Fetches the domain's pseudo-physical memory map into `buffer` and returns the part that was filled in.
///
/// # Errors
///
/// `ENOSYS` where the domain was given no map: the first domain, or one that was built without; its memory is then
/// the frames that [`BootContext::pages`](crate::BootContext::pages) counts.
#[doc(alias = "XENMEM_memory_map")]
pub fn map(buffer: &mut [Region]) -> Result<&[Region], Errno> {
    fetch(XENMEM_MEMORY_MAP, buffer)
}

/// Fetches the machine's memory map, which only the first domain may see: where devices and firmware tables are.
///
/// # Errors
///
/// `EPERM` for other domains; `EINVAL` where `buffer` is too small for the whole map.
#[doc(alias = "XENMEM_machine_memory_map")]
pub fn machine_map(buffer: &mut [Region]) -> Result<&[Region], Errno> {
    fetch(XENMEM_MACHINE_MEMORY_MAP, buffer)
}

fn fetch(command: u32, buffer: &mut [Region]) -> Result<&[Region], Errno> {
    let room = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
    let mut arg = XenMemoryMap {
        nr_entries: room,
        buffer: GuestHandle::from(buffer.as_mut_ptr() as u64),
        ..XenMemoryMap::default()
    };
    // SAFETY: the hypervisor writes `nr_entries` back and at most that many entries of any contents to `buffer`,
    // which is exclusively borrowed.
    check(unsafe { raw::call2(nr::MEMORY_OP, u64::from(command), &raw mut arg as u64) })?;
    let found = &mut buffer[..(arg.nr_entries.min(room)) as usize];
    // A toolstack puts the entries of a PVH domain in another order.
    found.sort_unstable_by_key(|region| region.start);
    Ok(found)
}

fn reservation(command: u32) -> Result<u64, Errno> {
    let domain = DOMID_SELF;
    // SAFETY: the hypervisor only reads the domain's number.
    check(unsafe { raw::call2(nr::MEMORY_OP, u64::from(command), &raw const domain as u64) })
}

/// Pages that the domain has now.
///
/// # Errors
///
/// None for one's own domain on any known hypervisor.
#[doc(alias = "XENMEM_current_reservation")]
pub fn current_pages() -> Result<u64, Errno> {
    reservation(XENMEM_CURRENT_RESERVATION)
}

/// Pages that the domain may have at most.
///
/// # Errors
///
/// None for one's own domain on any known hypervisor.
#[doc(alias = "XENMEM_maximum_reservation")]
pub fn maximum_pages() -> Result<u64, Errno> {
    reservation(XENMEM_MAXIMUM_RESERVATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_have_the_size_of_the_firmware_table() {
        assert_eq!(size_of::<Region>(), 20);
        assert_eq!(Region { start: u64::MAX, size: 2, kind: 1 }.end(), None);
        assert_eq!(Region { start: 4096, size: 4096, kind: 1 }.end(), Some(8192));
    }
}
