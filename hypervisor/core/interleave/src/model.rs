//! Running a model: tasks that take turns at points, in an order that follows from a seed.

use shuttle::scheduler::RandomScheduler;
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::vec::Vec;

/// Most switches of one run: beyond that the tasks wait for each other for ever.
const MOST_SWITCHES: usize = 2_000_000;
/// Bytes of each task's stack.
const STACK: usize = 1 << 20;
/// How often a task asks for another one to go on.
const PERSISTENCE: usize = 8;
/// Value of [`LEFT`] while no point switches.
const NEVER: u64 = u64::MAX;

std::thread_local! {
    /// Points until the next switch.
    static LEFT: Cell<u64> = const { Cell::new(NEVER) };
    /// What the lengths between switches are chosen with.
    static RANDOM: Cell<u64> = const { Cell::new(0) };
    /// Lengths are below two to the power of this.
    static SPREAD: Cell<u32> = const { Cell::new(0) };
    /// Only the first switch is chosen: after it a task goes on until it ends or waits.
    static ONCE: Cell<bool> = const { Cell::new(false) };
    /// The task that went on last.
    static LAST: Cell<Option<usize>> = const { Cell::new(None) };
    /// Where the accesses of the last moments were, and how many followed each other at one distance.
    static SWEEP: Cell<Sweep> = const { Cell::new(Sweep { last: 0, distance: 0, length: 0 }) };
    /// Which task runs.
    static TASK: Cell<Option<usize>> = const { Cell::new(None) };
}

/// A place at which another task may go on.
#[inline]
pub(crate) fn point() {
    let left = LEFT.get();
    if left == NEVER {
        return;
    }
    if left == 0 {
        switch();
    } else {
        LEFT.set(left - 1);
    }
}

/// Accesses at one distance from each other.
#[derive(Clone, Copy)]
struct Sweep {
    last: usize,
    distance: usize,
    length: u32,
}

/// Of an access in the middle of a sweep, one in so many is a point: the words of a page that are cleared or copied one after the
/// other would otherwise be nearly all points of an operation, and those between two words of one frame hardly ever be chosen.
const SWEEP_POINT: u32 = 16;
/// Most bytes between two accesses of a sweep.
const NEAR: usize = 64;

/// An access to `word`: a point, unless it goes on with a sweep.
#[inline]
pub(crate) fn access<T>(word: &T) {
    if LEFT.get() == NEVER {
        return;
    }
    let mut sweep = SWEEP.get();
    let address = ::core::ptr::from_ref(word).addr();
    let distance = address.wrapping_sub(sweep.last);
    let goes_on = distance == sweep.distance && (1..=NEAR).contains(&distance);
    sweep.length = if goes_on { sweep.length + 1 } else { 0 };
    (sweep.last, sweep.distance) = (address, distance);
    SWEEP.set(sweep);
    if sweep.length.is_multiple_of(SWEEP_POINT) {
        point();
    }
}

/// A place at which this task can do nothing until another one went on.
pub(crate) fn wait() {
    if LEFT.get() == NEVER {
        ::core::hint::spin_loop();
    } else {
        switch();
    }
}

#[cold]
fn switch() {
    if std::thread::panicking() {
        return;
    }
    let task = TASK.get();
    LEFT.set(if ONCE.get() { NEVER - 1 } else { length() });
    LAST.set(task);
    for _ in 0..PERSISTENCE {
        shuttle::thread::yield_now();
        TASK.set(task);
        // The scheduler may have chosen this one again.
        if !ONCE.get() || LAST.get() != task {
            break;
        }
    }
    LAST.set(task);
}

/// Points until the next switch: short and long stretches are equally likely, whatever their number.
fn length() -> u64 {
    let most = 1 << (random() % u64::from(SPREAD.get() + 1));
    random() % most
}

fn random() -> u64 {
    let mut state = RANDOM.get();
    let number = next(&mut state);
    RANDOM.set(state);
    number
}

/// The number of the running task of a model, if one runs on this thread.
pub fn task() -> Option<usize> {
    TASK.get()
}

/// Numbers that follow from the seed of a run.
#[derive(Debug)]
pub struct Chance(u64);

impl From<u64> for Chance {
    fn from(seed: u64) -> Self {
        Self(seed)
    }
}

impl Chance {
    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        next(&mut self.0) % end
    }
}

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// One run: makes a state, has `tasks` tasks do `act` at the same time, each with its number, and looks at the state when all have
/// ended. What `make` chooses and the order of the tasks' steps follow from `seed`. With `longest` the first switch comes within so many
/// points, and no other is chosen: that is the order by which most mistakes are found, if one knows how long a task is. Answers how many
/// points there were, of all tasks, where only one runs.
///
/// # Panics
/// As any of the three functions does; or when the tasks wait for each other for ever.
pub fn explore<S: Send + Sync + 'static>(
    seed: u64,
    tasks: usize,
    longest: Option<u64>,
    make: impl Fn(&mut Chance) -> S + Send + Sync + 'static,
    act: impl Fn(&S, usize) + Send + Sync + 'static,
    check: impl Fn(&S) + Send + Sync + 'static,
) -> u64 {
    let mut config = Config::new();
    config.stack_size = STACK;
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(MOST_SWITCHES);
    config.silence_warnings = true;
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    let act = Arc::new(act);
    LEFT.set(NEVER);
    ONCE.set(longest.is_some());
    let ended = EndOfModel;
    let points = Arc::new(AtomicU64::new(0));
    let counted = points.clone();
    Runner::new(RandomScheduler::new_from_seed(seed, 1), config).run(move || {
        let mut chance = Chance(seed);
        let state = Arc::new(make(&mut chance));
        RANDOM.set(chance.0);
        // From a switch at every point to hardly any in a run.
        SPREAD.set((random() % 14) as u32);
        let alone = tasks == 1;
        let start = |task: usize| {
            let (state, act) = (state.clone(), act.clone());
            shuttle::thread::spawn(move || {
                TASK.set(Some(task));
                LAST.set(Some(task));
                act(&state, task);
                TASK.set(None);
            })
        };
        let tasks: Vec<_> = (0..tasks).map(start).collect();
        LEFT.set(match longest {
            Some(longest) => random() % (longest + 1),
            None if alone => NEVER - 1,
            None => length(),
        });
        for task in tasks {
            // A task that panics ends the run.
            task.join().expect("a task that ended");
        }
        counted.store((NEVER - 1).saturating_sub(LEFT.get()), Relaxed);
        LEFT.set(NEVER);
        check(&state);
    });
    drop(ended);
    points.load(Relaxed)
}

/// Makes points cost nothing again, however the run ended.
struct EndOfModel;

impl Drop for EndOfModel {
    fn drop(&mut self) {
        LEFT.set(NEVER);
        TASK.set(None);
    }
}
