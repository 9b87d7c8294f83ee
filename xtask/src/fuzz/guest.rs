//! `cargo xtask fuzz guest`: domains that try everything on the hypervisor (`tests/hostile`, word `calls`), beside a victim that
//! checks its memory, its share of the CPUs and its longest gap.
//!
//! Two unprivileged attackers, connected by grants and event channels, with two attacking vCPUs each on a machine of two CPUs;
//! or, with `--first`, one attacker as the first domain. A life of an attacker ends when its time is over or when it did too
//! much harm to itself; then it starts again with another seed, which it prints. What is looked for is in [`Finding`].
//!
//! A long run is one machine after the other, each for five minutes at most and with seeds of its own. After each, what was counted
//! is kept beside the logs, and `--resume` goes on from there. The whole serial line of the last machine is kept in
//! `target/fuzz/guest.log`, `guest-first.log`.

mod report;

use std::fs;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Options;
use crate::accounts::{Accounts, end_domain, input_to_hypervisor};
use crate::progress::Step;
use crate::qemu::{Hypervisor, Machine};
use crate::session::{Ending, Heard, Session, tail};
use crate::setup::Need;
use crate::{build, describe, domains, project, setup};
use describe::Domain;
use report::Report;
pub use report::Summary;

/// What `cargo xtask fuzz` calls it.
pub const NAME: &str = "guest";

/// How long the victim may be silent, by the clock of a host that may be busy.
const SILENCE: Duration = Duration::from_secs(60);
/// How long the attackers may make no hypercall while the victim works.
const REST: Duration = Duration::from_secs(90);
/// How long a boot may take until the victim works.
const BOOT: Duration = Duration::from_secs(120);
/// Frames that tables of the hypervisor, which grow once, may take.
const GROWTH: u64 = 64;
/// Seconds of an unprivileged attacker's life.
const LIFE: u64 = 6;

/// Longest time that one machine runs: then what it counted is kept, accounts are compared, and another one begins.
const BOOT_LIFE: Duration = Duration::from_secs(300);

/// The kernel of all of them, as the last build left it, from the folder of the description.
const KERNEL: &str = "../dist/hostile.elf";
/// The attackers, as the hypervisor calls them.
const ATTACKERS: [&str; 2] = ["2 (a)", "3 (b)"];

fn victim() -> Domain {
    Domain::new("victim", KERNEL).id(1).cmdline("victim").memory("32M")
}

/// Unprivileged attackers and their victim. `words` is what every attacker gets.
fn beside(seeds: [u64; 2], words: &str) -> String {
    let attacker = |id: u16, name: &str, neighbour: u16, seed: u64| {
        let line = format!("calls own={id} neighbour={neighbour} victim=1 seed={seed} {words}");
        Domain::new(name, KERNEL).id(id).cmdline(&line).memory("16M").vcpus(4).restarts()
    };
    describe::all(&[victim().weight(128), attacker(2, "a", 3, seeds[0]), attacker(3, "b", 2, seeds[1])])
}

/// The attacker is the first domain.
fn alone(seed: u64, words: &str) -> String {
    let line = format!("calls first own=0 victim=1 seed={seed} {words}");
    describe::all(&[Domain::new("first", KERNEL).id(0).cmdline(&line), victim()])
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// For how long, unless there is a number of hypercalls to come to.
    pub time: Duration,
    /// Hypercalls after which it is enough.
    pub calls: Option<u64>,
    /// Goes on where a run with this seed was interrupted.
    pub resume: bool,
    /// What the attackers begin with.
    pub seed: u64,
    /// Every life begins with exactly this seed.
    pub again: bool,
    /// The attacker is the first domain.
    pub first: bool,
}

impl Plan {
    /// A run of two unprivileged attackers.
    #[must_use]
    pub fn for_time(time: Duration, seed: u64) -> Self {
        Self { time, calls: None, resume: false, seed, again: false, first: false }
    }

    /// When the machine that starts now is to end at the latest.
    fn end(&self, begun: Instant) -> Instant {
        let whole = if self.calls.is_some() { Instant::now() + BOOT_LIFE } else { begun + self.time };
        whole.min(Instant::now() + BOOT_LIFE)
    }

