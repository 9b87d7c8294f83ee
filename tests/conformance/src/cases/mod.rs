//! The cases, by the part of the ABI that they check.

mod abi;
mod console;
mod descriptors;
mod domctl;
mod event;
mod event_bind;
mod event_fifo;
mod grant;
mod memory;
mod mmu_update;
mod mmuext;
mod multicall;
mod peer;
mod peer_event;
mod peer_grant;
mod peer_rights;
mod pin;
mod privileged;
mod sched;
mod traps;
mod upcall;
mod user_mode;
mod va_mapping;
mod vcpu;
mod version;
mod writable_tables;
