//! `cargo xtask bench io`: what a block request and a packet cost the front end's domain and the back end's, our drivers
//! on our hypervisor beside Linux's drivers on real Xen.
//!
//! Both sides have one CPU and the emulator that counts instructions, where a nanosecond of a domain's CPU time is an instruction:
//! its own, and the hypervisor's on its behalf. Ours is the guest `iocost`, served by the driver domain; Linux's is a domain
//! whose programs do the same (`xtask/probes/io.c`), served by a first domain with Xen's toolstack. Each kind of round runs in a short
//! and in a long version, and the difference counts: what start, end and watching cost is the same in both. Linux has work of its own
//! now and then: its rounds run several times, and the median counts.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Choices, chart, display, folder, grouped};
use crate::cpio::Archive;
use crate::progress::Step;
use crate::qemu::{Hypervisor, Machine};
use crate::session::Session;
use crate::{debian, domains, modules, process, project, toolstack};

/// Longest that our domains may take.
const LIMIT: Duration = Duration::from_secs(600);
/// Longest that two Linux kernels and a toolstack may take, counted.
const LONG_LIMIT: Duration = Duration::from_secs(3600);
/// Rounds of the short and of the long version.
const COUNTS: [u64; 2] = [640, 3200];
/// Front and back end together, as a fraction of Linux's drivers.
const GOAL: f64 = 0.7;
const CAPTION: &str = "Our drivers on Paravane as a fraction of Linux's on Xen 4.17 (less is better)";

/// Drivers of the Linux domain.
const MODULES: &[&str] = &["xen_blkfront", "xen_netfront", "brd"];
/// How often Linux does all rounds.
const TIMES: usize = 3;
/// Linux's rounds; those that do the same without the drivers, with a disk or an interface of the domain itself; names for people.
const ROWS: [(&str, &str, &str); 4] = [
    ("block-1", "memory-1", "4 KiB read, one at a time"),
    ("block-32", "memory-32", "4 KiB read, 32 at a time"),
    ("packet-1", "socket-1", "1,500-byte packet, one at a time"),
    ("packet-32", "socket-32", "1,500-byte packet, 32 at a time"),
];

/// Instructions for one request or packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    front: u64,
    back: u64,
}

impl Cost {
    const fn both(self) -> u64 {
        self.front + self.back
    }
}

/// One line of the table.
struct Row {
    name: &'static str,
    paravane: Cost,
    linux: Cost,
    /// Of Linux's front end domain: what the program and the layers above a driver cost.
    above: u64,
}

impl Row {
    /// As a row of the chart: front and back end together, Linux's without what is above its drivers.
    const fn together(&self) -> super::Row {
        super::Row {
            name: self.name,
            unit: "instr",
            paravane: self.paravane.both(),
            xen: self.linux.both().saturating_sub(self.above),
            goal: GOAL,
        }
    }
}

/// Counts, prints, and writes `target/bench/io.json`, `io.svg` and `io.md`.
pub(super) fn run(choices: &Choices) -> Result<()> {
    choices.check(ROWS.iter().flat_map(|(key, _, name)| [*key, *name]))?;
    let (ours, linux) = (ours()?, linux()?);
    let mut rows = Vec::new();
    for (key, above, name) in ROWS {
        if choices.wants(key) || choices.wants(name) {
            // The other domain has nothing to do with these.
            let above = cost_of(&linux, above, 0)?;
            rows.push(Row { name, paravane: cost(&ours, key)?, linux: cost(&linux, key)?, above });
        }
    }
    let report = report(&rows);
    let folder = folder()?;
    fs::write(folder.join("io.json"), format!("{report:#}\n"))?;
    fs::write(folder.join("io.md"), markdown(&rows))?;
    let together: Vec<_> = rows.iter().map(Row::together).collect();
    chart::draw(&together, CAPTION, &folder.join("io.svg"))?;
    if choices.json {
        println!("{report:#}");
    } else {
        print(&rows);
    }
    let missed = together.iter().filter(|row| !row.meets_goal()).count();
    ensure!(missed == 0, "{missed} of {} rows cost more than {GOAL} of Linux's", rows.len());
    Ok(())
}

fn report(rows: &[Row]) -> Value {
    let pair = |cost: Cost| json!({ "front": cost.front, "back": cost.back });
    let listed = rows.iter().map(|row| {
        json!({
            "name": row.name, "paravane": pair(row.paravane), "linux_on_xen": pair(row.linux),
            "above_linux_drivers": row.above, "ratio": row.together().ratio(), "goal": GOAL,
        })
    });
    json!({ "unit": "instructions", "rows": listed.collect::<Vec<_>>() })
}

fn print(rows: &[Row]) {
    println!(
        "{:<34} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7}",
        "", "our front", "our back", "Linux's", "its back", "above", "ratio"
    );
    for row in rows {
        println!(
            "{:<34} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7.3}{}",
            row.name,
            grouped(row.paravane.front),
            grouped(row.paravane.back),
            grouped(row.linux.front),
            grouped(row.linux.back),
            grouped(row.above),
            row.together().ratio(),
            if row.together().meets_goal() { "" } else { "  missed" }
        );
    }
    println!("instructions of the domain, and of the hypervisor on its behalf, for one request or packet");
    println!("above: of Linux's front end domain, without drivers (brd, lo); not in the ratio's denominator");
    println!("files: {}", display(&["io.json", "io.svg", "io.md"]));
}

/// The table for the documentation.
fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "| row | our front end | our back end | Linux's front end | Linux's back end | above its drivers | ratio |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let Row { name, paravane, linux, above } = row;
        let numbers =
            [paravane.front, paravane.back, linux.front, linux.back, *above].map(grouped).join(" | ");
        let _ = writeln!(text, "| {name} | {numbers} | {:.3} |", row.together().ratio());
    }
    text
}

