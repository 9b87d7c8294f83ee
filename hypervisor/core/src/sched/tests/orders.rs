//! Model checks: every order in which CPUs meet at the words of a vCPU that falls asleep, is woken, told, stopped, moved.

use crate::ids::{CpuId, Port};
use crate::platform::Work;
use crate::sched::Reasons;
use crate::sched::upcall::{is_due, mark, unmask};
use crate::sched::words::{Contended, Place, Tell, VcpuWords, Wanted};
use crate::sync::Word;
use crate::work::Raised;
use loom::sync::atomic::{AtomicU32, AtomicU64};
use loom::sync::{Arc, Mutex};
use loom::thread;

/// The mask byte and the upcall byte of the first word of a `vcpu_info`.
const MASKED: u64 = 1 << 8;
const UPCALL: u64 = 0xff;
const PORT: Port = Port(5);
const BIT: u64 = 1 << 5;

/// A CPU: what was raised for it, and whether an interrupt is on its way.
#[derive(Default)]
struct Cpu {
    work: Raised<AtomicU32>,
    interrupt: AtomicU32,
}

/// One vCPU, and CPUs that run it or send to it. What the CPUs do here in the order of the hypervisor's steps is nothing but
/// these words; the lock is that of the one run queue.
struct World {
    info: AtomicU64,
    pending: AtomicU64,
    words: VcpuWords<AtomicU32>,
    home: AtomicU32,
    pollers: AtomicU32,
    queued: Mutex<u32>,
    cpus: [Cpu; 3],
    /// Upcalls and ports that the guest took.
    taken: AtomicU64,
}

impl World {
    /// A vCPU that is up and at this place of CPU 0.
    fn new(place: Place, info: u64) -> Arc<Self> {
        let words = VcpuWords::new(AtomicU32::new, Reasons::empty());
        words.set_place(place);
        let queued = Mutex::new((place == Place::Waiting).into());
        let [info, pending, taken] = [info, 0, 0].map(AtomicU64::new);
        let [home, pollers] = [0, 0].map(AtomicU32::new);
        Arc::new(Self { info, pending, words, home, pollers, queued, cpus: Default::default(), taken })
    }

    fn raise(&self, here: usize, cpu: CpuId, work: Work) {
        let target = &self.cpus[cpu.0 as usize];
        if target.work.raise(work) && cpu.0 as usize != here {
            target.interrupt.set_bits(1);
        }
    }

    fn enqueue(&self, here: usize) {
        let mut queued = self.queued.lock().unwrap();
        if self.words.wanted() == Wanted::Queue {
            self.words.set_place(Place::Waiting);
            *queued += 1;
            drop(queued);
            self.raise(here, CpuId(self.home.read()), Work::RESCHEDULE);
        }
    }

    fn wake(&self, here: usize) {
        let taken = self.words.take(Reasons::BLOCKED);
        if taken.stopped_polling {
            self.pollers.add(u32::MAX);
        }
        if taken.runnable {
            self.enqueue(here);
        }
    }

    /// CPU `here` sends an event to a port that is open.
    fn send(&self, here: usize) {
        if self.pending.set_bits(BIT) & BIT == 0 && mark(&self.info) {
            match self.words.tell(&self.home, CpuId(here as u32)) {
                Tell::Nobody => {}
                Tell::Wake => self.wake(here),
                Tell::Interrupt(cpu) => self.raise(here, cpu, Work::empty()),
            }
        }
    }

    /// CPU `here` sends an event to a port that is masked: only who polls it is woken.
    fn send_masked(&self, here: usize) {
        if self.pending.set_bits(BIT) & BIT == 0 && self.pollers.read() != 0 && self.words.polls(PORT) {
            self.wake(here);
        }
    }

    /// CPU `here` adds a reason not to run.
    fn suspend(&self, here: usize) {
        self.words.add(Reasons::STOPPED);
        if let Some(cpu) = self.words.runs_on(&self.home) {
            self.raise(here, cpu, Work::RESCHEDULE);
        }
    }

    /// Whether the vCPU, which was stopped, is on no CPU and stays so.
    fn is_off(&self) -> bool {
        let _queued = self.queued.lock().unwrap();
        self.words.place() != Place::Running
    }

    /// This CPU takes the vCPU out of the queue, if it is there and runnable, to run it.
    fn choose(&self, cpu: usize) -> bool {
        let mut queued = self.queued.lock().unwrap();
        if *queued == 0 {
            return false;
        }
        *queued -= 1;
        let runnable = self.words.runnable();
        self.words.set_place(if runnable { Place::Running } else { Place::Off });
        self.home.exchange(cpu as u32);
        drop(queued);
        if runnable && !self.words.runnable() {
            self.raise(cpu, CpuId(cpu as u32), Work::RESCHEDULE);
        }
        runnable
    }

    fn runs_here(&self, cpu: usize) -> bool {
        self.words.runs_on(&self.home) == Some(CpuId(cpu as u32))
    }

    fn reschedule(&self, cpu: usize) {
        if self.runs_here(cpu) {
            if self.words.runnable() {
                return;
            }
            let queued = self.queued.lock().unwrap();
            self.words.set_place(Place::Off);
            drop(queued);
            if self.words.runnable() {
                self.enqueue(cpu);
            }
        }
        self.choose(cpu);
    }

    /// The way of a CPU to its guest, or to sleep: what was raised, then an upcall.
    fn leave(&self, cpu: usize) {
        loop {
            self.cpus[cpu].interrupt.exchange(0);
            let work = self.cpus[cpu].work.take();
            if work.contains(Work::RESCHEDULE) {
                self.reschedule(cpu);
            } else if self.runs_here(cpu) && is_due(&self.info) {
                self.info.clear_bits(UPCALL);
                self.taken.set_bits(self.pending.clear_bits(BIT) & BIT);
            } else if work.is_empty() {
                return;
            }
        }
    }

