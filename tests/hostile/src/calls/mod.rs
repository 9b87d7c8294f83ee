//! The attacker of the hypervisor: every hypercall with half-valid arguments made of its own pages, for ever.
//!
//! It attacks Paravane only: on another hypervisor it says so and switches itself off.
//!
//! vCPU 0 is the *supervisor*: it runs on the guest library, prints how far the others are, wakes one that sleeps or loops, and
//! ends this life when its time is over or nothing helps any more; the domain's description starts the next one. All others but
//! the last *attack*: each makes one step after the other from its own seed. The last vCPU is only ever started by the attack
//! itself. What a step may be:
//!
//! - [`ops`], [`memory`], [`grants`], [`privileged`]: typed hypercalls, one by one or in a multicall;
//! - [`tables`]: page tables built, pinned, linked, written by emulated stores;
//! - [`stale`]: translations kept on purpose while a frame becomes something else;
//! - [`code`]: user mode, privileged instructions, ports, frames of `iret`.
//!
//! [`argument`] makes the values, [`pool`] has the pages, [`edge`] is the unsafe part and says how a vCPU comes back from
//! whatever it did to itself.
//!
//! **Seeds.** A life's numbers follow from the seed that it prints, vCPU by vCPU; how the vCPUs meet is the scheduler's
//! affair. Words on the command line, beside those of the program: `own=N`, `neighbour=N`, `victim=N` (domains), `life=N`
//! (seconds), `first` (what a first domain may lawfully do to the machine is left out), `steps=MASK` and `kinds=MASK` (only
//! some [kinds of steps](KINDS), of [hypercalls](ops::KINDS): to find out what it was), `idle` (none at all).

mod argument;
mod code;
mod edge;
mod grants;
mod memory;
mod ops;
mod pool;
mod privileged;
mod stale;
mod tables;
mod vcpus;

use core::cell::UnsafeCell;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU64};

use guest_pv_lib::sched::{Shutdown, shutdown};
use guest_pv_lib::traps::{self, Frame, Vector};
use guest_pv_lib::{BootContext, print, println, time};
use xen_abi::hypercall::nr;
use xen_abi::sched::*;
use xen_abi::version::{XEN_EXTRAVERSION_LEN, XENVER_EXTRAVERSION};
use xen_abi::xen::MulticallEntry;

use crate::option;
use crate::random::Random;
use argument::{ARENA, Cx};
use edge::{MADE, SUCCEEDED, VCPUS, call, count, is_error, peek, poke};

/// Nanoseconds between two looks of the supervisor.
const LOOK: u64 = 2_000_000;
/// Nanoseconds between two lines on the console.
const LINE: u64 = 1_000_000_000;
/// Nanoseconds without a step after which nothing helps.
const HOPELESS: u64 = 1_500_000_000;
/// Seconds that the watchdog waits for the supervisor.
const WATCHDOG: u32 = 8;

/// What one attacking vCPU has.
struct State(UnsafeCell<Cx>);

// SAFETY: the supervisor writes it before it starts the vCPU, and from then on only that vCPU does.
unsafe impl Sync for State {}

static STATES: [State; VCPUS] = [const {
    State(UnsafeCell::new(Cx {
        random: Random(0),
        vcpu: 0,
        vcpus: 1,
        first: false,
        own: 0,
        neighbour: 0,
        victim: 0,
        arena: [0; ARENA],
        used: 0,
    }))
}; VCPUS];

/// Steps of each vCPU.
static STEPS: [AtomicU64; VCPUS] = [const { AtomicU64::new(0) }; VCPUS];
/// Entries of each kind that vCPUs came back by.
static ARRIVALS: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];

/// What must not be possible.
#[derive(Clone, Copy, Debug)]
pub enum Finding {
    /// A store through an old translation reached a pinned table.
    StaleStore,
    /// A new frame holds what the victim wrote.
    Secret,
    /// A load of the hypervisor's memory succeeded.
    HypervisorRead,
}

/// Set from a finding until it is printed, with what belongs to it.
static FOUND: AtomicBool = AtomicBool::new(false);
static FOUND_WORDS: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

/// Set when this life is nearly over: from then on the console may be lost.
static LATE: AtomicBool = AtomicBool::new(false);

