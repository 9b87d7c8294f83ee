//! The x86-64 wire types and constants of Xen's public interface, version 4.17.
#![no_std]
#![forbid(unsafe_code)]

#[macro_use]
mod macros;

pub mod arch_x86;
pub mod errno;
mod handle;
pub mod registry;
pub mod sched;
pub mod xen;

pub use handle::GuestHandle;

abi_module! { children: arch_x86, errno, sched, xen }
