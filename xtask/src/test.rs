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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    /// What failed, each with the first lines that it said: the end of the output names them again, for it is often all that is
    /// kept of a long run.
    failures: Vec<String>,
}

impl Count {
    fn passed() -> Self {
        Self { passed: 1, ..Self::default() }
    }

    fn failed(what: String) -> Self {
        Self { failed: 1, failures: vec![what], ..Self::default() }
    }

    /// One that ended with `verdict`; prints and keeps its error.
    fn one(what: &str, verdict: Result<()>) -> Self {
        match verdict {
            Ok(()) => Self::passed(),
            Err(error) => {
                eprintln!("{error:#}");
                Self::failed(first_lines(&format!("{what}\n{error:#}")))
            }
        }
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.failures.extend(other.failures);
    }
}

/// Lines that the end of the output repeats of each failure.
const REPEATED_LINES: usize = 20;

fn first_lines(text: &str) -> String {
    text.lines().take(REPEATED_LINES).collect::<Vec<_>>().join("\n")
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
    for failure in &total.failures {
        println!("\nfailed: {failure}");
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
        if verdict.is_ok() {
            step.done();
        } else {
            drop(step);
        }
        count.add(Count::one(name, verdict));
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
        count.add(Count::one(&format!("fuzzing {}", target.name), fuzz::fuzz(&target, FUZZ_SECONDS)));
    }
    Ok(count)
}

fn build_part() -> Count {
    let mut count = Count::one("building the hypervisor", build::hypervisor());
    count.add(Count::one("building the guests", build::guests()));
    count
}

fn other_toolchain_part() -> Count {
    match other_toolchain::check() {
        Ok(Verdict::Passed) => Count::passed(),
        Ok(Verdict::NotTried(reason)) => {
            println!("not tried: {reason}");
            Count::default()
        }
        Err(error) => Count::one("the other toolchain", Err(error)),
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
    let mut lines = Vec::new();
    for line in BufReader::new(child.stdout.take().expect("stdout is piped")).lines().map_while(Result::ok) {
        println!("{line}");
        if let Some(result) = parse_result(&line) {
            count.add(result);
        }
        lines.push(line);
    }
    if !child.wait()?.success() && count.failed == 0 {
        let what = format!("{} ended without a result", process::name(&cargo));
        count.add(Count::failed(what));
    }
    count.failures.extend(failures(&lines));
    Ok(count)
}

/// What failed tests said, each with its name: the blocks behind `---- name stdout ----` (the harness of `cargo test`) or
/// `---- name ----` (that of the boots).
fn failures(lines: &[String]) -> Vec<String> {
    let name = |line: &str| -> Option<String> {
        let name = line.strip_prefix("---- ")?.strip_suffix(" ----")?;
        Some(name.strip_suffix(" stdout").unwrap_or(name).to_owned())
    };
    let mut found: Vec<String> = Vec::new();
    let mut inside = false;
    for line in lines {
        if let Some(name) = name(line) {
            found.push(name);
            inside = true;
        } else if line == "failures:" || parse_result(line).is_some() {
            inside = false;
        } else if let (true, Some(last)) = (inside, found.last_mut()) {
            last.push('\n');
            last.push_str(line);
        }
    }
    found.iter().map(|text| first_lines(text.trim_end())).collect()
}

/// Reads `test result: ok. 12 passed; 0 failed; ...`.
fn parse_result(line: &str) -> Option<Count> {
    let (_, rest) = line.split_once("test result: ")?;
    let number_before = |word: &str| -> Option<u64> {
        let (before, _) = rest.split_once(word)?;
        before.trim_end().rsplit(' ').next()?.parse().ok()
    };
    Some(Count { passed: number_before(" passed")?, failed: number_before(" failed")?, ..Count::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s";
        assert_eq!(parse_result(line), Some(Count { passed: 12, failed: 3, failures: Vec::new() }));
        assert_eq!(parse_result("running 4 tests"), None);
    }

    #[test]
    fn failed_tests_are_named_with_what_they_said() {
        let output = "..F.\n\nfailures:\n\n---- a::b stdout ----\nthread panicked at x.rs:1\n\n---- a::c stdout ----\n\n\n\
                      failures:\n    a::b\n    a::c\n\ntest result: FAILED. 2 passed; 2 failed; 0 ignored";
        let lines: Vec<String> = output.lines().map(str::to_owned).collect();
        assert_eq!(failures(&lines), ["a::b\nthread panicked at x.rs:1", "a::c"]);
        let boot: Vec<String> =
            ["failures:", "", "---- hello::boots ----", "no prompt", ""].map(str::to_owned).to_vec();
        assert_eq!(failures(&boot), ["hello::boots\nno prompt"]);
        let long: Vec<String> =
            std::iter::once("---- long ----".to_owned()).chain((0..99).map(|n| n.to_string())).collect();
        assert_eq!(failures(&long)[0].lines().count(), REPEATED_LINES);
    }
}
