//! The dispatch table: what runs when a port fires.
//!
//! An entry is one word, so that an upcall takes a handler without a lock: the handler's address, what kind it is, and
//! how many upcalls run it at this moment. A closure that was taken out of the table is freed only after that count was
//! zero: from then on nobody has its address. Nobody waits for that. What cannot be freed yet, or is taken out in an
//! upcall (where the allocator may be busy below), goes to a list that later removals look through.

#[cfg(feature = "alloc")]
mod closure;

use core::ptr;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use core::sync::atomic::{AtomicPtr, AtomicU64};

use xen_abi::event_channel::EVTCHN_FIFO_NR_CHANNELS;

#[cfg(feature = "alloc")]
pub(super) use closure::set_closure;

use super::fifo::PORTS_PER_PAGE;
use super::{Handler, PORTS, Port};

/// The bits of an address: it is canonical, so these tell all of it.
const ADDRESS: u64 = (1 << 48) - 1;
/// The address is one of a [`closure`], not of a function.
#[cfg(feature = "alloc")]
const CLOSURE: u64 = 1 << 48;
/// Without a handler: keep the event for [`fired`].
const LATCH: u64 = 1 << 49;
/// An event came while there was no handler.
const FIRED: u64 = 1 << 50;
/// With [`LATCH`]: an event masks the port until it is taken.
const QUIET: u64 = 1 << 51;
/// An event masked the port.
const HELD: u64 = 1 << 52;
/// What an upcall adds while it uses the entry.
const RUN: u64 = 1 << 53;
/// All of the entry but the count of upcalls that use it.
const CONTENTS: u64 = RUN - 1;

/// The ports that every layout has.
static TABLE: [AtomicU64; PORTS] = [const { AtomicU64::new(0) }; PORTS];

/// The entries of as many ports as a page of event words has.
pub(super) type Entries = [AtomicU64; PORTS_PER_PAGE];

/// Entries of the ports behind those; null where there are none.
static FURTHER: [AtomicPtr<Entries>; MORE] = [const { AtomicPtr::new(ptr::null_mut()) }; MORE];
const MORE: usize = EVTCHN_FIFO_NR_CHANNELS as usize / PORTS_PER_PAGE;

/// Makes room for the ports of page `page` of event words, where the table has none.
pub(super) fn extend(page: usize, entries: &'static Entries) {
    if page >= PORTS / PORTS_PER_PAGE {
        FURTHER[page].store(ptr::from_ref(entries).cast_mut(), Release);
    }
}

/// What an event of a port came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A handler ran, or the event is kept.
    Done,
    /// The event is kept, and the port says nothing more until it is taken.
    Held,
    /// Nobody wants it.
    Unwanted,
}

/// Runs the handler of `port`, or keeps the event where the port is one of those that are looked at. `mask` masks the port.
pub(super) fn run(port: Port, mask: impl FnOnce()) -> Outcome {
    let Some(entry) = entry(port) else { return Outcome::Unwanted };
    let contents = entry.fetch_add(RUN, Acquire);
    let outcome = if contents & ADDRESS != 0 {
        call(contents, port);
        Outcome::Done
    } else if contents & QUIET != 0 {
        // Before the event is there to be taken: the CPU that takes it, perhaps another one, unmasks the port.
        mask();
        entry.fetch_or(FIRED | HELD, Release);
        Outcome::Held
    } else if contents & LATCH != 0 {
        entry.fetch_or(FIRED, Release);
        Outcome::Done
    } else {
        Outcome::Unwanted
    };
    entry.fetch_sub(RUN, Release);
    outcome
}

/// Calls what `contents` names. The entry's count is up, so a closure stays.
fn call(contents: u64, port: Port) {
    #[cfg(feature = "alloc")]
    if contents & CLOSURE != 0 {
        closure::call(address(contents), port);
        return;
    }
    // SAFETY: without `CLOSURE` the address is what `encode` made of a `Handler`.
    let handler = unsafe { core::mem::transmute::<*const (), Handler>(address(contents)) };
    handler(port);
}

fn entry(port: Port) -> Option<&'static AtomicU64> {
    let number = usize::try_from(port.0).ok()?;
    if let Some(entry) = TABLE.get(number) {
        return Some(entry);
    }
    let entries = FURTHER.get(number / PORTS_PER_PAGE)?.load(Acquire);
    // SAFETY: null, or put there by `extend` from a `&'static`.
    unsafe { entries.as_ref() }?.get(number % PORTS_PER_PAGE)
}

/// The address in an entry, its upper bits as a canonical address has them.
fn address(contents: u64) -> *const () {
    let extended = ((contents << 16).cast_signed() >> 16).cast_unsigned();
    ptr::with_exposed_provenance(extended as usize)
}

fn encode(handler: Handler) -> u64 {
    (handler as *const ()).expose_provenance() as u64 & ADDRESS
}

