//! The compiler for `x86_64-unknown-none`.
//!
//! Two ways lead there. A rustup that has, or can download, the target's prebuilt `core` is the short one. Without it
//! Debian's own compiler builds `core` from the sources that its package carries (`-Zbuild-std`), linked by the LLD of
//! whichever toolchain has one. The hosted target's `core` is never used: it needs SSE and a red zone.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::debian;
use crate::process;
use crate::project;

/// The target of the hypervisor and of all guests.
pub const TARGET: &str = "x86_64-unknown-none";
/// The oldest compiler that builds the workspace, as its `rust-version` says.
pub const OLDEST: &str = "1.93";
/// Flags of hypervisor and guests alike: one set, so that `core` is built once.
///
/// None of them may change a flag that LLVM compares between modules, such as the code model: rustup's prebuilt `core` and
/// `alloc` carry the target's own, and link-time optimisation refuses to join them with another.
const RUSTFLAGS: &[&str] = &["-Cforce-frame-pointers=yes", "-Crelocation-model=pic", "-Ctarget-cpu=x86-64"];

/// A compiler that can build for the bare machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// The toolchain that runs xtask, with the target installed.
    Rustup,
    /// Debian's rustc, building `core` itself, and this linker.
    Debian {
        /// `rust-lld` or `ld.lld`.
        linker: PathBuf,
    },
}

/// Finds a toolchain, installing what is missing.
///
/// # Errors
/// Neither rustup nor apt could provide one; the message says what to do.
pub fn ensure() -> Result<Toolchain> {
    if let Some(found) = find() {
        return Ok(found);
    }
    if process::exists("rustup")
        && process::output(Command::new("rustup").args(["target", "add", TARGET])).is_ok()
    {
        return find().context("rustup added the target, but its files are not there");
    }
    install_debians().with_context(|| {
        format!("no compiler for {TARGET}: run `rustup target add {TARGET}`, or as root `apt-get install rustc-web`")
    })
}

/// The toolchain that [`ensure`] did not choose, installed if it is not there.
///
/// # Errors
/// This machine cannot have it.
pub fn other_than(chosen: &Toolchain) -> Result<Toolchain, Absent> {
    if let Toolchain::Rustup = chosen {
        return find_debians().map_or_else(install_debians, Ok).map_err(Absent::Failed);
    }
    if !process::exists("rustup") {
        return Err(Absent::NoRustup);
    }
    process::output(Command::new("rustup").args(["target", "add", TARGET])).map_err(Absent::Failed)?;
    let added = find().filter(|found| *found == Toolchain::Rustup);
    added
        .context("rustup added the target to another toolchain than the one that runs")
        .map_err(Absent::Failed)
}

/// Why the other toolchain is not there.
#[derive(Debug)]
pub enum Absent {
    /// It is rustup's, which Debian 12 has no package of.
    NoRustup,
    /// It could not be installed.
    Failed(anyhow::Error),
}

/// What is there already.
fn find() -> Option<Toolchain> {
    if sysroot()?.join("lib/rustlib").join(TARGET).is_dir() {
        return Some(Toolchain::Rustup);
    }
    find_debians()
}

fn install_debians() -> Result<Toolchain> {
    debian::install_at_least(&["rustc-web", "cargo-web", "rust-web-src", "lld"], OLDEST)?;
    find_debians().context("Debian's Rust packages are installed, but a file of theirs is missing")
}

fn find_debians() -> Option<Toolchain> {
    let rustlib = sysroot()?.join("lib/rustlib");
    let has_debian = ["/usr/bin/rustc", "/usr/bin/cargo", "/usr/lib/rustlib/src/rust/library/core"]
        .iter()
        .all(|path| Path::new(path).exists());
    let linkers = [rustlib.join("x86_64-unknown-linux-gnu/bin/rust-lld"), "/usr/bin/ld.lld".into()];
    let linker = linkers.into_iter().find(|path| path.is_file())?;
    (has_debian && debian_compiler_is_new_enough()).then_some(Toolchain::Debian { linker })
}

/// The folder of the toolchain that started xtask.
fn sysroot() -> Option<PathBuf> {
    if let Some(cargo) = std::env::var_os("CARGO") {
        let root = Path::new(&cargo).parent()?.parent()?;
        if root.join("lib/rustlib").is_dir() {
            return Some(root.to_owned());
        }
    }
    let text = process::output(Command::new("rustc").args(["--print", "sysroot"])).ok()?;
    Some(PathBuf::from(text.trim()))
}

/// The package's source folder carries the version (`/usr/src/rustc-1.96.0`), which spares starting the compiler.
fn debian_compiler_is_new_enough() -> bool {
    let source = std::fs::canonicalize("/usr/lib/rustlib/src/rust").unwrap_or_default();
    let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.strip_prefix("rustc-").is_some_and(|version| numbers(version) >= numbers(OLDEST))
}

fn numbers(version: &str) -> Vec<u32> {
    version.split(['.', '+', '~']).map_while(|part| part.parse().ok()).collect()
}

impl Toolchain {
    /// Its name for messages.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Rustup => "rustup's toolchain",
            Self::Debian { .. } => "Debian's toolchain",
        }
    }

    /// A `cargo <verb>` for the bare target, with the verb and all its flags set; what it builds goes to `target_dir`.
    #[must_use]
    pub fn cargo(&self, verb: &str, target_dir: &Path) -> Command {
        let mut command = self.cargo_without_flags(verb, target_dir);
        command.env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\u{1f}"));
        command
    }

    /// The same with the compiler's own flags for the target, as somebody else's package has it, and another folder for
    /// what it builds.
    #[must_use]
    pub fn cargo_without_flags(&self, verb: &str, target_dir: &Path) -> Command {
        let mut command = match self {
            Self::Rustup => process::host_cargo(),
            Self::Debian { linker } => debian_cargo(linker),
        };
        process::clean_cargo_env(&mut command);
        command
            .arg(verb)
            .args(["--target", TARGET])
            .arg("--target-dir")
            .arg(target_dir)
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("RUSTFLAGS");
        if matches!(self, Self::Debian { .. }) {
            command.arg("-Zbuild-std=core,alloc,compiler_builtins");
            command.arg("-Zbuild-std-features=compiler-builtins-mem");
        }
        command
    }
}

fn debian_cargo(linker: &Path) -> Command {
    let mut command = Command::new("/usr/bin/cargo");
    command.current_dir(project::root());
    // The build scripts run on the host and are linked by its cc; RUSTC_BOOTSTRAP opens build-std on a stable compiler.
    command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
    command.env("CARGO_TARGET_X86_64_UNKNOWN_NONE_LINKER", linker);
    command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").env_remove("RUSTC_WRAPPER");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(numbers("1.100.0") > numbers("1.93"));
        assert!(numbers("1.85.0") < numbers("1.93"));
        assert!(numbers("1.93.0") >= numbers("1.93"));
    }
}
