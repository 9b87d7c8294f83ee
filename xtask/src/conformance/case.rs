//! The cases, as the conformance kernel's program on the host lists them.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use crate::qemu::Emulator;
use crate::{process, project};

/// One case and what it says about itself (`tests/conformance/src/harness/attribute.rs` has the meaning).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Case {
    /// Module and function.
    pub name: String,
    /// What it checks.
    pub clause: String,
    /// It gets a boot of its own.
    pub alone: bool,
    /// How it must end its domain.
    pub ends: Option<End>,
    /// vCPUs that it needs.
    pub vcpus: Option<u32>,
    /// CPUs of the machine that it needs.
    pub cpus: Option<u32>,
    /// It makes a second domain.
    pub peer: bool,
    /// What it needs of the CPU.
    pub features: Vec<String>,
    /// Emulators on which it may fail, each with the reason.
    pub limits: Vec<(String, String)>,
    /// Hypercalls and commands that it names itself.
    pub covers: Vec<String>,
}

/// How a case ends its domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As crashed.
    Crash,
    /// Switched off.
    PowerOff,
    /// To be started anew.
    Reboot,
}

impl Case {
    /// Reads one line: the name and the attributes, separated by tabs.
    fn parse(line: &str) -> Result<Self> {
        let mut fields = line.split('\t');
        let mut case = Self { name: fields.next().unwrap_or_default().to_owned(), ..Self::default() };
        ensure!(case.name.contains("::"), "no case: {line:?}");
        for field in fields {
            let (key, value) = field.split_once(' ').unwrap_or((field, ""));
            match key {
                "clause" => {
                    let space = if case.clause.is_empty() { "" } else { " " };
                    case.clause = format!("{}{space}{value}", case.clause);
                }
                "alone" => case.alone = true,
                "ends" => {
                    case.alone = true;
                    case.ends = Some(match value {
                        "crash" => End::Crash,
                        "poweroff" => End::PowerOff,
                        "reboot" => End::Reboot,
                        other => bail!("{}: no such end: {other}", case.name),
                    });
                }
                "vcpus" => case.vcpus = Some(value.parse()?),
                "cpus" => case.cpus = Some(value.parse()?),
                "peer" => case.peer = true,
                "feature" => case.features.push(value.to_owned()),
                "emulator" => {
                    let (name, why) = value.split_once(' ').context("a limit without a reason")?;
                    case.limits.push((name.to_owned(), why.to_owned()));
                }
                "covers" => case.covers.extend(value.split(' ').map(str::to_owned)),
                other => bail!("{}: no such attribute: {other}", case.name),
            }
        }
        Ok(case)
    }

    /// Why it may fail on this emulator.
    #[must_use]
    pub fn limit(&self, emulator: Emulator) -> Option<&str> {
        self.limits.iter().find(|(name, _)| name == emulator.name()).map(|(_, why)| why.as_str())
    }

    /// Reads the whole list.
    ///
    /// # Errors
    /// A line that is not a case, or an attribute that this program does not know.
    pub fn parse_all(text: &str) -> Result<Vec<Self>> {
        let mut cases = text.lines().map(Self::parse).collect::<Result<Vec<_>>>()?;
        // The kernel goes by the alphabet as well.
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(cases)
    }
}

fn list_file() -> PathBuf {
    project::guests().join("conformance.cases")
}

/// Builds the kernel's program for the host and keeps what it lists.
///
/// # Errors
/// It does not compile.
pub fn write_list() -> Result<()> {
    let mut cargo = process::host_cargo();
    let text = process::output(cargo.args(["run", "--quiet", "--package", "conformance"]))?;
    fs::create_dir_all(project::guests())?;
    fs::write(list_file(), text).context("writing the list of the cases")
}

/// All cases, as they were when the kernel was built.
///
/// # Errors
/// There is no list yet: `cargo xtask build` makes it.
pub fn all() -> Result<Vec<Case>> {
    let text = fs::read_to_string(list_file()).context("no list of the cases: run `cargo xtask build`")?;
    Case::parse_all(&text)
}

/// Whether `text` matches `pattern`, in which `*` stands for anything: the rule of the kernel's `case=`.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            text.char_indices().map(|(at, _)| &text[at..]).chain([""]).any(|text| matches(rest, text))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read() {
        let text = "b::two\tclause First line,\tclause second.\tends crash\tvcpus 4\tcpus 2\tcovers IRET SCHEDOP_YIELD\n\
                    a::one\tclause Clause.\tfeature avx\tpeer\temulator qemu wrong error code\n";
        let [one, two] = &Case::parse_all(text).unwrap()[..] else { panic!() };
        assert_eq!((one.name.as_str(), one.alone, one.peer), ("a::one", false, true));
        assert_eq!(one.features, ["avx"]);
        assert_eq!(one.limits, [("qemu".to_owned(), "wrong error code".to_owned())]);
        assert_eq!(
            (two.clause.as_str(), two.alone, two.ends),
            ("First line, second.", true, Some(End::Crash))
        );
        assert_eq!((two.vcpus, two.cpus), (Some(4), Some(2)));
        assert_eq!(two.covers, ["IRET", "SCHEDOP_YIELD"]);
        for bad in ["noname", "a::b\tfrobnicate", "a::b\tends well", "a::b\tvcpus many"] {
            assert!(Case::parse_all(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn globs() {
        for (pattern, text, want) in [
            ("*", "", true),
            ("*", "a::b", true),
            ("mmu*", "mmuext::pin", true),
            ("*pin", "mmuext::pin", true),
            ("*::p*n", "mmuext::pin", true),
            ("mmu", "mmuext::pin", false),
            ("*x", "mmuext::pin", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
    }
}
