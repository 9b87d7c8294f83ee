//! Model checks: every order in which the steps of a guest and of the hypervisor on shared words can take effect.

use crate::event::fifo::{EventWord, link};
use crate::event::two_level::{Found, mark, select, unmask};
use crate::ids::Port;
use crate::sync::Word;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;
use xen_abi::event_channel::{
    EVTCHN_FIFO_LINK_MASK, EVTCHN_FIFO_LINKED, EVTCHN_FIFO_MASKED, EVTCHN_FIFO_PENDING,
};

/// The words of the two-level layout that matter to one port word and one vCPU.
struct TwoLevel {
    pending: AtomicU64,
    mask: AtomicU64,
    selector: AtomicU64,
    upcall: AtomicU64,
}

/// The bit of the port word in the selector.
const WORD: u64 = 1;

impl TwoLevel {
    fn new(masked: u64) -> Arc<Self> {
        let [pending, selector, upcall] = [0; 3].map(AtomicU64::new);
        Arc::new(Self { pending, mask: AtomicU64::new(masked), selector, upcall })
    }

    fn tell(&self) {
        if select(&self.selector, WORD) {
            self.upcall.set_bits(1);
        }
    }

    /// The hypervisor: an event for the port with this bit.
    fn send(&self, bit: u64) {
        if mark(&self.pending, &self.mask, bit) == Found::Open {
            self.tell();
        }
    }

    /// The hypervisor: the guest asks to unmask.
    fn unmask(&self, bit: u64) {
        if unmask(&self.pending, &self.mask, bit) {
            self.tell();
        }
    }

    /// The guest: what its upcall takes. It clears in the order opposite to the hypervisor's.
    fn upcall(&self) -> u64 {
        if self.upcall.clear_bits(1) & 1 == 0 || self.selector.clear_bits(WORD) & WORD == 0 {
            return 0;
        }
        let due = self.pending.read() & !self.mask.read();
        self.pending.clear_bits(due) & due
    }
}

/// An event that comes while the guest serves another one is served by this upcall or causes the next.
#[test]
fn two_level_events_are_not_lost() {
    loom::model(|| {
        let words = TwoLevel::new(0);
        words.send(1);
        let sender = words.clone();
        let sender = thread::spawn(move || sender.send(2));
        let first = words.upcall();
        sender.join().unwrap();
        let second = words.upcall();
        assert_eq!(first | second, 3);
        assert_eq!(first & second, 0);
    });
}

/// Two senders on ports of one word, and a guest that looks meanwhile.
#[test]
fn two_level_senders_meet() {
    loom::model(|| {
        let words = TwoLevel::new(0);
        let senders = [1, 2].map(|bit| {
            let words = words.clone();
            thread::spawn(move || words.send(bit))
        });
        let first = words.upcall();
        for sender in senders {
            sender.join().unwrap();
        }
        assert_eq!(first | words.upcall(), 3);
    });
}

/// An event that comes while its port is being unmasked is told by one of the two.
#[test]
fn two_level_unmasking_meets_an_event() {
    loom::model(|| {
        let words = TwoLevel::new(1);
        let sender = words.clone();
        let sender = thread::spawn(move || sender.send(1));
        words.unmask(1);
        sender.join().unwrap();
        assert_eq!(words.upcall(), 1);
        assert_eq!(words.upcall(), 0);
    });
}

const PENDING: u64 = 1 << EVTCHN_FIFO_PENDING;
const LINKED: u64 = 1 << EVTCHN_FIFO_LINKED;
const MASKED: u64 = 1 << EVTCHN_FIFO_MASKED;
const LINK: u64 = EVTCHN_FIFO_LINK_MASK as u64;

/// Two ports whose words are neighbours, and the control block of one queue.
struct Queue {
    words: AtomicU64,
    head: AtomicU64,
    ready: AtomicU64,
}

const FIRST: u32 = 4;
const SECOND: u32 = 5;

impl Queue {
    /// The first port is linked, and the guest about to serve it: it took the ready bit.
    fn new() -> Arc<Self> {
        let words = AtomicU64::new(PENDING | LINKED);
        Arc::new(Self { words, head: AtomicU64::new(FIRST.into()), ready: AtomicU64::new(0) })
    }

    /// The hypervisor: an event for the second port, whose queue ends at the first. Answers whether the guest is told.
    fn send(&self) -> bool {
        self.words.set_bits((PENDING | LINKED) << 32);
        let at = |word, shift| EventWord { word, shift };
        let tail = at(&self.words, 0);
        link(Some(&tail), &at(&self.head, 0), &at(&self.ready, 0), 7, Port(SECOND))
    }

    /// The guest: unlinks the first port, changing nothing else of it; answers the next one.
    fn unlink(&self) -> u64 {
        let mut old = self.words.read();
        loop {
            match self.words.replace(old, old & !(LINKED | LINK)) {
                Ok(_) => return old & LINK,
                Err(now) => old = now,
            }
        }
    }
}

/// A port that is linked behind one which the guest unlinks at the same moment is reached by that one or by the head.
#[test]
fn fifo_links_are_not_lost() {
    loom::model(|| {
        let queue = Queue::new();
        let hypervisor = queue.clone();
        let hypervisor = thread::spawn(move || hypervisor.send());
        queue.words.clear_bits(PENDING);
        let next = queue.unlink();
        let told = hypervisor.join().unwrap();
        match next {
            0 => assert_eq!((told, queue.head.read(), queue.ready.read()), (true, SECOND.into(), 1 << 7)),
            next => assert_eq!((told, next, queue.ready.read()), (false, SECOND.into(), 0)),
        }
        assert_eq!(queue.words.read() & u64::from(u32::MAX), 0, "the first is out");
        assert_eq!(queue.words.read() >> 32, PENDING | LINKED);
    });
}

/// The same while the guest masks and unmasks the port that it serves.
#[test]
fn fifo_links_survive_masking() {
    loom::model(|| {
        let queue = Queue::new();
        let hypervisor = queue.clone();
        let hypervisor = thread::spawn(move || hypervisor.send());
        queue.words.set_bits(MASKED);
        queue.words.clear_bits(MASKED);
        let told = hypervisor.join().unwrap();
        assert_eq!((told, queue.unlink()), (false, SECOND.into()), "it was linked all the time");
    });
}
