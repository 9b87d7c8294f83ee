//! The domain's virtual CPUs.
//!
//! Each CPU has an area, a [`Cpu`], that it finds without asking the hypervisor. It holds the CPU's number and what
//! the library keeps for each CPU: which events it has seen, what it waits for. The area is written by its CPU alone
//! except where a field says otherwise; all fields are atomics, because upcalls change them in between.

mod cpu;

pub use cpu::{Cpu, this_cpu};
