//! `cargo xtask fuzz guest`: domains that try everything on the hypervisor (`tests/hostile`, word `calls`), beside a victim that
//! checks its memory, its share of the CPUs and its longest gap.
//!
//! Two unprivileged attackers, connected by grants and event channels, with two attacking vCPUs each on a machine of two CPUs;
//! or, with `--first`, one attacker as the first domain. A life of an attacker ends when its time is over or when it did too
//! much harm to itself; then it starts again with another seed, which it prints. What is looked for is in [`Finding`].
//!
//! The whole serial line is kept in `target/fuzz/guest.log`, `guest-first.log`.

mod report;

use std::fs;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Options;
use crate::accounts::{Accounts, end_domain, input_to_hypervisor};
use crate::progress::Step;
use crate::qemu::{Hypervisor, Machine};
use crate::session::{Ending, Heard, Session, tail};
use crate::setup::Need;
use crate::{build, domains, project, setup};
use report::Report;
pub use report::Summary;

/// What `cargo xtask fuzz` calls it.
pub const NAME: &str = "guest";

/// How long the victim may be silent, by the clock of a host that may be busy.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a boot may take until the victim works.
const BOOT: Duration = Duration::from_secs(120);
/// Frames that tables of the hypervisor, which grow once, may take.
const GROWTH: u64 = 64;
/// Seconds of an unprivileged attacker's life.
const LIFE: u64 = 6;

/// Unprivileged attackers and their victim. `WORDS` is what every attacker gets. The kernel is what the last build left.
const BESIDE: &str = r#"
[[domain]]
id = 1
name = "victim"
kernel = "../dist/hostile.elf"
cmdline = "victim"
memory = "32M"
weight = 128

[[domain]]
id = 2
name = "a"
kernel = "../dist/hostile.elf"
cmdline = "calls own=2 neighbour=3 victim=1 seed=SEED_A WORDS"
memory = "16M"
vcpus = 4
restart = "on-crash"
restart_limit = 1000000
restart_delay = 0

[[domain]]
id = 3
name = "b"
kernel = "../dist/hostile.elf"
cmdline = "calls own=3 neighbour=2 victim=1 seed=SEED_B WORDS"
memory = "16M"
vcpus = 4
restart = "on-crash"
restart_limit = 1000000
restart_delay = 0
"#;

/// The attacker is the first domain.
const FIRST: &str = r#"
[[domain]]
id = 0
name = "first"
kernel = "../dist/hostile.elf"
cmdline = "calls first own=0 victim=1 seed=SEED_A WORDS"

[[domain]]
id = 1
name = "victim"
kernel = "../dist/hostile.elf"
cmdline = "victim"
memory = "32M"
"#;

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// For how long.
    pub time: Duration,
    /// What the attackers begin with.
    pub seed: u64,
    /// Every life begins with exactly this seed.
    pub again: bool,
    /// The attacker is the first domain.
    pub first: bool,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The hypervisor panicked, or says of itself that something is wrong.
    Panic(String),
    /// The machine ended as no domain can make it end.
    Ended(Ending),
    /// The emulator itself crashed: no verdict on the hypervisor.
    Emulator(String),
    /// The victim, which prints a line each second, is silent.
    NoProgress,
    /// The victim says that something was done to it, or has ended.
    Victim(String),
    /// An attacker says that it did what must not be possible.
    Attacker(String),
    /// Something is left of the attackers after their end.
    Accounts(String),
}

/// Runs as the command line says, and prints what came of it.
///
/// # Errors
/// Something was found: the message has the seed. Or the machine does not start.
pub fn run(options: &Options) -> Result<()> {
    setup::ensure(&[Need::Compiler, Need::Emulator])?;
    build::all()?;
    let plan = Plan {
        time: Duration::from_secs(options.seconds.into()),
        seed: options.seed,
        again: options.again,
        first: options.first,
    };
    println!("{}", attack(&plan)?);
    Ok(())
}

