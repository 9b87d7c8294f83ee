//! Calls between CPUs, under `loom`: each is served once or taken back, and no caller waits for ever.

use core::sync::atomic::Ordering::Relaxed;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU32 as Word32;
use loom::thread;

use super::*;

#[test]
fn the_calling_cpu_does_its_own_part() {
    let done = AtomicU32::new(0);
    run_on(&CpuSet::online(), &|cpu| {
        done.fetch_add(1 + cpu.number(), Relaxed);
    });
    assert_eq!(done.load(Relaxed), 1);
    run_on(&CpuSet::others(), &|_| {
        done.fetch_add(1, Relaxed);
    });
    assert_eq!(done.load(Relaxed), 1);
    assert!(!wake(1));
}

/// What a CPU has for the protocol.
struct One {
    called: Word32,
    state: Word32,
    /// The pending bit of the port by which it is called.
    event: Word32,
    /// How often it did the work.
    done: Word32,
}

impl One {
    fn new() -> Self {
        let word = || Word32::new(0);
        Self { called: word(), state: Word32::new(State::Online as u32), event: word(), done: word() }
    }

    fn callee(&self) -> Callee<'_, Word32> {
        Callee { called: &self.called, state: &self.state }
    }
}

/// One call, made on the loom thread of the test.
struct Machine {
    call: Call<Word32>,
    cpu: One,
}

impl Machine {
    fn new() -> Arc<Self> {
        Arc::new(Self { call: Call { busy: Word32::new(0), left: Word32::new(0) }, cpu: One::new() })
    }

    /// What `run_on` does for this CPU, up to the wait.
    fn ask(&self) {
        self.call.ask(&self.cpu.callee(), || {
            self.cpu.event.write(1);
            true
        });
    }

    /// A CPU that takes one upcall, if it comes in time, and stops.
    fn stop(&self) {
        if Word::swap(&self.cpu.event, 0) != 0 {
            self.call.serve(&self.cpu.callee(), || self.cpu.done.add(1));
        }
        self.call.go_down(&self.cpu.callee(), || self.cpu.done.add(1));
    }
}

/// Once the CPU is down nothing changes any more: what is left then is what the caller waits for, for ever.
#[test]
fn a_cpu_that_stops_keeps_no_caller_waiting() {
    loom::model(|| {
        let machine = Machine::new();
        let second = {
            let machine = Arc::clone(&machine);
            thread::spawn(move || machine.stop())
        };
        machine.ask();
        second.join().unwrap();
        assert!(machine.call.is_done(), "a call is neither served nor taken back");
        assert_eq!(machine.cpu.called.read(), 0);
        assert!(machine.cpu.done.read() <= 1, "a call is served twice");
    });
}
