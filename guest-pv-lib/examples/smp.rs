//! Events, waiting and several CPUs: shows each of them, prints the same lines on every hypervisor that gets them right,
//! and powers off.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use guest_pv_lib::events::{self, Channel, Port, Virq};
use guest_pv_lib::sched::{self, Shutdown};
use guest_pv_lib::{BootContext, Errno, println, time};
use xen_abi::xen::DOMID_SELF;

guest_pv_lib::entry!(kernel, name = "smp", version = "1");

/// A step that did not go as it must, and why.
type Step = Result<(), &'static str>;

/// A step's name and its code.
type Named = (&'static str, fn(&BootContext) -> Step);

/// What is shown, in this order.
const STEPS: [Named; 3] = [("channel", channel), ("handler", handler), ("wait", wait)];

fn kernel(boot: BootContext) -> ! {
    println!("smp: several CPUs and their events");
    let mut passed = true;
    if let Err(error) = time::stop_periodic() {
        println!("stop_periodic_timer: {error:?}");
        passed = false;
    }
    for (name, step) in STEPS {
        if let Err(why) = step(&boot) {
            println!("{name}: FAILED: {why}");
            passed = false;
        }
    }
    println!("{}", if passed { "smp: all steps passed" } else { "smp: some step failed" });
    sched::shutdown(if passed { Shutdown::PowerOff } else { Shutdown::Crash })
}

/// Turns a refused hypercall into the reason of a step.
fn ok<T>(result: Result<T, Errno>, what: &'static str) -> Result<T, &'static str> {
    result.map_err(|error| {
        println!("{what}: {error:?}");
        what
    })
}

/// The reason of a step, where `condition` does not hold.
fn check(condition: bool, what: &'static str) -> Step {
    if condition { Ok(()) } else { Err(what) }
}

fn channel(_: &BootContext) -> Step {
    let ours = ok(Channel::alloc_unbound(DOMID_SELF), "alloc_unbound")?;
    let theirs = ok(Channel::interdomain(DOMID_SELF, ours.port()), "interdomain")?;
    check(theirs.take() && !theirs.take(), "a new connection starts with one event")?;
    theirs.notify();
    theirs.notify();
    check(ours.take() && !ours.take(), "two events before a look are one, with upcalls masked")?;
    events::unmask_upcalls();
    ours.notify();
    check(theirs.take() && !theirs.take(), "the upcall keeps an event")?;
    let number = theirs.port();
    drop(theirs);
    ours.notify();
    check(events::notify(number) == Err(Errno::EINVAL), "dropping closes")?;
    check(Channel::bind_virq(Virq(24)).err() == Some(Errno::EINVAL), "an unknown interrupt is refused")?;
    println!("channel: both ways, kept without a handler, closed when dropped");
    Ok(())
}

static COUNT: AtomicU32 = AtomicU32::new(0);

fn count(_: Port) {
    COUNT.fetch_add(1, Ordering::Relaxed);
}

fn handler(_: &BootContext) -> Step {
    let channel = ok(Channel::bind_ipi(0), "bind_ipi")?;
    channel.notify();
    channel.set_handler(count);
    check(COUNT.load(Ordering::Relaxed) == 1, "an event before the handler was set")?;
    channel.notify();
    check(COUNT.load(Ordering::Relaxed) == 2 && !channel.take(), "an event after that")?;
    channel.mask();
    channel.notify();
    check(COUNT.load(Ordering::Relaxed) == 2, "an event of a masked channel")?;
    channel.unmask();
    check(COUNT.load(Ordering::Relaxed) == 3, "unmasking delivers what came meanwhile")?;
    println!("handler: runs for the event before it, after it, and after unmasking");
    Ok(())
}

const LIMIT: Duration = Duration::from_millis(5);
/// Far more than any step takes.
const LONG: Duration = Duration::from_secs(20);

fn wait(_: &BootContext) -> Step {
    let channel = ok(Channel::bind_ipi(0), "bind_ipi")?;
    for masked in [false, true] {
        if masked {
            events::mask_upcalls();
        }
        // What the steps before left behind.
        sched::wait(Some(Duration::ZERO));
        let start = time::now();
        sched::wait(Some(LIMIT));
        let slept = time::now() - start;
        check(slept >= LIMIT.as_nanos() as u64, "woken before the limit without an event")?;
        for limit in [None, Some(LONG)] {
            channel.notify();
            sched::wait(limit);
            check(channel.take(), "an event before the wait")?;
        }
        check(time::now() - start < LONG.as_nanos() as u64, "slept although there was an event")?;
        check(events::upcalls_masked() == masked, "the mask is not as it was")?;
    }
    events::unmask_upcalls();
    wait_for_timer()?;
    println!("wait: to its limit, and not at all where something came before");
    Ok(())
}

fn wait_for_timer() -> Step {
    let timer = ok(Channel::bind_virq(Virq::TIMER), "bind_virq")?;
    for limit in [None, Some(LONG)] {
        let _ = timer.take();
        let start = time::now();
        ok(time::set_oneshot(start + LIMIT.as_nanos() as u64), "one-shot timer")?;
        while !timer.take() {
            sched::wait(limit);
        }
        let slept = time::now() - start;
        check(slept >= LIMIT.as_nanos() as u64, "the timer was early")?;
        check(slept < LONG.as_nanos() as u64, "the timer did not end the wait")?;
    }
    Ok(())
}
