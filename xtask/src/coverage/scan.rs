//! What each conformance case exercises, read from its source: the constants that its body names, or that the helper
//! functions which it calls name.
//!
//! No name resolution to speak of: a function is found by its name in the same file, in the modules that a `use` line of the file
//! mentions beside that name, or behind the name of the module (`control::info`). The harness is left out: it
//! prepares, and checks nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow};
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// Functions of the harness that every case imports; helpers elsewhere may be called the same.
const JUDGES: [&str; 3] = ["check", "need", "same"];

/// Names that a case or a function mentions; `a::b` for a path's last two.
pub type Names = BTreeSet<String>;

/// One file of the suite.
#[derive(Default, Debug)]
struct File {
    /// Names that each of its `use` lines mentions.
    imports: Vec<Names>,
    /// What each function mentions.
    functions: BTreeMap<String, Names>,
    /// What each case mentions.
    cases: BTreeMap<String, Names>,
}

/// By case (`module::name`): every name that it mentions by itself or through helpers.
///
/// # Errors
/// A file cannot be read, or is not Rust.
pub fn scan(suite: &Path) -> Result<BTreeMap<String, Names>> {
    let mut files = BTreeMap::new();
    for path in sources(suite)? {
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let file = read(&text).with_context(|| format!("in {}", path.display()))?;
        files.insert(module_of(&path, suite), file);
    }
    let mut cases = BTreeMap::new();
    for (module, file) in &files {
        let Some(folder) = module.strip_prefix("cases::") else { continue };
        for (name, mentions) in &file.cases {
            cases.insert(format!("{folder}::{name}"), closure(&files, file, mentions));
        }
    }
    Ok(cases)
}

/// All files but the harness.
fn sources(suite: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![suite.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() && !path.ends_with("harness") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    Ok(files)
}

fn module_of(path: &Path, suite: &Path) -> String {
    let path = path.strip_prefix(suite).unwrap_or(path).with_extension("");
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).filter(|part| part != "mod").collect();
    parts.join("::")
}

fn read(text: &str) -> Result<File> {
    let tokens = TokenStream::from_str(text).map_err(|error| anyhow!("{error}"))?;
    let mut file = File::default();
    items(tokens, &mut file);
    Ok(file)
}

/// Goes through items, into the bodies of `mod` and `impl` and of the macros that define cases.
fn items(tokens: TokenStream, file: &mut File) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        let word = word(&tokens[at]);
        match (word.as_deref(), tokens.get(at + 1)) {
            (Some("use"), _) => {
                let end = end_of(&tokens, at, ';');
                let mut names = Names::new();
                mentions(tokens[at..end].iter().cloned().collect(), &mut names);
                file.imports.push(names);
                at = end;
            }
            (Some("fn"), Some(TokenTree::Ident(name))) => {
                let body = tokens[at..].iter().position(|token| braces(token).is_some()).map(|n| at + n);
                let end = body.unwrap_or(tokens.len() - 1);
                let names = file.functions.entry(name.to_string()).or_default();
                mentions(tokens[at + 2..=end].iter().cloned().collect(), names);
                at = end;
            }
            (Some("case"), _) => {
                if let Some(body) = tokens.get(at + 2).and_then(braces) {
                    case(body, file);
                }
                at += 2;
            }
            (Some("returns"), _) => {
                if let Some(body) = tokens.get(at + 2).and_then(braces) {
                    returns(body, file);
                }
                at += 2;
            }
            (Some("mod" | "impl"), _) => {
                if let Some(body) = tokens[at..].iter().find_map(braces) {
                    items(body.stream(), file);
                }
                at = tokens[at..].iter().position(|token| braces(token).is_some()).map_or(at, |n| at + n);
            }
            _ => {}
        }
        at += 1;
    }
}

/// `case! { attributes fn name(env) { … } }`.
fn case(body: &Group, file: &mut File) {
    let tokens: Vec<TokenTree> = body.stream().into_iter().collect();
    let name = tokens.windows(2).find(|pair| word(&pair[0]).as_deref() == Some("fn"));
    if let Some(name) = name.and_then(|pair| word(&pair[1])) {
        mentions(body.stream(), file.cases.entry(name).or_default());
    }
}

/// `returns! { (attributes name(env): call => want;)* }`.
fn returns(body: &Group, file: &mut File) {
    let tokens: Vec<TokenTree> = body.stream().into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        let end = end_of(&tokens, at, ';');
        let item = &tokens[at..end];
        // The first word outside of the attributes, which are groups.
        if let Some(name) = item.iter().find_map(word) {
            mentions(item.iter().cloned().collect(), file.cases.entry(name).or_default());
        }
        at = end + 1;
    }
}

