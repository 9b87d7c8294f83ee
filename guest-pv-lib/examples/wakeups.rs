//! How long a virtual CPU that wakes up waits for a processor that another one computes on without end, and what it leaves to
//! that one: where a scheduler stands between stalling those that communicate and starving those that compute.
//!
//! CPU 1 computes. CPU 0 sleeps until a time, again and again, and computes for a part of a period in between; then it and CPU 2
//! wake each other without a pause; then it sleeps for a few microseconds, again and again. Prints a line for each pattern:
//! `wakeups NAME: A B C D, computing E`, where A to D are nanoseconds from the wake-up (for `exchange`: of the way there and
//! back) that half of all rounds, 90 and 99 of a hundred, and all stay within, and E is what CPU 1 ran, in thousandths of the time. `wakeups done` is the last line.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]
// On a hosted target there is no entry, so nothing looks used.
#![cfg_attr(not(target_os = "none"), allow(dead_code, unused_imports))]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use guest_pv_lib::events::{self, Port};
use guest_pv_lib::sched::{Shutdown, shutdown};
use guest_pv_lib::smp::{self, Cpu, Storage};
use guest_pv_lib::{BootContext, println, sched, time};

guest_pv_lib::entry!(kernel, name = "wakeups", version = "1");

/// Rounds of each pattern.
const ROUNDS: usize = 100;
/// Rounds of two CPUs that wake each other: they are short.
const EXCHANGES: usize = 400;
/// A period, in nanoseconds.
const PERIOD: u64 = 5_000_000;
/// What CPU 0 computes of it.
const PATTERNS: [(&str, u64); 3] = [("light", 200_000), ("half", 2_000_000), ("greedy", 4_000_000)];
/// How long CPU 0 sleeps where it does nothing else, in nanoseconds.
const NAPS: [(&str, u64); 2] = [("nap1", 1_000), ("nap4", 4_000)];
/// Two readings of the counter that are further apart had somebody else between them, in ticks.
const GAP: u64 = 3000;

static STORAGE: [Storage<{ 16 << 10 }>; 2] = [const { Storage::new() }; 2];

/// The ports by which CPU 0 and CPU 2 are woken.
static PORTS: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
/// Ticks that CPU 1 ran.
static COMPUTED: AtomicU64 = AtomicU64::new(0);

/// Computes until `enough` says so of the ticks that it ran.
fn compute(mut enough: impl FnMut(u64) -> bool) {
    let (mut ran, mut last) = (0, time::tsc());
    while !enough(ran) {
        let now = time::tsc();
        ran += if now - last < GAP { now - last } else { 0 };
        last = now;
    }
}

fn port(end: usize) -> Port {
    Port(PORTS[end].load(SeqCst))
}

/// Sleeps until the event of one end.
fn wait(end: usize) {
    while !events::take(port(end)) {
        let _ = sched::poll(&[port(end)], None);
    }
}

fn computing(_: &'static Cpu) -> ! {
    let _ = time::stop_periodic();
    compute(|ran| {
        COMPUTED.store(ran, SeqCst);
        false
    });
    unreachable!("it computes without end")
}

fn answering(_: &'static Cpu) -> ! {
    let _ = time::stop_periodic();
    loop {
        wait(1);
        let _ = events::notify(port(0));
    }
}

/// Reports a pattern of which `one` is a round that answers how long it waited.
fn report<const N: usize>(name: &str, mut one: impl FnMut() -> u64) {
    let mut waits = [0; N];
    // The first rounds use up what was saved up before.
    (0..N / 4).for_each(|_| drop_count(one()));
    let (begin, computed) = (time::tsc(), COMPUTED.load(SeqCst));
    waits.iter_mut().for_each(|wait| *wait = one());
    let share = (COMPUTED.load(SeqCst) - computed) * 1000 / (time::tsc() - begin);
    waits.sort_unstable();
    let [half, most, nearly, all] = [50, 90, 99, 100].map(|part| waits[N * part / 100 - 1]);
    println!("wakeups {name}: {half} {most} {nearly} {all}, computing {share}");
}

fn drop_count(_: u64) {}

/// Sleeps for the rest of a period, computes its part; answers how late it woke.
fn period(part: u64) -> u64 {
    let deadline = time::now() + PERIOD - part;
    while time::now() < deadline {
        let _ = sched::poll(&[port(0)], Some(deadline));
    }
    let late = time::now() - deadline;
    compute(|ran| ran >= part);
    late
}

/// Sleeps for so long; answers how late it woke.
fn nap(length: u64) -> u64 {
    let deadline = time::now() + length;
    let _ = sched::poll(&[port(0)], Some(deadline));
    time::now().saturating_sub(deadline)
}

fn exchange() -> u64 {
    let begin = time::now();
    let _ = events::notify(port(1));
    wait(0);
    time::now() - begin
}

#[cfg(target_os = "none")]
fn start(boot: &BootContext) -> bool {
    let entries: [fn(&'static Cpu) -> !; 2] = [computing, answering];
    (1..).zip(&STORAGE).zip(entries).all(|((number, storage), entry)| {
        // SAFETY: the root table is the one the domain started with; nothing here uses GS.
        unsafe { smp::start(boot, number, storage, None, entry) }.is_ok()
    })
}

#[cfg(not(target_os = "none"))]
fn start(_: &BootContext) -> bool {
    false
}

fn kernel(boot: BootContext) -> ! {
    let _ = time::stop_periodic();
    let ports = [events::bind_ipi(0), events::bind_ipi(2)];
    for (slot, port) in PORTS.iter().zip(ports) {
        slot.store(port.map_or(0, |port| port.0), SeqCst);
    }
    if port(1).0 == 0 || !start(&boot) {
        println!("wakeups: the domain needs three CPUs");
        shutdown(Shutdown::Crash);
    }
    for (name, part) in PATTERNS {
        report::<ROUNDS>(name, || period(part));
    }
    report::<EXCHANGES>("exchange", exchange);
    for (name, length) in NAPS {
        report::<ROUNDS>(name, || nap(length));
    }
    println!("wakeups done");
    shutdown(Shutdown::PowerOff)
}
