//! `cargo xtask bench`: what a boot costs, on ours and on real Xen, counted the same way in one run; `bench micro` counts
//! what each primitive costs a guest, `bench locks` what a lock costs where virtual CPUs share a processor, `bench wakeups`
//! how long a vCPU that wakes up waits there, `bench latency` how long the hypervisor does not look at its CPU's work while a
//! guest keeps it busy, `bench io` what a block request and a packet cost.
//!
//! QEMU runs with `-icount shift=0,sleep=off`: the time-stamp counter advances by one for each instruction, and by one
//! for each virtual nanosecond while the CPU is halted. Two runs give the same figures on any host. Firmware and loader
//! are measured by themselves and subtracted, so a row counts from the hypervisor's first instruction.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::probe::{self, Probe};
use crate::progress::Step;
use crate::qemu::{Hypervisor, Machine};
use crate::session::Session;
use crate::setup::Need;
use crate::{build, debian, initramfs, project, setup};

mod chart;
mod io;
mod latency;
mod locks;
mod micro;
mod wakeups;

pub use latency::{LONGEST, longest_waits};

/// Counting instructions is slow: Linux takes some minutes.
const LIMIT: Duration = Duration::from_secs(900);
/// `sizeof(struct page_info)` of Xen 4.17 on x86-64 (xen/arch/x86/include/asm/mm.h); its log does not tell.
const XEN_FRAME_BYTES: u64 = 32;

const CAPTION: &str = "Paravane as a fraction of Xen 4.17 (less is better)";

/// The choices of `cargo xtask bench`.
#[derive(clap::Args, Debug, Clone)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    choices: Choices,
}

#[derive(clap::Subcommand, Debug, Clone)]
enum What {
    /// Count what each primitive costs a guest
    Micro(Choices),
    /// Count what a lock costs where virtual CPUs share a processor
    Locks(Choices),
    /// Count what a block request and a packet cost, beside Linux's drivers on real Xen
    Io(Choices),
    /// Count how long a vCPU that wakes up waits where another one computes
    Wakeups(Choices),
    /// Count how long work that is raised for a CPU waits while a guest keeps the hypervisor busy
    Latency(Choices),
}

/// Which rows, and how they are shown.
#[derive(clap::Args, Debug, Clone)]
struct Choices {
    /// Only rows whose name contains this
    filter: Option<String>,
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
}

impl Choices {
    fn wants(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()))
    }

    /// Refuses a filter that fits no row: it may be a misspelt kind.
    fn check(&self, mut names: impl Iterator<Item = &'static str>) -> Result<()> {
        let filter = self.filter.as_deref().unwrap_or_default();
        ensure!(
            names.any(|name| self.wants(name)),
            "{filter} is neither a kind of benchmark nor in a row's name"
        );
        Ok(())
    }
}

/// One measured thing.
pub struct Row {
    /// What was measured.
    pub name: &'static str,
    /// `ticks` or `bytes`.
    pub unit: &'static str,
    /// On our hypervisor.
    pub paravane: u64,
    /// On Debian's Xen.
    pub xen: u64,
    /// What the ratio may be at most.
    pub goal: f64,
}

impl Row {
    /// Ours as a fraction of Xen's.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "ticks of a boot stay far below 2^52")]
    pub fn ratio(&self) -> f64 {
        self.paravane as f64 / self.xen as f64
    }

    /// Whether the ratio is no higher than the goal.
    #[must_use]
    pub fn meets_goal(&self) -> bool {
        self.ratio() <= self.goal
    }
}

/// Measures, prints, and writes `target/bench/boot.json` and `boot.svg`, or `micro.*`, `locks.json`, `wakeups.json` or
/// `io.*`.
///
/// # Errors
/// Something does not build or boot; for all but the boot itself, also when a row misses its goal.
pub fn run(options: &Options) -> Result<()> {
    setup::ensure(&[Need::Compiler, Need::Emulator, Need::GuestFiles])?;
    build::all()?;
    match &options.what {
        None => boot(&options.choices),
        Some(What::Micro(choices)) => micro::run(choices),
        Some(What::Locks(choices)) => locks::run(choices),
        Some(What::Io(choices)) => io::run(choices),
        Some(What::Wakeups(choices)) => wakeups::run(choices),
        Some(What::Latency(choices)) => latency::run(choices),
    }
}

fn boot(choices: &Choices) -> Result<()> {
    choices.check(measurements().iter().map(|(name, ..)| *name))?;
    let mut rows = Vec::new();
    for (name, unit, goal, measure) in measurements() {
        if choices.wants(name) {
            let paravane = measure(&Hypervisor::Paravane)?;
            rows.push(Row { name, unit, paravane, xen: measure(&Hypervisor::Xen)?, goal });
        }
    }
    let report = report(&rows);
    write_report(&rows, &report, "boot")?;
    if choices.json {
        println!("{report:#}")
    } else {
        print_table(&rows);
        println!(
            "ticks: instructions, and nanoseconds while halted; from the hypervisor's first instruction"
        );
        println!("files: {}", display(&["boot.json", "boot.svg"]));
    }
    Ok(())
}

/// Writes `target/bench/<name>.json` and `<name>.svg`.
fn write_report(rows: &[Row], report: &Value, name: &str) -> Result<()> {
    let folder = folder()?;
    fs::write(folder.join(name).with_extension("json"), format!("{report:#}\n"))?;
    chart::draw(rows, CAPTION, &folder.join(name).with_extension("svg"))
}