fn is_late() -> bool {
    LATE.load(Relaxed)
}

/// Notes a finding and waits a moment for the supervisor to print it.
fn found(finding: Finding, first: u64, second: u64) {
    for (word, value) in FOUND_WORDS.iter().zip([finding as u64, first, second]) {
        word.store(value, Relaxed);
    }
    FOUND.store(true, Release);
    for _ in 0..20_000_000 {
        if !FOUND.load(Acquire) {
            break;
        }
        core::hint::spin_loop();
    }
}

/// Attacks until this life is over.
pub fn run(boot: &BootContext, mut random: Random) -> ! {
    let seed = random.0;
    if !is_paravane() {
        println!("calls: this is not Paravane, and nothing else is attacked");
        shutdown(Shutdown::PowerOff);
    }
    if let Err(error) = pool::make(boot) {
        println!("calls: no pool: {error:?}");
        shutdown(Shutdown::Crash);
    }
    let vcpus = vcpus::present();
    let attackers = 1..vcpus.clamp(2, VCPUS) as u64 - u64::from(vcpus > 2);
    for (vcpu, state) in STATES.iter().enumerate().skip(1) {
        let cx = Cx {
            random: Random(random.any()),
            vcpu,
            vcpus,
            first: boot.has_option("first"),
            own: option(boot, "own").unwrap_or(0),
            neighbour: option(boot, "neighbour").unwrap_or(privileged::DOLLS.start),
            victim: option(boot, "victim").unwrap_or(1),
            arena: [0; ARENA],
            used: 0,
        };
        // SAFETY: that vCPU is not up yet.
        unsafe { *state.0.get() = cx };
    }
    ALLOWED.store(option(boot, "steps").unwrap_or(u64::MAX), Relaxed);
    ops::ALLOWED.store(option(boot, "kinds").unwrap_or(u64::MAX), Relaxed);
    if boot.has_option("idle") {
        println!("calls: idle");
        loop {
            sleep(LOOK);
        }
    }
    for vcpu in attackers.clone() {
        if let Err(error) = vcpus::start(boot, vcpu as usize) {
            println!("calls: vCPU {vcpu} does not start: {error:?}");
        }
    }
    for vector in Vector::ALL {
        traps::set_handler(vector, Some(is_damaged));
    }
    supervise(seed, attackers, option(boot, "life").unwrap_or(6))
}

/// An exception of the supervisor: what it needs is damaged, the console perhaps as well. The registers of this hypercall, which the
/// hypervisor prints, say where (rdx), for which address (r10) and why (r8).
fn is_damaged(frame: &mut Frame) {
    let arg = SchedShutdown { reason: SHUTDOWN_CRASH };
    let (command, at) = (u64::from(SCHEDOP_SHUTDOWN), &raw const arg as u64);
    let why = [command, at, frame.instruction_pointer(), frame.fault_address(), frame.error_code(), 0];
    loop {
        call(nr::SCHED_OP, why);
    }
}

fn is_paravane() -> bool {
    let mut text = [0u8; XEN_EXTRAVERSION_LEN];
    let at = text.as_mut_ptr() as u64;
    let result = call(nr::XEN_VERSION, [u64::from(XENVER_EXTRAVERSION), at, 0, 0, 0, 0]);
    !is_error(result) && text.windows(8).any(|part| part == b"paravane")
}

/// Sleeps by a timer that is nobody else's.
fn sleep(nanoseconds: u64) {
    let arg = SchedPoll { timeout: time::now() + nanoseconds, ..SchedPoll::default() };
    call(nr::SCHED_OP, [u64::from(SCHEDOP_POLL), &raw const arg as u64, 0, 0, 0, 0]);
}