/// Nanoseconds of CPU time by kind of round and number of rounds: of the front end's domain, and of the back end's, each time.
type Printed = BTreeMap<(String, u64), [Vec<u64>; 2]>;

fn ours() -> Result<Printed> {
    let step = Step::start("counting our drivers on paravane");
    let mut machine = Machine::new(Hypervisor::Paravane);
    domains::add(&mut machine, &project::root().join("xtask/src/bench/io/io.toml"), true)?;
    machine.icount = true;
    let printed = count(&machine, "io: finished", LIMIT)?;
    step.done();
    Ok(printed)
}

fn linux() -> Result<Printed> {
    let step = Step::start("counting Linux's drivers on xen");
    let program = fs::read(program()?)?;
    let front = front_archive(&program)?;
    let vmlinuz = fs::read(debian::vmlinuz())?;
    let files: [(&str, &[u8]); 4] = [
        ("run.sh", include_bytes!("io/run.sh")),
        ("io", &program),
        ("vmlinuz", &vmlinuz),
        ("front.cpio", &front),
    ];
    let mut machine = Machine::new(Hypervisor::Xen);
    machine.kernel = Some(debian::vmlinuz());
    machine.kernel_args = "console=hvc0 quiet".into();
    machine.initrd = Some(toolstack::build("io", &files)?);
    machine.hypervisor_args.push_str(" dom0_mem=768M");
    machine.memory = "2G".into();
    machine.icount = true;
    let printed = count(&machine, "toolstack: done", LONG_LIMIT)?;
    step.done();
    Ok(printed)
}

fn count(machine: &Machine, last: &str, limit: Duration) -> Result<Printed> {
    let mut session = Session::start(machine)?;
    session.wait_for(last, limit)?;
    let output = session.output();
    let printed = parse(&output);
    ensure!(!printed.is_empty(), "nothing was counted:\n{output}");
    Ok(printed)
}

/// The Linux domain's initramfs.
fn front_archive(program: &[u8]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "lib", "lib/modules", "proc", "sys"] {
        archive.dir(dir);
    }
    archive.char_device("dev/console", 5, 1);
    archive.file("bin/busybox", 0o755, &fs::read(debian::busybox()).context("reading busybox")?);
    archive.file("bin/io", 0o755, program);
    let counts = vec![COUNTS.map(|count| count.to_string()).join(" "); TIMES].join(" ");
    archive.file("init", 0o755, include_str!("io/init.sh").replace("COUNTS", &counts).as_bytes());
    modules::add(&mut archive, MODULES)?;
    Ok(archive.finish())
}

/// Compiles `xtask/probes/io.c`.
fn program() -> Result<PathBuf> {
    fs::create_dir_all(project::guests())?;
    let output = project::guests().join("probe-io.elf");
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-static", "-s", "-o"]).arg(&output).arg(project::root().join("xtask/probes/io.c"));
    process::output(&mut compiler).context("compiling a program: are gcc and libc6-dev installed?")?;
    Ok(output)
}

/// Reads lines `io KEY ROUNDS FRONT BACK`, whatever stands before.
fn parse(output: &str) -> Printed {
    let line = |line: &str| {
        let (_, rest) = line.rsplit_once("io ")?;
        let mut words = rest.split_whitespace();
        let key = words.next()?.to_owned();
        let mut number = || words.next()?.parse::<u64>().ok();
        Some(((key, number()?), [number()?, number()?]))
    };
    let mut printed = Printed::new();
    for (key, spent) in output.lines().filter_map(line) {
        let all = printed.entry(key).or_default();
        all.iter_mut().zip(spent).for_each(|(all, spent)| all.push(spent));
    }
    printed
}

/// What one more round costs.
fn cost(printed: &Printed, key: &str) -> Result<Cost> {
    Ok(Cost { front: cost_of(printed, key, 0)?, back: cost_of(printed, key, 1)? })
}

/// What one more round costs one end: the front end (0) or the back end (1).
fn cost_of(printed: &Printed, key: &str, end: usize) -> Result<u64> {
    let spent = |count: u64| {
        let found = printed.get(&(key.to_owned(), count)).and_then(|ends| median(&ends[end]));
        found.with_context(|| format!("{count} rounds of {key} were not counted"))
    };
    let [few, many] = [spent(COUNTS[0])?, spent(COUNTS[1])?];
    let more = many.checked_sub(few).with_context(|| format!("more rounds of {key} cost less"))?;
    Ok(more / (COUNTS[1] - COUNTS[0]))
}

/// The one in the middle.
fn median(numbers: &[u64]) -> Option<u64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_the_difference_of_medians() {
        let few = "x\r\n(d1) io a 640 1000 500\r\nio a 640 900 500\nio a 640 90000 500\n";
        let many = "io a 3200 26600 26100\r\nio: a 5 begin\nio b 640 1 1\n";
        let printed = parse(&format!("{few}{many}"));
        assert_eq!(cost(&printed, "a").unwrap(), Cost { front: 10, back: 10 });
        assert!(cost(&printed, "b").is_err());
    }

    #[test]
    fn what_is_above_the_driver_counts_for_nobody() {
        let cost = |front, back| Cost { front, back };
        let mut row = Row { name: "r", paravane: cost(600, 100), linux: cost(800, 210), above: 10 };
        assert!(row.together().meets_goal());
        assert_eq!(markdown(&[row]).lines().last(), Some("| r | 600 | 100 | 800 | 210 | 10 | 0.700 |"));
        row = Row { name: "r", paravane: cost(600, 100), linux: cost(800, 210), above: 11 };
        assert!(!row.together().meets_goal());
    }
}
