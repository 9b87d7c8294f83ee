//! `cargo xtask bench latency`: how long work that is raised for a CPU waits while a guest keeps the hypervisor busy.
//!
//! The kernel of `tests/micro` asks for what takes long, one thing after the other, while a timer of its own expires every few
//! thousand ticks. From a deadline to its event passes what the hypervisor does without a look at the work of its CPU, and the way
//! to the kernel's handler, which the row `idle` has alone. A neighbour's timer on the same CPU would wait as long, and for its
//! turn.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Choices, display, folder, grouped};
use crate::progress::Step;
use crate::project;
use crate::qemu::{CONSOLE_ARGS, Hypervisor, Machine};
use crate::session::Session;

/// Longest that the boot may take.
const LIMIT: Duration = Duration::from_secs(300);
/// Ticks that the hypervisor may go on without a look, the way to the guest's handler included.
pub const LONGEST: u64 = 50_000;

/// Key in the kernel's output, name for people.
const ROWS: [(&str, &str); 14] = [
    ("idle", "nothing: the way to the handler"),
    ("pin_tables", "pin of 65,000 entries"),
    ("update_tables", "mmu_update of 256, 20 times"),
    ("unpin_tables", "unpin of 65,000 entries"),
    ("set_gdt", "set_gdt of 14 new frames"),
    ("set_ldt", "set_ldt of 16 new frames"),
    ("populate_16m", "populate_physmap of 16 MiB"),
    ("decrease_16m", "decrease_reservation of 16 MiB"),
    ("exchange_2m", "exchange of 512 frames for 2 MiB"),
    ("grant_table_grow", "grant table of 64 frames"),
    ("grant_table_version", "grant table of 64 frames, version 2 and back"),
    ("fifo_init", "change to the FIFO ABI"),
    ("fifo_expand", "127 pages of event words"),
    ("port_search", "search for a port, 130,000 linked"),
];

/// A row that was counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// What the kernel calls it.
    pub key: &'static str,
    /// What it is.
    pub name: &'static str,
    /// The longest from a deadline to its event.
    pub ticks: u64,
}

/// Counts, prints, and writes `target/bench/latency.json`.
pub(super) fn run(choices: &Choices) -> Result<()> {
    choices.check(ROWS.iter().flat_map(|(key, name)| [*key, *name]))?;
    let mut waits = longest_waits()?;
    waits.retain(|wait| choices.wants(wait.key) || choices.wants(wait.name));
    let rows = waits.iter().map(|wait| json!({ "key": wait.key, "name": wait.name, "ticks": wait.ticks }));
    let report = json!({ "unit": "ticks", "rows": rows.collect::<Vec<_>>() });
    fs::write(folder()?.join("latency.json"), format!("{report:#}\n"))?;
    if choices.json {
        println!("{report:#}");
    } else {
        for wait in &waits {
            println!("{:<48} {:>10}", wait.name, grouped(wait.ticks));
        }
        println!("ticks: instructions from a deadline to its event, the longest while that ran");
        println!("files: {}", display(&["latency.json"]));
    }
    let missed = waits.iter().filter(|wait| wait.ticks > LONGEST).count();
    ensure!(missed == 0, "{missed} of {} rows are above {LONGEST} ticks", waits.len());
    Ok(())
}

/// Boots the kernel and counts all rows.
///
/// # Errors
/// A boot that fails, or a row that is not counted.
pub fn longest_waits() -> Result<Vec<Wait>> {
    let step = Step::start("counting how long work waits".to_owned());
    let mut machine = Machine::new(Hypervisor::Paravane);
    machine.hypervisor_args = format!("{CONSOLE_ARGS} dom0_mem=128M");
    machine.kernel = Some(project::guest_elf("micro"));
    machine.kernel_args = "latency".into();
    machine.icount = true;
    let mut session = Session::start(&machine)?;
    let output = session.wait_for("micro done", LIMIT)?;
    step.done();
    parse(&output)
}

/// Reads lines `latency KEY: TICKS`.
fn parse(output: &str) -> Result<Vec<Wait>> {
    let row = |(key, name): (&'static str, &'static str)| {
        let figure = |line: &str| {
            let (found, rest) = line.trim().strip_prefix("latency ")?.split_once(": ")?;
            (found == key).then(|| rest.to_owned())
        };
        let told =
            output.lines().find_map(figure).with_context(|| format!("`latency {key}` was not printed"))?;
        let ticks = told.parse().with_context(|| format!("`latency {key}`: {told}"))?;
        Ok(Wait { key, name, ticks })
    };
    ROWS.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_must_be_there_with_a_number() {
        let lines =
            |number: &str| ROWS.map(|(key, _)| format!("(HV) x\r\nlatency {key}: {number}\r\n")).concat();
        let waits = parse(&lines("1234")).unwrap();
        assert_eq!((waits.len(), waits[3].ticks), (ROWS.len(), 1234));
        assert!(parse(&lines("missing, no memory")).is_err());
        assert!(parse("latency idle: 5\n").is_err());
    }
}
