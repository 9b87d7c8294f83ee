//! The lock: one word, and sleeping by event channels.
//!
//! The word is 0 while the lock is free, and otherwise has the number of the holder's CPU and a bit that says that
//! somebody sleeps for it, or may. A CPU that finds the lock taken spins for a while, as long as the holder's CPU runs.
//! Then it writes down in its area what it sleeps for, sets the bit, and polls a port of its own. Who unlocks a word
//! with the bit looks through the areas, in order from its own on, and sends an event to the first CPU that sleeps for
//! the lock.
//!
//! Nobody sleeps for ever, because:
//! - a sleeper is written down before it sets the bit, so who unlocks with the bit set finds it;
//! - an event that comes before the poll makes the poll return at once;
//! - a CPU that slept takes the lock with the bit set, whether others still sleep or not: its unlocking wakes the next;
//! - an upcall on a waiting CPU that itself waits for another lock takes the CPU's note away for a while. It makes the
//!   CPU's port pending when it puts the note back, so the wait below looks at its lock again.

use core::marker::PhantomData;
use core::sync::atomic::AtomicU32;

use super::word::Word;
use crate::smp;

/// Looks at a taken lock before its waiter sleeps, while the holder runs: a few times what a short critical section takes.
const SPINS: u32 = 2000;

/// Somebody sleeps, or may.
const SLEEPERS: u32 = 1;

/// The word of a lock held by CPU `number`.
const fn held_by(number: u32) -> u32 {
    (number + 1) << 1
}

/// The number of the CPU that holds a lock; the lock is not free.
const fn holder(word: u32) -> u32 {
    (word >> 1).wrapping_sub(1)
}

/// What the protocol needs of the CPUs.
trait Cpus {
    /// The calling CPU's number.
    fn number(&self) -> u32;
    /// Whether CPU `number` has a processor at this moment.
    fn is_running(&self, number: u32) -> bool;
    /// Notes that the calling CPU is about to sleep for `lock`; what it slept for until now, in code that this upcall
    /// interrupted. None where it cannot sleep.
    fn prepare(&self, lock: u64) -> Option<u64>;
    /// Sleeps until somebody calls `wake` for what was prepared. May return earlier.
    fn sleep(&self);
    /// Takes the note of `prepare` back.
    fn finish(&self, outer: u64);
    /// Ends the sleep of one CPU that sleeps for `lock`.
    fn wake(&self, lock: u64);
    /// Spins once, or lets others run where nothing can sleep.
    fn relax(&self, can_sleep: bool);
}

fn try_lock<W: Word>(word: &W, cpus: &impl Cpus) -> bool {
    word.replace(0, held_by(cpus.number())).is_ok()
}

fn lock<W: Word>(word: &W, id: u64, cpus: &impl Cpus) {
    let mut flag = 0;
    loop {
        if spin(word, flag, cpus) {
            return;
        }
        let Some(outer) = cpus.prepare(id) else {
            cpus.relax(false);
            continue;
        };
        let taken = sleep_or_take(word, cpus);
        cpus.finish(outer);
        if taken {
            return;
        }
        // From now on others may sleep without the bit being set by them.
        flag = SLEEPERS;
    }
}

/// Tries to take the lock while its holder runs, with `flag` in the word. True where it did.
fn spin<W: Word>(word: &W, flag: u32, cpus: &impl Cpus) -> bool {
    let mine = held_by(cpus.number()) | flag;
    for _ in 0..SPINS {
        match word.read() {
            0 if word.replace(0, mine).is_ok() => return true,
            0 => {}
            held if !cpus.is_running(holder(held)) => return false,
            _ => {}
        }
        cpus.relax(true);
    }
    false
}

/// Sets the bit and sleeps, or takes the lock where it became free. True where it did.
fn sleep_or_take<W: Word>(word: &W, cpus: &impl Cpus) -> bool {
    let mine = held_by(cpus.number()) | SLEEPERS;
    let mut held = word.read();
    loop {
        let new = if held == 0 { mine } else { held | SLEEPERS };
        match word.replace(held, new) {
            Ok(()) if held == 0 => return true,
            Ok(()) => break,
            Err(now) => held = now,
        }
    }
    cpus.sleep();
    false
}