    fn is_over(&self, begun: Instant, report: &Report) -> bool {
        self.calls.map_or_else(|| begun.elapsed() >= self.time, |calls| report.made() >= calls)
    }

    /// What the attackers of machine number `boot` begin with.
    fn seed_of(&self, boot: u64) -> u64 {
        if self.again { self.seed } else { self.seed.wrapping_add(boot.wrapping_mul(0x9e37_79b9_7f4a_7c15)) }
    }

    /// Where what was counted so far is kept.
    fn kept(&self) -> PathBuf {
        let first = if self.first { "-first" } else { "" };
        project::target().join("fuzz").join(format!("guest{first}-{}.counted", self.seed))
    }
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
    /// The victim works, and no attacker makes a hypercall any more: neither of them starts again.
    NoAttackers,
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
        calls: options.calls,
        resume: options.resume,
        seed: options.seed,
        again: options.again,
        first: options.first,
    };
    println!("{}", attack(&plan)?);
    Ok(())
}

/// Lets them attack for a while, on one machine after the other.
///
/// # Errors
/// As [`run`].
pub fn attack(plan: &Plan) -> Result<Summary> {
    let who = if plan.first { "the first domain" } else { "two domains" };
    let much = match plan.calls {
        Some(calls) => format!("until {calls} hypercalls are made"),
        None => format!("for {} s", plan.time.as_secs()),
    };
    let step = Step::start(format!("{who} against the hypervisor {much}"));
    let mut report = Report::default();
    if plan.resume {
        let text = fs::read_to_string(plan.kept()).context("nothing to go on with: no such run was begun")?;
        report = Report::parse(&text).with_context(|| format!("reading {}", plan.kept().display()))?;
    }
    let before = if plan.first { None } else { Some(idle(plan)?) };
    let begun = Instant::now();
    while !plan.is_over(begun, &report) {
        let (end, seed) = (plan.end(begun), plan.seed_of(report.boots()));
        let (name, text, log) = match plan.first {
            true => ("first", alone(seed, "life=20"), "guest-first.log"),
            false => ("beside", unprivileged(plan, seed, &format!("life={LIFE}")), "guest.log"),
        };
        let mut session = start(plan, name, &text)?;
        let found = watch(&mut session, &mut report, plan, end, &step).and_then(|found| match &before {
            Some(before) if found.is_none() => accounts(&mut session, before),
            _ => Ok(found),
        });
        keep(&session, log)?;
        judge(found?, &session, plan, seed, &mut report)?;
        report.end_boot();
        fs::write(plan.kept(), report.to_text())?;
    }
    step.done();
    ensure!(report.made() > 0, "no attacker said anything");
    Ok(report.summary(plan.seed))
}

/// Two attackers, which differ.
fn unprivileged(plan: &Plan, seed: u64, words: &str) -> String {
    let vary = if plan.again { "" } else { " vary" };
    let other = if plan.again { seed } else { seed.wrapping_add(1) };
    beside([seed, other], &format!("{words}{vary}"))
}