/// Lets them attack for a while.
///
/// # Errors
/// As [`run`].
pub fn attack(plan: &Plan) -> Result<Summary> {
    let who = if plan.first { "the first domain" } else { "two domains" };
    let step = Step::start(format!("{who} against the hypervisor for {} s", plan.time.as_secs()));
    let mut report = Report::default();
    let end = Instant::now() + plan.time;
    if plan.first {
        let mut seed = plan.seed;
        while Instant::now() < end {
            let mut session = start(plan, "first", FIRST, seed, "life=20")?;
            let found = watch(&mut session, &mut report, end, &step)?;
            keep(&session, "guest-first.log")?;
            judge(found, &session, plan, &mut report)?;
            if !plan.again {
                seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
            }
        }
    } else {
        let before = idle(plan)?;
        let mut session = start(plan, "beside", BESIDE, plan.seed, &format!("life={LIFE}"))?;
        let found = watch(&mut session, &mut report, end, &step)
            .and_then(|found| Ok(found.or(accounts(&mut session, &before)?)));
        keep(&session, "guest.log")?;
        judge(found?, &session, plan, &mut report)?;
    }
    step.done();
    Ok(report.summary(plan.seed))
}

/// Fails where something was found.
fn judge(found: Option<Finding>, session: &Session, plan: &Plan, report: &mut Report) -> Result<()> {
    report.end_lives();
    let Some(found) = found else { return Ok(()) };
    let (seed, first) = (plan.seed, if plan.first { " --first" } else { "" });
    if let Finding::Emulator(how) = &found {
        bail!("the emulator itself ended ({how}); seed {seed}{first}\n{}", tail(&session.everything()));
    }
    bail!(
        "found: {found:?}\nafter {} hypercalls; `cargo xtask fuzz guest --seed {seed}{first}`; lives: {}\n{}",
        report.made(),
        report.last_seeds(),
        tail(&session.everything())
    )
}

/// A machine in which they work.
fn start(plan: &Plan, name: &str, text: &str, seed: u64, words: &str) -> Result<Session> {
    let mut machine = Machine::new(Hypervisor::Paravane);
    machine.cpus = 2;
    machine.memory = "256M".into();
    machine.hypervisor_args += " dom0_mem=32M dom0_max_vcpus=4";
    let vary = if plan.again || plan.first { "" } else { " vary" };
    let other = if plan.again { seed } else { seed.wrapping_add(1) };
    let text = text.replace("SEED_A", &seed.to_string()).replace("SEED_B", &other.to_string());
    let folder = project::target().join("fuzz");
    fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{name}.toml"));
    fs::write(&file, text.replace("WORDS", &format!("{words}{vary}")))?;
    domains::add(&mut machine, &file, !plan.first)?;
    let mut session = Session::start(&machine)?;
    session.wait_until(BOOT, |output| {
        output.lines().any(|line| of_victim(line).is_some()) || output.contains("Panic on")
    })?;
    Ok(session)
}

/// What is given out where the attackers did nothing and were ended, and then the victim.
fn idle(plan: &Plan) -> Result<Accounts> {
    let mut session = start(plan, "idle", BESIDE, 0, "idle")?;
    let idle = |output: &str| output.lines().filter(|line| line.ends_with("calls: idle")).count() == 2;
    session.wait_until(BOOT, idle)?;
    end_all(&mut session)
}

fn end_all(session: &mut Session) -> Result<Accounts> {
    input_to_hypervisor(session)?;
    let mut last = String::new();
    for name in ["2 (a)", "3 (b)", "1 (victim)"] {
        last = end_domain(session, name)?;
    }
    Accounts::read(&last).context("a line of accounts")
}

/// Ends the attackers and the victim, and compares.
fn accounts(session: &mut Session, before: &Accounts) -> Result<Option<Finding>> {
    let after = end_all(session)?;
    let rest = |accounts: &Accounts| Accounts { free: 0, ..*accounts };
    let same = rest(&after) == rest(before) && after.free + GROWTH >= before.free;
    Ok((!same).then(|| Finding::Accounts(format!("{after:?} instead of {before:?}"))))
}

