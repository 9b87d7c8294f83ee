//! A lock for what many CPUs read and few change: the domain table, a domain's permissions.
//!
//! Unprivileged guests make the hypervisor read both as often as they like, on many CPUs at the same time. With a plain
//! reader-writer lock there might always be a reader then, and the writer, which may be CPU 0 with the work of all domains to do, would
//! wait for ever. And a reader might always find a writer.
//!
//! # Who waits for whom
//! - A writer *closes the gate* when it waits for the readers that are there, and opens it when it has the lock. A reader that finds the
//!   gate closed does not try. So a writer waits for the readers that are there and, for each CPU, at most one more, which saw
//!   the gate open just before. None of them is waited for twice.
//! - A reader that had to wait is counted until it has the lock. Writers go one after the other ([`Turns`]), and the next one
//!   does not close the gate before that count is zero. While the gate is open only readers that saw it closed are added to
//!   the count, so it gets there. So a reader waits for at most two writers: the one that has the lock, and one that
//!   looked at the count just before.
//!
//! # What users keep to
//! - A CPU that reads takes no other lock of this type for reading and not the same one again: with a writer in between, it would wait
//!   for itself. Guards of the domain table therefore do not leave `domain/table.rs`, and those of permissions are dropped within the
//!   function that takes them.
//! - A CPU that reads waits for no other CPU, for that one may wait to read.
//! - No handler of an interrupt, NMI or exception that can come while the hypervisor runs takes it: handlers raise work.

use crate::sync::{Turns, Word};
use core::sync::atomic::AtomicU32;
use spin::{RwLockReadGuard, RwLockWriteGuard};

/// Data that several CPUs read at the same time, or one changes.
pub struct RwLock<T> {
    lock: spin::RwLock<T>,
    gate: Gate<AtomicU32>,
}

impl<T> RwLock<T> {
    /// An unlocked one.
    pub const fn new(value: T) -> Self {
        let gate = Gate { closed: AtomicU32::new(0), waiting: AtomicU32::new(0), turns: Turns::new() };
        Self { lock: spin::RwLock::new(value), gate }
    }

    /// Waits until no CPU changes the data or waits to do so. The caller reads nothing else meanwhile: see the head of the module.
    #[inline]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.gate.read(|| self.lock.try_read())
    }

    /// Waits until no CPU reads or changes the data.
    #[inline(never)]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.gate.write(|| self.lock.try_write())
    }
}

/// Who may try to take the lock, over any kind of word. What is tried is an attempt to take it, which succeeds unless others have it.
#[derive(Debug, Default)]
struct Gate<W> {
    /// Not 0: a writer waits for readers.
    closed: W,
    /// Readers that found it closed, or a writer, and do not have the lock yet.
    waiting: W,
    turns: Turns<W>,
}

impl<W: Word<u32>> Gate<W> {
    #[inline(always)]
    fn read<G>(&self, attempt: impl Fn() -> Option<G>) -> G {
        match self.try_read(&attempt) {
            Some(guard) => guard,
            None => self.wait_to_read(&attempt),
        }
    }

    #[inline(always)]
    fn try_read<G>(&self, attempt: &impl Fn() -> Option<G>) -> Option<G> {
        if self.closed.read() == 0 { attempt() } else { None }
    }

    #[cold]
    #[inline(never)]
    fn wait_to_read<G>(&self, attempt: &impl Fn() -> Option<G>) -> G {
        self.waiting.add(1);
        let guard = loop {
            if let Some(guard) = self.try_read(attempt) {
                break guard;
            }
            W::pause();
        };
        self.waiting.add(1u32.wrapping_neg());
        guard
    }

    fn write<G>(&self, attempt: impl Fn() -> Option<G>) -> G {
        self.turns.take(|| {
            while self.waiting.read() != 0 {
                W::pause();
            }
            self.closed.exchange(1);
            let guard = loop {
                if let Some(guard) = attempt() {
                    break guard;
                }
                W::pause();
            };
            self.closed.put(0);
            guard
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU32 as Checked;
    use loom::thread;

    const WRITER: u32 = 1;
    const READER: u32 = 2;

    /// A lock whose inner one takes the steps that `spin`'s takes.
    #[derive(Default)]
    struct Lock {
        gate: Gate<Checked>,
        inner: Checked,
        /// Only the holder changes it.
        data: UnsafeCell<()>,
        /// How often it was changed.
        changes: Checked,
    }

    impl Lock {
        fn begin_to_read(&self) {
            self.gate.read(|| {
                if self.inner.add(READER) & WRITER == 0 {
                    return Some(());
                }
                self.inner.add(READER.wrapping_neg());
                None
            });
        }

        /// Answers how often the data was changed.
        fn end_to_read(&self) -> u32 {
            self.data.with(|_| ());
            let changes = self.changes.read();
            self.inner.add(READER.wrapping_neg());
            changes
        }

        fn read(&self) -> u32 {
            self.begin_to_read();
            self.end_to_read()
        }

        fn write(&self) {
            self.gate.write(|| self.inner.replace(0, WRITER).ok());
            self.data.with_mut(|_| ());
            self.changes.add(1);
            self.inner.clear_bits(WRITER);
        }
    }

    fn check(model: impl Fn(Arc<Lock>) + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || model(Arc::new(Lock::default())));
    }

    fn start(lock: &Arc<Lock>, act: impl FnOnce(&Lock) + 'static) -> thread::JoinHandle<()> {
        let lock = lock.clone();
        thread::spawn(move || act(&lock))
    }

    /// Two CPUs that write and read: a writer has the lock alone, and none waits for ever.
    #[test]
    fn writers_have_it_alone() {
        check(|lock| {
            let write_and_read = |lock: &Lock| {
                lock.write();
                assert!(lock.read() != 0);
            };
            let other = start(&lock, write_and_read);
            write_and_read(&lock);
            other.join().unwrap();
            assert_eq!(lock.read(), 2);
            assert_eq!((lock.inner.read(), lock.gate.closed.read(), lock.gate.waiting.read()), (0, 0, 0));
        });
    }

    /// No read that begins when a writer waits comes before it.
    #[test]
    fn readers_do_not_pass_a_writer_that_waits() {
        check(|lock| {
            let writer = start(&lock, Lock::write);
            lock.begin_to_read();
            let waits = lock.gate.closed.read() != 0;
            let before = lock.end_to_read();
            assert!(before == 0 || !waits, "it has the lock with a reader there");
            assert!(!waits || lock.read() == 1, "passed");
            writer.join().unwrap();
        });
    }

    /// A writer that begins when a reader waits does not come before it.
    #[test]
    fn writers_do_not_pass_a_reader_that_waits() {
        check(|lock| {
            let writer = start(&lock, |lock| {
                lock.write();
                if lock.gate.waiting.read() != 0 {
                    lock.write();
                }
            });
            assert!(lock.read() < 2, "passed");
            writer.join().unwrap();
        });
    }
}
