//! Rules that look at one file at a time.

use std::path::Path;

use super::{Finding, Source};

/// The longest file that a reader should meet.
const MAX_LINES: usize = 600;
/// How far above an `unsafe` block its reason may start to be written.
const SAFETY_DISTANCE: usize = 12;
/// Crates that promise to hold no unsafe code at all, by the file that says so.
const SAFE_CRATES: &[&str] = &[
    "abi/src/lib.rs",
    "hypervisor/core/src/lib.rs",
    "hypervisor/unpack/src/lib.rs",
    "pv-drivers/src/lib.rs",
    "pv-drivers/driver-domain/src/lib.rs",
];

/// Whether the rules know this kind of file.
pub fn applies_to(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    matches!(&*extension, "rs" | "S" | "sh" | "md" | "toml")
}

/// All findings in one file.
pub fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::from_iter(length(source));
    match source.path.extension().unwrap_or_default().to_str() {
        Some("rs") => {
            findings.extend(head(source));
            findings.extend(safety(source));
            findings.extend(safe_crate(source));
            findings.extend(markers(source));
        }
        Some("S" | "sh") => findings.extend(markers(source)),
        Some("toml") => findings.extend(lint_opt_in(source)),
        _ => {}
    }
    findings
}

fn finding(source: &Source, line: usize, message: impl Into<String>) -> Finding {
    Finding { file: source.path.clone(), line, message: message.into() }
}

fn length(source: &Source) -> Option<Finding> {
    let lines = source.text.lines().count();
    (lines > MAX_LINES).then(|| finding(source, 0, format!("{lines} lines; split it below {MAX_LINES}")))
}

/// Each file starts by saying what it owns.
fn head(source: &Source) -> Option<Finding> {
    let first = source.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let has_head = first.starts_with("//!") || first.starts_with("#![doc");
    (!has_head).then(|| finding(source, 1, "the file does not start with `//!`"))
}

/// Unfinished work belongs into the issue tracker.
fn markers(source: &Source) -> Vec<Finding> {
    // Spelled in two halves so that this file passes its own rule.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
    ];
    numbered(source)
        .flat_map(|(number, line)| {
            words.iter().filter(|word| contains_word(line, word)).map(move |word| (number, word))
        })
        .map(|(number, word)| finding(source, number, format!("{word}: finish it or write an issue")))
        .collect()
}

/// `word` not as part of a longer one, such as a mask called `0xXXX` or a constant.
fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part)
    })
}

/// Each `unsafe` block, function body and impl says why it is sound.
fn safety(source: &Source) -> Vec<Finding> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut findings = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let is_block = code.contains("unsafe {") || code.trim_start().starts_with("unsafe impl");
        if !is_block || code.contains('"') {
            continue;
        }
        let above = &lines[index.saturating_sub(SAFETY_DISTANCE)..=index];
        if !above.iter().any(|line| line.contains("SAFETY") || line.contains("# Safety")) {
            findings.push(finding(source, index + 1, "`unsafe` without a `// SAFETY:` comment"));
        }
    }
    findings
}

fn safe_crate(source: &Source) -> Option<Finding> {
    let is_root = SAFE_CRATES.iter().any(|root| source.path == Path::new(root));
    let forbids = source.text.lines().any(|line| line.trim() == "#![forbid(unsafe_code)]");
    (is_root && !forbids).then(|| finding(source, 1, "this crate must say #![forbid(unsafe_code)]"))
}

/// Every package takes the workspace's lints.
fn lint_opt_in(source: &Source) -> Option<Finding> {
    let is_package =
        source.path.ends_with("Cargo.toml") && source.text.lines().any(|line| line.trim() == "[package]");
    let opted_in = source.text.contains("[lints]\nworkspace = true");
    (is_package && !opted_in).then(|| finding(source, 0, "add `[lints]` with `workspace = true`"))
}

fn numbered(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    source.text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, text: &str) -> Vec<String> {
        let source = Source { path: path.into(), text: text.into() };
        check(&source).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_good_file_passes() {
        let text = "//! Owns it.\n\nfn f() {\n    // SAFETY: the pointer is ours.\n    unsafe { g() }\n}\n";
        assert!(messages("a.rs", text).is_empty());
    }

    #[test]
    fn the_safe_crates_are_where_the_rule_looks() {
        let missing = SAFE_CRATES.iter().find(|root| !crate::project::root().join(root).exists());
        assert_eq!(missing, None);
    }

    #[test]
    fn each_rule_finds_its_flaw() {
        let bare = format!("//! Head.\nfn f() {{\n    {} g() }}\n}}\n", "unsafe {");
        assert_eq!(messages("a.rs", &bare), ["a.rs:3: `unsafe` without a `// SAFETY:` comment"]);
        assert_eq!(messages("a.rs", "fn f() {}\n"), ["a.rs:1: the file does not start with `//!`"]);
        assert_eq!(messages("a.rs", &format!("//! Head.\n// {}\n", concat!("TO", "DO"))).len(), 1);
        assert_eq!(messages("a.rs", &format!("//! Head.\n{}", "\n".repeat(600))).len(), 1);
        assert_eq!(messages("abi/src/lib.rs", "//! Head.\n").len(), 1);
        assert_eq!(messages("a/Cargo.toml", "[package]\nname = \"a\"\n").len(), 1);
        assert!(messages("a/Cargo.toml", "[package]\n[lints]\nworkspace = true\n").is_empty());
    }
}
