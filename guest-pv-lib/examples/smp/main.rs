//! Events, waiting and several CPUs: shows each of them, prints the same lines on every hypervisor that gets them right,
//! and powers off.
//!
//! With `fifo` on the command line it does the same with the FIFO layout of event channels, and shows its priorities and
//! its room.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]
// On a hosted target there is no entry, so nothing looks used.
#![cfg_attr(not(target_os = "none"), allow(dead_code, unused_imports))]

mod fifo;
mod one;
#[cfg(target_os = "none")]
mod several;
#[cfg(target_os = "none")]
mod vectors;

use guest_pv_lib::sched::{self, Shutdown};
use guest_pv_lib::{BootContext, Errno, println, time};

guest_pv_lib::entry!(kernel, name = "smp", version = "1");

/// A step that did not go as it must, and why.
type Step = Result<(), &'static str>;

/// A step's name and its code.
type Named = (&'static str, fn(&BootContext) -> Step);

/// What is shown, in this order.
#[cfg(target_os = "none")]
const STEPS: [Named; 14] = [
    ("fifo", fifo::switch),
    ("channel", one::channel),
    ("handler", one::handler),
    ("wait", one::wait),
    ("priorities", fifo::priorities),
    ("ports", fifo::ports),
    ("start", several::start),
    ("calls", several::calls),
    ("events", several::events),
    ("clocks", several::clocks),
    ("translations", several::translations),
    ("locks", several::locks),
    ("vectors", vectors::vectors),
    ("stop", several::stop),
];
#[cfg(not(target_os = "none"))]
const STEPS: [Named; 0] = [];

fn kernel(boot: BootContext) -> ! {
    println!("smp: several CPUs and their events");
    let mut passed = true;
    if let Err(error) = time::stop_periodic() {
        println!("stop_periodic_timer: {error:?}");
        passed = false;
    }
    for (name, step) in STEPS {
        if let Err(why) = step(&boot) {
            println!("{name}: FAILED: {why}");
            passed = false;
        }
    }
    println!("{}", if passed { "smp: all steps passed" } else { "smp: some step failed" });
    sched::shutdown(if passed { Shutdown::PowerOff } else { Shutdown::Crash })
}

/// Turns a refused hypercall into the reason of a step.
fn ok<T>(result: Result<T, Errno>, what: &'static str) -> Result<T, &'static str> {
    result.map_err(|error| {
        println!("{what}: {error:?}");
        what
    })
}

/// The reason of a step, where `condition` does not hold.
fn check(condition: bool, what: &'static str) -> Step {
    if condition { Ok(()) } else { Err(what) }
}
