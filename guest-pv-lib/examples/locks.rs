//! What a lock costs where virtual CPUs share processors: all CPUs of the domain take one lock again and again, first one
//! that spins, then one that sleeps while its holder has no processor.
//!
//! Prints the time-stamp counter's ticks for the same work done three ways: `locks alone: TICKS` by one CPU without
//! anybody else, `locks spinning: TICKS` and `locks sleeping: TICKS` by all of them; `locks done` is the last line.
//! Without a second CPU there is nothing to show, and it says so.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]
// On a hosted target there is no entry, so nothing looks used.
#![cfg_attr(not(target_os = "none"), allow(dead_code, unused_imports))]

use core::hint::black_box;
use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::{AtomicU32, AtomicU64};

use guest_pv_lib::sched::{Shutdown, shutdown};
use guest_pv_lib::smp::{self, Cpu, Storage};
use guest_pv_lib::sync::RawPvLock;
use guest_pv_lib::{BootContext, println, sched, time};

guest_pv_lib::entry!(kernel, name = "locks", version = "1");

/// CPUs that take part, at most.
const MOST: usize = 4;
/// How often each CPU takes the lock.
const ROUNDS: u64 = 2000;
/// Turns of a loop of a few instructions while the lock is held, and as many after it.
const WORK: u64 = 5000;

static STORAGE: [Storage<{ 16 << 10 }>; MOST - 1] = [const { Storage::new() }; MOST - 1];

static SPINNING: spin::Mutex<u64> = spin::Mutex::new(0);
static SLEEPING: lock_api::Mutex<RawPvLock, u64> = lock_api::Mutex::new(0);

/// What the CPUs do now: its number goes up when they are to begin.
static PHASE: AtomicU32 = AtomicU32::new(0);
/// CPUs that have finished the phase.
static FINISHED: AtomicU32 = AtomicU32::new(0);
/// What the lock holders computed, so that they must.
static RESULT: AtomicU64 = AtomicU64::new(0);

/// The phases: which lock the CPUs take.
const PHASES: [(&str, fn()); 2] = [("spinning", take_spinning), ("sleeping", take_sleeping)];

fn work() -> u64 {
    (0..WORK).fold(0, |sum, turn| black_box(sum + turn))
}

fn take_spinning() {
    for _ in 0..ROUNDS {
        // By name: `+=` would compute before it takes the lock.
        let mut guard = SPINNING.lock();
        *guard += work();
        drop(guard);
        RESULT.fetch_add(work(), SeqCst);
    }
}

fn take_sleeping() {
    for _ in 0..ROUNDS {
        // By name: `+=` would compute before it takes the lock.
        let mut guard = SLEEPING.lock();
        *guard += work();
        drop(guard);
        RESULT.fetch_add(work(), SeqCst);
    }
}

fn other(_: &'static Cpu) -> ! {
    for (phase, (_, take)) in (1..).zip(PHASES) {
        while PHASE.load(SeqCst) != phase {
            sched::yield_now();
        }
        take();
        FINISHED.fetch_add(1, SeqCst);
    }
    smp_stop()
}

#[cfg(target_os = "none")]
fn smp_stop() -> ! {
    smp::stop()
}

#[cfg(not(target_os = "none"))]
fn smp_stop() -> ! {
    unreachable!("a host has no virtual CPUs to stop")
}

/// Starts all CPUs there are and says how many run.
#[cfg(target_os = "none")]
fn start(boot: &BootContext) -> u32 {
    for (number, storage) in (1..).zip(&STORAGE) {
        // SAFETY: the root table is the one the domain started with; nothing here uses GS.
        if smp::is_up(number).is_err() || unsafe { smp::start(boot, number, storage, None, other) }.is_err() {
            return number;
        }
    }
    MOST as u32
}

#[cfg(not(target_os = "none"))]
fn start(_: &BootContext) -> u32 {
    1
}

fn kernel(boot: BootContext) -> ! {
    let _ = time::stop_periodic();
    // One CPU's part, as long as there is no other.
    let begin = time::tsc();
    take_spinning();
    let alone = time::tsc() - begin;
    let cpus = start(&boot);
    if cpus < 2 {
        println!("locks: the domain has one CPU");
        println!("locks done");
        shutdown(Shutdown::PowerOff);
    }
    println!("locks: {cpus} CPUs, each {ROUNDS} times");
    println!("locks alone: {}", u64::from(cpus) * alone);
    for (phase, (name, take)) in (1..).zip(PHASES) {
        FINISHED.store(0, SeqCst);
        let begin = time::tsc();
        PHASE.store(phase, SeqCst);
        take();
        while FINISHED.load(SeqCst) != cpus - 1 {
            sched::yield_now();
        }
        println!("locks {name}: {}", time::tsc() - begin);
    }
    let exact = *SLEEPING.lock() == u64::from(cpus) * ROUNDS * work();
    println!("{}", if exact { "locks done" } else { "locks: two CPUs were in at once" });
    shutdown(Shutdown::PowerOff)
}
