//! Model checks: `loom` tries every order in which the steps of two ends can take effect. A wake-up that is lost is a
//! deadlock there, and a message that is seen before it was written is another value.

extern crate std;

use loom::sync::atomic::AtomicU32;
use loom::sync::{Arc, Notify};
use loom::thread;
use std::vec::Vec;

use super::{Back, Front, RingTypes};

/// One word each way.
#[derive(Debug)]
struct Number;

impl RingTypes for Number {
    type Request = u32;
    type Response = u32;
}

/// Words that `loom` watches. A type of its own, for `loom`'s `Arc` does not hold slices.
#[derive(Clone)]
struct Words(Arc<Vec<AtomicU32>>);

impl core::ops::Deref for Words {
    type Target = [AtomicU32];

    fn deref(&self) -> &[AtomicU32] {
        &self.0
    }
}

/// A ring of so many slots.
fn words(slots: usize) -> Words {
    Words(Arc::new((0..16 + slots).map(|_| AtomicU32::new(0)).collect()))
}

fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Requests that are shown one by one to a back end that sleeps in between: each arrives, and each as it was written.
#[test]
fn a_sleeping_back_end_is_woken_for_every_request() {
    check(3, || {
        let words = words(2);
        let mut front = Front::<Number, _>::new(words.clone()).unwrap();
        let mut back = Back::<Number, _>::attach(words).unwrap();
        let event = Arc::new(Notify::new());
        let bell = event.clone();
        let asker = thread::spawn(move || {
            for number in [7, 8] {
                front.push(&number).unwrap();
                if front.publish() {
                    bell.notify();
                }
            }
        });
        let mut expected = 7;
        while expected < 9 {
            match back.pop().unwrap() {
                Some(number) => {
                    assert_eq!(number, expected);
                    expected += 1;
                }
                None if back.finish().unwrap() => {}
                None => event.wait(),
            }
        }
        asker.join().unwrap();
    });
}

/// The other way: answers wake a front end that sleeps.
#[test]
fn a_sleeping_front_end_is_woken_for_every_answer() {
    check(3, || {
        let words = words(2);
        let mut front = Front::<Number, _>::new(words.clone()).unwrap();
        let mut back = Back::<Number, _>::attach(words).unwrap();
        front.push(&1).unwrap();
        front.push(&2).unwrap();
        let _ = front.publish();
        let event = Arc::new(Notify::new());
        let bell = event.clone();
        let server = thread::spawn(move || {
            while let Some(number) = back.pop().unwrap() {
                back.push(&(number + 40)).unwrap();
                if back.publish() {
                    bell.notify();
                }
            }
        });
        let mut expected = 41;
        while expected < 43 {
            match front.pop().unwrap() {
                Some(number) => {
                    assert_eq!(number, expected);
                    expected += 1;
                }
                None if front.finish().unwrap() => {}
                None => event.wait(),
            }
        }
        server.join().unwrap();
    });
}

/// A ring of one slot: request and answer take turns in the same words.
#[test]
fn a_slot_changes_hands_and_back() {
    check(2, || {
        let words = words(1);
        let mut front = Front::<Number, _>::new(words.clone()).unwrap();
        let mut back = Back::<Number, _>::attach(words).unwrap();
        let [to_back, to_front] = [Arc::new(Notify::new()), Arc::new(Notify::new())];
        let (asked, answered) = (to_back.clone(), to_front.clone());
        let server = thread::spawn(move || {
            let mut left = 2;
            while left > 0 {
                match back.pop().unwrap() {
                    Some(number) => {
                        back.push(&(number + 40)).unwrap();
                        left -= 1;
                        if back.publish() {
                            answered.notify();
                        }
                    }
                    None if back.finish().unwrap() => {}
                    None => asked.wait(),
                }
            }
        });
        for number in [1, 2] {
            front.push(&number).unwrap();
            if front.publish() {
                to_back.notify();
            }
            let answer = loop {
                match front.pop().unwrap() {
                    Some(answer) => break answer,
                    None if front.finish().unwrap() => {}
                    None => to_front.wait(),
                }
            };
            assert_eq!(answer, number + 40);
        }
        server.join().unwrap();
    });
}