/// Replaces what is known of `port`, and returns it. An event that was kept is forgotten.
fn replace(entry: &AtomicU64, contents: u64) -> u64 {
    let mut old = entry.load(Acquire);
    loop {
        match entry.compare_exchange_weak(old, (old & !CONTENTS) | contents, AcqRel, Acquire) {
            Ok(old) => return old & CONTENTS,
            Err(now) => old = now,
        }
    }
}

/// Replaces what is known of `port`, frees it where that is a closure, and says whether an event was kept. None for a
/// port beyond the table.
fn set(port: Port, contents: u64) -> Option<bool> {
    let entry = entry(port)?;
    let old = replace(entry, contents);
    #[cfg(feature = "alloc")]
    if old & CLOSURE != 0 {
        closure::retire(entry, address(old));
    }
    Some(old & FIRED != 0)
}

/// Runs `handler` from now on. Says whether an event was kept until now; none for a port beyond the table.
pub(super) fn set_function(port: Port, handler: Handler) -> Option<bool> {
    set(port, encode(handler))
}

/// Keeps events from now on. False for a port beyond the table.
pub(super) fn set_latch(port: Port) -> bool {
    set(port, LATCH).is_some()
}

/// Keeps events from now on, and has the port masked when it keeps one.
pub(super) fn set_quiet(port: Port) {
    if let Some(entry) = entry(port) {
        entry.fetch_or(QUIET, AcqRel);
    }
}

/// Whether an event masked the port; it counts as unmasked, or masked for another reason, from now on.
pub(super) fn release(port: Port) -> bool {
    entry(port).is_some_and(|entry| entry.fetch_and(!HELD, AcqRel) & HELD != 0)
}

/// Whether an event was kept since the last call.
pub(super) fn fired(port: Port) -> bool {
    entry(port).is_some_and(|entry| entry.fetch_and(!FIRED, AcqRel) & FIRED != 0)
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU32;
    use core::sync::atomic::Ordering::Relaxed;

    use super::*;

    // Each test has ports of its own: the table is one for the program.

    fn run(port: Port) -> Outcome {
        super::run(port, || ())
    }

    /// Another CPU takes the event as soon as it is there, and unmasks the port: a mask that came behind would stay.
    #[test]
    fn a_quiet_port_is_masked_before_its_event_is_there() {
        assert!(set_latch(Port(14)));
        set_quiet(Port(14));
        let mut masked = false;
        let outcome = super::run(Port(14), || masked = !fired(Port(14)) && !release(Port(14)));
        assert!(masked && outcome == Outcome::Held && fired(Port(14)) && release(Port(14)));
    }

    #[test]
    fn a_function_runs_with_its_port() {
        static LAST: AtomicU32 = AtomicU32::new(0);
        assert_eq!(set_function(Port(11), |port| LAST.store(port.0, Relaxed)), Some(false));
        assert_eq!((run(Port(11)), LAST.load(Relaxed)), (Outcome::Done, 11));
        assert_eq!(run(Port(10)), Outcome::Unwanted);
    }

    #[test]
    fn an_event_without_a_handler_is_kept_until_somebody_looks() {
        assert!(set_latch(Port(12)) && !fired(Port(12)));
        run(Port(12));
        run(Port(12));
        assert!(fired(Port(12)) && !fired(Port(12)));
        run(Port(12));
        assert_eq!(set_function(Port(12), |_| ()), Some(true));
        assert!(!fired(Port(12)), "it was handed on with the answer above");
    }

    #[test]
    fn a_quiet_port_is_held_until_it_is_released() {
        assert!(set_latch(Port(13)));
        set_quiet(Port(13));
        assert!(!release(Port(13)));
        assert_eq!(run(Port(13)), Outcome::Held);
        assert!(fired(Port(13)) && release(Port(13)) && !release(Port(13)));
        assert_eq!(run(Port(13)), Outcome::Held, "again");
        assert!(set_latch(Port(13)) && !release(Port(13)), "the next channel of that number");
        assert_eq!(run(Port(13)), Outcome::Done);
    }

    #[test]
    fn the_table_grows_by_pages() {
        static ENTRIES: Entries = [const { AtomicU64::new(0) }; PORTS_PER_PAGE];
        assert!(!set_latch(Port(5 * 1024 + 7)));
        extend(5, &ENTRIES);
        assert!(set_latch(Port(5 * 1024 + 7)) && !set_latch(Port(6 * 1024)));
        run(Port(5 * 1024 + 7));
        assert!(fired(Port(5 * 1024 + 7)));
    }

    #[test]
    fn ports_beyond_the_table_are_refused() {
        assert_eq!(set_function(Port(u32::MAX), |_| ()), None);
        assert!(!set_latch(Port(1 << 20)) && !fired(Port(1 << 20)));
        assert_eq!(run(Port(1 << 20)), Outcome::Unwanted);
    }

    #[test]
    fn addresses_of_both_halves_survive() {
        for original in [0xffff_ffff_8010_3000u64, 0xffff_8800_1234_5678, 0x7fff_ffff_fff8, 8] {
            assert_eq!(address((original & ADDRESS) | LATCH | RUN).addr() as u64, original);
        }
    }
}
