//! `sysctl.h`: what a toolstack asks of the hypervisor about the machine (`__HYPERVISOR_sysctl(op)`).
//!
//! The argument is an [`XenSysctl`]: a command, the interface version and a union of 128 bytes. The payload of each
//! command is a structure below; read it with `FromBytes::read_from_prefix` and write it back to the first bytes of
//! `u`. The interface version must match exactly, and only privileged domains may call.
//!
//! | file | subject |
//! |---|---|
//! | `command.rs` | interface version, commands, the outer structure |
//! | `machine.rs` | memory, CPUs, topology, CPUID policies, lists of domains |
//! | `debug.rs` | log, trace, counters, profiles, coverage, pages out of use |
//! | `power.rs` | frequencies and idle states |
//! | `sched.rs` | CPU pools, schedulers, cache allocation |
//! | `livepatch.rs` | live patches |
//!
//! Everything is re-exported here.

mod command;
mod debug;
mod livepatch;
mod machine;
mod power;
mod sched;

pub use command::*;
pub use debug::*;
pub use livepatch::*;
pub use machine::*;
pub use power::*;
pub use sched::*;

abi_module! { children: command, debug, livepatch, machine, power, sched }
