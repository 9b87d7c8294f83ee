//! The lock under `loom`: nobody is in twice, and nobody sleeps for ever.

extern crate std;

use loom::sync::atomic::AtomicU32 as Word32;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use std::vec::Vec;

use super::*;

/// CPUs that sleep on condition variables. The holder never has a processor, so that every waiter sleeps at once.
struct Machine {
    /// What each CPU sleeps for.
    sleeps_for: Vec<Word32>,
    /// The pending bit of each CPU's port.
    kicked: Vec<(Mutex<bool>, Condvar)>,
}

struct One<'a> {
    machine: &'a Machine,
    number: u32,
}

impl Machine {
    fn new(cpus: usize) -> Self {
        Self {
            sleeps_for: (0..cpus).map(|_| Word32::new(0)).collect(),
            kicked: (0..cpus).map(|_| (Mutex::new(false), Condvar::new())).collect(),
        }
    }
}

impl Cpus for One<'_> {
    fn number(&self) -> u32 {
        self.number
    }

    fn is_running(&self, _: u32) -> bool {
        false
    }

    fn prepare(&self, lock: u64) -> Option<u64> {
        let this = self.number as usize;
        *self.machine.kicked[this].0.lock().unwrap() = false;
        Some(Word::swap(&self.machine.sleeps_for[this], lock as u32).into())
    }

    fn sleep(&self) {
        let (pending, condition) = &self.machine.kicked[self.number as usize];
        let mut pending = pending.lock().unwrap();
        while !*pending {
            pending = condition.wait(pending).unwrap();
        }
    }

    fn finish(&self, outer: u64) {
        self.machine.sleeps_for[self.number as usize].write(outer as u32);
    }

    fn wake(&self, lock: u64) {
        let sleeper = self.machine.sleeps_for.iter().position(|note| u64::from(note.read()) == lock);
        if let Some(cpu) = sleeper {
            let (pending, condition) = &self.machine.kicked[cpu];
            *pending.lock().unwrap() = true;
            condition.notify_one();
        }
    }

    fn relax(&self, _: bool) {
        thread::yield_now();
    }
}

/// Lets `cpus` CPUs take one lock, each once, in every order. A CPU that is never woken is a deadlock, which loom finds.
fn contend(cpus: u32) {
    let mut model = loom::model::Builder::new();
    // Three CPUs have too many orders for all of them.
    model.preemption_bound = (cpus > 2).then_some(2);
    model.check(move || {
        let machine = Arc::new(Machine::new(cpus as usize));
        let word = Arc::new(Word32::new(0));
        let inside = Arc::new(Word32::new(0));
        let run = |number| {
            let (machine, word, inside) = (Arc::clone(&machine), Arc::clone(&word), Arc::clone(&inside));
            move || {
                let one = One { machine: &machine, number };
                if !try_lock(&*word, &one) {
                    lock(&*word, 7, &one);
                }
                assert_eq!(inside.set_bits(1), 0, "two hold the lock");
                inside.clear_bits(1);
                unlock(&*word, 7, &one);
            }
        };
        let others: Vec<_> = (1..cpus).map(|number| thread::spawn(run(number))).collect();
        run(0)();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(word.read(), 0);
    });
}

#[test]
fn two_cpus_pass_the_lock_on() {
    contend(2);
}

#[test]
fn three_cpus_pass_the_lock_on() {
    contend(3);
}

#[test]
fn the_word_names_its_holder() {
    assert_eq!(holder(held_by(0)), 0);
    assert_eq!(holder(held_by(511) | SLEEPERS), 511);
    assert_ne!(held_by(0), 0);
}
