//! The map from machine frames to pseudo-physical ones, which the hypervisor keeps for all domains.
//!
//! It has holes where the machine has no memory, and what a page table or a peer names may lie there (the registers of a
//! device, for one). So an entry is read by one instruction of its own: where that faults, [`traps`](crate::traps) resumes
//! behind it, with the answer that there is none.

use super::{Mfn, Pfn};

#[cfg(target_os = "none")]
mod bare {
    use core::arch::global_asm;

    use xen_abi::arch_x86::{MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START};

    global_asm!(
        ".pushsection .text.pv_m2p, \"ax\", @progbits",
        ".global pv_m2p_read",
        ".type pv_m2p_read, @function",
        "pv_m2p_read:",
        "mov edx, 1",
        ".global pv_m2p_access",
        "pv_m2p_access:",
        "mov rax, [rdi]",
        "ret",
        ".global pv_m2p_hole",
        "pv_m2p_hole:",
        "xor edx, edx",
        "ret",
        ".size pv_m2p_read, . - pv_m2p_read",
        ".popsection",
    );

    /// What the reader leaves in `rax` and `rdx`.
    #[repr(C)]
    struct Entry {
        value: u64,
        there: u64,
    }

    unsafe extern "C" {
        fn pv_m2p_read(at: u64) -> Entry;
        safe static pv_m2p_access: u8;
        safe static pv_m2p_hole: u8;
    }

    /// The entry of machine frame `frame`.
    pub fn entry(frame: u64) -> Option<u64> {
        if frame >= (MACH2PHYS_VIRT_END - MACH2PHYS_VIRT_START) / 8 {
            return None;
        }
        // SAFETY: the address lies inside the map, which the hypervisor shows every kernel and changes by whole words. Where
        // it shows nothing, the fault ends at `pv_m2p_hole`.
        let entry = unsafe { pv_m2p_read(MACH2PHYS_VIRT_START + frame * 8) };
        (entry.there != 0).then_some(entry.value)
    }

    /// Where to go on after a page fault at `rip`, if that is the reader's.
    pub fn resume(rip: u64) -> Option<u64> {
        (rip == &raw const pv_m2p_access as u64).then_some(&raw const pv_m2p_hole as u64)
    }
}

#[cfg(target_os = "none")]
pub(crate) use bare::resume;

/// The pseudo-physical frame of a machine frame of this domain, from the map that the hypervisor keeps.
///
/// What comes back for a frame of somebody else is whatever its owner said: check it with [`P2m::mfn`](super::P2m::mfn).
/// None where the map has no entry, because the machine has no memory there. Exceptions must be the library's to handle, as
/// they are from the start.
#[doc(alias = "machine_to_phys_mapping")]
#[must_use]
pub fn m2p(frame: Mfn) -> Option<Pfn> {
    #[cfg(target_os = "none")]
    return bare::entry(frame.0).map(Pfn);
    #[cfg(not(target_os = "none"))]
    return crate::memory::host_pfn(frame);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Pages;

    #[test]
    fn frames_of_the_domain_are_found_and_others_are_not() {
        let page = Pages::new(1).unwrap();
        assert_eq!(m2p(page.mfn(0)), Some(page.pfn(0)));
        assert_eq!(m2p(Mfn(3)), None);
    }
}
