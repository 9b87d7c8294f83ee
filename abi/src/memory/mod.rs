//! `memory.h`: the commands of `memory_op(cmd, arg)`.
//!
//! | file | subject |
//! |---|---|
//! | `reservation.rs` | how much memory a domain has: increase, decrease, populate, exchange, claim |
//! | `maps.rs` | what is where: machine-to-physical table, memory maps, physmap changes, NUMA |
//! | `tools.rs` | toolstack and monitor commands: resources, paging, access, sharing, reserved memory |
//!
//! A long command is preemptible: `cmd` then carries the number of extents that are done above
//! [`MEMOP_EXTENT_SHIFT`], which no caller sets itself.

mod maps;
mod reservation;
mod tools;

pub use maps::*;
pub use reservation::*;
pub use tools::*;

/// Bits of `cmd` that hold the command; the bits above hold a continuation's progress.
pub const MEMOP_EXTENT_SHIFT: u32 = 6;
/// Mask of the command in `cmd`.
pub const MEMOP_CMD_MASK: u64 = (1 << MEMOP_EXTENT_SHIFT) - 1;

abi_module! { children: maps, reservation, tools }
