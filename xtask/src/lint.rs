//! `cargo xtask lint`: formatting, clippy, and the repository's own rules as code.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::progress::Step;
use crate::setup::Need;
use crate::{coverage, process, project, setup};

mod orphans;
mod packages;
mod rules;

/// One broken rule at one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Path from the root.
    pub file: PathBuf,
    /// Line from one; zero for the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file.display(), self.message),
            line => write!(f, "{}:{line}: {}", self.file.display(), self.message),
        }
    }
}

/// A source file as the rules see it.
pub struct Source {
    /// Path from the root.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// Packages that only build for the bare target. Clippy checks them as hosted code, because clippy comes from the
/// host's toolchain, whose compiler has no `core` for the bare target.
const BARE_PACKAGES: &[&str] = &["hypervisor"];
/// The packages that other kernels depend on.
const PUBLISHED: &[&str] = &["xen-abi", "guest-pv-lib", "pv-drivers"];

/// Runs all checks; the error says how many failed.
///
/// # Errors
/// A check failed, or a tool is missing.
pub fn run() -> Result<()> {
    setup::ensure(&[Need::LintTools])?;
    let mut failed = Vec::new();
    for (name, check) in checks() {
        let step = Step::start(name);
        match check(&step) {
            Ok(()) => step.done(),
            Err(error) => {
                drop(step);
                eprintln!("{error:#}");
                failed.push(name);
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("lint: {} failed", failed.join(", ")) }
}

type Check = fn(&Step) -> Result<()>;

/// The checks by name, in the order of their cost.
#[must_use]
pub fn checks() -> [(&'static str, Check); 7] {
    [
        ("repository rules", repository),
        ("ABI coverage", coverage::check),
        ("cargo fmt", fmt),
        ("clippy", clippy),
        ("clippy, bare metal", clippy_bare),
        ("documentation", documentation),
        ("packages", packages::check),
    ]
}

fn fmt(step: &Step) -> Result<()> {
    process::run_in_step(process::host_cargo().args(["fmt", "--all", "--check"]), step)
}

/// The published packages' pages, with as few and with as many features as there are.
fn documentation(step: &Step) -> Result<()> {
    for features in [&[][..], &["--all-features"]] {
        let mut cargo = process::host_cargo();
        cargo.args(["doc", "--quiet", "--no-deps"]).args(features).env("RUSTDOCFLAGS", "-D warnings");
        for package in PUBLISHED {
            cargo.args(["--package", package]);
        }
        process::run_in_step(&mut cargo, step)?;
    }
    Ok(())
}

fn clippy(step: &Step) -> Result<()> {
    let mut cargo = process::host_cargo();
    cargo.args(["clippy", "--quiet", "--workspace", "--all-targets"]);
    for package in BARE_PACKAGES {
        cargo.args(["--exclude", package]);
    }
    process::run_in_step(cargo.args(["--", "-D", "warnings"]), step)
}

fn clippy_bare(step: &Step) -> Result<()> {
    let mut cargo = process::host_cargo();
    // Without `std` there is nobody to unwind to, and the compiler insists on hearing so.
    cargo.args(["clippy", "--quiet"]).env("CARGO_PROFILE_DEV_PANIC", "abort");
    for package in BARE_PACKAGES {
        cargo.args(["--package", package]);
    }
    process::run_in_step(cargo.args(["--", "-D", "warnings"]), step)
}

fn repository(_: &Step) -> Result<()> {
    let findings = findings(project::root())?;
    if findings.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    bail!("{}\n{} findings", lines.join("\n"), lines.len());
}

/// Everything that breaks a rule below `root`.
///
/// # Errors
/// A file cannot be read.
pub fn findings(root: &Path) -> Result<Vec<Finding>> {
    let mut sources = Vec::new();
    collect(root, Path::new(""), &mut sources)?;
    let mut findings: Vec<Finding> = sources.iter().flat_map(rules::check).collect();
    findings.extend(orphans::check(&sources));
    findings.sort();
    Ok(findings)
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<Source>) -> Result<()> {
    let full = root.join(folder);
    for entry in fs::read_dir(&full).with_context(|| format!("reading {}", full.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = folder.join(&name);
        if entry.file_type()?.is_dir() {
            if name != "target" && name != ".git" {
                collect(root, &path, sources)?;
            }
        } else if rules::applies_to(&path) {
            let text = fs::read_to_string(root.join(&path))
                .with_context(|| format!("reading {}", path.display()))?;
            sources.push(Source { path, text });
        }
    }
    Ok(())
}
