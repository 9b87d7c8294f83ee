//! `cargo xtask new-test <name>`: the skeleton of a boot test, already part of the harness.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::project;

/// The choices of `cargo xtask new-test`.
#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// Name of the group: letters, digits and `_`
    pub name: String,
    /// What the test shows, in one sentence; becomes the head of its file
    #[arg(long)]
    pub shows: String,
}

const TEMPLATE: &str = r#"//! @SHOWS@

use anyhow::Result;
use libtest_mimic::Trial;
use xtask::probe::{self, Probe};
use xtask::qemu::{Hypervisor, Machine};
use xtask::session::Session;

use crate::support::{SHORT, trial};

pub fn trials() -> Vec<Trial> {
    vec![trial("@NAME@::boots", boots)]
}

fn boots() -> Result<()> {
    let mut machine = Machine::new(Hypervisor::Paravane);
    machine.kernel = Some(probe::build(Probe::PvGuest)?);
    let mut session = Session::start(&machine)?;
    session.wait_for("tsc=", SHORT)?;
    Ok(())
}
"#;

/// Writes `tests/boot/<name>.rs` and adds it to `tests/boot/main.rs`.
///
/// # Errors
/// The name is taken or no identifier, or the harness has another form than expected.
pub fn run(options: &Options) -> Result<()> {
    let name = &options.name;
    let is_identifier = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    ensure!(is_identifier, "{name:?} is no name of a Rust module");
    let folder = project::root().join("tests/boot");
    let file = folder.join(format!("{name}.rs"));
    ensure!(!file.exists(), "there is a test {name} already");
    let main = folder.join("main.rs");
    let harness = fs::read_to_string(&main)?;
    fs::write(&main, registered(&harness, name).context("tests/boot/main.rs has an unexpected form")?)?;
    let shows = options.shows.trim_end_matches('.');
    fs::write(&file, TEMPLATE.replace("@SHOWS@", &format!("{shows}.")).replace("@NAME@", name))?;
    println!("wrote tests/boot/{name}.rs; run it with `cargo xtask test {name}::`");
    Ok(())
}

/// The harness with one more module, in alphabetical order, whose trials come last.
fn registered(harness: &str, name: &str) -> Option<String> {
    let declaration = format!("mod {name};\n");
    let modules: Vec<usize> = harness.match_indices("\nmod ").map(|(at, _)| at + 1).collect();
    let after_all = modules.last().and_then(|&at| Some(at + harness[at..].find('\n')? + 1))?;
    let place = modules.into_iter().find(|&at| harness[at..] > *declaration).unwrap_or(after_all);
    let conclusion = harness.find("    let conclusion")?;
    (place < conclusion).then(|| {
        let (before, rest) = harness.split_at(place);
        let (middle, end) = rest.split_at(conclusion - place);
        format!("{before}{declaration}{middle}    trials.extend({name}::trials());\n{end}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_module_is_declared_and_run() {
        let harness = "use x;\n\nmod a;\nmod c;\n\nfn main() {\n    let conclusion = 1;\n}\n";
        let expected = "use x;\n\nmod a;\nmod b;\nmod c;\n\nfn main() {\n    trials.extend(b::trials());\n    let conclusion = 1;\n}\n";
        assert_eq!(registered(harness, "b").as_deref(), Some(expected));
        assert!(registered(harness, "z").unwrap().contains("mod c;\nmod z;\n\nfn"));
    }
}
