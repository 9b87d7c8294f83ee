//! Direct paging: the kernel sees machine frames and writes its page tables with the hypervisor's consent.
//!
//! - [`Pfn`] counts the domain's own memory from zero; [`Mfn`] is a frame of the machine. A page table holds `Mfn`s.
//!   [`P2m`] translates one way, [`m2p`] the other.
//! - A page that is (part of) a page table may only be mapped read-only; the hypervisor refuses anything else.
//!   Changes go through [`update_va_mapping`], [`mmu_update`] and [`mmuext_op`].
//!
//! - [`Batch`] collects changes: one hypercall for many.
//! - [`Frame`] is a frame whose type says whether it is memory, a page table or a pinned one: a writable mapping of a
//!   page table does not compile.
//! - [`Space`] is an address space for user mode: safe, with sharing and copy on write.
//!
//! Changing a mapping can pull memory from under a reference, so the functions
//! that change any are unsafe; reading is safe, and so is a `Space`, which changes the user half only.

mod addr;
mod batch;
pub(crate) mod edge;
mod frame;
mod m2p;
#[cfg(feature = "x86_64")]
mod mapper;
mod space;
mod teardown;
mod update;
mod walk;

pub use addr::{Mfn, P2m, Pfn, Pte};
pub use batch::{Batch, Mode};
pub use edge::Forget;
pub use frame::{Entry, Frame, L1, L2, L3, L4, Pinned, Plain, State, Table, TableLevel, Tabular, Upper};
pub use m2p::m2p;
#[cfg(target_os = "none")]
pub(crate) use m2p::resume;
#[cfg(feature = "x86_64")]
pub use mapper::Tables;
pub use space::{Access, MapError, Space, USER_END, leave_space};
pub use update::{Flush, mmu_update, mmuext_op, update_va_mapping};
pub use walk::{Level, entry_address, index};

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;
