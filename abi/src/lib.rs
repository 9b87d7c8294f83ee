//! The x86-64 wire types and constants of Xen's public interface, version 4.17.
#![no_std]
#![forbid(unsafe_code)]

#[macro_use]
mod macros;

pub mod handle;
pub mod registry;
pub mod sched;

pub use handle::GuestHandle;

abi_module! { children: sched }