/// Fails where something was found.
fn judge(
    found: Option<Finding>,
    session: &Session,
    plan: &Plan,
    seed: u64,
    report: &mut Report,
) -> Result<()> {
    report.end_lives();
    let Some(found) = found else { return Ok(()) };
    let first = if plan.first { " --first" } else { "" };
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
fn start(plan: &Plan, name: &str, text: &str) -> Result<Session> {
    let mut machine = Machine::new(Hypervisor::Paravane);
    machine.cpus = 2;
    machine.memory = "256M".into();
    machine.hypervisor_args += " dom0_mem=32M dom0_max_vcpus=4";
    let folder = project::target().join("fuzz");
    fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{name}.toml"));
    fs::write(&file, text)?;
    domains::add(&mut machine, &file, !plan.first)?;
    let mut session = Session::start(&machine)?;
    session.wait_until(BOOT, |output| {
        output.lines().any(|line| of_victim(line).is_some()) || output.contains("Panic on")
    })?;
    Ok(session)
}

/// What is given out where the attackers did nothing and were ended, and then the victim.
fn idle(plan: &Plan) -> Result<Accounts> {
    let mut session = start(plan, "idle", &unprivileged(plan, 0, "idle"))?;
    let idle = |output: &str| output.lines().filter(|line| line.ends_with("calls: idle")).count() == 2;
    session.wait_until(BOOT, idle)?;
    end_all(&mut session)
}

fn end_all(session: &mut Session) -> Result<Accounts> {
    input_to_hypervisor(session)?;
    for name in ATTACKERS {
        if !is_off(&session.output(), name) {
            end_domain(session, name)?;
        }
    }
    Accounts::read(&end_domain(session, "1 (victim)")?).context("a line of accounts")
}

/// Whether a domain has switched itself off, as any may, and is gone: it is not started again.
fn is_off(output: &str, name: &str) -> bool {
    let prefix = format!("(HV) Domain {name} ");
    let mut of_it = output.lines().rev().filter_map(|line| line.strip_prefix(&prefix));
    let is_gone = of_it.next().is_some_and(|says| says.starts_with("had "));
    let end = of_it.find(|says| !says.starts_with("is gone: "));
    is_gone && end.is_some_and(|says| OFF.iter().any(|word| says.starts_with(word)))
}

/// How a domain ends that is not started again.
const OFF: [&str; 2] = ["has switched itself off: ", "has shut down: "];

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

/// Reads what they print until `end` or enough is made, until something is found, or until the first domain has ended the machine.
fn watch(
    session: &mut Session,
    report: &mut Report,
    plan: &Plan,
    end: Instant,
    step: &Step,
) -> Result<Option<Finding>> {
    let (mut heard, mut attacked) = (Instant::now(), Instant::now());
    let mut ended_by_first = false;
    // A host that is busy gets a little more time, until they have said something at all.
    let is_time = |made: u64| Instant::now() < if made == 0 { end + SILENCE } else { end };
    while is_time(report.made()) && plan.calls.is_none_or(|calls| report.made() < calls) {
        match session.next_line(Duration::from_secs(1)) {
            Heard::Line(line) => {
                heard = if of_victim(&line).is_some() { Instant::now() } else { heard };
                ended_by_first |= line.starts_with("(HV) Hardware Dom0 ");
                let before = report.made();
                report.line(&line);
                attacked = if report.made() > before { Instant::now() } else { attacked };
                if let Some(found) = judge_line(&line) {
                    // What follows belongs to it.
                    std::thread::sleep(Duration::from_secs(2));
                    return Ok(Some(found));
                }
                step.progress(&format!("{} hypercalls, {} lives", report.made(), report.lives()));
                if line.contains(") had ") && ATTACKERS.iter().any(|name| is_off(&session.output(), name)) {
                    // Another machine has both of them again.
                    return Ok(None);
                }
            }
            Heard::Silence => {}
            Heard::End => return ended(session, ended_by_first),
        }
        if heard.elapsed() > SILENCE {
            return Ok(Some(Finding::NoProgress));
        }
        if attacked.elapsed() > REST {
            return Ok(Some(Finding::NoAttackers));
        }
    }
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
    fn a_domain_is_off_that_is_not_started_again() {
        let life = |end: &str| {
            format!(
                "(HV) Domain 2 (a) {end}: 9 frames free\n(HV) Domain 2 (a) is gone: 9 frames free\n\
                 (HV) Domain 2 (a) had 4096 pages; left of it: 0 frames\n"
            )
        };
        let again =
            "(HV) Domain 2 (a) starts again in 0 ms (restart 7 of 9)\n(HV) Domain 2 (a): 16 MiB, 4 vCPUs\n";
        assert!(is_off(&life("has switched itself off"), "2 (a)"));
        assert!(is_off(&(life("has crashed") + again + &life("has shut down")), "2 (a)"));
        assert!(!is_off(&life("has switched itself off"), "3 (b)"));
        assert!(!is_off(&life("has crashed"), "2 (a)"));
        assert!(!is_off(&(life("has switched itself off") + again), "2 (a)"));
        assert!(!is_off("(HV) Domain 2 (a) has switched itself off: 9 frames free\n", "2 (a)"));
    }

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
