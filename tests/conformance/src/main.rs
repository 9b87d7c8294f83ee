//! The conformance kernel: boots as the first domain, runs its cases, and says on the console, in the Test Anything
//! Protocol, how each of them went.
//!
//! A case is a function with a sentence on the clause or the flaw it checks, collected by the linker into one table
//! (see [`harness`]). What a case expects is what Debian's Xen 4.17 does; the same ELF runs there and on Paravane.
//!
//! Words on the kernel's command line: `case=GLOB,...` runs the cases whose name matches (`*` stands for anything; a
//! case that takes a boot of its own only runs where its whole name is given), `after=NAME` those behind it in the
//! alphabet, `list` prints the names and clauses only.
//!
//! Built for the host, the program prints the table: `cargo run -p conformance`.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]
// On a host the cases lie in the table and nothing calls them.
#![cfg_attr(not(target_os = "none"), allow(dead_code))]

#[macro_use]
mod harness;
mod call;
mod cases;
mod memory;
mod peer;
mod smp;

#[cfg(target_os = "none")]
guest_pv_lib::entry!(harness::main, name = "conformance", version = "1");

#[cfg(not(target_os = "none"))]
fn main() {
    harness::list::print();
}
