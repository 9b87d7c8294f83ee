//! Newtypes for every number that names something. A bare `u64` is never a frame.
//!
//! Names follow Xen's glossary: an *mfn* is a frame of the machine, a *pfn* a frame in a PV guest's own
//! pseudo-physical numbering, a *gfn* what the guest's interface calls a frame (for PV the same as the mfn).

use core::fmt;

/// Bytes in a page, and log2 of it.
pub const PAGE_SIZE: usize = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty), $fmt:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub $int);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $fmt, self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $fmt, self.0)
            }
        }
    };
}

id!(
    /// Machine frame number: machine address divided by 4096.
    Mfn(u64), "{:#x}"
);
id!(
    /// Pseudo-physical frame number of a PV guest: an index into its p2m.
    Pfn(u64), "{:#x}"
);
id!(
    /// Byte address in the machine's memory.
    MachineAddr(u64), "{:#x}"
);
id!(
    /// Virtual address that a guest named: an allegation until a copy through it succeeded.
    GuestVirt(u64), "{:#x}"
);
id!(
    /// Domain identifier; values from `DOMID_FIRST_RESERVED` on are special (xen.h).
    DomId(u16), "d{}"
);
id!(
    /// Virtual CPU number within its domain.
    VcpuId(u32), "v{}"
);
id!(
    /// Physical CPU number, dense from 0 (the boot CPU).
    CpuId(u32), "cpu{}"
);
id!(
    /// Event channel port of one domain; port 0 is never valid.
    Port(u32), "port {}"
);
id!(
    /// Grant reference: an index into the granting domain's table.
    GrantRef(u32), "gref {}"
);
id!(
    /// A physical interrupt as dom0 numbers it: an IOAPIC GSI, or a number above them for an MSI.
    Pirq(u32), "pirq {}"
);
id!(
    /// System time: nanoseconds since the hypervisor booted.
    Nanos(u64), "{}ns"
);

impl Mfn {
    /// No frame: all ones, as the ABI spells it.
    pub const INVALID: Mfn = Mfn(u64::MAX);

    /// Address of the frame's first byte.
    pub const fn addr(self) -> MachineAddr {
        MachineAddr(self.0 << PAGE_SHIFT)
    }

    /// The frame `n` further.
    pub const fn add(self, n: u64) -> Mfn {
        Mfn(self.0.wrapping_add(n))
    }
}

impl MachineAddr {
    /// The frame that holds this byte.
    pub const fn mfn(self) -> Mfn {
        Mfn(self.0 >> PAGE_SHIFT)
    }

    /// Offset of this byte within its frame.
    pub const fn page_offset(self) -> usize {
        (self.0 & 0xfff) as usize
    }
}

impl GuestVirt {
    /// The address `n` bytes further, wrapping: the copy routines refuse what wraps.
    pub const fn add(self, n: u64) -> GuestVirt {
        GuestVirt(self.0.wrapping_add(n))
    }

    /// Whether bits 63..47 are all equal, as the hardware demands (SDM Vol. 1, 3.3.7.1).
    pub const fn is_canonical(self) -> bool {
        self.0.wrapping_add(1 << 47) >> 48 == 0
    }
}
