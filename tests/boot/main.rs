//! Boots hypervisors and guests in QEMU, one test for each thing that a boot must show.
//!
//! `cargo xtask test` builds everything that is booted here and then runs this binary; `-- --list` and a filter work
//! as in `cargo test`. A test that fails shows the end of the serial line.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Conclusion, Trial};

mod blk;
mod bochs;
mod code;
mod conformance;
mod corrupt;
mod crash;
mod domains;
mod drivers;
mod files;
mod hello;
mod hostile;
mod image;
mod isolation;
mod library;
mod limits;
mod linear;
mod linux;
mod memory;
mod multitask;
mod pair;
mod porting;
mod smp;
mod support;
mod xl;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One emulated machine keeps one CPU busy.
    if arguments.test_threads.is_none() {
        arguments.test_threads = std::thread::available_parallelism().ok().map(usize::from);
    }
    let mut trials: Vec<Trial> = Vec::new();
    // The longest first, so that the last CPU is not left alone with one of them.
    trials.extend(pair::trials());
    trials.extend(hostile::trials());
    trials.extend(domains::trials());
    trials.extend(drivers::trials());
    trials.extend(linux::trials());
    trials.extend(bochs::trials());
    trials.extend(hello::trials());
    trials.extend(isolation::trials());
    trials.extend(smp::trials());
    trials.extend(memory::trials());
    trials.extend(blk::trials());
    trials.extend(multitask::trials());
    trials.extend(porting::trials());
    trials.extend(conformance::trials());
    trials.extend(corrupt::trials());
    trials.extend(crash::trials());
    trials.extend(image::trials());
    trials.extend(limits::trials());
    trials.extend(linear::trials());
    trials.extend(code::trials());
    trials.extend(library::trials());
    trials.extend(xl::trials());
    let conclusion: Conclusion = libtest_mimic::run(&arguments, trials);
    conclusion.exit_code()
}
