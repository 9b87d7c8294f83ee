//! Both ends in one process: agreement, sleep and wake-up across threads, and ends that lie.

extern crate std;

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;
use std::collections::VecDeque;
use std::sync::{Arc, mpsc};
use std::thread;
use std::vec::Vec;

use proptest::prelude::*;

use super::{Back, Error, Front, RingTypes};

/// A protocol whose request is longer than its response.
#[derive(Debug)]
struct Echo;

impl RingTypes for Echo {
    type Request = [u32; 3];
    type Response = u32;
}

fn page() -> Arc<[AtomicU32]> {
    (0..1024).map(|_| AtomicU32::new(0xdead_beef)).collect()
}

/// A page whose ring has seen `at` requests and responses.
fn page_at(at: u32) -> Arc<[AtomicU32]> {
    let page = page();
    for (word, value) in page.iter().zip([at, at.wrapping_add(1), at, at.wrapping_add(1)]) {
        word.store(value, Relaxed);
    }
    page
}

type Ends = (Front<Echo, Arc<[AtomicU32]>>, Back<Echo, Arc<[AtomicU32]>>);

fn ends() -> Ends {
    let page = page();
    let front = Front::new(page.clone()).unwrap();
    (front, Back::attach(page).unwrap())
}

/// Both ends of a ring whose indices stand at `at`.
fn ends_at(at: u32) -> Ends {
    let page = page_at(at);
    let front = Front::attach(page.clone()).unwrap();
    (front, Back::attach(page).unwrap())
}

#[test]
fn header_and_size_are_those_of_ring_h() {
    let page = page();
    let front = Front::<Echo, _>::new(page.clone()).unwrap();
    // (4096 - 64) / 12 = 336 slots fit, of which a power of two is used.
    assert_eq!(front.slots(), 256);
    let header: Vec<u32> = page[..4].iter().map(|word| word.load(Relaxed)).collect();
    assert_eq!(header, [0, 1, 0, 1]);
    assert!(page[4..].iter().all(|word| word.load(Relaxed) == 0));
}

#[test]
fn memory_without_a_slot_is_refused() {
    let words: Arc<[AtomicU32]> = (0..18).map(AtomicU32::new).collect();
    assert_eq!(Front::<Echo, _>::new(words.clone()).err(), Some(Error::TooSmall));
    assert_eq!(Back::<Echo, _>::attach(words).err(), Some(Error::TooSmall));
}

#[test]
fn a_request_comes_out_as_it_went_in_and_so_does_its_answer() {
    let (mut front, mut back) = ends();
    front.push(&[1, 2, 3]).unwrap();
    assert_eq!(back.pop(), Ok(None), "not published yet");
    assert!(front.publish(), "a fresh ring asks for the first event");
    assert_eq!(back.pop(), Ok(Some([1, 2, 3])));
    back.push(&6).unwrap();
    assert_eq!(front.pop(), Ok(None));
    assert!(back.publish());
    assert_eq!(front.pop(), Ok(Some(6)));
    assert_eq!(front.pop(), Ok(None));
}

#[test]
fn only_as_many_requests_as_slots_and_as_many_answers_as_requests() {
    let (mut front, mut back) = ends();
    for n in 0..front.slots() {
        front.push(&[n; 3]).unwrap();
    }
    assert_eq!(front.push(&[0; 3]), Err(Error::Full));
    let _ = front.publish();
    assert_eq!(back.push(&0), Err(Error::Unasked));
    assert_eq!(back.pop(), Ok(Some([0; 3])));
    back.push(&0).unwrap();
    assert_eq!(back.push(&0), Err(Error::Unasked));
    assert_eq!(front.free(), 0, "a slot is free when its answer was taken");
    let _ = back.publish();
    assert_eq!(front.pop(), Ok(Some(0)));
    assert_eq!(front.free(), 1);
}

#[test]
fn events_are_asked_for_and_left_out() {
    let (mut front, mut back) = ends();
    front.push(&[1; 3]).unwrap();
    assert!(front.publish());
    front.push(&[2; 3]).unwrap();
    assert!(!front.publish(), "the back end was woken and is not asleep again");
    assert_eq!(back.finish(), Ok(true), "two requests wait");
    while back.pop().unwrap().is_some() {}
    assert_eq!(back.finish(), Ok(false));
    front.push(&[3; 3]).unwrap();
    assert!(front.publish(), "asleep, and asked for this one");
}

#[test]
fn ends_attach_only_to_what_can_be_a_ring() {
    let page = page_at(7);
    page[0].store(7 + 257, Relaxed);
    assert_eq!(Front::<Echo, _>::attach(page.clone()).err(), Some(Error::Corrupt));
    assert_eq!(Back::<Echo, _>::attach(page.clone()).err(), Some(Error::Corrupt));
    page[0].store(7 + 256, Relaxed);
    assert_eq!(Front::<Echo, _>::attach(page.clone()).unwrap().free(), 0);
    assert!(Back::<Echo, _>::attach(page).unwrap().pop().unwrap().is_some());
}

#[test]
fn indices_wrap() {
    let (mut front, mut back) = ends_at(u32::MAX - 5);
    for n in 0..1000 {
        front.push(&[n, n + 1, n + 2]).unwrap();
        let _ = front.publish();
        assert_eq!(back.pop(), Ok(Some([n, n + 1, n + 2])));
        back.push(&n).unwrap();
        let _ = back.publish();
        assert_eq!(front.pop(), Ok(Some(n)));
    }
}

