//! The first instructions, and what must be there before `main`.
//!
//! Xen enters a PV kernel in ring 3, long mode, on a small stack of its own choosing, with event delivery masked,
//! `rsi` the address of `start_info`, and everything of the image, the modules, the p2m list, `start_info` and the
//! page tables mapped (the tables read-only) at `VIRT_BASE` + pseudo-physical address. The stub reads the TSC as its
//! very first instruction (benchmarks want that figure), moves to a stack in the image's `.bss` and calls Rust. The page
//! below that stack is unmapped, so that a stack that runs over ends the domain and not somebody's data.

use super::note::Note;

/// Size of the stack that the entry stub moves to, in bytes.
pub const BOOT_STACK: usize = 64 << 10;

/// Something whose address a note carries.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Address(#[allow(dead_code)] *const u8);

// SAFETY: an address that nobody dereferences; it is read by the domain builder only.
unsafe impl Sync for Address {}

/// The notes that are the same for every kernel of this library.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FixedNotes {
    loader: Note<[u8; 8]>,
    pae_mode: Note<[u8; 4]>,
    features: Note<[u8; super::note::padded(FEATURES)]>,
    entry: Note<Address>,
    virt_base: Note<Address>,
    paddr_offset: Note<u64>,
    hypercall_page: Note<Address>,
    hv_start_low: Note<u64>,
    l1_mfn_valid: Note<[u64; 2]>,
}

/// What the kernel can cope with, in the spelling of `features.h` without the prefix. Nothing is required.
///
/// `dom0` keeps the privileged builder from refusing a kernel that lists its features.
const FEATURES: &str = "mmu_pt_update_preserve_ad|dom0";

#[cfg(target_os = "none")]
mod bare {
    use super::{super::note, *};
    use crate::boot::BootContext;
    use crate::mmu::{Flush, Pte, update_va_mapping};
    use note::{kind, text};

    unsafe extern "C" {
        /// The stub below.
        safe static pv_entry: u8;
        /// The page below the boot stack.
        safe static pv_boot_stack_guard: u8;
        /// Defined by the linker script: its *address* is the offset from pseudo-physical to virtual.
        safe static __pv_virt_base: u8;
    }

    unsafe extern "Rust" {
        /// Emitted by [`entry!`](crate::entry!).
        safe fn __guest_pv_main(boot: BootContext) -> !;
    }

    /// See [`FixedNotes`].
    pub const FIXED_NOTES: FixedNotes = FixedNotes {
        loader: text(kind::LOADER, "generic"),
        pae_mode: text(kind::PAE_MODE, "yes"),
        features: text(kind::FEATURES, FEATURES),
        entry: Note::number(kind::ENTRY, Address(&raw const pv_entry)),
        virt_base: Note::number(kind::VIRT_BASE, Address(&raw const __pv_virt_base)),
        // The script's load addresses are pseudo-physical ones already.
        paddr_offset: Note::number(kind::PADDR_OFFSET, 0),
        hypercall_page: Note::number(
            kind::HYPERCALL_PAGE,
            Address(&raw const crate::hypercall::page::pv_hypercall_page),
        ),
        hv_start_low: Note::number(kind::HV_START_LOW, xen_abi::arch_x86::HYPERVISOR_VIRT_START),
        // An L1 entry carries a frame number where its present bit is set.
        l1_mfn_valid: Note::number(kind::L1_MFN_VALID, [1, 1]),
    };

    core::arch::global_asm!(
        ".pushsection .bss.pv_boot_stack, \"aw\", @nobits",
        ".balign 4096",
        ".global pv_boot_stack_guard",
        "pv_boot_stack_guard:",
        ".skip 4096 + {stack}",
        ".global pv_boot_stack_top",
        "pv_boot_stack_top:",
        ".popsection",
        ".pushsection .text.pv_entry, \"ax\", @progbits",
        ".global pv_entry",
        ".type pv_entry, @function",
        "pv_entry:",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "cld",
        "lea rsp, [rip + pv_boot_stack_top]",
        "xor ebp, ebp",
        "mov rdi, rsi",
        "mov rsi, rax",
        "call {start}",
        "ud2",
        ".size pv_entry, . - pv_entry",
        ".popsection",
        stack = const BOOT_STACK,
        start = sym main,
    );

    /// Called once by the stub, or natively by [`platform`](crate::platform), with the address of `start_info` and the TSC
    /// of the first instruction.
    pub extern "C" fn main(start_info: u64, entry_tsc: u64) -> ! {
        // SAFETY: the stub passes on what Xen put into `rsi` (natively the builder's), and this runs once, before
        // anything else.
        let boot = unsafe { BootContext::new(start_info, &raw const __pv_virt_base as u64, entry_tsc) };
        // SAFETY: as above: first, and once.
        let mapped = unsafe { crate::shared::map(boot.start_info().shared_info) };
        crate::console::init(&boot);
        if let Err(error) = mapped {
            panic!("mapping shared_info: {error:?}");
        }
        crate::traps::init();
        crate::events::init();
        // SAFETY: nobody has a reference to the page below the stack.
        let guarded =
            unsafe { update_va_mapping(&raw const pv_boot_stack_guard as u64, Pte::EMPTY, Flush::Local) };
        if let Err(error) = guarded {
            panic!("unmapping the page below the boot stack: {error:?}");
        }
        #[cfg(feature = "alloc")]
        crate::memory::init(&boot);
        __guest_pv_main(boot)
    }
}

#[cfg(target_os = "none")]
pub use bare::FIXED_NOTES;
#[cfg(all(feature = "native", target_os = "none"))]
pub(crate) use bare::main;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::note::padded;

    #[test]
    fn fixed_notes_lie_one_behind_the_other() {
        assert_eq!(align_of::<FixedNotes>(), 4);
        let contents = 8 + 4 + padded(FEATURES) + 8 * 3 + 8 * 2 + 16;
        assert_eq!(size_of::<FixedNotes>(), 9 * 16 + contents);
    }
}
