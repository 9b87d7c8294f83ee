//! Ends that lie, beside domains that do their work: a front end that does its worst to the driver domain, and a driver domain
//! that does its worst to the front ends of its own (`tests/hostile`). Nobody else may notice.
//!
//! And domains that attack the hypervisor itself, which is fuzzing from within ([`xtask::fuzz::guest`]).
//!
//! `PARAVANE_HOSTILE_SECONDS` says how long, a minute unless given, and `PARAVANE_HOSTILE_SEED` what they begin with.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use xtask::accounts::{Accounts, end_domain, input_to_hypervisor};
use xtask::describe::{self, Domain};
use xtask::fuzz::guest::{Plan, attack};
use xtask::qemu::{Hypervisor, Machine};
use xtask::session::{Session, tail};
use xtask::{domains as machines, project};

use crate::domains::described;
use crate::pair::{WEB, free_port, web_server};
use crate::support::{LONG, SHORT, trial};

/// How often the web server is asked, and everything looked through.
const LOOK: Duration = Duration::from_secs(2);

/// A driver domain, a disk that is written and read all the time, and a web server.
fn honest() -> Vec<Domain> {
    let served = |name: &str, guest: &str| Domain::new(name, guest).memory("32M").served_by("drivers");
    vec![
        Domain::drivers(),
        served("check", "guest:blkcheck").id(1).cmdline("write seconds=1000000").disk("xvda", "1M", false),
        served("web", "guest:webserver").id(2).cmdline("address=10.0.2.20/24").net(),
    ]
}

/// A front end that lies to the same driver domain, and a driver domain that lies to two domains of its own.
fn liars(seed: u64) -> Vec<Domain> {
    let served =
        |name: &str, guest: &str, by: &str| Domain::new(name, guest).memory("32M").served_by(by).restarts();
    let front = served("front", "guest:hostile", "drivers")
        .id(3)
        .cmdline(&format!("seed={seed} vary life=8"))
        .console_of_driver_domain()
        .disk("xvda", "1M", false)
        .disk("xvdb", "1M", true)
        .net();
    let back = Domain::new("back", "guest:hostile")
        .id(4)
        .initrd("drivers:archive")
        .cmdline(&format!("back seed={seed} vary"))
        .memory("32M");
    let disk = served("disk", "guest:blkcheck", "back")
        .id(5)
        .cmdline("seconds=1000000 patience=4")
        .disk("xvda", "1M", false);
    let page = served("page", "guest:webserver", "back").id(6).cmdline("address=10.0.2.30/24").net();
    vec![front, back, disk, page]
}

pub fn trials() -> Vec<Trial> {
    vec![
        trial("hostile::ends_that_lie_harm_nobody", ends_that_lie),
        trial("hostile::hypercalls_at_random", hypercalls_at_random),
    ]
}

/// What `cargo xtask fuzz guest` does, for ten seconds as two unprivileged domains and for ten as the first one.
fn hypercalls_at_random() -> Result<()> {
    let seed = variable("PARAVANE_HOSTILE_SEED", 1)?;
    for first in [false, true] {
        let plan = Plan { first, ..Plan::for_time(Duration::from_secs(10), seed) };
        println!("{}", attack(&plan)?);
    }
    Ok(())
}

fn variable(name: &str, unless: u64) -> Result<u64> {
    let Ok(text) = std::env::var(name) else { return Ok(unless) };
    text.parse().with_context(|| format!("{name}={text}"))
}

/// The honest domains work without the others, and with them; when the others have been ended, nothing is left of them.
fn ends_that_lie() -> Result<()> {
    let time = Duration::from_secs(variable("PARAVANE_HOSTILE_SECONDS", 60)?);
    let seed = variable("PARAVANE_HOSTILE_SEED", 1)?;
    let (mut session, port) = start("honest", &honest())?;
    web_server(port, SHORT).with_context(|| tail(&session.output()))?;
    let without = end_check(&mut session)?;
    drop(session);

    let (mut session, port) = start("hostile", &[honest(), liars(seed)].concat())?;
    let with = under_attack(&mut session, port, time);
    // All of it, for whoever has to find out.
    std::fs::write(project::target().join("boot-domains/hostile.log"), session.everything())?;
    let with = with?;
    println!("without them: {without:?}\nafter them:   {with:?}");
    // Their kernels are in memory all the time: what is free is looked at in `no_frame_is_lost`.
    let rest = |accounts: &Accounts| Accounts { free: 0, ..*accounts };
    ensure!(rest(&with) == rest(&without), "{with:?} instead of {without:?}\n{}", tail(&session.output()));
    Ok(())
}

