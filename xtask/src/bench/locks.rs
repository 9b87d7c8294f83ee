//! `cargo xtask bench locks`: what a lock costs where virtual CPUs share a processor, spinning and sleeping.
//!
//! The guest `locks` does the same work three ways and prints the ticks; here they become a table: how many times the
//! work alone each way takes. 1 is the least there can be. What is above it with a spinning lock is lock-holder
//! preemption: CPUs that spin for a lock whose holder waits for the processor that they spin on.

use std::collections::BTreeMap;
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
/// What the sleeping lock may take, as a multiple of the work.
const GOAL: f64 = 1.1;

/// Virtual CPUs of the guest; the machine has one processor.
const VCPUS: [u32; 2] = [2, 4];

/// One boot's figures.
struct Counted {
    hypervisor: String,
    vcpus: u32,
    alone: u64,
    spinning: u64,
    sleeping: u64,
}

impl Counted {
    #[expect(clippy::cast_precision_loss, reason = "ticks of a few seconds stay far below 2^52")]
    fn times(&self, ticks: u64) -> f64 {
        ticks as f64 / self.alone as f64
    }
}

/// Counts, prints, and writes `target/bench/locks.json`.
pub(super) fn run(choices: &Choices) -> Result<()> {
    let mut all = Vec::new();
    for hypervisor in [Hypervisor::Paravane, Hypervisor::Xen] {
        for vcpus in VCPUS {
            all.push(count(&hypervisor, vcpus)?);
        }
    }
    let rows = all.iter().map(|counted| {
        json!({
            "hypervisor": counted.hypervisor, "vcpus": counted.vcpus, "alone": counted.alone,
            "spinning": counted.spinning, "sleeping": counted.sleeping,
        })
    });
    let report = json!({ "unit": "ticks", "rows": rows.collect::<Vec<_>>() });
    fs::write(folder()?.join("locks.json"), format!("{report:#}\n"))?;
    if choices.json {
        println!("{report:#}");
    } else {
        print(&all);
    }
    let missed = all.iter().filter(|counted| counted.times(counted.sleeping) > GOAL).count();
    ensure!(
        missed == 0,
        "in {missed} of {} boots the sleeping lock takes more than {GOAL} times the work",
        all.len()
    );
    Ok(())
}

fn print(all: &[Counted]) {
    println!(
        "{:<22} {:>15} {:>15} {:>7} {:>15} {:>7}",
        "", "work alone", "spinning", "times", "sleeping", "times"
    );
    for counted in all {
        println!(
            "{:<22} {:>15} {:>15} {:>7.3} {:>15} {:>7.3}",
            format!("{}, {} vCPUs", counted.hypervisor, counted.vcpus),
            grouped(counted.alone),
            grouped(counted.spinning),
            counted.times(counted.spinning),
            grouped(counted.sleeping),
            counted.times(counted.sleeping),
        );
    }
    println!("ticks: instructions, and nanoseconds while halted; all vCPUs on one processor");
    println!("files: {}", display(&["locks.json"]));
}

fn count(hypervisor: &Hypervisor, vcpus: u32) -> Result<Counted> {
    let step = Step::start(format!("{vcpus} vCPUs on {}", hypervisor.name()));
    let mut machine = Machine::new(hypervisor.clone());
    machine.hypervisor_args = format!("{CONSOLE_ARGS} dom0_max_vcpus={vcpus}");
    machine.kernel = Some(project::guest_elf("locks"));
    machine.icount = true;
    let mut session = Session::start(&machine)?;
    let printed = parse(&session.wait_for("locks done", LIMIT)?);
    step.done();
    let ticks = |key| printed.get(key).copied().with_context(|| format!("`locks {key}` was not printed"));
    Ok(Counted {
        hypervisor: hypervisor.name(),
        vcpus,
        alone: ticks("alone")?,
        spinning: ticks("spinning")?,
        sleeping: ticks("sleeping")?,
    })
}

/// Reads lines `locks KEY: TICKS`.
fn parse(output: &str) -> BTreeMap<String, u64> {
    let lines = output.lines().filter_map(|line| line.trim().strip_prefix("locks ")?.split_once(": "));
    lines.filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_between_other_lines() {
        let printed = parse("(XEN) hello\r\nlocks: 2 CPUs, each 5 times\r\nlocks alone: 7\r\nlocks done\r\n");
        assert_eq!(printed.into_iter().collect::<Vec<_>>(), [("alone".to_owned(), 7)]);
    }
}
