//! `arch-x86/xen.h` and `arch-x86/xen-x86_64.h`: registers, segments, traps and vCPU contexts.
//!
//! | file | subject |
//! |---|---|
//! | `layout.rs` | selectors, address ranges, segment bases: constants of the 64-bit PV machine |
//! | `context.rs` | registers, trap table, `vcpu_guest_context`, `iret` frame, the shared page's x86 part |
//!
//! ## The hypercall ABI of a 64-bit guest
//! Number in RAX, arguments 1 to 5 in RDI, RSI, RDX, R10, R8, result in RAX, by `call hypercall_page + nr * 32` or
//! by `syscall` from a PV kernel (which clobbers RCX and R11). The argument registers that a call uses
//! are clobbered.

mod context;
mod layout;

pub use context::*;
pub use layout::*;

abi_module! { children: context, layout }
