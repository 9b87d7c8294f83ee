//! The machine's memory as [`hypervisor_core::acpi`] reads it: through the direct map, at boot only.

use crate::mm::layout::DIRECT_MAP;
use crate::mm::tables;
use hypervisor_core::acpi::{AcpiInfo, Memory};

struct DirectMap;

/// How far the direct map is extended for a table. What a table names beyond is a mistake, for firmware puts them where
/// 32 bits reach, and mapping all that lies before it would take long.
const END: u64 = 1 << 36;

impl Memory for DirectMap {
    fn read(&self, at: u64, out: &mut [u8]) -> Option<()> {
        let end = at.checked_add(out.len() as u64).filter(|end| *end <= END)?;
        // Tables above what is mapped as RAM at boot are mapped on demand.
        tables::extend_direct_map(end).ok()?;
        // SAFETY: mapped above, for ever; reading has no effect on anything but registers of devices, where no
        // firmware has a table; nothing writes there while the tables are read.
        unsafe {
            core::ptr::copy_nonoverlapping((DIRECT_MAP + at) as *const u8, out.as_mut_ptr(), out.len())
        };
        Some(())
    }
}

/// Reads the tables. `rsdp` is what the boot loader said, 0 for nothing: then the BIOS area is searched.
pub fn read(rsdp: u64) -> AcpiInfo {
    hypervisor_core::acpi::read(&DirectMap, rsdp)
}
