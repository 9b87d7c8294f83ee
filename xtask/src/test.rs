//! `cargo xtask test`: lint, host tests, builds and boots, with one line at the end that counts them all.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::other_toolchain::{self, Verdict};
use crate::progress::Step;
use crate::setup::Need;
use crate::{build, fuzz, lint, process, session, setup};

/// Packages whose tests run on the host; `hypervisor` runs nowhere but on the bare machine, `tests` boots it.
const NOT_ON_HOST: &[&str] = &["hypervisor", "tests"];

/// The choices of `cargo xtask test`.
#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// Only tests whose name contains this (lint and builds are skipped)
    pub filter: Option<String>,
    /// Only these parts
    #[arg(long, value_enum)]
    pub part: Vec<Part>,
}

/// A part of the whole, in the order in which they run.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Formatting, clippy, repository rules
    Lint,
    /// `cargo test` of all packages that run on the host
    Host,
    /// The hypervisor and the guests for the bare machine
    Build,
    /// A short run of each fuzz target
    Fuzz,
    /// Boots in QEMU
    Boot,
    /// Real Xen with Linux as first domain and its toolstack: slow, and only where it is asked for
    Toolstack,
}

/// Passed and failed so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

impl Count {
    fn one(ok: bool) -> Self {
        Self { passed: u64::from(ok), failed: u64::from(!ok) }
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Runs the tests; the error repeats the final count.
///
/// # Errors
/// A test failed, or a tool is missing.
pub fn run(options: &Options) -> Result<()> {
    setup::ensure(&[
        Need::Compiler,
        Need::Emulator,
        Need::GuestFiles,
        Need::AbiWitness,
        Need::ImageTools,
        Need::Bochs,
    ])?;
    let runs = |part| options.part.is_empty() || options.part.contains(&part);
    let mut total = Count::default();
    if runs(Part::Lint) && options.filter.is_none() {
        total.add(lint_part()?);
    }
    if runs(Part::Host) {
        total.add(host_part(options.filter.as_deref())?);
    }
    if runs(Part::Fuzz) && options.filter.is_none() {
        total.add(fuzz_part()?);
    }
    let mut built = true;
    if runs(Part::Build) || runs(Part::Boot) || options.part.contains(&Part::Toolstack) {
        let count = build_part();
        built = count.failed == 0;
        total.add(count);
    }
    if runs(Part::Build) && options.filter.is_none() {
        total.add(other_toolchain_part());
    }
    if runs(Part::Boot) && built {
        total.add(boot_part(options.filter.as_deref())?);
    }
    if options.part.contains(&Part::Toolstack) && built {
        total.add(toolstack_part(options.filter.as_deref())?);
    }
    println!("\n{} passed, {} failed", total.passed, total.failed);
    if total.failed == 0 { Ok(()) } else { bail!("{} of the tests failed", total.failed) }
}

fn lint_part() -> Result<Count> {
    setup::ensure(&[Need::LintTools])?;
    let mut count = Count::default();
    for (name, check) in lint::checks() {
        let step = Step::start(name);
        let verdict = check(&step);
        count.add(Count::one(verdict.is_ok()));
        match verdict {
            Ok(()) => step.done(),
            Err(error) => {
                drop(step);
                eprintln!("{error:#}");
            }
        }
    }
    Ok(count)
}

fn host_part(filter: Option<&str>) -> Result<Count> {
    let mut cargo = process::host_cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast"]);
    for package in NOT_ON_HOST {
        cargo.args(["--exclude", package]);
    }
    harness(cargo, filter)
}

/// Seconds for each fuzz target: enough to see that it works, and now and then to find something.
const FUZZ_SECONDS: u32 = 3;

fn fuzz_part() -> Result<Count> {
    fuzz::build()?;
    let mut count = Count::default();
    for target in fuzz::targets()? {
        let verdict = fuzz::fuzz(&target, FUZZ_SECONDS);
        count.add(Count::one(verdict.is_ok()));
        if let Err(error) = verdict {
            eprintln!("{error:#}");
        }
    }
    Ok(count)
}

fn build_part() -> Count {
    let mut count = Count::default();
    for build in [build::hypervisor, build::guests] {
        let verdict = build();
        count.add(Count::one(verdict.is_ok()));
        if let Err(error) = verdict {
            eprintln!("{error:#}");
        }
    }
    count
}

fn other_toolchain_part() -> Count {
    match other_toolchain::check() {
        Ok(Verdict::Passed) => Count::one(true),
        Ok(Verdict::NotTried(reason)) => {
            println!("not tried: {reason}");
            Count::default()
        }
        Err(error) => {
            eprintln!("{error:#}");
            Count::one(false)
        }
    }
}

fn boot_part(filter: Option<&str>) -> Result<Count> {
    session::sweep(&crate::project::guests());
    let mut cargo = process::host_cargo();
    cargo.args(["test", "--package", "tests", "--test", "boot"]);
    harness(cargo, filter)
}

fn toolstack_part(filter: Option<&str>) -> Result<Count> {
    let mut cargo = process::host_cargo();
    cargo.args(["test", "--quiet", "--package", "tests", "--test", "boot", "--", "--ignored"]);
    cargo.arg(filter.unwrap_or("xl::"));
    watch(cargo)
}

/// Runs a `cargo test` with the user watching, and adds up its result lines. A run that failed without saying so in
/// such a line did not compile, or died: that counts as one failure.
fn harness(mut cargo: Command, filter: Option<&str>) -> Result<Count> {
    cargo.arg("--quiet");
    if let Some(filter) = filter {
        cargo.args(["--", filter]);
    }
    watch(cargo)
}

fn watch(mut cargo: Command) -> Result<Count> {
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let mut count = Count::default();
    for line in BufReader::new(child.stdout.take().expect("stdout is piped")).lines().map_while(Result::ok) {
        println!("{line}");
        if let Some(result) = parse_result(&line) {
            count.add(result);
        }
    }
    if !child.wait()?.success() && count.failed == 0 {
        count.failed = 1;
    }
    Ok(count)
}

/// Reads `test result: ok. 12 passed; 0 failed; ...`.
fn parse_result(line: &str) -> Option<Count> {
    let (_, rest) = line.split_once("test result: ")?;
    let number_before = |word: &str| -> Option<u64> {
        let (before, _) = rest.split_once(word)?;
        before.trim_end().rsplit(' ').next()?.parse().ok()
    };
    Some(Count { passed: number_before(" passed")?, failed: number_before(" failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s";
        assert_eq!(parse_result(line), Some(Count { passed: 12, failed: 3 }));
        assert_eq!(parse_result("running 4 tests"), None);
    }
}
