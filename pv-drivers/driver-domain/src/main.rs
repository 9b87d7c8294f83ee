//! The driver domain's kernel: the loop of the library around the domain's own memory, ports and devices.
//!
//! It has one CPU and one thread. Each round serves everybody once; when nothing moved it sleeps until an event comes.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod kernel;

/// On a host there is nothing to run: the library has the tests.
#[cfg(not(target_os = "none"))]
fn main() {}
