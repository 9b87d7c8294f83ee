//! The queues, against a hypervisor that appends as `event_channel.h` says: in one thread, and under `loom`.

extern crate std;

use core::sync::atomic::AtomicU32;
use std::vec;
use std::vec::Vec;

use loom::sync::Arc;
use loom::sync::atomic::AtomicU32 as LoomU32;
use loom::thread;

use super::*;
use crate::sync::word::Word;

const PORTS: usize = 8;

/// The words of a domain and the queues of its one CPU.
struct Domain<W> {
    words: Vec<W>,
    queues: Queues<W>,
}

impl<W: Word> Domain<W> {
    fn new(make: impl Fn() -> W) -> Self {
        let heads = || core::array::from_fn(|_| make());
        Self {
            words: (0..PORTS).map(|_| make()).collect(),
            queues: Queues {
                control: Control { ready: make(), _rsvd: make(), head: heads() },
                ready: make(),
                head: heads(),
            },
        }
    }

    fn next(&self) -> Option<u32> {
        self.queues.next(|port| self.words.get(port as usize))
    }

    /// What the hypervisor does for an event; `tail` is its own note of the queue's last port. Says whether the CPU gets
    /// an upcall.
    fn raise(&self, port: u32, priority: usize, tail: &mut u32) -> bool {
        let word = &self.words[port as usize];
        if word.set_bits(PENDING) & MASKED != 0 || word.set_bits(LINKED) & LINKED != 0 {
            return false;
        }
        let last = core::mem::replace(tail, port);
        if last != 0 && last != port && self.append(last, port) {
            return false;
        }
        self.queues.control.head[priority].write(port);
        self.queues.control.ready.set_bits(1 << priority) & (1 << priority) == 0
    }

    /// Links `port` behind `last`, where that is still in the queue.
    fn append(&self, last: u32, port: u32) -> bool {
        let word = &self.words[last as usize];
        let mut old = word.read();
        while old & LINKED != 0 {
            match word.replace(old, old & !(BUSY | EVTCHN_FIFO_LINK_MASK) | port) {
                Ok(()) => return true,
                Err(now) => old = now,
            }
        }
        false
    }
}

fn plain() -> Domain<AtomicU32> {
    Domain::new(|| AtomicU32::new(0))
}

#[test]
fn events_come_in_order_and_by_priority() {
    let domain = plain();
    let (mut urgent, mut normal) = (0, 0);
    assert!(domain.raise(3, 7, &mut normal));
    assert!(!domain.raise(5, 7, &mut normal), "the queue was ready already");
    assert!(domain.raise(4, 0, &mut urgent));
    assert!(!domain.raise(3, 7, &mut normal), "linked already");
    let taken: Vec<_> = core::iter::from_fn(|| domain.next()).collect();
    assert_eq!(taken, [4, 3, 5]);
    assert!(domain.words.iter().all(|word| word.read() == 0));
    assert!(domain.raise(5, 7, &mut normal), "the queue became ready again");
    assert_eq!(domain.next(), Some(5));
}

#[test]
fn an_event_raised_by_a_handler_comes_behind_the_others() {
    let domain = plain();
    let mut tail = 0;
    for port in [1, 2] {
        domain.raise(port, 7, &mut tail);
    }
    assert_eq!(domain.next(), Some(1));
    domain.raise(1, 7, &mut tail);
    assert_eq!((domain.next(), domain.next(), domain.next()), (Some(2), Some(1), None));
}

#[test]
fn a_masked_event_leaves_the_queue_and_stays_pending() {
    let domain = plain();
    let mut tail = 0;
    domain.raise(2, 7, &mut tail);
    domain.words[2].set_bits(MASKED);
    assert_eq!(domain.next(), None);
    assert_eq!(domain.words[2].read(), PENDING | MASKED);
    assert!(!unmask(&domain.words[2]), "the hypervisor must link it");
    domain.words[2].clear_bits(PENDING);
    assert!(unmask(&domain.words[2]) && unmask(&domain.words[2]));
    assert_eq!(domain.words[2].read(), 0);
}

#[test]
fn nonsense_in_the_control_block_ends() {
    let domain = plain();
    domain.queues.control.ready.write(u32::MAX);
    domain.queues.control.head[7].write(u32::MAX);
    domain.queues.control.head[8].write(3);
    domain.words[3].write(LINKED | EVTCHN_FIFO_LINK_MASK);
    assert_eq!(domain.next(), None);
    assert_eq!(domain.queues.ready.read(), 0);
}

/// Raises ports on a thread of the hypervisor while the CPU takes them, in every order of their steps. No event is lost
/// and none comes twice.
fn race(ports: &'static [u32]) {
    loom::model(move || {
        let domain = Arc::new(Domain::new(|| LoomU32::new(0)));
        let hypervisor = Arc::clone(&domain);
        let raiser = thread::spawn(move || {
            let mut tail = 0;
            for &port in ports {
                hypervisor.raise(port, 0, &mut tail);
            }
        });
        let mut taken = vec![];
        taken.extend(domain.next());
        taken.extend(domain.next());
        raiser.join().unwrap();
        taken.extend(core::iter::from_fn(|| domain.next()));
        let mut once: Vec<_> = ports.to_vec();
        once.dedup();
        for port in &once {
            let raised = ports.iter().filter(|raised| *raised == port).count();
            let came = taken.iter().filter(|came| *came == port).count();
            assert!((1..=raised).contains(&came), "port {port} came {came} times of {raised}");
        }
        assert!(domain.words.iter().all(|word| word.read() == 0));
    });
}

#[test]
fn appending_while_the_queue_empties_loses_nothing() {
    race(&[1, 2]);
}

#[test]
fn raising_one_port_again_and_again_loses_nothing() {
    race(&[3, 3]);
}
