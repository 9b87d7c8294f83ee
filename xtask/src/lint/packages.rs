//! The published packages as a registry would get them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::PUBLISHED;
use crate::progress::Step;
use crate::{process, project};

/// Packs and unpacks each published package and builds it there, with the others as they were packed.
/// Offline, because what they depend on has been fetched for the checks before.
///
/// # Errors
/// A package does not build, or no folder can be made.
pub fn check(step: &Step) -> Result<()> {
    let home = project::target().join("cargo-home");
    without_unpacked(&users_cargo_home()?, &home)?;
    let mut cargo = process::host_cargo();
    cargo.args(["package", "--quiet", "--offline", "--allow-dirty"]).env("CARGO_HOME", &home);
    for package in PUBLISHED {
        cargo.args(["--package", package]);
    }
    process::run_in_step(&mut cargo, step)
}

/// Where cargo keeps what it downloads: `$CARGO_HOME`, and `.cargo` in the user's home without it.
fn users_cargo_home() -> Result<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    var("CARGO_HOME")
        .or_else(|| var("HOME").map(|home| home.join(".cargo")))
        .context("neither CARGO_HOME nor HOME says where cargo keeps what it downloads: set one")
}

/// Makes `home` a folder like cargo's `original`, but with nothing unpacked yet.
///
/// Cargo unpacks what it packs under a name of the package's folder and version alone, and takes what it finds there
/// of an earlier run: without this, changed packages would be built with each other's old code.
fn without_unpacked(original: &Path, home: &Path) -> Result<()> {
    if home.exists() {
        fs::remove_dir_all(home).with_context(|| format!("removing {}", home.display()))?;
    }
    link_entries(original, home, "registry")?;
    link_entries(&original.join("registry"), &home.join("registry"), "src")
}

/// Makes the folder `links` with a link to each entry of `folder` but the one called `except`. There may be no `folder`.
fn link_entries(folder: &Path, links: &Path, except: &str) -> Result<()> {
    fs::create_dir_all(links).with_context(|| format!("creating {}", links.display()))?;
    if !folder.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        if entry.file_name() != except {
            let link = links.join(entry.file_name());
            std::os::unix::fs::symlink(entry.path(), &link)
                .with_context(|| format!("linking {}", link.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_unpacked_before_is_left_behind() {
        let folder = std::env::temp_dir().join(format!("paravane-packages-{}", std::process::id()));
        let (original, home) = (folder.join("original"), folder.join("home"));
        for path in ["registry/src/-1234/guest-pv-lib-0.1.0", "registry/cache/index"] {
            fs::create_dir_all(original.join(path)).unwrap();
        }
        fs::write(original.join("config.toml"), "# settings").unwrap();

        for _ in 0..2 {
            without_unpacked(&original, &home).unwrap();
            assert!(!home.join("registry/src").exists());
            assert!(home.join("registry/cache/index").is_dir());
            assert_eq!(fs::read_to_string(home.join("config.toml")).unwrap(), "# settings");
            fs::create_dir_all(home.join("registry/src/-1234")).unwrap();
        }
        // Removing the links of the run before leaves what they lead to.
        assert!(original.join("registry/src/-1234/guest-pv-lib-0.1.0").is_dir());
        fs::remove_dir_all(&folder).unwrap();
    }
}
