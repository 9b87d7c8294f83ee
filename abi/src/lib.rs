//! The x86-64 wire types and constants of Xen's public interface, version 4.17.
#![no_std]
#![forbid(unsafe_code)]

#[macro_use]
mod macros;

pub mod arch_x86;
pub mod callback;
pub mod elfnote;
pub mod errno;
pub mod event_channel;
pub mod features;
pub mod hypercall;
pub mod io;
pub mod memory;
pub mod physdev;
pub mod registry;
pub mod sched;
pub mod vcpu;
pub mod version;
pub mod xen;

mod handle;

pub use handle::GuestHandle;

abi_module! { children: arch_x86, callback, elfnote, errno, event_channel, features, hypercall, io, memory, physdev, sched, vcpu, version, xen }
