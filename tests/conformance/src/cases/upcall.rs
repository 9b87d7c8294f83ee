//! The way of an event in the two-level layout to the upcall (xen.h, `struct vcpu_info`).
//!
//! The cases look at the shared page through a mapping of their own, so that they see each step.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use guest_pv_lib::events::{self, Port};
use guest_pv_lib::mmu::{Mfn, Pte};
use xen_abi::event_channel::*;

use super::event::{bind_ipi, close, event, send, with_port};
use crate::harness::pool::Page;
use crate::harness::{Env, Outcome, Verdict, check, need, same};

/// Word of the flags of CPU 0: `evtchn_upcall_pending` in the lowest byte, `evtchn_upcall_mask` in the next.
const FLAGS: usize = 0;
/// Word of `evtchn_pending_sel` of CPU 0.
const SELECTOR: usize = 1;
/// First word of the mask bits.
const MASK: usize = (2048 + 512) / 8;
/// First word of the pending bits.
const PENDING: usize = 2048 / 8;
const UPCALL_PENDING: u64 = 0xff;

/// Page 10 with the shared page mapped at its place.
pub(super) fn shared(env: &Env) -> Result<Page<'_>, Verdict> {
    let page = env.page(10);
    let frame = env.boot.start_info().shared_info >> 12;
    need("map", page.map(Pte::data(Mfn(frame))))?;
    Ok(page)
}

/// The flag and the selector, taken back: upcalls are masked around it.
pub(super) fn take_upcall(shared: Page<'_>) -> (bool, u64) {
    let seen = (shared.get(FLAGS) & UPCALL_PENDING != 0, shared.get(SELECTOR));
    shared.set(FLAGS, shared.get(FLAGS) & !UPCALL_PENDING);
    shared.set(SELECTOR, 0);
    seen
}

