//! How long the hypervisor goes on without a look at the work that waits for its CPU, while a guest asks for what takes long.
//!
//! What it does between two looks is counted outside, by a plug-in of the emulator that is told when a row begins and ends
//! (`xtask/probes/looks.c`). Two more figures show what that means for guests:
//! - A timer of this kernel expires every few thousand ticks, so that there is work to be found at almost every look and operations
//!   stop and go on. From a deadline to its event passes what the hypervisor did without a look, and the way to the handler, which the
//!   row `idle` tells. With the word `quiet` there is no such timer, and operations are done in one go where they may.
//! - The domain `beside` on the same CPU has a timer as well, and sleeps in between (see [`crate::beside`]). It prints how far beyond
//!   its deadline its event came at most.
//!
//! A row is one line, `latency KEY: TICKS`, the longest of all deadlines while it ran; `latency KEY: asleep` without a timer.

mod doomed;
mod grants;
mod others;
pub mod own;

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use guest_pv_lib::events::{self, Port, Virq};
use guest_pv_lib::{println, sched, time};

use super::need;
use crate::{Env, Missing, stubs};

/// Ticks from one event to the next deadline.
const AHEAD: u64 = 3_000;
/// Ticks after which a sleeping kernel looks again, where no timer runs anyway.
const LOOK: u64 = 50_000;
/// Ticks that the domains have to get ready.
const BEGIN: u64 = 100_000_000;
/// Ticks that a row may take that waits for something.
const PATIENCE: u64 = 5_000_000_000;

static DEADLINE: AtomicU64 = AtomicU64::new(0);
static LONGEST: AtomicU64 = AtomicU64::new(0);
static EVENTS: AtomicU64 = AtomicU64::new(0);
/// Whether the timer is to expire again and again.
static TICKING: AtomicU64 = AtomicU64::new(0);
/// What the domain `beside` answered.
static ANSWERS: AtomicU64 = AtomicU64::new(0);

type Work = fn(&Env) -> Result<(), Missing>;

/// Rows in which other domains compute while this one sleeps: its own timer would tell how long it waits for its turn.
const ASLEEP: &[&str] = &["reboot", "crash", "teardown_tables", "teardown_events"];

/// In this order: some leave for the next what it needs.
const ROWS: &[(&str, Work)] = &[
    ("idle", own::idle),
    ("pin_tables", own::pin_tables),
    ("update_tables", own::update_tables),
    ("unpin_tables", own::unpin_tables),
    ("set_gdt", own::set_gdt),
    ("set_ldt", own::set_ldt),
    ("populate_16m", |_| own::populate(own::LARGE)),
    ("decrease_16m", |_| own::decrease(own::LARGE)),
    ("exchange_2m", own::exchange),
    ("populate_1g", |_| own::populate(own::LARGEST)),
    ("decrease_1g", |_| own::decrease(own::LARGEST)),
    ("pin_40m", doomed::pin),
    ("doomed_40m", doomed::unpin),
    ("far_deadlines", own::far_deadlines),
    ("console_io", own::write_console),
    ("reboot", |env| others::end(env, "reboots")),
    ("crash", |env| others::end(env, "crashes")),
    ("teardown_tables", |env| others::end(env, "tables")),
    ("teardown_events", |env| others::end(env, "events")),
    ("grant_table_grow", own::grow_grant_table),
    ("grant_map_handles", grants::map),
    ("cache_flush_own", grants::flush_own),
    ("cache_flush_foreign", grants::flush_foreign),
    ("grant_unmap_handles", grants::unmap),
    ("grant_table_version", own::change_grant_version),
    ("fifo_init", own::use_fifo),
    ("fifo_expand", own::expand_fifo),
    ("port_search", own::search_ports),
    ("bind_interdomain", own::bind_to_nonsense),
];

/// Counts all rows.
pub fn all(env: &Env) {
    own::touch();
    if let Err(reason) = run(env) {
        println!("latency: missing, {reason}");
    }
}

