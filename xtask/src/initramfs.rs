//! The Linux guest's userland: Debian's busybox, our `init`, and the drivers for the emulated PC's disks and NICs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::probe::{self, Probe};
use crate::{debian, modules, process, project};

/// What the self-test checks, in this order. Each name is a function `check_<name>` of `selftest.sh` and becomes one
/// TAP line; `disk` and `network` say SKIP unless `paravane.disk=` and `paravane.net=` are on the command line.
pub const CHECKS: &[&str] = &[
    "hypervisor_type",
    "booted_paravirtual",
    "first_domain",
    "fork_exec_pipe",
    "processes_are_isolated",
    "sleep",
    "memory_copy",
    "disk",
    "network",
    "kernel_log_is_clean",
];

/// Drivers that a shell on the emulated PC can use.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "ata_piix",
    "sd_mod",
    "e1000",
    "crc32c_generic",
    "ext4",
    "xenfs",
    "xen-evtchn",
    "xen_blkfront",
    "xen_netfront",
];

const INIT: &str = include_str!("initramfs/init.sh");
const INITTAB: &str = include_str!("initramfs/inittab");
const SESSION: &str = include_str!("initramfs/session.sh");
const SELFTEST: &str = include_str!("initramfs/selftest.sh");
const LOAD: &str = include_str!("initramfs/load.sh");
const BLK: &str = include_str!("initramfs/blk.sh");
const PAIR: &str = include_str!("initramfs/pair.sh");
const ROOT_INIT: &str = include_str!("initramfs/root.sh");
/// Room on the disk for what the domains do with it.
const ROOT_SIZE: &str = "48M";

/// Builds the archive and returns its path. Equal input gives an equal file.
///
/// # Errors
/// The Debian files are not unpacked, or no C compiler assembles the probe.
pub fn build() -> Result<PathBuf> {
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "etc", "lib", "lib/modules", "root"] {
        archive.dir(dir);
    }
    archive.char_device("dev/console", 5, 1);
    let busybox = fs::read(debian::busybox()).context("busybox is not unpacked: run `cargo xtask setup`")?;
    archive.file("bin/busybox", 0o755, &busybox);
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("etc/inittab", 0o644, INITTAB.as_bytes());
    archive.file("lib/session.sh", 0o755, SESSION.as_bytes());
    archive.file("lib/selftest.sh", 0o644, SELFTEST.as_bytes());
    archive.file("lib/load.sh", 0o755, LOAD.as_bytes());
    archive.file("lib/pair.sh", 0o755, PAIR.as_bytes());
    archive.file("lib/blk.sh", 0o755, BLK.as_bytes());
    archive.file("lib/checks", 0o644, CHECKS.join("\n").as_bytes());
    archive.file("bin/tsc", 0o755, &fs::read(probe::build(Probe::Userspace)?)?);

    modules::add(&mut archive, MODULES)?;

    let path = project::guests().join("initramfs.cpio");
    fs::create_dir_all(project::guests())?;
    write_if_changed(&path, &archive.finish())?;
    Ok(path)
}

/// Builds the image of a root file system on a disk, ext4 with busybox in it, and returns its path.
///
/// # Errors
/// The Debian files are not unpacked, or `mke2fs` fails.
pub fn root_image() -> Result<PathBuf> {
    let folder = project::guests().join("root");
    for dir in ["bin", "dev", "etc", "lib", "mnt", "proc", "root", "sbin", "srv", "sys", "tmp"] {
        fs::create_dir_all(folder.join(dir))?;
    }
    let busybox = fs::read(debian::busybox()).context("busybox is not unpacked: run `cargo xtask setup`")?;
    let files: [(&str, &[u8]); 5] = [
        ("bin/busybox", &busybox),
        ("sbin/init", ROOT_INIT.as_bytes()),
        ("etc/inittab", INITTAB.as_bytes()),
        ("lib/session.sh", SESSION.as_bytes()),
        ("lib/pair.sh", PAIR.as_bytes()),
    ];
    for (name, bytes) in files {
        fs::write(folder.join(name), bytes)?;
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755))?;
    }
    let image = project::guests().join("root.ext4");
    // mke2fs asks before it writes over a file system.
    let _ = fs::remove_file(&image);
    let mut mke2fs = Command::new("/usr/sbin/mke2fs");
    mke2fs.args(["-q", "-t", "ext4", "-E", "root_owner=0:0", "-d"]).arg(&folder).arg(&image).arg(ROOT_SIZE);
    process::output(&mut mke2fs).context("making the image of a root file system")?;
    Ok(image)
}

fn write_if_changed(path: &std::path::Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_its_function() {
        for name in CHECKS {
            assert!(SELFTEST.contains(&format!("check_{name}() {{")), "{name}");
        }
        assert_eq!(SELFTEST.matches("\ncheck_").count(), CHECKS.len());
    }
}