fn folder() -> Result<PathBuf> {
    let folder = project::target().join("bench");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

type Measure = fn(&Hypervisor) -> Result<u64>;

/// Each row: name, unit, the highest acceptable ratio, how to measure.
fn measurements() -> [(&'static str, &'static str, f64, Measure); 5] {
    [
        ("first guest instruction", "ticks", 0.5, first_instruction),
        ("hello to its end", "ticks", 1.0, hello),
        ("Linux to userspace", "ticks", 1.0, linux),
        ("hypervisor image", "bytes", 1.0, image_bytes),
        ("frame table per frame", "bytes", 0.5, frame_bytes),
    ]
}

fn first_instruction(hypervisor: &Hypervisor) -> Result<u64> {
    let mut machine = Machine::new(hypervisor.clone());
    machine.kernel = Some(probe::build(Probe::PvGuest)?);
    without_loader(machine, "tsc=", 16)
}

fn hello(hypervisor: &Hypervisor) -> Result<u64> {
    let mut machine = Machine::new(hypervisor.clone());
    machine.kernel = Some(project::guest_elf("hello"));
    machine.kernel_args = "bench".into();
    without_loader(machine, "done tsc=", 10)
}

fn linux(hypervisor: &Hypervisor) -> Result<u64> {
    let mut machine = Machine::new(hypervisor.clone());
    machine.kernel = Some(debian::vmlinuz());
    machine.initrd = Some(initramfs::build()?);
    // A log on the console would count the speed of the console.
    machine.kernel_args = "console=hvc0 quiet rdinit=/bin/tsc".into();
    without_loader(machine, "tsc=", 16)
}

fn image_bytes(hypervisor: &Hypervisor) -> Result<u64> {
    Ok(fs::metadata(hypervisor.path())?.len())
}

fn frame_bytes(hypervisor: &Hypervisor) -> Result<u64> {
    if *hypervisor == Hypervisor::Xen {
        return Ok(XEN_FRAME_BYTES);
    }
    let mut machine = Machine::new(hypervisor.clone());
    machine.hypervisor_args.push_str(" loglvl=all");
    machine.kernel = Some(probe::build(Probe::PvGuest)?);
    let mut session = Session::start(&machine)?;
    session.wait_for("tsc=", LIMIT)?;
    frame_table_bytes(&session.output()).context("the boot log does not tell the frame table's size")
}

/// Reads `frame table: 16 bytes per frame` out of a boot log.
#[must_use]
pub fn frame_table_bytes(log: &str) -> Option<u64> {
    let (_, rest) = log.split_once("frame table: ")?;
    rest.split_once(" bytes per frame")?.0.trim().parse().ok()
}

/// The number behind `marker`, less the number at which the loader hands over.
fn without_loader(mut machine: Machine, marker: &str, radix: u32) -> Result<u64> {
    machine.icount = true;
    let name = machine.hypervisor.as_ref().map_or_else(String::new, Hypervisor::name);
    let kernel = machine.kernel.as_ref().and_then(|path| path.file_stem()).unwrap_or_default();
    let step = Step::start(format!("{} on {name}", kernel.to_string_lossy()));
    let total = marked(&machine, marker, radix)?;
    machine.hypervisor = Some(Hypervisor::File(probe::build(Probe::Firmware)?));
    let loader = marked(&machine, "tsc=", 16)?;
    step.done();
    total.checked_sub(loader).context("the guest ran before the hypervisor")
}

/// Boots until `marker` is printed and reads the number that follows it.
fn marked(machine: &Machine, marker: &str, radix: u32) -> Result<u64> {
    let mut session = Session::start(machine)?;
    session.wait_for(marker, LIMIT)?;
    let digits = session.wait_for("\n", LIMIT)?;
    u64::from_str_radix(digits.trim(), radix).with_context(|| format!("{marker}{digits} is no number"))
}

fn report(rows: &[Row]) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "name": row.name, "unit": row.unit, "paravane": row.paravane, "xen": row.xen,
                "ratio": row.ratio(), "goal": row.goal,
            })
        })
        .collect();
    json!({ "emulator": "qemu -icount shift=0,sleep=off", "xen": "Debian 12, 4.17", "rows": rows })
}

fn print_table(rows: &[Row]) {
    println!("{:<40} {:>5} {:>15} {:>15} {:>7} {:>7}", "", "unit", "Paravane", "Xen 4.17", "ratio", "goal");
    for row in rows {
        let verdict = if row.meets_goal() { "" } else { "  missed" };
        println!(
            "{:<40} {:>5} {:>15} {:>15} {:>7.3} {:>7}{verdict}",
            row.name,
            row.unit,
            grouped(row.paravane),
            grouped(row.xen),
            row.ratio(),
            format!("<={}", row.goal)
        );
    }
}

fn display(names: &[&str]) -> String {
    let paths: Vec<PathBuf> = names.iter().map(|name| PathBuf::from("target/bench").join(name)).collect();
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|part| str::from_utf8(part).unwrap_or("")).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(12_345_678), "12,345,678");
    }

    #[test]
    fn the_boot_log_tells_the_frame_size() {
        assert_eq!(frame_table_bytes("(x) frame table: 16 bytes per frame, 4 MiB\n"), Some(16));
        assert_eq!(frame_table_bytes("nothing"), None);
    }
}
