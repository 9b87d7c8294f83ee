//! `domctl.h`: what a toolstack asks of the hypervisor about one domain (`__HYPERVISOR_domctl(op)`).
//!
//! The argument is an [`XenDomctl`]: a command, the interface version, the domain and a union of 128 bytes. The
//! payload of each command is a structure below; read it with `FromBytes::read_from_prefix` and write it back to the
//! first bytes of `u`. The interface version must match exactly, and only privileged domains (or those that the
//! security policy names) may call.
//!
//! | file | subject |
//! |---|---|
//! | `command.rs` | interface version, commands, the outer structure |
//! | `domain.rs` | creation, description, limits, scheduling, time, saved state |
//! | `vcpu.rs` | registers, affinity, CPU policy, debugging |
//! | `memory.rs` | page types, dirty logging, sharing, virtual NUMA |
//! | `device.rs` | devices, interrupts, ports, device memory |
//! | `monitor.rs` | VM events, monitoring, trace, cache allocation |
//!
//! Everything is re-exported here.

mod command;
mod device;
mod domain;
mod memory;
mod monitor;
mod vcpu;

pub use command::*;
pub use device::*;
pub use domain::*;
pub use memory::*;
pub use monitor::*;
pub use vcpu::*;

abi_module! { children: command, device, domain, memory, monitor, vcpu }
