//! `cargo xtask run --domains FILE`: a description of domains, and the boot modules that it names.
//!
//! The hypervisor reads the same text, and finds a module by the first word behind its file name: that is what the
//! description calls it, unchanged.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use hypervisor_core::description::{Descriptions, Storage};

use crate::cpio::Archive;
use crate::qemu::{Machine, Module};
use crate::setup::{self, Need};
use crate::{build, debian, initramfs, project};

/// Adds the description and the modules of its domains to a machine. Where the first domain is described, or `alone` says that
/// there is none, the description becomes the first module.
///
/// # Errors
/// The description has a mistake, or names what is not there.
pub fn add(machine: &mut Machine, file: &Path, alone: bool) -> Result<()> {
    let text = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let described = Descriptions::parse(&text).map_err(|problem| anyhow!("{}, {problem}", file.display()))?;
    let described_first = described.domains.iter().any(|domain| domain.id == Some(0));
    if alone || described_first {
        (machine.kernel, machine.initrd) = (None, None);
    }
    // It has the machine's network card, for the bridge of those that it serves.
    machine.net |= described_first && described.domains.iter().any(|domain| !domain.devices.nets.is_empty());
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    // The hypervisor must know the text for what it is.
    ensure!(name.ends_with(".toml"), "the name of a description ends in .toml, {name} does not");
    machine.modules.push(Module { path: file.into(), name: String::new() });
    let text = String::from_utf8_lossy(&text);
    let name_stem = name.trim_end_matches(".toml").to_owned();
    let kernels = described.domains.iter().map(|domain| &domain.kernel);
    let initrds = described.domains.iter().filter_map(|domain| domain.initrd.as_ref());
    let folder = file.parent().unwrap_or(Path::new("."));
    for name in kernels.chain(initrds).collect::<BTreeSet<_>>() {
        ensure!(!name.contains(char::is_whitespace), "QEMU cannot name a module `{name}`: it has a blank");
        let path = match name.as_str() {
            ARCHIVE => archive(&name_stem, &text, &described, folder)?,
            name => find(name, folder)?,
        };
        machine.modules.push(Module { path, name: name.clone() });
    }
    Ok(())
}

/// The module with what a driver domain needs: the description, and the files of the disks that it serves.
const ARCHIVE: &str = "drivers:archive";
/// What the description is called in it.
const DESCRIPTION: &str = "domains.toml";

fn archive(stem: &str, text: &str, described: &Descriptions, folder: &Path) -> Result<PathBuf> {
    let mut archive = Archive::default();
    archive.file(DESCRIPTION, 0o644, text.as_bytes());
    let disks = described.domains.iter().flat_map(|domain| &domain.devices.disks);
    let files = disks.filter_map(|disk| match &disk.storage {
        Storage::File(file) => Some(file),
        _ => None,
    });
    for name in files.collect::<BTreeSet<_>>() {
        let path = find(name, folder)?;
        archive.file(name, 0o644, &fs::read(&path).with_context(|| format!("reading {}", path.display()))?);
    }
    fs::create_dir_all(project::guests())?;
    let path = project::guests().join(format!("{stem}.archive.cpio"));
    fs::write(&path, archive.finish())?;
    Ok(path)
}

/// The file of a module or a disk: `debian:vmlinuz`, `guest:initramfs`, `guest:root.ext4`, `guest:<a guest>`, or a path from the description's folder.
fn find(name: &str, folder: &Path) -> Result<PathBuf> {
    match name.split_once(':') {
        Some(("debian", "vmlinuz")) => {
            setup::ensure(&[Need::GuestFiles])?;
            Ok(debian::vmlinuz())
        }
        Some(("guest", "initramfs")) => {
            setup::ensure(&[Need::GuestFiles])?;
            initramfs::build()
        }
        Some(("guest", "root.ext4")) => {
            setup::ensure(&[Need::GuestFiles])?;
            initramfs::root_image()
        }
        Some(("guest", guest)) => {
            let names = build::guest_names()?;
            ensure!(
                names.iter().any(|name| name == guest),
                "no guest {guest}: there are initramfs, root.ext4, {}",
                names.join(", ")
            );
            build::guests()?;
            Ok(project::guest_elf(guest))
        }
        _ => {
            let path = folder.join(name);
            ensure!(path.is_file(), "there is no {} for the module `{name}`", path.display());
            Ok(path)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::Hypervisor;

    #[test]
    fn a_described_machine() {
        let folder = project::target().join("domains-test");
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("machine.toml");
        let domain = |name: &str, kernel: &str| {
            format!("[[domain]]\nname = \"{name}\"\nkernel = \"{kernel}\"\nmemory = \"16M\"\n")
        };
        fs::write(folder.join("k"), b"").unwrap();
        fs::write(&file, domain("a", "k") + &domain("b", "k")).unwrap();
        let mut machine = Machine::new(Hypervisor::Paravane);
        machine.kernel = Some(folder.join("k"));
        add(&mut machine, &file, false).unwrap();
        let names: Vec<_> = machine.modules.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["", "k"], "each module once");
        assert!(machine.kernel.is_some());
        add(&mut machine, &file, true).unwrap();
        assert!(machine.kernel.is_none());
        fs::write(&file, domain("a", "nix")).unwrap();
        let error = add(&mut machine, &file, false).unwrap_err().to_string();
        assert!(error.ends_with("nix for the module `nix`"), "{error}");
        let first = "[[domain]]\nid = 0\nname = \"first\"\nkernel = \"k\"\n";
        fs::write(&file, first.to_owned() + &domain("b", "k") + "served_by = \"first\"\n[[domain.net]]\n")
            .unwrap();
        let mut machine = Machine::new(Hypervisor::Paravane);
        add(&mut machine, &file, false).unwrap();
        assert!(machine.net);
        fs::write(&file, "[[domain]]\n").unwrap();
        let error = add(&mut machine, &file, false).unwrap_err().to_string();
        assert!(error.ends_with("machine.toml, line 1: this domain has no `name`"), "{error}");
    }
}
