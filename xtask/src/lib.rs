//! The commands behind `cargo xtask`, as a library so that the boot tests drive the same QEMU code.
//!
//! Each module is one thing a developer asks for. Nothing here runs inside a guest, except the small programs that
//! [`initramfs`] and [`probe`] put there.

pub mod accounts;
pub mod bench;
pub mod bochs;
pub mod build;
pub mod conformance;
pub mod coverage;
pub mod cpio;
pub mod debian;
pub mod describe;
pub mod domains;
pub mod elf;
pub mod fuzz;
pub mod image;
pub mod initramfs;
pub mod lint;
pub mod modules;
pub mod new_test;
pub mod other_toolchain;
pub mod probe;
pub mod process;
pub mod progress;
pub mod project;
pub mod qemu;
pub mod run;
pub mod session;
pub mod setup;
pub mod test;
pub mod toolchain;
pub mod toolstack;