/// Keeps the domain's console busy, the one row of a domain with two vCPUs on two CPUs.
pub fn talk(env: &Env) -> Result<(), Missing> {
    let beside = begin(env)?;
    report("console_ring", longest(env, beside, false, others::talk));
    Ok(())
}

fn run(env: &Env) -> Result<(), Missing> {
    let beside = begin(env)?;
    let ticking = !env.boot.has_option("quiet");
    for (key, work) in ROWS.iter().filter(|(key, _)| super::wanted(env, key)) {
        report(key, longest(env, beside, ticking && !ASLEEP.contains(key), *work));
    }
    Ok(())
}

fn report(key: &str, longest: Result<Option<u64>, Missing>) {
    match longest {
        Ok(Some(ticks)) => println!("latency {key}: {ticks}"),
        Ok(None) => println!("latency {key}: asleep"),
        Err(reason) => println!("latency {key}: missing, {reason}"),
    }
}

/// Gets ready; answers the port of the domain beside.
fn begin(env: &Env) -> Result<Port, Missing> {
    let timer = need("bind_virq", events::bind_virq(Virq::TIMER))?;
    let beside = env.channel("beside").ok_or("no domain is beside this one")?;
    events::set_handler(timer, tick);
    events::set_handler(beside, |_| {
        ANSWERS.fetch_add(1, Relaxed);
    });
    events::unmask(timer);
    events::unmask(beside);
    events::unmask_upcalls();
    // The other domains get ready.
    let end = time::now() + BEGIN;
    wait("time stands still", || time::now() > end)?;
    Ok(beside)
}

/// The longest that a deadline waited while `work` ran.
fn longest(env: &Env, beside: Port, ticking: bool, work: Work) -> Result<Option<u64>, Missing> {
    ask(beside)?;
    LONGEST.store(0, Relaxed);
    TICKING.store(ticking.into(), Relaxed);
    stubs::row_begins();
    if ticking {
        arm();
    }
    let done = work(env);
    if ticking {
        // The deadline that passed in it, if one did at its end. It may have set the timer.
        arm();
        let before = EVENTS.load(Relaxed);
        while EVENTS.load(Relaxed) < before + 2 {
            core::hint::spin_loop();
        }
    }
    stubs::row_ends();
    TICKING.store(0, Relaxed);
    need("stop", time::stop_oneshot())?;
    ask(beside)?;
    done.map(|()| ticking.then(|| LONGEST.load(Relaxed)))
}

/// Has the domain beside begin to count, or tell what it counted, and waits until it has.
fn ask(beside: Port) -> Result<(), Missing> {
    let before = ANSWERS.load(Relaxed);
    need("notify", events::notify(beside))?;
    wait("the domain beside does not answer", || ANSWERS.load(Relaxed) != before)
}

/// Sleeps until `done`, for a while.
fn wait(what: Missing, done: impl Fn() -> bool) -> Result<(), Missing> {
    let end = time::now() + PATIENCE;
    loop {
        events::mask_upcalls();
        let (is_done, now) = (done(), time::now());
        if is_done || now > end {
            events::unmask_upcalls();
            return if is_done { Ok(()) } else { Err(what) };
        }
        if TICKING.load(Relaxed) == 0 {
            let _ = time::set_timer(now + LOOK);
        }
        sched::block();
    }
}

fn arm() {
    let deadline = time::now() + AHEAD;
    DEADLINE.store(deadline, Relaxed);
    // A deadline that passed meanwhile fires at once.
    let _ = time::set_timer(deadline);
}

fn tick(_: Port) {
    if TICKING.load(Relaxed) != 0 {
        LONGEST.fetch_max(time::now().saturating_sub(DEADLINE.load(Relaxed)), Relaxed);
        EVENTS.fetch_add(1, Relaxed);
        doomed::meet();
        arm();
    } else {
        doomed::meet();
    }
}
