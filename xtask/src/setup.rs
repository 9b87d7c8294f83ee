//! What must be on the machine before a command can work. Each command names its needs; only missing ones cost time.

use std::path::Path;

use anyhow::{Context, Result};

use crate::{debian, process, toolchain};

/// Something that a command cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A compiler for the bare target.
    Compiler,
    /// QEMU for x86-64.
    Emulator,
    /// Real Xen, Linux and busybox under `target/debian`.
    GuestFiles,
    /// C compiler and Xen's public headers, for the ABI tests.
    AbiWitness,
    /// GRUB and the ISO tools.
    ImageTools,
    /// Bochs, for what QEMU does not emulate as a CPU has it.
    Bochs,
    /// rustfmt and clippy.
    LintTools,
    /// A C++ compiler, for libFuzzer.
    Fuzzer,
}

/// Everything, for `cargo xtask setup`.
pub const ALL: &[Need] = &[
    Need::Compiler,
    Need::Emulator,
    Need::GuestFiles,
    Need::AbiWitness,
    Need::ImageTools,
    Need::Bochs,
    Need::LintTools,
    Need::Fuzzer,
];

/// Provides the needs that are not met yet.
///
/// # Errors
/// One sentence that says what is missing and what to do.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let missing: Vec<&str> = needs.iter().flat_map(|need| need.missing_packages()).collect();
    if !missing.is_empty() {
        debian::install(&missing)?;
    }
    if needs.contains(&Need::LintTools) {
        ensure_lint_tools()?;
    }
    if needs.contains(&Need::Compiler) {
        toolchain::ensure()?;
    }
    if needs.contains(&Need::GuestFiles) {
        debian::ensure_guest_files()?;
    }
    Ok(())
}

impl Need {
    /// Debian packages whose file is not on the machine.
    fn missing_packages(self) -> Vec<&'static str> {
        // Each row: a file that shows that the package is there, and the package.
        let rows: &[(&str, &str)] = match self {
            Self::Emulator => &[
                ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
                ("/usr/share/seabios/bios-256k.bin", "seabios"),
            ],
            Self::AbiWitness => &[
                ("/usr/bin/cc", "gcc"),
                ("/usr/include/stdio.h", "libc6-dev"),
                ("/usr/include/xen/xen.h", "libxen-dev"),
            ],
            Self::ImageTools => &[
                ("/usr/bin/grub-mkrescue", "grub-common"),
                ("/usr/lib/grub/i386-pc/multiboot.mod", "grub-pc-bin"),
                ("/usr/bin/xorriso", "xorriso"),
                ("/usr/bin/mformat", "mtools"),
            ],
            Self::Fuzzer => {
                &[("/usr/bin/cc", "gcc"), ("/usr/bin/c++", "g++"), ("/usr/include/stdio.h", "libc6-dev")]
            }
            Self::Bochs => &[
                ("/usr/bin/bochs", "bochs"),
                ("/usr/share/bochs/BIOS-bochs-latest", "bochsbios"),
                ("/usr/share/bochs/VGABIOS-lgpl-latest", "vgabios"),
            ],
            Self::GuestFiles => &[("/usr/sbin/mke2fs", "e2fsprogs")],
            Self::Compiler | Self::LintTools => &[],
        };
        rows.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| *package).collect()
    }
}

/// rustfmt and clippy of the toolchain that runs xtask: rustup's components, or Debian's packages where there is no rustup.
fn ensure_lint_tools() -> Result<()> {
    for (program, component, package) in
        [("cargo-fmt", "rustfmt", "rustfmt-web"), ("cargo-clippy", "clippy", "rust-web-clippy")]
    {
        if process::exists(program) {
            continue;
        }
        if process::exists("rustup") {
            let mut add = std::process::Command::new("rustup");
            process::output(add.args(["component", "add", component]))
                .with_context(|| format!("{component} is missing: run `rustup component add {component}`"))?;
        } else {
            debian::install_at_least(&[package], toolchain::OLDEST).with_context(|| {
                format!("{component} is missing: run `apt-get install {package}` as root")
            })?;
        }
    }
    Ok(())
}
