//! One CPU's events: channels, handlers, waiting.

use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use guest_pv_lib::events::{self, Channel, Port, Virq};
use guest_pv_lib::{BootContext, Errno, println, sched, time};
use xen_abi::xen::DOMID_SELF;

use crate::{Step, check, ok};

pub fn channel(_: &BootContext) -> Step {
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

pub fn handler(_: &BootContext) -> Step {
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

pub fn wait(_: &BootContext) -> Step {
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
