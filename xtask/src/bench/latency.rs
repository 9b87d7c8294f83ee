//! `cargo xtask bench latency`: how long the hypervisor does not look at the work of its CPU, while guests ask for what takes
//! long, and how long a neighbour's event is late then.
//!
//! The kernel of `tests/micro` keeps the hypervisor busy in one way after the other (`tests/micro/src/rows/latency`), beside a
//! domain on the same CPU that has a timer. A plug-in of QEMU (`xtask/probes/looks.c`) counts every instruction that the
//! hypervisor executes from one read of its CPU's word of raised work to the next; the image is the one that ships, unchanged. All rows
//! run twice: with a timer of the busy kernel's own, so that there is work at almost every look, and without.

mod place;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Choices, display, folder, grouped};
use crate::progress::Step;
use crate::qemu::{CONSOLE_ARGS, Hypervisor, Machine, escaped};
use crate::session::Session;
use crate::{domains, elf, process, project};
use place::Places;

/// Longest that a boot may take.
const LIMIT: Duration = Duration::from_secs(300);
/// Instructions that the hypervisor may go on without a look.
pub const LONGEST: u64 = 50_000;
/// Nanoseconds that a vCPU which competes may run before the neighbour gets its turn (`SLICE` of `core/sched/queue.rs`).
const SLICE: u64 = 10_000_000;
/// First address of the hypervisor's, and first behind.
const RANGE: &str = "first=0xffff800000000000,end=0xffff880000000000";

/// A machine and what its kernels are told.
struct Boot {
    /// Name of the description.
    name: &'static str,
    description: &'static str,
    words: &'static str,
    cpus: u32,
    rows: &'static [(&'static str, &'static str)],
}

const DOMAINS: &str = include_str!("latency/domains.toml");
const CONSOLE: &str = include_str!("latency/console.toml");

const BOOTS: [Boot; 4] = [
    Boot { name: "latency", description: DOMAINS, words: "", cpus: 1, rows: &ROWS },
    Boot { name: "latency-quiet", description: DOMAINS, words: "quiet", cpus: 1, rows: &ROWS },
    Boot { name: "latency-console", description: CONSOLE, words: "", cpus: 1, rows: &[("console_ring", "")] },
    Boot {
        name: "latency-console-2",
        description: CONSOLE,
        words: "",
        cpus: 2,
        rows: &[("console_ring", "")],
    },
];

/// The neighbour has a whole CPU's time only where one CPU is all that is emulated: QEMU executes one CPU after the other, for up to
/// 100 ms each.
const NEIGHBOUR_ON: u32 = 1;

/// Key in the kernel's output, name for people.
const ROWS: [(&str, &str); 29] = [
    ("idle", "nothing"),
    ("pin_tables", "pin of 65,000 entries"),
    ("update_tables", "mmu_update of 256, 20 times"),
    ("unpin_tables", "unpin of 65,000 entries"),
    ("set_gdt", "set_gdt of 14 new frames"),
    ("set_ldt", "set_ldt of 16 new frames"),
    ("populate_16m", "populate_physmap of 16 MiB"),
    ("decrease_16m", "decrease_reservation of 16 MiB"),
    ("exchange_2m", "exchange of 512 frames for 2 MiB"),
    ("populate_1g", "populate_physmap of 1 GiB (order 18)"),
    ("decrease_1g", "decrease_reservation of 1 GiB (order 18)"),
    ("pin_40m", "pin of 40 MiB of full tables"),
    ("doomed_40m", "their unpin; descriptor, grant copy, pin meet it"),
    ("far_deadlines", "timers at 2^64/3 ns and the like"),
    ("console_io", "console_io of 8 KiB"),
    ("reboot", "a domain of 64 MiB asks for a reboot"),
    ("crash", "a domain crashes and is started again"),
    ("teardown_tables", "end of a domain, 65,000 entries pinned"),
    ("teardown_events", "end of a domain, all event words and grants"),
    ("grant_table_grow", "grant table of 64 frames"),
    ("grant_map_handles", "8,192 mappings of a grant"),
    ("cache_flush_own", "cache_flush of 64 own pages"),
    ("cache_flush_foreign", "cache_flush of a page that is not mapped"),
    ("grant_unmap_handles", "8,192 mappings undone"),
    ("grant_table_version", "grant table of 64 frames, version 2 and back"),
    ("fifo_init", "change to the FIFO ABI"),
    ("fifo_expand", "127 pages of event words"),
    ("port_search", "search for a port, 130,000 linked"),
    ("bind_interdomain", "bind_interdomain to no port, 130,000 linked"),
];
const CONSOLE_ROW: (&str, &str) = ("console_ring", "a console's ring kept full by another vCPU");

/// Rows in which other domains compute as well, so that the neighbour waits for its turn.
const CONTESTED: [&str; 5] = ["reboot", "crash", "teardown_tables", "teardown_events", "console_ring"];