/// Index of the next `mark`, or the end.
fn end_of(tokens: &[TokenTree], from: usize, mark: char) -> usize {
    let is_mark = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == mark);
    tokens[from..].iter().position(is_mark).map_or(tokens.len(), |n| from + n)
}

fn word(token: &TokenTree) -> Option<String> {
    match token {
        TokenTree::Ident(word) => Some(word.to_string()),
        _ => None,
    }
}

fn braces(token: &TokenTree) -> Option<&Group> {
    match token {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => Some(group),
        _ => None,
    }
}

/// Every word of `tokens`, and every pair `a::b`.
fn mentions(tokens: TokenStream, names: &mut Names) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => mentions(group.stream(), names),
            TokenTree::Ident(name) => {
                if let [.., TokenTree::Ident(module), TokenTree::Punct(a), TokenTree::Punct(b)] =
                    &tokens[..at]
                    && (a.as_char(), b.as_char()) == (':', ':')
                {
                    names.insert(format!("{module}::{name}"));
                }
                names.insert(name.to_string());
            }
            _ => {}
        }
    }
}

/// The names of a case of `file`, with those of all functions that it reaches.
fn closure(files: &BTreeMap<String, File>, file: &File, start: &Names) -> Names {
    let mut all = Names::new();
    let mut open: Vec<(&File, &Names)> = vec![(file, start)];
    while let Some((file, names)) = open.pop() {
        for name in names {
            if all.insert(name.clone()) {
                open.extend(functions(files, file, name));
            }
        }
    }
    all
}

/// The functions that `name` may mean in `file`.
fn functions<'a>(
    files: &'a BTreeMap<String, File>,
    file: &'a File,
    name: &str,
) -> Vec<(&'a File, &'a Names)> {
    if let Some((module, function)) = name.split_once("::") {
        let suffix = format!("::{module}");
        let of_module = |(path, _): &(&String, &File)| *path == module || path.ends_with(&suffix);
        let found = files.iter().filter(of_module);
        return found.filter_map(|(_, file)| Some((file, file.functions.get(function)?))).collect();
    }
    if let Some(names) = file.functions.get(name) {
        return vec![(file, names)];
    }
    if JUDGES.contains(&name) {
        return Vec::new();
    }
    let lines: Vec<_> = file.imports.iter().filter(|line| line.contains(name)).collect();
    let is_named = |path: &str| {
        let module = path.rsplit("::").next().unwrap_or(path);
        lines.iter().any(|line| line.contains(module))
    };
    let named = files.iter().filter(|(path, _)| is_named(path));
    named.filter_map(|(_, file)| Some((file, file.functions.get(name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite(files: &[(&str, &str)]) -> BTreeMap<String, Names> {
        let folder = std::env::temp_dir().join(format!("paravane-scan-{}", std::process::id()));
        for (path, text) in files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let cases = scan(&folder).unwrap();
        fs::remove_dir_all(folder).unwrap();
        cases
    }

    #[test]
    fn constants_are_found_in_bodies_and_helpers() {
        let cases = suite(&[
            (
                "cases/event.rs",
                "use super::help::{sent, other};
                 fn close(port: u32) -> Ret { event(EVTCHNOP_CLOSE, port) }
                 returns! {
                     /// Clause; with a semicolon.
                     #[alone]
                     one(env): { close(1); 2 } => Ok(2);
                     /// Two.
                     two(env): sent() => Err(Errno::EINVAL);
                 }
                 case! {
                     /// Three.
                     #[covers(IRET)]
                     fn three(env) { control::info(0) }
                 }",
            ),
            (
                "cases/help.rs",
                "pub fn sent() { deep() } fn deep() { EVTCHNOP_SEND } pub fn unused() { EVTCHNOP_STATUS }",
            ),
            ("peer/control.rs", "impl A { pub fn info(d: u16) { XEN_DOMCTL_GETDOMAININFO } }"),
            ("call.rs", "pub fn info() { WRONG } fn sent() { WRONG }"),
        ]);
        let has = |case: &str, name: &str| cases[case].contains(name);
        assert_eq!(cases.len(), 3);
        assert!(has("event::one", "EVTCHNOP_CLOSE") && !has("event::one", "EVTCHNOP_SEND"));
        assert!(has("event::two", "EVTCHNOP_SEND") && !has("event::two", "EVTCHNOP_STATUS"));
        assert!(has("event::three", "IRET") && has("event::three", "XEN_DOMCTL_GETDOMAININFO"));
        assert!(!has("event::two", "WRONG") && !has("event::three", "WRONG"));
    }
}
