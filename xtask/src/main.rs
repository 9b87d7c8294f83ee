//! `cargo xtask <command>`: the front door of the project.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::setup::Need;
use xtask::{bench, build, conformance, coverage, fuzz, image, lint, new_test, run, setup, test};

/// Builds, runs, tests and measures Paravane. Every command installs what it lacks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install and download everything that any command needs
    Setup,
    /// Build the hypervisor and the guests into target/dist
    Build,
    /// Boot a machine on this terminal
    Run(run::Options),
    /// Run all tests: lint, host tests, boots in QEMU
    Test(test::Options),
    /// Run the conformance cases on hypervisors side by side
    Conformance(conformance::Options),
    /// Write docs/abi-coverage.md: what each hypercall answers, and the cases that show it
    Coverage,
    /// Check formatting, clippy and the repository's own rules
    Lint,
    /// Make a bootable GRUB ISO for real machines
    Image(image::Options),
    /// Count instructions of boots, beside real Xen
    Bench(bench::Options),
    /// Look for inputs that the core cannot take
    Fuzz(fuzz::Options),
    /// Start a new boot test
    NewTest(new_test::Options),
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> Result<()> {
    match task {
        Task::Setup => setup::ensure(setup::ALL),
        Task::Build => {
            setup::ensure(&[Need::Compiler])?;
            build::all()
        }
        Task::Run(options) => run::run(options),
        Task::Test(options) => test::run(options),
        Task::Conformance(options) => conformance::run(options),
        Task::Coverage => coverage::run(),
        Task::Lint => lint::run(),
        Task::Image(options) => image::run(options),
        Task::Bench(options) => bench::run(options),
        Task::Fuzz(options) => fuzz::run(options),
        Task::NewTest(options) => new_test::run(options),
    }
}