/// A row that was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wait {
    /// What the kernel calls it.
    pub key: &'static str,
    /// What it is.
    pub name: &'static str,
    /// The most instructions between two looks.
    pub stretch: u64,
    /// Where those began and ended.
    pub place: String,
    /// The longest from a deadline of the busy kernel's own to its event.
    pub own: u64,
    /// The longest from a deadline of the neighbour's to its event.
    pub neighbour: u64,
}

impl Wait {
    /// What of the neighbour's delay is not another vCPU's slice.
    #[must_use]
    pub fn delay(&self) -> u64 {
        let slice = if CONTESTED.contains(&self.key) { SLICE } else { 0 };
        self.neighbour.saturating_sub(slice)
    }

    /// The worst of what must not be above [`LONGEST`].
    #[must_use]
    pub fn worst(&self) -> u64 {
        self.stretch.max(self.own).max(self.delay())
    }
}

/// Counts, prints, and writes `target/bench/latency.json`.
pub(super) fn run(choices: &Choices) -> Result<()> {
    let rows = || ROWS.iter().chain([&CONSOLE_ROW]);
    choices.check(rows().flat_map(|(key, name)| [*key, *name]))?;
    let mut waits = longest_waits()?;
    waits.retain(|wait| choices.wants(wait.key) || choices.wants(wait.name));
    let rows = waits.iter().map(|wait| {
        json!({
            "key": wait.key, "name": wait.name, "stretch": wait.stretch, "place": wait.place,
            "own": wait.own, "neighbour": wait.neighbour, "delay": wait.delay(),
        })
    });
    let report = json!({ "unit": "instructions", "rows": rows.collect::<Vec<_>>() });
    fs::write(folder()?.join("latency.json"), format!("{report:#}\n"))?;
    if choices.json {
        println!("{report:#}");
    } else {
        println!("{:<50} {:>8} {:>8} {:>10}", "", "stretch", "own", "neighbour");
        for wait in &waits {
            let figures = [wait.stretch, wait.own, wait.neighbour].map(grouped);
            println!(
                "{:<50} {:>8} {:>8} {:>10}  {}",
                wait.name, figures[0], figures[1], figures[2], wait.place
            );
        }
        println!(
            "stretch: instructions between two looks, and where; own and neighbour: from a deadline to its event"
        );
        println!("files: {}", display(&["latency.json"]));
    }
    let missed = waits.iter().filter(|wait| wait.worst() > LONGEST).count();
    ensure!(missed == 0, "{missed} of {} rows are above {LONGEST}", waits.len());
    Ok(())
}

/// Boots the kernel and counts all rows.
///
/// # Errors
/// A boot that fails, or a row that is not counted.
pub fn longest_waits() -> Result<Vec<Wait>> {
    let plugin = plugin()?;
    let symbols = project::dist().join("paravane.debug.elf");
    let places = Places::new(&symbols);
    let mut waits: Vec<Wait> = Vec::new();
    for boot in &BOOTS {
        let (output, looks) = count(boot, &plugin, &symbols)?;
        for mut wait in parse(boot.rows, &output, &looks, &places)? {
            if boot.cpus != NEIGHBOUR_ON {
                wait.neighbour = 0;
            }
            match waits.iter_mut().find(|known| known.key == wait.key) {
                Some(known) => merge(known, wait),
                None => waits.push(wait),
            }
        }
    }
    Ok(waits)
}

/// The worst of two runs.
fn merge(known: &mut Wait, other: Wait) {
    if other.stretch > known.stretch {
        (known.stretch, known.place) = (other.stretch, other.place);
    }
    known.own = known.own.max(other.own);
    known.neighbour = known.neighbour.max(other.neighbour);
}

