//! The x86-64 wire types and constants of Xen's public interface, as of Xen 4.17.
//!
//! For hypervisors, guest kernels and tools that speak Xen's ABI: structures as they lie in memory, numbers as they
//! travel in registers, and one table of all hypercalls. `no_std`, no unsafe code, no build script, no bindgen: what
//! you read here is what is compiled, and [checks](#how-it-is-checked) keep it equal to Xen's C headers.
//!
//! # Finding things
//! One module per public header, named after it:
//!
//! | header | module |
//! |---|---|
//! | `xen.h` | [`xen`]: domain ids, MMU hypercalls, `start_info`, `shared_info`, time |
//! | `arch-x86/xen.h`, `arch-x86/xen-x86_64.h` | [`arch_x86`]: registers, traps, contexts, selectors, addresses |
//! | `event_channel.h`, `grant_table.h`, `memory.h`, `sched.h`, `vcpu.h`, `callback.h`, `physdev.h`, `nmi.h`, `pmu.h`, `version.h`, `features.h`, `errno.h`, `elfnote.h`, `platform.h`, `argo.h` | the same name |
//! | `arch-x86/cpuid.h`, `arch-x86/hvm/start_info.h`, `arch-x86/xen-mca.h` | [`cpuid`], [`hvm_start_info`], [`mca`] |
//! | `hvm/*.h` | [`hvm`] |
//! | `domctl.h`, `sysctl.h` | [`domctl`], [`sysctl`], with the interface versions of 4.17 |
//! | `io/*.h` | [`io`], a module each |
//! | the list of hypercalls | [`hypercall`] |
//!
//! `struct mmu_update` is [`xen::MmuUpdate`]; members keep their C names (`type` is `type_`). `EVTCHNOP_send` is
//! [`event_channel::EVTCHNOP_SEND`], `__HYPERVISOR_mmu_update` is [`hypercall::nr::MMU_UPDATE`]. Where the C
//! spelling differs from the Rust one, the documentation of the item shows it.
//!
//! # Conventions
//! - Structures are `repr(C)` with explicit padding and implement `zerocopy`'s `FromBytes`, `IntoBytes`, `KnownLayout`
//!   and `Immutable`: any bytes are a valid value, and no byte of a value is undefined.
//! - Numbers that name a choice (a command, a status, a flag) are plain integers with constants: an unknown value
//!   survives and is the reader's to refuse.
//! - A union is one field with the union's name: an integer where all members have its size, else words or bytes that
//!   hold a payload structure of its own (`zerocopy::transmute!`, or `FromBytes::read_from_prefix`).
//! - A [`GuestHandle`] is an address in the caller's address space, never a pointer.
//! - Structures in memory that two sides write are neither `Copy` nor `Clone`: they document offsets, and access goes
//!   through atomics. Nobody may hold a reference to them while the other side runs.
//! - Where an older interface version had another layout, the structure says so.
//!
//! ```
//! use xen_abi::xen::{MMU_NORMAL_PT_UPDATE, MmuUpdate};
//! use zerocopy::{FromBytes, IntoBytes};
//!
//! let request = MmuUpdate { ptr: 0x1234_5008 | MMU_NORMAL_PT_UPDATE, val: 0x8000_0000_0007_9025 };
//! let copied = MmuUpdate::read_from_bytes(request.as_bytes()).unwrap();
//! assert_eq!(copied.ptr & 3, MMU_NORMAL_PT_UPDATE);
//! ```
//!
//! # How it is checked
//! Items are written with macros that define them, assert their size and every offset at compile time, and register them
//! in [`ABI`] with their C spelling. From there:
//!
//! 1. `tests/c_headers.rs` generates a C program against Debian's `libxen-dev`, which answers for every size, alignment,
//!    offset, member size, signedness and constant. What the headers do not have says why in its documentation.
//! 2. `tests/xen_sys.rs` compares with the crate `xen-sys`, bindgen's view of another version.
//! 3. `tests/mutation.rs` changes each number by one and demands that the comparison notices.
//!
//! The registry is public: a tool can print any structure by field, see [`registry`].
#![no_std]
#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

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
