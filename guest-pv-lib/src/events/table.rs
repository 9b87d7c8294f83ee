//! The dispatch table: what runs when a port fires.
//!
//! An entry is one word, so that an upcall takes a handler without a lock: the handler's address, what kind it is, and
//! how many upcalls run it at this moment; [`entry`](mod@entry) has the protocol. A closure that was taken out of the table is freed only after that count was
//! zero: from then on nobody has its address. Nobody waits for that. What cannot be freed yet, or is taken out in an
//! upcall (where the allocator may be busy below), goes to a list that later removals look through.

#[cfg(feature = "alloc")]
mod closure;
mod entry;

use core::ptr;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use core::sync::atomic::{AtomicPtr, AtomicU64};

use xen_abi::event_channel::EVTCHN_FIFO_NR_CHANNELS;

#[cfg(feature = "alloc")]
pub(super) use closure::set_closure;
pub(super) use entry::Outcome;

#[cfg(feature = "alloc")]
use self::entry::CLOSURE;
use self::entry::{ADDRESS, FIRED, HELD, LATCH, QUIET};
use super::fifo::PORTS_PER_PAGE;
use super::{Handler, PORTS, Port};

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

/// Runs the handler of `port`, or keeps the event where the port is one of those that are looked at. `mask` masks the port, where an
/// event is to, and `unmask` undoes that where another handler took the place of what the port was masked for.
pub(super) fn run(port: Port, mask: impl Fn(), unmask: impl FnOnce()) -> Outcome {
    match entry(port) {
        Some(entry) => entry::run(entry, |contents| call(contents, port), mask, unmask),
        None => {
            mask();
            Outcome::Unwanted
        }
    }
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

/// What was known of a port until now, and an event that it kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Former {
    /// An event was kept.
    pub fired: bool,
    /// An event masked the port, which it stays.
    pub held: bool,
}

/// Replaces what is known of `port`, frees it where that is a closure, and answers what it was. None for a port beyond the table.
fn set(port: Port, contents: u64) -> Option<Former> {
    let entry = entry(port)?;
    let old = entry::replace(entry, contents);
    #[cfg(feature = "alloc")]
    if old & CLOSURE != 0 {
        closure::retire(entry, address(old));
    }
    Some(Former { fired: old & FIRED != 0, held: old & HELD != 0 })
}

/// Runs `handler` from now on. Answers what was known until now; none for a port beyond the table.
pub(super) fn set_function(port: Port, handler: Handler) -> Option<Former> {
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
        super::run(port, || (), || ())
    }

    const fn former(fired: bool) -> Option<Former> {
        Some(Former { fired, held: false })
    }

    /// Another CPU takes the event as soon as it is there, and unmasks the port: a mask that came behind would stay.
    #[test]
    fn a_quiet_port_is_masked_before_its_event_is_there() {
        assert!(set_latch(Port(14)));
        set_quiet(Port(14));
        let masked = core::cell::Cell::new(false);
        let mask = || masked.set(!fired(Port(14)) && !release(Port(14)));
        let outcome = super::run(Port(14), mask, || unreachable!());
        assert!(masked.get() && outcome == Outcome::Held && fired(Port(14)) && release(Port(14)));
    }

    #[test]
    fn a_function_runs_with_its_port() {
        static LAST: AtomicU32 = AtomicU32::new(0);
        assert_eq!(set_function(Port(11), |port| LAST.store(port.0, Relaxed)), former(false));
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
        assert_eq!(set_function(Port(12), |_| ()), former(true));
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
            assert_eq!(address((original & ADDRESS) | LATCH | entry::RUN).addr() as u64, original);
        }
    }
}
