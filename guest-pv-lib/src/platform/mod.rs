//! Where the kernel runs, and the seam at which that makes a difference.
//!
//! One image starts three ways, and the library finds out which at its first instruction:
//!
//! | [`Kind`] | started by | privileged operations | events, clock, console |
//! |---|---|---|---|
//! | [`Pv`](Kind::Pv) | a PV domain builder, at the PV entry, in ring 3 | hypercalls | hypercalls |
//! | [`Pvh`](Kind::Pvh) | a PVH domain builder, at the 32-bit entry, in ring 0 | instructions | hypercalls |
//! | [`Native`](Kind::Native) | GRUB, QEMU `-kernel` (multiboot or PVH), at the 32-bit entry, in ring 0 | instructions | the PC's devices |
//!
//! **The seam is the hypercall.** Everything in this library that asks for something privileged does so by
//! [`hypercall::raw`](crate::hypercall::raw). In a PV domain that is one `syscall` instruction. With the feature `native`
//! it first looks at the kind (one load and one branch that is always taken the same way), and under PVH or natively
//! continues in `native`: a hypervisor for one domain, inside that domain, which carries out what is an instruction in
//! ring 0, answers from the PC's devices what a hypervisor would have emulated, and passes on to a hypervisor below what
//! is left. It builds the same initial address space as a PV domain builder, keeps the same shared page, and delivers
//! the same upcalls. So code above the seam, the kernel's own included, is the same three times, and what is measured is
//! the difference below.
//!
//! What natively stays away answers `ENOSYS`: grants, other domains, further CPUs, memory beyond the range that the kernel
//! was loaded into.

#[cfg(any(test, all(feature = "native", target_os = "none")))]
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
mod acpi;
#[cfg(any(test, all(feature = "native", target_os = "none")))]
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
mod loader;
#[cfg(all(feature = "native", target_os = "none"))]
pub(crate) mod native;

/// What the kernel was started as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A paravirtual domain: everything privileged is a hypercall.
    Pv = 0,
    /// A domain in a hardware-virtualized container: the processor is its own, the rest is hypercalls.
    #[doc(alias = "hvm")]
    Pvh = 1,
    /// A PC, with nothing below.
    Native = 2,
}

impl Kind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pv => "PV",
            Self::Pvh => "PVH",
            Self::Native => "native",
        }
    }
}

#[cfg(all(feature = "native", target_os = "none"))]
mod seam {
    use core::sync::atomic::AtomicU8;
    use core::sync::atomic::Ordering::Relaxed;

    use super::{Kind, native};

    /// Written once, by the 32-bit entry.
    static KIND: AtomicU8 = AtomicU8::new(Kind::Pv as u8);

    pub(super) fn set(kind: Kind) {
        KIND.store(kind as u8, Relaxed);
    }

    /// What the kernel was started as.
    #[inline]
    #[must_use]
    pub fn kind() -> Kind {
        match KIND.load(Relaxed) {
            0 => Kind::Pv,
            1 => Kind::Pvh,
            _ => Kind::Native,
        }
    }

    /// Whether `syscall` reaches a hypervisor.
    #[inline(always)]
    pub(crate) fn is_pv() -> bool {
        KIND.load(Relaxed) == Kind::Pv as u8
    }

    /// NMIs that came natively or under PVH. The library counts them and does nothing else about them, whatever they
    /// interrupt. A PV domain gets none: it asks for none.
    #[must_use]
    pub fn nmis() -> u64 {
        native::nmis()
    }

    /// The selectors of user mode: code and stack.
    pub(crate) fn user_selectors() -> (u16, u16) {
        if is_pv() { super::PV_USER } else { native::USER_SELECTORS }
    }

    /// Address of the code that leaves an exception by the frame at the stack pointer.
    pub(crate) fn trap_return() -> u64 {
        if is_pv() { crate::traps::stubs::return_address() } else { native::return_address() }
    }

    /// Called last before user mode is entered, with upcalls masked. Unmasks them, and says whether an event is
    /// pending that must be handled instead.
    pub(crate) fn before_user() -> bool {
        !is_pv() && native::before_user()
    }

    /// Called first after user mode.
    pub(crate) fn after_user() {
        if !is_pv() {
            native::after_user();
        }
    }

    /// Called when upcalls were unmasked.
    #[inline]
    pub(crate) fn after_unmask() {
        if !is_pv() {
            native::after_unmask();
        }
    }
}

#[cfg(not(all(feature = "native", target_os = "none")))]
mod seam {
    use super::Kind;

    /// What the kernel was started as.
    #[inline]
    #[must_use]
    pub const fn kind() -> Kind {
        Kind::Pv
    }

    /// NMIs that came natively or under PVH: none without the feature `native`.
    #[must_use]
    pub const fn nmis() -> u64 {
        0
    }

    pub(crate) const fn user_selectors() -> (u16, u16) {
        super::PV_USER
    }

    #[cfg(target_os = "none")]
    pub(crate) fn trap_return() -> u64 {
        crate::traps::stubs::return_address()
    }

    pub(crate) const fn before_user() -> bool {
        false
    }

    pub(crate) const fn after_user() {}

    #[inline]
    pub(crate) const fn after_unmask() {}
}

pub(crate) use seam::*;
#[doc(inline)]
pub use seam::{kind, nmis};

/// A PV program's code and stack selectors.
const PV_USER: (u16, u16) = (xen_abi::arch_x86::FLAT_USER_CS, xen_abi::arch_x86::FLAT_USER_SS);
