//! `cargo xtask fuzz`: libFuzzer on the targets of the [packages](PACKAGES) that have some, with no more than the compiler
//! that is there.
//!
//! The coverage that libFuzzer steers by comes from a pass of LLVM that any rustc has; what is fuzzed has no unsafe code, so
//! an address sanitizer, for which a nightly compiler would be needed, would find nothing more.
//!
//! `cargo xtask fuzz guest` is another thing: a domain that attacks the hypervisor from within, in QEMU ([`guest`]).
//!
//! New inputs collect under `target/fuzz/corpus`. `--keep` moves the few that reach new code to the kept ones, the package's
//! `corpus`, which an ordinary test of it runs.

pub mod guest;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::progress::Step;
use crate::setup::Need;
use crate::{process, project, setup};

/// The packages with targets, and their folders.
const PACKAGES: &[(&str, &str)] =
    &[("hypervisor-core-fuzz", "hypervisor/core/fuzz"), ("pv-drivers-fuzz", "pv-drivers/fuzz")];
/// The programs run on the host.
const HOST: &str = "x86_64-unknown-linux-gnu";
/// Longest input in bytes.
const MAX_LENGTH: u32 = 2048;
/// What a compiler is told so that libFuzzer sees which code an input reaches.
const RUSTFLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
];

/// The choices of `cargo xtask fuzz`.
#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// Only this target (all of them otherwise); `guest`: domains that attack the hypervisor in QEMU
    pub target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 30)]
    pub seconds: u32,
    /// `guest`: hypercalls to come to, however long that takes
    #[arg(long)]
    pub calls: Option<u64>,
    /// `guest`: goes on where the last run with this seed ended or was interrupted
    #[arg(long)]
    pub resume: bool,
    /// Afterwards, add the inputs that reach new code to the kept ones
    #[arg(long)]
    pub keep: bool,
    /// What the attackers of `guest` begin with
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// `guest`: every life begins with exactly this seed, to run one again
    #[arg(long)]
    pub again: bool,
    /// `guest`: the attacker is the first domain
    #[arg(long)]
    pub first: bool,
}

/// Fuzzes.
///
/// # Errors
/// A target found a mistake: the message names the input that shows it. Or there is no such target, or no compiler.
pub fn run(options: &Options) -> Result<()> {
    if options.target.as_deref() == Some(guest::NAME) {
        return guest::run(options);
    }
    let targets = chosen(options.target.as_deref())?;
    build()?;
    for target in &targets {
        fuzz(target, options.seconds)?;
        if options.keep {
            keep(target)?;
        }
    }
    Ok(())
}

/// A program that libFuzzer drives. No two packages have one of the same name.
#[derive(Debug)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// The folder of its package.
    folder: PathBuf,
}

impl Target {
    fn kept(&self) -> PathBuf {
        self.folder.join("corpus").join(&self.name)
    }

    fn collected(&self) -> PathBuf {
        project::target().join("fuzz/corpus").join(&self.name)
    }

    fn program(&self) -> Command {
        Command::new(project::target().join("fuzz").join(HOST).join("release").join(&self.name))
    }
}

/// All targets, by name: one for each program of the packages.
///
/// # Errors
/// A folder cannot be read.
pub fn targets() -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for (_, package) in PACKAGES {
        let folder = project::root().join(package);
        let programs = folder.join("fuzz_targets");
        for entry in fs::read_dir(&programs).with_context(|| format!("reading {}", programs.display()))? {
            let path = entry?.path();
            let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            targets.extend(name.map(|name| Target { name, folder: folder.clone() }));
        }
    }
    targets.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(targets)
}

fn chosen(name: Option<&str>) -> Result<Vec<Target>> {
    let mut all = targets()?;
    let Some(name) = name else { return Ok(all) };
    let names: Vec<_> = all.iter().map(|target| target.name.clone()).collect();
    all.retain(|target| target.name == name);
    ensure!(!all.is_empty(), "there is no target {name}; there are: {}", names.join(", "));
    Ok(all)
}

/// Builds the programs.
///
/// # Errors
/// Code that does not compile, or no C++ compiler for libFuzzer itself.
pub fn build() -> Result<()> {
    setup::ensure(&[Need::Fuzzer])?;
    let step = Step::start("building the fuzz targets");
    let mut cargo = process::host_cargo();
    cargo.args(["build", "--release", "--features", "libfuzzer", "--bins"]);
    cargo.args(PACKAGES.iter().flat_map(|(package, _)| ["--package", package]));
    cargo.args(["--target", HOST, "--target-dir"]).arg(project::target().join("fuzz"));
    cargo.env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\u{1f}")).env_remove("RUSTFLAGS");
    // What the release of a kernel needs is not what finds mistakes.
    cargo.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_PANIC", "unwind");
    cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "2").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    cargo.env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true");
    process::run_in_step(&mut cargo, &step)?;
    step.done();
    Ok(())
}

/// Runs one target for some seconds on the kept inputs and what it finds.
///
/// # Errors
/// It found a mistake.
pub fn fuzz(target: &Target, seconds: u32) -> Result<()> {
    let (collected, kept, name) = (target.collected(), target.kept(), &target.name);
    let found = project::target().join("fuzz/found");
    for folder in [&collected, &kept, &found] {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let step = Step::start(format!("fuzzing {name} for {seconds} s"));
    let mut program = target.program();
    program.arg(&collected).arg(&kept);
    program.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={MAX_LENGTH}"));
    program.arg("-timeout=20").arg(format!("-artifact_prefix={}/{name}-", found.display()));
    if let Err(error) = process::run_in_step(&mut program, &step) {
        bail!(
            "{name} found a mistake; the input is in {}: mend it, then copy the input to {}\n{error:#}",
            found.display(),
            kept.display()
        );
    }
    step.done();
    Ok(())
}

/// Adds the collected inputs that reach code which no kept one reaches.
fn keep(target: &Target) -> Result<()> {
    let (collected, kept, name) = (target.collected(), target.kept(), &target.name);
    let before = count(&kept)?;
    let step = Step::start(format!("keeping inputs of {name}"));
    let mut merge = target.program();
    merge.arg("-merge=1").arg(format!("-max_len={MAX_LENGTH}")).arg(&kept).arg(&collected);
    process::run_in_step(&mut merge, &step)?;
    step.done();
    println!("{name}: {} kept inputs, {before} before", count(&kept)?);
    Ok(())
}

fn count(folder: &Path) -> Result<usize> {
    Ok(fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_chosen_by_name() {
        let all = targets().unwrap();
        for name in ["acpi", "grants", "blk_back", "store"] {
            assert_eq!(all.iter().filter(|target| target.name == name).count(), 1, "{name}");
        }
        let one = chosen(Some("grants")).unwrap();
        assert_eq!(one.iter().map(|target| &target.name).collect::<Vec<_>>(), ["grants"]);
        assert!(chosen(Some("nothing")).unwrap_err().to_string().contains("there are: acpi, "));
    }
}
