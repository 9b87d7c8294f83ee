//! Every two operations that may meet on one frame, grant, port or domain, made at the same time by two CPUs.
//!
//! Each [`Op`] is what guests do: one or a few hypercalls through the shipped handlers, a store to a page table, an access to memory.
//! A run makes a machine with three domains, lets a few operations happen one after the other, so that the pair finds things in many
//! states, and then lets two CPUs make one operation each. The CPUs take turns at accesses to atomics and locks (`interleave`), in an
//! order that follows from the seed. Afterwards [`recount`] compares all that the hypervisor keeps with what a look at everything
//! says, and when all domains are destroyed nothing may be left. What must not happen on the way (a reference dropped twice, a
//! hypercall that never ends) stops the run.
//!
//! The tests make [`RUNS`] runs of each pair. `PARAVANE_MEETINGS=N` makes N, and `PARAVANE_MEETINGS_FROM=M` leaves the first M out;
//! `PARAVANE_MEETING=SEED` makes that of a failure again, whose message has the seed. [`sequences`] has the same operations one after
//! the other.

mod domains;
mod frames;
mod grants;
mod ports;
mod recount;
mod sequences;
mod world;

use interleave::model::{Chance, explore};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::vec::Vec;
use std::{env, eprintln};
pub(crate) use world::PORT;
use world::{Who, World};

/// Runs of each pair.
const RUNS: u64 = 24;
/// Operations before the pair, at most.
const BEFORE: u64 = 5;

/// Something that a CPU does on behalf of a domain.
#[derive(Clone, Copy)]
struct Op {
    name: &'static str,
    /// Which domain's vCPU does it: 0 is privileged, 1 has what they meet on, 2 is its neighbour.
    domain: usize,
    /// Answers whether it did what it is for.
    run: fn(&World, Who) -> bool,
    /// It may happen before the pair.
    before: bool,
    /// Names of operations that mostly happen before it, or it would find nothing to do.
    after: &'static [&'static str],
}

impl Op {
    const fn after(self, names: &'static [&'static str]) -> Self {
        Self { after: names, ..self }
    }
}

const fn op(domain: usize, name: &'static str, run: fn(&World, Who) -> bool) -> Op {
    Op { name, domain, run, before: true, after: &[] }
}

/// One after which there is not much to meet on.
const fn last(domain: usize, name: &'static str, run: fn(&World, Who) -> bool) -> Op {
    Op { before: false, ..op(domain, name, run) }
}

/// What is known of the operations of a table.
struct Table {
    ops: &'static [Op],
    /// How often each did what it is for.
    done: Vec<AtomicU64>,
    /// Points on the way of each, where it meets nothing.
    lengths: Vec<u64>,
}

impl Table {
    fn new(ops: &'static [Op]) -> Arc<Self> {
        let done = || ops.iter().map(|_| AtomicU64::new(0)).collect();
        let mut table = Self { ops, done: done(), lengths: Vec::new() };
        let bare = Arc::new(Self { ops, done: done(), lengths: Vec::new() });
        table.lengths = (0..ops.len()).map(|number| run_once(&bare, seed_of(number, number, 0), 1)).collect();
        Arc::new(table)
    }
}

/// All pairs of `ops`, an operation with itself among them.
fn meet(ops: &'static [Op]) {
    meet_often(ops, RUNS);
}

/// All pairs of `ops`, in so many runs of each.
fn meet_often(ops: &'static [Op], runs: u64) {
    meet_some(ops, runs, |_, _| true);
}

/// The pairs of `ops` that `wanted` tells by their names.
fn meet_some(ops: &'static [Op], runs: u64, wanted: fn(&str, &str) -> bool) {
    let table = Table::new(ops);
    let runs = number("PARAVANE_MEETINGS").unwrap_or(runs);
    let from = number("PARAVANE_MEETINGS_FROM").unwrap_or(0);
    if let Some(seed) = number("PARAVANE_MEETING") {
        run_once(&table, seed, 2);
        return;
    }
    for (one, first) in ops.iter().enumerate() {
        for (other, second) in ops.iter().enumerate().take(one + 1) {
            if !wanted(first.name, second.name) {
                continue;
            }
            for seed in (from..from + runs).map(|n| seed_of(one, other, n)) {
                let run = catch_unwind(AssertUnwindSafe(|| run_once(&table, seed, 2)));
                if let Err(why) = run {
                    eprintln!("{} met {}: PARAVANE_MEETING={seed} runs it again", first.name, second.name);
                    resume_unwind(why);
                }
            }
        }
    }
    let meets = |op: &Op| ops.iter().any(|other| wanted(op.name, other.name) || wanted(other.name, op.name));
    let idle = |(op, done): (&Op, &AtomicU64)| (done.load(Relaxed) == 0 && meets(op)).then_some(op.name);
    let idle: Vec<_> = ops.iter().zip(&table.done).filter_map(idle).collect();
    assert!(idle.is_empty(), "never did what they are for: {idle:?}");
}

/// A number in the environment.
fn number(name: &str) -> Option<u64> {
    Some(env::var(name).ok()?.parse().expect(name))
}

fn seed_of(one: usize, other: usize, run: u64) -> u64 {
    run << 16 | (other as u64) << 8 | one as u64
}

/// Does what comes before an operation, with what comes before that; `look` follows each.
fn prepare(world: &World, ops: &[Op], op: &Op, chance: &mut Chance, look: &dyn Fn()) {
    for name in op.after {
        let before = ops.iter().find(|op| op.name == *name).expect("one of the operations");
        if !op.after.iter().any(|name| before.after.contains(name)) {
            prepare(world, ops, before, chance, look);
        }
        world.before(before, chance.below(2) as usize);
        look();
    }
}

/// One run of the pair that the seed names, or of its first operation alone; answers how many points that one has.
fn run_once(table: &Arc<Table>, seed: u64, cpus: usize) -> u64 {
    let pair = [(seed & 0xff) as usize, (seed >> 8 & 0xff) as usize];
    let number = seed >> 16;
    // Every other run has a single switch, somewhere in one of both.
    let longest =
        (cpus == 2 && number.is_multiple_of(2)).then(|| table.lengths[pair[number as usize / 2 % 2]]);
    let ops = table.ops;
    let make = move |chance: &mut Chance| {
        let world = World::new();
        if cpus == 2 {
            for _ in 0..chance.below(BEFORE + 1) {
                let op = &ops[chance.below(ops.len() as u64) as usize];
                if op.before {
                    world.before(op, chance.below(2) as usize);
                }
            }
        }
        for number in pair {
            if cpus == 1 || chance.below(4) != 0 {
                prepare(&world, ops, &ops[number], chance, &|| {});
            }
        }
        world.begin(pair.map(|number| ops[number].domain));
        let every = if cpus == 1 { 0 } else { [0, 0, 1, 3, 10][chance.below(5) as usize] };
        world.hv.platform.preempt_every.store(every, Relaxed);
        world
    };
    let known = table.clone();
    let act = move |world: &World, cpu: usize| {
        if world.meeting(&ops[pair[cpu]], cpu) {
            known.done[pair[cpu]].fetch_add(1, Relaxed);
        }
    };
    explore(seed, cpus, longest, make, act, |world: &World| {
        world.hv.platform.preempt_every.store(0, Relaxed);
        world.finish_ends();
        world.check_taken();
        recount::check(world);
        world.end();
    })
}
