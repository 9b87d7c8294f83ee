//! One entry of the dispatch table: the protocol between an upcall and those who change what is known of the port.
//!
//! Each step is one atomic operation on the entry's word. An upcall that decided by the word as it was, and then finds
//! another handler there, decides again: what it would have kept for the former one belongs to the new one.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Release};

/// The bits of an address: it is canonical, so these tell all of it.
pub(super) const ADDRESS: u64 = (1 << 48) - 1;
/// The address is one of a closure, not of a function.
#[cfg(any(test, feature = "alloc"))]
pub(super) const CLOSURE: u64 = 1 << 48;
/// Without a handler: keep the event for [`fired`](super::fired).
pub(super) const LATCH: u64 = 1 << 49;
/// An event came while there was no handler.
pub(super) const FIRED: u64 = 1 << 50;
/// With [`LATCH`]: an event masks the port until it is taken.
pub(super) const QUIET: u64 = 1 << 51;
/// An event masked the port.
pub(super) const HELD: u64 = 1 << 52;
/// What an upcall adds while it uses the entry.
pub(super) const RUN: u64 = 1 << 53;
/// All of the entry but the count of upcalls that use it.
pub(super) const CONTENTS: u64 = RUN - 1;

/// The word of an entry: the processor's, or that of `loom` in the model.
pub(super) trait EntryWord {
    fn read(&self) -> u64;
    /// Adds; answers what was there.
    fn add(&self, number: u64) -> u64;
    fn subtract(&self, number: u64);
    /// Stores `new` if the word is `old`.
    ///
    /// # Errors
    ///
    /// The word, where it is another one.
    fn replace(&self, old: u64, new: u64) -> Result<(), u64>;
}

macro_rules! entry_word {
    ($word:ty) => {
        impl EntryWord for $word {
            fn read(&self) -> u64 {
                self.load(Acquire)
            }

            fn add(&self, number: u64) -> u64 {
                self.fetch_add(number, Acquire)
            }

            fn subtract(&self, number: u64) {
                self.fetch_sub(number, Release);
            }

            fn replace(&self, old: u64, new: u64) -> Result<(), u64> {
                self.compare_exchange(old, new, AcqRel, Acquire).map(drop)
            }
        }
    };
}

entry_word!(AtomicU64);
#[cfg(test)]
entry_word!(loom::sync::atomic::AtomicU64);

/// What an event of a port came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::events) enum Outcome {
    /// A handler ran, or the event is kept.
    Done,
    /// The event is kept, and the port says nothing more until it is taken.
    Held,
    /// There is no handler, and the event is not kept: the port says nothing more until it is unmasked.
    Unwanted,
}

/// What an upcall does for an event: `call` runs the handler that the entry's contents name, `mask` and `unmask` are the port's.
pub(super) fn run(
    entry: &impl EntryWord,
    call: impl FnOnce(u64),
    mask: impl Fn(),
    unmask: impl FnOnce(),
) -> Outcome {
    let (mut seen, mut has_masked) = (entry.add(RUN).wrapping_add(RUN), false);
    let outcome = loop {
        if seen & ADDRESS != 0 {
            call(seen);
            break Outcome::Done;
        }
        let is_kept = seen & LATCH != 0;
        let is_masked = !is_kept || seen & QUIET != 0;
        if is_masked && !has_masked {
            // Before the event is there to be taken: the CPU that takes it, perhaps another one, unmasks the port. What is
            // not kept masks it too: a source that fires on would never let the CPU go.
            mask();
            has_masked = true;
        }
        let kept = match (is_kept, is_masked) {
            (true, true) => FIRED | HELD,
            (true, false) => FIRED,
            (false, _) => 0,
        };
        match entry.replace(seen, seen | kept) {
            Ok(()) if !is_kept => break Outcome::Unwanted,
            Ok(()) if is_masked => break Outcome::Held,
            Ok(()) => break Outcome::Done,
            Err(now) => seen = now,
        }
    };
    entry.subtract(RUN);
    if has_masked && outcome == Outcome::Done {
        // Masked for what was there before.
        unmask();
    }
    outcome
}

/// Replaces what is known of the port, and answers it. An event that was kept is forgotten.
pub(super) fn replace(entry: &impl EntryWord, contents: u64) -> u64 {
    let mut old = entry.read();
    loop {
        match entry.replace(old, (old & !CONTENTS) | contents) {
            Ok(()) => return old & CONTENTS,
            Err(now) => old = now,
        }
    }
}

