//! `docs/porting.md`, followed literally: its files make a package outside the workspace, which builds and boots.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use xtask::qemu::{Hypervisor, Machine};
use xtask::session::Session;
use xtask::{elf, process, project, toolchain};

use crate::support::{SHORT, guest_lines, trial};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("porting::the_documented_kernel_boots", documented_kernel),
        trial("porting::a_kernel_with_sse_is_refused", refused_with_sse),
    ]
}

/// What the kernel of the page prints behind its first line.
const LINES: [&str; 6] = [
    "faults: 1 breakpoint",
    "timer: 5 ms have passed",
    "memory: 10 squares, 2 pages, 1 byte set",
    "program: system call 42",
    "program: exception 14 at address 0x0",
    "my-kernel: done",
];

fn documented_kernel() -> Result<()> {
    let kernel = build(&package()?)?;
    for (name, machine) in [
        ("PV", with_kernel(Hypervisor::Paravane, &kernel)),
        ("PV", with_kernel(Hypervisor::Xen, &kernel)),
        ("native", Machine::new(Hypervisor::File(kernel.clone()))),
    ] {
        let mut session = Session::start(&machine)?;
        session.wait_for(LINES[5], SHORT)?;
        let lines = guest_lines(&session.output(), "my-kernel:", LINES[5]);
        let (first, rest) = lines.split_first().context("nothing was printed")?;
        ensure!(first.ends_with(name) && rest == LINES, "{}", lines.join("\n"));
    }
    Ok(())
}

/// The entries save no vector register, so a kernel that uses them must not compile.
fn refused_with_sse() -> Result<()> {
    let mut cargo = toolchain::ensure()?.cargo_without_flags("check", &project::target().join("porting/sse"));
    cargo.args(["--package", "guest-pv-lib", "--lib"]).env("RUSTFLAGS", "-Ctarget-feature=+sse");
    let output = cargo.current_dir(project::root()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "it compiles");
    ensure!(said.contains("compiled without floating-point and vector registers"), "{said}");
    Ok(())
}

fn with_kernel(hypervisor: Hypervisor, kernel: &Path) -> Machine {
    let mut machine = Machine::new(hypervisor);
    machine.kernel = Some(kernel.to_owned());
    machine
}

/// Writes the package, and returns its folder.
fn package() -> Result<PathBuf> {
    let page = fs::read_to_string(project::root().join("docs/porting.md"))?;
    let folder = project::target().join("porting/my-kernel");
    let files = files_of(&page);
    ensure!(files.len() >= 5, "the page has {} files only", files.len());
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(folder.join("src"))?;
    for (name, text) in files {
        // The crates are taken from here, and this is nobody's workspace but its own.
        let here = if name == "Cargo.toml" { from_checkout() } else { String::new() };
        fs::write(folder.join(name), text + &here).with_context(|| format!("writing {name}"))?;
    }
    fs::copy(project::root().join("Cargo.lock"), folder.join("Cargo.lock"))?;
    Ok(folder)
}

fn from_checkout() -> String {
    let path = |name: &str| project::root().join(name).display().to_string();
    format!(
        "\n[workspace]\n[patch.crates-io]\nguest-pv-lib = {{ path = {:?} }}\nxen-abi = {{ path = {:?} }}\n",
        path("guest-pv-lib"),
        path("abi")
    )
}

/// The code blocks that name a file behind their language.
fn files_of(page: &str) -> Vec<(&str, String)> {
    let mut files: Vec<(&str, String)> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(info) if !inside => {
                inside = true;
                files.push((info.split_whitespace().nth(1).unwrap_or_default(), String::new()));
            }
            Some(_) => inside = false,
            None if inside => {
                let text = &mut files.last_mut().expect("a block has begun").1;
                text.push_str(line);
                text.push('\n');
            }
            None => {}
        }
    }
    files.retain(|(name, _)| !name.is_empty());
    files
}

/// Builds it with the compiler's own flags, as the page says.
fn build(package: &Path) -> Result<PathBuf> {
    let target = project::target().join("porting/target");
    let mut cargo = toolchain::ensure()?.cargo_without_flags("build", &target);
    cargo.arg("--release").arg("--manifest-path").arg(package.join("Cargo.toml"));
    process::output(&mut cargo)?;
    let built = target.join(toolchain::TARGET).join("release/my-kernel");
    let kernel = project::guests().join("my-kernel.elf");
    fs::create_dir_all(project::guests())?;
    fs::write(&kernel, elf::strip(&fs::read(built)?)?)?;
    Ok(kernel)
}