/// Watches the others, and ends this life.
fn supervise(seed: u64, attackers: core::ops::Range<u64>, life: u64) -> ! {
    let mut watchdog = SchedWatchdog { id: 0, timeout: WATCHDOG };
    let (mut last, mut moved) = ([0; VCPUS], [time::now(); VCPUS]);
    let end = time::now().saturating_add(life * 1_000_000_000);
    let (mut line, mut told) = (0, [0; 64]);
    let is_hopeless = |moved: &[u64]| moved.iter().any(|at| time::now().saturating_sub(*at) > HOPELESS);
    while time::now() < end && !is_hopeless(&moved[1..attackers.end as usize]) {
        let is_line = time::now() >= line;
        if is_line {
            line = time::now() + LINE;
            let id =
                call(nr::SCHED_OP, [u64::from(SCHEDOP_WATCHDOG), &raw const watchdog as u64, 0, 0, 0, 0]);
            if id > 0 {
                watchdog.id = id as u32;
            }
        }
        sleep(LOOK);
        for vcpu in attackers.clone().map(|vcpu| vcpu as usize) {
            let steps = STEPS[vcpu].load(Relaxed);
            if steps == last[vcpu] {
                vcpus::nudge(vcpu);
            } else {
                (last[vcpu], moved[vcpu]) = (steps, time::now());
            }
        }
        if FOUND.load(Acquire) {
            let [kind, first, second] = [0, 1, 2].map(|at| FOUND_WORDS[at].load(Relaxed));
            let kind =
                ["stale store into a table", "a secret in a new frame", "the hypervisor's memory read"]
                    [kind.min(2) as usize];
            println!("calls: FOUND {kind}: {first:#x} {second:#x} (seed={seed})");
            FOUND.store(false, Release);
        }
        if is_line {
            report(seed, &mut told);
        }
    }
    report(seed, &mut told);
    LATE.store(true, Relaxed);
    sleep(500 * LOOK);
    shutdown(Shutdown::Reboot)
}

/// Numbers in one line: the hypervisor breaks longer ones.
const NUMBERS: usize = 6;

/// Everything since this life began: what changed since the last report, a few numbers in each line.
fn report(seed: u64, told: &mut [u64; 64]) {
    let made: u64 = MADE.iter().map(|made| made.load(Relaxed)).sum();
    print!("calls: seed={seed} made={made} traps=");
    for (number, count) in ARRIVALS.iter().enumerate() {
        let count = count.swap(0, AcqRel);
        if count != 0 {
            print!("{number}:{count},");
        }
    }
    println!();
    let mut numbers = 0;
    for (number, told) in told.iter_mut().enumerate() {
        let made = MADE[number].load(Relaxed);
        if *told == made {
            continue;
        }
        *told = made;
        if numbers % NUMBERS == 0 {
            print!("calls: seed={seed} by=");
        }
        numbers += 1;
        print!("{number}:{made}/{},", SUCCEEDED[number].load(Relaxed));
        if numbers % NUMBERS == 0 {
            println!();
        }
    }
    if numbers % NUMBERS != 0 {
        println!();
    }
}

/// What an attacking vCPU does from its entry on: see [`edge`].
extern "sysv64" fn turn(vcpu: u64) -> ! {
    let vcpu = vcpu as usize % VCPUS;
    // SAFETY: only this vCPU uses it; what an earlier turn had of it is given up.
    let cx = unsafe { &mut *STATES[vcpu].0.get() };
    let arrived = edge::arrived_by(vcpu);
    if arrived != 0 {
        ARRIVALS[(arrived - 1) as usize & 63].fetch_add(1, Relaxed);
    }
    // A fault of a load or a store leaves nothing behind; anything else may have.
    let is_fault = matches!(arrived, 13..16);
    if !is_fault || cx.rarely(16) {
        vcpus::reset(cx);
    }
    loop {
        STEPS[vcpu].fetch_add(1, Relaxed);
        cx.used = 0;
        step(cx);
    }
}

/// A kind of step, and how often of [`SHARES`] it is taken.
type Kind = (usize, fn(&mut Cx));

/// The kinds of steps. `steps=MASK` on the command line lets only those whose bits are set happen.
const KINDS: [Kind; 19] = [
    (72, |cx| {
        let wanted = ops::any(cx);
        call(wanted.nr, wanted.args);
    }),
    (10, multicall),
    (5, tables::build),
    (6, |cx| (0..4).for_each(|_| tables::link(cx))),
    (2, |cx| {
        let entry = cx.entry();
        tables::store(cx, entry);
    }),
    (6, |cx| {
        let page = cx.page();
        tables::repair(cx, page);
    }),
    (3, tables::balloon),
    (4, stale::touch),
    (2, stale::retype),
    (2, stale::give),
    (1, grants::show_table),
    (3, grants::write_entries),
    (3, grants::map_now),
    (1, stale::probe),
    (3, |cx| code::enter(cx)),
    (2, scribble),
    (1, entries),
    (1, initialise),
    (1, end),
];
/// The sum of the first numbers of [`KINDS`].
const SHARES: usize = 128;

