//! `xen.h`: what every guest meets: domain ids, virtual interrupts, the MMU hypercalls, the shared pages.
//!
//! | file | subject |
//! |---|---|
//! | `types.rs` | domain ids, virtual interrupts, `console_io`, `vm_assist`, small types |
//! | `mmu.rs` | `mmu_update`, `mmuext_op`, `update_va_mapping`, `multicall` |
//! | `shared.rs` | `shared_info`, `vcpu_info`, the time record |
//! | `start_info.rs` | what a PV domain is started with |
//!
//! Everything is re-exported here. The hypercall numbers are in [`crate::hypercall::nr`].

mod mmu;
mod shared;
mod start_info;
mod types;

pub use mmu::*;
pub use shared::*;
pub use start_info::*;
pub use types::*;

abi_module! { children: mmu, shared, start_info, types }
