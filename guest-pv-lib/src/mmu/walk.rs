//! Finding the entry that maps an address, in tables that the initial mapping shows read-only.

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{Mfn, Pte, m2p};
use crate::BootContext;

/// A level of the page tables; the root is level 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Entries map pages.
    L1 = 1,
    /// Entries point to level 1.
    L2 = 2,
    /// Entries point to level 2.
    L3 = 3,
    /// Entries point to level 3.
    L4 = 4,
}

/// Which of a table's 512 entries translates `virt` at `level`.
#[must_use]
pub const fn index(virt: u64, level: Level) -> usize {
    ((virt >> (12 + 9 * (level as u64 - 1))) & 511) as usize
}

/// The *machine address* of the entry of `level` that translates `virt` below `root`, and what it holds.
///
/// That address is what [`mmu_update`](super::mmu_update) takes. None where a level above is missing or is not one
/// of the tables that the initial mapping shows.
#[must_use]
pub fn entry_address(boot: &BootContext, root: Mfn, virt: u64, level: Level) -> Option<(u64, Pte)> {
    let mut table = root;
    for at in [Level::L4, Level::L3, Level::L2, Level::L1] {
        let entry = read(boot, table, index(virt, at))?;
        if at == level {
            return Some((table.address() + 8 * index(virt, at) as u64, entry));
        }
        table = entry.frame().filter(|_| entry.0 & Pte::LARGE == 0)?;
    }
    None
}

/// Entry `at` of `table`, read through the initial mapping.
fn read(boot: &BootContext, table: Mfn, at: usize) -> Option<Pte> {
    let frame = m2p(table)?;
    if boot.p2m().mfn(frame) != Some(table) || !boot.page_tables().contains(&frame) {
        return None;
    }
    let address = boot.virt_of(frame) + 8 * at as u64;
    let entry = ptr::with_exposed_provenance::<AtomicU64>(address as usize);
    // SAFETY: a frame of the initial page tables, which stay mapped (read-only) at this address; the processor and
    // the hypervisor write whole entries, hence the atomic.
    Some(Pte(unsafe { &*entry }.load(Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_of_the_image_base() {
        let virt = 0xffff_ffff_8010_3000;
        assert_eq!(index(virt, Level::L4), 511);
        assert_eq!(index(virt, Level::L3), 510);
        assert_eq!(index(virt, Level::L2), 0);
        assert_eq!(index(virt, Level::L1), 0x103);
    }
}
