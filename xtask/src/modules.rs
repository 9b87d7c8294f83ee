//! Loadable kernel modules: which files a set of names needs, in the order they must be loaded.
//!
//! The package ships no `modules.dep`, so the `depends=` and `softdep=` strings of each module's `.modinfo` are read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use object::{Object, ObjectSection};

use crate::cpio::Archive;
use crate::debian;

/// The files of `wanted` modules and of all they depend on, dependencies first.
///
/// # Errors
/// A module is missing or is no ELF file.
fn closure(folder: &Path, wanted: &[&str]) -> Result<Vec<PathBuf>> {
    let mut index = BTreeMap::new();
    index_folder(folder, &mut index)?;
    let mut order = Order { index, seen: BTreeSet::new(), files: Vec::new() };
    for name in wanted {
        order.visit(name, true)?;
    }
    Ok(order.files)
}

/// Puts the `wanted` modules and all they depend on into `lib/modules` of an archive, and into `order` there the order in which
/// they are loaded.
///
/// # Errors
/// As [`closure`].
pub fn add(archive: &mut Archive, wanted: &[&str]) -> Result<()> {
    let mut order = String::new();
    for path in closure(&debian::modules(), wanted)? {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        archive.file(&format!("lib/modules/{file}"), 0o644, &fs::read(&path)?);
        order.push_str(&file);
        order.push('\n');
    }
    archive.file("lib/modules/order", 0o644, order.as_bytes());
    Ok(())
}

struct Order {
    index: BTreeMap<String, PathBuf>,
    seen: BTreeSet<String>,
    files: Vec<PathBuf>,
}

impl Order {
    /// A `depends=` module is required; a soft one may be built into the kernel or not be unpacked.
    fn visit(&mut self, name: &str, required: bool) -> Result<()> {
        let name = normal(name);
        let Some(path) = self.index.get(&name).cloned() else {
            return if required {
                Err(anyhow::anyhow!("the kernel package has no module {name}"))
            } else {
                Ok(())
            };
        };
        if !self.seen.insert(name) {
            return Ok(());
        }
        let info = module_info(&path)?;
        for soft in values(&info, "softdep").filter_map(|text| text.strip_prefix("pre: ")) {
            for dependency in soft.split_whitespace() {
                self.visit(dependency, false)?;
            }
        }
        for list in values(&info, "depends") {
            for dependency in list.split(',').filter(|part| !part.is_empty()) {
                self.visit(dependency, true)?;
            }
        }
        self.files.push(path);
        Ok(())
    }
}

/// Module names use `_` and `-` interchangeably.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

fn index_folder(folder: &Path, index: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            index_folder(&path, index)?;
        } else if path.extension().is_some_and(|extension| extension == "ko") {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            index.insert(normal(&stem), path);
        }
    }
    Ok(())
}

fn module_info(path: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(path)?;
    let file = object::File::parse(&*bytes).with_context(|| format!("{} is no module", path.display()))?;
    let section = file.section_by_name(".modinfo").context("a module without .modinfo")?;
    let text = String::from_utf8_lossy(section.data()?).into_owned();
    Ok(text.split('\0').map(str::to_owned).collect())
}

fn values<'a>(info: &'a [String], key: &'a str) -> impl Iterator<Item = &'a str> {
    info.iter().filter_map(move |line| line.strip_prefix(key)?.strip_prefix('='))
}
