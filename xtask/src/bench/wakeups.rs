//! `cargo xtask bench wakeups`: how long a vCPU that wakes up waits where another one computes without end, and what is left to
//! that one.
//!
//! The guest `wakeups` measures six patterns of waking on one processor and prints how long half of the rounds, 90 and 99 of a
//! hundred, and all of them waited at most; here they become a table. A scheduler that serves each wake-up at once starves who
//! computes, one that serves all in turn stalls who wakes: the goals keep ours from both.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Choices, display, folder, grouped};
use crate::progress::Step;
use crate::project;
use crate::qemu::{CONSOLE_ARGS, Hypervisor, Machine};
use crate::session::Session;

/// Longest that one boot may take.
const LIMIT: Duration = Duration::from_secs(600);

/// A pattern: key in the guest's output, name for people, and what is asked of ours: 99 of a hundred waits at most so long, in
/// nanoseconds, and at least so many thousandths for who computes.
const PATTERNS: [(&str, &str, u64, u64); 6] = [
    ("light", "woken every 5 ms, asks for 4 %", 20_000, 940),
    ("half", "woken every 5 ms, asks for 40 %", 20_000, 580),
    ("greedy", "woken every 5 ms, asks for 80 %", 11_000_000, 480),
    ("exchange", "two that wake each other", 50_000, 320),
    ("nap1", "sleeps for 1 us, again and again", 1_050_000, 950),
    ("nap4", "sleeps for 4 us, again and again", 1_050_000, 950),
];

/// The line of one pattern.
struct Counted {
    hypervisor: String,
    pattern: &'static str,
    /// Nanoseconds that 50, 90, 99 and 100 of a hundred rounds waited at most.
    waits: [u64; 4],
    /// Thousandths of the time for who computes.
    share: u64,
    met: bool,
}

/// Counts, prints, and writes `target/bench/wakeups.json`.
pub(super) fn run(choices: &Choices) -> Result<()> {
    let mut all = Vec::new();
    for (hypervisor, args) in
        [(Hypervisor::Paravane, ""), (Hypervisor::Xen, ""), (Hypervisor::Xen, "sched=credit")]
    {
        all.extend(count(&hypervisor, args)?);
    }
    let rows = all.iter().map(|row| {
        json!({ "hypervisor": row.hypervisor, "pattern": row.pattern, "waits": row.waits, "computing": row.share })
    });
    let report = json!({ "unit": "ns", "rows": rows.collect::<Vec<_>>() });
    fs::write(folder()?.join("wakeups.json"), format!("{report:#}\n"))?;
    if choices.json {
        println!("{report:#}");
    } else {
        print(&all);
    }
    let missed = all.iter().filter(|row| !row.met).count();
    ensure!(missed == 0, "{missed} patterns miss their goal on Paravane");
    Ok(())
}

fn print(all: &[Counted]) {
    println!(
        "{:<20} {:<34} {:>11} {:>11} {:>11} {:>11} {:>10}",
        "", "", "50 %", "90 %", "99 %", "worst", "computing"
    );
    for row in all {
        let [half, most, nearly, worst] = row.waits.map(grouped);
        let share = format!("{}.{} %", row.share / 10, row.share % 10);
        println!(
            "{:<20} {:<34} {half:>11} {most:>11} {nearly:>11} {worst:>11} {share:>10}",
            row.hypervisor, row.pattern
        );
    }
    println!(
        "nanoseconds from the wake-up to the vCPU (two that wake each other: there and back), and what is left to who computes"
    );
    println!("files: {}", display(&["wakeups.json"]));
}

fn count(hypervisor: &Hypervisor, args: &str) -> Result<Vec<Counted>> {
    let name = format!("{} {args}", hypervisor.name()).trim().to_owned();
    let step = Step::start(format!("waking on {name}"));
    let mut machine = Machine::new(hypervisor.clone());
    machine.hypervisor_args = format!("{CONSOLE_ARGS} dom0_max_vcpus=3 {args}");
    machine.kernel = Some(project::guest_elf("wakeups"));
    machine.icount = true;
    let mut session = Session::start(&machine)?;
    let output = session.wait_for("wakeups done", LIMIT)?;
    step.done();
    let ours = matches!(hypervisor, Hypervisor::Paravane);
    PATTERNS
        .iter()
        .map(|(key, pattern, longest, least)| {
            let (waits, share) =
                parse(&output, key).with_context(|| format!("`wakeups {key}` was not printed"))?;
            let met = !ours || waits[2] <= *longest && share >= *least;
            Ok(Counted { hypervisor: name.clone(), pattern, waits, share, met })
        })
        .collect()
}

/// Reads the line `wakeups KEY: A B C D, computing E`.
fn parse(output: &str, key: &str) -> Option<([u64; 4], u64)> {
    let lines = output.lines().filter_map(|line| line.trim().strip_prefix("wakeups ")?.split_once(": "));
    let (_, figures) = lines.into_iter().find(|(found, _)| *found == key)?;
    let (waits, share) = figures.split_once(", computing ")?;
    let waits: Vec<u64> = waits.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
    Some((waits.try_into().ok()?, share.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_between_other_lines() {
        let output =
            "(XEN) hello\r\nwakeups light: 1 2 3 4, computing 950\r\nwakeups half: 5 6 7, computing 1\r\n";
        assert_eq!(parse(output, "light"), Some(([1, 2, 3, 4], 950)));
        assert_eq!(parse(output, "half"), None);
        assert_eq!(parse(output, "greedy"), None);
    }
}