/// Whether an upcall may use what was in the entry before.
#[cfg(any(test, feature = "alloc"))]
pub(super) fn is_in_use(entry: &impl EntryWord) -> bool {
    entry.read() >= RUN
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::sync::atomic::Ordering::SeqCst;

    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU64 as LoomU64;
    use loom::sync::atomic::fence;
    use loom::thread;

    use super::*;

    /// Two handlers of the model.
    const FIRST: u64 = 8 | CLOSURE;
    const SECOND: u64 = 16 | CLOSURE;

    /// A port with its entry.
    struct Model {
        entry: LoomU64,
        masked: LoomU64,
        /// How often each handler ran.
        ran: [LoomU64; 2],
        /// What the first handler owns: `loom` finds an access to it that is not ordered against its end.
        owned: UnsafeCell<()>,
        freed: LoomU64,
    }

    impl Model {
        fn new(contents: u64) -> Arc<Self> {
            Arc::new(Self {
                entry: LoomU64::new(contents),
                masked: LoomU64::new(0),
                ran: [LoomU64::new(0), LoomU64::new(0)],
                owned: UnsafeCell::new(()),
                freed: LoomU64::new(0),
            })
        }

        /// An upcall for the port.
        fn event(&self) -> Outcome {
            run(&self.entry, |seen| self.call(seen), || self.set_mask(1), || self.set_mask(0))
        }

        fn call(&self, seen: u64) {
            let which = usize::from(seen & ADDRESS == SECOND & ADDRESS);
            if which == 0 {
                self.owned.with(|_| ());
                assert_eq!(self.freed.load(SeqCst), 0, "a handler runs that was freed");
            }
            self.ran[which].fetch_add(1, SeqCst);
        }

        /// A locked instruction on the shared page.
        fn set_mask(&self, value: u64) {
            fence(SeqCst);
            self.masked.swap(value, SeqCst);
            fence(SeqCst);
        }

        /// What `set` does: another handler, the event that was kept for it, and the end of the former closure where no upcall
        /// uses it; answers whether that was freed.
        fn set(&self, contents: u64) -> bool {
            let old = replace(&self.entry, contents);
            if old & FIRED != 0 {
                self.event();
            }
            if old & HELD != 0 {
                self.set_mask(0);
            }
            let ends = old & CLOSURE != 0 && !is_in_use(&self.entry);
            if ends {
                self.free();
            }
            ends
        }

        fn free(&self) {
            self.owned.with_mut(|_| ());
            assert_eq!(self.freed.fetch_add(1, SeqCst), 0, "it is freed twice");
        }

        fn counts(&self) -> (u64, u64) {
            (self.ran[0].load(SeqCst), self.ran[1].load(SeqCst))
        }
    }

    /// An upcall for a port of those contents, while another CPU gives it the second handler. `check` judges each end.
    fn meet(contents: u64, check: impl Fn(&Model, bool) + Send + Sync + 'static) {
        let check = std::sync::Arc::new(check);
        loom::model(move || {
            let model = Model::new(contents);
            let upcall = {
                let model = Arc::clone(&model);
                thread::spawn(move || model.event())
            };
            let is_freed = model.set(SECOND);
            upcall.join().unwrap();
            check(&model, is_freed);
        });
    }

    #[test]
    fn an_event_that_is_being_kept_is_not_lost_to_a_new_handler() {
        meet(LATCH, |model, _| {
            assert_eq!(model.counts(), (0, 1));
            assert_eq!((model.entry.load(SeqCst), model.masked.load(SeqCst)), (SECOND, 0));
        });
    }

    #[test]
    fn a_quiet_port_that_gets_a_handler_is_not_left_masked() {
        meet(LATCH | QUIET, |model, _| {
            assert_eq!(model.counts(), (0, 1));
            assert_eq!((model.entry.load(SeqCst), model.masked.load(SeqCst)), (SECOND, 0));
        });
    }

    #[test]
    fn a_closure_ends_once_and_behind_the_last_upcall_that_runs_it() {
        meet(FIRST, |model, is_freed| {
            let (first, second) = model.counts();
            assert_eq!(first + second, 1);
            assert!(!is_in_use(&model.entry));
            if !is_freed {
                model.free();
            }
        });
    }

    /// A kernel gives an unmasked port a handler and unmasks it, while an event masks it for want of one.
    #[test]
    fn a_port_is_not_masked_behind_its_new_handler() {
        loom::model(|| {
            let model = Model::new(0);
            let upcall = {
                let model = Arc::clone(&model);
                thread::spawn(move || model.event())
            };
            model.set(SECOND);
            model.set_mask(0);
            let outcome = upcall.join().unwrap();
            assert_eq!(model.masked.load(SeqCst), 0);
            assert_eq!(model.counts().1 == 1, outcome == Outcome::Done);
        });
    }
}
