//! Frame numbers, page-table entries and the two translation tables.

use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

/// A pseudo-physical frame number: the domain's own, dense from zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Pfn(pub u64);

/// A machine frame number.
#[doc(alias = "xen_pfn_t")]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Mfn(pub u64);

impl fmt::Debug for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn {:#x}", self.0)
    }
}

impl fmt::Debug for Mfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mfn {:#x}", self.0)
    }
}

impl Mfn {
    /// The machine address of the frame's first byte.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.0 << 12
    }
}

/// A page-table entry: a machine frame and its flags (Intel SDM vol. 3, 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Pte(pub u64);

impl Pte {
    /// Valid.
    pub const PRESENT: u64 = 1;
    /// Writes are allowed.
    pub const WRITABLE: u64 = 1 << 1;
    /// User mode may access; a PV kernel runs in ring 3 itself, and Xen sets the bit on kernel mappings, too.
    pub const USER: u64 = 1 << 2;
    /// Writes go through caches.
    #[doc(alias = "PWT")]
    pub const WRITE_THROUGH: u64 = 1 << 3;
    /// Nothing is cached: registers of devices.
    #[doc(alias = "PCD")]
    pub const NO_CACHE: u64 = 1 << 4;
    /// Set by the processor when it uses the entry.
    pub const ACCESSED: u64 = 1 << 5;
    /// Set by the processor when it writes through the entry.
    pub const DIRTY: u64 = 1 << 6;
    /// In an entry of level 2 or 3: a large page, which PV guests do not have.
    pub const LARGE: u64 = 1 << 7;
    /// No instruction may be fetched.
    pub const NO_EXECUTE: u64 = 1 << 63;
    const FRAME: u64 = 0x000f_ffff_ffff_f000;

    /// The entry that maps nothing.
    pub const EMPTY: Self = Self(0);

    /// An entry for `frame` with `flags`.
    #[must_use]
    pub const fn new(frame: Mfn, flags: u64) -> Self {
        Self((frame.address() & Self::FRAME) | flags)
    }

    /// Readable and writable data, not executable.
    #[must_use]
    pub const fn data(frame: Mfn) -> Self {
        Self::new(frame, Self::PRESENT | Self::WRITABLE | Self::ACCESSED | Self::DIRTY | Self::NO_EXECUTE)
    }

    /// Readable data, not executable: what a page table must be mapped with.
    #[must_use]
    pub const fn read_only(frame: Mfn) -> Self {
        Self::new(frame, Self::PRESENT | Self::ACCESSED | Self::NO_EXECUTE)
    }

    /// An entry of level 2, 3 or 4 that points to the table `frame`.
    #[must_use]
    pub const fn table(frame: Mfn) -> Self {
        Self::new(frame, Self::PRESENT | Self::WRITABLE | Self::USER | Self::ACCESSED | Self::DIRTY)
    }

    /// The frame, or none where the entry is not present.
    #[must_use]
    pub const fn frame(self) -> Option<Mfn> {
        if self.0 & Self::PRESENT == 0 { None } else { Some(Mfn((self.0 & Self::FRAME) >> 12)) }
    }

    /// Whether it is present and allows writes.
    #[must_use]
    pub const fn is_writable(self) -> bool {
        self.0 & (Self::PRESENT | Self::WRITABLE) == Self::PRESENT | Self::WRITABLE
    }
}

impl fmt::Debug for Pte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

/// The pseudo-physical to machine map.
///
/// It is the kernel's own memory: the hypervisor fills it in once and never looks at it again. Entries are atomics
/// because ballooning changes them while others look.
#[doc(alias("mfn_list", "phys_to_machine_mapping"))]
#[derive(Clone, Copy, Debug)]
pub struct P2m {
    entries: &'static [AtomicU64],
}

impl P2m {
    /// An entry of a frame that the domain does not have now.
    pub const INVALID: u64 = u64::MAX;

    /// The map at virtual address `at` with `len` entries.
    ///
    /// # Safety
    ///
    /// The range is mapped for the rest of the program, aligned, and accessed as atomics only.
    pub(crate) unsafe fn new(at: u64, len: u64) -> Self {
        let first = ptr::with_exposed_provenance::<AtomicU64>(at as usize);
        // SAFETY: the caller's promise; `u64` and `usize` are the same size on the one architecture there is.
        Self { entries: unsafe { core::slice::from_raw_parts(first, len as usize) } }
    }

    /// Number of entries.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The machine frame behind `frame`.
    #[must_use]
    pub fn mfn(&self, frame: Pfn) -> Option<Mfn> {
        let entry = self.entries.get(usize::try_from(frame.0).ok()?)?;
        match entry.load(Ordering::Relaxed) {
            // The top bits mark foreign and identity-mapped frames in some kernels' maps: not the domain's memory.
            entry if entry >> 62 != 0 => None,
            entry => Some(Mfn(entry)),
        }
    }

    /// Notes that `frame` is now backed by `machine`, or by nothing: after memory was given back or taken.
    ///
    /// Says nothing to the hypervisor and changes no mapping.
    ///
    /// # Panics
    ///
    /// Where the map has no entry for `frame`.
    ///
    /// # Safety
    ///
    /// It must be so: what owns `frame` ([`Pages`](crate::memory::Pages) and the like) grants and maps the memory that is
    /// named here.
    ///
    /// ```compile_fail,E0133
    /// # use guest_pv_lib::{BootContext, mmu::{Mfn, Pfn}};
    /// fn lie(boot: &BootContext, mine: Pfn, anything: Mfn) {
    ///     boot.p2m().set(mine, Some(anything));
    /// }
    /// ```
    pub unsafe fn set(&self, frame: Pfn, machine: Option<Mfn>) {
        self.entries[frame.0 as usize]
            .store(machine.map_or(Self::INVALID, |machine| machine.0), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_frame_and_flags_apart() {
        let pte = Pte::data(Mfn(0xf_ffff_ffff));
        assert_eq!(pte.frame(), Some(Mfn(0xf_ffff_ffff)));
        assert!(pte.is_writable() && !Pte::read_only(Mfn(1)).is_writable());
        assert_eq!(Pte::EMPTY.frame(), None);
        assert_eq!(Pte::new(Mfn(5), Pte::WRITABLE).frame(), None);
    }

    #[test]
    fn p2m_refuses_what_it_does_not_have() {
        static MAP: [AtomicU64; 3] =
            [AtomicU64::new(0x100), AtomicU64::new(P2m::INVALID), AtomicU64::new(1 << 62)];
        let map = P2m { entries: &MAP };
        assert_eq!(map.mfn(Pfn(0)), Some(Mfn(0x100)));
        assert_eq!(map.mfn(Pfn(1)), None);
        assert_eq!(map.mfn(Pfn(2)), None);
        assert_eq!(map.mfn(Pfn(3)), None);
        assert_eq!(map.mfn(Pfn(u64::MAX)), None);
    }
}