/// Lets them work for a while, ends the hostile ones, and says what is given out then.
fn under_attack(session: &mut Session, port: u16, time: Duration) -> Result<Accounts> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        web_server(port, SHORT).with_context(|| tail(&session.output()))?;
        unharmed(&session.output())?;
        std::thread::sleep(LOOK);
    }
    input_to_hypervisor(session)?;
    for name in ["3 (front)", "4 (back)", "5 (disk)", "6 (page)"] {
        end_domain(session, name)?;
    }
    // What they had of the driver domain it gives back when it sees that they are gone.
    let last = |output: &str| output.lines().rfind(|line| line.contains("(front) is ")).map(str::to_owned);
    session
        .wait_until(SHORT, |output| last(output).is_some_and(|line| line.contains("is gone")))
        .context("the driver domain does not see that the front end is gone")?;
    web_server(port, SHORT).with_context(|| tail(&session.output()))?;
    let output = session.output();
    unharmed(&output)?;
    busy(&output, time)?;
    println!("{}\n{}", memory(&output)?, no_frame_is_lost(&output)?);
    end_check(session)
}

/// A machine with these domains, of which the honest ones work.
fn start(name: &str, all: &[Domain]) -> Result<(Session, u16)> {
    let mut machine = Machine::new(Hypervisor::Paravane);
    // The same in each machine: their accounts are compared.
    machine.hypervisor_args += " dom0_mem=192M";
    machine.cpus = 2;
    machines::add(&mut machine, &described(name, &describe::all(all))?, true)?;
    let port = free_port()?;
    machine.net = true;
    machine.forwards = vec![(port, WEB.into())];
    let mut session = Session::start(&machine)?;
    session.wait_until(LONG, |output| {
        ["(d2) webserver: ", "(d1) blkcheck: written"].iter().all(|text| output.contains(text))
    })?;
    Ok((session, port))
}

/// No panic anywhere, and whoever is honest goes on.
fn unharmed(output: &str) -> Result<()> {
    const NEVER: &[&str] = &[
        "(d1) blkcheck: FAILED",
        "Domain 0 ",
        "Domain 1 (check) ",
        "Domain 2 (web) ",
        "Domain 4 (back) has",
        "Domain 4 (back) says",
        // The hypervisor's word for a domain that did what none may; theirs is another.
        "Domain 4 crashed",
        "Domain 5 crashed",
        "Domain 6 crashed",
    ];
    // What a domain says at its start is as it should be.
    let wrong = |line: &&str| {
        let is_meant = !line.ends_with(" vCPUs") && !line.contains("(front) ");
        is_meant && (line.to_lowercase().contains("panic") || NEVER.iter().any(|never| line.contains(never)))
    };
    let found = output.lines().find(wrong);
    ensure!(found.is_none(), "{}\n{}", found.unwrap_or_default(), tail(output));
    Ok(())
}

/// That they were there, and how far the honest ones came meanwhile.
fn busy(output: &str, time: Duration) -> Result<()> {
    let times = |text: &str| output.lines().filter(|line| line.contains(text)).count() as u64;
    let (rounds, seconds) = (times("(d1) blkcheck: written"), time.as_secs());
    let lives =
        ["3 (front)", "5 (disk)", "6 (page)"].map(|name| times(&format!("Domain {name} starts again")));
    println!("{rounds} rounds of the disk; starts of front, disk and page: {lives:?}");
    ensure!(rounds > seconds / 20, "only {rounds} rounds of the disk\n{}", tail(output));
    ensure!(seconds < 60 || lives.iter().all(|count| *count > 0), "{lives:?}\n{}", tail(output));
    Ok(())
}

/// The driver domain's free pages when the lying front end was gone for the first and for the last time.
fn memory(output: &str) -> Result<String> {
    let own = output.lines().filter(|line| !line.starts_with("(HV)"));
    let free = |line: &str| line.split_once("(front) is gone: ")?.1.split(' ').next()?.parse::<u64>().ok();
    let free: Vec<u64> = own.filter_map(free).collect();
    let (first, last) = free.first().zip(free.last()).context("the front end was never gone")?;
    // Less than its heap grows by at a time.
    ensure!(last + 512 >= *first, "the driver domain has {last} pages, and had {first}");
    Ok(format!("the driver domain has {last} free pages, and had {first}"))
}

/// What is free whenever all domains are there and no dead one is: the same from first to last, but for tables that grow
/// once.
fn no_frame_is_lost(output: &str) -> Result<String> {
    let ends = output.lines().filter(|line| line.starts_with("(HV) Domain ")).filter_map(Accounts::read);
    let whole = ends.filter(|accounts| (accounts.domains, accounts.dying) == (7, 0));
    let free: Vec<u64> = whole.map(|accounts| accounts.free).collect();
    let (first, last) = free.first().zip(free.last()).context("they were never there all at once")?;
    ensure!(
        last + 8 >= *first,
        "{last} frames are free with all domains there, {first} were\n{}",
        tail(output)
    );
    Ok(format!("{last} frames are free with all domains there, {first} were ({} times)", free.len()))
}

/// Ends the domain with the disk, and says what is given out then.
fn end_check(session: &mut Session) -> Result<Accounts> {
    input_to_hypervisor(session)?;
    let line = end_domain(session, "1 (check)")?;
    Accounts::read(&line).context("a line of accounts")
}
