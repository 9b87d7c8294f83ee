//! The domain's virtual CPUs.
//!
//! Each CPU has an area, a [`Cpu`], that it finds without asking the hypervisor. It holds the CPU's number, its part of
//! what is shared with the hypervisor, and what the library keeps for each CPU: which events it has seen, what it waits
//! for. All fields are atomics, because upcalls change them in between and other CPUs look.
//!
//! A kernel on one CPU needs nothing of this. `start` brings up another one. With the first, the library takes the
//! kernel's GS base: from then on it points to the CPU's area, and a kernel with per-CPU data of its own hangs them
//! there ([`Cpu::set_local`]).
//!
//! CPUs interrupt each other by [`events::Channel::bind_ipi`](crate::events::Channel::bind_ipi), run code on one another
//! by [`run_on`], and throw away translations by [`tlb`].

mod call;
mod cpu;
mod set;
mod start;
pub mod tlb;

pub use call::{run_on, wake};
pub(crate) use cpu::is_live;
pub use cpu::{Cpu, MAX_CPUS, State, cpu, online, this_cpu};
pub use set::CpuSet;
#[cfg(all(target_os = "none", feature = "alloc"))]
pub(crate) use start::rejoin;
pub use start::{Storage, is_up};
#[cfg(target_os = "none")]
pub use start::{start, stop};
