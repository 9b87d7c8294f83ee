//! The conformance kernel: boots as the first domain, runs its cases, and says on the console, in the Test Anything
//! Protocol, how each of them went.
//!
//! A case is a function with a sentence on the clause or the flaw it checks, collected by the linker into one table
//! (see [`harness`]). What a case expects is what Debian's Xen 4.17 does; the same ELF runs there and on Paravane.
//!
//! Words on the kernel's command line: `case=GLOB` runs the cases whose name matches (`*` stands for anything),
//! `list` prints the names and clauses only.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]
// On a hosted target the table has no linker script behind it, so nothing looks used.
#![cfg_attr(not(target_os = "none"), allow(dead_code))]

#[macro_use]
mod harness;
mod call;
mod cases;

guest_pv_lib::entry!(harness::main, name = "conformance", version = "1");
