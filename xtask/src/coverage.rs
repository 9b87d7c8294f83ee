//! `cargo xtask coverage`: writes `docs/abi-coverage.md`, what a PV domain gets from each hypercall and command, and which
//! conformance cases exercise it.
//!
//! Nothing in it is claimed by hand. The hypercalls and commands are those of `abi`; whether one is served is what the
//! dispatcher answers in a test of `hypervisor/core`, which keeps its findings in `answers.txt`; the cases are found in
//! the source of the conformance suite ([`scan`]). What a person adds is in [`notes`]: why something is not served. The check
//! of `cargo xtask lint` fails where the page is old and where a served command has no case.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use xen_abi::hypercall::commands::{Command, for_each};
use xen_abi::hypercall::{Hypercall, TABLE};

use crate::progress::Step;
use crate::{process, project};

mod notes;
mod page;
pub mod scan;

/// What the dispatcher answers to a hypercall or command.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answers {
    /// To the first domain.
    first: String,
    /// To another.
    other: String,
}

/// One line of the page.
struct Entry {
    /// The C name.
    c: String,
    /// The constant.
    name: &'static str,
    number: u64,
    answers: Answers,
    /// The cases, by name.
    cases: Vec<String>,
}

impl Entry {
    fn is_served(&self) -> bool {
        self.answers.first == "served"
    }
}

/// One hypercall with its commands.
struct Section {
    call: &'static Hypercall,
    whole: Entry,
    commands: Vec<Entry>,
}

/// Asks the dispatcher anew and writes the page.
///
/// # Errors
/// The test does not compile, or a served command has no case.
pub fn run() -> Result<()> {
    let step = Step::start("asking the dispatcher");
    let mut cargo = process::host_cargo();
    cargo.args(["test", "--quiet", "--package", "hypervisor-core", "--lib", "answers"]);
    process::run_in_step(cargo.env("PARAVANE_WRITE_ANSWERS", "1"), &step)?;
    step.done();
    let sections = sections()?;
    fs::write(page_path(), page::text(&sections)).context("writing the page")?;
    println!("{}", page_path().display());
    gaps(&sections)
}

/// The check: the page is what [`run`] would write of the answers on file, and nothing lacks a case.
///
/// # Errors
/// It is not, or something does.
pub fn check(_: &Step) -> Result<()> {
    let sections = sections()?;
    let written = fs::read_to_string(page_path()).context("reading the page")?;
    ensure!(written == page::text(&sections), "docs/abi-coverage.md is old: run `cargo xtask coverage`");
    gaps(&sections)
}

fn page_path() -> PathBuf {
    project::root().join("docs/abi-coverage.md")
}

/// Everything that the page says.
fn sections() -> Result<Vec<Section>> {
    let mut answers = read_answers()?;
    let cases = scan::scan(&project::root().join("tests/conformance/src"))?;
    let mut answer = |name: &str| {
        answers.remove(name).with_context(|| format!("no answer of {name} yet: run `cargo xtask coverage`"))
    };
    let mut commands: BTreeMap<u32, Vec<Command>> = BTreeMap::new();
    for_each(&mut |command| commands.entry(command.hypercall).or_default().push(command));
    let covering = |names: &[String]| -> Vec<String> {
        let covers = |mentions: &scan::Names| names.iter().any(|name| mentions.contains(name));
        cases.iter().filter(|(_, mentions)| covers(mentions)).map(|(case, _)| case.clone()).collect()
    };
    let mut sections = Vec::new();
    for call in TABLE.iter().filter(|call| call.callers.pv || call.callers.privileged) {
        let mut own = commands.remove(&call.nr).unwrap_or_default();
        own.sort_by_key(|command| command.number);
        let constant = call.name.to_uppercase();
        let entries = own.iter().map(|command| {
            Ok(Entry {
                c: command.c.to_owned(),
                name: command.name,
                number: command.number,
                answers: answer(command.name)?,
                cases: covering(&[command.name.to_owned()]),
            })
        });
        let entries = entries.collect::<Result<Vec<Entry>>>()?;
        let mut names = vec![format!("nr::{constant}")];
        names.extend(own.iter().map(|command| command.name.to_owned()));
        let whole = Entry {
            c: call.name.to_owned(),
            name: call.name,
            number: call.nr.into(),
            answers: answer(call.name)?,
            cases: covering(&names),
        };
        sections.push(Section { call, whole, commands: entries });
    }
    Ok(sections)
}

/// `name`, answer to the first domain, answer to another: separated by tabs.
fn read_answers() -> Result<BTreeMap<String, Answers>> {
    let path = project::root().join("hypervisor/core/src/hypercall/tests/answers.txt");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    text.lines()
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [name, first, other] = fields[..] else { bail!("{line:?} in {}", path.display()) };
            Ok((name.to_owned(), Answers { first: first.to_owned(), other: other.to_owned() }))
        })
        .collect()
}

/// What is served without a case.
fn gaps(sections: &[Section]) -> Result<()> {
    let without: Vec<&str> = sections
        .iter()
        .flat_map(|section| {
            let alone = section.commands.is_empty().then_some(&section.whole);
            section.commands.iter().chain(alone)
        })
        .filter(|entry| entry.is_served() && entry.cases.is_empty())
        .map(|entry| entry.name)
        .collect();
    ensure!(
        without.is_empty(),
        "no conformance case: {}; `#[covers(…)]` names what a case's code does not",
        without.join(", ")
    );
    Ok(())
}