/// Compiles `xtask/probes/looks.c`.
fn plugin() -> Result<PathBuf> {
    fs::create_dir_all(project::guests())?;
    let output = project::guests().join("probe-looks.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&output);
    compiler.arg(project::root().join("xtask/probes/looks.c"));
    process::output(&mut compiler).context("compiling a plug-in: are gcc and libc6-dev installed?")?;
    Ok(output)
}

/// Boots once; answers the serial line's text and what the plug-in wrote.
fn count(boot: &Boot, plugin: &Path, symbols: &Path) -> Result<(String, String)> {
    let step = Step::start(format!("counting between looks ({})", boot.name));
    let work = elf::symbol(&fs::read(symbols).context("the hypervisor is not built")?, "first_cpu_work")?;
    let area = 1_u64 << 17;
    let folder = folder()?;
    let description = folder.join(boot.name).with_extension("toml");
    fs::write(&description, boot.description.replace("WORDS", boot.words))?;
    let looks = folder.join(boot.name).with_extension("looks");
    let mut machine = Machine::new(Hypervisor::Paravane);
    // The least run of what is interrupted would be in the neighbour's figure: a turn, and no work without a look.
    machine.hypervisor_args = format!("{CONSOLE_ARGS} dom0_mem=128M sched_ratelimit_us=0");
    machine.memory = "3G".into();
    machine.cpus = boot.cpus;
    machine.icount = true;
    domains::add(&mut machine, &description, boot.description == CONSOLE)?;
    let mut option = escaped(plugin);
    option.push(format!(",work={work:#x},stride={area:#x},{RANGE},out="));
    option.push(escaped(&looks));
    machine.plugin = Some(option);
    let mut session = Session::start(&machine)?;
    let output = session.wait_for("micro done", LIMIT)?;
    step.done();
    Ok((output, fs::read_to_string(&looks).context("the plug-in wrote nothing")?))
}

/// Reads lines `latency KEY: TICKS` and `beside: NANOSECONDS`, and for each a line of the plug-in.
fn parse(
    rows: &[(&'static str, &'static str)],
    output: &str,
    looks: &str,
    places: &Places<'_>,
) -> Result<Vec<Wait>> {
    let after = |line: &str, word: &str| line.split_once(word).map(|(_, rest)| rest.trim().to_owned());
    let told: Vec<String> = output.lines().filter_map(|line| after(line, "latency ")).collect();
    let delays: Vec<String> = output.lines().filter_map(|line| after(line, "beside: ")).collect();
    let looks: Vec<&str> = looks.lines().collect();
    ensure!(
        told.len() == rows.len() && delays.len() == rows.len() && looks.len() == rows.len(),
        "{} rows, {} delays and {} counts instead of {}: {told:?}",
        told.len(),
        delays.len(),
        looks.len(),
        rows.len()
    );
    let row = |((told, delay), (looks, (key, _))): ((&String, &String), (&&str, &(&'static str, _)))| {
        let (found, figure) = told.split_once(": ").unwrap_or_default();
        ensure!(found == *key, "`{key}` was not printed, but `{found}`");
        let own = match figure {
            "asleep" => 0,
            ticks => ticks.parse().with_context(|| format!("`latency {key}`: {ticks}"))?,
        };
        let neighbour = delay.parse().with_context(|| format!("`{key}`, beside: {delay}"))?;
        let mut words = looks.split(' ');
        let stretch = words.next().unwrap_or_default();
        let stretch = stretch.parse().with_context(|| format!("`{key}`, between looks: {looks}"))?;
        let ends: Vec<&str> = words.take(2).collect();
        let name = ROWS.iter().chain([&CONSOLE_ROW]).find(|(known, _)| known == key);
        let (key, name) = *name.with_context(|| format!("`{key}` has no name"))?;
        Ok(Wait { key, name, stretch, place: places.of(&ends), own, neighbour })
    };
    told.iter().zip(&delays).zip(looks.iter().zip(rows)).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: [(&str, &str); 2] = [("idle", ""), ("reboot", "")];

    fn read(output: &str, looks: &str) -> Result<Vec<Wait>> {
        parse(&TWO, output, looks, &Places::new(Path::new("/nowhere")))
    }

    #[test]
    fn each_row_must_be_there_with_all_its_numbers() {
        let output = "(d1) beside: 70\r\n(HV) x\r\nlatency idle: 1234\r\n(d1) beside: 10000009\r\nlatency reboot: asleep\r\n";
        let waits = read(output, "5 a b c\n60 d e\n").unwrap();
        let figures = |wait: &Wait| (wait.key, wait.stretch, wait.own, wait.neighbour, wait.delay());
        assert_eq!(figures(&waits[0]), ("idle", 5, 1234, 70, 70));
        assert_eq!(figures(&waits[1]), ("reboot", 60, 0, 10_000_009, 9), "others computed");
        assert_eq!((waits[0].worst(), waits[1].worst()), (1234, 60));
        assert!(read(output, "5 a b c\n").is_err());
        assert!(read(&output.replace("1234", "missing, no memory"), "5 a b c\n60 d e\n").is_err());
        assert!(read(&output.replace("latency idle", "latency x"), "5 a b c\n60 d e\n").is_err());
        assert!(read(&output.replace("beside: 70", "besides"), "5 a b c\n60 d e\n").is_err());
    }

    #[test]
    fn the_worst_of_two_runs_counts() {
        let wait = |stretch, own, neighbour| Wait { stretch, own, neighbour, ..Wait::default() };
        let mut known = wait(3, 5, 7);
        merge(&mut known, wait(4, 4, 8));
        assert_eq!(known, wait(4, 5, 8));
    }

    #[test]
    fn descriptions_can_be_read() {
        for boot in &BOOTS {
            let text = boot.description.replace("WORDS", boot.words);
            let parsed = hypervisor_core::description::Descriptions::parse(text.as_bytes());
            assert!(
                parsed.is_ok_and(|all| all.domains.iter().any(|domain| domain.name == "beside")),
                "{}",
                boot.name
            );
        }
    }
}
