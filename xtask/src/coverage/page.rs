//! The text of `docs/abi-coverage.md`.

use super::{Entry, Section, notes};

/// Cases that a cell names before it counts the rest.
const NAMED: usize = 4;

const HEAD: &str = "\
# ABI coverage

What a PV domain gets from each hypercall and command of Xen 4.17, and the conformance cases that exercise it. This page is
written by `cargo xtask coverage`: the commands are those of the crate `xen-abi`, the answers those of the dispatcher, the
cases those of `tests/conformance` whose source names the command.

*served*: its request is read and answered with Xen's results and errors; where that can only be a refusal, the last column says
why. An error: what the domain always hears, as of a command that does not exist. *EPERM*: not for domains without privilege. The
types of all these interfaces are in `abi`, served or not.

32-bit PV guests are missing as a whole: their ELF class, their hypercall arguments (`XEN_DOMCTL_set_address_size`), their
page tables and entry points. Guests of other kinds (HVM, PVH) do not exist here.
";

/// The whole page.
pub fn text(sections: &[Section]) -> String {
    let mut text = format!("{HEAD}\n{}", summary(sections));
    for section in sections.iter().filter(|section| !section.commands.is_empty()) {
        text.push_str(&format!("\n## {}\n\n", section.call.name));
        text.push_str("| command | | first domain | others | cases | |\n|---|---|---|---|---|---|\n");
        for entry in &section.commands {
            text.push_str(&format!(
                "| `{}` | {} | {} | {} | {} | {} |\n",
                entry.c,
                entry.number,
                entry.answers.first,
                entry.answers.other,
                cases(entry),
                notes::of(entry.name)
            ));
        }
    }
    text
}

fn summary(sections: &[Section]) -> String {
    let mut text = String::from(
        "| hypercall | | first domain | others | commands served | cases | |\n|---|---|---|---|---|---|---|\n",
    );
    for Section { call, whole, commands } in sections {
        let served = commands.iter().filter(|command| command.is_served()).count();
        let name = if commands.is_empty() {
            format!("`{}`", call.name)
        } else {
            format!("[`{}`](#{})", call.name, call.name)
        };
        // A hypercall is served where one of its commands is; the dispatcher was asked about command 0.
        let word = |pick: fn(&Entry) -> &str| {
            let served = commands.iter().any(|command| pick(command) == "served");
            if served { "served" } else { pick(whole) }.to_owned()
        };
        text.push_str(&format!(
            "| {name} | {} | {} | {} | {} | {} | {} |\n",
            call.nr,
            notes::answer(call.name).map_or_else(|| word(|entry| &entry.answers.first), str::to_owned),
            notes::answer(call.name).map_or_else(|| word(|entry| &entry.answers.other), str::to_owned),
            if commands.is_empty() { String::new() } else { format!("{served} of {}", commands.len()) },
            if commands.is_empty() { cases(whole) } else { whole.cases.len().to_string() },
            notes::of(call.name)
        ));
    }
    text
}

fn cases(entry: &Entry) -> String {
    let mut named: Vec<String> = entry.cases.iter().take(NAMED).map(|case| format!("`{case}`")).collect();
    if entry.cases.len() > NAMED {
        named.push(format!("{} more", entry.cases.len() - NAMED));
    }
    named.join(", ")
}
