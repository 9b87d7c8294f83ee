//! The scheduler: round robin, with a slice of time for each process.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use core::time::Duration;

use guest_pv_lib::Errno;
use guest_pv_lib::events::{self, Channel, Port, Virq};
use guest_pv_lib::mmu::MapError;
use guest_pv_lib::traps::Vector;
use guest_pv_lib::user::{Exit, UserMode};
use guest_pv_lib::{sched, time};

use crate::calls;
use crate::process::{Pid, Process, Signal, State};

/// How long a process runs before the next one does, in nanoseconds.
const SLICE: u64 = 5_000_000;
/// The process whose end is the end.
const INIT: Pid = 1;

/// What happened, for people.
#[derive(Clone, Copy, Debug, Default)]
#[allow(dead_code)]
pub struct Stats {
    pub calls: u64,
    pub faults: u64,
    pub forks: u64,
    pub signals: u64,
    pub preemptions: u64,
}

/// Why the kernel cannot start.
#[derive(Debug)]
pub enum StartError {
    Memory(MapError),
    Timer(Errno),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(error) => error.fmt(f),
            Self::Timer(error) => write!(f, "the timer: {error:?}"),
        }
    }
}

/// The slice is over.
static TICK: AtomicBool = AtomicBool::new(false);

fn tick(_: Port) {
    TICK.store(true, Relaxed);
}

/// Everything there is.
pub struct Kernel {
    user: UserMode,
    /// Stays open as long as the kernel runs.
    _timer: Channel,
    pub processes: BTreeMap<Pid, Box<Process>>,
    /// Those that are ready, in the order in which they will run.
    pub ready: VecDeque<Pid>,
    last_pid: Pid,
    /// Whose registers the FPU has.
    fpu_owner: Pid,
    pub stats: Stats,
}

/// What becomes of the running process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It goes on.
    Continue,
    /// It is another one's turn; this one may be ready or not.
    Switch,
}

impl Kernel {
    /// A kernel with one process, which runs `program`.
    pub fn new(program: &[u8]) -> Result<Self, StartError> {
        let timer = Channel::bind_virq(Virq::TIMER).map_err(StartError::Timer)?;
        timer.set_handler(tick);
        time::stop_periodic().map_err(StartError::Timer)?;
        events::unmask_upcalls();
        let init = Process::new(INIT, program).map_err(StartError::Memory)?;
        Ok(Self {
            user: UserMode::new(),
            _timer: timer,
            processes: BTreeMap::from([(INIT, Box::new(init))]),
            ready: VecDeque::from([INIT]),
            last_pid: INIT,
            fpu_owner: 0,
            stats: Stats::default(),
        })
    }

    /// Runs until the first process has ended, and returns its status.
    pub fn run(mut self) -> (u64, Stats) {
        loop {
            self.wake();
            if let Some(State::Ended(status)) = self.processes.get(&INIT).map(|init| init.state) {
                return (status, self.stats);
            }
            match self.ready.pop_front() {
                Some(pid) => self.slice(pid),
                None => self.idle(),
            }
        }
    }

    /// A number that no process has.
    pub fn next_pid(&mut self) -> Pid {
        self.last_pid += 1;
        self.last_pid
    }

    /// Makes those ready whose time has come.
    fn wake(&mut self) {
        let now = time::now();
        for (&pid, process) in &mut self.processes {
            if matches!(process.state, State::Sleeping(until) if until <= now) {
                process.state = State::Ready;
                self.ready.push_back(pid);
            }
        }
    }

    /// Sleeps until the next process wakes up.
    fn idle(&self) {
        let sleepers = self.processes.values().filter_map(|process| match process.state {
            State::Sleeping(until) => Some(until),
            _ => None,
        });
        let until = sleepers.min().map(|at| Duration::from_nanos(at.saturating_sub(time::now())));
        assert!(until.is_some(), "no process will ever run again");
        sched::wait(until);
    }

    /// Runs `pid` until its slice is over or it has nothing to do.
    fn slice(&mut self, pid: Pid) {
        let Some(mut process) = self.processes.remove(&pid) else { return };
        process.space.activate();
        self.lend_fpu(&process);
        // Masked, so that a tick that comes before the program runs ends its run, and is not over by then.
        events::mask_upcalls();
        TICK.store(false, Relaxed);
        let end = time::now() + SLICE;
        // A timer that is refused would be a mistake of this kernel; the slice then ends at the next system call.
        let _ = time::set_oneshot(end);
        while self.step(&mut process) == Next::Continue {
            if TICK.load(Relaxed) && time::now() >= end {
                self.stats.preemptions += 1;
                break;
            }
        }
        events::unmask_upcalls();
        process.fpu.save();
        if process.state == State::Ready {
            self.ready.push_back(pid);
        }
        self.processes.insert(pid, process);
        self.reap(pid);
    }

    /// The FPU's registers are saved at the end of each slice, so that others may be loaded.
    fn lend_fpu(&mut self, process: &Process) {
        if self.fpu_owner != process.pid {
            process.fpu.restore();
            self.fpu_owner = process.pid;
        }
    }

    /// Goes into user mode once, and does what it asks for.
    fn step(&mut self, process: &mut Process) -> Next {
        if process.alarm.is_some_and(|at| at <= time::now()) {
            process.alarm = None;
            self.stats.signals += 1;
            if !process.signal(Signal::Alarm, 0) {
                return end(process, 0x200 | Signal::Alarm as u64);
            }
        }
        match self.user.run(&mut process.registers) {
            Exit::Syscall => {
                self.stats.calls += 1;
                calls::call(self, process)
            }
            Exit::Event => Next::Continue,
            Exit::Exception { vector, error_code, address } => {
                self.stats.faults += 1;
                self.exception(process, vector, error_code, address)
            }
        }
    }

    fn exception(&mut self, process: &mut Process, vector: u8, error_code: u64, address: u64) -> Next {
        const WRITE: u64 = 2;
        if vector == Vector::PAGE_FAULT.number() {
            if process.repair(address, error_code & WRITE != 0) {
                return Next::Continue;
            }
            self.stats.signals += 1;
            if process.signal(Signal::BadAccess, address) {
                return Next::Continue;
            }
        }
        end(process, 0x100 | u64::from(vector))
    }

    /// Gives the status of a process that has ended to its parent, if that waits.
    fn reap(&mut self, pid: Pid) {
        let Some(&Process { state: State::Ended(status), parent, .. }) =
            self.processes.get(&pid).map(|p| &**p)
        else {
            return;
        };
        // The children of the dead are nobody's: their end is the end of them.
        self.processes.retain(|_, other| other.parent != pid || !matches!(other.state, State::Ended(_)));
        match self.processes.get_mut(&parent) {
            Some(parent) if parent.state == State::Waiting => {
                calls::give_status(parent, pid, status);
                parent.state = State::Ready;
                self.ready.push_back(parent.pid);
                self.processes.remove(&pid);
            }
            Some(_) => {}
            None if pid == INIT => {}
            None => drop(self.processes.remove(&pid)),
        }
    }
}

/// Ends a process.
pub fn end(process: &mut Process, status: u64) -> Next {
    process.state = State::Ended(status);
    process.alarm = None;
    Next::Switch
}
