//! What a kernel links in place of privileged instructions, so that it runs as a paravirtual (PV) guest on Xen or on
//! Paravane.
//!
//! A PV kernel runs in ring 3. It asks the hypervisor for what the processor would do for an ordinary kernel
//! ([`hypercall`]), finds its circumstances in a page that both share ([`shared`]), gets events in place of
//! interrupts ([`events`]) and exceptions by a table of entry points ([`traps`]), and puts machine frames into page
//! tables that it may not write ([`mmu`]).
//!
//! # A kernel
//!
//! ```no_run
//! # #![cfg_attr(target_os = "none", no_std, no_main)]
//! use guest_pv_lib::{BootContext, println, sched};
//!
//! guest_pv_lib::entry!(kernel);
//!
//! fn kernel(boot: BootContext) -> ! {
//!     println!("{} pages of memory", boot.pages());
//!     sched::shutdown(sched::Shutdown::PowerOff)
//! }
//! ```
//!
//! Build it for `x86_64-unknown-none` with `#![no_std]` and `#![no_main]`, and link it with the script that this
//! crate puts on the linker's search path, by a `build.rs` of two lines:
//!
//! ```
//! println!("cargo::rustc-link-arg-bins=-Tguest-pv.ld");
//! println!("cargo::rustc-link-arg-bins=--no-pie");
//! ```
//!
//! The feature `panic-handler` supplies a `#[panic_handler]` that reports on the console and ends the domain.
//!
//! # Where things are
//!
//! [`mod@entry`] has the ELF notes and the first instructions, [`boot`] what the domain was started with. [`console`],
//! [`time`], [`sched`], [`memory`], [`cpu`], [`user`] and [`version`] are what their names say. [`smp`] brings up further
//! CPUs, [`sync`] has a lock for them, and [`apic`] looks like what a kernel had in place of [`events`]. Xen's C names are
//! search aliases of the items that stand for them.
//!
//! With the feature `native` the same image also starts as a PVH guest and on a bare PC; [`platform`] says how that works.
//!
//! Unsafe code is at the edge: the hypercall instruction, the entry stubs, and the places where an address that the
//! hypervisor gave becomes a reference. Memory that others write is only reached through atomics.
//!
//! A domain can be saved and go on elsewhere (`suspend`, with the feature `alloc`).
//!
//! With other domains a kernel shares pages ([`grant`]), finds their devices ([`xenstore`]), and moves bytes in and out of
//! memory that they write ([`words`], [`byte_ring`]).
//!
//! The base needs no allocator. The feature `alloc` maps the domain's [`memory`] before `main` and enables what needs the
//! crate `alloc`; `heap` is the global allocator for it.
#![no_std]
#![warn(missing_docs)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(not(target_os = "none"))]
extern crate std;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod apic;
pub mod boot;
pub mod byte_ring;
pub mod console;
pub mod cpu;
pub mod entry;
pub mod events;
pub mod grant;
pub mod hypercall;
pub mod memory;
pub mod mmu;
#[cfg(all(feature = "panic-handler", target_os = "none"))]
mod panic;
pub mod platform;
pub mod sched;
pub mod shared;
pub mod smp;
#[cfg(feature = "alloc")]
pub mod suspend;
pub mod sync;
pub mod time;
pub mod traps;
pub mod user;
pub mod version;
#[cfg(feature = "virtio")]
pub mod virtio;
pub mod words;
pub mod xenstore;

pub use boot::BootContext;
pub use hypercall::Errno;