/// Keeps all of the serial line, for whoever has to find out.
fn keep(session: &Session, name: &str) -> Result<()> {
    Ok(fs::write(project::target().join("fuzz").join(name), session.everything())?)
}

/// Reads what they print until `end`, until something is found, or until the first domain has ended the machine.
fn watch(session: &mut Session, report: &mut Report, end: Instant, step: &Step) -> Result<Option<Finding>> {
    let mut heard = Instant::now();
    let mut ended_by_first = false;
    while Instant::now() < end {
        match session.next_line(Duration::from_secs(1)) {
            Heard::Line(line) => {
                heard = if of_victim(&line).is_some() { Instant::now() } else { heard };
                ended_by_first |= line.starts_with("(HV) Hardware Dom0 ");
                report.line(&line);
                if let Some(found) = judge_line(&line) {
                    // What follows belongs to it.
                    std::thread::sleep(Duration::from_secs(2));
                    return Ok(Some(found));
                }
                step.detail(&format!("{} hypercalls, {} lives", report.made(), report.lives()));
            }
            Heard::Silence => {}
            Heard::End => return ended(session, ended_by_first),
        }
        if heard.elapsed() > SILENCE {
            return Ok(Some(Finding::NoProgress));
        }
    }
    ensure!(report.made() > 0, "no attacker said anything:\n{}", tail(&session.output()));
    Ok(None)
}

/// The machine has ended: by the first domain's will, by the hypervisor's fault, or by the emulator's.
fn ended(session: &mut Session, by_first: bool) -> Result<Option<Finding>> {
    let ending = session.wait_end(Duration::from_secs(10))?;
    if let Some(status) = session.status().filter(|status| !status.success()) {
        return Ok(Some(Finding::Emulator(described(status))));
    }
    let lawful = by_first && matches!(ending, Ending::Reset | Ending::PowerOff);
    Ok((!lawful).then_some(Finding::Ended(ending)))
}

fn described(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    status.signal().map_or_else(|| status.to_string(), |signal| format!("signal {signal}"))
}

/// What a line says is wrong.
fn judge_line(line: &str) -> Option<Finding> {
    if let Some(says) = line.strip_prefix("(HV) ") {
        const WRONG: &[&str] =
            &["Panic on", "Halted", "cannot boot", "double fault", "machine check", "left out"];
        // What is said of it when it starts is as it should be.
        let of_victim = says.starts_with("Domain 1 ") && !says.ends_with(" vCPUs");
        if of_victim {
            return Some(Finding::Victim(says.into()));
        }
        return WRONG.iter().any(|word| says.contains(word)).then(|| Finding::Panic(says.into()));
    }
    if let Some(says) = of_victim(line) {
        let is_wrong = says.contains("FAILED") || says.contains("panicked");
        return is_wrong.then(|| Finding::Victim(says.into()));
    }
    line.contains("calls: FOUND ").then(|| Finding::Attacker(line.into()))
}

/// What the victim says: with the input, a domain has no prefix on the screen.
fn of_victim(line: &str) -> Option<&str> {
    line.strip_prefix("(d1) ").unwrap_or(line).strip_prefix("victim: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_judged_by_who_says_them() {
        for (line, found) in [
            ("(HV) Panic on CPU 0: x", true),
            ("(d2) (HV) Panic on CPU 0", false),
            ("(d1) victim: FAILED a word", true),
            ("(d1) victim: 3 s, 9 rounds, 0 failed, share=66% gap=1 us longest=2 us", false),
            ("(d3) calls: FOUND stale store", true),
            ("calls: FOUND stale store", true),
            ("(HV) Domain 2 crashed: x", false),
            ("(HV) Domain 1 crashed: x", true),
            ("(HV) Domain 1 (victim): 32 MiB, 1 vCPUs", false),
        ] {
            assert_eq!(judge_line(line).is_some(), found, "{line}");
        }
    }
}
