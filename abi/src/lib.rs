//! The x86-64 wire types and constants of Xen's public interface, version 4.17.
#![no_std]
#![forbid(unsafe_code)]

#[macro_use]
mod macros;

pub mod arch_x86;
pub mod argo;
pub mod callback;
pub mod cpuid;
pub mod domctl;
pub mod elfnote;
pub mod errno;
pub mod event_channel;
pub mod features;
pub mod grant_table;
pub mod hvm;
pub mod hvm_start_info;
pub mod hypercall;
pub mod io;
pub mod mca;
pub mod memory;
pub mod nmi;
pub mod physdev;
pub mod platform;
pub mod pmu;
pub mod registry;
pub mod sched;
pub mod sysctl;
pub mod vcpu;
pub mod version;
pub mod xen;

mod handle;

pub use handle::GuestHandle;

abi_module! { children: arch_x86, argo, callback, cpuid, domctl, elfnote, errno, event_channel, features, grant_table, hvm, hvm_start_info, hypercall, io, mca, memory, nmi, physdev, platform, pmu, sched, sysctl, vcpu, version, xen }