fn unlock<W: Word>(word: &W, id: u64, cpus: &impl Cpus) {
    if word.swap(0) & SLEEPERS != 0 {
        cpus.wake(id);
    }
}

/// A lock whose waiters sleep while the holder's virtual CPU has no processor.
#[derive(Debug)]
pub struct RawPvLock {
    word: AtomicU32,
}

impl RawPvLock {
    /// What waiters note: the lock's address, which nobody uses as one.
    fn id(&self) -> u64 {
        &raw const self.word as u64
    }
}

// SAFETY: the word goes from 0 to another value in one compare-and-exchange, whose success is `lock`'s, and back to 0 only
// by `unlock`.
unsafe impl lock_api::RawMutex for RawPvLock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self { word: AtomicU32::new(0) };

    // The holder's CPU is in the word.
    type GuardMarker = PhantomData<*const ()>;

    #[inline]
    fn lock(&self) {
        if !self.try_lock() {
            lock(&self.word, self.id(), &Domain);
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        try_lock(&self.word, &Domain)
    }

    #[inline]
    unsafe fn unlock(&self) {
        unlock(&self.word, self.id(), &Domain);
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.word.read() != 0
    }
}

/// The CPUs of this domain.
struct Domain;

#[cfg(target_os = "none")]
mod bare {
    use core::sync::atomic::Ordering::{Relaxed, SeqCst};

    use super::{Cpus, Domain, smp};
    use crate::events::{self, Port};
    use crate::hypercall::Errno;
    use crate::sched;
    use crate::smp::{Cpu, cpu, this_cpu};

    impl Cpus for Domain {
        fn number(&self) -> u32 {
            this_cpu().number()
        }

        fn is_running(&self, number: u32) -> bool {
            cpu(number).is_none_or(Cpu::is_running)
        }

        fn prepare(&self, lock: u64) -> Option<u64> {
            let this = this_cpu();
            let port = this.kick.load(Relaxed);
            if port == 0 {
                return None;
            }
            // What it was sent for an earlier lock.
            let _ = events::take(Port(port));
            Some(this.sleeps_for.swap(lock, SeqCst))
        }

        fn sleep(&self) {
            // Refused only for a port that does not exist, and this one is never closed.
            let _ = sched::poll(&[Port(this_cpu().kick.load(Relaxed))], None);
        }

        fn finish(&self, outer: u64) {
            let this = this_cpu();
            this.sleeps_for.store(outer, SeqCst);
            if outer != 0 {
                events::set_pending(Port(this.kick.load(Relaxed)));
            }
        }

        fn wake(&self, lock: u64) {
            let this = this_cpu().number();
            let sleeps = |cpu: &&Cpu| cpu.sleeps_for.load(SeqCst) == lock;
            let later = smp::online().filter(|cpu| cpu.number() > this).find(sleeps);
            if let Some(cpu) = later.or_else(|| smp::online().find(sleeps)) {
                let _ = events::notify(Port(cpu.kick.load(Relaxed)));
            }
        }

        fn relax(&self, can_sleep: bool) {
            if can_sleep {
                core::hint::spin_loop();
            } else {
                sched::yield_now();
            }
        }
    }

    /// Gives a CPU the port that ends its sleep. It stays masked.
    pub(crate) fn init(cpu: &'static Cpu) -> Result<(), Errno> {
        cpu.kick.store(events::bind_ipi(cpu.number())?.0, Relaxed);
        Ok(())
    }
}

#[cfg(target_os = "none")]
pub(crate) use bare::init;

/// On a host, threads stand for CPUs, and none of them sleeps.
#[cfg(not(target_os = "none"))]
impl Cpus for Domain {
    fn number(&self) -> u32 {
        smp::this_cpu().number()
    }

    fn is_running(&self, _: u32) -> bool {
        true
    }

    fn prepare(&self, _: u64) -> Option<u64> {
        None
    }

    fn sleep(&self) {}

    fn finish(&self, _: u64) {}

    fn wake(&self, _: u64) {}

    fn relax(&self, _: bool) {
        core::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests;
