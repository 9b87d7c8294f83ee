//! What this kernel does in the domains beside the one that keeps the hypervisor busy.
//!
//! `beside`: a timer expires every few ten thousand ticks and the vCPU sleeps in between. Asked by the channel of the domain
//! `micro`, it begins to count; asked again it prints `beside: NANOSECONDS`, how far beyond its deadline an event came at most.
//!
//! `ends=HOW`: the domain gets ready, sleeps until the same domain sends an event, and ends. `reboot` just ends; `crash` by an
//! exception for which it has no handler, with a deep stack to be printed; `tables` with pinned tables, `events` with all the event
//! words, grant frames and mapped grants that there can be.
//!
//! `talks`: keeps its console's ring full by its second vCPU while the first one notifies, for a while, as a row of its own.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use guest_pv_lib::events::{self, Port, Virq};
use guest_pv_lib::sched::{Shutdown, shutdown};
use guest_pv_lib::{println, sched, time};
use xen_abi::hypercall::nr;

use crate::call::hc1;
use crate::rows::latency::{self, own};
use crate::{Env, Missing, stubs};

/// Ticks from one event to the next deadline.
const AHEAD: u64 = 20_000;
/// Calls on the stack of a crash.
const CALLS: u32 = 40;

static DEADLINE: AtomicU64 = AtomicU64::new(0);
static LONGEST: AtomicU64 = AtomicU64::new(0);
static COUNTS: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicBool = AtomicBool::new(false);

/// Does what the command line says, if it says something of this.
pub fn run(env: &Env) {
    let option = |word| env.boot.has_option(word);
    let done = if option("talks") {
        latency::talk(env).map(|()| println!("micro done"))
    } else if option("beside") {
        beside(env)
    } else if option("ends=reboot") {
        end(env, |_| Ok(()), || shutdown(Shutdown::Reboot))
    } else if option("ends=crash") {
        end(env, |_| Ok(()), || fall(CALLS))
    } else if option("ends=tables") {
        end(env, own::pin_tables, || shutdown(Shutdown::Reboot))
    } else if option("ends=events") {
        end(env, fill, || shutdown(Shutdown::Reboot))
    } else {
        return;
    };
    if let Err(reason) = done {
        println!("missing, {reason}");
    }
    shutdown(Shutdown::PowerOff)
}

fn beside(env: &Env) -> Result<(), Missing> {
    let timer = events::bind_virq(Virq::TIMER).map_err(|_| "bind_virq")?;
    let asked = env.channel("micro").ok_or("no channel")?;
    // A channel begins with an event.
    let _ = events::take(asked);
    events::set_handler(timer, tick);
    events::set_handler(asked, |_| ASKED.store(true, Relaxed));
    events::unmask(timer);
    events::unmask(asked);
    arm();
    loop {
        events::mask_upcalls();
        if ASKED.swap(false, Relaxed) {
            answer(asked);
        } else {
            // Lets upcalls in.
            sched::block();
        }
    }
}

fn answer(asked: Port) {
    if COUNTS.load(Relaxed) {
        println!("beside: {}", LONGEST.load(Relaxed));
    }
    LONGEST.store(0, Relaxed);
    COUNTS.fetch_xor(true, Relaxed);
    arm();
    let _ = events::notify(asked);
}

fn arm() {
    let deadline = time::now() + AHEAD;
    DEADLINE.store(deadline, Relaxed);
    let _ = time::set_timer(deadline);
}

fn tick(_: Port) {
    LONGEST.fetch_max(time::now().saturating_sub(DEADLINE.load(Relaxed)), Relaxed);
    arm();
}

/// Gets ready, waits, and ends.
fn end(env: &Env, prepare: fn(&Env) -> Result<(), Missing>, end: impl FnOnce()) -> Result<(), Missing> {
    let port = env.channel("micro").ok_or("no channel")?;
    // A channel begins with an event.
    let _ = events::take(port);
    prepare(env)?;
    while !events::take(port) {
        sched::poll(&[port], None).map_err(|_| "poll")?;
    }
    end();
    Ok(())
}

/// Everything that the end of a domain has to give back.
fn fill(env: &Env) -> Result<(), Missing> {
    own::grow_grant_table(env)?;
    own::use_fifo(env)?;
    own::expand_fifo(env)
}

/// Ends by an exception that the kernel has no handler for.
#[inline(never)]
fn fall(calls: u32) {
    if calls == 0 {
        let _ = hc1(nr::SET_TRAP_TABLE, 0);
        stubs::undefined_instruction();
    } else {
        fall(core::hint::black_box(calls) - 1);
    }
    core::hint::black_box(calls);
}
