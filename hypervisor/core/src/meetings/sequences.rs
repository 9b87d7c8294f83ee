//! The same operations one after the other, by domains whose CPUs remember translations for as long as nothing makes them forget.
//!
//! After each of them everything that a CPU can reach is looked at: a flush that is missing shows, whether anything was written
//! by the stale translation or not.

use super::world::World;
use super::{Op, frames, grants, number, prepare, recount};
use interleave::model::Chance;
use std::eprintln;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Sequences, and operations in each.
const SEQUENCES: u64 = 1500;
const LENGTH: u64 = 40;

fn sequences(ops: &[Op]) {
    let (first, count) = match number("PARAVANE_SEQUENCE") {
        Some(seed) => (seed, 1),
        None => (0, number("PARAVANE_SEQUENCES").unwrap_or(SEQUENCES)),
    };
    for seed in first..first + count {
        if let Err(why) = catch_unwind(AssertUnwindSafe(|| sequence(ops, seed))) {
            eprintln!("PARAVANE_SEQUENCE={seed} runs it again");
            resume_unwind(why);
        }
    }
}

fn sequence(ops: &[Op], seed: u64) {
    let (world, mut chance) = (World::new(), Chance::from(seed));
    for _ in 0..LENGTH {
        let (op, cpu) = (&ops[chance.below(ops.len() as u64) as usize], chance.below(2) as usize);
        if op.before {
            if chance.below(2) == 0 {
                prepare(&world, ops, op, &mut chance, &|| recount::reach(&world));
            }
            world.before(op, cpu);
            recount::reach(&world);
        }
    }
    // Frames that were given up go to another domain now.
    let taken: std::vec::Vec<_> = core::iter::from_fn(|| world.hv.alloc_frames(0)).collect();
    recount::reach(&world);
    taken.into_iter().for_each(|mfn| world.hv.frames.free(mfn, 0));
    recount::check(&world);
    world.end();
}

#[test]
fn nothing_stale_of_a_frame_is_reached() {
    sequences(frames::OPS);
}

#[test]
fn nothing_stale_of_a_grant_is_reached() {
    sequences(grants::OPS);
}

/// Makes named operations of a table, each on a CPU; all do what they are for.
fn these(world: &World, ops: &[Op], names: &[(&str, usize)]) {
    for (name, cpu) in names {
        let op = ops.iter().find(|op| op.name == *name).expect("one of the operations");
        assert!(world.before(op, *cpu), "{name}");
        recount::reach(world);
    }
}

/// The neighbour's other CPU used the mapping.
#[test]
fn an_unmapped_grant_is_not_reached() {
    let world = World::new();
    let steps = [("grant", 0), ("map", 1), ("access", 1), ("read", 0), ("unmap", 1)];
    these(&world, grants::OPS, &steps);
    world.end();
}

/// Domain 1 had its page mapped, and gives it away without a flush of its own.
#[test]
fn a_transferred_page_is_not_reached() {
    let world = World::new();
    let steps =
        [("own mapping", 0), ("own access", 0), ("own unmapping", 0), ("take a page", 1), ("transfer", 0)];
    these(&world, grants::OPS, &steps);
    world.end();
}
