//! What a PV guest sees of the processor: CPUID, control registers and model-specific registers.
//!
//! Everything here is a function of what the hardware says and of who asks, so the policy can be tested without a machine. The
//! platform executes the instructions and keeps the few words of state ([`MsrState`]).

pub mod cpuid;
pub mod msr;
pub mod side_channels;
#[cfg(test)]
mod tests;

pub use msr::{MsrGuest, MsrState};

/// CR4.TSD: `rdtsc` faults in user mode.
pub const CR4_TSD: u64 = 1 << 2;
/// CR4.DE: breakpoints on I/O; debug registers 4 and 5 are no aliases.
pub const CR4_DE: u64 = 1 << 3;
/// CR4.FSGSBASE: instructions that read and write FS and GS base.
pub const CR4_FSGSBASE: u64 = 1 << 16;
/// CR4.OSXSAVE: XSAVE and its like.
pub const CR4_OSXSAVE: u64 = 1 << 18;
/// What a guest sees of the hardware's CR4, whatever it wrote: PAE, MCE, OSFXSR, OSXMMEXCPT.
pub const CR4_VISIBLE: u64 = 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10;

/// Who made the processor, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// `GenuineIntel`.
    Intel,
    /// `AuthenticAMD` or `HygonGenuine`.
    Amd,
    /// Anyone else.
    Other,
}

impl Vendor {
    /// From leaf 0 of CPUID.
    pub fn of(leaf0: [u32; 4]) -> Self {
        let [_, ebx, ecx, edx] = leaf0;
        const INTEL: [u32; 3] = words(b"GenuineIntel");
        const AMD: [u32; 3] = words(b"AuthenticAMD");
        const HYGON: [u32; 3] = words(b"HygonGenuine");
        match [ebx, edx, ecx] {
            INTEL => Self::Intel,
            AMD | HYGON => Self::Amd,
            _ => Self::Other,
        }
    }
}

/// A vendor's name as the words that CPUID gives.
const fn words(name: &[u8; 12]) -> [u32; 3] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *name;
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]), u32::from_le_bytes([i, j, k, l])]
}

/// The value of a guest's CR4 after it wrote `wanted`: its own choice of the bits that it may choose, as far as the processor has
/// them, and [`CR4_VISIBLE`]. Nothing else is refused or kept.
pub fn guest_cr4(wanted: u64, has_fsgsbase: bool, has_xsave: bool) -> u64 {
    let mut own = CR4_TSD | CR4_DE;
    if has_fsgsbase {
        own |= CR4_FSGSBASE;
    }
    if has_xsave {
        own |= CR4_OSXSAVE;
    }
    wanted & own | CR4_VISIBLE
}

/// The hardware's CR4 while a guest with this CR4 runs, of what it is with all features in use.
pub fn hardware_cr4(base: u64, guest: u64) -> u64 {
    base & !(CR4_TSD | CR4_FSGSBASE) | guest & (CR4_TSD | base & CR4_FSGSBASE)
}

/// Whether XCR0 may be `value`, of what the processor and the policy `supported`: x87 on; AVX needs SSE; the three parts
/// of AVX-512 come together and need AVX (SDM vol. 1, 13.3).
pub fn valid_xcr0(value: u64, supported: u64) -> bool {
    const AVX512: u64 = 7 << 5;
    value & 1 != 0
        && value & !supported == 0
        && (value & 4 == 0 || value & 2 != 0)
        && (value & AVX512 == 0 || (value & AVX512 == AVX512 && value & 4 != 0))
}
