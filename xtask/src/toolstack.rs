//! A first domain with Xen's own toolstack: Debian's Linux with `xl`, xenstored, the console server and Linux's back
//! ends, as one initramfs.
//!
//! It is what guests of ours meet outside this project. Everything in it is unpacked from Debian's packages when a test
//! asks for it, and nothing is installed. The caller adds files under `test/`; `test/run.sh` is run when `xl` works,
//! and the domain powers off behind it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::{debian, modules, project};

/// Drivers and back ends of the first domain.
const MODULES: &[&str] = &[
    "xen-evtchn",
    "xen-privcmd",
    "xenfs",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-blkback",
    "xen-netback",
    "bridge",
    "brd",
];

/// What no program of the toolstack opens, by the beginning of its path.
const LEFT_OUT: &[&str] = &[
    "usr/share",
    "usr/lib/xen-4.17/lib",
    "usr/lib/xen-4.17/boot",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/perl-base",
];

const INIT: &str = include_str!("toolstack/init.sh");
const DISK: &str = include_str!("toolstack/disk.sh");
const VIF: &str = include_str!("toolstack/vif.sh");

/// Builds the initramfs `target/guests/<name>.toolstack.cpio` with `files` in its folder `test`, and returns its path.
///
/// # Errors
/// A package cannot be downloaded, or is not what was expected.
pub fn build(name: &str, files: &[(&str, &[u8])]) -> Result<PathBuf> {
    let mut archive = Archive::default();
    for dir in ["dev", "proc", "run", "sys", "test", "tmp", "var", "var/lib", "var/log", "var/log/xen"] {
        archive.dir(dir);
    }
    archive.char_device("dev/console", 5, 1);
    add_folder(&mut archive, &debian::toolstack()?, "")?;
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("etc/xen/scripts/paravane-disk", 0o755, DISK.as_bytes());
    archive.file("etc/xen/scripts/paravane-vif", 0o755, VIF.as_bytes());
    archive.file("bin/busybox", 0o755, &fs::read(debian::busybox()).context("reading busybox")?);
    archive.dir("lib/modules");
    modules::add(&mut archive, MODULES)?;
    for (file, bytes) in files {
        archive.file(&format!("test/{file}"), 0o755, bytes);
    }
    fs::create_dir_all(project::guests())?;
    let path = project::guests().join(format!("{name}.toolstack.cpio"));
    fs::write(&path, archive.finish())?;
    Ok(path)
}

/// Adds what is in `folder`, in the order of names, under `inside`.
fn add_folder(archive: &mut Archive, folder: &Path, inside: &str) -> Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if inside.is_empty() { name } else { format!("{inside}/{name}") };
        if LEFT_OUT.contains(&path.as_str()) {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            // The roots above may have been made already; the kernel takes a folder twice.
            archive.dir(&path);
            add_folder(archive, &entry.path(), &path)?;
        } else if kind.is_symlink() {
            archive.symlink(&path, &fs::read_link(entry.path())?.to_string_lossy());
        } else {
            archive.file(&path, 0o755, &fs::read(entry.path())?);
        }
    }
    Ok(())
}
