//! Direct paging: the kernel sees machine frames and writes its page tables with the hypervisor's consent.
//!
//! - [`Pfn`] counts the domain's own memory from zero; [`Mfn`] is a frame of the machine. A page table holds `Mfn`s.
//!   [`P2m`] translates one way, [`m2p`] the other.
//! - A page that is (part of) a page table may only be mapped read-only; the hypervisor refuses anything else.
//!   Changes go through [`update_va_mapping`], [`mmu_update`] and [`mmuext_op`].
//!
//! Changing a mapping can pull memory from under a reference, so these functions are unsafe; reading is safe.

mod addr;
mod update;
mod walk;

pub use addr::{Mfn, P2m, Pfn, Pte, m2p};
pub use update::{Flush, mmu_update, mmuext_op, update_va_mapping};
pub use walk::{Level, entry_address, index};

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;
