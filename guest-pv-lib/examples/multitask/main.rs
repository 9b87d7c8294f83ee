//! A small kernel: processes in user mode with memory of their own, copy-on-write fork, demand paging, signals, and
//! preemption by a timer. The same file runs as a PV guest, as a PVH guest, and on a bare PC.
//!
//! - `kernel.rs` is the scheduler: which process runs, and what happens when it comes back.
//! - `process.rs` is one process: registers, address space, signals.
//! - `calls.rs` is the system calls.
//! - `programs.rs` has the only program, which checks all of this from within and prints what it found.
//!
//! The first process is `init`; when it ends, the kernel says whether it was content and ends the domain. The lines are the
//! same on every platform that gets things right; with `stats` on the command line another one counts what happened.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]
#![cfg_attr(not(target_os = "none"), allow(dead_code))]

extern crate alloc;

use guest_pv_lib::sched::{self, Shutdown};
use guest_pv_lib::{BootContext, platform, println, time};

mod calls;
mod kernel;
mod process;
mod programs;

guest_pv_lib::entry!(main_, name = "multitask", version = "1");

fn main_(boot: BootContext) -> ! {
    let start = time::now();
    println!("multitask: {} of memory, {}", Mebibytes(boot.pages()), platform::kind().name());
    let result = kernel::Kernel::new(programs::init()).map(kernel::Kernel::run);
    let passed = match result {
        Ok((status, stats)) => {
            if boot.has_option("stats") {
                println!("{stats:?} in {} us, NMIs: {}", (time::now() - start) / 1000, platform::nmis());
            }
            status == 0
        }
        Err(error) => {
            println!("multitask: starting init: {error}");
            false
        }
    };
    println!("{}", if passed { "multitask: all steps passed" } else { "multitask: some step failed" });
    sched::shutdown(if passed { Shutdown::PowerOff } else { Shutdown::Crash })
}

/// A number of pages in a unit for people.
struct Mebibytes(u64);

impl core::fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} MiB", self.0 / 256)
    }
}
