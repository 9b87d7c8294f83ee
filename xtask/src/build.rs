//! Builds hypervisor and guests and puts the bootable files into `target/dist`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::conformance::case;
use crate::progress::Step;
use crate::toolchain::{self, TARGET, Toolchain};
use crate::{elf, process, project};

/// The hypervisor's package and the name of its binary.
const HYPERVISOR: (&str, &str) = ("hypervisor", "paravane");
/// The packages whose examples are guests, and the features that these want.
const GUESTS: [(&str, &str); 2] = [("guest-pv-lib", ""), ("pv-drivers", "smoltcp")];

/// The kernel that checks the hypercall ABI.
const CONFORMANCE: &str = "conformance";
/// The kernel that serves others.
const DRIVER_DOMAIN: &str = "driver-domain";
/// The packages that are kernels, and the names of their binaries: one checks hypercalls, one counts what they cost, one has
/// devices for others, one does its worst to others.
const KERNELS: [&str; 4] = [CONFORMANCE, "micro", DRIVER_DOMAIN, "hostile"];

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
    cargo_build(&toolchain, &kernel_dir(), &["--package", package, "--bin", binary], "the hypervisor")?;
    let built = release_in(&kernel_dir()).join(binary);
    fs::create_dir_all(project::dist())?;
    fs::copy(&built, project::dist().join("paravane.debug.elf"))?;
    install(&built, &project::hypervisor_elf())
}

/// Builds `target/dist/<name>.elf` for each guest.
///
/// # Errors
/// As [`all`].
pub fn guests() -> Result<()> {
    // A description names several of them: they are built once.
    static ARE_BUILT: Mutex<bool> = Mutex::new(false);
    let mut are_built = ARE_BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if *are_built {
        return Ok(());
    }
    let names = guest_names()?;
    let toolchain = toolchain::ensure()?;
    // One after the other: the features that one kernel wants are not the others'.
    for (package, features) in GUESTS {
        let what = ["--package", package, "--examples", "--features", features];
        cargo_build(&toolchain, &kernel_dir(), &what, &format!("the guests of {package}"))?;
    }
    for package in KERNELS {
        cargo_build(&toolchain, &kernel_dir(), &["--package", package], &format!("the kernel {package}"))?;
    }
    fs::create_dir_all(project::dist())?;
    for name in names {
        let built = if KERNELS.contains(&name.as_str()) { name.clone() } else { format!("examples/{name}") };
        install(&release_in(&kernel_dir()).join(built), &project::guest_elf(&name))?;
    }
    case::write_list()?;
    *are_built = true;
    Ok(())
}

/// Builds `target/dist/conformance.elf`, and the list of its cases.
///
/// # Errors
/// As [`all`].
pub fn conformance() -> Result<()> {
    let toolchain = toolchain::ensure()?;
    cargo_build(&toolchain, &kernel_dir(), &["--package", CONFORMANCE], "the conformance kernel")?;
    fs::create_dir_all(project::dist())?;
    install(&release_in(&kernel_dir()).join(CONFORMANCE), &project::guest_elf(CONFORMANCE))?;
    case::write_list()
}

/// The guests by name: one for each example of the guest library and of the drivers, and the other kernels.
///
/// # Errors
/// The folder cannot be read.
pub fn guest_names() -> Result<Vec<String>> {
    let mut names = KERNELS.map(str::to_owned).to_vec();
    for (package, _) in GUESTS {
        let folder = project::root().join(package).join("examples");
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry?.path();
            let is_example =
                path.extension().is_some_and(|ext| ext == "rs") || path.join("main.rs").is_file();
            if let (true, Some(stem)) = (is_example, path.file_stem()) {
                names.push(stem.to_string_lossy().into_owned());
            }
        }
    }
    names.sort();
    Ok(names)
}

/// Hypervisor and `hello` by a toolchain of the caller's choice, in `target/other`: what [`all`] built stays.
///
/// # Errors
/// As [`all`].
pub fn hello_by(toolchain: &Toolchain) -> Result<(PathBuf, PathBuf)> {
    let folder = project::target().join("other");
    let (package, binary) = HYPERVISOR;
    let with = |what: &str| format!("{what} with {}", toolchain.name());
    cargo_build(toolchain, &folder, &["--package", package, "--bin", binary], &with("the hypervisor"))?;
    let hello = ["--package", "guest-pv-lib", "--example", "hello"];
    cargo_build(toolchain, &folder, &hello, &with("hello"))?;
    let elves = (folder.join("paravane.elf"), folder.join("hello.elf"));
    install(&release_in(&folder).join(binary), &elves.0)?;
    install(&release_in(&folder).join("examples/hello"), &elves.1)?;
    Ok(elves)
}

/// Where everything for the bare machine is built.
fn kernel_dir() -> PathBuf {
    project::target().join("kernel")
}

fn release_in(target_dir: &Path) -> PathBuf {
    target_dir.join(TARGET).join("release")
}

fn cargo_build(toolchain: &Toolchain, target_dir: &Path, what: &[&str], name: &str) -> Result<()> {
    let step = Step::start(format!("building {name}"));
    let mut cargo = toolchain.cargo("build", target_dir);
    cargo.arg("--release").args(what);
    process::run_in_step(&mut cargo, &step)?;
    step.done();
    Ok(())
}

fn install(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("the build left no {}", from.display()))?;
    fs::write(to, elf::strip(&bytes)?).with_context(|| format!("writing {}", to.display()))
}
