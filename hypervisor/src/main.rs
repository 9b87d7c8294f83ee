//! Paravane's hypervisor: the arch side.
//!
//! [`boot`] takes the machine over from the boot loader and makes the one [`machine::Hv`]; from then on each CPU runs guests, and
//! [`trap`] and [`pv`] bring what they ask for to `hypervisor-core`, which decides. All unsafe code of the
//! hypervisor is in this crate, each block with the argument why it is sound.
#![no_std]
#![no_main]

extern crate alloc;

mod boot;
mod cpu;
mod dev;
mod machine;
mod mm;
mod panic;
mod pv;
mod trap;
