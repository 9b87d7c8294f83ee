//! Builds hypervisor and guests and puts the bootable files into `target/dist`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::conformance::case;
use crate::progress::Step;
use crate::toolchain::{self, TARGET, Toolchain};
use crate::{elf, process, project};

/// The hypervisor's package and the name of its binary.
const HYPERVISOR: (&str, &str) = ("hypervisor", "paravane");
/// The package whose examples are the guests.
const GUESTS: &str = "guest-pv-lib";

/// The kernel that checks the hypercall ABI.
const CONFORMANCE: &str = "conformance";
/// The packages of `tests` that are kernels, and the names of their binaries; the other counts what hypercalls cost.
const KERNELS: [&str; 2] = [CONFORMANCE, "micro"];

/// Builds everything that boots.
///
/// # Errors
/// No compiler for the bare target, or code that does not compile.
pub fn all() -> Result<()> {
    hypervisor()?;
    guests()
}

/// Builds `target/dist/paravane.elf`, and `paravane.debug.elf` with the symbols.
///
/// # Errors
/// As [`all`].
pub fn hypervisor() -> Result<()> {
    let toolchain = toolchain::ensure()?;
    let (package, binary) = HYPERVISOR;
    cargo_build(&toolchain, &["--package", package, "--bin", binary], "the hypervisor")?;
    let built = release_dir().join(binary);
    fs::create_dir_all(project::dist())?;
    fs::copy(&built, project::dist().join("paravane.debug.elf"))?;
    install(&built, &project::hypervisor_elf())
}

/// Builds `target/dist/<name>.elf` for each guest.
///
/// # Errors
/// As [`all`].
pub fn guests() -> Result<()> {
    let names = guest_names()?;
    let toolchain = toolchain::ensure()?;
    cargo_build(&toolchain, &["--package", GUESTS, "--examples"], "the guests")?;
    let kernels = KERNELS.map(|name| ["--package", name]);
    cargo_build(&toolchain, kernels.as_flattened(), "the test kernels")?;
    fs::create_dir_all(project::dist())?;
    for name in names {
        let built = if KERNELS.contains(&name.as_str()) { name.clone() } else { format!("examples/{name}") };
        install(&release_dir().join(built), &project::guest_elf(&name))?;
    }
    case::write_list()
}

/// Builds `target/dist/conformance.elf`, and the list of its cases.
///
/// # Errors
/// As [`all`].
pub fn conformance() -> Result<()> {
    let toolchain = toolchain::ensure()?;
    cargo_build(&toolchain, &["--package", CONFORMANCE], "the conformance kernel")?;
    fs::create_dir_all(project::dist())?;
    install(&release_dir().join(CONFORMANCE), &project::guest_elf(CONFORMANCE))?;
    case::write_list()
}

/// The guests by name: one for each example of the guest library, and the kernels of `tests`.
///
/// # Errors
/// The folder cannot be read.
pub fn guest_names() -> Result<Vec<String>> {
    let folder = project::root().join(GUESTS).join("examples");
    let mut names = KERNELS.map(str::to_owned).to_vec();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let is_example = path.extension().is_some_and(|ext| ext == "rs") || path.join("main.rs").is_file();
        if let (true, Some(stem)) = (is_example, path.file_stem()) {
            names.push(stem.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn release_dir() -> std::path::PathBuf {
    project::target().join("kernel").join(TARGET).join("release")
}

fn cargo_build(toolchain: &Toolchain, what: &[&str], name: &str) -> Result<()> {
    let step = Step::start(format!("building {name}"));
    let mut cargo = toolchain.cargo("build");
    cargo.arg("--release").args(what);
    process::run_in_step(&mut cargo, &step)?;
    step.done();
    Ok(())
}

fn install(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("the build left no {}", from.display()))?;
    fs::write(to, elf::strip(&bytes)?).with_context(|| format!("writing {}", to.display()))
}