/// Each end sleeps on a channel when it has nothing to do. A lost wake-up is a deadlock, and fails by timeout.
#[test]
fn no_wake_up_is_lost_between_threads() {
    const TOTAL: u32 = 200_000;
    let (mut front, mut back) = ends_at(u32::MAX - 1000);
    let (wake_back, back_sleeps) = mpsc::channel::<()>();
    let (wake_front, front_sleeps) = mpsc::channel::<()>();
    let server = thread::spawn(move || {
        let mut served = 0;
        while served < TOTAL {
            while let Some([a, b, c]) = back.pop().unwrap() {
                assert_eq!([b, c], [a ^ 1, a ^ 2]);
                back.push(&a).unwrap();
                served += 1;
            }
            if back.publish() {
                let _ = wake_front.send(());
            }
            if served < TOTAL && !back.finish().unwrap() {
                back_sleeps.recv_timeout(std::time::Duration::from_secs(20)).expect("a lost event");
            }
        }
    });
    let (mut asked, mut answered) = (0, 0);
    while answered < TOTAL {
        while asked < TOTAL && front.push(&[asked, asked ^ 1, asked ^ 2]).is_ok() {
            asked += 1;
        }
        if front.publish() {
            let _ = wake_back.send(());
        }
        while let Some(answer) = front.pop().unwrap() {
            assert_eq!(answer, answered);
            answered += 1;
        }
        let idle = front.free() == 0 || asked == TOTAL;
        if answered < TOTAL && idle && !front.finish().unwrap() {
            front_sleeps.recv_timeout(std::time::Duration::from_secs(20)).expect("a lost event");
        }
    }
    server.join().unwrap();
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Ask(u32),
    Serve,
    Take,
    Publish(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<u32>().prop_map(Step::Ask),
        Just(Step::Serve),
        Just(Step::Take),
        any::<bool>().prop_map(Step::Publish),
    ]
}

proptest! {
    /// Any order of honest steps behaves like two queues with batches.
    #[test]
    fn behaves_like_two_queues(at: u32, steps in prop::collection::vec(step(), 0..400)) {
        let (mut front, mut back) = ends_at(at);
        let mut asked: VecDeque<u32> = VecDeque::new();
        let mut answered: VecDeque<u32> = VecDeque::new();
        let (mut shown_asked, mut shown_answered) = (0, 0);
        for step in steps {
            match step {
                Step::Ask(n) => {
                    if front.push(&[n; 3]).is_ok() {
                        asked.push_back(n);
                    } else {
                        prop_assert_eq!(asked.len() + answered.len(), 256);
                    }
                }
                Step::Serve => {
                    let got = back.pop().unwrap();
                    prop_assert_eq!(got.is_some(), shown_asked > 0);
                    if let Some([n, ..]) = got {
                        prop_assert_eq!(Some(n), asked.pop_front());
                        shown_asked -= 1;
                        back.push(&n).unwrap();
                        answered.push_back(n);
                    }
                }
                Step::Take => {
                    let got = front.pop().unwrap();
                    prop_assert_eq!(got.is_some(), shown_answered > 0);
                    if got.is_some() {
                        prop_assert_eq!(got, answered.pop_front());
                        shown_answered -= 1;
                    }
                }
                Step::Publish(true) => {
                    let _ = front.publish();
                    shown_asked = asked.len();
                }
                Step::Publish(false) => {
                    let _ = back.publish();
                    shown_answered = answered.len();
                }
            }
        }
    }

    /// A front end that writes anything into the page: the back end sees requests or corruption, never more
    /// requests under way than slots, and never panics.
    #[test]
    fn back_survives_a_hostile_front(
        at: u32, writes in prop::collection::vec((0usize..1024, any::<u32>(), any::<bool>()), 0..300)
    ) {
        let page = page_at(at);
        let mut back = Back::<Echo, _>::attach(page.clone()).unwrap();
        for (word, value, near) in writes {
            let old = page[word].load(Relaxed);
            page[word].store(if near { old.wrapping_add(value % 600) } else { value }, Relaxed);
            match back.pop() {
                Ok(Some([first, ..])) if first % 2 == 0 => back.push(&first).unwrap(),
                Ok(_) => {}
                Err(error) => prop_assert_eq!(error, Error::Corrupt),
            }
            prop_assert!(back.outstanding() <= back.slots());
            let _ = (back.publish(), back.finish());
        }
    }

    /// A back end that writes anything into the page: the front end takes no more answers than it asked questions.
    #[test]
    fn front_survives_a_hostile_back(
        at: u32,
        writes in prop::collection::vec((0usize..1024, any::<u32>(), any::<bool>()), 0..300)
    ) {
        let page = page_at(at);
        let mut front = Front::<Echo, _>::attach(page.clone()).unwrap();
        let (mut asked, mut taken) = (0u32, 0u32);
        for (word, value, near) in writes {
            asked += u32::from(front.push(&[value; 3]).is_ok());
            let _ = front.publish();
            let old = page[word].load(Relaxed);
            page[word].store(if near { old.wrapping_add(value % 600) } else { value }, Relaxed);
            match front.pop() {
                Ok(answer) => taken += u32::from(answer.is_some()),
                Err(error) => prop_assert_eq!(error, Error::Corrupt),
            }
            prop_assert!(taken <= asked && asked - taken <= front.slots());
            let _ = front.finish();
        }
    }
}
