//! What a kernel does to its processor: segments and their bases, descriptor tables, control and debug registers, the
//! FPU.
//!
//! On bare metal these are privileged instructions. A PV kernel asks the hypervisor instead, by the hypercalls of
//! this module; natively and under PVH the [platform](crate::platform) executes the instructions. The interrupt flag is
//! in [`events`](crate::events), halting in [`sched`](crate::sched), page-table registers in [`mmu`](crate::mmu), entry
//! points in [`traps`](crate::traps), going to user mode in [`user`](crate::user).
//!
//! State of a processor belongs to whoever runs on it: every function acts on the calling virtual CPU.

pub mod control;
pub mod descriptors;
pub mod fpu;
pub mod segments;
