//! `platform.h`: `platform_op(op)`, by which dom0 controls the machine.
//!
//! | file | subject |
//! |---|---|
//! | `op.rs` | the frame, clock, memory types, microcode, MSRs, symbols |
//! | `cpu.rs` | CPUs: idle time, on-line and off-line, hot-add, parking |
//! | `firmware.rs` | what BIOS and EFI say, EFI calls |
//! | `power.rs` | sleep states, C and P states |

mod cpu;
mod firmware;
mod op;
mod power;

pub use cpu::*;
pub use firmware::*;
pub use op::*;
pub use power::*;

abi_module! { children: cpu, firmware, op, power }
