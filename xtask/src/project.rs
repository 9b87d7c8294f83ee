//! Where things are: every path that the commands agree on.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The root of the checkout.
///
/// Cargo tells it when it runs us. What was compiled in may be another checkout that shares the target folder.
#[must_use]
pub fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let running = package.and_then(|path| path.parent().map(Path::to_owned));
        let compiled =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies one folder below the root");
        running.filter(|root| root.join("xtask/Cargo.toml").is_file()).unwrap_or_else(|| compiled.to_owned())
    });
    &ROOT
}

/// `target/` of the checkout. Fixed, whatever `CARGO_TARGET_DIR` says: README and scripts name files in it.
#[must_use]
pub fn target() -> PathBuf {
    root().join("target")
}

/// Finished ELF files: `paravane.elf` and one file for each guest.
#[must_use]
pub fn dist() -> PathBuf {
    target().join("dist")
}

/// The bootable hypervisor.
#[must_use]
pub fn hypervisor_elf() -> PathBuf {
    dist().join("paravane.elf")
}

/// The bootable file of the guest called `name`.
#[must_use]
pub fn guest_elf(name: &str) -> PathBuf {
    dist().join(format!("{name}.elf"))
}

/// Files unpacked from Debian packages: real Xen, Linux, busybox.
#[must_use]
pub fn debian() -> PathBuf {
    target().join("debian")
}

/// Guest-side files made here: initramfs, probes, disk images, corrupt kernels.
#[must_use]
pub fn guests() -> PathBuf {
    target().join("guests")
}