/// Runs `body` with the shared page and a port that is unmasked, upcalls being masked.
fn with_open_port(env: &Env, body: impl FnOnce(Page<'_>, u32) -> Outcome) -> Outcome {
    let shared = shared(env)?;
    let was = events::mask_upcalls();
    take_upcall(shared);
    let outcome = with_port(bind_ipi(0), |port| {
        shared.set(MASK + port as usize / 64, shared.get(MASK + port as usize / 64) & !(1 << (port % 64)));
        let outcome = body(shared, port);
        events::mask(Port(port));
        outcome
    });
    take_upcall(shared);
    if !was {
        events::unmask_upcalls();
    }
    outcome
}

fn unmask(port: u32) -> Outcome {
    same("unmask", event(EVTCHNOP_UNMASK, &mut EvtchnUnmask { port }), Ok(0))
}

case! {
    /// An event sets the port's bit, the bit of that word in the selector, and the flag, in spite of masked upcalls.
    fn steps(env) {
        with_open_port(env, |shared, port| {
            need("send", send(port))?;
            same("selector and flag", take_upcall(shared), (true, 1 << (port / 64)))?;
            check("pending", events::take(Port(port)))
        })
    }
}

case! {
    /// An event on a masked port sets the port's bit only.
    fn masked_port(env) {
        with_open_port(env, |shared, port| {
            events::mask(Port(port));
            need("send", send(port))?;
            same("selector and flag", take_upcall(shared), (false, 0))?;
            check("pending", events::take(Port(port)))
        })
    }
}

case! {
    /// An event on a port that is pending already is not told again.
    fn pending_port(env) {
        with_open_port(env, |shared, port| {
            need("send", send(port))?;
            take_upcall(shared);
            need("send", send(port))?;
            same("selector and flag", take_upcall(shared), (false, 0))
        })
    }
}

case! {
    /// An event whose selector bit is set already does not set the flag: the kernel that left the bit looks for itself.
    fn selected_word(env) {
        with_open_port(env, |shared, port| {
            shared.set(SELECTOR, 1 << (port / 64));
            need("send", send(port))?;
            same("selector and flag", take_upcall(shared), (false, 1 << (port / 64)))
        })
    }
}

case! {
    /// Unmasking by hypercall tells an event that came while the port was masked.
    fn unmask_tells(env) {
        with_open_port(env, |shared, port| {
            events::mask(Port(port));
            need("send", send(port))?;
            unmask(port)?;
            same("selector and flag", take_upcall(shared), (true, 1 << (port / 64)))?;
            same("unmasked", shared.get(MASK + port as usize / 64) >> (port % 64) & 1, 0)
        })
    }
}

case! {
    /// Unmasking a port without an event tells nothing.
    fn unmask_quiet(env) {
        with_open_port(env, |shared, port| {
            events::mask(Port(port));
            unmask(port)?;
            same("selector and flag", take_upcall(shared), (false, 0))
        })
    }
}

case! {
    /// Unmasking a pending port that is not masked tells nothing: it was told.
    fn unmask_unmasked(env) {
        with_open_port(env, |shared, port| {
            need("send", send(port))?;
            take_upcall(shared);
            unmask(port)?;
            same("selector and flag", take_upcall(shared), (false, 0))
        })
    }
}

case! {
    /// Unmasking a port that is not bound does nothing, whatever its bits say.
    fn unmask_free_port(env) {
        with_open_port(env, |shared, port| {
            let free = port + 1;
            let (word, bit) = (free as usize / 64, 1u64 << (free % 64));
            shared.set(MASK + word, shared.get(MASK + word) | bit);
            shared.set(PENDING + word, shared.get(PENDING + word) | bit);
            unmask(free)?;
            let seen = (take_upcall(shared), shared.get(MASK + word) & bit);
            shared.set(PENDING + word, shared.get(PENDING + word) & !bit);
            shared.set(MASK + word, shared.get(MASK + word) | bit);
            same("selector, flag and mask", seen, ((false, 0), bit))
        })
    }
}

/// Upcalls so far, and how deep they are nested.
static CALLS: AtomicU32 = AtomicU32::new(0);
static DEPTH: AtomicU32 = AtomicU32::new(0);
/// What handlers found wrong.
static WRONG: AtomicU32 = AtomicU32::new(0);
/// Events that the handler has still to send to its own port.
static RESEND: AtomicU32 = AtomicU32::new(0);

fn count(port: Port) {
    if DEPTH.fetch_add(1, Relaxed) != 0 || !events::upcalls_masked() {
        WRONG.fetch_add(1, Relaxed);
    }
    CALLS.fetch_add(1, Relaxed);
    if RESEND.load(Relaxed) != 0 {
        RESEND.fetch_sub(1, Relaxed);
        // A failure shows in the number of upcalls.
        let _ = send(port.0);
    }
    DEPTH.fetch_sub(1, Relaxed);
}

/// Runs `body` with a port that has the handler above, upcalls being masked.
fn with_handler(resend: u32, body: impl FnOnce(u32) -> Outcome) -> Outcome {
    events::mask_upcalls();
    CALLS.store(0, Relaxed);
    WRONG.store(0, Relaxed);
    RESEND.store(resend, Relaxed);
    let port = need("bind_ipi", bind_ipi(0))?;
    events::set_handler(Port(port), count);
    events::unmask(Port(port));
    let outcome = body(port);
    events::mask_upcalls();
    events::mask(Port(port));
    need("close", close(port))?;
    outcome?;
    same("wrong in a handler", WRONG.load(Relaxed), 0)
}

case! {
    /// An event sent while upcalls are open is delivered before the hypercall returns.
    fn at_return_of_send(env) {
        let _ = env;
        with_handler(0, |port| {
            events::unmask_upcalls();
            for sent in 1..=3 {
                need("send", send(port))?;
                same("upcalls", CALLS.load(Relaxed), sent)?;
            }
            check("still open", !events::upcalls_masked())
        })
    }
}

case! {
    /// Masked upcalls wait.
    fn waits_for_unmask(env) {
        let _ = env;
        with_handler(0, |port| {
            need("send", send(port))?;
            need("send", send(port))?;
            same("masked", CALLS.load(Relaxed), 0)?;
            events::unmask_upcalls();
            same("unmasked", CALLS.load(Relaxed), 1)
        })
    }
}

case! {
    /// The handler runs with upcalls masked: an event it sends to itself is delivered after it, not within it.
    fn does_not_nest(env) {
        let _ = env;
        with_handler(3, |port| {
            events::unmask_upcalls();
            need("send", send(port))?;
            same("upcalls", CALLS.load(Relaxed), 4)
        })
    }
}

case! {
    /// The flag alone makes an upcall, whatever the selector says: a flag that the kernel set itself is served at the
    /// next way out of the hypervisor.
    fn flag_set_by_kernel(env) {
        let shared = shared(env)?;
        with_handler(0, |port| {
            let (word, bit) = (port as usize / 64, 1u64 << (port % 64));
            shared.set(PENDING + word, shared.get(PENDING + word) | bit);
            shared.set(SELECTOR, 1 << word);
            shared.set(FLAGS, shared.get(FLAGS) & !0xffff | 1);
            same("any hypercall", super::event::status(port).is_ok(), true)?;
            same("upcalls", CALLS.load(Relaxed), 1)
        })
    }
}
