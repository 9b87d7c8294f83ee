//! Sleeping until something happens, without missing what happens just before.
//!
//! An upcall counts the ports that it ran. Who waits compares that count with what it was the last time, and sleeps only
//! where nothing came. Between the look and the sleep another event may come. Without a limit, `SCHEDOP_block` closes
//! that gap: upcalls are masked at the look and unmasked by the hypervisor when it puts the CPU to sleep. With a limit
//! the CPU sleeps in `SCHEDOP_poll`, whose timer is nobody else's, but which looks only at the ports it is given: it
//! is given a masked port of the CPU's own, and every upcall that comes while the CPU is on its way makes that port
//! pending.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::compiler_fence;
use core::time::Duration;

use super::{block, poll, yield_now};
use crate::events::{self, Port};
use crate::smp::{Cpu, this_cpu};
use crate::time;

/// Sleeps until an event arrives on this CPU, or `limit` has passed (none: no limit). Returns at once where an event
/// arrived since the last call returned; may return earlier than it had to.
///
/// Handlers run as always, upcalls need not be unmasked: they are while the CPU sleeps, and as before afterwards. Call
/// it where no handler runs.
pub fn wait(limit: Option<Duration>) {
    let masked = events::mask_upcalls();
    match limit {
        None => until_event(this_cpu()),
        Some(limit) => until_event_or(this_cpu(), limit),
    }
    if masked {
        events::mask_upcalls();
    } else {
        events::unmask_upcalls();
    }
}

/// Makes the next [`wait`] of this CPU return at once: an event was taken that others may be interested in.
#[cfg_attr(not(feature = "alloc"), allow(dead_code))]
pub(crate) fn note_event() {
    this_cpu().events.fetch_add(1, Relaxed);
}

/// Whether an event came since the last time that this said so.
fn anything_new(cpu: &Cpu) -> bool {
    let events = cpu.events.load(Relaxed);
    cpu.seen.swap(events, Relaxed) != events
}

/// Upcalls are masked on entry.
fn until_event(cpu: &Cpu) {
    while !anything_new(cpu) {
        block();
        events::mask_upcalls();
    }
}

/// Upcalls are masked on entry.
fn until_event_or(cpu: &Cpu, limit: Duration) {
    let nanoseconds = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
    // Zero would mean "for ever" to the hypervisor, but `now` is never that early.
    let deadline = time::now().saturating_add(nanoseconds);
    let Some(port) = wake_port(cpu) else {
        events::unmask_upcalls();
        return yield_now();
    };
    // A poll may end early, for a reason of its own: a port that polls of other CPUs share, a signal of a debugger.
    while time::now() < deadline {
        let _ = events::take(port);
        cpu.waiting.store(true, Relaxed);
        events::unmask_upcalls();
        let new = anything_new(cpu);
        compiler_fence(SeqCst);
        if !new {
            // Refused only for a port that does not exist, and this one is never closed.
            let _ = poll(&[port], Some(deadline));
        }
        compiler_fence(SeqCst);
        cpu.waiting.store(false, Relaxed);
        events::mask_upcalls();
        if new || anything_new(cpu) {
            return;
        }
    }
    anything_new(cpu);
}

/// The port that ends this CPU's polls, made at first use. It stays masked.
fn wake_port(cpu: &Cpu) -> Option<Port> {
    match cpu.wake.load(Relaxed) {
        0 => {
            let port = events::bind_ipi(cpu.number()).ok()?;
            cpu.wake.store(port.0, Relaxed);
            Some(port)
        }
        port => Some(Port(port)),
    }
}