/// Bits of the kinds that may happen.
static ALLOWED: AtomicU64 = AtomicU64::new(u64::MAX);

/// One step.
fn step(cx: &mut Cx) {
    let mut at = cx.below(SHARES);
    for (number, (share, run)) in KINDS.iter().enumerate() {
        if at < *share {
            if ALLOWED.load(Relaxed) >> number & 1 != 0 {
                run(cx);
            }
            return;
        }
        at -= share;
    }
}

/// Moves the entries, seldom tries one, and puts all of them right again.
fn entries(cx: &mut Cx) {
    for _ in 0..=cx.below(2) {
        let wanted = ops::entries(cx);
        call(wanted.nr, wanted.args);
    }
    if cx.rarely(500) {
        peek(cx.address());
    }
    vcpus::reset(cx);
}

/// Several hypercalls in one.
fn multicall(cx: &mut Cx) {
    let mut calls = [MulticallEntry::default(); 6];
    for entry in &mut calls {
        let wanted = if cx.rarely(24) {
            // One inside the other, or what may not be one.
            ops::Call::new(nr::MULTICALL, &[cx.far(), cx.count()])
        } else {
            ops::any(cx)
        };
        *entry = MulticallEntry { op: u64::from(wanted.nr), args: wanted.args, ..MulticallEntry::default() };
    }
    let count_of_calls = cx.count().min(1 << 32 | 6);
    let is_honest = count_of_calls <= 6;
    // An `iret` among them would leave from this stack, by whatever lies there.
    calls.iter_mut().filter(|entry| entry.op == u64::from(nr::IRET)).for_each(|entry| entry.op = 63);
    let at = if is_honest && !cx.rarely(16) {
        &raw mut calls as u64
    } else {
        let at = cx.far();
        argument::poke_all(at, zerocopy::IntoBytes::as_bytes(&calls));
        at
    };
    let result = call(nr::MULTICALL, [at, count_of_calls, 0, 0, 0, 0]);
    if !is_error(result) && at == &raw const calls as u64 {
        for entry in &calls[..(count_of_calls as usize).min(6)] {
            count(entry.op as u32, entry.result.cast_signed());
        }
    } else {
        // Whatever lay there was called: zeros take the trap table away.
        vcpus::reset(cx);
    }
}

/// Stores into what is shared with the hypervisor: pending and mask bits, records of other vCPUs.
fn scribble(cx: &mut Cx) {
    let page = core::ptr::from_ref(guest_pv_lib::shared::info()) as u64;
    for _ in 0..4 {
        let at = match cx.below(4) {
            0 => 2048 + 8 * cx.below(128) as u64,
            1 => 64 + 8 * cx.below(24) as u64,
            _ => 2048 + 8 * cx.below(2) as u64 + 512 * cx.below(2) as u64,
        };
        let value = if cx.rarely(2) { cx.random.any() } else { cx.number() };
        poke(page + at, value);
    }
}

/// Gives the last vCPU registers that are half right, once or again.
fn initialise(cx: &mut Cx) {
    if !cx.rarely(64) {
        return;
    }
    let at = privileged::context(cx);
    let vcpu = cx.vcpus as u64 - 1;
    call(nr::VCPU_OP, [0, vcpu, at, 0, 0, 0]);
}

/// Ends this life in the middle of everything.
fn end(cx: &mut Cx) {
    if cx.first || !cx.rarely(4000) {
        return;
    }
    // Reboot, crash, the watchdog's reason: those after which the domain is started again.
    let arg = SchedShutdown { reason: cx.pick(&[1, 3, 4]) };
    call(nr::SCHED_OP, [u64::from(SCHEDOP_SHUTDOWN), &raw const arg as u64, 0, 0, 0, 0]);
}