    /// The guest on CPU 0 wants to sleep until an event.
    fn block(&self) {
        unmask(&self.info);
        if self.words.sleep(|| is_due(&self.info)) {
            self.raise(0, CpuId(0), Work::RESCHEDULE);
        }
        self.leave(0);
    }

    /// The guest on CPU 0, which masks upcalls, polls.
    fn poll(&self) {
        self.words.begin_poll(&self.pollers);
        if self.pending.read() & BIT != 0 {
            self.wake(0);
        } else {
            self.words.narrow_poll(PORT);
            self.raise(0, CpuId(0), Work::RESCHEDULE);
        }
        self.leave(0);
    }

    /// Whoever was interrupted looks, until nobody is.
    fn settle(&self) {
        while let Some(cpu) = (0..3).find(|cpu| self.cpus[*cpu].interrupt.read() != 0) {
            self.leave(cpu);
        }
    }

    fn is_idle(&self) -> bool {
        self.words.place() == Place::Off && *self.queued.lock().unwrap() == 0
    }
}

/// An event that comes while a vCPU falls asleep keeps it awake or wakes it, however far its CPU got with letting it go.
#[test]
fn events_meet_falling_asleep() {
    loom::model(|| {
        let world = World::new(Place::Running, MASKED);
        let sender = world.clone();
        let sender = thread::spawn(move || sender.send(1));
        world.block();
        sender.join().unwrap();
        world.settle();
        assert_eq!(world.taken.read(), BIT);
        assert!(world.words.runnable() && world.runs_here(0));
    });
}

/// Two events from two CPUs wake a vCPU once.
#[test]
fn two_wakes_queue_once() {
    loom::model(|| {
        let world = World::new(Place::Running, 0);
        world.block();
        assert!(world.is_idle());
        let wakers = [1, 2].map(|cpu| {
            let world = world.clone();
            thread::spawn(move || world.wake(cpu))
        });
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
        assert_eq!(*world.queued.lock().unwrap(), 1);
        world.settle();
        assert!(world.runs_here(0));
    });
}

/// An event for a vCPU that another CPU takes over at this moment is found by that CPU, or it is told. The sender is the CPU
/// that the vCPU waited for, or a third one.
#[test]
fn events_meet_a_move() {
    for from in [0, 2] {
        loom::model(move || {
            let world = World::new(Place::Waiting, 0);
            let sender = world.clone();
            let sender = thread::spawn(move || sender.send(from));
            assert!(world.choose(1));
            world.leave(1);
            sender.join().unwrap();
            world.settle();
            assert_eq!(world.taken.read(), BIT);
        });
    }
}

/// A vCPU that is stopped while it is being chosen does not go on running.
#[test]
fn stopping_meets_choosing() {
    loom::model(|| {
        let world = World::new(Place::Waiting, 0);
        let stopper = world.clone();
        let stopper = thread::spawn(move || stopper.suspend(2));
        world.choose(1);
        world.leave(1);
        stopper.join().unwrap();
        world.settle();
        assert!(world.is_idle());
    });
}

/// Who stopped a vCPU that is being chosen and finds it on no CPU may work on it: no CPU takes it then.
#[test]
fn work_on_a_stopped_vcpu_meets_choosing() {
    loom::model(|| {
        let world = World::new(Place::Waiting, 0);
        let worker = world.clone();
        let worker = thread::spawn(move || {
            worker.suspend(2);
            if worker.is_off() {
                assert_ne!(worker.words.place(), Place::Running, "a CPU loads what is being changed");
            }
        });
        world.choose(1);
        world.leave(1);
        worker.join().unwrap();
    });
}

/// A vCPU that is stopped and let go again at once while its CPU lets go of it runs, in one place.
#[test]
fn resuming_meets_letting_go() {
    loom::model(|| {
        let world = World::new(Place::Running, 0);
        let other = world.clone();
        let other = thread::spawn(move || {
            other.suspend(1);
            if other.words.take(Reasons::STOPPED).runnable {
                other.enqueue(1);
            }
        });
        world.leave(0);
        other.join().unwrap();
        world.settle();
        assert!(world.runs_here(0));
        assert_eq!(*world.queued.lock().unwrap(), 0);
    });
}

/// An event at a polled port ends the poll, even if it comes as that begins; nobody is left counted.
#[test]
fn events_meet_polling() {
    loom::model(|| {
        let world = World::new(Place::Running, MASKED);
        let sender = world.clone();
        let sender = thread::spawn(move || sender.send_masked(1));
        world.poll();
        sender.join().unwrap();
        world.settle();
        assert!(world.words.runnable() && world.runs_here(0));
        assert_eq!(world.pollers.read(), 0);
    });
}

/// A vCPU that is queued while the CPU chooses another one is known to the CPU, which gives that one a slice, or the CPU is told.
#[test]
fn queueing_meets_choosing() {
    loom::model(|| {
        let shared = Arc::new((Contended::new(AtomicU32::new(0)), AtomicU32::new(0)));
        // The vCPU that ran until now had to share.
        shared.0.set(true);
        let other = shared.clone();
        let other = thread::spawn(move || {
            let (contended, waiting) = &*other;
            waiting.add(1);
            contended.unaware()
        });
        let (contended, waiting) = &*shared;
        if contended.look(waiting) {
            contended.set(true);
        }
        let told = other.join().unwrap();
        assert!(told || !contended.unaware(), "it waits for ever");
    });
}
