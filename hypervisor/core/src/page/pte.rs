//! Page-table entries: bits, what a guest may set, and what the hypervisor adds.
//!
//! A 64-bit PV kernel runs in ring 3 like its user code, so the hypervisor sets the USER bit in every entry and keeps
//! the guest's intention elsewhere: bit 52 says "kernel" in an L1 entry, and user pages are made GLOBAL, because they stay
//! valid while a vCPU toggles between its kernel and user tables, which share the user part. Guests see these bits when
//! they read their tables back (arch-x86/xen.h does not say so, but every PV guest copes).

use crate::ids::Mfn;
use crate::platform::FrameWords;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

/// Present.
pub const PRESENT: u64 = 1 << 0;
/// Writable.
pub const RW: u64 = 1 << 1;
/// Accessible in ring 3.
pub const USER: u64 = 1 << 2;
/// Write-through.
pub const PWT: u64 = 1 << 3;
/// Cache disable.
pub const PCD: u64 = 1 << 4;
/// Accessed.
pub const ACCESSED: u64 = 1 << 5;
/// Dirty.
pub const DIRTY: u64 = 1 << 6;
/// Page attribute table, in L1 entries.
pub const PAT: u64 = 1 << 7;
/// Superpage, in L2 and L3 entries.
pub const PSE: u64 = 1 << 7;
/// Survives address-space switches.
pub const GLOBAL: u64 = 1 << 8;
/// Free for software.
pub const AVAIL: u64 = 7 << 9;
/// The guest meant this page for its kernel only.
pub const GUEST_KERNEL: u64 = 1 << 52;
/// Free for software, high part: bits 62..52.
pub const AVAIL_HIGH: u64 = 0x7ff << 52;
/// No execution.
pub const NX: u64 = 1 << 63;
/// The frame number's place.
pub const FRAME_MASK: u64 = 0x000f_ffff_ffff_f000;
/// The bits that choose a memory type in an L1 entry.
pub const CACHE_BITS: u64 = PWT | PCD | PAT;

/// What an entry of level 2..=4 must not have: superpages, memory types. In an L1 entry every bit means something to the
/// guest; only [`CACHE_BITS`] are not for every domain.
pub(crate) const UPPER_DISALLOWED: u64 =
    !(PRESENT | RW | USER | ACCESSED | DIRTY | AVAIL | AVAIL_HIGH | NX | FRAME_MASK);
/// What may change in a present entry without any reference changing.
pub(crate) const HARMLESS: u64 = NX | AVAIL_HIGH | AVAIL | GLOBAL | DIRTY | ACCESSED | USER;

/// Entries per table.
pub const ENTRIES: usize = 512;
/// The hypervisor's own entries of an L4 table.
pub const HYPERVISOR_SLOTS: core::ops::RangeInclusive<usize> = 256..=271;
/// The one of them through which guest kernels read the machine-to-physical table.
pub const M2P_SLOT: usize = 256;

/// Whether entry `index` of a table of `level` is the hypervisor's own.
#[inline]
pub const fn is_hypervisor_slot(level: u8, index: usize) -> bool {
    level == 4 && index >= *HYPERVISOR_SLOTS.start() && index <= *HYPERVISOR_SLOTS.end()
}

/// The frame that an entry names.
#[inline]
pub const fn frame_of(entry: u64) -> Mfn {
    Mfn((entry & FRAME_MASK) >> 12)
}

/// Index into the table of `level` (1..=4) for a virtual address.
#[inline]
pub const fn index(va: u64, level: u8) -> usize {
    (va >> (12 + 9 * (level as u32 - 1)) & 511) as usize
}

/// Calls `visit` with index, word and value for each word of a table that holds a present entry, in order, until it fails. Most tables
/// are nearly empty, so empty groups of eight are passed over at once.
#[inline(always)]
pub(crate) fn for_present<E>(
    words: &FrameWords,
    mut visit: impl FnMut(usize, &AtomicU64, u64) -> Result<(), E>,
) -> Result<(), E> {
    for (n, group) in words.as_chunks::<8>().0.iter().enumerate() {
        if is_empty(group) {
            continue;
        }
        for (i, word) in group.iter().enumerate() {
            let entry = word.load(Relaxed);
            if entry & PRESENT != 0 {
                visit(n * 8 + i, word, entry)?;
            }
        }
    }
    Ok(())
}

/// Whether none of the eight entries of a group is present.
#[inline(always)]
pub(crate) fn is_empty(group: &[AtomicU64; 8]) -> bool {
    group.iter().fold(0, |any, word| any | word.load(Relaxed)) & PRESENT == 0
}

/// Whether none of the eight entries of a group is present.
pub(crate) fn is_empty_group(words: &FrameWords, group: usize) -> bool {
    words.as_chunks::<8>().0.get(group).is_none_or(is_empty)
}

/// A present L1 entry as it is stored.
#[inline]
pub(crate) const fn adjust_l1(entry: u64) -> u64 {
    if entry & USER == 0 {
        entry | GUEST_KERNEL | USER
    } else if entry & GUEST_KERNEL == 0 {
        entry | GLOBAL
    } else {
        entry
    }
}

/// A present entry of `level` (2..=4) as it is stored. L4 entries are made ACCESSED at once, as Xen does.
#[inline]
pub(crate) const fn adjust_upper(entry: u64, level: u8) -> u64 {
    if level == 4 { entry | USER | ACCESSED } else { entry | USER }
}

/// The entry of a page that is not RAM, made uncached where its memory type could be cached. The PAT of every CPU is
/// Xen's (xen.h, `XEN_MSR_PAT`): WB, WT, UC-, UC, WC, WP, UC, UC.
pub(crate) const fn uncached(entry: u64) -> u64 {
    let index = (entry >> 7 & 1) << 2 | (entry >> 3 & 3);
    match index {
        0 | 1 | 5 => entry & !CACHE_BITS | PCD | PWT,
        _ => entry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_intention_is_kept() {
        assert_eq!(adjust_l1(PRESENT), PRESENT | USER | GUEST_KERNEL);
        assert_eq!(adjust_l1(PRESENT | USER), PRESENT | USER | GLOBAL);
        assert_eq!(
            adjust_l1(adjust_l1(PRESENT)),
            adjust_l1(PRESENT),
            "reading back and writing again changes nothing"
        );
        assert_eq!(adjust_upper(PRESENT, 3), PRESENT | USER);
        assert_eq!(adjust_upper(PRESENT, 4), PRESENT | USER | ACCESSED);
    }

    #[test]
    fn device_memory_is_never_cached() {
        assert_eq!(uncached(PRESENT), PRESENT | PCD | PWT);
        assert_eq!(uncached(PRESENT | PWT), PRESENT | PCD | PWT);
        assert_eq!(uncached(PRESENT | PCD), PRESENT | PCD, "UC-");
        assert_eq!(uncached(PRESENT | PAT), PRESENT | PAT, "WC");
        assert_eq!(uncached(PRESENT | PAT | PWT), PRESENT | PCD | PWT, "WP becomes UC");
    }
}
