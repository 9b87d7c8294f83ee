//! Rust files that no `mod` reaches: they look alive and are never compiled.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Finding, Source};

/// Files that Cargo finds by their place instead of a `mod`.
const ROOT_NAMES: &[&str] = &["lib.rs", "main.rs", "build.rs"];
/// Folders whose files are targets of their own.
const TARGET_FOLDERS: &[&str] = &["examples", "benches", "tests", "bin", "fuzz_targets"];

/// One finding for each file that nothing includes.
pub fn check(sources: &[Source]) -> Vec<Finding> {
    let declared: BTreeSet<PathBuf> = sources.iter().flat_map(declared_by).collect();
    sources
        .iter()
        .filter(|source| source.path.extension().is_some_and(|ext| ext == "rs"))
        .filter(|source| !is_root(&source.path) && !declared.contains(&source.path))
        .map(|source| Finding {
            file: source.path.clone(),
            line: 0,
            message: "no `mod` declares this file".to_owned(),
        })
        .collect()
}

fn is_root(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    ROOT_NAMES.contains(&&*name) || TARGET_FOLDERS.contains(&&*folder)
}

/// The files that the `mod name;` and `include!` lines of one file stand for.
fn declared_by(source: &Source) -> Vec<PathBuf> {
    let folder = source.path.parent().unwrap_or(Path::new(""));
    let stem = source.path.file_stem().unwrap_or_default();
    let is_mod_root = is_root(&source.path) || stem == "mod";
    let inner = if is_mod_root { folder.to_owned() } else { folder.join(stem) };
    let mut files = Vec::new();
    let mut explicit: Option<String> = None;
    for line in source.text.lines().map(str::trim) {
        if let Some(path) = between(line, "#[path = \"", "\"]") {
            explicit = Some(path.to_owned());
        } else if let Some(name) = mod_name(line) {
            match explicit.take() {
                Some(path) => files.push(normal(&folder.join(path))),
                None => files.extend([inner.join(format!("{name}.rs")), inner.join(name).join("mod.rs")]),
            }
        } else if let Some(path) = between(line, "include!(\"", "\")") {
            files.push(normal(&folder.join(path)));
        }
    }
    files
}

fn mod_name(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("pub ").unwrap_or(line);
    let rest = rest.strip_prefix("pub(crate) ").or_else(|| rest.strip_prefix("pub(super) ")).unwrap_or(rest);
    let name = rest.strip_prefix("mod ")?.strip_suffix(';')?;
    Some(name.trim().trim_start_matches("r#"))
}

fn between<'a>(line: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(start)?;
    Some(rest.split_once(end)?.0)
}

/// Resolves `..` without asking the file system.
fn normal(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for part in path.components() {
        if part == std::path::Component::ParentDir {
            result.pop();
        } else {
            result.push(part);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into() }
    }

    #[test]
    fn only_unreached_files_are_found() {
        let sources = [
            source("a/src/lib.rs", "mod x;\npub(crate) mod y;\n#[path = \"../odd.rs\"]\nmod odd;\n"),
            source("a/src/x.rs", "mod deep;"),
            source("a/src/x/deep.rs", ""),
            source("a/src/y/mod.rs", "mod z;"),
            source("a/src/y/z.rs", ""),
            source("a/odd.rs", ""),
            source("a/src/lost.rs", ""),
            source("a/examples/hello.rs", ""),
        ];
        let lost: Vec<_> = check(&sources).into_iter().map(|finding| finding.file).collect();
        assert_eq!(lost, [PathBuf::from("a/src/lost.rs")]);
    }
}
